/* Calls: a request from its arrival to its answer. */

#include <assert.h>
#include <stdarg.h>
#include <string.h>

#include "broker/lib/log.h"
#include "broker/lib/points.h"
#include "schemas/check.h"
#include "services/lib/service_private.h"

/* So many requests may wait for a later answer or to be run. */
#define CALLS_MAX      4096
#define CALLS_CHECK_MS 1000
#define TRIM_EACH      4
#define TRIM_WHEN_FULL 256

/* ---- making and freeing ---- */

static int call_run(struct service *service, struct job *job);
static void call_refuse(struct service *service, struct job *job, int r);

static void job_done(struct service *service, struct job *job)
{
	(void)service;
	(void)job;
}

static int call_new(struct service *service, const char *method, const uint8_t id[16],
		    const char *namespace, uint64_t deadline_ms, struct call **ret_call)
{
	_cleanup_(call_freep) struct call *call = NULL;

	call = calloc(1, sizeof(*call));
	if (!call)
		return error_origin(-ENOMEM);
	call->service = service;
	call->job = (struct job){.run = call_run, .refuse = call_refuse, .done = job_done};
	memcpy(call->id, id, sizeof(call->id));
	call->deadline_ms = deadline_ms ? deadline_ms : time_boot_ms() + ENVELOPE_DEADLINE_DEFAULT;
	call->method_name = strdup(method);
	call->namespace = strdup(namespace && *namespace ? namespace : ENVELOPE_DEFAULT_NS);
	if (!call->method_name || !call->namespace)
		return error_origin(-ENOMEM);
	*ret_call = TAKE(call);
	return 0;
}

static void unlink_later(struct call *call)
{
	struct call **at = &call->service->calls[call->id[0]];

	if (!call->is_later)
		return;
	while (*at != call)
		at = &(*at)->next;
	*at = call->next;
	call->is_later = false;
	call->service->n_calls--;
}

struct call *call_free(struct call *call)
{
	if (!call)
		return NULL;
	unlink_later(call);
	while (call->waiters) {
		struct waiter *waiter = call->waiters;

		call->waiters = waiter->next;
		free(waiter);
	}
	free(call->method_name);
	free(call->namespace);
	schema_bytes_clear(&call->body);
	schema_buffer_clear(&call->reply);
	free(call);
	return NULL;
}

void call_freep(struct call **call)
{
	*call = call_free(*call);
}

void calls_free(struct service *service)
{
	for (size_t i = 0; i < SERVICE_CALLS_BUCKETS; i++)
		while (service->calls[i])
			call_free(service->calls[i]);
	loop_timer_cancel(&service->calls_timer);
}

/* ---- answering ---- */

/* Printable UTF-8: a text may come from a child's stderr, or be cut in the middle of a character. */
static void clean_text(char *text)
{
	for (unsigned char *at = (unsigned char *)text; *at; at++) {
		unsigned n = *at < 0x80                  ? 0
			     : *at >= 0xc2 && *at < 0xe0 ? 1
			     : *at >= 0xe0 && *at < 0xf0 ? 2
			     : *at >= 0xf0 && *at < 0xf5 ? 3
							 : 4;
		unsigned i = 1;

		if (*at < 0x20 || *at == 0x7f)
			*at = ' ';
		if (n == 4) {
			*at = '?';
			continue;
		}
		while (i <= n && (at[i] & 0xc0) == 0x80)
			i++;
		if (i <= n || (*at == 0xe0 && at[1] < 0xa0) || (*at == 0xed && at[1] > 0x9f) ||
		    (*at == 0xf0 && at[1] < 0x90) || (*at == 0xf4 && at[1] > 0x8f)) {
			*at = '?';
			continue;
		}
		at += n;
	}
}

void call_set_status(struct call *call, enum bus_status status, const char *text)
{
	call->status = status;
	call->is_failed = status != BUS_OK;
	if (text != call->text)
		snprintf(call->text, sizeof(call->text), "%s", text);
	clean_text(call->text);
	if (call->is_failed)
		call->reply.size = 0;
}

