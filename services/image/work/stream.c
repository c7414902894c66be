/*
 * Decompression and the tar reader: see stream.h. Two libarchive readers in a
 * row: a raw one whose only work is to undo the compression, and a tar one that
 * reads from it, so that the hash sees each uncompressed byte, padding included.
 * The first works in a thread of its own, a few blocks ahead: decompression and
 * digest take as long as making the files does.
 */

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "services/image/work/still.h"
#include "services/image/work/stream.h"

#define BLOCK_SIZE (1u << 20)
#define SLOT_SIZE  (1u << 20)
#define N_SLOTS    4
#define TAR_BLOCK  512
#define RATIO_FREE (64ull << 20) /* uncompressed bytes before the ratio counts */

struct stream {
	int fd;
	bool is_pipe; /* somebody fills it meanwhile */
	void *block;  /* what was read from fd */
	struct archive *raw, *tar;
	struct hash *hash;
	struct work_limits limits;
	uint64_t n_in, n_out, n_entries;
	const char *limit; /* which one was exceeded */
	uint64_t limit_value;
	int error; /* of read(2) */

	/* Between the two: slots [taken, filled) are full. What stands above is the thread's while it runs. */
	pthread_t thread;
	bool has_thread;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct slot {
		char *data;
		size_t size;
	} slots[N_SLOTS];
	unsigned filled, taken;
	uint64_t n_taken; /* bytes */
	uint64_t
		data_end; /* of the present entry: n_taken if the archive ends right behind its content */
	bool is_holding; /* the reader still uses the slot that it took last */
	bool is_at_end, is_failed, is_stopped;
	char failure[256];
};

int stream_open(const char *path)
{
	int fd;

	still_begin();
	fd = open(path, O_RDONLY | O_NOCTTY | O_CLOEXEC);
	still_end();
	return fd;
}

static la_ssize_t read_file(struct archive *raw, void *userdata, const void **ret_buffer)
{
	struct stream *stream = userdata;
	ssize_t size;

	do {
		if (stream->is_pipe)
			still_begin();
		size = read(stream->fd, stream->block, BLOCK_SIZE);
		if (stream->is_pipe)
			still_end();
	} while (size < 0 && errno == EINTR);
	if (size < 0) {
		stream->error = errno;
		archive_set_error(raw, errno, "cannot read: %s", strerror(errno));
		return -1;
	}
	stream->n_in += (uint64_t)size;
	*ret_buffer = stream->block;
	return size;
}

/* Is there more than a sane image has? */
static bool is_over_limit(struct stream *stream)
{
	if (stream->n_out > stream->limits.bytes) {
		stream->limit = "uncompressed bytes (limit bytes)";
		stream->limit_value = stream->limits.bytes;
	} else if (stream->n_out > RATIO_FREE &&
		   (stream->n_out - RATIO_FREE) / stream->limits.ratio > stream->n_in) {
		stream->limit = "uncompressed bytes for each byte of the blob (limit ratio)";
		stream->limit_value = stream->limits.ratio;
	}
	return stream->limit;
}

/* One uncompressed block: its size, 0 at the end, -1 on failure. */
static la_ssize_t next_block(struct stream *stream, const void **ret_block)
{
	la_int64_t offset;
	size_t size = 0;
	int r;

	do
		r = archive_read_data_block(stream->raw, ret_block, &size, &offset);
	while (r == ARCHIVE_OK && !size);
	if (r == ARCHIVE_EOF)
		return 0;
	stream->n_out += size;
	if (r == ARCHIVE_OK && !is_over_limit(stream))
		return (la_ssize_t)size;
	if (stream->limit)
		snprintf(stream->failure, sizeof(stream->failure), "more than %llu %s",
			 (unsigned long long)stream->limit_value, stream->limit);
	else
		snprintf(stream->failure, sizeof(stream->failure), "%s",
			 archive_error_string(stream->raw) ?: "damaged");
	return -1;
}

/* Waits for an empty slot; NULL when nobody reads any more. */
static struct slot *wait_for_room(struct stream *stream)
{
	struct slot *slot;

	pthread_mutex_lock(&stream->lock);
	while (stream->filled - stream->taken + stream->is_holding >= N_SLOTS &&
	       !stream->is_stopped)
		pthread_cond_wait(&stream->changed, &stream->lock);
	slot = stream->is_stopped ? NULL : &stream->slots[stream->filled % N_SLOTS];
	pthread_mutex_unlock(&stream->lock);
	return slot;
}

static void hand_over(struct stream *stream, la_ssize_t result)
{
	pthread_mutex_lock(&stream->lock);
	if (result > 0)
		stream->filled++;
	stream->is_at_end = result == 0;
	stream->is_failed = result < 0;
	pthread_cond_broadcast(&stream->changed);
	pthread_mutex_unlock(&stream->lock);
}

