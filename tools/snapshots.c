/* davit snapshots. */

#include <string.h>

#include "broker/lib/file.h"
#include "tools/lists.h"
#include "tools/snapshots.h"

/* ---- list, tree ---------------------------------------------------------- */

struct list_command {
	struct list_options list;
};

static void list_row(struct table *table, const void *item)
{
	const struct snapshot_record *snapshot = item;

	table_add(table, snapshot->key, snapshot->parent ?: "",
		  schema_enum_text(&schema_enum_snapshot_kind, snapshot->kind));
}

static const char *list_name(const void *item)
{
	return ((const struct snapshot_record *)item)->key;
}

/* Each filter holds for the snapshotter that was named, if one was. */
static int add_snapshotter(struct context *context, char **args, int n_args,
			   struct schema_strs *filters)
{
	const char *snapshotter = context->snapshotter;
	int r = 0;

	for (int i = 0; i < n_args && !r; i++) {
		_cleanup_(cleanup_free) char *filter = text_format(
			"%s%s%s", args[i], snapshotter ? ",snapshotter==" : "", snapshotter ?: "");

		r = filter ? schema_strs_add(filters, filter) : -ENOMEM;
	}
	if (!n_args && snapshotter) {
		_cleanup_(cleanup_free) char *filter = text_format("snapshotter==%s", snapshotter);

		r = filter ? schema_strs_add(filters, filter) : -ENOMEM;
	}
	return r ? fail(context, "out of memory") : 0;
}

static int list(struct context *context, void *data, char **args, int n_args)
{
	const struct list_command *options = data;
	const struct listing listing = LISTING(snapshot, list, snapshot_record, snapshot_list_reply,
					       snapshots, list_row, list_name);
	_cleanup_(schema_strs_clear) struct schema_strs filters = {};
	_cleanup_(table_clear) struct table table = {};
	int code = add_snapshotter(context, args, n_args, &filters);

	if (code)
		return code;
	table_init(&table, "KEY", "PARENT", "KIND", NULL);
	return list_run(context, &options->list, &listing, &table, filters.items,
			(int)filters.count);
}

struct records {
	struct snapshot_record *items;
	size_t count;
};

static void records_clear(struct records *records)
{
	for (size_t i = 0; i < records->count; i++)
		snapshot_record_clear(&records->items[i]);
	free(records->items);
}

static int read_all(struct context *context, struct records *records)
{
	_cleanup_(schema_strs_clear) struct schema_strs filters = {};
	_cleanup_(cleanup_free) char *after = NULL;
	int code = add_snapshotter(context, NULL, 0, &filters);

	do {
		_cleanup_(snapshot_list_reply_clear) struct snapshot_list_reply reply = {};
		struct list_request request = {.filters = filters, .after = after};
		int r = code ? 0 : snapshot_list_ask(&context->ask, &request, &reply);

		if (r || code)
			return code ?: fail_ask(context, r);
		for (size_t i = 0; i < reply.snapshots.count; i++) {
			struct snapshot_record *record = schema_list_add(records);

			if (!record)
				return fail(context, "out of memory");
			*record = reply.snapshots.items[i];
			reply.snapshots.items[i] = (struct snapshot_record){};
		}
		free(after);
		after = TAKE(reply.after);
	} while (after);
	return 0;
}

static bool is_child_of(const struct snapshot_record *record, const struct snapshot_record *parent)
{
	return record->parent && !strcmp(record->parent, parent->key) &&
	       !strcmp(record->snapshotter, parent->snapshotter);
}

static bool has_parent_in(const struct records *records, const struct snapshot_record *record)
{
	for (size_t i = 0; i < records->count; i++) {
		if (is_child_of(record, &records->items[i]))
			return true;
	}
	return false;
}

static void print_branch(const struct records *records, const struct snapshot_record *record,
			 int level)
{
	printf("%*s%s %s\n", 2 * level, "", level ? "\\_" : "", record->key);
	for (size_t i = 0; i < records->count && (size_t)level < records->count; i++) {
		if (is_child_of(&records->items[i], record))
			print_branch(records, &records->items[i], level + 1);
	}
}

