/* The codec: walks the constant tables of messages.c. See schema.h. */

#include <errno.h>
#include <msgpack.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "schemas/schema.h"

/* ---- faults -------------------------------------------------------------- */

__attribute__((format(printf, 4, 5))) static int fail(struct schema_fault *fault, int code,
						      const struct schema_field *field,
						      const char *format, ...)
{
	char text[128];
	va_list args;

	if (!fault || fault->text[0])
		return code;
	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	snprintf(fault->text, sizeof(fault->text), "%s%s%s", field ? field->name : "", field ? " " : "",
		 text);
	return code;
}

/* Puts the message's name in front: the innermost message names itself first. */
static int blame(struct schema_fault *fault, int r, const struct schema_message *schema)
{
	char text[SCHEMA_FAULT_SIZE + 128];

	if (r <= 0 || !fault)
		return r;
	snprintf(text, sizeof(text), "%s.%s", schema->name, fault->text);
	memcpy(fault->text, text, sizeof(fault->text) - 1);
	fault->text[sizeof(fault->text) - 1] = '\0';
	return r;
}

/* ---- buffer -------------------------------------------------------------- */

void schema_buffer_clear(struct schema_buffer *buffer)
{
	free(buffer->data);
	*buffer = (struct schema_buffer){};
}

int schema_buffer_add(struct schema_buffer *buffer, const void *data, size_t size)
{
	size_t capacity = buffer->capacity ?: 256;
	uint8_t *grown;

	if (size > SIZE_MAX / 2 - buffer->size)
		return -ENOMEM;
	while (capacity < buffer->size + size)
		capacity *= 2;
	if (capacity != buffer->capacity) {
		grown = realloc(buffer->data, capacity);
		if (!grown)
			return -ENOMEM;
		buffer->data = grown;
		buffer->capacity = capacity;
	}
	if (size)
		memcpy(buffer->data + buffer->size, data, size);
	buffer->size += size;
	return 0;
}

int schema_buffer_addf(struct schema_buffer *buffer, const char *format, ...)
{
	char *text = NULL;
	va_list args;
	int n, r;

	va_start(args, format);
	n = vasprintf(&text, format, args);
	va_end(args);
	if (n < 0)
		return -ENOMEM;
	r = schema_buffer_add(buffer, text, (size_t)n);
	free(text);
	return r;
}

static int write_buffer(void *data, const char *bytes, size_t size)
{
	return schema_buffer_add(data, bytes, size);
}

/* ---- small containers ---------------------------------------------------- */

void *schema_list_grow(void **items, size_t *count, size_t size)
{
	size_t capacity = *count ? 1 : 0;
	char *grown;

	while (capacity && capacity < *count)
		capacity *= 2;
	if (*count == capacity) { /* full at 0 and at each power of two */
		capacity = capacity ? capacity * 2 : 1;
		grown = reallocarray(*items, capacity, size);
		if (!grown)
			return NULL;
		*items = grown;
	}
	grown = (char *)*items + *count * size;
	memset(grown, 0, size);
	(*count)++;
	return grown;
}

int schema_set(char **member, const char *text)
{
	char *copy = NULL;

	if (text) {
		copy = strdup(text);
		if (!copy)
			return -ENOMEM;
	}
	free(*member);
	*member = copy;
	return 0;
}

int schema_strs_add(struct schema_strs *strs, const char *text)
{
	char *copy = strdup(text);
	char **item = copy ? schema_list_grow((void **)&strs->items, &strs->count, sizeof(char *)) : NULL;

	if (!item) {
		free(copy);
		return -ENOMEM;
	}
	*item = copy;
	return 0;
}

void schema_strs_clear(struct schema_strs *strs)
{
	for (size_t i = 0; i < strs->count; i++)
		free(strs->items[i]);
	free(strs->items);
	*strs = (struct schema_strs){};
}

