/*
 * create and start. Each step ends in a callback of the OCI runtime. A create
 * that fails is undone before it is answered.
 */

#include <stdio.h>
#include <string.h>
#include <sys/pidfd.h>

#include "broker/lib/log.h"
#include "shim/mounts.h"
#include "shim/preflight.h"
#include "shim/shim.h"
#include "shim/streams.h"

/* From criu's image files: it runs at once. */
static bool is_restore(const struct shim *shim)
{
	return shim->config.checkpoint && *shim->config.checkpoint;
}

/* ---- what goes wrong ----------------------------------------------------- */

static void create_undone(void *userdata, bool is_ok, const char *text)
{
	struct shim *shim = userdata;
	struct operation *operation = &shim->operation;
	struct journal_record record = {
		.kind = JOURNAL_FAILED,
		.request_id = {operation->request.id,
			       request_has_id(&operation->request) ? ID_SIZE : 0},
		.error = operation->text,
	};
	struct why why = {};

	if (!is_ok && text[0])
		log_warning("task=%s: undoing create: %s", shim->config.task_id, text);
	if (mounts_undo(shim->rootfs, &why))
		log_error("task=%s: %s", shim->config.task_id, why.text);
	cgroup_remove(shim->config.cgroup);
	if (journal_append(&shim->journal, &record))
		log_error("task=%s: its failure cannot be journaled", shim->config.task_id);
	streams_close(&shim->init);
	shim_move(shim, STATE_FAILED);
	shim_finish(shim, operation->status, operation->text ?: "out of memory", true);
}

/* What the OCI runtime may have left is killed and deleted, then the root unmounted. */
static void undo_create(struct shim *shim, enum bus_status status, const char *text)
{
	static const char *const force[] = {"--force", NULL};
	struct cgroup cgroup = {};
	struct why why = {};
	size_t count;

	shim->operation.status = status;
	shim->operation.text = text_format(
		"%s%s", text,
		shim->operation.may_have_started
			? "; whether it was started is not known, what there was is ended"
			: "");
	(void)cgroup_find(shim->config.cgroup, 0, &cgroup);
	(void)cgroup_signal(&cgroup, SIGKILL, 0, &count);
	cgroup_deinit(&cgroup);
	if (shim->operation.has_run && !runtime_call(&shim->runtime.container, "delete", force,
						     NULL, 0, create_undone, shim, &why))
		return;
	create_undone(shim, !why.text[0], why.text);
}

int shim_undo_create(struct shim *shim, const char *reason)
{
	const struct schema_method *method = schema_find_method("shim", "create");
	struct operation *operation = &shim->operation;

	*operation = (struct operation){.has_run = true,
					.may_have_started = shim->replay.create_starts};
	if (shim->replay.has_create_id)
		request_take_over(shim, &operation->request, method, shim->replay.create_id);
	else
		operation->request.method = method;
	shim_move(shim, STATE_CREATING);
	undo_create(shim, BUS_FAILED_PRECONDITION, reason);
	return 0;
}

/* Init's pid, from the file that the OCI runtime wrote. */
static int read_pid(struct shim *shim, int *ret_pid, struct why *why)
{
	_cleanup_(cleanup_free) char *path = runtime_pid_file(&shim->config);

	return path ? runtime_read_pid(path, ret_pid, why) : error_origin(-ENOMEM);
}

/* The journal says that init exists before anybody hears of it. */
static int journal_created(struct shim *shim, struct why *why)
{
	int r;

	r = shim_journal_created(shim, shim->operation.request.id);
	if (!r && shim->operation.start)
		r = shim_journal_started(shim, shim->operation.request.id);
	return r ? why_errno(why, r, "cannot write %s", shim->journal.path) : 0;
}

static void forget_init(struct shim *shim)
{
	process_forget(&shim->init);
	cgroup_deinit(&shim->cgroup);
}

static void take_created(struct shim *shim)
{
	struct why why = {};

	loop_timer_cancel(&shim->operation.timer);
	shim->operation.pid = 0;
	if (streams_started(&shim->init, &why) || journal_created(shim, &why)) {
		forget_init(shim);
		undo_create(shim, BUS_INTERNAL, why.text);
		return;
	}
	shim_move(shim, STATE_CREATED);
	if (shim->operation.start)
		shim_move(shim, STATE_RUNNING);
	shim_finish(shim, BUS_OK, "", true);
	/* Init may have ended by now; the caller of this goes on reaping. */
}

static void on_no_child(struct loop_timer *timer)
{
	struct shim *shim = container_of(timer, struct shim, operation.timer);
	char text[96];

	snprintf(text, sizeof(text), "the OCI runtime left process %d, which is not ours",
		 shim->operation.pid);
	shim->operation.pid = 0;
	undo_create(shim, BUS_INTERNAL, text);
}

