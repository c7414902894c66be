/* Labels of collection: see labels.h. */

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "broker/lib/error.h"
#include "services/image/labels.h"

#define NS_EACH_SECOND 1000000000ull

/* Is @key the label @name, or one of its further ones: <name>.<x>, <name>/<x>? */
static bool is_label(const char *key, const char *name)
{
	size_t size = strlen(name);

	return !strncmp(key, name, size) && (!key[size] || key[size] == '.' || key[size] == '/');
}

/* "snapshot.<snapshotter>", or "snapshot.<snapshotter>/<x>". */
static enum label_reference read_snapshotter(const char *rest,
					     char snapshotter[LABEL_SNAPSHOTTER_SIZE])
{
	size_t size = strcspn(rest, "/");

	if (!size || size >= LABEL_SNAPSHOTTER_SIZE)
		return LABEL_NONE;
	memcpy(snapshotter, rest, size);
	snapshotter[size] = '\0';
	return LABEL_SNAPSHOT;
}

static enum label_reference read_kind(const char *kind, char snapshotter[LABEL_SNAPSHOTTER_SIZE])
{
	if (is_label(kind, "content"))
		return LABEL_CONTENT;
	if (is_label(kind, "image"))
		return LABEL_IMAGE;
	if (!strncmp(kind, "snapshot.", 9))
		return read_snapshotter(kind + 9, snapshotter);
	return LABEL_NONE;
}

enum label_reference label_reference(const char *key, char snapshotter[LABEL_SNAPSHOTTER_SIZE])
{
	size_t size = strlen(LABEL_REF);

	return strncmp(key, LABEL_REF, size) ? LABEL_NONE : read_kind(key + size, snapshotter);
}

enum label_reference label_back_reference(const char *key, char snapshotter[LABEL_SNAPSHOTTER_SIZE])
{
	size_t size = strlen(LABEL_BACK_REF);

	if (strncmp(key, LABEL_BACK_REF, size) != 0)
		return LABEL_NONE;
	if (is_label(key + size, "container"))
		return LABEL_CONTAINER;
	return read_kind(key + size, snapshotter);
}

/* ---- times ---- */

static const char *parse_fraction(const char *text, uint64_t *ret_ns)
{
	uint64_t unit = NS_EACH_SECOND / 10, ns = 0;

	*ret_ns = 0;
	if (*text != '.')
		return text;
	for (text++; *text >= '0' && *text <= '9'; text++, unit /= 10)
		ns += (uint64_t)(*text - '0') * unit;
	*ret_ns = ns;
	return text;
}

/* "Z", "+01:00"; seconds east of Greenwich. */
static int parse_zone(const char *text, long *ret_seconds)
{
	unsigned hours, minutes;
	int end = 0;

	*ret_seconds = 0;
	if (!strcmp(text, "Z") || !strcmp(text, "z"))
		return 0;
	if ((*text != '+' && *text != '-') || strspn(text + 1, "0123456789:") != 5 || text[6] ||
	    sscanf(text + 1, "%2u:%2u%n", &hours, &minutes, &end) != 2 || end != 5 || hours > 23 ||
	    minutes > 59)
		return -EINVAL;
	*ret_seconds = (long)(hours * 60 + minutes) * 60;
	if (*text == '-')
		*ret_seconds = -*ret_seconds;
	return 0;
}

int label_parse_time(const char *text, uint64_t *ret_ns)
{
	struct tm date = {};
	uint64_t fraction;
	const char *rest;
	long zone;
	time_t seconds;

	rest = strptime(text, "%Y-%m-%dT%H:%M:%S", &date);
	if (!rest)
		return -EINVAL;
	rest = parse_fraction(rest, &fraction);
	if (parse_zone(rest, &zone))
		return -EINVAL;
	seconds = timegm(&date) - zone;
	if (seconds < 0 || (uint64_t)seconds > UINT64_MAX / NS_EACH_SECOND - 1)
		return -EINVAL;
	*ret_ns = (uint64_t)seconds * NS_EACH_SECOND + fraction;
	return 0;
}

void label_format_time(uint64_t ns, char text[LABEL_TIME_SIZE])
{
	time_t seconds = (time_t)(ns / NS_EACH_SECOND);
	struct tm date;

	if (!gmtime_r(&seconds, &date) ||
	    !strftime(text, LABEL_TIME_SIZE, "%Y-%m-%dT%H:%M:%SZ", &date))
		text[0] = '\0';
}

uint64_t label_expiry(const struct schema_map *labels)
{
	const char *text = schema_map_get(labels, LABEL_EXPIRE);
	uint64_t ns;

	return text && !label_parse_time(text, &ns) ? ns : UINT64_MAX;
}

bool label_says_how_long(const struct schema_map *labels)
{
	char snapshotter[LABEL_SNAPSHOTTER_SIZE];

	for (size_t i = 0; i < labels->count; i++) {
		if (label_back_reference(labels->items[i].key, snapshotter) != LABEL_NONE)
			return true;
	}
	return schema_map_get(labels, LABEL_ROOT) || schema_map_get(labels, LABEL_EXPIRE);
}

bool label_is_root(const struct schema_map *labels, uint64_t now, uint64_t *ret_end)
{
	const char *text = schema_map_get(labels, LABEL_EXPIRE);

	*ret_end = UINT64_MAX;
	if (schema_map_get(labels, LABEL_ROOT))
		return true;
	return text && !label_parse_time(text, ret_end) && *ret_end > now;
}