static void __attribute__((format(printf, 3, 0)))
call_set_failure(struct call *call, enum bus_status status, const char *format, va_list arguments)
{
	vsnprintf(call->text, sizeof(call->text), format, arguments);
	call_set_status(call, status == BUS_OK ? BUS_INTERNAL : status, call->text);
}

static void answer_one(const struct waiter *waiter, const uint8_t id[16], enum bus_status status,
		       const char *text, const struct schema_buffer *body)
{
	_cleanup_(schema_buffer_clear) struct schema_buffer buffer = {};
	struct envelope_reply *reply;

	reply = calloc(1, sizeof(*reply));
	if (reply) {
		memcpy(reply->id, id, sizeof(reply->id));
		reply->status = status;
		snprintf(reply->text, sizeof(reply->text), "%s", text);
		if (body && status == BUS_OK)
			reply->body = (struct schema_span){body->data, body->size};
	}
	/* Without memory the peer gets an empty answer, which the broker takes for none. */
	if (!reply || envelope_write_reply(reply, &buffer))
		waiter->fn(waiter->userdata, NULL, 0);
	else
		waiter->fn(waiter->userdata, buffer.data, buffer.size);
	free(reply);
}

static void answer_all(struct call *call, enum bus_status status, const char *text,
		       const struct schema_buffer *body)
{
	while (call->waiters) {
		struct waiter *waiter = call->waiters;

		call->waiters = waiter->next;
		(void)point("answer.%s.before", call->method_name);
		answer_one(waiter, call->id, status, text, body);
		(void)point("answer.%s.after", call->method_name);
		free(waiter);
	}
}

static void answer(void *userdata)
{
	struct call *call = userdata;

	answer_all(call, call->status, call->text, &call->reply);
	call_free(call);
}

static int answer_after_commit(struct call *call)
{
	return service_add_answer(call->service, answer, NULL, call);
}

static const char *refusal(int r)
{
	return r == STORE_E_NO_SPACE
		       ? "no space is left on the disk of its store: free some and try again"
		       : "its store is full: try again when something was deleted";
}

/* Nothing of it was committed. */
static void call_refuse(struct service *service, struct job *job, int r)
{
	struct call *call = container_of(job, struct call, job);

	snprintf(call->text, sizeof(call->text), "%s: %s", service->definition->program,
		 refusal(r));
	answer_all(call, BUS_RESOURCE_EXHAUSTED, call->text, NULL);
	call_free(call);
}

int call_set_reply(struct call *call, const struct schema_message *schema, const void *reply)
{
	_cleanup_(cleanup_free) void *none = NULL;
	struct schema_fault fault = {};
	int r;

	if (!reply) {
		none = calloc(1, schema->size + 1);
		if (!none)
			return error_origin(-ENOMEM);
		reply = none;
	}
	call->reply.size = 0;
	r = schema_pack(schema, reply, &call->reply, &fault);
	if (r < 0)
		return error_trace(r);
	if (!r && call->reply.size <= REPLY_BODY_MAX) {
		call_set_status(call, BUS_OK, "");
		return 0;
	}
	snprintf(call->text, sizeof(call->text), "the reply of '%s' cannot be sent: %s",
		 call->method_name, r ? fault.text : "it is larger than 1 MiB, ask for less");
	log_error("%s", call->text);
	call_set_status(call, r ? BUS_INTERNAL : BUS_RESOURCE_EXHAUSTED, call->text);
	return 0;
}

static bool is_worth_storing(const struct call *call)
{
	return call->status != BUS_UNAVAILABLE && call->status != BUS_RESOURCE_EXHAUSTED &&
	       call->status != BUS_INTERNAL;
}

/* What an operation did and undid has used the ids derived from its own: it must not run again under that. */
int call_settle(struct call *call, bool is_stored)
{
	int r = 0;

	if (call->method && call->method->mutates) {
		if (is_stored && (call->operation || is_worth_storing(call))) {
			r = reply_put(call->service, call, false);
			if (!r)
				r = reply_trim(call->service, TRIM_EACH);
		}
	}
	if (!r)
		r = answer_after_commit(call);
	return error_trace(r);
}

/* ---- later answers ---- */

