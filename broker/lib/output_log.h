#pragma once
/*
 * Reading the log of a process' output: frames (schemas/log_frame.h) in files
 * <directory>/1, 2, 3 …, of which the oldest are removed while others are read.
 * A place in it is a struct log_position; file 0 means the oldest that is kept.
 *
 * Readers never wait and take no lock. A frame that is being written, the torn
 * tail that a killed writer left, and damaged bytes end the log, or its file: what
 * is missing before the next one is told as what was rotated away is.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "broker/lib/error.h"
#include "schemas/log_frame.h"
#include "schemas/messages.h"

struct output_log {
	int dir;
	int fd; /* of `file`, the one that was read last, kept open; -1: none */
	uint64_t file;
};
#define OUTPUT_LOG_NULL {.dir = -1, .fd = -1}

struct output_log_read {
	size_t size;       /* bytes, whole frames */
	bool at_end;       /* there is no more now */
	bool is_truncated; /* between the position and these frames some are gone */
};

enum {
	_OUTPUT_LOG_E_SUCCESS,
	OUTPUT_LOG_E_POSITION, /* no frame starts there */
};

/* -ENOENT: there is no such directory. */
int output_log_open(struct output_log *log, const char *directory, struct why *why);
void output_log_close(struct output_log *log);
/* Closes the file that is kept open, so that one that was removed is not held. */
void output_log_forget(struct output_log *log);

/* Lowest and highest number of a file; -ENOENT: there is none. */
int output_log_files(const struct output_log *log, uint64_t *ret_oldest, uint64_t *ret_newest);
/* As many whole frames as @buffer (at least LOG_FRAME_MAX) has room for, from @position on, which
 * moves behind them. Without any file the log is at its end. OUTPUT_LOG_E_*. */
int output_log_read(struct output_log *log, struct log_position *position, uint8_t *buffer,
		    size_t size, struct output_log_read *ret_read);
/* As output_log_read(), from the last @lines lines on; the first frame holds no more than that, so
 * it may be only the end of one that is in the log. Lines are counted as they stand in the log,
 * whatever their streams; one that is not ended counts. @ret_position: read on from there. */
int output_log_tail(struct output_log *log, uint64_t lines, uint8_t *buffer, size_t size,
		    struct log_position *ret_position, struct output_log_read *ret_read);
/* Where the whole frames of @file end, and the output before that place; scans the file. */
int output_log_scan(struct output_log *log, uint64_t file, uint64_t *ret_offset,
		    uint64_t *ret_output);
