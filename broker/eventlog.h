#pragma once
/*
 * The event log: what is appended, trimmed, read and remembered, inside the
 * transactions of log_db.h. Events are numbered without gaps; a publisher's own
 * numbers are taken in order only. No thread, no socket, no clock of its own.
 */

#include <stdint.h>

#include "broker/log_db.h"
#include "schemas/envelope.h"

#define EVENTLOG_FORMAT      1
#define EVENTLOG_CURSORS_MAX 1024
#define EVENTLOG_REPLY_MAX   (SCHEMA_MESSAGE_MAX - 16384) /* bytes of events in one reply */

struct eventlog_limits {
	uint64_t max_bytes;
	uint64_t max_age_ns;
};

/* Reads the one row, or makes it in a new log (then @txn must be a write one). The log's id is
 * chosen here. -EPROTONOSUPPORT for a newer format. */
int eventlog_load(struct log_txn *txn, struct broker_log_meta *ret_meta);
int eventlog_save(struct log_txn *txn, const struct broker_log_meta *meta);

/* ---- appending ---- */
struct eventlog_appended {
	enum bus_status status; /* BUS_OK, BUS_ABORTED (a gap), BUS_INVALID_ARGUMENT */
	char text[SCHEMA_FAULT_SIZE];
	uint64_t next_seq;  /* of the publisher */
	uint64_t first_seq; /* log number of the first new event */
	size_t n_repeats;   /* events at the front of the batch that the log had */
	size_t n_new;
};
/* An unknown publisher may start at any number: it may have been forgotten. Changes @meta; it is
 * saved by the caller. 0, LOG_E_FULL or negative. */
int eventlog_append(struct log_txn *txn, struct broker_log_meta *meta,
		    const struct event_publish_request *request, uint64_t now_ns,
		    struct eventlog_appended *ret_appended);
/* Checks a batch by itself: names, and numbers that follow each other. 0 or SCHEMA_E_VALUE with @fault. */
int eventlog_check(const struct event_publish_request *request, struct schema_fault *fault);

/* Removes at most @budget events that are too old or too many; publishers go with their last event. */
int eventlog_trim(struct log_txn *txn, struct broker_log_meta *meta,
		  const struct eventlog_limits *limits, uint64_t now_ns, size_t budget,
		  size_t *ret_trimmed);

/* ---- reading ---- */
/* Reads on from reply->next (at least 1) and adds what matches; looks at no more than @budget
 * events. Keeps reply->next, first_seq, last_seq and truncated right. @ret_more: there are
 * events left to look at, and room in the reply. */
int eventlog_read(struct log_txn *txn, const struct broker_log_meta *meta,
		  const struct event_read_request *filter, size_t budget, size_t *bytes,
		  struct event_read_reply *reply, bool *ret_more);

/* ---- named cursors ---- */
/* Whether eventlog_move_cursor() would change anything; ret_ack is where it stands. LOG_E_NOT_FOUND: it is new. */
int eventlog_find_cursor(struct log_txn *txn, const char *name, uint64_t *ret_ack);
/* Makes it before @from (0: now) when new, moves it forward to @ack (0: does not); refuses an @ack beyond the
 * log with BUS_INVALID_ARGUMENT, one cursor too many with BUS_RESOURCE_EXHAUSTED. */
int eventlog_move_cursor(struct log_txn *txn, const struct broker_log_meta *meta, const char *name,
			 uint64_t from, uint64_t ack, uint64_t now_ns, uint64_t *ret_ack,
			 enum bus_status *ret_status);
int eventlog_list_cursors(struct log_txn *txn, struct event_cursors_reply *reply);
