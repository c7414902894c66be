#pragma once
/*
 * Which request goes to which instance, when, and what becomes of it: holding,
 * delivering, delivering again, expiring. Pure logic: structs in, decisions out;
 * no nng, no clock, no I/O, no allocation on the way of a request. The caller
 * carries the decisions out afterwards.
 *
 *	exchange	a caller's request with its answer to come
 *	service		a name that registered once; holds queues of exchanges
 *	instance	a process that serves names
 *	connection	to an instance; carries one exchange at a time
 *
 * An exchange is HELD in a queue of its service, or IN_FLIGHT on a connection,
 * or ended: then it has left this module and stands in the list of answers.
 * A connection is DOWN (it is being dialled), FREE, BUSY with an exchange, or
 * PARKED: its exchange ended, the late answer is still to come.
 *
 * A connection that is lost makes its instance suspect: nothing is given to it
 * until a new connection is up, which shows that it lives.
 *
 * Callers are served in turn: what each has waiting stands in one of a few lines. A
 * service takes up requests in the order in which it gets them, so while more than
 * one line asks, each has only a few on their way to it: what waits in the service
 * is short. One that is not answered soon is at work there, and waits no more.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "broker/deadlines.h"
#include "schemas/envelope.h"

#define ROUTE_SERVICES_MAX    1024
#define ROUTE_NAMES_MAX       16  /* of an instance */
#define ROUTE_CALLERS_MAX     64  /* requests of callers that an instance gets at a time */
#define ROUTE_CONNECTIONS_MAX 512 /* to an instance: beyond ROUTE_CALLERS_MAX only for services */
#define ROUTE_LINES           16 /* in which callers' requests for a service wait, by caller */
#define ROUTE_SHARE           4  /* requests that a line gives to an instance while others ask, … */
#define ROUTE_SHARE_MS        5  /* … in so long; those that were answered are not counted */
#define ROUTE_CROWDED_MS      1000 /* so long after another line asked, others ask */
#define ROUTE_DELIVERIES_MAX  4 /* a request that ended so many instances is not delivered again */
#define ROUTE_TEXT_SIZE       320

enum exchange_state { EXCHANGE_NONE, EXCHANGE_HELD, EXCHANGE_IN_FLIGHT };
enum connection_state { CONNECTION_DOWN, CONNECTION_FREE, CONNECTION_BUSY, CONNECTION_PARKED };

struct exchange {
	/* Given by the owner before route_take(). */
	struct schema_buffer request; /* the envelope as it is delivered */
	uint64_t deadline_ms;
	uint64_t caller; /* its process */
	bool is_service;

	/* The router's. */
	enum exchange_state state;
	struct deadline deadline;
	struct route_service *service;
	struct route_connection *connection;
	unsigned n_deliveries;
	struct exchange *next, *previous; /* in a queue; next also in the list of answers */
	enum bus_status status;           /* of an answer that the router gives */
	char text[ROUTE_TEXT_SIZE];
};

struct exchange_queue {
	struct exchange *first, *last;
	size_t count;
};

struct route_connection {
	struct route_instance *instance; /* NULL: the instance is gone, or has another one */
	enum connection_state state;
	struct exchange *exchange;                /* BUSY */
	struct route_connection *next_free;       /* FREE */
	struct route_connection *next, *previous; /* of the instance */
	struct route_connection *next_send;       /* in the list of sends */
};

/* What one line has given to an instance. */
struct route_share {
	uint64_t since_ms;
	unsigned n_given; /* since then, and not answered */
};

struct route_instance {
	uint8_t id[ENVELOPE_ID_SIZE];
	bool may_redeliver, is_draining, is_suspect, is_silent;
	struct route_service
		*services[ROUTE_NAMES_MAX]; /* those that it is the current one of, or NULL */
	size_t n_services;
	size_t turn; /* of its services, which is served next */
	struct route_connection *connections, *free;
	size_t n_connections, n_down, n_parked, n_callers_busy;
	struct route_share shares[ROUTE_LINES];
	size_t last_line; /* that asked */
	uint64_t crowded_until_ms;
};