int schema_strs_copy(const struct schema_strs *from, struct schema_strs *ret_strs)
{
	struct schema_strs copy = {};

	for (size_t i = 0; i < from->count; i++) {
		if (schema_strs_add(&copy, from->items[i])) {
			schema_strs_clear(&copy);
			return -ENOMEM;
		}
	}
	*ret_strs = copy;
	return 0;
}

static struct schema_pair *map_find(const struct schema_map *map, const char *key)
{
	for (size_t i = 0; i < map->count; i++) {
		if (!strcmp(map->items[i].key, key))
			return &map->items[i];
	}
	return NULL;
}

const char *schema_map_get(const struct schema_map *map, const char *key)
{
	const struct schema_pair *pair = map_find(map, key);

	return pair ? pair->value : NULL;
}

int schema_map_set(struct schema_map *map, const char *key, const char *value)
{
	struct schema_pair *pair = map_find(map, key);
	char *key_copy, *value_copy;

	if (pair)
		return schema_set(&pair->value, value);
	key_copy = strdup(key);
	value_copy = strdup(value);
	pair = key_copy && value_copy
		       ? schema_list_grow((void **)&map->items, &map->count, sizeof(*map->items))
		       : NULL;
	if (!pair) {
		free(key_copy);
		free(value_copy);
		return -ENOMEM;
	}
	*pair = (struct schema_pair){ .key = key_copy, .value = value_copy };
	return 0;
}

void schema_map_remove(struct schema_map *map, const char *key)
{
	struct schema_pair *pair = map_find(map, key);

	if (!pair)
		return;
	free(pair->key);
	free(pair->value);
	memmove(pair, pair + 1, (size_t)(map->items + map->count - (pair + 1)) * sizeof(*pair));
	map->count--;
}

void schema_map_clear(struct schema_map *map)
{
	for (size_t i = 0; i < map->count; i++) {
		free(map->items[i].key);
		free(map->items[i].value);
	}
	free(map->items);
	*map = (struct schema_map){};
}

int schema_map_copy(const struct schema_map *from, struct schema_map *ret_map)
{
	struct schema_map copy = {};

	for (size_t i = 0; i < from->count; i++) {
		if (schema_map_set(&copy, from->items[i].key, from->items[i].value)) {
			schema_map_clear(&copy);
			return -ENOMEM;
		}
	}
	*ret_map = copy;
	return 0;
}

int schema_bytes_set(struct schema_bytes *bytes, const void *data, size_t size)
{
	uint8_t *copy = malloc(size ?: 1);

	if (!copy)
		return -ENOMEM;
	if (size)
		memcpy(copy, data, size);
	free(bytes->data);
	*bytes = (struct schema_bytes){ .data = copy, .size = size };
	return 0;
}

void schema_bytes_clear(struct schema_bytes *bytes)
{
	free(bytes->data);
	*bytes = (struct schema_bytes){};
}

/* ---- look-ups ------------------------------------------------------------ */

const struct schema_field *schema_find_field(const struct schema_message *schema, const char *name)
{
	for (size_t i = 0; i < schema->n_fields; i++) {
		if (!strcmp(schema->fields[i].name, name))
			return &schema->fields[i];
	}
	return NULL;
}

const char *schema_enum_text(const struct schema_enum *values, unsigned value)
{
	return value < values->n_values ? values->values[value].text : "?";
}

int schema_enum_value(const struct schema_enum *values, const char *text)
{
	for (size_t i = 0; i < values->n_values; i++) {
		if (!strcmp(values->values[i].text, text))
			return (int)i;
	}
	return -1;
}

const struct schema_method *schema_find_method(const char *service, const char *name)
{
	for (size_t i = 0; i < schema_n_methods; i++) {
		if (!strcmp(schema_methods[i].service, service) && !strcmp(schema_methods[i].name, name))
			return &schema_methods[i];
	}
	return NULL;
}

const struct schema_event *schema_find_event(const char *topic)
{
	for (size_t i = 0; i < schema_n_events; i++) {
		if (!strcmp(schema_events[i].topic, topic))
			return &schema_events[i];
	}
	return NULL;
}

/* ---- clear --------------------------------------------------------------- */

