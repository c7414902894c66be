/* Platforms: see platform.h. */

#include <ctype.h>
#include <string.h>
#include <sys/utsname.h>

#include "broker/lib/file.h"
#include "services/image/platform.h"

#define PART_MAX 32

static const struct {
	const char *machine, *architecture, *variant;
} machines[] = {
	{"x86_64", "amd64", NULL},
	{"amd64", "amd64", NULL},
	{"aarch64", "arm64", NULL},
	{"arm64", "arm64", NULL},
	{"armv8l", "arm", "v7"},
	{"armv7l", "arm", "v7"},
	{"armhf", "arm", "v7"},
	{"armv6l", "arm", "v6"},
	{"armv5l", "arm", "v5"},
	{"armel", "arm", "v6"},
	{"i386", "386", NULL},
	{"i486", "386", NULL},
	{"i586", "386", NULL},
	{"i686", "386", NULL},
	{"ppc64le", "ppc64le", NULL},
	{"s390x", "s390x", NULL},
	{"riscv64", "riscv64", NULL},
	{"mips64", "mips64le", NULL},
	{"loongarch64", "loong64", NULL},
};

static const char *const architectures[] = {"386",     "amd64",   "arm",      "arm64",  "loong64",
					    "mips",    "mips64",  "mips64le", "mipsle", "ppc64",
					    "ppc64le", "riscv64", "s390x",    "wasm"};

const char *platform_architecture(const char *machine, const char **ret_variant)
{
	*ret_variant = NULL;
	for (size_t i = 0; i < ARRAY_SIZE(machines); i++) {
		if (strcmp(machine, machines[i].machine))
			continue;
		*ret_variant = machines[i].variant;
		return machines[i].architecture;
	}
	return machine;
}

static int set(struct platform *platform, const char *os, const char *architecture,
	       const char *variant)
{
	int r;

	r = schema_set(&platform->os, os);
	if (!r)
		r = schema_set(&platform->architecture, architecture);
	if (!r)
		r = schema_set(&platform->variant, variant);
	return error_trace(r);
}

int platform_host(struct platform *ret_platform)
{
	_cleanup_(platform_clear) struct platform platform = {};
	const char *architecture, *variant;
	struct utsname name;
	int r;

	if (uname(&name) < 0)
		return error_origin(-errno);
	architecture = platform_architecture(name.machine, &variant);
	r = set(&platform, "linux", architecture, variant);
	if (r)
		return error_trace(r);
	*ret_platform = platform;
	platform = (struct platform){};
	return 0;
}

static bool is_part(const char *text)
{
	size_t size = strlen(text);

	if (!size || size >= PART_MAX)
		return false;
	for (size_t i = 0; i < size; i++) {
		if (!isalnum((unsigned char)text[i]) && !strchr("._-", text[i]))
			return false;
	}
	return true;
}

static bool is_architecture(const char *text)
{
	for (size_t i = 0; i < ARRAY_SIZE(architectures); i++) {
		if (!strcmp(text, architectures[i]))
			return true;
	}
	return false;
}

static bool is_system(const char *text)
{
	static const char *const systems[] = {
		"aix",   "android", "darwin",  "dragonfly", "freebsd", "illumos", "ios",     "js",
		"linux", "netbsd",  "openbsd", "plan9",     "solaris", "wasip1",  "windows", "zos"};

	for (size_t i = 0; i < ARRAY_SIZE(systems); i++) {
		if (!strcmp(text, systems[i]))
			return true;
	}
	return false;
}

/* One word: an operating system, or an architecture of this host's system. */
static int parse_word(const char *word, const struct platform *host, struct platform *platform,
		      struct why *why)
{
	const char *variant, *architecture = platform_architecture(word, &variant);

	if (is_architecture(architecture))
		return set(platform, host->os, architecture, variant);
	if (!is_system(word))
		return why_set(why, DOCUMENT_E_INVALID,
			       "platform '%s' is the name of no operating system or architecture",
			       word);
	return set(platform, word, host->architecture, host->variant);
}

static int parse_parts(char **parts, size_t n, const struct platform *host,
		       struct platform *platform, struct why *why)
{
	const char *architecture, *variant;

	if (n == 1)
		return parse_word(parts[0], host, platform, why);
	architecture = platform_architecture(parts[1], &variant);
	return set(platform, parts[0], architecture, n == 3 ? parts[2] : variant);
}

int platform_parse(const char *text, const struct platform *host, struct platform *ret_platform,
		   struct why *why)
{
	_cleanup_(platform_clear) struct platform platform = {};
	_cleanup_(cleanup_free) char *copy = strdup(text);
	char *parts[3], *rest = copy, *part;
	size_t n = 0;
	int r;

	if (!copy)
		return error_origin(-ENOMEM);
	while ((part = strsep(&rest, "/"))) {
		if (n == ARRAY_SIZE(parts) || !is_part(part))
			return why_set(why, DOCUMENT_E_INVALID,
				       "platform '%.100s' is not os/architecture[/variant]", text);
		for (char *c = part; *c; c++)
			*c = (char)tolower((unsigned char)*c);
		parts[n++] = part;
	}
	r = parse_parts(parts, n, host, &platform, why);
	if (r)
		return error_trace(r);
	*ret_platform = platform;
	platform = (struct platform){};
	return 0;
}

/* The number of "v7"; 0 without one. arm64's v8 and amd64's v1 are what they are without a variant. */
static int variant_number(const struct platform *platform)
{
	const char *variant = platform->variant;
	int number = variant && variant[0] == 'v' ? atoi(variant + 1) : 0;

	if (number)
		return number;
	if (!platform->architecture || strcmp(platform->architecture, "arm"))
		return platform->architecture && !strcmp(platform->architecture, "arm64") ? 8 : 1;
	return 7;
}

static bool is_same(const char *a, const char *b)
{
	return a && b && !strcmp(a, b);
}

int platform_match(const struct platform *want, const struct platform *have)
{
	int wanted = variant_number(want), had = variant_number(have);

	if (!is_same(want->os, have->os) || !is_same(want->architecture, have->architecture))
		return 0;
	/* A higher variant does not run on a lower one; the highest that runs is the best. */
	return had > wanted ? 0 : 1 + had;
}

int platform_choose(const struct document_index *index, const struct platform *want)
{
	int best = -1, best_match = 0, unnamed = -1;

	for (size_t i = 0; i < index->count; i++) {
		const struct platform *have = &index->items[i].platform;
		int match;

		if (document_is_part(index->items[i].descriptor.media_type))
			continue;
		if (!have->os && !have->architecture) {
			unnamed = unnamed < 0 ? (int)i : unnamed;
			continue;
		}
		match = platform_match(want, have);
		if (match > best_match) {
			best = (int)i;
			best_match = match;
		}
	}
	return best >= 0 ? best : unnamed;
}

char *platform_text(const struct platform *platform)
{
	return text_format("%s/%s%s%s", platform->os ?: "unknown",
			   platform->architecture ?: "unknown", platform->variant ? "/" : "",
			   platform->variant ?: "");
}
