#pragma once
/*
 * Allocations that fail when somebody wants it: the linker's --wrap turns calls of x into __wrap_x, and calls of
 * __real_x into x. Who links so says when: tests/lib/failing_memory.c, or points_memory.c in a build with points.
 * Nobody else has anything of this.
 */

#include <stdbool.h>

/* Asked at each; true: that one fails, and errno is ENOMEM. */
bool memory_fails(void);
