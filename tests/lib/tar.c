/* A tar writer: see tar.h. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/lib/tar.h"

#define BLOCK 512

struct header {
	char name[100], mode[8], uid[8], gid[8], size[12], mtime[12], checksum[8], type, link[100];
	char magic[6], version[2], user[32], group[32], major[8], minor[8], prefix[155], pad[12];
};
_Static_assert(sizeof(struct header) == BLOCK, "a tar header is one block");

static void add(struct schema_buffer *tar, const void *data, size_t size)
{
	if (schema_buffer_add(tar, data, size))
		abort();
}

static void octal(char *field, size_t size, unsigned long long value)
{
	char text[32];

	snprintf(text, sizeof(text), "%0*llo", (int)size - 1, value);
	memcpy(field, text, size - 1);
}

static void text(char *field, size_t size, const char *value)
{
	size_t length = strlen(value);

	memcpy(field, value, length < size ? length : size);
}

static void add_header(struct schema_buffer *tar, const struct tar_entry *entry, size_t size)
{
	struct header header = {};
	unsigned sum = 0;

	text(header.name, sizeof(header.name), entry->name);
	octal(header.mode, sizeof(header.mode),
	      entry->mode          ? entry->mode
	      : entry->type == '5' ? 0755
				   : 0644);
	octal(header.uid, sizeof(header.uid), entry->uid);
	octal(header.gid, sizeof(header.gid), entry->gid);
	octal(header.size, sizeof(header.size), size);
	octal(header.mtime, sizeof(header.mtime), entry->mtime);
	header.type = entry->type;
	text(header.link, sizeof(header.link), entry->link ? entry->link : "");
	memcpy(header.magic, "ustar", 6);
	memcpy(header.version, "00", 2);
	octal(header.major, sizeof(header.major), entry->major);
	octal(header.minor, sizeof(header.minor), entry->minor);
	memset(header.checksum, ' ', sizeof(header.checksum));
	for (size_t i = 0; i < BLOCK; i++)
		sum += ((const unsigned char *)&header)[i];
	octal(header.checksum, 7, sum);
	add(tar, &header, BLOCK);
}

static void add_data(struct schema_buffer *tar, const void *data, size_t size)
{
	static const char zeros[BLOCK];

	add(tar, data, size);
	if (size % BLOCK)
		add(tar, zeros, BLOCK - size % BLOCK);
}

/* "<length> <key>=<value>\n", the length counting itself. */
static void add_record(struct schema_buffer *records, const char *key, const char *value)
{
	size_t rest = strlen(key) + strlen(value) + 3, size = rest;
	char number[24];

	while (rest + (size_t)snprintf(number, sizeof(number), "%zu", size) != size)
		size = rest + strlen(number);
	if (schema_buffer_addf(records, "%zu %s=%s\n", size, key, value))
		abort();
}

static void add_pax(struct schema_buffer *tar, const struct tar_entry *entry)
{
	struct schema_buffer records = {};
	char key[300];

	if (strlen(entry->name) > 100)
		add_record(&records, "path", entry->name);
	if (entry->link && strlen(entry->link) > 100)
		add_record(&records, "linkpath", entry->link);
	if (entry->xattr) {
		snprintf(key, sizeof(key), "SCHILY.xattr.%s", entry->xattr);
		add_record(&records, key, entry->value);
	}
	for (const char *const *pax = entry->pax; pax && *pax; pax += 2)
		add_record(&records, pax[0], pax[1]);
	if (records.size) {
		add_header(tar, &(struct tar_entry){.type = 'x', .name = "pax"}, records.size);
		add_data(tar, records.data, records.size);
	}
	schema_buffer_clear(&records);
}

void tar_add(struct schema_buffer *tar, const struct tar_entry *entry)
{
	size_t size = entry->size ? entry->size : entry->data ? strlen(entry->data) : 0;

	add_pax(tar, entry);
	add_header(tar, entry, entry->claimed ? entry->claimed : size);
	if (size)
		add_data(tar, entry->data, size);
}

void tar_end(struct schema_buffer *tar)
{
	static const char zeros[2 * BLOCK];

	add(tar, zeros, sizeof(zeros));
}

void tar_write(struct schema_buffer *tar, const struct tar_entry *entries)
{
	for (; entries->name; entries++)
		tar_add(tar, entries);
	tar_end(tar);
}
