#pragma once
/*
 * How replay and live messages are joined, without any I/O: which number comes
 * next, which live events wait for it, and when the log must be read. Events are
 * handed out once, in order, without a gap; what live messages lack comes from
 * event.read. One struct follow for each subscription.
 *
 * The owner feeds what it hears (follow_live(), follow_heartbeat()), delivers
 * what is due (the answer of follow_live(), then follow_take() until NULL), and
 * reads whenever follow_wants_read() says so:
 *
 *	if (follow_wants_read(follow, &from)) {
 *		follow_read_begin(follow);
 *		… event.read from `from`, without waiting …
 *		if (follow_read_reply(follow, &reply)) {
 *			for each event: if (follow_read_event(follow, seq)) deliver
 *			is_further = follow_read_end(follow);
 *		}
 *	}
 *
 * Then follow_take() again. When a read brought nothing further, the owner waits
 * before the next one. Another log_id means another log: it is followed from its
 * first event, with the mark "truncated". Which log is the present one only a read
 * can say, since live messages of logs that are gone may still be on their way:
 * one of another log is passed over, and makes the log be read.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "schemas/envelope.h"

#define FOLLOW_BUFFER_MAX 4096 /* live events that wait; those beyond come from the log */

enum follow_verdict {
	FOLLOW_DELIVER, /* it is due now */
	FOLLOW_KEEP,    /* @data is follow's */
	FOLLOW_DROP,    /* passed over: known already, of a log that is gone, or the log has it */
};

struct follow_item {
	uint64_t seq;
	void *data;
};

struct follow {
	uint64_t next;       /* first number that is not done; 0: not known yet (from now) */
	uint64_t last;       /* newest number that is known to exist */
	uint64_t asked;      /* the read under way: from where */
	uint64_t read_next;  /* the reply that is being handed out: read on from here */
	uint64_t read_start; /* `next` before that reply */
	uint8_t log_id[ENVELOPE_ID_SIZE];
	bool has_log;   /* before the first read: the one that was heard last */
	bool is_joined; /* a read has said where the log is */
	bool is_reading;
	bool is_suspicious;        /* read, although nothing is known to be missing */
	bool is_truncated;         /* to be said with the next event */
	struct follow_item *items; /* a ring of n_slots, in order of seq */
	size_t first, n_items, n_slots;
	void (*free_data)(void *data);
};

/* What a reply of event.read says beside its events. */
struct follow_reply {
	const uint8_t *log_id;
	uint64_t next, first_seq, last_seq;
	bool is_truncated;
};

/* @from: first number wanted; 0: from now. @free_data (may be NULL) frees what FOLLOW_KEEP took. */
void follow_init(struct follow *follow, uint64_t from, void (*free_data)(void *data));
void follow_deinit(struct follow *follow);

enum follow_verdict follow_live(struct follow *follow, const uint8_t *log_id, uint64_t seq,
				void *data);
void follow_heartbeat(struct follow *follow, const uint8_t *log_id, uint64_t last_seq);
/* Live messages may have been missed without a trace (silence, a new connection). */
void follow_suspect(struct follow *follow);
/* The kept event that is due now, for the caller to deliver and free; NULL: none. */
void *follow_take(struct follow *follow);
/* Events before the one that is delivered now are gone: told once. */
bool follow_take_truncated(struct follow *follow);

bool follow_wants_read(const struct follow *follow, uint64_t *ret_from);
void follow_read_begin(struct follow *follow);
/* False: it does not fit (any more); its events are passed over, and the read is over. */
bool follow_read_reply(struct follow *follow, const struct follow_reply *reply);
bool follow_read_event(struct follow *follow, uint64_t seq);
/* False: nothing further came. */
bool follow_read_end(struct follow *follow);
void follow_read_failed(struct follow *follow);
