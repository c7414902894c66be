#pragma once
/*
 * Memory that runs out when a test wants it. For tests named test_…out_of_memory.c:
 * the Makefile links those so that every allocation of davit's own objects (what
 * headers inline included, what shared libraries do for themselves not) comes here.
 */

#include <stdbool.h>
#include <stddef.h>

/* The @n-th allocation from now on fails, counted from 1, once; 0: none does. */
void memory_fail_at(unsigned n);
/* Whether it has; if not, there were fewer. */
bool memory_has_failed(void);
/* malloc(3) that fails likewise, for libraries that can be told (json_set_alloc_funcs). */
void *memory_allocate(size_t size);
