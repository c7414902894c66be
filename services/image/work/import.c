/*
 * davit-image-work import: which blobs of an archive are needed, and which images
 * they make. Documents are followed from the archive's index (OCI layout) or from
 * docker-save's manifest.json; each blob must have the digest and size by which
 * it is referred to.
 */

#include <fcntl.h>
#include <string.h>

#include "broker/lib/file.h"
#include "schemas/check.h"
#include "services/image/document.h"
#include "services/image/platform.h"
#include "services/image/work/import_files.h"

#define ANNOTATION_NAME "io.containerd.image.name"
#define ANNOTATION_TAG  "org.opencontainers.image.ref.name"
#define NESTING_MAX     4
#define IMAGES_MAX      256
#define BLOBS_MAX       4096

struct import {
	const struct work_import_request *request;
	struct import_files files;
	struct work_import_result result;
	struct why *why;
};

static int keep_target(struct import *import, const struct descriptor *descriptor, unsigned depth);

/* ---- blobs ---- */

static int keep(struct import *import, struct import_file *file, const char *media_type)
{
	struct work_blob *blob;

	if (file->is_kept)
		return 0;
	if (import->result.blobs.count == BLOBS_MAX)
		return why_set(import->why, WORK_E_INVALID, "more than %d blobs", BLOBS_MAX);
	blob = schema_list_add(&import->result.blobs);
	if (!blob || schema_set(&blob->digest, file->digest) ||
	    schema_set(&blob->path, file->stored) || schema_set(&blob->media_type, media_type))
		return error_origin(-ENOMEM);
	blob->size = file->size;
	file->is_kept = true;
	return 0;
}

/* The blob that a descriptor of an OCI layout means. */
static int find_blob(struct import *import, const struct descriptor *descriptor,
		     struct import_file **ret_file)
{
	char path[] =
		"blobs/sha256/0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
	struct import_file *file;

	memcpy(path + strlen("blobs/sha256/"), descriptor->digest + strlen("sha256:"), 64);
	file = import_files_find(&import->files, path);
	if (!file)
		return why_set(import->why, WORK_E_INVALID, "the archive lacks blob %s",
			       descriptor->digest);
	if (strcmp(file->digest, descriptor->digest))
		return why_set(import->why, WORK_E_DAMAGED, "the content of blob %s is %s",
			       descriptor->digest, file->digest);
	if (file->size != descriptor->size)
		return why_set(import->why, WORK_E_DAMAGED,
			       "blob %s has %llu bytes, its descriptor says %llu",
			       descriptor->digest, (unsigned long long)file->size,
			       (unsigned long long)descriptor->size);
	*ret_file = file;
	return 0;
}

static int keep_blob(struct import *import, const struct descriptor *descriptor)
{
	struct import_file *file;
	int r;

	r = find_blob(import, descriptor, &file);
	if (!r)
		r = keep(import, file, descriptor->media_type);
	return error_trace(r);
}

static int load(struct import *import, const struct import_file *file, char **ret_text,
		size_t *ret_size)
{
	int r = import_files_load(&import->files, file, ret_text, ret_size);

	if (r == -EFBIG)
		return why_set(import->why, WORK_E_INVALID,
			       "document %s has %llu bytes, more than %u", file->digest,
			       (unsigned long long)file->size, DOCUMENT_SIZE_MAX);
	if (r)
		return why_errno(import->why, r, "cannot read document %s", file->digest);
	return 0;
}

/* ---- documents ---- */

static bool is_image_config(const char *media_type)
{
	return !media_type || !strcmp(media_type, MEDIA_OCI_CONFIG) ||
	       !strcmp(media_type, MEDIA_DOCKER_CONFIG);
}

