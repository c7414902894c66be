/*
 * What steps of operations wait for: a call to a shim, and a process' end. Both
 * belong to the operation and go with it.
 */

#include <stdarg.h>
#include <string.h>

#include "services/task/task.h"

#define RETRY_MS 20

/* ---- a call to a shim ---------------------------------------------------- */

enum step_state {
	STEP_IDLE,    /* nothing will call back: free at once */
	STEP_PAUSES,  /* the timer runs */
	STEP_ASKS,    /* the shim, or the wait for it, calls back */
	STEP_ORPHANED /* as STEP_ASKS, and the operation is gone */
};

struct step_call {
	struct operation *operation;
	enum step_state state;
	char task_id[ID_TEXT_SIZE];
	const struct schema_method *method;
	void *request;
	uint8_t id[ID_SIZE];
	uint64_t deadline_ms;
	struct loop_timer timer;
	bool is_delete; /* another one that deletes it is waited for */
	bool is_create; /* the operation sees to a shim that died in the midst of it */
	task_step_fn fn;
};

static void call_free(struct step_call *call)
{
	loop_timer_cancel(&call->timer);
	if (call->request)
		schema_clear(call->method->request(), call->request);
	free(call->request);
	free(call);
}

/* The operation drops it. */
static void call_drop(void *data)
{
	struct step_call *call = data;

	if (call->state == STEP_ASKS)
		call->state = STEP_ORPHANED;
	else
		call_free(call);
}

static void send_call(struct step_call *call);

static void on_pause_end(struct loop_timer *timer)
{
	send_call(container_of(timer, struct step_call, timer));
}

static bool again(struct step_call *call, enum bus_status status)
{
	struct task_service *service = operation_object(call->operation);
	uint64_t at_ms = time_boot_ms() + RETRY_MS;
	bool is_passing = status == BUS_UNAVAILABLE || (status == BUS_ABORTED && call->is_delete);

	if (!is_passing || call->is_create || at_ms >= call->deadline_ms ||
	    loop_timer_set(service->loop, &call->timer, at_ms, on_pause_end))
		return false;
	call->state = STEP_PAUSES;
	return true;
}

static void on_answer(void *userdata, enum bus_status status, const char *text, void *reply)
{
	struct step_call *call = userdata;
	struct operation *operation = call->operation;
	task_step_fn fn = call->fn;

	if (call->state == STEP_ORPHANED) {
		call_free(call);
		return;
	}
	call->state = STEP_IDLE;
	/* The service ends: the next one takes the operation up again. */
	if (((struct task_service *)operation_object(operation))->is_closing || again(call, status))
		return;
	operation_set_data(operation, NULL, NULL);
	fn(operation, status, text, reply);
}

static void on_ready(void *userdata, struct task_shim *shim, enum bus_status status,
		     const char *text)
{
	struct step_call *call = userdata;
	char method[ENVELOPE_METHOD_MAX + 1];

	if (status != BUS_OK || call->state == STEP_ORPHANED) {
		on_answer(call, status, text, NULL);
		return;
	}
	snprintf(method, sizeof(method), "shim.%s", call->method->name);
	if (shim_link_call(shim->link, method, call->id, call->deadline_ms, call->request,
			   on_answer, call))
		on_answer(call, BUS_INTERNAL, "out of memory", NULL);
}

/* One is started where none lives, so that there is always one to ask as long as there is a bundle. */
static int find_shim(struct step_call *call, struct task_shim **ret_shim, struct why *why)
{
	struct task_service *service = operation_object(call->operation);
	struct task_shim *shim = task_shim_find(service, call->task_id);
	int r = 0;

	if (shim && call->is_delete)
		r = task_shim_clean_up(shim, why);
	if (r == -ENOENT || r == -ENODATA)
		task_shim_take_up(shim);
	if (r < 0 && r != -ENOENT && r != -ENODATA)
		return r;
	*ret_shim = task_shim_find(service, call->task_id);
	return *ret_shim ? 0 : -ESRCH;
}

static void send_call(struct step_call *call)
{
	struct why why = {};
	struct task_shim *shim;
	int r;

	call->state = STEP_ASKS;
	r = find_shim(call, &shim, &why);
	if (!r)
		r = task_shim_when_ready(shim, call->deadline_ms, on_ready, call);
	if (r == -ESRCH)
		on_answer(call, BUS_NOT_FOUND, "the task is gone", NULL);
	else if (r)
		on_answer(call, BUS_UNAVAILABLE, why.text[0] ? why.text : strerror(-r), NULL);
}