static void check_calls(struct loop_timer *timer);

static bool has_no_room(const struct service *service, uint64_t now)
{
	return service->no_room_ms && now - service->no_room_ms < 2 * SERVICE_NO_ROOM_MS;
}

static void answer_waiter(const struct service *service, const struct call *call,
			  struct waiter *waiter, bool is_late, uint64_t now)
{
	char text[ENVELOPE_TEXT_MAX + 1];

	if (has_no_room(service, now))
		snprintf(text, sizeof(text), "%sno space is left on the disk of store '%s'",
			 ENVELOPE_WAITS, service->store->directory);
	else if (is_late)
		snprintf(text, sizeof(text),
			 "the deadline passed while the request was worked on; it goes on");
	else
		snprintf(text, sizeof(text), "it goes on: ask again with the same request id");
	answer_one(waiter, call->id, is_late ? BUS_DEADLINE_EXCEEDED : BUS_PENDING, text, NULL);
	free(waiter);
}

/* One that wants to wait longer asks again with the same id. */
static void check_waiters(const struct service *service, struct call *call, uint64_t now)
{
	struct waiter **at = &call->waiters, *waiter;
	bool is_late = call->deadline_ms <= now;
	bool may_join = call->method && call->method->mutates;
	uint64_t patience_ms = has_no_room(service, now) ? SERVICE_NO_ROOM_MS : SERVICE_PENDING_MS;

	while ((waiter = *at)) {
		if (!is_late && !(may_join && now - waiter->since_ms >= patience_ms)) {
			at = &waiter->next;
			continue;
		}
		*at = waiter->next;
		answer_waiter(service, call, waiter, is_late, now);
	}
}

static void check_calls(struct loop_timer *timer)
{
	struct service *service = container_of(timer, struct service, calls_timer);
	uint64_t now = time_boot_ms();
	bool is_waiting = false;

	for (size_t i = 0; i < SERVICE_CALLS_BUCKETS; i++)
		for (struct call *call = service->calls[i]; call; call = call->next) {
			check_waiters(service, call, now);
			is_waiting |= call->waiters != NULL;
		}
	if (is_waiting)
		loop_timer_set(service->loop, timer, now + CALLS_CHECK_MS, check_calls);
}

static void watch_calls(struct service *service)
{
	if (!service->calls_timer.loop)
		loop_timer_set(service->loop, &service->calls_timer,
			       time_boot_ms() + CALLS_CHECK_MS, check_calls);
}

void call_make_later(struct call *call)
{
	struct call **bucket = &call->service->calls[call->id[0]];

	if (call->is_later)
		return;
	call->is_later = true;
	call->next = *bucket;
	*bucket = call;
	call->service->n_calls++;
	if (call->waiters)
		watch_calls(call->service);
}

struct call *call_find_later(struct service *service, const uint8_t id[16])
{
	for (struct call *call = service->calls[id[0]]; call; call = call->next)
		if (!memcmp(call->id, id, sizeof(call->id)))
			return call;
	return NULL;
}

/* ---- running ---- */

static void find_method(struct call *call)
{
	const struct service_method *methods = call->service->definition->methods;
	char service[ENVELOPE_NAME_MAX + 1];
	const char *name = envelope_split_method(call->method_name, service);
	const struct schema_method *method = name ? schema_find_method(service, name) : NULL;

	for (size_t i = 0; method && methods[i].find; i++)
		if (methods[i].find() == method) {
			call->method = method;
			call->handler = methods[i].handler;
			return;
		}
}

static int __attribute__((format(printf, 3, 4)))
answer_error(struct call *call, enum bus_status status, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	call_set_failure(call, status, format, arguments);
	va_end(arguments);
	return answer_after_commit(call);
}

static int other_request(struct call *call)
{
	return answer_error(
		call, BUS_INVALID_ARGUMENT,
		"the request id of this '%s' belongs to another request: each needs an id of its own",
		call->method_name);
}