/* As many layers as diffIDs: each layer's content will be checked against one of them. */
static int check_config(struct import *import, const struct import_file *file, size_t n_layers)
{
	_cleanup_(document_config_clear) struct document_config config = {};
	_cleanup_(cleanup_free) char *text = NULL;
	size_t size;
	int r;

	r = load(import, file, &text, &size);
	if (r)
		return error_trace(r);
	r = document_parse_config(text, size, &config, import->why);
	if (r > 0)
		return why_prefix(import->why, WORK_E_INVALID, "image config %s", file->digest);
	if (r)
		return error_trace(r);
	if (config.diff_ids.count != n_layers)
		return why_set(import->why, WORK_E_INVALID,
			       "image config %s names %zu layers, its manifest %zu", file->digest,
			       config.diff_ids.count, n_layers);
	return 0;
}

static int keep_manifest(struct import *import, const struct descriptor *descriptor,
			 const char *text, size_t size)
{
	_cleanup_(document_manifest_clear) struct document_manifest manifest = {};
	struct import_file *config;
	int r;

	r = document_parse_manifest(text, size, descriptor->media_type, &manifest, import->why);
	if (r > 0)
		return why_prefix(import->why, WORK_E_INVALID, "manifest %s", descriptor->digest);
	if (!r)
		r = find_blob(import, &manifest.config, &config);
	if (!r && is_image_config(manifest.config.media_type))
		r = check_config(import, config, manifest.layers.count);
	if (!r)
		r = keep(import, config, manifest.config.media_type);
	for (size_t i = 0; i < manifest.layers.count && !r; i++)
		r = keep_blob(import, &manifest.layers.items[i]);
	return error_trace(r);
}

/* All entries of @index, or the one for the platform. */
static int keep_entries(struct import *import, const struct document_index *index, unsigned depth)
{
	int chosen = platform_choose(index, import->request->platform);
	int r = 0;

	for (size_t i = 0; i < index->count && !r; i++) {
		const struct descriptor *entry = &index->items[i].descriptor;

		if (document_is_part(entry->media_type))
			r = keep_blob(import, entry);
		else if ((int)i == chosen || import->request->all_platforms)
			r = keep_target(import, entry, depth + 1);
	}
	return error_trace(r);
}

static int keep_index(struct import *import, const struct descriptor *descriptor, const char *text,
		      size_t size, unsigned depth)
{
	_cleanup_(document_index_clear) struct document_index index = {};
	int r;

	r = document_parse_index(text, size, descriptor->media_type, &index, import->why);
	if (r > 0)
		return why_prefix(import->why, WORK_E_INVALID, "index %s", descriptor->digest);
	if (r)
		return error_trace(r);
	if (!import->request->all_platforms &&
	    platform_choose(&index, import->request->platform) < 0) {
		_cleanup_(cleanup_free) char *platform = platform_text(import->request->platform);

		return why_set(import->why, WORK_E_INVALID, "index %s has nothing for %s",
			       descriptor->digest, platform);
	}
	return error_trace(keep_entries(import, &index, depth));
}

/* A document and all that it refers to. */
static int keep_target(struct import *import, const struct descriptor *descriptor, unsigned depth)
{
	_cleanup_(cleanup_free) char *text = NULL;
	struct import_file *file;
	size_t size;
	int r;

	if (depth > NESTING_MAX)
		return why_set(import->why, WORK_E_INVALID, "index in index, more than %d deep",
			       NESTING_MAX);
	r = find_blob(import, descriptor, &file);
	/* Once, however often indexes name it. */
	if (!r && file->is_walked)
		return 0;
	if (!r)
		r = keep(import, file, descriptor->media_type);
	if (!r)
		r = load(import, file, &text, &size);
	if (r)
		return error_trace(r);
	file->is_walked = true;
	if (document_is_index(descriptor->media_type))
		return error_trace(keep_index(import, descriptor, text, size, depth));
	if (document_is_manifest(descriptor->media_type))
		return error_trace(keep_manifest(import, descriptor, text, size));
	return why_set(import->why, WORK_E_INVALID, "%s is neither an index nor a manifest but %s",
		       descriptor->digest,
		       descriptor->media_type ? work_show(descriptor->media_type) : "nothing");
}

/* ---- names ---- */

