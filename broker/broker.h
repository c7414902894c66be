#pragma once
/*
 * The broker process: what its parts share, and its life. The way of a request
 * (callers.c, route.c, pool.c) runs on nng's threads, which take the lock for a
 * few microseconds and never block; everything else runs on the loop's thread,
 * the log on a thread of its own (logthread.c).
 *
 * Under the lock: the router with all that hangs on it, and the quota. What was
 * decided is carried out after the lock is given back, by whoever held it.
 */

#include <pthread.h>
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

	pthread_mutex_t lock;
	struct router router;
	struct quota *quota;

	struct loop_mail mail; /* errands, each at most once at a time */
	struct errand chores;
	bool is_chores_posted; /* under the lock */
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
};

/* Sets up and serves until SIGTERM; the exit code. The caller leaves with _exit(): nng is not closed. */
int broker_run(const struct options *options);

/* The lock, with decisions to carry out after it. */
void broker_lock(struct broker *broker);
/* Builds what is to be sent, gives the lock back. @actions must be handed to broker_perform() next. */
void broker_unlock(struct broker *broker, struct route_actions *actions);
/* Sends and answers. Not under the lock. */
void broker_perform(struct broker *broker, struct route_actions *actions);
/* From any thread: @fn will be called on the loop's thread. */
void broker_post(struct broker *broker, struct errand *errand, void (*fn)(struct errand *errand));
/* On the loop's thread: ends what is held for callers that went away. */
void broker_drop_orphans(struct broker *broker);
