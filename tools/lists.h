#pragma once
/* What the listing commands share. */

#include "tools/command.h"
#include "tools/output.h"

struct list_options {
	bool quiet;
	char *format;
};

#define LIST_OPTIONS(type_)                                                                        \
	OPTION(type_, list.quiet, FLAG, "quiet", 'q', NULL, "print only the names"),               \
		OPTION(type_, list.format, TEXT, "format", 0, "table|json",                        \
		       "how to print (default: table)")

int list_format(struct context *context, const struct list_options *options,
		enum output_format *ret_format);
/*
 * Pages through a list method: what differs is in a struct of three functions' worth of data.
 * @row adds one item to the table; @name gives what --quiet prints.
 */
struct listing {
	const struct schema_method *method;
	const struct schema_message *item;  /* of the reply's LIST */
	const struct schema_message *reply;
	size_t list_offset;  /* of the LIST member in the reply */
	size_t after_offset; /* of the member `after` */
	void (*row)(struct table *table, const void *item);
	const char *(*name)(const void *item);
};
#define LISTING(service_, method_, item_, reply_, list_, row_, name_)                              \
	{                                                                                          \
		.method = schema_find_method(#service_, #method_), .item = schema_##item_(),       \
		.reply = schema_##reply_(), .list_offset = offsetof(struct reply_, list_),         \
		.after_offset = offsetof(struct reply_, after), .row = row_, .name = name_,        \
	}
/* Of a method that takes list_request. */
int list_run(struct context *context, const struct list_options *options,
	     const struct listing *listing, struct table *table, char **args, int n_args);
/* Of any other; @after is the member of @request. */
int list_pages(struct context *context, const struct list_options *options,
	       const struct listing *listing, struct table *table, const void *request,
	       char **after);

/* [a, b] of a LIST member as JSON. */
json_t *list_json(const struct schema_message *schema, const void *items, size_t count);
/* "a=1,b=2", or "-" when empty; malloc'd. */
char *list_labels(const struct schema_map *labels);
/* KEY=VALUE words onto @map; an exit code on failure. */
int list_parse_labels(struct context *context, char **words, int n_words, struct schema_map *map);
/* "labels.<key>" of each: the update mask that changes these and no other. */
int list_label_mask(const struct schema_map *changes, struct schema_strs *ret_mask);
/* All of a blob. */
int list_print_blob(struct context *context, const char *digest, FILE *out);
/* args as a list of filters: borrowed. */
struct schema_strs list_filters(char **args, int n_args);
/* Runs @one for each argument, says each failure, goes on; returns the last failure's code. */
int list_each(struct context *context, char **args, int n_args,
	      int (*one)(struct context *context, const char *name, void *data), void *data);