static int add_image(struct import *import, const char *name, const struct descriptor *target)
{
	struct work_image *image;

	if (!check_reference(name))
		return why_set(import->why, WORK_E_INVALID, "'%s' is not a name for an image",
			       work_show(name));
	if (import->result.images.count == IMAGES_MAX)
		return why_set(import->why, WORK_E_INVALID, "more than %d names", IMAGES_MAX);
	image = schema_list_add(&import->result.images);
	if (!image)
		return error_origin(-ENOMEM);
	image->target = calloc(1, sizeof(*image->target));
	if (!image->target || schema_set(&image->name, name) ||
	    schema_set(&image->target->digest, target->digest) ||
	    schema_set(&image->target->media_type, target->media_type))
		return error_origin(-ENOMEM);
	image->target->size = target->size;
	return 0;
}

/* The names that one target gets; @name is what the archive says. */
static int name_target(struct import *import, const char *name, const struct descriptor *target)
{
	const struct work_import_request *request = import->request;
	_cleanup_(cleanup_free) char *own = NULL, *by_digest = NULL;
	int r;

	r = reference_import_name(name, request->base_name, request->only_base, &own);
	if (!r && own)
		r = add_image(import, own, target);
	if (r || !request->digests || (own && name && request->skip_digest_for_named))
		return error_trace(r);
	by_digest = text_format("%s@%s", request->base_name, target->digest);
	return by_digest ? error_trace(add_image(import, by_digest, target))
			 : error_origin(-ENOMEM);
}

static const char *entry_name(const struct document_entry *entry)
{
	const char *name = schema_map_get(&entry->descriptor.annotations, ANNOTATION_NAME);

	return name ?: schema_map_get(&entry->descriptor.annotations, ANNOTATION_TAG);
}

static int name_index(struct import *import, struct import_file *file)
{
	struct descriptor target = {
		.media_type = (char *)MEDIA_OCI_INDEX, .digest = file->digest, .size = file->size};
	int r;

	if (!import->request->index_name)
		return 0;
	r = add_image(import, import->request->index_name, &target);
	if (!r)
		r = keep(import, file, MEDIA_OCI_INDEX);
	return error_trace(r);
}

/* ---- OCI layout ---- */

/* An entry of index.json. Without a name only what is for this platform. */
static int import_entry(struct import *import, const struct document_entry *entry, bool is_chosen)
{
	size_t named = import->result.images.count;
	int r;

	if (!document_is_index(entry->descriptor.media_type) &&
	    !document_is_manifest(entry->descriptor.media_type))
		return 0;
	r = is_chosen || entry_name(entry)
		    ? name_target(import, entry_name(entry), &entry->descriptor)
		    : 0;
	if (r)
		return error_trace(r);
	if (import->result.images.count == named && !import->request->index_name)
		return 0;
	if (import->result.images.count == named && !is_chosen && !import->request->all_platforms)
		return 0;
	return error_trace(keep_target(import, &entry->descriptor, 0));
}

static int import_layout(struct import *import, struct import_file *file)
{
	_cleanup_(document_index_clear) struct document_index index = {};
	_cleanup_(cleanup_free) char *text = NULL;
	size_t size;
	int chosen;
	int r;

	r = load(import, file, &text, &size);
	if (!r)
		r = document_parse_index(text, size, NULL, &index, import->why);
	if (r > 0)
		return why_prefix(import->why, WORK_E_INVALID, "index.json");
	chosen = platform_choose(&index, import->request->platform);
	for (size_t i = 0; i < index.count && !r; i++)
		r = import_entry(import, &index.items[i], (int)i == chosen);
	if (!r)
		r = name_index(import, file);
	return error_trace(r);
}

/* ---- docker save ---- */

static const char *layer_type(enum compression compression)
{
	switch (compression) {
	case COMPRESSION_GZIP:
		return MEDIA_DOCKER_LAYER_GZIP;
	case COMPRESSION_ZSTD:
		return MEDIA_OCI_LAYER_ZSTD;
	case COMPRESSION_NONE:
		break;
	}
	return MEDIA_DOCKER_LAYER;
}

