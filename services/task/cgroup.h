#pragma once
/* Where the kernel keeps a container's figures: its cgroup, v1 or v2, found without its shim. */

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/types.h>

#define CGROUP_MOUNT "/sys/fs/cgroup"

struct cgroup {
	const char *mount; /* borrowed */
	const char *path;  /* of the spec, borrowed: absolute, or slice:prefix:name for systemd */
	char *proc;        /* /proc/<pid>/cgroup of init, where @path is a systemd name */
	bool is_v2;
};

/* @pid: init's, may be gone. */
int cgroup_init(struct cgroup *cgroup, const char *mount, const char *path, pid_t pid);
void cgroup_deinit(struct cgroup *cgroup);
/* Its directory in the hierarchy of @controller (v2: there is only one); malloc'd. NULL: it has none there. */
char *cgroup_directory(const struct cgroup *cgroup, const char *controller);
/* A file of it, NUL-terminated; NULL: it is not there. */
char *cgroup_read(const struct cgroup *cgroup, const char *controller, const char *file);

/* All processes in it and beneath it, in order; -E2BIG above @max. The caller frees. */
int cgroup_processes(const struct cgroup *cgroup, size_t max, pid_t **ret_pids, size_t *ret_count);
