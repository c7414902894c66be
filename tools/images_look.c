/* davit images check, inspect, history, usage and convert. */

#include <string.h>

#include "broker/lib/file.h"
#include "tools/images.h"
#include "tools/lists.h"

/* ---- check --------------------------------------------------------------- */

struct check_options {
	struct list_options list;
	char *snapshotter, *platform;
	bool verify;
};

static bool is_complete(const struct image_check *check)
{
	return check->is_available && !check->problem && check->n_present == check->n_required;
}

/* As ctr says it: complete (3/3). */
static void status_text(const struct image_check *check, char *text, size_t size)
{
	const char *word = !check->is_available ? "unavailable"
			   : check->problem     ? "damaged"
			   : is_complete(check) ? "complete"
						: "incomplete";

	if (!check->is_available)
		snprintf(text, size, "%s (0/?)", word);
	else
		snprintf(text, size, "%s (%llu/%llu)", word, (unsigned long long)check->n_present,
			 (unsigned long long)check->n_required);
}

static void check_row(struct table *table, const struct image_check *check)
{
	char status[64], present[32], required[32], size[80];

	status_text(check, status, sizeof(status));
	output_size(check->size_present, present);
	output_size(check->size_required, required);
	snprintf(size, sizeof(size), "%s/%s", present, required);
	table_add(table, check->image->name, check->image->target->media_type ?: "-",
		  check->image->target->digest, status, check->is_available ? size : "-",
		  check->is_unpacked ? "true" : "false");
}

static void show_check(const struct image_check *check, enum output_format format,
		       struct table *table, json_t *all)
{
	if (format == OUTPUT_JSON)
		json_array_append_new(all, json_from_message(schema_image_check(), check));
	else if (format == OUTPUT_TABLE)
		check_row(table, check);
	else if (is_complete(check) && check->is_unpacked)
		puts(check->image->name);
}

/* The blobs that an image consists of; *ret_reply owns what @digests borrows. */
static int list_digests(struct context *context, const struct check_options *options,
			const struct image_check *check, struct image_inspect_reply *ret_reply,
			struct schema_strs *digests)
{
	struct image_unpack_request request = {.name = check->image->name,
					       .platform = options->platform,
					       .snapshotter = options->snapshotter};
	int r = image_inspect_ask(&context->ask, &request, ret_reply);

	if (r)
		return r;
	r = schema_strs_add(digests, ret_reply->image->target->digest)
		    ?: schema_strs_add(digests, ret_reply->config_digest);
	if (!r && strcmp(ret_reply->manifest, ret_reply->image->target->digest))
		r = schema_strs_add(digests, ret_reply->manifest);
	for (size_t i = 0; i < ret_reply->layers.count && !r; i++)
		r = schema_strs_add(digests, ret_reply->layers.items[i].blob->digest);
	return r;
}

/* What is there is read again: blobs that are not what they say count as missing, and are damage. */
static int verify(struct context *context, const struct check_options *options,
		  struct image_check *check, bool *is_damaged)
{
	_cleanup_(image_inspect_reply_clear) struct image_inspect_reply reply = {};
	_cleanup_(content_verify_reply_clear) struct content_verify_reply verified = {};
	_cleanup_(content_verify_request_clear) struct content_verify_request request = {};
	int r;

	if (!is_complete(check))
		return EXIT_OK;
	r = list_digests(context, options, check, &reply, &request.digests)
		    ?: content_verify_ask(&context->ask, &request, &verified);
	for (size_t i = 0; i < verified.verdicts.count && !r; i++) {
		const struct content_verdict *verdict = &verified.verdicts.items[i];

		if (verdict->status == BUS_OK)
			continue;
		*is_damaged = true;
		check->n_present -= !!check->n_present;
		r = schema_strs_add(&check->missing, verdict->digest)
			    ?: schema_set(&check->problem, verdict->error ?: "it is damaged");
		fprintf(stderr, "davit: image '%s': blob %s: %s\n", check->image->name,
			verdict->digest, verdict->error ?: "damaged");
	}
	return r ? fail_ask(context, r) : EXIT_OK;
}

static int check_page(struct context *context, const struct check_options *options,
		      struct image_check_request *request, enum output_format format,
		      struct table *table, json_t *all, bool *is_damaged)
{
	_cleanup_(image_check_reply_clear) struct image_check_reply reply = {};
	int r = image_check_ask(&context->ask, request, &reply);

	if (r)
		return fail_ask(context, r);
	for (size_t i = 0; i < reply.checks.count; i++) {
		int code = options->verify
				   ? verify(context, options, &reply.checks.items[i], is_damaged)
				   : EXIT_OK;

		if (code)
			return code;
		show_check(&reply.checks.items[i], format, table, all);
	}
	free(request->after);
	request->after = TAKE(reply.after);
	return EXIT_OK;
}

