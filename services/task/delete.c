/*
 * The operation task.delete, of a task or of an added process. The shim does it;
 * the row stays as it is until the shim has answered, so that no one sees a task
 * that is half gone. Cut at any point it is asked again, with the same request
 * id, or finds that nothing is left.
 */

#include <signal.h>
#include <string.h>

#include "schemas/check.h"
#include "services/task/handlers.h"

#define KILL_WAIT_MS 10000

static struct task_delete_context *context_of(struct operation *operation)
{
	return operation_context(operation);
}

static const struct task_delete_request *request_of(struct operation *operation)
{
	return operation_request(operation);
}

static bool is_of_added(struct operation *operation)
{
	return task_names_added(request_of(operation)->container_id,
				request_of(operation)->exec_id);
}

static int keep_exit(struct task_delete_context *context, const struct exit_record *exit)
{
	if (!exit || context->exit)
		return 0;
	context->exit = calloc(1, sizeof(*context->exit));
	return context->exit ? exit_record_copy(exit, context->exit) : error_origin(-ENOMEM);
}

/* ---- what there is ------------------------------------------------------- */

static int look_at_task(struct operation *operation)
{
	_cleanup_(task_record_clear) struct task_record record = {};
	struct task_delete_context *context = context_of(operation);
	int r;

	r = task_row(operation_object(operation), operation_namespace(operation),
		     request_of(operation)->container_id, &record);
	if (r == TASK_E_NOT_FOUND) {
		context->is_gone = true;
		return 0;
	}
	if (r)
		return error_fold(r);
	context->pid = record.pid;
	context->has_network = record.network;
	return schema_set(&context->task_id, record.task_id) ?: keep_exit(context, record.exit);
}

static int run_look(struct operation *operation)
{
	_cleanup_(task_exec_record_clear) struct task_exec_record record = {};
	struct task_delete_context *context = context_of(operation);
	int r;

	r = look_at_task(operation);
	if (r || context->is_gone || !is_of_added(operation))
		return r;
	exit_record_clear(context->exit);
	free(TAKE(context->exit));
	r = added_row(operation_object(operation), context->task_id, request_of(operation)->exec_id,
		      &record);
	if (r == TASK_E_NOT_FOUND || (!r && record.status == TASK_DELETED)) {
		context->is_gone = true;
		return 0;
	}
	context->pid = record.pid;
	return r ? error_fold(r) : keep_exit(context, record.exit);
}

/* ---- an added process is killed first ------------------------------------ */

static void on_killed(struct operation *operation, enum bus_status status, const char *text,
		      void *reply)
{
	(void)reply;
	if (status == BUS_OK || status == BUS_NOT_FOUND || status == BUS_FAILED_PRECONDITION)
		operation_step_done(operation);
	else
		operation_step_failed(operation, status, "process '%s' of container '%s': %s",
				      request_of(operation)->exec_id,
				      request_of(operation)->container_id, text);
}

/* Of the whole task the shim does this itself. */
static int run_kill(struct operation *operation)
{
	struct task_delete_context *context = context_of(operation);
	struct shim_kill_request kill = {.exec_id = request_of(operation)->exec_id,
					 .signal = SIGKILL};

	if (context->is_gone || context->exit || !is_of_added(operation) ||
	    !request_of(operation)->force)
		return 0;
	return task_step_call(operation, context->task_id, schema_find_method("shim", "kill"),
			      &kill, time_boot_ms() + SHIM_DEADLINE_MS, on_killed);
}

static int look_for_end(void *userdata)
{
	_cleanup_(task_exec_record_clear) struct task_exec_record record = {};
	struct operation *operation = userdata;
	int r;

	r = added_row(operation_object(operation), context_of(operation)->task_id,
		      request_of(operation)->exec_id, &record);
	if (r)
		return r == TASK_E_NOT_FOUND ? 0 : r;
	return keep_exit(context_of(operation), record.exit);
}

static void on_change(struct operation *operation, bool is_over)
{
	int r = service_transact(operation_service(operation), look_for_end, operation);

	if (r || context_of(operation)->exit || is_over)
		task_step_recorded(operation, r, "its record cannot be read");
}

/* The shim refuses one that still runs. */
static int run_end(struct operation *operation)
{
	_cleanup_(task_exec_record_clear) struct task_exec_record record = {};
	struct task_delete_context *context = context_of(operation);
	int r;

	if (context->is_gone || !is_of_added(operation) || !request_of(operation)->force)
		return 0;
	r = added_row(operation_object(operation), context->task_id, request_of(operation)->exec_id,
		      &record);
	if (r || record.status != TASK_RUNNING)
		return r == TASK_E_NOT_FOUND ? 0 : error_fold(r) ?: keep_exit(context, record.exit);
	return task_step_watch(operation, context->task_id, time_boot_ms() + KILL_WAIT_MS,
			       on_change);
}

