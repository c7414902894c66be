#pragma once
/*
 * The streams of one process, from before the OCI runtime makes it until it is
 * deleted. What is kept open meanwhile hangs at process->streams; for plain
 * streams (stdio.h) that is nothing.
 *
 * With a log or a terminal everything goes through here: output is read from FIFOs
 * in the bundle, or from the terminal, and written to the log, one frame a read;
 * clients (attach.h) are fed from the log. What the log does not take is kept, and
 * nothing more is read, so that the process waits; or it is dropped and counted.
 *
 * Another shim opens the same FIFOs again (streams_recover()), since they are
 * files; a terminal comes from who kept its master.
 */

#include <stdbool.h>
#include <sys/stat.h>

#include "broker/lib/error.h"
#include "broker/lib/loop.h"
#include "broker/lib/output_log.h"
#include "schemas/messages.h"
#include "shim/log_writer.h"
#include "shim/logger.h"
#include "shim/process.h"
#include "shim/stdio.h"
#include "shim/terminal.h"

struct client;

/* Where output comes from: a FIFO, or the terminal. */
struct source {
	struct loop_file file; /* not registered: it is not read now */
	struct streams *streams;
	int fd; /* -1: its end has come */
	enum log_stream stream;
};

/* What is typed, on its way to the process. */
struct input {
	struct loop_file file; /* registered while something waits */
	int fd;                /* -1: there is none, or it is closed */
	uint8_t *data;         /* what the process has not taken yet; NULL: nothing */
	size_t size, done;
	bool is_closing; /* when that is taken */
};

struct streams {
	struct process *process;
	bool is_terminal;
	bool awaits_terminal; /* which has not come yet */
	bool has_ended;       /* the process */

	struct log_writer log;
	struct output_log reader; /* of the same log, for the clients */
	struct source sources[2];

	/* While the log cannot be written: */
	int error; /* why; 0: it can */
	bool drops;
	uint64_t dropped;        /* bytes, since then */
	uint8_t *pending;        /* what was read last, when nothing is dropped */
	struct log_frame frame;  /* of that */
	struct loop_timer retry;
	uint64_t pause_ms;
	uint64_t works_ms; /* since when it works again */

	struct terminal terminal;
	struct input input;
	struct client *clients;
	size_t n_clients;
	struct logger *logger;
	struct loop_timer drained;
};

/* What the streams of all processes share. */
struct streaming {
	uint8_t *buffer; /* LOG_FRAME_MAX bytes; NULL while nothing happens */
	bool is_active;  /* something has happened since the timer was set */
	struct loop_timer rest;
	struct logger *loggers; /* closed, but not ended yet */
};

/* Begins what must be ready before the OCI runtime is called. STDIO_E_LATER: @fn will be called,
 * unless they are closed before. */
int streams_prepare(struct process *process, const struct task_io *io, logger_fn fn,
		    struct why *why);
/* Before the OCI runtime: what it is given. @io may be NULL. */
int streams_open(struct process *process, const struct task_io *io, struct stdio *ret_stdio,
		 struct why *why);
/* The process exists; the descriptors of streams_open() are closed. Fails when it should have sent a
 * terminal and has not. */
int streams_started(struct process *process, struct why *why);
/* The process was made by a shim that died: goes on with what is left. */
int streams_recover(struct process *process, const struct task_io *io, struct why *why);
/* Its exit is in the journal. */
void streams_process_ended(struct process *process);
/* Nothing that it wrote is still under way. When that becomes so after its end,
 * shim_streams_drained() is called (shim.h). */
bool streams_is_drained(const struct process *process);
/* Whether that is a FIFO that was made for this process alone. */
bool streams_owns(const struct process *process, const struct stat *file);
/* Closes all; what is not drained is lost. Safe on one that was never opened. */
void streams_close(struct process *process);

/* The process reads the end of its input. With a terminal, or without a log, nothing happens. */
void streams_close_input(struct process *process);
/* The master of the process' terminal, borrowed; -1: none. */
int streams_terminal(const struct process *process);
/* Takes @fd, the master that an earlier shim had. */
int streams_take_terminal(struct process *process, int fd, struct why *why);

/* ---- for attach.c ---- */
/* No output will come any more. */
bool streams_is_over(const struct streams *streams);
/* Something may have become drained. */
void streams_consider_drained(struct streams *streams);
/* Work is done: memory is given back some time after the last. NULL: memory is out. */
uint8_t *streams_buffer(struct streams *streams);
/* Passes what was typed; true: all was taken. Otherwise the rest (at most INPUT_MAX) is kept, and
 * clients_input_goes_on() is called when it is gone. */
#define INPUT_MAX 4096
bool streams_type(struct streams *streams, const void *data, size_t size);
/* True: nothing can be typed now. */
static inline bool streams_input_waits(const struct streams *streams)
{
	return streams->input.data || streams->awaits_terminal;
}

/* ---- for shim.c ---- */
/* Work was done a moment ago; memory is not given back yet. */
bool streaming_is_busy(const struct streaming *streaming);
void streaming_deinit(struct streaming *streaming);