/* The generic view of a LIST member. */
struct list {
	void *items;
	size_t count;
};

static void *member_of(const struct schema_field *field, const void *message)
{
	return (char *)message + field->offset;
}

static void clear_list(const struct schema_message *of, struct list *list)
{
	for (size_t i = 0; i < list->count; i++)
		schema_clear(of, (char *)list->items + i * of->size);
	free(list->items);
}

static void clear_item(const struct schema_message *of, void **item)
{
	if (*item)
		schema_clear(of, *item);
	free(*item);
}

static void clear_field(const struct schema_field *field, void *member)
{
	switch (field->kind) {
	case SCHEMA_STR:
		free(*(char **)member);
		break;
	case SCHEMA_STRS:
		schema_strs_clear(member);
		break;
	case SCHEMA_BYTES:
	case SCHEMA_RAW:
		schema_bytes_clear(member);
		break;
	case SCHEMA_MAP:
		schema_map_clear(member);
		break;
	case SCHEMA_ITEM:
		clear_item(field->of(), member);
		break;
	case SCHEMA_LIST:
		clear_list(field->of(), member);
		break;
	case SCHEMA_U64:
	case SCHEMA_I64:
	case SCHEMA_BOOL:
	case SCHEMA_ENUM:
		break;
	}
}

void schema_clear(const struct schema_message *schema, void *message)
{
	if (!message)
		return;
	for (size_t i = 0; i < schema->n_fields; i++)
		clear_field(&schema->fields[i], member_of(&schema->fields[i], message));
	memset(message, 0, schema->size);
}

/* ---- checks on both ways ------------------------------------------------- */

/* One UTF-8 sequence as RFC 3629 has it (no surrogates, no overlong forms); its length or 0. */
static size_t utf8_sequence(const uint8_t *p, size_t left)
{
	static const struct {
		uint8_t first, last, low, high; /* lead bytes; range of the second byte */
		size_t length;
	} forms[] = { { 0xc2, 0xdf, 0x80, 0xbf, 2 }, { 0xe0, 0xe0, 0xa0, 0xbf, 3 },
		      { 0xe1, 0xec, 0x80, 0xbf, 3 }, { 0xed, 0xed, 0x80, 0x9f, 3 },
		      { 0xee, 0xef, 0x80, 0xbf, 3 }, { 0xf0, 0xf0, 0x90, 0xbf, 4 },
		      { 0xf1, 0xf3, 0x80, 0xbf, 4 }, { 0xf4, 0xf4, 0x80, 0x8f, 4 } };

	if (p[0] < 0x80)
		return p[0] ? 1 : 0;
	for (size_t f = 0; f < sizeof(forms) / sizeof(forms[0]); f++) {
		if (p[0] < forms[f].first || p[0] > forms[f].last)
			continue;
		if (left < forms[f].length || p[1] < forms[f].low || p[1] > forms[f].high)
			return 0;
		for (size_t i = 2; i < forms[f].length; i++) {
			if ((p[i] & 0xc0) != 0x80)
				return 0;
		}
		return forms[f].length;
	}
	return 0;
}

bool schema_is_text(const char *text, size_t size)
{
	size_t n;

	for (size_t i = 0; i < size; i += n) {
		n = utf8_sequence((const uint8_t *)text + i, size - i);
		if (!n)
			return false;
	}
	return true;
}

static int check_text(const struct schema_field *field, const char *text, size_t size, uint64_t max,
		      struct schema_fault *fault)
{
	if (size > max)
		return fail(fault, SCHEMA_E_LIMIT, field, "is longer than %llu bytes",
			    (unsigned long long)max);
	if (!schema_is_text(text, size))
		return fail(fault, SCHEMA_E_VALUE, field, "is not UTF-8 text without NUL");
	return 0;
}

static int check_count(const struct schema_field *field, size_t count, struct schema_fault *fault)
{
	if (count > field->max)
		return fail(fault, SCHEMA_E_LIMIT, field, "has more than %llu items",
			    (unsigned long long)field->max);
	return 0;
}

