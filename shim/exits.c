/*
 * How processes end. A dead child stays a zombie until its exit is in the
 * journal, so an exit that cannot be written is tried again and not lost, and
 * no pid that is still meant can be taken by another process.
 */

#include <string.h>
#include <sys/pidfd.h>
#include <sys/wait.h>

#include "broker/lib/log.h"
#include "shim/shim.h"
#include "shim/streams.h"

#define RETRY_MS       20
#define KILL_ROUNDS    100 /* of RETRY_MS, until what init left behind is given up on */
#define START_GRACE_MS 2000

/* ---- init ---------------------------------------------------------------- */

int shim_adopt(struct shim *shim, int pid, uint64_t start_time)
{
	int r;

	r = process_identify(&shim->init, pid, start_time, !shim->is_cleanup);
	if (r)
		return r;
	cgroup_deinit(&shim->cgroup);
	return error_trace(cgroup_find(shim->config.cgroup, pid, &shim->cgroup));
}

static void on_retry(struct loop_timer *timer)
{
	shim_reap(container_of(timer, struct shim, retry));
}

static void retry_later(struct shim *shim, uint64_t ms)
{
	if (loop_timer_set(shim->loop, &shim->retry, time_boot_ms() + ms, on_retry))
		log_error("task=%s: no timer: its exit waits for another signal",
			  shim->config.task_id);
}

/* Where the pid namespace is shared, init's death ends nobody else. True: nobody is left, or it
 * takes too long. */
static bool kill_leftovers(struct shim *shim)
{
	size_t count = 0;

	if (shim->config.own_pid_ns || !shim->cgroup.procs)
		return true;
	if (cgroup_signal(&shim->cgroup, SIGKILL, shim->init.pid, &count) || !count)
		return true;
	if (shim->kill_rounds++ < KILL_ROUNDS)
		return false;
	log_warning("task=%s: %zu processes outlive SIGKILL", shim->config.task_id, count);
	return true;
}

/* The exit is known: oom first, then exit, both in the journal, then the state. */
static int record_exit(struct shim *shim)
{
	int r;

	if (shim->init.exit.oom_killed && !shim->has_oom) {
		r = shim_journal_oom(shim);
		if (r)
			return r;
		shim->has_oom = true;
	}
	r = shim_journal_exit(shim, &shim->init);
	if (r)
		return r;
	shim->init.has_exit = true;
	shim_move(shim, STATE_STOPPED);
	streams_process_ended(&shim->init);
	return 0;
}

static void fill_exit(struct shim *shim, const siginfo_t *info)
{
	bool by_signal = info->si_code != CLD_EXITED;

	shim->init.exit = (struct exit_record){
		.exit_status = (uint64_t)(by_signal ? 128 + info->si_status : info->si_status),
		.signal = by_signal ? (uint64_t)info->si_status : 0,
		.core = info->si_code == CLD_DUMPED,
		.oom_killed = cgroup_oom_kills(&shim->cgroup) > 0,
		.exited_at_ns = shim->init.exit.exited_at_ns ?: time_real_ns(),
		.source = EXIT_OBSERVED,
	};
}

/* False: not yet; it stays a zombie and is looked at again. */
static bool init_ended(struct shim *shim, const siginfo_t *info)
{
	fill_exit(shim, info);
	if (!kill_leftovers(shim)) {
		retry_later(shim, RETRY_MS);
		return false;
	}
	if (record_exit(shim)) {
		retry_later(shim, 1000);
		return false;
	}
	return true;
}

void shim_note_unknown_exit(struct shim *shim)
{
	static char cause[] = "shim-died";

	loop_file_remove(&shim->lost);
	shim->init.exit = (struct exit_record){
		.exit_status = 255,
		.oom_killed = cgroup_oom_kills(&shim->cgroup) > 0,
		.exited_at_ns = shim->init.exit.exited_at_ns ?: time_real_ns(),
		.source = EXIT_UNKNOWN,
		.cause = cause,
	};
	if (!kill_leftovers(shim))
		retry_later(shim, RETRY_MS);
	else if (record_exit(shim))
		retry_later(shim, 1000);
	else
		shim_delete_goes_on(shim);
}

static void lost_ended(struct loop_file *file, uint32_t events)
{
	(void)events;
	shim_note_unknown_exit(container_of(file, struct shim, lost));
}

int shim_watch_lost(struct shim *shim)
{
	return error_trace(
		loop_file_add(shim->loop, &shim->lost, shim->init.pidfd, EPOLLIN, lost_ended));
}

/* ---- all children -------------------------------------------------------- */

static bool is_in_call(const struct shim *shim)
{
	return shim->runtime.pid &&
	       (shim->state == STATE_CREATING || shim->state == STATE_STARTING);
}

/* The next dead child, still a zombie afterwards. */
static bool find_dead(const struct shim *shim, siginfo_t *info)
{
	idtype_t which = is_in_call(shim) ? P_PID : P_ALL;

	*info = (siginfo_t){};
	return !waitid(which, (id_t)shim->runtime.pid, info, WEXITED | WNOHANG | WNOWAIT) &&
	       info->si_pid;
}

static void bury(pid_t pid)
{
	siginfo_t info;

	while (waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG) < 0 && errno == EINTR)
		;
}

static bool is_dead(const struct process *init)
{
	siginfo_t info = {};

	return init->pid && !waitid(P_PID, (id_t)init->pid, &info, WEXITED | WNOHANG | WNOWAIT) &&
	       info.si_pid;
}

/* False: this one stays. */
static bool take_dead(struct shim *shim, const siginfo_t *info)
{
	if (info->si_pid == shim->runtime.pid) {
		bury(info->si_pid);
		runtime_ended(&shim->runtime, info);
		return true;
	}
	if (info->si_pid == shim->operation.pid)
		(void)shim_adopt_created(shim);
	if (info->si_pid != shim->init.pid || !state_is_alive(shim->state)) {
		bury(info->si_pid);
		return true;
	}
	if (!init_ended(shim, info))
		return false;
	bury(info->si_pid);
	shim_delete_goes_on(shim);
	return true;
}

void shim_reap(struct shim *shim)
{
	siginfo_t info;

	if (shim->state == STATE_LOST && shim->init.pid && !shim->lost.loop) {
		shim_note_unknown_exit(shim);
		return;
	}
	do {
		while (find_dead(shim, &info))
			if (!take_dead(shim, &info))
				return;
	} while (shim_adopt_created(shim));
	/* A runtime whose container is dead already has little left to do. */
	if (shim->state == STATE_STARTING && shim->runtime.pid && is_dead(&shim->init))
		runtime_hurry(&shim->runtime, START_GRACE_MS);
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
