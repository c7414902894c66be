/* What registries and hosts.toml files say: the first byte picks which reader gets the rest. */

#include <string.h>

#include "services/image/work/challenge.h"
#include "services/image/work/registry.h"
#include "tests/fuzz/fuzz.h"

static void try_challenge(const char *text, size_t size)
{
	struct challenges challenges = {};
	const struct challenge *challenge;

	(void)size;
	challenge_parse(text, &challenges);
	challenge_parse(text, &challenges);
	FUZZ_ASSERT(challenges.count <= CHALLENGES_MAX);
	challenge = challenge_choose(&challenges);
	FUZZ_ASSERT(!challenge || challenge->scheme != CHALLENGE_OTHER);
	FUZZ_ASSERT(!challenge || challenge->scheme != CHALLENGE_BEARER || challenge->realm);
	challenges_clear(&challenges);
}

static void try_toml(const char *text, size_t size)
{
	struct why why = {};
	json_t *json = NULL;
	int r;

	r = toml_parse(text, size, &json, &why);
	FUZZ_ASSERT(r ? !json && why.text[0] : json_is_object(json));
	json_decref(json);
}

/* Without files: a path in it leads nowhere. */
static void try_hosts(const char *text, size_t size)
{
	struct remote remote = {};
	struct hosts hosts = {};
	struct why why = {};

	FUZZ_ASSERT(!remote_parse("r.example/a:1", &remote, NULL));
	if (!hosts_parse(&remote, NULL, text, size, "/nowhere", &hosts, &why)) {
		FUZZ_ASSERT(hosts.count && hosts.count <= HOSTS_MAX);
		for (size_t i = 0; i < hosts.count; i++) {
			FUZZ_ASSERT(!strncmp(hosts.items[i].url, "http", 4));
			for (size_t j = 0; j < hosts.items[i].headers.count; j++)
				FUZZ_ASSERT(
					!strpbrk(hosts.items[i].headers.items[j].value, "\r\n"));
		}
	}
	hosts_clear(&hosts);
	remote_clear(&remote);
}

static void try_remote(const char *text, size_t size)
{
	struct remote remote = {};
	uint64_t first = 0, last = 0, total = 0;

	(void)size;
	if (!remote_parse(text, &remote, NULL)) {
		FUZZ_ASSERT(!strstr(remote.repository, "..") &&
			    !strpbrk(remote.repository, "?#%\\"));
		FUZZ_ASSERT(remote_object(&remote));
	}
	remote_clear(&remote);
	if (remote_parse_range(text, &first, &last, &total))
		FUZZ_ASSERT(first <= last && last < total);
	(void)remote_same_origin(text, "https://r.example/v2");
	(void)remote_is_local(text);
}

static void try_error(const char *text, size_t size)
{
	char shown[256];

	registry_error_text(text, size, shown, sizeof(shown));
	FUZZ_ASSERT(strlen(shown) < sizeof(shown));
	for (const char *c = shown; *c; c++)
		FUZZ_ASSERT(*c >= ' ' && *c < 0x7f);
	(void)registry_is_token(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static void (*const tries[])(const char *, size_t) = {try_challenge, try_toml, try_hosts,
							      try_remote, try_error};
	char *text;

	if (!size)
		return 0;
	text = fuzz_text(data + 1, size - 1);
	tries[data[0] % (sizeof(tries) / sizeof(tries[0]))](text, size - 1);
	free(text);
	return 0;
}
