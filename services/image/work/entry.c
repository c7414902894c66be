/* Names in a layer: see entry.h. */

#include <limits.h>
#include <string.h>

#include "broker/lib/file.h"
#include "services/image/work/entry.h"

#define WHITEOUT      ".wh."
#define WHITEOUT_META ".wh..wh."
#define OPAQUE        ".wh..wh..opq"

void entry_clear(struct entry *entry)
{
	free(entry->parent);
	free(entry->name);
	*entry = (struct entry){};
}

static bool starts_with(const char *text, const char *prefix)
{
	return !strncmp(text, prefix, strlen(prefix));
}

static int refuse(const char *path, const char *problem, struct why *why)
{
	return why_set(why, WORK_E_INVALID, "entry '%s' %s", work_show(path), problem);
}

/* Joins the components of @path by single slashes, without "." and a leading slash. */
static int clean(const char *path, const struct work_limits *limits, char **ret_clean,
		 struct why *why)
{
	_cleanup_(cleanup_free) char *result = malloc(strlen(path) + 1);
	uint64_t depth = 0;
	char *end = result;

	if (!result)
		return error_origin(-ENOMEM);
	*end = '\0';
	for (const char *at = path; *at;) {
		size_t size = strcspn(at, "/");

		if (size == 2 && at[0] == '.' && at[1] == '.')
			return refuse(path, "leads upwards", why);
		if (size > NAME_MAX)
			return refuse(path, "has a name of more than 255 bytes", why);
		if (size && !(size == 1 && at[0] == '.')) {
			if (++depth > limits->path_depth)
				return why_set(
					why, WORK_E_INVALID,
					"entry '%s' is more than %llu directories deep (limit path_depth)",
					work_show(path), (unsigned long long)limits->path_depth);
			if (end != result)
				*end++ = '/';
			memcpy(end, at, size);
			end += size;
			*end = '\0';
		}
		at += size + !!at[size];
	}
	*ret_clean = TAKE(result);
	return 0;
}

static int split(const char *path, const struct work_limits *limits, struct entry *entry,
		 struct why *why)
{
	_cleanup_(cleanup_free) char *whole = NULL;
	char *slash;
	int r;

	if (strlen(path) > limits->path_size)
		return why_set(why, WORK_E_INVALID,
			       "entry '%s' has a path of more than %llu bytes (limit path_size)",
			       work_show(path), (unsigned long long)limits->path_size);
	r = clean(path, limits, &whole, why);
	if (r)
		return error_trace(r);
	slash = strrchr(whole, '/');
	if (slash)
		*slash = '\0';
	entry->name = strdup(slash ? slash + 1 : whole);
	entry->parent = strdup(slash ? whole : "");
	return entry->name && entry->parent ? 0 : error_origin(-ENOMEM);
}

static bool has_whiteout(const char *parent)
{
	return starts_with(parent, WHITEOUT) || strstr(parent, "/" WHITEOUT);
}

static int classify(const char *path, struct entry *entry, struct why *why)
{
	char *hidden;

	entry->kind = entry->name[0] ? ENTRY_PLAIN : ENTRY_ROOT;
	if (starts_with(entry->parent, WHITEOUT_META)) {
		entry->kind = ENTRY_SKIP;
		return 0;
	}
	if (has_whiteout(entry->parent))
		return refuse(path, "lies in a directory that is a whiteout", why);
	if (!starts_with(entry->name, WHITEOUT))
		return 0;
	if (!strcmp(entry->name, OPAQUE)) {
		entry->kind = ENTRY_OPAQUE;
		return 0;
	}
	if (starts_with(entry->name, WHITEOUT_META)) {
		entry->kind = ENTRY_SKIP;
		return 0;
	}
	hidden = entry->name + strlen(WHITEOUT);
	if (!*hidden || !strcmp(hidden, ".") || !strcmp(hidden, ".."))
		return refuse(path, "is a whiteout of no name", why);
	entry->kind = ENTRY_WHITEOUT;
	memmove(entry->name, hidden, strlen(hidden) + 1);
	return 0;
}

int entry_parse(const char *path, const struct work_limits *limits, struct entry *ret_entry,
		struct why *why)
{
	_cleanup_(entry_clear) struct entry entry = {};
	int r;

	r = split(path, limits, &entry, why);
	if (!r)
		r = classify(path, &entry, why);
	if (r)
		return error_trace(r);
	*ret_entry = entry;
	entry = (struct entry){};
	return 0;
}

int entry_parse_link(const char *path, const struct work_limits *limits, struct entry *ret_entry,
		     struct why *why)
{
	_cleanup_(entry_clear) struct entry entry = {};
	int r;

	r = split(path, limits, &entry, why);
	if (r)
		return error_trace(r);
	if (!entry.name[0])
		return refuse(path, "as the target of a hard link is the root", why);
	entry.kind = ENTRY_PLAIN;
	*ret_entry = entry;
	entry = (struct entry){};
	return 0;
}
