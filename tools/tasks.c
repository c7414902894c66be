/* davit tasks, ps, kill and wait. */

#include <fcntl.h>
#include <signal.h>
#include <string.h>

#include "broker/lib/file.h"
#include "broker/lib/loop.h"
#include "tools/container_options.h"
#include "tools/foreground.h"
#include "tools/lists.h"

/* ---- list, ps ------------------------------------------------------------ */

struct tasks_options {
	struct list_options list;
	bool all, all_namespaces;
};

static void status_text(const struct task_process *process, char text[64])
{
	char age[32];

	if (process->exit) {
		output_age(process->exit->exited_at_ns, age);
		if (process->exit->source == EXIT_UNKNOWN)
			snprintf(text, 64, "Exited (unknown) %s", age);
		else
			snprintf(text, 64, "Exited (%llu) %s",
				 (unsigned long long)process->exit_status, age);
	} else {
		snprintf(text, 64, "%s",
			 schema_enum_text(&schema_enum_task_status, process->status));
	}
}

typedef void (*row_fn)(struct context *context, struct table *table,
		       const struct task_process *process);

static void task_row(struct context *context, struct table *table,
		     const struct task_process *process)
{
	char pid[24];

	(void)context;
	snprintf(pid, sizeof(pid), "%llu", (unsigned long long)process->pid);
	table_add(table, process->container_id, pid,
		  schema_enum_text(&schema_enum_task_status, process->status));
}

static void ps_row(struct context *context, struct table *table, const struct task_process *process)
{
	_cleanup_(container_reply_clear) struct container_reply reply = {};
	struct container_get_request get = {.id = process->container_id};
	char pid[24], age[32], status[64];

	context->ask.namespace = process->namespace;
	(void)container_get_ask(&context->ask, &get, &reply);
	context->ask.namespace = context->namespace;
	snprintf(pid, sizeof(pid), "%llu", (unsigned long long)(process->exit ? 0 : process->pid));
	output_age(process->created_at_ns, age);
	status_text(process, status);
	table_add(table, process->container_id,
		  reply.container && reply.container->image ? reply.container->image : "-", pid,
		  status, age, process->namespace);
}

static int print_tasks(struct context *context, const struct tasks_options *options,
		       enum output_format format, struct table *table, row_fn row, char **args,
		       int n_args)
{
	struct task_list_request request = {.filters = list_filters(args, n_args),
					    .deleted = options->all,
					    .all_namespaces = options->all_namespaces};
	_cleanup_(cleanup_free) char *after = NULL, *after_namespace = NULL;
	json_t *all = json_array();
	int code = 0, r;

	do {
		_cleanup_(task_list_reply_clear) struct task_list_reply reply = {};

		r = task_list_ask(&context->ask, &request, &reply);
		if (r)
			code = fail_ask(context, r);
		for (size_t i = 0; i < reply.tasks.count; i++) {
			if (format == OUTPUT_QUIET)
				puts(reply.tasks.items[i].container_id);
			else if (format == OUTPUT_JSON)
				json_array_append_new(all,
						      json_from_message(schema_task_process(),
									&reply.tasks.items[i]));
			else
				row(context, table, &reply.tasks.items[i]);
		}
		free(after);
		free(after_namespace);
		request.after = after = TAKE(reply.after);
		request.after_namespace = after_namespace = TAKE(reply.after_namespace);
	} while (!code && after);
	if (!code && format == OUTPUT_TABLE)
		table_print(table);
	if (!code && format == OUTPUT_JSON)
		output_json(json_incref(all));
	json_decref(all);
	return code;
}

static int list(struct context *context, void *data, char **args, int n_args)
{
	const struct tasks_options *options = data;
	_cleanup_(table_clear) struct table table = {};
	enum output_format format;
	int code = list_format(context, &options->list, &format);

	table_init(&table, "TASK", "PID", "STATUS", NULL);
	return code ?: print_tasks(context, options, format, &table, task_row, args, n_args);
}