bool shim_adopt_created(struct shim *shim)
{
	struct operation *operation = &shim->operation;
	char text[96];
	int r;

	if (!operation->pid)
		return false;
	r = shim_adopt(shim, operation->pid);
	if (r == -ECHILD && operation->timer.loop)
		return false;
	if (r == -ECHILD)
		r = loop_timer_set(shim->loop, &operation->timer, time_boot_ms() + SHIM_ADOPT_MS,
				   on_no_child)
			    ?: -ECHILD;
	if (r == -ECHILD)
		return false;
	if (!r) {
		take_created(shim);
		return true;
	}
	loop_timer_cancel(&operation->timer);
	snprintf(text, sizeof(text), "process %d, which the OCI runtime left: %s", operation->pid,
		 strerror(-r));
	operation->pid = 0;
	undo_create(shim, BUS_INTERNAL, text);
	return true;
}

static char *work_dir(const struct shim *shim)
{
	return text_format("%s/criu", shim->config.bundle);
}

/* What the OCI runtime said, and what criu did. */
static void undo_failed(struct shim *shim, const char *text)
{
	_cleanup_(cleanup_free) char *work = is_restore(shim) ? work_dir(shim) : NULL;
	char reason[WHY_SIZE];

	snprintf(reason, sizeof(reason), "%s", text);
	if (work)
		criu_add_reason(work, "restore.log", reason, sizeof(reason));
	undo_create(shim,
		    shim->runtime.container.timed_out ? BUS_DEADLINE_EXCEEDED
						      : BUS_FAILED_PRECONDITION,
		    reason);
}

static void on_created(void *userdata, bool is_ok, const char *text)
{
	struct shim *shim = userdata;
	struct why why = {};

	shim->operation.may_have_started = shim->operation.start &&
					   (is_ok || shim->runtime.container.timed_out);
	if (!is_ok) {
		undo_failed(shim, text);
	} else if (read_pid(shim, &shim->operation.pid, &why)) {
		undo_create(shim, BUS_INTERNAL, why.text);
	} else {
		(void)shim_adopt_created(shim);
	}
}

/* Where criu works, and what it is to be told. */
static int prepare_restore(struct shim *shim, char **ret_work, struct why *why)
{
	_cleanup_(cleanup_free) char *work = work_dir(shim);
	struct criu_stdio stdio;
	int r = work ? file_make_dir(work, 0700, why) : error_origin(-ENOMEM);

	r = r
	    ?: criu_read_stdio(shim->config.checkpoint, &stdio, why)
	    ?: criu_tell_restore(shim->config.bundle, &stdio, shim->config.cgroup, why);
	if (!r)
		*ret_work = TAKE(work);
	return r;
}

static const char *verb_of(const struct shim *shim)
{
	if (is_restore(shim))
		return "restore";
	return shim->operation.start ? "run" : "create";
}

static int run_create(struct shim *shim, const struct stdio *stdio, struct why *why)
{
	_cleanup_(cleanup_free) char *pid_file = runtime_pid_file(&shim->config), *work = NULL;
	const char *options[16];
	size_t n = 0;
	int r = pid_file ? 0 : error_origin(-ENOMEM);

	if (!r && is_restore(shim))
		r = prepare_restore(shim, &work, why);
	if (r)
		return r;
	(void)unlink(pid_file);
	if (shim->operation.start)
		options[n++] = "--detach";
	if (shim->config.no_pivot)
		options[n++] = "--no-pivot";
	if (work) {
		options[n++] = "--image-path";
		options[n++] = shim->config.checkpoint;
		options[n++] = "--work-path";
		options[n++] = work;
	}
	options[n++] = "--bundle";
	options[n++] = shim->config.bundle;
	options[n++] = "--pid-file";
	options[n++] = pid_file;
	if (stdio->console_socket) {
		options[n++] = "--console-socket";
		options[n++] = stdio->console_socket;
	}
	options[n] = NULL;
	r = runtime_call(&shim->runtime.container, verb_of(shim), options,
			 stdio->console_socket ? NULL : stdio->fds,
			 shim->operation.request.deadline_ms, on_created, shim, why);
	shim->operation.has_run = !r;
	return r;
}

/* In a user namespace of its own the container's root owns what is root's in the image. */
static int mount_root(struct shim *shim, struct why *why)
{
	_cleanup_(idmap_close) struct idmap idmap = {.userns = -1};
	const struct shim_config *config = &shim->config;
	bool is_mapped = config->uid_map && *config->uid_map && config->rootfs.count;
	int r = 0;

	if (is_mapped)
		r = idmap_open(config->uid_map, config->gid_map ?: "", config->bundle, &idmap, why);
	return r
		       ?: mounts_make(shim->rootfs, config->rootfs.items, config->rootfs.count,
				      is_mapped ? &idmap : NULL, why);
}

/* What the OCI runtime is called with. @ret_status: what to tell if it fails. */
static int open_and_run(struct shim *shim, enum bus_status *ret_status, struct why *why)
{
	_cleanup_(stdio_close) struct stdio stdio = {.fds = {-1, -1, -1}};
	int r;

	r = streams_open(&shim->init, shim->init.io, &stdio, why);
	if (r) {
		*ret_status = stdio_status(r);
		return r;
	}
	*ret_status = BUS_FAILED_PRECONDITION;
	return run_create(shim, &stdio, why);
}

