/*
 * The operation task.create: the container's record, its root's mounts, the
 * bundle, the network, the shim, the OCI runtime's create (or run, with start).
 *
 * The row is written (CREATING) before the shim is spawned. A crash in the shim
 * step is found by the bundle's lock: held means that a shim lives and may be
 * asked again with the same request id; free means that none does, and the step
 * starts over or, when a container may be half made, fails and is undone by a
 * shim that cleans up.
 */

#include <string.h>
#include <unistd.h>

#include "broker/lib/log.h"
#include "services/task/task.h"

#define UNCERTAIN "; whether it was started is not known, what there was is ended"

static struct task_create_context *context_of(struct operation *operation)
{
	return operation_context(operation);
}

static const struct task_create_request *request_of(struct operation *operation)
{
	return operation_request(operation);
}

/* ---- the container and its mounts ---------------------------------------- */

static int take_container(struct operation *operation, void *reply)
{
	struct task_create_context *context = context_of(operation);
	struct container_reply *got = reply;

	if (context->container)
		container_record_clear(context->container);
	free(context->container);
	context->container = TAKE(got->container);
	return 0;
}

static int copy_container(struct task_create_context *context,
			  const struct container_record *container)
{
	context->container = calloc(1, sizeof(*context->container));
	return context->container ? container_record_copy(container, context->container)
				  : error_origin(-ENOMEM);
}

static int run_container(struct operation *operation)
{
	const struct task_create_request *request = request_of(operation);
	struct container_get_request get = {.id = request->container_id};
	struct task_service *service = operation_object(operation);
	char id[ID_TEXT_SIZE];
	uint8_t task_id[ID_SIZE];
	int r;

	id_derive(operation_id(operation), "task", 0, task_id);
	id_format(task_id, id);
	r = schema_set(&context_of(operation)->task_id, id);
	if (r)
		return error_trace(r);
	cgroup_wake(service->cgroup_wake);
	if (request->container)
		return context_of(operation)->container
			       ? 0
			       : copy_container(context_of(operation), request->container);
	return operation_call(operation, schema_find_method("container", "get"), NULL, &get,
			      take_container);
}

static int take_mounts(struct operation *operation, void *reply)
{
	struct task_create_context *context = context_of(operation);
	struct image_mounts_reply *got = reply;

	context->mounts.items = TAKE(got->mounts.items);
	context->mounts.count = got->mounts.count;
	got->mounts.count = 0;
	return 0;
}

static void clear_mounts(struct task_create_context *context)
{
	for (size_t i = 0; i < context->mounts.count; i++)
		mount_clear(&context->mounts.items[i]);
	free(context->mounts.items);
	context->mounts.items = NULL;
	context->mounts.count = 0;
}

static int copy_mounts(struct task_create_context *context,
		       const struct task_create_request *request)
{
	for (size_t i = 0; i < request->rootfs.count; i++) {
		struct mount *mount = schema_list_add(&context->mounts);
		int r = mount ? mount_copy(&request->rootfs.items[i], mount) : -ENOMEM;

		if (r)
			return error_trace(r);
	}
	return 0;
}

static int run_mounts(struct operation *operation)
{
	const struct task_create_request *request = request_of(operation);
	struct task_create_context *context = context_of(operation);
	struct snapshot_key_request key = {.key = context->container->snapshot_key,
					   .snapshotter = context->container->snapshotter};

	clear_mounts(context);
	if (request->rootfs.count)
		return copy_mounts(context, request);
	if (!key.key || !*key.key)
		return 0;
	return operation_call(operation, schema_find_method("image", "mounts"), NULL, &key,
			      take_mounts);
}

/* ---- the bundle ---------------------------------------------------------- */

static int take_bundle(struct operation *operation, void *reply)
{
	struct task_create_context *context = context_of(operation);
	struct runtime_prepare_reply *got = reply, *kept = malloc(sizeof(*kept));

	if (!kept)
		return error_origin(-ENOMEM);
	*kept = *got;
	*got = (struct runtime_prepare_reply){};
	if (context->prepared)
		runtime_prepare_reply_clear(context->prepared);
	free(context->prepared);
	context->prepared = kept;
	return 0;
}

static int run_bundle(struct operation *operation)
{
	const struct task_create_request *request = request_of(operation);
	struct task_create_context *context = context_of(operation);
	struct runtime_prepare_request prepare = {
		.task_id = context->task_id,
		.container_id = request->container_id,
		.spec = context->container->spec,
		.runtime = request->runtime && *request->runtime ? request->runtime
								 : context->container->runtime,
	};

	if (!prepare.spec || !*prepare.spec)
		return operation_fail(operation, BUS_FAILED_PRECONDITION,
				      "container '%s' has no OCI spec", request->container_id);
	return operation_call(operation, schema_find_method("runtime", "prepare"), NULL, &prepare,
			      take_bundle);
}

