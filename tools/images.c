/* davit images and content. */

#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/stat.h>

#include "broker/lib/file.h"
#include "broker/lib/spawn.h"
#include "tools/lists.h"

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
	const struct listing listing = {
		.method = schema_find_method("image", "list"),
		.item = schema_image_record(),
		.reply = schema_image_list_reply(),
		.list_offset = offsetof(struct image_list_reply, images),
		.after_offset = offsetof(struct image_list_reply, after),
		.row = image_row,
		.name = list_images_name,
	};
	_cleanup_(table_clear) struct table table = {};

	table_init(&table, "REF", "TYPE", "DIGEST", "SIZE", "PLATFORMS", "LABELS", NULL);
	return list_run(context, &options->list, &listing, &table, args, n_args);
}

/* ---- import -------------------------------------------------------------- */

struct import_options {
	char *base_name, *index_name, *platform, *snapshotter;
	bool digests, all_platforms, no_unpack;
};

/* Standard input reaches the service through a FIFO, which a thread fills while the call waits. */
struct feeder {
	pthread_t thread;
	char *path;
	bool is_running;
};

static void *feed(void *data)
{
	struct feeder *feeder = data;
	_cleanup_(cleanup_fd) int fd = open(feeder->path, O_WRONLY | O_CLOEXEC);
	char buffer[65536];
	ssize_t n;

	while (fd >= 0 && (n = read(STDIN_FILENO, buffer, sizeof(buffer))) > 0) {
		if (file_write_all(fd, buffer, (size_t)n))
			break;
	}
	return NULL;
}

static int feeder_start(struct context *context, struct feeder *feeder)
{
	uint8_t id[ID_SIZE];
	char name[ID_TEXT_SIZE];
	_cleanup_(cleanup_free) char *directory = text_format("%s/fifo", context->paths.state);
	struct why why = {};

	id_make(id);
	id_format(id, name);
	if (!directory || file_make_dir(directory, 0700, &why))
		return fail(context, "%s", why.text);
	feeder->path = text_format("%s/import-%s", directory, name);
	if (!feeder->path || mkfifo(feeder->path, 0600))
		return fail(context, "cannot make a FIFO in %s: %s", directory, strerror(errno));
	if (pthread_create(&feeder->thread, NULL, feed, feeder))
		return fail(context, "cannot start a thread");
	feeder->is_running = true;
	return 0;
}

