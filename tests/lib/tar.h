#pragma once
/* Writes tar archives, well-formed or not, for tests: each entry as it is told, nothing checked. */

#include "schemas/schema.h"

struct tar_entry {
	char type; /* '0' file, '1' hard link, '2' symbolic link, '3' '4' devices, '5' directory, '6' FIFO */
	const char *name; /* more than 100 bytes: in a pax header */
	const char *link;
	const char *data;
	size_t size;             /* of data; 0: strlen(data) */
	size_t claimed;          /* size in the header, if it is to be another one */
	unsigned mode, uid, gid; /* mode 0: 0644 or 0755 */
	unsigned mtime;
	unsigned major, minor;
	const char *xattr, *value; /* one extended attribute */
	const char *const *pax;    /* more pax records: key, value, ..., NULL */
};

/* Append to @tar; abort when memory is out. */
void tar_add(struct schema_buffer *tar, const struct tar_entry *entry);
void tar_end(struct schema_buffer *tar);
/* @entries up to one without a name, and the end. */
void tar_write(struct schema_buffer *tar, const struct tar_entry *entries);
