/*
 * The handlers of the task service. What a shim must do is forwarded to it after
 * the commit, with the caller's request id: asked again, the shim gives the same
 * answer. Reads are answered from the records: no shim can delay them.
 */

#include "services/task/task.h"

#include <signal.h>
#include <string.h>

#include "schemas/check.h"
#include "schemas/filter.h"

#define SERVICE_TYPE    struct task_service
#define SERVICE_DEF     "schemas/task.def"
#define SERVICE_LINKAGE static
#include "services/lib/methods.h"

/* ---- finding and refusing ------------------------------------------------ */

static int refuse_missing(struct call *call, const char *id)
{
	return call_fail(call, BUS_NOT_FOUND, "container '%s' has no task", id);
}

static bool is_added_process(const char *id, const char *exec_id)
{
	return exec_id && *exec_id && strcmp(exec_id, id);
}

/* Answers the call itself unless it returns 0 with the record. */
static int find(struct task_service *service, struct call *call, const char *id,
		const char *exec_id, struct task_record *ret_record, bool *ret_found)
{
	const char *namespace = call_checked_namespace(call);
	struct schema_fault fault = {};
	int r;

	*ret_found = false;
	if (!namespace)
		return 0;
	if (check_identifier_why("container id", id, &fault))
		return call_fail(call, BUS_INVALID_ARGUMENT, "%s", fault.text);
	r = task_row(service, namespace, id, ret_record);
	if (r == TASK_E_NOT_FOUND)
		return refuse_missing(call, id);
	if (r)
		return call_fail_store(call, r, "the task");
	if (is_added_process(id, exec_id))
		return call_fail(call, BUS_NOT_FOUND, "container '%s' has no process '%s'", id,
				 exec_id);
	*ret_found = true;
	return 0;
}

/* ---- forwarding to the shim ---------------------------------------------- */

struct forward {
	struct task_service *service;
	struct call *call;
	char task_id[ID_TEXT_SIZE];
	const char *method;
	union {
		struct empty nothing;
		struct shim_kill_request kill;
		struct shim_delete_request delete;
	} request;
	bool clean_up; /* its shim is dead: one is started for the clean-up, and asked again */
	struct loop_timer timer;
	void (*done)(struct forward *forward, void *reply);
	struct shim_delete_reply *deleted;
	struct shim_pid_reply *started;
	struct task_record record;
};

#define FORWARD_RETRY_MS 20

static void forward_free(void *data)
{
	struct forward *forward = data;

	loop_timer_cancel(&forward->timer);
	task_record_clear(&forward->record);
	free(forward);
}

static void send_forward(void *userdata);

static void on_retry(struct loop_timer *timer)
{
	send_forward(container_of(timer, struct forward, timer));
}

/* The shim died, or its connection broke, in the midst of it: the same request id can be asked again. */
static bool forward_again(struct forward *forward, enum bus_status status)
{
	uint64_t at_ms = time_boot_ms() + FORWARD_RETRY_MS;

	return status == BUS_UNAVAILABLE && forward->clean_up && !forward->service->is_closing &&
	       at_ms < call_deadline(forward->call) &&
	       !loop_timer_set(forward->service->loop, &forward->timer, at_ms, on_retry);
}

static void fail_forward(struct forward *forward, enum bus_status status, const char *text)
{
	const char *id = forward->record.container_id;

	if (strstr(text, id))
		call_finish_fail(forward->call, status, "%s", text);
	else
		call_finish_fail(forward->call, status, "container '%s': %s", id, text);
}

static void on_forwarded(void *userdata, enum bus_status status, const char *text, void *reply)
{
	struct forward *forward = userdata;

	if (forward_again(forward, status))
		return;
	if (forward->service->is_closing) { /* the call goes with the service; it is asked again */
		forward_free(forward);
		return;
	}
	if (status == BUS_OK)
		forward->done(forward, reply);
	else
		fail_forward(forward, status, text);
	forward_free(forward);
}

static void on_ready(void *userdata, struct task_shim *shim, enum bus_status status,
		     const char *text)
{
	struct forward *forward = userdata;

	if (status != BUS_OK)
		on_forwarded(forward, status, text, NULL);
	else if (shim_link_call(shim->link, forward->method, call_id(forward->call),
				call_deadline(forward->call), &forward->request, on_forwarded,
				forward))
		on_forwarded(forward, BUS_INTERNAL, "out of memory", NULL);
}

