#pragma once
/*
 * The face to callers: bus.sock, a REP peer (sp_server.h) of which each connection
 * works on one exchange at a time. A request is counted and stamped here, then
 * routed; bus.* and event.* are answered here.
 */

#include "broker/broker.h"
#include "broker/lib/sp_server.h"
#include "schemas/envelope.h"

#define CALLERS_MAX 4608 /* connections; the quota's total is below it */

/* A connection and its request. */
struct caller {
	struct sp_peer peer;
	struct exchange exchange;
	struct callers *callers;
	struct envelope_request envelope; /* its body lies in peer.request */
	size_t size;                      /* for the quota */
	bool is_counted;
	struct schema_buffer answer; /* made on another thread */
	struct loop_mail_item mail;
};

struct callers_figures {
	uint64_t n_requests, n_replies, n_refused;
	size_t n_connections;
};

/* Listens on the bus' socket when it returns. */
int callers_new(struct broker *broker, const char *path, mode_t mode, struct callers **ret_callers,
		struct why *why);

/* The answer; from any thread, once for each request. @caller may be gone afterwards. */
void caller_answer(struct caller *caller, enum bus_status status, const char *text,
		   const void *body, size_t size);
void caller_answer_message(struct caller *caller, const struct schema_message *schema,
			   const void *message);
/* Passes a service's answer on unchanged, if it is one to this request. On the loop's thread. */
void caller_forward(struct caller *caller, const void *data, size_t size);
/* Unpacks the body of a request to the broker itself; on failure answers and returns false. */
bool caller_unpack(struct caller *caller, const struct schema_message *schema, void *ret_message);

struct callers_figures callers_figures(const struct callers *callers);
