#include "broker/lib/bus_pool.h"

#include <stdatomic.h>
#include <string.h>
#include <sys/queue.h>

#include "broker/lib/bus_port.h"
#include "broker/lib/nng_compat.h"

/*
 * Two aios, so that giving up a send that waits for the peer can never touch the
 * receive. nng's callbacks own `error`, `reply` and the item from the send until
 * the item is delivered; everything else is the loop thread's.
 */
struct bus_connection {
	struct loop_mail_item item;
	TAILQ_ENTRY(bus_connection) idle;
	struct bus_pool *pool; /* the loop thread's */
	struct bus_port *port;
	nng_socket socket;
	nng_aio *send_aio, *receive_aio;
	int error;
	nng_msg *reply;
	atomic_bool was_sent;
	bus_pool_fn fn; /* NULL: idle or parked */
	void *userdata;
};

struct bus_pool {
	struct bus_port *port;
	char *path;
	unsigned n_max, n_open, n_parked;
	TAILQ_HEAD(, bus_connection) idle;
	bus_pool_ready_fn ready;
	void *userdata;
};

/* ---- on nng's threads ---- */

static void connection_done(struct bus_connection *connection, int error, nng_msg *reply)
{
	connection->error = error;
	connection->reply = reply;
	if (!bus_port_post(connection->port, &connection->item) && reply)
		nng_msg_free(reply);
}

static void connection_sent(void *userdata)
{
	struct bus_connection *connection = userdata;
	int error = nng_aio_result(connection->send_aio);

	if (error) {
		nng_msg_free(nng_aio_get_msg(connection->send_aio));
		nng_aio_set_msg(connection->send_aio, NULL);
		connection_done(connection, error, NULL);
		return;
	}
	atomic_store(&connection->was_sent, true);
	nng_recv_aio(connection->socket, connection->receive_aio);
}

static void connection_received(void *userdata)
{
	struct bus_connection *connection = userdata;
	int error = nng_aio_result(connection->receive_aio);
	nng_msg *reply = NULL;

	if (!error) {
		reply = nng_aio_get_msg(connection->receive_aio);
		nng_aio_set_msg(connection->receive_aio, NULL);
	}
	connection_done(connection, error, reply);
}

/* ---- on the loop's thread ---- */

static void connection_free(struct bus_connection *connection)
{
	if (connection->send_aio)
		nng_aio_free(connection->send_aio);
	if (connection->receive_aio)
		nng_aio_free(connection->receive_aio);
	bus_port_unref(connection->port);
	free(connection);
}

static int connection_open(struct bus_connection *connection, const char *path)
{
	int r;

	r = nng_aio_alloc(&connection->send_aio, connection_sent, connection);
	if (!r)
		r = nng_aio_alloc(&connection->receive_aio, connection_received, connection);
	if (r)
		return error_origin(nng_compat_errno(r));

	nng_aio_set_timeout(connection->send_aio, NNG_DURATION_INFINITE);
	nng_aio_set_timeout(connection->receive_aio, NNG_DURATION_INFINITE);
	r = nng_compat_open_req(&connection->socket);
	if (r)
		return error_trace(r);

	r = nng_compat_dial(connection->socket, path, true);
	if (r) {
		nng_close(connection->socket); /* it was never connected */
		return error_trace(r);
	}
	return 0;
}

static int pool_grow(struct bus_pool *pool, struct bus_connection **ret_connection)
{
	struct bus_connection *connection;
	int r;

	if (pool->n_open >= pool->n_max)
		return BUS_POOL_E_FULL;

	connection = calloc(1, sizeof(*connection));
	if (!connection)
		return error_origin(-ENOMEM);

	connection->pool = pool;
	connection->port = bus_port_ref(pool->port);
	r = connection_open(connection, pool->path);
	if (r) {
		connection_free(connection);
		return error_trace(r);
	}
	pool->n_open++;
	*ret_connection = connection;
	return 0;
}

static void pool_deliver(void *userdata, struct loop_mail_item *item)
{
	struct bus_connection *connection = container_of(item, struct bus_connection, item);
	_cleanup_(nng_compat_message_freep) nng_msg *reply = TAKE(connection->reply);
	bus_pool_fn fn = TAKE(connection->fn);
	void *fn_userdata = connection->userdata;
	struct bus_pool *pool = userdata;

	TAILQ_INSERT_HEAD(&pool->idle, connection, idle);
	if (!fn) {
		pool->n_parked--;
		pool->ready(pool->userdata);
		return;
	}
	/* The answer may well make room for the next request: its owner asks for ready itself. */
	if (reply)
		fn(fn_userdata, 0, nng_msg_body(reply), nng_msg_len(reply));
	else
		fn(fn_userdata, BUS_POOL_E_LOST, NULL, 0);
}

int bus_pool_new(struct loop *loop, const char *path, unsigned n_max, bus_pool_ready_fn ready,
		 void *userdata, struct bus_pool **ret_pool)
{
	struct bus_pool *pool;
	int r;

	pool = calloc(1, sizeof(*pool));
	if (!pool)
		return error_origin(-ENOMEM);

	TAILQ_INIT(&pool->idle);
	pool->n_max = n_max;
	pool->ready = ready;
	pool->userdata = userdata;
	pool->path = strdup(path);
	r = pool->path ? bus_port_new(loop, pool_deliver, pool, &pool->port) : -ENOMEM;
	if (r) {
		bus_pool_free(pool);
		return error_trace(r);
	}
	*ret_pool = pool;
	return 0;
}

/* Those that nng still works for belong to it from here on, and all sockets do. */
struct bus_pool *bus_pool_free(struct bus_pool *pool)
{
	struct bus_connection *connection;

	if (!pool)
		return NULL;

	while ((connection = TAILQ_FIRST(&pool->idle))) {
		TAILQ_REMOVE(&pool->idle, connection, idle);
		connection_free(connection);
	}
	bus_port_close(pool->port);
	free(pool->path);
	free(pool);
	return NULL;
}

int bus_pool_request(struct bus_pool *pool, const void *data, size_t size, bus_pool_fn fn,
		     void *userdata, struct bus_connection **ret_connection)
{
	_cleanup_(nng_compat_message_freep) nng_msg *message = NULL;
	struct bus_connection *connection = TAILQ_FIRST(&pool->idle);
	int r;

	r = nng_compat_message(data, size, &message);
	if (r)
		return error_trace(r);

	if (connection) {
		TAILQ_REMOVE(&pool->idle, connection, idle);
	} else {
		r = pool_grow(pool, &connection);
		if (r)
			return error_trace(r);
	}
	connection->fn = fn;
	connection->userdata = userdata;
	atomic_store(&connection->was_sent, false);
	nng_aio_set_msg(connection->send_aio, TAKE(message));
	nng_send_aio(connection->socket, connection->send_aio);
	*ret_connection = connection;
	return 0;
}

void bus_connection_abandon(struct bus_connection *connection)
{
	connection->fn = NULL;
	connection->pool->n_parked++;
	nng_aio_cancel(connection->send_aio);
}

bool bus_connection_was_sent(const struct bus_connection *connection)
{
	return atomic_load(&connection->was_sent);
}

void bus_pool_stats(const struct bus_pool *pool, unsigned *ret_open, unsigned *ret_parked)
{
	*ret_open = pool->n_open;
	*ret_parked = pool->n_parked;
}
