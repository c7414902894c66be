/*
 * The part `linux.resources` of a spec, but for its devices. Everything that the
 * kernel would refuse is refused here, where the sentence can name the option.
 */

#include <ctype.h>
#include <errno.h>
#include <string.h>

#include "services/runtime/spec.h"

#define MEMORY_MIN 2097152 /* below, runc cannot start a process */
#define SHARES_MIN 2
#define SHARES_MAX 262144
#define PERIOD_MIN 1000
#define PERIOD_MAX 1000000
#define QUOTA_MIN  1000
#define QUOTA_MAX  (INT64_C(1) << 43)
#define PIDS_MAX   4194304
#define WEIGHT_MIN 10
#define WEIGHT_MAX 1000
#define CPUS_MAX   8192 /* numbers in a list of CPUs or memory nodes */
#define SET_WORDS  (CPUS_MAX / 64)

static int put(json_t *object, const char *key, json_t *value)
{
	return json_object_set_new(object, key, value) ? error_origin(-ENOMEM) : 0;
}

static int put_object(json_t *parent, const char *key, json_t *object)
{
	return json_object_size(object) ? put(parent, key, json_incref(object)) : 0;
}

/* ---- what this host can limit ---- */

static bool has_controller(const struct spec_host *host, const char *name)
{
	size_t size = strlen(name);

	for (const char *at = host->controllers; (at = strstr(at, name)); at += size)
		if ((at == host->controllers || at[-1] == ' ') && (!at[size] || at[size] == ' '))
			return true;
	return false;
}

/* The v1 name; on v2 block I/O has another. */
static int need_controller(const struct spec_host *host, const char *option, const char *v1,
			   struct why *why)
{
	const char *name = host->is_cgroup_v2 && !strcmp(v1, "blkio") ? "io" : v1;

	if (has_controller(host, name))
		return 0;
	return why_set(why, SPEC_E_INVALID,
		       "%s: this host's cgroups have no controller '%s'; there are: %s", option,
		       name, *host->controllers ? host->controllers : "none");
}

static int put_between(json_t *object, const char *key, const char *option, int64_t value,
		       int64_t min, int64_t max, const char *unit, struct why *why)
{
	if (!value)
		return 0;
	if (value < min || value > max)
		return why_set(why, SPEC_E_INVALID, "%s: %lld is not between %lld and %lld%s",
			       option, (long long)value, (long long)min, (long long)max, unit);
	return put(object, key, json_integer(value));
}

/* ---- lists of CPUs and memory nodes: 0-3,7 ---- */

static const char *read_index(const char *text, unsigned *ret_index)
{
	unsigned index = 0;

	if (!isdigit((unsigned char)*text))
		return NULL;
	for (; isdigit((unsigned char)*text); text++) {
		index = index * 10 + (unsigned)(*text - '0');
		if (index >= CPUS_MAX)
			return NULL;
	}
	*ret_index = index;
	return text;
}

static const char *read_range(const char *text, uint64_t set[SET_WORDS])
{
	unsigned first, last;

	text = read_index(text, &first);
	last = first;
	if (text && *text == '-')
		text = read_index(text + 1, &last);
	if (!text || last < first)
		return NULL;
	for (unsigned i = first; i <= last; i++)
		set[i / 64] |= UINT64_C(1) << i % 64;
	return text;
}

static bool read_set(const char *text, uint64_t set[SET_WORDS])
{
	do {
		text = read_range(text, set);
		if (text && *text && *text != ',')
			return false;
	} while (text && *text++);
	return text;
}

static int put_set(json_t *object, const char *key, const char *option, const char *asked,
		   const char *online, struct why *why)
{
	uint64_t set[SET_WORDS] = {}, available[SET_WORDS] = {};

	if (!asked || !*asked)
		return 0;
	if (!read_set(asked, set))
		return why_set(why, SPEC_E_INVALID,
			       "%s: '%.64s' is not a list such as 0-3,7 of numbers below %d",
			       option, asked, CPUS_MAX);
	if (!read_set(online, available))
		return put(object, key, json_string(asked));
	for (unsigned i = 0; i < SET_WORDS; i++)
		if (set[i] & ~available[i])
			return why_set(why, SPEC_E_INVALID, "%s: '%.64s': this host has %s", option,
				       asked, online);
	return put(object, key, json_string(asked));
}

/* ---- CPU, memory, processes ---- */

