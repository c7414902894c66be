/*
 * The operation container.run: the image's snapshot, the spec, the record, the
 * task. What it has worked out is stored only with the record, in the same
 * commit: a crash before that repeats the steps with the same request ids and
 * gets the same answers.
 */

#include <string.h>

#include "broker/lib/file.h"
#include "services/container/container.h"

#define STOP_SIGNAL_LABEL "io.containerd.image.config.stop-signal"

static struct container_run_context *context_of(struct operation *operation)
{
	return operation_context(operation);
}

static const struct container_run_request *request_of(struct operation *operation)
{
	return operation_request(operation);
}

static bool is_set(const char *text)
{
	return text && *text;
}

/* The container's uid, the same each time the step is run. */
static int make_uid(struct operation *operation)
{
	uint8_t uid[ID_SIZE];
	char text[ID_TEXT_SIZE];

	id_derive(operation_id(operation), "uid", 0, uid);
	id_format(uid, text);
	return schema_set(&context_of(operation)->uid, text);
}

/* ---- the options ---- */

static int choose_runtime(struct operation *operation)
{
	struct container_run_context *context = context_of(operation);
	const char *asked = request_of(operation)->runtime;

	if (is_set(asked))
		return schema_set(&context->runtime, asked);
	free(TAKE(context->runtime));
	return namespace_default(operation_object(operation), operation_namespace(operation),
				 "runtime", &context->runtime);
}

/* Nothing but what every run has: there is nothing to check. */
static bool is_plain(const struct spec_options *options)
{
	struct spec_options rest = *options;
	struct schema_buffer buffer = {};
	struct schema_fault fault = {};
	bool is_empty;

	rest.args = (struct schema_strs){};
	rest.terminal = rest.read_only = rest.net_host = false;
	is_empty = !schema_pack(schema_spec_options(), &rest, &buffer, &fault) && buffer.size == 1;
	schema_buffer_clear(&buffer);
	return is_empty;
}

/* So that a wrong option is refused before an image is unpacked for it. */
static int run_check(struct operation *operation)
{
	const struct container_run_request *request = request_of(operation);
	struct container_run_context *context = context_of(operation);
	struct runtime_spec_request check;
	int r;

	if (is_set(request->spec) || !request->options || is_plain(request->options))
		return 0;
	r = choose_runtime(operation);
	if (r)
		return error_trace(r);
	check = (struct runtime_spec_request){.container_id = request->id,
					      .runtime = context->runtime,
					      .options = request->options,
					      .check_only = true};
	return operation_call(operation, schema_find_method("runtime", "spec"), NULL, &check, NULL);
}

/* ---- the image's snapshot ---- */

static bool uses_image(const struct container_run_request *request)
{
	return is_set(request->image) && !(request->options && is_set(request->options->rootfs));
}

static void clear_mounts(struct container_run_context *context)
{
	for (size_t i = 0; i < context->mounts.count; i++)
		mount_clear(&context->mounts.items[i]);
	free(context->mounts.items);
	context->mounts.items = NULL;
	context->mounts.count = 0;
}

static int take_image(struct operation *operation, void *reply)
{
	struct container_run_context *context = context_of(operation);
	struct image_prepare_reply *image = reply;

	clear_mounts(context);
	context->mounts.items = TAKE(image->mounts.items);
	context->mounts.count = image->mounts.count;
	image->mounts.count = 0;
	free(context->image_config);
	context->image_config = TAKE(image->config);
	return schema_set(&context->image, image->name) ?: schema_set(&context->snapshotter, image->snapshotter)
		       ?: schema_set(&context->snapshot_key, image->key);
}

static int choose_snapshotter(struct operation *operation)
{
	struct container_run_context *context = context_of(operation);
	const char *asked = request_of(operation)->snapshotter;

	if (is_set(asked))
		return schema_set(&context->snapshotter, asked);
	free(TAKE(context->snapshotter));
	return namespace_default(operation_object(operation), operation_namespace(operation),
				 "snapshotter", &context->snapshotter);
}

