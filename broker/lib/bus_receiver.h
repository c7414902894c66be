#pragma once
/*
 * The SUB socket of a process: what the broker sends on PUB, handed to the loop's
 * thread. What comes faster than the loop takes it waits in nng, and is dropped
 * there in the end: the log has it.
 */

#include "broker/lib/error.h"
#include "broker/lib/loop.h"
#include "broker/lib/nng_compat.h"
#include "schemas/envelope.h"

/* An event on its way to the loop; then shared by those that keep it. Only the loop's thread counts. */
struct bus_live {
	struct loop_mail_item item;
	unsigned n_refs;
	nng_msg *message;            /* owned; NULL: the connection to the broker was made */
	struct envelope_event event; /* spans into the message */
};
/* For struct follow, too. */
void bus_live_unref(void *live);

/* One of: an event, a heartbeat, or, with both NULL, a connection that was made. Borrowed. */
typedef void (*bus_receiver_fn)(void *userdata, struct bus_live *live,
				const struct broker_heartbeat *heartbeat);

struct bus_receiver;
int bus_receiver_new(struct loop *loop, const char *path, bus_receiver_fn fn, void *userdata,
		     struct bus_receiver **ret_receiver);
/* No callback comes after this. nng's socket is left to the process' end. Not from the callback. */
struct bus_receiver *bus_receiver_free(struct bus_receiver *receiver);
