/* WWW-Authenticate: see challenge.h. */

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "services/image/work/challenge.h"

static bool is_token(char c)
{
	return c > ' ' && c < 0x7f && !strchr("()<>@,;:\\\"/[]?={}", c);
}

static void skip(const char **at, const char *what)
{
	*at += strspn(*at, what);
}

static size_t token_size(const char *at)
{
	size_t size = 0;

	while (is_token(at[size]))
		size++;
	return size;
}

/* A token or a quoted string. NULL: neither, or no memory. */
static char *take_value(const char **at)
{
	size_t size = token_size(*at), n = 0;
	const char *from = *at;
	char *value;

	if (*from != '"') {
		/* Some send URLs without quotes: up to what ends a parameter. */
		size = strcspn(from, ", \t");
		*at += size;
		return size ? strndup(from, size) : NULL;
	}
	value = malloc(strlen(from));
	if (!value)
		return NULL;
	for (from++; *from && *from != '"'; from++) {
		if (*from == '\\' && from[1])
			from++;
		value[n++] = *from;
	}
	value[n] = '\0';
	if (*from != '"') {
		free(value);
		return NULL;
	}
	*at = from + 1;
	return value;
}

static char **member_of(struct challenge *challenge, const char *name, size_t size)
{
	static const struct {
		const char *name;
		size_t offset;
	} members[] = {{"realm", offsetof(struct challenge, realm)},
		       {"service", offsetof(struct challenge, service)},
		       {"scope", offsetof(struct challenge, scope)},
		       {"error", offsetof(struct challenge, error)}};

	for (size_t i = 0; i < ARRAY_SIZE(members); i++) {
		if (strlen(members[i].name) == size && !strncasecmp(name, members[i].name, size))
			return (char **)((char *)challenge + members[i].offset);
	}
	return NULL;
}

/* name=value; false: it is none, and @at stays. */
static bool take_parameter(const char **at, struct challenge *challenge)
{
	size_t size = token_size(*at);
	const char *name = *at, *next = *at + size;
	char **member, *value;

	skip(&next, " \t");
	if (!size || *next != '=')
		return false;
	next++;
	skip(&next, " \t");
	value = take_value(&next);
	if (!value)
		return false;
	*at = next;
	member = member_of(challenge, name, size);
	/* The first one counts. */
	if (member && !*member)
		*member = value;
	else
		free(value);
	return true;
}

static enum challenge_scheme scheme_of(const char *text, size_t size)
{
	if (size == 5 && !strncasecmp(text, "basic", 5))
		return CHALLENGE_BASIC;
	if (size == 6 && !strncasecmp(text, "bearer", 6))
		return CHALLENGE_BEARER;
	return CHALLENGE_OTHER;
}

void challenge_parse(const char *value, struct challenges *challenges)
{
	const char *at = value;

	for (;;) {
		struct challenge *challenge = &challenges->items[challenges->count];
		size_t size;

		skip(&at, ", \t");
		size = token_size(at);
		if (!size || challenges->count == CHALLENGES_MAX)
			return;
		*challenge = (struct challenge){.scheme = scheme_of(at, size)};
		challenges->count++;
		at += size;
		do
			skip(&at, ", \t");
		while (take_parameter(&at, challenge));
	}
}

const struct challenge *challenge_choose(const struct challenges *challenges)
{
	const struct challenge *chosen = NULL;

	for (size_t i = 0; i < challenges->count; i++) {
		const struct challenge *challenge = &challenges->items[i];

		if (challenge->scheme == CHALLENGE_OTHER ||
		    (challenge->scheme == CHALLENGE_BEARER && !challenge->realm))
			continue;
		if (!chosen || challenge->scheme > chosen->scheme)
			chosen = challenge;
	}
	return chosen;
}

void challenges_clear(struct challenges *challenges)
{
	for (size_t i = 0; i < challenges->count; i++) {
		free(challenges->items[i].realm);
		free(challenges->items[i].service);
		free(challenges->items[i].scope);
		free(challenges->items[i].error);
	}
	challenges->count = 0;
}
