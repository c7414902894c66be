#pragma once
/*
 * Blobs that come from registries: content/ingest/download-<hex>/data, beside it
 * `ref` with the reference, the digest and the size. They stay there, to be gone on with, until
 * all of an image has come; then they are moved into place together. Those that a
 * running pull has verified can be read by their digest like those in place.
 */

#include "services/image/image.h"

#define DOWNLOAD_PATH_SIZE 96

struct downloads {
	struct downloads *next; /* in image->downloads */
	struct set digests;     /* verified */
};

/* While it is in the service's list, its blobs can be read. */
void downloads_init(struct image_service *image, struct downloads *downloads);
void downloads_deinit(struct image_service *image, struct downloads *downloads);
/* Where a blob of a running pull lies, beneath content/ingest. */
bool downloads_find(const struct image_service *image, const char *digest,
		    char ret_path[DOWNLOAD_PATH_SIZE]);
/* Outside of a transaction: moves a verified blob into place; content_sync() follows. */
int downloads_take(struct image_service *image, const char *digest, struct why *why);
/* Is that name in content/ingest one of these? */
bool downloads_is_name(const char *name);
/*
 * Ingests like those of clients, but of no namespace: the directory's name is the ref. Those that are there, in
 * order; one of them (-ENOENT: there is none); removing one at once, unless a pull is at it.
 */
int downloads_names(struct image_service *image, struct schema_strs *ret_names);
int downloads_look(struct image_service *image, const char *ref, struct content_ingest *ret_ingest);
int downloads_abort(struct image_service *image, const char *ref, struct why *why);
/* Outside of a transaction: removes what nobody has gone on with for a day. */
void downloads_clean(struct image_service *image);
/*
 * What a child has loaded. Its result is kept as the operation's state (taken); in the transaction that records its blobs
 * they are held, moved into place (those of an earlier run are there) and know from which repository of the reference
 * @name they come; if that is undone, files that were moved and never recorded go.
 */
int downloads_keep(struct image_pull_context *context, struct work_fetch_result *result);
int downloads_record(struct operation *operation, const char *name,
		     const struct work_fetch_result *result, struct why *why);
void downloads_drop(struct image_service *image, const struct work_fetch_result *result);
