#pragma once
/* Figures of a container over a time, as `davit stats` prints them. Pure. */

#include "schemas/json.h"
#include "schemas/messages.h"

struct stats_row {
	const char *container_id; /* borrowed */
	double cpu_percent;       /* 100: one CPU */
	double memory_percent;
	uint64_t memory_usage, memory_limit, read_bytes, write_bytes, pids;
};

/* @before: of the same container, or NULL: nothing is known of the time. @host_memory: the limit of one without. */
struct stats_row stats_compute(const struct task_metrics *before, const struct task_metrics *now,
			       uint64_t host_memory);
json_t *stats_json(const struct stats_row *row);
