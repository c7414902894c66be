#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/about.h"
#include "broker/eventread.h"
#include "broker/names.h"
#include "broker/services.h"

static void fail_memory(struct caller *caller)
{
	caller_answer(caller, BUS_RESOURCE_EXHAUSTED,
		      "the broker is out of memory; try again in 1 s", NULL, 0);
}

static void echo(struct broker *broker, struct caller *caller)
{
	_cleanup_(bus_echo_request_clear) struct bus_echo_request request = {};

	(void)broker;
	if (!caller_unpack(caller, schema_bus_echo_request(), &request))
		return;
	caller_answer_message(caller, schema_bus_echo_reply(),
			      &(struct bus_echo_reply){.data = request.data});
}

static void ping(struct broker *broker, struct caller *caller)
{
	(void)broker;
	caller_answer(caller, BUS_OK, NULL, NULL, 0);
}

static void list(struct broker *broker, struct caller *caller)
{
	_cleanup_(bus_list_reply_clear) struct bus_list_reply reply = {};

	if (services_list(broker->services, &reply))
		fail_memory(caller);
	else
		caller_answer_message(caller, schema_bus_list_reply(), &reply);
}

/* ---- bus.describe ---- */

/* Appends the broker's own part for @name, or all of them when it is empty. */
static int describe_own(struct schema_buffer *buffer, const char *name)
{
	static const char *const own[] = {"bus", "registry", "event"};
	int r = 0;

	for (size_t i = 0; i < ARRAY_SIZE(own) && !r; i++)
		if (!name[0] || strcmp(name, own[i]) == 0)
			r = schema_print_service(buffer, own[i]);
	return r ? error_fold(r) : schema_buffer_add(buffer, "", 1);
}

static void describe(struct broker *broker, struct caller *caller)
{
	_cleanup_(broker_name_record_clear) struct broker_name_record record = {};
	_cleanup_(bus_describe_request_clear) struct bus_describe_request request = {};
	_cleanup_(schema_buffer_clear) struct schema_buffer buffer = {};
	struct bus_describe_reply reply = {};
	struct why why = {};
	int r;

	if (!caller_unpack(caller, schema_bus_describe_request(), &request))
		return;
	if (describe_own(&buffer, request.name ? request.name : "")) {
		fail_memory(caller);
		return;
	}
	reply.schema = (char *)buffer.data;
	if (buffer.size <= 1) {
		r = names_find(broker, request.name, &record);
		if (r || !record.schema) {
			why_set(&why, 0,
				r ? "no service '%s' is known" : "service '%s' gave no schema",
				request.name);
			caller_answer(caller, BUS_NOT_FOUND, why.text, NULL, 0);
			return;
		}
		reply.schema = record.schema;
	}
	caller_answer_message(caller, schema_bus_describe_reply(), &reply);
}

/* ---- bus.stats ---- */

static void stats(struct broker *broker, struct caller *caller)
{
	struct logthread_figures log = logthread_figures(broker->logthread);
	struct callers_figures callers = callers_figures(broker->callers);
	struct bus_stats_reply reply = {
		.started_at_ns = broker->started_at_ns,
		.requests = callers.n_requests,
		.replies = callers.n_replies,
		.refused = callers.n_refused,
		.under_way = quota_used(broker->quota).requests,
		.connections = callers.n_connections,
		.waiting_reads = eventread_n_waiting(broker->eventread),
		.events = log.n_events,
		.commits = log.n_commits,
		.commit_ns_max = log.commit_ns_max,
		.log_first_seq = log.first_seq,
		.log_last_seq = log.last_seq,
		.log_bytes = log.bytes,
		.publishers = log.publishers,
		.cursors = eventread_n_cursors(broker->eventread),
	};

	reply.expired = broker->router.n_expired;
	reply.redelivered = broker->router.n_redelivered;
	reply.held = broker->router.n_held;
	reply.held_bytes = quota_used(broker->quota).bytes;
	caller_answer_message(caller, schema_bus_stats_reply(), &reply);
}

/* ---- bus.forget ---- */

static void on_forgotten(void *userdata, int r)
{
	struct caller *caller = userdata;

	if (r)
		caller_answer(caller, BUS_RESOURCE_EXHAUSTED,
			      "the store could not be written; try again in 1 s", NULL, 0);
	else
		caller_answer(caller, BUS_OK, NULL, NULL, 0);
}

static void forget(struct broker *broker, struct caller *caller)
{
	_cleanup_(bus_forget_request_clear) struct bus_forget_request request = {};
	enum bus_status status;
	struct why why = {};

	if (!caller_unpack(caller, schema_bus_forget_request(), &request))
		return;
	status = services_forget(broker->services, request.name, &why, on_forgotten, caller);
	if (status != BUS_OK)
		caller_answer(caller, status, why.text, NULL, 0);
}

void about_handle(struct broker *broker, struct caller *caller)
{
	static const struct {
		const char *method;
		void (*fn)(struct broker *broker, struct caller *caller);
	} methods[] = {
		{"bus.ping", ping},         {"bus.echo", echo},   {"bus.list", list},
		{"bus.describe", describe}, {"bus.stats", stats}, {"bus.forget", forget},
	};

	for (size_t i = 0; i < ARRAY_SIZE(methods); i++)
		if (strcmp(caller->envelope.method, methods[i].method) == 0) {
			methods[i].fn(broker, caller);
			return;
		}
	caller_answer(caller, BUS_NOT_IMPLEMENTED, "the broker does not answer this method", NULL,
		      0);
}
