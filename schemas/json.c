/*
 * Messages as JSON: see json.h. Out of a message the table is walked; into one
 * the JSON is transcribed to msgpack and schema_unpack() judges it, so that
 * limits, types and required fields are checked in one place only.
 *
 * JSON numbers here are signed 64 bits: larger U64 values travel as decimal text.
 */

#include <errno.h>
#include <msgpack.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "schemas/json.h"
#include "schemas/json_internal.h"

__attribute__((format(printf, 5, 6))) int json_fail(struct schema_fault *fault, int code,
						    const struct schema_message *schema,
						    const char *key, const char *format, ...)
{
	char text[128];
	va_list args;

	if (!fault)
		return code;
	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	snprintf(fault->text, sizeof(fault->text), "%s.%.64s %s", schema->name, key, text);
	return code;
}

/* ---- out of a message ------------------------------------------------------ */

json_t *json_hex(const void *data, size_t size)
{
	static const char digits[] = "0123456789abcdef";
	char *text = malloc(2 * size + 1);
	json_t *json;

	if (!text)
		return NULL;
	for (size_t i = 0; i < size; i++) {
		text[2 * i] = digits[((const uint8_t *)data)[i] >> 4];
		text[2 * i + 1] = digits[((const uint8_t *)data)[i] & 15];
	}
	json = json_stringn_nocheck(text, 2 * size);
	free(text);
	return json;
}

json_t *json_unsigned(uint64_t value)
{
	char text[24];

	if (value <= INT64_MAX)
		return json_integer((json_int_t)value);
	snprintf(text, sizeof(text), "%llu", (unsigned long long)value);
	return json_string(text);
}

static json_t *from_strs(const struct schema_strs *strs)
{
	json_auto_t *array = json_array();

	for (size_t i = 0; i < strs->count; i++) {
		if (json_array_append_new(array, json_string(strs->items[i])))
			return NULL;
	}
	return json_incref(array);
}

static json_t *from_map(const struct schema_map *map)
{
	json_auto_t *object = json_object();

	for (size_t i = 0; i < map->count; i++) {
		if (json_object_set_new(object, map->items[i].key,
					json_string(map->items[i].value)))
			return NULL;
	}
	return json_incref(object);
}

static json_t *from_list(const struct schema_message *of, const char *items, size_t count)
{
	json_auto_t *array = json_array();

	for (size_t i = 0; i < count; i++) {
		if (json_array_append_new(array, json_from_message(of, items + i * of->size)))
			return NULL;
	}
	return json_incref(array);
}

static json_t *from_raw(const struct schema_bytes *bytes)
{
	if (schema_scan(bytes->data, bytes->size, SCHEMA_NODES_MAX))
		return json_null();
	return json_from_msgpack(bytes->data, bytes->size);
}

/* Those whose absence shows in the member. */
static bool is_absent(const struct schema_field *field, const void *member)
{
	switch (field->kind) {
	case SCHEMA_STR:
	case SCHEMA_ITEM:
		return !*(void *const *)member;
	case SCHEMA_BYTES:
	case SCHEMA_RAW:
		return !((const struct schema_bytes *)member)->size && !field->required;
	case SCHEMA_STRS:
	case SCHEMA_MAP:
	case SCHEMA_LIST: /* all three start alike: items, count */
		return !((const struct schema_strs *)member)->count && !field->required;
	case SCHEMA_U64:
	case SCHEMA_I64:
	case SCHEMA_BOOL:
	case SCHEMA_ENUM:
		return false;
	}
	return true;
}

static json_t *from_field(const struct schema_field *field, const void *member)
{
	const struct schema_strs *list = member;
	const struct schema_bytes *bytes = member;

	switch (field->kind) {
	case SCHEMA_STR:
		return json_string(*(char *const *)member);
	case SCHEMA_STRS:
		return from_strs(member);
	case SCHEMA_BYTES:
		return json_hex(bytes->data, bytes->size);
	case SCHEMA_RAW:
		return from_raw(bytes);
	case SCHEMA_U64:
		return json_unsigned(*(const uint64_t *)member);
	case SCHEMA_I64:
		return json_integer(*(const int64_t *)member);
	case SCHEMA_BOOL:
		return json_boolean(*(const bool *)member);
	case SCHEMA_MAP:
		return from_map(member);
	case SCHEMA_ENUM:
		return json_string(schema_enum_text(field->values, *(const unsigned *)member));
	case SCHEMA_ITEM:
		return json_from_message(field->of(), *(void *const *)member);
	case SCHEMA_LIST:
		return from_list(field->of(), (const char *)list->items, list->count);
	}
	return NULL;
}

