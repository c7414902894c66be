/* davit start and restart: a new task for a container that is there. */

#include <stdlib.h>
#include <string.h>

#include "tools/container_options.h"
#include "tools/control.h"
#include "tools/launch.h"
#include "tools/lists.h"

struct start_options {
	struct io_options io;
	char *pid_file;
};

/* What it is and whether it has a terminal stands in its record. */
static int find_terminal(struct context *context, const char *id, bool *ret_terminal)
{
	_cleanup_(container_reply_clear) struct container_reply reply = {};
	struct container_get_request get = {.id = (char *)id};
	int r = container_get_ask(&context->ask, &get, &reply);

	if (r)
		return fail_ask(context, r);
	*ret_terminal = io_options_spec_has_terminal(reply.container->spec);
	return 0;
}

static int ask_create(struct context *context, const void *request, uint64_t *ret_pid,
		      char **ret_task_id)
{
	_cleanup_(task_create_reply_clear) struct task_create_reply reply = {};
	int r = task_create_ask(&context->ask, request, &reply);

	if (r) {
		(void)fail_ask(context, r);
		return container_run_exit_code(context->ask.text);
	}
	*ret_pid = reply.pid;
	*ret_task_id = TAKE(reply.task_id);
	return 0;
}

static int start_one(struct context *context, const char *name, void *data)
{
	_cleanup_(task_create_request_clear) struct task_create_request request = {.start = true};
	const struct start_options *options = data;
	struct launch process = {.process = {.id = name, .io = &options->io},
				 .name = name,
				 .pid_file = options->pid_file,
				 .log_by_default = true,
				 .ask = ask_create,
				 .request = &request,
				 .io = &request.io};
	int code = find_terminal(context, name, &process.process.terminal)
			   ?: io_options_check(context, &options->io, process.process.terminal);

	if (!code && schema_set(&request.container_id, name))
		code = fail(context, "out of memory");
	return code ?: launch(context, &process);
}

static int start(struct context *context, void *data, char **args, int n_args)
{
	const struct start_options *options = data;

	if (options->io.detach)
		return list_each(context, args, n_args, start_one, data);
	if (n_args > 1)
		return fail_usage(context, "several containers are started with --detach only");
	return start_one(context, args[0], data);
}

/* ---- restart ------------------------------------------------------------- */

struct restart_options {
	char *timeout, *signal;
};

static int restart_one(struct context *context, const char *name, void *data)
{
	const struct restart_options *options = data;
	struct task_delete_request delete = {.container_id = (char *)name};
	struct start_options start = {.io.detach = true};
	int code = control_stop(context, name, options->signal, options->timeout), r;

	if (code)
		return code;
	r = task_delete_ask(&context->ask, &delete, NULL);
	if (r && context->ask.status != BUS_NOT_FOUND)
		return fail_ask(context, r);
	code = start_one(context, name, &start);
	if (!code)
		puts(name);
	return code;
}

static int restart(struct context *context, void *data, char **args, int n_args)
{
	return list_each(context, args, n_args, restart_one, data);
}

/* ---- the tables ---------------------------------------------------------- */

static const struct option_spec start_options[] = {IO_OPTIONS(struct start_options, io),
						   OPTION(struct start_options, pid_file, TEXT,
							  "pid-file", 0, "FILE",
							  "write the pid of init there"),
						   {}};
static const struct option_spec restart_options[] = {
	OPTION(struct restart_options, timeout, TEXT, "timeout", 't', "SECONDS",
	       "grace period between the stop signal and SIGKILL (default: 10; 0: none)"),
	OPTION(struct restart_options, signal, TEXT, "signal", 's', "SIGNAL",
	       "instead of the image's stop signal"),
	{}};

const struct command start_command = {
	.name = "start",
	.arguments = "CONTAINER",
	.summary = "start a container that has been created",
	.details =
		"   In the foreground, unless --detach is given: streams and signals are passed on and the exit code is the\n"
		"   container's own. Whether it has a terminal was said when it was created.",
	.options = start_options,
	.options_size = sizeof(struct start_options),
	.min_args = 1,
	.max_args = -1,
	.is_run = true,
	.run = start,
};
const struct command restart_command = {
	.name = "restart",
	.arguments = "CONTAINER [CONTAINER...]",
	.summary = "stop containers and start them again, detached",
	.options = restart_options,
	.options_size = sizeof(struct restart_options),
	.min_args = 1,
	.max_args = -1,
	.run = restart,
};