static int tree(struct context *context, void *data, char **args, int n_args)
{
	_cleanup_(records_clear) struct records records = {};
	int code = read_all(context, &records);

	(void)data;
	(void)args;
	(void)n_args;
	for (size_t i = 0; !code && i < records.count; i++) {
		if (!has_parent_in(&records, &records.items[i]))
			print_branch(&records, &records.items[i], 0);
	}
	return code;
}

/* ---- prepare, view, mounts ----------------------------------------------- */

struct make_options {
	char *target;
	bool mounts;
};

void snapshots_print_mounts(const struct mount *mounts, size_t count, const char *target)
{
	for (size_t i = 0; i < count; i++) {
		const struct mount *mount = &mounts[i];

		printf("mount -t %s %s %s%s%s -o ", mount->type, mount->source, target,
		       mount->target && *mount->target ? "/" : "", mount->target ?: "");
		for (size_t k = 0; k < mount->options.count; k++)
			printf("%s%s", k ? "," : "", mount->options.items[k]);
		putchar('\n');
	}
}

static int make(struct context *context, const struct make_options *options, char **args,
		int n_args, bool is_view)
{
	_cleanup_(snapshot_prepare_reply_clear) struct snapshot_prepare_reply reply = {};
	struct snapshot_prepare_request request = {.key = args[0],
						   .parent = n_args > 1 ? args[1] : NULL,
						   .snapshotter = context->snapshotter};
	int r = is_view ? snapshot_view_ask(&context->ask, &request, &reply)
			: snapshot_prepare_ask(&context->ask, &request, &reply);

	if (r)
		return fail_ask(context, r);
	if (options->target)
		snapshots_print_mounts(reply.mounts.items, reply.mounts.count, options->target);
	if (options->mounts)
		output_json(list_json(schema_mount(), reply.mounts.items, reply.mounts.count));
	return EXIT_OK;
}

static int prepare(struct context *context, void *data, char **args, int n_args)
{
	return make(context, data, args, n_args, false);
}

static int view(struct context *context, void *data, char **args, int n_args)
{
	return make(context, data, args, n_args, true);
}

static int mounts(struct context *context, void *data, char **args, int n_args)
{
	_cleanup_(image_mounts_reply_clear) struct image_mounts_reply reply = {};
	struct snapshot_key_request request = {.key = args[1], .snapshotter = context->snapshotter};
	int r = snapshot_mounts_ask(&context->ask, &request, &reply);

	(void)data;
	(void)n_args;
	if (r)
		return fail_ask(context, r);
	snapshots_print_mounts(reply.mounts.items, reply.mounts.count, args[0]);
	return EXIT_OK;
}

/* ---- commit, delete, info, label, usage ---------------------------------- */

static int commit(struct context *context, void *data, char **args, int n_args)
{
	struct snapshot_commit_request request = {
		.name = args[0], .key = args[1], .snapshotter = context->snapshotter};
	int r = snapshot_commit_ask(&context->ask, &request, NULL);

	(void)data;
	(void)n_args;
	return r ? fail_ask(context, r) : EXIT_OK;
}

static int delete_one(struct context *context, const char *key, void *data)
{
	struct snapshot_key_request request = {.key = (char *)key,
					       .snapshotter = context->snapshotter};
	int r = snapshot_remove_ask(&context->ask, &request, NULL);

	(void)data;
	return r ? fail_ask(context, r) : EXIT_OK;
}

static int delete_all(struct context *context, void *data, char **args, int n_args)
{
	return list_each(context, args, n_args, delete_one, data);
}

static int info(struct context *context, void *data, char **args, int n_args)
{
	_cleanup_(snapshot_reply_clear) struct snapshot_reply reply = {};
	struct snapshot_key_request request = {.key = args[0], .snapshotter = context->snapshotter};
	int r = snapshot_stat_ask(&context->ask, &request, &reply);

	(void)data;
	(void)n_args;
	if (r)
		return fail_ask(context, r);
	output_json(json_from_message(schema_snapshot_record(), reply.snapshot));
	return EXIT_OK;
}

static int update_labels(struct context *context, char *key, const struct schema_map *changes,
			 struct snapshot_reply *ret_reply)
{
	struct snapshot_record record = {
		.key = key, .snapshotter = context->snapshotter ?: (char *)"", .labels = *changes};
	_cleanup_(schema_strs_clear) struct schema_strs mask = {};
	struct snapshot_update_request request = {.snapshot = &record};
	int r = list_label_mask(changes, &mask);

