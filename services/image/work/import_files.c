/* Reading an image archive: see import_files.h. */

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "broker/lib/file.h"
#include "schemas/check.h"
#include "services/image/document.h"
#include "services/image/work/entry.h"
#include "services/image/work/import_files.h"
#include "services/image/work/writer.h"

#define LINKS_MAX  16
#define FILES_MAX  65536
#define BLOCK_SIZE (256u << 10)

void import_files_clear(struct import_files *files)
{
	for (size_t i = 0; i < files->count; i++) {
		free(files->items[i].path);
		free(files->items[i].target);
		free(files->items[i].stored);
	}
	free(files->items);
	*files = (struct import_files){.ingest = files->ingest};
}

static int add(struct import_files *files, struct import_file **ret_file)
{
	if (files->count == files->capacity) {
		size_t capacity = files->capacity ? 2 * files->capacity : 64;
		struct import_file *items = reallocarray(files->items, capacity, sizeof(*items));

		if (!items)
			return error_origin(-ENOMEM);
		files->items = items;
		files->capacity = capacity;
	}
	*ret_file = &files->items[files->count];
	**ret_file = (struct import_file){.order = files->count};
	files->count++;
	return 0;
}

/* ---- writing ---- */

static int open_stored(struct import_files *files, struct import_file *file, int *ret_fd)
{
	file->stored = text_format("%zu", files->n_written++);
	if (!file->stored)
		return error_origin(-ENOMEM);
	*ret_fd = openat(files->ingest, file->stored,
			 O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	return *ret_fd < 0 ? error_origin(-errno) : 0;
}

static enum compression sniff(const void *data, size_t size)
{
	if (size >= 3 && !memcmp(data, "\x1f\x8b\x08", 3))
		return COMPRESSION_GZIP;
	if (size >= 4 && !memcmp(data, "\x28\xb5\x2f\xfd", 4))
		return COMPRESSION_ZSTD;
	return COMPRESSION_NONE;
}

static int write_content(struct import_files *files, struct import_file *file,
			 struct stream *stream, int fd, struct hash *hash, struct why *why)
{
	int64_t offset;
	const void *data;
	size_t size;
	int r;

	for (;;) {
		r = stream_data(stream, &data, &size, &offset, why);
		if (r || !size)
			return error_trace(r);
		if (offset != (int64_t)file->size)
			return why_set(why, WORK_E_INVALID, "entry '%s' is a sparse file",
				       work_show(file->path));
		if (!offset)
			file->compression = sniff(data, size);
		hash_add(hash, data, size);
		r = file_write_all(fd, data, size);
		if (r)
			return why_errno(why, r, "cannot write blob '%s'", work_show(file->path));
		file->size += size;
		meter_move(files->meter, size);
	}
}

/* What an OCI layout calls it; of others the digest is known when they have passed. */
static bool claims_digest(const struct import_file *file, char digest[DIGEST_SIZE])
{
	static const char prefix[] = "blobs/sha256/";

	if (strncmp(file->path, prefix, strlen(prefix)) != 0)
		return false;
	snprintf(digest, DIGEST_SIZE, "sha256:%s", file->path + strlen(prefix));
	return check_digest(digest) && strlen(file->path) == strlen(prefix) + 64;
}

static int store(struct import_files *files, struct import_file *file, struct stream *stream,
		 struct archive_entry *entry, struct hash *hash, struct why *why)
{
	char claimed[DIGEST_SIZE];
	bool is_named = claims_digest(file, claimed);
	_cleanup_(cleanup_fd) int fd = -1;
	int r;

	r = open_stored(files, file, &fd);
	if (r)
		return why_errno(why, r, "cannot create a file in the ingest directory");
	r = meter_begin(files->meter, is_named ? claimed : NULL,
			(uint64_t)archive_entry_size(entry));
	if (!r)
		r = write_content(files, file, stream, fd, hash, why);
	if (r)
		return error_trace(r);
	if (archive_entry_size(entry) != (int64_t)file->size)
		return why_set(why, WORK_E_INVALID,
			       "entry '%s' has %llu bytes, its header says %lld",
			       work_show(file->path), (unsigned long long)file->size,
			       (long long)archive_entry_size(entry));
	hash_finish(hash, file->digest);
	meter_end(files->meter, is_named && !strcmp(claimed, file->digest));
	/* The disk may start on it while the next file is read. */
	(void)sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WRITE);
	return 0;
}