static int run_image(struct operation *operation)
{
	const struct container_run_request *request = request_of(operation);
	struct container_run_context *context = context_of(operation);
	struct image_prepare_request prepare;
	int r = make_uid(operation);

	if (r || !uses_image(request))
		return error_trace(r);
	free(context->snapshot_key);
	context->snapshot_key = text_format("%s-%s", request->id, context->uid);
	r = context->snapshot_key ? choose_snapshotter(operation) : error_origin(-ENOMEM);
	if (r)
		return error_trace(r);
	prepare = (struct image_prepare_request){.name = request->image,
						 .key = context->snapshot_key,
						 .snapshotter = context->snapshotter,
						 .platform = request->platform,
						 .labels = request->snapshot_labels,
						 .leased = true};
	return operation_call(operation, schema_find_method("image", "prepare"), NULL, &prepare,
			      take_image);
}

static int undo_image(struct operation *operation)
{
	struct container_run_context *context = context_of(operation);
	struct snapshot_key_request key = {.key = context->snapshot_key,
					   .snapshotter = context->snapshotter};

	if (!is_set(key.key))
		return 0;
	return operation_call(operation, schema_find_method("image", "release"), NULL, &key, NULL);
}

/* ---- the spec ---- */

static int take_spec(struct operation *operation, void *reply)
{
	struct container_run_context *context = context_of(operation);
	struct runtime_spec_reply *spec = reply;

	free(context->spec);
	context->spec = TAKE(spec->spec);
	return schema_set(&context->runtime, spec->runtime)
		       ?: schema_set(&context->stop_signal, spec->stop_signal);
}

static int run_spec(struct operation *operation)
{
	const struct container_run_request *request = request_of(operation);
	struct container_run_context *context = context_of(operation);
	struct runtime_spec_request make;
	int r = choose_runtime(operation);

	if (r)
		return error_trace(r);
	if (is_set(request->spec))
		return schema_set(&context->spec, request->spec);
	make = (struct runtime_spec_request){.container_id = request->id,
					     .runtime = context->runtime,
					     .image_config = context->image_config,
					     .options = request->options,
					     .labels = request->labels};
	make.mounts.items = context->mounts.items;
	make.mounts.count = context->mounts.count;
	return operation_call(operation, schema_find_method("runtime", "spec"), NULL, &make,
			      take_spec);
}

/* ---- the record ---- */

static int add_labels(struct operation *operation, struct container_record *record)
{
	struct container_run_context *context = context_of(operation);
	int r = schema_map_copy(&request_of(operation)->labels, &record->labels);

	if (!r && is_set(context->image_config))
		r = check_image_labels(context->image_config, &record->labels);
	if (!r && is_set(context->stop_signal) &&
	    !schema_map_get(&record->labels, STOP_SIGNAL_LABEL))
		r = schema_map_set(&record->labels, STOP_SIGNAL_LABEL, context->stop_signal);
	return error_fold(r);
}

static int fill_record(struct operation *operation, struct container_record *record)
{
	const struct container_run_request *request = request_of(operation);
	struct container_run_context *context = context_of(operation);

	record->auto_remove = request->auto_remove;
	return schema_set(&record->id, request->id) ?: schema_set(&record->uid, context->uid)
		       ?: schema_set(&record->image, context->image)
		       ?: schema_set(&record->runtime, context->runtime)
		       ?: schema_set(&record->spec, context->spec)
		       ?: schema_set(&record->snapshot_key, context->snapshot_key)
		       ?: (is_set(context->snapshot_key) ? schema_set(&record->snapshotter, context->snapshotter) : 0)
		       ?: schema_set(&record->stop_signal, context->stop_signal)
		       ?: add_labels(operation, record);
}

/* What later steps need no more is not stored with their progress. */
static void forget(struct container_run_context *context)
{
	free(TAKE(context->image_config));
	free(TAKE(context->spec));
}

