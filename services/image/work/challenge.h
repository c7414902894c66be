#pragma once
/* What a registry that answers 401 wants: the header WWW-Authenticate (RFC 9110), as hostile input. Pure. */

#include <stdbool.h>
#include <stddef.h>

#include "broker/lib/cleanup.h"

#define CHALLENGES_MAX 8

enum challenge_scheme { CHALLENGE_OTHER, CHALLENGE_BASIC, CHALLENGE_BEARER };

struct challenge {
	enum challenge_scheme scheme;
	char *realm, *service, *scope, *error; /* NULL: not given */
};

struct challenges {
	struct challenge items[CHALLENGES_MAX];
	size_t count;
};

/* Adds the challenges of one header's value; what cannot be understood ends it. */
void challenge_parse(const char *value, struct challenges *challenges);
/* The strongest that we can answer, or NULL. */
const struct challenge *challenge_choose(const struct challenges *challenges);
void challenges_clear(struct challenges *challenges);
