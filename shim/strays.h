#pragma once
/*
 * Processes that a shim's death left nobody to know: added ones whose OCI runtime
 * was cut after it had made them and before it had written down their pid. They
 * are told by what nothing else is: in the container's own pid namespace, with a
 * parent outside of it, and neither init nor on record. Where the pid namespace is
 * shared, orphans of any process have such parents: there the FIFOs tell that only
 * one process was given, but not whether who holds them is that process or what it
 * had started (docs/decisions/0021-strays-of-shared-pids.md).
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct process;
struct shim;

/* In a pid namespace of the container's own: those that were started at @earliest (ticks since boot) or later. Returns how many of them are in @ret_pids; beyond @max
 * they are not looked for. */
size_t strays_find(const struct shim *shim, uint64_t earliest, pid_t *ret_pids, size_t max);
/* Whether it is one; to be asked again when a pidfd of it is there. */
bool stray_is(const struct shim *shim, pid_t pid, uint64_t earliest);

/* Where the pid namespace is shared: those that hold a FIFO of @process' own. */
size_t strays_find_holders(const struct process *process, pid_t *ret_pids, size_t max);
bool stray_is_holder(const struct process *process, pid_t pid);
