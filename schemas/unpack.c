/*
 * Messages from msgpack: see schema.h. The scan bounds what msgpack-c allocates;
 * what it gives is walked along the tables of messages.c.
 */

#include <errno.h>
#include <msgpack.h>
#include <stdlib.h>
#include <string.h>

#include "schemas/codec.h"

static int write_buffer(void *data, const char *bytes, size_t size)
{
	return schema_buffer_add(data, bytes, size);
}

static int unpack_message(const struct schema_message *schema, const msgpack_object *object,
			  void *message, struct schema_fault *fault);

static int wrong_type(const struct schema_field *field, const char *want,
		      struct schema_fault *fault)
{
	return codec_fault_field(fault, SCHEMA_E_TYPE, field, "is not %s", want);
}

static int copy_text(const struct schema_field *field, const msgpack_object *object, uint64_t max,
		     char **member, struct schema_fault *fault)
{
	int r;

	if (object->type != MSGPACK_OBJECT_STR)
		return wrong_type(field, "a string", fault);
	r = codec_check_text(field, object->via.str.ptr, object->via.str.size, max, fault);
	if (r)
		return r;
	*member = strndup(object->via.str.ptr ?: "", object->via.str.size); /* NULL when empty */
	return *member ? 0 : -ENOMEM;
}

static int unpack_strs(const struct schema_field *field, const msgpack_object *object,
		       struct schema_strs *strs, struct schema_fault *fault)
{
	int r;

	if (object->type != MSGPACK_OBJECT_ARRAY)
		return wrong_type(field, "an array of strings", fault);
	r = codec_check_count(field, object->via.array.size, fault);
	for (size_t i = 0; !r && i < object->via.array.size; i++) {
		char **item = schema_list_grow((void **)&strs->items, &strs->count, sizeof(char *));

		r = item ? copy_text(field, &object->via.array.ptr[i], SCHEMA_STRS_ITEM_MAX, item,
				     fault)
			 : -ENOMEM;
	}
	return r;
}

static int unpack_pair(const struct schema_field *field, const msgpack_object_kv *kv,
		       struct schema_map *map, struct schema_fault *fault)
{
	struct schema_pair *pair;
	int r;

	if (kv->key.type != MSGPACK_OBJECT_STR || kv->val.type != MSGPACK_OBJECT_STR)
		return wrong_type(field, "a map of strings", fault);
	r = codec_check_pair(field, kv->key.via.str.size, kv->val.via.str.size, fault);
	if (r)
		return r;
	pair = schema_list_grow((void **)&map->items, &map->count, sizeof(*map->items));
	if (!pair)
		return -ENOMEM;
	r = copy_text(field, &kv->key, SCHEMA_MAP_PAIR_MAX, &pair->key, fault)
		    ?: copy_text(field, &kv->val, SCHEMA_MAP_PAIR_MAX, &pair->value, fault);
	if (!r && schema_map_get(map, pair->key) != pair->value)
		r = codec_fault_field(fault, SCHEMA_E_DUPLICATE, field, "has a key twice");
	return r;
}

static int unpack_map(const struct schema_field *field, const msgpack_object *object,
		      struct schema_map *map, struct schema_fault *fault)
{
	int r;

	if (object->type != MSGPACK_OBJECT_MAP)
		return wrong_type(field, "a map of strings", fault);
	r = codec_check_count(field, object->via.map.size, fault);
	for (size_t i = 0; !r && i < object->via.map.size; i++)
		r = unpack_pair(field, &object->via.map.ptr[i], map, fault);
	return r;
}

static int unpack_bytes(const struct schema_field *field, const msgpack_object *object,
			struct schema_bytes *bytes, struct schema_fault *fault)
{
	if (object->type != MSGPACK_OBJECT_BIN)
		return wrong_type(field, "a byte string", fault);
	return codec_check_size(field, object->via.bin.size, fault)
		       ?: schema_bytes_set(bytes, object->via.bin.ptr, object->via.bin.size);
}

static int unpack_raw(const struct schema_field *field, const msgpack_object *object,
		      struct schema_bytes *bytes, struct schema_fault *fault)
{
	struct schema_buffer buffer = {};
	msgpack_packer packer;
	int r;

	msgpack_packer_init(&packer, &buffer, write_buffer);
	r = msgpack_pack_object(&packer, *object) ?: codec_check_size(field, buffer.size, fault);
	if (r) {
		schema_buffer_clear(&buffer);
		return r;
	}
	*bytes = (struct schema_bytes){.data = buffer.data, .size = buffer.size};
	return 0;
}

static int unpack_u64(const struct schema_field *field, const msgpack_object *object,
		      uint64_t *member, struct schema_fault *fault)
{
	if (object->type != MSGPACK_OBJECT_POSITIVE_INTEGER)
		return wrong_type(field, "a non-negative integer", fault);
	*member = object->via.u64;
	return codec_check_number(field, *member, fault);
}

static int unpack_i64(const struct schema_field *field, const msgpack_object *object,
		      int64_t *member, struct schema_fault *fault)
{
	if (object->type == MSGPACK_OBJECT_POSITIVE_INTEGER) {
		if (object->via.u64 > INT64_MAX)
			return codec_fault_field(fault, SCHEMA_E_LIMIT, field,
						 "is over its limit of %llu",
						 (unsigned long long)field->max);
		*member = (int64_t)object->via.u64;
	} else if (object->type == MSGPACK_OBJECT_NEGATIVE_INTEGER) {
		*member = object->via.i64;
	} else {
		return wrong_type(field, "an integer", fault);
	}
	return codec_check_integer(field, *member, fault);
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
	return codec_fault_field(fault, SCHEMA_E_VALUE, field, "is not a value of %s",
				 field->values->name);
}

