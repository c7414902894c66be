#pragma once
/* Which cgroup a container has, from where /proc/<pid>/cgroup says that its init is (cgroups(7)). Pure. */

/* The path of @controller ("memory"; "" is v2's) in the text of /proc/<pid>/cgroup. NULL: none, or no memory. */
char *cgroup_path_parse(const char *text, const char *controller);
/* @path is somewhere in the scope of @unit, "slice:prefix:name" as OCI runtimes take it for systemd: the
 * container's part of it, which is the scope, or "container" in it where crun made that. NULL: it is in
 * another one's cgroup, or no memory. */
char *cgroup_path_in_unit(const char *path, const char *unit);
