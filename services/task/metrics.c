/* See metrics.h. */

#include "services/task/metrics.h"

#include <string.h>

#include "broker/lib/cleanup.h"
#include "broker/lib/error.h"

#define DEVICES_MAX 256
#define NO_LIMIT    (UINT64_C(1) << 62)
#define TICK_NS     10000000 /* USER_HZ is 100 everywhere */

/* ---- text ---------------------------------------------------------------- */

static const char *next_line(const char *line)
{
	const char *end = strchrnul(line, '\n');

	return *end ? end + 1 : end;
}

uint64_t metrics_value(const char *text, const char *key)
{
	size_t size = strlen(key);

	for (const char *line = text ?: ""; *line; line = next_line(line)) {
		if (!strncmp(line, key, size) && line[size] == ' ')
			return strtoull(line + size + 1, NULL, 10);
	}
	return 0;
}

static uint64_t number_of(const char *text)
{
	return text ? strtoull(text, NULL, 10) : 0;
}

uint64_t metrics_limit(const char *text)
{
	uint64_t limit = number_of(text);

	return limit < NO_LIMIT ? limit : 0;
}

int metrics_add_stat(struct schema_map *map, const char *text)
{
	int r = 0;

	for (const char *line = text ?: ""; !r && *line && map->count < METRICS_STAT_MAX;
	     line = next_line(line)) {
		const char *end = strchrnul(line, '\n');
		const char *space = memchr(line, ' ', (size_t)(end - line));
		_cleanup_(cleanup_free) char *key = NULL, *value = NULL;

		if (!space || space == line)
			continue;
		key = strndup(line, (size_t)(space - line));
		value = strndup(space + 1, (size_t)(end - space - 1));
		r = key && value ? schema_map_set(map, key, value) : error_origin(-ENOMEM);
	}
	return r;
}

/* ---- devices ------------------------------------------------------------- */

/* A number at *@at, which moves behind it; false: there is none. */
static bool take_number(const char **at, uint64_t *ret_number)
{
	char *end;

	if (**at < '0' || **at > '9') /* strtoull() passes over lines' ends */
		return false;
	*ret_number = strtoull(*at, &end, 10);
	*at = end;
	return *ret_number <= UINT32_MAX;
}

/* "254:0 " at the start of @line; the rest of it, or NULL. */
static const char *device_of(const char *line, uint64_t *ret_major, uint64_t *ret_minor)
{
	if (!take_number(&line, ret_major) || *line++ != ':' || !take_number(&line, ret_minor))
		return NULL;
	return *line == ' ' ? line + 1 : NULL;
}

static int find_device(struct task_metrics *metrics, uint64_t major, uint64_t minor,
		       struct task_metrics_io **ret_io)
{
	struct task_metrics_io *io;

	*ret_io = NULL;
	for (size_t i = 0; i < metrics->io.count; i++) {
		io = &metrics->io.items[i];
		if (io->major == major && io->minor == minor) {
			*ret_io = io;
			return 0;
		}
	}
	if (metrics->io.count == DEVICES_MAX)
		return 0;
	io = schema_list_add(&metrics->io);
	if (!io)
		return error_origin(-ENOMEM);
	io->major = major;
	io->minor = minor;
	*ret_io = io;
	return 0;
}

static uint64_t assigned(const char *line, const char *key)
{
	_cleanup_(cleanup_free) char *text = strndup(line, strcspn(line, "\n"));
	const char *found = text ? strstr(text, key) : NULL;

	return found ? strtoull(found + strlen(key), NULL, 10) : 0;
}

int metrics_add_io(struct task_metrics *metrics, const char *text)
{
	struct task_metrics_io *io;
	uint64_t major, minor;
	int r = 0;

	for (const char *line = text ?: ""; !r && *line; line = next_line(line)) {
		const char *rest = device_of(line, &major, &minor);

		if (!rest)
			continue;
		r = find_device(metrics, major, minor, &io);
		if (r || !io)
			continue;
		io->read_bytes = assigned(rest, "rbytes=");
		io->write_bytes = assigned(rest, "wbytes=");
		io->read_ops = assigned(rest, "rios=");
		io->write_ops = assigned(rest, "wios=");
	}
	return r;
}

