/* snapshot.apply: a layer of the content store goes onto an active snapshot, by a child. */

#include <string.h>

#include "broker/lib/file.h"
#include "services/image/handlers.h"
#include "services/image/lease.h"

struct applying {
	struct operation *operation;
	struct work_apply_request work;
};

static void applying_free(void *userdata)
{
	struct applying *applying = userdata;

	work_apply_request_clear(&applying->work);
	free(applying);
}

/* ---- what is to be done ---- */

static int find_target(struct image_service *image, const char *namespace,
		       const struct snapshot_apply_request *asked,
		       struct snapshot_record *ret_record, struct why *why)
{
	struct store_key key;
	int r;

	r = snapshot_find(image, namespace, asked->snapshotter, asked->key, &key, ret_record, why);
	if (!r && ret_record->kind != SNAPSHOT_ACTIVE)
		r = why_set(why, refused(BUS_FAILED_PRECONDITION),
			    "snapshot '%s' is %s: only an active one can be changed", asked->key,
			    schema_enum_text(&schema_enum_snapshot_kind, ret_record->kind));
	return r;
}

/* Natively the snapshot is the whole tree; in an overlay whiteouts hide what lies below. */
static int fill_parents(struct applying *applying, const struct snapshot_record *record,
			struct why *why)
{
	struct image_service *image = operation_object(applying->operation);
	uint64_t numbers[SNAPSHOT_DEPTH_MAX];
	size_t count = 0;
	int r = 0;

	applying->work.native = !strcmp(record->snapshotter, SNAPSHOTTER_NATIVE);
	applying->work.filled = applying->work.native;
	if (applying->work.native)
		return 0;
	r = snapshot_chain(image, operation_namespace(applying->operation), record->snapshotter,
			   record->parent, numbers, ARRAY_SIZE(numbers), &count, why);
	for (size_t i = 0; i < count && !r; i++) {
		_cleanup_(cleanup_free) char *name = NULL;

		name = text_format("%llu", (unsigned long long)numbers[i]);
		r = name ? schema_strs_add(&applying->work.parents, name) : error_origin(-ENOMEM);
	}
	return r;
}

static int fill_work(struct applying *applying, struct why *why)
{
	const struct snapshot_apply_request *asked = operation_request(applying->operation);
	_cleanup_(snapshot_record_clear) struct snapshot_record record = {};
	int r;

	r = find_target(operation_object(applying->operation),
			operation_namespace(applying->operation), asked, &record, why);
	if (!r)
		r = fill_parents(applying, &record, why);
	if (!r)
		r = image_limits_copy(operation_object(applying->operation),
				      &applying->work.limits);
	if (r)
		return r;
	applying->work.target = text_format("%llu", (unsigned long long)record.number);
	if (!applying->work.target)
		return error_origin(-ENOMEM);
	return error_trace(schema_set(&applying->work.blob, asked->digest));
}

/* ---- the operation ---- */

static void applied(void *userdata, void *data, const struct why *why)
{
	const struct work_apply_result *result = data;
	struct applying *applying = userdata;
	const struct snapshot_apply_request *asked = operation_request(applying->operation);
	struct why own = {};
	int r = 0;

	if (!result && operation_is_cancelled(applying->operation))
		r = why_set(&own, refused(BUS_CANCELED), "it was cancelled");
	else if (!result || result->error)
		r = why_set(&own, refused(result ? result->status : BUS_INTERNAL),
			    "cannot apply %s to snapshot '%s': %s", asked->digest, asked->key,
			    result ? result->error : why->text);
	image_step_ended(applying->operation, r, &own);
}

static void start_applying(struct operation *operation)
{
	struct image_service *image = operation_object(operation);
	struct applying *applying = operation_data(operation);
	_cleanup_(cleanup_fd) int blob = -1;
	struct why why = {};
	int r;

	r = content_open_blob(image, applying->work.blob, &blob, &why);
	if (!r)
		r = image_work_start(image, "apply", schema_work_apply_request(), &applying->work,
				     (int[]){blob, image->snapshots}, 2, schema_work_apply_result(),
				     operation_deadline(operation), applied, applying, &why);
	if (r)
		image_step_ended(operation, r, &why);
}

/* After a crash it is applied once more, onto what is there. */
static int apply_step(struct operation *operation)
{
	const struct snapshot_apply_request *asked = operation_request(operation);
	struct applying *applying = calloc(1, sizeof(*applying));
	struct why why = {};
	int r;

	if (!applying)
		return error_origin(-ENOMEM);
	applying->operation = operation;
	operation_set_data(operation, applying, applying_free);
	r = fill_work(applying, &why);
	if (!r)
		r = lease_hold_content(operation, asked->digest);
	if (r)
		return image_step_failed(operation, r, &why);
	r = operation_after_commit(operation, start_applying);
	return r ? error_trace(r) : OPERATION_LATER;
}

static int apply_finish(struct operation *operation, void *reply)
{
	(void)reply;
	return error_trace(lease_end_of(operation));
}

static void apply_cancelled(struct operation *operation)
{
	image_work_drop(operation_object(operation), operation_data(operation));
}

static const struct operation_step apply_steps[] = {
	{.name = "apply", .run = apply_step, .undo = lease_undo},
	{},
};

const struct operation_type snapshot_apply_operation = {
	.method = "snapshot.apply",
	.steps = apply_steps,
	.request = schema_snapshot_apply_request,
	.reply = schema_empty,
	.context = schema_empty,
	.finish = apply_finish,
	.cancelled = apply_cancelled,
};

int snapshot_apply(struct image_service *image, const struct snapshot_apply_request *request,
		   struct empty *reply, struct call *call)
{
	_cleanup_(snapshot_record_clear) struct snapshot_record record = {};
	_cleanup_(content_record_clear) struct content_record content = {};
	const char *namespace = call_checked_namespace(call);
	struct why why = {};
	int r;

	(void)reply;
	if (!namespace)
		return 0;
	r = find_target(image, namespace, request, &record, &why);
	if (!r)
		r = content_get(image, request->digest, &content, &why);
	if (r)
		return image_answer(call, r, &why, "the snapshot");
	return error_trace(
		operation_start(call, &snapshot_apply_operation, request, request->key, false));
}