static int check_pair(const struct schema_field *field, size_t key, size_t value, struct schema_fault *fault)
{
	if (key + value > SCHEMA_MAP_PAIR_MAX)
		return fail(fault, SCHEMA_E_LIMIT, field, "has a pair longer than %d bytes",
			    SCHEMA_MAP_PAIR_MAX);
	return 0;
}

static uint64_t magnitude(int64_t value)
{
	return value < 0 ? 0 - (uint64_t)value : (uint64_t)value;
}

static int check_number(const struct schema_field *field, uint64_t value, struct schema_fault *fault)
{
	if (value > field->max)
		return fail(fault, SCHEMA_E_LIMIT, field, "is over its limit of %llu",
			    (unsigned long long)field->max);
	return 0;
}

/* ---- pack ---------------------------------------------------------------- */

static int pack_message(const struct schema_message *schema, const void *message, msgpack_packer *packer,
			struct schema_fault *fault);

static bool is_present(const struct schema_field *field, const void *member)
{
	if (field->required)
		return true;
	switch (field->kind) {
	case SCHEMA_STR:
	case SCHEMA_ITEM:
		return *(void *const *)member;
	case SCHEMA_STRS:
		return ((const struct schema_strs *)member)->count;
	case SCHEMA_BYTES:
	case SCHEMA_RAW:
		return ((const struct schema_bytes *)member)->size;
	case SCHEMA_U64:
	case SCHEMA_I64:
		return *(const uint64_t *)member;
	case SCHEMA_BOOL:
		return *(const bool *)member;
	case SCHEMA_MAP:
		return ((const struct schema_map *)member)->count;
	case SCHEMA_ENUM:
		return *(const int *)member;
	case SCHEMA_LIST:
		return ((const struct list *)member)->count;
	}
	return true;
}

static int pack_text(const struct schema_field *field, const char *text, uint64_t max,
		     msgpack_packer *packer, struct schema_fault *fault)
{
	size_t size;
	int r;

	if (!text)
		return fail(fault, SCHEMA_E_MISSING, field, "is missing");
	size = strlen(text);
	r = check_text(field, text, size, max, fault);
	return r ?: msgpack_pack_str(packer, size) ?: msgpack_pack_str_body(packer, text, size);
}

static int pack_strs(const struct schema_field *field, const struct schema_strs *strs,
		     msgpack_packer *packer, struct schema_fault *fault)
{
	int r = check_count(field, strs->count, fault) ?: msgpack_pack_array(packer, strs->count);

	for (size_t i = 0; !r && i < strs->count; i++)
		r = pack_text(field, strs->items[i], SCHEMA_STRS_ITEM_MAX, packer, fault);
	return r;
}

static int pack_map(const struct schema_field *field, const struct schema_map *map, msgpack_packer *packer,
		    struct schema_fault *fault)
{
	int r = check_count(field, map->count, fault) ?: msgpack_pack_map(packer, map->count);

	for (size_t i = 0; !r && i < map->count; i++) {
		const struct schema_pair *pair = &map->items[i];

		r = check_pair(field, strlen(pair->key), pair->value ? strlen(pair->value) : 0, fault)
		    ?: pack_text(field, pair->key, SCHEMA_MAP_PAIR_MAX, packer, fault)
		    ?: pack_text(field, pair->value, SCHEMA_MAP_PAIR_MAX, packer, fault);
	}
	return r;
}

static int pack_bytes(const struct schema_field *field, const struct schema_bytes *bytes,
		      msgpack_packer *packer, struct schema_fault *fault)
{
	if (bytes->size > field->max)
		return fail(fault, SCHEMA_E_LIMIT, field, "is longer than %llu bytes",
			    (unsigned long long)field->max);
	return msgpack_pack_bin(packer, bytes->size)
	       ?: msgpack_pack_bin_body(packer, bytes->data ? (const void *)bytes->data : "", bytes->size);
}

