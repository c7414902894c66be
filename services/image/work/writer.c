/* Bytes on their way out: see writer.h. */

#include <archive.h>
#include <archive_entry.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "broker/lib/file.h"
#include "services/image/work/still.h"
#include "services/image/work/writer.h"

#define BLOCK_SIZE 65536

struct writer {
	int fd;
	struct archive *raw; /* NULL: not compressed */
	struct hash *given, *out;
	uint64_t n_given, n_out, limit;
	int error; /* of a write, negative */
	bool is_dropped;
};

/* A pipe that does not block is waited for here. */
static void wait_for_room(int fd)
{
	struct pollfd room = {.fd = fd, .events = POLLOUT};

	still_begin();
	(void)poll(&room, 1, -1);
	still_end();
}

static int write_all(int fd, const char *data, size_t size)
{
	while (size) {
		ssize_t n = write(fd, data, size);

		if (n < 0 && errno == EAGAIN) {
			wait_for_room(fd);
		} else if (n < 0 && errno != EINTR) {
			return error_origin(-errno);
		} else if (n > 0) {
			data += n;
			size -= (size_t)n;
		}
	}
	return 0;
}

static int put(struct writer *writer, const void *data, size_t size)
{
	int r;

	if (writer->out)
		hash_add(writer->out, data, size);
	writer->n_out += size;
	r = write_all(writer->fd, data, size);
	if (r)
		writer->error = r;
	return error_trace(r);
}

static la_ssize_t write_compressed(struct archive *raw, void *userdata, const void *data,
				   size_t size)
{
	const struct writer *writer = userdata;

	if (writer->is_dropped || !put(userdata, data, size))
		return (la_ssize_t)size;
	archive_set_error(raw, EIO, "cannot write");
	return -1;
}

static int raw_error(struct writer *writer)
{
	if (writer->error)
		return writer->error;
	return error_origin(archive_errno(writer->raw) == ENOMEM ? -ENOMEM : -EIO);
}

/* A date in the head of gzip would make each result another one. */
static bool set_up_filter(struct archive *raw, enum compression compression)
{
	if (compression == COMPRESSION_ZSTD)
		return archive_write_add_filter_zstd(raw) == ARCHIVE_OK;
	return archive_write_add_filter_gzip(raw) == ARCHIVE_OK &&
	       archive_write_set_filter_option(raw, "gzip", "timestamp", NULL) == ARCHIVE_OK;
}

static int open_raw(struct writer *writer, enum compression compression)
{
	struct archive_entry *entry;
	bool is_open;

	writer->raw = archive_write_new();
	entry = archive_entry_new();
	is_open = writer->raw && entry && set_up_filter(writer->raw, compression) &&
		  archive_write_set_format_raw(writer->raw) == ARCHIVE_OK &&
		  archive_write_set_bytes_per_block(writer->raw, BLOCK_SIZE) == ARCHIVE_OK &&
		  archive_write_set_bytes_in_last_block(writer->raw, 1) == ARCHIVE_OK &&
		  archive_write_open(writer->raw, writer, NULL, write_compressed, NULL) ==
			  ARCHIVE_OK;
	if (is_open) {
		archive_entry_set_filetype(entry, AE_IFREG);
		is_open = archive_write_header(writer->raw, entry) == ARCHIVE_OK;
	}
	archive_entry_free(entry);
	return is_open ? 0 : error_origin(-ENOMEM);
}

int writer_new(int fd, enum compression compression, bool is_hashed, uint64_t limit,
	       struct writer **ret_writer)
{
	_cleanup_(writer_freep) struct writer *writer = calloc(1, sizeof(*writer));
	int r = 0;

	if (!writer)
		return error_origin(-ENOMEM);
	writer->fd = fd;
	writer->limit = limit;
	if (is_hashed)
		r = hash_new(&writer->out);
	if (!r && is_hashed && compression)
		r = hash_new(&writer->given);
	if (!r && compression)
		r = open_raw(writer, compression);
	if (r)
		return error_trace(r);
	*ret_writer = TAKE(writer);
	return 0;
}

struct writer *writer_free(struct writer *writer)
{
	if (!writer)
		return NULL;
	/* What was not finished is not wanted; but only an orderly end frees all that libarchive has. */
	writer->is_dropped = true;
	archive_write_free(writer->raw);
	hash_free(writer->given);
	hash_free(writer->out);
	free(writer);
	return NULL;
}

void writer_freep(struct writer **writer)
{
	*writer = writer_free(*writer);
}

int writer_add(struct writer *writer, const void *data, size_t size)
{
	writer->n_given += size;
	if (writer->n_given > writer->limit)
		return error_origin(-EFBIG);
	if (!writer->raw)
		return error_trace(put(writer, data, size));
	if (writer->given)
		hash_add(writer->given, data, size);
	if (archive_write_data(writer->raw, data, size) != (la_ssize_t)size)
		return raw_error(writer);
	return 0;
}

int writer_finish(struct writer *writer, struct written *ret_written)
{
	if (writer->raw && archive_write_close(writer->raw) != ARCHIVE_OK)
		return raw_error(writer);
	if (!ret_written)
		return 0;
	*ret_written = (struct written){.size = writer->n_out};
	if (writer->out)
		hash_finish(writer->out, ret_written->digest);
	memcpy(ret_written->diff_id, ret_written->digest, DIGEST_SIZE);
	if (writer->given)
		hash_finish(writer->given, ret_written->diff_id);
	return 0;
}
