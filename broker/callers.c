#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "broker/about.h"
#include "broker/callers.h"
#include "broker/eventread.h"
#include "broker/lib/log.h"
#include "broker/services.h"

#define HELD_MAX       (64u << 20) /* bytes for peers that stopped in the middle of a message */
#define FRAME_SIZE     64          /* bytes that a request gains on its way to a service, at most */
#define DEADLINES_STEP 64          /* as many more places at a time */

struct callers {
	struct broker *broker;
	struct sp_server *server;
	struct loop_mail mail; /* answers that were made on other threads */
	pthread_t thread;      /* the loop's */
	uint64_t n_requests, n_replies, n_refused;
};

static struct caller *caller_of(struct sp_peer *peer)
{
	return container_of(peer, struct caller, peer);
}

/* ---- answering ---- */

/* No answer can be given, for lack of memory: the caller learns from its connection's end that the outcome is
 * unknown, and may ask again with the same id. */
static void fail(struct caller *caller)
{
	log_error("pid=%" PRIu32 " method=%s: the answer cannot be built", caller->envelope.pid,
		  caller->envelope.method);
	sp_peer_close(&caller->peer);
}

static void reply(struct caller *caller, const void *data, size_t size)
{
	caller->callers->n_replies++;
	if (sp_peer_answer(&caller->peer, data, size))
		fail(caller);
}

/* What another thread answered. */
static void on_mail(struct loop_mail *mail, struct loop_mail_item *item)
{
	struct caller *caller = container_of(item, struct caller, mail);
	_cleanup_(schema_buffer_clear) struct schema_buffer answer = caller->answer;

	(void)mail;
	caller->answer = (struct schema_buffer){};
	if (answer.size > 0)
		reply(caller, answer.data, answer.size);
	else
		fail(caller);
}

