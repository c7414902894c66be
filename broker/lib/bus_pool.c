#include "broker/lib/bus_pool.h"

#include <string.h>
#include <sys/queue.h>

#include "broker/lib/sp.h"

struct bus_connection {
	TAILQ_ENTRY(bus_connection) entry; /* in `idle` or `busy` */
	struct bus_pool *pool;
	struct sp_client *client;
	bus_pool_fn fn;
	void *userdata;
};

struct bus_pool {
	struct loop *loop;
	char *path;
	unsigned n_max, n_all, n_busy;
	TAILQ_HEAD(bus_connections, bus_connection) idle, busy;
};

static struct bus_connection *connection_free(struct bus_connection *connection)
{
	sp_client_free(connection->client);
	free(connection);
	return NULL;
}

static void free_all(struct bus_connections *connections)
{
	struct bus_connection *connection;

	while ((connection = TAILQ_FIRST(connections))) {
		TAILQ_REMOVE(connections, connection, entry);
		connection_free(connection);
	}
}

static void set_idle(struct bus_connection *connection)
{
	struct bus_pool *pool = connection->pool;

	TAILQ_REMOVE(&pool->busy, connection, entry);
	TAILQ_INSERT_HEAD(&pool->idle, connection, entry);
	pool->n_busy--;
}

static void connection_done(void *userdata, int r, const void *reply, size_t size)
{
	struct bus_connection *connection = userdata;
	bus_pool_fn fn = TAKE(connection->fn);

	set_idle(connection);
	fn(connection->userdata, r > 0 ? BUS_POOL_E_LOST : r, reply, size);
}

static int pool_grow(struct bus_pool *pool)
{
	struct bus_connection *connection;
	int r;

	if (pool->n_all >= pool->n_max)
		return BUS_POOL_E_FULL;
	connection = calloc(1, sizeof(*connection));
	if (!connection)
		return error_origin(-ENOMEM);
	connection->pool = pool;
	r = sp_client_new(pool->loop, pool->path, &connection->client);
	if (r) {
		connection_free(connection);
		return error_trace(r);
	}
	TAILQ_INSERT_HEAD(&pool->idle, connection, entry);
	pool->n_all++;
	return 0;
}

int bus_pool_new(struct loop *loop, const char *path, unsigned n_max, struct bus_pool **ret_pool)
{
	struct bus_pool *pool = calloc(1, sizeof(*pool));

	if (!pool)
		return error_origin(-ENOMEM);
	pool->loop = loop;
	pool->n_max = n_max;
	TAILQ_INIT(&pool->idle);
	TAILQ_INIT(&pool->busy);
	pool->path = strdup(path);
	if (!pool->path) {
		free(pool);
		return error_origin(-ENOMEM);
	}
	*ret_pool = pool;
	return 0;
}

struct bus_pool *bus_pool_free(struct bus_pool *pool)
{
	if (!pool)
		return NULL;
	free_all(&pool->idle);
	free_all(&pool->busy);
	free(pool->path);
	free(pool);
	return NULL;
}

int bus_pool_request(struct bus_pool *pool, const void *data, size_t size, bus_pool_fn fn,
		     void *userdata, struct bus_connection **ret_connection)
{
	struct bus_connection *connection;
	int r = 0;

	if (TAILQ_EMPTY(&pool->idle))
		r = pool_grow(pool);
	if (r)
		return r < 0 ? error_trace(r) : r;
	connection = TAILQ_FIRST(&pool->idle);
	/* The deadline is the caller's. */
	r = sp_client_request(connection->client, data, size, UINT64_MAX, connection_done,
			      connection);
	if (r)
		return r == SP_E_LIMIT ? -EMSGSIZE : error_fold(r);
	TAILQ_REMOVE(&pool->idle, connection, entry);
	TAILQ_INSERT_HEAD(&pool->busy, connection, entry);
	pool->n_busy++;
	connection->fn = fn;
	connection->userdata = userdata;
	*ret_connection = connection;
	return 0;
}

void bus_connection_abandon(struct bus_connection *connection)
{
	sp_client_close(connection->client);
	connection->fn = NULL;
	set_idle(connection);
}

bool bus_connection_was_sent(const struct bus_connection *connection)
{
	return sp_client_was_sent(connection->client);
}

void bus_pool_stats(const struct bus_pool *pool, unsigned *ret_all, unsigned *ret_busy)
{
	*ret_all = pool->n_all;
	*ret_busy = pool->n_busy;
}