/* The same request again, while the first is worked on: one more waits for the one answer. */
static int join(struct call *call, struct call *first)
{
	struct waiter **last = &first->waiters;

	if (strcmp(call->method_name, first->method_name) != 0 ||
	    memcmp(call->hash, first->hash, sizeof(call->hash)) != 0)
		return other_request(call);
	if (first->operation) {
		int r = operation_rejoin(first->operation, &call->body);

		if (r)
			return error_trace(r);
	}
	while (*last)
		last = &(*last)->next;
	*last = TAKE(call->waiters);
	if (call->deadline_ms > first->deadline_ms)
		first->deadline_ms = call->deadline_ms;
	watch_calls(call->service);
	call_free(call);
	return JOB_GONE;
}

static int answer_stored(struct call *call, struct reply_record *record)
{
	if (record->running)
		return answer_error(
			call, BUS_DATA_LOSS,
			"the operation of this '%s' cannot be taken up again; the log of %s says why",
			call->method_name, call->service->definition->program);
	call_set_status(call, record->status, record->text ? record->text : "");
	if (schema_buffer_add(&call->reply, record->body.data, record->body.size))
		return error_origin(-ENOMEM);
	return answer_after_commit(call);
}

/* 0 and @ret_found: it is answered. */
static int answer_repeated(struct call *call, bool *ret_found)
{
	_cleanup_(reply_record_clear) struct reply_record record = {};
	struct service *service = call->service;
	int r;

	*ret_found = true;
	r = reply_find(service, call, &record);
	if (!r)
		return error_trace(answer_stored(call, &record));
	if (r == REPLY_E_OTHER)
		return other_request(call);
	if (r == REPLY_E_DAMAGED)
		return answer_error(
			call, BUS_DATA_LOSS,
			"the stored reply of this '%s' is damaged: look whether it took effect",
			call->method_name);
	if (r != REPLY_E_NOT_FOUND)
		return error_trace(r);
	*ret_found = false;
	if (store_count(service->store, STORE_REPLIES) < REPLY_MAX)
		return 0;
	r = reply_trim(service, TRIM_WHEN_FULL);
	if (r || store_count(service->store, STORE_REPLIES) < REPLY_MAX)
		return error_trace(r);
	*ret_found = true;
	return answer_error(
		call, BUS_RESOURCE_EXHAUSTED,
		"%s remembers %d replies already and takes no request that changes something: try again in a minute",
		service->definition->program, REPLY_MAX);
}

/* @r: what the handler returned. Its changes are still open. */
static int handled(struct call *call, const void *reply, int r)
{
	struct service *service = call->service;
	int failure = store_failure(service->store);

	if (failure) {
		service_end(service, false);
		return failure;
	}
	if (r == CALL_LATER && !call->is_failed) {
		r = service_end(service, true);
		if (!r)
			call_make_later(call);
		return error_trace(r);
	}
	if (r && !(r == CALL_LATER && call->is_failed)) {
		error_trace(r);
		log_error("method=%s namespace=%s error=\"%s\"", call->method_name, call->namespace,
			  r < 0 ? strerror(-r) : "unexpected result");
		snprintf(call->text, sizeof(call->text), "'%s' failed in %s: %s", call->method_name,
			 service->definition->program, r < 0 ? strerror(-r) : "unexpected result");
		call_set_status(call, BUS_INTERNAL, call->text);
	}
	if (!call->is_failed) {
		r = call_set_reply(call, call->method->reply(), reply);
		if (r)
			call_set_status(call, BUS_INTERNAL, strerror(-r));
	}
	if (call->is_failed) {
		service_end(service, false);
		r = service_begin(service);
		if (r)
			return error_trace(r);
	}
	r = call_settle(call, true);
	if (r) {
		service_end(service, false);
		return error_trace(r);
	}
	return error_trace(service_end(service, true));
}

