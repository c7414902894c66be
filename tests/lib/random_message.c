/* See random_message.h. */

#include <stdlib.h>
#include <string.h>

#include "schemas/messages.h"
#include "tests/lib/random_message.h"

const struct schema_message *(*const all_messages[])(void) = {
#define MESSAGE(name, doc) schema_##name,
#include "schemas/all.def"
#include "schemas/end.h"
	NULL,
};

uint64_t random_next(uint64_t *seed)
{
	uint64_t z = *seed += UINT64_C(0x9e3779b97f4a7c15); /* splitmix64 */

	z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
	return z ^ z >> 31;
}

static uint64_t below(uint64_t *seed, uint64_t limit)
{
	return limit ? random_next(seed) % limit : 0;
}

/* Sometimes as long as may be. */
static size_t random_size(uint64_t *seed, uint64_t max)
{
	if (max <= 4096 && !below(seed, 8))
		return max;
	return below(seed, (max < 40 ? max : 40) + 1);
}

static char *random_text(uint64_t *seed, uint64_t max)
{
	static const char *const letters[] = {"a",  "Z", "0", ".", "/",    " ",  "\"",
					      "\n", "é", "…", "𝄞", "\x7f", "\\", "{"};
	size_t size = random_size(seed, max), at = 0;
	char *text = calloc(1, size + 1);

	while (text && at < size) {
		const char *letter = letters[below(seed, sizeof(letters) / sizeof(letters[0]))];

		if (strlen(letter) > size - at)
			letter = "x";
		memcpy(text + at, letter, strlen(letter));
		at += strlen(letter);
	}
	return text;
}

static void random_bytes(uint64_t *seed, uint64_t max, struct schema_bytes *bytes)
{
	uint8_t data[4096];
	size_t size = random_size(seed, max);

	for (size_t i = 0; i < size; i++)
		data[i] = (uint8_t)random_next(seed);
	schema_bytes_set(bytes, data, size);
}

/* {"k": [1, -2, 1.5, nil, true, bin]} with some luck, or one number. */
static void random_raw(uint64_t *seed, struct schema_bytes *bytes)
{
	static const uint8_t tree[] =
		"\x81\xa1k\x96\x01\xfe\xcb\x3f\xf8\0\0\0\0\0\0\xc0\xc3\xc4\x02\0\xff";

	if (below(seed, 2))
		schema_bytes_set(bytes, tree, sizeof(tree) - 1);
	else
		schema_bytes_set(bytes, "\x2a", 1);
}

static uint64_t random_number(uint64_t *seed, uint64_t max)
{
	static const uint64_t edges[] = {0,          1,
					 127,        128,
					 255,        256,
					 65535,      65536,
					 UINT32_MAX, UINT32_MAX + 1ull,
					 INT64_MAX,  INT64_MAX + 1ull,
					 UINT64_MAX};
	uint64_t value = edges[below(seed, sizeof(edges) / sizeof(edges[0]))];

	if (!below(seed, 3))
		value = random_next(seed);
	return value <= max ? value : max - below(seed, max < 2 ? max + 1 : 2);
}

static void random_map(uint64_t *seed, uint64_t max, struct schema_map *map)
{
	for (uint64_t n = below(seed, (max < 4 ? max : 4) + 1); n; n--) {
		char *key = random_text(seed, 20), *value = random_text(seed, 100);

		if (key && value)
			schema_map_set(map, key, value);
		free(key);
		free(value);
	}
}

static void random_strs(uint64_t *seed, uint64_t max, struct schema_strs *strs)
{
	for (uint64_t n = below(seed, (max < 5 ? max : 5) + 1); n; n--) {
		char *text = random_text(seed, 100);

		if (text)
			schema_strs_add(strs, text);
		free(text);
	}
}

static void random_list(uint64_t *seed, const struct schema_field *field, void *member)
{
	struct schema_strs *list = member; /* items and count, as every list */
	const struct schema_message *of = field->of();

	for (uint64_t n = below(seed, (field->max < 3 ? field->max : 3) + 1); n; n--) {
		void *item = schema_list_grow((void **)&list->items, &list->count, of->size);

		if (item)
			random_message(of, item, seed);
	}
}

static void random_field(uint64_t *seed, const struct schema_field *field, void *member)
{
	switch (field->kind) {
	case SCHEMA_STR:
		*(char **)member = random_text(seed, field->max);
		break;
	case SCHEMA_STRS:
		random_strs(seed, field->max, member);
		break;
	case SCHEMA_BYTES:
		random_bytes(seed, field->max, member);
		break;
	case SCHEMA_RAW:
		random_raw(seed, member);
		break;
	case SCHEMA_U64:
		*(uint64_t *)member = random_number(seed, field->max);
		break;
	case SCHEMA_I64:
		*(int64_t *)member = (int64_t)random_number(seed, field->max);
		if (below(seed, 2))
			*(int64_t *)member *= -1;
		break;
	case SCHEMA_BOOL:
		*(bool *)member = below(seed, 2);
		break;
	case SCHEMA_MAP:
		random_map(seed, field->max, member);
		break;
	case SCHEMA_ENUM:
		*(int *)member = (int)below(seed, field->values->n_values);
		break;
	case SCHEMA_ITEM:
		*(void **)member = new_message(field->of());
		if (*(void **)member)
			random_message(field->of(), *(void **)member, seed);
		break;
	case SCHEMA_LIST:
		random_list(seed, field, member);
		break;
	}
}

void random_message(const struct schema_message *schema, void *message, uint64_t *seed)
{
	for (size_t i = 0; i < schema->n_fields; i++) {
		const struct schema_field *field = &schema->fields[i];

		if (field->required || below(seed, 3))
			random_field(seed, field, (char *)message + field->offset);
	}
}

void *new_message(const struct schema_message *schema)
{
	return calloc(1, schema->size ?: 1);
}

void free_message(const struct schema_message *schema, void *message)
{
	schema_clear(schema, message);
	free(message);
}
