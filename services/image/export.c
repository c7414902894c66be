/*
 * image.export: what of the content store belongs to the images is found here,
 * and the archive's documents are made; a child writes it all. The targets of the
 * names stay what they are, so that an import of the archive gives the same digests.
 */

#include <string.h>

#include "broker/lib/file.h"
#include "services/image/handlers.h"
#include "services/image/lease.h"
#include "services/image/transfer.h"

#define NESTING_MAX     4
#define BLOBS_MAX       4096
#define ANNOTATION_NAME "io.containerd.image.name"
#define ANNOTATION_TAG  "org.opencontainers.image.ref.name"

struct exporting {
	struct image_service *image;
	struct operation *operation;
	struct transfer *transfer;
	const struct image_export_request *request;
	struct platform platform;
	struct set seen; /* digests of blobs */
	struct work_export_request work;
	struct document_index index;        /* index.json */
	struct document_saved_list saved;   /* manifest.json */
	struct schema_strs saved_manifests; /* their digests */
};

static void exporting_free(void *userdata)
{
	struct exporting *exporting = userdata;

	transfer_free(exporting->transfer);
	platform_clear(&exporting->platform);
	set_clear(&exporting->seen);
	work_export_request_clear(&exporting->work);
	document_index_clear(&exporting->index);
	document_saved_list_clear(&exporting->saved);
	schema_strs_clear(&exporting->saved_manifests);
	free(exporting);
}

/* ---- blobs ---- */

static int add_blob(struct exporting *exporting, const struct descriptor *descriptor,
		    const char *what, struct why *why)
{
	struct work_blob *blob;

	if (set_has(&exporting->seen, descriptor->digest))
		return 0;
	if (!content_has(exporting->image, descriptor->digest))
		return why_set(why, refused(BUS_DATA_LOSS),
			       "%s %s is not in the content store: import or pull the image again",
			       what, descriptor->digest);
	if (exporting->work.blobs.count == BLOBS_MAX)
		return why_set(why, refused(BUS_RESOURCE_EXHAUSTED), "more than %d blobs",
			       BLOBS_MAX);
	blob = schema_list_add(&exporting->work.blobs);
	if (!blob || set_add(&exporting->seen, descriptor->digest) ||
	    schema_set(&blob->digest, descriptor->digest) || schema_set(&blob->path, ""))
		return error_origin(-ENOMEM);
	blob->size = descriptor->size;
	return 0;
}

static bool is_distributable(const struct descriptor *layer)
{
	return !layer->media_type || (!strstr(layer->media_type, "nondistributable") &&
				      !strstr(layer->media_type, ".foreign."));
}

static bool is_left_out(const struct exporting *exporting, const struct descriptor *layer)
{
	return exporting->request->skip_non_distributable && !is_distributable(layer);
}

/* ---- manifest.json ---- */

/* Docker's short form of a name. */
static const char *familiar(const char *name)
{
	if (!strncmp(name, "docker.io/library/", 18))
		return name + 18;
	return strncmp(name, "docker.io/", 10) ? name : name + 10;
}

static int set_blob_path(char **member, const char *digest)
{
	*member = text_format("blobs/sha256/%s", digest + strlen("sha256:"));
	return *member ? 0 : error_origin(-ENOMEM);
}

static int fill_saved(const struct exporting *exporting, const struct document_manifest *manifest,
		      struct document_saved *saved)
{
	int r = set_blob_path(&saved->config, manifest->config.digest);

	for (size_t i = 0; i < manifest->layers.count && !r; i++) {
		_cleanup_(cleanup_free) char *path = NULL;

		if (is_left_out(exporting, &manifest->layers.items[i]))
			continue;
		r = set_blob_path(&path, manifest->layers.items[i].digest);
		if (!r)
			r = schema_strs_add(&saved->layers, path);
	}
	return error_trace(r);
}

