#pragma once
/*
 * The image service's own state and what its files give each other.
 *
 * Directory <root>/image: content/blobs/sha256/<hex> (a file there counts only
 * with a record in the store), content/ingest/<operation> (an import that is under
 * way), snapshots/<number>/{fs,work}, trash/ (what is to be removed). Names and
 * containers' snapshots belong to a namespace; blobs and layers are shared by all.
 *
 * Functions that may refuse return REFUSED + enum bus_status with a sentence in
 * @why; other positive codes are the store's.
 */

#include "broker/lib/file.h"
#include "services/image/document.h"
#include "services/image/limits.h"
#include "services/image/platform.h"
#include "services/image/reference.h"
#include "services/image/set.h"
#include "services/lib/operation.h"
#include "services/lib/service.h"
#include "services/lib/work.h"

#define TABLE_IMAGES    "images"
#define TABLE_BLOBS     "blobs"
#define TABLE_SNAPSHOTS "snapshots"

#define SNAPSHOTTER_OVERLAY "overlayfs"
#define SNAPSHOTTER_NATIVE  "native"
#define SCOPE_SHARED        "*" /* in place of a namespace: layers */
#define SNAPSHOT_DEPTH_MAX  256
#define RESOLVED_CACHE      64

#define REFUSED 1000

struct downloads;
struct layer_job;
struct unpack;

/* What a target is on one platform. Read from content, so it never changes. */
struct resolved {
	char *target, *platform; /* digest, text: what was asked */
	char *manifest, *config_digest;
	char *config; /* its text */
	struct work_layer *layers;
	char (*chains)[DIGEST_SIZE]; /* chain id up to each layer */
	size_t n_layers;
	uint64_t size;
	struct schema_strs platforms;
	bool is_match; /* its config names that platform, or none */
	bool is_image; /* its config is an image's */
	uint64_t used;
};

struct image_service {
	struct service *service;
	struct store *store;
	char *directory, *snapshots_path;
	int blobs, ingest, snapshots, trash; /* directories */
	struct platform host;
	char *host_text;
	bool has_overlay;
	char overlay_reason[WHY_SIZE]; /* why not */
	uint64_t next_number;          /* of a snapshot's directory */

	struct resolved *cache[RESOLVED_CACHE];
	uint64_t cache_clock;

	struct downloads *downloads; /* of pulls that are under way */
	struct unpack *unpacks; /* under way: what they need is kept */
	struct layer_job *layer_jobs;

	/* Files that a rebuilt store does not know, as they were at the start; they stay until it is accepted. */
	struct schema_strs unrecorded_blobs, unrecorded_snapshots;
	char *unrecorded; /* the directory into which they go then */
	struct schema_strs trash_names; /* to be removed by a child */
	struct trash_budget {
		unsigned entries;
		uint64_t bytes;
	} trash_budget; /* of what is removed here in this turn of the loop */
	struct loop_timer trash_timer; /* armed: its end has not come */
	struct loop_timer trash_retry; /* armed: something was left */
	uint64_t trash_retry_ms; /* after which the next try comes; 0: as at first */
	uint64_t next_trash;
	bool is_removing;
	struct trash_waiter *trash_waiters;
	struct work_limits limits;
	struct image_work *works; /* children */
	bool is_ready, is_draining;

	struct ingest_writer *writers; /* of ingests */
	struct collector *collector;
	struct edge_cache *edges; /* see references.h */

	uint8_t boot[ID_SIZE];
	bool is_marking_synced;     /* nothing that is put now is new */
	bool is_syncing, must_sync; /* a child syncs; layers were made since it began */
	uint64_t syncing_before;    /* numbers below this one are on disk when it has ended */
};

extern const struct service_definition image_definition;

static inline int refused(enum bus_status status)
{
	return REFUSED + (int)status;
}

