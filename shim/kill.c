/* A signal to a process, or to all of the container. Its request is journaled before it is sent. */

#include <stdio.h>
#include <string.h>
#include <sys/pidfd.h>

#include "shim/shim.h"

/* ---- kill ---------------------------------------------------------------- */

int shim_signal(struct shim *shim, int signal, bool all)
{
	size_t count = 0;
	int r;

	if (all && shim->cgroup.procs) {
		r = cgroup_signal(&shim->cgroup, signal, 0, &count);
		if (!r && count)
			return 0;
	}
	return pidfd_send_signal(shim->init.pidfd, signal, NULL, 0) ? -errno : 0;
}

static void kill_init(struct shim *shim, const struct shim_kill_request *request,
		      const struct call *call)
{
	struct journal_record record = {
		.kind = JOURNAL_KILL,
		.signal = request->signal,
		.pid = (uint64_t)shim->init.pid,
		.request_id = {(uint8_t *)call->id, ID_SIZE},
	};
	static const struct empty nothing;
	enum bus_status status = BUS_OK;
	char text[ENVELOPE_NAME_MAX + 128] = "";
	int r;

	r = journal_append(&shim->journal, &record);
	if (r) {
		request_refuse(shim, call, BUS_INTERNAL, "cannot write %s: %s", shim->journal.path,
			       strerror(-r));
		return;
	}
	r = shim_signal(shim, (int)request->signal, request->all);
	if (r) {
		status = r == -ESRCH ? BUS_NOT_FOUND : BUS_INTERNAL;
		snprintf(text, sizeof(text), "container '%s': signal %d: %s",
			 shim->config.container_id, (int)request->signal,
			 r == -ESRCH ? "its process has ended" : strerror(-r));
	}
	request_answer(shim, call, status, text, &nothing);
}

void shim_method_kill(struct shim *shim, const struct shim_kill_request *request,
		      const struct call *call)
{
	const char *id = shim->config.container_id;

	if (request->exec_id && *request->exec_id && strcmp(request->exec_id, id))
		request_refuse(shim, call, BUS_NOT_FOUND, "container '%s' has no process '%s'", id,
			       request->exec_id);
	else if (!request->signal)
		request_refuse(shim, call, BUS_INVALID_ARGUMENT,
			       "container '%s': there is no signal 0", id);
	else if (shim->state == STATE_NEW || shim->state == STATE_CREATING)
		request_refuse(shim, call, BUS_FAILED_PRECONDITION, "container '%s' is %s", id,
			       state_name(shim->state));
	else if (!state_is_alive(shim->state))
		request_refuse(shim, call, BUS_NOT_FOUND,
			       "container '%s' is %s: its process has ended", id,
			       state_name(shim->state));
	else
		kill_init(shim, request, call);
}
