/*
 * Hostile JSON text: see json.h. A first pass over the text bounds what jansson
 * would allocate for it and how deep it, and all who walk its result, would
 * recurse; jansson does the rest.
 */

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
		return NULL;
	}
	json = json_loadb(text, size, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &error);
	if (!json)
		report(fault, &error);
	return json;
}
