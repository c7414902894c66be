/* davit namespaces. */

#include <string.h>

#include "tools/lists.h"

struct list_command {
	struct list_options list;
};

static const struct option_spec list_options[] = {LIST_OPTIONS(struct list_command), {}};

static void namespace_row(struct table *table, const void *item)
{
	const struct namespace_record *namespace = item;
	_cleanup_(cleanup_free) char *labels = namespace->labels.count
						       ? list_labels(&namespace->labels)
						       : strdup("");

	table_add(table, namespace->name, labels);
}

static const char *list_name(const void *item)
{
	return ((const struct namespace_record *)item)->name;
}

static int list(struct context *context, void *data, char **args, int n_args)
{
	const struct list_command *options = data;
	const struct listing listing = LISTING(namespace, list, namespace_record,
					       namespace_list_reply, namespaces, namespace_row,
					       list_name);
	_cleanup_(table_clear) struct table table = {};

	table_init(&table, "NAME", "LABELS", NULL);
	return list_run(context, &options->list, &listing, &table, args, n_args);
}

static int create(struct context *context, void *data, char **args, int n_args)
{
	_cleanup_(schema_map_clear) struct schema_map labels = {};
	struct namespace_record namespace = {.name = args[0]};
	struct namespace_request request = {.namespace = &namespace};
	int code = list_parse_labels(context, args + 1, n_args - 1, &labels), r;

	(void)data;
	if (code)
		return code;
	namespace.labels = labels;
	r = namespace_create_ask(&context->ask, &request, NULL);
	return r ? fail_ask(context, r) : EXIT_OK;
}

static int label(struct context *context, void *data, char **args, int n_args)
{
	_cleanup_(namespace_request_clear) struct namespace_request request = {};
	_cleanup_(namespace_reply_clear) struct namespace_reply current = {};
	_cleanup_(schema_map_clear) struct schema_map changes = {};
	struct namespace_name_request name = {.name = args[0]};
	int code = list_parse_labels(context, args + 1, n_args - 1, &changes), r;

	(void)data;
	if (code)
		return code;
	r = namespace_get_ask(&context->ask, &name, &current);
	for (size_t i = 0; !r && i < changes.count; i++) {
		if (*changes.items[i].value)
			r = schema_map_set(&current.namespace->labels, changes.items[i].key,
					   changes.items[i].value);
		else
			schema_map_remove(&current.namespace->labels, changes.items[i].key);
	}
	if (!r) {
		request.namespace = TAKE(current.namespace);
		r = namespace_update_ask(&context->ask, &request, NULL);
	}
	return r ? fail_ask(context, r) : EXIT_OK;
}

static int delete_one(struct context *context, const char *name, void *data)
{
	struct namespace_name_request request = {.name = (char *)name};
	int r = namespace_delete_ask(&context->ask, &request, NULL);

	(void)data;
	if (r)
		return fail_ask(context, r);
	puts(name);
	return EXIT_OK;
}

static int delete_namespaces(struct context *context, void *data, char **args, int n_args)
{
	return list_each(context, args, n_args, delete_one, data);
}

static const struct command create_command = {
	.name = "create",
	.aliases = "c",
	.arguments = "NAME [KEY=VALUE...]",
	.summary = "create a namespace",
	.min_args = 1,
	.max_args = -1,
	.run = create,
};
static const struct command list_command = {
	.name = "list",
	.aliases = "ls",
	.arguments = "[FILTER...]",
	.summary = "list namespaces",
	.options = list_options,
	.options_size = sizeof(struct list_command),
	.max_args = -1,
	.run = list,
};
static const struct command label_command = {
	.name = "label",
	.arguments = "NAME [KEY=VALUE...]",
	.summary = "set labels, or clear those with an empty value",
	.min_args = 1,
	.max_args = -1,
	.run = label,
};
static const struct command delete_command = {
	.name = "remove",
	.aliases = "rm",
	.arguments = "NAME [NAME...]",
	.summary = "remove empty namespaces",
	.min_args = 1,
	.max_args = -1,
	.run = delete_namespaces,
};

const struct command namespaces_command = {
	.name = "namespaces",
	.aliases = "namespace ns",
	.summary = "manage namespaces",
	.subcommands = (const struct command *const[]){&create_command, &list_command,
						       &delete_command, &label_command, NULL},
};
