/* image.push: a child sends what the registry lacks. Nothing here changes, so a push that was cut is simply done again. */

#include <string.h>

#include "broker/lib/file.h"
#include "schemas/check.h"
#include "services/image/handlers.h"
#include "services/image/lease.h"
#include "services/image/transfer.h"

#define SECRETS_WAIT_MS 60000

struct pushing {
	struct image_service *image;
	struct operation *operation;
	const struct image_push_request *asked;
	char *name; /* full reference */
	struct transfer *transfer;
	struct loop_timer timer; /* for the secrets */
};

static void pushing_free(void *userdata)
{
	struct pushing *pushing = userdata;

	loop_timer_cancel(&pushing->timer);
	transfer_free(pushing->transfer);
	free(pushing->name);
	free(pushing);
}

/* ---- what is pushed; in a transaction ---- */

/* Size and media type of a document of the content store. */
static int describe(struct image_service *image, const char *digest, const char *media_type,
		    struct descriptor *ret, struct why *why)
{
	_cleanup_(content_record_clear) struct content_record record = {};
	struct store_key key;
	int r;

	r = content_key(digest, &key);
	if (!r)
		r = store_get(image->store, TABLE_BLOBS, &key, schema_content_record(), &record);
	if (r == STORE_E_NOT_FOUND)
		return why_set(why, refused(BUS_NOT_FOUND), "no blob %s", digest);
	if (r)
		return r;
	ret->size = record.size;
	r = schema_set(&ret->digest, digest);
	if (!r)
		r = schema_set(&ret->media_type, media_type && *media_type ? media_type
						 : record.media_type && *record.media_type
							 ? record.media_type
							 : MEDIA_OCI_MANIFEST);
	return error_trace(r);
}

static int choose_platform(struct image_service *image, const char *text, const char *name,
			   const struct descriptor *target, struct descriptor *ret, struct why *why)
{
	_cleanup_(platform_clear) struct platform platform = {};
	const struct resolved *resolved;
	int r;

	r = resolve_platform(image, text, &platform, why);
	if (!r)
		r = resolve_target(image, target, &platform, &resolved, why);
	if (!r)
		r = resolved_check_match(resolved, name, why);
	if (r)
		return r;
	if (!strcmp(resolved->manifest, target->digest))
		return descriptor_copy(target, ret);
	return describe(image, resolved->manifest, NULL, ret, why);
}

static int find_target(struct image_service *image, const char *namespace,
		       const struct image_push_request *asked, struct descriptor *ret,
		       struct why *why)
{
	_cleanup_(image_record_clear) struct image_record record = {};
	const char *source = asked->source && asked->source[0] ? asked->source : asked->name;
	int r;

	if (asked->manifest && asked->manifest[0])
		return describe(image, asked->manifest, asked->manifest_type, ret, why);
	r = names_find(image, namespace, source, &record, why);
	if (r)
		return r;
	if (asked->platforms.count)
		return choose_platform(image, asked->platforms.items[0], record.name, record.target,
				       ret, why);
	return descriptor_copy(record.target, ret);
}

/* ---- the child ---- */

static void ended(void *userdata, void *data, const struct why *why)
{
	struct work_push_result *result = data;
	struct pushing *pushing = userdata;
	struct image_push_context *context = operation_context(pushing->operation);
	struct why own = {};
	int r = 0;

	if (operation_is_cancelled(pushing->operation))
		r = why_set(&own, refused(BUS_CANCELED), "the push of '%.200s' was cancelled",
			    pushing->asked->name);
	else if (!result || result->error)
		r = why_set(&own, refused(result ? result->status : BUS_INTERNAL),
			    "cannot push '%.200s': %s", pushing->name,
			    result ? result->error : why->text);
	if (!r) {
		if (context->result)
			work_push_result_clear(context->result);
		else
			context->result = calloc(1, sizeof(*context->result));
		r = context->result ? work_push_result_copy(result, context->result)
				    : error_origin(-ENOMEM);
	}
	image_step_ended(pushing->operation, r, &own);
}

static const struct transfer_hooks hooks = {.method = "image.push", .ended = ended};

static void request_clear(struct work_push_request *request)
{
	schema_strs_clear(&request->environment);
}

static int start(struct pushing *pushing, struct why *why)
{
	struct image_push_context *context = operation_context(pushing->operation);
	_cleanup_(request_clear) struct work_push_request request = {
		.name = pushing->name,
		.registry = pushing->asked->registry,
		.target = context->target,
		.allow_non_distributable = pushing->asked->allow_non_distributable,
		.connections = pushing->asked->max_concurrent_uploads,
	};
	int r;

	r = transfer_environment(&request.environment);
	if (r)
		return error_trace(r);
	return transfer_start(pushing->operation, pushing->asked->name, "push",
			      schema_work_push_request(), &request, -1, schema_work_push_result(),
			      &hooks, pushing, &pushing->transfer, why);
}

static void start_now(struct operation *operation)
{
	struct pushing *pushing = operation_data(operation);
	struct why why = {};
	int r;

	loop_timer_cancel(&pushing->timer);
	r = start(pushing, &why);
	if (r)
		image_step_ended(operation, r, &why);
}

