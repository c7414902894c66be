/* davit stats, and davit tasks metrics. See stats.h. */

#include "tools/stats.h"

#include <string.h>

#include "broker/lib/loop.h"
#include "tools/lists.h"

#define INTERVAL_MS 1000
/* What version 1 of the kernel's cgroups says of a container without a limit, and so ctr. */
#define V1_NO_LIMIT 9223372036854771712ull

/* ---- what is computed ---------------------------------------------------- */

struct stats_row stats_compute(const struct task_metrics *before, const struct task_metrics *now,
			       uint64_t host_memory)
{
	struct stats_row row = {
		.container_id = now->container_id,
		.memory_usage = now->memory_working_set ?: now->memory_usage,
		.memory_limit = now->memory_limit ?: host_memory,
		.pids = now->pids_current,
	};

	if (before && now->time_ns > before->time_ns && now->cpu_usage_ns >= before->cpu_usage_ns)
		row.cpu_percent = 100.0 * (double)(now->cpu_usage_ns - before->cpu_usage_ns) /
				  (double)(now->time_ns - before->time_ns);
	if (row.memory_limit)
		row.memory_percent = 100.0 * (double)row.memory_usage / (double)row.memory_limit;
	for (size_t i = 0; i < now->io.count; i++) {
		row.read_bytes += now->io.items[i].read_bytes;
		row.write_bytes += now->io.items[i].write_bytes;
	}
	return row;
}

json_t *stats_json(const struct stats_row *row)
{
	return json_pack("{s:s, s:f, s:I, s:I, s:f, s:I, s:I, s:I}", "container_id",
			 row->container_id, "cpu_percent", row->cpu_percent, "memory_usage",
			 (json_int_t)row->memory_usage, "memory_limit",
			 (json_int_t)row->memory_limit, "memory_percent", row->memory_percent,
			 "read_bytes", (json_int_t)row->read_bytes, "write_bytes",
			 (json_int_t)row->write_bytes, "pids", (json_int_t)row->pids);
}

/* ---- reading ------------------------------------------------------------- */

/* All of @request's pages onto @all. */
static int read_pages(struct context *context, struct task_metrics_request *request,
		      struct task_metrics_reply *all)
{
	_cleanup_(cleanup_free) char *after = NULL, *after_namespace = NULL;
	int r = 0;

	do {
		_cleanup_(task_metrics_reply_clear) struct task_metrics_reply page = {};

		r = task_metrics_ask(&context->ask, request, &page);
		if (r)
			return fail_ask(context, r);
		for (size_t i = 0; !r && i < page.metrics.count; i++) {
			struct task_metrics *metrics = schema_list_add(&all->metrics);

			r = metrics ? task_metrics_copy(&page.metrics.items[i], metrics) : -ENOMEM;
		}
		free(after);
		free(after_namespace);
		request->after = after = TAKE(page.after);
		request->after_namespace = after_namespace = TAKE(page.after_namespace);
	} while (!r && after);
	return r ? fail(context, "out of memory") : 0;
}

struct stats_options {
	bool no_stream, all_namespaces;
	struct list_options list;
};

static int read_metrics(struct context *context, const struct stats_options *options, char **names,
			int n_names, struct task_metrics_reply *ret_reply)
{
	struct task_metrics_request request = {.brief = true,
					       .all_namespaces = options->all_namespaces};
	int code = 0;

	if (!n_names)
		return read_pages(context, &request, ret_reply);
	for (int i = 0; !code && i < n_names; i++) {
		request.container_id = names[i];
		code = read_pages(context, &request, ret_reply);
	}
	return code;
}

/* ---- stats --------------------------------------------------------------- */

static const struct task_metrics *find(const struct task_metrics_reply *reply,
				       const struct task_metrics *wanted)
{
	for (size_t i = 0; i < reply->metrics.count; i++) {
		const struct task_metrics *metrics = &reply->metrics.items[i];

		if (!strcmp(metrics->container_id, wanted->container_id) &&
		    !strcmp(metrics->namespace ?: "", wanted->namespace ?: ""))
			return metrics;
	}
	return NULL;
}