static int add_blkio(struct task_metrics *metrics, const char *text, bool is_bytes)
{
	struct task_metrics_io *io;
	uint64_t major, minor;
	int r = 0;

	for (const char *line = text ?: ""; !r && *line; line = next_line(line)) {
		const char *rest = device_of(line, &major, &minor);
		bool is_read = rest && !strncmp(rest, "Read ", 5);
		bool is_write = rest && !strncmp(rest, "Write ", 6);

		if (!is_read && !is_write)
			continue;
		r = find_device(metrics, major, minor, &io);
		if (r || !io)
			continue;
		if (is_read)
			*(is_bytes ? &io->read_bytes : &io->read_ops) = number_of(rest + 5);
		else
			*(is_bytes ? &io->write_bytes : &io->write_ops) = number_of(rest + 6);
	}
	return r;
}

int metrics_add_blkio(struct task_metrics *metrics, const char *bytes, const char *operations)
{
	return add_blkio(metrics, bytes, true) ?: add_blkio(metrics, operations, false);
}

/* ---- files --------------------------------------------------------------- */

static uint64_t read_number(const struct cgroup *cgroup, const char *controller, const char *file)
{
	_cleanup_(cleanup_free) char *text = cgroup_read(cgroup, controller, file);

	return number_of(text);
}

static uint64_t read_limit(const struct cgroup *cgroup, const char *controller, const char *file)
{
	_cleanup_(cleanup_free) char *text = cgroup_read(cgroup, controller, file);

	return metrics_limit(text);
}

static uint64_t without(uint64_t usage, uint64_t inactive)
{
	return usage > inactive ? usage - inactive : 0;
}

static int read_memory_v1(const struct cgroup *cgroup, bool brief, struct task_metrics *metrics)
{
	_cleanup_(cleanup_free) char *stat = cgroup_read(cgroup, "memory", "memory.stat");
	_cleanup_(cleanup_free) char *oom = cgroup_read(cgroup, "memory", "memory.oom_control");

	metrics->memory_usage = read_number(cgroup, "memory", "memory.usage_in_bytes");
	metrics->memory_working_set = without(metrics->memory_usage,
					      metrics_value(stat, "total_inactive_file"));
	metrics->memory_max_usage = read_number(cgroup, "memory", "memory.max_usage_in_bytes");
	metrics->memory_limit = read_limit(cgroup, "memory", "memory.limit_in_bytes");
	metrics->memory_swap = metrics_value(stat, "total_swap");
	metrics->memory_swap_limit = read_limit(cgroup, "memory", "memory.memsw.limit_in_bytes");
	metrics->memory_failcnt = read_number(cgroup, "memory", "memory.failcnt");
	metrics->memory_oom_kills = metrics_value(oom, "oom_kill");
	return brief ? 0 : metrics_add_stat(&metrics->memory_stat, stat);
}

static int read_memory_v2(const struct cgroup *cgroup, bool brief, struct task_metrics *metrics)
{
	_cleanup_(cleanup_free) char *stat = cgroup_read(cgroup, "memory", "memory.stat");
	_cleanup_(cleanup_free) char *events = cgroup_read(cgroup, "memory", "memory.events");

	metrics->memory_usage = read_number(cgroup, "memory", "memory.current");
	metrics->memory_working_set = without(metrics->memory_usage,
					      metrics_value(stat, "inactive_file"));
	metrics->memory_max_usage = read_number(cgroup, "memory", "memory.peak");
	metrics->memory_limit = read_limit(cgroup, "memory", "memory.max");
	metrics->memory_swap = read_number(cgroup, "memory", "memory.swap.current");
	metrics->memory_swap_limit = read_limit(cgroup, "memory", "memory.swap.max");
	metrics->memory_failcnt = metrics_value(events, "max");
	metrics->memory_oom_kills = metrics_value(events, "oom_kill");
	return brief ? 0 : metrics_add_stat(&metrics->memory_stat, stat);
}

