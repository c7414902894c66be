#pragma once
/*
 * The broker process: what its parts share, and its life. Everything runs on the
 * loop's thread, but for the log, which has a thread of its own (logthread.c), and
 * nng's threads, which carry PUB. So the router needs no lock;
 * what it decided is carried out when it is left.
 */

#include <stdatomic.h>
#include <stdbool.h>

#include "broker/lib/loop.h"
#include "broker/lib/paths.h"
#include "broker/logthread.h"
#include "broker/options.h"
#include "broker/quota.h"
#include "broker/route.h"

struct about;
struct bus_watchdog;
struct callers;
struct eventread;
struct pool;
struct services;

/* Something to be done on the loop's thread, embedded in its owner. */
struct errand {
	struct loop_mail_item item;
	void (*fn)(struct errand *errand);
};

struct broker {
	const struct options *options;
	bool has_group; /* the group davit exists: directory permissions say who may call */
	gid_t group;
	struct loop *loop;
	struct loop_signals signals;
	uint64_t started_at_ns;

	struct router router;
	struct quota *quota;

	struct loop_mail mail; /* errands, each at most once at a time */
	struct errand chores;
	bool is_chores_posted;
	struct loop_timer deadline_timer;

	struct logthread *logthread;
	struct callers *callers;
	struct pool *pool;
	struct services *services;
	struct eventread *eventread;
	struct bus_watchdog *watchdog;
	int state_lock, root_lock; /* fds, held for life */
	nng_socket events_socket;
	atomic_uint n_subscribers;
	atomic_size_t n_plain_sockets; /* connections that are not nng's, for the watchdog */
};

/* Sets up and serves until SIGTERM; the exit code. The caller leaves with _exit(): nng is not closed. */
int broker_run(const struct options *options);

/* Sends and answers what the router decided; what hangs on @actions may be gone afterwards. */
void broker_perform(struct broker *broker, struct route_actions *actions);
/* From any thread: @fn will be called on the loop's thread. */
void broker_post(struct broker *broker, struct errand *errand, void (*fn)(struct errand *errand));
