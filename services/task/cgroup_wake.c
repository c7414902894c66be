/* See cgroup_wake.h. The wait is a thread's, as nothing but a move starts it. */

#include "services/task/cgroup_wake.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>

#include "broker/lib/cgroup_path.h"
#include "broker/lib/cleanup.h"
#include "broker/lib/error.h"
#include "broker/lib/file.h"
#include "broker/lib/thread.h"

#define STACK_SIZE  (64 * 1024)
#define CGROUPS_MAX (64u << 10)

struct cgroup_wake {
	const char *mount; /* borrowed */
	int asked_fd;      /* eventfd */
	atomic_bool is_ending;
	pthread_t thread;
	bool has_thread;
};

/* cgroup.procs of the cgroup that this process is in: of v2, or of one of v1's hierarchies, which have one lock. */
static char *own_procs(const char *mount)
{
	static const char *const controllers[] = {"", "pids", "memory", "cpu", "devices"};
	_cleanup_(cleanup_free) char *cgroups = NULL;

	if (file_read_proc("/proc/self/cgroup", CGROUPS_MAX, &cgroups, NULL))
		return NULL;
	for (size_t i = 0; i < ARRAY_SIZE(controllers); i++) {
		_cleanup_(cleanup_free) char *path = cgroup_path_parse(cgroups, controllers[i]);
		_cleanup_(cleanup_free) char *procs =
			path ? text_format("%s%s%s%s/cgroup.procs", mount,
					   *controllers[i] ? "/" : "", controllers[i], path)
			     : NULL;

		if (procs && !access(procs, W_OK))
			return TAKE(procs);
	}
	return NULL;
}

/* To where it is already: the kernel changes nothing, but has had the lock. Looked up each time, for an
 * administrator may have moved it; a move in the milliseconds between is undone. */
static void move_self(const char *mount)
{
	_cleanup_(cleanup_free) char *procs = own_procs(mount);
	_cleanup_(cleanup_fd) int fd = procs ? open(procs, O_WRONLY | O_CLOEXEC | O_NOCTTY) : -1;

	if (fd >= 0)
		(void)dprintf(fd, "%d", getpid());
}

static void *run(void *userdata)
{
	struct cgroup_wake *wake = userdata;
	uint64_t count;

	while (read(wake->asked_fd, &count, sizeof(count)) == sizeof(count) &&
	       !atomic_load(&wake->is_ending))
		move_self(wake->mount);
	return NULL;
}

int cgroup_wake_new(const char *mount, struct cgroup_wake **ret_wake)
{
	_cleanup_(cgroup_wake_freep) struct cgroup_wake *wake = calloc(1, sizeof(*wake));
	int r;

	if (!wake)
		return error_origin(-ENOMEM);
	wake->mount = mount;
	wake->asked_fd = eventfd(0, EFD_CLOEXEC);
	r = wake->asked_fd < 0 ? error_origin(-errno)
			       : thread_start(&wake->thread, STACK_SIZE, run, wake);
	if (r)
		return error_trace(r);
	wake->has_thread = true;
	*ret_wake = TAKE(wake);
	return 0;
}

void cgroup_wake(struct cgroup_wake *wake)
{
	const uint64_t one = 1;
	ssize_t n;

	if (!wake)
		return;
	n = write(wake->asked_fd, &one, sizeof(one));
	(void)n; /* blocks after 2^64 of them */
}

struct cgroup_wake *cgroup_wake_free(struct cgroup_wake *wake)
{
	if (!wake)
		return NULL;
	if (wake->has_thread) {
		atomic_store(&wake->is_ending, true);
		cgroup_wake(wake);
		pthread_join(wake->thread, NULL);
	}
	close_fd(wake->asked_fd);
	free(wake);
	return NULL;
}

void cgroup_wake_freep(struct cgroup_wake **wake)
{
	*wake = cgroup_wake_free(*wake);
}
