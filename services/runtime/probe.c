/* The list of runtimes, in the service. */

#include <string.h>
#include <sys/stat.h>

#include "broker/lib/file.h"
#include "broker/lib/log.h"
#include "services/lib/work.h"
#include "services/runtime/host.h"
#include "services/runtime/probe.h"

#define AGAIN_MS     1000
#define RUNTIMES_MAX 16

static const char *const known_names[] = {"crun", "runc"};

struct probe_entry {
	struct probe *probe;
	struct runtime_record record;
	struct work *work; /* NULL: no child */
	bool is_slow;      /* it was asked and did not answer in time */
};

struct probe {
	struct service *service;
	const struct probe_configured *configured;
	size_t n_configured;
	struct probe_entry
		entries[RUNTIMES_MAX]; /* in order of preference: configured ones, crun, runc */
	size_t n_entries, n_running;
	size_t order[RUNTIMES_MAX]; /* the default first */
	uint64_t looked_at_ms;
	bool detach;
	enum cgroup_mode mode;
};

/* ---- the list ---- */

static bool has_name(const struct probe *probe, const char *name)
{
	for (size_t i = 0; i < probe->n_entries; i++)
		if (!strcmp(probe->entries[i].record.name, name))
			return true;
	return false;
}

static int fill_record(struct probe *probe, struct runtime_record *record, const char *name,
		       const char *path)
{
	record->usable = path && host_is_program(path);
	record->detach_unified = probe->detach;
	return schema_set(&record->name, name) ?: schema_set(&record->path, path)
		       ?: schema_set(&record->cgroup_mode, cgroup_mode_text(probe->mode))
		       ?: schema_set(&record->reason, record->usable ? "found, not yet asked"
					  : path ? "its path is not a program"
						 : "not found in PATH; install the package of that name");
}

static int add_entry(struct probe *probe, const char *name, const char *path)
{
	struct probe_entry *entry = &probe->entries[probe->n_entries];
	int r;

	if (probe->n_entries == RUNTIMES_MAX || has_name(probe, name))
		return 0;
	*entry = (struct probe_entry){.probe = probe};
	r = fill_record(probe, &entry->record, name, path);
	if (r)
		return error_trace(r);
	probe->n_entries++;
	return 0;
}

static int find_all(struct probe *probe)
{
	int r = 0;

	for (size_t i = 0; !r && i < probe->n_configured; i++)
		r = add_entry(probe, probe->configured[i].name, probe->configured[i].path);
	for (size_t i = 0; !r && i < ARRAY_SIZE(known_names); i++) {
		_cleanup_(cleanup_free) char *path = host_find_program(known_names[i]);

		r = add_entry(probe, known_names[i], path);
	}
	return r;
}

/* ---- the default ---- */

static int say_why(struct probe_entry *entry, size_t index)
{
	struct runtime_record *record = &entry->record;
	_cleanup_(cleanup_free) char *reason = NULL;

	if (!record->is_default)
		return 0;
	reason = text_format("%s: the default, %s",
			     record->version ? record->version : "not yet asked",
			     index < entry->probe->n_configured ? "as it is configured first"
			     : !strcmp(record->name, "crun")    ? "as it starts containers fastest"
								: "as no other is usable here");
	if (!reason)
		return error_origin(-ENOMEM);
	free(record->reason);
	record->reason = TAKE(reason);
	return 0;
}

enum rank { RANK_USABLE, RANK_SLOW, RANK_UNUSABLE, RANKS };

static enum rank rank_of(const struct probe_entry *entry)
{
	return !entry->record.usable ? RANK_UNUSABLE : entry->is_slow ? RANK_SLOW : RANK_USABLE;
}

/* The first usable one; those that can be used come before those that cannot. */
static int choose_default(struct probe *probe)
{
	size_t n = 0;
	int r = 0;

	for (enum rank rank = 0; rank < RANKS; rank++)
		for (size_t i = 0; i < probe->n_entries; i++)
			if (rank_of(&probe->entries[i]) == rank)
				probe->order[n++] = i;
	for (size_t i = 0; !r && i < n; i++) {
		struct probe_entry *entry = &probe->entries[probe->order[i]];

		entry->record.is_default = !i && entry->record.usable;
		r = say_why(entry, probe->order[i]);
	}
	return r;
}

/* ---- the children ---- */

/* A loaded host makes anything slow: one that did not answer stays usable, behind those that did. */
static void on_answer(void *userdata, void *reply, const struct why *why)
{
	struct probe_entry *entry = userdata;
	struct probe *probe = entry->probe;
	int r;

	entry->work = NULL;
	probe->n_running--;
	if (reply) {
		runtime_record_clear(&entry->record);
		entry->record = *(struct runtime_record *)reply;
		*(struct runtime_record *)reply = (struct runtime_record){};
	} else {
		schema_set(&entry->record.reason, why ? why->text : "it did not answer");
	}
	entry->is_slow = entry->record.usable && !entry->record.version;
	r = choose_default(probe);
	if (entry->is_slow)
		log_warning("runtime=%s path=%s usable=unknown reason=\"%s\"", entry->record.name,
			    entry->record.path, entry->record.reason);
	else if (r || !entry->record.usable)
		log_warning("runtime=%s path=%s usable=no reason=\"%s\"", entry->record.name,
			    entry->record.path, entry->record.reason);
	else
		log_info("runtime=%s path=%s usable=yes reason=\"%s\"", entry->record.name,
			 entry->record.path, entry->record.reason);
}