static int unpack_item(const struct schema_field *field, const msgpack_object *object,
		       void **member, struct schema_fault *fault)
{
	const struct schema_message *of = field->of();

	*member = calloc(1, of->size ?: 1);
	if (!*member)
		return -ENOMEM;
	return codec_fault_within(fault, unpack_message(of, object, *member, fault), ".%s",
				  field->name);
}

static int unpack_list(const struct schema_field *field, const msgpack_object *object,
		       struct codec_list *list, struct schema_fault *fault)
{
	const struct schema_message *of = field->of();
	int r;

	if (object->type != MSGPACK_OBJECT_ARRAY)
		return wrong_type(field, "an array", fault);
	r = codec_check_count(field, object->via.array.size, fault);
	for (size_t i = 0; !r && i < object->via.array.size; i++) {
		void *item = schema_list_grow(&list->items, &list->count, of->size);

		r = item ? unpack_message(of, &object->via.array.ptr[i], item, fault) : -ENOMEM;
		r = codec_fault_within(fault, r, ".%s[%zu]", field->name, i);
	}
	return r;
}

static int unpack_field(const struct schema_field *field, const msgpack_object *object,
			void *member, struct schema_fault *fault)
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

static bool is_named(const struct schema_field *field, const msgpack_object *key)
{
	size_t size = key->via.str.size;

	return strlen(field->name) == size && !memcmp(field->name, key->via.str.ptr, size);
}

/* Fields come in the table's order as a rule: the search starts at *@next, and leaves it behind the field. */
static const struct schema_field *find_field(const struct schema_message *schema,
					     const msgpack_object *key, size_t *next)
{
	for (size_t i = 0; i < schema->n_fields; i++) {
		size_t at = (*next + i) % schema->n_fields;

		if (is_named(&schema->fields[at], key)) {
			*next = at + 1;
			return &schema->fields[at];
		}
	}
	return NULL;
}

static int check_missing(const struct schema_message *schema, uint64_t seen,
			 struct schema_fault *fault)
{
	for (size_t i = 0; i < schema->n_fields; i++) {
		if (schema->fields[i].required && !(seen & UINT64_C(1) << i))
			return codec_fault_field(fault, SCHEMA_E_MISSING, &schema->fields[i],
						 "is missing");
	}
	return 0;
}

static int unpack_message(const struct schema_message *schema, const msgpack_object *object,
			  void *message, struct schema_fault *fault)
{
	uint64_t seen = 0;
	size_t next = 0;
	int r;

	if (object->type != MSGPACK_OBJECT_MAP)
		return codec_fault_message(fault, SCHEMA_E_TYPE, "is not a map");
	for (size_t i = 0; i < object->via.map.size; i++) {
		const msgpack_object_kv *kv = &object->via.map.ptr[i];
		const struct schema_field *field;
		uint64_t bit;

		if (kv->key.type != MSGPACK_OBJECT_STR)
			return codec_fault_message(fault, SCHEMA_E_TYPE,
						   "has a key that is not a string");
		field = find_field(schema, &kv->key, &next);
		if (!field || kv->val.type == MSGPACK_OBJECT_NIL)
			continue;
		bit = UINT64_C(1) << (field - schema->fields);
		if (seen & bit)
			return codec_fault_field(fault, SCHEMA_E_DUPLICATE, field, "stands twice");
		seen |= bit;
		r = unpack_field(field, &kv->val, codec_member(field, message), fault);
		if (r)
			return r;
	}
	return check_missing(schema, seen, fault);
}

/* What the scan lets through, msgpack-c unpacks, unless memory is out. */
static int unpack(const struct schema_message *schema, const void *data, size_t size, void *message,
		  struct schema_fault *fault)
{
	msgpack_unpacked unpacked;
	size_t offset = 0;
	int r = -ENOMEM;

	msgpack_unpacked_init(&unpacked);
	if (msgpack_unpack_next(&unpacked, data, size, &offset) == MSGPACK_UNPACK_SUCCESS)
		r = unpack_message(schema, &unpacked.data, message, fault);
	msgpack_unpacked_destroy(&unpacked);
	return r;
}

static int check_whole(const void *data, size_t size, struct schema_fault *fault)
{
	if (size > SCHEMA_MESSAGE_MAX)
		return codec_fault_message(fault, SCHEMA_E_LIMIT, "is larger than %u bytes",
					   SCHEMA_MESSAGE_MAX);
	if (schema_scan(data, size, SCHEMA_NODES_MAX))
		return codec_fault_message(fault, SCHEMA_E_MALFORMED,
					   "is not a well-formed message");
	return 0;
}

int schema_unpack(const struct schema_message *schema, const void *data, size_t size,
		  void *ret_message, struct schema_fault *fault)
{
	void *message;
	int r;

	if (fault)
		fault->text[0] = '\0';
	r = check_whole(data, size, fault);
	if (r)
		return codec_fault_within(fault, r, "%s", schema->name);
	message = calloc(1, schema->size ?: 1);
	if (!message)
		return -ENOMEM;
	r = unpack(schema, data, size, message, fault);
	if (r)
		schema_clear(schema, message);
	else
		memcpy(ret_message, message, schema->size);
	free(message);
	return codec_fault_within(fault, r, "%s", schema->name);
}
