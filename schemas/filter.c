/*
 * containerd's filters: see filter.h. A filter is a list of alternatives; each
 * is a list of selectors that must all match. One without selectors matches
 * everything.
 *
 *	selectors := selector ("," selector)*
 *	selector  := fieldpath (operator value)?
 *	fieldpath := field ("." field)*
 *	field     := quoted | letters, digits, "_"
 *	operator  := "==" | "!=" | "~="
 *	value     := quoted | anything without space and ","
 *	quoted    := a Go string; for ~= also /.../ and |...|
 *
 * Space between these is skipped.
 */

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "schemas/filter.h"
#include "schemas/regex.h"

#define FILTERS_MAX   64
#define FILTER_MAX    4096 /* bytes of one */
#define SELECTORS_MAX 256  /* in all */
#define REGEXES_MAX   64
#define FIELDS_MAX    32 /* fields in a path */

enum comparison { IS_PRESENT, IS_EQUAL, IS_NOT_EQUAL, MATCHES };

struct selector {
	struct schema_strs path;
	enum comparison comparison;
	char *value;
	struct regex *regex;
	size_t alternative; /* the filter that it belongs to */
};

struct filter {
	struct selector *selectors; /* in order of their alternatives */
	size_t n_selectors;
	size_t n_regexes;
	size_t n_alternatives;
	bool matches_all; /* an alternative is empty */
};

struct filter *filter_free(struct filter *filter)
{
	if (!filter)
		return NULL;
	for (size_t i = 0; i < filter->n_selectors; i++) {
		schema_strs_clear(&filter->selectors[i].path);
		free(filter->selectors[i].value);
		regex_free(filter->selectors[i].regex);
	}
	free(filter->selectors);
	free(filter);
	return NULL;
}

void filter_freep(struct filter **filter)
{
	*filter = filter_free(*filter);
}

bool filter_is_empty(const struct filter *filter)
{
	return !filter->n_alternatives || filter->matches_all;
}

/* ---- parsing ------------------------------------------------------------------ */

struct parser {
	struct filter *filter;
	const char *text, *at;
	size_t number; /* of the filter, from 1 */
	struct schema_fault *fault;
};

__attribute__((format(printf, 2, 3))) static int refuse(struct parser *parser, const char *format,
							...)
{
	char text[160];
	va_list args;

	if (!parser->fault)
		return SCHEMA_E_VALUE;
	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	snprintf(parser->fault->text, sizeof(parser->fault->text), "filter %zu, character %zu: %s",
		 parser->number, (size_t)(parser->at - parser->text) + 1, text);
	return SCHEMA_E_VALUE;
}

static void skip_space(struct parser *parser)
{
	while (isspace((uint8_t)*parser->at))
		parser->at++;
}

static int hex_value(const char *text, size_t digits, uint32_t *ret_value)
{
	*ret_value = 0;
	for (size_t i = 0; i < digits; i++) {
		if (!isxdigit((uint8_t)text[i]))
			return -1;
		*ret_value = *ret_value << 4 |
			     (uint32_t)(isdigit((uint8_t)text[i])
						? text[i] - '0'
						: tolower((uint8_t)text[i]) - 'a' + 10);
	}
	return 0;
}

/* Writes a code point as UTF-8; the end, or NULL if it is none. */
static char *write_rune(char *out, uint32_t rune)
{
	if (rune >= 0x110000 || (rune >= 0xd800 && rune < 0xe000))
		return NULL;
	if (rune < 0x80) {
		*out++ = (char)rune;
	} else if (rune < 0x800) {
		*out++ = (char)(0xc0 | rune >> 6);
		*out++ = (char)(0x80 | (rune & 0x3f));
	} else if (rune < 0x10000) {
		*out++ = (char)(0xe0 | rune >> 12);
		*out++ = (char)(0x80 | (rune >> 6 & 0x3f));
		*out++ = (char)(0x80 | (rune & 0x3f));
	} else {
		*out++ = (char)(0xf0 | rune >> 18);
		*out++ = (char)(0x80 | (rune >> 12 & 0x3f));
		*out++ = (char)(0x80 | (rune >> 6 & 0x3f));
		*out++ = (char)(0x80 | (rune & 0x3f));
	}
	return out;
}

