/* See times.h. */

#include "tools/times.h"

#include <ctype.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define NS 1000000000ull

static uint64_t duration_unit(const char **text)
{
	static const struct {
		const char *name;
		uint64_t ms;
	} units[] = {{"ms", 1}, {"h", 3600000}, {"m", 60000}, {"s", 1000}};

	for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
		size_t n = strlen(units[i].name);

		if (!strncmp(*text, units[i].name, n)) {
			*text += n;
			return units[i].ms;
		}
	}
	return **text ? 0 : 1000;
}

int times_parse_duration(const char *text, uint64_t *ret_ms)
{
	uint64_t total = 0;

	if (!isdigit((unsigned char)*text))
		return -EINVAL;
	while (*text) {
		char *end;
		double n = strtod(text, &end);
		const char *rest = end;
		uint64_t unit = duration_unit(&rest);

		if (end == text || !isdigit((unsigned char)*text) || !unit || !(n >= 0 && n <= 1e9))
			return -EINVAL;
		total += (uint64_t)(n * (double)unit);
		text = rest;
	}
	*ret_ms = total;
	return 0;
}

/* ".5" behind seconds; digits beyond ns are cut off. */
static int parse_fraction(const char **text, uint64_t *ret_ns)
{
	uint64_t ns = 0, digit = NS / 10;

	*ret_ns = 0;
	if (**text != '.')
		return 0;
	if (!isdigit((unsigned char)*++*text))
		return -EINVAL;
	for (; isdigit((unsigned char)**text); ++*text, digit /= 10)
		ns += (uint64_t)(**text - '0') * digit;
	*ret_ns = ns;
	return 0;
}

static int parse_seconds(const char *text, uint64_t *ret_ns)
{
	uint64_t fraction;
	char *end;
	unsigned long long seconds;

	errno = 0;
	seconds = strtoull(text, &end, 10);
	text = end;
	if (errno || seconds > UINT64_MAX / NS - 1 || parse_fraction(&text, &fraction) || *text)
		return -EINVAL;
	*ret_ns = seconds * NS + fraction;
	return 0;
}

/* Z, +hh:mm, -hh:mm, or nothing: *@ret_has_zone tells. */
static int parse_zone(const char *text, bool *ret_has_zone, int64_t *ret_seconds)
{
	int hours, minutes, n = 0;

	*ret_has_zone = *text;
	*ret_seconds = 0;
	if (!*text || !strcmp(text, "Z") || !strcmp(text, "z"))
		return 0;
	if ((*text != '+' && *text != '-') ||
	    sscanf(text + 1, "%2d:%2d%n", &hours, &minutes, &n) != 2 || n != 5 || text[6] ||
	    hours < 0 || hours > 23 || minutes < 0 || minutes > 59)
		return -EINVAL;
	*ret_seconds = (*text == '-' ? -1 : 1) * (hours * 3600 + minutes * 60);
	return 0;
}

static bool is_tm_valid(const struct tm *tm)
{
	return tm->tm_mon >= 0 && tm->tm_mon < 12 && tm->tm_mday >= 1 && tm->tm_mday <= 31 &&
	       tm->tm_hour >= 0 && tm->tm_hour < 24 && tm->tm_min >= 0 && tm->tm_min < 60 &&
	       tm->tm_sec >= 0 && tm->tm_sec <= 60;
}

static int parse_date(const char *text, uint64_t *ret_ns)
{
	struct tm tm = {.tm_isdst = -1};
	uint64_t fraction = 0;
	int64_t zone, seconds;
	bool has_zone;
	int n = 0;

	if (sscanf(text, "%4d-%2d-%2d%n", &tm.tm_year, &tm.tm_mon, &tm.tm_mday, &n) != 3 || n != 10)
		return -EINVAL;
	text += n;
	if (*text == 'T' || *text == 't' || *text == ' ') {
		n = 0;
		if (sscanf(text + 1, "%2d:%2d:%2d%n", &tm.tm_hour, &tm.tm_min, &tm.tm_sec, &n) !=
			    3 ||
		    n != 8)
			return -EINVAL;
		text += 1 + n;
		if (parse_fraction(&text, &fraction))
			return -EINVAL;
	}
	tm.tm_year -= 1900;
	tm.tm_mon -= 1;
	if (parse_zone(text, &has_zone, &zone) || !is_tm_valid(&tm))
		return -EINVAL;
	seconds = (has_zone ? timegm(&tm) : mktime(&tm)) - zone;
	if (seconds < 0)
		return -EINVAL;
	*ret_ns = (uint64_t)seconds * NS + fraction;
	return 0;
}

int times_parse_moment(const char *text, uint64_t now_ns, uint64_t *ret_ns)
{
	size_t digits = strspn(text, "0123456789");
	uint64_t ms;

	if (!digits)
		return -EINVAL;
	if (digits == 4 && text[4] == '-')
		return parse_date(text, ret_ns);
	if (!text[digits + strspn(text + digits, ".0123456789")])
		return parse_seconds(text, ret_ns);
	if (times_parse_duration(text, &ms))
		return -EINVAL;
	*ret_ns = ms < now_ns / 1000000 ? now_ns - ms * 1000000 : 0;
	return 0;
}
