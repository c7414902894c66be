/*
 * Added processes: exec, exec_start, exec_delete, processes. Many are made at
 * once, each by a call of the OCI runtime of its own; those beyond RUNTIME_EXECS
 * wait for their turn. The intent is journaled before the call: one whose call
 * did not end by itself is of unknown fate and is never run again.
 */

#include <stdio.h>
#include <string.h>
#include <sys/pidfd.h>

#include "broker/lib/log.h"
#include "schemas/check.h"
#include "shim/preflight.h"
#include "shim/shim.h"
#include "shim/streams.h"

static char cause_uncertain[] = "start-uncertain";

/* ---- names --------------------------------------------------------------- */

static char *pid_file(const struct process *process)
{
	return text_format("%s/exec-%s.pid", process->shim->config.bundle, process->id);
}

static char *process_file(const struct process *process)
{
	return text_format("%s/%s", process->shim->config.bundle, process->file);
}

static void remove_file(char *path)
{
	if (path)
		(void)unlink(path);
	free(path);
}

int shim_exec_read_pid(const struct process *process, int *ret_pid, struct why *why)
{
	_cleanup_(cleanup_free) char *path = pid_file(process);

	return path ? runtime_read_pid(path, ret_pid, why) : error_origin(-ENOMEM);
}

/* ---- answers ------------------------------------------------------------- */

static void finish(struct process *process, enum bus_status status, const char *text, bool is_final)
{
	struct shim_pid_reply started = {(uint64_t)process->pid, process->start_time};
	struct shim_exec_reply added = {(uint64_t)process->pid, process->start_time};
	struct request *request = &process->request;
	const void *message = &started;

	loop_timer_cancel(&process->timer);
	if (request->method && request->method->reply() == schema_shim_exec_reply())
		message = &added;
	if (request->method)
		request_finish(process->shim, request, status, text, message, is_final);
}

/* Before its caller hears of its end: who adds it again writes them again. */
static void remove_files(const struct process *process)
{
	remove_file(process_file(process));
	remove_file(pid_file(process));
}

/* ---- a start that fails -------------------------------------------------- */

/* Nothing runs. One that was added only to be started goes with its failure. */
static void start_failed(struct process *process, enum bus_status status, const char *text)
{
	struct shim *shim = process->shim;
	const struct request *request = &process->request;
	bool goes = request->method && !strcmp(request->method->name, "exec");

	process->pid = 0;
	if (shim_journal_process(process, JOURNAL_EXEC_FAILED, request->id, text) ||
	    (goes && shim_journal_process(process, JOURNAL_EXEC_DELETED, NULL, NULL)))
		log_error("task=%s: the failure of process %s cannot be journaled",
			  shim->config.task_id, process->id);
	if (goes)
		remove_files(process);
	else
		remove_file(pid_file(process));
	process_move(process, PROCESS_FAILED);
	streams_close(process);
	finish(process, status, text, true);
	if (goes)
		processes_remove(&shim->added, process);
	shim_pause_goes_on(shim);
}

/* It may run, or have run; what can be found of it is killed, and its end is on record. */
static void start_uncertain(struct process *process, enum bus_status status, const char *text)
{
	char said[WHY_SIZE + 64];
	int pid;

	if (process->pidfd < 0 && !shim_exec_read_pid(process, &pid, NULL))
		(void)process_identify(process, pid, 0, true);
	if (process->pidfd >= 0)
		(void)pidfd_send_signal(process->pidfd, SIGKILL, NULL, 0);
	process->is_child = false;
	process_set_unknown_exit(process, cause_uncertain);
	process_move(process, PROCESS_RUNNING);
	snprintf(said, sizeof(said), "%s; whether it was started is not known", text);
	finish(process, status, said, true);
	remove_file(pid_file(process));
	shim_pause_goes_on(process->shim);
	/* The caller goes on reaping, and writes its end down. */
}

/* ---- a start ------------------------------------------------------------- */

static void started(struct process *process)
{
	struct shim *shim = process->shim;
	struct why why = {};

	loop_timer_cancel(&process->timer);
	process->oom_kills = cgroup_oom_kills(&shim->cgroup);
	if (streams_started(process, &why)) {
		start_uncertain(process, BUS_INTERNAL, why.text);
		return;
	}
	if (shim_journal_exec_started(process, process->request.id)) {
		start_uncertain(process, BUS_INTERNAL, "its start cannot be journaled");
		return;
	}
	process_move(process, PROCESS_RUNNING);
	remove_file(pid_file(process));
	finish(process, BUS_OK, "", true);
	shim_pause_goes_on(shim);
}