static int pack_raw(const struct schema_field *field, const struct schema_bytes *bytes,
		    msgpack_packer *packer, struct schema_fault *fault)
{
	if (bytes->size > field->max)
		return fail(fault, SCHEMA_E_LIMIT, field, "is longer than %llu bytes",
			    (unsigned long long)field->max);
	if (schema_scan(bytes->data, bytes->size, SCHEMA_NODES_MAX))
		return fail(fault, SCHEMA_E_VALUE, field, "is not one msgpack value");
	return packer->callback(packer->data, (const char *)bytes->data, bytes->size);
}

static int pack_list(const struct schema_field *field, const struct list *list, msgpack_packer *packer,
		     struct schema_fault *fault)
{
	const struct schema_message *of = field->of();
	int r = check_count(field, list->count, fault) ?: msgpack_pack_array(packer, list->count);

	for (size_t i = 0; !r && i < list->count; i++)
		r = pack_message(of, (const char *)list->items + i * of->size, packer, fault);
	return r;
}

static int pack_enum(const struct schema_field *field, unsigned value, msgpack_packer *packer,
		     struct schema_fault *fault)
{
	if (value >= field->values->n_values)
		return fail(fault, SCHEMA_E_VALUE, field, "has the unknown value %u", value);
	return pack_text(field, field->values->values[value].text, UINT64_MAX, packer, fault);
}

static int pack_field(const struct schema_field *field, const void *member, msgpack_packer *packer,
		      struct schema_fault *fault)
{
	switch (field->kind) {
	case SCHEMA_STR:
		return pack_text(field, *(char *const *)member, field->max, packer, fault);
	case SCHEMA_STRS:
		return pack_strs(field, member, packer, fault);
	case SCHEMA_BYTES:
		return pack_bytes(field, member, packer, fault);
	case SCHEMA_RAW:
		return pack_raw(field, member, packer, fault);
	case SCHEMA_U64:
		return check_number(field, *(const uint64_t *)member, fault)
		       ?: msgpack_pack_uint64(packer, *(const uint64_t *)member);
	case SCHEMA_I64:
		return check_number(field, magnitude(*(const int64_t *)member), fault)
		       ?: msgpack_pack_int64(packer, *(const int64_t *)member);
	case SCHEMA_BOOL:
		return *(const bool *)member ? msgpack_pack_true(packer) : msgpack_pack_false(packer);
	case SCHEMA_MAP:
		return pack_map(field, member, packer, fault);
	case SCHEMA_ENUM:
		return pack_enum(field, *(const unsigned *)member, packer, fault);
	case SCHEMA_ITEM:
		if (!*(void *const *)member)
			return fail(fault, SCHEMA_E_MISSING, field, "is missing");
		return pack_message(field->of(), *(void *const *)member, packer, fault);
	case SCHEMA_LIST:
		return pack_list(field, member, packer, fault);
	}
	return -EINVAL;
}

static int pack_fields(const struct schema_message *schema, const void *message, msgpack_packer *packer,
		       struct schema_fault *fault)
{
	size_t present = 0;
	int r;

	for (size_t i = 0; i < schema->n_fields; i++)
		present += is_present(&schema->fields[i], member_of(&schema->fields[i], message));
	r = msgpack_pack_map(packer, present);
	for (size_t i = 0; !r && i < schema->n_fields; i++) {
		const struct schema_field *field = &schema->fields[i];
		const void *member = member_of(field, message);

		if (!is_present(field, member))
			continue;
		r = msgpack_pack_str(packer, strlen(field->name))
		    ?: msgpack_pack_str_body(packer, field->name, strlen(field->name))
		    ?: pack_field(field, member, packer, fault);
	}
	return r;
}

static int pack_message(const struct schema_message *schema, const void *message, msgpack_packer *packer,
			struct schema_fault *fault)
{
	return blame(fault, pack_fields(schema, message, packer, fault), schema);
}

int schema_pack(const struct schema_message *schema, const void *message, struct schema_buffer *buffer,
		struct schema_fault *fault)
{
	size_t before = buffer->size;
	msgpack_packer packer;
	int r;

