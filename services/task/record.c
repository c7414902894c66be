/* Task records: the table of moves and the one function that makes them. */

#include <signal.h>
#include <string.h>

#include "broker/lib/log.h"
#include "services/task/task.h"

#define TO(status) (1u << TASK_##status)

/* A dead shim makes any living state UNKNOWN; a new one, or the process' end, resolves it. */
static const unsigned allowed[] = {
	[TASK_UNKNOWN] = TO(UNKNOWN) | TO(CREATED) | TO(RUNNING) | TO(PAUSED) | TO(STOPPED) |
			 TO(DELETED),
	[TASK_CREATING] = TO(CREATED) | TO(RUNNING) | TO(STOPPED) | TO(UNKNOWN) | TO(DELETED),
	[TASK_CREATED] = TO(RUNNING) | TO(STOPPED) | TO(UNKNOWN) | TO(DELETED),
	[TASK_RUNNING] = TO(PAUSING) | TO(PAUSED) | TO(STOPPED) | TO(UNKNOWN),
	[TASK_STOPPED] = TO(DELETED),
	[TASK_PAUSED] = TO(RUNNING) | TO(STOPPED) | TO(UNKNOWN),
	[TASK_PAUSING] = TO(RUNNING) | TO(PAUSED) | TO(STOPPED) | TO(UNKNOWN),
	[TASK_DELETED] = 0,
};
_Static_assert(ARRAY_SIZE(allowed) == TASK_DELETED + 1, "a row for each status");

static int task_key(struct store_key *key, const struct task_record *record)
{
	return store_key(key, record->namespace, record->container_id, NULL);
}

int task_row(struct task_service *service, const char *namespace, const char *id,
	     struct task_record *ret_record)
{
	struct store_key key;
	int r;

	r = store_key(&key, namespace, id, NULL);
	if (r)
		return error_trace(r);
	r = store_get(service->store, TASK_TABLE, &key, schema_task_record(), ret_record);
	return r == STORE_E_NOT_FOUND ? TASK_E_NOT_FOUND : error_fold(r);
}

int task_shim_row(struct task_service *service, const char *task_id, struct task_record *ret_record)
{
	struct store_key key;
	int r;

	r = store_key(&key, task_id, NULL);
	if (r)
		return error_trace(r);
	r = store_get(service->store, SHIM_TABLE, &key, schema_task_record(), ret_record);
	return r == STORE_E_NOT_FOUND ? TASK_E_NOT_FOUND : error_fold(r);
}

static int shim_row_put(struct task_service *service, const struct task_record *record)
{
	struct store_key key;
	int r;

	r = store_key(&key, record->task_id, NULL);
	if (!r)
		r = store_put(service->store, SHIM_TABLE, &key, schema_task_record(), record);
	return r;
}

int task_put(struct task_service *service, const struct task_record *record)
{
	struct store_key key;
	int r;

	r = task_key(&key, record);
	if (!r)
		r = store_put(service->store, TASK_TABLE, &key, schema_task_record(), record);
	if (!r)
		r = shim_row_put(service, record);
	return r;
}

int task_move(struct task_service *service, struct task_record *record, enum task_status next)
{
	enum task_status before = record->status;
	int r;

	if (!(allowed[before] & 1u << next))
		return TASK_E_STATE;
	record->status = next;
	if (next != TASK_UNKNOWN)
		(void)schema_set(&record->reason, NULL);
	r = next == TASK_DELETED ? task_end(service, record) : task_put(service, record);
	if (r) {
		record->status = before;
		return r;
	}
	log_debug("task=%s container=%s/%s %s -> %s", record->task_id, record->namespace,
		  record->container_id, schema_enum_text(&schema_enum_task_status, before),
		  schema_enum_text(&schema_enum_task_status, next));
	return 0;
}

/* ---- ends ---------------------------------------------------------------- */

int task_end(struct task_service *service, struct task_record *record)
{
	struct store_key key;
	int r;

	record->deleted_at_ns = time_real_ns();
	r = task_key(&key, record);
	if (r)
		return error_trace(r);
	r = store_delete(service->store, TASK_TABLE, &key);
	if (r && r != STORE_E_NOT_FOUND)
		return r;
	r = ended_put(service, record);
	if (!r)
		r = added_end_all(service, record->task_id);
	return r ?: shim_row_put(service, record);
}

int task_set_exit(struct task_record *record, const struct exit_record *exit)
{
	if (!exit || record->exit)
		return 0;
	record->exit = calloc(1, sizeof(*record->exit));
	return record->exit ? exit_record_copy(exit, record->exit) : error_origin(-ENOMEM);
}

static bool is_alive(enum task_status status)
{
	return status == TASK_RUNNING || status == TASK_PAUSED || status == TASK_PAUSING;
}

