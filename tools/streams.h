#pragma once
/*
 * The standard streams of a process as its client has them: FIFOs that are made
 * here, handed to the service by path, and copied to and from our own streams on
 * a loop. Output is read to the end of file. The FIFOs' directory is removed with
 * the streams. One implementation for run, start, exec, attach and logs.
 */

#include "broker/lib/error.h"
#include "broker/lib/loop.h"
#include "schemas/messages.h"
#include "tools/detach_keys.h"

struct streams;

struct streams_options {
	const char *directory; /* <directory>/<random>/<id>-stdin, -stdout, -stderr are made */
	const char *id;
	bool terminal;    /* no -stderr */
	bool output_only; /* no -stdin */
	bool input_only;  /* only -stdin */
	const struct detach_keys *keys; /* looked for in the input; NULL: none */
	/* Optional. */
	void (*on_detach)(void *userdata);    /* the keys were typed; nothing more is copied in */
	void (*on_input_end)(void *userdata); /* once: all of our stdin is in the FIFO */
	/* All output has come to its end. True: it goes on, streams_renew() was called. */
	bool (*on_output_end)(void *userdata);
	/* Instead of our stdout. */
	void (*on_output)(void *userdata, const void *data, size_t size);
	void *userdata;
};

/* @options are borrowed until the call returns, but for keys; @io is filled in. */
int streams_new(struct loop *loop, const struct streams_options *options, struct task_io *io,
		struct streams **ret_streams, struct why *why);
struct streams *streams_free(struct streams *streams);
void streams_freep(struct streams **streams);
/* A directory for FIFOs, <directory>/<random>; the task service removes one under the state directory an hour after
 * its lock has gone, if no task names it. */
int streams_make_directory(const char *directory, char **ret_directory, int *ret_lock_fd,
			   struct why *why);
/* Only makes the FIFOs, and leaves them there. */
int streams_make_fifos(const struct streams_options *options, struct task_io *io, struct why *why);
/* Removes the FIFOs' names: both sides have them open, and nobody needs them by name again. */
void streams_unlink(struct streams *streams);
/* Nobody reads it: our stdin is left alone. Before streams_start(). */
void streams_drop_input(struct streams *streams);
/* Starts copying: to be called when the process runs. */
int streams_start(struct streams *streams);
/* How much has come on stdout (0) or stderr (1). */
uint64_t streams_output_size(const struct streams *streams, int output);
/*
 * Other FIFOs take the place of those whose other side is gone; @io is filled in as by streams_new(), without stderr.
 * What was typed and not read goes along; output is given to @on_output from now on.
 */
int streams_renew(struct streams *streams, const char *directory,
		  void (*on_output)(void *userdata, const void *data, size_t size),
		  struct task_io *io, struct why *why);
/* Calls @done when all output has come, at the latest when none has come for @limit_ms; UINT64_MAX: no limit. */
void streams_finish(struct streams *streams, uint64_t limit_ms, void (*done)(void *userdata),
		    void *userdata);
