#pragma once
/* What start and exec share: a process is asked for, in the foreground or detached, and its pid written down. */

#include "tools/foreground.h"

struct launch {
	struct foreground_options process;
	const char *name;      /* of the process, for its streams when it is detached */
	const char *pid_file;  /* NULL: none */
	bool log_by_default;   /* when it is detached */
	/* Sends @request. An exit code, after saying why. */
	int (*ask)(struct context *context, const void *request, uint64_t *ret_pid,
		   char **ret_task_id);
	void *request;
	struct task_io **io; /* where in it the streams go */
};

/* As its io options say. Its exit code, or davit's own. */
int launch(struct context *context, const struct launch *launch);
/* 0, or an exit code after saying why; @path NULL: nothing is written. */
int launch_write_pid(struct context *context, const char *path, uint64_t pid);