/* ---- image.c ---- */
/* Answers @call with a refusal, or hands on the store's or the service's own failure. */
int image_answer(struct call *call, int r, const struct why *why, const char *what);
/* The same for a step. */
int image_step_failed(struct operation *operation, int r, const struct why *why);
/* For a callback of a step. */
void image_step_ended(struct operation *operation, int r, const struct why *why);
/* `--limit`, before the service is opened. */
void image_configure(const struct work_limits *limits);
/* ---- children.c ---- */
/*
 * Starts a child, or lets it wait for its turn: of each kind that reads or writes images only so many run at a time.
 * What it is given is copied then. @fn is not called when the service ends first.
 */
int image_work_start(struct image_service *image, const char *mode,
		     const struct schema_message *request, const void *message, const int *fds,
		     size_t n_fds, const struct schema_message *reply, uint64_t deadline_ms,
		     work_fn fn, void *userdata, struct why *why);
/* A child of @userdata that still waits for its turn will not have it: its @fn is called soon, with no reply (true). One that runs goes on. */
bool image_work_drop(struct image_service *image, const void *userdata);
/* Does one of @userdata still wait? */
/* Another of the kind of @userdata's child waits for its turn. */
bool image_work_is_waited_for(const struct image_service *image, const void *userdata);
bool image_work_waits(const struct image_service *image, const void *userdata);
/* For a request to a child. */
int image_limits_copy(const struct image_service *image, struct work_limits **ret_limits);
void image_work_drain(struct image_service *image);
void image_work_close(struct image_service *image);
/* ---- image.c ---- */
/* Cuts labels so that they fit into an event. */
int image_event_labels(const struct schema_map *labels, struct schema_map *ret_labels);

/* ---- content.c ---- */
int content_key(const char *digest, struct store_key *ret_key);
bool content_has(struct image_service *image, const char *digest);
/* 0, STORE_E_NOT_FOUND, or that it cannot be said: for who removes what has no record. */
int content_find(struct image_service *image, const char *digest);
/* Reads a document of the content store, checking its digest. */
int content_load(struct image_service *image, const char *digest, char **ret_text, size_t *ret_size,
		 struct why *why);
int content_open_blob(struct image_service *image, const char *digest, int *ret_fd,
		      struct why *why);
/* In a transaction. */
int content_get(struct image_service *image, const char *digest, struct content_record *ret_record,
		struct why *why);
/* In a transaction: a blob whose file is in place, for @namespace; one that is there already stays as it is. */
int content_commit_record(struct image_service *image, const char *namespace,
			  struct content_record *record, bool *ret_existed);
/* In a transaction: records blobs whose files are in place. */
int content_record_blobs(struct image_service *image, const struct work_import_result *result);
/*
 * Moves blobs out of the directory @ingest into place, durably. In the transaction that records them: a collection
 * between the two would take the files of those that had a record and were garbage.
 */
int content_take_blobs(struct image_service *image, int ingest,
		       const struct work_import_result *result, struct why *why);
/* Files that were moved into place are there for good. */
int content_sync(struct image_service *image, struct why *why);
/* In a transaction: forgets a blob; its file goes after the commit. */
int content_remove(struct image_service *image, const char *digest);
/* At the start: removes files without a record. */
int content_clean(struct image_service *image);

/* ---- resolve.c ---- */
/* *ret_resolved is the cache's: valid until the next call. */
int resolve_target(struct image_service *image, const struct descriptor *target,
		   const struct platform *platform, const struct resolved **ret_resolved,
		   struct why *why);
/* --platform as a user gives it. */
int resolve_platform(struct image_service *image, const char *text, struct platform *ret_platform,
		     struct why *why);
/* Is it an image for the platform that was asked for, or no image? */
int resolved_check_match(const struct resolved *resolved, const char *name, struct why *why);
void resolved_free(struct resolved *resolved);
int resolved_copy(const struct resolved *from, struct resolved **ret_resolved);

