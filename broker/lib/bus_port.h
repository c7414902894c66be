#pragma once
/*
 * A mailbox of the loop that nng's callbacks may post to for as long as they
 * like: after bus_port_close() what they post is refused, and the port goes
 * with its last reference. So an object that waits for nng can be abandoned.
 */

#include <pthread.h>
#include <stdbool.h>

#include "broker/lib/error.h"
#include "broker/lib/loop.h"

struct bus_port {
	struct loop_mail mail;
	pthread_mutex_t lock;
	unsigned n_refs;
	bool is_closed;
	void (*fn)(void *userdata, struct loop_mail_item *item);
	void *userdata;
};

int bus_port_new(struct loop *loop, void (*fn)(void *userdata, struct loop_mail_item *item),
		 void *userdata, struct bus_port **ret_port);
struct bus_port *bus_port_ref(struct bus_port *port);
struct bus_port *bus_port_unref(struct bus_port *port);
/* From any thread. False: closed, @item stays the caller's. */
bool bus_port_post(struct bus_port *port, struct loop_mail_item *item);
/* On the loop's thread; what was posted and not delivered is forgotten. Gives the owner's reference back. */
struct bus_port *bus_port_close(struct bus_port *port);