void caller_answer(struct caller *caller, enum bus_status status, const char *text,
		   const void *body, size_t size)
{
	_cleanup_(schema_buffer_clear) struct schema_buffer buffer = {};
	struct envelope_reply envelope = {.status = status, .body = {body, size}};
	struct callers *callers = caller->callers;
	int r;

	memcpy(envelope.id, caller->envelope.id, sizeof(envelope.id));
	snprintf(envelope.text, sizeof(envelope.text), "%s", text ? text : "");
	r = envelope_write_reply(&envelope, &buffer);
	if (!pthread_equal(pthread_self(), callers->thread)) {
		if (!r) {
			caller->answer = buffer;
			buffer = (struct schema_buffer){};
		}
		loop_mail_post(&callers->mail, &caller->mail);
	} else if (r) {
		fail(caller);
	} else {
		reply(caller, buffer.data, buffer.size);
	}
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

void caller_forward(struct caller *caller, const void *data, size_t size)
{
	struct envelope_reply envelope;

	if (envelope_read_reply(data, size, &envelope, NULL) ||
	    memcmp(envelope.id, caller->envelope.id, sizeof(envelope.id)) != 0)
		caller_answer(caller, BUS_INTERNAL,
			      "the service gave something that is not an answer to this request",
			      NULL, 0);
	else
		reply(caller, data, size);
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

/* ---- a request ---- */

static void refuse(struct caller *caller, enum bus_status status, const char *text)
{
	caller->callers->n_refused++;
	caller_answer(caller, status, text, NULL, 0);
}

/* Fills in what only the broker knows. */
static void stamp(struct caller *caller)
{
	struct envelope_request *envelope = &caller->envelope;
	uint64_t now = time_boot_ms();

	if (envelope->deadline_ms == 0)
		envelope->deadline_ms = now + ENVELOPE_DEADLINE_DEFAULT;
	else if (envelope->deadline_ms > now + ENVELOPE_DEADLINE_MAX)
		envelope->deadline_ms = now + ENVELOPE_DEADLINE_MAX;
	envelope->has_peer = true;
	envelope->uid = caller->peer.credentials.uid;
	envelope->pid = (uint32_t)caller->peer.credentials.pid;
}

/* Counts the request; false: it has been dealt with. */
static bool count(struct caller *caller, bool is_quick)
{
	struct broker *broker = caller->callers->broker;
	struct exchange *exchange = &caller->exchange;
	int r;

	exchange->caller = (uint64_t)caller->envelope.uid << 32 | caller->envelope.pid;
	exchange->is_service = services_has_pid(broker->services, caller->envelope.pid);
	r = quota_take(broker->quota, exchange->caller, exchange->is_service, caller->size);
	caller->is_counted = r >= 0;
	/* What the broker answers by itself, at once, needs no room for waiting. */
	if (r == 0 || (is_quick && (r == QUOTA_E_CALLER || r == QUOTA_E_TOTAL)))
		return true;
	if (r == QUOTA_E_DEAF) {
		log_warning("pid=%" PRIu32 " takes no answers: its connection is closed",
			    caller->envelope.pid);
		sp_peer_close(&caller->peer);
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
	sp_peer_drop_request(&caller->peer);
	caller->envelope.body = (struct schema_span){};
	if (exchange->request.size > SP_MESSAGE_MAX - FRAME_SIZE) {
		refuse(caller, BUS_INVALID_ARGUMENT, "the request is longer than 1 MiB");
		return;
	}
	exchange->deadline_ms = caller->envelope.deadline_ms;
	if (!count(caller, false))
		return;
	route_take(&broker->router, exchange, service, time_boot_ms(), &actions);
	broker_perform(broker, &actions);
}

static void handle_own(struct caller *caller, const char *method)
{
	const char *name = caller->envelope.method;
	struct broker *broker = caller->callers->broker;
	bool is_bus = strncmp(name, "bus.", 4) == 0;

	if (!count(caller, strcmp(name, "event.read") != 0))
		return;
	if (!schema_find_method(is_bus ? "bus" : "event", method))
		refuse(caller, BUS_NOT_FOUND, "the broker has no such method; see bus.describe");
	else if (is_bus)
		about_handle(broker, caller);
	else
		eventread_handle(broker->eventread, caller);
}

static bool may_call(const struct caller *caller)
{
	uint32_t uid = caller->envelope.uid;

	return uid == 0 || uid == geteuid() || caller->callers->broker->has_group;
}

static void on_asked(void *userdata, struct sp_peer *peer)
{
	char service[ENVELOPE_NAME_MAX + 1];
	struct caller *caller = caller_of(peer);
	struct schema_fault fault = {};
	const char *method;

	(void)userdata;
	caller->callers->n_requests++;
	caller->size = peer->request_size;
	if (envelope_read_request(peer->request, caller->size, &caller->envelope, &fault)) {
		refuse(caller, BUS_INVALID_ARGUMENT, fault.text);
		return;
	}
	stamp(caller);
	method = envelope_split_method(caller->envelope.method, service);
	if (!may_call(caller))
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

static void on_gone(void *userdata, struct sp_peer *peer)
{
	struct callers *callers = userdata;
	struct route_actions actions = {};

	route_caller_gone(&callers->broker->router, &caller_of(peer)->exchange, &actions);
	broker_perform(callers->broker, &actions);
}

/* Its share of the quota is given back. */
static void on_over(void *userdata, struct sp_peer *peer)
{
	struct callers *callers = userdata;
	struct caller *caller = caller_of(peer);

	schema_buffer_clear(&caller->exchange.request);
	if (caller->is_counted)
		quota_give(callers->broker->quota, caller->exchange.caller,
			   caller->exchange.is_service, caller->size);
	caller->is_counted = false;
}

/* ---- connections ---- */

/* With a place among the deadlines, so that none of its requests lacks one. */
static struct sp_peer *make_caller(void *userdata)
{
	struct callers *callers = userdata;
	size_t n_places = sp_server_n_connections(callers->server) / DEADLINES_STEP + 1;
	struct caller *caller;

	if (deadlines_reserve(&callers->broker->router.deadlines, n_places * DEADLINES_STEP))
		return NULL;
	caller = calloc(1, sizeof(*caller));
	if (!caller)
		return NULL;
	caller->callers = callers;
	atomic_fetch_add(&callers->broker->n_plain_sockets, 1);
	return &caller->peer;
}

static void free_caller(void *userdata, struct sp_peer *peer)
{
	struct callers *callers = userdata;

	atomic_fetch_sub(&callers->broker->n_plain_sockets, 1);
	free(caller_of(peer));
}

struct callers_figures callers_figures(const struct callers *callers)
{
	return (struct callers_figures){
		.n_requests = callers->n_requests,
		.n_replies = callers->n_replies,
		.n_refused = callers->n_refused,
		.n_connections = sp_server_n_connections(callers->server),
	};
}

/* Half of the descriptors at most: instances, their pidfds and subscribers need some too. */
static size_t connections_max(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur / 2 >= CALLERS_MAX)
		return CALLERS_MAX;
	return limit.rlim_cur / 2;
}

int callers_new(struct broker *broker, const char *path, mode_t mode, struct callers **ret_callers,
		struct why *why)
{
	struct callers *callers = calloc(1, sizeof(*callers));
	struct sp_server_options options = {
		.path = path,
		.mode = mode,
		.connections_max = connections_max(),
		.held_max = HELD_MAX,
		.share = ROUTE_SHARE,
		.new_peer = make_caller,
		.free_peer = free_caller,
		.asked = on_asked,
		.gone = on_gone,
		.over = on_over,
		.userdata = callers,
	};
	int r;

	if (!callers)
		return error_origin(-ENOMEM);
	callers->broker = broker;
	callers->thread = pthread_self();
	*ret_callers = callers;
	r = loop_mail_add(broker->loop, &callers->mail, on_mail);
	if (!r)
		r = sp_server_new(broker->loop, &options, &callers->server, why);
	return error_trace(r);
}