int import_files_add(struct import_files *files, const char *text, size_t size,
		     struct import_file **ret_file)
{
	_cleanup_(cleanup_fd) int fd = -1;
	int r;

	r = add(files, ret_file);
	if (r)
		return error_trace(r);
	(*ret_file)->path = strdup("");
	if (!(*ret_file)->path)
		return error_origin(-ENOMEM);
	r = open_stored(files, *ret_file, &fd);
	if (!r)
		r = file_write_all(fd, text, size);
	if (r)
		return error_trace(r);
	digest_of(text, size, (*ret_file)->digest);
	(*ret_file)->size = size;
	return 0;
}

static int compress_into(int from, int to, struct written *ret_written)
{
	_cleanup_(writer_freep) struct writer *writer = NULL;
	_cleanup_(cleanup_free) char *block = malloc(BLOCK_SIZE);
	ssize_t n;
	int r;

	if (!block)
		return error_origin(-ENOMEM);
	r = writer_new(to, COMPRESSION_GZIP, true, UINT64_MAX, &writer);
	if (r)
		return error_trace(r);
	while ((n = read(from, block, BLOCK_SIZE)) > 0) {
		r = writer_add(writer, block, (size_t)n);
		if (r)
			return error_trace(r);
	}
	return n < 0 ? error_origin(-errno) : error_trace(writer_finish(writer, ret_written));
}

