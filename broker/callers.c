#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/about.h"
#include "broker/callers.h"
#include "broker/eventread.h"
#include "broker/lib/log.h"
#include "broker/lib/nng_compat.h"
#include "broker/services.h"

#define CONTEXTS_FIRST 32    /* at start, and as many more at a time */
#define CONTEXTS_LOW   12    /* fewer free ones than this: more are made */
#define BUFFER_KEEP    16384 /* bytes of a request's buffer that are kept for the next one */
#define FRAME_SIZE     64    /* bytes that nng adds to a message, and some */

struct callers {
	struct broker *broker;
	nng_socket socket;
	struct loop_mail mail; /* requests for the broker itself */
	struct caller *contexts[CALLERS_MAX];
	atomic_size_t n_contexts, n_free;
	atomic_uint n_connections;
	atomic_uint_least64_t n_requests, n_replies, n_refused;
};

/* ---- answering ---- */

static void start_receive(struct caller *caller)
{
	caller->is_sending = false;
	nng_ctx_recv(caller->context, caller->aio);
}

/* The request is over: its share of the quota is given back, the context waits for the next. */
static void finish(struct caller *caller)
{
	struct broker *broker = caller->callers->broker;
	struct schema_buffer *buffer = &caller->exchange.request;

	if (caller->message)
		nng_msg_free(caller->message);
	caller->message = NULL;
	if (buffer->capacity > BUFFER_KEEP)
		schema_buffer_clear(buffer);
	buffer->size = 0;
	broker_lock(broker);
	if (caller->is_counted)
		quota_give(broker->quota, caller->account, caller->exchange.is_service,
			   caller->size);
	caller->is_counted = false;
	pthread_mutex_unlock(&broker->lock);
	atomic_fetch_add(&caller->callers->n_free, 1);
	start_receive(caller);
}

/* Takes @message. */
static void send(struct caller *caller, nng_msg *message)
{
	atomic_fetch_add(&caller->callers->n_replies, 1);
	caller->is_sending = true;
	nng_aio_set_msg(caller->aio, message);
	nng_ctx_send(caller->context, caller->aio);
}

void caller_answer(struct caller *caller, enum bus_status status, const char *text,
		   const void *body, size_t size)
{
	_cleanup_(schema_buffer_clear) struct schema_buffer buffer = {};
	struct envelope_reply reply = {.status = status, .body = {body, size}};
	nng_msg *message = NULL;

	memcpy(reply.id, caller->envelope.id, sizeof(reply.id));
	snprintf(reply.text, sizeof(reply.text), "%s", text ? text : "");
	if (envelope_write_reply(&reply, &buffer) ||
	    nng_compat_message(buffer.data, buffer.size, &message)) {
		/* No memory, or too large, which none of ours is: the caller's deadline tells it. */
		log_error("pid=%" PRIu32 " method=%s: the answer cannot be built",
			  caller->envelope.pid, caller->envelope.method);
		finish(caller);
		return;
	}
	send(caller, message);
}

void caller_answer_message(struct caller *caller, const struct schema_message *schema,
			   const void *message)
{
	_cleanup_(schema_buffer_clear) struct schema_buffer buffer = {};
	struct schema_fault fault = {};

	if (schema_pack(schema, message, &buffer, &fault))
		caller_answer(caller, BUS_INTERNAL, "the broker's answer cannot be packed", NULL,
			      0);
	else
		caller_answer(caller, BUS_OK, NULL, buffer.data, buffer.size);
}

void caller_forward(struct caller *caller, nng_msg *message)
{
	struct envelope_reply reply;

	if (envelope_read_reply(nng_msg_body(message), nng_msg_len(message), &reply, NULL) ||
	    memcmp(reply.id, caller->envelope.id, sizeof(reply.id)) != 0) {
		nng_msg_free(message);
		caller_answer(caller, BUS_INTERNAL,
			      "the service gave something that is not an answer to this request",
			      NULL, 0);
		return;
	}
	send(caller, message);
}

bool caller_unpack(struct caller *caller, const struct schema_message *schema, void *ret_message)
{
	static const uint8_t empty_map = 0x80;
	const struct schema_span *body = &caller->envelope.body;
	struct schema_fault fault = {};
	int r;

	r = schema_unpack(schema, body->size ? body->data : &empty_map, body->size ? body->size : 1,
			  ret_message, &fault);
	if (r < 0)
		caller_answer(caller, BUS_RESOURCE_EXHAUSTED,
			      "the broker is out of memory; try again in 1 s", NULL, 0);
	else if (r > 0)
		caller_answer(caller, BUS_INVALID_ARGUMENT, fault.text, NULL, 0);
	return r == 0;
}

bool caller_is_there(const struct caller *caller)
{
	struct nng_compat_peer peer;

	return nng_compat_pipe_peer(caller->pipe, &peer) == 0;
}

/* ---- a request ---- */

static void refuse(struct caller *caller, enum bus_status status, const char *text)
{
	atomic_fetch_add(&caller->callers->n_refused, 1);
	caller_answer(caller, status, text, NULL, 0);
}

