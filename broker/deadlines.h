#pragma once
/*
 * What has a deadline, earliest first: a binary heap of entries that are
 * embedded in their owners. Pure; room is made in advance, so that adding never
 * allocates.
 */

#include <stddef.h>
#include <stdint.h>

struct deadline {
	uint64_t at_ms;  /* CLOCK_BOOTTIME */
	size_t position; /* in the heap, counted from 1; 0: not in it */
};

struct deadlines {
	struct deadline **entries;
	size_t count, size;
};

void deadlines_deinit(struct deadlines *deadlines);
/* Makes room for @size entries in all; 0 or -ENOMEM. */
int deadlines_reserve(struct deadlines *deadlines, size_t size);
/* There must be room, and @deadline must not be in it. */
void deadlines_add(struct deadlines *deadlines, struct deadline *deadline, uint64_t at_ms);
/* Nothing happens when it is not in it. */
void deadlines_remove(struct deadlines *deadlines, struct deadline *deadline);
/* The earliest, or NULL. */
struct deadline *deadlines_first(const struct deadlines *deadlines);
