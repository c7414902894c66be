/*
 * image.import: a child reads the archive into a directory of its own, the blobs
 * are moved into place and recorded, the layers unpacked, and only then the names
 * appear: an import that fails leaves nothing behind. No step is kept across a
 * crash; the archive is simply read again.
 */

#include <stdio.h>
#include <string.h>
#include <time.h>

#include "schemas/check.h"
#include "services/image/handlers.h"
#include "services/image/batch.h"
#include "services/image/lease.h"
#include "services/image/transfer.h"

struct importing {
	struct image_service *image;
	struct operation *operation;
	struct batch batch;
	struct transfer *transfer;
	const char *name; /* in events */
	/* Images that are unpacked one after the other. */
	struct resolved *resolved[256];
	size_t n_resolved, index;
	struct unpack *unpack;
};

static void importing_free(void *userdata)
{
	struct importing *importing = userdata;

	unpack_forget(importing->unpack);
	for (size_t i = 0; i < importing->n_resolved; i++)
		resolved_free(importing->resolved[i]);
	transfer_free(importing->transfer);
	batch_clear(&importing->batch);
	free(importing);
}

/* ---- read ---- */

/* containerd's name for images that have none. */
static int default_base(char **ret_base)
{
	char text[32];
	time_t now = time(NULL);
	struct tm date;

	if (!gmtime_r(&now, &date) || !strftime(text, sizeof(text), "import-%Y-%m-%d", &date))
		return error_origin(-EOVERFLOW);
	return error_trace(schema_set(ret_base, text));
}

static int fill_request(struct importing *importing, struct work_import_request *request,
			struct why *why)
{
	const struct image_import_request *asked = operation_request(importing->operation);
	int r;

	request->only_base = asked->base_name && asked->base_name[0];
	request->digests = asked->digests;
	request->skip_digest_for_named = asked->skip_digest_for_named;
	request->compress_blobs = asked->compress_blobs;
	request->all_platforms = asked->all_platforms;
	request->platform = calloc(1, sizeof(*request->platform));
	if (!request->platform)
		return error_origin(-ENOMEM);
	r = request->only_base ? schema_set(&request->base_name, asked->base_name)
			       : default_base(&request->base_name);
	if (!r)
		r = schema_set(&request->path, asked->path);
	if (!r)
		r = image_limits_copy(importing->image, &request->limits);
	if (!r && asked->index_name && asked->index_name[0])
		r = schema_set(&request->index_name, asked->index_name);
	if (!r)
		r = resolve_platform(importing->image, asked->platform, request->platform, why);
	return r;
}

static void was_read(void *userdata, void *data, const struct why *why)
{
	struct importing *importing = userdata;
	const struct image_import_request *asked = operation_request(importing->operation);
	struct why own = {};
	char what[256];
	int r;

	snprintf(what, sizeof(what), "import '%.200s'", asked->path);
	r = transfer_refusal(importing->transfer)
		    ? why_set(&own, refused(transfer_refusal(importing->transfer)), "cannot %s: %s",
			      what, why->text)
		    : batch_take(&importing->batch, what, data, why, &own);
	image_step_ended(importing->operation, r, &own);
}

static const struct transfer_hooks hooks = {
	.method = "image.import", .tells_progress = true, .ended = was_read};

static int start_reading(struct importing *importing, struct why *why)
{
	const struct image_import_request *asked = operation_request(importing->operation);
	_cleanup_(work_import_request_clear) struct work_import_request request = {};
	_cleanup_(cleanup_fd) int ingest = -1;
	int r;

	r = fill_request(importing, &request, why);
	if (r)
		return r;
	r = batch_open(&importing->batch, &ingest, why);
	if (r)
		return r;
	r = transfer_start(importing->operation, importing->name, "import",
			   schema_work_import_request(), &request, ingest,
			   schema_work_import_result(), &hooks, importing, &importing->transfer,
			   why);
	if (!r && asked->stream)
		transfer_limit_turn(importing->transfer);
	return r;
}