static int saved_file(struct import *import, const char *path, struct import_file **ret_file)
{
	*ret_file = import_files_find(&import->files, path);
	if (!*ret_file)
		return why_set(import->why, WORK_E_INVALID, "the archive lacks '%s'",
			       work_show(path));
	return 0;
}

/* A config is named after its digest; one that is not has been tampered with. */
static int keep_saved_config(struct import *import, const struct document_saved *saved,
			     struct descriptor *ret_config)
{
	struct import_file *file;
	const char *hex;
	int r;

	r = saved_file(import, saved->config, &file);
	if (!r)
		r = check_config(import, file, saved->layers.count);
	if (r)
		return error_trace(r);
	hex = strrchr(saved->config, '/') ? strrchr(saved->config, '/') + 1 : saved->config;
	if (strlen(hex) == 69 && strspn(hex, "0123456789abcdef") == 64 &&
	    strncmp(hex, file->digest + 7, 64))
		return why_set(import->why, WORK_E_DAMAGED, "the content of '%s' is %s",
			       work_show(saved->config), file->digest);
	r = keep(import, file, MEDIA_DOCKER_CONFIG);
	*ret_config = (struct descriptor){.media_type = (char *)MEDIA_DOCKER_CONFIG,
					  .digest = file->digest,
					  .size = file->size};
	return error_trace(r);
}

static int keep_saved_layer(struct import *import, const char *path, struct descriptor *ret_layer)
{
	struct import_file *file;
	int r;

	r = saved_file(import, path, &file);
	if (!r && import->request->compress_blobs && file->compression == COMPRESSION_NONE)
		r = import_files_compress(&import->files, file, import->why);
	if (!r)
		r = keep(import, file, layer_type(file->compression));
	if (r)
		return error_trace(r);
	*ret_layer = (struct descriptor){.media_type = (char *)layer_type(file->compression),
					 .digest = file->digest,
					 .size = file->size};
	return 0;
}

/* Makes the manifest that docker-save left out. Its descriptors' strings are the files'. */
static int write_manifest(struct import *import, const struct document_saved *saved,
			  struct import_file **ret_file)
{
	struct descriptor layers[DOCUMENT_LAYERS_MAX], config;
	_cleanup_(cleanup_free) char *text = NULL;
	int r;

	r = keep_saved_config(import, saved, &config);
	for (size_t i = 0; i < saved->layers.count && !r; i++)
		r = keep_saved_layer(import, saved->layers.items[i], &layers[i]);
	if (r)
		return error_trace(r);
	text = document_write_manifest(&config, layers, saved->layers.count);
	if (!text)
		return error_origin(-ENOMEM);
	r = import_files_add(&import->files, text, strlen(text), ret_file);
	if (!r)
		r = keep(import, *ret_file, MEDIA_DOCKER_MANIFEST);
	return error_trace(r);
}

static int name_saved(struct import *import, const struct document_saved *saved,
		      const struct descriptor *target)
{
	int r = 0;

	if (!saved->names.count)
		return error_trace(name_target(import, NULL, target));
	for (size_t i = 0; i < saved->names.count && !r; i++) {
		_cleanup_(cleanup_free) char *name = reference_normalize(saved->names.items[i]);

		r = name ? name_target(import, name, target) : error_origin(-ENOMEM);
	}
	return error_trace(r);
}

/* One image; its manifest's descriptor becomes an entry of the index. */
static int import_saved_image(struct import *import, const struct document_saved *saved,
			      struct document_index *index)
{
	struct document_entry *entry;
	struct import_file *file;
	int r;

	r = write_manifest(import, saved, &file);
	if (r)
		return error_trace(r);
	entry = schema_list_add(index);
	if (!entry || schema_set(&entry->descriptor.digest, file->digest) ||
	    schema_set(&entry->descriptor.media_type, MEDIA_DOCKER_MANIFEST))
		return error_origin(-ENOMEM);
	entry->descriptor.size = file->size;
	return error_trace(name_saved(import, saved, &entry->descriptor));
}

