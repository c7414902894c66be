/*
 * How processes end. A dead child stays a zombie until its exit is in the
 * journal, so an exit that cannot be written is tried again and not lost, and
 * no pid that is still meant can be taken by another process.
 *
 * Added processes end before init: the kernel kills them in that order where the
 * pid namespace is the container's own; where it is shared they are killed here,
 * and init's exit waits for theirs. What the OCI runtime makes is known by its
 * pid only when its call has ended: a dead child that such a call may have made
 * waits until then.
 */

#include <signal.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/wait.h>

#include "broker/lib/log.h"
#include "shim/shim.h"
#include "shim/streams.h"

#define RETRY_MS       20
#define KILL_ROUNDS    250 /* of RETRY_MS, until what init left behind is given up on */
#define START_GRACE_MS 1500

int shim_find_cgroup(struct shim *shim)
{
	int r;

	cgroup_deinit(&shim->cgroup);
	r = cgroup_find(shim->config.cgroup, shim->init.pid, &shim->cgroup);
	if (!r)
		oom_watch(&shim->oom);
	return error_trace(r);
}

int shim_adopt(struct shim *shim, int pid)
{
	int r;

	r = process_identify(&shim->init, pid, 0, true);
	return r ?: shim_find_cgroup(shim);
}

/* ---- looking ------------------------------------------------------------- */

static void on_retry(struct loop_timer *timer)
{
	shim_reap(container_of(timer, struct shim, retry));
}

static void retry_later(struct shim *shim, uint64_t ms)
{
	uint64_t at_ms = time_boot_ms() + ms;

	if (shim->retry.loop && shim->retry.at_ms <= at_ms)
		return;
	if (loop_timer_set(shim->loop, &shim->retry, at_ms, on_retry))
		log_error("task=%s: no timer: an exit waits for another signal",
			  shim->config.task_id);
}

/* A dead child, still a zombie afterwards; 0: there is none. */
static pid_t peek(idtype_t which, pid_t pid, siginfo_t *info)
{
	*info = (siginfo_t){};
	if (waitid(which, (id_t)pid, info, WEXITED | WNOHANG | WNOWAIT))
		return 0;
	return info->si_pid;
}

static void bury(pid_t pid)
{
	siginfo_t info;

	while (waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG) < 0 && errno == EINTR)
		;
}

static int status_of(const siginfo_t *info)
{
	if (info->si_code == CLD_EXITED)
		return info->si_status << 8;
	return info->si_status | (info->si_code == CLD_DUMPED ? 0x80 : 0);
}

/* Of one that is not our child, its pidfd tells (has_ended). */
static bool see_end(struct process *process)
{
	siginfo_t info;

	if (process->has_ended || !process->is_child)
		return process->has_ended;
	if (!peek(P_PID, process->pid, &info))
		return false;
	process_set_exit(process, status_of(&info));
	return true;
}

/* ---- writing down -------------------------------------------------------- */

/* Memory first, then the exit. What else is true of a process of the container is told of init;
 * an added one was killed for memory only if it was killed. */
static int record_exit(struct shim *shim, struct process *process)
{
	uint64_t kills = cgroup_oom_kills(&shim->cgroup);
	int r;

	process->exit.oom_killed = process == &shim->init ? kills > 0
							  : process->exit.signal == SIGKILL &&
								    kills > process->oom_kills;
	r = shim_note_oom(shim, kills);
	if (!r)
		r = shim_journal_exit(shim, process);
	if (r)
		return r;
	process->has_exit = true;
	return 0;
}

/* False: it cannot be written; a zombie stays one. */
static bool settle(struct shim *shim, struct process *process)
{
	if (record_exit(shim, process)) {
		retry_later(shim, 1000);
		return false;
	}
	if (process->is_child)
		bury(process->pid);
	return true;
}

/* ---- added processes ----------------------------------------------------- */

static bool end_added(struct shim *shim)
{
	bool is_any = false;

	for (struct process *process = shim->added.first; process; process = process->next) {
		if (process->state != PROCESS_RUNNING || !see_end(process) ||
		    !settle(shim, process))
			continue;
		process_move(process, PROCESS_STOPPED);
		streams_process_ended(process);
		is_any = true;
	}
	return is_any;
}

/* ---- init ---------------------------------------------------------------- */

/* Where the pid namespace is shared, init's death ends nobody else. */
static size_t kill_leftovers(struct shim *shim)
{
	size_t count = 0;

	if (shim->config.own_pid_ns || !shim->cgroup.procs)
		return 0;
	(void)cgroup_signal(&shim->cgroup, SIGKILL, shim->init.pid, &count);
	return count;
}

