#include "tools/member.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/pidfd.h>

#include "broker/lib/file.h"
#include "broker/lib/log.h"
#include "broker/lib/spawn.h"

#define ARGUMENTS_MAX  64
#define BACKOFF_MIN_MS 20
#define BACKOFF_MAX_MS 10000
#define SERVED_MAX_MS  500  /* the same for one that has served: callers wait for it */
#define STEADY_MS      2000 /* running so long resets the back-off */

static bool is_running(const struct member_process *process)
{
	return process->child.pidfd >= 0;
}

static void send_signal(const struct member_process *process, int signal)
{
	if (is_running(process))
		(void)pidfd_send_signal(process->child.pidfd, signal, NULL, 0);
}

static struct member_process *other(struct member *member, const struct member_process *process)
{
	return &member->processes[process == &member->processes[0]];
}

/* ---- asking it to end ---- */

static void on_stop_limit(struct loop_timer *timer)
{
	struct member *member = container_of(timer, struct member, timer);

	log_warning("%s does not stop: killed", member->program);
	send_signal(member->now, SIGKILL);
}

static void ask_to_end(struct member *member)
{
	send_signal(member->now, SIGTERM);
	(void)loop_timer_set(member->loop, &member->timer, time_boot_ms() + MEMBER_STOP_MS,
			     on_stop_limit);
}

/* ---- replacing ---- */

static void end_replacement(struct member *member, const char *why)
{
	uint64_t pause_ms = member->asked_ms ? time_boot_ms() - member->asked_ms : 0;

	loop_timer_cancel(&member->limit);
	if (!member->is_replacing)
		return;
	member->is_replacing = false;
	member->replaced(member, pause_ms, why);
}

/* Its end and the successor's readiness come in either order. */
static void check_replaced(struct member *member)
{
	if (member->is_replacing && !member->next && member->now->is_ready)
		end_replacement(member, "");
}

/* The new one stands at the lock: everything that takes time has been done before. */
static void on_waiting(struct member_process *process)
{
	struct member *member = process->member;

	if (process != member->next || member->asked_ms)
		return;
	member->asked_ms = time_boot_ms();
	ask_to_end(member);
}

static void promote(struct member *member)
{
	if (!member->asked_ms)
		member->asked_ms = time_boot_ms();
	member->now = TAKE(member->next);
	member->started_ms = time_boot_ms();
	check_replaced(member);
}

/* ---- one process ---- */

static void forget_ready(struct member_process *process)
{
	loop_file_remove(&process->ready_file);
	process->ready_fd = close_fd(process->ready_fd);
}

static void on_restart(struct loop_timer *timer)
{
	member_start(container_of(timer, struct member, timer));
}

static void start_later(struct member *member)
{
	uint64_t now = time_boot_ms(), wait_ms = member->backoff_ms;

	if (now - member->started_ms > STEADY_MS)
		wait_ms = 0; /* the first death in a while: at once */
	member->backoff_ms = wait_ms ? wait_ms * 2 : BACKOFF_MIN_MS;
	if (member->backoff_ms > BACKOFF_MAX_MS)
		member->backoff_ms = BACKOFF_MAX_MS;
	if (member->has_served && wait_ms > SERVED_MAX_MS)
		wait_ms = SERVED_MAX_MS;
	(void)loop_timer_set(member->loop, &member->timer, now + wait_ms, on_restart);
}

static void on_next_end(struct member *member, const char *how)
{
	char text[256];

	snprintf(text, sizeof(text), "the new %s %s before it served%s", member->program, how,
		 member->asked_ms ? "" : "; the old one goes on");
	member->next = NULL;
	end_replacement(member, text);
}

static void on_end(struct loop_child *child, const siginfo_t *info)
{
	struct member_process *process = container_of(child, struct member_process, child);
	struct member *member = process->member;
	char how[64];

	snprintf(how, sizeof(how), "%s %d",
		 info->si_code == CLD_EXITED ? "ended with code" : "was killed by signal",
		 info->si_status);
	forget_ready(process);
	process->is_ready = false;
	if (process == member->next)
		on_next_end(member, how);
	else
		loop_timer_cancel(&member->timer);
	if (member->is_stopping) {
		if (!member_is_running(member))
			member->stopped(member);
	} else if (process != member->now) {
		return;
	} else if (member->next) {
		if (!member->asked_ms)
			log_warning("%s %s while it was to be replaced", member->program, how);
		promote(member);
	} else {
		log_warning("%s %s; it is started again", member->program, how);
		end_replacement(member, "the new process ended before it served");
		start_later(member);
	}
}

static void on_ready(struct loop_file *file, uint32_t events)
{
	struct member_process *process = container_of(file, struct member_process, ready_file);
	struct member *member = process->member;
	char text[64] = "";
	ssize_t n = read(process->ready_fd, text, sizeof(text) - 1);

	(void)events;
	if (n < 0 && errno == EAGAIN)
		return;
	if (n > 0 && strstr(text, "WAITING=1"))
		on_waiting(process);
	if (n > 0 && !strstr(text, "READY=1"))
		return;
	forget_ready(process);
	if (n <= 0)
		return; /* it ended: that is told by its pidfd */
	process->is_ready = true;
	member->has_served = true;
	check_replaced(member);
	if (process == member->now)
		member->ready(member);
}

