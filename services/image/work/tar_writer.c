/* Writing tar: see tar_writer.h. */

#include <stdio.h>
#include <string.h>
#include <sys/sysmacros.h>

#include "services/image/work/tar_writer.h"

#define BLOCK 512

struct header {
	char name[100], mode[8], uid[8], gid[8], size[12], mtime[12], checksum[8], type, link[100];
	char magic[6], version[2], user[32], group[32], major[8], minor[8], prefix[155], pad[12];
};
_Static_assert(sizeof(struct header) == BLOCK, "a tar header is one block");

static const char zeros[BLOCK];

/* Fills a field with octal digits; false: there is no room. */
static bool octal(char *field, size_t size, uint64_t value)
{
	char text[32];

	if (value >> (3 * (size - 1)))
		return false;
	snprintf(text, sizeof(text), "%0*llo", (int)size - 1, (unsigned long long)value);
	memcpy(field, text, size - 1);
	return true;
}

static bool copy_text(char *field, size_t size, const char *text)
{
	size_t length = strlen(text);

	memcpy(field, text, length < size ? length : size);
	return length <= size;
}

/* "<length> <key>=<value>\n", where the length counts itself. */
static int add_record(struct schema_buffer *pax, const char *key, const void *value, size_t size)
{
	size_t rest = strlen(key) + size + 3, total = rest + 1;

	while (rest + (size_t)snprintf(NULL, 0, "%zu", total) != total)
		total = rest + (size_t)snprintf(NULL, 0, "%zu", total);
	if (schema_buffer_addf(pax, "%zu %s=", total, key) || schema_buffer_add(pax, value, size) ||
	    schema_buffer_add(pax, "\n", 1))
		return error_origin(-ENOMEM);
	return 0;
}

static int add_text(struct schema_buffer *pax, const char *key, const char *text)
{
	return error_trace(add_record(pax, key, text, strlen(text)));
}

static int add_number(struct schema_buffer *pax, const char *key, uint64_t number)
{
	char text[32];

	snprintf(text, sizeof(text), "%llu", (unsigned long long)number);
	return error_trace(add_text(pax, key, text));
}

static int add_time(struct schema_buffer *pax, const struct timespec *time)
{
	long long seconds = time->tv_sec;
	long nanoseconds = time->tv_nsec;
	const char *sign = "";
	char text[48];

	if (seconds < 0) {
		sign = "-";
		seconds = -seconds - (nanoseconds ? 1 : 0);
		nanoseconds = nanoseconds ? 1000000000 - nanoseconds : 0;
	}
	if (nanoseconds)
		snprintf(text, sizeof(text), "%s%lld.%09ld", sign, seconds, nanoseconds);
	else
		snprintf(text, sizeof(text), "%s%lld", sign, seconds);
	return error_trace(add_text(pax, "mtime", text));
}

static int add_xattrs(struct schema_buffer *pax, const struct tar_head *head)
{
	char key[300];
	int r = 0;

	for (size_t i = 0; i < head->n_xattrs && !r; i++) {
		const struct tar_xattr *xattr = &head->xattrs[i];

		if (strpbrk(xattr->name, "=\n") || strlen(xattr->name) > 255)
			return error_origin(-EINVAL);
		snprintf(key, sizeof(key), "SCHILY.xattr.%s", xattr->name);
		r = add_record(pax, key, xattr->value, xattr->size);
	}
	return error_trace(r);
}

static bool is_utf8(const char *text)
{
	for (const unsigned char *c = (const unsigned char *)text; *c; c++) {
		unsigned more = *c < 0x80 ? 0 : *c >= 0xf0 ? 3 : *c >= 0xe0 ? 2 : 1;

		if (*c >= 0x80 && (*c < 0xc2 || *c > 0xf4))
			return false;
		while (more--) {
			if ((*++c & 0xc0) != 0x80)
				return false;
		}
	}
	return true;
}

/* Fields of @header that have room; the others become records of @pax. */
static int fill(const struct tar_head *head, struct header *header, struct schema_buffer *pax)
{
	const char *link = head->link ?: "";
	bool has_name = copy_text(header->name, sizeof(header->name), head->path);
	bool has_link = copy_text(header->link, sizeof(header->link), link);
	bool has_time;
	int r = 0;

	if ((!has_name && !is_utf8(head->path)) || (!has_link && !is_utf8(link)))
		r = add_text(pax, "hdrcharset", "BINARY");
	if (!r && !has_name)
		r = add_text(pax, "path", head->path);
	if (!r && !has_link)
		r = add_text(pax, "linkpath", link);
	octal(header->mode, sizeof(header->mode), head->mode & 07777);
	if (!r && !octal(header->uid, sizeof(header->uid), head->uid))
		r = add_number(pax, "uid", head->uid);
	if (!r && !octal(header->gid, sizeof(header->gid), head->gid))
		r = add_number(pax, "gid", head->gid);
	if (!r && !octal(header->size, sizeof(header->size), head->size))
		r = add_number(pax, "size", head->size);
	has_time = head->mtime.tv_sec >= 0 &&
		   octal(header->mtime, sizeof(header->mtime), (uint64_t)head->mtime.tv_sec);
	if (!r && (!has_time || head->mtime.tv_nsec))
		r = add_time(pax, &head->mtime);
	octal(header->major, sizeof(header->major), major(head->device));
	octal(header->minor, sizeof(header->minor), minor(head->device));
	return r ? error_trace(r) : error_trace(add_xattrs(pax, head));
}

static int write_header(struct writer *writer, struct header *header, char type)
{
	unsigned sum = 0;

	header->type = type;
	memcpy(header->magic, "ustar", 6);
	memcpy(header->version, "00", 2);
	memset(header->checksum, ' ', sizeof(header->checksum));
	for (size_t i = 0; i < BLOCK; i++)
		sum += ((const unsigned char *)header)[i];
	octal(header->checksum, 7, sum);
	header->checksum[6] = '\0';
	return error_trace(writer_add(writer, header, sizeof(*header)));
}

static int write_pax(struct writer *writer, const struct schema_buffer *pax)
{
	struct header header = {};
	int r;

	copy_text(header.name, sizeof(header.name), "PaxHeaders.0/x");
	octal(header.mode, sizeof(header.mode), 0644);
	octal(header.uid, sizeof(header.uid), 0);
	octal(header.gid, sizeof(header.gid), 0);
	octal(header.size, sizeof(header.size), pax->size);
	octal(header.mtime, sizeof(header.mtime), 0);
	r = write_header(writer, &header, 'x');
	if (!r)
		r = writer_add(writer, pax->data, pax->size);
	return r ? error_trace(r) : error_trace(tar_put_fill(writer, pax->size));
}

int tar_put_head(struct writer *writer, const struct tar_head *head)
{
	_cleanup_(schema_buffer_clear) struct schema_buffer pax = {};
	struct header header = {};
	int r;

	r = fill(head, &header, &pax);
	if (!r && pax.size)
		r = write_pax(writer, &pax);
	return r ? error_trace(r) : error_trace(write_header(writer, &header, head->type));
}

int tar_put_fill(struct writer *writer, uint64_t size)
{
	size_t rest = size % BLOCK;

	return rest ? error_trace(writer_add(writer, zeros, BLOCK - rest)) : 0;
}

int tar_put_end(struct writer *writer)
{
	int r = writer_add(writer, zeros, sizeof(zeros));

	return r ? error_trace(r) : error_trace(writer_add(writer, zeros, sizeof(zeros)));
}
