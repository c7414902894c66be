/* pause, resume and update: one call of the OCI runtime each. */

#include <stdio.h>
#include <string.h>

#include "broker/lib/log.h"
#include "shim/shim.h"

static const char *const no_options[] = {NULL};

static enum bus_status status_of_failure(const struct shim *shim)
{
	return shim->runtime.container.timed_out ? BUS_DEADLINE_EXCEEDED : BUS_FAILED_PRECONDITION;
}

#define IN(state) (1u << STATE_##state)

/* False: refused; @states are those in which it can be done. */
static bool begin(struct shim *shim, const struct call *call, unsigned states)
{
	if (!shim_is_busy(shim) && !(states & 1u << shim->state)) {
		request_refuse(shim, call, BUS_FAILED_PRECONDITION, "container '%s' is %s",
			       shim->config.container_id, state_name(shim->state));
		return false;
	}
	return shim_begin(shim, call);
}

/* ---- pause --------------------------------------------------------------- */

/* Init may have ended meanwhile: then nothing can be frozen, and nothing goes on. */
static void end_in(struct shim *shim, enum state state, enum bus_status status, const char *text)
{
	if (state_may_move(shim->state, state)) {
		shim_move(shim, state);
		shim_finish(shim, status, text, true);
	} else {
		shim_finish(shim, BUS_FAILED_PRECONDITION, "init has ended", true);
	}
}

static void on_paused(void *userdata, bool is_ok, const char *text)
{
	struct shim *shim = userdata;
	bool is_alive = shim->state == STATE_PAUSING;

	/* One that was cut short may have frozen it. */
	if (!is_ok && shim->runtime.container.was_cut)
		(void)cgroup_thaw(&shim->cgroup);
	if (!is_ok) {
		end_in(shim, STATE_RUNNING, status_of_failure(shim), text);
	} else if (is_alive &&
		   shim_journal_state(shim, JOURNAL_PAUSED, shim->operation.request.id)) {
		(void)cgroup_thaw(&shim->cgroup);
		end_in(shim, STATE_RUNNING, BUS_INTERNAL, "its pause cannot be journaled");
	} else {
		end_in(shim, STATE_PAUSED, BUS_OK, "");
	}
}

static int journal_intent(struct shim *shim)
{
	return shim_journal_process(&shim->init, JOURNAL_STATE_INTENT, shim->operation.request.id,
				    NULL);
}

static bool is_pausing(const struct shim *shim)
{
	return shim_is_busy(shim) && !strcmp(shim->operation.request.method->name, "pause");
}

void shim_pause_goes_on(struct shim *shim)
{
	struct why why = {};
	int r;

	if (!is_pausing(shim) || shim->runtime.container.pid)
		return;
	if (shim->state != STATE_PAUSING) {
		end_in(shim, STATE_PAUSED, BUS_OK, "");
		return;
	}
	if (shim_exec_count_starting(shim))
		return;
	if (journal_intent(shim)) {
		end_in(shim, STATE_RUNNING, BUS_INTERNAL, "its pause cannot be journaled");
		return;
	}
	r = runtime_call(&shim->runtime.container, "pause", no_options, NULL,
			 shim->operation.request.deadline_ms, on_paused, shim, &why);
	if (r)
		end_in(shim, STATE_RUNNING, BUS_INTERNAL, why.text[0] ? why.text : strerror(-r));
}

/* A process that is being made would be frozen half-way, with the OCI runtime that makes it. */
void shim_method_pause(struct shim *shim, const struct empty *request, const struct call *call)
{
	(void)request;
	if (!begin(shim, call, IN(RUNNING)))
		return;
	shim_move(shim, STATE_PAUSING);
	shim_pause_goes_on(shim);
}

/* ---- resume -------------------------------------------------------------- */

static void on_resumed(void *userdata, bool is_ok, const char *text)
{
	struct shim *shim = userdata;

	if (!is_ok) {
		end_in(shim, STATE_PAUSED, status_of_failure(shim), text);
		return;
	}
	/* It runs, whether that can be written down or not. */
	if (shim->state == STATE_RESUMING &&
	    shim_journal_state(shim, JOURNAL_RESUMED, shim->operation.request.id))
		log_error("task=%s: it goes on, which cannot be journaled", shim->config.task_id);
	end_in(shim, STATE_RUNNING, BUS_OK, "");
}

void shim_method_resume(struct shim *shim, const struct empty *request, const struct call *call)
{
	struct why why = {};
	int r;

	(void)request;
	if (!begin(shim, call, IN(PAUSED)))
		return;
	shim_move(shim, STATE_RESUMING);
	if (journal_intent(shim)) {
		end_in(shim, STATE_PAUSED, BUS_INTERNAL, "it cannot be journaled that it goes on");
		return;
	}
	r = runtime_call(&shim->runtime.container, "resume", no_options, NULL,
			 shim->operation.request.deadline_ms, on_resumed, shim, &why);
	if (r)
		end_in(shim, STATE_PAUSED, BUS_INTERNAL, why.text[0] ? why.text : strerror(-r));
}

void shim_thaw_to_die(struct shim *shim)
{
	if (shim->state != STATE_PAUSED || cgroup_thaw(&shim->cgroup))
		return;
	if (shim_journal_state(shim, JOURNAL_RESUMED, NULL))
		log_error("task=%s: it goes on, which cannot be journaled", shim->config.task_id);
	shim_move(shim, STATE_RUNNING);
}

/* ---- update -------------------------------------------------------------- */

static void on_updated(void *userdata, bool is_ok, const char *text)
{
	struct shim *shim = userdata;
	_cleanup_(cleanup_free) char *path = TAKE(shim->operation.text);

	/* Another shim has no file to do it again. */
	if (shim_journal_process(&shim->init, JOURNAL_UPDATED, shim->operation.request.id,
				 is_ok ? NULL : text))
		log_error("task=%s: that its limits were changed cannot be journaled",
			  shim->config.task_id);
	if (path)
		(void)unlink(path);
	shim_finish(shim, is_ok ? BUS_OK : status_of_failure(shim), text, true);
}

void shim_method_update(struct shim *shim, const struct shim_update_request *request,
			const struct call *call)
{
	const char *options[] = {"--resources", NULL, NULL};
	struct why why = {};
	int r = -ENOMEM;

	if (strchr(request->resources_file, '/') || request->resources_file[0] == '.' ||
	    !request->resources_file[0]) {
		request_refuse(shim, call, BUS_INVALID_ARGUMENT, "'%s' is no file's name",
			       request->resources_file);
		return;
	}
	if (!begin(shim, call, IN(CREATED) | IN(RUNNING) | IN(PAUSED)))
		return;
	shim->operation.text = text_format("%s/%s", shim->config.bundle, request->resources_file);
	options[1] = shim->operation.text;
	if (options[1])
		r = runtime_call(&shim->runtime.container, "update", options, NULL,
				 shim->operation.request.deadline_ms, on_updated, shim, &why);
	if (r)
		shim_finish(shim, BUS_INTERNAL, why.text[0] ? why.text : strerror(-r), true);
}
