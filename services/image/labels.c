/* Labels of collection: see labels.h. */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "broker/lib/error.h"
#include "broker/lib/utc.h"
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
	char stamp[UTC_SIZE];

	utc_format(ns / NS_EACH_SECOND, stamp);
	snprintf(text, LABEL_TIME_SIZE, "%sZ", stamp);
}

/* "1.5h"; the rest of @text, or NULL. */
static const char *parse_span(const char *text, uint64_t *ns)
{
	static const struct {
		const char *name;
		double ns;
	} units[] = {{"ns", 1},   {"us", 1e3}, {"\xc2\xb5s", 1e3}, {"\xce\xbcs", 1e3},
		     {"ms", 1e6}, {"s", 1e9},  {"m", 6e10},        {"h", 3.6e12}};
	size_t size = strspn(text, "0123456789."), n_digits = strspn(text, "0123456789");
	double value;

	/* One point at most, and a digit beside it; what strtod() reads else does not come here. */
	n_digits += text[n_digits] == '.' ? strspn(text + n_digits + 1, "0123456789") : 0;
	if (!n_digits || size - n_digits > 1 || size > 40)
		return NULL;
	value = strtod(text, NULL);
	text += size;
	size = strcspn(text, "0123456789.");
	for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
		if (strlen(units[i].name) != size || memcmp(text, units[i].name, size) != 0)
			continue;
		value = value * units[i].ns + (double)*ns;
		if (value >= (double)INT64_MAX)
			return NULL;
		*ns = (uint64_t)value;
		return text + size;
	}
	return NULL;
}

int label_parse_duration(const char *text, uint64_t *ret_ns)
{
	uint64_t ns = 0;

	text += *text == '+';
	if (!strcmp(text, "0")) {
		*ret_ns = 0;
		return 0;
	}
	do {
		text = parse_span(text, &ns);
	} while (text && *text);
	if (!text)
		return -EINVAL;
	*ret_ns = ns;
	return 0;
}

/* ---- conditions ---- */

const char *label_condition(const struct schema_pair *label,
			    char snapshotter[LABEL_SNAPSHOTTER_SIZE])
{
	size_t size = strlen(LABEL_CONDITION);
	const char *bar = strchr(label->value, '|');

	if (strncmp(label->key, LABEL_CONDITION, size) != 0 || !bar ||
	    read_snapshotter(label->key + size + strspn(label->key + size, "./"), snapshotter) ==
		    LABEL_NONE)
		return NULL;
	return bar + 1;
}

struct condition {
	bool is_less; /* used less long ago than that; else longer ago */
	uint64_t ns;
};

/* Of @size bytes; false: it cannot be read. */
static bool parse_condition(const char *text, size_t size, struct condition *ret_condition)
{
	char duration[64];

	if (size < 8 || size - 7 >= sizeof(duration) || strncmp(text, "usedat", 6) != 0 ||
	    (text[6] != '<' && text[6] != '>'))
		return false;
	memcpy(duration, text + 7, size - 7);
	duration[size - 7] = '\0';
	ret_condition->is_less = text[6] == '<';
	return !label_parse_duration(duration, &ret_condition->ns);
}

/* Which of them are true for something that was used at @used? */
static bool is_met(const char *text, uint64_t used, uint64_t now, uint64_t *end)
{
	uint64_t ago = now > used ? now - used : 0;
	bool is_true = false;
	size_t size;

	for (; *text && *text != '|'; text += size + (text[size] == ',')) {
		struct condition condition;

		size = strcspn(text, ",|");
		if (!parse_condition(text, size, &condition))
			continue;
		if (condition.is_less && (used > now || ago < condition.ns)) {
			is_true = true;
			if (used > UINT64_MAX - condition.ns || used + condition.ns > *end)
				*end = used > UINT64_MAX - condition.ns ? UINT64_MAX
									: used + condition.ns;
		} else if (!condition.is_less && ago > condition.ns) {
			is_true = true;
			*end = UINT64_MAX;
		}
	}
	return is_true;
}

bool label_condition_holds(const struct schema_pair *label, const struct schema_map *labels,
			   uint64_t now, uint64_t *ret_end)
{
	bool is_true = false;

	*ret_end = 0;
	for (size_t i = 0; i < labels->count; i++) {
		const struct schema_pair *value = &labels->items[i];
		uint64_t used;

		if (!strncmp(value->key, LABEL_USED_AT, strlen(LABEL_USED_AT)) &&
		    !label_parse_time(value->value, &used) &&
		    is_met(label->value, used, now, ret_end))
			is_true = true;
	}
	return is_true;
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
