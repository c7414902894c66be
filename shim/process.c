#include "shim/process.h"

#include <assert.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/wait.h>

#include "broker/lib/file.h"
#include "shim/streams.h"

/* ---- states -------------------------------------------------------------- */

#define TO(state) (1u << PROCESS_##state)

static const unsigned allowed[] = {
	/* From ADDED also to what a journal tells of an earlier shim. */
	[PROCESS_ADDED] = TO(STARTING) | TO(RUNNING) | TO(STOPPED) | TO(FAILED),
	/* To STOPPED when it is not known whether it was started. */
	[PROCESS_STARTING] = TO(RUNNING) | TO(FAILED) | TO(STOPPED),
	[PROCESS_RUNNING] = TO(STOPPED),
	[PROCESS_STOPPED] = 0,
	[PROCESS_FAILED] = 0,
};
_Static_assert(ARRAY_SIZE(allowed) == PROCESS_STATE_COUNT, "a row for each state");

bool process_may_move(enum process_state from, enum process_state to)
{
	return allowed[from] & 1u << to;
}

const char *process_state_name(enum process_state state)
{
	static const char *const names[] = {
		[PROCESS_ADDED] = "not started",
		[PROCESS_STARTING] = "being started",
		[PROCESS_RUNNING] = "running",
		[PROCESS_STOPPED] = "stopped",
		[PROCESS_FAILED] = "not started: that failed",
	};

	return names[state];
}

enum task_status process_status(enum process_state state)
{
	static const enum task_status statuses[] = {
		[PROCESS_ADDED] = TASK_CREATED,   [PROCESS_STARTING] = TASK_CREATED,
		[PROCESS_RUNNING] = TASK_RUNNING, [PROCESS_STOPPED] = TASK_STOPPED,
		[PROCESS_FAILED] = TASK_STOPPED,
	};

	return statuses[state];
}

void process_move(struct process *process, enum process_state next)
{
	assert(process_may_move(process->state, next));
	process->state = next;
}

bool process_is_alive(const struct process *process)
{
	return process->state == PROCESS_RUNNING;
}

/* ---- pidfds -------------------------------------------------------------- */

/* Linux 6.9 has a file system of pidfds, 6.13 the request, 6.15 the exit code; Debian 12's headers
 * have none of it. */
#define PIDFS_MAGIC      0x50494446
#define PIDFD_INFO_EXIT_ (1u << 3)

struct pidfd_info_ {
	uint64_t mask;
	uint64_t cgroupid;
	uint32_t pid, tgid, ppid;
	uint32_t ruid, rgid, euid, egid, suid, sgid, fsuid, fsgid;
	int32_t exit_code;
};
_Static_assert(sizeof(struct pidfd_info_) == 64, "the first version of struct pidfd_info");

#define PIDFD_GET_INFO_ _IOWR(0xff, 11, struct pidfd_info_)

uint64_t process_pidfd_inode(int pidfd)
{
	struct statfs system;
	struct stat stat;

	if (fstatfs(pidfd, &system) || system.f_type != PIDFS_MAGIC || fstat(pidfd, &stat))
		return 0;
	return stat.st_ino;
}

int process_read_status(int pidfd, int *ret_status)
{
	struct pidfd_info_ info;
	int r = -ESRCH;

	/* The kernel looks for the exit first, then for the process (pidfd_info() in fs/pidfs.c): one that is reaped
	 * between the two looks has neither, once. */
	for (int i = 0; i < 2 && r == -ESRCH; i++) {
		info = (struct pidfd_info_){.mask = PIDFD_INFO_EXIT_};
		r = ioctl(pidfd, PIDFD_GET_INFO_, &info) ? -errno : 0;
	}
	if (r)
		return r;
	if (!(info.mask & PIDFD_INFO_EXIT_))
		return -EAGAIN;
	*ret_status = info.exit_code;
	return 0;
}

/* ---- who it is ----------------------------------------------------------- */

void process_init(struct process *process, struct shim *shim, const char *id)
{
	process->shim = shim;
	process->id = id;
	process->pidfd = -1;
}

void process_forget(struct process *process)
{
	loop_file_remove(&process->watch);
	process->pidfd = close_fd(process->pidfd);
	process->pid = 0;
	process->start_time = 0;
}