/* Fills in what only the broker knows. */
static void stamp(struct caller *caller, const struct nng_compat_peer *peer)
{
	struct envelope_request *envelope = &caller->envelope;
	uint64_t now = time_boot_ms();

	if (envelope->deadline_ms == 0)
		envelope->deadline_ms = now + ENVELOPE_DEADLINE_DEFAULT;
	else if (envelope->deadline_ms > now + ENVELOPE_DEADLINE_MAX)
		envelope->deadline_ms = now + ENVELOPE_DEADLINE_MAX;
	envelope->has_peer = true;
	envelope->uid = peer->uid;
	envelope->pid = (uint32_t)peer->pid;
}

/* Counts the request; false: it has been dealt with. Under the lock, which it gives back when false. */
static bool count(struct caller *caller, bool is_quick)
{
	struct broker *broker = caller->callers->broker;
	struct exchange *exchange = &caller->exchange;
	int r;

	caller->account = (uint64_t)caller->envelope.uid << 32 | caller->envelope.pid;
	exchange->is_service = services_has_pid(broker->services, caller->envelope.pid);
	r = quota_take(broker->quota, caller->account, exchange->is_service, caller->size);
	caller->is_counted = r >= 0;
	/* What the broker answers by itself, at once, needs no room for waiting. */
	if (r == 0 || (is_quick && (r == QUOTA_E_CALLER || r == QUOTA_E_TOTAL)))
		return true;
	pthread_mutex_unlock(&broker->lock);
	if (r == QUOTA_E_DEAF) {
		log_warning("pid=%" PRIu32 " takes no answers: its connection is closed",
			    caller->envelope.pid);
		nng_pipe_close(caller->pipe);
		finish(caller);
	} else if (r == QUOTA_E_CALLER) {
		refuse(caller, BUS_RESOURCE_EXHAUSTED,
		       "this process has too many requests under way; try again in 1 s");
	} else {
		refuse(caller, BUS_RESOURCE_EXHAUSTED,
		       "the bus holds too many requests; try again in 1 s");
	}
	return false;
}

static void route(struct caller *caller, const char *service)
{
	struct broker *broker = caller->callers->broker;
	struct exchange *exchange = &caller->exchange;
	struct route_actions actions = {};

	if (envelope_write_request(&caller->envelope, &exchange->request)) {
		refuse(caller, BUS_RESOURCE_EXHAUSTED,
		       "the broker is out of memory; try again in 1 s");
		return;
	}
	nng_msg_free(caller->message);
	caller->message = NULL;
	caller->envelope.body = (struct schema_span){};
	if (exchange->request.size > NNG_COMPAT_MESSAGE_MAX - FRAME_SIZE) {
		refuse(caller, BUS_INVALID_ARGUMENT, "the request is longer than 1 MiB");
		return;
	}
	exchange->deadline_ms = caller->envelope.deadline_ms;
	exchange->pipe = (uint32_t)nng_pipe_id(caller->pipe);
	broker_lock(broker);
	if (!count(caller, false))
		return;
	route_take(&broker->router, exchange, service, time_boot_ms(), &actions);
	broker_unlock(broker, &actions);
	broker_perform(broker, &actions);
}

/* bus.* and event.*: publishing goes to the log's thread from here, the rest to the loop. */
static void handle_own(struct caller *caller, const char *method)
{
	struct broker *broker = caller->callers->broker;

	broker_lock(broker);
	if (!count(caller, strcmp(caller->envelope.method, "event.read") != 0))
		return;
	pthread_mutex_unlock(&broker->lock);
	if (strcmp(caller->envelope.method, "event.publish") == 0)
		eventread_publish(broker, caller);
	else if (strcmp(caller->envelope.method, "bus.echo") == 0)
		about_echo(caller);
	else if (schema_find_method(strncmp(caller->envelope.method, "bus.", 4) == 0 ? "bus"
										     : "event",
				    method))
		loop_mail_post(&caller->callers->mail, &caller->mail);
	else
		refuse(caller, BUS_NOT_FOUND, "the broker has no such method; see bus.describe");
}

static bool may_call(const struct broker *broker, const struct nng_compat_peer *peer)
{
	return peer->uid == 0 || peer->uid == geteuid() || broker->has_group;
}