/* In the nested transaction, which it ends. */
static int run_handler(struct call *call)
{
	const struct schema_message *request_schema = call->method->request();
	const struct schema_message *reply_schema = call->method->reply();
	_cleanup_(cleanup_free) void *request = NULL, *reply = NULL;
	struct schema_fault fault = {};
	int r;

	request = calloc(1, request_schema->size + 1);
	reply = calloc(1, reply_schema->size + 1);
	if (!request || !reply) {
		service_end(call->service, false);
		return error_origin(-ENOMEM);
	}
	r = schema_unpack(request_schema, call->body.data, call->body.size, request, &fault);
	if (r) {
		service_end(call->service, false);
		return answer_error(call, r > 0 ? BUS_INVALID_ARGUMENT : BUS_INTERNAL, "%s",
				    r > 0 ? fault.text : "out of memory");
	}
	r = call->handler(call->service->object, request, reply, call);
	r = handled(call, reply, r);
	schema_clear(request_schema, request);
	schema_clear(reply_schema, reply);
	return error_trace(r);
}

static int run_whole(struct call *call)
{
	bool is_answered = false;
	int r;

	r = service_begin(call->service);
	if (r)
		return error_trace(r);
	if (call->method->mutates) {
		r = answer_repeated(call, &is_answered);
		if (r) {
			service_end(call->service, false);
			return error_trace(r);
		}
	}
	if (is_answered)
		return error_trace(service_end(call->service, true));
	return error_trace(run_handler(call));
}

static int call_run(struct service *service, struct job *job)
{
	struct call *call = container_of(job, struct call, job), *first;

	/* It may be run for a second time. */
	unlink_later(call);
	call->operation = NULL;
	call->reply.size = 0;
	call_set_status(call, BUS_OK, "");
	if (call->deadline_ms <= time_boot_ms())
		return answer_error(
			call, BUS_DEADLINE_EXCEEDED,
			"the deadline of this '%s' had passed when %s took it up; nothing was done",
			call->method_name, service->definition->program);
	find_method(call);
	if (!call->method)
		return answer_error(call, BUS_NOT_FOUND, "%s has no method '%s'",
				    service->definition->program, call->method_name);
	if (call->method->mutates) {
		if (!call->is_hashed && reply_hash(call, call->hash))
			return answer_error(call, BUS_RESOURCE_EXHAUSTED,
					    "%s is out of memory; nothing was done: try again",
					    service->definition->program);
		call->is_hashed = true;
		first = call_find_later(service, call->id);
		if (first)
			return join(call, first);
	}
	if (service->n_calls >= CALLS_MAX)
		return answer_error(call, BUS_RESOURCE_EXHAUSTED,
				    "%s works on %d requests already: try again in a second",
				    service->definition->program, CALLS_MAX);
	return error_trace(run_whole(call));
}

/* ---- arrival ---- */

static int add_waiter(struct call *call, service_answer_fn fn, void *userdata)
{
	struct waiter *waiter = malloc(sizeof(*waiter));

	if (!waiter)
		return error_origin(-ENOMEM);
	*waiter = (struct waiter){.fn = fn, .userdata = userdata, .since_ms = time_boot_ms()};
	call->waiters = waiter;
	return 0;
}

static int take_up(struct service *service, const struct envelope_request *request,
		   service_answer_fn fn, void *userdata)
{
	_cleanup_(call_freep) struct call *call = NULL;
	static const uint8_t no_fields = 0x80;
	int r;

	r = call_new(service, request->method, request->id, request->namespace,
		     request->deadline_ms, &call);
	if (r)
		return error_trace(r);
	call->uid = request->has_peer ? request->uid : (uint32_t)-1;
	r = request->body.size
		    ? schema_bytes_set(&call->body, request->body.data, request->body.size)
		    : schema_bytes_set(&call->body, &no_fields, 1);
	if (!r)
		r = add_waiter(call, fn, userdata);
	if (r)
		return error_trace(r);
	service->n_requests++;
	service_queue(service, &TAKE(call)->job);
	return 0;
}

int service_dispatch(struct service *service, const void *data, size_t size, service_answer_fn fn,
		     void *userdata)
{
	struct waiter waiter = {.fn = fn, .userdata = userdata};
	_cleanup_(cleanup_free) struct envelope_request *request = NULL;
	struct schema_fault fault = {};
	int r;

	request = calloc(1, sizeof(*request));
	if (!request)
		return error_origin(-ENOMEM);
	r = envelope_read_request(data, size, request, &fault);
	if (r > 0) {
		answer_one(&waiter, request->id, BUS_INVALID_ARGUMENT, fault.text, NULL);
		return 0;
	}
	if (!r)
		r = take_up(service, request, fn, userdata);
	return error_trace(r);
}