struct route_service {
	char name[ENVELOPE_NAME_MAX + 1];
	struct route_instance *instance; /* the newest live one, or NULL */
	struct exchange_queue from_services, from_callers[ROUTE_LINES];
	size_t line; /* whose turn it is */
	uint64_t n_requests, n_errors, n_redelivered, n_in_flight;
};

struct router {
	struct route_service **services; /* in order of name */
	size_t n_services;
	struct deadlines deadlines; /* of all exchanges that are held or in flight */
	uint64_t armed_ms; /* when route_expire() will be called next; UINT64_MAX: not armed */
	uint64_t resume_ms; /* when lines that had their share may go on; 0: none waits for that */
	uint64_t now_ms;    /* of the last call that told it */
	uint64_t n_expired, n_redelivered;
	size_t n_held;
};

/* What is to be done. Zeroed by its owner, added to by each function. */
struct route_actions {
	struct exchange *answers, **last_answer; /* to be answered with their status and text */
	struct route_connection *sends;          /* each gets its exchange's request */
	bool needs_connections; /* an instance wants more: see route_wanted_connections() */
	bool needs_timer;       /* route_due() comes before armed_ms */
};

/* Frees services; there must be no exchanges and connections any more. */
void router_deinit(struct router *router);

/* ---- services ---- */
struct route_service *route_find_service(const struct router *router, const char *name);
/* Finds or makes; NULL when memory is out or there are ROUTE_SERVICES_MAX. */
struct route_service *route_add_service(struct router *router, const char *name);
/* Only without an instance; what is held is answered NOT_FOUND. */
void route_forget_service(struct router *router, struct route_service *service,
			  struct route_actions *actions);
/* Requests that wait for it. */
size_t route_service_held(const struct route_service *service);
/* "live", "draining" or "away". */
const char *route_service_state(const struct route_service *service);

/* ---- instances ---- */
/* From now on @instance gets the requests for @service. The one before keeps what it has. */
void route_set_instance(struct router *router, struct route_service *service,
			struct route_instance *instance, struct route_actions *actions);
/* It lives, drains or is silent; hands out what waits if it may get it. */
void route_set_condition(struct router *router, struct route_instance *instance, bool is_draining,
			 bool is_silent, struct route_actions *actions);
/* It ended: its exchanges are held for the next or answered. Returns its connections, which have no
 * instance any more, linked by next. */
struct route_connection *route_instance_gone(struct router *router, struct route_instance *instance,
					     struct route_actions *actions);
/* How many connections should be made for it now. */
size_t route_wanted_connections(const struct route_instance *instance);

/* ---- connections ---- */
/* A new one, DOWN. */
void route_add_connection(struct route_instance *instance, struct route_connection *connection);
/* Takes at most @count FREE ones out of their instance; returns them, linked by next. */
struct route_connection *route_take_idle(struct route_instance *instance, size_t count);
void route_connection_up(struct router *router, struct route_connection *connection,
			 struct route_actions *actions);
/* The peer's end of a FREE one went away. */
void route_connection_down(struct route_connection *connection);
/* Its request failed: whether it was taken up is unknown. The connection is DOWN. */
void route_connection_lost(struct router *router, struct route_connection *connection,
			   struct route_actions *actions);
/* An answer came. The exchange that it belongs to, which has left the router, or NULL if that
 * had ended before. The connection is FREE and may be used again at once. */
struct exchange *route_answered(struct router *router, struct route_connection *connection,
				bool is_error, struct route_actions *actions);

/* ---- exchanges ---- */
/* @service is the name in the request. Room for the deadline must have been reserved. */
void route_take(struct router *router, struct exchange *exchange, const char *service,
		uint64_t now_ms, struct route_actions *actions);
/* When route_expire() has something to do; UINT64_MAX: not before something else happens. */
uint64_t route_due(const struct router *router);
/* Ends what is due, and lets lines go on. */
void route_expire(struct router *router, uint64_t now_ms, struct route_actions *actions);
/* The caller went away: what is held for it is ended, so that it is never delivered. */
void route_caller_gone(struct router *router, struct exchange *exchange,
		       struct route_actions *actions);