static bool is_proxy(const char *variable)
{
	static const char *const names[] = {
		"http_proxy=", "https_proxy=", "HTTPS_PROXY=", "all_proxy=",
		"ALL_PROXY=",  "no_proxy=",    "NO_PROXY="};

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		if (!strncmp(variable, names[i], strlen(names[i])))
			return true;
	}
	return false;
}

void member_environment(bool is_debugged, bool has_network,
			const char *ret_environment[MEMBER_ENVIRONMENT])
{
	size_t n = 0;

	ret_environment[n++] = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
	if (is_debugged)
		ret_environment[n++] = "DAVIT_DEBUG=1";
	for (char **at = environ; has_network && *at && n < MEMBER_ENVIRONMENT - 1; at++) {
		if (is_proxy(*at))
			ret_environment[n++] = *at;
	}
	ret_environment[n] = NULL;
}

static int spawn_process(const struct member *member, bool takes_over, int ready_fd, pid_t *ret_pid,
			 struct why *why)
{
	const char *argv[ARGUMENTS_MAX + 1] = {member->path,
					       "--root",
					       member->paths->root,
					       "--state",
					       member->paths->state,
					       "--ready-fd",
					       "3",
					       takes_over ? "--take-over" : NULL};
	size_t n = takes_over ? 8 : 7;
	const char *envp[MEMBER_ENVIRONMENT];
	struct spawn_fd fds[] = {{STDERR_FILENO, 2}, {ready_fd, 3}};

	member_environment(log_is_on(LOG_DEBUG), !strcmp(member->program, "davit-image"), envp);
	for (size_t i = 0; member->words && member->words[i] && n < ARGUMENTS_MAX; i++)
		argv[n++] = member->words[i];
	return spawn(&(struct spawn){.path = member->path,
				     .argv = argv,
				     .envp = envp,
				     .cwd = "/",
				     .fds = fds,
				     .n_fds = ARRAY_SIZE(fds),
				     .new_session = true},
		     ret_pid, why);
}

static int start_process(struct member_process *process, bool takes_over, struct why *why)
{
	struct member *member = process->member;
	_cleanup_(cleanup_fd) int ours = -1, theirs = -1;
	int pipe_fds[2], r;
	pid_t pid = 0;

	if (pipe2(pipe_fds, O_CLOEXEC | O_NONBLOCK))
		return why_errno(why, error_origin(-errno), "%s", member->program);
	ours = pipe_fds[0];
	theirs = pipe_fds[1];
	r = spawn_process(member, takes_over, theirs, &pid, why);
	if (r)
		return error_trace(r);
	process->ready_fd = TAKE_FD(ours);
	if (loop_child_add(member->loop, &process->child, pid, on_end) ||
	    loop_file_add(member->loop, &process->ready_file, process->ready_fd, EPOLLIN, on_ready))
		log_error("%s: cannot be watched", member->program);
	return 0;
}

/* ---- what the owner asks ---- */

void member_init(struct member *member)
{
	for (size_t i = 0; i < ARRAY_SIZE(member->processes); i++)
		member->processes[i] = (struct member_process){
			.member = member, .ready_fd = -1, .child = {.pidfd = -1}};
	member->now = &member->processes[0];
}

void member_start(struct member *member)
{
	struct why why = {};

	member->started_ms = time_boot_ms();
	member->has_served = false;
	if (start_process(member->now, false, &why)) {
		log_error("%s: %s", member->program, why.text);
		start_later(member);
	}
}

bool member_is_ready(const struct member *member)
{
	return member->now->is_ready && !member->is_replacing;
}

bool member_is_running(const struct member *member)
{
	return is_running(&member->processes[0]) || is_running(&member->processes[1]);
}

bool member_has_pid(const struct member *member, pid_t pid)
{
	for (size_t i = 0; i < ARRAY_SIZE(member->processes); i++)
		if (is_running(&member->processes[i]) && member->processes[i].child.pid == pid)
			return true;
	return false;
}

void member_stop(struct member *member)
{
	member->is_stopping = true;
	loop_timer_cancel(&member->timer);
	if (member->next)
		send_signal(member->next, SIGKILL); /* it has not served yet */
	if (is_running(member->now))
		ask_to_end(member);
}

static void on_replace_limit(struct loop_timer *timer)
{
	struct member *member = container_of(timer, struct member, limit);

	log_warning("the new %s is not ready after %d s: killed", member->program,
		    MEMBER_READY_MS / 1000);
	send_signal(member->next ? member->next : member->now, SIGKILL);
}

int member_replace(struct member *member, struct why *why)
{
	struct member_process *process = other(member, member->now);
	int r = start_process(process, true, why);

	if (r)
		return error_trace(r);
	member->next = process;
	member->is_replacing = true;
	member->old_pid = member->now->child.pid;
	member->asked_ms = 0;
	return loop_timer_set(member->loop, &member->limit, time_boot_ms() + MEMBER_READY_MS,
			      on_replace_limit);
}
