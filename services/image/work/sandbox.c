/* What davit-image-work gives up before it looks at its input. */

#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "services/image/work/work.h"

#define MEMORY_MAX      (768ull << 20) /* address space */
#define DESCRIPTORS_MAX 1024

/* Never above the present hard limit, which needs no right to change. */
static int lower(int resource, rlim_t value)
{
	struct rlimit limit;

	if (getrlimit(resource, &limit) < 0)
		return error_origin(-errno);
	if (limit.rlim_max > value)
		limit.rlim_max = value;
	limit.rlim_cur = limit.rlim_max;
	if (setrlimit(resource, &limit) < 0)
		return error_origin(-errno);
	return 0;
}

int sandbox_limit(struct why *why)
{
	int r = 0;

#ifndef __SANITIZE_ADDRESS__
	r = lower(RLIMIT_AS, MEMORY_MAX);
#endif
	if (!r)
		r = lower(RLIMIT_CORE, 0);
	if (!r)
		r = lower(RLIMIT_NOFILE, DESCRIPTORS_MAX);
	if (r)
		return why_errno(why, r, "cannot limit davit-image-work");
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
		return why_errno(why, error_origin(-errno), "cannot confine davit-image-work");
	return 0;
}

int sandbox_unshare(int directory, struct why *why)
{
	_cleanup_(cleanup_fd) int again = -1;

	if (fchdir(directory) < 0)
		return why_errno(why, error_origin(-errno), "cannot enter the given directory");
	if (unshare(CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC) < 0)
		return why_errno(why, error_origin(-errno),
				 "cannot give davit-image-work namespaces of its own");
	if (mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0)
		return why_errno(why, error_origin(-errno),
				 "cannot keep davit-image-work's mounts to itself");
	again = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (again < 0 || dup3(again, directory, O_CLOEXEC) < 0)
		return why_errno(why, error_origin(-errno), "cannot open the given directory");
	return 0;
}

int sandbox_enter(int fd, struct why *why)
{
	if (fchdir(fd) < 0 || chroot(".") < 0)
		return why_errno(why, error_origin(-errno), "cannot enter the snapshot");
	return 0;
}
