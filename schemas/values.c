/* What the fields of messages hold: buffers, lists, maps and texts, and how they grow. See schema.h. */

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "schemas/schema.h"

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
	char **item = copy ? schema_list_grow((void **)&strs->items, &strs->count, sizeof(char *))
			   : NULL;

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
	*pair = (struct schema_pair){.key = key_copy, .value = value_copy};
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
	*bytes = (struct schema_bytes){.data = copy, .size = size};
	return 0;
}

void schema_bytes_clear(struct schema_bytes *bytes)
{
	free(bytes->data);
	*bytes = (struct schema_bytes){};
}

/* ---- text ---------------------------------------------------------------- */

/* One UTF-8 sequence as RFC 3629 has it (no surrogates, no overlong forms); its length or 0. */
static size_t utf8_sequence(const uint8_t *p, size_t left)
{
	static const struct {
		uint8_t first, last, low, high; /* lead bytes; range of the second byte */
		size_t length;
	} forms[] = {{0xc2, 0xdf, 0x80, 0xbf, 2}, {0xe0, 0xe0, 0xa0, 0xbf, 3},
		     {0xe1, 0xec, 0x80, 0xbf, 3}, {0xed, 0xed, 0x80, 0x9f, 3},
		     {0xee, 0xef, 0x80, 0xbf, 3}, {0xf0, 0xf0, 0x90, 0xbf, 4},
		     {0xf1, 0xf3, 0x80, 0xbf, 4}, {0xf4, 0xf4, 0x80, 0x8f, 4}};

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
