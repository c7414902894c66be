/*
 * The operation task.stop: the stop signal, a grace period, SIGKILL to all. Each
 * step is in the store before the next, so that one cut by a crash goes on where
 * it was: no signal is sent twice, and the grace period is not begun anew.
 */

#include <signal.h>
#include <string.h>

#include "schemas/check.h"
#include "services/task/handlers.h"

#define GRACE_DEFAULT_MS 10000
#define KILL_WAIT_MS     30000 /* within which what got SIGKILL should have ended */

static struct task_stop_context *context_of(struct operation *operation)
{
	return operation_context(operation);
}

static const struct task_stop_request *request_of(struct operation *operation)
{
	return operation_request(operation);
}

/* ---- whether it has ended ------------------------------------------------ */

static int note_end(struct operation *operation, const struct exit_record *exit)
{
	struct task_stop_context *context = context_of(operation);

	context->has_ended = true;
	if (!exit || context->exit)
		return 0;
	context->exit = calloc(1, sizeof(*context->exit));
	return context->exit ? exit_record_copy(exit, context->exit) : error_origin(-ENOMEM);
}

static int note_if_ended(struct operation *operation, const struct task_record *record)
{
	bool has_ended = record->status == TASK_STOPPED || record->status == TASK_DELETED;

	return has_ended ? note_end(operation, record->exit) : 0;
}

/* Inside a transaction: notes the end of the operation's task, if it has ended. */
static int look(struct operation *operation, struct task_record *record)
{
	int r;

	r = task_any_row(operation_object(operation), operation_namespace(operation),
			 request_of(operation)->container_id, context_of(operation)->task_id,
			 record);
	if (r == TASK_E_NOT_FOUND)
		return note_end(operation, NULL);
	return r ?: note_if_ended(operation, record);
}

static int look_again(void *userdata)
{
	_cleanup_(task_record_clear) struct task_record record = {};

	return look(userdata, &record);
}

/* ---- the signal ---------------------------------------------------------- */

static int choose_signal(struct operation *operation, const struct task_record *record)
{
	const struct task_stop_request *request = request_of(operation);
	int signal = (int)request->signal;

	if (request->at_once || record->status == TASK_CREATED)
		return SIGKILL; /* one that was not started has no one to ask */
	if (!signal && record->stop_signal)
		signal = task_signal_number(record->stop_signal);
	return signal ?: SIGTERM;
}

static int run_look(struct operation *operation)
{
	_cleanup_(task_record_clear) struct task_record record = {};
	struct task_stop_context *context = context_of(operation);
	uint64_t grace_ms = request_of(operation)->timeout_ms ?: GRACE_DEFAULT_MS;
	int r;

	r = task_row(operation_object(operation), operation_namespace(operation),
		     request_of(operation)->container_id, &record);
	if (r == TASK_E_NOT_FOUND)
		return operation_fail(operation, BUS_NOT_FOUND, "container '%s' has no task",
				      request_of(operation)->container_id);
	if (r)
		return error_fold(r);
	r = schema_set(&context->task_id, record.task_id);
	if (r)
		return error_trace(r);
	context->signal = (uint64_t)choose_signal(operation, &record);
	context->kill_at_ms = time_boot_ms() + (request_of(operation)->at_once ? 0 : grace_ms);
	return note_if_ended(operation, &record);
}

static void on_sent(struct operation *operation, enum bus_status status, const char *text,
		    void *reply)
{
	(void)reply;
	/* It has ended by itself, may not be signalled now, or it is not known whether it was: the grace period, and
	 * SIGKILL, see to it. */
	if (status == BUS_OK || status == BUS_NOT_FOUND || status == BUS_FAILED_PRECONDITION ||
	    status == BUS_ABORTED)
		operation_step_done(operation);
	else
		operation_step_failed(operation, status, "container '%s': %s",
				      request_of(operation)->container_id, text);
}

static int run_signal(struct operation *operation)
{
	struct task_stop_context *context = context_of(operation);
	struct shim_kill_request kill = {.signal = context->signal};

	if (context->has_ended || context->signal == SIGKILL)
		return 0;
	return task_step_call(operation, context->task_id, schema_find_method("shim", "kill"),
			      &kill, time_boot_ms() + SHIM_DEADLINE_MS, on_sent);
}

