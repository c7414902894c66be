#pragma once
/*
 * REQ connections to one path on plain sockets (sp.h), with one request in flight
 * on each. A connection is idle, or carries a request for its owner; one whose
 * owner gives up before the answer came is closed, and connects again when it is
 * used next.
 */

#include <stdbool.h>
#include <stddef.h>

#include "broker/lib/error.h"
#include "broker/lib/loop.h"

struct bus_pool;
struct bus_connection;

enum {
	_BUS_POOL_E_SUCCESS,
	BUS_POOL_E_FULL, /* all connections are in use */
	BUS_POOL_E_LOST, /* the connection ended, or could not be made */
};

/* The end of a request: 0 with the reply (borrowed), BUS_POOL_E_LOST, or -errno of what this side lacks (descriptors, memory).
 * The connection is the pool's again. */
typedef void (*bus_pool_fn)(void *userdata, int r, const void *reply, size_t size);

int bus_pool_new(struct loop *loop, const char *path, unsigned n_max, struct bus_pool **ret_pool);
/* No callback comes after this. */
struct bus_pool *bus_pool_free(struct bus_pool *pool);

/* Sends a copy of @data; its callback comes later, never from inside this. 0, BUS_POOL_E_FULL, or -errno
 * (-EMSGSIZE over 1 MiB). */
int bus_pool_request(struct bus_pool *pool, const void *data, size_t size, bus_pool_fn fn,
		     void *userdata, struct bus_connection **ret_connection);
/* Forgets the request: its callback will not come. What was not sent yet is not sent. */
void bus_connection_abandon(struct bus_connection *connection);
/* The request has left: it is with the peer, or was on its way when the connection ended. */
bool bus_connection_was_sent(const struct bus_connection *connection);
/* How many connections there are, and how many of them carry a request. */
void bus_pool_stats(const struct bus_pool *pool, unsigned *ret_all, unsigned *ret_busy);
