/* See strays.h. */

#include "shim/strays.h"

#include <stdio.h>
#include <string.h>

#include "shim/shim.h"

#define STAT_MAX 4096

static bool is_known(const struct shim *shim, pid_t pid)
{
	for (const struct process *process = shim->added.first; process; process = process->next)
		if (process->pid == pid)
			return true;
	return pid == shim->init.pid;
}

/* Of a process that is no zombie. */
static int read_parent(pid_t pid, pid_t *ret_parent)
{
	_cleanup_(cleanup_free) char *path = text_format("/proc/%d/stat", (int)pid), *text = NULL;
	const char *fields;
	char state;
	int parent;

	if (!path || file_read_proc(path, STAT_MAX, &text, NULL))
		return -ESRCH;
	fields = strrchr(text, ')');
	if (!fields || sscanf(fields + 1, " %c %d", &state, &parent) != 2 || state == 'Z' ||
	    state == 'X')
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

size_t strays_find(const struct shim *shim, uint64_t earliest, pid_t *ret_pids, size_t max)
{
	_cleanup_(cleanup_dir) DIR *dir = shim->config.own_pid_ns ? opendir("/proc") : NULL;
	struct dirent *entry;
	size_t n = 0;

	while (n < max && dir && (entry = readdir(dir))) {
		pid_t pid = (pid_t)atoi(entry->d_name);

		if (pid > 1 && stray_is(shim, pid, earliest))
			ret_pids[n++] = pid;
	}
	return n;
}