static void read_archive(struct operation *operation)
{
	struct importing *importing = operation_data(operation);
	struct why why = {};
	int r;

	r = start_reading(importing, &why);
	if (r)
		image_step_ended(operation, r, &why);
}

static int tell(struct operation *operation, const char *state)
{
	const struct image_import_request *asked = operation_request(operation);

	return error_trace(transfer_tell_end(operation, "image.import",
					     transfer_archive_name(asked->path), state));
}

static int import_read(struct operation *operation)
{
	const struct image_import_request *asked = operation_request(operation);
	struct importing *importing = calloc(1, sizeof(*importing));
	int r;

	if (!importing)
		return error_origin(-ENOMEM);
	importing->image = operation_object(operation);
	importing->operation = operation;
	importing->name = transfer_archive_name(asked->path);
	batch_init(&importing->batch, operation);
	operation_set_data(operation, importing, importing_free);
	r = tell(operation, "running");
	if (!r)
		r = operation_after_commit(operation, read_archive);
	return r ? error_trace(r) : OPERATION_LATER;
}

/* What was recorded is not needed by any name. */
static int import_undo(struct operation *operation)
{
	int r;

	r = lease_end_of(operation);
	if (!r)
		r = tell(operation, "failed");
	return r ? image_step_failed(operation, r, NULL) : 0;
}

/* ---- record ---- */

static int import_record(struct operation *operation)
{
	struct importing *importing = operation_data(operation);
	struct why why = {};
	int r = batch_record(&importing->batch, &why);

	return r ? image_step_failed(operation, r, &why) : 0;
}

/* ---- unpack ---- */

static bool is_cancelled(void *userdata)
{
	struct importing *importing = userdata;

	return operation_is_cancelled(importing->operation);
}

static void unpack_next(struct importing *importing);

static void unpacked(void *userdata, int r, const struct why *why)
{
	struct importing *importing = userdata;

	importing->unpack = NULL;
	importing->index++;
	if (r)
		image_step_ended(importing->operation, r, why);
	else
		unpack_next(importing);
}

static void unpack_next(struct importing *importing)
{
	const struct image_import_request *asked = operation_request(importing->operation);
	const char *snapshotter;
	struct why why = {};
	int r;

	if (importing->index == importing->n_resolved) {
		operation_step_done(importing->operation);
		return;
	}
	r = snapshot_check_name(importing->image, asked->snapshotter, &snapshotter, &why);
	if (!r)
		r = unpack_start(importing->image, importing->resolved[importing->index],
				 snapshotter, is_cancelled, unpacked, importing,
				 &importing->unpack);
	if (r)
		image_step_ended(importing->operation, r, &why);
}

static void unpack_first(struct operation *operation)
{
	unpack_next(operation_data(operation));
}

/* Is that image chosen already, under another name? */
static bool is_chosen(const struct importing *importing, const struct resolved *resolved)
{
	for (size_t i = 0; i < importing->n_resolved; i++) {
		if (!strcmp(importing->resolved[i]->manifest, resolved->manifest))
			return true;
	}
	return false;
}

/* Images for other platforms are kept, but not unpacked. */
static int choose_image(struct importing *importing, const struct descriptor *target,
			const struct platform *platform, struct why *why)
{
	const struct resolved *resolved;
	int r;

	r = resolve_target(importing->image, target, platform, &resolved, why);
	if (r == refused(BUS_NOT_FOUND))
		return 0;
	if (r || !resolved->is_image || !resolved->is_match || is_chosen(importing, resolved) ||
	    importing->n_resolved == ARRAY_SIZE(importing->resolved))
		return r;
	r = resolved_copy(resolved, &importing->resolved[importing->n_resolved]);
	if (r)
		return error_trace(r);
	importing->n_resolved++;
	return 0;
}

