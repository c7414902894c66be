#include "broker/lib/bus.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "broker/lib/bus_private.h"
#include "broker/lib/file.h"
#include "broker/lib/points.h"

#define CONNECTIONS_MAX 64
/* Between two attempts of one call: 10 ms, doubled up to 500 ms; the first goes at once. */
#define RETRY_MIN_MS 10
#define RETRY_MAX_MS 500
/* An answer "pending" that took so long came after a wait: ask again at once. */
#define PENDING_LONG_MS 1000
/* The broker answers at the deadline, and knows more than we do: so long its answer may still take. */
#define GRACE_MS 100

struct bus_call {
	struct bus *bus;
	TAILQ_ENTRY(bus_call) all, queued;
	bool is_queued;
	bool is_first; /* waits for nobody */
	bool was_sent; /* in some attempt */
	bool had_grace;
	int lacks; /* -errno: why the last attempt could not be made here; 0: it was made */
	uint8_t id[ENVELOPE_ID_SIZE];
	char method[ENVELOPE_METHOD_MAX + 1];
	struct schema_buffer request;      /* the packed envelope */
	struct bus_connection *connection; /* NULL: not in flight */
	struct loop_timer deadline, retry;
	uint64_t started_ms, deadline_ms, asked_ms, retry_ms;
	bus_reply_fn fn; /* either this, or the typed one */
	bus_typed_fn typed_fn;
	const struct schema_message *reply;
	void *userdata;
	/* Known before it was asked: told from the loop. */
	enum bus_status early_status;
	char early_text[ENVELOPE_TEXT_MAX + 1];
};

static void call_answered(void *userdata, int r, const void *data, size_t size);

/* ---- the end of a call ---- */

static void call_detach(struct bus_call *call)
{
	struct bus *bus = call->bus;

	if (call->is_queued)
		TAILQ_REMOVE(&bus->queue, call, queued);
	call->is_queued = false;
	if (call->connection)
		bus_connection_abandon(call->connection);
	call->connection = NULL;
	loop_timer_cancel(&call->deadline);
	loop_timer_cancel(&call->retry);
	TAILQ_REMOVE(&bus->calls, call, all);
}

static void call_free(struct bus_call *call)
{
	schema_buffer_clear(&call->request);
	free(call);
}

static void call_tell_typed(struct bus_call *call, const struct envelope_reply *reply)
{
	static const uint8_t empty_map[] = {0x80};
	struct schema_span body = reply->body;
	_cleanup_(cleanup_free) void *message = calloc(1, call->reply->size + 1);
	char text[SCHEMA_FAULT_SIZE + ENVELOPE_METHOD_MAX + 64];
	struct schema_fault fault = {.text = "no memory"};

	if (body.size == 0)
		body = (struct schema_span){.data = empty_map, .size = sizeof(empty_map)};
	if (!message || schema_unpack(call->reply, body.data, body.size, message, &fault)) {
		snprintf(text, sizeof(text), "the answer to %s cannot be read: %s", call->method,
			 fault.text);
		call->typed_fn(call->userdata, BUS_INTERNAL, text, NULL);
		return;
	}
	call->typed_fn(call->userdata, BUS_OK, "", message);
	schema_clear(call->reply, message);
}

/* Tells the caller and frees @call; the bus may be gone afterwards. */
static void call_finish(struct bus_call *call, const struct envelope_reply *reply)
{
	call_detach(call);
	bus_pump(call->bus);
	if (call->fn)
		call->fn(call->userdata, reply->status, reply->text, reply->body.data,
			 reply->body.size);
	else if (reply->status == BUS_OK)
		call_tell_typed(call, reply);
	else
		call->typed_fn(call->userdata, reply->status, reply->text, NULL);
	call_free(call);
}

__attribute__((format(printf, 3, 4))) static void call_fail(struct bus_call *call,
							    enum bus_status status,
							    const char *format, ...)
{
	struct envelope_reply reply = {.status = status};
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(reply.text, sizeof(reply.text), format, arguments);
	va_end(arguments);
	call_finish(call, &reply);
}

