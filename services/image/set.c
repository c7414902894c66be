/* Open addressing, at most half full: see set.h. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "broker/lib/cleanup.h"
#include "broker/lib/error.h"
#include "services/image/set.h"

static size_t find(char *const *slots, size_t n_slots, const char *text)
{
	uint64_t hash = 0xcbf29ce484222325ull;
	size_t i;

	for (const char *c = text; *c; c++)
		hash = (hash ^ (unsigned char)*c) * 0x100000001b3ull;
	for (i = hash & (n_slots - 1); slots[i] && strcmp(slots[i], text);)
		i = (i + 1) & (n_slots - 1);
	return i;
}

bool set_has(const struct set *set, const char *text)
{
	return set->n_slots && set->slots[find(set->slots, set->n_slots, text)];
}

static int grow(struct set *set)
{
	size_t n_slots = set->n_slots ? 2 * set->n_slots : 64;
	char **slots = calloc(n_slots, sizeof(*slots));

	if (!slots)
		return error_origin(-ENOMEM);
	for (size_t i = 0; i < set->n_slots; i++) {
		if (set->slots[i])
			slots[find(slots, n_slots, set->slots[i])] = set->slots[i];
	}
	free(set->slots);
	set->slots = slots;
	set->n_slots = n_slots;
	return 0;
}

int set_add(struct set *set, const char *text)
{
	char *copy;
	int r;

	if (set_has(set, text))
		return 0;
	if (2 * (set->count + 1) > set->n_slots) {
		r = grow(set);
		if (r)
			return error_trace(r);
	}
	copy = strdup(text);
	if (!copy)
		return error_origin(-ENOMEM);
	set->slots[find(set->slots, set->n_slots, text)] = copy;
	set->count++;
	return 0;
}

void set_remove(struct set *set, const char *text)
{
	size_t mask = set->n_slots - 1, i;

	if (!set_has(set, text))
		return;
	i = find(set->slots, set->n_slots, text);
	free(TAKE(set->slots[i]));
	set->count--;
	/* Those behind it may stand there because it stood before them. */
	while (set->slots[i = (i + 1) & mask]) {
		char *moved = TAKE(set->slots[i]);

		set->slots[find(set->slots, set->n_slots, moved)] = moved;
	}
}

void set_clear(struct set *set)
{
	for (size_t i = 0; i < set->n_slots; i++)
		free(set->slots[i]);
	free(set->slots);
	*set = (struct set){};
}