	if (fault)
		fault->text[0] = '\0';
	msgpack_packer_init(&packer, buffer, write_buffer);
	r = pack_message(schema, message, &packer, fault);
	if (!r && buffer->size - before > SCHEMA_MESSAGE_MAX)
		r = fail(fault, SCHEMA_E_LIMIT, NULL, "%s is larger than %u bytes", schema->name,
			 SCHEMA_MESSAGE_MAX);
	if (r)
		buffer->size = before;
	return r;
}

/* ---- unpack -------------------------------------------------------------- */

static int unpack_message(const struct schema_message *schema, const msgpack_object *object, void *message,
			  struct schema_fault *fault);

static int wrong_type(const struct schema_field *field, const char *want, struct schema_fault *fault)
{
	return fail(fault, SCHEMA_E_TYPE, field, "is not %s", want);
}

static int copy_text(const struct schema_field *field, const msgpack_object *object, uint64_t max,
		     char **member, struct schema_fault *fault)
{
	int r;

	if (object->type != MSGPACK_OBJECT_STR)
		return wrong_type(field, "a string", fault);
	r = check_text(field, object->via.str.ptr, object->via.str.size, max, fault);
	if (r)
		return r;
	*member = strndup(object->via.str.ptr, object->via.str.size);
	return *member ? 0 : -ENOMEM;
}

static int unpack_strs(const struct schema_field *field, const msgpack_object *object,
		       struct schema_strs *strs, struct schema_fault *fault)
{
	int r;

	if (object->type != MSGPACK_OBJECT_ARRAY)
		return wrong_type(field, "an array of strings", fault);
	r = check_count(field, object->via.array.size, fault);
	for (size_t i = 0; !r && i < object->via.array.size; i++) {
		char **item = schema_list_grow((void **)&strs->items, &strs->count, sizeof(char *));

		r = item ? copy_text(field, &object->via.array.ptr[i], SCHEMA_STRS_ITEM_MAX, item, fault)
			 : -ENOMEM;
	}
	return r;
}

static int unpack_pair(const struct schema_field *field, const msgpack_object_kv *kv, struct schema_map *map,
		       struct schema_fault *fault)
{
	struct schema_pair *pair;
	int r;

	if (kv->key.type != MSGPACK_OBJECT_STR || kv->val.type != MSGPACK_OBJECT_STR)
		return wrong_type(field, "a map of strings", fault);
	r = check_pair(field, kv->key.via.str.size, kv->val.via.str.size, fault);
	if (r)
		return r;
	pair = schema_list_grow((void **)&map->items, &map->count, sizeof(*map->items));
	if (!pair)
		return -ENOMEM;
	r = copy_text(field, &kv->key, SCHEMA_MAP_PAIR_MAX, &pair->key, fault)
	    ?: copy_text(field, &kv->val, SCHEMA_MAP_PAIR_MAX, &pair->value, fault);
	if (!r && map_find(map, pair->key) != pair)
		r = fail(fault, SCHEMA_E_DUPLICATE, field, "has a key twice");
	return r;
}

static int unpack_map(const struct schema_field *field, const msgpack_object *object, struct schema_map *map,
		      struct schema_fault *fault)
{
	int r;

	if (object->type != MSGPACK_OBJECT_MAP)
		return wrong_type(field, "a map of strings", fault);
	r = check_count(field, object->via.map.size, fault);
	for (size_t i = 0; !r && i < object->via.map.size; i++)
		r = unpack_pair(field, &object->via.map.ptr[i], map, fault);
	return r;
}

static int unpack_bytes(const struct schema_field *field, const msgpack_object *object,
			struct schema_bytes *bytes, struct schema_fault *fault)
{
	if (object->type != MSGPACK_OBJECT_BIN)
		return wrong_type(field, "a byte string", fault);
	if (object->via.bin.size > field->max)
		return fail(fault, SCHEMA_E_LIMIT, field, "is longer than %llu bytes",
			    (unsigned long long)field->max);
	return schema_bytes_set(bytes, object->via.bin.ptr, object->via.bin.size);
}

