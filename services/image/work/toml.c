/* A strict part of TOML: see toml.h. */

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "services/image/work/toml.h"

struct toml {
	const char *at, *end;
	unsigned line;
	unsigned n_keys;
	json_t *root, *table; /* borrowed: into the result */
	struct why *why;
};

static void cleanup_json(json_t **json)
{
	json_decref(*json);
}

static int __attribute__((format(printf, 2, 3))) refuse(struct toml *toml, const char *format, ...)
{
	char text[128];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	return why_set(toml->why, TOML_E_INVALID, "line %u: %s", toml->line, text);
}

/* ---- characters ---- */

static char peek(const struct toml *toml)
{
	return toml->at < toml->end ? *toml->at : '\0';
}

static void skip_blanks(struct toml *toml)
{
	while (peek(toml) == ' ' || peek(toml) == '\t')
		toml->at++;
}

static void skip_comment(struct toml *toml)
{
	skip_blanks(toml);
	if (peek(toml) != '#')
		return;
	while (toml->at < toml->end && *toml->at != '\n')
		toml->at++;
}

static bool take_newline(struct toml *toml)
{
	if (peek(toml) == '\r' && toml->at + 1 < toml->end && toml->at[1] == '\n')
		toml->at++;
	if (peek(toml) != '\n')
		return false;
	toml->at++;
	toml->line++;
	return true;
}

/* Blanks, comments and line ends. */
static void skip_lines(struct toml *toml)
{
	do
		skip_comment(toml);
	while (take_newline(toml));
}

static int end_line(struct toml *toml)
{
	skip_comment(toml);
	if (toml->at == toml->end || take_newline(toml))
		return 0;
	return refuse(toml, "something follows where the line should end");
}

/* ---- strings ---- */

static int add_code_point(struct toml *toml, unsigned n_digits, struct schema_buffer *text)
{
	uint8_t bytes[4];
	uint32_t code = 0;
	size_t size;

	for (unsigned i = 0; i < n_digits; i++) {
		static const char digits[] = "0123456789abcdef";
		char c = peek(toml);
		const char *digit = c ? strchr(digits, c >= 'A' && c <= 'F' ? c + 32 : c) : NULL;

		if (!digit)
			return refuse(toml, "a bad escape in a string");
		code = code << 4 | (uint32_t)(digit - digits);
		toml->at++;
	}
	if (!code || code > 0x10ffff || (code >= 0xd800 && code < 0xe000))
		return refuse(toml, "an escape in a string is no character");
	if (code < 0x80) {
		bytes[0] = (uint8_t)code;
		size = 1;
	} else if (code < 0x800) {
		bytes[0] = (uint8_t)(0xc0 | code >> 6);
		bytes[1] = (uint8_t)(0x80 | (code & 0x3f));
		size = 2;
	} else if (code < 0x10000) {
		bytes[0] = (uint8_t)(0xe0 | code >> 12);
		bytes[1] = (uint8_t)(0x80 | (code >> 6 & 0x3f));
		bytes[2] = (uint8_t)(0x80 | (code & 0x3f));
		size = 3;
	} else {
		bytes[0] = (uint8_t)(0xf0 | code >> 18);
		bytes[1] = (uint8_t)(0x80 | (code >> 12 & 0x3f));
		bytes[2] = (uint8_t)(0x80 | (code >> 6 & 0x3f));
		bytes[3] = (uint8_t)(0x80 | (code & 0x3f));
		size = 4;
	}
	return schema_buffer_add(text, bytes, size);
}

static int add_escape(struct toml *toml, struct schema_buffer *text)
{
	static const char names[] = "btnfr\"\\", values[] = "\b\t\n\f\r\"\\";
	char c = peek(toml);
	const char *name = c ? strchr(names, c) : NULL;

	toml->at += toml->at < toml->end;
	if (name)
		return schema_buffer_add(text, &values[name - names], 1);
	if (c == 'u')
		return add_code_point(toml, 4, text);
	if (c == 'U')
		return add_code_point(toml, 8, text);
	return refuse(toml, "a bad escape in a string");
}

