/* davit stop, pause, resume, top. */

#include "tools/control.h"

#include <pthread.h>
#include <string.h>

#include "tools/lists.h"
#include "tools/signals.h"
#include "tools/times.h"

#define GRACE_MS  10000   /* the service's */
#define SLACK_MS  30000   /* beyond the grace period, until the call is given up */
#define GRACE_MAX 3600000 /* the schema's */
#define AT_ONCE   32      /* containers that are stopped at the same time */

void control_warn_pending(const char *name, const char *pending)
{
	if (pending && *pending)
		fprintf(stderr,
			"davit: '%s' is gone, but CNI plugins hold what they gave its network: %s; "
			"they are asked again until they let it go, or `davit fsck --repair` forgets it\n",
			name, pending);
}

/* ---- stop ---------------------------------------------------------------- */

static int make_stop(struct context *context, const char *name, const char *signal,
		     const char *timeout, struct task_stop_request *request)
{
	request->container_id = (char *)name;
	if (signal && signals_parse(signal, &request->signal))
		return fail_usage(context,
				  "'%s' is not a signal: use a name such as SIGTERM, or a number",
				  signal);
	if (!timeout)
		return 0;
	if (times_parse_duration(timeout, &request->timeout_ms) || request->timeout_ms > GRACE_MAX)
		return fail_usage(
			context,
			"--timeout '%s' is not a time of at most an hour, such as 10 or 1m30s",
			timeout);
	request->at_once = !request->timeout_ms;
	return 0;
}

/* NOT_FOUND may mean that it has no task. */
static int is_there(struct context *context, const char *name)
{
	struct container_get_request get = {.id = (char *)name};
	int r = container_get_ask(&context->ask, &get, NULL);

	return r ? fail_ask(context, r) : EXIT_OK;
}

int control_stop(struct context *context, const char *name, const char *signal, const char *timeout)
{
	struct task_stop_request request = {};
	struct ask *ask = &context->ask;
	uint64_t timeout_ms = ask->timeout_ms, grace_ms;
	int code = make_stop(context, name, signal, timeout, &request), r;

	if (code)
		return code;
	grace_ms = timeout ? request.timeout_ms : GRACE_MS;
	if (!timeout_ms || timeout_ms < grace_ms + SLACK_MS)
		ask->timeout_ms = grace_ms + SLACK_MS;
	r = task_stop_ask(ask, &request, NULL);
	ask->timeout_ms = timeout_ms;
	if (!r)
		return EXIT_OK;
	return ask->status == BUS_NOT_FOUND ? is_there(context, name) : fail_ask(context, r);
}

struct stop_options {
	char *timeout, *signal;
};

struct stop_job {
	struct context context; /* a connection of its own */
	const struct stop_options *options;
	const char *name;
	pthread_t thread;
	int code;
};

static void *run_stop(void *data)
{
	struct stop_job *job = data;

	job->code = control_stop(&job->context, job->name, job->options->signal,
				 job->options->timeout);
	ask_deinit(&job->context.ask);
	return NULL;
}

/* Grace periods run side by side. */
static int stop_some(struct context *context, const struct stop_options *options, char **names,
		     size_t n_names)
{
	struct stop_job jobs[AT_ONCE];
	int code = EXIT_OK;
	size_t n = 0;

	for (; n < n_names; n++) {
		jobs[n] = (struct stop_job){
			.context = *context, .options = options, .name = names[n]};
		jobs[n].context.ask.sp = NULL;
		if (pthread_create(&jobs[n].thread, NULL, run_stop, &jobs[n])) {
			code = fail(context, "'%s' is not stopped: no thread", names[n]);
			break;
		}
	}
	for (size_t i = 0; i < n; i++) {
		pthread_join(jobs[i].thread, NULL);
		if (!jobs[i].code)
			puts(jobs[i].name);
		code = jobs[i].code ?: code;
	}
	return code;
}

static int stop(struct context *context, void *data, char **args, int n_args)
{
	struct task_stop_request request = {};
	const struct stop_options *options = data;
	/* What is wrong with the options is said once. */
	int code = make_stop(context, args[0], options->signal, options->timeout, &request);
	size_t n_names = (size_t)n_args, n;

	if (code)
		return code;
	for (size_t i = 0; i < n_names; i += n) {
		int some;

		n = n_names - i < AT_ONCE ? n_names - i : AT_ONCE;
		some = stop_some(context, options, args + i, n);
		code = some ?: code;
	}
	return code;
}

/* ---- pause, resume ------------------------------------------------------- */

static int pause_one(struct context *context, const char *name, void *data)
{
	struct task_container_request request = {.container_id = (char *)name};
	int r = task_pause_ask(&context->ask, &request, NULL);

	(void)data;
	return r ? fail_ask(context, r) : EXIT_OK;
}

