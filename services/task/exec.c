/*
 * The operation task.exec: a process is added to a running task, and started if
 * that was asked for. The OCI process comes from the runtime service, goes into
 * a file of the bundle, and the shim does the rest under an id derived from the
 * caller's: asked again it gives the same answer and starts nothing twice. When
 * the shim fails, it is asked what it knows of the process; what it does not
 * know leaves no row.
 */

#include <string.h>

#include "schemas/check.h"
#include "services/task/handlers.h"

#define ARGS_SHOWN_MAX 256 /* bytes of each */
#define N_ARGS_SHOWN   16

static struct task_exec_context *context_of(struct operation *operation)
{
	return operation_context(operation);
}

static const struct task_exec_request *request_of(struct operation *operation)
{
	return operation_request(operation);
}

/* ---- the OCI process ----------------------------------------------------- */

static int take_process(struct operation *operation, void *reply)
{
	struct runtime_process_reply *got = reply;

	free(context_of(operation)->process);
	context_of(operation)->process = TAKE(got->process);
	return 0;
}

static int read_task(struct operation *operation, struct task_record *ret_record)
{
	int r;

	r = task_row(operation_object(operation), operation_namespace(operation),
		     request_of(operation)->container_id, ret_record);
	return r == TASK_E_NOT_FOUND
		       ? operation_fail(operation, BUS_NOT_FOUND, "container '%s' has no task",
					request_of(operation)->container_id)
		       : error_fold(r);
}

static int run_process(struct operation *operation)
{
	_cleanup_(task_record_clear) struct task_record record = {};
	const struct task_exec_request *request = request_of(operation);
	struct runtime_process_request make = {.args = request->args,
					       .env = request->env,
					       .cwd = request->cwd,
					       .user = request->user,
					       .process = request->process};
	int r;

	r = read_task(operation, &record);
	if (!r)
		r = schema_set(&context_of(operation)->task_id, record.task_id);
	if (r)
		return r;
	cgroup_wake(((struct task_service *)operation_object(operation))->cgroup_wake);
	make.task_id = record.task_id;
	make.pid = record.pid;
	make.pid_start_time = record.pid_start_time;
	if (request->io) {
		make.terminal = request->io->terminal;
		make.console_width = request->io->width;
		make.console_height = request->io->height;
	}
	return operation_call(operation, schema_find_method("runtime", "process"), NULL, &make,
			      take_process);
}

/* ---- the record ---------------------------------------------------------- */

static size_t shown_size(const char *text)
{
	size_t size = strnlen(text, ARGS_SHOWN_MAX);

	while (size && ((unsigned char)text[size] & 0xc0) == 0x80)
		size--; /* not within a character */
	return size;
}

static int show_args(const struct schema_strs *args, struct schema_strs *ret_args)
{
	int r = 0;

	for (size_t i = 0; !r && i < args->count && i < N_ARGS_SHOWN; i++) {
		_cleanup_(cleanup_free) char *shown = strndup(args->items[i],
							      shown_size(args->items[i]));

		r = shown ? schema_strs_add(ret_args, shown) : error_origin(-ENOMEM);
	}
	return r;
}

static int fill_record(struct operation *operation, struct task_exec_record *record)
{
	const struct task_exec_request *request = request_of(operation);
	int r;

	record->status = TASK_CREATING;
	record->created_at_ns = time_real_ns();
	r = schema_set(&record->task_id, context_of(operation)->task_id)
	    ?: schema_set(&record->namespace, operation_namespace(operation))
	    ?: schema_set(&record->container_id, request->container_id)
	    ?: schema_set(&record->exec_id, request->exec_id) ?: show_args(&request->args, &record->args);
	if (r || !request->io)
		return r;
	record->io = calloc(1, sizeof(*record->io));
	return record->io ? task_io_copy(request->io, record->io) : error_origin(-ENOMEM);
}

/* The task keeps the directory of its logs from the first process that has one. */
static int note_log(struct operation *operation)
{
	_cleanup_(task_record_clear) struct task_record record = {};
	struct task_service *service = operation_object(operation);
	int r;

	if (!task_io_has_log(request_of(operation)->io))
		return 0;
	r = read_task(operation, &record);
	if (r || (record.log && *record.log))
		return r;
	record.log = task_log_directory(service, record.task_id);
	return record.log ? task_put(service, &record) : error_origin(-ENOMEM);
}

static int run_record(struct operation *operation)
{
	_cleanup_(task_exec_record_clear) struct task_exec_record record = {};
	const struct task_exec_request *request = request_of(operation);
	int r;

	r = fill_record(operation, &record);
	if (!r)
		r = added_add(operation_object(operation), &record);
	if (r == TASK_E_EXISTS)
		return operation_fail(operation, BUS_ALREADY_EXISTS,
				      "container '%s' has a process '%s' already",
				      request->container_id, request->exec_id);
	if (r == TASK_E_FULL)
		return operation_fail(
			operation, BUS_RESOURCE_EXHAUSTED,
			"container '%s' has %d added processes already: delete those that have ended",
			request->container_id, PROCESSES_MAX);
	context_of(operation)->is_added = !r;
	return r ?: note_log(operation);
}