/* One image of docker-save's list for each manifest, with all its names. */
static int save(struct exporting *exporting, const char *digest, const char *name,
		const struct document_manifest *manifest)
{
	struct document_saved *saved = NULL;
	int r = 0;

	for (size_t i = 0; i < exporting->saved.count && !saved; i++) {
		if (!strcmp(exporting->saved_manifests.items[i], digest))
			saved = &exporting->saved.items[i];
	}
	if (!saved) {
		saved = schema_list_add(&exporting->saved);
		if (!saved)
			return error_origin(-ENOMEM);
		r = schema_strs_add(&exporting->saved_manifests, digest)
			    ?: fill_saved(exporting, manifest, saved);
	}
	/* Docker takes no name with a digest. */
	if (!r && !strchr(name, '@'))
		r = schema_strs_add(&saved->names, familiar(name));
	return error_trace(r);
}

/* ---- documents ---- */

static int add_target(struct exporting *exporting, const struct descriptor *descriptor,
		      const char *name, bool is_saved, unsigned depth, struct why *why);

static bool is_image(const struct document_manifest *manifest)
{
	const char *media_type = manifest->config.media_type;

	return !media_type || !strcmp(media_type, MEDIA_OCI_CONFIG) ||
	       !strcmp(media_type, MEDIA_DOCKER_CONFIG);
}

static int add_manifest(struct exporting *exporting, const char *digest, const char *name,
			bool is_saved, const struct document_manifest *manifest, struct why *why)
{
	int r;

	r = add_blob(exporting, &manifest->config, "config", why);
	for (size_t i = 0; i < manifest->layers.count && !r; i++) {
		if (!is_left_out(exporting, &manifest->layers.items[i]))
			r = add_blob(exporting, &manifest->layers.items[i], "layer", why);
	}
	if (r || !is_saved || !is_image(manifest))
		return r;
	return error_trace(save(exporting, digest, name, manifest));
}

static int add_index(struct exporting *exporting, const char *digest, const char *name,
		     bool is_saved, const struct document_index *index, unsigned depth,
		     struct why *why)
{
	int chosen = platform_choose(index, &exporting->platform), r = 0;

	if (chosen < 0 && !exporting->request->all_platforms) {
		_cleanup_(cleanup_free) char *platform = platform_text(&exporting->platform);

		return why_set(why, refused(BUS_NOT_FOUND), "index %s has no image for %s", digest,
			       platform);
	}
	for (size_t i = 0; i < index->count && !r; i++) {
		const struct descriptor *entry = &index->items[i].descriptor;

		if (document_is_part(entry->media_type))
			r = add_blob(exporting, entry, "part of a checkpoint", why);
		else if ((int)i == chosen || exporting->request->all_platforms)
			r = add_target(exporting, entry, name, is_saved && (int)i == chosen,
				       depth + 1, why);
	}
	return r;
}

static int add_document(struct exporting *exporting, const struct descriptor *descriptor,
			const char *text, size_t size, const char *name, bool is_saved,
			unsigned depth, struct why *why)
{
	_cleanup_(document_manifest_clear) struct document_manifest manifest = {};
	_cleanup_(document_index_clear) struct document_index index = {};

	if (!document_parse_manifest(text, size, NULL, &manifest, NULL))
		return add_manifest(exporting, descriptor->digest, name, is_saved, &manifest, why);
	if (!document_parse_index(text, size, NULL, &index, why))
		return add_index(exporting, descriptor->digest, name, is_saved, &index, depth, why);
	return why_prefix(why, refused(BUS_DATA_LOSS), "blob %s is neither manifest nor index",
			  descriptor->digest);
}

static int add_target(struct exporting *exporting, const struct descriptor *descriptor,
		      const char *name, bool is_saved, unsigned depth, struct why *why)
{
	_cleanup_(cleanup_free) char *text = NULL;
	size_t size;
	int r;

	if (depth > NESTING_MAX)
		return why_set(why, refused(BUS_DATA_LOSS), "index in index, more than %d deep",
			       NESTING_MAX);
	/* Once, however often indexes name it. */
	if (!is_saved && set_has(&exporting->seen, descriptor->digest))
		return 0;
	r = add_blob(exporting, descriptor, "manifest", why);
	if (!r)
		r = content_load(exporting->image, descriptor->digest, &text, &size, why);
	return r ? r : add_document(exporting, descriptor, text, size, name, is_saved, depth, why);
}

