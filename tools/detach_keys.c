/* See detach_keys.h. */

#include "tools/detach_keys.h"

#include <ctype.h>
#include <errno.h>
#include <string.h>

static int parse_key(const char *word, size_t length, uint8_t *ret_key)
{
	int c = toupper((unsigned char)word[length ? length - 1 : 0]);

	if (length == 1) {
		*ret_key = (uint8_t)*word;
		return 0;
	}
	if (length != 6 || strncmp(word, "ctrl-", 5) != 0 || c < '@' || c > '_')
		return -EINVAL;
	*ret_key = (uint8_t)(c - '@');
	return 0;
}

int detach_keys_parse(const char *text, struct detach_keys *ret_keys)
{
	struct detach_keys keys = {};

	while (*text) {
		size_t length = strcspn(text, ",");
		int r;

		if (keys.n_keys == DETACH_KEYS_MAX)
			return -E2BIG;
		r = parse_key(text, length, &keys.keys[keys.n_keys]);
		if (r)
			return r;
		keys.n_keys++;
		text += length;
		if (*text == ',' && !*++text)
			return -EINVAL;
	}
	*ret_keys = keys;
	return 0;
}

/* @byte ends what is held: of held and byte as much stays held as may still become the sequence, the rest goes out. */
static size_t step(struct detach_keys *keys, uint8_t byte, uint8_t *ret_out)
{
	uint8_t held[DETACH_KEYS_MAX + 1];
	size_t n_held = keys->matched, n_out = 0;

	memcpy(held, keys->keys, n_held);
	held[n_held++] = byte;
	while (n_out < n_held && memcmp(held + n_out, keys->keys, n_held - n_out) != 0)
		n_out++;
	memcpy(ret_out, held, n_out);
	keys->matched = n_held - n_out;
	return n_out;
}

size_t detach_keys_feed(struct detach_keys *keys, const uint8_t *data, size_t size,
			uint8_t *ret_out, bool *ret_detached)
{
	size_t n_out = 0;

	*ret_detached = false;
	if (!keys->n_keys) {
		memcpy(ret_out, data, size);
		return size;
	}
	for (size_t i = 0; i < size; i++) {
		n_out += step(keys, data[i], ret_out + n_out);
		if (keys->matched == keys->n_keys) {
			keys->matched = 0;
			*ret_detached = true;
			break;
		}
	}
	return n_out;
}
