/* davit leases. */

#include "broker/lib/loop.h"
#include "broker/lib/utc.h"
#include "tools/lists.h"
#include "tools/times.h"

#define LABEL_EXPIRE       "containerd.io/gc.expire"
#define EXPIRES_DEFAULT_MS 86400000 /* ctr's: a day */
#define EXPIRES_MAX_MS     (100 * 365 * 86400000ULL)

struct list_command {
	struct list_options list;
};

static void lease_row(struct table *table, const void *item)
{
	const struct lease_record *lease = item;
	_cleanup_(cleanup_free) char *labels = list_labels(&lease->labels);
	char created[40];

	output_time(lease->created_at_ns, created);
	table_add(table, lease->id, created, labels);
}

static const char *lease_name(const void *item)
{
	return ((const struct lease_record *)item)->id;
}

static int list_leases(struct context *context, void *data, char **args, int n_args)
{
	const struct list_command *options = data;
	const struct listing listing = LISTING(lease, list, lease_record, lease_list_reply, leases,
					       lease_row, lease_name);
	_cleanup_(table_clear) struct table table = {};

	table_init(&table, "LEASE ID", "CREATED AT", "LABELS", NULL);
	return list_run(context, &options->list, &listing, &table, args, n_args);
}

/* ---- create -------------------------------------------------------------- */

struct create_options {
	char *id, *expires;
};

static int set_expiry(struct context *context, const char *expires, struct schema_map *labels)
{
	uint64_t ms = EXPIRES_DEFAULT_MS;
	char stamp[UTC_SIZE], text[UTC_SIZE + 1];

	if (schema_map_get(labels, LABEL_EXPIRE))
		return EXIT_OK;
	if (expires && times_parse_duration(expires, &ms))
		return fail_usage(context, "--expires: '%s' is not a time such as 24h or 1h30m",
				  expires);
	if (!ms)
		return EXIT_OK;
	if (ms > EXPIRES_MAX_MS)
		return fail_usage(context, "--expires: '%s' is over 100 years", expires);
	utc_format((time_real_ns() / 1000000 + ms + 999) / 1000, stamp);
	snprintf(text, sizeof(text), "%sZ", stamp);
	return schema_map_set(labels, LABEL_EXPIRE, text) ? fail(context, "out of memory")
							  : EXIT_OK;
}

static int create(struct context *context, void *data, char **args, int n_args)
{
	const struct create_options *options = data;
	_cleanup_(lease_reply_clear) struct lease_reply reply = {};
	_cleanup_(schema_map_clear) struct schema_map labels = {};
	struct lease_create_request request = {.id = options->id};
	int code = list_parse_labels(context, args, n_args, &labels), r;

	if (!code)
		code = set_expiry(context, options->expires, &labels);
	if (code)
		return code;
	request.labels = labels;
	r = lease_create_ask(&context->ask, &request, &reply);
	if (r)
		return fail_ask(context, r);
	puts(reply.lease->id);
	return EXIT_OK;
}

/* ---- delete -------------------------------------------------------------- */

struct delete_options {
	bool sync;
};

static int delete_one(struct context *context, const char *name, void *data)
{
	const struct delete_options *options = data;
	struct lease_delete_request request = {.id = (char *)name, .sync = options->sync};
	int r = lease_delete_ask(&context->ask, &request, NULL);

	if (r)
		return fail_ask(context, r);
	puts(name);
	return EXIT_OK;
}

static int delete_leases(struct context *context, void *data, char **args, int n_args)
{
	return list_each(context, args, n_args, delete_one, data);
}

/* ---- what a lease holds -------------------------------------------------- */

struct add_options {
	bool create;
};

static int add(struct context *context, void *data, char **args, int n_args)
{
	const struct add_options *options = data;
	struct lease_resource resource = {.type = args[1]};
	struct lease_resource_request request = {
		.id = args[0], .resource = &resource, .create = options->create};
	int r = 0;

	for (int i = 2; i < n_args && !r; i++) {
		resource.id = args[i];
		r = lease_add_resource_ask(&context->ask, &request, NULL);
	}
	return r ? fail_ask(context, r) : EXIT_OK;
}

