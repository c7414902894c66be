#pragma once
/*
 * The answering side of the bus: a REP socket that listens on a path. Each
 * message is handed over with a handle, on which is answered once, at any later
 * time. A connection has one request under way at most (sp_server.h); what its
 * peer sends meanwhile waits in its own socket. All on the loop's thread.
 */

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/types.h>

#include "broker/lib/error.h"
#include "broker/lib/loop.h"

struct bus_server;
struct bus_server_request;

/* @request belongs to the callee, until bus_server_reply() or bus_server_drop(). */
typedef void (*bus_server_fn)(void *userdata, struct bus_server_request *request);

struct bus_server_options {
	const char
		*path; /* of the socket; a stale file is the caller's to unlink, under its lock */
	mode_t mode;
	bool only_own_uid; /* connections of other uids are closed */
	/* 0: 1024. Beyond it the connection that has been silent longest is closed for a new one; when
	 * requests of all are under way, the new one is. */
	size_t connections_max;
	atomic_size_t *n_connections; /* counted here too (for the watchdog); NULL: nowhere */
};

/* Listens when it returns. */
int bus_server_new(struct loop *loop, const struct bus_server_options *options, bus_server_fn fn,
		   void *userdata, struct bus_server **ret_server, struct why *why);
/* No callback comes after this, and the path is unlinked (if it is still ours). What was answered is sent, for up to
 * a second. Handles that are out stay valid and may be answered, while the loop lives. */
struct bus_server *bus_server_free(struct bus_server *server);
void bus_server_freep(struct bus_server **server);

/* What was sent; valid as long as the handle. */
const void *bus_server_request_data(const struct bus_server_request *request, size_t *ret_size);
/* Who connected, as the kernel says (SO_PEERCRED, unix(7)); valid as long as the handle. */
const struct ucred *bus_server_request_peer(const struct bus_server_request *request);
/* Answers with a copy of @data and ends the handle, whatever it returns. -EMSGSIZE: @data is over 1 MiB; the
 * peer got an empty answer. A peer that went away is no error. */
int bus_server_reply(struct bus_server_request *request, const void *data, size_t size);
/* Ends the handle with an empty answer: it frees the peer's connection, and says that there is none. */
struct bus_server_request *bus_server_drop(struct bus_server_request *request);
