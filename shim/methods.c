/*
 * The methods of schemas/shim.def. create, start and delete are operations of
 * several steps, one at a time: each step ends in a callback of the OCI runtime
 * or in init's end. Repeated requests join what runs, or get the answer again.
 */

#include <stdio.h>
#include <string.h>
#include <sys/pidfd.h>

#include "broker/lib/log.h"
#include "shim/mounts.h"
#include "shim/preflight.h"
#include "shim/shim.h"
#include "shim/stdio.h"

#define ADOPT_MS 5000  /* within which init becomes our child */
#define DEATH_MS 10000 /* within which a process that got SIGKILL should end */

/* ---- answers ------------------------------------------------------------- */

static void refuse(struct shim *shim, const struct call *call, enum bus_status status,
		   const char *format, ...) __attribute__((format(printf, 4, 5)));

static void refuse(struct shim *shim, const struct call *call, enum bus_status status,
		   const char *format, ...)
{
	char text[ENVELOPE_TEXT_MAX + 1];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	control_answer(&shim->control, call, status, text, NULL);
}

/* What a method answers follows from the state, so it need not be kept. */
static void answer(struct shim *shim, const struct call *call, enum bus_status status,
		   const char *text)
{
	struct shim_pid_reply process = {(uint64_t)shim->init.pid, shim->init.start_time};
	struct shim_delete_reply deleted = {(uint64_t)shim->init.pid,
					    shim->has_exit ? &shim->exit : NULL};
	static const struct empty nothing;
	const void *message = &nothing;

	if (call->method->reply() == schema_shim_pid_reply())
		message = &process;
	else if (call->method->reply() == schema_shim_delete_reply())
		message = &deleted;
	control_answer(&shim->control, call, status, text, status == BUS_OK ? message : NULL);
}

static bool repeats_answer(struct shim *shim, const struct call *call)
{
	const struct answer *kept = answers_find(&shim->answers, call->id);

	if (!kept)
		return false;
	/* The start of a create that was asked to start is journaled under the same id. */
	if (kept->method != call->method || (kept->body_crc && kept->body_crc != call->body_crc))
		refuse(shim, call, BUS_INVALID_ARGUMENT,
		       "this request id was used for another request (shim.%s)",
		       kept->method->name);
	else
		answer(shim, call, kept->status, kept->text ?: "");
	return true;
}

bool shim_is_repeated(struct shim *shim, const struct call *call, bool mutates)
{
	struct operation *operation = &shim->operation;

	if (!mutates)
		return false;
	if (repeats_answer(shim, call))
		return true;
	if (!operation->method || memcmp(operation->id, call->id, ID_SIZE))
		return false;
	if (strcmp(operation->method, call->method->name) || operation->body_crc != call->body_crc)
		refuse(shim, call, BUS_INVALID_ARGUMENT,
		       "this request id was used for another request (shim.%s)", operation->method);
	else if (operation->n_waiters == SHIM_WAITERS)
		refuse(shim, call, BUS_RESOURCE_EXHAUSTED, "too many wait for this request");
	else
		operation->waiters[operation->n_waiters++] = *call;
	return true;
}

/* False: refused, another one is under way. */
static bool begin(struct shim *shim, const struct call *call)
{
	struct operation *operation = &shim->operation;

	if (operation->method) {
		refuse(shim, call, BUS_ABORTED, "task %s: a %s is under way", shim->config.task_id,
		       operation->method);
		return false;
	}
	*operation = (struct operation){.method = call->method->name,
					.body_crc = call->body_crc,
					.deadline_ms = call->deadline_ms,
					.waiters = {*call},
					.n_waiters = 1};
	memcpy(operation->id, call->id, ID_SIZE);
	return true;
}

void shim_finish(struct shim *shim, enum bus_status status, const char *text, bool is_final)
{
	struct operation operation = shim->operation;
	const struct schema_method *method = schema_find_method("shim", operation.method);

	loop_timer_cancel(&shim->operation.timer);
	shim->operation = (struct operation){};
	if (is_final && operation.n_waiters)
		answers_add(&shim->answers, method, operation.id, operation.body_crc, status, text);
	for (size_t i = 0; i < operation.n_waiters; i++)
		answer(shim, &operation.waiters[i], status, text);
	free(operation.text);
	shim_consider_end(shim);
}

/* ---- hello and state ----------------------------------------------------- */

