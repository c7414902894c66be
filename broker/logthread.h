#pragma once
/*
 * The thread that writes the event log. Jobs that came in together run in one
 * transaction, which is synced before any of them is told so (group commit).
 * It also sends what was committed on PUB, in order of seq, and a heartbeat after
 * a second of silence: nothing else writes to that socket.
 */

#include <nng/nng.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "broker/eventlog.h"
#include "broker/lib/loop.h"

struct logthread;
struct log_job;

struct log_job {
	struct log_job *next;
	size_t weight; /* about as many rows are written */
	/* On the log's thread, inside the transaction; runs again when the map was full. Returns 0,
	 * LOG_E_FULL, LOG_E_DISK, or negative, which fails the whole group: refusals are results of its own. */
	int (*run)(struct log_job *job, struct log_txn *txn, struct broker_log_meta *meta);
	/* On the log's thread, after the commit (@r 0) or without (LOG_E_*, negative); owns @job. */
	void (*done)(struct log_job *job, struct logthread *logthread, int r);
};

struct logthread_figures {
	uint64_t first_seq, last_seq, bytes, publishers;
	uint64_t n_events, n_commits, commit_ns_max;
};

struct logthread_options {
	const char *directory;
	size_t map_size; /* 0: from the limits */
	struct eventlog_limits limits;
	nng_socket pub;
	const atomic_uint *n_subscribers; /* of @pub */
	/* On the log's thread: there are new events. Must not block. May be NULL. */
	void (*advanced)(void *userdata);
	void *userdata;
};

/* Opens the log and starts the thread. */
int logthread_new(const struct logthread_options *options, struct logthread **ret_logthread,
		  struct why *why);
/* Finishes what was posted, closes the log. */
struct logthread *logthread_free(struct logthread *logthread);

/* From any thread. */
void logthread_post(struct logthread *logthread, struct log_job *job);
struct log_db *logthread_db(struct logthread *logthread);
const uint8_t *logthread_log_id(const struct logthread *logthread);
struct logthread_figures logthread_figures(struct logthread *logthread);
/* For done(): sends one committed event. */
void logthread_publish(struct logthread *logthread, const struct envelope_event *event);
