#pragma once
/*
 * A log's frames as text: bytes come in pieces of any size, whole frames are
 * printed. No I/O but to the two files.
 */

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "schemas/log_frame.h"
#include "schemas/schema.h"

struct frames {
	FILE *out, *err;
	bool timestamps;      /* before each line */
	uint64_t since_ns;    /* nothing older; 0: all */
	uint64_t until_ns;    /* nothing newer; 0: all */
	uint64_t skip_lines;  /* so many line ends are left out first */
	uint64_t skip_bytes[_LOG_STREAM_MAX]; /* of a stream so many bytes are left out first: they were seen */
	/* of its own */
	uint64_t next_start;  /* what is below has been seen */
	bool has_begun, is_past_until;
	bool in_line[_LOG_STREAM_MAX];
	struct schema_buffer part; /* a frame that has not come whole */
};

/* Prints what is whole, once: frames that were seen already are left out. What was lost is said on @err. -EBADMSG: not
 * frames; -ENOMEM; -EIO: a file cannot be written. */
int frames_print(struct frames *frames, const void *data, size_t size);
/* What is behind the last whole frame is forgotten: reading goes on elsewhere. */
void frames_break(struct frames *frames);
void frames_deinit(struct frames *frames);
/* How many lines frames hold that are whole in @data, an unfinished last one included. */
uint64_t frames_count_lines(const void *data, size_t size);