/* A frozen process takes a signal when it goes on. */
static int run_resume(struct operation *operation)
{
	_cleanup_(task_record_clear) struct task_record record = {};
	static const struct empty nothing;
	int r;

	if (context_of(operation)->has_ended)
		return 0;
	r = look(operation, &record);
	if (r || context_of(operation)->has_ended || record.status != TASK_PAUSED)
		return error_fold(r);
	return task_step_call(operation, record.task_id, schema_find_method("shim", "resume"),
			      &nothing, time_boot_ms() + SHIM_DEADLINE_MS, on_sent);
}

/* ---- waiting ------------------------------------------------------------- */

static void on_change(struct operation *operation, bool is_over)
{
	int r = service_transact(operation_service(operation), look_again, operation);

	if (r || context_of(operation)->has_ended || is_over)
		task_step_recorded(operation, r, "its task cannot be read");
}

static int wait_until(struct operation *operation, uint64_t until_ms)
{
	_cleanup_(task_record_clear) struct task_record record = {};
	struct task_stop_context *context = context_of(operation);
	int r = context->has_ended ? 0 : look(operation, &record);

	if (r || context->has_ended)
		return error_fold(r);
	return task_step_watch(operation, context->task_id, until_ms, on_change);
}

static int run_grace(struct operation *operation)
{
	struct task_stop_context *context = context_of(operation);

	return context->signal == SIGKILL ? 0 : wait_until(operation, context->kill_at_ms);
}

/* ---- the end ------------------------------------------------------------- */

static int run_kill(struct operation *operation)
{
	struct shim_kill_request kill = {.signal = SIGKILL, .all = true};
	struct task_stop_context *context = context_of(operation);

	if (context->has_ended)
		return 0;
	context->killed = true;
	return task_step_call(operation, context->task_id, schema_find_method("shim", "kill"),
			      &kill, time_boot_ms() + SHIM_DEADLINE_MS, on_sent);
}

static int run_end(struct operation *operation)
{
	return wait_until(operation, time_boot_ms() + KILL_WAIT_MS);
}

static int run_check(struct operation *operation)
{
	if (context_of(operation)->has_ended)
		return 0;
	return operation_fail(operation, BUS_DEADLINE_EXCEEDED,
			      "container '%s' got SIGKILL %d s ago and has not ended",
			      request_of(operation)->container_id, KILL_WAIT_MS / 1000);
}

static int finish(struct operation *operation, void *object)
{
	struct task_stop_context *context = context_of(operation);
	struct task_stop_reply *reply = object;

	reply->killed = context->killed;
	reply->exit = TAKE(context->exit);
	return 0;
}

static const struct operation_step steps[] = {
	{.name = "look", .run = run_look, .persist = true},
	{.name = "signal", .run = run_signal, .persist = true},
	{.name = "resume", .run = run_resume},
	{.name = "grace", .run = run_grace, .persist = true},
	{.name = "kill", .run = run_kill},
	{.name = "resume-again", .run = run_resume},
	{.name = "end", .run = run_end},
	{.name = "check", .run = run_check},
	{}};

const struct operation_type task_stop_operation = {
	.method = "task.stop",
	.steps = steps,
	.request = schema_task_stop_request,
	.reply = schema_task_stop_reply,
	.context = schema_task_stop_context,
	.finish = finish,
};

int task_stop(struct task_service *service, const struct task_stop_request *request,
	      struct task_stop_reply *reply, struct call *call)
{
	_cleanup_(task_record_clear) struct task_record record = {};
	bool found;
	int r;

	(void)reply;
	r = task_find(service, call, request->container_id, &record, &found);
	if (r || !found)
		return r;
	if (record.status == TASK_CREATING)
		return call_fail(
			call, BUS_FAILED_PRECONDITION,
			"the task of container '%s' is being created: try again when that has ended",
			record.container_id);
	return operation_start(call, &task_stop_operation, request, request->container_id, false);
}