static int check_cpu_controllers(const struct spec_host *host, const struct spec_options *options,
				 struct why *why)
{
	bool has_cpus = options->cpuset_cpus && *options->cpuset_cpus;
	bool has_mems = options->cpuset_mems && *options->cpuset_mems;
	int r = 0;

	if (options->cpu_shares)
		r = need_controller(host, "cpu-shares", "cpu", why);
	if (!r && options->cpu_quota > 0)
		r = need_controller(host, "cpu-quota", "cpu", why);
	if (!r && options->cpu_period)
		r = need_controller(host, "cpu-period", "cpu", why);
	if (!r && (has_cpus || has_mems))
		r = need_controller(host, has_cpus ? "cpuset-cpus" : "cpuset-mems", "cpuset", why);
	return r;
}

static int add_cpu(const struct spec_host *host, const struct spec_options *options,
		   json_t *resources, struct why *why)
{
	_cleanup_(json_cleanup) json_t *cpu = json_object();
	uint64_t shares = options->cpu_shares, period = options->cpu_period;
	int r = cpu ? 0 : error_origin(-ENOMEM);

	r = r
		    ?: put_between(cpu, "shares", "cpu-shares", (int64_t)shares, SHARES_MIN,
				   SHARES_MAX, "", why);
	if (!r && options->cpu_quota != -1)
		r = put_between(cpu, "quota", "cpu-quota", options->cpu_quota, QUOTA_MIN, QUOTA_MAX,
				" us, nor -1 for none", why);
	r = r
		    ?: put_between(cpu, "period", "cpu-period", (int64_t)period, PERIOD_MIN,
				   PERIOD_MAX, " us", why);
	r = r ?: put_set(cpu, "cpus", "cpuset-cpus", options->cpuset_cpus, host->cpus, why);
	r = r ?: put_set(cpu, "mems", "cpuset-mems", options->cpuset_mems, host->memory_nodes, why);
	r = r ?: check_cpu_controllers(host, options, why);
	return r ?: put_object(resources, "cpu", cpu);
}

static int add_memory(const struct spec_host *host, const struct spec_options *options,
		      json_t *resources, struct why *why)
{
	_cleanup_(json_cleanup) json_t *memory = json_object();
	int r = memory ? 0 : error_origin(-ENOMEM);

	if (r || !options->memory_limit)
		return r;
	r = put_between(memory, "limit", "memory-limit", (int64_t)options->memory_limit, MEMORY_MIN,
			INT64_MAX, " bytes", why);
	r = r ?: need_controller(host, "memory-limit", "memory", why);
	return r ?: put_object(resources, "memory", memory);
}

static int add_pids(const struct spec_host *host, const struct spec_options *options,
		    json_t *resources, struct why *why)
{
	_cleanup_(json_cleanup) json_t *pids = json_object();
	int r = pids ? 0 : error_origin(-ENOMEM);

	if (r || !options->pids_limit || options->pids_limit == -1)
		return r;
	r = put_between(pids, "limit", "pids-limit", options->pids_limit, 1, PIDS_MAX,
			", nor -1 for none", why);
	r = r ?: need_controller(host, "pids-limit", "pids", why);
	return r ?: put_object(resources, "pids", pids);
}

/* ---- block I/O ---- */

const struct spec_blkio_option spec_blkio_options[SPEC_BLKIO_KINDS] = {
	[SPEC_BLKIO_WEIGHT] = {"blkio-weight-device", "weightDevice", "weight",
			       offsetof(struct spec_options, blkio_weight_device)},
	[SPEC_BLKIO_READ_BPS] = {"blkio-read-bps", "throttleReadBpsDevice", "rate",
				 offsetof(struct spec_options, blkio_read_bps)},
	[SPEC_BLKIO_WRITE_BPS] = {"blkio-write-bps", "throttleWriteBpsDevice", "rate",
				  offsetof(struct spec_options, blkio_write_bps)},
	[SPEC_BLKIO_READ_IOPS] = {"blkio-read-iops", "throttleReadIOPSDevice", "rate",
				  offsetof(struct spec_options, blkio_read_iops)},
	[SPEC_BLKIO_WRITE_IOPS] = {"blkio-write-iops", "throttleWriteIOPSDevice", "rate",
				   offsetof(struct spec_options, blkio_write_iops)},
};

const struct schema_strs *spec_blkio_asked(const struct spec_options *options, enum spec_blkio kind)
{
	return (const void *)((const char *)options + spec_blkio_options[kind].offset);
}

void spec_blkio_clear(struct spec_blkio_limits *limits)
{
	free(limits->items);
	*limits = (struct spec_blkio_limits){};
}