/* "basic" or 'literal', on one line. NUL-terminated in @text. */
static int take_string(struct toml *toml, struct schema_buffer *text)
{
	char quote = *toml->at++;
	int r = 0;

	if (toml->end - toml->at >= 2 && toml->at[0] == quote && toml->at[1] == quote)
		return refuse(toml, "strings of several lines are not supported");
	while (!r) {
		char c = peek(toml);

		if (toml->at == toml->end || c == '\n' || c == '\r')
			return refuse(toml, "a string does not end");
		toml->at++;
		if (c == quote)
			break;
		if ((unsigned char)c < ' ' && c != '\t')
			return refuse(toml, "a control character in a string");
		r = c == '\\' && quote == '"' ? add_escape(toml, text)
					      : schema_buffer_add(text, &c, 1);
	}
	if (r)
		return r;
	if (!schema_is_text((const char *)text->data, text->size))
		return refuse(toml, "a string is not UTF-8");
	return schema_buffer_add(text, "", 1);
}

/* ---- values ---- */

static int take_value(struct toml *toml, unsigned depth, json_t **ret_value);

static int take_list(struct toml *toml, unsigned depth, json_t **ret_value)
{
	_cleanup_(cleanup_json) json_t *list = json_array();

	if (!list)
		return error_origin(-ENOMEM);
	if (depth == TOML_DEPTH_MAX)
		return refuse(toml, "lists are nested more than %d deep", TOML_DEPTH_MAX);
	toml->at++;
	for (;;) {
		json_t *value;
		int r;

		skip_lines(toml);
		if (peek(toml) == ']')
			break;
		r = take_value(toml, depth + 1, &value);
		if (r)
			return r;
		if (json_array_append_new(list, value))
			return error_origin(-ENOMEM);
		if (++toml->n_keys > TOML_KEYS_MAX)
			return refuse(toml, "more than %d keys and values", TOML_KEYS_MAX);
		skip_lines(toml);
		if (peek(toml) == ',')
			toml->at++;
		else if (peek(toml) != ']')
			return refuse(toml, "a list does not end");
	}
	toml->at++;
	*ret_value = TAKE(list);
	return 0;
}

static int take_number(struct toml *toml, json_t **ret_value)
{
	bool is_negative = peek(toml) == '-';
	uint64_t value = 0;
	unsigned n = 0;

	toml->at += is_negative || peek(toml) == '+';
	for (; peek(toml) >= '0' && peek(toml) <= '9' && n < 19; n++, toml->at++)
		value = value * 10 + (uint64_t)(*toml->at - '0');
	if (!n || n > 18 || (peek(toml) && strchr("._eExob:-", peek(toml))))
		return refuse(toml,
			      "only whole decimal numbers of at most 18 digits are supported");
	*ret_value = json_integer(is_negative ? -(json_int_t)value : (json_int_t)value);
	return *ret_value ? 0 : error_origin(-ENOMEM);
}

static bool take_word(struct toml *toml, const char *word)
{
	size_t size = strlen(word);

	if ((size_t)(toml->end - toml->at) < size || memcmp(toml->at, word, size))
		return false;
	toml->at += size;
	return true;
}

static int take_value(struct toml *toml, unsigned depth, json_t **ret_value)
{
	_cleanup_(schema_buffer_clear) struct schema_buffer text = {};
	char c = peek(toml);
	int r;

	if (c == '"' || c == '\'') {
		r = take_string(toml, &text);
		*ret_value = r ? NULL : json_string((const char *)text.data);
		return r ?: *ret_value ? r : error_origin(-ENOMEM);
	}
	if (c == '[')
		return take_list(toml, depth, ret_value);
	if (c == '{')
		return refuse(toml, "inline tables are not supported: write a [table]");
	if (c == '+' || c == '-' || (c >= '0' && c <= '9'))
		return take_number(toml, ret_value);
	if (take_word(toml, "true"))
		*ret_value = json_true();
	else if (take_word(toml, "false"))
		*ret_value = json_false();
	else
		return refuse(toml, "a value is missing or of an unknown kind");
	return 0;
}

