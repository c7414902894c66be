#pragma once
/* Inside of struct bus, shared by bus.c (calls) and bus_events.c (subscriptions). */

#include <sys/queue.h>

#include "broker/lib/bus.h"
#include "broker/lib/bus_pool.h"

struct bus_receiver;

struct bus {
	struct loop *loop;
	char *events_path;
	struct bus_pool *pool;
	TAILQ_HEAD(bus_calls, bus_call) calls; /* all, oldest first */
	TAILQ_HEAD(, bus_call) queue;          /* those that wait for a connection */
	TAILQ_HEAD(bus_subscriptions, bus_subscription) subscriptions;
	struct bus_receiver *receiver; /* NULL until the first subscription */
	struct loop_timer silence;     /* nothing came from it for a while */
	/* Subscriptions that do not know yet where "now" is: other calls wait for them, so that who
	 * subscribes and then looks misses nothing in between. */
	unsigned n_joining;
	bool is_closing;
};

/* As bus_call_typed(), but goes ahead of calls that wait, also for joining subscriptions. */
int bus_call_first(struct bus *bus, const struct schema_method *method,
		   const struct bus_options *options, const void *request, bus_typed_fn fn,
		   void *userdata, struct bus_call **ret_call);
/* Starts what waits and may go now. */
void bus_pump(struct bus *bus);

/* Ends all subscriptions and the receiver. */
void bus_events_close(struct bus *bus);
