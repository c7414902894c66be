/* davit update. See update.h. */

#include "tools/update.h"

#include <string.h>

#include "tools/lists.h"

#define CPUS_PERIOD_US 100000

static int parse_signed(struct context *context, const char *option, const char *text,
			int64_t *ret_number)
{
	char *end;
	long long number;

	errno = 0;
	number = strtoll(text, &end, 10);
	if (end == text || *end || errno || number < -1)
		return fail_usage(context, "--%s '%s' is not a number; -1 means no limit", option,
				  text);
	*ret_number = number;
	return 0;
}

static int set_quota(struct context *context, const struct update_options *options, json_t *cpu)
{
	int64_t quota;
	double cpus;
	char *end;

	if (options->cpus && (options->cpu_quota || options->cpu_period))
		return fail_usage(context, "--cpus excludes --cpu-quota and --cpu-period");
	if (options->cpus) {
		cpus = strtod(options->cpus, &end);
		if (end == options->cpus || *end || !(cpus > 0) || cpus > 1e6)
			return fail_usage(context, "--cpus '%s' is not a positive number",
					  options->cpus);
		json_object_set_new(cpu, "quota",
				    json_integer((json_int_t)(cpus * CPUS_PERIOD_US)));
		json_object_set_new(cpu, "period", json_integer(CPUS_PERIOD_US));
	}
	if (options->cpu_quota) {
		if (parse_signed(context, "cpu-quota", options->cpu_quota, &quota))
			return EXIT_USAGE;
		json_object_set_new(cpu, "quota", json_integer(quota));
	}
	if (options->cpu_period)
		json_object_set_new(cpu, "period", json_integer((json_int_t)options->cpu_period));
	return 0;
}

/* Steals @part. */
static void set_part(json_t *resources, const char *name, json_t *part)
{
	if (json_object_size(part))
		json_object_set_new(resources, name, part);
	else
		json_decref(part);
}

int update_resources(struct context *context, const struct update_options *options,
		     json_t **ret_resources)
{
	json_t *resources = json_object(), *cpu = json_object(), *memory = json_object(),
	       *pids = json_object();
	int64_t limit = 0;
	int code = set_quota(context, options, cpu);

	if (!code && options->pids_limit)
		code = parse_signed(context, "pids-limit", options->pids_limit, &limit);
	if (options->memory_limit)
		json_object_set_new(memory, "limit",
				    json_integer((json_int_t)options->memory_limit));
	if (options->cpu_shares)
		json_object_set_new(cpu, "shares", json_integer((json_int_t)options->cpu_shares));
	if (options->cpuset_cpus)
		json_object_set_new(cpu, "cpus", json_string(options->cpuset_cpus));
	if (options->cpuset_mems)
		json_object_set_new(cpu, "mems", json_string(options->cpuset_mems));
	if (options->pids_limit)
		json_object_set_new(pids, "limit", json_integer(limit ?: -1));
	set_part(resources, "memory", memory);
	set_part(resources, "cpu", cpu);
	set_part(resources, "pids", pids);
	if (!code && !json_object_size(resources))
		code = fail_usage(context, "no limit is given");
	if (code) {
		json_decref(resources);
		return code;
	}
	*ret_resources = resources;
	return 0;
}

static int update_one(struct context *context, const char *name, void *data)
{
	struct task_update_request request = {.container_id = (char *)name, .resources = data};
	int r = task_update_ask(&context->ask, &request, NULL);

	return r ? fail_ask(context, r) : EXIT_OK;
}

static int update(struct context *context, void *data, char **args, int n_args)
{
	_cleanup_(cleanup_free) char *text = NULL;
	json_t *resources = NULL;
	int code = update_resources(context, data, &resources);

	if (code)
		return code;
	text = json_dumps(resources, JSON_COMPACT);
	json_decref(resources);
	return text ? list_each(context, args, n_args, update_one, text)
		    : fail(context, "out of memory");
}

static const struct option_spec update_options[] = {
	OPTION(struct update_options, memory_limit, NUMBER, "memory-limit", 'm', "BYTES",
	       "memory limit"),
	OPTION(struct update_options, cpus, TEXT, "cpus", 0, "N", "CPUs' worth of time, e.g. 1.5"),
	OPTION(struct update_options, cpu_quota, TEXT, "cpu-quota", 0, "US",
	       "CFS quota; -1 for none"),
	OPTION(struct update_options, cpu_period, NUMBER, "cpu-period", 0, "US", "CFS period"),
	OPTION(struct update_options, cpu_shares, NUMBER, "cpu-shares", 0, "N",
	       "relative CPU weight"),
	OPTION(struct update_options, cpuset_cpus, TEXT, "cpuset-cpus", 0, "LIST",
	       "CPUs to run on"),
	OPTION(struct update_options, cpuset_mems, TEXT, "cpuset-mems", 0, "LIST",
	       "memory nodes to use"),
	OPTION(struct update_options, pids_limit, TEXT, "pids-limit", 0, "N",
	       "limit of processes; -1 or 0 for none"),
	{}};

const struct command update_command = {
	.name = "update",
	.arguments = "CONTAINER [CONTAINER...]",
	.summary = "change the limits of running containers",
	.details =
		"   Until they end: a container that is started again has the limits that it was made with.",
	.options = update_options,
	.options_size = sizeof(struct update_options),
	.min_args = 1,
	.max_args = -1,
	.run = update,
};
