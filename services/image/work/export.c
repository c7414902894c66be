/*
 * davit-image-work export: blobs and documents as one archive, in the order in
 * which they are named. Each blob is compared with its digest as it passes: one
 * that is damaged ends the export, and the file that was there before stays.
 */

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "broker/lib/file.h"
#include "services/image/work/meter.h"
#include "services/image/work/output.h"
#include "services/image/work/tar_writer.h"

#define BLOCK_SIZE (256u << 10)

struct export
{
	const struct work_export_request *request;
	struct writer *writer;
	struct hash *hash;
	struct meter *meter;
	char *block;
	int blobs;
	struct why *why;
};

static int failed(struct export *export, int r)
{
	return why_errno(export->why, r, "cannot write archive '%s'", export->request->path);
}

static int write_head(struct export *export, const char *path, char type, uint64_t size)
{
	const struct tar_head head = {
		.path = path, .type = type, .mode = type == '5' ? 0755 : 0444, .size = size};
	int r = tar_put_head(export->writer, &head);

	return r ? failed(export, r) : 0;
}

static int damaged(struct export *export, const struct work_blob *blob, const char *problem)
{
	return why_set(export->why, WORK_E_DAMAGED,
		       "blob %s is damaged: %s; import or pull its image again", blob->digest,
		       problem);
}

static int copy_blob(struct export *export, const struct work_blob *blob, int fd)
{
	uint64_t left = blob->size;
	char digest[DIGEST_SIZE];
	int r;

	while (left) {
		size_t size = left < BLOCK_SIZE ? (size_t)left : BLOCK_SIZE;
		ssize_t n = read(fd, export->block, size);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return why_errno(export->why, error_origin(-errno), "cannot read blob %s",
					 blob->digest);
		if (!n)
			return damaged(export, blob, "it is shorter than its descriptor says");
		hash_add(export->hash, export->block, (size_t)n);
		r = writer_add(export->writer, export->block, (size_t)n);
		if (r)
			return failed(export, r);
		left -= (uint64_t)n;
		meter_move(export->meter, (size_t)n);
	}
	hash_finish(export->hash, digest);
	if (strcmp(digest, blob->digest))
		return damaged(export, blob, "its content has another digest");
	meter_end(export->meter, true);
	r = tar_put_fill(export->writer, blob->size);
	return r ? failed(export, r) : 0;
}

static int write_blob(struct export *export, const struct work_blob *blob)
{
	const char *hex = blob->digest + strlen("sha256:");
	_cleanup_(cleanup_fd) int fd = -1;
	char path[128];
	int r;

	fd = openat(export->blobs, hex, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 && errno == ENOENT)
		return why_set(
			export->why, WORK_E_DAMAGED,
			"blob %s is not in the content store: import or pull its image again",
			blob->digest);
	if (fd < 0)
		return why_errno(export->why, error_origin(-errno), "cannot read blob %s",
				 blob->digest);
	snprintf(path, sizeof(path), "blobs/sha256/%s", hex);
	r = meter_begin(export->meter, blob->digest, blob->size);
	if (!r)
		r = write_head(export, path, '0', blob->size);
	return r ? error_trace(r) : error_trace(copy_blob(export, blob, fd));
}

static int write_document(struct export *export, const struct work_document *document)
{
	int r;

	r = write_head(export, document->name, '0', document->text.size);
	if (r)
		return error_trace(r);
	r = writer_add(export->writer, document->text.data, document->text.size);
	if (!r)
		r = tar_put_fill(export->writer, document->text.size);
	return r ? failed(export, r) : 0;
}

static int write_all(struct export *export)
{
	const struct work_export_request *request = export->request;
	int r;

	for (size_t i = 0; i < request->blobs.count; i++)
		export->meter->note.total += request->blobs.items[i].size;
	r = write_head(export, "blobs/", '5', 0);
	if (!r)
		r = write_head(export, "blobs/sha256/", '5', 0);
	for (size_t i = 0; i < request->blobs.count && !r; i++)
		r = write_blob(export, &request->blobs.items[i]);
	for (size_t i = 0; i < request->documents.count && !r; i++)
		r = write_document(export, &request->documents.items[i]);
	if (r)
		return error_trace(r);
	r = tar_put_end(export->writer);
	if (!r)
		r = writer_finish(export->writer, NULL);
	meter_tell(export->meter);
	return r ? failed(export, r) : 0;
}

int work_export(const struct work_export_request *request, int blobs, struct meter *meter,
		struct why *why)
{
	struct export export = {.request = request, .meter = meter, .blobs = blobs, .why = why};
	_cleanup_(output_clear) struct output output = OUTPUT;
	int r;

	r = output_open(request->path, &output, why);
	if (r)
		return error_trace(r);
	export.block = malloc(BLOCK_SIZE);
	r = export.block
		    ? writer_new(output.fd, COMPRESSION_NONE, false, UINT64_MAX, &export.writer)
		    : error_origin(-ENOMEM);
	if (!r)
		r = hash_new(&export.hash);
	if (!r)
		r = write_all(&export);
	if (!r) {
		r = output_keep(&output);
		if (r)
			r = failed(&export, r);
	}
	writer_free(export.writer);
	hash_free(export.hash);
	free(export.block);
	return error_trace(r);
}
