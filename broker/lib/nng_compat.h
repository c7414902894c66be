#pragma once
/*
 * nng as davit uses it: the only way in which its sockets are opened, with the
 * options that hold everywhere, and what mends the faults of nng 1.5.2.
 *
 * Whoever opens a socket here links the sendmsg() of this file: without it, one
 * peer that connects and closes at once ends a listener or a dialer for ever
 * (nng issue 1518). Opening is refused (-ELIBBAD) in a program in which another
 * sendmsg() would be called.
 *
 * Rules that the callers keep:
 *  - no REQ and REP sockets: requests go over plain ones (sp.h, sp_server.h), since nng's hang for ever when one is
 *    closed with an answer outstanding, and when a peer dies with two requests in flight;
 *  - no timeout on a receive: a deadline is a timer of the loop;
 *  - bodies are built by append only (nng_compat_message());
 *  - aio and pipe callbacks run on nng's threads: they post to a loop_mail (see
 *    bus_port.h) or forward, and never block;
 *  - at the process' end: _exit(), never nng_close().
 */

#include <nng/nng.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "broker/lib/error.h"

#define NNG_COMPAT_MESSAGE_MAX (1u << 20) /* bytes of a body, checked on both sides */
#define NNG_COMPAT_BUFFER      8192       /* messages that PUB and SUB keep for a slow peer */
#define NNG_COMPAT_PATH_MAX    107        /* bytes of a socket's path (unix(7)) */

/* On the loop's thread. 0 or -errno. SUB is subscribed to everything and keeps the newest. */
int nng_compat_open_pub(nng_socket *ret_socket);
int nng_compat_open_sub(nng_socket *ret_socket);

/* Binds @path under umask 077, then gives it @mode. A stale file is the caller's to unlink, under its
 * lock (-EADDRINUSE). -ENAMETOOLONG over NNG_COMPAT_PATH_MAX. From the loop's thread only. */
int nng_compat_listen(nng_socket socket, const char *path, mode_t mode, struct why *why);
/* Dials @path. @in_background: returns at once, the first attempt too is repeated (20 ms … 500 ms);
 * else fails when the peer is not there. A lost connection is made again for ever. */
int nng_compat_dial(nng_socket socket, const char *path, bool in_background);

/* @fn on nng's threads at each connection's begin and end. @is_own: from this process (the watchdog's).
 * Before listening or dialling; once a socket. */
typedef void (*nng_compat_pipe_fn)(void *userdata, bool is_added, bool is_own);
int nng_compat_on_pipe(nng_socket socket, nng_compat_pipe_fn fn, void *userdata);
/* Connections of this process that are open now, and those that this process made to itself and that
 * ended (the watchdog's): from the same callbacks. */
size_t nng_compat_n_pipes(void);
size_t nng_compat_n_own_ended(void);

/* A new message with a copy of @data. -EMSGSIZE over NNG_COMPAT_MESSAGE_MAX. */
int nng_compat_message(const void *data, size_t size, nng_msg **ret_message);
static inline void nng_compat_message_freep(nng_msg **message)
{
	if (*message)
		nng_msg_free(*message);
	*message = NULL;
}

/* nng's error number as -errno (0 stays 0). */
int nng_compat_errno(int error);
