#pragma once
/*
 * Calls of the OCI runtime, one at a time: `crun --root R … create …`. The child
 * gets a session of its own, three descriptors, an environment with nothing but
 * PATH, the bundle as directory, and a deadline at which its process group is
 * killed. What it says of a failure (its log, else its output) becomes a sentence.
 *
 * It is a child like all others: who reaps (reap.c) hands its end to runtime_ended().
 */

#include <signal.h>
#include <stdbool.h>

#include "broker/lib/error.h"
#include "broker/lib/loop.h"
#include "schemas/messages.h"

#define RUNTIME_DEADLINE_MS 30000
#define RUNTIME_PATH        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#define RUNTIME_LOG_MAX     (64u << 10) /* of what it writes, so much is looked at: the end */

/* @text is "" when it succeeded. Called from runtime_ended(). */
typedef void (*runtime_fn)(void *userdata, bool is_ok, const char *text);

struct runtime {
	struct loop *loop;
	const struct shim_config *config; /* borrowed */
	int pid;                          /* 0: no call is under way */
	bool timed_out;
	const char *verb;
	struct loop_timer timer;
	runtime_fn fn;
	void *userdata;
};

/* @verb and @options (NULL-terminated) stand before the task's id. @stdio: the child's 0, 1 and 2,
 * or NULL: /dev/null and its log. On failure @fn is not called. */
int runtime_call(struct runtime *runtime, const char *verb, const char *const *options,
		 const int stdio[3], uint64_t deadline_ms, runtime_fn fn, void *userdata,
		 struct why *why);
void runtime_ended(struct runtime *runtime, const siginfo_t *info);
/* It has @ms left and no more. */
void runtime_hurry(struct runtime *runtime, uint64_t ms);
/* Kills it; no callback comes. */
void runtime_deinit(struct runtime *runtime);
/* Where create shall write init's pid. NULL when memory is out. */
char *runtime_pid_file(const struct shim_config *config);

/* Pure: the messages of the log lines (JSON or plain text), joined; at most @size bytes. */
void runtime_log_text(const char *log, char *text, size_t size);
