#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "broker/callers.h"
#include "broker/lib/log.h"
#include "broker/lib/sp_wire.h"
#include "broker/pool.h"

#define IDLE_KEEP   4  /* free connections to an instance that stay */
#define DIAL_MIN_MS 10 /* between two attempts, doubled up to the next */
#define DIAL_MAX_MS 500

struct pool_connection {
	struct route_connection route;
	struct pool *pool;
	char *path;
	struct loop_file file;
	struct loop_timer timer; /* dials again */
	uint64_t pause_ms;
	bool is_up; /* the peer has greeted */
	struct sp_wire wire;
	uint32_t id;
};

struct pool {
	struct broker *broker;
};

static struct pool_connection *connection_of(struct route_connection *route)
{
	return container_of(route, struct pool_connection, route);
}

/* ---- the end of a connection ---- */

static void dial(struct pool_connection *connection);

static void on_timer(struct loop_timer *timer)
{
	dial(container_of(timer, struct pool_connection, timer));
}

static void dial_later(struct pool_connection *connection)
{
	uint64_t pause_ms = connection->pause_ms ?: DIAL_MIN_MS;
	struct loop *loop = connection->pool->broker->loop;

	connection->pause_ms = pause_ms * 2 > DIAL_MAX_MS ? DIAL_MAX_MS : pause_ms * 2;
	if (loop_timer_set(loop, &connection->timer, time_boot_ms() + pause_ms, on_timer))
		log_error("no timer: %s is not dialled again", connection->path);
}

static void close_wire(struct pool_connection *connection)
{
	if (connection->wire.fd >= 0)
		atomic_fetch_sub(&connection->pool->broker->n_plain_sockets, 1);
	sp_wire_close(&connection->wire);
}

static void free_connection(struct pool_connection *connection)
{
	loop_file_remove(&connection->file);
	loop_timer_cancel(&connection->timer);
	close_wire(connection);
	free(connection->path);
	free(connection);
}

/* Nobody is given it from here on, and the request that was on its way is lost. */
static void end(struct pool_connection *connection)
{
	struct route_connection *route = &connection->route;
	struct broker *broker = connection->pool->broker;
	struct route_actions actions = {};
	bool is_busy = route->state == CONNECTION_BUSY || route->state == CONNECTION_PARKED;

	loop_file_remove(&connection->file);
	connection->is_up = false;
	close_wire(connection);
	if (is_busy)
		route_connection_lost(&broker->router, route, &actions);
	else
		route_connection_down(route);
	broker_perform(broker, &actions);
	dial_later(connection);
}

/* ---- answers ---- */

/* One frame a round, so that no instance can hold the loop. */
static int receive(struct pool_connection *connection)
{
	_cleanup_(cleanup_free) uint8_t *body = NULL;
	struct route_connection *route = &connection->route;
	struct broker *broker = connection->pool->broker;
	struct route_actions actions = {};
	struct exchange *exchange;
	struct envelope_reply reply;
	size_t size;
	bool is_error;
	int r;

	r = sp_wire_receive(&connection->wire);
	if (r)
		return r;
	body = TAKE(connection->wire.body);
	if (sp_wire_id(body, connection->wire.size) != connection->id ||
	    (route->state != CONNECTION_BUSY && route->state != CONNECTION_PARKED))
		return SP_E_PROTOCOL; /* nothing was asked, or something else */
	size = connection->wire.size - SP_ID_SIZE;
	if (!size)
		return SP_E_PROTOCOL; /* it had no memory for its answer: it gets the request again */
	is_error = envelope_read_reply(body + SP_ID_SIZE, size, &reply, NULL) ||
		   (reply.status != BUS_OK && reply.status != BUS_PENDING);
	exchange = route_answered(&broker->router, route, is_error, &actions);
	if (exchange)
		caller_forward(container_of(exchange, struct caller, exchange), body + SP_ID_SIZE,
			       size);
	broker_perform(broker, &actions);
	return 0;
}

static int greet(struct pool_connection *connection)
{
	struct broker *broker = connection->pool->broker;
	struct route_actions actions = {};
	int r = sp_wire_greet(&connection->wire);

	if (r)
		return r;
	connection->is_up = true;
	connection->pause_ms = 0;
	route_connection_up(&broker->router, &connection->route, &actions);
	broker_perform(broker, &actions);
	return 0;
}