static void send_forward(void *userdata)
{
	struct forward *forward = userdata;
	struct task_shim *shim = task_shim_find(forward->service, forward->task_id);
	struct why why = {};
	int r = 0;

	if (!shim) {
		on_forwarded(forward, BUS_NOT_FOUND, "the task is gone", NULL);
		return;
	}
	if (forward->clean_up)
		r = task_shim_clean_up(shim, &why);
	if (r == -ENOENT)
		task_shim_take_up(shim);
	if (!r || r == -EWOULDBLOCK)
		r = task_shim_when_ready(shim, call_deadline(forward->call), on_ready, forward);
	if (r)
		on_forwarded(forward, BUS_UNAVAILABLE, why.text[0] ? why.text : strerror(-r), NULL);
}

static int forward(struct task_service *service, struct call *call,
		   const struct task_record *record, const struct forward *what)
{
	struct forward *copy = malloc(sizeof(*copy));
	int r;

	if (!copy)
		return error_origin(-ENOMEM);
	*copy = *what;
	copy->service = service;
	copy->call = call;
	strncpy(copy->task_id, record->task_id, sizeof(copy->task_id) - 1);
	r = task_record_copy(record, &copy->record);
	if (!r)
		r = call_after_commit(call, send_forward, forward_free, copy);
	if (r) {
		forward_free(copy);
		return error_trace(r);
	}
	return CALL_LATER;
}

/* ---- create, start ------------------------------------------------------- */

static int task_create(struct task_service *service, const struct task_create_request *request,
		       struct task_create_reply *reply, struct call *call)
{
	_cleanup_(task_record_clear) struct task_record record = {};
	const char *namespace = call_checked_namespace(call);
	struct schema_fault fault = {};
	uint8_t task_id[ID_SIZE];
	char id[ID_TEXT_SIZE];
	int r;

	(void)reply;
	if (!namespace)
		return 0;
	if (check_identifier_why("container id", request->container_id, &fault))
		return call_fail(call, BUS_INVALID_ARGUMENT, "%s", fault.text);
	r = task_row(service, namespace, request->container_id, &record);
	if (r && r != TASK_E_NOT_FOUND)
		return call_fail_store(call, r, "the task");
	id_derive(call_id(call), "task", 0, task_id);
	id_format(task_id, id);
	if (!r && strcmp(record.task_id, id))
		return call_fail(call, BUS_ALREADY_EXISTS, "container '%s' has a task already (%s)",
				 request->container_id,
				 schema_enum_text(&schema_enum_task_status, record.status));
	return operation_start(call, &task_create_operation, request, request->container_id, true);
}

static int note_started(void *userdata)
{
	_cleanup_(task_record_clear) struct task_record record = {};
	struct forward *forward = userdata;
	int r;

	r = task_shim_row(forward->service, forward->task_id, &record);
	if (r || record.status != TASK_CREATED)
		return r == TASK_E_NOT_FOUND ? 0 : r;
	record.started_at_ns = record.started_at_ns ?: time_real_ns();
	record.pid = forward->started->pid;
	return task_move(forward->service, &record, TASK_RUNNING);
}

static void start_done(struct forward *forward, void *reply)
{
	struct task_start_reply started;

	forward->started = reply;
	started.pid = forward->started->pid;
	if (service_transact(forward->service->service, note_started, forward))
		call_finish_fail(forward->call, BUS_INTERNAL,
				 "container '%s' runs, but that could not be recorded",
				 forward->record.container_id);
	else
		call_finish(forward->call, &started);
}

static int task_start(struct task_service *service, const struct task_start_request *request,
		      struct task_start_reply *reply, struct call *call)
{
	_cleanup_(task_record_clear) struct task_record record = {};
	bool found;
	int r;

	(void)reply;
	r = find(service, call, request->container_id, request->exec_id, &record, &found);
	if (r || !found)
		return r;
	if (record.status == TASK_UNKNOWN)
		return call_fail(call, BUS_UNAVAILABLE, "container '%s' cannot be started: %s",
				 record.container_id, record.reason ?: "its shim died");
	return forward(service, call, &record,
		       &(struct forward){.method = "shim.start", .done = start_done});
}

/* ---- kill ---------------------------------------------------------------- */

static void kill_done(struct forward *forward, void *reply)
{
	(void)reply;
	call_finish(forward->call, NULL);
}

struct direct_kill {
	struct call *call;
	struct task_record record;
	int signal;
};

static void direct_kill_free(void *data)
{
	struct direct_kill *kill = data;

	task_record_clear(&kill->record);
	free(kill);
}

