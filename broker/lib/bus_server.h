#pragma once
/*
 * The answering side of the bus: a REP socket that listens on a path. Each
 * message is handed to the loop's thread with a handle, on which is answered
 * once, at any later time. Contexts grow with what is unanswered, up to a bound;
 * above it peers wait in their sockets.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
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
	unsigned contexts; /* that wait for a request; 0: 8. As many more as are unanswered … */
	unsigned contexts_max; /* … up to this; 0: 1024 */
};

/* Listens when it returns. */
int bus_server_new(struct loop *loop, const struct bus_server_options *options, bus_server_fn fn,
		   void *userdata, struct bus_server **ret_server, struct why *why);
/* No callback comes after this, and the path is unlinked (if it is still ours). Handles that are out
 * stay valid and may be answered. nng's socket is left to the process' end (nng rules). */
struct bus_server *bus_server_free(struct bus_server *server);
void bus_server_freep(struct bus_server **server);
/* Contexts in all, and those that wait for a request. */
void bus_server_stats(const struct bus_server *server, unsigned *ret_contexts, unsigned *ret_free);
/* Open connections of peers. */
unsigned bus_server_n_peers(const struct bus_server *server);

/* What was sent; valid as long as the handle. */
const void *bus_server_request_data(const struct bus_server_request *request, size_t *ret_size);
/* Who sent it, as the kernel says; -ESRCH when that connection is gone. */
int bus_server_request_peer(const struct bus_server_request *request, uid_t *ret_uid,
			    pid_t *ret_pid);
/* Answers with a copy of @data and ends the handle, whatever it returns. -EMSGSIZE: @data is over 1 MiB; the
 * peer got an empty answer. A peer that went away is no error. */
int bus_server_reply(struct bus_server_request *request, const void *data, size_t size);
/* Ends the handle with an empty answer: it frees the peer's connection, and says that there is none. */
struct bus_server_request *bus_server_drop(struct bus_server_request *request);