/* ---- names ---- */

/* The entry of index.json: the name's target as it is, and its name for containerd and for skopeo. */
static int add_entry(struct exporting *exporting, const struct image_record *record)
{
	struct document_entry *entry = schema_list_add(&exporting->index);
	const char *tag = reference_tag(record->name);
	struct schema_map *annotations;
	int r;

	if (!entry)
		return error_origin(-ENOMEM);
	annotations = &entry->descriptor.annotations;
	r = descriptor_copy(record->target, &entry->descriptor);
	if (!r)
		r = schema_map_set(annotations, ANNOTATION_NAME, record->name);
	if (!r)
		r = schema_map_set(annotations, ANNOTATION_TAG, tag ?: record->name);
	return error_trace(r);
}

/* An image that is no index has one platform, which whoever asks for one shall get. */
static int check_platform(struct exporting *exporting, const struct image_record *record,
			  struct why *why)
{
	const struct image_export_request *request = exporting->request;
	const struct resolved *resolved;
	int r;

	if (request->all_platforms || !request->platform || !request->platform[0])
		return 0;
	r = resolve_target(exporting->image, record->target, &exporting->platform, &resolved, why);
	if (r)
		return r > REFUSED ? why_prefix(why, r, "image '%.200s'", record->name) : r;
	return resolved_check_match(resolved, record->name, why);
}

static int add_name(struct exporting *exporting, const char *name, struct why *why)
{
	_cleanup_(image_record_clear) struct image_record record = {};
	int r;

	r = names_find(exporting->image, operation_namespace(exporting->operation), name, &record,
		       why);
	if (r)
		return r;
	r = check_platform(exporting, &record, why);
	if (r)
		return r;
	r = add_target(exporting, record.target, record.name, true, 0, why);
	if (r > REFUSED)
		return why_prefix(why, r, "image '%.200s'", record.name);
	if (!r)
		r = lease_hold_content(exporting->operation, record.target->digest);
	return r ? r : add_entry(exporting, &record);
}

/* ---- the archive ---- */

/* Takes @text. */
static int add_file(struct exporting *exporting, const char *name, char *text, struct why *why)
{
	struct work_document *document = text ? schema_list_add(&exporting->work.documents) : NULL;
	size_t size = text ? strlen(text) : 0;
	int r = document ? schema_set(&document->name, name) : error_origin(-ENOMEM);

	if (!r && size > 524288)
		r = why_set(why, refused(BUS_RESOURCE_EXHAUSTED),
			    "%s would have %zu bytes, more than 524288: export fewer images", name,
			    size);
	if (!r)
		r = schema_bytes_set(&document->text, text, size);
	free(text);
	return r;
}

static int compare_blobs(const void *a, const void *b)
{
	return strcmp(((const struct work_blob *)a)->digest, ((const struct work_blob *)b)->digest);
}

static int add_files(struct exporting *exporting, struct why *why)
{
	int r;

	if (exporting->work.blobs.count)
		qsort(exporting->work.blobs.items, exporting->work.blobs.count,
		      sizeof(*exporting->work.blobs.items), compare_blobs);
	r = add_file(exporting, "index.json",
		     document_write_index(exporting->index.items, exporting->index.count), why);
	if (!r && !exporting->request->skip_manifest_json && exporting->saved.count)
		r = add_file(exporting, "manifest.json", document_write_saved(&exporting->saved),
			     why);
	if (!r)
		r = add_file(exporting, "oci-layout", strdup("{\"imageLayoutVersion\":\"1.0.0\"}"),
			     why);
	return r ? r : error_trace(schema_set(&exporting->work.path, exporting->request->path));
}

static int find_all(struct exporting *exporting, struct why *why)
{
	int r;

	r = resolve_platform(exporting->image, exporting->request->platform, &exporting->platform,
			     why);
	for (size_t i = 0; i < exporting->request->names.count && !r; i++)
		r = add_name(exporting, exporting->request->names.items[i], why);
	return r ? r : add_files(exporting, why);
}

/* ---- the operation ---- */