json_t *json_from_message(const struct schema_message *schema, const void *message)
{
	json_auto_t *object = json_object();

	for (size_t i = 0; i < schema->n_fields; i++) {
		const struct schema_field *field = &schema->fields[i];
		const void *member = (const char *)message + field->offset;

		if (is_absent(field, member))
			continue;
		if (json_object_set_new(object, field->name, from_field(field, member)))
			return NULL;
	}
	return json_incref(object);
}

/* ---- into a message -------------------------------------------------------- */

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

static int write_hex(const struct schema_message *schema, const struct schema_field *field,
		     const json_t *json, msgpack_packer *packer, struct schema_fault *fault)
{
	size_t size = json_string_length(json);
	const char *text = json_string_value(json);
	int r;

	if (!text || size % 2 || strspn(text, "0123456789abcdefABCDEF") != size)
		return json_fail(fault, SCHEMA_E_VALUE, schema, field->name,
				 "is not text of pairs of hex digits");
	r = msgpack_pack_bin(packer, size / 2);
	for (size_t i = 0; !r && i < size; i += 2) {
		char byte = (char)(hex_digit(text[i]) << 4 | hex_digit(text[i + 1]));

		r = msgpack_pack_bin_body(packer, &byte, 1);
	}
	return r;
}

/* A number, or its decimal text. */
static int write_unsigned(const json_t *json, msgpack_packer *packer)
{
	const char *text = json_string_value(json);
	unsigned long long value;
	char *end;

	if (!text || strspn(text, "0123456789") != json_string_length(json) || !*text)
		return json_write_msgpack(json, packer, 0);
	errno = 0;
	value = strtoull(text, &end, 10);
	return errno ? json_write_msgpack(json, packer, 0) : msgpack_pack_uint64(packer, value);
}

static int write_message(const struct schema_message *schema, const json_t *json,
			 msgpack_packer *packer, struct schema_fault *fault);

static int write_list(const struct schema_message *of, const json_t *json, msgpack_packer *packer,
		      struct schema_fault *fault)
{
	int r;

	if (!json_is_array(json))
		return json_write_msgpack(json, packer, 0);
	r = msgpack_pack_array(packer, json_array_size(json));
	for (size_t i = 0; !r && i < json_array_size(json); i++)
		r = write_message(of, json_array_get(json, i), packer, fault);
	return r;
}

static int write_field(const struct schema_message *schema, const struct schema_field *field,
		       const json_t *json, msgpack_packer *packer, struct schema_fault *fault)
{
	if (json_is_null(json) && field->kind != SCHEMA_RAW)
		return msgpack_pack_nil(packer);
	switch (field->kind) {
	case SCHEMA_BYTES:
		return write_hex(schema, field, json, packer, fault);
	case SCHEMA_U64:
		return write_unsigned(json, packer);
	case SCHEMA_ITEM:
		return write_message(field->of(), json, packer, fault);
	case SCHEMA_LIST:
		return write_list(field->of(), json, packer, fault);
	case SCHEMA_STR:
	case SCHEMA_STRS:
	case SCHEMA_I64:
	case SCHEMA_BOOL:
	case SCHEMA_MAP:
	case SCHEMA_RAW:
	case SCHEMA_ENUM:
		break;
	}
	return json_write_msgpack(json, packer, 0);
}

static int write_message(const struct schema_message *schema, const json_t *json,
			 msgpack_packer *packer, struct schema_fault *fault)
{
	const char *key;
	json_t *value;
	int r;

	if (!json_is_object(json))
		return json_write_msgpack(json, packer, 0);
	r = msgpack_pack_map(packer, json_object_size(json));
	json_object_foreach((json_t *)json, key, value)
	{
		const struct schema_field *field = schema_find_field(schema, key);

		if (r)
			return r;
		if (!field)
			return json_fail(fault, SCHEMA_E_VALUE, schema, key, "is not a field");
		r = msgpack_pack_str(packer, strlen(key))
		    ?: msgpack_pack_str_body(packer, key, strlen(key))
		    ?: write_field(schema, field, value, packer, fault);
	}
	return r;
}

int json_to_message(const struct schema_message *schema, const json_t *json, void *ret_message,
		    struct schema_fault *fault)
{
	__attribute__((cleanup(schema_buffer_clear))) struct schema_buffer buffer = {};
	msgpack_packer packer;
	int r;

	if (fault)
		fault->text[0] = '\0';
	msgpack_packer_init(&packer, &buffer, json_write_buffer);
	r = write_message(schema, json, &packer, fault);
	if (r == SCHEMA_E_LIMIT && fault)
		snprintf(fault->text, sizeof(fault->text), "%s is nested too deep", schema->name);
	return r ?: schema_unpack(schema, buffer.data, buffer.size, ret_message, fault);
}
