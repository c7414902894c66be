#pragma once
/*
 * Connections to instances: each a REQ socket of its own with one request in
 * flight. They are dialled on the loop's thread, used from nng's, and closed on a
 * thread of their own, so that a close which hangs can stall nothing (the watchdog
 * notices the descriptors). A socket with an answer outstanding is never closed.
 */

#include "broker/broker.h"

int pool_new(struct broker *broker, struct pool **ret_pool);

/* On the loop's thread: @count more connections to @path. */
int pool_add(struct pool *pool, struct route_instance *instance, const char *path, size_t count);
/* On the loop's thread, not under the lock: closes what the list of @connections, linked by next,
 * holds, each as soon as nothing is outstanding on it. They must have no instance any more. */
void pool_retire(struct pool *pool, struct route_connection *connections);

/* On the loop's thread: closes some of those that are free when there are many. */
void pool_trim(struct pool *pool, struct route_instance *instance);

/* Under the lock: makes the message of the exchange that was put on @connection. */
void pool_prepare(struct route_connection *connection);
/* Not under the lock. */
void pool_send(struct route_connection *connection);