static int check(struct context *context, void *data, char **args, int n_args)
{
	const struct check_options *options = data;
	struct image_check_request request = {.filters = list_filters(args, n_args),
					      .snapshotter = options->snapshotter,
					      .platform = options->platform};
	_cleanup_(table_clear) struct table table = {};
	enum output_format format;
	int code = list_format(context, &options->list, &format);
	bool is_damaged = false;
	json_t *all;

	if (code)
		return code;
	if (options->verify && !context->ask.timeout_ms)
		context->ask.timeout_ms = ENVELOPE_DEADLINE_MAX;
	all = json_array();
	table_init(&table, "REF", "TYPE", "DIGEST", "STATUS", "SIZE", "UNPACKED", NULL);
	do
		code = check_page(context, options, &request, format, &table, all, &is_damaged);
	while (!code && request.after);
	free(request.after);
	if (!code && format == OUTPUT_TABLE)
		table_print(&table);
	if (!code && format == OUTPUT_JSON)
		output_json(json_incref(all));
	json_decref(all);
	return !code && is_damaged ? EXIT_ERROR : code;
}

/* ---- inspect, history, usage --------------------------------------------- */

struct look_options {
	char *platform, *snapshotter;
	bool bytes;
};

static int look(struct context *context, const struct look_options *options, const char *name,
		struct image_inspect_reply *ret_reply)
{
	struct image_unpack_request request = {.name = (char *)name,
					       .platform = options->platform,
					       .snapshotter = options->snapshotter};
	int r = image_inspect_ask(&context->ask, &request, ret_reply);

	return r ? fail_ask(context, r) : EXIT_OK;
}

/* The config is shown as JSON, not as a text of JSON. */
static int inspect(struct context *context, void *data, char **args, int n_args)
{
	json_t *all = json_array();
	int result = EXIT_OK;

	for (int i = 0; i < n_args; i++) {
		_cleanup_(image_inspect_reply_clear) struct image_inspect_reply reply = {};
		json_t *json, *config;
		int code = look(context, data, args[i], &reply);

		result = code ?: result;
		if (code)
			continue;
		json = json_from_message(schema_image_inspect_reply(), &reply);
		config = reply.config ? json_loads(reply.config, 0, NULL) : NULL;
		if (config)
			json_object_set_new(json, "config", config);
		json_array_append_new(all, json);
	}
	if (json_array_size(all))
		output_json(json_incref(all));
	json_decref(all);
	return result;
}

static const char *text_of(const json_t *json, const char *key)
{
	return json_string_value(json_object_get(json, key)) ?: "";
}

/* One step of the build; those that made no layer have none of the sizes. */
static void history_row(struct table *table, const json_t *step,
			const struct image_inspect_reply *reply, size_t *layer)
{
	char size[32] = "-", command[61];
	const char *digest = "-", *by = text_of(step, "created_by");

	if (!json_is_true(json_object_get(step, "empty_layer")) && *layer < reply->layers.count) {
		output_size(reply->layers.items[*layer].blob->size, size);
		digest = reply->layers.items[*layer].diff_id;
		(*layer)++;
	}
	snprintf(command, sizeof(command), "%s", by);
	for (char *c = command; *c; c++)
		*c = (unsigned char)*c < ' ' ? ' ' : *c;
	table_add(table, *text_of(step, "created") ? text_of(step, "created") : "-",
		  *command ? command : "-", size, digest);
}

static int history(struct context *context, void *data, char **args, int n_args)
{
	_cleanup_(image_inspect_reply_clear) struct image_inspect_reply reply = {};
	_cleanup_(table_clear) struct table table = {};
	int code = look(context, data, args[0], &reply);
	size_t layer = 0, i;
	json_t *config, *step;

	(void)n_args;
	if (code)
		return code;
	table_init(&table, "CREATED", "CREATED BY", "SIZE", "LAYER", NULL);
	config = json_loads(reply.config, 0, NULL);
	json_array_foreach(json_object_get(config, "history"), i, step)
		history_row(&table, step, &reply, &layer);
	/* A builder may leave the history out. */
	while (layer < reply.layers.count) {
		json_t *none = json_object();

		history_row(&table, none, &reply, &layer);
		json_decref(none);
	}
	json_decref(config);
	table_print(&table);
	return EXIT_OK;
}

static void size_text(const struct look_options *options, uint64_t size, char text[32])
{
	output_size(size, text);
	if (options->bytes)
		snprintf(text, 32, "%llu", (unsigned long long)size);
}

