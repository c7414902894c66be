#pragma once
/*
 * REQ sockets that are dialled to one path, with one request in flight on each.
 * A connection is idle, or carries a request for its owner, or is parked: its
 * owner went away (a deadline, a cancellation) before the answer came. A parked
 * one is used again when that answer, or the peer's end, has come; none is ever
 * closed. While the peer is away requests wait in nng for the connection.
 */

#include <stdbool.h>
#include <stddef.h>

#include "broker/lib/error.h"
#include "broker/lib/loop.h"

struct bus_pool;
struct bus_connection;

enum {
	_BUS_POOL_E_SUCCESS,
	BUS_POOL_E_FULL, /* all connections are in use: try again after the pool's ready callback */
	BUS_POOL_E_LOST, /* the connection ended: what became of the request is not known */
};

/* The end of a request: 0 with the reply (borrowed), or BUS_POOL_E_LOST. The connection is the pool's again. */
typedef void (*bus_pool_fn)(void *userdata, int r, const void *reply, size_t size);
/* A connection became idle. */
typedef void (*bus_pool_ready_fn)(void *userdata);

int bus_pool_new(struct loop *loop, const char *path, unsigned n_max, bus_pool_ready_fn ready,
		 void *userdata, struct bus_pool **ret_pool);
/* No callback comes after this. Sockets are left to the process' end. */
struct bus_pool *bus_pool_free(struct bus_pool *pool);

/* Sends a copy of @data. 0, BUS_POOL_E_FULL, or -errno (-EMSGSIZE over 1 MiB). */
int bus_pool_request(struct bus_pool *pool, const void *data, size_t size, bus_pool_fn fn,
		     void *userdata, struct bus_connection **ret_connection);
/* Forgets the request: its callback will not come. What was not sent yet is not sent. */
void bus_connection_abandon(struct bus_connection *connection);
/* The request has left: it is with the peer, or was on its way when the connection ended. */
bool bus_connection_was_sent(const struct bus_connection *connection);
void bus_pool_stats(const struct bus_pool *pool, unsigned *ret_open, unsigned *ret_parked);