	request.update_mask = mask;
	return r ?: snapshot_update_ask(&context->ask, &request, ret_reply);
}

static int label(struct context *context, void *data, char **args, int n_args)
{
	struct snapshot_key_request key = {.key = args[0], .snapshotter = context->snapshotter};
	_cleanup_(schema_map_clear) struct schema_map changes = {};
	_cleanup_(snapshot_reply_clear) struct snapshot_reply reply = {};
	_cleanup_(cleanup_free) char *text = NULL;
	int code = list_parse_labels(context, args + 1, n_args - 1, &changes), r;

	(void)data;
	if (code)
		return code;
	r = changes.count ? update_labels(context, args[0], &changes, &reply)
			  : snapshot_stat_ask(&context->ask, &key, &reply);
	if (r)
		return fail_ask(context, r);
	text = list_labels(&reply.snapshot->labels);
	puts(text ?: "");
	return EXIT_OK;
}

struct usage_options {
	bool bytes;
};

static int add_usage(struct context *context, const struct usage_options *options,
		     struct table *table, const char *key)
{
	_cleanup_(snapshot_usage_reply_clear) struct snapshot_usage_reply reply = {};
	struct snapshot_key_request request = {.key = (char *)key,
					       .snapshotter = context->snapshotter};
	char size[32], inodes[32];
	int r = snapshot_usage_ask(&context->ask, &request, &reply);

	if (r)
		return fail_ask(context, r);
	output_size(reply.size, size);
	if (options->bytes)
		snprintf(size, sizeof(size), "%llu", (unsigned long long)reply.size);
	snprintf(inodes, sizeof(inodes), "%llu", (unsigned long long)reply.inodes);
	table_add(table, key, size, inodes);
	return EXIT_OK;
}

/* Without a key: of all. */
static int usage(struct context *context, void *data, char **args, int n_args)
{
	_cleanup_(records_clear) struct records records = {};
	_cleanup_(table_clear) struct table table = {};
	int code = n_args ? EXIT_OK : read_all(context, &records);

	table_init(&table, "KEY", "SIZE", "INODES", NULL);
	for (int i = 0; i < n_args && !code; i++)
		code = add_usage(context, data, &table, args[i]);
	for (size_t i = 0; i < records.count && !code; i++)
		code = add_usage(context, data, &table, records.items[i].key);
	if (!code)
		table_print(&table);
	return code;
}

/* ---- unpack, repair ------------------------------------------------------ */

struct unpack_options {
	char *snapshotter;
};

static int unpack(struct context *context, void *data, char **args, int n_args)
{
	const struct unpack_options *options = data;
	_cleanup_(image_unpack_reply_clear) struct image_unpack_reply reply = {};
	struct image_unpack_request request = {
		.name = args[0], .snapshotter = options->snapshotter ?: context->snapshotter};
	int r;

	(void)n_args;
	if (!context->ask.timeout_ms)
		context->ask.timeout_ms = ENVELOPE_DEADLINE_MAX;
	r = image_unpack_ask(&context->ask, &request, &reply);
	if (r)
		return fail_ask(context, r);
	puts(reply.chain_id ?: "");
	return EXIT_OK;
}

struct repair_options {
	bool dry_run;
};

static int repair_one(struct context *context, const char *key, void *data)
{
	const struct repair_options *options = data;
	_cleanup_(snapshot_repair_reply_clear) struct snapshot_repair_reply reply = {};
	struct snapshot_repair_request request = {.key = (char *)key,
						  .snapshotter = context->snapshotter,
						  .dry_run = options->dry_run};
	int r;

	if (!context->ask.timeout_ms)
		context->ask.timeout_ms = ENVELOPE_DEADLINE_MAX;
	r = snapshot_repair_ask(&context->ask, &request, &reply);
	if (r)
		return fail_ask(context, r);
	if (!options->dry_run) {
		puts(key);
		return EXIT_OK;
	}
	printf("%s would be made again of %s\n", key, reply.blob);
	for (size_t i = 0; i < reply.above.count; i++)
		printf("%s would be made again when it is needed: it lies on that\n",
		       reply.above.items[i]);
	return EXIT_OK;
}

static int repair(struct context *context, void *data, char **args, int n_args)
{
	return list_each(context, args, n_args, repair_one, data);
}

