#pragma once
/*
 * A process in the foreground: its streams and terminal, our signals passed on,
 * its exit awaited. Used by run, start, exec and attach.
 *
 * With a terminal our own is in raw mode while the process runs, its size follows
 * ours, and the detach keys end this command and nothing else; signals that are
 * sent to this command then end it too, as with ctr. Without, they are passed on.
 */

#include "tools/command.h"
#include "tools/io_options.h"

struct foreground;

struct foreground_options {
	const char *id;      /* container */
	const char *exec_id; /* an added process; NULL: init */
	const struct io_options *io;
	bool terminal;
	bool attach;    /* it runs already: its terminal is drawn anew, and nothing is deleted afterwards */
	bool no_stdin;  /* our input stays ours */
};

/* Makes the streams (none with null I/O or a log URI) and notes where the event log ends, before anything starts. With a
 * terminal nothing that is typed from now on is echoed, or ours. An exit code, after saying why. @options are borrowed
 * for the life. */
int foreground_new(struct context *context, const struct foreground_options *options,
		   struct foreground **ret_foreground);
struct foreground *foreground_free(struct foreground *foreground);
void foreground_freep(struct foreground **foreground);
/* A copy of the streams' places for the request; @ret_io stays NULL with null I/O. */
int foreground_io(struct foreground *foreground, struct task_io **ret_io);
/* The process has no input (any more): what is typed stays ours. */
void foreground_drop_input(struct foreground *foreground);
/* Its output begins there in the process' log; otherwise at the log's beginning. */
void foreground_starts_at(struct foreground *foreground, const struct log_position *position);
/*
 * The process runs, as @pid (0: it did before) and part of task @task_id (NULL: not known): copies and waits. Returns its exit code, or 0 when the
 * detach keys were typed. Afterwards the task or the added process is deleted; with @until_removed it waits instead
 * until the service has removed the container of @uid.
 */
int foreground_run(struct foreground *foreground, uint64_t pid, const char *uid,
		   const char *task_id, bool until_removed);
