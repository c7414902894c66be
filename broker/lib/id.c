#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "broker/lib/file.h"

void id_make(uint8_t id[ID_SIZE])
{
	ssize_t n;

	do
		n = getrandom(id, ID_SIZE, 0);
	while (n < 0 && errno == EINTR);
	/* Up to 256 bytes come whole or not at all, and an id that is not random is worse. */
	if (n != ID_SIZE)
		abort();
}

void id_format(const uint8_t id[ID_SIZE], char text[ID_TEXT_SIZE])
{
	static const char digits[] = "0123456789abcdef";

	for (size_t i = 0; i < ID_SIZE; i++) {
		text[2 * i] = digits[id[i] >> 4];
		text[2 * i + 1] = digits[id[i] & 15];
	}
	text[2 * ID_SIZE] = '\0';
}

/* -1: no lower-case hexadecimal digit. */
static int digit_value(char digit)
{
	if (digit >= '0' && digit <= '9')
		return digit - '0';
	if (digit >= 'a' && digit <= 'f')
		return digit - 'a' + 10;
	return -1;
}

int id_parse(const char *text, uint8_t id[ID_SIZE])
{
	uint8_t parsed[ID_SIZE];

	if (strnlen(text, ID_TEXT_SIZE) != 2 * ID_SIZE)
		return -EINVAL;
	for (size_t i = 0; i < ID_SIZE; i++) {
		int high = digit_value(text[2 * i]), low = digit_value(text[2 * i + 1]);

		if (high < 0 || low < 0)
			return -EINVAL;
		parsed[i] = (uint8_t)(high << 4 | low);
	}
	memcpy(id, parsed, ID_SIZE);
	return 0;
}

/*
 * FNV-1a with 128 bits over parent, step with its NUL, and attempt (4 bytes,
 * most significant first), then a mixing of each half, because FNV hardly moves
 * the upper bits for what comes last. Ids of half-done operations lie in stores
 * that the next release reads: this may never change.
 */
typedef unsigned __int128 hash_t;

static hash_t hash_bytes(hash_t hash, const void *data, size_t size)
{
	const hash_t prime = (hash_t)1 << 88 | 0x13b;
	const uint8_t *bytes = data;

	for (size_t i = 0; i < size; i++)
		hash = (hash ^ bytes[i]) * prime;
	return hash;
}

static uint64_t mix(uint64_t half)
{
	half = (half ^ half >> 33) * 0xff51afd7ed558ccdu;
	half = (half ^ half >> 33) * 0xc4ceb9fe1a85ec53u;
	return half ^ half >> 33;
}

static void put_be64(uint8_t *to, uint64_t value)
{
	for (int i = 7; i >= 0; i--, value >>= 8)
		to[i] = (uint8_t)value;
}

void id_derive(const uint8_t parent[ID_SIZE], const char *step, uint32_t attempt,
	       uint8_t id[ID_SIZE])
{
	const uint8_t number[4] = {(uint8_t)(attempt >> 24), (uint8_t)(attempt >> 16),
				   (uint8_t)(attempt >> 8), (uint8_t)attempt};
	hash_t hash = (hash_t)0x6c62272e07bb0142u << 64 | 0x62b821756295c58du;
	uint64_t low, high;

	hash = hash_bytes(hash, parent, ID_SIZE);
	hash = hash_bytes(hash, step, strlen(step) + 1);
	hash = hash_bytes(hash, number, sizeof(number));
	low = mix((uint64_t)hash);
	high = mix((uint64_t)(hash >> 64) ^ low);
	put_be64(id, high);
	put_be64(id + 8, low);
}