/* ---- keys and tables ---- */

static bool is_bare(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
	       c == '_' || c == '-';
}

static int take_key(struct toml *toml, struct schema_buffer *key)
{
	int r;

	skip_blanks(toml);
	if (peek(toml) == '"' || peek(toml) == '\'')
		return take_string(toml, key);
	while (is_bare(peek(toml))) {
		r = schema_buffer_add(key, toml->at++, 1);
		if (r)
			return r;
	}
	if (!key->size)
		return refuse(toml, "a key is missing");
	return schema_buffer_add(key, "", 1);
}

/* The table @key of @table, made if need be. */
static int enter(struct toml *toml, json_t **table, const char *key)
{
	json_t *inner = json_object_get(*table, key);

	if (!inner) {
		inner = json_object();
		if (!inner || json_object_set_new(*table, key, inner))
			return error_origin(-ENOMEM);
	}
	if (!json_is_object(inner))
		return refuse(toml, "'%.64s' is a value already", key);
	*table = inner;
	return 0;
}

/* a.b.c: enters all but the last, which is left in @key. */
static int take_path(struct toml *toml, json_t **table, struct schema_buffer *key)
{
	int r;

	for (unsigned depth = 0;; depth++) {
		key->size = 0;
		r = take_key(toml, key);
		if (r)
			return r;
		if (++toml->n_keys > TOML_KEYS_MAX)
			return refuse(toml, "more than %d keys and values", TOML_KEYS_MAX);
		skip_blanks(toml);
		if (peek(toml) != '.')
			return 0;
		if (depth == TOML_DEPTH_MAX)
			return refuse(toml, "keys are nested more than %d deep", TOML_DEPTH_MAX);
		toml->at++;
		r = enter(toml, table, (const char *)key->data);
		if (r)
			return r;
	}
}

static int take_table(struct toml *toml)
{
	_cleanup_(schema_buffer_clear) struct schema_buffer key = {};
	json_t *table = toml->root;
	int r;

	toml->at++;
	if (peek(toml) == '[')
		return refuse(toml, "lists of tables are not supported");
	r = take_path(toml, &table, &key);
	if (r)
		return r;
	if (peek(toml) != ']')
		return refuse(toml, "']' is missing");
	toml->at++;
	r = enter(toml, &table, (const char *)key.data);
	if (r)
		return r;
	toml->table = table;
	return end_line(toml);
}

static int take_pair(struct toml *toml)
{
	_cleanup_(schema_buffer_clear) struct schema_buffer key = {};
	json_t *table = toml->table, *value;
	int r;

	r = take_path(toml, &table, &key);
	if (r)
		return r;
	if (peek(toml) != '=')
		return refuse(toml, "'=' is missing behind '%.64s'", (const char *)key.data);
	toml->at++;
	skip_blanks(toml);
	if (json_object_get(table, (const char *)key.data))
		return refuse(toml, "'%.64s' stands twice", (const char *)key.data);
	r = take_value(toml, 0, &value);
	if (r)
		return r;
	if (json_object_set_new(table, (const char *)key.data, value))
		return error_origin(-ENOMEM);
	return end_line(toml);
}

int toml_parse(const char *text, size_t size, json_t **ret_json, struct why *why)
{
	_cleanup_(cleanup_json) json_t *root = json_object();
	struct toml toml = {.at = text, .end = text + size, .line = 1, .why = why};
	int r = 0;

	if (!root)
		return error_origin(-ENOMEM);
	if (size > TOML_SIZE_MAX)
		return why_set(why, TOML_E_INVALID, "it has %zu bytes, more than %d", size,
			       TOML_SIZE_MAX);
	toml.root = toml.table = root;
	while (!r) {
		skip_lines(&toml);
		if (toml.at == toml.end)
			break;
		r = peek(&toml) == '[' ? take_table(&toml) : take_pair(&toml);
	}
	if (r)
		return r;
	*ret_json = TAKE(root);
	return 0;
}