static void secrets_never_came(struct loop_timer *timer)
{
	struct pushing *pushing = container_of(timer, struct pushing, timer);
	struct why why = {};

	why_set(&why, 0,
		"the push of '%.200s' was cut by a restart, and its credentials are not stored: "
		"push it again",
		pushing->asked->name);
	image_step_ended(pushing->operation, refused(BUS_UNAVAILABLE), &why);
}

/* After a crash a request without its credentials waits for its caller, who asks again. */
static void begin(struct operation *operation)
{
	struct pushing *pushing = operation_data(operation);

	if (!operation_lacks_secrets(operation))
		start_now(operation);
	else
		(void)loop_timer_set(service_loop(pushing->image->service), &pushing->timer,
				     time_boot_ms() + SECRETS_WAIT_MS, secrets_never_came);
}

/* Of a context that is kept each member is whole: it takes @target. */
static int keep_target(struct image_push_context *context, struct descriptor *target)
{
	if (context->target)
		descriptor_clear(context->target);
	else
		context->target = calloc(1, sizeof(*context->target));
	if (!context->target)
		return error_origin(-ENOMEM);
	*context->target = *target;
	*target = (struct descriptor){};
	return 0;
}

static int push_send(struct operation *operation)
{
	struct image_push_context *context = operation_context(operation);
	struct pushing *pushing = calloc(1, sizeof(*pushing));
	_cleanup_(descriptor_clear) struct descriptor target = {};
	struct why why = {};
	int r;

	if (!pushing)
		return error_origin(-ENOMEM);
	pushing->image = operation_object(operation);
	pushing->operation = operation;
	pushing->asked = operation_request(operation);
	pushing->name = reference_normalize(pushing->asked->name);
	operation_set_data(operation, pushing, pushing_free);
	if (!pushing->name)
		return error_origin(-ENOMEM);
	r = find_target(pushing->image, operation_namespace(operation), pushing->asked, &target,
			&why);
	if (!r)
		r = lease_hold_content(operation, target.digest);
	if (!r)
		r = keep_target(context, &target);
	if (r)
		return image_step_failed(operation, r, &why);
	r = operation_after_commit(operation, begin);
	return r ? error_trace(r) : OPERATION_LATER;
}

static void push_cancelled(struct operation *operation)
{
	struct pushing *pushing = operation_data(operation);

	if (!pushing)
		return;
	if (pushing->transfer) {
		transfer_stop(pushing->transfer);
	} else if (pushing->timer.loop) {
		struct why why = {};

		loop_timer_cancel(&pushing->timer);
		why_set(&why, 0, "the push of '%.200s' was cancelled", pushing->asked->name);
		image_step_ended(operation, refused(BUS_CANCELED), &why);
	}
}

static int push_undo(struct operation *operation)
{
	const struct image_push_request *asked = operation_request(operation);
	int r;

	r = lease_end_of(operation);
	if (!r)
		r = transfer_tell_end(operation, "image.push", asked->name, "failed");
	return r ? image_step_failed(operation, r, NULL) : 0;
}

static int push_finish(struct operation *operation, void *data)
{
	const struct image_push_request *asked = operation_request(operation);
	struct image_push_context *context = operation_context(operation);
	struct image_push_reply *reply = data;
	int r;

	reply->uploaded = context->result->uploaded;
	reply->mounted = context->result->mounted;
	reply->existing = context->result->existing;
	reply->target = calloc(1, sizeof(*reply->target));
	r = reply->target ? descriptor_copy(context->target, reply->target) : error_origin(-ENOMEM);
	if (!r)
		r = lease_end_of(operation);
	if (!r)
		r = transfer_tell_end(operation, "image.push", asked->name, "done");
	return r ? image_step_failed(operation, r, NULL) : 0;
}

static const struct operation_step push_steps[] = {
	{.name = "send", .run = push_send, .undo = push_undo},
	{},
};

const struct operation_type push_operation = {
	.method = "image.push",
	.steps = push_steps,
	.request = schema_image_push_request,
	.reply = schema_image_push_reply,
	.context = schema_image_push_context,
	.finish = push_finish,
	.cancelled = push_cancelled,
	.has_secrets = start_now,
};

int image_push(struct image_service *image, const struct image_push_request *request,
	       struct image_push_reply *reply, struct call *call)
{
	struct why why = {};
	int r = 0;

	(void)reply;
	if (!call_checked_namespace(call))
		return 0;
	if (!check_reference(request->name))
		r = why_set(&why, refused(BUS_INVALID_ARGUMENT), "'%.200s' is not an image name",
			    request->name);
	if (!r && request->manifest && request->manifest[0] && !check_digest(request->manifest))
		r = why_set(&why, refused(BUS_INVALID_ARGUMENT), "'%.100s' is not a digest",
			    request->manifest);
	if (!r)
		r = transfer_check_options(request->registry, &why);
	if (r)
		return image_answer(call, r, &why, "the push");
	(void)image;
	return error_trace(operation_start(call, &push_operation, request, request->name, false));
}
