#pragma once
/*
 * What is needed, found by marking: what is marked and not yet followed is grey,
 * and is followed one thing at a time, so that marking can be spread over many
 * turns. Functions are for a transaction.
 *
 * Edges: an image leads to its target; a manifest or index to what it names, a
 * config to its layers, a snapshot to its parent; each object to what its gc.ref
 * labels name; and what a gc.bref label names to the object that has the label, as
 * does the snapshot of a gc.cond label whose condition holds. The latter are found
 * as their holders are met, before anything is swept.
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
	struct set images;    /* "<namespace>/<name>" */
	/* Of flat leases: the same, but what their labels name is not followed. */
	struct set flat_snapshots, flat_images;
	struct set followed;  /* kind and digest: what was grey once */
	struct grey *grey;

	struct set live;         /* what is there of that, as gc.bref labels name it: see references.c */
	struct set back_targets; /* what such labels name that is not live yet */
	struct back *backs;
	size_t n_backs;
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
int reference_image(struct references *references, const char *namespace, const char *name);
/* The same for one that was read. */
int reference_image_record(struct references *references, const char *namespace,
			   const struct image_record *record);
/* A container is no object here, but others may live while it does. */
int reference_container(struct references *references, const char *namespace, const char *id);
/*
 * What the gc.bref labels of an object name keeps it: @snapshotter NULL, and @scope NULL, if it is a blob; @snapshotter
 * NULL if it is an image. Where containers are not known, each may be there. A blob's or an image's gc.cond labels
 * do so as long as they hold.
 */
int reference_back(struct references *references, const char *scope, const char *snapshotter,
		   const char *name, const struct schema_map *labels, bool knows_containers);
int reference_labels(struct references *references, const char *namespace,
		     const struct schema_map *labels);
int reference_leased(struct references *references, const char *namespace,
		     const struct lease_resource *resource, bool is_flat);
/* Follows what became grey last; *ret_was_grey is false when nothing is. */
int references_follow(struct references *references, bool *ret_was_grey);

bool references_have_snapshot(const struct references *references, const char *scope,
			      const struct snapshot_record *record);
bool references_have_image(const struct references *references, const char *namespace,
			   const char *name);
bool references_have_ingest(const struct references *references, const char *namespace,
			    const char *ref);