static int cleanup(struct context *context, void *data, char **args, int n_args)
{
	struct empty request = {};
	int r;

	(void)data;
	(void)args;
	(void)n_args;
	if (!context->ask.timeout_ms)
		context->ask.timeout_ms = ENVELOPE_DEADLINE_MAX;
	r = snapshot_cleanup_ask(&context->ask, &request, NULL);
	return r ? fail_ask(context, r) : EXIT_OK;
}

/* ---- diff ---------------------------------------------------------------- */

struct diff_options {
	char *media_type, *reference;
	struct schema_strs labels;
	bool keep;
};

/* What is to be kept is a root of the collection, as with ctr. */
static int diff_labels(struct context *context, const struct diff_options *options,
		       struct schema_map *labels)
{
	int code = list_parse_labels(context, options->labels.items, (int)options->labels.count,
				     labels);
	char now[40];

	if (code || !options->keep)
		return code;
	output_time(time_real_ns(), now);
	return schema_map_set(labels, "containerd.io/gc.root", now) ? fail(context, "out of memory")
								    : EXIT_OK;
}

static int make_diff(struct context *context, const struct diff_options *options, char **args,
		     int n_args, char *lease)
{
	_cleanup_(snapshot_diff_reply_clear) struct snapshot_diff_reply reply = {};
	_cleanup_(schema_map_clear) struct schema_map labels = {};
	struct snapshot_diff_request request = {.key = args[n_args - 1],
						.base = n_args > 1 ? args[0] : NULL,
						.snapshotter = context->snapshotter,
						.media_type = options->media_type,
						.lease = lease};
	int code = diff_labels(context, options, &labels), r;

	if (code)
		return code;
	request.labels = labels;
	r = snapshot_diff_ask(&context->ask, &request, &reply);
	return r ? fail_ask(context, r) : list_print_blob(context, reply.diff->digest, stdout);
}

/* The blob is held by a lease until it is printed. */
static int diff(struct context *context, void *data, char **args, int n_args)
{
	_cleanup_(lease_reply_clear) struct lease_reply lease = {};
	struct lease_create_request request = {};
	struct lease_delete_request end = {};
	int code, r;

	if (!context->ask.timeout_ms)
		context->ask.timeout_ms = ENVELOPE_DEADLINE_MAX;
	r = lease_create_ask(&context->ask, &request, &lease);
	if (r)
		return fail_ask(context, r);
	code = make_diff(context, data, args, n_args, lease.lease->id);
	end.id = lease.lease->id;
	r = lease_delete_ask(&context->ask, &end, NULL);
	return code ?: r ? code ?: fail_ask(context, r) : EXIT_OK;
}

/* ---- the tables ---------------------------------------------------------- */

/* These stand before the command, as ctr has it, and land in the context. */
static const struct option_spec group_options[] = {
	{.name = "snapshotter",
	 .kind = OPTION_TEXT,
	 .offset = offsetof(struct context, snapshotter),
	 .value = "NAME",
	 .help = "overlayfs or native (default: this host's)",
	 .environment = "CONTAINERD_SNAPSHOTTER"},
	{}};
static const struct option_spec list_options[] = {LIST_OPTIONS(struct list_command), {}};
static const struct option_spec make_options[] = {
	OPTION(struct make_options, target, TEXT, "target", 't', "DIR",
	       "print the commands that mount it there"),
	OPTION(struct make_options, mounts, FLAG, "mounts", 0, NULL, "print its mounts as JSON"),
	{}};
static const struct option_spec usage_options[] = {
	OPTION(struct usage_options, bytes, FLAG, "bytes", 'b', NULL, "print sizes in bytes"), {}};

static const struct option_spec diff_options[] = {
	OPTION(struct diff_options, media_type, TEXT, "media-type", 0, "TYPE",
	       "of the layer (default: application/vnd.oci.image.layer.v1.tar+gzip)"),
	OPTION(struct diff_options, reference, TEXT, "ref", 0, "NAME",
	       "accepted as ctr's: a layer is complete or absent, and needs no such name"),
	OPTION(struct diff_options, keep, FLAG, "keep", 0, NULL,
	       "keep the layer in the content store"),
	OPTION(struct diff_options, labels, LIST, "label", 0, "KEY=VALUE", "label of the layer"),
	{}};