int call_new_silent(struct service *service, const char *method, const uint8_t id[16],
		    const char *namespace, uint64_t deadline_ms, const uint8_t *hash,
		    struct call **ret_call)
{
	struct call *call;
	int r;

	r = call_new(service, method, id, namespace, deadline_ms, &call);
	if (r)
		return error_trace(r);
	find_method(call);
	if (hash)
		memcpy(call->hash, hash, sizeof(call->hash));
	call->is_hashed = true;
	*ret_call = call;
	return 0;
}

/* ---- for handlers ---- */

const uint8_t *call_id(const struct call *call)
{
	return call->id;
}

const char *call_namespace(const struct call *call)
{
	return call->namespace;
}

uint64_t call_deadline(const struct call *call)
{
	return call->deadline_ms;
}

uint32_t call_uid(const struct call *call)
{
	return call->uid;
}

struct service *call_service(const struct call *call)
{
	return call->service;
}

int call_fail(struct call *call, enum bus_status status, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	call_set_failure(call, status, format, arguments);
	va_end(arguments);
	return 0;
}

int call_fail_store(struct call *call, int r, const char *what)
{
	switch (r) {
	case STORE_E_FULL:
	case STORE_E_NO_SPACE:
		/* The turn sees it by itself. */
		return r;
	case STORE_E_NOT_FOUND:
		return call_fail(call, BUS_NOT_FOUND, "no %s", what);
	case STORE_E_DAMAGED:
		return call_fail(call, BUS_DATA_LOSS,
				 "the stored record of %s is damaged and was moved into quarantine",
				 what);
	case -ENAMETOOLONG:
		return call_fail(call, BUS_INVALID_ARGUMENT, "the name of %s is too long", what);
	}
	return error_fold(r);
}

const char *call_checked_namespace(struct call *call)
{
	struct schema_fault fault = {};

	if (!check_identifier_why("namespace", call->namespace, &fault))
		return call->namespace;
	call_fail(call, BUS_INVALID_ARGUMENT, "%s", fault.text);
	return NULL;
}

int call_after_commit(struct call *call, void (*fn)(void *userdata),
		      void (*free_fn)(void *userdata), void *userdata)
{
	return service_after_commit(call->service, fn, free_fn, userdata);
}

/* ---- finishing later ---- */

struct finish {
	struct job job;
	struct call *call;
};

static int finish_run(struct service *service, struct job *job)
{
	struct finish *finish = container_of(job, struct finish, job);
	int r;

	r = service_begin(service);
	if (r)
		return error_trace(r);
	r = call_settle(finish->call, true);
	if (r) {
		service_end(service, false);
		return error_trace(r);
	}
	return error_trace(service_end(service, true));
}

/* What it says has happened: it is tried again until there is room. */
static void finish_refuse(struct service *service, struct job *job, int r)
{
	(void)r;
	job_list_add(&service->stalled, job);
}

static void finish_done(struct service *service, struct job *job)
{
	(void)service;
	free(container_of(job, struct finish, job));
}

static void finish(struct call *call)
{
	struct finish *finish;
	int r;

	if (call->service->store->is_nested) {
		r = call_settle(call, true);
		if (r < 0)
			log_error("method=%s error=\"the answer cannot be stored: %s\"",
				  call->method_name, strerror(-r));
		return;
	}
	finish = malloc(sizeof(*finish));
	if (!finish)
		service_die(call->service, -ENOMEM);
	*finish = (struct finish){
		.job = {.run = finish_run, .refuse = finish_refuse, .done = finish_done},
		.call = call,
	};
	service_queue(call->service, &finish->job);
}

void call_finish(struct call *call, const void *reply)
{
	int r;

	r = call_set_reply(call, call->method->reply(), reply);
	if (r)
		call_set_status(call, BUS_INTERNAL, strerror(-r));
	finish(call);
}

void call_finish_fail(struct call *call, enum bus_status status, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	call_set_failure(call, status, format, arguments);
	va_end(arguments);
	finish(call);
}
