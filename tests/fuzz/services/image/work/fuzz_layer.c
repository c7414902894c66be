/*
 * A layer's bytes, read to the end as applying it would: decompression, tar
 * headers, names, contents. Nothing is written.
 */

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "services/image/work/entry.h"
#include "services/image/work/stream.h"
#include "tests/fuzz/fuzz.h"

static const struct work_limits limits = {.entries = 1000, .bytes = 16 << 20};

static void try_name(const char *name)
{
	struct work_limits all = work_limits_fill(&limits);
	struct entry entry = {};

	if (!name || entry_parse(name, &all, &entry, NULL))
		return;
	FUZZ_ASSERT(!strchr(entry.name, '/') && strcmp(entry.name, "..") &&
		    strcmp(entry.name, "."));
	FUZZ_ASSERT(entry.parent[0] != '/' && strcmp(entry.parent, "..") &&
		    strncmp(entry.parent, "../", 3) && !strstr(entry.parent, "/../"));
	FUZZ_ASSERT(entry.kind == ENTRY_ROOT || entry.kind == ENTRY_SKIP || entry.name[0]);
	entry_clear(&entry);
}

static void read_entry(struct stream *stream, struct archive_entry *entry)
{
	int64_t offset;
	const void *data;
	size_t size;

	try_name(archive_entry_pathname(entry));
	try_name(archive_entry_hardlink(entry));
	if (archive_entry_filetype(entry) != AE_IFREG)
		return;
	while (!stream_data(stream, &data, &size, &offset, NULL) && size)
		FUZZ_ASSERT(offset >= 0);
}

static void read_layer(struct stream *stream)
{
	struct archive_entry *entry;
	char digest[DIGEST_SIZE];
	struct archive *tar;

	if (stream_open_tar(stream, &tar, NULL))
		return;
	while (!stream_next(stream, &entry, NULL) && entry)
		read_entry(stream, entry);
	if (!stream_finish(stream, digest, NULL))
		FUZZ_ASSERT(strlen(digest) == DIGEST_SIZE - 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	int fd = memfd_create("layer", MFD_CLOEXEC);
	struct stream *stream;

	FUZZ_ASSERT(fd >= 0);
	FUZZ_ASSERT(write(fd, data, size) == (ssize_t)size && lseek(fd, 0, SEEK_SET) == 0);
	if (!stream_new(fd, true, &limits, &stream, NULL)) {
		read_layer(stream);
		stream_free(stream);
	}
	close(fd);
	return 0;
}