static void add_row(struct table *table, const struct stats_row *row)
{
	char cpu[24], memory[80], percent[24], io[80], pids[24], usage[32], limit[32];

	snprintf(cpu, sizeof(cpu), "%.2f%%", row->cpu_percent);
	output_size(row->memory_usage, usage);
	output_size(row->memory_limit, limit);
	snprintf(memory, sizeof(memory), "%s / %s", usage, limit);
	snprintf(percent, sizeof(percent), "%.2f%%", row->memory_percent);
	output_size(row->read_bytes, usage);
	output_size(row->write_bytes, limit);
	snprintf(io, sizeof(io), "%s / %s", usage, limit);
	snprintf(pids, sizeof(pids), "%llu", (unsigned long long)row->pids);
	table_add(table, row->container_id, cpu, memory, percent, io, pids);
}

static void print_stats(const struct task_metrics_reply *before,
			const struct task_metrics_reply *now, enum output_format format)
{
	uint64_t host = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
	_cleanup_(table_clear) struct table table = {};
	json_t *all = json_array();

	table_init(&table, "CONTAINER", "CPU %", "MEM USAGE / LIMIT", "MEM %", "BLOCK IO", "PIDS",
		   NULL);
	for (size_t i = 0; i < now->metrics.count; i++) {
		const struct task_metrics *metrics = &now->metrics.items[i];
		struct stats_row row = stats_compute(find(before, metrics), metrics, host);

		if (format == OUTPUT_QUIET)
			puts(row.container_id);
		else if (format == OUTPUT_JSON)
			json_array_append_new(all, stats_json(&row));
		else
			add_row(&table, &row);
	}
	if (format == OUTPUT_TABLE && isatty(STDOUT_FILENO))
		fputs("\033[H\033[J", stdout);
	if (format == OUTPUT_TABLE)
		table_print(&table);
	if (format == OUTPUT_JSON)
		output_json(json_incref(all));
	json_decref(all);
	fflush(stdout);
}

struct interval {
	struct loop *loop;
	struct loop_timer timer;
};

static void on_interval(struct loop_timer *timer)
{
	loop_stop(container_of(timer, struct interval, timer)->loop, 0);
}

/* The time over which CPU time is counted. */
static int wait_interval(struct context *context, struct loop *loop)
{
	struct interval interval = {.loop = loop};
	int r = loop_timer_set(loop, &interval.timer, time_boot_ms() + INTERVAL_MS, on_interval)
			?: loop_run(loop);

	return r ? fail(context, "%s", strerror(-r)) : 0;
}

static int stats(struct context *context, void *data, char **args, int n_args)
{
	const struct stats_options *options = data;
	_cleanup_(task_metrics_reply_clear) struct task_metrics_reply before = {};
	_cleanup_(loop_freep) struct loop *loop = NULL;
	enum output_format format;
	int code = list_format(context, &options->list, &format)
			   ?: read_metrics(context, options, args, n_args, &before);

	if (!code && loop_new(&loop))
		code = fail(context, "out of memory");
	do {
		struct task_metrics_reply now = {};

		code = code ?: wait_interval(context, loop);
		code = code ?: read_metrics(context, options, args, n_args, &now);
		if (!code)
			print_stats(&before, &now, format);
		task_metrics_reply_clear(&before);
		before = now;
	} while (!code && !options->no_stream);
	return code;
}

/* ---- tasks metrics ------------------------------------------------------- */

static void add_number(struct table *table, const char *name, uint64_t value)
{
	char text[24];

	snprintf(text, sizeof(text), "%llu", (unsigned long long)value);
	table_add(table, name, text);
}

static const char *stat_of(const struct task_metrics *metrics, const char *key)
{
	for (size_t i = 0; i < metrics->memory_stat.count; i++) {
		if (!strcmp(metrics->memory_stat.items[i].key, key))
			return metrics->memory_stat.items[i].value;
	}
	return NULL;
}

