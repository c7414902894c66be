#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "broker/deadlines.h"
#include "broker/lib/error.h"

void deadlines_deinit(struct deadlines *deadlines)
{
	free(deadlines->entries);
	*deadlines = (struct deadlines){};
}

int deadlines_reserve(struct deadlines *deadlines, size_t size)
{
	struct deadline **entries;

	if (size <= deadlines->size)
		return 0;
	entries = realloc(deadlines->entries, size * sizeof(*entries));
	if (!entries)
		return error_origin(-ENOMEM);
	deadlines->entries = entries;
	deadlines->size = size;
	return 0;
}

static void put(struct deadlines *deadlines, size_t position, struct deadline *deadline)
{
	deadlines->entries[position - 1] = deadline;
	deadline->position = position;
}

static struct deadline *at(const struct deadlines *deadlines, size_t position)
{
	return deadlines->entries[position - 1];
}

static void rise(struct deadlines *deadlines, struct deadline *deadline)
{
	size_t position = deadline->position;

	while (position > 1 && at(deadlines, position / 2)->at_ms > deadline->at_ms) {
		put(deadlines, position, at(deadlines, position / 2));
		position /= 2;
	}
	put(deadlines, position, deadline);
}

static void sink(struct deadlines *deadlines, struct deadline *deadline)
{
	size_t position = deadline->position, child;

	while ((child = 2 * position) <= deadlines->count) {
		if (child < deadlines->count &&
		    at(deadlines, child + 1)->at_ms < at(deadlines, child)->at_ms)
			child++;
		if (at(deadlines, child)->at_ms >= deadline->at_ms)
			break;
		put(deadlines, position, at(deadlines, child));
		position = child;
	}
	put(deadlines, position, deadline);
}

void deadlines_add(struct deadlines *deadlines, struct deadline *deadline, uint64_t at_ms)
{
	assert(deadline->position == 0 && deadlines->count < deadlines->size);
	deadline->at_ms = at_ms;
	put(deadlines, ++deadlines->count, deadline);
	rise(deadlines, deadline);
}

void deadlines_remove(struct deadlines *deadlines, struct deadline *deadline)
{
	size_t position = deadline->position;
	struct deadline *last;

	if (position == 0)
		return;
	deadline->position = 0;
	last = at(deadlines, deadlines->count--);
	if (last == deadline)
		return;
	put(deadlines, position, last);
	rise(deadlines, last);
	sink(deadlines, last);
}

struct deadline *deadlines_first(const struct deadlines *deadlines)
{
	return deadlines->count > 0 ? deadlines->entries[0] : NULL;
}