void shim_method_hello(struct shim *shim, const struct shim_hello_request *request,
		       const struct call *call)
{
	struct connection *connection = control_connection(&shim->control, call);
	static char program[] = "davit-shim " DAVIT_VERSION;
	struct shim_hello_reply reply = {
		.protocol = CONTROL_PROTOCOL,
		.pid = (uint64_t)getpid(),
		.task_id = shim->config.task_id,
		.program = program,
		.journal_seq = shim->journal.last_seq,
	};

	if (!request->protocol) {
		refuse(shim, call, BUS_INVALID_ARGUMENT,
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
		.exit = shim->has_exit ? &shim->exit : NULL,
		.unpublished = shim->journal.last_seq - shim->journal.acked_seq,
	};

	(void)request;
	control_answer(&shim->control, call, BUS_OK, "", &reply);
}

/* ---- create -------------------------------------------------------------- */

static void create_undone(void *userdata, bool is_ok, const char *text)
{
	struct shim *shim = userdata;
	struct operation *operation = &shim->operation;
	struct journal_record record = {
		.kind = JOURNAL_FAILED,
		.request_id = {operation->id, operation->n_waiters ? ID_SIZE : 0},
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
	shim->operation.text = strdup(text);
	(void)cgroup_find(shim->config.cgroup, 0, &cgroup);
	(void)cgroup_signal(&cgroup, SIGKILL, 0, &count);
	cgroup_deinit(&cgroup);
	if (shim->operation.has_run &&
	    !runtime_call(&shim->runtime, "delete", force, NULL, 0, create_undone, shim, &why))
		return;
	create_undone(shim, !why.text[0], why.text);
}

int shim_undo_create(struct shim *shim, const char *reason)
{
	shim->operation = (struct operation){.method = "create", .has_run = true};
	shim_move(shim, STATE_CREATING);
	undo_create(shim, BUS_FAILED_PRECONDITION, reason);
	return 0;
}

/* Init's pid, from the file that the OCI runtime wrote. */
static int read_pid(struct shim *shim, int *ret_pid, struct why *why)
{
	_cleanup_(cleanup_free) char *path = runtime_pid_file(&shim->config), *text = NULL;
	long pid;
	int r;

	if (!path)
		return error_origin(-ENOMEM);
	r = file_read(AT_FDCWD, path, 64, &text, NULL);
	if (r)
		return why_errno(why, r, "the OCI runtime wrote no pid: %s", path);
	pid = strtol(text, NULL, 10);
	if (pid <= 1 || pid > INT32_MAX)
		return why_set(why, -EINVAL, "%s holds no pid", path);
	*ret_pid = (int)pid;
	return 0;
}

/* The journal says that init exists before anybody hears of it. */
static int journal_created(struct shim *shim, struct why *why)
{
	int r;

	r = shim_journal_created(shim, shim->operation.id);
	if (!r && shim->operation.start)
		r = shim_journal_started(shim, shim->operation.id);
	return r ? why_errno(why, r, "cannot write %s", shim->journal.path) : 0;
}

static void forget_init(struct shim *shim)
{
	shim->init.pidfd = close_fd(shim->init.pidfd);
	cgroup_deinit(&shim->init.cgroup);
	shim->init.pid = 0;
	shim->init.start_time = 0;
}

static void take_created(struct shim *shim)
{
	struct why why = {};

	loop_timer_cancel(&shim->operation.timer);
	shim->operation.pid = 0;
	if (journal_created(shim, &why)) {
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
	r = shim_adopt(shim, operation->pid, 0);
	if (r == -ECHILD && operation->timer.loop)
		return false;
	if (r == -ECHILD)
		r = loop_timer_set(shim->loop, &operation->timer, time_boot_ms() + ADOPT_MS,
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

static void on_created(void *userdata, bool is_ok, const char *text)
{
	struct shim *shim = userdata;
	struct why why = {};

	if (!is_ok) {
		undo_create(shim,
			    shim->runtime.timed_out ? BUS_DEADLINE_EXCEEDED
						    : BUS_FAILED_PRECONDITION,
			    text);
	} else if (read_pid(shim, &shim->operation.pid, &why)) {
		undo_create(shim, BUS_INTERNAL, why.text);
	} else {
		(void)shim_adopt_created(shim);
	}
}

static int run_create(struct shim *shim, const struct stdio *stdio, struct why *why)
{
	_cleanup_(cleanup_free) char *pid_file = runtime_pid_file(&shim->config);
	const char *options[8];
	size_t n = 0;
	int r;

	if (!pid_file)
		return error_origin(-ENOMEM);
	(void)unlink(pid_file);
	if (shim->operation.start)
		options[n++] = "--detach";
	if (shim->config.no_pivot)
		options[n++] = "--no-pivot";
	options[n++] = "--bundle";
	options[n++] = shim->config.bundle;
	options[n++] = "--pid-file";
	options[n++] = pid_file;
	options[n] = NULL;
	r = runtime_call(&shim->runtime, shim->operation.start ? "run" : "create", options,
			 stdio->fds, shim->operation.deadline_ms, on_created, shim, why);
	shim->operation.has_run = !r;
	return r;
}

/* Everything up to the OCI runtime. @ret_status: what to tell if it fails. */
static int prepare_and_run(struct shim *shim, enum bus_status *ret_status, struct why *why)
{
	_cleanup_(stdio_close) struct stdio stdio = {{-1, -1, -1}};
	struct journal_record intent = {.kind = JOURNAL_INTENT,
					.request_id = {shim->operation.id, ID_SIZE}};
	int r;

	*ret_status = BUS_INTERNAL;
	r = journal_append(&shim->journal, &intent);
	if (r)
		return why_errno(why, r, "cannot write %s", shim->journal.path);
	*ret_status = BUS_FAILED_PRECONDITION;
	r = mounts_make(shim->rootfs, shim->config.rootfs.items, shim->config.rootfs.count, why);
	if (r)
		return r;
	*ret_status = BUS_INVALID_ARGUMENT;
	r = preflight_check(shim->config.bundle, why);
	if (r)
		return r;
	r = stdio_open(shim->config.io, &stdio, why);
	if (r) {
		*ret_status = r == STDIO_E_NOT_IMPLEMENTED ? BUS_NOT_IMPLEMENTED
							   : BUS_INVALID_ARGUMENT;
		return r;
	}
	*ret_status = BUS_FAILED_PRECONDITION;
	return run_create(shim, &stdio, why);
}

void shim_method_create(struct shim *shim, const struct shim_create_request *request,
			const struct call *call)
{
	struct why why = {};
	enum bus_status status;
	int r;

	if (!begin(shim, call))
		return;
	if (shim->state != STATE_NEW || shim->is_cleanup) {
		shim_finish(shim, BUS_FAILED_PRECONDITION, "the task is there already", false);
		return;
	}
	shim->operation.start = request->start;
	shim_move(shim, STATE_CREATING);
	r = prepare_and_run(shim, &status, &why);
	if (r)
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
			     shim->runtime.timed_out ? BUS_DEADLINE_EXCEEDED
						     : BUS_FAILED_PRECONDITION,
			     text, shim->runtime.timed_out);
		return;
	}
	if (shim_journal_started(shim, shim->operation.id)) {
		start_failed(shim, BUS_INTERNAL, "its start cannot be journaled", true);
		return;
	}
	shim_move(shim, STATE_RUNNING);
	shim_finish(shim, BUS_OK, "", true);
}

void shim_method_start(struct shim *shim, const struct empty *request, const struct call *call)
{
	static const char *const none[] = {NULL};
	struct why why = {};
	int r;

	(void)request;
	if (shim->state != STATE_CREATED && !shim->operation.method) {
		refuse(shim, call, BUS_FAILED_PRECONDITION, "container '%s' is %s, not created",
		       shim->config.container_id,
		       shim->state == STATE_STOPPED ? "stopped: init has ended"
						    : state_name(shim->state));
		return;
	}
	if (!begin(shim, call))
		return;
	shim_move(shim, STATE_STARTING);
	r = runtime_call(&shim->runtime, "start", none, NULL, shim->operation.deadline_ms,
			 on_started, shim, &why);
	if (r)
		start_failed(shim, BUS_INTERNAL, why.text[0] ? why.text : strerror(-r), false);
}

/* ---- kill ---------------------------------------------------------------- */

/* -ESRCH: nobody is left. */
static int send_signal(struct shim *shim, int signal, bool all)
{
	size_t count = 0;
	int r;

	if (all && shim->init.cgroup.procs) {
		r = cgroup_signal(&shim->init.cgroup, signal, 0, &count);
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
	enum bus_status status = BUS_OK;
	char text[ENVELOPE_NAME_MAX + 128] = "";
	int r;

	r = journal_append(&shim->journal, &record);
	if (r) {
		refuse(shim, call, BUS_INTERNAL, "cannot write %s: %s", shim->journal.path,
		       strerror(-r));
		return;
	}
	r = send_signal(shim, (int)request->signal, request->all);
	if (r) {
		status = r == -ESRCH ? BUS_NOT_FOUND : BUS_INTERNAL;
		snprintf(text, sizeof(text), "container '%s': signal %d: %s",
			 shim->config.container_id, (int)request->signal,
			 r == -ESRCH ? "its process has ended" : strerror(-r));
	}
	answers_add(&shim->answers, call->method, call->id, call->body_crc, status, text);
	answer(shim, call, status, text);
}

void shim_method_kill(struct shim *shim, const struct shim_kill_request *request,
		      const struct call *call)
{
	const char *id = shim->config.container_id;

	if (request->exec_id && *request->exec_id && strcmp(request->exec_id, id))
		refuse(shim, call, BUS_NOT_FOUND, "container '%s' has no process '%s'", id,
		       request->exec_id);
	else if (!request->signal)
		refuse(shim, call, BUS_INVALID_ARGUMENT, "container '%s': there is no signal 0",
		       id);
	else if (shim->state == STATE_NEW || shim->state == STATE_CREATING)
		refuse(shim, call, BUS_FAILED_PRECONDITION, "container '%s' is %s", id,
		       state_name(shim->state));
	else if (!state_is_alive(shim->state))
		refuse(shim, call, BUS_NOT_FOUND, "container '%s' is %s: its process has ended", id,
		       state_name(shim->state));
	else
		kill_init(shim, request, call);
}

/* ---- delete -------------------------------------------------------------- */

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

static void finish_delete(struct shim *shim)
{
	struct why why = {};

	if (shim_journal_deleted(shim, shim->operation.id)) {
		delete_failed(shim, BUS_INTERNAL, "its deletion cannot be journaled");
		return;
	}
	if (mounts_undo(shim->rootfs, &why))
		log_error("task=%s: %s", shim->config.task_id, why.text);
	shim_move(shim, STATE_DELETED);
	shim_finish(shim, BUS_OK, "", true);
}

static void run_delete(struct shim *shim);

static void on_deleted(void *userdata, bool is_ok, const char *text)
{
	struct shim *shim = userdata;

	if (is_ok || is_forgotten(shim)) {
		if (shim->operation.force || !is_ok)
			cgroup_remove(shim->config.cgroup);
		finish_delete(shim);
	} else if (!shim->operation.force) {
		shim->operation.force = true;
		run_delete(shim);
	} else {
		delete_failed(shim, shim->runtime.timed_out ? BUS_DEADLINE_EXCEEDED : BUS_INTERNAL,
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
		(void)cgroup_signal(&shim->init.cgroup, SIGKILL, 0, &count);
	r = runtime_call(&shim->runtime, "delete", shim->operation.force ? force : none, NULL,
			 shim->operation.deadline_ms, on_deleted, shim, &why);
	if (r)
		delete_failed(shim, BUS_INTERNAL, why.text[0] ? why.text : strerror(-r));
}

void shim_delete_goes_on(struct shim *shim)
{
	struct operation *operation = &shim->operation;

	if (!operation->method || strcmp(operation->method, "delete") ||
	    shim->state != STATE_STOPPED)
		return;
	loop_timer_cancel(&operation->timer);
	shim_move(shim, STATE_DELETING);
	run_delete(shim);
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
	uint64_t limit_ms = time_boot_ms() + DEATH_MS;
	int r;

	if (shim->operation.deadline_ms && shim->operation.deadline_ms < limit_ms)
		limit_ms = shim->operation.deadline_ms;
	r = send_signal(shim, SIGKILL, true);
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
		refuse(shim, call, BUS_NOT_FOUND, "container '%s' is deleted already", id);
		return;
	}
	if ((shim->state == STATE_RUNNING || shim->state == STATE_LOST) && !request->force) {
		refuse(shim, call, BUS_FAILED_PRECONDITION,
		       "container '%s' is running: kill it first, or use force", id);
		return;
	}
	if (!begin(shim, call))
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

/* ---- not there yet ------------------------------------------------------- */

#define ABSENT(name_, request_)                                                                    \
	void shim_method_##name_(struct shim *shim, const struct request_ *request,                \
				 const struct call *call)                                          \
	{                                                                                          \
		(void)request;                                                                     \
		refuse(shim, call, BUS_NOT_IMPLEMENTED, "shim." #name_ " is not there yet");      \
	}
ABSENT(exec, shim_exec_request)
ABSENT(exec_start, shim_process_request)
ABSENT(exec_delete, shim_process_request)
ABSENT(processes, empty)
ABSENT(resize, shim_resize_request)
ABSENT(close_io, shim_process_request)
ABSENT(attach, shim_attach_request)
ABSENT(pause, empty)
ABSENT(resume, empty)
ABSENT(update, shim_update_request)
ABSENT(checkpoint, task_checkpoint_request)
ABSENT(descriptors, shim_process_request)
ABSENT(adopt, shim_adopt_request)
