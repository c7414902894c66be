#pragma once
/* containerd's templates in the words of an OCI hook: {{id}}, {{bundle}}, {{rootfs}}, {{pid}}, {{status}}, {{annotation "name"}}. Pure. */

#include <jansson.h>

#include "broker/lib/error.h"

#define HOOK_STATE_MAX (4u << 20) /* bytes of what the OCI runtime tells, and of its config.json */

enum {
	_HOOK_E_SUCCESS,
	HOOK_E_INVALID, /* the sentence is in @why */
};

struct hook_facts {
	json_t *state; /* as the runtime spec has it */
	char *rootfs;  /* absolute */
};
void hook_facts_clear(struct hook_facts *facts);

/* Of the state (stdin of a hook): what must be there. */
int hook_facts_read(const char *text, size_t size, struct hook_facts *ret_facts, struct why *why);
/* The bundle that the state names. Borrowed. */
const char *hook_facts_bundle(const struct hook_facts *facts);
/* Of the bundle's config.json: where the root is. */
int hook_facts_read_config(const char *text, size_t size, struct hook_facts *facts,
			   struct why *why);
int hook_expand(const struct hook_facts *facts, const char *word, char **ret_word,
		struct why *why);
