#pragma once
/*
 * The clients of a process' streams. Each has FIFOs of its own: stdout and stderr
 * are written from the log, each from its own place in it, so that a client that
 * does not read costs nothing and holds up nobody; stdin is read and passed to
 * the process. When the reader of an output is gone, so is that output; a client
 * without outputs and input is forgotten. At the end of the process' output each
 * FIFO is closed behind the last byte.
 *
 * Plain outputs get the bytes of the process and nothing else, also where a part
 * was rotated away or dropped. With `frames` all goes to stdout as frames of at
 * most PIPE_BUF bytes, each written whole, and what is missing as a frame
 * LOG_DROPPED (0 bytes: it is not known how many).
 */

#include "broker/lib/error.h"
#include "schemas/messages.h"

#define CLIENTS_MAX 32 /* of one process */

struct streams;

enum {
	_CLIENT_E_SUCCESS,
	CLIENT_E_INVALID,  /* what was asked for */
	CLIENT_E_TOO_MANY,
};

/* Opens the FIFOs of @request (exec_id is not looked at); that for input only if there is one to type into. @ret_position
 * (may be NULL): where its output starts. CLIENT_E_*, with a sentence. */
int client_attach(struct streams *streams, const struct shim_attach_request *request,
		  struct log_position *ret_position, struct why *why);
bool client_has_input(const struct streams *streams);
/* There is more in the log, or it is over. */
void clients_feed(struct streams *streams);
/* Typing may go on. */
void clients_input_goes_on(struct streams *streams);
/* Whether all have what there is. */
bool clients_are_fed(const struct streams *streams);
void clients_close(struct streams *streams);