/* ---- names.c ---- */
/* Finds an image by its name or a short one. */
int names_find(struct image_service *image, const char *namespace, const char *name,
	       struct image_record *ret_record, struct why *why);
/* Creates or changes a name, with its event; adds @labels (NULL: none). */
int names_put(struct image_service *image, const char *namespace, const struct work_image *found,
	      const struct schema_map *labels,
	      struct image_record *ret_record);

/* ---- collect.c; see collect.h ---- */
struct references;
/* Something may be needed no longer: it is looked for soon. Always 0. */
int collect(struct image_service *image);
/* The same, after a moment longer: what is asked of each container that ends. */
int collect_later(struct image_service *image);
/* Something ends by itself at @ns (since 1970; UINT64_MAX: never). */
void collect_expires(struct image_service *image, uint64_t ns);

/* ---- snapshot_mark.c ---- */
#define SNAPSHOT_MARK_PATH 320
/* In a transaction: puts the record, and notes it at its directory. STORE_E_*, or negative. */
int snapshot_put(struct image_service *image, const struct store_key *key, const struct snapshot_record *record);
void snapshot_mark(struct image_service *image, const char *scope, const struct snapshot_record *record);
/* @name: of a directory in @snapshots. */
bool snapshot_is_marked(struct image_service *image, const char *name);
/* 0; positive: nothing (that can be read) is noted there; -ENOMEM. */
int snapshot_read_mark(int snapshots, const char *name, struct snapshot_mark *ret_mark);
/* ---- snapshot.c ---- */
int snapshot_check_name(struct image_service *image, const char *snapshotter, const char **ret_name,
			struct why *why);
int snapshot_get(struct image_service *image, const char *namespace, const char *snapshotter,
		 const char *key, struct snapshot_record *ret_record);
bool snapshot_has_layer(struct image_service *image, const char *snapshotter, const char *chain);
/* Makes snapshots/<number>/{fs,work}; *ret_number is new. */
int snapshot_make_dir(struct image_service *image, uint64_t *ret_number, struct why *why);
/* The same within a transaction: if that is not kept the directory goes again. */
int snapshot_make_dir_within(struct image_service *image, uint64_t *ret_number, struct why *why);
/* In a transaction: records a layer, with its events. */
int snapshot_record_layer(struct image_service *image, const char *snapshotter, const char *chain,
			  const char *parent, uint64_t number,
			  const struct work_apply_result *result);
/* In a transaction: a container's snapshot in directory @number. */
int snapshot_record_own(struct image_service *image, const char *namespace,
			const struct image_prepare_request *request, const char *snapshotter,
			const char *parent, uint64_t number);
/* Labels it so that it stays until it is removed. */
int snapshot_keep(struct schema_map *labels);
int snapshot_check_new(struct image_service *image, const char *namespace, const char *snapshotter,
		       const char *key, struct why *why);
/* Its root looks like the parent's. */
int snapshot_copy_root(struct image_service *image, const char *namespace, const char *snapshotter,
		       const char *parent, uint64_t number, struct why *why);
/* Numbers of the directories of snapshot @chain and what lies below it, top first. */
int snapshot_chain(struct image_service *image, const char *namespace, const char *snapshotter,
		   const char *chain, uint64_t *numbers, size_t max, size_t *ret_count,
		   struct why *why);
int snapshot_make_mounts(struct image_service *image, const char *namespace,
		    const struct snapshot_record *record, struct mount **ret_mounts,
		    size_t *ret_count, struct why *why);
/* A digest names a layer, which all namespaces share; any other key belongs to @namespace. */
int snapshot_key(const char *namespace, const char *snapshotter, const char *key,
		 struct store_key *ret_key);
/* By a request's words; refuses with NOT_FOUND. */
int snapshot_find(struct image_service *image, const char *namespace, const char *snapshotter,
		  const char *key, struct store_key *ret_key, struct snapshot_record *ret_record,
		  struct why *why);