static void ask(struct probe_entry *entry)
{
	static const struct empty nothing;
	const char *const argv[] = {"--probe", entry->record.name, entry->record.path, NULL};
	struct work_options options = {
		.program = "davit-runtime",
		.argv = argv,
		.request = schema_empty(),
		.request_message = &nothing,
		.reply = schema_runtime_record(),
		.deadline_ms = time_boot_ms() + 2 * PROBE_TIMEOUT_MS,
	};
	struct why why = {};
	int r;

	if (!entry->record.usable)
		return;
	r = work_start(entry->probe->service, &options, on_answer, entry, &entry->work, &why);
	if (!r)
		entry->probe->n_running++;
	else
		log_warning("runtime=%s cannot be asked: %s", entry->record.name, why.text);
}

static int look(struct probe *probe)
{
	int r;

	for (size_t i = 0; i < probe->n_entries; i++) {
		runtime_record_clear(&probe->entries[i].record);
		probe->entries[i].is_slow = false;
	}
	probe->n_entries = 0;
	probe->looked_at_ms = time_boot_ms();
	probe->mode = cgroup_mode_read("/sys/fs/cgroup", &probe->detach);
	r = find_all(probe) ?: choose_default(probe);
	for (size_t i = 0; !r && i < probe->n_entries; i++)
		ask(&probe->entries[i]);
	return r;
}

int probe_new(struct service *service, const struct probe_configured *configured,
	      size_t n_configured, struct probe **ret_probe)
{
	struct probe *probe = calloc(1, sizeof(*probe));
	int r;

	if (!probe)
		return error_origin(-ENOMEM);
	probe->service = service;
	probe->configured = configured;
	probe->n_configured = n_configured;
	r = look(probe);
	if (r) {
		probe_free(probe);
		return error_trace(r);
	}
	*ret_probe = probe;
	return 0;
}

struct probe *probe_free(struct probe *probe)
{
	for (size_t i = 0; probe && i < probe->n_entries; i++)
		runtime_record_clear(&probe->entries[i].record);
	free(probe);
	return NULL;
}

bool probe_is_busy(const struct probe *probe)
{
	return probe->n_running > 0;
}

void probe_again(struct probe *probe)
{
	if (probe->n_running || time_boot_ms() < probe->looked_at_ms + AGAIN_MS)
		return;
	if (look(probe))
		log_error("runtimes: out of memory");
}

size_t probe_count(const struct probe *probe)
{
	return probe->n_entries;
}

const struct runtime_record *probe_record(const struct probe *probe, size_t index)
{
	return &probe->entries[probe->order[index]].record;
}

/* ---- choosing ---- */

/* io.containerd.crun.v2 means crun. */
static void plain_name(const char *name, char *ret_name, size_t size)
{
	static const char prefix[] = "io.containerd.";
	const char *start = name, *end;

	if (!strncmp(name, prefix, sizeof(prefix) - 1))
		start += sizeof(prefix) - 1;
	end = start == name ? NULL : strstr(start, ".v");
	snprintf(ret_name, size, "%.*s", (int)(end ? (size_t)(end - start) : strnlen(start, size)),
		 start);
}

static const struct runtime_record *find_record(const struct probe *probe, const char *name)
{
	char plain[77];

	plain_name(name, plain, sizeof(plain));
	for (size_t i = 0; i < probe->n_entries; i++)
		if (!strcmp(probe->entries[i].record.name, plain))
			return &probe->entries[i].record;
	return NULL;
}

static int choose_path(const struct probe *probe, const char *path,
		       struct runtime_record *ret_record, struct why *why)
{
	for (size_t i = 0; i < probe->n_entries; i++)
		if (probe->entries[i].record.path && !strcmp(probe->entries[i].record.path, path))
			return runtime_record_copy(&probe->entries[i].record, ret_record);
	if (!host_is_program(path))
		return why_set(why, 1, "OCI runtime '%.256s' is not a program", path);
	*ret_record = (struct runtime_record){.usable = true, .detach_unified = probe->detach};
	return schema_set(&ret_record->name, path) ?: schema_set(&ret_record->path, path);
}

int probe_choose(const struct probe *probe, const char *name, struct runtime_record *ret_record,
		 struct why *why)
{
	const struct runtime_record *record;

	if (name && *name == '/')
		return choose_path(probe, name, ret_record, why);
	record = name && *name ? find_record(probe, name) : probe_record(probe, 0);
	if (!record)
		return why_set(
			why, 1,
			"no OCI runtime '%.128s'; there are crun, runc and those given with --runtime",
			name);
	if (!record->usable)
		return why_set(why, 1, "OCI runtime '%s' cannot be used: %s", record->name,
			       record->reason);
	return runtime_record_copy(record, ret_record);
}