static int drop(struct context *context, void *data, char **args, int n_args)
{
	struct lease_resource resource = {.type = args[1]};
	struct lease_resource_request request = {.id = args[0], .resource = &resource};
	int result = EXIT_OK;

	(void)data;
	for (int i = 2; i < n_args; i++) {
		int r;

		resource.id = args[i];
		r = lease_delete_resource_ask(&context->ask, &request, NULL);
		if (r)
			result = fail_ask(context, r);
	}
	return result;
}

static void resource_row(struct table *table, const void *item)
{
	const struct lease_resource *resource = item;

	table_add(table, resource->type, resource->id);
}

static const char *resource_name(const void *item)
{
	return ((const struct lease_resource *)item)->id;
}

static int resources(struct context *context, void *data, char **args, int n_args)
{
	const struct list_command *options = data;
	const struct listing listing = LISTING(lease, resources, lease_resource,
					       lease_resources_reply, resources, resource_row,
					       resource_name);
	struct lease_resources_request request = {.id = args[0]};
	_cleanup_(table_clear) struct table table = {};

	(void)n_args;
	table_init(&table, "TYPE", "ID", NULL);
	return list_pages(context, &options->list, &listing, &table, &request, &request.after);
}

/* ---- the table ----------------------------------------------------------- */

static const struct option_spec list_options[] = {LIST_OPTIONS(struct list_command), {}};
static const struct option_spec create_options[] = {
	OPTION(struct create_options, id, TEXT, "id", 0, "ID",
	       "set the id (default: one is made up)"),
	OPTION(struct create_options, expires, TEXT, "expires", 'x', "TIME",
	       "the lease ends after this time; 0: never (default: 24h)"),
	{}};
static const struct option_spec delete_options[] = {
	OPTION(struct delete_options, sync, FLAG, "sync", 0, NULL,
	       "return when what the leases held and nothing else needs is gone too"),
	{}};
static const struct option_spec add_options[] = {
	OPTION(struct add_options, create, FLAG, "create", 0, NULL,
	       "make the lease, without an end, if there is none"),
	{}};

static const struct command list_command = {
	.name = "list",
	.aliases = "ls",
	.arguments = "[FILTER...]",
	.summary = "list leases",
	.options = list_options,
	.options_size = sizeof(struct list_command),
	.max_args = -1,
	.run = list_leases,
};
static const struct command create_command = {
	.name = "create",
	.arguments = "[KEY=VALUE...]",
	.summary = "create a lease",
	.options = create_options,
	.options_size = sizeof(struct create_options),
	.max_args = -1,
	.run = create,
};
static const struct command delete_command = {
	.name = "delete",
	.aliases = "del remove rm",
	.arguments = "ID [ID...]",
	.summary = "delete leases",
	.options = delete_options,
	.options_size = sizeof(struct delete_options),
	.min_args = 1,
	.max_args = -1,
	.run = delete_leases,
};
static const struct command add_command = {
	.name = "add",
	.arguments = "LEASE TYPE ID [ID...]",
	.summary = "let a lease hold something",
	.details = "TYPE is content (ID is a digest), images (a name), ingests (a ref) or "
		   "snapshots/SNAPSHOTTER (a key). What is held need not be there yet.",
	.options = add_options,
	.options_size = sizeof(struct add_options),
	.min_args = 3,
	.max_args = -1,
	.run = add,
};
static const struct command drop_command = {
	.name = "drop",
	.arguments = "LEASE TYPE ID [ID...]",
	.summary = "let a lease no longer hold something",
	.min_args = 3,
	.max_args = -1,
	.run = drop,
};
static const struct command resources_command = {
	.name = "resources",
	.arguments = "LEASE",
	.summary = "list what a lease holds",
	.options = list_options,
	.options_size = sizeof(struct list_command),
	.min_args = 1,
	.max_args = 1,
	.run = resources,
};
const struct command leases_command = {
	.name = "leases",
	.summary = "manage leases: what one holds is not collected",
	.subcommands = (const struct command *const[]){&list_command, &create_command,
						       &delete_command, &add_command, &drop_command,
						       &resources_command, NULL},
};
