/* Checkpoint images: see checkpoint_image.h. */

#include "tools/checkpoint_image.h"

#include <string.h>

#define DOCUMENT_MAX (4u << 20)
#define FIELD_URL    0x0a /* 1, with a length */
#define FIELD_VALUE  0x12 /* 2, with a length */

/* ---- Any ----------------------------------------------------------------- */

static int add_varint(struct schema_buffer *buffer, uint64_t value)
{
	uint8_t byte;
	int r = 0;

	do {
		byte = (uint8_t)((value & 0x7f) | (value > 0x7f ? 0x80 : 0));
		value >>= 7;
		r = schema_buffer_add(buffer, &byte, 1);
	} while (!r && value);
	return r;
}

static int add_field(struct schema_buffer *buffer, uint8_t key, const void *value, size_t size)
{
	return schema_buffer_add(buffer, &key, 1)
	       ?: add_varint(buffer, size)
	       ?: size ? schema_buffer_add(buffer, value, size) : 0;
}

int any_pack(const char *type_url, const void *value, size_t size, struct schema_buffer *buffer)
{
	return add_field(buffer, FIELD_URL, type_url, strlen(type_url))
		       ?: add_field(buffer, FIELD_VALUE, value, size);
}

static bool take_varint(const uint8_t **at, const uint8_t *end, uint64_t *ret_value)
{
	uint64_t value = 0;

	for (unsigned int shift = 0; shift < 63 && *at < end; shift += 7) {
		uint8_t byte = *(*at)++;

		value |= (uint64_t)(byte & 0x7f) << shift;
		if (byte & 0x80)
			continue;
		*ret_value = value;
		return true;
	}
	return false;
}

bool any_unpack(const void *data, size_t size, const char **ret_value, size_t *ret_size)
{
	const uint8_t *at = data, *end = at + size;
	bool is_found = false;

	while (at < end) {
		uint8_t key = *at++;
		uint64_t length;

		if ((key != FIELD_URL && key != FIELD_VALUE) || !take_varint(&at, end, &length) ||
		    length > (size_t)(end - at))
			return false;
		if (key == FIELD_VALUE) {
			*ret_value = (const char *)at;
			*ret_size = (size_t)length;
			is_found = true;
		}
		at += length;
	}
	return is_found;
}

/* ---- reading ------------------------------------------------------------- */

static int read_blob(struct context *context, const char *digest, struct schema_buffer *all)
{
	uint64_t size = 1;

	while (all->size < size) {
		_cleanup_(content_read_reply_clear) struct content_read_reply reply = {};
		struct content_read_request request = {.digest = (char *)digest,
						       .offset = all->size};
		int r = content_read_ask(&context->ask, &request, &reply);

		if (r)
			return fail_ask(context, r);
		size = reply.size;
		if (!reply.data.size || size > DOCUMENT_MAX)
			return fail(context, "%s is cut short, or too large for a document",
				    digest);
		if (schema_buffer_add(all, reply.data.data, reply.data.size))
			return fail(context, "out of memory");
	}
	return 0;
}

int checkpoint_image_read(struct context *context, const char *name, json_t **ret_index)
{
	_cleanup_(schema_buffer_clear) struct schema_buffer all = {};
	_cleanup_(image_reply_clear) struct image_reply image = {};
	struct image_name_request request = {.name = (char *)name};
	json_t *index;
	int r = image_get_ask(&context->ask, &request, &image), code;

	if (r)
		return fail_ask(context, r);
	code = read_blob(context, image.image->target->digest, &all);
	if (code)
		return code;
	index = json_parse((const char *)all.data, all.size, DOCUMENT_MAX, NULL);
	if (!index || !checkpoint_image_part(index, CHECKPOINT_TYPE_SPEC)) {
		json_decref(index);
		return fail(context, "image '%s' is no checkpoint of a container", name);
	}
	*ret_index = index;
	return 0;
}

const char *checkpoint_image_note(const json_t *index, const char *key)
{
	return json_string_value(json_object_get(json_object_get(index, "annotations"), key));
}

const char *checkpoint_image_part(const json_t *index, const char *media_type)
{
	const json_t *parts = json_object_get(index, "manifests"), *part;
	size_t i;

	json_array_foreach(parts, i, part)
	{
		const char *type = json_string_value(json_object_get(part, "mediaType"));

		if (type && !strcmp(type, media_type))
			return json_string_value(json_object_get(part, "digest"));
	}
	return NULL;
}

int checkpoint_image_spec(struct context *context, const json_t *index, json_t **ret_spec)
{
	const char *digest = checkpoint_image_part(index, CHECKPOINT_TYPE_SPEC);
	_cleanup_(schema_buffer_clear) struct schema_buffer all = {};
	const char *value;
	json_t *spec = NULL;
	size_t size;
	int code = digest ? read_blob(context, digest, &all)
			  : fail(context, "the checkpoint has no spec");

	if (code)
		return code;
	if (any_unpack(all.data, all.size, &value, &size))
		spec = json_parse(value, size, DOCUMENT_MAX, NULL);
	if (!json_is_object(spec)) {
		json_decref(spec);
		return fail(context, "%s holds no OCI spec", digest);
	}
	*ret_spec = spec;
	return 0;
}
