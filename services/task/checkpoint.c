/*
 * The operation task.checkpoint: into a directory of the caller's, or into one
 * that is made here, under the root, and stays until task.checkpoint_release.
 */

#include <fcntl.h>
#include <string.h>

#include "broker/lib/log.h"
#include "schemas/check.h"
#include "services/task/handlers.h"

static const struct task_checkpoint_request *request_of(struct operation *operation)
{
	return operation_request(operation);
}

static bool is_set(const char *text)
{
	return text && *text;
}

static char *directory_of_ours(const struct task_service *service, const char *name)
{
	return text_format("%s/task/checkpoints/%s", service_paths(service->service)->root, name);
}

/* malloc'd; the same each time. */
static char *directory_of(struct operation *operation)
{
	uint8_t id[ID_SIZE];
	char text[ID_TEXT_SIZE];

	if (is_set(request_of(operation)->image_path))
		return strdup(request_of(operation)->image_path);
	id_derive(operation_id(operation), "checkpoint", 0, id);
	id_format(id, text);
	return directory_of_ours(operation_object(operation), text);
}

static int run_directory(struct operation *operation)
{
	_cleanup_(cleanup_free) char *directory = directory_of(operation);
	struct why why = {};

	if (!directory)
		return error_origin(-ENOMEM);
	return file_make_dir(directory, 0700, &why)
		       ? operation_fail(operation, BUS_FAILED_PRECONDITION, "container '%s': %s",
					request_of(operation)->container_id, why.text)
		       : 0;
}

/* One of the caller's is left with what is in it. */
static int undo_directory(struct operation *operation)
{
	_cleanup_(cleanup_free) char *directory = directory_of(operation);
	struct why why = {};

	if (!directory)
		return error_origin(-ENOMEM);
	if (!is_set(request_of(operation)->image_path) &&
	    file_remove_tree(AT_FDCWD, directory, &why))
		return operation_fail(operation, BUS_INTERNAL, "%s", why.text);
	return 0;
}

static void on_checkpointed(struct operation *operation, enum bus_status status, const char *text,
			    void *reply)
{
	(void)reply;
	if (status == BUS_OK)
		operation_step_done(operation);
	else
		operation_step_failed(operation, status, "container '%s': %s",
				      request_of(operation)->container_id, text);
}

static int run_shim(struct operation *operation)
{
	_cleanup_(task_record_clear) struct task_record record = {};
	_cleanup_(cleanup_free) char *directory = directory_of(operation);
	struct task_checkpoint_request checkpoint = *request_of(operation);
	int r;

	if (!directory)
		return error_origin(-ENOMEM);
	r = task_row(operation_object(operation), operation_namespace(operation),
		     checkpoint.container_id, &record);
	if (r == TASK_E_NOT_FOUND)
		return operation_fail(operation, BUS_NOT_FOUND, "container '%s' has no task",
				      checkpoint.container_id);
	if (r)
		return error_fold(r);
	checkpoint.image_path = directory;
	return task_step_call(
		operation, record.task_id, schema_find_method("shim", "checkpoint"), &checkpoint,
		operation_call_options(operation, "checkpoint")->deadline_ms, on_checkpointed);
}

static int finish(struct operation *operation, void *object)
{
	struct task_checkpoint_reply *reply = object;

	reply->directory = directory_of(operation);
	return reply->directory ? 0 : error_origin(-ENOMEM);
}

static const struct operation_step steps[] = {
	{.name = "directory", .run = run_directory, .undo = undo_directory},
	{.name = "shim", .run = run_shim},
	{}};

const struct operation_type task_checkpoint_operation = {
	.method = "task.checkpoint",
	.steps = steps,
	.request = schema_task_checkpoint_request,
	.reply = schema_task_checkpoint_reply,
	.context = schema_empty,
	.finish = finish,
};

/* ---- the handlers -------------------------------------------------------- */

int task_checkpoint(struct task_service *service, const struct task_checkpoint_request *request,
		    struct task_checkpoint_reply *reply, struct call *call)
{
	_cleanup_(task_record_clear) struct task_record record = {};
	bool found;
	int r;

	(void)reply;
	r = task_find(service, call, request->container_id, &record, &found);
	if (r || !found)
		return r;
	if (is_set(request->image_path) && *request->image_path != '/')
		return call_fail(call, BUS_INVALID_ARGUMENT,
				 "the checkpoint's directory '%s' is not an absolute path",
				 request->image_path);
	if (is_set(request->work_path) && *request->work_path != '/')
		return call_fail(call, BUS_INVALID_ARGUMENT,
				 "the work directory '%s' is not an absolute path",
				 request->work_path);
	if (record.status != TASK_RUNNING && record.status != TASK_PAUSED &&
	    record.status != TASK_UNKNOWN)
		return call_fail(call, BUS_FAILED_PRECONDITION,
				 "the task of container '%s' is %s: a running one is checkpointed",
				 record.container_id,
				 schema_enum_text(&schema_enum_task_status, record.status));
	return operation_start(call, &task_checkpoint_operation, request, request->container_id,
			       false);
}

static void remove_directory(void *userdata)
{
	char *directory = userdata;
	struct why why = {};

	if (file_remove_tree(AT_FDCWD, directory, &why))
		log_warning("a checkpoint is not removed: %s", why.text);
	free(directory);
}

int task_checkpoint_release(struct task_service *service,
			    const struct task_checkpoint_release_request *request,
			    struct empty *reply, struct call *call)
{
	_cleanup_(cleanup_free) char *prefix = directory_of_ours(service, "");
	size_t size = prefix ? strlen(prefix) : 0;
	uint8_t id[ID_SIZE];
	char *directory;
	int r;

	(void)reply;
	if (!prefix)
		return error_origin(-ENOMEM);
	if (strncmp(request->directory, prefix, size) != 0 ||
	    id_parse(request->directory + size, id))
		return call_fail(call, BUS_INVALID_ARGUMENT,
				 "'%s' is no directory that task.checkpoint made",
				 request->directory);
	directory = strdup(request->directory);
	if (!directory)
		return error_origin(-ENOMEM);
	r = call_after_commit(call, remove_directory, free, directory);
	if (r)
		free(directory);
	return error_trace(r);
}