static int ps(struct context *context, void *data, char **args, int n_args)
{
	const struct tasks_options *options = data;
	_cleanup_(table_clear) struct table table = {};
	enum output_format format;
	int code = list_format(context, &options->list, &format);

	table_init(&table, "CONTAINER", "IMAGE", "PID", "STATUS", "CREATED", "NAMESPACE", NULL);
	return code ?: print_tasks(context, options, format, &table, ps_row, args, n_args);
}

/* ---- start --------------------------------------------------------------- */

struct start_options {
	bool null_io, detach;
	char *log_uri, *fifo_dir, *pid_file;
};

static int set_log(struct context *context, const char *uri, struct task_create_request *request)
{
	if (!uri)
		return 0;
	request->io = request->io ?: calloc(1, sizeof(*request->io));
	if (!request->io || schema_set(&request->io->stdout, uri) ||
	    schema_set(&request->io->stderr, uri))
		return fail(context, "out of memory");
	return 0;
}

static int start_task(struct context *context, const struct start_options *options,
		      struct task_create_request *request, char **ret_task_id)
{
	_cleanup_(task_create_reply_clear) struct task_create_reply reply = {};
	struct why why = {};
	char pid[24];
	int r = task_create_ask(&context->ask, request, &reply), n;

	if (r) {
		(void)fail_ask(context, r);
		return container_run_exit_code(context->ask.text);
	}
	n = snprintf(pid, sizeof(pid), "%llu", (unsigned long long)reply.pid);
	if (options->pid_file && file_write(options->pid_file, pid, (size_t)n, 0644, false, &why))
		return fail(context, "--pid-file: %s", why.text);
	*ret_task_id = TAKE(reply.task_id);
	return 0;
}

static int start(struct context *context, void *data, char **args, int n_args)
{
	const struct start_options *options = data;
	_cleanup_(task_create_request_clear) struct task_create_request request = {.start = true};
	_cleanup_(foreground_freep) struct foreground *foreground = NULL;
	_cleanup_(cleanup_free) char *task_id = NULL;
	int code;

	(void)n_args;
	if (schema_set(&request.container_id, args[0]))
		return fail(context, "out of memory");
	if (options->detach)
		return set_log(context, options->log_uri, &request)
			       ?: start_task(context, options, &request, &task_id);
	code = foreground_new(context, args[0], options->fifo_dir,
			      options->null_io || options->log_uri, false, &foreground);
	if (!code)
		code = foreground_io(foreground, &request.io)
			       ?: set_log(context, options->log_uri, &request);
	if (!code)
		code = start_task(context, options, &request, &task_id);
	return code ?: foreground_run(foreground, NULL, task_id, false);
}

/* ---- kill ---------------------------------------------------------------- */

struct kill_options {
	char *signal, *exec_id;
	bool all;
};

static int signal_number(struct context *context, const char *text, uint64_t *ret_number)
{
	char *end;
	unsigned long number = strtoul(text, &end, 10);

	if (*text && !*end && number > 0 && number <= 64) {
		*ret_number = number;
		return 0;
	}
	if (!strncasecmp(text, "SIG", 3))
		text += 3;
	for (int i = 1; i < 32; i++) {
		if (sigabbrev_np(i) && !strcasecmp(sigabbrev_np(i), text)) {
			*ret_number = (uint64_t)i;
			return 0;
		}
	}
	return fail_usage(context, "'%s' is not a signal: use a name such as SIGTERM, or a number",
			  text);
}

static int kill_one(struct context *context, const char *name, void *data)
{
	const struct kill_options *options = data;
	struct task_kill_request request = {
		.container_id = (char *)name, .exec_id = options->exec_id, .all = options->all};
	int code = options->signal ? signal_number(context, options->signal, &request.signal) : 0,
	    r;

	if (code)
		return code;
	r = task_kill_ask(&context->ask, &request, NULL);
	return r ? fail_ask(context, r) : EXIT_OK;
}