static int undo_bundle(struct operation *operation)
{
	struct runtime_release_request release = {.task_id = context_of(operation)->task_id};

	return operation_call(operation, schema_find_method("runtime", "release"), NULL, &release,
			      NULL);
}

/* ---- the network --------------------------------------------------------- */

static int take_network(struct operation *operation, void *reply)
{
	struct task_create_context *context = context_of(operation);
	struct runtime_attach_reply *got = reply;

	if (context->network)
		task_network_clear(context->network);
	free(context->network);
	context->network = TAKE(got->network);
	return 0;
}

static int call_network(struct operation *operation, const char *method, operation_reply_fn done)
{
	struct runtime_network_request request = {
		.task_id = context_of(operation)->task_id,
		.container_id = request_of(operation)->container_id};

	return operation_call(operation, schema_find_method("runtime", method), NULL, &request,
			      done);
}

static int run_network(struct operation *operation)
{
	if (!context_of(operation)->prepared->network)
		return 0;
	return call_network(operation, "attach", take_network);
}

static int undo_network(struct operation *operation)
{
	struct task_create_context *context = context_of(operation);

	if (!context->prepared || !context->prepared->network)
		return 0;
	return call_network(operation, "detach", NULL);
}

/* ---- the record ---------------------------------------------------------- */

static int fill_record(struct operation *operation, struct task_record *record)
{
	struct task_service *service = operation_object(operation);
	const struct task_create_request *request = request_of(operation);
	struct task_create_context *context = context_of(operation);
	const struct runtime_prepare_reply *prepared = context->prepared;
	char *socket = text_format("%s/s/%.16s", service_paths(service->service)->state,
				   context->task_id);
	int r;

	if (!socket)
		return error_origin(-ENOMEM);
	record->socket = socket;
	record->status = TASK_CREATING;
	record->auto_remove = context->container->auto_remove;
	record->created_at_ns = time_real_ns();
	r = schema_set(&record->task_id, context->task_id)
	    ?: schema_set(&record->namespace, operation_namespace(operation))
	    ?: schema_set(&record->container_id, request->container_id)
	    ?: schema_set(&record->container_uid, context->container->uid)
	    ?: schema_set(&record->bundle, prepared->bundle)
	    ?: schema_set(&record->runtime, prepared->runtime)
	    ?: schema_set(&record->runtime_path, prepared->runtime_path)
	    ?: schema_set(&record->oci_root, prepared->oci_root)
	    ?: schema_set(&record->cgroup, prepared->cgroup)
	    ?: schema_set(&record->stop_signal, context->container->stop_signal)
	    ?: missed_set_log_end(service, record);
	if (!r && context->network) {
		record->network = calloc(1, sizeof(*record->network));
		r = record->network ? task_network_copy(context->network, record->network)
				    : error_origin(-ENOMEM);
	}
	if (!r && task_io_has_log(request->io)) {
		record->log = task_log_directory(service, context->task_id);
		r = record->log ? 0 : error_origin(-ENOMEM);
	}
	if (r || !request->io)
		return r;
	record->io = calloc(1, sizeof(*record->io));
	return record->io ? task_io_copy(request->io, record->io) : error_origin(-ENOMEM);
}

static int run_record(struct operation *operation)
{
	_cleanup_(task_record_clear) struct task_record record = {};
	int r;

	r = fill_record(operation, &record);
	return r ?: task_put(operation_object(operation), &record);
}

/* One whose process goes on ending is forgotten when it has ended. */
static void forget_shim(struct operation *operation)
{
	struct task_service *service = operation_object(operation);
	const char *task_id = context_of(operation)->task_id;
	struct task_shim *shim = task_shim_find(service, task_id);

	live_remove(service->live, task_id);
	task_remove_fifos(service, request_of(operation)->io);
	if (shim && !shim->link && shim->child.pidfd < 0)
		task_shim_free(shim);
	operation_step_done(operation);
}

static int drop(struct task_service *service, const char *table, const char *first,
		const char *second)
{
	struct store_key key;
	int r;

	r = store_key(&key, first, second, NULL) ?: store_delete(service->store, table, &key);
	return r == STORE_E_NOT_FOUND ? 0 : r;
}

