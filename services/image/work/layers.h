#pragma once
/* Layers in the snapshots directory, seen as one read-only tree. */

#include "services/image/work/work.h"

/*
 * @names: directories beneath @snapshots, top first; each one's fs/ is meant. Several become an overlay on
 * directory @mount_point beneath @snapshots, in this process' own mount namespace. *ret_fd stays as it is when
 * there are none.
 */
int layers_open(const struct schema_strs *names, const char *mount_point, int snapshots,
		int *ret_fd, struct why *why);
/* One directory's fs/. */
int layers_open_one(const char *name, int snapshots, int *ret_fd, struct why *why);
