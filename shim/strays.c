/* See strays.h. */

#include "shim/strays.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "shim/shim.h"
#include "shim/streams.h"

#define STAT_MAX   4096
#define PF_EXITING 0x4 /* include/linux/sched.h; proc(5), field 9 of stat */

static bool is_known(const struct shim *shim, pid_t pid)
{
	for (const struct process *process = shim->added.first; process; process = process->next)
		if (process->pid == pid)
			return true;
	return pid == shim->init.pid;
}

/* Of a process that has not ended. One that is ending keeps its namespaces for as long as its memory is given back,
 * but has no arguments any more: it may be an OCI runtime that was killed. */
static int read_parent(pid_t pid, pid_t *ret_parent)
{
	_cleanup_(cleanup_free) char *path = text_format("/proc/%d/stat", (int)pid), *text = NULL;
	const char *fields;
	unsigned int flags;
	char state;
	int parent;

	if (!path || file_read_proc(path, STAT_MAX, &text, NULL))
		return -ESRCH;
	fields = strrchr(text, ')');
	if (!fields ||
	    sscanf(fields + 1, " %c %d %*d %*d %*d %*d %u", &state, &parent, &flags) != 3 ||
	    state == 'Z' || state == 'X' || flags & PF_EXITING)
		return -ESRCH;
	*ret_parent = parent;
	return 0;
}

bool stray_is(const struct shim *shim, pid_t pid, uint64_t earliest)
{
	uint64_t start_time;
	pid_t parent;

	return !is_known(shim, pid) && shim_is_in_container(shim, pid) &&
	       !process_start_time(pid, &start_time) && start_time >= earliest &&
	       !read_parent(pid, &parent) && !shim_is_in_container(shim, parent);
}

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