static int run_record(struct operation *operation)
{
	_cleanup_(container_record_clear) struct container_record record = {};
	int r = fill_record(operation, &record);

	r = r ?: record_add(operation_object(operation), operation_namespace(operation), &record);
	if (r == CONTAINER_E_EXISTS)
		return operation_fail(operation, BUS_ALREADY_EXISTS,
				      "container '%s' exists already in namespace '%s'", record.id,
				      operation_namespace(operation));
	if (!r)
		forget(context_of(operation));
	return error_trace(r);
}

static int undo_record(struct operation *operation)
{
	int r = record_remove(operation_object(operation), operation_namespace(operation),
			      request_of(operation)->id, context_of(operation)->uid);

	return error_trace(record_is_gone(r) ? 0 : r);
}

/* ---- the task ---- */

static int take_task(struct operation *operation, void *reply)
{
	struct container_run_context *context = context_of(operation);
	struct task_create_reply *task = reply;

	context->pid = task->pid;
	return schema_set(&context->task_id, task->task_id);
}

/*
 * A task that was made before a restart of this service can have ended since, and its container can have been removed
 * (auto_remove), before this hears of it. The task service keeps for a while what it knows of such ones.
 */
static int take_ended(struct operation *operation, void *data)
{
	struct container_run_context *context = context_of(operation);
	const struct task_process *process = ((struct task_process_reply *)data)->process;

	if (strcmp(process->container_uid ?: "", context->uid))
		return operation_fail(operation, BUS_NOT_FOUND, "container '%s' was deleted",
				      request_of(operation)->id);
	context->pid = process->pid;
	return schema_set(&context->task_id, process->task_id);
}

/* The record and the mounts go along, so that the task service need not ask for them. */
static int run_task(struct operation *operation)
{
	_cleanup_(container_record_clear) struct container_record record = {};
	const struct container_run_request *request = request_of(operation);
	struct container_run_context *context = context_of(operation);
	struct task_create_request create = {.container_id = request->id,
					     .io = request->io,
					     .start = !request->no_start,
					     .checkpoint = request->checkpoint,
					     .container = &record};
	int r;

	if (request->create_only)
		return 0;
	r = record_get(operation_object(operation), operation_namespace(operation), request->id,
		       &record);
	if (record_is_gone(r))
		return operation_call(operation, schema_find_method("task", "get"), "ended",
				      &(struct task_name_request){.container_id = request->id},
				      take_ended);
	if (r)
		return error_fold(r);
	create.rootfs.items = context->mounts.items;
	create.rootfs.count = context->mounts.count;
	return operation_call(operation, schema_find_method("task", "create"), NULL, &create,
			      take_task);
}

static int undo_task(struct operation *operation)
{
	const struct container_run_request *request = request_of(operation);
	struct task_delete_request delete = {
		.container_id = request->id, .force = true, .forget = true};

	if (request->create_only)
		return 0;
	return operation_call(operation, schema_find_method("task", "delete"), NULL, &delete, NULL);
}

static int finish(struct operation *operation, void *object)
{
	struct container_run_context *context = context_of(operation);
	struct container_run_reply *reply = object;

	reply->pid = context->pid;
	return schema_set(&reply->id, request_of(operation)->id) ?: schema_set(&reply->uid, context->uid)
		       ?: schema_set(&reply->task_id, context->task_id);
}

static const struct operation_step steps[] = {
	{.name = "check", .run = run_check},
	{.name = "image", .run = run_image, .undo = undo_image},
	{.name = "spec", .run = run_spec},
	{.name = "record", .run = run_record, .undo = undo_record, .persist = true},
	{.name = "task", .run = run_task, .undo = undo_task},
	{},
};

const struct operation_type container_run_operation = {
	.method = "container.run",
	.steps = steps,
	.request = schema_container_run_request,
	.reply = schema_container_run_reply,
	.context = schema_container_run_context,
	/* Up to the record there is only a snapshot under a lease, and a spec. */
	.starts_unstored = true,
	.finish = finish,
};
