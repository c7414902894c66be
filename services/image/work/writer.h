#pragma once
/*
 * Bytes on their way into a blob or an archive: compressed if asked, with the
 * digests of both sides. The only file that writes by libarchive, and only by
 * its filters; what it makes of the same bytes is always the same.
 */

#include "services/image/document.h"
#include "services/image/work/stream.h"

struct writer;

struct written {
	char digest[DIGEST_SIZE];  /* of what was written */
	char diff_id[DIGEST_SIZE]; /* of what was given */
	uint64_t size;             /* of what was written */
};

/* @fd is borrowed. @is_hashed: it becomes a blob: keep the digests, and the limit of bytes. */
int writer_new(int fd, enum compression compression, bool is_hashed, uint64_t limit,
	       struct writer **ret_writer);
struct writer *writer_free(struct writer *writer);
void writer_freep(struct writer **writer);
/* Negative errno; -EFBIG above the limit of bytes. */
int writer_add(struct writer *writer, const void *data, size_t size);
/* All is written; nothing is synced. @ret_written may be NULL when nothing is hashed. */
int writer_finish(struct writer *writer, struct written *ret_written);
