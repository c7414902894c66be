/* Messages to msgpack: walks the tables of messages.c. See schema.h. */

#include <errno.h>
#include <msgpack.h>
#include <string.h>

#include "schemas/codec.h"

static int write_buffer(void *data, const char *bytes, size_t size)
{
	return schema_buffer_add(data, bytes, size);
}

static int pack_message(const struct schema_message *schema, const void *message,
			msgpack_packer *packer, struct schema_fault *fault);

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
		return ((const struct codec_list *)member)->count;
	}
	return true;
}

static int pack_text(const struct schema_field *field, const char *text, uint64_t max,
		     msgpack_packer *packer, struct schema_fault *fault)
{
	size_t size;
	int r;

	if (!text)
		return codec_fault_field(fault, SCHEMA_E_MISSING, field, "is missing");
	size = strlen(text);
	r = codec_check_text(field, text, size, max, fault);
	return r ?: msgpack_pack_str(packer, size) ?: msgpack_pack_str_body(packer, text, size);
}

static int pack_strs(const struct schema_field *field, const struct schema_strs *strs,
		     msgpack_packer *packer, struct schema_fault *fault)
{
	int r = codec_check_count(field, strs->count, fault)
			?: msgpack_pack_array(packer, strs->count);

	for (size_t i = 0; !r && i < strs->count; i++)
		r = pack_text(field, strs->items[i], SCHEMA_STRS_ITEM_MAX, packer, fault);
	return r;
}

static int pack_map(const struct schema_field *field, const struct schema_map *map,
		    msgpack_packer *packer, struct schema_fault *fault)
{
	int r = codec_check_count(field, map->count, fault) ?: msgpack_pack_map(packer, map->count);

	for (size_t i = 0; !r && i < map->count; i++) {
		const struct schema_pair *pair = &map->items[i];

		r = codec_check_pair(field, strlen(pair->key), pair->value ? strlen(pair->value) : 0, fault)
		    ?: pack_text(field, pair->key, SCHEMA_MAP_PAIR_MAX, packer, fault)
		    ?: pack_text(field, pair->value, SCHEMA_MAP_PAIR_MAX, packer, fault);
	}
	return r;
}

static int pack_bytes(const struct schema_field *field, const struct schema_bytes *bytes,
		      msgpack_packer *packer, struct schema_fault *fault)
{
	return codec_check_size(field, bytes->size, fault)
	       ?: msgpack_pack_bin(packer, bytes->size)
	       ?: msgpack_pack_bin_body(packer, bytes->data ? (const void *)bytes->data : "", bytes->size);
}

static int pack_raw(const struct schema_field *field, const struct schema_bytes *bytes,
		    msgpack_packer *packer, struct schema_fault *fault)
{
	int r = codec_check_size(field, bytes->size, fault);

	if (r)
		return r;
	if (schema_scan(bytes->data, bytes->size, SCHEMA_NODES_MAX))
		return codec_fault_field(fault, SCHEMA_E_VALUE, field, "is not one msgpack value");
	return packer->callback(packer->data, (const char *)bytes->data, bytes->size);
}

static int pack_list(const struct schema_field *field, const struct codec_list *list,
		     msgpack_packer *packer, struct schema_fault *fault)
{
	const struct schema_message *of = field->of();
	int r = codec_check_count(field, list->count, fault)
			?: msgpack_pack_array(packer, list->count);

	for (size_t i = 0; !r && i < list->count; i++)
		r = codec_fault_within(
			fault,
			pack_message(of, (const char *)list->items + i * of->size, packer, fault),
			".%s[%zu]", field->name, i);
	return r;
}

static int pack_enum(const struct schema_field *field, unsigned value, msgpack_packer *packer,
		     struct schema_fault *fault)
{
	if (value >= field->values->n_values)
		return codec_fault_field(fault, SCHEMA_E_VALUE, field, "has the unknown value %u",
					 value);
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
		return codec_check_number(field, *(const uint64_t *)member, fault)
			       ?: msgpack_pack_uint64(packer, *(const uint64_t *)member);
	case SCHEMA_I64:
		return codec_check_integer(field, *(const int64_t *)member, fault)
			       ?: msgpack_pack_int64(packer, *(const int64_t *)member);
	case SCHEMA_BOOL:
		return *(const bool *)member ? msgpack_pack_true(packer)
					     : msgpack_pack_false(packer);
	case SCHEMA_MAP:
		return pack_map(field, member, packer, fault);
	case SCHEMA_ENUM:
		return pack_enum(field, *(const unsigned *)member, packer, fault);
	case SCHEMA_ITEM:
		if (!*(void *const *)member)
			return codec_fault_field(fault, SCHEMA_E_MISSING, field, "is missing");
		return codec_fault_within(
			fault, pack_message(field->of(), *(void *const *)member, packer, fault),
			".%s", field->name);
	case SCHEMA_LIST:
		return pack_list(field, member, packer, fault);
	}
	return -EINVAL;
}

static int pack_message(const struct schema_message *schema, const void *message,
			msgpack_packer *packer, struct schema_fault *fault)
{
	size_t present = 0;
	int r;

	for (size_t i = 0; i < schema->n_fields; i++)
		present += is_present(&schema->fields[i],
				      codec_member(&schema->fields[i], message));
	r = msgpack_pack_map(packer, present);
	for (size_t i = 0; !r && i < schema->n_fields; i++) {
		const struct schema_field *field = &schema->fields[i];
		const void *member = codec_member(field, message);

		if (!is_present(field, member))
			continue;
		r = msgpack_pack_str(packer, strlen(field->name))
		    ?: msgpack_pack_str_body(packer, field->name, strlen(field->name))
		    ?: pack_field(field, member, packer, fault);
	}
	return r;
}

/* Nothing is sent that schema_unpack() would not read. */
static int check_whole(const uint8_t *data, size_t size, struct schema_fault *fault)
{
	if (size > SCHEMA_MESSAGE_MAX)
		return codec_fault_message(fault, SCHEMA_E_LIMIT, "is larger than %u bytes",
					   SCHEMA_MESSAGE_MAX);
	if (schema_scan(data, size, SCHEMA_NODES_MAX))
		return codec_fault_message(fault, SCHEMA_E_LIMIT,
					   "is nested deeper than %d or has more than %d values",
					   SCHEMA_DEPTH_MAX, SCHEMA_NODES_MAX);
	return 0;
}

int schema_pack(const struct schema_message *schema, const void *message,
		struct schema_buffer *buffer, struct schema_fault *fault)
{
	size_t before = buffer->size;
	msgpack_packer packer;
	int r;

	if (fault)
		fault->text[0] = '\0';
	msgpack_packer_init(&packer, buffer, write_buffer);
	r = pack_message(schema, message, &packer, fault);
	if (!r)
		r = check_whole(buffer->data + before, buffer->size - before, fault);
	if (r)
		buffer->size = before;
	return codec_fault_within(fault, r, "%s", schema->name);
}