static int write_index(struct import *import, const struct document_index *index)
{
	_cleanup_(cleanup_free) char *text = NULL;
	struct import_file *file;
	int r;

	if (!import->request->index_name)
		return 0;
	text = document_write_index(index->items, index->count);
	if (!text)
		return error_origin(-ENOMEM);
	r = import_files_add(&import->files, text, strlen(text), &file);
	if (!r)
		r = name_index(import, file);
	return error_trace(r);
}

static int import_saved(struct import *import, struct import_file *file)
{
	_cleanup_(document_saved_list_clear) struct document_saved_list list = {};
	_cleanup_(document_index_clear) struct document_index index = {};
	_cleanup_(cleanup_free) char *text = NULL;
	size_t size;
	int r;

	r = load(import, file, &text, &size);
	if (!r)
		r = document_parse_saved(text, size, &list, import->why);
	if (r > 0)
		return why_prefix(import->why, WORK_E_INVALID, "manifest.json");
	for (size_t i = 0; i < list.count && !r; i++)
		r = import_saved_image(import, &list.items[i], &index);
	if (!r)
		r = write_index(import, &index);
	return error_trace(r);
}

/* ---- the archive ---- */

static int check_layout(struct import *import, const struct import_file *file)
{
	_cleanup_(cleanup_free) char *text = NULL;
	size_t size;
	int r;

	r = load(import, file, &text, &size);
	if (!r)
		r = document_check_layout(text, size, import->why);
	return r > 0 ? why_prefix(import->why, WORK_E_INVALID, "oci-layout") : error_trace(r);
}

static int import_documents(struct import *import)
{
	struct import_file *layout = import_files_find(&import->files, "oci-layout");
	struct import_file *index = import_files_find(&import->files, "index.json");
	struct import_file *saved = import_files_find(&import->files, "manifest.json");
	int r;

	if (layout && index) {
		r = check_layout(import, layout);
		if (!r)
			r = import_layout(import, index);
		return error_trace(r);
	}
	if (saved)
		return error_trace(import_saved(import, saved));
	return why_set(import->why, WORK_E_INVALID,
		       "it is no image archive: neither oci-layout and index.json nor "
		       "manifest.json are in it");
}

static int open_archive(const struct work_import_request *request, int archive, int *ret_fd,
			struct why *why)
{
	if (!request->path || !request->path[0])
		*ret_fd = fcntl(archive, F_DUPFD_CLOEXEC, 3);
	else
		*ret_fd = stream_open(request->path);
	if (*ret_fd < 0)
		return why_errno(why, error_origin(-errno), "cannot open archive '%s'",
				 request->path ?: "");
	return 0;
}

static int import_all(struct import *import, int fd)
{
	struct work_limits limits = work_limits_fill(import->request->limits);
	int r;

	r = import_files_read(&import->files, fd, &limits, import->why);
	if (!r)
		r = import_documents(import);
	if (!r && !import->result.images.count)
		r = why_set(import->why, WORK_E_INVALID,
			    "nothing in it has a name%s: give a base name to name it by",
			    import->request->only_base ? " with that prefix" : "");
	if (!r)
		r = import_files_settle(&import->files, import->why);
	return error_trace(r);
}

int work_import(const struct work_import_request *request, int ingest, int archive,
		struct meter *meter, struct work_import_result *ret_result, struct why *why)
{
	struct import import = {
		.request = request, .files = {.ingest = ingest, .meter = meter}, .why = why};
	_cleanup_(cleanup_fd) int fd = -1;
	int r;

	r = open_archive(request, archive, &fd, why);
	if (!r) {
		meter_measure(meter, fd);
		r = import_all(&import, fd);
	}
	import_files_clear(&import.files);
	if (r) {
		work_import_result_clear(&import.result);
		return error_trace(r);
	}
	*ret_result = import.result;
	return 0;
}
