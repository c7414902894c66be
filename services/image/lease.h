#pragma once
/*
 * Leases: what a lease holds is not collected. All functions are for a
 * transaction; namespaces of holder and lease are the same.
 */

#include "services/image/image.h"

#define TABLE_LEASES          "leases"          /* namespace, id -> lease_record */
#define TABLE_LEASE_RESOURCES "lease_resources" /* namespace, lease, digest of the rest -> lease_resource */

#define LEASE_ID_MAX    256
#define LEASE_NS        (24ull * 3600 * 1000000000ull) /* of one that is made by the service itself */
#define LEASE_CONTENT   "content"
#define LEASE_INGESTS   "ingests"
#define LEASE_IMAGES    "images"
#define LEASE_SNAPSHOTS "snapshots/" /* and a snapshotter */

/* A lease for a day; one of that id that is there already is fine. */
int lease_make(struct image_service *image, const char *namespace, const char *id, bool until_used);
/* NULL id: does nothing. STORE_E_NOT_FOUND without such a lease. */
int lease_add(struct image_service *image, const char *namespace, const char *id, const char *type,
	      const char *resource);
int lease_add_content(struct image_service *image, const char *namespace, const char *id,
		      const char *digest);
int lease_add_snapshot(struct image_service *image, const char *namespace, const char *id,
		       const char *snapshotter, const char *key);
/* The lease of a request's caller: NULL or "" is none; a sentence if there is no such lease. */
int lease_check(struct image_service *image, const char *namespace, const char *id,
		struct why *why);
/* What it held is collected soon, if nothing else needs it. One that is gone is fine. */
int lease_end(struct image_service *image, const char *namespace, const char *id);
/* The same at once, without a collection; STORE_E_NOT_FOUND. */
int lease_drop(struct image_service *image, const char *namespace, const char *id);
/* The one that image.prepare made for this snapshot, if it is there still. */
int lease_end_unused(struct image_service *image, const char *namespace, const char *key);

int lease_resource_key(const char *namespace, const char *id, const char *type, const char *resource,
		       struct store_key *ret_key);

/*
 * The lease of an operation, in its namespace: made with the first thing that it
 * holds, the same when the operation is resumed; to be ended by its last step
 * and by its undo.
 */
int lease_hold_content(struct operation *operation, const char *digest);
int lease_hold_layer(struct operation *operation, const char *snapshotter, const char *chain);
int lease_end_of(struct operation *operation);
/* The undo of a step that leaves nothing else. */
int lease_undo(struct operation *operation);
