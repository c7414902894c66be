#pragma once
/*
 * A file as the tar stream that it holds: plain, gzip or zstd, told by its first
 * bytes. The only file that knows libarchive's filters. The uncompressed bytes
 * are hashed as they pass; no other program is ever run for it.
 */

#include <archive.h>
#include <archive_entry.h>
#include <stdbool.h>

#include "services/image/work/hash.h"
#include "services/image/work/work.h"

struct stream;

/* Opens an archive to be read; negative with errno set. A FIFO waits for its writer here. */
int stream_open(const char *path);
/* @fd is borrowed; it need not be seekable. @is_hashed: keep a digest of the uncompressed bytes. */
int stream_new(int fd, bool is_hashed, const struct work_limits *limits, struct stream **ret_stream,
	       struct why *why);
struct stream *stream_free(struct stream *stream);
void stream_freep(struct stream **stream);

/* The next uncompressed bytes, whatever they are; *ret_size 0 at the end. Instead of a reader of the tar. */
int stream_read(struct stream *stream, const void **ret_data, size_t *ret_size, struct why *why);
/* A reader of the tar in it: tar is the only format that is understood. Owned by @stream. */
int stream_open_tar(struct stream *stream, struct archive **ret_tar, struct why *why);
/* The next entry. 0 with *ret_entry NULL at the end; WORK_E_INVALID or negative. */
int stream_next(struct stream *stream, struct archive_entry **ret_entry, struct why *why);
/* The next bytes of the entry, at *ret_offset; *ret_size 0 at its end. */
int stream_data(struct stream *stream, const void **ret_data, size_t *ret_size, int64_t *ret_offset,
		struct why *why);
/* Reads what is behind the tar's end and gives the digest of all uncompressed bytes. */
int stream_finish(struct stream *stream, char ret_digest[DIGEST_SIZE], struct why *why);