static const struct command commit_command = {
	.name = "commit",
	.arguments = "NAME KEY",
	.summary = "make an active snapshot a committed one, named NAME",
	.min_args = 2,
	.max_args = 2,
	.run = commit,
};
static const struct command diff_command = {
	.name = "diff",
	.arguments = "KEY | BASE KEY",
	.summary = "print a layer of what KEY changes on its parent, or on BASE",
	.options = diff_options,
	.options_size = sizeof(struct diff_options),
	.min_args = 1,
	.max_args = 2,
	.run = diff,
};
static const struct command info_command = {
	.name = "info",
	.arguments = "KEY",
	.summary = "print what is known of a snapshot",
	.min_args = 1,
	.max_args = 1,
	.run = info,
};
static const struct command list_command = {
	.name = "list",
	.aliases = "ls",
	.arguments = "[FILTER...]",
	.summary = "list snapshots",
	.options = list_options,
	.options_size = sizeof(struct list_command),
	.max_args = -1,
	.run = list,
};
static const struct command mounts_command = {
	.name = "mounts",
	.aliases = "m mount",
	.arguments = "TARGET KEY",
	.summary = "print the commands that mount a snapshot on TARGET",
	.min_args = 2,
	.max_args = 2,
	.run = mounts,
};
static const struct command prepare_command = {
	.name = "prepare",
	.arguments = "KEY [PARENT]",
	.summary = "make a writable snapshot on a committed one",
	.options = make_options,
	.options_size = sizeof(struct make_options),
	.min_args = 1,
	.max_args = 2,
	.run = prepare,
};
static const struct command view_command = {
	.name = "view",
	.arguments = "KEY [PARENT]",
	.summary = "make a read-only snapshot of a committed one",
	.options = make_options,
	.options_size = sizeof(struct make_options),
	.min_args = 1,
	.max_args = 2,
	.run = view,
};
static const struct command delete_command = {
	.name = "delete",
	.aliases = "del remove rm",
	.arguments = "KEY [KEY...]",
	.summary = "remove snapshots",
	.min_args = 1,
	.max_args = -1,
	.run = delete_all,
};
static const struct command label_command = {
	.name = "label",
	.arguments = "KEY [LABEL=VALUE...]",
	.summary = "set labels, or clear those with an empty value",
	.min_args = 1,
	.max_args = -1,
	.run = label,
};
static const struct command tree_command = {
	.name = "tree",
	.summary = "show which snapshot lies on which",
	.run = tree,
};
static const struct option_spec unpack_options[] = {
	OPTION(struct unpack_options, snapshotter, TEXT, "snapshotter", 0, "NAME",
	       "overlayfs or native (default: this host's)"),
	{}};
static const struct command unpack_command = {
	.name = "unpack",
	.arguments = "DIGEST|REF",
	.summary = "unpack an image, named by the digest of its target; print its chain id",
	.options = unpack_options,
	.options_size = sizeof(struct unpack_options),
	.min_args = 1,
	.max_args = 1,
	.run = unpack,
};
static const struct option_spec repair_options[] = {
	OPTION(struct repair_options, dry_run, FLAG, "dry-run", 0, NULL,
	       "only say what would be made again, and whether it can be"),
	{}};
static const struct command repair_command = {
	.name = "repair",
	.arguments = "CHAIN_ID [CHAIN_ID...]",
	.summary = "make layers that are damaged or missing again, each from its blob",
	.options = repair_options,
	.options_size = sizeof(struct repair_options),
	.min_args = 1,
	.max_args = -1,
	.run = repair,
};
static const struct command cleanup_command = {
	.name = "cleanup",
	.summary = "wait until the files of removed snapshots are gone",
	.run = cleanup,
};
static const struct command usage_command = {
	.name = "usage",
	.arguments = "[KEY...]",
	.summary = "show what snapshots take, each without what lies below it",
	.options = usage_options,
	.options_size = sizeof(struct usage_options),
	.max_args = -1,
	.run = usage,
};

const struct command snapshots_command = {
	.name = "snapshots",
	.aliases = "snapshot",
	.summary = "manage snapshots",
	.options = group_options,
	.subcommands =
		(const struct command *const[]){&commit_command, &diff_command, &info_command,
						&list_command, &mounts_command, &prepare_command,
						&delete_command, &label_command, &tree_command,
						&unpack_command, &repair_command, &cleanup_command,
						&usage_command, &view_command, NULL},
};
