#pragma once
/*
 * What is needed, found by marking: what is marked and not yet followed is grey,
 * and is followed one thing at a time, so that marking can be spread over many
 * turns. Functions are for a transaction.
 *
 * Edges: an image leads to its target; a manifest or index to what it names, a
 * config to its layers, a snapshot to its parent; and each object to what its
 * gc.ref labels name.
 */

#include "services/image/image.h"

enum reference_kind {
	REFERENCE_BLOB,     /* only its labels lead on */
	REFERENCE_CONFIG,   /* of an image: leads to layers */
	REFERENCE_DOCUMENT, /* may be a manifest or an index */
};

/* What documents lead to, remembered: they never change. */
struct edge_cache;
void references_forget_blob(struct image_service *image, const char *digest);
void references_close(struct image_service *image);

struct grey;
struct references {
	struct image_service *image;
	struct set digests;   /* blobs */
	struct set chains;    /* layers, whichever the snapshotter */
	struct set snapshots; /* "<scope>/<snapshotter>/<key>" */
	struct set ingests;   /* "<namespace>/<ref>" */
	struct set followed;  /* kind and digest: what was grey once */
	struct grey *grey;
};

/* What is needed by the names, snapshots and leases of @namespace, or by those of all others. */
int references_find(struct image_service *image, const char *namespace,
		    struct references *ret_references);
int references_find_others(struct image_service *image, const char *namespace,
			   struct references *ret_references);
void references_clear(struct references *references);

int reference_blob(struct references *references, const char *digest, enum reference_kind kind);
/* @scope SCOPE_SHARED: a layer. */
int reference_snapshot(struct references *references, const char *scope, const char *snapshotter,
		       const char *key);
int reference_labels(struct references *references, const char *namespace,
		     const struct schema_map *labels);
int reference_leased(struct references *references, const char *namespace,
		     const struct lease_resource *resource, bool is_flat);
/* Follows what became grey last; *ret_was_grey is false when nothing is. */
int references_follow(struct references *references, bool *ret_was_grey);

bool references_have_snapshot(const struct references *references, const char *scope,
			      const struct snapshot_record *record);
bool references_have_ingest(const struct references *references, const char *namespace,
			    const char *ref);