/* The number behind \x, \u, \U, or of \ooo, at *@at, which moves behind it. */
static int read_number(const char **at, uint32_t *ret_value, bool *ret_is_rune)
{
	char kind = **at;
	size_t digits = kind == 'x' ? 2 : kind == 'u' ? 4 : 8;

	*ret_is_rune = kind == 'u' || kind == 'U';
	if (kind >= '0' && kind <= '3') {
		if (strspn(*at, "01234567") < 3)
			return -1;
		*ret_value = (uint32_t)(((*at)[0] - '0') << 6 | ((*at)[1] - '0') << 3 |
					((*at)[2] - '0'));
		*at += 3;
		return 0;
	}
	if (!strchr("xuU", kind) || hex_value(*at + 1, digits, ret_value))
		return -1;
	*at += 1 + digits;
	return 0;
}

/* An escape of a Go string, at the byte behind the backslash. Never longer than what it stands for. */
static char *read_escape(const char **at, char *out)
{
	static const char letters[] = "abfnrtv\\\"", bytes[] = "\a\b\f\n\r\t\v\\\"";
	const char *known = **at ? strchr(letters, **at) : NULL;
	uint32_t value = 0;
	bool is_rune;

	if (known) {
		*out++ = bytes[known - letters];
		(*at)++;
		return out;
	}
	if (!**at || read_number(at, &value, &is_rune) || !value)
		return NULL; /* NUL is in none of our texts */
	if (is_rune)
		return write_rune(out, value);
	*out++ = (char)value;
	return out;
}

/* In /…/ and |…| a backslash stands for itself, so that a pattern can be written plainly, but before
 * the delimiter. */
static int read_quoted(struct parser *parser, char **ret_text)
{
	char quote = *parser->at, *text = malloc(strlen(parser->at)), *out = text;
	const char *at = parser->at + 1;

	if (!text)
		return -ENOMEM;
	while (out && *at && *at != quote) {
		if (*at != '\\') {
			*out++ = *at++;
		} else if (quote == '"') {
			at++;
			out = read_escape(&at, out);
		} else {
			at += at[1] == quote;
			*out++ = *at++;
		}
	}
	if (!out || *at != quote) {
		parser->at = at;
		free(text);
		return refuse(parser,
			      out ? "a quoted text does not end" : "an escape is not one of Go's");
	}
	*out = '\0';
	parser->at = at + 1;
	*ret_text = text;
	return 0;
}

static int read_plain(struct parser *parser, size_t size, char **ret_text)
{
	*ret_text = strndup(parser->at, size);
	parser->at += size;
	return *ret_text ? 0 : -ENOMEM;
}

static int read_field(struct parser *parser, struct selector *selector)
{
	char *text = NULL;
	size_t size = 0;
	int r;

	skip_space(parser);
	while (isalnum((uint8_t)parser->at[size]) || parser->at[size] == '_')
		size++;
	if (*parser->at == '"')
		r = read_quoted(parser, &text);
	else if (size)
		r = read_plain(parser, size, &text);
	else
		return refuse(
			parser,
			"a field is wanted here (others than letters, digits and _ in quotes)");
	if (!r && selector->path.count >= FIELDS_MAX)
		r = refuse(parser, "a path has more than %d fields", FIELDS_MAX);
	if (!r)
		r = schema_strs_add(&selector->path, text);
	free(text);
	skip_space(parser);
	return r;
}

static int read_path(struct parser *parser, struct selector *selector)
{
	int r = read_field(parser, selector);

	while (!r && *parser->at == '.') {
		parser->at++;
		r = read_field(parser, selector);
	}
	return r;
}

static int read_operator(struct parser *parser, struct selector *selector)
{
	static const char *const texts[] = {
		[IS_EQUAL] = "==", [IS_NOT_EQUAL] = "!=", [MATCHES] = "~="};

	if (!*parser->at || *parser->at == ',')
		return 0;
	for (unsigned i = IS_EQUAL; i <= MATCHES; i++) {
		if (!strncmp(parser->at, texts[i], 2)) {
			selector->comparison = i;
			parser->at += 2;
			skip_space(parser);
			return 0;
		}
	}
	return refuse(parser, "==, !=, ~= or , is wanted here");
}