static int unpack_raw(const struct schema_field *field, const msgpack_object *object,
		      struct schema_bytes *bytes, struct schema_fault *fault)
{
	struct schema_buffer buffer = {};
	msgpack_packer packer;
	int r;

	msgpack_packer_init(&packer, &buffer, write_buffer);
	r = msgpack_pack_object(&packer, *object);
	if (!r && buffer.size > field->max)
		r = fail(fault, SCHEMA_E_LIMIT, field, "is longer than %llu bytes",
			 (unsigned long long)field->max);
	if (r) {
		schema_buffer_clear(&buffer);
		return r;
	}
	*bytes = (struct schema_bytes){ .data = buffer.data, .size = buffer.size };
	return 0;
}

static int unpack_u64(const struct schema_field *field, const msgpack_object *object, uint64_t *member,
		      struct schema_fault *fault)
{
	if (object->type != MSGPACK_OBJECT_POSITIVE_INTEGER)
		return wrong_type(field, "a non-negative integer", fault);
	*member = object->via.u64;
	return check_number(field, *member, fault);
}

static int unpack_i64(const struct schema_field *field, const msgpack_object *object, int64_t *member,
		      struct schema_fault *fault)
{
	if (object->type == MSGPACK_OBJECT_POSITIVE_INTEGER) {
		if (object->via.u64 > INT64_MAX)
			return fail(fault, SCHEMA_E_LIMIT, field, "is over its limit of %llu",
				    (unsigned long long)field->max);
		*member = (int64_t)object->via.u64;
	} else if (object->type == MSGPACK_OBJECT_NEGATIVE_INTEGER) {
		*member = object->via.i64;
	} else {
		return wrong_type(field, "an integer", fault);
	}
	return check_number(field, magnitude(*member), fault);
}

static int unpack_enum(const struct schema_field *field, const msgpack_object *object, int *member,
		       struct schema_fault *fault)
{
	if (object->type != MSGPACK_OBJECT_STR)
		return wrong_type(field, "a string", fault);
	for (size_t i = 0; i < field->values->n_values; i++) {
		const char *text = field->values->values[i].text;

		if (strlen(text) == object->via.str.size &&
		    !memcmp(text, object->via.str.ptr, object->via.str.size)) {
			*member = (int)i;
			return 0;
		}
	}
	return fail(fault, SCHEMA_E_VALUE, field, "is not a value of %s", field->values->name);
}

static int unpack_item(const struct schema_field *field, const msgpack_object *object, void **member,
		       struct schema_fault *fault)
{
	const struct schema_message *of = field->of();

	*member = calloc(1, of->size ?: 1);
	return *member ? unpack_message(of, object, *member, fault) : -ENOMEM;
}

static int unpack_list(const struct schema_field *field, const msgpack_object *object, struct list *list,
		       struct schema_fault *fault)
{
	const struct schema_message *of = field->of();
	int r;

	if (object->type != MSGPACK_OBJECT_ARRAY)
		return wrong_type(field, "an array", fault);
	r = check_count(field, object->via.array.size, fault);
	for (size_t i = 0; !r && i < object->via.array.size; i++) {
		void *item = schema_list_grow(&list->items, &list->count, of->size);

		r = item ? unpack_message(of, &object->via.array.ptr[i], item, fault) : -ENOMEM;
	}
	return r;
}

static int unpack_field(const struct schema_field *field, const msgpack_object *object, void *member,
			struct schema_fault *fault)
{
	switch (field->kind) {
	case SCHEMA_STR:
		return copy_text(field, object, field->max, member, fault);
	case SCHEMA_STRS:
		return unpack_strs(field, object, member, fault);
	case SCHEMA_BYTES:
		return unpack_bytes(field, object, member, fault);
	case SCHEMA_RAW:
		return unpack_raw(field, object, member, fault);
	case SCHEMA_U64:
		return unpack_u64(field, object, member, fault);
	case SCHEMA_I64:
		return unpack_i64(field, object, member, fault);
	case SCHEMA_BOOL:
		if (object->type != MSGPACK_OBJECT_BOOLEAN)
			return wrong_type(field, "true or false", fault);
		*(bool *)member = object->via.boolean;
		return 0;
	case SCHEMA_MAP:
		return unpack_map(field, object, member, fault);
	case SCHEMA_ENUM:
		return unpack_enum(field, object, member, fault);
	case SCHEMA_ITEM:
		return unpack_item(field, object, member, fault);
	case SCHEMA_LIST:
		return unpack_list(field, object, member, fault);
	}
	return -EINVAL;
}