int snapshot_emit_commit(struct image_service *image, const char *namespace, const char *key,
			 const char *name, const char *snapshotter);
/* In a transaction: forgets a snapshot; its directory goes after the commit. */
int snapshot_forget(struct image_service *image, const struct store_key *key, const char *namespace,
		    const struct snapshot_record *record);
int snapshot_clean(struct image_service *image);
int snapshot_probe(struct image_service *image);

/* ---- snapshot_change.c ---- */
/* A child copies directory @parent into the new directory @number; natively a snapshot starts so. */
int snapshot_start_copy(struct image_service *image, uint64_t parent, uint64_t number, work_fn fn,
			void *userdata, struct why *why);

/* ---- unpack.c ---- */
/* r: 0, or REFUSED + status with @why. */
typedef void (*unpack_fn)(void *userdata, int r, const struct why *why);
/* Makes the missing layers of @resolved (copied); for callbacks, not inside a transaction. @is_cancelled may be NULL. */
int unpack_start(struct image_service *image, const struct resolved *resolved,
		 const char *snapshotter, bool (*is_cancelled)(void *userdata), unpack_fn fn,
		 void *userdata, struct unpack **ret_unpack);
/* The same for layers that are still on their way: each is begun only when @is_there says so, asked when unpack_poke() is called. */
int unpack_start_arriving(struct image_service *image, const struct resolved *resolved,
			  const char *snapshotter,
			  bool (*is_there)(void *userdata, const char *digest), unpack_fn fn,
			  void *userdata, struct unpack **ret_unpack);
void unpack_poke(struct unpack *unpack);
/* So many layers are done. */
size_t unpack_position(const struct unpack *unpack);
/* The callback comes at once. Layers that are being made go on; one that waits for its turn does not begin if only this waits for it. */
void unpack_cancel(struct unpack *unpack);
/* The same, and no callback comes. */
void unpack_forget(struct unpack *unpack);
/* Adds what unpacking needs. */
int unpack_references(struct image_service *image, struct references *references);
/* Number of the first directory of a layer that is being made; else the next number. */
uint64_t unpack_lowest_number(const struct image_service *image);
void unpack_close(struct image_service *image);

/* ---- sync.c ---- */
/* Layers were recorded that may not be on disk yet: sees to it in the background. */
void sync_start(struct image_service *image);

/* ---- trash.c ---- */
/* Outside of a transaction: takes @name out of @directory at once, and removes it soon. */
void trash_take(struct image_service *image, int directory, const char *name);
/* After the commit: the same. */
int trash_after_commit(struct image_service *image, int directory, const char *name,
		       const char *digest);
/* Calls @fn when nothing is left to be removed. */
int trash_wait(struct image_service *image, void (*fn)(void *userdata), void *userdata);
void trash_forget_waiter(struct image_service *image, void *userdata);
int trash_clean(struct image_service *image);
void trash_start(struct image_service *image);
void trash_close(struct image_service *image);

/* ---- rebuild.c ---- */
int image_rebuild(struct rebuild *rebuild);

/* ---- operations ---- */
extern const struct operation_type import_operation;
extern const struct operation_type prepare_operation;
extern const struct operation_type delete_operation;
extern const struct operation_type pull_operation;
extern const struct operation_type push_operation;
extern const struct operation_type fetch_object_operation;
extern const struct operation_type push_object_operation;
extern const struct operation_type lease_delete_operation;
extern const struct operation_type export_operation;
extern const struct operation_type snapshot_prepare_operation;
extern const struct operation_type snapshot_view_operation;
extern const struct operation_type snapshot_commit_operation;
extern const struct operation_type snapshot_diff_operation;
extern const struct operation_type snapshot_apply_operation;
extern const struct operation_type unpack_operation;
extern const struct operation_type convert_operation;
extern const struct operation_type snapshot_repair_operation;
extern const struct operation_type commit_operation;
extern const struct operation_type verify_operation;
extern const struct operation_type collect_operation;