static void handle_request(struct caller *caller)
{
	char service[ENVELOPE_NAME_MAX + 1];
	struct nng_compat_peer peer;
	struct schema_fault fault = {};
	const char *method;

	atomic_fetch_add(&caller->callers->n_requests, 1);
	caller->pipe = nng_msg_get_pipe(caller->message);
	caller->size = nng_msg_len(caller->message);
	if (nng_compat_message_peer(caller->message, &peer)) {
		finish(caller); /* it is gone */
		return;
	}
	if (envelope_read_request(nng_msg_body(caller->message), caller->size, &caller->envelope,
				  &fault)) {
		refuse(caller, BUS_INVALID_ARGUMENT, fault.text);
		return;
	}
	stamp(caller, &peer);
	method = envelope_split_method(caller->envelope.method, service);
	if (!may_call(caller->callers->broker, &peer))
		refuse(caller, BUS_PERMISSION_DENIED, "this user may not use the bus");
	else if (!method)
		refuse(caller, BUS_INVALID_ARGUMENT, "the method is not 'service.method'");
	else if (strcmp(service, "bus") == 0 || strcmp(service, "event") == 0)
		handle_own(caller, method);
	else if (strcmp(service, "registry") == 0)
		refuse(caller, BUS_PERMISSION_DENIED,
		       "registry methods are only answered on registry.sock");
	else
		route(caller, service);
}

/* ---- nng's callbacks ---- */

static void on_received(struct caller *caller)
{
	struct callers *callers = caller->callers;

	caller->message = nng_aio_get_msg(caller->aio);
	if (atomic_fetch_sub(&callers->n_free, 1) <= CONTEXTS_LOW &&
	    atomic_load(&callers->n_contexts) < CALLERS_MAX) {
		broker_lock(callers->broker);
		broker_unlock(callers->broker, &(struct route_actions){.needs_connections = true});
	}
	handle_request(caller);
}

static void on_aio(void *userdata)
{
	struct caller *caller = userdata;
	int r = nng_aio_result(caller->aio);

	if (caller->is_sending) {
		/* A caller that went away takes no answer. */
		if (r)
			nng_msg_free(nng_aio_get_msg(caller->aio));
		finish(caller);
		return;
	}
	if (r == 0)
		on_received(caller);
	else if (r != NNG_ECLOSED && r != NNG_ECANCELED)
		start_receive(caller);
}

static void on_pipe(void *userdata, bool is_added)
{
	struct callers *callers = userdata;

	if (is_added)
		atomic_fetch_add(&callers->n_connections, 1);
	else
		atomic_fetch_sub(&callers->n_connections, 1);
}

/* On the loop's thread. */
static void on_mail(struct loop_mail *mail, struct loop_mail_item *item)
{
	struct callers *callers = container_of(mail, struct callers, mail);
	struct caller *caller = container_of(item, struct caller, mail);

	if (strncmp(caller->envelope.method, "bus.", 4) == 0)
		about_handle(callers->broker, caller);
	else
		eventread_handle(callers->broker->eventread, caller);
}

/* ---- contexts ---- */

static int add_context(struct callers *callers)
{
	struct caller *caller = calloc(1, sizeof(*caller));
	struct broker *broker = callers->broker;
	int r;

	if (!caller)
		return error_origin(-ENOMEM);
	caller->callers = callers;
	r = nng_aio_alloc(&caller->aio, on_aio, caller);
	if (!r)
		r = nng_ctx_open(&caller->context, callers->socket);
	if (r) {
		nng_aio_free(caller->aio);
		free(caller);
		return error_origin(nng_compat_errno(r));
	}
	broker_lock(broker);
	r = deadlines_reserve(&broker->router.deadlines, callers->n_contexts + 1);
	pthread_mutex_unlock(&broker->lock);
	if (r) {
		nng_ctx_close(caller->context);
		nng_aio_free(caller->aio);
		free(caller);
		return error_trace(r);
	}
	callers->contexts[callers->n_contexts++] = caller;
	callers->n_free++;
	start_receive(caller);
	return 0;
}

void callers_grow(struct callers *callers)
{
	bool is_low = callers->n_free <= CONTEXTS_LOW;
	int r = 0;

	for (int i = 0; is_low && i < CONTEXTS_FIRST && callers->n_contexts < CALLERS_MAX && !r;
	     i++)
		r = add_context(callers);
	if (r)
		log_warning("no more requests can be taken at a time: %s", strerror(-r));
}

struct callers_figures callers_figures(struct callers *callers)
{
	return (struct callers_figures){
		.n_requests = atomic_load(&callers->n_requests),
		.n_replies = atomic_load(&callers->n_replies),
		.n_refused = atomic_load(&callers->n_refused),
		.n_connections = atomic_load(&callers->n_connections),
		.n_contexts = atomic_load(&callers->n_contexts),
		.n_free = atomic_load(&callers->n_free),
	};
}

int callers_new(struct broker *broker, const char *path, mode_t mode, struct callers **ret_callers,
		struct why *why)
{
	struct callers *callers = calloc(1, sizeof(*callers));
	int r;

	if (!callers)
		return error_origin(-ENOMEM);
	callers->broker = broker;
	*ret_callers = callers;
	r = loop_mail_add(broker->loop, &callers->mail, on_mail);
	if (!r)
		r = nng_compat_open_rep(&callers->socket);
	if (!r)
		r = nng_compat_on_pipe(callers->socket, on_pipe, callers);
	for (int i = 0; i < CONTEXTS_FIRST && !r; i++)
		r = add_context(callers);
	if (!r)
		r = nng_compat_listen(callers->socket, path, mode, why);
	return error_trace(r);
}