static void on_no_child(struct loop_timer *timer)
{
	struct process *process = container_of(timer, struct process, timer);
	struct shim *shim = process->shim;

	start_uncertain(process, BUS_INTERNAL, "the OCI runtime left a process that is not ours");
	shim_reap(shim);
}

/* The OCI runtime's own process is its parent until that ends, a moment later. True: settled. */
static bool identify(struct process *process)
{
	int r;

	r = process_identify(process, process->pid, 0, true);
	if (r == -ECHILD && process->timer.loop)
		return false;
	if (r == -ECHILD && !loop_timer_set(process->shim->loop, &process->timer,
					    time_boot_ms() + SHIM_ADOPT_MS, on_no_child))
		return false;
	if (r)
		start_uncertain(process, BUS_INTERNAL, "its process is gone");
	else
		started(process);
	return true;
}

bool shim_exec_identify(struct shim *shim)
{
	struct process *process, *next;
	bool is_any = false;

	for (process = shim->added.first; process; process = next) {
		next = process->next;
		if (process->state == PROCESS_STARTING && !process->call && process->pid)
			is_any |= identify(process);
	}
	return is_any;
}

static void on_made(void *userdata, bool is_ok, const char *text)
{
	struct process *process = userdata;
	struct shim *shim = process->shim;
	struct runtime_call *call = TAKE(process->call);
	struct why why = {};

	if (call->was_cut)
		start_uncertain(process,
				call->timed_out ? BUS_DEADLINE_EXCEEDED : BUS_FAILED_PRECONDITION,
				text);
	else if (!is_ok)
		start_failed(process, BUS_FAILED_PRECONDITION, text);
	else if (shim_exec_read_pid(process, &process->pid, &why))
		start_uncertain(process, BUS_INTERNAL, why.text);
	/* Who reaps identifies it. */
	shim_exec_run_waiting(shim);
}

static int call_runtime(struct process *process, const struct stdio *stdio, struct why *why)
{
	_cleanup_(cleanup_free) char *pid = pid_file(process), *file = process_file(process);
	struct runtime *runtime = &process->shim->runtime;
	struct runtime_call *call = runtime_free_exec(runtime);
	const char *options[] = {"--detach",
				 "--pid-file",
				 pid,
				 "--process",
				 file,
				 stdio->console_socket ? "--console-socket" : NULL,
				 stdio->console_socket,
				 NULL};
	int r;

	if (!pid || !file)
		return error_origin(-ENOMEM);
	(void)unlink(pid);
	r = runtime_call(call, "exec", options, stdio->console_socket ? NULL : stdio->fds,
			 process->request.deadline_ms, on_made, process, why);
	process->call = r ? NULL : call;
	return r;
}

static void on_prepared(struct process *process, const char *error)
{
	struct shim *shim = process->shim;

	process->is_preparing = false;
	process->is_prepared = true;
	if (error)
		start_failed(process, BUS_FAILED_PRECONDITION, error);
	shim_exec_run_waiting(shim);
}

/* What comes before the OCI runtime; STDIO_E_LATER: on_prepared() goes on. */
static int prepare(struct process *process, enum bus_status *ret_status, struct why *why)
{
	_cleanup_(cleanup_free) char *file = process_file(process);
	struct shim *shim = process->shim;
	int r;

	*ret_status = BUS_INTERNAL;
	r = file ? shim_journal_exec_intent(process, process->request.id) : -ENOMEM;
	if (r)
		return why_errno(why, r, "cannot write %s", shim->journal.path);
	*ret_status = BUS_INVALID_ARGUMENT;
	r = preflight_check_process(file, shim->init.pid, why);
	if (r)
		return r;
	r = streams_prepare(process, process->io, on_prepared, why);
	*ret_status = stdio_status(r);
	process->is_preparing = r == STDIO_E_LATER;
	process->is_prepared = !r;
	return r;
}

static int open_and_run(struct process *process, enum bus_status *ret_status, struct why *why)
{
	_cleanup_(stdio_close) struct stdio stdio = {.fds = {-1, -1, -1}};
	int r;

	r = streams_open(process, process->io, &stdio, why);
	if (r) {
		*ret_status = stdio_status(r);
		return r;
	}
	*ret_status = BUS_FAILED_PRECONDITION;
	loop_timer_cancel(&process->timer);
	return call_runtime(process, &stdio, why);
}