static int usage(struct context *context, void *data, char **args, int n_args)
{
	_cleanup_(table_clear) struct table table = {};
	const struct look_options *options = data;
	int result = EXIT_OK, n_found = 0;

	table_init(&table, "REF", "LAYERS", "SIZE", "UNPACKED", "INODES", NULL);
	for (int i = 0; i < n_args; i++) {
		_cleanup_(image_inspect_reply_clear) struct image_inspect_reply reply = {};
		char layers[32], size[32], unpacked[32], inodes[32];
		uint64_t bytes = 0, n_inodes = 0;
		int code = look(context, options, args[i], &reply);

		result = code ?: result;
		if (code)
			continue;
		n_found++;
		for (size_t k = 0; k < reply.layers.count; k++) {
			bytes += reply.layers.items[k].unpacked_size;
			n_inodes += reply.layers.items[k].inodes;
		}
		snprintf(layers, sizeof(layers), "%zu", reply.layers.count);
		snprintf(inodes, sizeof(inodes), "%llu", (unsigned long long)n_inodes);
		size_text(options, reply.image->size, size);
		size_text(options, bytes, unpacked);
		table_add(&table, reply.image->name, layers, size, unpacked, inodes);
	}
	if (n_found)
		table_print(&table);
	return result;
}

/* ---- convert ------------------------------------------------------------- */

struct convert_options {
	char *platform, *compression;
	bool uncompress, oci, all_platforms;
};

static int convert(struct context *context, void *data, char **args, int n_args)
{
	const struct convert_options *options = data;
	_cleanup_(image_reply_clear) struct image_reply reply = {};
	struct image_convert_request request = {
		.name = args[0],
		.target_name = args[1],
		.compression = options->uncompress ? (char *)"none" : options->compression,
		.oci = options->oci,
		.platform = options->platform,
		.all_platforms = options->all_platforms};
	int r;

	(void)n_args;
	if (options->uncompress && options->compression)
		return fail_usage(context, "--uncompress and --compression exclude each other");
	if (!context->ask.timeout_ms)
		context->ask.timeout_ms = ENVELOPE_DEADLINE_MAX;
	r = image_convert_ask(&context->ask, &request, &reply);
	if (r)
		return fail_ask(context, r);
	puts(reply.image->target->digest);
	return EXIT_OK;
}

/* ---- the tables ---------------------------------------------------------- */

#define PLATFORM_OPTIONS(type_)                                                                    \
	OPTION(type_, platform, TEXT, "platform", 0, "OS/ARCH",                                    \
	       "look at this platform (default: this host's)"),                                    \
		OPTION(type_, snapshotter, TEXT, "snapshotter", 0, "NAME",                         \
		       "overlayfs or native (default: this host's)")

static const struct option_spec check_options[] = {
	LIST_OPTIONS(struct check_options),
	PLATFORM_OPTIONS(struct check_options),
	OPTION(struct check_options, verify, FLAG, "verify", 0, NULL,
	       "read all that is there again, and compare its digests"),
	{}};
static const struct option_spec look_options[] = {PLATFORM_OPTIONS(struct look_options), {}};
static const struct option_spec usage_options[] = {
	PLATFORM_OPTIONS(struct look_options),
	OPTION(struct look_options, bytes, FLAG, "bytes", 'b', NULL, "print sizes in bytes"),
	{}};
static const struct option_spec convert_options[] = {
	OPTION(struct convert_options, uncompress, FLAG, "uncompress", 0, NULL,
	       "make layers plain tar: the same as --compression none"),
	OPTION(struct convert_options, compression, TEXT, "compression", 0, "none|gzip|zstd",
	       "make layers of this form"),
	OPTION(struct convert_options, oci, FLAG, "oci", 0, NULL,
	       "give docker's documents and layers OCI media types"),
	OPTION(struct convert_options, platform, TEXT, "platform", 0, "OS/ARCH",
	       "convert this platform (default: this host's)"),
	OPTION(struct convert_options, all_platforms, FLAG, "all-platforms", 0, NULL,
	       "convert all platforms of an index"),
	{}};

const struct command images_check_command = {
	.name = "check",
	.arguments = "[FILTER...]",
	.summary = "say what of images is there, and whether they are unpacked",
	.options = check_options,
	.options_size = sizeof(struct check_options),
	.max_args = -1,
	.run = check,
};
const struct command images_inspect_command = {
	.name = "inspect",
	.arguments = "REF [REF...]",
	.summary = "print what is known of images: manifest, config, layers",
	.options = look_options,
	.options_size = sizeof(struct look_options),
	.min_args = 1,
	.max_args = -1,
	.run = inspect,
};
const struct command images_history_command = {
	.name = "history",
	.arguments = "REF",
	.summary = "show how an image was made",
	.options = look_options,
	.options_size = sizeof(struct look_options),
	.min_args = 1,
	.max_args = 1,
	.run = history,
};
const struct command images_usage_command = {
	.name = "usage",
	.arguments = "REF [REF...]",
	.summary = "show what images take, packed and unpacked",
	.options = usage_options,
	.options_size = sizeof(struct look_options),
	.min_args = 1,
	.max_args = -1,
	.run = usage,
};
const struct command images_convert_command = {
	.name = "convert",
	.arguments = "SOURCE_REF TARGET_REF",
	.summary = "make an image of the same content in another form",
	.options = convert_options,
	.options_size = sizeof(struct convert_options),
	.min_args = 2,
	.max_args = 2,
	.run = convert,
};
