#pragma once
/*
 * Init's standard streams, opened here and given to the OCI runtime, which hands
 * them on (containerd's URIs, task_io). Empty: /dev/null. A path, or fifo://path:
 * a FIFO; for output it is opened for reading too, so that the death of a reader
 * kills nobody and a full FIFO blocks; for input only for reading, so that the
 * writer's end is seen. file:///path: appended to, its directories are made.
 * The shim keeps none of them.
 */

#include "broker/lib/error.h"
#include "schemas/messages.h"

enum {
	_STDIO_E_SUCCESS,
	STDIO_E_LATER,   /* begun: it goes on when what it needs is ready */
	STDIO_E_INVALID, /* no such kind of URI, or not a FIFO */
};

struct stdio {
	int fds[3];           /* owned */
	char *console_socket; /* owned; with a terminal, the descriptors are then not set */
};

/* @io may be NULL. @ret_stdio is set only on success. */
int stdio_open(const struct task_io *io, struct stdio *ret_stdio, struct why *why);
void stdio_close(struct stdio *stdio);
int stdio_open_null(int *ret_fd);
/* Stream 0, 1 or 2. */
int stdio_open_stream(const char *uri, int stream, int *ret_fd, struct why *why);
/* The path of a FIFO's URI; NULL: it is another one. */
const char *stdio_fifo(const char *uri);
/* What to tell of a failure of stdio_open(). */
static inline enum bus_status stdio_status(int r)
{
	return r == -ENOMEM || r == -ENOSPC || r == -EMFILE ? BUS_RESOURCE_EXHAUSTED
							    : BUS_INVALID_ARGUMENT;
}
