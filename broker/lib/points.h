#pragma once
/*
 * Points: in a test build (make POINTS=1) every commit, message sent, process
 * spawned, file operation and mount is a named place where a process can be made
 * to die, to stall or to get an error on its n-th passing. points.def is the list
 * of them; tests/points drives them. Any other build has nothing of this.
 *
 * The environment variable DAVIT_POINTS names a file that all processes of a davit
 * map (struct points_control): a driver arms one passing in it, or has all of them
 * written down. It is shared memory, not text, since it is looked at thousands of
 * times a second, by processes that may not open files any more.
 */

#ifndef DAVIT_POINTS

/* 0, or a positive errno that the place shall behave as if it had got. */
#define point(...)              0
#define point_environment(envp) (envp)

#else

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/pidfd.h>
#ifndef _PIDFD_H
#define _PIDFD_H /* which glibc 2.36 forgets to do */
#endif
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/xattr.h>
#include <unistd.h>

#define POINTS_MAGIC   0x315354504e494f50ull
#define POINT_NAME_MAX 96
#define POINT_MEMORY   "memory"
#define POINT_CALLERS  16

enum point_action {
	POINT_DIE = 1,
	POINT_STALL = 2, /* until is_released, a minute at most */
	POINT_ERROR = 3,
};

struct point_passing {
	char process[24];
	char name[POINT_NAME_MAX];
};

/* tests/points/points.py knows this layout. */
struct points_control {
	uint64_t magic;
	uint32_t is_recording;
	uint32_t is_armed;
	int32_t left; /* at 0 after a passing that is meant, it happens */
	uint32_t action;
	int32_t error;
	uint32_t n_fired;
	uint32_t is_released;
	uint32_t n_passings; /* goes on counting when there is no more room */
	struct point_passing armed; /* a '*' ends its name: all that begin so and may fail, but for memory; then the one that did */
	uint64_t callers[POINT_CALLERS]; /* of the one that did, innermost first: places in its program */
	struct point_passing passings[];
};

int point(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* @envp with DAVIT_POINTS, for a child; good until the next call of this thread. */
const char *const *point_environment(const char *const *envp);
/* The points around a call: 0, or the errno that it shall seem to have failed with. */
int point_call(const char *path, const char *function, const char *call, const char *moment);

/* A call that fails with -1 and errno. */
#define POINT_CALL(call, ...)                                                                      \
	({                                                                                         \
		__typeof__((call)(__VA_ARGS__)) result_ = -1;                                      \
		int error_ = point_call(__FILE__, __func__, #call, "before");                      \
		if (error_) {                                                                      \
			errno = error_;                                                            \
		} else {                                                                           \
			result_ = (call)(__VA_ARGS__);                                             \
			(void)point_call(__FILE__, __func__, #call, "after");                      \
		}                                                                                  \
		result_;                                                                           \
	})

/* Of the kernel's headers, which the mounts bring along. */
#undef BLOCK_SIZE

#include <points_calls.h> /* of points.def, by the Makefile */

/* The one of them that gives back its errno. */
#undef posix_spawn
#define posix_spawn(...)                                                                           \
	({                                                                                         \
		int result_ = point_call(__FILE__, __func__, "posix_spawn", "before");             \
		if (!result_) {                                                                    \
			result_ = (posix_spawn)(__VA_ARGS__);                                      \
			(void)point_call(__FILE__, __func__, "posix_spawn", "after");              \
		}                                                                                  \
		result_;                                                                           \
	})

#endif