static int undo_record(struct operation *operation)
{
	_cleanup_(task_exec_record_clear) struct task_exec_record record = {};
	struct task_service *service = operation_object(operation);
	const struct task_exec_context *context = context_of(operation);
	int r;

	if (!context->is_added || context->is_kept)
		return 0;
	r = added_row(service, context->task_id, request_of(operation)->exec_id, &record);
	if (r)
		return r == TASK_E_NOT_FOUND ? 0 : error_fold(r);
	task_remove_fifos(service, record.io);
	return added_drop(service, context->task_id, record.exec_id);
}

/* ---- the shim ------------------------------------------------------------ */

/* The same each time the step is run. */
static void name_file(struct operation *operation, char name[64])
{
	uint8_t id[ID_SIZE];
	char text[ID_TEXT_SIZE];

	id_derive(operation_id(operation), "exec-file", 0, id);
	id_format(id, text);
	snprintf(name, 64, "exec-%s.json", text);
}

struct executed {
	struct operation *operation;
	const struct shim_exec_reply *reply;
};

static int note_executed(void *userdata)
{
	struct executed *executed = userdata;
	struct operation *operation = executed->operation;
	struct added_report report = {.status = request_of(operation)->start ? TASK_RUNNING
									     : TASK_CREATED,
				      .pid = executed->reply->pid,
				      .start_time = executed->reply->start_time};

	context_of(operation)->pid = executed->reply->pid;
	return added_note(operation_object(operation), context_of(operation)->task_id,
			  request_of(operation)->exec_id, &report);
}

static void on_executed(struct operation *operation, enum bus_status status, const char *text,
			void *reply)
{
	struct executed executed = {.operation = operation, .reply = reply};

	if (status != BUS_OK)
		operation_step_failed(operation, status, "process '%s' of container '%s': %s",
				      request_of(operation)->exec_id,
				      request_of(operation)->container_id, text);
	else
		task_step_recorded(
			operation,
			service_transact(operation_service(operation), note_executed, &executed),
			"the added process could not be recorded");
}

static int write_file(struct operation *operation, const struct task_record *record,
		      const char *name)
{
	_cleanup_(cleanup_free) char *path = text_format("%s/%s", record->bundle, name);
	const char *process = context_of(operation)->process;
	struct why why = {};
	int r;

	if (!path)
		return error_origin(-ENOMEM);
	r = file_write(path, process, strlen(process), 0600, false, &why);
	return r ? operation_fail(operation, BUS_INTERNAL, "container '%s': %s",
				  record->container_id, why.text)
		 : 0;
}

/* The file is complete or absent, and written again with the same content: it need not wait for the
 * commit. */
static int run_shim(struct operation *operation)
{
	_cleanup_(task_record_clear) struct task_record record = {};
	const struct task_exec_request *request = request_of(operation);
	struct shim_exec_request exec = {
		.exec_id = request->exec_id, .io = request->io, .start = request->start};
	char name[64];
	int r;

	name_file(operation, name);
	r = read_task(operation, &record);
	if (!r)
		r = write_file(operation, &record, name);
	if (r)
		return r;
	exec.process_file = name;
	return task_step_call(operation, context_of(operation)->task_id,
			      schema_find_method("shim", "exec"), &exec,
			      operation_call_options(operation, "exec")->deadline_ms, on_executed);
}

/* ---- what the shim knows of one that failed ------------------------------- */

struct asked {
	struct operation *operation;
	const struct shim_process_state *state;
};

static int note_kept(void *userdata)
{
	struct asked *asked = userdata;
	struct operation *operation = asked->operation;
	const struct shim_process_state *state = asked->state;
	struct added_report report = {.status = state->exit ? TASK_STOPPED : state->status,
				      .pid = state->pid,
				      .start_time = state->start_time,
				      .exit = state->exit};

	context_of(operation)->is_kept = true;
	return added_note(operation_object(operation), context_of(operation)->task_id,
			  request_of(operation)->exec_id, &report);
}

static void on_asked(struct operation *operation, enum bus_status status, const char *text,
		     void *reply)
{
	const struct shim_processes_reply *processes = reply;
	struct asked asked = {.operation = operation};

	if (status == BUS_NOT_FOUND) {
		operation_step_done(operation);
		return;
	}
	if (status != BUS_OK) {
		operation_step_failed(operation, status, "%s", text);
		return;
	}
	for (size_t i = 0; i < processes->processes.count; i++) {
		if (!strcmp(processes->processes.items[i].exec_id, request_of(operation)->exec_id))
			asked.state = &processes->processes.items[i];
	}
	task_step_recorded(
		operation,
		asked.state ? service_transact(operation_service(operation), note_kept, &asked) : 0,
		"the added process could not be recorded");
}