static void send_direct_kill(void *userdata)
{
	struct direct_kill *kill = userdata;
	int r = task_kill_directly(&kill->record, kill->signal);

	if (r)
		call_finish_fail(kill->call, r == -ESRCH ? BUS_NOT_FOUND : BUS_INTERNAL,
				 "container '%s': signal %d: %s", kill->record.container_id,
				 kill->signal,
				 r == -ESRCH ? "process already finished" : strerror(-r));
	else
		call_finish(kill->call, NULL);
	direct_kill_free(kill);
}

static int kill_directly(struct call *call, const struct task_record *record, int signal)
{
	struct direct_kill *kill = calloc(1, sizeof(*kill));
	int r = kill ? task_record_copy(record, &kill->record) : -ENOMEM;

	if (!r) {
		kill->call = call;
		kill->signal = signal;
		r = call_after_commit(call, send_direct_kill, direct_kill_free, kill);
	}
	if (!r)
		return CALL_LATER;
	if (kill)
		direct_kill_free(kill);
	return error_trace(r);
}

static int task_kill(struct task_service *service, const struct task_kill_request *request,
		     struct empty *reply, struct call *call)
{
	_cleanup_(task_record_clear) struct task_record record = {};
	int signal = (int)request->signal;
	bool found;
	int r;

	(void)reply;
	r = find(service, call, request->container_id, request->exec_id, &record, &found);
	if (r || !found)
		return r;
	if (!signal && record.stop_signal)
		signal = task_signal_number(record.stop_signal);
	if (!signal)
		signal = SIGTERM;
	if (record.status == TASK_STOPPED)
		return call_fail(call, BUS_NOT_FOUND, "container '%s': process already finished",
				 record.container_id);
	if (record.status == TASK_UNKNOWN)
		return kill_directly(call, &record, signal);
	return forward(service, call, &record,
		       &(struct forward){
			       .method = "shim.kill",
			       .done = kill_done,
			       .request.kill = {.signal = (uint64_t)signal, .all = request->all}});
}

/* ---- reading ------------------------------------------------------------- */

/* The live task, else the last one that was deleted. */
static int find_or_ended(struct task_service *service, struct call *call,
			 const struct task_name_request *request, struct task_record *ret_record,
			 bool *ret_found)
{
	struct store_key key;
	int r;

	*ret_found = false;
	if (call_checked_namespace(call) && check_identifier(request->container_id) &&
	    !is_added_process(request->container_id, request->exec_id) &&
	    task_row(service, call_namespace(call), request->container_id, ret_record) ==
		    TASK_E_NOT_FOUND &&
	    !store_key(&key, call_namespace(call), request->container_id, NULL)) {
		r = store_get(service->store, ENDED_TABLE, &key, schema_task_record(), ret_record);
		*ret_found = !r;
		return r && r != STORE_E_NOT_FOUND ? call_fail_store(call, r, "the task")
		       : r                         ? refuse_missing(call, request->container_id)
						   : 0;
	}
	task_record_clear(ret_record);
	return find(service, call, request->container_id, request->exec_id, ret_record, ret_found);
}

static int task_wait(struct task_service *service, const struct task_name_request *request,
		     struct task_wait_reply *reply, struct call *call)
{
	/* Deleted before it ran, or while nobody could see how it ended. */
	static const struct exit_record never = {
		.exit_status = 255, .source = EXIT_UNKNOWN, .cause = (char *)"deleted"};
	_cleanup_(task_record_clear) struct task_record record = {};
	bool found;
	int r;

	r = find_or_ended(service, call, request, &record, &found);
	if (r || !found)
		return r;
	if (record.status == TASK_DELETED)
		r = task_set_exit(&record, &never);
	reply->exited = record.exit;
	reply->exit = TAKE(record.exit);
	return r;
}

static int task_get(struct task_service *service, const struct task_name_request *request,
		    struct task_process_reply *reply, struct call *call)
{
	_cleanup_(task_record_clear) struct task_record record = {};
	bool found;
	int r;

	r = find(service, call, request->container_id, request->exec_id, &record, &found);
	if (r || !found)
		return r;
	reply->process = calloc(1, sizeof(*reply->process));
	return reply->process ? task_describe(&record, reply->process) : error_origin(-ENOMEM);
}

static int task_list(struct task_service *service, const struct task_list_request *request,
		     struct task_list_reply *reply, struct call *call)
{
	_cleanup_(filter_freep) struct filter *filter = NULL;
	const char *namespace = call_checked_namespace(call);
	struct schema_fault fault = {};
	int r;

	if (!namespace)
		return 0;
	r = filter_parse(&request->filters, &filter, &fault);
	if (r > 0)
		return call_fail(call, BUS_INVALID_ARGUMENT, "%s", fault.text);
	if (!r)
		r = task_list_page(service, request, namespace, filter, reply);
	return r > 0 ? call_fail_store(call, r, "tasks") : r;
}

