/*
 * image.push and image.push_object: a child sends what the registry lacks. Nothing
 * here changes, so a push that was cut is simply done again.
 */

#include <string.h>

#include "broker/lib/file.h"
#include "schemas/check.h"
#include "services/image/handlers.h"
#include "services/image/lease.h"
#include "services/image/transfer.h"

struct pushing {
	struct image_service *image;
	struct operation *operation;
	const struct transfer_hooks *hooks;
	const char *asked;             /* the name as it was given */
	struct work_push_request work; /* borrowed, but for the environment */
	char *name;                    /* full reference */
	struct transfer *transfer;
	struct transfer_wait wait;
};

static void pushing_free(void *userdata)
{
	struct pushing *pushing = userdata;

	transfer_wait_end(&pushing->wait);
	transfer_free(pushing->transfer);
	schema_strs_clear(&pushing->work.environment);
	free(pushing->name);
	free(pushing);
}

/* ---- what is pushed; in a transaction ---- */

/* Size and media type of a blob of the content store: @media_type, else that under which it came, else @otherwise. */
static int describe(struct image_service *image, const char *digest, const char *media_type,
		    const char *otherwise, struct descriptor *ret, struct why *why)
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
	if (!media_type || !*media_type)
		media_type = record.media_type && *record.media_type ? record.media_type
								     : otherwise;
	return error_trace(schema_set(&ret->digest, digest)
				   ?: schema_set(&ret->media_type, media_type));
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
	return describe(image, resolved->manifest, NULL, MEDIA_OCI_MANIFEST, ret, why);
}

static int find_target(struct image_service *image, const char *namespace,
		       const struct image_push_request *asked, struct descriptor *ret,
		       struct why *why)
{
	_cleanup_(image_record_clear) struct image_record record = {};
	const char *source = asked->source && asked->source[0] ? asked->source : asked->name;
	int r;

	if (asked->manifest && asked->manifest[0])
		return describe(image, asked->manifest, asked->manifest_type, MEDIA_OCI_MANIFEST,
				ret, why);
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
			    pushing->asked);
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

static int start(struct pushing *pushing, struct why *why)
{
	struct image_push_context *context = operation_context(pushing->operation);
	int r;

	pushing->work.name = pushing->name;
	pushing->work.target = context->target;
	r = transfer_environment(&pushing->work.environment);
	if (r)
		return error_trace(r);
	return transfer_start(pushing->operation, pushing->asked, "push",
			      schema_work_push_request(), &pushing->work, -1,
			      schema_work_push_result(), pushing->hooks, pushing,
			      &pushing->transfer, why);
}

static void start_now(struct operation *operation)
{
	struct pushing *pushing = operation_data(operation);
	struct why why = {};
	int r;

	transfer_wait_end(&pushing->wait);
	r = start(pushing, &why);
	if (r)
		image_step_ended(operation, r, &why);
}

