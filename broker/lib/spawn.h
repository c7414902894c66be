#pragma once
/*
 * The one way in which davit starts a program: posix_spawn(3) (vfork semantics,
 * so it is safe in a process that has nng's threads and LMDB's map), with every
 * file descriptor closed in the child but those that are named. The child gets
 * default signal dispositions, an empty signal mask and its own session if asked.
 */

#include <stdbool.h>
#include <sys/types.h>

#include "broker/lib/error.h"

struct spawn_fd {
	int from; /* ours; -1: /dev/null */
	int to;   /* its number in the child */
};

struct spawn {
	const char *path;        /* of the program, absolute */
	const char *const *argv; /* NULL-terminated */
	const char *const *envp; /* NULL-terminated; NULL: empty environment */
	const char *cwd;         /* NULL: unchanged */
	const struct spawn_fd *fds;
	size_t n_fds; /* 0, 1 and 2 that are not named are /dev/null */
	bool new_session;
};

/* @ret_pid belongs to the caller, who must reap it. -ENOENT, -EACCES … as execve(2). */
int spawn(const struct spawn *spawn, pid_t *ret_pid, struct why *why);

/* Path of a davit program: beside the running one (/proc/self/exe), so that an uninstalled build works. */
int spawn_find_program(const char *name, char **ret_path);
