/*
 * davit run: one call to the container service does everything; here are only the
 * streams, the signals and the exit code. The wait is by the event log, so that it
 * survives a restart of anything.
 */

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/stat.h>

#include "broker/lib/loop.h"
#include "tools/checkpoint.h"
#include "tools/checkpoint_image.h"
#include "tools/container_options.h"
#include "tools/launch.h"

/* A spec of the caller's own says by itself whether it wants a terminal. */
static bool has_terminal(const struct container_options *options,
			 const struct container_run_request *request)
{
	return request->spec ? io_options_spec_has_terminal(request->spec) : options->tty;
}

static int check_options(struct context *context, const struct container_options *options,
			 const struct container_run_request *request)
{
	if (options->io.detach && options->rm)
		return fail_usage(context, "--rm and --detach exclude each other");
	return io_options_check(context, &options->io, has_terminal(options, request));
}

static int fail_run(struct context *context, int r)
{
	(void)fail_ask(context, r);
	return container_run_exit_code(context->ask.text);
}

/* criu's files are needed until it runs, or does not. */
static int ask_run(struct context *context, struct container_run_request *request,
		   struct checkpoint_files *files, struct container_run_reply *ret_reply)
{
	int r = container_run_ask(&context->ask, request, ret_reply),
	    code = r ? fail_run(context, r) : 0;

	checkpoint_files_clear(files);
	return code;
}

static int run_detached(struct context *context, const struct container_options *options,
			struct container_run_request *request, struct checkpoint_files *files)
{
	_cleanup_(container_run_reply_clear) struct container_run_reply reply = {};
	int r;

	r = io_options_detached(context, &options->io, request->id, has_terminal(options, request),
				true, &request->io);
	if (r)
		return r;
	r = ask_run(context, request, files, &reply);
	io_options_release(&options->io, request->io);
	if (r)
		return r;
	return launch_write_pid(context, options->pid_file, reply.pid);
}

static int run_foreground(struct context *context, const struct container_options *options,
			  struct container_run_request *request, struct checkpoint_files *files)
{
	const struct foreground_options process = {
		.id = request->id, .io = &options->io, .terminal = has_terminal(options, request)};
	_cleanup_(foreground_freep) struct foreground *foreground = NULL;
	_cleanup_(container_run_reply_clear) struct container_run_reply reply = {};
	int code;

	code = foreground_new(context, &process, &foreground)
		       ?: foreground_io(foreground, &request->io)
		       ?: ask_run(context, request, files, &reply)
		       ?: launch_write_pid(context, options->pid_file, reply.pid);
	return code ?: foreground_run(foreground, reply.pid, reply.uid, reply.task_id, options->rm);
}

/* A directory of criu's files, or a checkpoint image. */
static int take_checkpoint(struct context *context, const char *checkpoint,
			   struct checkpoint_files *files, char **ret_path)
{
	struct stat status;
	int code;

	if (!checkpoint)
		return 0;
	if (*checkpoint == '/' || *checkpoint == '.' ||
	    (!stat(checkpoint, &status) && S_ISDIR(status.st_mode)))
		return checkpoint_path(context, checkpoint, ret_path);
	code = checkpoint_files_load(context, checkpoint, files);
	if (code)
		return code;
	return schema_set(ret_path, files->path) ? fail(context, "out of memory") : 0;
}

static int run(struct context *context, void *data, char **args, int n_args)
{
	_cleanup_(checkpoint_files_clear) struct checkpoint_files files = {};
	_cleanup_(container_run_request_clear) struct container_run_request request = {};
	const struct container_options *options = data;
	int code;

	code = container_options_request(context, options, args, n_args, &request)
		       ?: check_options(context, options, &request)
		       ?: take_checkpoint(context, options->checkpoint, &files,
					  &request.checkpoint);
	if (code)
		return code;
	return options->io.detach ? run_detached(context, options, &request, &files)
				  : run_foreground(context, options, &request, &files);
}

const struct command run_command = {
	.name = "run",
	.arguments = "IMAGE|ROOTFS ID [COMMAND [ARG...]]",
	.summary = "run a container",
	.details =
		"   In the foreground: streams and signals are passed on and the exit code is the container's own;\n"
		"   125 means that davit failed, 126 that the program cannot be executed, 127 that it was not found.",
	.options = run_options,
	.options_size = sizeof(struct container_options),
	.min_args = 1,
	.max_args = -1,
	.is_run = true,
	.stops_at_argument = true,
	.run = run,
};
