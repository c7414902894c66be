/* The methods that tell, and what those that change the whole container share. */

#include <string.h>

#include "broker/lib/log.h"
#include "shim/shim.h"

struct process *shim_find_process(struct shim *shim, const char *exec_id)
{
	if (!exec_id || !*exec_id || !strcmp(exec_id, shim->config.container_id))
		return &shim->init;
	return processes_find(&shim->added, exec_id);
}

struct process *shim_find_asked(struct shim *shim, const char *exec_id, const struct call *call)
{
	struct process *process = shim_find_process(shim, exec_id);

	if (!process)
		request_refuse(shim, call, BUS_NOT_FOUND, "container '%s' has no process '%s'",
			       shim->config.container_id, exec_id);
	return process;
}

/* ---- an operation -------------------------------------------------------- */

bool shim_begin(struct shim *shim, const struct call *call)
{
	if (shim_is_busy(shim)) {
		request_refuse(shim, call, BUS_ABORTED, "task %s: a %s is under way",
			       shim->config.task_id, shim->operation.request.method->name);
		return false;
	}
	shim->operation = (struct operation){};
	request_begin(shim, &shim->operation.request, call);
	return true;
}

/* The reply of each follows from the state. */
void shim_finish(struct shim *shim, enum bus_status status, const char *text, bool is_final)
{
	struct shim_pid_reply process = {(uint64_t)shim->init.pid, shim->init.start_time};
	struct shim_delete_reply deleted = {(uint64_t)shim->init.pid,
					    shim->init.has_exit ? &shim->init.exit : NULL};
	static const struct empty nothing;
	struct operation *operation = &shim->operation;
	const struct schema_message *reply = operation->request.method->reply();
	const void *message = &nothing;

	if (reply == schema_shim_pid_reply())
		message = &process;
	else if (reply == schema_shim_delete_reply())
		message = &deleted;
	loop_timer_cancel(&operation->timer);
	request_finish(shim, &operation->request, status, text, message, is_final);
	free(operation->text); /* which @text may be */
	free(operation->work);
	*operation = (struct operation){};
	shim_consider_end(shim);
}

/* ---- hello and state ----------------------------------------------------- */

void shim_method_hello(struct shim *shim, const struct shim_hello_request *request,
		       const struct call *call)
{
	struct connection *connection = control_connection(&shim->control, call);
	static char program[] = "davit-shim " DAVIT_VERSION;
	struct shim_hello_reply reply = {
		/* The older of the two. */
		.protocol = request->protocol < CONTROL_PROTOCOL ? request->protocol
								 : CONTROL_PROTOCOL,
		.pid = (uint64_t)getpid(),
		.task_id = shim->config.task_id,
		.program = program,
		.journal_seq = shim->journal.last_seq,
	};

	if (!request->protocol) {
		request_refuse(shim, call, BUS_INVALID_ARGUMENT,
			       "there is no protocol 0; this shim speaks 1");
		return;
	}
	connection->has_greeted = true;
	connection->watches = request->watch;
	control_answer(&shim->control, call, BUS_OK, "", &reply);
}

void shim_method_state(struct shim *shim, const struct empty *request, const struct call *call)
{
	struct shim_state_reply reply = {
		.status = state_status(shim->state),
		.pid = (uint64_t)shim->init.pid,
		.start_time = shim->init.start_time,
		.exit = shim->init.has_exit ? &shim->init.exit : NULL,
		.unpublished = shim->journal.last_seq - shim->journal.acked_seq,
	};

	(void)request;
	control_answer(&shim->control, call, BUS_OK, "", &reply);
}