static int compile(struct parser *parser, struct selector *selector)
{
	const char *problem;

	if (parser->filter->n_regexes++ >= REGEXES_MAX)
		return refuse(parser, "there are more than %d regular expressions", REGEXES_MAX);
	selector->regex = regex_new(selector->value, &problem);
	if (selector->regex)
		return 0;
	return problem ? refuse(parser, "the regular expression before this %s", problem) : -ENOMEM;
}

static int read_value(struct parser *parser, struct selector *selector)
{
	size_t size = strcspn(parser->at, " \t\n\r\f\v,");
	int r;

	if (*parser->at == '"' ||
	    (selector->comparison == MATCHES && strchr("/|", *parser->at) && *parser->at))
		r = read_quoted(parser, &selector->value);
	else if (size)
		r = read_plain(parser, size, &selector->value);
	else
		return refuse(parser, "a value is wanted here");
	if (!r && selector->comparison == MATCHES)
		r = compile(parser, selector);
	skip_space(parser);
	return r;
}

static int read_selector(struct parser *parser)
{
	struct filter *filter = parser->filter;
	struct selector *selector;
	int r;

	if (filter->n_selectors >= SELECTORS_MAX)
		return refuse(parser, "there are more than %d selectors", SELECTORS_MAX);
	selector = schema_list_grow((void **)&filter->selectors, &filter->n_selectors,
				    sizeof(*selector));
	if (!selector)
		return -ENOMEM;
	selector->alternative = parser->number;
	r = read_path(parser, selector) ?: read_operator(parser, selector);
	if (!r && selector->comparison != IS_PRESENT)
		r = read_value(parser, selector);
	if (!r && *parser->at && *parser->at != ',')
		r = refuse(parser, "the end or , is wanted here");
	return r;
}

static int read_filter(struct parser *parser)
{
	int r;

	if (strlen(parser->text) > FILTER_MAX)
		return refuse(parser, "it is longer than %d bytes", FILTER_MAX);
	skip_space(parser);
	if (!*parser->at) {
		parser->filter->matches_all = true;
		return 0;
	}
	r = read_selector(parser);
	while (!r && *parser->at == ',') {
		parser->at++;
		r = read_selector(parser);
	}
	return r;
}

int filter_parse(const struct schema_strs *filters, struct filter **ret_filter,
		 struct schema_fault *fault)
{
	struct filter *filter = calloc(1, sizeof(*filter));
	struct parser parser = {.filter = filter, .text = "", .at = "", .fault = fault};
	int r = 0;

	if (!filter)
		return -ENOMEM;
	parser.at = parser.text;
	parser.number = filters->count;
	if (filters->count > FILTERS_MAX)
		r = refuse(&parser, "there are more than %d filters", FILTERS_MAX);
	for (size_t i = 0; !r && i < filters->count; i++) {
		parser.text = parser.at = filters->items[i];
		parser.number = i + 1;
		r = read_filter(&parser);
	}
	filter->n_alternatives = filters->count;
	if (r)
		filter_free(filter);
	else
		*ret_filter = filter;
	return r;
}

/* ---- matching ------------------------------------------------------------------ */

static bool selector_matches(const struct selector *selector, filter_field_fn field, void *userdata)
{
	char scratch[256];
	const char *text = field(userdata, (const char *const *)selector->path.items,
				 selector->path.count, scratch);

	switch (selector->comparison) {
	case IS_PRESENT:
		return text;
	case IS_EQUAL:
		return text && !strcmp(text, selector->value);
	case IS_NOT_EQUAL:
		return strcmp(text ?: "", selector->value) != 0;
	case MATCHES:
		return regex_search(selector->regex, text ?: "");
	}
	return false;
}

bool filter_match(const struct filter *filter, filter_field_fn field, void *userdata)
{
	size_t i = 0;

	if (filter_is_empty(filter))
		return true;
	while (i < filter->n_selectors) {
		size_t alternative = filter->selectors[i].alternative;
		bool matches = true;

		for (; i < filter->n_selectors && filter->selectors[i].alternative == alternative;
		     i++)
			matches = matches &&
				  selector_matches(&filter->selectors[i], field, userdata);
		if (matches)
			return true;
	}
	return false;
}
