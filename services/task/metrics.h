#pragma once
/* Figures of a cgroup: the kernel's texts, v1 and v2, as the fields of task_metrics. */

#include "schemas/messages.h"
#include "services/task/cgroup.h"

#define METRICS_STAT_MAX 128 /* lines of memory.stat that are told */

/* ---- pure ---------------------------------------------------------------- */
/* Of "key value" lines; 0: no such line. */
uint64_t metrics_value(const char *text, const char *key);
/* One number; 0 for NULL, "max", and what v1 says for no limit. */
uint64_t metrics_limit(const char *text);
int metrics_add_stat(struct schema_map *map, const char *text);
/* io.stat: "254:0 rbytes=1 wbytes=2 rios=3 wios=4 …". */
int metrics_add_io(struct task_metrics *metrics, const char *text);
/* blkio.throttle.io_service_bytes_recursive, and _serviced_ (may be NULL): "254:0 Read 1". */
int metrics_add_blkio(struct task_metrics *metrics, const char *bytes, const char *operations);

/* ---- from files ---------------------------------------------------------- */
/* All but its names and time. -ENOENT: the cgroup is gone. */
int metrics_read(const struct cgroup *cgroup, bool brief, struct task_metrics *metrics);
