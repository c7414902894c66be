#pragma once
/*
 * The face to callers: REP contexts on bus.sock, each with the exchange that it
 * works on. A request is read, counted and stamped on nng's thread, and routed
 * from there; bus.* and event.* are answered here. Contexts grow with need up to a
 * bound above what the quota lets wait, so that some are always free.
 */

#include "broker/broker.h"
#include "schemas/envelope.h"

#define CALLERS_MAX 4608 /* contexts; the quota's total is below it */

/* A context and its request. */
struct caller {
	struct exchange exchange;
	struct callers *callers;
	nng_ctx context;
	nng_aio *aio;
	nng_msg *message;                 /* the request, for methods of the broker's own */
	struct envelope_request envelope; /* its body lies in @message */
	uint64_t account;                 /* for the quota */
	size_t size;                      /* for the quota */
	bool is_counted, is_sending;
	nng_pipe pipe;
	struct loop_mail_item mail;
};

struct callers_figures {
	uint64_t n_requests, n_replies, n_refused;
	size_t n_contexts, n_free;
	unsigned n_connections;
};

/* Listens on the bus' socket when it returns. */
int callers_new(struct broker *broker, const char *path, mode_t mode, struct callers **ret_callers,
		struct why *why);

/* The answer; from any thread, once for each request, not under the lock. */
void caller_answer(struct caller *caller, enum bus_status status, const char *text,
		   const void *body, size_t size);
void caller_answer_message(struct caller *caller, const struct schema_message *schema,
			   const void *message);
/* Passes a service's answer on unchanged, if it is one to this request. Takes @message. */
void caller_forward(struct caller *caller, nng_msg *message);
/* Unpacks the body of a request to the broker itself; on failure answers and returns false. */
bool caller_unpack(struct caller *caller, const struct schema_message *schema, void *ret_message);
/* Whether the connection that the request came on is still there. */
bool caller_is_there(const struct caller *caller);

/* On the loop: more contexts, if there are few free ones. */
void callers_grow(struct callers *callers);
struct callers_figures callers_figures(struct callers *callers);