/* A zombie's pid is its own until it is reaped, so what was opened between two looks at the start
 * time is it. */
int process_identify(struct process *process, int pid, uint64_t start_time, bool must_be_child)
{
	_cleanup_(cleanup_fd) int pidfd = pidfd_open(pid, 0);
	siginfo_t info = {};
	uint64_t ticks;
	int r;

	/* ENOENT, before Linux 6.16 EINVAL: by now the number is that of a thread. */
	if (pidfd < 0)
		return errno == ENOENT || errno == EINVAL ? -ESRCH : -errno;
	r = process_start_time(pid, &ticks);
	if (r)
		return r;
	if (start_time && ticks != start_time)
		return -ESRCH;
	if (must_be_child && waitid(P_PIDFD, (id_t)pidfd, &info, WEXITED | WNOHANG | WNOWAIT) < 0)
		return -errno;
	close_fd(process->pidfd);
	process->pid = pid;
	process->start_time = ticks;
	process->pidfd = TAKE_FD(pidfd);
	process->pidfd_inode = process_pidfd_inode(process->pidfd);
	process->is_child = must_be_child;
	return 0;
}

/* ---- how it ended -------------------------------------------------------- */

void process_set_exit(struct process *process, int status)
{
	bool by_signal = !WIFEXITED(status);

	process->has_ended = true;
	process->exit = (struct exit_record){
		.exit_status = (uint64_t)(by_signal ? 128 + WTERMSIG(status) : WEXITSTATUS(status)),
		.signal = by_signal ? (uint64_t)WTERMSIG(status) : 0,
		.core = by_signal && WCOREDUMP(status),
		.exited_at_ns = time_real_ns(),
		.source = EXIT_OBSERVED,
	};
}

void process_set_unknown_exit(struct process *process, const char *cause)
{
	process->has_ended = true;
	process->exit = (struct exit_record){
		.exit_status = 255,
		.exited_at_ns = time_real_ns(),
		.source = EXIT_UNKNOWN,
		.cause = (char *)cause,
	};
}

/* ---- the added ones ------------------------------------------------------ */

void processes_init(struct processes *processes)
{
	*processes = (struct processes){.last = &processes->first};
}

struct process *processes_find(const struct processes *processes, const char *id)
{
	for (struct process *process = processes->first; process; process = process->next)
		if (!strcmp(process->id, id))
			return process;
	return NULL;
}

static void free_process(struct process *process)
{
	streams_close(process);
	loop_timer_cancel(&process->timer);
	process_forget(process);
	free(process->file);
	if (process->io) {
		schema_clear(schema_task_io(), (void *)process->io);
		free((void *)process->io);
	}
	free((void *)process->id);
	free(process);
}

static int copy_io(const struct task_io *io, const struct task_io **ret_io)
{
	struct task_io *copy = calloc(1, sizeof(*copy));
	int r;

	if (!copy)
		return error_origin(-ENOMEM);
	r = schema_copy(schema_task_io(), io, copy);
	if (r) {
		free(copy);
		return error_fold(r);
	}
	*ret_io = copy;
	return 0;
}

int processes_add(struct processes *processes, struct shim *shim, const char *id,
		  const struct task_io *io, struct process **ret_process)
{
	struct process *process;
	int r = 0;

	if (processes_find(processes, id))
		return -EEXIST;
	if (processes->count == PROCESS_ADDED_MAX)
		return -ENOSPC;
	process = calloc(1, sizeof(*process));
	if (!process)
		return error_origin(-ENOMEM);
	process_init(process, shim, strdup(id));
	if (!process->id)
		r = error_origin(-ENOMEM);
	if (!r && io)
		r = copy_io(io, &process->io);
	if (r) {
		free_process(process);
		return r;
	}
	*processes->last = process;
	processes->last = &process->next;
	processes->count++;
	*ret_process = process;
	return 0;
}

void processes_remove(struct processes *processes, struct process *process)
{
	struct process **at = &processes->first;

	while (*at != process)
		at = &(*at)->next;
	*at = process->next;
	if (processes->last == &process->next)
		processes->last = at;
	processes->count--;
	free_process(process);
}

void processes_deinit(struct processes *processes)
{
	while (processes->first)
		processes_remove(processes, processes->first);
}