static const struct schema_field *find_field(const struct schema_message *schema, const msgpack_object *key)
{
	for (size_t i = 0; i < schema->n_fields; i++) {
		const char *name = schema->fields[i].name;

		if (strlen(name) == key->via.str.size && !memcmp(name, key->via.str.ptr, key->via.str.size))
			return &schema->fields[i];
	}
	return NULL;
}

static int unpack_fields(const struct schema_message *schema, const msgpack_object *object, void *message,
			 struct schema_fault *fault)
{
	uint64_t seen = 0;
	int r;

	if (object->type != MSGPACK_OBJECT_MAP)
		return fail(fault, SCHEMA_E_TYPE, NULL, "is not a map");
	for (size_t i = 0; i < object->via.map.size; i++) {
		const msgpack_object_kv *kv = &object->via.map.ptr[i];
		const struct schema_field *field;

		if (kv->key.type != MSGPACK_OBJECT_STR)
			return fail(fault, SCHEMA_E_TYPE, NULL, "has a key that is not a string");
		field = find_field(schema, &kv->key);
		if (!field || kv->val.type == MSGPACK_OBJECT_NIL)
			continue;
		if (seen & UINT64_C(1) << (field - schema->fields))
			return fail(fault, SCHEMA_E_DUPLICATE, field, "stands twice");
		seen |= UINT64_C(1) << (field - schema->fields);
		r = unpack_field(field, &kv->val, member_of(field, message), fault);
		if (r)
			return r;
	}
	for (size_t i = 0; i < schema->n_fields; i++) {
		if (schema->fields[i].required && !(seen & UINT64_C(1) << i))
			return fail(fault, SCHEMA_E_MISSING, &schema->fields[i], "is missing");
	}
	return 0;
}

static int unpack_message(const struct schema_message *schema, const msgpack_object *object, void *message,
			  struct schema_fault *fault)
{
	return blame(fault, unpack_fields(schema, object, message, fault), schema);
}

int schema_unpack(const struct schema_message *schema, const void *data, size_t size, void *ret_message,
		  struct schema_fault *fault)
{
	msgpack_unpacked unpacked;
	size_t offset = 0;
	void *message;
	int r;

	if (fault)
		fault->text[0] = '\0';
	if (schema_scan(data, size, SCHEMA_NODES_MAX))
		return fail(fault, SCHEMA_E_MALFORMED, NULL, "%s: not a well-formed message", schema->name);
	message = calloc(1, schema->size ?: 1);
	if (!message)
		return -ENOMEM;
	msgpack_unpacked_init(&unpacked);
	if (msgpack_unpack_next(&unpacked, data, size, &offset) != MSGPACK_UNPACK_SUCCESS)
		r = -ENOMEM; /* the scan leaves no other reason */
	else
		r = unpack_message(schema, &unpacked.data, message, fault);
	msgpack_unpacked_destroy(&unpacked);
	if (r)
		schema_clear(schema, message);
	else
		memcpy(ret_message, message, schema->size);
	free(message);
	return r;
}

int schema_copy(const struct schema_message *schema, const void *message, void *ret_message)
{
	struct schema_buffer buffer = {};
	int r;

	r = schema_pack(schema, message, &buffer, NULL);
	if (!r)
		r = schema_unpack(schema, buffer.data, buffer.size, ret_message, NULL);
	schema_buffer_clear(&buffer);
	return r > 0 ? -EINVAL : r;
}
