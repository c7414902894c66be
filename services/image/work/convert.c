/*
 * davit-image-work convert: an image with its layers in another form. The bytes
 * of a layer stay the same uncompressed, and so do its diffID, the image's config
 * and what it is unpacked to; blobs and the documents that name them are new.
 * Documents keep all fields that mean nothing here.
 */

#include <fcntl.h>
#include <string.h>

#include "broker/lib/file.h"
#include "schemas/json.h"
#include "services/image/document.h"
#include "services/image/platform.h"
#include "services/image/work/writer.h"

#define NESTING_MAX 4
#define BLOBS_MAX   4096

struct convert {
	const struct work_convert_request *request;
	int blobs, ingest;
	bool is_changing; /* compression is asked for */
	enum compression compression;
	size_t n_written;
	struct work_limits limits;
	struct work_import_result result;
	struct why *why;
};

/* What becomes of a descriptor. */
struct outcome {
	char digest[DIGEST_SIZE];
	uint64_t size;
	const char *media_type; /* NULL: as it was */
};

/* ---- blobs ---- */

static int add_blob(struct convert *convert, const char *name, const struct written *written,
		    const char *media_type, const char *diff_id)
{
	struct work_blob *blob;
	int r;

	if (convert->result.blobs.count == BLOBS_MAX)
		return why_set(convert->why, WORK_E_INVALID, "more than %d blobs", BLOBS_MAX);
	blob = schema_list_add(&convert->result.blobs);
	if (!blob)
		return error_origin(-ENOMEM);
	blob->size = written->size;
	r = schema_set(&blob->digest, written->digest) ?: schema_set(&blob->path, name)
	    ?: schema_set(&blob->media_type, media_type) ?: schema_set(&blob->diff_id, diff_id);
	return error_trace(r);
}

