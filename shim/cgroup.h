#pragma once
/*
 * The container's cgroup, as far as the shim needs it: how many of its processes
 * were killed for memory, and a signal to all of them. v1 and v2; the path is
 * that of the configuration, or, for one of systemd's names, what
 * /proc/<init>/cgroup says. A container without a cgroup of its own has none
 * here: the one that it lies in is somebody else's.
 */

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "broker/lib/error.h"

struct cgroup {
	char *memory; /* directory with memory.events or memory.oom_control; NULL: none */
	char *procs;  /* directory with cgroup.procs; NULL: none */
	char *freeze; /* freezer.state or cgroup.freeze; NULL: none */
	bool is_v2;
};

/* @path: of the configuration, NULL or "" if unknown; @pid: init, 0 if none. Finds nothing: 0 with
 * an empty one. */
int cgroup_find(const char *path, pid_t pid, struct cgroup *ret_cgroup);
void cgroup_deinit(struct cgroup *cgroup);

/* Processes killed for memory so far; 0 if that cannot be told. */
uint64_t cgroup_oom_kills(const struct cgroup *cgroup);
/* Sends @signal (0: only counts) to each process but @except, those in cgroups below it too; @ret_count: how many
 * there were. -EPERM: the shim itself is in it. */
int cgroup_signal(const struct cgroup *cgroup, int signal, pid_t except, size_t *ret_count);
/* Lets frozen processes go on; -ENOENT: there is nothing that could be frozen. */
int cgroup_thaw(const struct cgroup *cgroup);
/* False also where that cannot be told. */
bool cgroup_is_frozen(const struct cgroup *cgroup);
/* Removes the configured cgroup where an OCI runtime left it empty. Never fails. */
void cgroup_remove(const char *path);

/* Pure: the value of "<key> <number>" in @text, 0 if there is none. */
uint64_t cgroup_parse_count(const char *text, const char *key);