/* ---- attempts ---- */

static void call_send(struct bus_call *call)
{
	struct bus *bus = call->bus;
	int r;

	call->asked_ms = time_boot_ms();
	r = -point("call.%s.before", call->method);
	if (!r)
		r = bus_pool_request(bus->pool, call->request.data, call->request.size,
				     call_answered, call, &call->connection);
	if (r == 0)
		return;
	if (r == BUS_POOL_E_FULL) {
		call->is_queued = true;
		if (call->is_first)
			TAILQ_INSERT_HEAD(&bus->queue, call, queued);
		else
			TAILQ_INSERT_TAIL(&bus->queue, call, queued);
		return;
	}
	/* No memory or no descriptor: there may be some later. */
	call->lacks = r;
	loop_timer_set(bus->loop, &call->retry, call->asked_ms + RETRY_MAX_MS, call->retry.fn);
}

static void call_start(struct bus_call *call)
{
	if (call->bus->n_joining > 0 && !call->is_first) {
		call->is_queued = true;
		TAILQ_INSERT_TAIL(&call->bus->queue, call, queued);
		return;
	}
	call_send(call);
}

void bus_pump(struct bus *bus)
{
	struct bus_call *call, *next;

	if (bus->is_closing)
		return;

	for (call = TAILQ_FIRST(&bus->queue); call; call = next) {
		next = TAILQ_NEXT(call, queued);
		if (bus->n_joining > 0 && !call->is_first)
			continue;
		TAILQ_REMOVE(&bus->queue, call, queued);
		call->is_queued = false;
		call_send(call);
		if (call->is_queued)
			return; /* the pool is full */
	}
}

static void call_retry(struct loop_timer *timer)
{
	struct bus_call *call = container_of(timer, struct bus_call, retry);

	call_start(call);
}

static void call_ask_again(struct bus_call *call, bool at_once)
{
	uint64_t delay_ms = at_once ? 0 : call->retry_ms;

	if (at_once)
		call->retry_ms = RETRY_MIN_MS;
	else if (call->retry_ms == 0)
		call->retry_ms = RETRY_MIN_MS;
	else if (call->retry_ms * 2 <= RETRY_MAX_MS)
		call->retry_ms *= 2;
	loop_timer_set(call->bus->loop, &call->retry, time_boot_ms() + delay_ms, call_retry);
	bus_pump(call->bus);
}

/* An answer that cannot be read, or is to another question, counts as none. */
static void call_answered(void *userdata, int r, const void *data, size_t size)
{
	struct bus_call *call = userdata;
	struct envelope_reply reply;

	if (!r || bus_connection_was_sent(call->connection))
		call->was_sent = true;
	call->connection = NULL;
	call->lacks = r < 0 ? r : 0;
	if (!r)
		r = envelope_read_reply(data, size, &reply, NULL);
	if (r || memcmp(reply.id, call->id, sizeof(call->id)) != 0) {
		call_ask_again(call, false);
		return;
	}
	if (reply.status == BUS_PENDING) {
		call_ask_again(call, time_boot_ms() - call->asked_ms >= PENDING_LONG_MS);
		return;
	}
	if (reply.status == BUS_OK)
		reply.text[0] = '\0';
	call_finish(call, &reply);
}

static void call_expired(struct bus_call *call)
{
	unsigned long long spent_ms = call->deadline_ms - call->started_ms;

	if (call->connection && bus_connection_was_sent(call->connection))
		call->was_sent = true;
	if (call->was_sent)
		call_fail(call, BUS_DEADLINE_EXCEEDED,
			  "%s was not answered within %llu ms; it may still take effect",
			  call->method, spent_ms);
	else
		call_fail(call, BUS_DEADLINE_EXCEEDED,
			  "%s could not be sent to the broker within %llu ms%s%s", call->method,
			  spent_ms, call->lacks ? ": " : "",
			  call->lacks ? strerror(-call->lacks) : "");
}

