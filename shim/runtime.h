#pragma once
/*
 * Calls of the OCI runtime: `crun --root R … create …`. One of them at a time is
 * for the whole container, a few more make added processes, so that none of
 * these holds up a delete, nor one the other. The child gets a session of its own, three descriptors, an environment with nothing but
 * PATH, the bundle as directory, and a deadline at which its process group is
 * killed. What it says of a failure (its log, else its output) becomes a sentence.
 *
 * It is a child like all others: who reaps (reap.c) hands its end to runtime_ended().
 */

#include <signal.h>
#include <stdbool.h>
#include <sys/stat.h>

#include "broker/lib/error.h"
#include "broker/lib/loop.h"
#include "schemas/messages.h"

#define RUNTIME_COPY_FD     5 /* of a shim: the sealed copy of the program, if it has got one */
#define RUNTIME_DEADLINE_MS 30000
#define RUNTIME_PATH        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#define RUNTIME_EXECS       8
#define RUNTIME_LOG_MAX     (64u << 10) /* of what it writes, so much is looked at: the end */

/* @text is "" when it succeeded. Called from runtime_ended(). */
typedef void (*runtime_fn)(void *userdata, bool is_ok, const char *text);

struct runtime;

struct runtime_call {
	struct runtime *runtime;
	int pid;             /* 0: free */
	uint64_t start_time; /* of that process */
	bool timed_out;
	bool was_cut; /* it did not end by itself: what it made is not known */
	const char *verb;
	struct loop_timer timer;
	runtime_fn fn;
	void *userdata;
};

struct runtime {
	struct loop *loop;
	const struct shim_config *config; /* borrowed */
	char copy[32];                    /* the path of the program's copy; empty: none */
	struct stat copied;               /* the file that it is a copy of */
	struct runtime_call container;
	struct runtime_call execs[RUNTIME_EXECS];
};

void runtime_init(struct runtime *runtime, struct loop *loop, const struct shim_config *config);
/* Kills what runs; no callback comes. */
void runtime_deinit(struct runtime *runtime);

/* @verb and @options (NULL-terminated) stand before the task's id. @stdio: the child's 0, 1 and 2,
 * or NULL: /dev/null and its log. On failure @fn is not called. @call is free. */
int runtime_call(struct runtime_call *call, const char *verb, const char *const *options,
		 const int stdio[3], uint64_t deadline_ms, runtime_fn fn, void *userdata,
		 struct why *why);
/* Its process has been reaped. The call is free when its callback comes. */
void runtime_ended(struct runtime_call *call, const siginfo_t *info);
/* It has @ms left and no more. */
void runtime_hurry(struct runtime_call *call, uint64_t ms);

/* A call for an added process; NULL: all are under way. */
struct runtime_call *runtime_free_exec(struct runtime *runtime);
/* All calls, one after the other: NULL gives the first, and the last gives NULL. */
struct runtime_call *runtime_next(struct runtime *runtime, const struct runtime_call *call);
/* Whether a process of this start time may be what a call that is under way has made. */
bool runtime_may_have_made(struct runtime *runtime, uint64_t start_time);

/* Where create shall write init's pid. NULL when memory is out. */
char *runtime_pid_file(const struct shim_config *config);

/* The pid in the file that it wrote. */
int runtime_read_pid(const char *path, int *ret_pid, struct why *why);

/* Pure: the messages of the log lines (JSON or plain text), joined; at most @size bytes. */
void runtime_log_text(const char *log, char *text, size_t size);
