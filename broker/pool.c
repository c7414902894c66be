#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#include "broker/callers.h"
#include "broker/lib/log.h"
#include "broker/lib/nng_compat.h"
#include "broker/lib/sp_wire.h"
#include "broker/pool.h"

#define IDLE_KEEP   4  /* free connections to an instance that stay */
#define DIAL_MIN_MS 10 /* between two attempts, doubled up to the next */
#define DIAL_MAX_MS 500

/*
 * Whoever gave a connection its request sends it, from nng's threads too; all else
 * is the loop's. Between pool_prepare() and the end of pool_send() the connection
 * has a sender: its end is then looked at, and its memory freed, only afterwards.
 */
struct pool_connection {
	struct route_connection route;
	struct pool *pool;
	char *path;
	struct loop_file file;
	struct loop_timer timer; /* dials again */
	uint64_t pause_ms;
	bool is_up; /* the peer has greeted */

	/* Guards the socket and what is to be sent; what is received is the loop's. */
	pthread_mutex_t lock;
	struct sp_wire wire;
	uint32_t id;
	unsigned n_senders;
	bool has_failed, is_retired, is_mailed;
	struct loop_mail_item mail;
};

struct pool {
	struct broker *broker;
	struct loop_mail mail;
	atomic_size_t n_sockets;
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

/* Nobody is given it from here on. */
static void take_down(struct pool_connection *connection)
{
	broker_lock(connection->pool->broker);
	route_connection_down(&connection->route);
	pthread_mutex_unlock(&connection->pool->broker->lock);
}

/* False: a sender still uses it, who will mail. */
static bool close_wire(struct pool_connection *connection)
{
	bool has_sender;

	pthread_mutex_lock(&connection->lock);
	has_sender = connection->n_senders > 0;
	connection->has_failed = has_sender;
	if (!has_sender && connection->wire.fd >= 0)
		atomic_fetch_sub(&connection->pool->n_sockets, 1);
	if (!has_sender)
		sp_wire_close(&connection->wire);
	pthread_mutex_unlock(&connection->lock);
	return !has_sender;
}

static void free_connection(struct pool_connection *connection)
{
	loop_file_remove(&connection->file);
	loop_timer_cancel(&connection->timer);
	close_wire(connection);
	pthread_mutex_destroy(&connection->lock);
	free(connection->path);
	free(connection);
}

/* The socket is closed: the request that was on its way is lost. */
static void tell_lost(struct pool_connection *connection)
{
	struct route_connection *route = &connection->route;
	struct broker *broker = connection->pool->broker;
	struct route_actions actions = {};

	broker_lock(broker);
	if (route->state == CONNECTION_BUSY || route->state == CONNECTION_PARKED)
		route_connection_lost(&broker->router, route, &actions);
	broker_unlock(broker, &actions);
	broker_perform(broker, &actions);
}

/* On the loop's thread. */
static void end(struct pool_connection *connection)
{
	loop_file_remove(&connection->file);
	connection->is_up = false;
	take_down(connection);
	if (!close_wire(connection))
		return;
	tell_lost(connection);
	dial_later(connection);
}

/* ---- answers ---- */

/* The exchange that is answered, or NULL. False: nothing was asked, or something else. */
static bool take_answered(struct pool_connection *connection, uint32_t id, bool is_error,
			  struct exchange **ret_exchange)
{
	struct route_connection *route = &connection->route;
	struct broker *broker = connection->pool->broker;
	struct route_actions actions = {};
	bool is_awaited;

