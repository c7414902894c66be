#pragma once
/* The limits that `davit update` changes. */

#include "schemas/json.h"
#include "tools/command.h"

struct update_options {
	uint64_t memory_limit, cpu_shares, cpu_period;
	char *cpus, *cpu_quota, *cpuset_cpus, *cpuset_mems, *pids_limit;
};

/* linux.resources of an OCI spec with only what was given; an exit code on failure, after saying why. */
int update_resources(struct context *context, const struct update_options *options,
		     json_t **ret_resources);
