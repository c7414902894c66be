#pragma once
/*
 * Connections to instances: each a REQ peer of its own with one request in flight,
 * on a plain socket (sp_wire.h). An nng socket would hand each answer through three
 * of its threads, and one that is closed at the wrong moment hangs for ever
 * (docs/decisions/0004). Requests are sent by whoever routed them, answers are
 * received on the loop's thread.
 */

#include "broker/broker.h"

int pool_new(struct broker *broker, struct pool **ret_pool);
/* How many sockets it has open, for the watchdog. */
const atomic_size_t *pool_n_sockets(const struct pool *pool);

/* On the loop's thread: @count more connections to @path. */
int pool_add(struct pool *pool, struct route_instance *instance, const char *path, size_t count);
/* On the loop's thread, not under the lock: closes what the list of @connections, linked by next,
 * holds. They must have no instance any more. */
void pool_retire(struct pool *pool, struct route_connection *connections);

/* On the loop's thread: closes some of those that are free when there are many. */
void pool_trim(struct pool *pool, struct route_instance *instance);

/* Under the lock: makes the frame of the exchange that was put on @connection. */
void pool_prepare(struct route_connection *connection);
/* Not under the lock; once for each pool_prepare(). */
void pool_send(struct route_connection *connection);
