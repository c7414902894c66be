#pragma once
/*
 * The kernel keeps fork and exit cheap at the cost of moves between cgroups: the first move after some quiet
 * time waits, in cgroup_attach_lock(), for an RCU grace period of its percpu lock (8 to 20 ms), those that
 * follow soon do not. So that an OCI runtime does not wait, the lock is taken while the runtime is not
 * there yet. docs/decisions/0022.
 */

struct cgroup_wake;

/* @mount: where cgroups are, as CGROUP_MOUNT. A host without cgroups that can be written has nothing to wake. */
int cgroup_wake_new(const char *mount, struct cgroup_wake **ret_wake);
/* Waits for a grace period that is under way. NULL is taken. */
struct cgroup_wake *cgroup_wake_free(struct cgroup_wake *wake);
void cgroup_wake_freep(struct cgroup_wake **wake);

/* Somebody will soon move a process. Never blocks. NULL is taken. */
void cgroup_wake(struct cgroup_wake *wake);
