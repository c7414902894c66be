/* davit content. */

#include <string.h>
#include <time.h>

#include "broker/lib/file.h"
#include "tools/content.h"
#include "tools/lists.h"
#include "tools/registry.h"

#define LABEL_ROOT  "containerd.io/gc.root"
#define LABEL_LAYER "containerd.io/gc.ref.content.l." /* of a manifest: one of its layers */
#define PART_SIZE   262144

struct list_command {
	struct list_options list;
};

/* ---- list, get, delete --------------------------------------------------- */

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
	const struct listing listing = LISTING(content, list, content_record, content_list_reply,
					       contents, content_row, list_content_name);
	_cleanup_(table_clear) struct table table = {};

	table_init(&table, "DIGEST", "SIZE", "AGE", "LABELS", NULL);
	return list_run(context, &options->list, &listing, &table, args, n_args);
}

static int get_content(struct context *context, void *data, char **args, int n_args)
{
	(void)data;
	(void)n_args;
	return list_print_blob(context, args[0], stdout);
}

static int delete_one(struct context *context, const char *name, void *data)
{
	struct content_info_request request = {.digest = (char *)name};
	int r = content_delete_ask(&context->ask, &request, NULL);

	(void)data;
	if (r)
		return fail_ask(context, r);
	puts(name);
	return EXIT_OK;
}

static int delete_content(struct context *context, void *data, char **args, int n_args)
{
	return list_each(context, args, n_args, delete_one, data);
}

/* ---- active -------------------------------------------------------------- */

static void ingest_row(struct table *table, const void *item)
{
	const struct content_ingest *ingest = item;
	char size[32], age[32];

	output_size(ingest->offset, size);
	output_age(ingest->started_at_ns, age);
	table_add(table, ingest->ref, size, age);
}

static const char *ingest_name(const void *item)
{
	return ((const struct content_ingest *)item)->ref;
}

/* ref~="REGEXP": a Go string. */
static char *make_filter(const char *pattern)
{
	struct schema_buffer buffer = {};

	(void)schema_buffer_addf(&buffer, "ref~=\"");
	for (const char *c = pattern; *c; c++)
		(void)schema_buffer_addf(&buffer, "%s%c", *c == '"' || *c == '\\' ? "\\" : "", *c);
	(void)schema_buffer_add(&buffer, "\"", 2);
	return (char *)buffer.data;
}

static int list_active(struct context *context, void *data, char **args, int n_args)
{
	const struct list_command *options = data;
	const struct listing listing = LISTING(content, ingests, content_ingest,
					       content_ingests_reply, ingests, ingest_row,
					       ingest_name);
	_cleanup_(table_clear) struct table table = {};
	_cleanup_(cleanup_free) char *filter = NULL;

	if (n_args) {
		filter = make_filter(args[0]);
		if (!filter)
			return fail(context, "out of memory");
		args = &filter;
	}
	table_init(&table, "REF", "SIZE", "AGE", NULL);
	return list_run(context, &options->list, &listing, &table, args, n_args);
}

/* ---- ingest -------------------------------------------------------------- */

struct ingest_options {
	uint64_t expected_size;
	char *expected_digest;
	bool restart;
};

/* As much as a part holds, if there is as much. */
static int read_part(struct context *context, FILE *in, uint8_t *data, size_t *ret_size)
{
	*ret_size = fread(data, 1, PART_SIZE, in);
	return ferror(in) ? fail(context, "cannot read what is to be stored: %s", strerror(errno))
			  : EXIT_OK;
}

/* From the beginning: what is there already is compared by the service. */
static int write_parts(struct context *context, FILE *in, struct content_write_request *request,
		       uint8_t *data, bool *ret_exists)
{
	for (;;) {
		_cleanup_(content_write_reply_clear) struct content_write_reply reply = {};
		size_t size;
		int r, code = read_part(context, in, data, &size);

		if (code)
			return code;
		if (!size && request->offset)
			return EXIT_OK;
		request->data = (struct schema_bytes){data, size};
		r = content_write_ask(&context->ask, request, &reply);
		if (r)
			return fail_ask(context, r);
		*ret_exists = reply.exists;
		if (!size || reply.exists)
			return EXIT_OK;
		request->offset += size;
	}
}

/* It stays until it is deleted: ctr's own snapshots are labelled so too. */
static int commit(struct context *context, const struct content_write_request *written,
		  const char *media_type)
{
	_cleanup_(content_commit_reply_clear) struct content_commit_reply reply = {};
	struct content_commit_request request = {.ref = written->ref,
						 .writer = written->writer,
						 .size = written->offset,
						 .expected = written->expected,
						 .media_type = (char *)media_type};
	char now[40];
	struct schema_pair root = {.key = (char *)LABEL_ROOT, .value = now};
	int r;

	output_time((uint64_t)time(NULL) * 1000000000, now);
	request.labels = (struct schema_map){&root, 1};
	r = content_commit_ask(&context->ask, &request, &reply);
	if (r)
		return fail_ask(context, r);
	puts(reply.content->digest);
	return EXIT_OK;
}

