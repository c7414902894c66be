#pragma once
/*
 * The shim's own mount namespace and the root file system in it. Nothing that is
 * mounted here appears on the host, and the kernel takes it away with the last
 * process of the namespace.
 */

#include <stdbool.h>

#include "broker/lib/error.h"
#include "schemas/messages.h"
#include "shim/idmap.h"

/* unshare, everything a slave of the host's; on a hybrid host cgroup/unified is detached. */
int mounts_enter(bool is_hybrid, struct why *why);
/* Mounts @mounts in order, on @root or beneath it, with the ids of @idmap (NULL: the host's). On failure
 * nothing stays mounted. */
int mounts_make(const char *root, const struct mount *mounts, size_t count,
		const struct idmap *idmap, struct why *why);
/* Mounts at @root what process @pid has for its root, without what is mounted in it. */
int mounts_clone(const char *root, int pid, struct why *why);
/* Takes away everything that is mounted on @root; absent is fine. Busy mounts are detached. */
int mounts_undo(const char *root, struct why *why);
/* The same, but nobody waits for what the kernel does at the end of a mount: overlayfs writes back all of the file
 * system that its upper directory is on. That comes when this process ends. */
int mounts_leave(const char *root, struct why *why);