static void on_dropped(struct operation *operation, enum bus_status status, const char *text,
		       void *reply)
{
	static const struct empty nothing;
	const char *task_id = context_of(operation)->task_id;

	(void)text;
	(void)reply;
	if (status == BUS_OK || status == BUS_NOT_FOUND)
		operation_step_done(operation);
	else if (task_step_call_now(operation, task_id, schema_find_method("shim", "processes"),
				    &nothing, time_boot_ms() + SHIM_DEADLINE_MS, on_asked))
		operation_step_failed(operation, BUS_UNAVAILABLE, "out of memory");
}

/* One that did not start is forgotten there too; one that runs, or may run, is refused and kept. */
static int undo_shim(struct operation *operation)
{
	const struct task_exec_context *context = context_of(operation);
	struct shim_process_request process = {.exec_id = request_of(operation)->exec_id};

	if (!context->task_id)
		return 0;
	return task_step_call(operation, context->task_id,
			      schema_find_method("shim", "exec_delete"), &process,
			      time_boot_ms() + SHIM_DEADLINE_MS, on_dropped);
}

static int finish(struct operation *operation, void *object)
{
	const struct task_exec_request *request = request_of(operation);
	struct task_exec_context *context = context_of(operation);
	struct task_exec_reply *reply = object;

	reply->pid = context->pid;
	return schema_set(&reply->container_id, request->container_id)
		       ?: schema_set(&reply->exec_id, request->exec_id)
		       ?: schema_set(&reply->task_id, context->task_id);
}

static const struct operation_step steps[] = {
	{.name = "process", .run = run_process},
	{.name = "record", .run = run_record, .undo = undo_record, .persist = true},
	{.name = "shim", .run = run_shim, .undo = undo_shim},
	{}};

const struct operation_type task_exec_operation = {
	.method = "task.exec",
	.steps = steps,
	.request = schema_task_exec_request,
	.reply = schema_task_exec_reply,
	.context = schema_task_exec_context,
	.finish = finish,
};

/* ---- the handler --------------------------------------------------------- */

static int refuse(struct task_service *service, struct call *call,
		  const struct task_exec_request *request, const struct task_record *record,
		  bool *ret_refused)
{
	_cleanup_(task_exec_record_clear) struct task_exec_record other = {};
	enum task_status status = record->status;
	struct schema_fault fault = {};
	int r;

	*ret_refused = true;
	if (check_identifier_why("exec id", request->exec_id, &fault))
		return call_fail(call, BUS_INVALID_ARGUMENT, "%s", fault.text);
	if (!strcmp(request->exec_id, request->container_id))
		return call_fail(call, BUS_INVALID_ARGUMENT,
				 "exec id '%s' is the container's own: choose another",
				 request->exec_id);
	if (!request->args.count && !(request->process && *request->process))
		return call_fail(call, BUS_INVALID_ARGUMENT,
				 "process '%s' of container '%s' has no arguments",
				 request->exec_id, request->container_id);
	if (status != TASK_RUNNING && status != TASK_UNKNOWN)
		return call_fail(
			call, BUS_FAILED_PRECONDITION,
			"the task of container '%s' is %s: processes are added to a running one",
			record->container_id, schema_enum_text(&schema_enum_task_status, status));
	r = added_row(service, record->task_id, request->exec_id, &other);
	if (!r && other.status != TASK_DELETED)
		return call_fail(call, BUS_ALREADY_EXISTS,
				 "container '%s' has a process '%s' already (%s)",
				 record->container_id, request->exec_id,
				 schema_enum_text(&schema_enum_task_status, other.status));
	*ret_refused = false;
	return r && r != TASK_E_NOT_FOUND ? call_fail_store(call, r, "the process") : 0;
}

int task_exec(struct task_service *service, const struct task_exec_request *request,
	      struct task_exec_reply *reply, struct call *call)
{
	_cleanup_(task_record_clear) struct task_record record = {};
	_cleanup_(cleanup_free) char *object = NULL;
	bool found, is_refused;
	int r;

	(void)reply;
	r = task_find(service, call, request->container_id, &record, &found);
	if (r || !found)
		return r;
	r = refuse(service, call, request, &record, &is_refused);
	if (r || is_refused)
		return r;
	object = text_format("%s/%s", request->container_id, request->exec_id);
	return object ? operation_start(call, &task_exec_operation, request, object, true)
		      : error_origin(-ENOMEM);
}
