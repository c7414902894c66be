/* davit store. */

#include <string.h>
#include <sys/wait.h>

#include "broker/lib/spawn.h"
#include "tools/lists.h"

struct list_command {
	struct list_options list;
};

struct drop_options {
	char *table;
	bool all;
};

/* ---- list ---------------------------------------------------------------- */

struct listed {
	struct table table;
	json_t *all;
	enum output_format format;
};

static void show(struct listed *listed, const char *service,
		 const struct store_quarantine_reply *reply)
{
	for (size_t i = 0; i < reply->records.count; i++) {
		const struct store_damaged_record *record = &reply->records.items[i];
		char size[32];
		json_t *json;

		output_size(record->size, size);
		table_add(&listed->table, service, record->table, record->key, size);
		if (listed->format == OUTPUT_QUIET)
			puts(record->key);
		if (listed->format != OUTPUT_JSON)
			continue;
		json = json_from_message(schema_store_damaged_record(), record);
		json_object_set_new(json, "service", json_string(service));
		json_array_append_new(listed->all, json);
	}
	if (reply->count > reply->records.count && listed->format != OUTPUT_JSON)
		fprintf(stderr, "davit: %s: and %llu more\n", service,
			(unsigned long long)(reply->count - reply->records.count));
}

static bool is_wanted(const char *service, char **args, int n_args)
{
	for (int i = 0; i < n_args; i++) {
		if (!strcmp(args[i], service))
			return true;
	}
	return !n_args;
}

static const struct schema_method *find(const char *service, const char *name)
{
	const struct schema_method *method = schema_find_method(service, name);

	return method && !strcmp(method->service, service) ? method : NULL;
}

static int check_services(struct context *context, char **args, int n_args)
{
	for (int i = 0; i < n_args; i++) {
		if (!find(args[i], "quarantine"))
			return fail_usage(context, "'%s' is not a service with a store", args[i]);
	}
	return EXIT_OK;
}

/* Every service that has a store; one that is away is named, and does not hide the others. */
static int list_quarantines(struct context *context, void *data, char **args, int n_args)
{
	const struct list_command *options = data;
	struct listed listed = {};
	int code = list_format(context, &options->list, &listed.format);

	code = code ?: check_services(context, args, n_args);
	if (code)
		return code;
	listed.all = json_array();
	table_init(&listed.table, "SERVICE", "TABLE", "KEY", "SIZE", NULL);
	for (size_t i = 0; i < schema_n_methods; i++) {
		_cleanup_(store_quarantine_reply_clear) struct store_quarantine_reply reply = {};
		const struct schema_method *method = &schema_methods[i];
		int r;

		if (strcmp(method->name, "quarantine") || !is_wanted(method->service, args, n_args))
			continue;
		r = ask_call(&context->ask, method, NULL, &(struct empty){}, &reply);
		if (r)
			code = fail_ask(context, r);
		else
			show(&listed, method->service, &reply);
	}
	if (listed.format == OUTPUT_TABLE)
		table_print(&listed.table);
	if (listed.format == OUTPUT_JSON)
		output_json(json_incref(listed.all));
	table_clear(&listed.table);
	json_decref(listed.all);
	return code;
}

/* ---- drop ---------------------------------------------------------------- */

static int drop(struct context *context, const char *service,
		const struct store_drop_request *request)
{
	_cleanup_(store_drop_reply_clear) struct store_drop_reply reply = {};
	int r = ask_call(&context->ask, find(service, "quarantine_drop"), NULL, request, &reply);

	if (r)
		return fail_ask(context, r);
	printf("dropped %llu\n", (unsigned long long)reply.count);
	return EXIT_OK;
}

static int drop_records(struct context *context, void *data, char **args, int n_args)
{
	const struct drop_options *options = data;
	struct store_drop_request request = {.table = options->table};
	int code = check_services(context, args, 1);

	if (!code && n_args == 1 && !options->all && !options->table)
		code = fail_usage(context, "name the keys to drop, or a --table, or --all");
	if (!code && n_args == 1)
		code = drop(context, args[0], &request);
	for (int i = 1; i < n_args && code != EXIT_USAGE; i++) {
		int one;

		request.key = args[i];
		one = drop(context, args[0], &request);
		code = one ?: code;
	}
	return code;
}

/* ---- rebuild, accept ------------------------------------------------------ */

/* Whose stores hold what nobody else knows all of: they are not made anew by themselves. */
static const struct rebuildable {
	const char *store, *program;
} rebuildable[] = {
	{"image", "davit-image"}, {"container", "davit-container"}, {"events", "davit-broker"}};

static const struct rebuildable *find_rebuildable(const char *store)
{
	for (size_t i = 0; i < ARRAY_SIZE(rebuildable); i++)
		if (!strcmp(rebuildable[i].store, store))
			return &rebuildable[i];
	return NULL;
}