static void run(struct process *process)
{
	struct why why = {};
	enum bus_status status;
	int r = 0;

	if (!process->is_prepared)
		r = prepare(process, &status, &why);
	if (!r)
		r = open_and_run(process, &status, &why);
	if (r && r != STDIO_E_LATER)
		start_failed(process, status,
			     why.text[0] ? why.text : strerror(r < 0 ? -r : EINVAL));
}

/* The OCI runtime has not been called for it. */
static bool is_waiting(const struct process *process)
{
	return process->state == PROCESS_STARTING && !process->call && !process->pid;
}

void shim_exec_run_waiting(struct shim *shim)
{
	struct process *process, *next;

	for (process = shim->added.first; process; process = next) {
		next = process->next;
		if (!runtime_free_exec(&shim->runtime))
			return;
		if (is_waiting(process) && !process->is_preparing)
			run(process);
	}
}

void shim_exec_fail_waiting(struct shim *shim, const char *text)
{
	struct process *process, *next;

	for (process = shim->added.first; process; process = next) {
		next = process->next;
		if (is_waiting(process))
			start_failed(process, BUS_FAILED_PRECONDITION, text);
	}
}

size_t shim_exec_count_starting(const struct shim *shim)
{
	size_t count = 0;

	for (const struct process *process = shim->added.first; process; process = process->next)
		count += process->state == PROCESS_STARTING;
	return count;
}

static void on_waited(struct loop_timer *timer)
{
	start_failed(container_of(timer, struct process, timer), BUS_DEADLINE_EXCEEDED,
		     "too many processes are being started: its turn did not come in time");
}

static void start(struct process *process, const struct call *call)
{
	struct shim *shim = process->shim;

	request_begin(shim, &process->request, call);
	process_move(process, PROCESS_STARTING);
	if (call->deadline_ms &&
	    loop_timer_set(shim->loop, &process->timer, call->deadline_ms, on_waited))
		log_warning("task=%s: no timer: process %s waits without limit",
			    shim->config.task_id, process->id);
	shim_exec_run_waiting(shim);
}

/* ---- exec, exec_start ---------------------------------------------------- */

/* True: refused. */
static bool refuse_in_state(struct shim *shim, const struct call *call, bool starts)
{
	const char *id = shim->config.container_id;

	if (!state_is_alive(shim->state) || shim->init.has_ended)
		request_refuse(shim, call, BUS_FAILED_PRECONDITION,
			       "container '%s' is %s: no process can be added", id,
			       state_name(shim->state));
	else if (starts && shim->state != STATE_RUNNING)
		request_refuse(shim, call, BUS_FAILED_PRECONDITION,
			       "container '%s' is %s: no process can be started in it", id,
			       state_name(shim->state));
	else if (starts && shim_is_busy(shim) &&
		 !strcmp(shim->operation.request.method->name, "checkpoint"))
		request_refuse(shim, call, BUS_ABORTED, "container '%s': a checkpoint is under way",
			       id);
	else
		return false;
	return true;
}

static bool is_file_name(const char *name)
{
	return name[0] && name[0] != '.' && !strchr(name, '/');
}

static int add(struct shim *shim, const struct shim_exec_request *request, const struct call *call,
	       struct process **ret_process)
{
	struct process *process;
	int r;

	r = processes_add(&shim->added, shim, request->exec_id, request->io, &process);
	if (r)
		return r;
	process->file = strdup(request->process_file);
	r = process->file ? shim_journal_exec_added(process, call->id, request->start)
			  : error_origin(-ENOMEM);
	if (r) {
		processes_remove(&shim->added, process);
		return r;
	}
	*ret_process = process;
	return 0;
}

static void refuse_addition(struct shim *shim, const struct call *call, const char *exec_id, int r)
{
	const char *id = shim->config.container_id;

	if (r == -EEXIST)
		request_refuse(shim, call, BUS_ALREADY_EXISTS,
			       "container '%s' has a process '%s' already", id, exec_id);
	else if (r == -ENOSPC)
		request_refuse(shim, call, BUS_RESOURCE_EXHAUSTED,
			       "container '%s' has %d added processes, the most that there can be: "
			       "delete those that have ended",
			       id, PROCESS_ADDED_MAX);
	else
		request_refuse(shim, call, BUS_INTERNAL, "process '%s' cannot be added: %s",
			       exec_id, strerror(-r));
}

