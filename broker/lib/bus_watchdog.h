#pragma once
/*
 * Notices that this process does not serve any more, from a thread of its own:
 * each 2 seconds it expects the loop to have turned. Where nng listens, it connects
 * to that socket too as a plain peer, exchanges greetings, closes, and waits for nng
 * to have noticed, and counts connections against file descriptors (those that nng
 * lost without closing). After three failures in a row (a loop that stands: 15) it
 * calls a given function, which ends the process for its supervisor to start it again.
 */

#include <stdatomic.h>

#include "broker/lib/error.h"
#include "broker/lib/loop.h"
#include "broker/lib/sp.h"

struct bus_watchdog;

struct bus_watchdog_options {
	const char *path;     /* of our own listening socket */
	enum sp_protocol as;  /* what to dial it as: SP_SUB for PUB. 0: nng does not listen on it */
	unsigned interval_ms; /* 0: 2000 */
	const atomic_size_t *n_plain; /* stream sockets that are not nng's; NULL: not many */
	/* On the watchdog's thread, once: logs @why and ends the process with _exit(75). */
	void (*failed)(void *userdata, const char *why);
	void *userdata;
};

int bus_watchdog_new(struct loop *loop, const struct bus_watchdog_options *options,
		     struct bus_watchdog **ret_watchdog);
struct bus_watchdog *bus_watchdog_free(struct bus_watchdog *watchdog);
void bus_watchdog_freep(struct bus_watchdog **watchdog);

/* For options.failed: logs "<why>: ending" and _exit(75). Where the log's reader stands still too, without the line. */
void bus_watchdog_exit(void *userdata, const char *why);
