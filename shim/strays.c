/* See strays.h. */

#include "shim/strays.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "shim/shim.h"
#include "shim/streams.h"

#define STAT_MAX       4096
#define PF_EXITING     0x4 /* include/linux/sched.h; proc(5), field 9 of stat */
#define PARENT_LOOKS   100 /* at one whose parent is ending */
#define PARENT_LOOK_MS 1

static bool is_known(const struct shim *shim, pid_t pid)
{
	for (const struct process *process = shim->added.first; process; process = process->next)
		if (process->pid == pid)
			return true;
	return pid == shim->init.pid;
}

/* ---- one process --------------------------------------------------------- */

struct stat_line {
	char state;
	pid_t parent;
	unsigned int flags;
	unsigned long pending; /* signals of this thread alone */
};

/* Of a process, or of a thread of it. */
static int read_stat(const char *path, struct stat_line *ret_line)
{
	_cleanup_(cleanup_free) char *text = NULL;
	const char *fields;

	if (file_read_proc(path, STAT_MAX, &text, NULL))
		return -ESRCH;
	fields = strrchr(text, ')');
	if (!fields ||
	    sscanf(fields + 1,
		   " %c %d %*d %*d %*d %*d %u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %*u "
		   "%*u %*d %*u %*u %*u %*u %*u %*u %lu",
		   &ret_line->state, &ret_line->parent, &ret_line->flags, &ret_line->pending) != 4)
		return -ESRCH;
	return 0;
}

/* One that is ending keeps its namespaces for as long as its memory is given back, but has no arguments any more: it may
 * be an OCI runtime that was killed. What kills a process lies before each of its threads. */
static bool is_ending(const struct stat_line *line)
{
	return line->state == 'Z' || line->state == 'X' || line->flags & PF_EXITING ||
	       line->pending & 1ul << (SIGKILL - 1);
}

/* The first thread may end before others, which go on. */
static bool has_living_thread(pid_t pid)
{
	_cleanup_(cleanup_free) char *path = text_format("/proc/%d/task", (int)pid);
	_cleanup_(cleanup_dir) DIR *threads = path ? opendir(path) : NULL;
	bool is_found = false;
	struct dirent *entry;

	while (!is_found && threads && (entry = readdir(threads))) {
		_cleanup_(cleanup_free) char *stat = text_format("%s/%s/stat", path, entry->d_name);
		struct stat_line line;

		is_found = entry->d_name[0] != '.' && stat && !read_stat(stat, &line) &&
			   !is_ending(&line);
	}
	return is_found;
}

/* Of a process that has not ended. */
static int read_parent(pid_t pid, pid_t *ret_parent)
{
	_cleanup_(cleanup_free) char *path = text_format("/proc/%d/stat", (int)pid);
	struct stat_line line;

	if (!path || read_stat(path, &line) || (is_ending(&line) && !has_living_thread(pid)))
		return -ESRCH;
	*ret_parent = line.parent;
	return 0;
}

/* A parent that ends has no namespace of mounts any more, and none at all when it is reaped; what it leaves has another
 * parent by then, and is looked at again. */
static bool has_parent_outside(const struct shim *shim, pid_t pid)
{
	const char *name = shim->config.own_pid_ns ? "ns/pid" : "ns/mnt";
	pid_t parent;
	int r = -ESRCH;

	for (unsigned i = 0; r == -ESRCH && i < PARENT_LOOKS; i++) {
		if (i)
			(void)poll(NULL, 0, PARENT_LOOK_MS);
		if (read_parent(pid, &parent))
			return false;
		/* 0: it lies outside of our own namespace. */
		r = parent ? shim_compare_namespace(shim, parent, name) : 0;
	}
	return !r;
}

bool stray_is(const struct shim *shim, pid_t pid, uint64_t earliest)
{
	uint64_t start_time;

	return !is_known(shim, pid) && shim_is_in_container(shim, pid) &&
	       !process_start_time(pid, &start_time) && start_time >= earliest &&
	       has_parent_outside(shim, pid);
}

/* ---- all of them --------------------------------------------------------- */

/* Those of all processes for which @is_one holds. */
static size_t find(bool (*is_one)(const void *userdata, pid_t pid), const void *userdata,
		   pid_t *ret_pids, size_t max)
{
	_cleanup_(cleanup_dir) DIR *dir = opendir("/proc");
	struct dirent *entry;
	size_t n = 0;

	while (n < max && dir && (entry = readdir(dir))) {
		pid_t pid = (pid_t)atoi(entry->d_name);

		if (pid > 1 && is_one(userdata, pid))
			ret_pids[n++] = pid;
	}
	return n;
}

struct wanted {
	const struct shim *shim;
	uint64_t earliest;
};

static bool is_wanted(const void *userdata, pid_t pid)
{
	const struct wanted *wanted = userdata;

	return stray_is(wanted->shim, pid, wanted->earliest);
}

size_t strays_find(const struct shim *shim, uint64_t earliest, pid_t *ret_pids, size_t max)
{
	const struct wanted wanted = {shim, earliest};

	return shim->config.own_pid_ns ? find(is_wanted, &wanted, ret_pids, max) : 0;
}

/* ---- by FIFOs ------------------------------------------------------------ */

/* What the kernel knows by itself: a file of a server that is gone would be asked for without an end. */
static bool is_fifo(int dir, const char *name, struct stat *ret_file)
{
	struct statx status;

	if (statx(dir, name, AT_STATX_DONT_SYNC, STATX_TYPE | STATX_INO, &status) ||
	    !S_ISFIFO(status.stx_mode))
		return false;
	*ret_file = (struct stat){.st_dev = makedev(status.stx_dev_major, status.stx_dev_minor),
				  .st_ino = status.stx_ino};
	return true;
}

static bool holds(const struct process *process, pid_t pid)
{
	_cleanup_(cleanup_free) char *path = text_format("/proc/%d/fd", (int)pid);
	_cleanup_(cleanup_dir) DIR *dir = path ? opendir(path) : NULL;
	struct dirent *entry;
	struct stat file;

	while (dir && (entry = readdir(dir)))
		if (entry->d_name[0] != '.' && is_fifo(dirfd(dir), entry->d_name, &file) &&
		    streams_owns(process, &file))
			return true;
	return false;
}

bool stray_is_holder(const struct process *process, pid_t pid)
{
	return stray_is(process->shim, pid, process->earliest) && holds(process, pid);
}

static bool is_holder(const void *userdata, pid_t pid)
{
	return stray_is_holder(userdata, pid);
}

size_t strays_find_holders(const struct process *process, pid_t *ret_pids, size_t max)
{
	return process->shim->config.own_pid_ns ? 0 : find(is_holder, process, ret_pids, max);
}
