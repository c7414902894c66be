/*
 * Measures hostile msgpack before anything unpacks it: one pass, no recursion,
 * no allocation. msgpack-c reserves count * 24 bytes as soon as it sees a
 * header, so a count must never exceed what the rest of the bytes can hold.
 * Extension types are not part of davit's messages. Format: the msgpack spec.
 */

#include <stddef.h>
#include <stdint.h>

#include "schemas/schema.h"

struct scan {
	const uint8_t *data;
	size_t size;
	size_t at;
	size_t nodes;
	uint64_t left[SCHEMA_DEPTH_MAX + 1]; /* values still to come at each depth, from 1 */
	unsigned depth;
};

/* What follows a value's first byte. */
struct head {
	unsigned length_bytes; /* of a length or count, big endian */
	uint64_t fixed;        /* payload bytes, or items, known from the first byte */
	unsigned items;        /* 0: payload of bytes; 1: array; 2: map */
};

static bool head_of(uint8_t byte, struct head *head)
{
	*head = (struct head){};
	if (byte <= 0x7f || byte >= 0xe0 || byte == 0xc0 || byte == 0xc2 || byte == 0xc3)
		return true;
	if ((byte & 0xf0) == 0x80)
		*head = (struct head){.fixed = 2u * (byte & 15), .items = 2};
	else if ((byte & 0xf0) == 0x90)
		*head = (struct head){.fixed = byte & 15, .items = 1};
	else if ((byte & 0xe0) == 0xa0)
		*head = (struct head){.fixed = byte & 31};
	else if (byte >= 0xc4 && byte <= 0xc6)
		*head = (struct head){.length_bytes = 1u << (byte - 0xc4)};
	else if (byte == 0xca || byte == 0xcb)
		*head = (struct head){.fixed = byte == 0xca ? 4 : 8};
	else if (byte >= 0xcc && byte <= 0xd3)
		*head = (struct head){.fixed = 1u << ((byte - 0xcc) & 3)};
	else if (byte >= 0xd9 && byte <= 0xdb)
		*head = (struct head){.length_bytes = 1u << (byte - 0xd9)};
	else if (byte >= 0xdc)
		*head = (struct head){.length_bytes = byte & 1 ? 4 : 2,
				      .items = byte >= 0xde ? 2 : 1};
	else
		return false;
	return true;
}

/* Takes one value's head and payload; for a container goes down one level. */
static int scan_value(struct scan *scan, size_t max_nodes)
{
	uint64_t length;
	struct head head;

	if (scan->at >= scan->size || ++scan->nodes > max_nodes)
		return SCHEMA_E_MALFORMED;
	if (!head_of(scan->data[scan->at++], &head))
		return SCHEMA_E_MALFORMED;
	if (head.length_bytes > scan->size - scan->at)
		return SCHEMA_E_MALFORMED;
	length = head.fixed;
	for (unsigned i = 0; i < head.length_bytes; i++)
		length = length << 8 | scan->data[scan->at++];
	if (head.length_bytes && head.items == 2)
		length *= 2;
	if (length > scan->size - scan->at)
		return SCHEMA_E_MALFORMED;
	if (!head.items) {
		scan->at += length;
		return 0;
	}
	if (!length)
		return 0;
	if (scan->depth >= SCHEMA_DEPTH_MAX)
		return SCHEMA_E_MALFORMED;
	scan->left[++scan->depth] = length;
	return 0;
}

/* Takes the next value, and goes up from every container that it ended, but the outermost. */
static int scan_next(struct scan *scan, size_t max_nodes)
{
	int r;

	scan->left[scan->depth]--;
	r = scan_value(scan, max_nodes);
	if (r)
		return r;
	while (scan->depth > 1 && !scan->left[scan->depth])
		scan->depth--;
	return 0;
}

/* The whole message; counts and gives the elements of the outermost container. */
static int scan_all(struct scan *scan, size_t max_nodes, struct schema_span *elements, size_t max,
		    size_t *ret_count)
{
	size_t count = 0, start;
	int r;

	r = scan_value(scan, max_nodes);
	start = scan->at;
	while (!r && (scan->depth > 1 || scan->left[1])) {
		r = scan_next(scan, max_nodes);
		if (r || scan->depth > 1)
			continue;
		if (count < max)
			elements[count] = (struct schema_span){scan->data + start,
							       scan->at - start};
		count++;
		start = scan->at;
	}
	if (r || scan->at != scan->size)
		return SCHEMA_E_MALFORMED;
	*ret_count = count;
	return 0;
}

int schema_scan(const void *data, size_t size, size_t max_nodes)
{
	struct scan scan = {.data = data, .size = size};
	size_t count;

	return scan_all(&scan, max_nodes, NULL, 0, &count);
}

int schema_scan_array(const void *data, size_t size, size_t max_nodes, struct schema_span *elements,
		      size_t max, size_t *ret_count)
{
	struct scan scan = {.data = data, .size = size};

	if (!size ||
	    ((scan.data[0] & 0xf0) != 0x90 && scan.data[0] != 0xdc && scan.data[0] != 0xdd))
		return SCHEMA_E_MALFORMED;
	return scan_all(&scan, max_nodes, elements, max, ret_count);
}

int schema_scan_map(const void *data, size_t size, size_t max_nodes, struct schema_span *elements,
		    size_t max, size_t *ret_count)
{
	struct scan scan = {.data = data, .size = size};
	int r;

	if (!size ||
	    ((scan.data[0] & 0xf0) != 0x80 && scan.data[0] != 0xde && scan.data[0] != 0xdf))
		return SCHEMA_E_MALFORMED;
	r = scan_all(&scan, max_nodes, elements, max, ret_count);
	if (!r)
		*ret_count /= 2;
	return r;
}
