#pragma once
/*
 * Connections to instances: each a REQ peer of its own with one request in flight,
 * on a plain socket (sp_wire.h). An nng socket would hand each answer through three
 * of its threads, and one that is closed at the wrong moment hangs for ever
 * (docs/decisions/0004). All on the loop's thread.
 */

#include "broker/broker.h"

int pool_new(struct broker *broker, struct pool **ret_pool);

/* @count more connections to @path. */
int pool_add(struct pool *pool, struct route_instance *instance, const char *path, size_t count);
/* Closes what the list of @connections, linked by next, holds. They must have no instance any more. */
void pool_retire(struct pool *pool, struct route_connection *connections);

/* Closes some of those that are free when there are many. */
void pool_trim(struct pool *pool, struct route_instance *instance);

/* Sends the exchange that was put on @connection. A failure shows as a lost connection, from the loop. */
void pool_send(struct route_connection *connection);