/* A number; for bytes K, M, G or T may stand behind it. */
static bool read_rate(const char *text, bool is_bytes, uint64_t *ret_rate)
{
	static const char units[] = "KMGT";
	const char *unit;
	uint64_t rate;
	char *end;

	if (!isdigit((unsigned char)*text))
		return false;
	errno = 0;
	rate = strtoull(text, &end, 10);
	unit = is_bytes && *end ? strchr(units, toupper((unsigned char)*end)) : NULL;
	for (const char *at = units; unit && at <= unit; at++)
		rate = rate > INT64_MAX / 1024 ? UINT64_MAX : rate * 1024;
	*ret_rate = rate;
	return !errno && !end[unit ? 1 : 0] && rate <= INT64_MAX;
}

int spec_blkio_parse(enum spec_blkio kind, const char *text, char **ret_path, uint64_t *ret_number,
		     struct why *why)
{
	const char *option = spec_blkio_options[kind].option, *colon = strrchr(text, ':');
	bool is_bytes = kind == SPEC_BLKIO_READ_BPS || kind == SPEC_BLKIO_WRITE_BPS;
	uint64_t min = kind == SPEC_BLKIO_WEIGHT ? WEIGHT_MIN : 1;
	uint64_t max = kind == SPEC_BLKIO_WEIGHT ? WEIGHT_MAX : INT64_MAX;
	uint64_t number;

	if (!colon || *text != '/' || !read_rate(colon + 1, is_bytes, &number))
		return why_set(why, SPEC_E_INVALID, "%s: '%.256s' is not /dev/NAME:NUMBER", option,
			       text);
	if (number < min || number > max)
		return why_set(why, SPEC_E_INVALID, "%s: '%.256s': the number is not %llu to %llu",
			       option, text, (unsigned long long)min, (unsigned long long)max);
	*ret_path = strndup(text, (size_t)(colon - text));
	*ret_number = number;
	return *ret_path ? 0 : error_origin(-ENOMEM);
}

static int add_blkio_limit(const struct spec_blkio_limit *limit, json_t *blkio)
{
	const struct spec_blkio_option *option = &spec_blkio_options[limit->kind];
	json_t *list = json_object_get(blkio, option->list);
	int r = 0;

	if (!list) {
		list = json_array();
		r = put(blkio, option->list, list);
	}
	if (!r && json_array_append_new(list, json_pack("{s:I, s:I, s:I}", "major",
							(json_int_t)limit->major, "minor",
							(json_int_t)limit->minor, option->number,
							(json_int_t)limit->number)))
		r = error_origin(-ENOMEM);
	return r;
}

const char *spec_blkio_weight_asked(const struct spec_options *options)
{
	if (options->blkio_weight_device.count)
		return "blkio-weight-device";
	return options->blkio_weight ? "blkio-weight" : NULL;
}

static int add_blkio(const struct spec_host *host, const struct spec_input *input,
		     json_t *resources, struct why *why)
{
	_cleanup_(json_cleanup) json_t *blkio = json_object();
	const struct spec_blkio_limits *limits = input->blkio;
	const char *asked = spec_blkio_weight_asked(input->options);
	int r = blkio ? 0 : error_origin(-ENOMEM);

	r = r
		    ?: put_between(blkio, "weight", "blkio-weight",
				   (int64_t)input->options->blkio_weight, WEIGHT_MIN, WEIGHT_MAX,
				   "", why);
	for (size_t i = 0; !r && limits && i < limits->count; i++)
		r = add_blkio_limit(&limits->items[i], blkio);
	if (!r && json_object_size(blkio))
		r = need_controller(host,
				    limits && limits->count
					    ? spec_blkio_options[limits->items[0].kind].option
					    : "blkio-weight",
				    "blkio", why);
	if (!r && host->lacks_weights && asked)
		r = why_set(why, SPEC_E_INVALID,
			    "%s: this host's controller 'blkio' has no weights: its kernel has "
			    "neither blkio.weight nor blkio.bfq.weight",
			    asked);
	return r ?: put_object(resources, "blockIO", blkio);
}

int spec_add_resources(const struct spec_host *host, const struct spec_input *input,
		       json_t *resources, struct why *why)
{
	const struct spec_options *options = input->options;
	int r = add_cpu(host, options, resources, why);

	r = r ?: add_memory(host, options, resources, why);
	r = r ?: add_pids(host, options, resources, why);
	return r ?: add_blkio(host, input, resources, why);
}