static int rebuild(struct context *context, void *data, char **args, int n_args)
{
	const struct rebuildable *wanted = find_rebuildable(args[0]);
	_cleanup_(cleanup_free) char *path = NULL;
	const char *argv[] = {NULL,
			      "--root",
			      context->paths.root,
			      "--state",
			      context->paths.state,
			      "--rebuild-store",
			      NULL};
	struct spawn_fd fds[] = {{STDOUT_FILENO, 1}, {STDERR_FILENO, 2}};
	struct why why = {};
	int r, status = 0;
	pid_t pid = 0;

	(void)data;
	(void)n_args;
	if (!wanted)
		return fail_usage(
			context,
			"'%s' is not a store that can be rebuilt: image, container or events",
			args[0]);
	argv[0] = wanted->program;
	fflush(stdout);
	r = spawn_find_program(wanted->program, &path);
	if (!r)
		r = spawn(&(struct spawn){.path = path,
					  .argv = argv,
					  .cwd = "/",
					  .fds = fds,
					  .n_fds = ARRAY_SIZE(fds)},
			  &pid, &why);
	if (r)
		return fail(context, "cannot run %s: %s", wanted->program,
			    why.text[0] ? why.text : strerror(-r));
	if (waitpid(pid, &status, 0) < 0 || !WIFEXITED(status) || WEXITSTATUS(status))
		return fail(context, "store %s could not be rebuilt", wanted->store);
	return EXIT_OK;
}

static int accept_store(struct context *context, void *data, char **args, int n_args)
{
	_cleanup_(store_accept_reply_clear) struct store_accept_reply reply = {};
	const struct schema_method *method = find(args[0], "store_accept");
	int r;

	(void)data;
	(void)n_args;
	if (!method)
		return fail_usage(context,
				  "'%s' is not a store that is accepted: image or container",
				  args[0]);
	r = ask_call(&context->ask, method, NULL, &(struct empty){}, &reply);
	if (r)
		return fail_ask(context, r);
	if (!reply.rebuilt)
		printf("%s: there is nothing to accept\n", args[0]);
	else
		printf("%s: accepted: %s\n", args[0], reply.rebuilt);
	if (reply.count)
		printf("%s: %llu files and directories without a record were moved to %s\n",
		       args[0], (unsigned long long)reply.count, reply.aside);
	return EXIT_OK;
}

/* ---- the tables ---------------------------------------------------------- */

static const struct option_spec list_options[] = {LIST_OPTIONS(struct list_command), {}};
static const struct option_spec drop_options[] = {
	OPTION(struct drop_options, table, TEXT, "table", 0, "TABLE", "only records of this table"),
	OPTION(struct drop_options, all, FLAG, "all", 0, NULL, "all of them"),
	{}};

static const struct command list_command = {
	.name = "list",
	.aliases = "ls",
	.arguments = "[SERVICE...]",
	.summary = "list damaged records that were moved aside",
	.options = list_options,
	.options_size = sizeof(struct list_command),
	.max_args = -1,
	.run = list_quarantines,
};
static const struct command drop_command = {
	.name = "drop",
	.arguments = "SERVICE [KEY...]",
	.summary = "forget damaged records; what they kept may then be collected",
	.options = drop_options,
	.options_size = sizeof(struct drop_options),
	.min_args = 1,
	.max_args = -1,
	.run = drop_records,
};
static const struct command quarantine_command = {
	.name = "quarantine",
	.summary = "look at damaged records of services' stores, and empty their quarantine",
	.subcommands = (const struct command *const[]){&list_command, &drop_command, NULL},
};
static const struct command rebuild_command = {
	.name = "rebuild",
	.arguments = "STORE",
	.summary =
		"make a damaged store again from what can be read and found, while its service does not serve",
	.details =
		"STORE is image, container or events. What can be read of the old file is kept, the old file itself is set "
		"aside beside it, with the reason. Images are found by the event log and blobs by their digests; containers by "
		"the event log, and their specs by the bundles of those that have a task; the log's numbers go on rising. What "
		"was rebuilt and what is missing is printed. Nothing is removed for want of a record before `davit store accept "
		"STORE`. A store that can be read is left as it is. `davit restore` is the better way where there is a recent "
		"backup.",
	.min_args = 1,
	.max_args = 1,
	.run = rebuild,
};
static const struct command accept_command = {
	.name = "accept",
	.arguments = "STORE",
	.summary = "a rebuilt store is good as it is: collections go on",
	.details =
		"Before: look at `davit images ls`, `davit containers ls`, `davit prune --dry-run`. Blobs and directories of snapshots "
		"that no record knows are moved aside then, not removed.",
	.min_args = 1,
	.max_args = 1,
	.run = accept_store,
};
const struct command store_command = {
	.name = "store",
	.summary = "look after the services' stores",
	.subcommands = (const struct command *const[]){&quarantine_command, &rebuild_command,
						       &accept_command, NULL},
};
