#pragma once
/*
 * What must hold before an OCI runtime is let at a root file system that others
 * made: its /proc, /sys and /dev are real directories or absent, the working
 * directory leads to none of them, ids are numbers, no capability is inherited.
 */

#include "broker/lib/error.h"

/* Reads <bundle>/config.json; the root is mounted. -EPERM with a sentence when it must not run. */
int preflight_check(const char *bundle, struct why *why);
/* The OCI process in the file @path, which is to be added to the container of @init_pid. */
int preflight_check_process(const char *path, int init_pid, struct why *why);
/* Follows @path inside @root as a process chrooted there would, as far as it exists. The result
 * (absolute, in the container's terms) is at most @size bytes. -ELOOP: too many links, or through
 * one of the forbidden directories; another errno: it could not be looked at. */
int preflight_resolve(int root_fd, const char *path, char *ret_path, size_t size);
