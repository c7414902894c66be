#pragma once
/* Platforms: which image of an index is the one for a host. Pure, but for platform_host(). */

#include "services/image/document.h"

/* This host's: linux and uname(2)'s machine as GOARCH. */
int platform_host(struct platform *ret_platform);
/* GOARCH name (and variant, may be NULL) of a uname machine. */
const char *platform_architecture(const char *machine, const char **ret_variant);
/* `os/architecture[/variant]`, or `os`, or an architecture; what is missing is taken from @host.
 * DOCUMENT_E_INVALID with @why. */
int platform_parse(const char *text, const struct platform *host, struct platform *ret_platform,
		   struct why *why);
/* How well @have suits @want: 0 not at all, more is better. */
int platform_match(const struct platform *want, const struct platform *have);
/* Index of the entry that suits @want best; of entries that name no platform the first, if no other does. -1: none. */
int platform_choose(const struct document_index *index, const struct platform *want);
/* `os/architecture[/variant]`; malloc'd. */
char *platform_text(const struct platform *platform);
