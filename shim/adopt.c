/*
 * Processes that an earlier shim of the task made. They are not our children:
 * their end is seen through a pidfd, and how they ended is told by it once their
 * new parent has reaped them. For one that ended while no shim lived, the task
 * service has a pidfd and gives it (shim.adopt). What nobody can tell is unknown.
 */

#include <dirent.h>
#include <stdio.h>
#include <string.h>

#include "broker/lib/log.h"
#include "shim/mounts.h"
#include "shim/shim.h"
#include "shim/streams.h"

#define GIVEN_MS     3000  /* within which the task service gives the pidfds that it has */
#define REAPED_MS    10000 /* within which a new parent should have reaped */
#define PAUSE_MS     5     /* between two looks, doubled up to the next */
#define PAUSE_MAX_MS 500

static char cause_shim_died[] = "shim-died";

/* ---- how it ended -------------------------------------------------------- */

static void settle(struct process *process, bool is_known, int status)
{
	loop_file_remove(&process->watch);
	loop_timer_cancel(&process->timer);
	if (is_known)
		process_set_exit(process, status);
	else
		process_set_unknown_exit(process, cause_shim_died);
	shim_reap(process->shim);
}

static void look(struct process *process);

static void on_look(struct loop_timer *timer)
{
	look(container_of(timer, struct process, timer));
}

/* It is dead; its code appears when it is reaped. */
static void look(struct process *process)
{
	uint64_t now_ms = time_boot_ms();
	int status, r;

	r = process_read_status(process->pidfd, &status);
	process->pause_ms = process->pause_ms ? 2 * process->pause_ms : PAUSE_MS;
	if (process->pause_ms > PAUSE_MAX_MS)
		process->pause_ms = PAUSE_MAX_MS;
	if (r != -EAGAIN || now_ms >= process->give_up_ms ||
	    loop_timer_set(process->shim->loop, &process->timer, now_ms + process->pause_ms,
			   on_look))
		settle(process, !r, status);
}

static void on_dead(struct loop_file *file, uint32_t events)
{
	struct process *process = container_of(file, struct process, watch);

	(void)events;
	loop_file_remove(&process->watch);
	process->give_up_ms = time_boot_ms() + REAPED_MS;
	look(process);
}

static int watch(struct process *process)
{
	return error_trace(loop_file_add(process->shim->loop, &process->watch, process->pidfd,
					 EPOLLIN, on_dead));
}

/* ---- after a take-over --------------------------------------------------- */

static void on_none_given(struct loop_timer *timer)
{
	settle(container_of(timer, struct process, timer), false, 0);
}

int shim_adopt_process(struct process *process, int pid, uint64_t start_time)
{
	uint64_t inode = process->pidfd_inode;
	bool is_held = process->pidfd >= 0 && process->pid == pid &&
		       process->start_time == start_time;
	int r;

	r = is_held ? 0 : start_time ? process_identify(process, pid, start_time, false) : -ESRCH;
	if (!r)
		return watch(process);
	if (r != -ESRCH)
		return error_trace(r);
	process->pid = pid;
	process->start_time = start_time;
	process->pidfd_inode = inode;
	return error_trace(loop_timer_set(process->shim->loop, &process->timer,
					  time_boot_ms() + GIVEN_MS, on_none_given));
}

/* Where the first thread ends before others, it alone has no namespaces any more but that of pids. */
static ssize_t read_namespace(int pid, const char *name, char *text, size_t size)
{
	_cleanup_(cleanup_dir) DIR *threads = NULL;
	struct dirent *entry;
	char path[300];
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/%d/%s", pid, name);
	n = readlink(path, text, size);
	if (n > 0)
		return n;
	snprintf(path, sizeof(path), "/proc/%d/task", pid);
	threads = opendir(path);
	while (n <= 0 && threads && (entry = readdir(threads))) {
		snprintf(path, sizeof(path), "%s/%s", entry->d_name, name);
		n = entry->d_name[0] == '.' ? 0 : readlinkat(dirfd(threads), path, text, size);
	}
	return n;
}