/* Sends what is in line; what the socket does not take waits for it. */
static int flush(struct pool_connection *connection)
{
	int r = sp_wire_send(&connection->wire);
	uint32_t events = r ? EPOLLIN | EPOLLOUT : EPOLLIN;

	if (r && r != SP_WIRE_E_WAIT)
		return r;
	return events == connection->file.events
		       ? 0
		       : error_trace(loop_file_set(&connection->file, events));
}

static void on_ready(struct loop_file *file, uint32_t events)
{
	struct pool_connection *connection = container_of(file, struct pool_connection, file);
	int r = 0;

	if (events & EPOLLOUT)
		r = flush(connection);
	if (!r && events & (EPOLLIN | EPOLLHUP | EPOLLERR))
		r = connection->is_up ? receive(connection) : greet(connection);
	if (r && r != SP_WIRE_E_WAIT)
		end(connection);
}

/* ---- dialling ---- */

static int open_wire(struct pool_connection *connection)
{
	struct broker *broker = connection->pool->broker;
	int r;

	r = sp_wire_open(&connection->wire, connection->path, SP_REQ, 0);
	if (r)
		return r;
	atomic_fetch_add(&broker->n_plain_sockets, 1);
	return error_trace(loop_file_add(broker->loop, &connection->file, connection->wire.fd,
					 EPOLLIN | EPOLLOUT, on_ready));
}

/* The greeting leaves with the loop's next turn. */
static void dial(struct pool_connection *connection)
{
	if (!open_wire(connection))
		return;
	close_wire(connection);
	dial_later(connection);
}

/* ---- sending ---- */

void pool_send(struct route_connection *route)
{
	const struct schema_buffer *request = &route->exchange->request;
	struct pool_connection *connection = connection_of(route);
	int r;

	r = sp_wire_put(&connection->wire, sp_wire_next_id(&connection->id), request->data,
			request->size);
	if (!r)
		r = flush(connection);
	/* The router is at work: the loop will find the connection lost. */
	if (r)
		shutdown(connection->wire.fd, SHUT_RDWR);
}

/* ---- making and retiring ---- */

static int new_connection(struct pool *pool, const char *path, struct pool_connection **ret)
{
	struct pool_connection *connection = calloc(1, sizeof(*connection));

	if (!connection)
		return error_origin(-ENOMEM);
	connection->pool = pool;
	connection->wire = SP_WIRE_EMPTY;
	connection->path = strdup(path);
	if (!connection->path) {
		free(connection);
		return error_origin(-ENOMEM);
	}
	*ret = connection;
	return 0;
}

int pool_add(struct pool *pool, struct route_instance *instance, const char *path, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		struct pool_connection *connection = NULL;
		int r = new_connection(pool, path, &connection);

		if (r)
			return error_trace(r);
		route_add_connection(instance, &connection->route);
		dial(connection);
	}
	return 0;
}

void pool_retire(struct pool *pool, struct route_connection *connections)
{
	(void)pool;
	while (connections) {
		struct pool_connection *connection = connection_of(connections);

		connections = connections->next;
		free_connection(connection);
	}
}

void pool_trim(struct pool *pool, struct route_instance *instance)
{
	struct route_connection *idle = NULL;
	size_t n_busy, n_free;

	n_free = 0;
	for (struct route_connection *at = instance->free; at; at = at->next_free)
		n_free++;
	n_busy = instance->n_connections - n_free;
	/* A quarter of what is beyond the present need, each time that it is looked at. */
	if (n_free > n_busy + IDLE_KEEP)
		idle = route_take_idle(instance, (n_free - n_busy - IDLE_KEEP + 3) / 4);
	if (idle)
		pool_retire(pool, idle);
}

int pool_new(struct broker *broker, struct pool **ret_pool)
{
	struct pool *pool = calloc(1, sizeof(*pool));

	if (!pool)
		return error_origin(-ENOMEM);
	pool->broker = broker;
	*ret_pool = pool;
	return 0;
}
