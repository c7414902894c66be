/* See lists.h. */

#include "tools/lists.h"

#include <string.h>

#include "broker/lib/file.h"

int list_format(struct context *context, const struct list_options *options,
		enum output_format *ret_format)
{
	if (output_parse(options->format, options->quiet, ret_format))
		return fail_usage(context, "--format '%s' is neither table nor json",
				  options->format);
	return 0;
}

json_t *list_json(const struct schema_message *schema, const void *items, size_t count)
{
	json_t *array = json_array();

	for (size_t i = 0; array && i < count; i++)
		json_array_append_new(
			array, json_from_message(schema, (const char *)items + i * schema->size));
	return array;
}

char *list_labels(const struct schema_map *labels)
{
	struct schema_buffer buffer = {};

	for (size_t i = 0; i < labels->count; i++)
		(void)schema_buffer_addf(&buffer, "%s%s=%s", i ? "," : "", labels->items[i].key,
					 labels->items[i].value);
	if (!labels->count)
		(void)schema_buffer_addf(&buffer, "-");
	(void)schema_buffer_add(&buffer, "", 1);
	return (char *)buffer.data;
}

int list_parse_labels(struct context *context, char **words, int n_words, struct schema_map *map)
{
	for (int i = 0; i < n_words; i++) {
		char *value = strchr(words[i], '=');
		int r;

		if (value == words[i])
			return fail_usage(context, "label '%s' has no key", words[i]);
		if (value)
			*value++ = '\0';
		r = schema_map_set(map, words[i], value ?: "");
		if (r)
			return fail(context, "out of memory");
	}
	return 0;
}

int list_label_mask(const struct schema_map *changes, struct schema_strs *ret_mask)
{
	int r = 0;

	for (size_t i = 0; i < changes->count && !r; i++) {
		_cleanup_(cleanup_free) char *field = text_format("labels.%s",
								  changes->items[i].key);

		r = field ? schema_strs_add(ret_mask, field) : -ENOMEM;
	}
	return r;
}

int list_print_blob(struct context *context, const char *digest, FILE *out)
{
	struct content_read_request request = {.digest = (char *)digest};

	for (;;) {
		_cleanup_(content_read_reply_clear) struct content_read_reply reply = {};
		int r = content_read_ask(&context->ask, &request, &reply);

		if (r)
			return fail_ask(context, r);
		if (!reply.data.size)
			return EXIT_OK;
		if (fwrite(reply.data.data, 1, reply.data.size, out) != reply.data.size)
			return fail(context, "cannot write: %s", strerror(errno));
		request.offset += reply.data.size;
	}
}

struct schema_strs list_filters(char **args, int n_args)
{
	return (struct schema_strs){.items = args, .count = (size_t)n_args};
}

int list_each(struct context *context, char **args, int n_args,
	      int (*one)(struct context *context, const char *name, void *data), void *data)
{
	int result = EXIT_OK;

	for (int i = 0; i < n_args; i++) {
		int code = one(context, args[i], data);

		result = code ?: result;
	}
	return result;
}

/* ---- paging -------------------------------------------------------------- */

struct page {
	void *items;
	size_t count;
};

static void print_page(const struct listing *listing, const struct page *page,
		       enum output_format format, struct table *table, json_t *all)
{
	for (size_t i = 0; i < page->count; i++) {
		const void *item = (const char *)page->items + i * listing->item->size;

		if (format == OUTPUT_QUIET)
			puts(listing->name(item));
		else if (format == OUTPUT_JSON)
			json_array_append_new(all, json_from_message(listing->item, item));
		else
			listing->row(table, item);
	}
}

/* One page; @after, which is in @request, becomes the name after which the next one starts, NULL at the end. */
static int run_page(struct context *context, const struct listing *listing, const void *request,
		    char **after, enum output_format format, struct table *table, json_t *all)
{
	_cleanup_(cleanup_free) void *reply = calloc(1, listing->reply->size);
	int r;

	if (!reply)
		return fail(context, "out of memory");
	r = ask_call(&context->ask, listing->method, NULL, request, reply);
	if (r)
		return fail_ask(context, r);
	print_page(listing, (void *)((char *)reply + listing->list_offset), format, table, all);
	free(*after);
	*after = TAKE(*(char **)((char *)reply + listing->after_offset));
	schema_clear(listing->reply, reply);
	return 0;
}

int list_pages(struct context *context, const struct list_options *options,
	       const struct listing *listing, struct table *table, const void *request,
	       char **after)
{
	enum output_format format;
	json_t *all;
	int code = list_format(context, options, &format);

	if (code)
		return code;
	all = json_array();
	do
		code = run_page(context, listing, request, after, format, table, all);
	while (!code && *after);
	free(TAKE(*after));
	if (!code && format == OUTPUT_TABLE)
		table_print(table);
	if (!code && format == OUTPUT_JSON)
		output_json(json_incref(all));
	json_decref(all);
	return code;
}

int list_run(struct context *context, const struct list_options *options,
	     const struct listing *listing, struct table *table, char **args, int n_args)
{
	struct list_request request = {.filters = list_filters(args, n_args)};

	return list_pages(context, options, listing, table, &request, &request.after);
}
