/*
 * Requests that a shim answers. One is sent after the commit, with the caller's
 * request id. A shim that dies meanwhile is followed by another, which is asked
 * again: it knows from the journal what was done for that id.
 */

#include <string.h>

#include "broker/lib/log.h"
#include "services/task/task.h"

#define RETRY_MS 20

struct forward {
	struct forward *next; /* those that wait to be sent again: nobody else knows them */
	struct task_service *service;
	struct call *call;
	struct task_record record;
	char exec_id[ENVELOPE_NAME_MAX + 1];
	char method[ENVELOPE_METHOD_MAX + 1];
	const struct schema_method *schema;
	void *request;
	struct task_forward_notes notes;
	void *reply;
	struct loop_timer timer;
};

static void forward_free(void *data)
{
	struct forward *forward = data;

	loop_timer_cancel(&forward->timer);
	if (forward->request)
		schema_clear(forward->schema->request(), forward->request);
	free(forward->request);
	task_record_clear(&forward->record);
	free(forward);
}

void task_forwards_free(struct task_service *service)
{
	struct forward *forward;

	while ((forward = service->forwards)) {
		service->forwards = forward->next;
		forward_free(forward);
	}
}

static void leave(struct forward *forward)
{
	struct forward **at = &forward->service->forwards;

	while (*at != forward)
		at = &(*at)->next;
	*at = forward->next;
}

static void send_forward(void *userdata);

static void on_retry(struct loop_timer *timer)
{
	struct forward *forward = container_of(timer, struct forward, timer);

	leave(forward);
	send_forward(forward);
}

/* The shim died, or its connection broke, in the midst of it: the same request id can be asked again. */
static bool again(struct forward *forward, enum bus_status status)
{
	uint64_t at_ms = time_boot_ms() + RETRY_MS;

	if (status != BUS_UNAVAILABLE || forward->service->is_closing ||
	    at_ms >= call_deadline(forward->call) ||
	    loop_timer_set(forward->service->loop, &forward->timer, at_ms, on_retry))
		return false;
	forward->next = forward->service->forwards;
	forward->service->forwards = forward;
	return true;
}

struct note {
	struct forward *forward;
	task_forward_fn fn;
};

static int take_note(void *userdata)
{
	const struct note *note = userdata;
	struct forward *forward = note->forward;

	return note->fn(forward->service, &forward->record, forward->exec_id, forward->reply);
}

static int note(struct forward *forward, task_forward_fn fn)
{
	struct note noted = {forward, fn};

	return fn ? service_transact(forward->service->service, take_note, &noted) : 0;
}

static void fail(struct forward *forward, enum bus_status status, const char *text)
{
	const char *id = forward->record.container_id;

	if (note(forward, forward->notes.failed))
		log_error("container=%s: a failure cannot be recorded", id);
	if (strstr(text, id))
		call_finish_fail(forward->call, status, "%s", text);
	else if (*forward->exec_id)
		call_finish_fail(forward->call, status, "process '%s' of container '%s': %s",
				 forward->exec_id, id, text);
	else
		call_finish_fail(forward->call, status, "container '%s': %s", id, text);
}

/* The same message on both sides, but for a start. */
static void answer(struct forward *forward)
{
	const struct shim_pid_reply *process = forward->reply;
	struct task_start_reply started;

	if (forward->schema->reply() != schema_shim_pid_reply()) {
		call_finish(forward->call, forward->reply);
		return;
	}
	started.pid = process->pid;
	call_finish(forward->call, &started);
}

/* What cannot be recorded for want of memory or room is asked for again: the shim repeats its reply. */
static bool succeed(struct forward *forward)
{
	if (!note(forward, forward->notes.done))
		answer(forward);
	else if (again(forward, BUS_UNAVAILABLE))
		return false;
	else
		call_finish_fail(forward->call, BUS_INTERNAL,
				 "container '%s': it was done, but that could not be recorded",
				 forward->record.container_id);
	return true;
}

static void on_forwarded(void *userdata, enum bus_status status, const char *text, void *reply)
{
	struct forward *forward = userdata;

	if (again(forward, status))
		return;
	forward->reply = reply;
	/* When the service closes the call goes with it, and is asked again. */
	if (!forward->service->is_closing) {
		if (status != BUS_OK)
			fail(forward, status, text);
		else if (!succeed(forward))
			return;
	}
	forward_free(forward);
}

static void on_ready(void *userdata, struct task_shim *shim, enum bus_status status,
		     const char *text)
{
	struct forward *forward = userdata;

	if (status != BUS_OK)
		on_forwarded(forward, status, text, NULL);
	else if (note(forward, forward->notes.asked) ||
		 shim_link_call(shim->link, forward->method, call_id(forward->call),
				call_deadline(forward->call), forward->request, on_forwarded,
				forward))
		on_forwarded(forward, BUS_INTERNAL,
			     "out of memory, or its record cannot be written", NULL);
}

static void send_forward(void *userdata)
{
	struct forward *forward = userdata;
	struct task_shim *shim = task_shim_find(forward->service, forward->record.task_id);
	int r;

	if (!shim) {
		on_forwarded(forward, BUS_NOT_FOUND, "the task is gone", NULL);
		return;
	}
	r = task_shim_when_ready(shim, call_deadline(forward->call), on_ready, forward);
	if (r)
		on_forwarded(forward, BUS_INTERNAL, strerror(-r), NULL);
}

int task_forward(struct task_service *service, struct call *call, const struct task_record *record,
		 const char *exec_id, const struct schema_method *method, const void *request,
		 const struct task_forward_notes *notes)
{
	struct forward *forward = calloc(1, sizeof(*forward));
	int r;

	if (!forward)
		return error_origin(-ENOMEM);
	forward->service = service;
	forward->call = call;
	forward->schema = method;
	forward->notes = notes ? *notes : (struct task_forward_notes){};
	snprintf(forward->method, sizeof(forward->method), "shim.%s", method->name);
	snprintf(forward->exec_id, sizeof(forward->exec_id), "%s", exec_id);
	forward->request = calloc(1, method->request()->size + 1);
	r = forward->request ? schema_copy(method->request(), request, forward->request) : -ENOMEM;
	if (!r)
		r = task_record_copy(record, &forward->record);
	if (!r)
		r = call_after_commit(call, send_forward, forward_free, forward);
	if (r) {
		forward_free(forward);
		return error_trace(r);
	}
	return CALL_LATER;
}