static int make_call(struct operation *operation, const char *task_id,
		     const struct schema_method *method, const void *request, uint64_t deadline_ms,
		     task_step_fn fn)
{
	struct step_call *call = calloc(1, sizeof(*call));
	int r;

	if (!call)
		return error_origin(-ENOMEM);
	*call = (struct step_call){.operation = operation,
				   .method = method,
				   .deadline_ms = deadline_ms,
				   .is_delete = !strcmp(method->name, "delete"),
				   .is_create = !strcmp(method->name, "create"),
				   .fn = fn};
	snprintf(call->task_id, sizeof(call->task_id), "%s", task_id);
	memcpy(call->id, operation_call_options(operation, method->name)->id, ID_SIZE);
	call->request = calloc(1, method->request()->size + 1);
	r = call->request ? schema_copy(method->request(), request, call->request) : -ENOMEM;
	if (r) {
		call_free(call);
		return error_trace(r);
	}
	operation_set_data(operation, call, call_drop);
	return 0;
}

static void start_call(struct operation *operation)
{
	send_call(operation_data(operation));
}

int task_step_call(struct operation *operation, const char *task_id,
		   const struct schema_method *method, const void *request, uint64_t deadline_ms,
		   task_step_fn fn)
{
	int r;

	r = make_call(operation, task_id, method, request, deadline_ms, fn);
	if (!r)
		r = operation_after_commit(operation, start_call);
	return r ? error_trace(r) : OPERATION_LATER;
}

int task_step_call_now(struct operation *operation, const char *task_id,
		       const struct schema_method *method, const void *request,
		       uint64_t deadline_ms, task_step_fn fn)
{
	int r;

	r = make_call(operation, task_id, method, request, deadline_ms, fn);
	if (!r)
		start_call(operation);
	return error_trace(r);
}

void task_step_recorded(struct operation *operation, int r, const char *format, ...)
{
	char what[ENVELOPE_TEXT_MAX + 1];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(what, sizeof(what), format, arguments);
	va_end(arguments);
	if (!r)
		operation_step_done(operation);
	else if (r == -ENOMEM || r == STORE_E_NO_SPACE || r == STORE_E_FULL)
		operation_step_again(operation, what);
	else
		operation_step_failed(operation, BUS_INTERNAL, "%s", what);
}

/* ---- the end of a process ------------------------------------------------ */

struct change {
	struct task_service *service;
	char task_id[ID_TEXT_SIZE];
};

struct task_watch {
	struct task_watch *next;
	struct task_service *service;
	struct operation *operation;
	char task_id[ID_TEXT_SIZE];
	struct loop_timer timer;
	task_watch_fn fn;
};

static void watch_drop(void *data)
{
	struct task_watch *watch = data, **at = &watch->service->watches;

	while (*at && *at != watch)
		at = &(*at)->next;
	if (*at)
		*at = watch->next;
	loop_timer_cancel(&watch->timer);
	free(watch);
}

static void on_watch_end(struct loop_timer *timer)
{
	struct task_watch *watch = container_of(timer, struct task_watch, timer);
	struct operation *operation = watch->operation;
	task_watch_fn fn = watch->fn;

	operation_set_data(operation, NULL, NULL);
	fn(operation, true);
}

static struct task_watch *find_watch(struct task_service *service, const char *task_id,
				     const struct task_watch *after)
{
	struct task_watch *watch = after ? after->next : service->watches;

	while (watch && strcmp(watch->task_id, task_id))
		watch = watch->next;
	return watch;
}

/* A watch that has fired is gone, and one that is set meanwhile stands in front. */
static void fire(void *userdata)
{
	struct change *change = userdata;
	struct task_watch *watch = find_watch(change->service, change->task_id, NULL), *next;

	for (; watch && !change->service->is_closing; watch = next) {
		next = find_watch(change->service, change->task_id, watch);
		watch->fn(watch->operation, false);
	}
	free(change);
}

void task_changed(struct task_service *service, const char *task_id)
{
	struct change *change;

	if (!find_watch(service, task_id, NULL))
		return;
	change = calloc(1, sizeof(*change));
	if (!change)
		return; /* the watch's timer still ends */
	change->service = service;
	snprintf(change->task_id, sizeof(change->task_id), "%s", task_id);
	if (service_after_commit(service->service, fire, free, change))
		free(change);
}

int task_step_watch(struct operation *operation, const char *task_id, uint64_t until_ms,
		    task_watch_fn fn)
{
	struct task_service *service = operation_object(operation);
	struct task_watch *watch = calloc(1, sizeof(*watch));
	int r;

	if (!watch)
		return error_origin(-ENOMEM);
	watch->service = service;
	watch->operation = operation;
	watch->fn = fn;
	snprintf(watch->task_id, sizeof(watch->task_id), "%s", task_id);
	r = loop_timer_set(service->loop, &watch->timer, until_ms, on_watch_end);
	if (r) {
		free(watch);
		return error_trace(r);
	}
	watch->next = service->watches;
	service->watches = watch;
	operation_set_data(operation, watch, watch_drop);
	return OPERATION_LATER;
}