static void call_deadline(struct loop_timer *timer)
{
	struct bus_call *call = container_of(timer, struct bus_call, deadline);

	if (call->early_status != BUS_OK) {
		call_fail(call, call->early_status, "%s", call->early_text);
		return;
	}
	if (!call->had_grace && call->connection && bus_connection_was_sent(call->connection)) {
		call->had_grace = true;
		loop_timer_set(call->bus->loop, &call->deadline, call->deadline_ms + GRACE_MS,
			       call_deadline);
		return;
	}
	call_expired(call);
}

/* ---- making one ---- */

/* A call that cannot be made fails as others do: by its callback. */
__attribute__((format(printf, 2, 3))) static void call_refuse(struct bus_call *call,
							      const char *format, ...)
{
	va_list arguments;

	if (call->early_status != BUS_OK)
		return;
	call->early_status = BUS_INVALID_ARGUMENT;
	va_start(arguments, format);
	vsnprintf(call->early_text, sizeof(call->early_text), format, arguments);
	va_end(arguments);
}

static int call_pack(struct bus_call *call, const struct bus_options *options, const void *body,
		     size_t size)
{
	struct envelope_request request = {.body = {.data = body, .size = size}};
	const char *namespace = options->namespace ? options->namespace : ENVELOPE_DEFAULT_NS;
	int r;

	if (strlen(namespace) > ENVELOPE_NAME_MAX) {
		call_refuse(call, "%s: namespace '%.80s…' is too long", call->method, namespace);
		return 0;
	}
	memcpy(request.id, call->id, sizeof(request.id));
	request.deadline_ms = call->deadline_ms;
	strcpy(request.namespace, namespace);
	strcpy(request.method, call->method);
	request.has_parent = options->parent != NULL;
	if (options->parent)
		memcpy(request.parent, options->parent, sizeof(request.parent));
	r = envelope_write_request(&request, &call->request);
	if (r)
		return error_trace(r);
	if (call->request.size > SCHEMA_MESSAGE_MAX)
		call_refuse(call, "the request for %s has %zu bytes; %u are allowed", call->method,
			    call->request.size, SCHEMA_MESSAGE_MAX);
	return 0;
}

static void call_init(struct bus_call *call, struct bus *bus, const char *method,
		      const struct bus_options *options)
{
	call->bus = bus;
	if (strlen(method) > ENVELOPE_METHOD_MAX)
		call_refuse(call, "method '%.80s…' is too long", method);
	snprintf(call->method, sizeof(call->method), "%s", method);
	if (options->id)
		memcpy(call->id, options->id, sizeof(call->id));
	else
		id_make(call->id);
	call->started_ms = time_boot_ms();
	call->deadline_ms = options->deadline_ms > 0 ? options->deadline_ms
						     : call->started_ms + ENVELOPE_DEADLINE_DEFAULT;
	if (call->deadline_ms > call->started_ms + ENVELOPE_DEADLINE_MAX)
		call->deadline_ms = call->started_ms + ENVELOPE_DEADLINE_MAX;
	if (call->deadline_ms < call->started_ms)
		call->started_ms = call->deadline_ms;
}

static int call_new(struct bus *bus, const char *method, const struct bus_options *options,
		    const void *body, size_t size, struct bus_call **ret_call)
{
	static const struct bus_options none = {};
	struct bus_call *call;
	int r;

	if (bus->is_closing)
		return error_origin(-ESHUTDOWN);
	if (!options)
		options = &none;
	call = calloc(1, sizeof(*call));
	if (!call)
		return error_origin(-ENOMEM);

	call_init(call, bus, method, options);
	r = call_pack(call, options, body, size);
	if (r) {
		call_free(call);
		return error_trace(r);
	}
	*ret_call = call;
	return 0;
}

