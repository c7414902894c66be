#include <stdlib.h>

#include "broker/callers.h"
#include "broker/lib/log.h"
#include "broker/lib/nng_compat.h"
#include "broker/pool.h"

#define IDLE_KEEP 4    /* free connections to an instance that stay */
#define LINGER_MS 5000 /* between a socket's close and the end of its memory */

struct pool_connection {
	struct route_connection route;
	struct pool *pool;
	nng_socket socket;
	nng_aio *aio;
	nng_msg *message; /* prepared, not yet sent */

	atomic_bool is_sending; /* the request is nng's, and not yet gone */

	/* Under the lock. */
	bool is_working; /* the aio is nng's */
	bool is_retired, is_mailed, is_closing;
	unsigned n_added, n_removed; /* pipes that came and went */
	unsigned n_used;             /* n_added when the last request was sent */

	struct loop_mail_item mail;
	struct pool_connection *next_closing;
	uint64_t closed_at_ms;
};

struct pool {
	struct broker *broker;
	struct loop_mail mail;

	pthread_t closer;
	pthread_mutex_t closing_lock;
	pthread_cond_t closing_wake;
	struct pool_connection *closing, **last_closing;
};

static struct pool_connection *connection_of(struct route_connection *route)
{
	return container_of(route, struct pool_connection, route);
}

/* ---- closing ---- */

static struct pool_connection *take_closing(struct pool *pool)
{
	struct pool_connection *connection;

	pthread_mutex_lock(&pool->closing_lock);
	while (!pool->closing)
		pthread_cond_wait(&pool->closing_wake, &pool->closing_lock);
	connection = pool->closing;
	pool->closing = connection->next_closing;
	if (!pool->closing)
		pool->last_closing = &pool->closing;
	pthread_mutex_unlock(&pool->closing_lock);
	return connection;
}

static void free_connection(struct pool_connection *connection)
{
	nng_aio_free(connection->aio);
	free(connection);
}

/* Frees those that were closed long enough ago for every callback to have ended. */
static struct pool_connection *free_lingering(struct pool_connection *lingering, uint64_t now_ms)
{
	struct pool_connection **at = &lingering;

	while (*at) {
		struct pool_connection *connection = *at;

		if (now_ms < connection->closed_at_ms + LINGER_MS) {
			at = &connection->next_closing;
			continue;
		}
		*at = connection->next_closing;
		free_connection(connection);
	}
	return lingering;
}

static void *run_closer(void *userdata)
{
	struct pool_connection *lingering = NULL;
	struct pool *pool = userdata;

	for (;;) {
		struct pool_connection *connection = take_closing(pool);

		nng_close(connection->socket);
		connection->closed_at_ms = time_boot_ms();
		lingering = free_lingering(lingering, connection->closed_at_ms);
		connection->next_closing = lingering;
		lingering = connection;
	}
	return NULL;
}

static void close_connection(struct pool_connection *connection)
{
	struct pool *pool = connection->pool;

	connection->next_closing = NULL;
	pthread_mutex_lock(&pool->closing_lock);
	*pool->last_closing = connection;
	pool->last_closing = &connection->next_closing;
	pthread_cond_signal(&pool->closing_wake);
	pthread_mutex_unlock(&pool->closing_lock);
}

/* Whether a retired connection can be closed now: nothing is outstanding, or its request never left and
 * has nowhere to go. Under the lock. */
static bool may_close(const struct pool_connection *connection)
{
	if (!connection->is_retired || connection->is_closing || connection->is_mailed)
		return false;
	return !connection->is_working ||
	       (connection->is_sending && connection->n_added == connection->n_removed);
}

/* ---- what happens to a connection ---- */

/* Under the lock: the loop is to look at it. */
static void mail(struct pool_connection *connection)
{
	if (connection->is_mailed || connection->is_closing)
		return;
	connection->is_mailed = true;
	loop_mail_post(&connection->pool->mail, &connection->mail);
}

/* On the loop's thread. */
static void on_mail(struct loop_mail *loop_mail, struct loop_mail_item *item)
{
	struct pool_connection *connection = container_of(item, struct pool_connection, mail);
	struct pool *pool = container_of(loop_mail, struct pool, mail);
	struct route_actions actions = {};
	bool is_closing;

	broker_lock(pool->broker);
	connection->is_mailed = false;
	is_closing = may_close(connection);
	connection->is_closing |= is_closing;
	/* Up, unless the pipe that is there is the one whose request was just lost. */
	if (!connection->is_retired && !connection->is_working &&
	    connection->n_added > connection->n_removed &&
	    connection->n_added != connection->n_used)
		route_connection_up(&pool->broker->router, &connection->route, &actions);
	broker_unlock(pool->broker, &actions);
	broker_perform(pool->broker, &actions);
	if (is_closing)
		close_connection(connection);
}

static void on_pipe(void *userdata, bool is_added)
{
	struct pool_connection *connection = userdata;
	struct broker *broker = connection->pool->broker;

	broker_lock(broker);
	if (is_added) {
		connection->n_added++;
	} else {
		connection->n_removed++;
		/* nng may tell of a pipe's end after it told of the next one. */
		if (connection->n_removed == connection->n_added)
			route_connection_down(&connection->route);
	}
	mail(connection);
	pthread_mutex_unlock(&broker->lock);
}