/* ---- delete -------------------------------------------------------------- */

static int note_deleted(void *userdata)
{
	struct forward *forward = userdata;
	int r = task_note_deleted(forward->service, forward->task_id, forward->deleted->exit);

	return r == TASK_E_STATE ? 0 : r;
}

static void delete_done(struct forward *forward, void *reply)
{
	struct task_delete_reply deleted = {.id = forward->record.container_id};

	forward->deleted = reply;
	deleted.pid = forward->deleted->pid;
	deleted.exit = forward->deleted->exit;
	if (service_transact(forward->service->service, note_deleted, forward))
		call_finish_fail(
			forward->call, BUS_INTERNAL,
			"the task of container '%s' is deleted, but that could not be recorded",
			forward->record.container_id);
	else
		call_finish(forward->call, &deleted);
}

static int task_delete(struct task_service *service, const struct task_delete_request *request,
		       struct task_delete_reply *reply, struct call *call)
{
	_cleanup_(task_record_clear) struct task_record record = {};
	bool found;
	int r;

	(void)reply;
	r = find(service, call, request->container_id, request->exec_id, &record, &found);
	if (r || !found)
		return r;
	if (request->task_id && strcmp(request->task_id, record.task_id))
		return call_fail(call, BUS_NOT_FOUND, "container '%s' has no task '%s' any more",
				 record.container_id, request->task_id);
	if (record.status == TASK_CREATING)
		return call_fail(
			call, BUS_FAILED_PRECONDITION,
			"the task of container '%s' is being created: try again when that has ended",
			record.container_id);
	if (!request->force && record.status != TASK_STOPPED && record.status != TASK_CREATED)
		return call_fail(
			call, BUS_FAILED_PRECONDITION,
			"the task of container '%s' is %s: kill it first, or delete it with force",
			record.container_id,
			schema_enum_text(&schema_enum_task_status, record.status));
	return forward(
		service, call, &record,
		&(struct forward){.method = "shim.delete",
				  .done = delete_done,
				  .clean_up = true,
				  .request.delete = {.force = request->force ||
							      record.status == TASK_CREATED}});
}

/* ---- not there yet ------------------------------------------------------- */

#define ABSENT(name_, request_, reply_)                                                            \
	static int task_##name_(struct task_service *service, const struct request_ *request,      \
				struct reply_ *reply, struct call *call)                           \
	{                                                                                          \
		(void)service, (void)request, (void)reply;                                         \
		return call_fail(call, BUS_NOT_IMPLEMENTED, "task." #name_ " is not there yet");  \
	}
ABSENT(exec, task_exec_request, task_exec_reply)
ABSENT(resize, task_resize_request, empty)
ABSENT(close_io, task_close_io_request, empty)
ABSENT(pause, task_container_request, empty)
ABSENT(resume, task_container_request, empty)
ABSENT(update, task_update_request, empty)
ABSENT(stop, task_stop_request, task_stop_reply)
ABSENT(checkpoint, task_checkpoint_request, task_checkpoint_reply)
ABSENT(attach, task_attach_request, task_attach_reply)
ABSENT(logs, task_logs_request, task_logs_reply)
ABSENT(pids, task_container_request, task_pids_reply)
ABSENT(processes, task_container_request, task_processes_reply)
ABSENT(metrics, task_metrics_request, task_metrics_reply)
ABSENT(forget, task_forget_request, empty)

/* ---- about the service --------------------------------------------------- */

static int task_operations(struct task_service *service, const struct empty *request,
			   struct operation_list_reply *reply, struct call *call)
{
	(void)request;
	return operation_list(service->service, call, reply);
}

static int task_operation_cancel(struct task_service *service,
				 const struct operation_cancel_request *request,
				 struct empty *reply, struct call *call)
{
	(void)reply;
	return operation_cancel(service->service, call, request);
}

static int task_stats(struct task_service *service, const struct empty *request,
		      struct service_stats_reply *reply, struct call *call)
{
	(void)request;
	(void)call;
	return service_stats(service->service, reply);
}

static const char *const names[] = {"task", NULL};
static const char *const tables[] = {TASK_TABLE, SHIM_TABLE, ENDED_TABLE, NULL};
static const struct operation_type *const operations[] = {&task_create_operation, NULL};

const struct service_definition task_service_definition = {
	.program = "davit-task",
	.names = names,
	.methods = service_methods,
	.tables = tables,
	.directory = "task",
	.is_volatile = true,
	.open = task_service_open,
	.ready = task_service_ready,
	.close = task_service_close,
	.operations = operations,
};