/* Blocks of any size are cut into slots. */
static bool fill(struct stream *stream, const char *block, size_t size)
{
	while (size) {
		size_t part = size < SLOT_SIZE ? size : SLOT_SIZE;
		struct slot *slot = wait_for_room(stream);

		if (!slot)
			return false;
		memcpy(slot->data, block, part);
		slot->size = part;
		hand_over(stream, 1);
		block += part;
		size -= part;
	}
	return true;
}

static void *decompress(void *userdata)
{
	struct stream *stream = userdata;
	const void *block;
	la_ssize_t size;

	while ((size = next_block(stream, &block)) > 0) {
		if (stream->hash)
			hash_add(stream->hash, block, (size_t)size);
		if (!fill(stream, block, (size_t)size))
			return NULL;
	}
	hand_over(stream, size);
	return NULL;
}

/*
 * Some writers (umoci insert) end an archive with the last byte of the last file, without the zeros that fill
 * up its block. These are given here, for the tar reader and not for the hash, in this case alone: the end of
 * the content is where the header says that it is, and not one byte of filling is there. A stream that was cut
 * within content or within filling is thus refused for what it is, whether a digest is known or not; one that
 * was cut exactly there is such an archive to the byte, and only its digest, which is compared afterwards in
 * any case, can tell.
 */
static la_ssize_t fill_up(struct stream *stream, const void **ret_buffer)
{
	static const char zeros[TAR_BLOCK];
	size_t rest = stream->n_taken % TAR_BLOCK;

	if (!rest || stream->n_taken != stream->data_end)
		return 0;
	stream->n_taken += TAR_BLOCK - rest;
	*ret_buffer = zeros;
	return (la_ssize_t)(TAR_BLOCK - rest);
}

/* The tar reader's input; a slot is its own until it asks for the next one. */
static la_ssize_t read_raw(struct archive *tar, void *userdata, const void **ret_buffer)
{
	struct stream *stream = userdata;
	const struct slot *slot = NULL;
	bool is_failed;

	pthread_mutex_lock(&stream->lock);
	stream->is_holding = false;
	pthread_cond_broadcast(&stream->changed);
	while (stream->filled == stream->taken && !stream->is_at_end && !stream->is_failed)
		pthread_cond_wait(&stream->changed, &stream->lock);
	if (stream->filled != stream->taken) {
		slot = &stream->slots[stream->taken++ % N_SLOTS];
		stream->is_holding = true;
	}
	is_failed = stream->is_failed;
	pthread_mutex_unlock(&stream->lock);
	if (slot) {
		stream->n_taken += slot->size;
		*ret_buffer = slot->data;
		return (la_ssize_t)slot->size;
	}
	if (!is_failed)
		return fill_up(stream, ret_buffer);
	archive_set_error(tar, EIO, "%s", stream->failure);
	return -1;
}

/* Sentence for a libarchive failure. */
static int refuse(struct stream *stream, struct archive *archive, const char *what, struct why *why)
{
	if (stream->error && (stream->is_failed || !stream->has_thread))
		return why_errno(why, error_origin(-stream->error), "cannot read the archive");
	if (archive_errno(archive) == ENOMEM)
		return why_set(why, -ENOMEM, "%s needs too much memory", what);
	return why_set(why, WORK_E_INVALID, "%s: %s", what,
		       work_show(archive_error_string(archive) ?: "damaged"));
}

static int open_raw(struct stream *stream, struct why *why)
{
	struct archive_entry *entry;
	int r;

	stream->raw = archive_read_new();
	if (!stream->raw)
		return error_origin(-ENOMEM);
	/* Anything but OK would mean that an outside program does it. */
	if (archive_read_support_filter_gzip(stream->raw) != ARCHIVE_OK ||
	    archive_read_support_filter_zstd(stream->raw) != ARCHIVE_OK)
		return why_set(why, error_origin(-ENOTSUP), "libarchive lacks gzip or zstd");
	archive_read_support_format_raw(stream->raw);
	archive_read_support_format_empty(stream->raw);
	r = archive_read_open(stream->raw, stream, NULL, read_file, NULL);
	if (r != ARCHIVE_OK)
		return refuse(stream, stream->raw, "not readable", why);
	r = archive_read_next_header(stream->raw, &entry);
	if (r == ARCHIVE_EOF)
		stream->is_at_end = true;
	else if (r != ARCHIVE_OK)
		return refuse(stream, stream->raw, "not readable", why);
	return 0;
}

static struct stream *stream_alloc(int fd)
{
	struct stream *stream = calloc(1, sizeof(*stream));
	struct stat status;

	if (!stream)
		return NULL;
	stream->is_pipe = !fstat(fd, &status) && S_ISFIFO(status.st_mode);
	pthread_mutex_init(&stream->lock, NULL);
	pthread_cond_init(&stream->changed, NULL);
	stream->fd = fd;
	stream->block = malloc(BLOCK_SIZE);
	for (size_t i = 0; i < N_SLOTS; i++) {
		stream->slots[i].data = malloc(SLOT_SIZE);
		if (!stream->slots[i].data)
			return stream_free(stream);
	}
	return stream->block ? stream : stream_free(stream);
}

