#pragma once
/*
 * How far one thread is with blobs that pass by one after the other: told on the
 * channel a few times a second, and at the end. Whoever cannot be told is no reason to fail.
 */

#include "services/image/work/channel.h"

struct meter {
	int channel;           /* -1: nobody is told */
	int source;            /* its position is how far all is; -1: what has passed is */
	bool is_running;       /* the last item of the note */
	struct work_note note; /* offset and total are of the whole */
	uint64_t told_ms;
};

#define METER(own_channel)                                                                         \
	(struct meter){.channel = (own_channel), .source = -1, .note = {.kind = NOTE_PROGRESS}}

/* @fd: of an archive that is read; if it is a file, its size is the total. */
void meter_measure(struct meter *meter, int fd);
/* The next blob; @digest NULL: it has no name yet, and only counts. */
int meter_begin(struct meter *meter, const char *digest, uint64_t total);
void meter_move(struct meter *meter, size_t size);
/* It has passed; one that is not what its name says is not told of. */
void meter_end(struct meter *meter, bool is_good);
/* A blob that is done; once, however often it is named. */
int meter_done(struct meter *meter, const char *digest, uint64_t total);
void meter_tell(struct meter *meter);
void meter_clear(struct meter *meter);
