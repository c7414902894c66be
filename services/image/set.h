#pragma once
/* A set of texts. */

#include <stdbool.h>
#include <stddef.h>

struct set {
	char **slots;
	size_t n_slots, count;
};

/* 0: added or already there. -ENOMEM. */
int set_add(struct set *set, const char *text);
void set_remove(struct set *set, const char *text);
bool set_has(const struct set *set, const char *text);
void set_clear(struct set *set);
