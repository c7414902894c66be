/* davit tasks, ps, kill and wait. */

#include <string.h>

#include "tools/control.h"
#include "tools/lists.h"
#include "tools/signals.h"

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

struct printing {
	struct context *context;
	enum output_format format;
	struct table *table;
	row_fn row;
	bool without_ended;
	struct schema_strs seen; /* containers */
	json_t *all;
};

static int print_task(struct printing *printing, const struct task_process *process)
{
	if (printing->without_ended && process->exit)
		return 0;
	if (printing->format == OUTPUT_QUIET)
		puts(process->container_id);
	else if (printing->format == OUTPUT_JSON)
		json_array_append_new(printing->all,
				      json_from_message(schema_task_process(), process));
	else
		printing->row(printing->context, printing->table, process);
	return schema_strs_add(&printing->seen, process->container_id);
}

static int print_tasks(struct printing *printing, const struct tasks_options *options, char **args,
		       int n_args)
{
	struct task_list_request request = {.filters = list_filters(args, n_args),
					    .deleted = options->all,
					    .all_namespaces = options->all_namespaces};
	_cleanup_(cleanup_free) char *after = NULL, *after_namespace = NULL;
	struct context *context = printing->context;
	int r;

	do {
		_cleanup_(task_list_reply_clear) struct task_list_reply reply = {};

		r = task_list_ask(&context->ask, &request, &reply);
		if (r)
			return fail_ask(context, r);
		for (size_t i = 0; !r && i < reply.tasks.count; i++)
			r = print_task(printing, &reply.tasks.items[i]);
		free(after);
		free(after_namespace);
		request.after = after = TAKE(reply.after);
		request.after_namespace = after_namespace = TAKE(reply.after_namespace);
	} while (!r && after);
	return r ? fail(context, "out of memory") : 0;
}

static void print_idle(struct printing *printing, const struct container_record *container)
{
	const char *namespace = printing->context->namespace ?: ENVELOPE_DEFAULT_NS;
	char age[32];

	output_age(container->created_at_ns, age);
	if (printing->format == OUTPUT_QUIET)
		puts(container->id);
	else if (printing->format == OUTPUT_JSON)
		json_array_append_new(printing->all,
				      json_pack("{s:s, s:s, s:s, s:s, s:I}", "container_id",
						container->id, "id", container->id, "namespace",
						namespace, "status", "NONE", "created_at_ns",
						(json_int_t)container->created_at_ns));
	else
		table_add(printing->table, container->id, container->image ?: "-", "0", "Created",
			  age, namespace);
}

static bool is_seen(const struct printing *printing, const char *id)
{
	for (size_t i = 0; i < printing->seen.count; i++) {
		if (!strcmp(printing->seen.items[i], id))
			return true;
	}
	return false;
}

/* Containers that have no task and of which none is remembered. */
static int print_idles(struct printing *printing)
{
	_cleanup_(cleanup_free) char *after = NULL;
	struct context *context = printing->context;
	struct list_request request = {};

	do {
		_cleanup_(container_list_reply_clear) struct container_list_reply reply = {};
		int r = container_list_ask(&context->ask, &request, &reply);

		if (r)
			return fail_ask(context, r);
		for (size_t i = 0; i < reply.containers.count; i++) {
			if (!is_seen(printing, reply.containers.items[i].id))
				print_idle(printing, &reply.containers.items[i]);
		}
		free(after);
		request.after = after = TAKE(reply.after);
	} while (after);
	return 0;
}

/* ps is of containers: those that run, or all; tasks list is of tasks. */
static int print(struct context *context, const struct tasks_options *options, struct table *table,
		 row_fn row, char **args, int n_args)
{
	bool is_ps = row == ps_row;
	bool idle = is_ps && options->all && !options->all_namespaces && !n_args;
	struct printing printing = {.context = context,
				    .table = table,
				    .row = row,
				    .without_ended = is_ps && !options->all,
				    .all = json_array()};
	int code = list_format(context, &options->list, &printing.format)
			   ?: print_tasks(&printing, options, args, n_args);

	if (!code && idle)
		code = print_idles(&printing);
	if (!code && printing.format == OUTPUT_TABLE)
		table_print(table);
	if (!code && printing.format == OUTPUT_JSON)
		output_json(json_incref(printing.all));
	json_decref(printing.all);
	schema_strs_clear(&printing.seen);
	return code;
}

static int list(struct context *context, void *data, char **args, int n_args)
{
	_cleanup_(table_clear) struct table table = {};

	table_init(&table, "TASK", "PID", "STATUS", NULL);
	return print(context, data, &table, task_row, args, n_args);
}

static int ps(struct context *context, void *data, char **args, int n_args)
{
	_cleanup_(table_clear) struct table table = {};

	table_init(&table, "CONTAINER", "IMAGE", "PID", "STATUS", "CREATED", "NAMESPACE", NULL);
	return print(context, data, &table, ps_row, args, n_args);
}

/* ---- kill ---------------------------------------------------------------- */

struct kill_options {
	char *signal, *exec_id;
	bool all;
};

static int signal_number(struct context *context, const char *text, uint64_t *ret_number)
{
	if (signals_parse(text, ret_number))
		return fail_usage(context,
				  "'%s' is not a signal: use a name such as SIGTERM, or a number",
				  text);
	return 0;
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
	control_warn_pending(name, reply.pending);
	/* As ctr: of an added process the code, of a task a line. */
	if (options->exec_id)
		return reply.exit ? (int)reply.exit->exit_status : EXIT_OK;
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
	.subcommands = (const struct command *const[]){&list_command, &start_command, &exec_command,
						       &attach_command, &checkpoint_command,
						       &kill_command, &pause_command,
						       &resume_command, &task_ps_command,
						       &metrics_command, &wait_command,
						       &task_delete_command, NULL},
};
const struct command ps_command = {
	.name = "ps",
	.arguments = "[FILTER...]",
	.summary =
		"list running containers, and with -a ended ones and those that were only created",
	.options = tasks_options,
	.options_size = sizeof(struct tasks_options),
	.max_args = -1,
	.run = ps,
};
const struct command kill_command = {
	.name = "kill",
	.arguments = "CONTAINER [CONTAINER...]",
	.summary = "signal containers (default: their stop signal, else SIGTERM)",
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
