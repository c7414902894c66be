#pragma once
/*
 * Cgroups that are left. An OCI runtime removes a container's cgroup, but where
 * the kernel says busy it stays, and the directories above it are nobody's. Here
 * each cgroup is known from runtime.prepare until its bundle is gone (which the
 * shim removes: seen by inotify); what is left of it then is removed again and
 * again, and at last the empty parents: namespaces without containers, and
 * davit's own. A cgroup whose bundle is there is never touched, nor is what lies
 * above it, so nothing is taken from under a runtime that is making one.
 */

#include "services/lib/service.h"

struct cgroups;

int cgroups_new(struct service *service, struct cgroups **ret_cgroups);
struct cgroups *cgroups_free(struct cgroups *cgroups);
/* The task's bundle is about to be made, with this cgroup (NULL: none). */
int cgroups_add(struct cgroups *cgroups, const char *task_id, const char *cgroup);
/* Its bundle will not come. */
void cgroups_drop(struct cgroups *cgroups, const char *task_id);
/* Those of tasks that have a bundle, while @fn returns 0. */
int cgroups_each(const struct cgroups *cgroups,
		 int (*fn)(void *userdata, const char *task_id, const char *path), void *userdata);
/* A task with a bundle has it, or one beneath it. */
bool cgroups_is_owned(const struct cgroups *cgroups, const char *path);