/* ---- the shim ------------------------------------------------------------ */

struct deleted {
	struct operation *operation;
	const struct shim_delete_reply *reply; /* NULL: it was gone already */
};

static int note_added(struct operation *operation, const struct exit_record *exit)
{
	struct task_service *service = operation_object(operation);
	struct added_report stopped = {.status = TASK_STOPPED, .exit = exit};
	struct added_report deleted = {.status = TASK_DELETED};
	const char *task_id = context_of(operation)->task_id;
	const char *exec_id = request_of(operation)->exec_id;
	int r = exit ? added_note(service, task_id, exec_id, &stopped) : 0;

	return r ?: added_note(service, task_id, exec_id, &deleted);
}

/* Whoever deleted it. */
static int keep_recorded_exit(struct operation *operation)
{
	_cleanup_(task_record_clear) struct task_record record = {};
	struct task_delete_context *context = context_of(operation);
	int r;

	r = task_any_row(operation_object(operation), operation_namespace(operation),
			 request_of(operation)->container_id, context->task_id, &record);
	return r ? (r == TASK_E_NOT_FOUND ? 0 : r) : keep_exit(context, record.exit);
}

static int note_deleted(void *userdata)
{
	struct deleted *deleted = userdata;
	struct operation *operation = deleted->operation;
	struct task_delete_context *context = context_of(operation);
	const struct exit_record *exit = deleted->reply ? deleted->reply->exit : NULL;
	int r;

	if (deleted->reply && deleted->reply->pid)
		context->pid = deleted->reply->pid;
	r = keep_exit(context, exit);
	if (r)
		return r;
	if (is_of_added(operation))
		return note_added(operation, exit);
	r = task_note_deleted(operation_object(operation), context->task_id, exit);
	return r && r != TASK_E_STATE ? r : keep_recorded_exit(operation);
}

/* The shim may have been gone with all of it before it was asked: the record says how it ended. */
static void on_deleted(struct operation *operation, enum bus_status status, const char *text,
		       void *reply)
{
	struct deleted deleted = {.operation = operation, .reply = reply};

	if (status != BUS_OK && status != BUS_NOT_FOUND)
		operation_step_failed(operation, status, "container '%s': %s",
				      request_of(operation)->container_id, text);
	else
		task_step_recorded(
			operation,
			service_transact(operation_service(operation), note_deleted, &deleted),
			"the task of container '%s' is deleted, but that could not be recorded",
			request_of(operation)->container_id);
}

static int delete_task(struct operation *operation)
{
	_cleanup_(task_record_clear) struct task_record record = {};
	struct task_delete_context *context = context_of(operation);
	struct shim_delete_request delete = {.force = request_of(operation)->force};
	int r;

	r = task_any_row(operation_object(operation), operation_namespace(operation),
			 request_of(operation)->container_id, context->task_id, &record);
	if (r && r != TASK_E_NOT_FOUND)
		return error_fold(r);
	if (r || record.status == TASK_DELETED)
		return r ? 0 : keep_exit(context, record.exit);
	if (record.status == TASK_CREATED)
		delete.force = true;
	return task_step_call(operation, context->task_id, schema_find_method("shim", "delete"),
			      &delete, time_boot_ms() + SHIM_DEADLINE_MS, on_deleted);
}

static int run_shim(struct operation *operation)
{
	struct task_delete_context *context = context_of(operation);
	struct shim_process_request process = {.exec_id = request_of(operation)->exec_id};

	if (context->is_gone)
		return 0;
	if (!is_of_added(operation))
		return delete_task(operation);
	return task_step_call(operation, context->task_id,
			      schema_find_method("shim", "exec_delete"), &process,
			      time_boot_ms() + SHIM_DEADLINE_MS, on_deleted);
}

/* ---- the network --------------------------------------------------------- */

static int take_pending(struct operation *operation, void *reply)
{
	return schema_set(&context_of(operation)->pending,
			  ((const struct runtime_detach_reply *)reply)->pending);
}

/* What plugins do not take back now is the runtime service's to ask again: the task is gone in any case. */
static int run_network(struct operation *operation)
{
	struct task_delete_context *context = context_of(operation);
	struct runtime_network_request detach = {
		.task_id = context->task_id, .container_id = request_of(operation)->container_id};

	if (context->is_gone || !context->has_network || is_of_added(operation))
		return 0;
	return operation_call_if_any(operation, schema_find_method("runtime", "detach"), NULL,
				     &detach, take_pending);
}

