/* davit exec and attach: another process in a container, and another client of a process. */

#include <string.h>

#include "broker/lib/file.h"
#include "tools/container_options.h"
#include "tools/launch.h"

/* ---- exec ---------------------------------------------------------------- */

struct exec_options {
	struct io_options io;
	bool tty;
	char *cwd, *exec_id, *user, *pid_file;
	struct schema_strs env;
};

static int make_request(struct context *context, const struct exec_options *options, char **args,
			int n_args, struct task_exec_request *request)
{
	uint8_t random[ID_SIZE];
	char id[ID_TEXT_SIZE];
	int r;

	id_make(random);
	id_format(random, id);
	id[16] = '\0';
	request->start = true;
	r = schema_set(&request->container_id, args[0])
		    ?: schema_set(&request->exec_id, options->exec_id ?: id)
		    ?: schema_set(&request->cwd, options->cwd)
		    ?: schema_set(&request->user, options->user)
		    ?: schema_strs_copy(&options->env, &request->env);
	for (int i = 1; !r && i < n_args; i++)
		r = schema_strs_add(&request->args, args[i]);
	return r ? fail(context, "out of memory") : 0;
}

static int ask_exec(struct context *context, const void *request, uint64_t *ret_pid,
		    char **ret_task_id)
{
	_cleanup_(task_exec_reply_clear) struct task_exec_reply reply = {};
	int r = task_exec_ask(&context->ask, request, &reply);

	if (r) {
		(void)fail_ask(context, r);
		return container_run_exit_code(context->ask.text);
	}
	*ret_pid = reply.pid;
	*ret_task_id = TAKE(reply.task_id);
	return 0;
}

static int exec(struct context *context, void *data, char **args, int n_args)
{
	const struct exec_options *options = data;
	_cleanup_(task_exec_request_clear) struct task_exec_request request = {};
	struct launch process = {
		.process = {.id = args[0], .io = &options->io, .terminal = options->tty},
		.pid_file = options->pid_file,
		.ask = ask_exec,
		.request = &request,
		.io = &request.io};
	int code = io_options_check(context, &options->io, options->tty)
			   ?: make_request(context, options, args, n_args, &request);

	process.name = process.process.exec_id = request.exec_id;
	return code ?: launch(context, &process);
}

/* ---- attach -------------------------------------------------------------- */

struct attach_options {
	struct io_options io;
	char *exec_id;
	bool no_stdin;
};

/* One without a terminal that was made without an input has none to give it. */
static int find_process(struct context *context, const struct attach_options *options,
			const char *id, struct foreground_options *process)
{
	const struct task_io *io;
	_cleanup_(task_process_reply_clear) struct task_process_reply reply = {};
	struct task_name_request name = {.container_id = (char *)id, .exec_id = options->exec_id};
	int r = task_get_ask(&context->ask, &name, &reply);

	if (r)
		return fail_ask(context, r);
	if (reply.process->exit)
		return fail(context, "'%s' has ended: its output is in `davit logs`", id);
	io = reply.process->io;
	process->terminal = io && io->terminal;
	process->no_stdin = options->no_stdin ||
			    (!process->terminal && !(io && io->stdin && *io->stdin));
	return 0;
}

static int send_attach(struct context *context, const struct attach_options *options,
		       const char *id, const struct task_io *io, struct foreground *foreground)
{
	_cleanup_(task_attach_reply_clear) struct task_attach_reply reply = {};
	struct task_attach_request request = {.container_id = (char *)id,
					      .exec_id = options->exec_id,
					      .stdin = io->stdin,
					      .stdout = io->stdout,
					      .stderr = io->stderr,
					      .start = LOG_FROM_NOW};
	int r = task_attach_ask(&context->ask, &request, &reply);

	if (!r && reply.position)
		foreground_starts_at(foreground, reply.position);
	if (!r && reply.no_input)
		foreground_drop_input(foreground);
	return r ? fail_ask(context, r) : 0;
}

static int attach(struct context *context, void *data, char **args, int n_args)
{
	const struct attach_options *options = data;
	struct foreground_options process = {
		.id = args[0], .exec_id = options->exec_id, .io = &options->io, .attach = true};
	_cleanup_(foreground_freep) struct foreground *foreground = NULL;
	struct task_io *io = NULL;
	int code = io_options_check(context, &options->io, false)
			   ?: find_process(context, options, args[0], &process);

	(void)n_args;
	if (code)
		return code;
	code = foreground_new(context, &process, &foreground) ?: foreground_io(foreground, &io)
		       ?: send_attach(context, options, args[0], io, foreground);
	if (io)
		task_io_clear(io);
	free(io);
	return code ?: foreground_run(foreground, 0, NULL, NULL, false);
}

/* ---- the tables ---------------------------------------------------------- */

static const struct option_spec exec_options[] = {
	OPTION(struct exec_options, cwd, TEXT, "cwd", 0, "DIR",
	       "working directory (default: the container's)"),
	OPTION(struct exec_options, tty, FLAG, "tty", 't', NULL, "allocate a terminal"),
	OPTION(struct exec_options, exec_id, TEXT, "exec-id", 0, "ID",
	       "name of the process (default: chosen)"),
	OPTION(struct exec_options, user, TEXT, "user", 'u', "USER[:GROUP]",
	       "names or numbers, looked up in the container (default: the container's)"),
	OPTION(struct exec_options, env, LIST, "env", 'e', "NAME=VALUE",
	       "environment variable; may be repeated"),
	OPTION(struct exec_options, pid_file, TEXT, "pid-file", 0, "FILE",
	       "write the pid of the process there"),
	IO_OPTIONS(struct exec_options, io),
	{}};
static const struct option_spec attach_options[] = {
	OPTION(struct attach_options, exec_id, TEXT, "exec-id", 0, "ID",
	       "an added process instead of init"),
	OPTION(struct attach_options, no_stdin, FLAG, "no-stdin", 0, NULL, "only watch"),
	OPTION(struct attach_options, io.detach_keys, TEXT, "detach-keys", 0, "KEYS",
	       "with a terminal: leave it running (default: " DETACH_KEYS_DEFAULT
	       "; \"\" for none)"),
	OPTION(struct attach_options, io.fifo_dir, TEXT, "fifo-dir", 0, "DIR",
	       "directory of the FIFOs for the streams"),
	{}};

const struct command exec_command = {
	.name = "exec",
	.arguments = "CONTAINER COMMAND [ARG...]",
	.summary = "run another process in a container",
	.details =
		"   The exit code is that of the process; 125 means that davit failed, 126 that the program cannot be\n"
		"   executed, 127 that it was not found. With --detach its output goes to /dev/null unless --log is given.",
	.options = exec_options,
	.options_size = sizeof(struct exec_options),
	.min_args = 2,
	.max_args = -1,
	.is_run = true,
	.stops_at_argument = true,
	.run = exec,
};
const struct command attach_command = {
	.name = "attach",
	.arguments = "CONTAINER",
	.summary = "attach to the streams of a running container",
	.details =
		"   For containers whose output is logged: detached ones, those with a terminal, and those run with --log.\n"
		"   Any number of clients may be attached. The exit code is the container's, or 0 after the detach keys.",
	.options = attach_options,
	.options_size = sizeof(struct attach_options),
	.min_args = 1,
	.max_args = 1,
	.is_run = true,
	.run = attach,
};
