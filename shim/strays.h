#pragma once
/*
 * Processes that a shim's death left nobody to know: added ones whose OCI runtime
 * was cut after it had made them and before it had written down their pid. They
 * are told by what nothing else is: in the container's own pid namespace, with a
 * parent outside of it, and neither init nor on record. Where the pid namespace is
 * shared nothing tells them, and none is found.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct shim;

/* Those that were started at @earliest (ticks since boot) or later. Returns how many of them are in @ret_pids; beyond @max
 * they are not looked for. */
size_t strays_find(const struct shim *shim, uint64_t earliest, pid_t *ret_pids, size_t max);
/* Whether it is one; to be asked again when a pidfd of it is there. */
bool stray_is(const struct shim *shim, pid_t pid, uint64_t earliest);