static int resume_one(struct context *context, const char *name, void *data)
{
	struct task_container_request request = {.container_id = (char *)name};
	int r = task_resume_ask(&context->ask, &request, NULL);

	(void)data;
	return r ? fail_ask(context, r) : EXIT_OK;
}

static int pause_tasks(struct context *context, void *data, char **args, int n_args)
{
	return list_each(context, args, n_args, pause_one, data);
}

static int resume_tasks(struct context *context, void *data, char **args, int n_args)
{
	return list_each(context, args, n_args, resume_one, data);
}

/* ---- tasks ps, top ------------------------------------------------------- */

struct processes_options {
	struct list_options list;
};

static int read_pids(struct context *context, const char *name, struct task_pids_reply *ret_reply)
{
	struct task_container_request request = {.container_id = (char *)name};
	int r = task_pids_ask(&context->ask, &request, ret_reply);

	return r ? fail_ask(context, r) : 0;
}

static void print_pids(const struct task_pids_reply *reply, enum output_format format,
		       struct table *table, bool with_command)
{
	if (format == OUTPUT_JSON) {
		output_json(list_json(schema_task_pid(), reply->processes.items,
				      reply->processes.count));
		return;
	}
	for (size_t i = 0; i < reply->processes.count; i++) {
		const struct task_pid *process = &reply->processes.items[i];
		char pid[24], info[128] = "-";

		snprintf(pid, sizeof(pid), "%llu", (unsigned long long)process->pid);
		if (process->exec_id && *process->exec_id)
			snprintf(info, sizeof(info), with_command ? "%s" : "exec_id:\"%s\"",
				 process->exec_id);
		if (format == OUTPUT_QUIET)
			puts(pid);
		else
			table_add(table, pid, info, process->command);
	}
	if (format == OUTPUT_TABLE)
		table_print(table);
}

static int print_processes(struct context *context, const struct processes_options *options,
			   const char *name, struct table *table, bool with_command)
{
	_cleanup_(task_pids_reply_clear) struct task_pids_reply reply = {};
	enum output_format format;
	int code = list_format(context, &options->list, &format)
			   ?: read_pids(context, name, &reply);

	if (!code)
		print_pids(&reply, format, table, with_command);
	return code;
}

static int ps(struct context *context, void *data, char **args, int n_args)
{
	_cleanup_(table_clear) struct table table = {};

	(void)n_args;
	table_init(&table, "PID", "INFO", NULL);
	return print_processes(context, data, args[0], &table, false);
}

static int top(struct context *context, void *data, char **args, int n_args)
{
	_cleanup_(table_clear) struct table table = {};

	(void)n_args;
	table_init(&table, "PID", "EXEC", "COMMAND", NULL);
	return print_processes(context, data, args[0], &table, true);
}

/* ---- the tables ---------------------------------------------------------- */

static const struct option_spec stop_options[] = {
	OPTION(struct stop_options, timeout, TEXT, "timeout", 't', "SECONDS",
	       "grace period between the stop signal and SIGKILL (default: 10; 0: none)"),
	OPTION(struct stop_options, signal, TEXT, "signal", 's', "SIGNAL",
	       "instead of the image's stop signal"),
	{}};
static const struct option_spec processes_options[] = {LIST_OPTIONS(struct processes_options), {}};

const struct command stop_command = {
	.name = "stop",
	.arguments = "CONTAINER [CONTAINER...]",
	.summary = "stop containers: stop signal, grace period, SIGKILL",
	.options = stop_options,
	.options_size = sizeof(struct stop_options),
	.min_args = 1,
	.max_args = -1,
	.run = stop,
};
const struct command pause_command = {
	.name = "pause",
	.arguments = "CONTAINER [CONTAINER...]",
	.summary = "freeze containers",
	.min_args = 1,
	.max_args = -1,
	.run = pause_tasks,
};
const struct command resume_command = {
	.name = "resume",
	.aliases = "unpause",
	.arguments = "CONTAINER [CONTAINER...]",
	.summary = "let frozen containers go on",
	.min_args = 1,
	.max_args = -1,
	.run = resume_tasks,
};
const struct command task_ps_command = {
	.name = "ps",
	.arguments = "CONTAINER",
	.summary = "list the processes in a container",
	.options = processes_options,
	.options_size = sizeof(struct processes_options),
	.min_args = 1,
	.max_args = 1,
	.run = ps,
};
const struct command top_command = {
	.name = "top",
	.arguments = "CONTAINER",
	.summary = "list the processes in a container, with their command lines",
	.options = processes_options,
	.options_size = sizeof(struct processes_options),
	.min_args = 1,
	.max_args = 1,
	.run = top,
};
