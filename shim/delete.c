/*
 * delete: what still lives is killed, its output awaited for a moment, then the
 * OCI runtime's delete, the journal, the root. One that fails can be asked again.
 * Where a delete is sure to come (auto_remove), the OCI runtime's part begins at
 * init's end, while who asks for the delete hears of that; if it fails, nobody is
 * told and the delete does it again.
 */

#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "broker/lib/log.h"
#include "shim/mounts.h"
#include "shim/shim.h"
#include "shim/streams.h"

static void delete_failed(struct shim *shim, enum bus_status status, const char *text)
{
	if (shim->state == STATE_DELETING)
		shim_move(shim, STATE_STOPPED);
	/* It may be asked again. */
	shim_finish(shim, status, text, false);
}

/* Whether the OCI runtime still knows the container. */
static bool is_forgotten(const struct shim *shim)
{
	_cleanup_(cleanup_free) char *path = text_format("%s/%s", shim->config.oci_root,
							 shim->config.task_id);

	return path && access(path, F_OK) && errno == ENOENT;
}

/* The event of the deletion is the last of a task, so what streams still have to tell comes before. */
static void close_streams(struct shim *shim)
{
	for (struct process *process = shim->added.first; process; process = process->next)
		streams_close(process);
	streams_close(&shim->init);
}

/* What will be removed need not be on the disk before; nor what is kept of it, after a forced removal with keep_snapshot. */
static void unmount(struct shim *shim)
{
	struct why why = {};
	int r = shim->config.auto_remove ? mounts_leave(shim->rootfs, &why)
					 : mounts_undo(shim->rootfs, &why);

	if (r)
		log_error("task=%s: %s", shim->config.task_id, why.text);
}

static void finish_delete(struct shim *shim)
{
	close_streams(shim);
	if (shim_journal_deleted(shim, shim->operation.request.id)) {
		delete_failed(shim, BUS_INTERNAL, "its deletion cannot be journaled");
		return;
	}
	unmount(shim);
	shim_move(shim, STATE_DELETED);
	shim_finish(shim, BUS_OK, "", true);
}

static void run_delete(struct shim *shim);

/* Whether the OCI runtime has let go of it. One that was forced to may have left the cgroup. */
static bool is_let_go(struct shim *shim, bool is_ok, bool force)
{
	if (!is_ok && !is_forgotten(shim))
		return false;
	if (force || !is_ok)
		cgroup_remove(shim->config.cgroup);
	return true;
}

static void on_deleted(void *userdata, bool is_ok, const char *text)
{
	struct shim *shim = userdata;

	if (is_let_go(shim, is_ok, shim->operation.force)) {
		finish_delete(shim);
	} else if (!shim->operation.force) {
		shim->operation.force = true;
		run_delete(shim);
	} else {
		delete_failed(shim,
			      shim->runtime.container.timed_out ? BUS_DEADLINE_EXCEEDED
								: BUS_INTERNAL,
			      text);
	}
}

static void run_delete(struct shim *shim)
{
	static const char *const force[] = {"--force", NULL}, *const none[] = {NULL};
	struct why why = {};
	size_t count;
	int r;

	if (shim->operation.force)
		(void)cgroup_signal(&shim->cgroup, SIGKILL, 0, &count);
	r = runtime_call(&shim->runtime.container, "delete", shim->operation.force ? force : none,
			 NULL, shim->operation.request.deadline_ms, on_deleted, shim, &why);
	if (r)
		delete_failed(shim, BUS_INTERNAL, why.text[0] ? why.text : strerror(-r));
}

/* ---- before it is asked for ---------------------------------------------- */

static void on_early(void *userdata, bool is_ok, const char *text)
{
	struct shim *shim = userdata;

	(void)text;
	shim->early = is_let_go(shim, is_ok, false) ? EARLY_DONE : EARLY_NONE;
	if (shim->early == EARLY_DONE)
		unmount(shim);
	shim_delete_goes_on(shim);
}

void shim_delete_begins(struct shim *shim)
{
	static const char *const none[] = {NULL};

	if (!shim->config.auto_remove || shim->state != STATE_STOPPED || shim_is_busy(shim) ||
	    shim->runtime.container.pid)
		return;
	if (!runtime_call(&shim->runtime.container, "delete", none, NULL, 0, on_early, shim, NULL))
		shim->early = EARLY_UNDER_WAY;
}

