/*
 * A signal to a process, or to all of the container. Its request is journaled before it is sent, as one
 * of which that is not known, and again when it was.
 */

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/pidfd.h>

#include "broker/lib/log.h"
#include "shim/shim.h"

static char uncertain[] = "its shim died: whether the signal was sent is not known";

int shim_signal(struct shim *shim, int signal, bool all)
{
	size_t count = 0;
	int r = 0;

	if (all && shim->cgroup.procs)
		r = cgroup_signal(&shim->cgroup, signal, 0, &count);
	if (shim->init.pidfd < 0)
		return count ? 0 : -ESRCH;
	/* No other signal may come twice. */
	if (!count || (r && signal == SIGKILL))
		r = pidfd_send_signal(shim->init.pidfd, signal, NULL, 0) ? -errno : 0;
	/* What is frozen dies when it is let go on. */
	if (!r && signal == SIGKILL)
		shim_thaw_to_die(shim);
	return r;
}

static int send_signal(struct shim *shim, const struct process *process,
		       const struct shim_kill_request *request)
{
	if (process == &shim->init || request->all)
		return shim_signal(shim, (int)request->signal, request->all);
	if (pidfd_send_signal(process->pidfd, (int)request->signal, NULL, 0))
		return -errno;
	/* v2 kills what it has frozen, v1 only what goes on. */
	if (request->signal == SIGKILL && !shim->cgroup.is_v2)
		shim_thaw_to_die(shim);
	return 0;
}

/* A SIGKILL that the shim before this one may have sent, to a process that has ended since. */
static bool is_uncertain(const struct shim *shim, const struct call *call)
{
	return shim->replay.has_kill_id && !memcmp(shim->replay.kill_id, call->id, ID_SIZE);
}

static void kill_process(struct shim *shim, const struct process *process,
			 const struct shim_kill_request *request, const struct call *call)
{
	struct journal_record record = {
		.kind = JOURNAL_KILL,
		.process = (char *)process->id,
		.signal = request->signal,
		.pid = (uint64_t)process->pid,
		.request_id = {(uint8_t *)call->id, ID_SIZE},
	};
	static const struct empty nothing;
	enum bus_status status = BUS_OK;
	char text[ENVELOPE_NAME_MAX + 128] = "";
	int r;

	record.error = uncertain;
	r = journal_append(&shim->journal, &record);
	record.error = NULL;
	if (r) {
		request_refuse(shim, call, BUS_INTERNAL, "cannot write %s: %s", shim->journal.path,
			       strerror(-r));
		return;
	}
	r = send_signal(shim, process, request);
	if (r == -ESRCH && is_uncertain(shim, call)) {
		/* Its end is on its way to us. */
		status = BUS_ABORTED;
		snprintf(text, sizeof(text), "%s", uncertain);
	} else if (r) {
		status = r == -ESRCH ? BUS_NOT_FOUND : BUS_INTERNAL;
		snprintf(text, sizeof(text), "process '%s': signal %d: %s", process->id,
			 (int)request->signal, r == -ESRCH ? "it has ended" : strerror(-r));
	} else if (journal_append(&shim->journal, &record)) {
		log_warning("%s cannot be written", shim->journal.path);
	}
	request_answer(shim, call, status, text, &nothing);
}

static void refuse_init(struct shim *shim, const struct call *call)
{
	bool is_early = shim->state == STATE_NEW || shim->state == STATE_CREATING;

	if (is_uncertain(shim, call))
		request_refuse(shim, call, BUS_ABORTED, "%s", uncertain);
	else if (is_early)
		request_refuse(shim, call, BUS_FAILED_PRECONDITION, "container '%s' is %s",
			       shim->config.container_id, state_name(shim->state));
	else
		request_refuse(shim, call, BUS_NOT_FOUND,
			       "container '%s': process already finished",
			       shim->config.container_id);
}

static void refuse_added(struct shim *shim, const struct process *process, const struct call *call)
{
	bool is_early = process->state == PROCESS_ADDED || process->state == PROCESS_STARTING;

	if (is_uncertain(shim, call))
		request_refuse(shim, call, BUS_ABORTED, "%s", uncertain);
	else if (is_early)
		request_refuse(shim, call, BUS_FAILED_PRECONDITION,
			       "process '%s' of container '%s' is %s", process->id,
			       shim->config.container_id, process_state_name(process->state));
	else
		request_refuse(shim, call, BUS_NOT_FOUND,
			       "process '%s' of container '%s': process already finished",
			       process->id, shim->config.container_id);
}

void shim_method_kill(struct shim *shim, const struct shim_kill_request *request,
		      const struct call *call)
{
	const char *id = shim->config.container_id;
	const struct process *process = shim_find_process(shim, request->exec_id);

	if (!process)
		request_refuse(shim, call, BUS_NOT_FOUND, "container '%s' has no process '%s'", id,
			       request->exec_id);
	else if (!request->signal)
		request_refuse(shim, call, BUS_INVALID_ARGUMENT,
			       "container '%s': there is no signal 0", id);
	else if (process == &shim->init && (!state_is_alive(shim->state) || process->pidfd < 0))
		refuse_init(shim, call);
	else if (process != &shim->init &&
		 (process->state != PROCESS_RUNNING || process->pidfd < 0))
		refuse_added(shim, process, call);
	else
		kill_process(shim, process, request, call);
}