static void begin(struct operation *operation)
{
	struct pushing *pushing = operation_data(operation);

	transfer_begin(&pushing->wait, operation, start_now, "push", pushing->asked);
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

/* The step's data; NULL: out of memory. */
static struct pushing *pushing_new(struct operation *operation, const char *name,
				   const struct transfer_hooks *hooks)
{
	struct pushing *pushing = calloc(1, sizeof(*pushing));

	if (!pushing)
		return NULL;
	pushing->image = operation_object(operation);
	pushing->operation = operation;
	pushing->hooks = hooks;
	pushing->asked = name;
	pushing->name = reference_normalize(name);
	operation_set_data(operation, pushing, pushing_free);
	return pushing->name ? pushing : NULL;
}

/* What is sent is held; it takes @target. */
static int hold_and_begin(struct operation *operation, struct descriptor *target)
{
	int r = lease_hold_content(operation, target->digest);

	if (!r)
		r = keep_target(operation_context(operation), target);
	if (r)
		return image_step_failed(operation, r, NULL);
	r = operation_after_commit(operation, begin);
	return r ? error_trace(r) : OPERATION_LATER;
}

static const struct transfer_hooks push_hooks = {.method = "image.push", .ended = ended};

static int push_send(struct operation *operation)
{
	const struct image_push_request *asked = operation_request(operation);
	struct pushing *pushing = pushing_new(operation, asked->name, &push_hooks);
	_cleanup_(descriptor_clear) struct descriptor target = {};
	struct why why = {};
	int r;

	if (!pushing)
		return error_origin(-ENOMEM);
	pushing->work.registry = asked->registry;
	pushing->work.allow_non_distributable = asked->allow_non_distributable;
	pushing->work.connections = asked->max_concurrent_uploads;
	r = find_target(pushing->image, operation_namespace(operation), asked, &target, &why);
	return r ? image_step_failed(operation, r, &why) : hold_and_begin(operation, &target);
}

static void push_cancelled(struct operation *operation)
{
	struct pushing *pushing = operation_data(operation);

	if (pushing && !transfer_wait_cancel(&pushing->wait) && pushing->transfer)
		transfer_stop(pushing->transfer);
}

static int end(struct operation *operation, const char *method, const char *name, const char *state)
{
	int r = lease_end_of(operation);

	if (!r)
		r = transfer_tell_end(operation, method, name, state);
	return r ? image_step_failed(operation, r, NULL) : 0;
}

static int push_undo(struct operation *operation)
{
	const struct image_push_request *asked = operation_request(operation);

	return end(operation, "image.push", asked->name, "failed");
}

static int fill_reply(struct operation *operation, struct image_push_reply *reply)
{
	const struct image_push_context *context = operation_context(operation);

	reply->uploaded = context->result->uploaded;
	reply->mounted = context->result->mounted;
	reply->existing = context->result->existing;
	reply->target = calloc(1, sizeof(*reply->target));
	return reply->target ? descriptor_copy(context->target, reply->target)
			     : error_origin(-ENOMEM);
}

static int push_finish(struct operation *operation, void *data)
{
	const struct image_push_request *asked = operation_request(operation);
	int r = fill_reply(operation, data);

	return r ? image_step_failed(operation, r, NULL)
		 : end(operation, "image.push", asked->name, "done");
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

/* ---- one object ---- */

static const struct transfer_hooks object_hooks = {.method = "image.push_object", .ended = ended};

static int object_send(struct operation *operation)
{
	const struct image_push_object_request *asked = operation_request(operation);
	struct pushing *pushing = pushing_new(operation, asked->name, &object_hooks);
	_cleanup_(descriptor_clear) struct descriptor target = {};
	struct why why = {};
	int r;

	if (!pushing)
		return error_origin(-ENOMEM);
	pushing->work.registry = asked->registry;
	pushing->work.only_object = true;
	/* Whoever names it means it. */
	pushing->work.allow_non_distributable = true;
	r = describe(pushing->image, asked->digest, asked->media_type, "application/octet-stream",
		     &target, &why);
	return r ? image_step_failed(operation, r, &why) : hold_and_begin(operation, &target);
}

static int object_undo(struct operation *operation)
{
	const struct image_push_object_request *asked = operation_request(operation);

	return end(operation, "image.push_object", asked->name, "failed");
}

static int object_finish(struct operation *operation, void *data)
{
	const struct image_push_object_request *asked = operation_request(operation);
	int r = fill_reply(operation, data);

	return r ? image_step_failed(operation, r, NULL)
		 : end(operation, "image.push_object", asked->name, "done");
}

static const struct operation_step object_steps[] = {
	{.name = "send", .run = object_send, .undo = object_undo},
	{},
};

const struct operation_type push_object_operation = {
	.method = "image.push_object",
	.steps = object_steps,
	.request = schema_image_push_object_request,
	.reply = schema_image_push_reply,
	.context = schema_image_push_context,
	.finish = object_finish,
	.cancelled = push_cancelled,
	.has_secrets = start_now,
};

int image_push_object(struct image_service *image, const struct image_push_object_request *request,
		      struct image_push_reply *reply, struct call *call)
{
	struct why why = {};
	int r;

	(void)image;
	(void)reply;
	if (!call_checked_namespace(call))
		return 0;
	r = transfer_check_object(request->name, request->digest, &request->media_type,
				  request->media_type ? 1 : 0, &why);
	if (!r)
		r = transfer_check_options(request->registry, &why);
	if (r)
		return image_answer(call, r, &why, "the push");
	return error_trace(
		operation_start(call, &push_object_operation, request, request->name, false));
}