static int create(struct convert *convert, char name[24], int *ret_fd)
{
	snprintf(name, 24, "%zu", convert->n_written++);
	*ret_fd = openat(convert->ingest, name,
			 O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	return *ret_fd < 0 ? why_errno(convert->why, error_origin(-errno),
				       "cannot create a file in the ingest directory")
			   : 0;
}

static int cannot_write(struct convert *convert, int r)
{
	if (r == -EFBIG)
		return why_set(convert->why, WORK_E_INVALID,
			       "a layer has more than %llu bytes (limit bytes)",
			       (unsigned long long)convert->limits.bytes);
	return why_errno(convert->why, r, "cannot write a blob");
}

static int sync_file(struct convert *convert, int fd)
{
	return fdatasync(fd) < 0 ? cannot_write(convert, error_origin(-errno)) : 0;
}

/* A document becomes a blob. */
static int put_document(struct convert *convert, json_t *json, const char *media_type,
			struct outcome *outcome)
{
	_cleanup_(cleanup_free) char *text = json_dumps(json, JSON_COMPACT);
	_cleanup_(cleanup_fd) int fd = -1;
	struct written written = {};
	char name[24];
	int r;

	if (!text)
		return error_origin(-ENOMEM);
	r = create(convert, name, &fd);
	if (r)
		return error_trace(r);
	written.size = strlen(text);
	digest_of(text, written.size, written.digest);
	r = file_write_all(fd, text, written.size);
	r = r ? cannot_write(convert, r) : sync_file(convert, fd);
	if (!r)
		r = add_blob(convert, name, &written, media_type, NULL);
	*outcome = (struct outcome){.size = written.size, .media_type = media_type};
	memcpy(outcome->digest, written.digest, DIGEST_SIZE);
	return error_trace(r);
}

static int read_document(struct convert *convert, const struct descriptor *descriptor,
			 char **ret_text, size_t *ret_size)
{
	_cleanup_(cleanup_free) char *text = NULL;
	char digest[DIGEST_SIZE];
	int r;

	r = file_read(convert->blobs, descriptor->digest + strlen("sha256:"), DOCUMENT_SIZE_MAX,
		      &text, ret_size);
	if (r)
		return why_set(convert->why, WORK_E_DAMAGED,
			       "blob %s cannot be read (%s): import or pull the image again",
			       descriptor->digest, strerror(-r));
	digest_of(text, *ret_size, digest);
	if (strcmp(digest, descriptor->digest))
		return why_set(convert->why, WORK_E_DAMAGED,
			       "blob %s is damaged: import or pull the image again",
			       descriptor->digest);
	*ret_text = TAKE(text);
	return 0;
}

/* ---- layers ---- */

static int recompress(struct convert *convert, int from, int to, struct written *written)
{
	_cleanup_(stream_freep) struct stream *stream = NULL;
	_cleanup_(writer_freep) struct writer *writer = NULL;
	const void *data;
	size_t size = 1;
	int r;

	r = stream_new(from, false, &convert->limits, &stream, convert->why);
	if (!r)
		r = writer_new(to, convert->compression, true, convert->limits.bytes, &writer);
	while (!r && size) {
		r = stream_read(stream, &data, &size, convert->why);
		if (!r && size)
			r = writer_add(writer, data, size);
		if (r < 0)
			return cannot_write(convert, r);
	}
	if (r)
		return error_trace(r);
	r = writer_finish(writer, written);
	return r ? cannot_write(convert, r) : 0;
}

static const char *layer_type(bool is_oci, enum compression compression)
{
	switch (compression) {
	case COMPRESSION_GZIP:
		return is_oci ? MEDIA_OCI_LAYER_GZIP : MEDIA_DOCKER_LAYER_GZIP;
	case COMPRESSION_ZSTD: /* docker has no name for it */
		return MEDIA_OCI_LAYER_ZSTD;
	case COMPRESSION_NONE:
		break;
	}
	return is_oci ? MEDIA_OCI_LAYER : MEDIA_DOCKER_LAYER;
}

static int open_blob(struct convert *convert, const struct descriptor *layer, int *ret_fd)
{
	*ret_fd = openat(convert->blobs, layer->digest + strlen("sha256:"),
			 O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (*ret_fd < 0)
		return why_set(convert->why, WORK_E_DAMAGED,
			       "layer %s cannot be read (%s): import or pull the image again",
			       layer->digest, strerror(errno));
	return 0;
}

static int rewrite_layer(struct convert *convert, const struct descriptor *layer,
			 const char *diff_id, const char *media_type, struct outcome *outcome)
{
	_cleanup_(cleanup_fd) int from = -1, to = -1;
	struct written written;
	char name[24];
	int r;

	r = open_blob(convert, layer, &from);
	if (!r)
		r = create(convert, name, &to);
	if (!r)
		r = recompress(convert, from, to, &written);
	if (r)
		return r > 0 ? why_prefix(convert->why, r, "layer %s", layer->digest)
			     : error_trace(r);
	if (diff_id && strcmp(written.diff_id, diff_id))
		return why_set(convert->why, WORK_E_DAMAGED,
			       "layer %s is damaged: its content is %s, its image says %s; import "
			       "or pull the image again",
			       layer->digest, written.diff_id, diff_id);
	r = sync_file(convert, to);
	if (!r)
		r = add_blob(convert, name, &written, media_type, written.diff_id);
	outcome->size = written.size;
	memcpy(outcome->digest, written.digest, DIGEST_SIZE);
	return error_trace(r);
}

/* What is no layer of files (an attestation, say) stays as it is. */
static int convert_layer(struct convert *convert, const struct descriptor *layer,
			 const char *diff_id, bool is_oci, struct outcome *outcome)
{
	enum compression now;

	*outcome = (struct outcome){.size = layer->size};
	memcpy(outcome->digest, layer->digest, DIGEST_SIZE);
	if (!document_layer_compression(layer->media_type, &now))
		return 0;
	outcome->media_type = layer_type(is_oci, convert->is_changing ? convert->compression : now);
	if (!convert->is_changing || now == convert->compression)
		return 0;
	return error_trace(rewrite_layer(convert, layer, diff_id, outcome->media_type, outcome));
}

/* ---- documents ---- */

static int set_descriptor(json_t *json, const struct outcome *outcome)
{
	int r = json_object_set_new(json, "digest", json_string(outcome->digest)) |
		json_object_set_new(json, "size", json_integer((json_int_t)outcome->size));

	if (outcome->media_type)
		r |= json_object_set_new(json, "mediaType", json_string(outcome->media_type));
	return r ? error_origin(-ENOMEM) : 0;
}

static bool is_docker(const char *media_type)
{
	return media_type && strstr(media_type, "vnd.docker.");
}

/* Of the image's config, to compare the layers with; none for what is no image. */
static int read_diff_ids(struct convert *convert, const struct document_manifest *manifest,
			 struct document_config *config)
{
	const char *media_type = manifest->config.media_type;
	_cleanup_(cleanup_free) char *text = NULL;
	size_t size;
	int r;

	if (media_type && strcmp(media_type, MEDIA_OCI_CONFIG) &&
	    strcmp(media_type, MEDIA_DOCKER_CONFIG))
		return 0;
	r = read_document(convert, &manifest->config, &text, &size);
	if (r)
		return error_trace(r);
	r = document_parse_config(text, size, config, convert->why);
	return r > 0 ? why_prefix(convert->why, WORK_E_INVALID, "config %s",
				  manifest->config.digest)
		     : error_trace(r);
}

static int convert_layers(struct convert *convert, const struct document_manifest *manifest,
			  bool is_oci, json_t *json)
{
	_cleanup_(document_config_clear) struct document_config config = {};
	json_t *list = json_object_get(json, "layers");
	int r;

	r = read_diff_ids(convert, manifest, &config);
	for (size_t i = 0; i < manifest->layers.count && !r; i++) {
		const char *diff_id = i < config.diff_ids.count ? config.diff_ids.items[i] : NULL;
		struct outcome outcome;

		r = convert_layer(convert, &manifest->layers.items[i], diff_id, is_oci, &outcome);
		if (!r)
			r = set_descriptor(json_array_get(list, i), &outcome);
	}
	return error_trace(r);
}

static int convert_manifest(struct convert *convert, const struct descriptor *descriptor,
			    const struct document_manifest *manifest, json_t *json,
			    struct outcome *outcome)
{
	bool was_docker = is_docker(manifest->media_type) || is_docker(descriptor->media_type);
	bool is_oci = convert->request->oci || !was_docker ||
		      (convert->is_changing && convert->compression == COMPRESSION_ZSTD);
	const char *media_type = is_oci ? MEDIA_OCI_MANIFEST : MEDIA_DOCKER_MANIFEST;
	json_t *config = json_object_get(json, "config");
	int r;

	r = convert_layers(convert, manifest, is_oci, json);
	if (r)
		return error_trace(r);
	if (is_oci && is_docker(manifest->config.media_type) &&
	    json_object_set_new(config, "mediaType", json_string(MEDIA_OCI_CONFIG)))
		return error_origin(-ENOMEM);
	if (json_object_set_new(json, "mediaType", json_string(media_type)))
		return error_origin(-ENOMEM);
	return error_trace(put_document(convert, json, media_type, outcome));
}

static int convert_target(struct convert *convert, const struct descriptor *descriptor,
			  unsigned depth, struct outcome *outcome);

/* The entries that are wanted, each converted, and parts that are no images; the others are left out. */
static int convert_entries(struct convert *convert, const struct document_index *index,
			   unsigned depth, json_t *entries, json_t *kept)
{
	int chosen = platform_choose(index, convert->request->platform), r;

	for (size_t i = 0; i < index->count; i++) {
		const struct descriptor *entry = &index->items[i].descriptor;
		bool is_part = document_is_part(entry->media_type);
		struct outcome outcome;

		if (!is_part && !convert->request->all_platforms && (int)i != chosen)
			continue;
		r = is_part ? 0 : convert_target(convert, entry, depth + 1, &outcome);
		if (!r && !is_part)
			r = set_descriptor(json_array_get(entries, i), &outcome);
		if (!r && json_array_append(kept, json_array_get(entries, i)))
			r = error_origin(-ENOMEM);
		if (r)
			return error_trace(r);
	}
	return 0;
}

static int convert_index(struct convert *convert, const struct descriptor *descriptor,
			 const struct document_index *index, json_t *json, unsigned depth,
			 struct outcome *outcome)
{
	bool is_oci = convert->request->oci || !is_docker(descriptor->media_type) ||
		      (convert->is_changing && convert->compression == COMPRESSION_ZSTD);
	const char *media_type = is_oci ? MEDIA_OCI_INDEX : MEDIA_DOCKER_LIST;
	_cleanup_(json_decrefp) json_t *kept = json_array();
	int r;

	if (!convert->request->all_platforms &&
	    platform_choose(index, convert->request->platform) < 0) {
		_cleanup_(cleanup_free) char *platform = platform_text(convert->request->platform);

		return why_set(convert->why, WORK_E_INVALID, "index %s has nothing for %s",
			       descriptor->digest, platform);
	}
	r = convert_entries(convert, index, depth, json_object_get(json, "manifests"), kept);
	if (r)
		return error_trace(r);
	if (json_object_set(json, "manifests", kept) ||
	    json_object_set_new(json, "mediaType", json_string(media_type)))
		return error_origin(-ENOMEM);
	return error_trace(put_document(convert, json, media_type, outcome));
}

static int convert_target(struct convert *convert, const struct descriptor *descriptor,
			  unsigned depth, struct outcome *outcome)
{
	_cleanup_(document_manifest_clear) struct document_manifest manifest = {};
	_cleanup_(document_index_clear) struct document_index index = {};
	_cleanup_(json_decrefp) json_t *json = NULL;
	_cleanup_(cleanup_free) char *text = NULL;
	size_t size;
	int r;

	if (depth > NESTING_MAX)
		return why_set(convert->why, WORK_E_INVALID, "index in index, more than %d deep",
			       NESTING_MAX);
	r = read_document(convert, descriptor, &text, &size);
	if (r)
		return error_trace(r);
	json = json_parse(text, size, DOCUMENT_SIZE_MAX, NULL);
	if (json && !document_parse_manifest(text, size, NULL, &manifest, NULL))
		return error_trace(convert_manifest(convert, descriptor, &manifest, json, outcome));
	r = document_parse_index(text, size, NULL, &index, convert->why);
	if (r || !json)
		return why_prefix(convert->why, WORK_E_INVALID, "blob %s is no image",
				  descriptor->digest);
	return error_trace(convert_index(convert, descriptor, &index, json, depth, outcome));
}

/* ---- the image ---- */

static int name_result(struct convert *convert, const struct outcome *outcome)
{
	struct work_image *image = schema_list_add(&convert->result.images);

	if (!image)
		return error_origin(-ENOMEM);
	image->target = calloc(1, sizeof(*image->target));
	if (!image->target)
		return error_origin(-ENOMEM);
	image->target->size = outcome->size;
	return schema_set(&image->name, convert->request->name)
	       ?: schema_set(&image->target->digest, outcome->digest)
	       ?: schema_set(&image->target->media_type, outcome->media_type);
}

static void read_compression(struct convert *convert)
{
	const char *text = convert->request->compression ?: "";

	convert->is_changing = text[0];
	if (!strcmp(text, "gzip"))
		convert->compression = COMPRESSION_GZIP;
	if (!strcmp(text, "zstd"))
		convert->compression = COMPRESSION_ZSTD;
}

int work_convert(const struct work_convert_request *request, int blobs, int ingest,
		 struct work_import_result *ret_result, struct why *why)
{
	struct convert convert = {.request = request,
				  .blobs = blobs,
				  .ingest = ingest,
				  .limits = work_limits_fill(request->limits),
				  .why = why};
	struct outcome outcome;
	int r;

	read_compression(&convert);
	r = convert_target(&convert, request->target, 0, &outcome);
	if (!r)
		r = name_result(&convert, &outcome);
	if (!r && fsync(ingest) < 0)
		r = cannot_write(&convert, error_origin(-errno));
	if (r) {
		work_import_result_clear(&convert.result);
		return error_trace(r);
	}
	*ret_result = convert.result;
	return 0;
}