static int undo_record(struct operation *operation)
{
	_cleanup_(task_record_clear) struct task_record record = {};
	struct task_service *service = operation_object(operation);
	const char *task_id = context_of(operation)->task_id;
	int r;

	if (!task_id)
		return 0;
	r = task_row(service, operation_namespace(operation), request_of(operation)->container_id,
		     &record);
	if (r == TASK_E_NOT_FOUND || (!r && strcmp(record.task_id, task_id)))
		return operation_after_commit(operation, forget_shim) ?: OPERATION_LATER;
	r = r ?: task_log_drop(service, &record);
	if (!r)
		r = drop(service, TASK_TABLE, record.namespace, record.container_id);
	if (!r)
		r = drop(service, SHIM_TABLE, task_id, NULL);
	return r ?: operation_after_commit(operation, forget_shim) ?: OPERATION_LATER;
}

/* ---- the shim ------------------------------------------------------------ */

/* Everything in @config is borrowed from the context and the record. */
static void fill_config(struct operation *operation, const struct task_record *record,
			uint8_t publisher[ID_SIZE], char *log_dir, struct shim_config *config)
{
	struct task_service *service = operation_object(operation);
	struct task_create_context *context = context_of(operation);
	const struct runtime_prepare_reply *prepared = context->prepared;

	id_derive(operation_id(operation), "publisher", 0, publisher);
	*config = (struct shim_config){
		.task_id = record->task_id,
		.namespace = record->namespace,
		.container_id = record->container_id,
		.bundle = record->bundle,
		.socket = record->socket,
		.bus = service_paths(service->service)->bus,
		.runtime_path = prepared->runtime_path,
		.oci_root = prepared->oci_root,
		.cgroup = prepared->cgroup,
		.systemd_cgroup = prepared->systemd_cgroup,
		.detach_unified = prepared->detach_unified,
		.own_pid_ns = prepared->own_pid_ns,
		.no_pivot = prepared->no_pivot,
		.no_cgroup = prepared->no_cgroup,
		.clones_itself = prepared->clones_itself,
		.uid_map = prepared->uid_map,
		.gid_map = prepared->gid_map,
		.io = record->io,
		.publisher = {.data = publisher, .size = ID_SIZE},
		.log_dir = log_dir,
		.auto_remove = record->auto_remove,
		.checkpoint = request_of(operation)->checkpoint,
	};
	config->rootfs.items = context->mounts.items;
	config->rootfs.count = context->mounts.count;
}

struct created {
	struct operation *operation;
	struct shim_pid_reply *reply;
};

/* The answer may be older than an exit that an event packet has brought already: the move says so. */
static int note_created(void *userdata)
{
	_cleanup_(task_record_clear) struct task_record record = {};
	struct created *created = userdata;
	struct operation *operation = created->operation;
	struct task_service *service = operation_object(operation);
	bool start = request_of(operation)->start;
	int r;

	context_of(operation)->pid = created->reply->pid;
	r = task_shim_row(service, context_of(operation)->task_id, &record);
	if (r)
		return error_fold(r);
	if (record.status == TASK_DELETED)
		return 0;
	record.pid = created->reply->pid;
	record.pid_start_time = created->reply->start_time;
	if (start && !record.started_at_ns)
		record.started_at_ns = time_real_ns();
	r = task_move(service, &record, start ? TASK_RUNNING : TASK_CREATED);
	return r == TASK_E_STATE ? task_put(service, &record) : r;
}

static void on_created(struct operation *operation, enum bus_status status, const char *text,
		       void *reply)
{
	struct created created = {.operation = operation, .reply = reply};
	bool is_silent = status == BUS_UNAVAILABLE || status == BUS_DEADLINE_EXCEEDED;

	if (is_silent && request_of(operation)->start)
		operation_step_failed(operation, BUS_ABORTED, "%s" UNCERTAIN, text);
	else if (status != BUS_OK)
		operation_step_failed(operation, status, "%s", text);
	else
		task_step_recorded(
			operation,
			service_transact(operation_service(operation), note_created, &created),
			"the new task could not be recorded");
}

static int ask_create(struct operation *operation)
{
	struct shim_create_request create = {.start = request_of(operation)->start};

	return task_step_call_now(
		operation, context_of(operation)->task_id, schema_find_method("shim", "create"),
		&create, operation_call_options(operation, "create")->deadline_ms, on_created);
}

/* An earlier run of this step had a shim, which has written its journal. */
static bool may_be_started(struct operation *operation, const struct task_record *record)
{
	_cleanup_(cleanup_free) char *journal = record->bundle
							? text_format("%s/journal", record->bundle)
							: NULL;

	return request_of(operation)->start && journal && !access(journal, F_OK);
}

