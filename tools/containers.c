/* davit containers, and davit rm. */

#include <string.h>

#include "tools/container_options.h"
#include "tools/control.h"
#include "tools/lists.h"

struct list_command {
	struct list_options list;
};

static const struct option_spec list_options[] = {LIST_OPTIONS(struct list_command), {}};

/* ---- list ---------------------------------------------------------------- */

static void container_row(struct table *table, const void *item)
{
	const struct container_record *container = item;

	table_add(table, container->id, container->image ?: "-", container->runtime ?: "-");
}

static const char *list_name(const void *item)
{
	return ((const struct container_record *)item)->id;
}

static int list(struct context *context, void *data, char **args, int n_args)
{
	const struct list_command *options = data;
	const struct listing listing = LISTING(container, list, container_record,
					       container_list_reply, containers, container_row,
					       list_name);
	_cleanup_(table_clear) struct table table = {};

	table_init(&table, "CONTAINER", "IMAGE", "RUNTIME", NULL);
	return list_run(context, &options->list, &listing, &table, args, n_args);
}

/* ---- create, info, rm, label --------------------------------------------- */

static int create(struct context *context, void *data, char **args, int n_args)
{
	_cleanup_(container_run_request_clear) struct container_run_request request = {};
	int code = container_options_request(context, data, args, n_args, &request), r;

	if (code)
		return code;
	request.create_only = true;
	r = container_run_ask(&context->ask, &request, NULL);
	return r ? fail_ask(context, r) : EXIT_OK;
}

struct info_options {
	bool spec;
};

static int info(struct context *context, void *data, char **args, int n_args)
{
	const struct info_options *options = data;
	_cleanup_(container_reply_clear) struct container_reply reply = {};
	struct container_get_request request = {.id = args[0]};
	json_t *json, *spec = NULL;
	int r = container_get_ask(&context->ask, &request, &reply);

	(void)n_args;
	if (r)
		return fail_ask(context, r);
	if (reply.container->spec)
		spec = json_loads(reply.container->spec, 0, NULL);
	if (options->spec) {
		output_json(spec);
		return EXIT_OK;
	}
	json = json_from_message(schema_container_record(), reply.container);
	if (json && spec)
		json_object_set_new(json, "spec", spec);
	output_json(json);
	return EXIT_OK;
}

struct remove_options {
	bool keep_snapshot, force;
};

/* As in ctr a stopped or merely created task goes with its container; a running one is refused. */
static int remove_one(struct context *context, const char *name, void *data)
{
	const struct remove_options *options = data;
	struct container_remove_request request = {.id = (char *)name,
						   .keep_snapshot = options->keep_snapshot,
						   .force = options->force};
	_cleanup_(container_remove_reply_clear) struct container_remove_reply reply = {};
	int r = container_remove_ask(&context->ask, &request, &reply);

	if (r)
		return fail_ask(context, r);
	control_warn_pending(name, reply.pending);
	return EXIT_OK;
}

static int delete (struct context *context, void *data, char **args, int n_args)
{
	return list_each(context, args, n_args, remove_one, data);
}

static int label(struct context *context, void *data, char **args, int n_args)
{
	_cleanup_(container_update_request_clear) struct container_update_request request = {};
	_cleanup_(container_reply_clear) struct container_reply current = {}, reply = {};
	_cleanup_(schema_map_clear) struct schema_map changes = {};
	struct container_get_request get = {.id = args[0]};
	int code = list_parse_labels(context, args + 1, n_args - 1, &changes), r;

	(void)data;
	if (code)
		return code;
	r = container_get_ask(&context->ask, &get, &current);
	if (r)
		return fail_ask(context, r);
	for (size_t i = 0; i < changes.count; i++) {
		if (*changes.items[i].value)
			r = schema_map_set(&current.container->labels, changes.items[i].key,
					   changes.items[i].value);
		else
			schema_map_remove(&current.container->labels, changes.items[i].key);
	}
	request.container = TAKE(current.container);
	r = r ?: schema_strs_add(&request.update_mask, "labels");
	r = r ?: container_update_ask(&context->ask, &request, &reply);
	if (r)
		return fail_ask(context, r);
	for (size_t i = 0; i < reply.container->labels.count; i++)
		printf("%s%s=%s", i ? "," : "", reply.container->labels.items[i].key,
		       reply.container->labels.items[i].value);
	putchar('\n');
	return EXIT_OK;
}

static const struct option_spec info_options[] = {
	OPTION(struct info_options, spec, FLAG, "spec", 0, NULL, "print only the OCI spec"), {}};

static const struct option_spec remove_options[] = {
	OPTION(struct remove_options, keep_snapshot, FLAG, "keep-snapshot", 0, NULL,
	       "leave the container's snapshot"),
	OPTION(struct remove_options, force, FLAG, "force", 'f', NULL,
	       "kill what runs in it first"),
	{}};

static const struct command create_command = {
	.name = "create",
	.arguments = "IMAGE|ROOTFS CONTAINER [COMMAND [ARG...]]",
	.summary = "create a container",
	.options = create_options,
	.options_size = sizeof(struct container_options),
	.min_args = 1,
	.max_args = -1,
	.stops_at_argument = true,
	.run = create,
};
static const struct command list_command = {
	.name = "list",
	.aliases = "ls",
	.arguments = "[FILTER...]",
	.summary = "list containers",
	.options = list_options,
	.options_size = sizeof(struct list_command),
	.max_args = -1,
	.run = list,
};
static const struct command info_command = {
	.name = "info",
	.arguments = "CONTAINER",
	.summary = "print a container's record and spec",
	.options = info_options,
	.options_size = sizeof(struct info_options),
	.min_args = 1,
	.max_args = 1,
	.run = info,
};
static const struct command delete_command = {
	.name = "delete",
	.aliases = "del remove rm",
	.arguments = "CONTAINER [CONTAINER...]",
	.summary = "delete containers",
	.options = remove_options,
	.options_size = sizeof(struct remove_options),
	.min_args = 1,
	.max_args = -1,
	.run = delete,
};
static const struct command label_command = {
	.name = "label",
	.arguments = "CONTAINER [KEY=VALUE...]",
	.summary = "set labels, or clear those with an empty value",
	.min_args = 1,
	.max_args = -1,
	.run = label,
};

const struct command containers_command = {
	.name = "containers",
	.aliases = "c container",
	.summary = "manage containers",
	.subcommands = (const struct command *const[]){&create_command, &list_command,
						       &info_command, &delete_command,
						       &label_command,
						       &containers_checkpoint_command,
						       &containers_restore_command, NULL},
};

const struct command rm_command = {
	.name = "rm",
	.arguments = "CONTAINER [CONTAINER...]",
	.summary = "remove containers and all that they own",
	.options = remove_options,
	.options_size = sizeof(struct remove_options),
	.min_args = 1,
	.max_args = -1,
	.run = delete,
};