static void on_lost(struct pool_connection *connection)
{
	struct broker *broker = connection->pool->broker;
	struct route_actions actions = {};

	broker_lock(broker);
	connection->is_working = false;
	atomic_store(&connection->is_sending, false);
	route_connection_lost(&broker->router, &connection->route, &actions);
	mail(connection);
	broker_unlock(broker, &actions);
	broker_perform(broker, &actions);
}

static void on_answer(struct pool_connection *connection, nng_msg *message)
{
	struct broker *broker = connection->pool->broker;
	struct route_actions actions = {};
	struct envelope_reply reply;
	struct exchange *exchange;
	bool is_error;

	is_error = envelope_read_reply(nng_msg_body(message), nng_msg_len(message), &reply, NULL) ||
		   (reply.status != BUS_OK && reply.status != BUS_PENDING);
	broker_lock(broker);
	connection->is_working = false;
	exchange = route_answered(&broker->router, &connection->route, is_error, &actions);
	if (connection->is_retired || connection->n_added == connection->n_removed) {
		route_connection_down(&connection->route);
		mail(connection);
	}
	broker_unlock(broker, &actions);
	if (exchange)
		caller_forward(container_of(exchange, struct caller, exchange), message);
	else
		nng_msg_free(message);
	broker_perform(broker, &actions);
}

static void on_aio(void *userdata)
{
	struct pool_connection *connection = userdata;
	bool was_sending = atomic_exchange(&connection->is_sending, false);
	int r = nng_aio_result(connection->aio);

	if (r) {
		if (was_sending && nng_aio_get_msg(connection->aio)) {
			nng_msg_free(nng_aio_get_msg(connection->aio));
			nng_aio_set_msg(connection->aio, NULL);
		}
		on_lost(connection);
	} else if (was_sending) {
		nng_recv_aio(connection->socket, connection->aio);
	} else {
		on_answer(connection, nng_aio_get_msg(connection->aio));
	}
}

/* ---- sending ---- */

void pool_prepare(struct route_connection *route)
{
	const struct schema_buffer *request = &route->exchange->request;
	struct pool_connection *connection = connection_of(route);

	connection->is_working = true;
	atomic_store(&connection->is_sending, true);
	connection->n_used = connection->n_added;
	if (nng_compat_message(request->data, request->size, &connection->message))
		connection->message = NULL;
}

void pool_send(struct route_connection *route)
{
	struct pool_connection *connection = connection_of(route);

	if (!connection->message) {
		log_warning("a request cannot be sent: out of memory");
		on_lost(connection);
		return;
	}
	nng_aio_set_msg(connection->aio, TAKE(connection->message));
	nng_send_aio(connection->socket, connection->aio);
}

/* ---- making and retiring ---- */

static int open_connection(struct pool *pool, struct pool_connection **ret_connection)
{
	struct pool_connection *connection = calloc(1, sizeof(*connection));
	int r;

	if (!connection)
		return error_origin(-ENOMEM);
	connection->pool = pool;
	r = nng_compat_open_req(&connection->socket);
	if (r) {
		free(connection);
		return error_trace(r);
	}
	r = nng_compat_errno(nng_aio_alloc(&connection->aio, on_aio, connection));
	if (!r)
		r = nng_compat_on_pipe(connection->socket, on_pipe, connection);
	if (r) {
		nng_close(connection->socket); /* nothing was ever sent on it */
		if (connection->aio)
			nng_aio_free(connection->aio);
		free(connection);
		return error_trace(r);
	}
	*ret_connection = connection;
	return 0;
}

int pool_add(struct pool *pool, struct route_instance *instance, const char *path, size_t count)
{
	struct broker *broker = pool->broker;
	struct pool_connection *connection = NULL;
	int r;

	for (size_t i = 0; i < count; i++) {
		r = open_connection(pool, &connection);
		if (r)
			return error_trace(r);
		broker_lock(broker);
		route_add_connection(instance, &connection->route);
		pthread_mutex_unlock(&broker->lock);
		r = nng_compat_dial(connection->socket, path, true);
		if (r) {
			broker_lock(broker);
			route_remove_connection(&connection->route);
			pthread_mutex_unlock(&broker->lock);
			pool_retire(pool, &connection->route);
			return error_trace(r);
		}
	}
	return 0;
}

void pool_retire(struct pool *pool, struct route_connection *connections)
{
	broker_lock(pool->broker);
	while (connections) {
		struct pool_connection *connection = connection_of(connections);

		connections = connections->next;
		connection->route.next = NULL;
		connection->is_retired = true;
		mail(connection);
	}
	pthread_mutex_unlock(&pool->broker->lock);
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

int pool_new(struct broker *broker, struct pool **ret_pool)
{
	struct pool *pool = calloc(1, sizeof(*pool));
	int r;

	if (!pool)
		return error_origin(-ENOMEM);
	pool->broker = broker;
	pool->last_closing = &pool->closing;
	pthread_mutex_init(&pool->closing_lock, NULL);
	pthread_cond_init(&pool->closing_wake, NULL);
	r = loop_mail_add(broker->loop, &pool->mail, on_mail);
	if (!r)
		r = -pthread_create(&pool->closer, NULL, run_closer, pool);
	if (r)
		return error_origin(r);
	*ret_pool = pool;
	return 0;
}
