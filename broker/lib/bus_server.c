#include "broker/lib/bus_server.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "broker/lib/sp_server.h"

#define CONNECTIONS_MAX_DEFAULT 1024
#define HELD_MAX                (16u << 20)
#define FLUSH_MS                1000

struct bus_server {
	struct sp_server *sp;
	bus_server_fn fn;
	void *userdata;
	char *path;
	atomic_size_t *n_connections;
	dev_t device;
	ino_t inode;
};

/* A connection, since each has one request under way at most. */
struct bus_server_request {
	struct sp_peer peer;
	atomic_size_t *n_connections;
};

static struct bus_server_request *request_of(struct sp_peer *peer)
{
	return container_of(peer, struct bus_server_request, peer);
}

/* ---- what sp_server calls ---- */

static struct sp_peer *make_peer(void *userdata)
{
	const struct bus_server *server = userdata;
	struct bus_server_request *request = calloc(1, sizeof(*request));

	if (!request)
		return NULL;
	request->n_connections = server->n_connections;
	if (request->n_connections)
		atomic_fetch_add(request->n_connections, 1);
	return &request->peer;
}

static void free_peer(void *userdata, struct sp_peer *peer)
{
	struct bus_server_request *request = request_of(peer);

	(void)userdata;
	if (request->n_connections)
		atomic_fetch_sub(request->n_connections, 1);
	free(request);
}

static void on_asked(void *userdata, struct sp_peer *peer)
{
	struct bus_server *server = userdata;

	server->fn(server->userdata, request_of(peer));
}

/* The handle is out, and its owner answers it whether somebody listens or not. */
static void ignore(void *userdata, struct sp_peer *peer)
{
	(void)userdata;
	(void)peer;
}

/* ---- life ---- */

static int server_listen(struct bus_server *server, struct loop *loop,
			 const struct bus_server_options *options, struct why *why)
{
	struct sp_server_options listener = {
		.path = options->path,
		.mode = options->mode,
		.only_own_uid = options->only_own_uid,
		.connections_max = options->connections_max ?: CONNECTIONS_MAX_DEFAULT,
		.held_max = HELD_MAX,
		.new_peer = make_peer,
		.free_peer = free_peer,
		.asked = on_asked,
		.gone = ignore,
		.over = ignore,
		.userdata = server,
	};
	struct stat status;
	int r;

	r = sp_server_new(loop, &listener, &server->sp, why);
	if (r)
		return error_trace(r);

	if (stat(options->path, &status) == 0) {
		server->device = status.st_dev;
		server->inode = status.st_ino;
	}
	return 0;
}

int bus_server_new(struct loop *loop, const struct bus_server_options *options, bus_server_fn fn,
		   void *userdata, struct bus_server **ret_server, struct why *why)
{
	_cleanup_(bus_server_freep) struct bus_server *server = NULL;
	int r;

	server = calloc(1, sizeof(*server));
	if (!server)
		return error_origin(-ENOMEM);

	server->fn = fn;
	server->userdata = userdata;
	server->n_connections = options->n_connections;
	server->path = strdup(options->path);
	if (!server->path)
		return error_origin(-ENOMEM);

	r = server_listen(server, loop, options, why);
	if (r)
		return error_trace(r);

	*ret_server = TAKE(server);
	return 0;
}

static void server_unlink(const struct bus_server *server)
{
	struct stat status;

	if (server->inode && stat(server->path, &status) == 0 && status.st_dev == server->device &&
	    status.st_ino == server->inode)
		unlink(server->path);
}

struct bus_server *bus_server_free(struct bus_server *server)
{
	if (!server)
		return NULL;

	if (server->path)
		server_unlink(server);
	if (server->sp) {
		sp_server_flush(server->sp, FLUSH_MS);
		sp_server_free(server->sp);
	}
	free(server->path);
	free(server);
	return NULL;
}

void bus_server_freep(struct bus_server **server)
{
	*server = bus_server_free(*server);
}

/* ---- a request ---- */

const void *bus_server_request_data(const struct bus_server_request *request, size_t *ret_size)
{
	*ret_size = request->peer.request_size;
	return request->peer.request;
}

const struct ucred *bus_server_request_peer(const struct bus_server_request *request)
{
	return &request->peer.credentials;
}

int bus_server_reply(struct bus_server_request *request, const void *data, size_t size)
{
	int r = sp_peer_answer(&request->peer, data, size);

	if (!r)
		return 0;
	/* No memory even for an empty one: the peer sees its connection end. */
	if (sp_peer_answer(&request->peer, NULL, 0))
		sp_peer_close(&request->peer);
	return r == SP_E_LIMIT ? error_origin(-EMSGSIZE) : error_trace(r);
}

struct bus_server_request *bus_server_drop(struct bus_server_request *request)
{
	if (request)
		(void)bus_server_reply(request, NULL, 0);
	return NULL;
}