int import_files_compress(struct import_files *files, struct import_file *file, struct why *why)
{
	_cleanup_(cleanup_free) char *plain = file->stored;
	_cleanup_(cleanup_fd) int from = -1, to = -1;
	struct written written;
	int r;

	file->stored = NULL;
	from = openat(files->ingest, plain, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	r = from < 0 ? error_origin(-errno) : open_stored(files, file, &to);
	if (!r)
		r = compress_into(from, to, &written);
	if (!r && unlinkat(files->ingest, plain, 0) < 0)
		r = error_origin(-errno);
	if (r)
		return why_errno(why, r, "cannot compress '%s'", work_show(file->path));
	memcpy(file->digest, written.digest, DIGEST_SIZE);
	file->size = written.size;
	file->compression = COMPRESSION_GZIP;
	return 0;
}

/* ---- names ---- */

static int clean(const char *path, const struct work_limits *limits, char **ret_clean,
		 struct why *why)
{
	_cleanup_(entry_clear) struct entry entry = {};
	int r;

	r = entry_parse_link(path, limits, &entry, why);
	if (r)
		return error_trace(r);
	*ret_clean = text_format("%s%s%s", entry.parent, entry.parent[0] ? "/" : "", entry.name);
	return *ret_clean ? 0 : error_origin(-ENOMEM);
}

/* A symbolic link's target seen from the archive's root; NULL if it leads out of it. */
static int resolve(const char *path, const char *target, char **ret_target)
{
	_cleanup_(cleanup_free) char *joined = NULL;
	const char *slash = strrchr(path, '/');
	char *result, *end, *rest, *name;

	joined = target[0] == '/' || !slash
			 ? strdup(target)
			 : text_format("%.*s/%s", (int)(slash - path), path, target);
	result = joined ? calloc(1, strlen(joined) + 2) : NULL;
	if (!result)
		return error_origin(-ENOMEM);
	rest = joined;
	while ((name = strsep(&rest, "/"))) {
		if (!*name || !strcmp(name, "."))
			continue;
		if (strcmp(name, "..")) {
			strcat(strcat(result, *result ? "/" : ""), name);
			continue;
		}
		end = strrchr(result, '/');
		*(end ?: result) = '\0';
	}
	*ret_target = result;
	return 0;
}

static int read_link(struct import_file *file, struct archive_entry *entry,
		     const struct work_limits *limits, struct why *why)
{
	if (archive_entry_hardlink(entry))
		return error_trace(
			clean(archive_entry_hardlink(entry), limits, &file->target, why));
	if (!archive_entry_symlink(entry) || strlen(archive_entry_symlink(entry)) > 4096)
		return why_set(why, WORK_E_INVALID, "entry '%s' is a link to nothing or too far",
			       work_show(file->path));
	return error_trace(resolve(file->path, archive_entry_symlink(entry), &file->target));
}

static int read_file(struct import_files *files, struct stream *stream, struct archive_entry *entry,
		     const struct work_limits *limits, struct hash *hash, struct why *why)
{
	mode_t type = archive_entry_filetype(entry);
	bool is_link = archive_entry_hardlink(entry) || type == AE_IFLNK;
	const char *path = archive_entry_pathname(entry);
	struct import_file *file;
	int r;

	if (!is_link && type != AE_IFREG)
		return 0;
	if (!path)
		return why_set(why, WORK_E_INVALID, "an entry has no readable name");
	if (files->count == FILES_MAX)
		return why_set(why, WORK_E_INVALID, "more than %d files", FILES_MAX);
	r = add(files, &file);
	if (!r)
		r = clean(path, limits, &file->path, why);
	if (!r)
		r = is_link ? read_link(file, entry, limits, why)
			    : store(files, file, stream, entry, hash, why);
	return error_trace(r);
}

static int compare(const void *a, const void *b)
{
	const struct import_file *left = a, *right = b;
	int order = strcmp(left->path, right->path);

	return order ?: (left->order > right->order) - (left->order < right->order);
}

int import_files_read(struct import_files *files, int archive, const struct work_limits *limits,
		      struct why *why)
{
	_cleanup_(stream_freep) struct stream *stream = NULL;
	_cleanup_(hash_freep) struct hash *hash = NULL;
	struct archive_entry *entry;
	struct archive *tar;
	int r;

	r = stream_new(archive, false, limits, &stream, why);
	if (!r)
		r = stream_open_tar(stream, &tar, why);
	if (!r)
		r = hash_new(&hash);
	if (r)
		return error_trace(r);
	for (;;) {
		r = stream_next(stream, &entry, why);
		if (r || !entry)
			break;
		r = read_file(files, stream, entry, limits, hash, why);
		if (r)
			break;
	}
	if (r)
		return error_trace(r);
	if (files->count)
		qsort(files->items, files->count, sizeof(*files->items), compare);
	return 0;
}

/* ---- finding ---- */

/* Of several files of one path the last one counts. Those that were added have none. */
static struct import_file *find(struct import_files *files, const char *path)
{
	size_t low = 0, high = files->count;

	while (high && !files->items[high - 1].path[0])
		high--;
	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (strcmp(files->items[middle].path, path) <= 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low && !strcmp(files->items[low - 1].path, path) ? &files->items[low - 1] : NULL;
}

struct import_file *import_files_find(struct import_files *files, const char *path)
{
	struct import_file *file = *path ? find(files, path) : NULL;

	for (unsigned links = 0; file && file->target; links++) {
		if (links == LINKS_MAX || !file->target[0])
			return NULL;
		file = find(files, file->target);
	}
	return file;
}

int import_files_load(struct import_files *files, const struct import_file *file, char **ret_text,
		      size_t *ret_size)
{
	if (file->size > DOCUMENT_SIZE_MAX)
		return -EFBIG;
	return error_trace(
		file_read(files->ingest, file->stored, DOCUMENT_SIZE_MAX, ret_text, ret_size));
}

/* ---- the end ---- */

static int sync_file(struct import_files *files, const struct import_file *file)
{
	_cleanup_(cleanup_fd) int fd = -1;

	fd = openat(files->ingest, file->stored, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 || fdatasync(fd) < 0)
		return error_origin(-errno);
	return 0;
}

int import_files_settle(struct import_files *files, struct why *why)
{
	int r = 0;

	for (size_t i = 0; i < files->count && !r; i++) {
		const struct import_file *file = &files->items[i];

		if (!file->stored)
			continue;
		if (file->is_kept)
			r = sync_file(files, file)
				    ?: meter_done(files->meter, file->digest, file->size);
		else if (unlinkat(files->ingest, file->stored, 0) < 0)
			r = error_origin(-errno);
	}
	if (!r && fsync(files->ingest) < 0)
		r = error_origin(-errno);
	meter_tell(files->meter);
	return r ? why_errno(why, r, "cannot put the blobs on disk") : 0;
}