	broker_lock(broker);
	is_awaited = id == connection->id &&
		     (route->state == CONNECTION_BUSY || route->state == CONNECTION_PARKED);
	if (is_awaited)
		*ret_exchange = route_answered(&broker->router, route, is_error, &actions);
	broker_unlock(broker, &actions);
	broker_perform(broker, &actions);
	return is_awaited;
}

static void forward(struct caller *caller, const uint8_t *data, size_t size)
{
	nng_msg *message = NULL;

	if (nng_compat_message(data, size, &message))
		caller_answer(caller, BUS_RESOURCE_EXHAUSTED,
			      "the broker is out of memory; the outcome of the request is unknown",
			      NULL, 0);
	else
		caller_forward(caller, message);
}

/* One frame a round, so that no instance can hold the loop. */
static int receive(struct pool_connection *connection)
{
	_cleanup_(cleanup_free) uint8_t *body = NULL;
	struct exchange *exchange = NULL;
	struct envelope_reply reply;
	uint32_t id;
	size_t size;
	bool is_error;
	int r;

	r = sp_wire_receive(&connection->wire);
	if (r)
		return r;
	id = sp_wire_id(&connection->wire);
	body = TAKE(connection->wire.body);
	if (!id)
		return SP_E_PROTOCOL;
	size = connection->wire.size - SP_ID_SIZE;
	is_error = envelope_read_reply(body + SP_ID_SIZE, size, &reply, NULL) ||
		   (reply.status != BUS_OK && reply.status != BUS_PENDING);
	if (!take_answered(connection, id, is_error, &exchange))
		return SP_E_PROTOCOL;
	if (exchange)
		forward(container_of(exchange, struct caller, exchange), body + SP_ID_SIZE, size);
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
	broker_lock(broker);
	route_connection_up(&broker->router, &connection->route, &actions);
	broker_unlock(broker, &actions);
	broker_perform(broker, &actions);
	return 0;
}

/* Sends what is in line; what the socket does not take waits for it. */
static int flush(struct pool_connection *connection)
{
	int r;

	pthread_mutex_lock(&connection->lock);
	r = sp_wire_send(&connection->wire);
	pthread_mutex_unlock(&connection->lock);
	if (r && r != SP_WIRE_E_WAIT)
		return r;
	return error_trace(loop_file_set(&connection->file, r ? EPOLLIN | EPOLLOUT : EPOLLIN));
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
	int r;

	pthread_mutex_lock(&connection->lock);
	r = sp_wire_open(&connection->wire, connection->path, SP_REQ, 0);
	pthread_mutex_unlock(&connection->lock);
	if (r)
		return r;
	atomic_fetch_add(&connection->pool->n_sockets, 1);
	return error_trace(loop_file_add(connection->pool->broker->loop, &connection->file,
					 connection->wire.fd, EPOLLIN | EPOLLOUT, on_ready));
}

/* The greeting leaves with the loop's next turn. */
static void dial(struct pool_connection *connection)
{
	if (!open_wire(connection))
		return;
	close_wire(connection);
	dial_later(connection);
}

/* ---- what senders leave to the loop ---- */

static void on_mail(struct loop_mail *mail, struct loop_mail_item *item)
{
	struct pool_connection *connection = container_of(item, struct pool_connection, mail);
	bool has_failed, is_retired, has_sender;

	(void)mail;
	pthread_mutex_lock(&connection->lock);
	connection->is_mailed = false;
	has_failed = connection->has_failed;
	is_retired = connection->is_retired;
	has_sender = connection->n_senders > 0;
	pthread_mutex_unlock(&connection->lock);
	if (has_sender)
		return; /* it will mail */
	if (is_retired)
		free_connection(connection);
	else if (has_failed || (connection->wire.fd >= 0 && flush(connection)))
		end(connection);
}

/* Under the connection's lock. */
static void mail(struct pool_connection *connection)
{
	if (connection->is_mailed)
		return;
	connection->is_mailed = true;
	loop_mail_post(&connection->pool->mail, &connection->mail);
}

/* ---- sending ---- */

void pool_prepare(struct route_connection *route)
{
	const struct schema_buffer *request = &route->exchange->request;
	struct pool_connection *connection = connection_of(route);

	pthread_mutex_lock(&connection->lock);
	connection->n_senders++;
	if (sp_wire_put(&connection->wire, sp_wire_next_id(&connection->id), request->data,
			request->size))
		connection->has_failed = true; /* no memory: as if it had been lost */
	pthread_mutex_unlock(&connection->lock);
}

void pool_send(struct route_connection *route)
{
	struct pool_connection *connection = connection_of(route);
	int r = 0;

	pthread_mutex_lock(&connection->lock);
	if (!connection->has_failed)
		r = sp_wire_send(&connection->wire);
	connection->n_senders--;
	if (r || connection->has_failed || connection->is_retired)
		mail(connection);
	pthread_mutex_unlock(&connection->lock);
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
	pthread_mutex_init(&connection->lock, NULL);
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
		broker_lock(pool->broker);
		route_add_connection(instance, &connection->route);
		pthread_mutex_unlock(&pool->broker->lock);
		dial(connection);
	}
	return 0;
}

void pool_retire(struct pool *pool, struct route_connection *connections)
{
	(void)pool;
	while (connections) {
		struct pool_connection *connection = connection_of(connections);
		bool is_in_use;

		connections = connections->next;
		connection->route.next = NULL;
		loop_file_remove(&connection->file);
		loop_timer_cancel(&connection->timer);
		pthread_mutex_lock(&connection->lock);
		connection->is_retired = true;
		is_in_use = connection->n_senders > 0 || connection->is_mailed;
		pthread_mutex_unlock(&connection->lock);
		if (!is_in_use)
			free_connection(connection);
	}
}

void pool_trim(struct pool *pool, struct route_instance *instance)
{
	struct route_connection *idle = NULL;
	size_t n_busy, n_free;

	broker_lock(pool->broker);
	n_free = 0;
	for (struct route_connection *at = instance->free; at; at = at->next_free)
		n_free++;
	n_busy = instance->n_connections - n_free;
	/* A quarter of what is beyond the present need, each time that it is looked at. */
	if (n_free > n_busy + IDLE_KEEP)
		idle = route_take_idle(instance, (n_free - n_busy - IDLE_KEEP + 3) / 4);
	pthread_mutex_unlock(&pool->broker->lock);
	if (idle)
		pool_retire(pool, idle);
}

const atomic_size_t *pool_n_sockets(const struct pool *pool)
{
	return &pool->n_sockets;
}

int pool_new(struct broker *broker, struct pool **ret_pool)
{
	struct pool *pool = calloc(1, sizeof(*pool));
	int r;

	if (!pool)
		return error_origin(-ENOMEM);
	pool->broker = broker;
	r = loop_mail_add(broker->loop, &pool->mail, on_mail);
	if (r) {
		free(pool);
		return error_trace(r);
	}
	*ret_pool = pool;
	return 0;
}
