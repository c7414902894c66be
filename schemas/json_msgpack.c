/* Any msgpack as JSON and back: see json.h. */

#include <errno.h>
#include <math.h>
#include <string.h>

#include "schemas/json.h"
#include "schemas/json_internal.h"

#define TWO_TO_63 9223372036854775808.0

/* ---- msgpack to JSON ------------------------------------------------------- */

static json_t *from_object(const msgpack_object *object);

/* Text that is not UTF-8 is shown as a byte string is. msgpack-c points nowhere when it is empty. */
static json_t *from_text(const char *text, size_t size)
{
	json_t *json = json_stringn(text ?: "", size);

	return json || schema_is_text(text, size) ? json : json_hex(text, size);
}

static json_t *from_array(const msgpack_object_array *array)
{
	json_auto_t *json = json_array();

	for (size_t i = 0; i < array->size; i++) {
		if (json_array_append_new(json, from_object(&array->ptr[i])))
			return NULL;
	}
	return json_incref(json);
}

/* JSON knows only text as a key: text without NUL as it is, all else as its JSON. */
static char *key_of(const msgpack_object *object)
{
	json_auto_t *json = from_object(object);
	const char *text = json_string_value(json);

	if (text && strlen(text) == json_string_length(json))
		return strdup(text);
	return json ? json_dumps(json, JSON_ENCODE_ANY | JSON_COMPACT) : NULL;
}

static json_t *from_map(const msgpack_object_map *map)
{
	json_auto_t *json = json_object();

	for (size_t i = 0; i < map->size; i++) {
		char *key = key_of(&map->ptr[i].key);
		int r = key ? json_object_set_new(json, key, from_object(&map->ptr[i].val)) : -1;

		free(key);
		if (r)
			return NULL;
	}
	return json_incref(json);
}

static json_t *from_object(const msgpack_object *object)
{
	switch (object->type) {
	case MSGPACK_OBJECT_BOOLEAN:
		return json_boolean(object->via.boolean);
	case MSGPACK_OBJECT_POSITIVE_INTEGER:
		return json_unsigned(object->via.u64);
	case MSGPACK_OBJECT_NEGATIVE_INTEGER:
		return json_integer(object->via.i64);
	case MSGPACK_OBJECT_FLOAT32:
	case MSGPACK_OBJECT_FLOAT64: /* JSON has no infinity and no NaN */
		return isfinite(object->via.f64) ? json_real(object->via.f64) : json_null();
	case MSGPACK_OBJECT_STR:
		return from_text(object->via.str.ptr, object->via.str.size);
	case MSGPACK_OBJECT_BIN:
		return json_hex(object->via.bin.ptr, object->via.bin.size);
	case MSGPACK_OBJECT_ARRAY:
		return from_array(&object->via.array);
	case MSGPACK_OBJECT_MAP:
		return from_map(&object->via.map);
	case MSGPACK_OBJECT_NIL:
	case MSGPACK_OBJECT_EXT:
		break;
	}
	return json_null();
}

json_t *json_from_msgpack(const void *data, size_t size)
{
	msgpack_unpacked unpacked;
	json_t *json = NULL;
	size_t offset = 0;

	if (schema_scan(data, size, SCHEMA_NODES_MAX))
		return NULL;
	msgpack_unpacked_init(&unpacked);
	if (msgpack_unpack_next(&unpacked, data, size, &offset) == MSGPACK_UNPACK_SUCCESS)
		json = from_object(&unpacked.data);
	msgpack_unpacked_destroy(&unpacked);
	return json;
}

/* ---- JSON to msgpack ------------------------------------------------------- */

int json_write_buffer(void *data, const char *bytes, size_t size)
{
	return schema_buffer_add(data, bytes, size);
}

static int write_real(double value, msgpack_packer *packer)
{
	if (value > -TWO_TO_63 && value < TWO_TO_63 && value == (double)(int64_t)value)
		return msgpack_pack_int64(packer, (int64_t)value);
	return msgpack_pack_double(packer, value);
}

static int write_text(const char *text, size_t size, msgpack_packer *packer)
{
	return msgpack_pack_str(packer, size) ?: msgpack_pack_str_body(packer, text, size);
}

static int write_array(const json_t *json, msgpack_packer *packer, unsigned depth)
{
	int r = msgpack_pack_array(packer, json_array_size(json));

	for (size_t i = 0; !r && i < json_array_size(json); i++)
		r = json_write_msgpack(json_array_get(json, i), packer, depth + 1);
	return r;
}

static int write_object(const json_t *json, msgpack_packer *packer, unsigned depth)
{
	int r = msgpack_pack_map(packer, json_object_size(json));
	const char *key;
	json_t *value;

	json_object_foreach((json_t *)json, key, value)
	{
		r = r ?: write_text(key, strlen(key), packer) ?: json_write_msgpack(value, packer, depth + 1);
	}
	return r;
}

int json_write_msgpack(const json_t *json, msgpack_packer *packer, unsigned depth)
{
	if (depth > SCHEMA_DEPTH_MAX)
		return SCHEMA_E_LIMIT;
	switch (json_typeof(json)) {
	case JSON_OBJECT:
		return write_object(json, packer, depth);
	case JSON_ARRAY:
		return write_array(json, packer, depth);
	case JSON_STRING:
		return write_text(json_string_value(json), json_string_length(json), packer);
	case JSON_INTEGER:
		return msgpack_pack_int64(packer, json_integer_value(json));
	case JSON_REAL:
		return write_real(json_real_value(json), packer);
	case JSON_TRUE:
		return msgpack_pack_true(packer);
	case JSON_FALSE:
		return msgpack_pack_false(packer);
	case JSON_NULL:
		break;
	}
	return msgpack_pack_nil(packer);
}

int json_to_msgpack(const json_t *json, struct schema_buffer *buffer)
{
	size_t before = buffer->size;
	msgpack_packer packer;
	int r;

	msgpack_packer_init(&packer, buffer, json_write_buffer);
	r = json_write_msgpack(json, &packer, 0);
	if (r)
		buffer->size = before;
	return r;
}
