/* davit prune. */

#include "tools/lists.h"

struct prune_options {
	bool force, dry_run;
	struct list_options list;
};

static void print_table(const struct image_collect_reply *reply)
{
	_cleanup_(table_clear) struct table table = {};
	char size[32];

	table_init(&table, "TYPE", "NAMESPACE", "ID", "SIZE", "REASON", NULL);
	for (size_t i = 0; i < reply->garbage.count; i++) {
		const struct image_garbage *item = &reply->garbage.items[i];

		output_size(item->size, size);
		table_add(&table, schema_enum_text(&schema_enum_garbage_kind, item->kind),
			  item->namespace ?: "-", item->id, item->size ? size : "-", item->reason);
	}
	table_print(&table);
}

static void print_total(const struct image_collect_reply *reply, bool is_dry)
{
	char size[32];

	output_size(reply->size, size);
	if (reply->count > reply->garbage.count)
		printf("and %llu more\n",
		       (unsigned long long)(reply->count - reply->garbage.count));
	printf("%s %llu of %s\n", is_dry ? "would remove" : "removed",
	       (unsigned long long)reply->count, size);
}

static int prune(struct context *context, void *data, char **args, int n_args)
{
	const struct prune_options *options = data;
	_cleanup_(image_collect_reply_clear) struct image_collect_reply reply = {};
	struct image_collect_request request = {.dry_run = !options->force};
	enum output_format format;
	int code = list_format(context, &options->list, &format), r;

	(void)args;
	(void)n_args;
	if (code)
		return code;
	if (options->force && options->dry_run)
		return fail_usage(context, "--force and --dry-run exclude each other");
	r = image_collect_ask(&context->ask, &request, &reply);
	if (r)
		return fail_ask(context, r);
	if (reply.note)
		fprintf(stderr, "davit: %s\n", reply.note);
	if (format == OUTPUT_JSON) {
		output_json(json_from_message(schema_image_collect_reply(), &reply));
		return EXIT_OK;
	}
	if (format == OUTPUT_QUIET) {
		for (size_t i = 0; i < reply.garbage.count; i++)
			puts(reply.garbage.items[i].id);
		return EXIT_OK;
	}
	if (reply.count)
		print_table(&reply);
	print_total(&reply, request.dry_run);
	if (reply.count && request.dry_run && !options->dry_run)
		fputs("davit: nothing was changed: --force removes it\n", stderr);
	return EXIT_OK;
}

static const struct option_spec prune_options[] = {
	OPTION(struct prune_options, force, FLAG, "force", 'f', NULL, "remove it"),
	OPTION(struct prune_options, dry_run, FLAG, "dry-run", 0, NULL,
	       "only say what would be removed, as without --force"),
	LIST_OPTIONS(struct prune_options),
	{}};
const struct command prune_command = {
	.name = "prune",
	.summary =
		"list, or remove, blobs, layers, snapshots, ingests and leases that nothing needs",
	.details =
		"Changes nothing without --force. The same happens by itself a moment after something "
		"was deleted or has expired. Images and containers are never removed.",
	.options = prune_options,
	.options_size = sizeof(struct prune_options),
	.run = prune,
};
