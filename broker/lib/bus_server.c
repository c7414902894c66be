#include "broker/lib/bus_server.h"

#include <stdatomic.h>
#include <string.h>
#include <sys/stat.h>

#include "broker/lib/bus_port.h"
#include "broker/lib/nng_compat.h"

#define CONTEXTS_DEFAULT     8
#define CONTEXTS_MAX_DEFAULT 1024

/* What nng's callbacks touch: shared by the server and its contexts, which stay with nng's socket. */
struct server_core {
	nng_socket socket;
	struct bus_port *port;
	atomic_uint n_free;  /* contexts that wait for a request */
	atomic_uint n_peers; /* open connections */
};

struct bus_server {
	struct server_core *core; /* nng's from here on */
	bus_server_fn fn;
	void *userdata;
	char *path;
	dev_t device;
	ino_t inode;
	unsigned n_contexts, contexts, contexts_max;
};

/* One context: it waits for a request, is out as a handle, or sends the answer. */
struct bus_server_request {
	struct loop_mail_item item;
	struct server_core *core;
	nng_ctx context;
	nng_aio *aio;
	nng_msg *message; /* owned; the request while the handle is out */
	bool is_sending;  /* changes only while nng has no operation of this context */
};

static void context_receive(struct bus_server_request *request)
{
	request->is_sending = false;
	atomic_fetch_add(&request->core->n_free, 1);
	nng_ctx_recv(request->context, request->aio);
}

/* The answer is with nng, which lets go of it when that peer is gone. */
static void context_sent(struct bus_server_request *request, int error)
{
	if (error)
		nng_msg_free(nng_aio_get_msg(request->aio));
	nng_aio_set_msg(request->aio, NULL);
	if (error == NNG_ECLOSED)
		return;
	context_receive(request);
}

static void context_received(struct bus_server_request *request, int error)
{
	atomic_fetch_sub(&request->core->n_free, 1);
	if (error)
		return; /* only when the socket is closed */

	request->message = nng_aio_get_msg(request->aio);
	nng_aio_set_msg(request->aio, NULL);
	if (!bus_port_post(request->core->port, &request->item)) {
		nng_msg_free(request->message);
		request->message = NULL;
	}
}

static void context_callback(void *userdata)
{
	struct bus_server_request *request = userdata;
	int error = nng_aio_result(request->aio);

	if (request->is_sending)
		context_sent(request, error);
	else
		context_received(request, error);
}

static int context_new(struct server_core *core)
{
	struct bus_server_request *request;
	int r;

	request = calloc(1, sizeof(*request));
	if (!request)
		return error_origin(-ENOMEM);

	request->core = core;
	r = nng_ctx_open(&request->context, core->socket);
	if (r) {
		free(request);
		return error_origin(nng_compat_errno(r));
	}
	r = nng_aio_alloc(&request->aio, context_callback, request);
	if (r) {
		nng_ctx_close(request->context); /* it has done nothing yet */
		free(request);
		return error_origin(nng_compat_errno(r));
	}
	bus_port_ref(core->port);
	nng_aio_set_timeout(request->aio, NNG_DURATION_INFINITE);
	context_receive(request);
	return 0;
}

/* As many contexts wait as were asked for, whatever is unanswered, up to the bound. */
static int server_grow(struct bus_server *server)
{
	int r;

	while (server->n_contexts < server->contexts_max &&
	       atomic_load(&server->core->n_free) < server->contexts) {
		r = context_new(server->core);
		if (r)
			return error_trace(r);
		server->n_contexts++;
	}
	return 0;
}

static void server_deliver(void *userdata, struct loop_mail_item *item)
{
	struct bus_server *server = userdata;

	/* A context that cannot be made leaves the others, and is tried again with the next request. */
	(void)server_grow(server);
	server->fn(server->userdata, container_of(item, struct bus_server_request, item));
}

static void server_pipe(void *userdata, bool is_added)
{
	struct server_core *core = userdata;

	if (is_added)
		atomic_fetch_add(&core->n_peers, 1);
	else
		atomic_fetch_sub(&core->n_peers, 1);
}

static int server_listen(struct bus_server *server, const struct bus_server_options *options,
			 struct why *why)
{
	struct server_core *core = server->core;
	struct stat status;
	int r;

	r = nng_compat_on_pipe(core->socket, server_pipe, core);
	if (!r && options->only_own_uid)
		r = nng_compat_require_own_uid(core->socket);
	if (!r)
		r = server_grow(server);
	if (r)
		return why_errno(why, r, "cannot set up the socket '%s'", options->path);

	r = nng_compat_listen(core->socket, options->path, options->mode, why);
	if (r)
		return error_trace(r);

	if (stat(options->path, &status) == 0) {
		server->device = status.st_dev;
		server->inode = status.st_ino;
	}
	return 0;
}

static int core_open(struct bus_server *server, struct loop *loop)
{
	struct server_core *core;
	int r;

	core = calloc(1, sizeof(*core));
	if (!core)
		return error_origin(-ENOMEM);

	r = bus_port_new(loop, server_deliver, server, &core->port);
	if (!r)
		r = nng_compat_open_rep(&core->socket);
	if (r) {
		bus_port_close(core->port);
		free(core);
		return error_trace(r);
	}
	server->core = core;
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
	server->contexts = options->contexts > 0 ? options->contexts : CONTEXTS_DEFAULT;
	server->contexts_max = options->contexts_max > 0 ? options->contexts_max
							 : CONTEXTS_MAX_DEFAULT;
	server->path = strdup(options->path);
	if (!server->path)
		return error_origin(-ENOMEM);

	r = core_open(server, loop);
	if (r)
		return why_errno(why, r, "cannot open a socket for '%s'", options->path);

	r = server_listen(server, options, why);
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
	if (server->core) {
		/* The contexts hold the port from here on. */
		bus_port_close(server->core->port);
	}
	free(server->path);
	free(server);
	return NULL;
}

void bus_server_freep(struct bus_server **server)
{
	*server = bus_server_free(*server);
}

void bus_server_stats(const struct bus_server *server, unsigned *ret_contexts, unsigned *ret_free)
{
	*ret_contexts = server->n_contexts;
	*ret_free = atomic_load(&server->core->n_free);
}

unsigned bus_server_n_peers(const struct bus_server *server)
{
	return atomic_load(&server->core->n_peers);
}

const void *bus_server_request_data(const struct bus_server_request *request, size_t *ret_size)
{
	*ret_size = nng_msg_len(request->message);
	return nng_msg_body(request->message);
}

int bus_server_request_peer(const struct bus_server_request *request, uid_t *ret_uid,
			    pid_t *ret_pid)
{
	struct nng_compat_peer peer;
	int r;

	r = nng_compat_message_peer(request->message, &peer);
	if (r)
		return r;

	*ret_uid = peer.uid;
	*ret_pid = peer.pid;
	return 0;
}

int bus_server_reply(struct bus_server_request *request, const void *data, size_t size)
{
	nng_msg *answer = NULL;
	int r;

	r = nng_compat_message(data, size, &answer);
	nng_msg_free(request->message);
	request->message = NULL;
	if (r && nng_compat_message(NULL, 0, &answer)) {
		/* No memory even for that: the peer's deadline ends its call. */
		context_receive(request);
		return error_trace(r);
	}
	request->is_sending = true;
	nng_aio_set_msg(request->aio, answer);
	nng_ctx_send(request->context, request->aio);
	return error_trace(r);
}

struct bus_server_request *bus_server_drop(struct bus_server_request *request)
{
	if (request)
		(void)bus_server_reply(request, NULL, 0);
	return NULL;
}