int shim_compare_namespace(const struct shim *shim, int pid, const char *name)
{
	char inits[128], its[128];
	ssize_t n = read_namespace(shim->init.pid, name, inits, sizeof(inits));
	ssize_t m = read_namespace(pid, name, its, sizeof(its));

	if (n <= 0 || m <= 0)
		return -ESRCH;
	return n == m && !memcmp(inits, its, (size_t)n);
}

bool shim_is_in_container(const struct shim *shim, int pid)
{
	return shim_compare_namespace(shim, pid, "ns/pid") > 0 &&
	       shim_compare_namespace(shim, pid, "ns/mnt") > 0;
}

/* ---- the methods --------------------------------------------------------- */

void shim_method_descriptors(struct shim *shim, const struct shim_process_request *request,
			     const struct call *call)
{
	struct process *process = shim_find_asked(shim, request->exec_id, call);
	struct shim_descriptors_reply reply = {};
	int fds[CONTROL_FDS], terminal;
	size_t n = 0;

	if (!process)
		return;
	terminal = streams_terminal(process);
	reply.pidfd = process->pidfd >= 0;
	reply.terminal = terminal >= 0;
	if (reply.pidfd)
		fds[n++] = process->pidfd;
	if (reply.terminal)
		fds[n++] = terminal;
	control_answer_with(&shim->control, call, &reply, fds, n);
}

/* -EPERM: not what it is said to be. Takes @fd on success. */
static int take_pidfd(struct process *process, int *fd, struct why *why)
{
	uint64_t inode = process_pidfd_inode(*fd);

	if (!inode || inode != process->pidfd_inode)
		return why_set(why, -EPERM, "the descriptor is no pidfd of process '%s'",
			       process->id);
	if (process->pidfd >= 0 || process->has_ended)
		return 0;
	process->pidfd = TAKE_FD(*fd);
	loop_timer_cancel(&process->timer);
	return watch(process);
}

static int take_descriptors(struct process *process, const struct shim_adopt_request *request,
			    const struct call *call, struct why *why)
{
	_cleanup_(cleanup_fd) int pidfd = -1, terminal = -1;
	struct control *control = &process->shim->control;
	int r = 0;

	if (control_count_fds(control, call) != (size_t)request->pidfd + request->terminal)
		return why_set(why, -EINVAL, "%zu descriptors came, not %d",
			       control_count_fds(control, call),
			       request->pidfd + request->terminal);
	if (request->pidfd)
		pidfd = control_take_fd(control, call);
	if (request->terminal)
		terminal = control_take_fd(control, call);
	if (request->pidfd)
		r = take_pidfd(process, &pidfd, why);
	if (!r && request->terminal)
		r = streams_take_terminal(process, TAKE_FD(terminal), why);
	return r;
}

void shim_method_adopt(struct shim *shim, const struct shim_adopt_request *request,
		       const struct call *call)
{
	static const struct empty nothing;
	struct process *process = shim_find_asked(shim, request->exec_id, call);
	struct why why = {};
	int r;

	if (!process)
		return;
	if (!shim->is_cleanup || process->is_child) {
		request_refuse(shim, call, BUS_FAILED_PRECONDITION,
			       "process '%s' is this shim's own", process->id);
		return;
	}
	r = take_descriptors(process, request, call, &why);
	if (r)
		request_refuse(shim, call,
			       r == -EPERM || r == -EINVAL ? BUS_INVALID_ARGUMENT : BUS_INTERNAL,
			       "%s", why.text[0] ? why.text : strerror(r < 0 ? -r : EINVAL));
	else
		request_answer(shim, call, BUS_OK, "", &nothing);
	/* Nobody has one. */
	if (!r && !request->pidfd && process->pidfd < 0 && process->timer.loop)
		settle(process, false, 0);
}
