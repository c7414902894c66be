/* davit fsck. */

#include "tools/fsck.h"

#include <poll.h>
#include <string.h>

#include "broker/lib/loop.h"
#include "tools/lists.h"

#define PAUSE_MS 1000 /* between two looks */

struct fsck_options {
	bool repair;
	struct list_options list;
};

enum { EXIT_CLEAN = 0, EXIT_FINDINGS = 1, EXIT_BLIND = 2 };

/* All that is known of one moment, or nearly. */
struct look {
	struct facts facts;
	struct findings findings;
	struct operation_list_reply operations;
	uint64_t time_ns;
};

static void look_clear(struct look *look)
{
	findings_clear(&look->findings);
	facts_clear(&look->facts);
	operation_list_reply_clear(&look->operations);
	*look = (struct look){};
}

/* ---- looking ---- */

static int take_facts(struct look *look, const char *service, struct fsck_reply *reply)
{
	for (size_t i = 0; i < reply->facts.count; i++)
		if (facts_add(&look->facts, service, &reply->facts.items[i]))
			return -ENOMEM;
	return 0;
}

/* Every service that has such a method. */
static int ask_service(struct context *context, const struct schema_method *method,
		       struct look *look)
{
	struct fsck_request request = {};
	bool more;
	int r;

	do {
		_cleanup_(fsck_reply_clear) struct fsck_reply reply = {};

		r = ask_call(&context->ask, method, NULL, &request, &reply);
		if (r)
			break;
		r = take_facts(look, method->service, &reply);
		more = reply.more;
		request.stage = reply.stage;
		schema_bytes_clear(&request.after);
		request.after = reply.after;
		reply.after = (struct schema_bytes){};
	} while (!r && more);
	schema_bytes_clear(&request.after);
	return r ? fail_ask(context, r) : EXIT_OK;
}

static int take_operations(struct look *look, struct operation_list_reply *reply)
{
	for (size_t i = 0; i < reply->operations.count; i++) {
		struct operation_record *item = schema_list_add(&look->operations.operations);

		if (!item)
			return -ENOMEM;
		*item = reply->operations.items[i];
		reply->operations.items[i] = (struct operation_record){};
	}
	return 0;
}

static int ask_operations(struct context *context, const struct schema_method *method,
			  struct look *look)
{
	_cleanup_(operation_list_reply_clear) struct operation_list_reply reply = {};
	int r = ask_call(&context->ask, method, NULL, &(struct empty){}, &reply);

	if (!r)
		r = take_operations(look, &reply);
	return r ? fail_ask(context, r) : EXIT_OK;
}

static int ask_all(struct context *context, const char *name, struct look *look,
		   int (*ask)(struct context *context, const struct schema_method *method,
			      struct look *look))
{
	int code = EXIT_OK;

	for (size_t i = 0; !code && i < schema_n_methods; i++)
		if (!strcmp(schema_methods[i].name, name))
			code = ask(context, &schema_methods[i], look);
	return code;
}

/* Operations before and after the facts: one that ends in between explains what it left for a moment. */
static int look_around(struct context *context, struct look *look)
{
	int code;

	look->time_ns = time_real_ns();
	code = ask_all(context, "operations", look, ask_operations);
	if (!code && fsck_add_shims(context, &look->facts))
		code = fail(context, "out of memory");
	if (!code)
		code = ask_all(context, "fsck", look, ask_service);
	if (!code)
		code = fsck_add_log(context, &look->facts);
	if (!code)
		code = ask_all(context, "operations", look, ask_operations);
	if (!code && findings_find(&look->facts, &look->findings))
		code = fail(context, "out of memory");
	return code;
}

static void excuse(struct context *context, struct findings *findings, const struct look *look)
{
	findings_excuse(findings, look->operations.operations.items,
			look->operations.operations.count, look->time_ns);
	for (size_t i = 0; i < findings->count; i++) {
		struct finding *finding = &findings->items[i];

		if (!strcmp(finding->said->fact.kind, "fifo") &&
		    fsck_is_fifo_open(context, finding->said->fact.id))
			finding->is_undecided = true;
	}
}

/* What stands is in @last. */
static int look_twice(struct context *context, struct look *last)
{
	_cleanup_(look_clear) struct look first = {};
	int code = look_around(context, &first);

	if (code || !first.findings.count)
		return code;
	poll(NULL, 0, PAUSE_MS);
	code = look_around(context, last);
	if (code)
		return code;
	findings_keep_standing(&last->findings, &first.findings);
	excuse(context, &last->findings, last);
	/* Times are the first look's: what appeared since is no finding of it. */
	findings_excuse(&last->findings, first.operations.operations.items,
			first.operations.operations.count, first.time_ns);
	return EXIT_OK;
}

/* ---- mending ---- */