/* usage_user and usage_sys came later than stat. */
static void read_cpu_v1(const struct cgroup *cgroup, struct task_metrics *metrics)
{
	_cleanup_(cleanup_free) char *throttle = cgroup_read(cgroup, "cpu", "cpu.stat");
	_cleanup_(cleanup_free) char *ticks = cgroup_read(cgroup, "cpuacct", "cpuacct.stat");

	metrics->cpu_usage_ns = read_number(cgroup, "cpuacct", "cpuacct.usage");
	metrics->cpu_user_ns = read_number(cgroup, "cpuacct", "cpuacct.usage_user")
				       ?: metrics_value(ticks, "user") * TICK_NS;
	metrics->cpu_system_ns = read_number(cgroup, "cpuacct", "cpuacct.usage_sys")
					 ?: metrics_value(ticks, "system") * TICK_NS;
	metrics->cpu_periods = metrics_value(throttle, "nr_periods");
	metrics->cpu_throttled_periods = metrics_value(throttle, "nr_throttled");
	metrics->cpu_throttled_ns = metrics_value(throttle, "throttled_time");
}

static void read_cpu_v2(const struct cgroup *cgroup, struct task_metrics *metrics)
{
	_cleanup_(cleanup_free) char *stat = cgroup_read(cgroup, "cpu", "cpu.stat");

	metrics->cpu_usage_ns = metrics_value(stat, "usage_usec") * 1000;
	metrics->cpu_user_ns = metrics_value(stat, "user_usec") * 1000;
	metrics->cpu_system_ns = metrics_value(stat, "system_usec") * 1000;
	metrics->cpu_periods = metrics_value(stat, "nr_periods");
	metrics->cpu_throttled_periods = metrics_value(stat, "nr_throttled");
	metrics->cpu_throttled_ns = metrics_value(stat, "throttled_usec") * 1000;
}

static int read_io(const struct cgroup *cgroup, struct task_metrics *metrics)
{
	_cleanup_(cleanup_free) char *bytes = NULL, *operations = NULL;

	if (cgroup->is_v2) {
		bytes = cgroup_read(cgroup, "io", "io.stat");
		return metrics_add_io(metrics, bytes);
	}
	bytes = cgroup_read(cgroup, "blkio", "blkio.throttle.io_service_bytes_recursive");
	operations = cgroup_read(cgroup, "blkio", "blkio.throttle.io_serviced_recursive");
	return metrics_add_blkio(metrics, bytes, operations);
}

static bool is_there(const struct cgroup *cgroup)
{
	static const char *const controllers[] = {"memory", "cpu", "pids"};

	for (size_t i = 0; i < ARRAY_SIZE(controllers); i++) {
		_cleanup_(cleanup_free) char *directory = cgroup_directory(cgroup, controllers[i]);

		if (directory && !access(directory, F_OK))
			return true;
	}
	return false;
}

int metrics_read(const struct cgroup *cgroup, bool brief, struct task_metrics *metrics)
{
	int r;

	if (!is_there(cgroup))
		return -ENOENT;
	r = cgroup->is_v2 ? read_memory_v2(cgroup, brief, metrics)
			  : read_memory_v1(cgroup, brief, metrics);
	if (r)
		return error_trace(r);
	if (cgroup->is_v2)
		read_cpu_v2(cgroup, metrics);
	else
		read_cpu_v1(cgroup, metrics);
	metrics->pids_current = read_number(cgroup, "pids", "pids.current");
	metrics->pids_limit = read_limit(cgroup, "pids", "pids.max");
	return error_trace(read_io(cgroup, metrics));
}
