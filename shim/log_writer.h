#pragma once
/*
 * Writing the log of a process' output: frames (schemas/log_frame.h) in files
 * <directory>/1, 2, 3 …; one that would grow beyond its limit is followed by the
 * next, and the oldest beyond the number of files is removed. Nothing is synced:
 * a log outlives processes, not the host.
 *
 * A frame is in the log whole or not at all: what a write leaves of one is cut
 * off, and what a killed shim left, by the next one.
 */

#include <stdint.h>

#include "broker/lib/error.h"
#include "schemas/log_frame.h"
#include "schemas/messages.h"

#define LOG_SIZE_DEFAULT  (10u << 20)
#define LOG_SIZE_MIN      4096u
#define LOG_FILES_DEFAULT 3

struct log_writer {
	int dir, fd;     /* -1: not open */
	uint64_t file;   /* the one being written */
	uint64_t oldest; /* that is kept */
	uint64_t offset; /* in the file */
	uint64_t output; /* bytes of output before that place, dropped ones included */
	uint64_t max_size, max_files;
};
#define LOG_WRITER_NULL {.dir = -1, .fd = -1}

/* Makes the directory. @limits: NULL for the defaults. What lies there is gone on with, if it @goes_on,
 * and removed otherwise. */
int log_writer_open(struct log_writer *writer, const char *directory, const struct task_log *limits,
		    bool goes_on, struct why *why);
void log_writer_close(struct log_writer *writer);
/* Fills in the frame's start. On failure (-ENOSPC …) the log is as before. */
int log_writer_append(struct log_writer *writer, struct log_frame *frame);
/* Whether there is room for the largest frame, so that a log that was full does not fill up at once. */
int log_writer_make_room(struct log_writer *writer);
/* So many bytes of data has a frame at most. */
size_t log_writer_data_max(const struct log_writer *writer);