/* How it ended may be heard of after that it was deleted. */
static int note_late_exit(struct task_service *service, struct task_record *record,
			  const struct exit_record *exit)
{
	_cleanup_(task_record_clear) struct task_record ended = {};
	int r;

	if (record->exit || !exit)
		return 0;
	r = task_set_exit(record, exit) ?: shim_row_put(service, record);
	if (!r)
		r = ended_row(service, record->namespace, record->container_id, &ended);
	if (r || strcmp(ended.task_id, record->task_id))
		return r == TASK_E_NOT_FOUND ? 0 : r;
	return task_set_exit(&ended, exit) ?: ended_put(service, &ended);
}

int task_note_deleted(struct task_service *service, const char *task_id,
		      const struct exit_record *exit)
{
	_cleanup_(task_record_clear) struct task_record record = {};
	int r;

	r = task_shim_row(service, task_id, &record);
	if (r)
		return r == TASK_E_NOT_FOUND ? 0 : r;
	if (record.status == TASK_DELETED)
		return note_late_exit(service, &record, exit);
	live_remove(service->live, task_id);
	r = task_set_exit(&record, exit);
	if (!r && is_alive(record.status))
		r = task_move(service, &record, TASK_STOPPED);
	task_changed(service, task_id);
	return r ?: task_move(service, &record, TASK_DELETED);
}

/* ---- what callers see ------------------------------------------------------ */

int task_describe(const struct task_record *record, struct task_process *ret_process)
{
	_cleanup_(task_process_clear) struct task_process process = {
		.pid = record->pid,
		.status = record->status,
		.shim_pid = record->shim_pid,
		.created_at_ns = record->created_at_ns,
		.started_at_ns = record->started_at_ns,
	};
	int r;

	r = schema_set(&process.container_id, record->container_id)
	    ?: schema_set(&process.container_uid, record->container_uid)
	    ?: schema_set(&process.id, record->container_id) ?: schema_set(&process.task_id, record->task_id)
	    ?: schema_set(&process.namespace, record->namespace) ?: schema_set(&process.bundle, record->bundle)
	    ?: schema_set(&process.runtime, record->runtime) ?: schema_set(&process.reason, record->reason)
	    ?: (task_io_has_log(record->io) ? schema_set(&process.log, record->log) : 0);
	if (!r && record->io) {
		process.io = calloc(1, sizeof(*process.io));
		r = process.io ? task_io_copy(record->io, process.io) : -ENOMEM;
	}
	if (!r && record->network) {
		process.network = calloc(1, sizeof(*process.network));
		r = process.network ? task_network_copy(record->network, process.network) : -ENOMEM;
	}
	if (!r && record->exit) {
		process.exit = calloc(1, sizeof(*process.exit));
		r = process.exit ? exit_record_copy(record->exit, process.exit) : -ENOMEM;
		process.exit_status = record->exit->exit_status;
	}
	if (r)
		return error_trace(r);
	*ret_process = process;
	process = (struct task_process){};
	return 0;
}

/* "MIN+3", "MAX-1", "MIN", "MAX" of what follows "RT". */
static int realtime_number(const char *text)
{
	bool is_min = !strncasecmp(text, "MIN", 3);
	long number = 0;
	char *end;

	if (!is_min && strncasecmp(text, "MAX", 3))
		return 0;
	text += 3;
	if (*text) {
		if (*text != (is_min ? '+' : '-') || text[1] < '0' || text[1] > '9')
			return 0;
		number = strtol(text + 1, &end, 10);
		if (*end || number > SIGRTMAX - SIGRTMIN)
			return 0;
	}
	return (int)(is_min ? SIGRTMIN + number : SIGRTMAX - number);
}

int task_signal_number(const char *name)
{
	static const struct {
		const char *name;
		int number;
	} aliases[] = {{"IOT", SIGABRT}, {"CLD", SIGCHLD}, {"IO", SIGIO}};
	long number;
	char *end;

	if (*name >= '0' && *name <= '9') {
		number = strtol(name, &end, 10);
		return !*end && number > 0 && number <= SIGRTMAX ? (int)number : 0;
	}
	if (!strncasecmp(name, "SIG", 3))
		name += 3;
	for (int i = 1; i < SIGRTMIN; i++) {
		if (sigabbrev_np(i) && !strcasecmp(sigabbrev_np(i), name))
			return i;
	}
	for (size_t i = 0; i < ARRAY_SIZE(aliases); i++) {
		if (!strcasecmp(aliases[i].name, name))
			return aliases[i].number;
	}
	return !strncasecmp(name, "RT", 2) ? realtime_number(name + 2) : 0;
}
