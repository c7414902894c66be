/*
 * What a filter's path means for a message: its fields, those of nested
 * messages, the keys of its maps. containerd's spelling is understood too:
 * `mediatype` is media_type, and `runtime.name` is a text field named runtime.
 */

#include <stdio.h>
#include <string.h>

#include "schemas/filter.h"

#define SCRATCH_SIZE 256

struct subject {
	const struct schema_message *schema;
	const void *message;
};

/* Equal but for underscores. */
static bool is_named(const char *name, const char *wanted)
{
	for (;; name++, wanted++) {
		name += *name == '_';
		wanted += *wanted == '_';
		if (*name != *wanted)
			return false;
		if (!*name)
			return true;
	}
}

static const struct schema_field *find_field(const struct schema_message *schema,
					     const char *wanted)
{
	const struct schema_field *exact = schema_find_field(schema, wanted);

	for (size_t i = 0; !exact && i < schema->n_fields; i++) {
		if (is_named(schema->fields[i].name, wanted))
			return &schema->fields[i];
	}
	return exact;
}

/* A key of a map holds dots as likely as not: the parts joined by dots are one key. */
static bool is_joined(const char *key, const char *const *path, size_t n_path)
{
	for (size_t i = 0; i < n_path; i++) {
		size_t size = strlen(path[i]);

		if (strncmp(key, path[i], size) != 0)
			return false;
		key += size;
		if (i + 1 < n_path && *key++ != '.')
			return false;
	}
	return !*key;
}

static const char *map_text(const struct schema_map *map, const char *const *path, size_t n_path)
{
	for (size_t i = 0; i < map->count; i++) {
		if (is_joined(map->items[i].key, path, n_path))
			return map->items[i].value;
	}
	return NULL;
}

static const char *print_hex(const struct schema_bytes *bytes, char *scratch)
{
	if (!bytes->size || 2 * bytes->size >= SCRATCH_SIZE)
		return NULL;
	for (size_t i = 0; i < bytes->size; i++)
		snprintf(scratch + 2 * i, 3, "%02x", bytes->data[i]);
	return scratch;
}

static const char *scalar_text(const struct schema_field *field, const void *member, char *scratch)
{
	switch (field->kind) {
	case SCHEMA_STR:
		return *(char *const *)member && **(char *const *)member ? *(char *const *)member
									 : NULL;
	case SCHEMA_ENUM:
		return schema_enum_text(field->values, *(const unsigned *)member);
	case SCHEMA_BOOL:
		return *(const bool *)member ? "true" : "false";
	case SCHEMA_U64:
		snprintf(scratch, SCRATCH_SIZE, "%llu", *(const unsigned long long *)member);
		return scratch;
	case SCHEMA_I64:
		snprintf(scratch, SCRATCH_SIZE, "%lld", *(const long long *)member);
		return scratch;
	case SCHEMA_BYTES:
		return print_hex(member, scratch);
	case SCHEMA_STRS:
	case SCHEMA_MAP:
	case SCHEMA_RAW:
	case SCHEMA_ITEM:
	case SCHEMA_LIST:
		break;
	}
	return NULL;
}

static const char *message_text(void *userdata, const char *const *path, size_t n_path,
				char *scratch)
{
	struct subject subject = *(struct subject *)userdata;

	while (n_path) {
		const struct schema_field *field = find_field(subject.schema, path[0]);
		const void *member;

		if (!field)
			return NULL;
		member = (const char *)subject.message + field->offset;
		path++;
		n_path--;
		if (field->kind == SCHEMA_MAP && n_path)
			return map_text(member, path, n_path);
		if (!n_path ||
		    (field->kind == SCHEMA_STR && n_path == 1 && !strcmp(path[0], "name")))
			return scalar_text(field, member, scratch);
		if (field->kind != SCHEMA_ITEM || !*(void *const *)member)
			return NULL;
		subject = (struct subject){field->of(), *(void *const *)member};
	}
	return NULL;
}

bool filter_match_message(const struct filter *filter, const struct schema_message *schema,
			  const void *message)
{
	struct subject subject = {schema, message};

	return filter_match(filter, message_text, &subject);
}