static void on_prepared(struct process *process, const char *error)
{
	struct shim *shim = process->shim;
	enum bus_status status = BUS_FAILED_PRECONDITION;
	struct why why = {};
	int r;

	if (error) {
		undo_create(shim, status, error);
		return;
	}
	r = open_and_run(shim, &status, &why);
	if (r)
		undo_create(shim, status, why.text[0] ? why.text : strerror(r < 0 ? -r : EINVAL));
}

/* Everything up to the OCI runtime; STDIO_E_LATER: on_prepared() goes on. */
static int prepare(struct shim *shim, enum bus_status *ret_status, struct why *why)
{
	struct journal_record intent = {.kind = JOURNAL_INTENT,
					.request_id = {shim->operation.request.id, ID_SIZE},
					.start = shim->operation.start};
	int r;

	*ret_status = BUS_INTERNAL;
	r = journal_append(&shim->journal, &intent);
	if (r)
		return why_errno(why, r, "cannot write %s", shim->journal.path);
	*ret_status = BUS_FAILED_PRECONDITION;
	r = mount_root(shim, why);
	if (r)
		return r;
	*ret_status = BUS_INVALID_ARGUMENT;
	r = preflight_check(shim->config.bundle, why);
	if (r)
		return r;
	r = streams_prepare(&shim->init, shim->init.io, on_prepared, why);
	if (r)
		*ret_status = stdio_status(r);
	return r;
}

void shim_method_create(struct shim *shim, const struct shim_create_request *request,
			const struct call *call)
{
	struct why why = {};
	enum bus_status status;
	int r;

	if (!shim_begin(shim, call))
		return;
	if (shim->state != STATE_NEW || shim->is_cleanup) {
		shim_finish(shim, BUS_FAILED_PRECONDITION, "the task is there already", false);
		return;
	}
	shim->operation.start = request->start || is_restore(shim);
	shim_move(shim, STATE_CREATING);
	r = prepare(shim, &status, &why);
	if (!r)
		r = open_and_run(shim, &status, &why);
	if (r && r != STDIO_E_LATER)
		undo_create(shim, status, why.text[0] ? why.text : strerror(r < 0 ? -r : EINVAL));
}

/* ---- start --------------------------------------------------------------- */

/* Whether it runs is not known, or cannot be written down: it shall not. */
static void start_failed(struct shim *shim, enum bus_status status, const char *text, bool kill_it)
{
	if (kill_it)
		(void)pidfd_send_signal(shim->init.pidfd, SIGKILL, NULL, 0);
	shim_move(shim, STATE_CREATED);
	shim_finish(shim, status, text, true);
}

static void on_started(void *userdata, bool is_ok, const char *text)
{
	struct shim *shim = userdata;

	if (!is_ok) {
		start_failed(shim,
			     shim->runtime.container.timed_out ? BUS_DEADLINE_EXCEEDED
							       : BUS_FAILED_PRECONDITION,
			     text, shim->runtime.container.timed_out);
		return;
	}
	if (shim_journal_started(shim, shim->operation.request.id)) {
		start_failed(shim, BUS_ABORTED,
			     "its start cannot be journaled: it was started, and is ended", true);
		return;
	}
	shim_move(shim, STATE_RUNNING);
	shim_finish(shim, BUS_OK, "", true);
}

void shim_method_start(struct shim *shim, const struct empty *request, const struct call *call)
{
	static const char *const none[] = {NULL};
	struct journal_record intent = {.kind = JOURNAL_INTENT,
					.request_id = {(uint8_t *)call->id, ID_SIZE}};
	struct why why = {};
	int r;

	(void)request;
	if (is_restore(shim) && shim->state == STATE_RUNNING && !shim_is_busy(shim)) {
		request_answer(
			shim, call, BUS_OK, "",
			&(struct shim_pid_reply){(uint64_t)shim->init.pid, shim->init.start_time});
		return;
	}
	if (shim->state != STATE_CREATED && !shim_is_busy(shim)) {
		request_refuse(shim, call, BUS_FAILED_PRECONDITION,
			       "container '%s' is %s, not created", shim->config.container_id,
			       shim->state == STATE_STOPPED ? "stopped: init has ended"
							    : state_name(shim->state));
		return;
	}
	if (!shim_begin(shim, call))
		return;
	r = journal_append(&shim->journal, &intent);
	if (r) {
		shim_finish(shim, BUS_INTERNAL, "its start cannot be journaled", false);
		return;
	}
	shim_move(shim, STATE_STARTING);
	r = runtime_call(&shim->runtime.container, "start", none, NULL,
			 shim->operation.request.deadline_ms, on_started, shim, &why);
	if (r)
		start_failed(shim, BUS_INTERNAL, why.text[0] ? why.text : strerror(-r), false);
}