static int kill_tasks(struct context *context, void *data, char **args, int n_args)
{
	const struct kill_options *options = data;

	if (options->all && options->exec_id)
		return fail_usage(context, "--all and --exec-id exclude each other");
	return list_each(context, args, n_args, kill_one, data);
}

/* ---- wait ---------------------------------------------------------------- */

static int wait_until_exit(struct context *context, const char *id, uint64_t from,
			   struct exit_record *ret_exit)
{
	struct task_name_request name = {.container_id = (char *)id};
	char *topics[] = {(char *)"/tasks/exit", (char *)"/tasks/delete"};
	struct event_read_request read = {
		.from = from,
		.object = (char *)id,
		.wait_ms = 10000,
		.namespace = (char *)(context->namespace ?: ENVELOPE_DEFAULT_NS),
		.topics = {topics, 2}};

	for (;;) {
		_cleanup_(task_wait_reply_clear) struct task_wait_reply reply = {};
		_cleanup_(event_read_reply_clear) struct event_read_reply events = {};
		int r = task_wait_ask(&context->ask, &name, &reply);

		if (r)
			return r;
		if (reply.exited)
			return exit_record_copy(reply.exit, ret_exit);
		r = event_read_ask(&context->ask, &read, &events);
		if (r)
			return r;
		read.from = events.next;
	}
}

static int wait_one(struct context *context, const char *name, void *data)
{
	_cleanup_(event_read_reply_clear) struct event_read_reply end = {};
	_cleanup_(exit_record_clear) struct exit_record exit = {};
	struct event_read_request now = {};
	int r = event_read_ask(&context->ask, &now, &end);

	(void)data;
	r = r ?: wait_until_exit(context, name, end.last_seq + 1, &exit);
	if (r)
		return fail_ask(context, r);
	if (exit.source == EXIT_UNKNOWN)
		fprintf(stderr, "davit: the exit code of container '%s' is not known (%s)\n", name,
			exit.cause ?: "?");
	printf("%llu\n", (unsigned long long)exit.exit_status);
	return EXIT_OK;
}

static int wait_tasks(struct context *context, void *data, char **args, int n_args)
{
	return list_each(context, args, n_args, wait_one, data);
}

/* ---- delete -------------------------------------------------------------- */

struct delete_options {
	bool force;
	char *exec_id;
};

static int delete_one(struct context *context, const char *name, void *data)
{
	const struct delete_options *options = data;
	_cleanup_(task_delete_reply_clear) struct task_delete_reply reply = {};
	struct task_delete_request request = {
		.container_id = (char *)name, .exec_id = options->exec_id, .force = options->force};
	int r = task_delete_ask(&context->ask, &request, &reply);

	if (r)
		return fail_ask(context, r);
	if (reply.exit && reply.exit->exit_status)
		fprintf(stderr, "davit: task '%s' exited with code %llu%s\n", name,
			(unsigned long long)reply.exit->exit_status,
			reply.exit->source == EXIT_UNKNOWN ? " (not known)" : "");
	return EXIT_OK;
}

static int delete (struct context *context, void *data, char **args, int n_args)
{
	return list_each(context, args, n_args, delete_one, data);
}

/* ---- the tables ---------------------------------------------------------- */

static const struct option_spec tasks_options[] = {
	LIST_OPTIONS(struct tasks_options),
	OPTION(struct tasks_options, all, FLAG, "all", 'a', NULL,
	       "also those that were deleted, as long as they are remembered"),
	OPTION(struct tasks_options, all_namespaces, FLAG, "all-namespaces", 'A', NULL,
	       "of every namespace"),
	{}};