/* Kills the added ones that live and hurries those that are being made; how many there are. */
static size_t kill_added(struct shim *shim)
{
	size_t count = 0;

	shim_exec_fail_waiting(shim, "init has ended");
	for (struct process *process = shim->added.first; process; process = process->next) {
		if (process->state != PROCESS_RUNNING && process->state != PROCESS_STARTING)
			continue;
		count++;
		if (process->call)
			runtime_hurry(process->call, START_GRACE_MS);
		else if (process->pidfd >= 0 && !process->has_ended)
			(void)pidfd_send_signal(process->pidfd, SIGKILL, NULL, 0);
	}
	return count;
}

/* One is dead that another shim made, and how it ended is looked for, which has a limit of its own. */
static bool is_looking(const struct shim *shim)
{
	for (const struct process *process = shim->added.first; process; process = process->next)
		if (process->state == PROCESS_RUNNING && !process->is_child && process->timer.loop)
			return true;
	return false;
}

/* True: nobody is left, or it takes too long. */
static bool end_others(struct shim *shim)
{
	size_t count = kill_leftovers(shim) + kill_added(shim);

	if (!count)
		return true;
	if (is_looking(shim) || shim->kill_rounds++ < KILL_ROUNDS)
		return false;
	log_warning("task=%s: %zu processes outlive SIGKILL", shim->config.task_id, count);
	return true;
}

/* Init's end comes after the result of the call that changes it. */
static bool is_held(const struct shim *shim)
{
	return shim->state == STATE_STARTING ||
	       (shim->runtime.container.pid && shim_is_checkpointing(shim));
}

static bool end_init(struct shim *shim)
{
	if (!process_is_alive(&shim->init) || is_held(shim) || !see_end(&shim->init))
		return false;
	if (!end_others(shim)) {
		retry_later(shim, RETRY_MS);
		return false;
	}
	if (!settle(shim, &shim->init))
		return false;
	shim_move(shim, STATE_STOPPED);
	oom_deinit(&shim->oom);
	streams_process_ended(&shim->init);
	shim_pause_goes_on(shim);
	shim_delete_goes_on(shim);
	shim_delete_begins(shim);
	return true;
}

/* ---- all children -------------------------------------------------------- */

static bool end_calls(struct shim *shim)
{
	struct runtime_call *call = NULL;
	bool is_any = false;
	siginfo_t info;

	while ((call = runtime_next(&shim->runtime, call))) {
		if (!call->pid || !peek(P_PID, call->pid, &info))
			continue;
		bury(info.si_pid);
		runtime_ended(call, &info);
		is_any = true;
	}
	return is_any;
}

static bool is_known(struct shim *shim, pid_t pid)
{
	struct runtime_call *call = NULL;

	while ((call = runtime_next(&shim->runtime, call)))
		if (call->pid == pid)
			return true;
	for (struct process *process = shim->added.first; process; process = process->next)
		if (process->pid == pid &&
		    (process->state == PROCESS_RUNNING || process->state == PROCESS_STARTING))
			return true;
	return pid == shim->operation.pid ||
	       (pid == shim->init.pid && process_is_alive(&shim->init));
}

/* Orphans of the container's. */
static bool bury_stranger(struct shim *shim)
{
	uint64_t start_time = UINT64_MAX;
	siginfo_t info;
	pid_t pid = peek(P_ALL, 0, &info);

	if (!pid || is_known(shim, pid))
		return false;
	(void)process_start_time(pid, &start_time);
	if (runtime_may_have_made(&shim->runtime, start_time))
		return false;
	bury(pid);
	return true;
}

void shim_reap(struct shim *shim)
{
	siginfo_t info;
	bool is_any;

	do {
		is_any = end_calls(shim);
		is_any |= shim_adopt_created(shim);
		is_any |= shim_exec_identify(shim);
		is_any |= end_added(shim);
		is_any |= end_init(shim);
		is_any |= bury_stranger(shim);
	} while (is_any);
	/* A runtime whose container is dead already has little left to do. */
	if (is_held(shim) && shim->runtime.container.pid && shim->init.is_child &&
	    peek(P_PID, shim->init.pid, &info))
		runtime_hurry(&shim->runtime.container, START_GRACE_MS);
}

static void on_signal(struct loop_signals *signals, int signal)
{
	(void)signal;
	shim_reap(container_of(signals, struct shim, signals));
}

int shim_watch_signals(struct shim *shim)
{
	sigset_t mask;

	sigemptyset(&mask);
	sigaddset(&mask, SIGCHLD);
	return error_trace(loop_signals_add(shim->loop, &shim->signals, &mask, on_signal));
}
