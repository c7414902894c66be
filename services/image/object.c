/*
 * image.fetch_object: a child loads one object of a repository into
 * content/ingest; it is moved into place and recorded, and the lease of the request
 * holds it, as nothing else would.
 */

#include "services/image/downloads.h"
#include "services/image/handlers.h"
#include "services/image/lease.h"
#include "services/image/transfer.h"

struct fetching {
	struct image_service *image;
	struct operation *operation;
	const struct image_fetch_object_request *asked;
	char *name; /* full reference */
	struct transfer *transfer;
	struct downloads downloads;
	struct transfer_wait wait;
};

static void fetching_free(void *userdata)
{
	struct fetching *fetching = userdata;

	transfer_wait_end(&fetching->wait);
	transfer_free(fetching->transfer);
	downloads_deinit(fetching->image, &fetching->downloads);
	free(fetching->name);
	free(fetching);
}

/* ---- the child ---- */

static void arrived(void *userdata, const struct descriptor *blob, bool is_new)
{
	struct fetching *fetching = userdata;

	/* Without memory it can merely be taken away before it is recorded, and that fails. */
	if (is_new)
		(void)set_add(&fetching->downloads.digests, blob->digest);
}

static void ended(void *userdata, void *data, const struct why *why)
{
	struct work_fetch_result *result = data;
	struct fetching *fetching = userdata;
	struct why own = {};
	int r;

	if (operation_is_cancelled(fetching->operation))
		r = why_set(&own, refused(BUS_CANCELED),
			    "the load of an object of '%.200s' was "
			    "cancelled",
			    fetching->asked->name);
	else if (!result || result->error || !result->target || result->blobs.count != 1)
		r = why_set(&own, refused(result && result->error ? result->status : BUS_INTERNAL),
			    "cannot load an object of '%.200s': %s", fetching->name,
			    !result         ? why->text
			    : result->error ? result->error
					    : "davit-image-work names none");
	else
		r = downloads_keep(operation_context(fetching->operation), result);
	image_step_ended(fetching->operation, r, &own);
}

static const struct transfer_hooks hooks = {
	.method = "image.fetch_object", .arrived = arrived, .ended = ended};

static void environment_clear(struct work_fetch_request *request)
{
	schema_strs_clear(&request->environment);
}

static int start(struct fetching *fetching, struct why *why)
{
	const struct image_fetch_object_request *asked = fetching->asked;
	_cleanup_(environment_clear) struct work_fetch_request request = {
		.name = fetching->name,
		.registry = asked->registry,
		.only_object = true,
		.digest = asked->digest,
		.media_types = asked->media_types,
		.connections = 1,
	};
	int r;

	downloads_clean(fetching->image);
	r = transfer_environment(&request.environment);
	return r ? error_trace(r)
		 : transfer_start(fetching->operation, asked->name, "fetch",
				  schema_work_fetch_request(), &request, fetching->image->ingest,
				  schema_work_fetch_result(), &hooks, fetching, &fetching->transfer,
				  why);
}

static void start_now(struct operation *operation)
{
	struct fetching *fetching = operation_data(operation);
	struct why why = {};
	int r;

	transfer_wait_end(&fetching->wait);
	r = start(fetching, &why);
	if (r)
		image_step_ended(operation, r, &why);
}

static void begin(struct operation *operation)
{
	struct fetching *fetching = operation_data(operation);

	transfer_begin(&fetching->wait, operation, start_now, "load of an object",
		       fetching->asked->name);
}

/* ---- the operation ---- */

static int object_fetch(struct operation *operation)
{
	const struct image_fetch_object_request *asked = operation_request(operation);
	struct fetching *fetching = calloc(1, sizeof(*fetching));
	struct why why = {};
	int r;

	if (!fetching)
		return error_origin(-ENOMEM);
	fetching->image = operation_object(operation);
	fetching->operation = operation;
	fetching->asked = asked;
	fetching->name = reference_normalize(asked->name);
	downloads_init(fetching->image, &fetching->downloads);
	operation_set_data(operation, fetching, fetching_free);
	if (!fetching->name)
		return error_origin(-ENOMEM);
	r = lease_check(fetching->image, operation_namespace(operation), asked->lease, &why);
	if (r)
		return image_step_failed(operation, r, &why);
	r = operation_after_commit(operation, begin);
	return r ? error_trace(r) : OPERATION_LATER;
}

static int object_record(struct operation *operation)
{
	const struct image_fetch_object_request *asked = operation_request(operation);
	const struct image_pull_context *context = operation_context(operation);
	struct image_service *image = operation_object(operation);
	const char *namespace = operation_namespace(operation);
	struct why why = {};
	int r;

	/* It may have expired meanwhile. */
	r = lease_check(image, namespace, asked->lease, &why);
	if (!r)
		r = downloads_record(operation, asked->name, context->result, &why);
	if (!r)
		r = lease_add_content(image, namespace, asked->lease,
				      context->result->target->digest);
	return r ? image_step_failed(operation, r, &why) : 0;
}

static int end(struct operation *operation, const char *state)
{
	const struct image_fetch_object_request *asked = operation_request(operation);
	int r = lease_end_of(operation);

	if (!r)
		r = transfer_tell_end(operation, "image.fetch_object", asked->name, state);
	return r ? image_step_failed(operation, r, NULL) : 0;
}

static int object_undo(struct operation *operation)
{
	const struct image_pull_context *context = operation_context(operation);

	downloads_drop(operation_object(operation), context->result);
	return end(operation, "failed");
}

static int object_finish(struct operation *operation, void *data)
{
	const struct image_pull_context *context = operation_context(operation);
	struct image_fetch_object_reply *reply = data;
	int r;

	reply->downloaded = context->result->downloaded;
	reply->object = calloc(1, sizeof(*reply->object));
	r = reply->object ? descriptor_copy(context->result->target, reply->object)
			  : error_origin(-ENOMEM);
	return r ? image_step_failed(operation, r, NULL) : end(operation, "done");
}

static void object_cancelled(struct operation *operation)
{
	struct fetching *fetching = operation_data(operation);

	if (fetching && !transfer_wait_cancel(&fetching->wait) && fetching->transfer)
		transfer_stop(fetching->transfer);
}

static const struct operation_step object_steps[] = {
	{.name = "fetch", .run = object_fetch, .undo = object_undo},
	{.name = "record", .run = object_record},
	{},
};

const struct operation_type fetch_object_operation = {
	.method = "image.fetch_object",
	.steps = object_steps,
	.request = schema_image_fetch_object_request,
	.reply = schema_image_fetch_object_reply,
	.context = schema_image_pull_context,
	.finish = object_finish,
	.cancelled = object_cancelled,
	.has_secrets = start_now,
};

int image_fetch_object(struct image_service *image,
		       const struct image_fetch_object_request *request,
		       struct image_fetch_object_reply *reply, struct call *call)
{
	struct why why = {};
	int r;

	(void)image;
	(void)reply;
	if (!call_checked_namespace(call))
		return 0;
	r = transfer_check_object(request->name, request->digest, request->media_types.items,
				  request->media_types.count, &why);
	if (!r)
		r = transfer_check_options(request->registry, &why);
	if (r)
		return image_answer(call, r, &why, "the load");
	return error_trace(
		operation_start(call, &fetch_object_operation, request, request->name, false));
}