static int call_begin(struct bus_call *call)
{
	struct bus *bus = call->bus;
	bool is_refused = call->early_status != BUS_OK;
	int r;

	r = loop_timer_set(bus->loop, &call->deadline, is_refused ? 0 : call->deadline_ms,
			   call_deadline);
	if (r) {
		call_free(call);
		return error_trace(r);
	}
	call->retry.fn = call_retry;
	TAILQ_INSERT_TAIL(&bus->calls, call, all);
	if (!is_refused)
		call_start(call);
	return 0;
}

int bus_call(struct bus *bus, const char *method, const struct bus_options *options,
	     const void *body, size_t size, bus_reply_fn fn, void *userdata,
	     struct bus_call **ret_call)
{
	struct bus_call *call;
	int r;

	r = call_new(bus, method, options, body, size, &call);
	if (r)
		return r;

	call->fn = fn;
	call->userdata = userdata;
	r = call_begin(call);
	if (!r && ret_call)
		*ret_call = call;
	return r;
}

static int call_typed(struct bus *bus, const struct schema_method *method,
		      const struct bus_options *options, const void *request, bool is_first,
		      bus_typed_fn fn, void *userdata, struct bus_call **ret_call)
{
	_cleanup_(schema_buffer_clear) struct schema_buffer body = {};
	char name[ENVELOPE_METHOD_MAX + 1];
	struct schema_fault fault = {};
	struct bus_call *call;
	int packed = 0, r;

	assert(method);
	snprintf(name, sizeof(name), "%s.%s", method->service, method->name);
	if (request)
		packed = schema_pack(method->request(), request, &body, &fault);
	if (packed < 0)
		return error_trace(packed);

	r = call_new(bus, name, options, body.data, packed ? 0 : body.size, &call);
	if (r)
		return r;

	if (packed)
		call_refuse(call, "%s: %s", name, fault.text);
	call->is_first = is_first;
	call->typed_fn = fn;
	call->reply = method->reply();
	call->userdata = userdata;
	r = call_begin(call);
	if (!r && ret_call)
		*ret_call = call;
	return r;
}

int bus_call_typed(struct bus *bus, const struct schema_method *method,
		   const struct bus_options *options, const void *request, bus_typed_fn fn,
		   void *userdata, struct bus_call **ret_call)
{
	return call_typed(bus, method, options, request, false, fn, userdata, ret_call);
}

int bus_call_first(struct bus *bus, const struct schema_method *method,
		   const struct bus_options *options, const void *request, bus_typed_fn fn,
		   void *userdata, struct bus_call **ret_call)
{
	return call_typed(bus, method, options, request, true, fn, userdata, ret_call);
}

void bus_call_cancel(struct bus_call *call)
{
	struct bus *bus;

	if (!call)
		return;
	bus = call->bus;
	call_detach(call);
	call_free(call);
	bus_pump(bus);
}

/* ---- the bus ---- */

int bus_new(struct loop *loop, const char *bus_path, const char *events_path, struct bus **ret_bus)
{
	_cleanup_(bus_freep) struct bus *bus = NULL;
	int r;

	bus = calloc(1, sizeof(*bus));
	if (!bus)
		return error_origin(-ENOMEM);

	bus->loop = loop;
	TAILQ_INIT(&bus->calls);
	TAILQ_INIT(&bus->queue);
	TAILQ_INIT(&bus->subscriptions);
	if (events_path) {
		bus->events_path = strdup(events_path);
		if (!bus->events_path)
			return error_origin(-ENOMEM);
	}
	r = bus_pool_new(loop, bus_path, CONNECTIONS_MAX, &bus->pool);
	if (r)
		return error_trace(r);

	*ret_bus = TAKE(bus);
	return 0;
}

struct bus *bus_free(struct bus *bus)
{
	struct bus_call *call;

	if (!bus)
		return NULL;

	bus->is_closing = true;
	bus_events_close(bus);
	while ((call = TAILQ_FIRST(&bus->calls)))
		call_fail(call, BUS_CANCELED, "%s was given up: this process ends", call->method);
	bus_pool_free(bus->pool);
	free(bus->events_path);
	free(bus);
	return NULL;
}

void bus_freep(struct bus **bus)
{
	*bus = bus_free(*bus);
}
