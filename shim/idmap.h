#pragma once
/*
 * Layers as a user namespace sees them: mounted again with the namespace's ids
 * (mount_setattr(2), MOUNT_ATTR_IDMAP), so that what is root's on disk is the
 * container root's, and what the container writes stays root's on disk.
 */

#include <sys/types.h>

#include "shim/mount_options.h"

struct why;

struct idmap {
	int userns;  /* with the maps; no process lives in it */
	uid_t uid;   /* of the container's root on the host */
	gid_t gid;
	char *dir;   /* where layers are mounted for a moment, in the shim's own mount namespace */
};

/* @uid_map, @gid_map: as /proc/<pid>/uid_map takes them. @bundle: where `dir` is made. */
int idmap_open(const char *uid_map, const char *gid_map, const char *bundle, struct idmap *ret_idmap,
	       struct why *why);
void idmap_close(struct idmap *idmap);
/* Mounts an overlay's layers with the ids and names them in @options instead. idmap_leave() undoes it. */
int idmap_enter(const struct idmap *idmap, struct mount_options *options, struct why *why);
/* Those who have the layers by then, keep them. */
void idmap_leave(const struct idmap *idmap);
/* A line of a map: the id on the host of the container's id 0. -EINVAL: it has none. */
int idmap_root(const char *map, unsigned *ret_id);