/* ctr's rows, where the host has version 1 of cgroups. */
static void add_v1(struct table *table, const struct task_metrics *metrics)
{
	add_number(table, "memory.usage_in_bytes", metrics->memory_usage);
	add_number(table, "memory.limit_in_bytes", metrics->memory_limit ?: V1_NO_LIMIT);
	table_add(table, "memory.stat.cache", stat_of(metrics, "total_cache"));
	add_number(table, "cpuacct.usage", metrics->cpu_usage_ns);
	add_number(table, "pids.current", metrics->pids_current);
	add_number(table, "pids.limit", metrics->pids_limit);
}

/* With version 2 a limit that is not set is the greatest number; memory.stat is in the JSON. */
static void add_v2(struct table *table, const struct task_metrics *metrics)
{
	add_number(table, "pids.current", metrics->pids_current);
	add_number(table, "pids.limit", metrics->pids_limit ?: UINT64_MAX);
	add_number(table, "cpu.usage_usec", metrics->cpu_usage_ns / 1000);
	add_number(table, "cpu.user_usec", metrics->cpu_user_ns / 1000);
	add_number(table, "cpu.system_usec", metrics->cpu_system_ns / 1000);
	add_number(table, "cpu.nr_periods", metrics->cpu_periods);
	add_number(table, "cpu.nr_throttled", metrics->cpu_throttled_periods);
	add_number(table, "cpu.throttled_usec", metrics->cpu_throttled_ns / 1000);
	add_number(table, "memory.usage", metrics->memory_usage);
	add_number(table, "memory.usage_limit", metrics->memory_limit ?: UINT64_MAX);
	add_number(table, "memory.swap_usage", metrics->memory_swap);
	add_number(table, "memory.swap_limit", metrics->memory_swap_limit ?: UINT64_MAX);
}

static void print_metrics(const struct task_metrics *metrics)
{
	_cleanup_(table_clear) struct table head = {}, rows = {};
	char time[40];

	output_time(metrics->time_ns, time);
	table_init(&head, "ID", "TIMESTAMP", NULL);
	table_add(&head, metrics->container_id, time);
	table_print(&head);
	putchar('\n');
	table_init(&rows, "METRIC", "VALUE", NULL);
	if (stat_of(metrics, "total_cache"))
		add_v1(&rows, metrics);
	else
		add_v2(&rows, metrics);
	table_print(&rows);
}

struct metrics_options {
	struct list_options list;
};

static int metrics(struct context *context, void *data, char **args, int n_args)
{
	const struct metrics_options *options = data;
	_cleanup_(task_metrics_reply_clear) struct task_metrics_reply reply = {};
	struct task_metrics_request request = {.container_id = args[0]};
	enum output_format format;
	int code = list_format(context, &options->list, &format)
			   ?: read_pages(context, &request, &reply);

	(void)n_args;
	for (size_t i = 0; !code && i < reply.metrics.count; i++) {
		if (format == OUTPUT_JSON)
			output_json(
				json_from_message(schema_task_metrics(), &reply.metrics.items[i]));
		else if (format == OUTPUT_QUIET)
			puts(reply.metrics.items[i].container_id);
		else
			print_metrics(&reply.metrics.items[i]);
	}
	return code;
}

/* ---- the tables ---------------------------------------------------------- */

static const struct option_spec stats_options[] = {
	OPTION(struct stats_options, no_stream, FLAG, "no-stream", 0, NULL,
	       "once, over one second"),
	OPTION(struct stats_options, all_namespaces, FLAG, "all-namespaces", 'A', NULL,
	       "of every namespace"),
	LIST_OPTIONS(struct stats_options),
	{}};
static const struct option_spec metrics_options[] = {LIST_OPTIONS(struct metrics_options), {}};

const struct command stats_command = {
	.name = "stats",
	.arguments = "[CONTAINER...]",
	.summary = "show what running containers use, each second",
	.options = stats_options,
	.options_size = sizeof(struct stats_options),
	.max_args = -1,
	.run = stats,
};
const struct command metrics_command = {
	.name = "metrics",
	.aliases = "metric",
	.arguments = "CONTAINER",
	.summary = "print what a task uses, once",
	.options = metrics_options,
	.options_size = sizeof(struct metrics_options),
	.min_args = 1,
	.max_args = 1,
	.run = metrics,
};