static void feeder_stop(struct feeder *feeder)
{
	_cleanup_(cleanup_fd) int fd = -1;

	if (feeder->is_running) {
		/* A reader that never came would leave the thread waiting: we are one, then none. */
		fd = open(feeder->path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
		pthread_cancel(feeder->thread);
		pthread_join(feeder->thread, NULL);
	}
	if (feeder->path)
		unlink(feeder->path);
	free(feeder->path);
}

static int import(struct context *context, void *data, char **args, int n_args)
{
	const struct import_options *options = data;
	_cleanup_(image_import_reply_clear) struct image_import_reply reply = {};
	_cleanup_(feeder_stop) struct feeder feeder = {};
	_cleanup_(cleanup_free) char *path = NULL;
	struct image_import_request request = {
		.base_name = options->base_name,
		.index_name = options->index_name,
		.platform = options->platform,
		.snapshotter = options->snapshotter,
		.digests = options->digests,
		.all_platforms = options->all_platforms,
		.no_unpack = options->no_unpack,
	};
	int code, r;

	(void)n_args;
	if (!strcmp(args[0], "-")) {
		code = feeder_start(context, &feeder);
		if (code)
			return code;
	} else {
		path = realpath(args[0], NULL);
		if (!path)
			return fail(context, "%s: %s", args[0], strerror(errno));
	}
	request.path = path ?: feeder.path;
	if (!context->ask.timeout_ms)
		context->ask.timeout_ms = ENVELOPE_DEADLINE_MAX;
	r = image_import_ask(&context->ask, &request, &reply);
	if (r)
		return fail_ask(context, r);
	for (size_t i = 0; i < reply.images.count; i++)
		printf("imported %s (%s)\n", reply.images.items[i].name,
		       reply.images.items[i].target->digest);
	return EXIT_OK;
}

/* ---- rm, tag, label ------------------------------------------------------ */

struct delete_options {
	bool sync;
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

static int delete_images(struct context *context, void *data, char **args, int n_args)
{
	return list_each(context, args, n_args, delete_one, data);
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

/* ---- content -------------------------------------------------------------- */

static void content_row(struct table *table, const void *item)
{
	const struct content_record *content = item;
	_cleanup_(cleanup_free) char *labels = list_labels(&content->labels);
	char size[32], age[32];

	output_size(content->size, size);
	output_age(content->created_at_ns, age);
	table_add(table, content->digest, size, age, labels);
}

static const char *list_content_name(const void *item)
{
	return ((const struct content_record *)item)->digest;
}

static int list_content(struct context *context, void *data, char **args, int n_args)
{
	const struct list_command *options = data;
	const struct listing listing = {
		.method = schema_find_method("content", "list"),
		.item = schema_content_record(),
		.reply = schema_content_list_reply(),
		.list_offset = offsetof(struct content_list_reply, contents),
		.after_offset = offsetof(struct content_list_reply, after),
		.row = content_row,
		.name = list_content_name,
	};
	_cleanup_(table_clear) struct table table = {};

	table_init(&table, "DIGEST", "SIZE", "AGE", "LABELS", NULL);
	return list_run(context, &options->list, &listing, &table, args, n_args);
}

static int get_content(struct context *context, void *data, char **args, int n_args)
{
	struct content_read_request request = {.digest = args[0]};
	int r;

	(void)data;
	(void)n_args;
	for (;;) {
		_cleanup_(content_read_reply_clear) struct content_read_reply reply = {};

		r = content_read_ask(&context->ask, &request, &reply);
		if (r)
			return fail_ask(context, r);
		if (!reply.data.size)
			return EXIT_OK;
		if (fwrite(reply.data.data, 1, reply.data.size, stdout) != reply.data.size)
			return fail(context, "stdout: %s", strerror(errno));
		request.offset += reply.data.size;
	}
}

/* ---- the tables ---------------------------------------------------------- */

static const struct option_spec import_options[] = {
	OPTION(struct import_options, base_name, TEXT, "base-name", 0, "NAME",
	       "name of images that the archive gives only a tag; import only images with this prefix"),
	OPTION(struct import_options, index_name, TEXT, "index-name", 0, "NAME",
	       "keep the archive's index under this name"),
	OPTION(struct import_options, digests, FLAG, "digests", 0, NULL,
	       "also make NAME@DIGEST images"),
	OPTION(struct import_options, all_platforms, FLAG, "all-platforms", 0, NULL,
	       "import all platforms of an index"),
	OPTION(struct import_options, platform, TEXT, "platform", 0, "OS/ARCH",
	       "import this platform (default: this host's)"),
	OPTION(struct import_options, no_unpack, FLAG, "no-unpack", 0, NULL, "do not unpack"),
	OPTION(struct import_options, snapshotter, TEXT, "snapshotter", 0, "NAME",
	       "unpack for this snapshotter"),
	{}};
static const struct option_spec delete_options[] = {
	OPTION(struct delete_options, sync, FLAG, "sync", 0, NULL,
	       "return when blobs and layers that nothing else needs are gone too"),
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
static const struct command import_command = {
	.name = "import",
	.arguments = "FILE|-",
	.summary = "import an OCI or docker-save archive",
	.options = import_options,
	.options_size = sizeof(struct import_options),
	.min_args = 1,
	.max_args = 1,
	.run = import,
};
static const struct command delete_command = {
	.name = "delete",
	.aliases = "del remove rm",
	.arguments = "REF [REF...]",
	.summary = "remove images",
	.options = delete_options,
	.options_size = sizeof(struct delete_options),
	.min_args = 1,
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
	.subcommands = (const struct command *const[]){&import_command, &list_command,
						       &delete_command, &tag_command,
						       &label_command, NULL},
};

static const struct command content_list_command = {
	.name = "list",
	.aliases = "ls",
	.arguments = "[FILTER...]",
	.summary = "list blobs",
	.options = list_options,
	.options_size = sizeof(struct list_command),
	.max_args = -1,
	.run = list_content,
};
static const struct command content_get_command = {
	.name = "get",
	.arguments = "DIGEST",
	.summary = "print a blob",
	.min_args = 1,
	.max_args = 1,
	.run = get_content,
};
const struct command content_command = {
	.name = "content",
	.summary = "look at the content store",
	.subcommands = (const struct command *const[]){&content_list_command, &content_get_command,
						       NULL},
};