int stream_new(int fd, bool is_hashed, const struct work_limits *limits, struct stream **ret_stream,
	       struct why *why)
{
	_cleanup_(stream_freep) struct stream *stream = stream_alloc(fd);
	int r;

	if (!stream)
		return error_origin(-ENOMEM);
	stream->limits = work_limits_fill(limits);
	(void)posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL);
	r = is_hashed ? hash_new(&stream->hash) : 0;
	if (!r)
		r = open_raw(stream, why);
	if (r)
		return error_trace(r);
	*ret_stream = TAKE(stream);
	return 0;
}

static void stop_thread(struct stream *stream)
{
	if (!stream->has_thread)
		return;
	pthread_mutex_lock(&stream->lock);
	stream->is_stopped = true;
	pthread_cond_broadcast(&stream->changed);
	pthread_mutex_unlock(&stream->lock);
	pthread_join(stream->thread, NULL);
	stream->has_thread = false;
}

struct stream *stream_free(struct stream *stream)
{
	if (!stream)
		return NULL;
	stop_thread(stream);
	for (size_t i = 0; i < N_SLOTS; i++)
		free(stream->slots[i].data);
	pthread_cond_destroy(&stream->changed);
	pthread_mutex_destroy(&stream->lock);
	archive_read_free(stream->tar);
	archive_read_free(stream->raw);
	hash_free(stream->hash);
	free(stream->block);
	free(stream);
	return NULL;
}

void stream_freep(struct stream **stream)
{
	*stream = stream_free(*stream);
}

static int start_thread(struct stream *stream, struct why *why)
{
	if (stream->is_at_end || stream->has_thread)
		return 0;
	if (pthread_create(&stream->thread, NULL, decompress, stream))
		return why_set(why, -ENOMEM, "cannot start a thread");
	stream->has_thread = true;
	return 0;
}

int stream_read(struct stream *stream, const void **ret_data, size_t *ret_size, struct why *why)
{
	la_ssize_t size;
	int r;

	r = start_thread(stream, why);
	if (r)
		return error_trace(r);
	size = read_raw(stream->raw, stream, ret_data);
	if (size < 0)
		return refuse(stream, stream->raw, "damaged", why);
	*ret_size = (size_t)size;
	return 0;
}

int stream_open_tar(struct stream *stream, struct archive **ret_tar, struct why *why)
{
	int r;

	stream->tar = archive_read_new();
	if (!stream->tar)
		return error_origin(-ENOMEM);
	archive_read_support_format_tar(stream->tar);
	archive_read_support_format_empty(stream->tar);
	r = start_thread(stream, why);
	if (r)
		return error_trace(r);
	if (archive_read_open(stream->tar, stream, NULL, read_raw, NULL) != ARCHIVE_OK)
		return refuse(stream, stream->tar, "not a tar archive", why);
	*ret_tar = stream->tar;
	return 0;
}

/* The content of a sparse file has another size than the file: no end is known. */
static void note_data_end(struct stream *stream, struct archive_entry *entry)
{
	la_int64_t size = archive_entry_size(entry);

	stream->data_end = 0;
	if (size > 0 && !archive_entry_sparse_count(entry))
		stream->data_end = (uint64_t)archive_filter_bytes(stream->tar, 0) + (uint64_t)size;
}

int stream_next(struct stream *stream, struct archive_entry **ret_entry, struct why *why)
{
	int r = archive_read_next_header(stream->tar, ret_entry);

	if (r == ARCHIVE_EOF) {
		*ret_entry = NULL;
		return 0;
	}
	if (r != ARCHIVE_OK)
		return refuse(stream, stream->tar, "damaged tar header", why);
	if (++stream->n_entries > stream->limits.entries)
		return why_set(why, WORK_E_INVALID, "more than %llu entries (limit entries)",
			       (unsigned long long)stream->limits.entries);
	note_data_end(stream, *ret_entry);
	return 0;
}

int stream_data(struct stream *stream, const void **ret_data, size_t *ret_size, int64_t *ret_offset,
		struct why *why)
{
	la_int64_t offset = 0;
	int r;

	*ret_size = 0;
	do
		r = archive_read_data_block(stream->tar, ret_data, ret_size, &offset);
	while (r == ARCHIVE_OK && !*ret_size);
	*ret_offset = offset;
	if (r == ARCHIVE_EOF) {
		*ret_size = 0;
		return 0;
	}
	if (r != ARCHIVE_OK)
		return refuse(stream, stream->tar, "damaged content", why);
	return 0;
}

int stream_finish(struct stream *stream, char ret_digest[DIGEST_SIZE], struct why *why)
{
	const void *block;
	la_ssize_t size;

	/* The tar reader has taken every block that it asked for; the rest is behind the end. */
	do
		size = read_raw(stream->tar, stream, &block);
	while (size > 0);
	if (size < 0)
		return refuse(stream, stream->tar, "damaged", why);
	if (stream->hash)
		hash_finish(stream->hash, ret_digest);
	return 0;
}