/* True: it comes back when the OCI runtime has ended. */
static bool waits_for_early(struct shim *shim)
{
	const uint64_t deadline_ms = shim->operation.request.deadline_ms, now = time_boot_ms();

	if (shim->early != EARLY_UNDER_WAY)
		return false;
	if (deadline_ms)
		runtime_hurry(&shim->runtime.container, deadline_ms > now ? deadline_ms - now : 0);
	return true;
}

/* ---- when it is ---------------------------------------------------------- */

static bool is_drained(const struct shim *shim)
{
	for (const struct process *process = shim->added.first; process; process = process->next)
		if (!streams_is_drained(process))
			return false;
	return streams_is_drained(&shim->init);
}

static void on_not_drained(struct loop_timer *timer)
{
	struct shim *shim = container_of(timer, struct shim, operation.timer);

	log_warning("task=%s: its output has not ended: what is left of it is lost",
		    shim->config.task_id);
	shim->operation.has_waited = true;
	shim_delete_goes_on(shim);
}

/* Whoever holds the other ends may keep them for ever. */
static bool waits_for_output(struct shim *shim)
{
	uint64_t ms = shim->config.stdio_wait_ms ?: SHIM_DRAIN_MS;

	if (shim->operation.has_waited || is_drained(shim))
		return false;
	return !loop_timer_set(shim->loop, &shim->operation.timer, time_boot_ms() + ms,
			       on_not_drained);
}

void shim_delete_goes_on(struct shim *shim)
{
	struct operation *operation = &shim->operation;

	if (!shim_is_busy(shim) || strcmp(operation->request.method->name, "delete") ||
	    shim->state != STATE_STOPPED)
		return;
	loop_timer_cancel(&operation->timer);
	if (waits_for_output(shim) || waits_for_early(shim))
		return;
	shim_move(shim, STATE_DELETING);
	if (shim->early == EARLY_DONE)
		finish_delete(shim);
	else
		run_delete(shim);
}

void shim_streams_drained(struct process *process)
{
	if (process != &process->shim->init)
		shim_exec_delete_goes_on(process);
	shim_delete_goes_on(process->shim);
}

static void on_no_death(struct loop_timer *timer)
{
	struct shim *shim = container_of(timer, struct shim, operation.timer);
	char text[ENVELOPE_NAME_MAX + 64];

	snprintf(text, sizeof(text), "container '%s' does not end after SIGKILL",
		 shim->config.container_id);
	delete_failed(shim, BUS_DEADLINE_EXCEEDED, text);
}

static void kill_then_delete(struct shim *shim)
{
	uint64_t limit_ms = time_boot_ms() + SHIM_DEATH_MS;
	int r;

	if (shim->operation.request.deadline_ms && shim->operation.request.deadline_ms < limit_ms)
		limit_ms = shim->operation.request.deadline_ms;
	r = shim_signal(shim, SIGKILL, true);
	if (!r || r == -ESRCH) /* its end comes by itself */
		r = loop_timer_set(shim->loop, &shim->operation.timer, limit_ms, on_no_death);
	if (r)
		delete_failed(shim, BUS_INTERNAL, strerror(-r));
}

void shim_method_delete(struct shim *shim, const struct shim_delete_request *request,
			const struct call *call)
{
	const char *id = shim->config.container_id;

	if (shim->state == STATE_DELETED) {
		request_refuse(shim, call, BUS_NOT_FOUND, "container '%s' is deleted already", id);
		return;
	}
	if (state_is_alive(shim->state) && shim->state != STATE_CREATED &&
	    shim->state != STATE_STARTING && !request->force) {
		request_refuse(shim, call, BUS_FAILED_PRECONDITION,
			       "container '%s' is %s: kill it first, or use force", id,
			       state_name(shim->state));
		return;
	}
	if (!shim_begin(shim, call))
		return;
	/* What another shim's OCI runtime was doing when it died is not known. */
	shim->operation.force = shim->is_cleanup;
	if (shim->state == STATE_NEW || shim->state == STATE_FAILED) {
		shim_move(shim, STATE_DELETED);
		shim_finish(shim, BUS_OK, "", true);
	} else if (shim->state == STATE_STOPPED) {
		shim_delete_goes_on(shim);
	} else {
		kill_then_delete(shim);
	}
}