void shim_method_exec(struct shim *shim, const struct shim_exec_request *request,
		      const struct call *call)
{
	static const struct shim_exec_reply nothing;
	struct process *process;
	int r;

	if (refuse_in_state(shim, call, request->start))
		return;
	if (!check_identifier(request->exec_id) || !is_file_name(request->process_file)) {
		request_refuse(shim, call, BUS_INVALID_ARGUMENT,
			       "process '%s' in the file '%s': no identifier, or no file's name",
			       request->exec_id, request->process_file);
		return;
	}
	process = processes_find(&shim->added, request->exec_id);
	if (process && request->start && process->state == PROCESS_ADDED &&
	    !process->request.method && !memcmp(process->added_id, call->id, ID_SIZE)) {
		start(process, call);
		return;
	}
	r = strcmp(request->exec_id, shim->config.container_id) ? add(shim, request, call, &process)
								: -EEXIST;
	if (r)
		refuse_addition(shim, call, request->exec_id, r);
	else if (request->start)
		start(process, call);
	else
		request_answer(shim, call, BUS_OK, "", &nothing);
}

/* NULL: refused. */
static struct process *find(struct shim *shim, const char *exec_id, const struct call *call)
{
	struct process *process = exec_id ? processes_find(&shim->added, exec_id) : NULL;

	if (!process)
		request_refuse(shim, call, BUS_NOT_FOUND, "container '%s' has no process '%s'",
			       shim->config.container_id, exec_id ?: "");
	return process;
}

void shim_method_exec_start(struct shim *shim, const struct shim_process_request *request,
			    const struct call *call)
{
	struct process *process = find(shim, request->exec_id, call);

	if (!process || refuse_in_state(shim, call, true))
		return;
	if (process->state != PROCESS_ADDED || process->request.method)
		request_refuse(shim, call, BUS_FAILED_PRECONDITION,
			       "process '%s' of container '%s' is %s: it is started once",
			       process->id, shim->config.container_id,
			       process_state_name(process->state));
	else
		start(process, call);
}

/* ---- exec_delete --------------------------------------------------------- */

static void delete_now(struct process *process)
{
	struct shim *shim = process->shim;
	struct shim_delete_reply reply = {(uint64_t)process->pid,
					  process->has_exit ? &process->exit : NULL};
	int r;

	loop_timer_cancel(&process->timer);
	r = shim_journal_process(process, JOURNAL_EXEC_DELETED, process->request.id, NULL);
	if (r) {
		request_finish(shim, &process->request, BUS_INTERNAL,
			       "its deletion cannot be journaled", NULL, false);
		return;
	}
	remove_files(process);
	streams_close(process);
	request_finish(shim, &process->request, BUS_OK, "", &reply, true);
	processes_remove(&shim->added, process);
}

static void on_not_drained(struct loop_timer *timer)
{
	delete_now(container_of(timer, struct process, timer));
}

void shim_exec_delete_goes_on(struct process *process)
{
	if (process->request.method && !strcmp(process->request.method->name, "exec_delete"))
		delete_now(process);
}

void shim_method_exec_delete(struct shim *shim, const struct shim_process_request *request,
			     const struct call *call)
{
	struct process *process = find(shim, request->exec_id, call);
	uint64_t ms = shim->config.stdio_wait_ms ?: SHIM_DRAIN_MS;

	if (!process)
		return;
	if (process->request.method || process->state == PROCESS_STARTING ||
	    process->state == PROCESS_RUNNING) {
		request_refuse(shim, call, BUS_FAILED_PRECONDITION,
			       "process '%s' of container '%s' is %s", process->id,
			       shim->config.container_id,
			       process->request.method && process->state != PROCESS_STARTING
				       ? "being deleted"
				       : process_state_name(process->state));
		return;
	}
	request_begin(shim, &process->request, call);
	if (streams_is_drained(process) ||
	    loop_timer_set(shim->loop, &process->timer, time_boot_ms() + ms, on_not_drained))
		delete_now(process);
}

/* ---- processes ----------------------------------------------------------- */

void shim_method_processes(struct shim *shim, const struct empty *request, const struct call *call)
{
	struct shim_process_state states[PROCESS_ADDED_MAX] = {};
	struct shim_processes_reply reply = {.processes = {.items = states}};

	(void)request;
	for (struct process *process = shim->added.first; process; process = process->next)
		states[reply.processes.count++] = (struct shim_process_state){
			.exec_id = (char *)process->id,
			.status = process->state == PROCESS_RUNNING && shim->state == STATE_PAUSED
					  ? TASK_PAUSED
					  : process_status(process->state),
			.pid = (uint64_t)process->pid,
			.start_time = process->start_time,
			.exit = process->has_exit ? &process->exit : NULL,
		};
	control_answer(&shim->control, call, BUS_OK, "", &reply);
}
