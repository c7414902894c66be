/*
 * Hostile JSON text: see json.h. A first pass over the text bounds what jansson
 * would allocate for it and how deep it, and all who walk its result, would
 * recurse; jansson does the rest.
 */

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "schemas/json.h"

#define DEPTH_MAX  64
#define VALUES_MAX 131072

/* NULL, or what is wrong. Inside strings nothing counts; broken text is left to jansson. */
static const char *measure(const char *text, size_t size)
{
	size_t depth = 0, values = 0;
	bool in_string = false;

	for (size_t i = 0; i < size; i++) {
		char c = text[i];

		if (in_string) {
			i += c == '\\';
			in_string = c != '"';
		} else if (c == '"') {
			in_string = true;
		} else if (c == '[' || c == '{') {
			values++;
			if (++depth > DEPTH_MAX)
				return "nested too deep";
		} else if (c == ']' || c == '}') {
			depth -= depth > 0;
		} else if (c == ',') {
			values++;
		}
		if (values > VALUES_MAX)
			return "too many values";
	}
	return NULL;
}

/* The parser quotes the text: keep what a terminal or a log line can show. */
static void report(struct schema_fault *fault, const json_error_t *error)
{
	if (!fault)
		return;
	snprintf(fault->text, sizeof(fault->text), "line %d: %s", error->line > 0 ? error->line : 1,
		 error->text);
	for (char *c = fault->text; *c; c++) {
		if (*c < ' ' || *c > '~')
			*c = '?';
	}
}

/* jansson calls a token invalid that it has no memory for: what its allocations say is kept here. */
static __thread bool is_out_of_memory;
static json_malloc_t inner_malloc;

static void *allocate(size_t size)
{
	void *memory = inner_malloc(size);

	is_out_of_memory = is_out_of_memory || !memory;
	return memory;
}

static void watch_allocations(void)
{
	json_malloc_t set_malloc;
	json_free_t set_free;

	json_get_alloc_funcs(&set_malloc, &set_free);
	if (set_malloc != allocate) {
		inner_malloc = set_malloc;
		json_set_alloc_funcs(allocate, set_free);
	}
	is_out_of_memory = false;
}

json_t *json_parse(const char *text, size_t size, size_t max_size, struct schema_fault *fault)
{
	const char *problem;
	json_error_t error;
	json_t *json;

	problem = size > max_size ? "too large" : measure(text, size);
	if (problem) {
		if (fault)
			snprintf(fault->text, sizeof(fault->text), "JSON document of %zu bytes: %s",
				 size, problem);
		errno = EINVAL;
		return NULL;
	}
	watch_allocations();
	json = json_loadb(text, size, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &error);
	if (json)
		return json;
	report(fault, &error);
	if (fault && is_out_of_memory)
		snprintf(fault->text, sizeof(fault->text), "out of memory");
	errno = is_out_of_memory ? ENOMEM : EINVAL;
	return NULL;
}
