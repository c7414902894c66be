/* resize, close_io and attach: what callers do with the streams of a process. */

#include <string.h>

#include "shim/attach.h"
#include "shim/shim.h"
#include "shim/streams.h"

/* NULL: answered. */
void shim_method_resize(struct shim *shim, const struct shim_resize_request *request,
			const struct call *call)
{
	struct process *process = shim_find_asked(shim, request->exec_id, call);
	int r;

	if (!process)
		return;
	if (!process->streams || !process->streams->is_terminal) {
		request_refuse(shim, call, BUS_FAILED_PRECONDITION, "process '%s' has no terminal",
			       process->id);
		return;
	}
	r = terminal_resize(&process->streams->terminal, request->width, request->height);
	if (r == -ENOTTY)
		request_refuse(shim, call, BUS_FAILED_PRECONDITION,
			       "the terminal of process '%s' is closed", process->id);
	else if (r)
		request_refuse(shim, call, BUS_INTERNAL, "the terminal of process '%s': %s",
			       process->id, strerror(-r));
	else
		request_answer(shim, call, BUS_OK, "", &(struct empty){});
}

void shim_method_close_io(struct shim *shim, const struct shim_process_request *request,
			  const struct call *call)
{
	struct process *process = shim_find_asked(shim, request->exec_id, call);

	if (!process)
		return;
	if (process->streams && process->streams->is_terminal) {
		request_refuse(shim, call, BUS_FAILED_PRECONDITION,
			       "process '%s' has a terminal, whose input has no end: type its "
			       "end-of-file character",
			       process->id);
		return;
	}
	/* Without a log there is nothing to close: the end of the caller's own FIFO is the end. */
	streams_close_input(process);
	request_answer(shim, call, BUS_OK, "", &(struct empty){});
}

void shim_method_attach(struct shim *shim, const struct shim_attach_request *request,
			const struct call *call)
{
	struct process *process = shim_find_asked(shim, request->exec_id, call);
	struct log_position position = {};
	struct task_attach_reply reply = {.position = &position};
	struct why why = {};
	int r;

	if (!process)
		return;
	if (!process->streams || process->streams->log.fd < 0) {
		request_refuse(shim, call, BUS_FAILED_PRECONDITION,
			       "process '%s' has neither log nor terminal: its streams are those "
			       "that it was made with",
			       process->id);
		return;
	}
	reply.ended = streams_is_over(process->streams);
	r = client_attach(process->streams, request, &position, &why);
	reply.terminal = process->streams->is_terminal;
	reply.no_input = request->stdin && request->stdin[0] && !client_has_input(process->streams);
	if (r)
		request_refuse(shim, call,
			       r == CLIENT_E_TOO_MANY ? BUS_RESOURCE_EXHAUSTED
						      : BUS_INVALID_ARGUMENT,
			       "%s", why.text);
	else
		request_answer(shim, call, BUS_OK, "", &reply);
}
