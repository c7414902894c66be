#pragma once
/*
 * <bundle>/journal: what happened, in order, and the outbox of its events.
 * An entry is u32 LE size, u32 LE CRC32C of the record, the packed record
 * (journal_record in schemas/shim.def), appended by one write(2) and not synced:
 * it outlives processes, not the host. A torn tail is cut off when the file is
 * opened. Entries with a topic are events and carry the publisher's number.
 *
 * When the file passes JOURNAL_COMPACT_SIZE it is written anew without what
 * nobody needs: older acknowledgements, all but the last JOURNAL_KILLS kills, added
 * processes that were forgotten, and events from which no state follows, if the
 * broker has them.
 */

#include <stdbool.h>
#include <stdint.h>

#include "broker/lib/error.h"
#include "schemas/messages.h"

#define JOURNAL_COMPACT_SIZE (256u << 10)
#define JOURNAL_MAX          (8u << 20) /* a larger file is not ours */
#define JOURNAL_KILLS        128 /* two entries for each */

struct journal {
	int fd;
	char *path;
	uint64_t size;
	uint64_t compact_at; /* size at which it is written anew */
	uint64_t last_seq;   /* number of the last event */
	uint64_t acked_seq;  /* the broker has all up to here */
};

typedef int (*journal_fn)(void *userdata, const struct journal_record *record);

/* Opens or creates; @fn (may be NULL) sees every entry that is there, in order; its failure ends
 * the opening. */
int journal_open(struct journal *journal, const char *path, journal_fn fn, void *userdata,
		 struct why *why);
/* NULL-safe only in the sense that a zeroed journal with fd -1 may be given. */
void journal_deinit(struct journal *journal);
/* Appends; fills in time_ns if 0, and seq if it is an event. On failure the file is as before. */
int journal_append(struct journal *journal, struct journal_record *record);
/* Walks all entries again; a positive value of @fn ends the walk and is returned. */
int journal_walk(struct journal *journal, journal_fn fn, void *userdata);
/* Events wait for the broker. */
static inline bool journal_is_unpublished(const struct journal *journal)
{
	return journal->acked_seq < journal->last_seq;
}