static int choose_images(struct operation *operation, struct why *why)
{
	const struct image_import_request *asked = operation_request(operation);
	struct importing *importing = operation_data(operation);
	const struct work_import_result *result = &importing->batch.result;
	_cleanup_(platform_clear) struct platform platform = {};
	int r;

	r = resolve_platform(importing->image, asked->platform, &platform, why);
	for (size_t i = 0; i < result->images.count && !r; i++) {
		const struct work_image *found = &result->images.items[i];

		/* An index under its own name is only kept. */
		if (asked->index_name && !strcmp(asked->index_name, found->name))
			continue;
		r = choose_image(importing, found->target, &platform, why);
	}
	return r;
}

static int import_unpack(struct operation *operation)
{
	const struct image_import_request *asked = operation_request(operation);
	struct importing *importing = operation_data(operation);
	struct why why = {};
	int r;

	if (asked->no_unpack)
		return 0;
	r = choose_images(operation, &why);
	if (!r)
		r = transfer_tell(importing->transfer, "unpacking");
	if (r)
		return image_step_failed(operation, r, &why);
	r = operation_after_commit(operation, unpack_first);
	return r ? error_trace(r) : OPERATION_LATER;
}

/* ---- name ---- */

static int import_finish(struct operation *operation, void *data)
{
	const struct image_import_request *asked = operation_request(operation);
	struct importing *importing = operation_data(operation);
	const struct work_import_result *result = &importing->batch.result;
	struct image_import_reply *reply = data;
	int r = 0;

	for (size_t i = 0; i < result->images.count && !r; i++) {
		struct image_record *record = schema_list_add(&reply->images);

		r = record ? names_put(operation_object(operation), operation_namespace(operation),
				       &result->images.items[i], NULL, record)
			   : error_origin(-ENOMEM);
	}
	if (!r)
		r = lease_end_of(operation);
	if (!r)
		r = asked->no_unpack ? transfer_tell(importing->transfer, "done")
				     : tell(operation, "done");
	if (r == -ENAMETOOLONG)
		return operation_fail(operation, BUS_INVALID_ARGUMENT,
				      "a name in the archive is too long");
	return r ? image_step_failed(operation, r, NULL) : 0;
}

static void import_cancelled(struct operation *operation)
{
	struct importing *importing = operation_data(operation);

	if (importing && importing->unpack)
		unpack_cancel(importing->unpack);
	else if (importing && importing->transfer)
		transfer_stop(importing->transfer);
}

static const struct operation_step import_steps[] = {
	{.name = "read", .run = import_read, .undo = import_undo},
	{.name = "record", .run = import_record},
	{.name = "unpack", .run = import_unpack},
	{},
};

const struct operation_type import_operation = {
	.method = "image.import",
	.steps = import_steps,
	.request = schema_image_import_request,
	.reply = schema_image_import_reply,
	.context = schema_empty,
	.finish = import_finish,
	.cancelled = import_cancelled,
};

static int check_request(struct image_service *image, const struct image_import_request *request,
			 struct why *why)
{
	_cleanup_(platform_clear) struct platform platform = {};
	const char *snapshotter;
	int r;

	if (request->path[0] != '/')
		return why_set(why, refused(BUS_INVALID_ARGUMENT), "path '%.200s' is not absolute",
			       request->path);
	if (request->base_name && request->base_name[0] && !check_reference(request->base_name))
		return why_set(why, refused(BUS_INVALID_ARGUMENT),
			       "'%.200s' is not a base name for images", request->base_name);
	if (request->index_name && request->index_name[0] && !check_reference(request->index_name))
		return why_set(why, refused(BUS_INVALID_ARGUMENT), "'%.200s' is not an image name",
			       request->index_name);
	r = resolve_platform(image, request->platform, &platform, why);
	return r ? r : snapshot_check_name(image, request->snapshotter, &snapshotter, why);
}

int image_import(struct image_service *image, const struct image_import_request *request,
		 struct image_import_reply *reply, struct call *call)
{
	struct why why = {};
	int r;

	(void)reply;
	if (!call_checked_namespace(call))
		return 0;
	r = check_request(image, request, &why);
	if (r)
		return image_answer(call, r, &why, "the import");
	return error_trace(operation_start(call, &import_operation, request, request->path, false));
}