static void start_shim(struct operation *operation)
{
	_cleanup_(task_record_clear) struct task_record record = {};
	struct task_service *service = operation_object(operation);
	const char *task_id = context_of(operation)->task_id;
	struct task_shim *shim = task_shim_find(service, task_id);
	/* Told in any case: an added process may have a log. */
	_cleanup_(cleanup_free) char *log_dir = task_log_directory(service, task_id);
	_cleanup_(cleanup_fd) int lock_fd = -1;
	uint8_t publisher[ID_SIZE];
	struct shim_config config;
	struct why why = {};
	int r;

	r = log_dir ? fill_record(operation, &record) : -ENOMEM;
	if (!r && !shim)
		r = task_shim_add(service, record.task_id, &shim);
	if (!r)
		live_add(service->live, &record);
	if (!r && !shim->link) {
		r = task_shim_lock(record.bundle, &lock_fd);
		if (!r) {
			fill_config(operation, &record, publisher, log_dir, &config);
			r = task_shim_spawn(service, shim, &config, lock_fd, &why);
		} else if (r == TASK_E_LOCKED) { /* of before a crash of ours: it is asked again */
			task_shim_take_up(shim);
			r = 0;
		}
	}
	if (!r)
		r = ask_create(operation);
	if (r)
		operation_step_failed(operation, BUS_INTERNAL, "no shim for container '%s': %s%s",
				      request_of(operation)->container_id,
				      why.text[0] ? why.text : strerror(-r),
				      may_be_started(operation, &record) ? UNCERTAIN : "");
}

/* When this step runs again, what it started may have ended already, and been removed: with its row, once its shim is gone. */
static int run_shim(struct operation *operation)
{
	_cleanup_(task_record_clear) struct task_record record = {};
	struct task_create_context *context = context_of(operation);
	int r;

	r = task_shim_row(operation_object(operation), context->task_id, &record);
	if (r && r != TASK_E_NOT_FOUND)
		return error_fold(r);
	if (r || record.status == TASK_DELETED) {
		context->pid = record.pid;
		return 0;
	}
	return operation_after_commit(operation, start_shim) ?: OPERATION_LATER;
}

/* A failure is tried again by the operation: nothing may be left without an owner. */
static void on_undone(struct operation *operation, enum bus_status status, const char *text,
		      void *reply)
{
	(void)reply;
	if (status == BUS_OK || status == BUS_NOT_FOUND)
		operation_step_done(operation);
	else
		operation_step_failed(operation, status, "the shim of container '%s': %s",
				      request_of(operation)->container_id, text);
}

/* A live shim, or one started for the clean-up, deletes what there is. No bundle, or none that a shim was
 * started for: nothing is left. */
static void delete_shim(struct operation *operation)
{
	struct task_service *service = operation_object(operation);
	const char *task_id = context_of(operation)->task_id;
	struct task_shim *shim = task_shim_find(service, task_id);
	struct shim_delete_request delete = {.force = true};
	struct why why = {};
	int r = shim ? task_shim_clean_up(shim, &why) : -ENOENT;

	if (!r || r == TASK_E_LOCKED)
		r = task_step_call_now(operation, task_id, schema_find_method("shim", "delete"),
				       &delete, time_boot_ms() + SHIM_DEADLINE_MS, on_undone);
	if (r == -ENOENT || r == -ENODATA)
		operation_step_done(operation);
	else if (r)
		on_undone(operation, BUS_UNAVAILABLE, why.text[0] ? why.text : strerror(-r), NULL);
}

static int undo_shim(struct operation *operation)
{
	return operation_after_commit(operation, delete_shim) ?: OPERATION_LATER;
}

static int finish(struct operation *operation, void *reply)
{
	struct task_create_context *context = context_of(operation);
	struct task_create_reply *created = reply;

	created->pid = context->pid;
	return schema_set(&created->container_id, request_of(operation)->container_id)
		       ?: schema_set(&created->task_id, context->task_id);
}

static const struct operation_step steps[] = {
	{.name = "container", .run = run_container},
	{.name = "mounts", .run = run_mounts},
	{.name = "bundle", .run = run_bundle, .undo = undo_bundle},
	{.name = "network", .run = run_network, .undo = undo_network},
	{.name = "record", .run = run_record, .undo = undo_record, .persist = true},
	{.name = "shim", .run = run_shim, .undo = undo_shim},
	{}};

const struct operation_type task_create_operation = {
	.method = "task.create",
	.steps = steps,
	.request = schema_task_create_request,
	.reply = schema_task_create_reply,
	.context = schema_task_create_context,
	.finish = finish,
};