static int run_forget(struct operation *operation)
{
	const struct task_delete_request *request = request_of(operation);

	if (!request->forget || is_of_added(operation))
		return 0;
	return ended_forget(operation_object(operation), operation_namespace(operation),
			    request->container_id, NULL);
}

static int finish(struct operation *operation, void *object)
{
	const struct task_delete_request *request = request_of(operation);
	struct task_delete_context *context = context_of(operation);
	struct task_delete_reply *reply = object;

	reply->pid = context->pid;
	reply->exit = TAKE(context->exit);
	reply->pending = TAKE(context->pending);
	return schema_set(&reply->id,
			  is_of_added(operation) ? request->exec_id : request->container_id);
}

static const struct operation_step steps[] = {{.name = "look", .run = run_look, .persist = true},
					      {.name = "kill", .run = run_kill},
					      {.name = "end", .run = run_end},
					      {.name = "shim", .run = run_shim},
					      {.name = "network", .run = run_network},
					      {.name = "forget", .run = run_forget},
					      {}};

const struct operation_type task_delete_operation = {
	.method = "task.delete",
	.steps = steps,
	.request = schema_task_delete_request,
	.reply = schema_task_delete_reply,
	.context = schema_task_delete_context,
	.finish = finish,
};

/* ---- the handler --------------------------------------------------------- */

static const char *status_text(enum task_status status)
{
	return schema_enum_text(&schema_enum_task_status, status);
}

/* Text, or NULL: it can be deleted. */
static int refuse_task(struct call *call, const struct task_delete_request *request,
		       const struct task_record *record, bool *ret_refused)
{
	bool is_over = record->status == TASK_STOPPED || record->status == TASK_CREATED;

	*ret_refused = true;
	if (request->task_id && strcmp(request->task_id, record->task_id))
		return call_fail(call, BUS_NOT_FOUND, "container '%s' has no task '%s' any more",
				 record->container_id, request->task_id);
	if (record->status == TASK_CREATING)
		return call_fail(
			call, BUS_FAILED_PRECONDITION,
			"the task of container '%s' is being created: try again when that has ended",
			record->container_id);
	if (!request->force && !is_over)
		return call_fail(
			call, BUS_FAILED_PRECONDITION,
			"the task of container '%s' is %s: kill it first, or delete it with force",
			record->container_id, status_text(record->status));
	*ret_refused = false;
	return 0;
}

static int refuse_added(struct task_service *service, struct call *call,
			const struct task_delete_request *request, const struct task_record *task,
			bool *ret_refused)
{
	_cleanup_(task_exec_record_clear) struct task_exec_record record = {};
	bool found;
	int r;

	*ret_refused = true;
	r = task_find_added(service, call, task, request->exec_id, &record, &found);
	if (r || !found)
		return r;
	if (record.status == TASK_DELETED)
		return call_fail(call, BUS_NOT_FOUND, "container '%s' has no process '%s' any more",
				 task->container_id, request->exec_id);
	if (!request->force && (record.status == TASK_RUNNING || record.status == TASK_CREATING))
		return call_fail(
			call, BUS_FAILED_PRECONDITION,
			"process '%s' of container '%s' is %s: kill it first, or delete it with force",
			request->exec_id, task->container_id, status_text(record.status));
	*ret_refused = false;
	return 0;
}

/* That there is no task any more does not keep what is left of earlier ones. */
static bool is_to_forget(struct task_service *service, struct call *call,
			 const struct task_delete_request *request)
{
	_cleanup_(task_record_clear) struct task_record record = {};

	return request->forget && check_identifier(request->container_id) &&
	       call_checked_namespace(call) &&
	       task_row(service, call_namespace(call), request->container_id, &record) ==
		       TASK_E_NOT_FOUND;
}

int task_delete(struct task_service *service, const struct task_delete_request *request,
		struct task_delete_reply *reply, struct call *call)
{
	_cleanup_(task_record_clear) struct task_record record = {};
	bool found, is_refused;
	int r;

	(void)reply;
	if (is_to_forget(service, call, request))
		return ended_forget(service, call_namespace(call), request->container_id, NULL);
	r = task_find(service, call, request->container_id, &record, &found);
	if (r || !found)
		return r;
	r = task_names_added(request->container_id, request->exec_id)
		    ? refuse_added(service, call, request, &record, &is_refused)
		    : refuse_task(call, request, &record, &is_refused);
	if (r || is_refused)
		return r;
	return operation_start(call, &task_delete_operation, request, request->container_id, false);
}
