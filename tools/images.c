/* davit images. */

#include <string.h>

#include "tools/images.h"
#include "tools/lists.h"
#include "tools/registry.h"

struct list_command {
	struct list_options list;
};

static const struct option_spec list_options[] = {LIST_OPTIONS(struct list_command), {}};

/* ---- list ---------------------------------------------------------------- */

static void image_row(struct table *table, const void *item)
{
	const struct image_record *image = item;
	_cleanup_(cleanup_free) char *labels = list_labels(&image->labels);
	struct schema_buffer platforms = {};
	char size[32];

	for (size_t i = 0; i < image->platforms.count; i++)
		(void)schema_buffer_addf(&platforms, "%s%s", i ? "," : "",
					 image->platforms.items[i]);
	(void)schema_buffer_add(&platforms, image->platforms.count ? "" : "-",
				image->platforms.count ? 1 : 2);
	output_size(image->size, size);
	table_add(table, image->name, image->target->media_type ?: "-", image->target->digest, size,
		  (const char *)platforms.data, labels);
	schema_buffer_clear(&platforms);
}

static const char *list_images_name(const void *item)
{
	return ((const struct image_record *)item)->name;
}

static int list_images(struct context *context, void *data, char **args, int n_args)
{
	const struct list_command *options = data;
	const struct listing listing = LISTING(image, list, image_record, image_list_reply, images,
					       image_row, list_images_name);
	_cleanup_(table_clear) struct table table = {};

	table_init(&table, "REF", "TYPE", "DIGEST", "SIZE", "PLATFORMS", "LABELS", NULL);
	return list_run(context, &options->list, &listing, &table, args, n_args);
}

/* ---- rm, tag, label ------------------------------------------------------ */

struct delete_options {
	bool sync, all;
};

static int delete_one(struct context *context, const char *name, void *data)
{
	const struct delete_options *options = data;
	struct image_delete_request request = {.name = (char *)name, .sync = options->sync};
	int r = image_delete_ask(&context->ask, &request, NULL);

	if (r)
		return fail_ask(context, r);
	puts(name);
	return EXIT_OK;
}

/* Page by page; one that cannot be deleted is said, and the rest goes all the same. */
static int delete_all(struct context *context, void *data)
{
	_cleanup_(cleanup_free) char *after = NULL;
	int result = EXIT_OK;

	do {
		_cleanup_(image_list_reply_clear) struct image_list_reply reply = {};
		struct list_request request = {.after = after};
		int r = image_list_ask(&context->ask, &request, &reply);

		if (r)
			return fail_ask(context, r);
		for (size_t i = 0; i < reply.images.count; i++) {
			int code = delete_one(context, reply.images.items[i].name, data);

			result = code ?: result;
		}
		free(after);
		after = TAKE(reply.after);
	} while (after);
	return result;
}

static int delete_images(struct context *context, void *data, char **args, int n_args)
{
	const struct delete_options *options = data;

	if (options->all == (n_args > 0))
		return fail_usage(context, options->all ? "--all takes no names"
							: "name the images, or --all");
	return options->all ? delete_all(context, data)
			    : list_each(context, args, n_args, delete_one, data);
}

struct tag_options {
	bool force;
};

static int tag(struct context *context, void *data, char **args, int n_args)
{
	const struct tag_options *options = data;
	_cleanup_(image_reply_clear) struct image_reply source = {};
	struct image_name_request name = {.name = args[0]};
	struct image_record image = {};
	struct image_request request = {.image = &image, .force = options->force};
	int r = image_get_ask(&context->ask, &name, &source);

	for (int i = 1; !r && i < n_args; i++) {
		image.name = args[i];
		image.target = source.image->target;
		image.labels = source.image->labels;
		r = image_create_ask(&context->ask, &request, NULL);
		if (!r)
			puts(args[i]);
	}
	return r ? fail_ask(context, r) : EXIT_OK;
}

struct label_options {
	bool replace_all;
};

static int label(struct context *context, void *data, char **args, int n_args)
{
	const struct label_options *options = data;
	_cleanup_(image_request_clear) struct image_request request = {};
	_cleanup_(image_reply_clear) struct image_reply current = {}, reply = {};
	_cleanup_(schema_map_clear) struct schema_map changes = {};
	_cleanup_(cleanup_free) char *text = NULL;
	struct image_name_request name = {.name = args[0]};
	int code = list_parse_labels(context, args + 1, n_args - 1, &changes), r;

	if (code)
		return code;
	r = image_get_ask(&context->ask, &name, &current);
	if (r)
		return fail_ask(context, r);
	if (options->replace_all)
		schema_map_clear(&current.image->labels);
	for (size_t i = 0; !r && i < changes.count; i++) {
		if (*changes.items[i].value)
			r = schema_map_set(&current.image->labels, changes.items[i].key,
					   changes.items[i].value);
		else
			schema_map_remove(&current.image->labels, changes.items[i].key);
	}
	request.image = TAKE(current.image);
	r = r ?: schema_strs_add(&request.update_mask, "labels");
	r = r ?: image_update_ask(&context->ask, &request, &reply);
	if (r)
		return fail_ask(context, r);
	text = list_labels(&reply.image->labels);
	puts(text ?: "");
	return EXIT_OK;
}

/* ---- the tables ---------------------------------------------------------- */

static const struct option_spec delete_options[] = {
	OPTION(struct delete_options, sync, FLAG, "sync", 0, NULL,
	       "return when blobs and layers that nothing else needs are gone too"),
	OPTION(struct delete_options, all, FLAG, "all", 0, NULL, "all images of the namespace"),
	{}};
static const struct option_spec tag_options[] = {
	OPTION(struct tag_options, force, FLAG, "force", 0, NULL, "replace an image of that name"),
	{}};
static const struct option_spec label_options[] = {OPTION(struct label_options, replace_all, FLAG,
							  "replace-all", 'r', NULL,
							  "clear all other labels"),
						   {}};

static const struct command list_command = {
	.name = "list",
	.aliases = "ls",
	.arguments = "[FILTER...]",
	.summary = "list images",
	.options = list_options,
	.options_size = sizeof(struct list_command),
	.max_args = -1,
	.run = list_images,
};
static const struct command delete_command = {
	.name = "delete",
	.aliases = "del remove rm",
	.arguments = "REF [REF...]",
	.summary = "remove images",
	.options = delete_options,
	.options_size = sizeof(struct delete_options),
	.max_args = -1,
	.run = delete_images,
};
static const struct command tag_command = {
	.name = "tag",
	.arguments = "SOURCE_REF TARGET_REF [TARGET_REF...]",
	.summary = "name an image again",
	.options = tag_options,
	.options_size = sizeof(struct tag_options),
	.min_args = 2,
	.max_args = -1,
	.run = tag,
};
static const struct command label_command = {
	.name = "label",
	.arguments = "NAME [KEY=VALUE...]",
	.summary = "set labels, or clear those with an empty value",
	.options = label_options,
	.options_size = sizeof(struct label_options),
	.min_args = 1,
	.max_args = -1,
	.run = label,
};

const struct command images_command = {
	.name = "images",
	.aliases = "image i",
	.summary = "manage images",
	.subcommands =
		(const struct command *const[]){
			&images_pull_command, &images_push_command, &images_import_command,
			&images_export_command, &list_command, &images_check_command,
			&images_inspect_command, &images_history_command, &images_usage_command,
			&images_convert_command, &images_mount_command, &images_unmount_command,
			&delete_command, &tag_command, &label_command, NULL},
};