static const struct option_spec start_options[] = {
	OPTION(struct start_options, null_io, FLAG, "null-io", 0, NULL,
	       "all streams are /dev/null"),
	OPTION(struct start_options, log_uri, TEXT, "log-uri", 0, "URI",
	       "file:///path for standard output and error"),
	OPTION(struct start_options, fifo_dir, TEXT, "fifo-dir", 0, "DIR",
	       "directory of the FIFOs for the streams"),
	OPTION(struct start_options, pid_file, TEXT, "pid-file", 0, "FILE",
	       "write the pid of init there"),
	OPTION(struct start_options, detach, FLAG, "detach", 'd', NULL,
	       "return when it has started"),
	{}};
static const struct option_spec kill_options[] = {
	OPTION(struct kill_options, signal, TEXT, "signal", 's', "SIGNAL",
	       "name or number (default: the image's stop signal, else SIGTERM)"),
	OPTION(struct kill_options, exec_id, TEXT, "exec-id", 0, "ID",
	       "an added process instead of init"),
	OPTION(struct kill_options, all, FLAG, "all", 'a', NULL,
	       "to all processes of the container"),
	{}};
static const struct option_spec delete_options[] = {
	OPTION(struct delete_options, force, FLAG, "force", 'f', NULL, "SIGKILL it first"),
	OPTION(struct delete_options, exec_id, TEXT, "exec-id", 0, "ID",
	       "an added process instead of the task"),
	{}};

static const struct command list_command = {
	.name = "list",
	.aliases = "ls",
	.arguments = "[FILTER...]",
	.summary = "list tasks",
	.options = tasks_options,
	.options_size = sizeof(struct tasks_options),
	.max_args = -1,
	.run = list,
};
static const struct command start_command = {
	.name = "start",
	.arguments = "CONTAINER",
	.summary = "start a container that has been created",
	.options = start_options,
	.options_size = sizeof(struct start_options),
	.min_args = 1,
	.max_args = 1,
	.is_run = true,
	.run = start,
};
static const struct command task_kill_command = {
	.name = "kill",
	.arguments = "CONTAINER [CONTAINER...]",
	.summary = "signal a container (default: SIGTERM)",
	.options = kill_options,
	.options_size = sizeof(struct kill_options),
	.min_args = 1,
	.max_args = -1,
	.run = kill_tasks,
};
static const struct command task_wait_command = {
	.name = "wait",
	.arguments = "CONTAINER [CONTAINER...]",
	.summary = "wait until containers have ended; prints the exit codes",
	.min_args = 1,
	.max_args = -1,
	.run = wait_tasks,
};
static const struct command task_delete_command = {
	.name = "delete",
	.aliases = "del remove rm",
	.arguments = "CONTAINER [CONTAINER...]",
	.summary = "delete tasks",
	.options = delete_options,
	.options_size = sizeof(struct delete_options),
	.min_args = 1,
	.max_args = -1,
	.run = delete,
};

const struct command tasks_command = {
	.name = "tasks",
	.aliases = "t task",
	.summary = "manage tasks: running containers",
	.subcommands = (const struct command *const[]){&list_command, &start_command,
						       &task_kill_command, &task_wait_command,
						       &task_delete_command, NULL},
};
const struct command ps_command = {
	.name = "ps",
	.arguments = "[FILTER...]",
	.summary = "list running containers, and with -a ended ones",
	.options = tasks_options,
	.options_size = sizeof(struct tasks_options),
	.max_args = -1,
	.run = ps,
};
const struct command kill_command = {
	.name = "kill",
	.arguments = "CONTAINER [CONTAINER...]",
	.summary = "signal containers",
	.options = kill_options,
	.options_size = sizeof(struct kill_options),
	.min_args = 1,
	.max_args = -1,
	.run = kill_tasks,
};
const struct command wait_command = {
	.name = "wait",
	.arguments = "CONTAINER [CONTAINER...]",
	.summary = "wait until containers have ended; prints the exit codes",
	.min_args = 1,
	.max_args = -1,
	.run = wait_tasks,
};
