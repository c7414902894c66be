#pragma once
/*
 * A process' connection to the bus: calls, typed calls, subscriptions. For
 * processes with a loop; everything is asynchronous, callbacks come on the
 * loop's thread. (Tools and the shim use sp.h.)
 *
 * A call goes over a connection of a pool that grows with need: one request in
 * flight on each; one that is given up before its answer came is closed. A call is made once for each logical
 * request: its id is chosen here (or given) and repeated whenever the library
 * asks again, after a broker restart and on PENDING, until the deadline.
 */

#include "broker/lib/error.h"
#include "broker/lib/loop.h"
#include "schemas/envelope.h"

struct bus;

/* @bus_path and @events_path: sockets of the broker. Connects lazily and again for ever. */
int bus_new(struct loop *loop, const char *bus_path, const char *events_path, struct bus **ret_bus);
/* Calls that are under way end with BUS_CANCELED, without another callback after this returns. Not from within the
 * callback of a subscription. */
struct bus *bus_free(struct bus *bus);
void bus_freep(struct bus **bus);

struct bus_options {
	const char *namespace;	 /* NULL: "default" */
	const uint8_t *id;	 /* request id; NULL: a random one */
	const uint8_t *parent;	 /* request id of the operation that calls; NULL: none */
	uint64_t deadline_ms;	 /* CLOCK_BOOTTIME; 0: ENVELOPE_DEADLINE_DEFAULT from now */
};

/* @text is "" on success. @body is borrowed; valid until the callback returns. */
typedef void (*bus_reply_fn)(void *userdata, enum bus_status status, const char *text,
			     const void *body, size_t size);
struct bus_call;
/* @ret_call may be NULL; it is valid until the callback. */
int bus_call(struct bus *bus, const char *method, const struct bus_options *options, const void *body,
	     size_t size, bus_reply_fn fn, void *userdata, struct bus_call **ret_call);
/* No callback will come. The service may still do what was asked. */
void bus_call_cancel(struct bus_call *call);

/* Typed: packs @request, unpacks the reply into a message that is cleared after the callback (NULL unless BUS_OK).
 * See calls.h, which makes one function of each METHOD line. */
typedef void (*bus_typed_fn)(void *userdata, enum bus_status status, const char *text, void *reply);
int bus_call_typed(struct bus *bus, const struct schema_method *method, const struct bus_options *options,
		   const void *request, bus_typed_fn fn, void *userdata, struct bus_call **ret_call);

/* ---- subscriptions ---- */
struct bus_subscription;
struct bus_filter {
	const char *namespace;	     /* NULL: all */
	const char *const *topics;   /* prefixes, NULL-terminated; NULL: all */
	const char *object;	     /* NULL: all */
	uint64_t from;		     /* first number wanted; 0: from now */
};
/* Each matching event once and in order of seq. @truncated: events before this one are gone from the log.
 * @event is borrowed. */
typedef void (*bus_event_fn)(void *userdata, const struct envelope_event *event, bool truncated);
/* Listens to PUB, fills every gap by event.read. Several subscriptions share one SUB socket. Calls that are made after
 * a subscription from now wait until it knows where now is: who subscribes and then looks misses nothing. */
int bus_subscribe(struct bus *bus, const struct bus_filter *filter, bus_event_fn fn, void *userdata,
		  struct bus_subscription **ret_subscription);
/* Also from within its callback. */
struct bus_subscription *bus_subscription_free(struct bus_subscription *subscription);