static int abort_old(struct context *context, const char *ref)
{
	struct content_ref_request request = {.ref = (char *)ref};
	int r = content_abort_ask(&context->ask, &request, NULL);

	return r && r != BUS_NOT_FOUND ? fail_ask(context, r) : EXIT_OK;
}

int content_store(struct context *context, FILE *in, struct content_write_request *request,
		  const char *media_type)
{
	_cleanup_(cleanup_free) uint8_t *part = malloc(PART_SIZE);
	char writer[ID_TEXT_SIZE];
	uint8_t id[ID_SIZE];
	bool exists = false;
	int code;

	if (!part)
		return fail(context, "out of memory");
	id_make(id);
	id_format(id, writer);
	request->writer = writer;
	if (!context->ask.timeout_ms)
		context->ask.timeout_ms = ENVELOPE_DEADLINE_MAX;
	code = write_parts(context, in, request, part, &exists);
	if (code)
		return code;
	if (!exists)
		return commit(context, request, media_type);
	puts(request->expected);
	return EXIT_OK;
}

static int ingest(struct context *context, void *data, char **args, int n_args)
{
	const struct ingest_options *options = data;
	struct content_write_request request = {.ref = args[0],
						.total = options->expected_size,
						.expected = options->expected_digest};
	int code = options->restart ? abort_old(context, args[0]) : EXIT_OK;

	(void)n_args;
	return code ? code : content_store(context, stdin, &request, NULL);
}

/* ---- label --------------------------------------------------------------- */

static int update_labels(struct context *context, const char *digest,
			 const struct schema_map *changes, struct content_reply *ret_reply)
{
	struct content_record record = {.digest = (char *)digest, .labels = *changes};
	_cleanup_(schema_strs_clear) struct schema_strs mask = {};
	struct content_update_request request = {.content = &record};
	int r = list_label_mask(changes, &mask);

	request.update_mask = mask;
	return r ?: content_update_ask(&context->ask, &request, ret_reply);
}

static int label(struct context *context, void *data, char **args, int n_args)
{
	_cleanup_(schema_map_clear) struct schema_map changes = {};
	_cleanup_(content_reply_clear) struct content_reply reply = {};
	struct content_info_request info = {.digest = args[0]};
	_cleanup_(cleanup_free) char *text = NULL;
	int code = list_parse_labels(context, args + 1, n_args - 1, &changes), r;

	(void)data;
	if (code)
		return code;
	r = changes.count ? update_labels(context, args[0], &changes, &reply)
			  : content_info_ask(&context->ask, &info, &reply);
	if (r)
		return fail_ask(context, r);
	text = list_labels(&reply.content->labels);
	puts(text ?: "");
	return EXIT_OK;
}

/* ---- verify -------------------------------------------------------------- */

static int verify(struct context *context, void *data, char **args, int n_args)
{
	_cleanup_(content_verify_reply_clear) struct content_verify_reply reply = {};
	struct content_verify_request request = {.digests = {args, (size_t)n_args}};
	size_t n_failed = 0;
	int r;

	(void)data;
	if (!context->ask.timeout_ms)
		context->ask.timeout_ms = ENVELOPE_DEADLINE_MAX;
	r = content_verify_ask(&context->ask, &request, &reply);
	if (r)
		return fail_ask(context, r);
	for (size_t i = 0; i < reply.verdicts.count; i++) {
		const struct content_verdict *verdict = &reply.verdicts.items[i];

		if (verdict->status == BUS_OK) {
			printf("%s: ok\n", verdict->digest);
			continue;
		}
		n_failed++;
		fail(context, "%s", verdict->error ?: verdict->digest);
	}
	if (!n_args)
		printf("%llu blobs read, %llu bad\n", (unsigned long long)reply.n_checked,
		       (unsigned long long)reply.n_bad);
	return n_failed ? EXIT_ERROR : EXIT_OK;
}

/* ---- prune references ---------------------------------------------------- */

struct prune_options {
	bool async, dry;
};

static int drop_layer_labels(struct context *context, const struct content_record *record,
			     bool is_dry)
{
	_cleanup_(schema_map_clear) struct schema_map changes = {};
	int r = 0;

	for (size_t i = 0; i < record->labels.count && !r; i++) {
		const char *key = record->labels.items[i].key;

		if (strncmp(key, LABEL_LAYER, strlen(LABEL_LAYER)) != 0)
			continue;
		printf("%s %s\n", record->digest, key);
		r = schema_map_set(&changes, key, "");
	}
	if (r)
		return fail(context, "out of memory");
	if (!changes.count || is_dry)
		return EXIT_OK;
	r = update_labels(context, record->digest, &changes, NULL);
	return r ? fail_ask(context, r) : EXIT_OK;
}

