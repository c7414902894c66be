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

enum label_reference label_reference(const char *key, char snapshotter[LABEL_SNAPSHOTTER_SIZE])
{
	size_t size;

	if (is_label(key, LABEL_REF_CONTENT))
		return LABEL_CONTENT;
	if (strncmp(key, LABEL_REF_SNAPSHOT, strlen(LABEL_REF_SNAPSHOT)) != 0)
		return LABEL_NONE;
	key += strlen(LABEL_REF_SNAPSHOT);
	size = strcspn(key, "/");
	if (!size || size >= LABEL_SNAPSHOTTER_SIZE)
		return LABEL_NONE;
	memcpy(snapshotter, key, size);
	snapshotter[size] = '\0';
	return LABEL_SNAPSHOT;
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
