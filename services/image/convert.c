/* image.convert: a child writes an image's layers in another form, and the documents that name them; then it has a name. */

#include <string.h>

#include "broker/lib/file.h"
#include "schemas/check.h"
#include "services/image/batch.h"
#include "services/image/handlers.h"
#include "services/image/lease.h"

struct converting {
	struct operation *operation;
	struct batch batch;
	struct work_convert_request work;
	char *name; /* the source's */
};

static void converting_free(void *userdata)
{
	struct converting *converting = userdata;

	batch_clear(&converting->batch);
	work_convert_request_clear(&converting->work);
	free(converting->name);
	free(converting);
}

static int fill_work(struct converting *converting, struct why *why)
{
	const struct image_convert_request *asked = operation_request(converting->operation);
	struct image_service *image = operation_object(converting->operation);
	_cleanup_(image_record_clear) struct image_record record = {};
	struct work_convert_request *work = &converting->work;
	int r;

	r = names_find(image, operation_namespace(converting->operation), asked->name, &record,
		       why);
	if (r)
		return r;
	work->target = calloc(1, sizeof(*work->target));
	work->platform = calloc(1, sizeof(*work->platform));
	if (!work->target || !work->platform)
		return error_origin(-ENOMEM);
	work->all_platforms = asked->all_platforms;
	work->oci = asked->oci;
	r = descriptor_copy(record.target, work->target);
	if (!r)
		r = image_limits_copy(image, &work->limits);
	if (!r)
		r = resolve_platform(image, asked->platform, work->platform, why);
	if (!r)
		r = schema_set(&work->compression, asked->compression);
	if (!r)
		r = schema_set(&work->name, asked->target_name);
	if (!r)
		r = schema_set(&converting->name, record.name);
	return r ? r : lease_hold_content(converting->operation, record.target->digest);
}

static void converted(void *userdata, void *data, const struct why *why)
{
	struct converting *converting = userdata;
	struct why own = {};
	char what[256];
	int r;

	snprintf(what, sizeof(what), "convert image '%.200s'", converting->name);
	r = batch_take(&converting->batch, what, data, why, &own);
	image_step_ended(converting->operation, r, &own);
}

static void start_converting(struct operation *operation)
{
	struct converting *converting = operation_data(operation);
	struct image_service *image = converting->batch.image;
	_cleanup_(cleanup_fd) int directory = -1;
	struct why why = {};
	int r;

	r = batch_open(&converting->batch, &directory, &why);
	if (!r)
		r = image_work_start(image, "convert", schema_work_convert_request(),
				     &converting->work, (int[]){image->blobs, directory}, 2,
				     schema_work_import_result(), operation_deadline(operation),
				     converted, converting, &why);
	if (r)
		image_step_ended(operation, r, &why);
}

static int convert_layers(struct operation *operation)
{
	struct converting *converting = calloc(1, sizeof(*converting));
	struct why why = {};
	int r;

	if (!converting)
		return error_origin(-ENOMEM);
	converting->operation = operation;
	batch_init(&converting->batch, operation);
	operation_set_data(operation, converting, converting_free);
	r = fill_work(converting, &why);
	if (r)
		return image_step_failed(operation, r, &why);
	r = operation_after_commit(operation, start_converting);
	return r ? error_trace(r) : OPERATION_LATER;
}

static int convert_finish(struct operation *operation, void *data)
{
	struct converting *converting = operation_data(operation);
	const struct work_import_result *result = &converting->batch.result;
	struct image_reply *reply = data;
	struct why why = {};
	int r;

	if (result->images.count != 1)
		return operation_fail(operation, BUS_INTERNAL, "davit-image-work made no image");
	reply->image = calloc(1, sizeof(*reply->image));
	if (!reply->image)
		return error_origin(-ENOMEM);
	r = batch_record(&converting->batch, &why);
	if (!r)
		r = names_put(operation_object(operation), operation_namespace(operation),
			      &result->images.items[0], NULL, reply->image);
	if (!r)
		r = lease_end_of(operation);
	return r ? image_step_failed(operation, r, &why) : 0;
}

static void convert_cancelled(struct operation *operation)
{
	image_work_drop(operation_object(operation), operation_data(operation));
}

static const struct operation_step convert_steps[] = {
	{.name = "convert", .run = convert_layers, .undo = lease_undo},
	{},
};

const struct operation_type convert_operation = {
	.method = "image.convert",
	.steps = convert_steps,
	.request = schema_image_convert_request,
	.reply = schema_image_reply,
	.context = schema_empty,
	.finish = convert_finish,
	.cancelled = convert_cancelled,
};

int image_convert(struct image_service *image, const struct image_convert_request *request,
		  struct image_reply *reply, struct call *call)
{
	static const char *const known[] = {"", "none", "gzip", "zstd"};
	const char *compression = request->compression ?: "";
	bool is_known = false;

	(void)image;
	(void)reply;
	if (!call_checked_namespace(call))
		return 0;
	for (size_t i = 0; i < ARRAY_SIZE(known); i++)
		is_known = is_known || !strcmp(compression, known[i]);
	if (!is_known)
		return call_fail(call, BUS_INVALID_ARGUMENT,
				 "compression '%.20s' is neither none, gzip nor zstd", compression);
	if (!check_reference(request->target_name))
		return call_fail(call, BUS_INVALID_ARGUMENT, "'%.200s' is not an image name",
				 request->target_name);
	return error_trace(
		operation_start(call, &convert_operation, request, request->target_name, true));
}
