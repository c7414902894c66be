/*
 * The operations container.remove and container.delete: the task, the snapshot,
 * the record. Each step can be done again and there is nothing to undo: what
 * failed half-way is done by asking again.
 */

#include <string.h>

#include "services/container/container.h"

#define ROOT_LABEL "containerd.io/gc.root"

static const char *request_id(struct operation *operation)
{
	const struct container_remove_request *request = operation_request(operation);

	return request->id;
}

/* Remembers which container it is and what it holds, so that another of that id is safe. */
static int look(struct operation *operation)
{
	struct container_remove_context *context = operation_context(operation);
	_cleanup_(container_record_clear) struct container_record record = {};
	int r = record_get(operation_object(operation), operation_namespace(operation),
			   request_id(operation), &record);

	if (r == CONTAINER_E_NOT_FOUND)
		return operation_fail(operation, BUS_NOT_FOUND,
				      "no container '%s' in namespace '%s'", request_id(operation),
				      operation_namespace(operation));
	if (r == CONTAINER_E_DAMAGED)
		return operation_fail(operation, BUS_DATA_LOSS,
				      "the record of container '%s' is damaged",
				      request_id(operation));
	if (r)
		return error_trace(r);
	return schema_set(&context->uid, record.uid) ?: schema_set(&context->snapshotter, record.snapshotter)
		       ?: schema_set(&context->snapshot_key, record.snapshot_key);
}

/* ---- the task ---- */

static int take_pending(struct operation *operation, void *reply)
{
	struct container_remove_context *context = operation_context(operation);

	return schema_set(&context->pending, ((const struct task_delete_reply *)reply)->pending);
}

static int remove_task(struct operation *operation)
{
	const struct container_remove_request *request = operation_request(operation);
	struct task_delete_request delete = {
		.container_id = request->id, .force = request->force, .forget = true};

	return operation_call_if_any(operation, schema_find_method("task", "delete"), NULL, &delete,
				     take_pending);
}

static int refuse_task(struct operation *operation, void *reply)
{
	const struct task_process_reply *task = reply;

	if (task->process->status == TASK_DELETED)
		return 0;
	return operation_fail(
		operation, BUS_FAILED_PRECONDITION,
		"container '%s' has a task (%s): delete that first, or use container.remove",
		request_id(operation),
		schema_enum_text(&schema_enum_task_status, task->process->status));
}

static int check_task(struct operation *operation)
{
	struct task_name_request name = {.container_id = (char *)request_id(operation)};

	return operation_call_if_any(operation, schema_find_method("task", "get"), NULL, &name,
				     refuse_task);
}

/* Its last task, and the logs of it. */
static int forget_task(struct operation *operation)
{
	struct task_forget_request forget = {.container_id = (char *)request_id(operation)};

	return operation_call(operation, schema_find_method("task", "forget"), NULL, &forget, NULL);
}

/* ---- the snapshot ---- */

/* No container has it any more: a label keeps it from being collected. */
static int keep_snapshot(struct operation *operation)
{
	struct container_remove_context *context = operation_context(operation);
	struct schema_pair label = {.key = (char *)ROOT_LABEL, .value = (char *)"kept"};
	char *field = (char *)"labels." ROOT_LABEL;
	struct snapshot_record snapshot = {.key = context->snapshot_key,
					   .snapshotter = context->snapshotter,
					   .labels = {&label, 1}};
	struct snapshot_update_request update = {.snapshot = &snapshot, .update_mask = {&field, 1}};

	return operation_call_if_any(operation, schema_find_method("snapshot", "update"), NULL,
				     &update, NULL);
}

static int release(struct operation *operation, bool keep)
{
	struct container_remove_context *context = operation_context(operation);
	struct snapshot_key_request key = {.key = context->snapshot_key,
					   .snapshotter = context->snapshotter};

	if (!key.key || !*key.key)
		return 0;
	if (keep)
		return keep_snapshot(operation);
	return operation_call_if_any(operation, schema_find_method("image", "release"), NULL, &key,
				     NULL);
}

static int release_removed(struct operation *operation)
{
	return release(operation,
		       ((const struct container_remove_request *)operation_request(operation))
			       ->keep_snapshot);
}

static int release_deleted(struct operation *operation)
{
	return release(operation,
		       ((const struct container_delete_request *)operation_request(operation))
			       ->keep_snapshot);
}

/* ---- the record ---- */

static int delete_record(struct operation *operation)
{
	struct container_remove_context *context = operation_context(operation);
	int r = record_remove(operation_object(operation), operation_namespace(operation),
			      request_id(operation), context->uid);

	return error_trace(record_is_gone(r) ? 0 : r);
}

static const struct operation_step remove_steps[] = {
	{.name = "look", .run = look},
	{.name = "task", .run = remove_task},
	{.name = "snapshot", .run = release_removed},
	{.name = "record", .run = delete_record},
	{},
};

static int finish_removed(struct operation *operation, void *object)
{
	struct container_remove_context *context = operation_context(operation);
	struct container_remove_reply *reply = object;

	reply->pending = TAKE(context->pending);
	return 0;
}

const struct operation_type container_remove_operation = {
	.method = "container.remove",
	.steps = remove_steps,
	.request = schema_container_remove_request,
	.reply = schema_container_remove_reply,
	.context = schema_container_remove_context,
	.finish = finish_removed,
};

static const struct operation_step delete_steps[] = {
	{.name = "look", .run = look},
	{.name = "task", .run = check_task},
	{.name = "forget", .run = forget_task},
	{.name = "snapshot", .run = release_deleted},
	{.name = "record", .run = delete_record},
	{},
};

const struct operation_type container_delete_operation = {
	.method = "container.delete",
	.steps = delete_steps,
	.request = schema_container_delete_request,
	.reply = schema_empty,
	.context = schema_container_remove_context,
};

/* Both requests begin with the id: request_id() reads either. */
_Static_assert(__builtin_offsetof(struct container_remove_request, id) == 0 &&
		       __builtin_offsetof(struct container_delete_request, id) == 0,
	       "the id comes first");