static void written(void *userdata, void *data, const struct why *why)
{
	const struct work_remove_result *result = data;
	struct exporting *exporting = userdata;
	struct why own = {};
	int r = 0;

	if (operation_is_cancelled(exporting->operation))
		r = why_set(&own, refused(BUS_CANCELED), "it was cancelled");
	else if (transfer_refusal(exporting->transfer))
		r = why_set(&own, refused(transfer_refusal(exporting->transfer)),
			    "cannot export: %s", why->text);
	else if (!result || result->error)
		r = why_set(&own, refused(result ? result->status : BUS_INTERNAL),
			    "cannot export: %s", result ? result->error : why->text);
	image_step_ended(exporting->operation, r, &own);
}

static const struct transfer_hooks hooks = {
	.method = "image.export", .tells_progress = true, .ended = written};

static void start_writing(struct operation *operation)
{
	struct exporting *exporting = operation_data(operation);
	struct why why = {};
	int r;

	r = transfer_start(operation, transfer_archive_name(exporting->request->path), "export",
			   schema_work_export_request(), &exporting->work, exporting->image->blobs,
			   schema_work_remove_result(), &hooks, exporting, &exporting->transfer,
			   &why);
	if (r)
		image_step_ended(operation, r, &why);
	else if (exporting->request->stream)
		transfer_limit_turn(exporting->transfer);
}

static int tell(struct operation *operation, const char *state)
{
	const struct image_export_request *asked = operation_request(operation);
	struct exporting *exporting = operation_data(operation);

	if (exporting && exporting->transfer)
		return error_trace(transfer_tell(exporting->transfer, state));
	return error_trace(transfer_tell_end(operation, "image.export",
					     transfer_archive_name(asked->path), state));
}

static int export_write(struct operation *operation)
{
	struct exporting *exporting = calloc(1, sizeof(*exporting));
	struct why why = {};
	int r;

	if (!exporting)
		return error_origin(-ENOMEM);
	exporting->image = operation_object(operation);
	exporting->operation = operation;
	exporting->request = operation_request(operation);
	operation_set_data(operation, exporting, exporting_free);
	r = find_all(exporting, &why);
	if (r)
		return image_step_failed(operation, r, &why);
	r = tell(operation, "running");
	if (!r)
		r = operation_after_commit(operation, start_writing);
	return r ? error_trace(r) : OPERATION_LATER;
}

static int end(struct operation *operation, const char *state)
{
	int r = lease_end_of(operation);

	if (!r)
		r = tell(operation, state);
	return r ? image_step_failed(operation, r, NULL) : 0;
}

static int export_undo(struct operation *operation)
{
	return end(operation, "failed");
}

static int export_finish(struct operation *operation, void *reply)
{
	(void)reply;
	return end(operation, "done");
}

static void export_cancelled(struct operation *operation)
{
	struct exporting *exporting = operation_data(operation);

	if (exporting && exporting->transfer)
		transfer_stop(exporting->transfer);
}

static const struct operation_step export_steps[] = {
	{.name = "write", .run = export_write, .undo = export_undo},
	{},
};

const struct operation_type export_operation = {
	.method = "image.export",
	.steps = export_steps,
	.request = schema_image_export_request,
	.reply = schema_empty,
	.context = schema_empty,
	.finish = export_finish,
	.cancelled = export_cancelled,
};

int image_export(struct image_service *image, const struct image_export_request *request,
		 struct empty *reply, struct call *call)
{
	_cleanup_(platform_clear) struct platform platform = {};
	struct why why = {};
	int r;

	(void)reply;
	if (!call_checked_namespace(call))
		return 0;
	if (request->path[0] != '/')
		return call_fail(call, BUS_INVALID_ARGUMENT, "path '%.200s' is not absolute",
				 request->path);
	if (!request->names.count)
		return call_fail(call, BUS_INVALID_ARGUMENT, "no image is named");
	r = resolve_platform(image, request->platform, &platform, &why);
	if (r)
		return image_answer(call, r, &why, "the export");
	return error_trace(operation_start(call, &export_operation, request, request->path, true));
}