static int drop_page(struct context *context, struct list_request *request, bool is_dry,
		     char **ret_after)
{
	_cleanup_(content_list_reply_clear) struct content_list_reply reply = {};
	int code = EXIT_OK, r;

	r = content_list_ask(&context->ask, request, &reply);
	if (r)
		return fail_ask(context, r);
	for (size_t i = 0; i < reply.contents.count && !code; i++)
		code = drop_layer_labels(context, &reply.contents.items[i], is_dry);
	*ret_after = TAKE(reply.after);
	return code;
}

static int prune_references(struct context *context, void *data, char **args, int n_args)
{
	const struct prune_options *options = data;
	struct image_collect_request collect = {};
	_cleanup_(cleanup_free) char *after = NULL;
	int code, r;

	(void)args;
	(void)n_args;
	do {
		struct list_request request = {.after = after};
		char *next = NULL;

		code = drop_page(context, &request, options->dry, &next);
		free(after);
		after = next;
	} while (!code && after);
	if (code || options->dry || options->async)
		return code;
	r = image_collect_ask(&context->ask, &collect, NULL);
	return r ? fail_ask(context, r) : EXIT_OK;
}

/* ---- the table ----------------------------------------------------------- */

static const struct option_spec list_options[] = {LIST_OPTIONS(struct list_command), {}};
static const struct option_spec ingest_options[] = {
	OPTION(struct ingest_options, expected_size, NUMBER, "expected-size", 0, "BYTES",
	       "refuse another size"),
	OPTION(struct ingest_options, expected_digest, TEXT, "expected-digest", 0, "DIGEST",
	       "refuse another digest"),
	OPTION(struct ingest_options, restart, FLAG, "restart", 0, NULL,
	       "drop what an earlier ingest of this key has left"),
	{}};
static const struct option_spec prune_options[] = {
	OPTION(struct prune_options, async, FLAG, "async", 0, NULL,
	       "return before what nothing needs any more is gone"),
	OPTION(struct prune_options, dry, FLAG, "dry", 0, NULL, "only show the labels"),
	{}};

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
static const struct command content_active_command = {
	.name = "active",
	.arguments = "[REGEXP]",
	.summary = "list ingests that are under way",
	.options = list_options,
	.options_size = sizeof(struct list_command),
	.max_args = 1,
	.run = list_active,
};
static const struct command content_delete_command = {
	.name = "delete",
	.aliases = "del remove rm",
	.arguments = "DIGEST [DIGEST...]",
	.summary = "delete blobs, even if something refers to them",
	.min_args = 1,
	.max_args = -1,
	.run = delete_content,
};
static const struct command content_ingest_command = {
	.name = "ingest",
	.arguments = "KEY",
	.summary = "make a blob of standard input and print its digest",
	.details =
		"An ingest that was cut goes on where it stopped when the same input comes again under "
		"the same key. The blob is labelled containerd.io/gc.root: it stays until it is deleted, "
		"or the label is cleared and nothing refers to it.",
	.options = ingest_options,
	.options_size = sizeof(struct ingest_options),
	.min_args = 1,
	.max_args = 1,
	.run = ingest,
};
static const struct command content_label_command = {
	.name = "label",
	.arguments = "DIGEST [KEY=VALUE...]",
	.summary = "set labels of a blob, or clear those with an empty value",
	.min_args = 1,
	.max_args = -1,
	.run = label,
};
static const struct command content_verify_command = {
	.name = "verify",
	.arguments = "[DIGEST...]",
	.summary = "read blobs again and compare their digests (default: all of the store)",
	.max_args = -1,
	.run = verify,
};
static const struct command prune_references_command = {
	.name = "references",
	.summary = "drop labels by which manifests refer to their layers",
	.options = prune_options,
	.options_size = sizeof(struct prune_options),
	.run = prune_references,
};
static const struct command content_prune_command = {
	.name = "prune",
	.summary = "prune the content store",
	.subcommands = (const struct command *const[]){&prune_references_command, NULL},
};
const struct command content_command = {
	.name = "content",
	.summary = "manage the content store",
	.subcommands =
		(const struct command *const[]){
			&content_active_command, &content_delete_command, &content_get_command,
			&content_ingest_command, &content_list_command, &content_label_command,
			&content_verify_command, &content_fetch_command, &content_prune_command,
			&content_edit_command, &content_fetch_object_command,
			&content_fetch_blob_command, &content_push_object_command, NULL},
};