static int mend(struct context *context, struct finding *finding)
{
	const struct fsck_fact *fact = &finding->said->fact;
	const struct schema_method *method = schema_find_method(finding->said->service, "mend");
	struct fsck_mend_request request = {.kind = fact->kind, .id = fact->id};
	_cleanup_(fsck_mend_reply_clear) struct fsck_mend_reply reply = {};
	int r;

	if (!method)
		return EXIT_OK;
	r = ask_call(&context->ask, method, NULL, &request, &reply);
	if (r)
		return fail_ask(context, r);
	finding->mended = strdup(reply.done && *reply.done ? reply.done : "it was gone already");
	return finding->mended ? EXIT_OK : fail(context, "out of memory");
}

static bool is_mendable(const struct finding *finding, bool is_mount)
{
	const struct said *said = finding->said;

	return !finding->is_undecided && said->fact.mendable && said->service &&
	       !strcmp(said->fact.kind, "mount") == is_mount;
}

/* Mounts first: what they lie in can be removed then. */
static void mend_all(struct context *context, struct findings *findings)
{
	if (findings_have_damage(findings)) {
		(void)fail(
			context,
			"nothing is repaired while damaged records lie in quarantine, or a rebuilt store is "
			"not accepted: what they had would be taken for orphans (davit store --help)");
		return;
	}
	for (int is_mount = 1; is_mount >= 0; is_mount--)
		for (size_t i = 0; i < findings->count; i++)
			if (is_mendable(&findings->items[i], is_mount))
				(void)mend(context, &findings->items[i]);
}

/* ---- telling ---- */

static const char *state_of(const struct finding *finding)
{
	if (finding->mended)
		return finding->mended;
	if (finding->is_undecided)
		return "an operation may be at it";
	return finding->said->fact.mendable ? "--repair mends it" : "-";
}

static void print_table(const struct findings *findings)
{
	_cleanup_(table_clear) struct table table = {};

	table_init(&table, "PROBLEM", "KIND", "ID", "WHAT", "REPAIR", NULL);
	for (size_t i = 0; i < findings->count; i++) {
		const struct finding *finding = &findings->items[i];
		const struct fsck_fact *fact = &finding->said->fact;

		table_add(&table, finding_problem_text(finding->problem), fact->kind, fact->id,
			  fact->text ?: "-", state_of(finding));
	}
	if (findings->count)
		table_print(&table);
}

static json_t *finding_json(const struct finding *finding)
{
	const struct fsck_fact *fact = &finding->said->fact;

	return json_pack("{s:s, s:s, s:s, s:s, s:s, s:b, s:b, s:s}", "problem",
			 finding_problem_text(finding->problem), "kind", fact->kind, "id", fact->id,
			 "service", finding->said->service ?: "", "text", fact->text ?: "",
			 "mendable", fact->mendable, "undecided", finding->is_undecided, "mended",
			 finding->mended ?: "");
}

static void print(const struct findings *findings, enum output_format format)
{
	json_t *all;

	if (format == OUTPUT_TABLE) {
		print_table(findings);
		return;
	}
	if (format == OUTPUT_QUIET) {
		for (size_t i = 0; i < findings->count; i++)
			printf("%s %s\n", findings->items[i].said->fact.kind,
			       findings->items[i].said->fact.id);
		return;
	}
	all = json_array();
	for (size_t i = 0; i < findings->count; i++)
		json_array_append_new(all, finding_json(&findings->items[i]));
	output_json(all);
}

static int count_left(const struct findings *findings)
{
	int n = 0;

	for (size_t i = 0; i < findings->count; i++)
		n += !findings->items[i].is_undecided && !findings->items[i].mended;
	return n;
}

static int fsck(struct context *context, void *data, char **args, int n_args)
{
	const struct fsck_options *options = data;
	_cleanup_(look_clear) struct look look = {};
	enum output_format format;
	int code = list_format(context, &options->list, &format);

	(void)args;
	(void)n_args;
	if (code)
		return code;
	if (look_twice(context, &look))
		return EXIT_BLIND;
	if (options->repair)
		mend_all(context, &look.findings);
	print(&look.findings, format);
	return count_left(&look.findings) ? EXIT_FINDINGS : EXIT_CLEAN;
}

static const struct option_spec fsck_options[] = {
	OPTION(struct fsck_options, repair, FLAG, "repair", 0, NULL,
	       "mend what is safe to mend: remove what nobody owns, add rows that are missing"),
	LIST_OPTIONS(struct fsck_options),
	{}};
const struct command fsck_command = {
	.name = "fsck",
	.summary = "compare records with the world and name every orphan and contradiction",
	.details =
		"Looks at records, blobs, snapshots, bundles, shims, processes, mounts, cgroups, FIFOs, sockets, "
		"logs and the event log. What is found is looked at twice, and what an operation that runs may be "
		"at is listed as such and not counted. Exit code 0: clean; 1: findings; 2: it could not look. "
		"What is there and merely needed by nothing is `davit prune`'s to remove.",
	.options = fsck_options,
	.options_size = sizeof(struct fsck_options),
	.run = fsck,
};
