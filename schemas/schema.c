/* What can be said and done about messages by their tables: see schema.h. */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "schemas/codec.h"

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
		if (!strcmp(schema_methods[i].service, service) &&
		    !strcmp(schema_methods[i].name, name))
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

static void clear_list(const struct schema_message *of, struct codec_list *list)
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
		clear_field(&schema->fields[i], codec_member(&schema->fields[i], message));
	memset(message, 0, schema->size);
}

/* ---- secrets ------------------------------------------------------------- */

bool schema_has_secrets(const struct schema_message *schema)
{
	for (size_t i = 0; i < schema->n_fields; i++) {
		const struct schema_field *field = &schema->fields[i];

		if (field->is_secret || (field->of && schema_has_secrets(field->of())))
			return true;
	}
	return false;
}

static void clear_secret(const struct schema_field *field, void *member)
{
	if (field->kind == SCHEMA_STR && *(char **)member)
		explicit_bzero(*(char **)member, strlen(*(char **)member));
	clear_field(field, member);
	memset(member, 0, sizeof(char *));
}

void schema_clear_secrets(const struct schema_message *schema, void *message)
{
	for (size_t i = 0; i < schema->n_fields; i++) {
		const struct schema_field *field = &schema->fields[i];
		void *member = codec_member(field, message);
		const struct codec_list *list = member;

		if (field->is_secret)
			clear_secret(field, member);
		else if (field->kind == SCHEMA_ITEM && *(void **)member)
			schema_clear_secrets(field->of(), *(void **)member);
		for (size_t j = 0; field->kind == SCHEMA_LIST && j < list->count; j++)
			schema_clear_secrets(field->of(),
					     (char *)list->items + j * field->of()->size);
	}
}

/* ---- copy ---------------------------------------------------------------- */

static int copy_message(const struct schema_message *schema, const void *from, void *to);

static int copy_item(const struct schema_message *of, const void *from, void **to)
{
	if (!from)
		return 0;
	*to = calloc(1, of->size ?: 1);
	return *to ? copy_message(of, from, *to) : -ENOMEM;
}

static int copy_list(const struct schema_message *of, const struct codec_list *from,
		     struct codec_list *to)
{
	int r = 0;

	for (size_t i = 0; !r && i < from->count; i++) {
		void *item = schema_list_grow(&to->items, &to->count, of->size);

		r = item ? copy_message(of, (const char *)from->items + i * of->size, item)
			 : -ENOMEM;
	}
	return r;
}

static int copy_bytes(const struct schema_bytes *from, struct schema_bytes *to)
{
	return from->data ? schema_bytes_set(to, from->data, from->size) : 0;
}

static int copy_field(const struct schema_field *field, const void *from, void *to)
{
	switch (field->kind) {
	case SCHEMA_STR:
		return schema_set(to, *(char *const *)from);
	case SCHEMA_STRS:
		return schema_strs_copy(from, to);
	case SCHEMA_BYTES:
	case SCHEMA_RAW:
		return copy_bytes(from, to);
	case SCHEMA_MAP:
		return schema_map_copy(from, to);
	case SCHEMA_ITEM:
		return copy_item(field->of(), *(void *const *)from, to);
	case SCHEMA_LIST:
		return copy_list(field->of(), from, to);
	case SCHEMA_U64:
	case SCHEMA_I64:
		memcpy(to, from, sizeof(uint64_t));
		break;
	case SCHEMA_BOOL:
		memcpy(to, from, sizeof(bool));
		break;
	case SCHEMA_ENUM:
		memcpy(to, from, sizeof(int));
		break;
	}
	return 0;
}

/* Onto a zeroed @to, which the caller clears on failure. */
static int copy_message(const struct schema_message *schema, const void *from, void *to)
{
	int r = 0;

	for (size_t i = 0; !r && i < schema->n_fields; i++) {
		const struct schema_field *field = &schema->fields[i];

		r = copy_field(field, codec_member(field, from), codec_member(field, to));
	}
	return r;
}

int schema_copy(const struct schema_message *schema, const void *message, void *ret_message)
{
	void *copy = calloc(1, schema->size ?: 1);
	int r = copy ? copy_message(schema, message, copy) : -ENOMEM;

	if (r)
		schema_clear(schema, copy);
	else
		memcpy(ret_message, copy, schema->size);
	free(copy);
	return r;
}
