/* Added processes: rows of table `processes`, the table of moves and the one function that makes them. */

#include <string.h>

#include "broker/lib/log.h"
#include "services/task/task.h"

#define TO(status) (1u << TASK_##status)

/* CREATING: the shim has not said yet that it has it. UNKNOWN: nobody can say whether it was started. */
static const unsigned allowed[] = {
	[TASK_UNKNOWN] = TO(CREATED) | TO(RUNNING) | TO(STOPPED) | TO(DELETED),
	[TASK_CREATING] = TO(CREATED) | TO(RUNNING) | TO(STOPPED) | TO(UNKNOWN) | TO(DELETED),
	[TASK_CREATED] = TO(RUNNING) | TO(STOPPED) | TO(UNKNOWN) | TO(DELETED),
	[TASK_RUNNING] = TO(STOPPED) | TO(UNKNOWN),
	[TASK_STOPPED] = TO(DELETED),
	[TASK_PAUSED] = 0,
	[TASK_PAUSING] = 0,
	[TASK_DELETED] = 0,
};
_Static_assert(ARRAY_SIZE(allowed) == TASK_DELETED + 1, "a row for each status");

static int added_key(struct store_key *key, const char *task_id, const char *exec_id)
{
	return store_key(key, task_id, exec_id, NULL);
}

int added_row(struct task_service *service, const char *task_id, const char *exec_id,
	      struct task_exec_record *ret_record)
{
	struct store_key key;
	int r;

	r = added_key(&key, task_id, exec_id);
	if (r)
		return error_trace(r);
	r = store_get(service->store, PROCESS_TABLE, &key, schema_task_exec_record(), ret_record);
	return r == STORE_E_NOT_FOUND ? TASK_E_NOT_FOUND : error_fold(r);
}

int added_put(struct task_service *service, const struct task_exec_record *record)
{
	struct store_key key;
	int r;

	r = added_key(&key, record->task_id, record->exec_id);
	return r
		       ?: store_put(service->store, PROCESS_TABLE, &key, schema_task_exec_record(),
				    record);
}

int added_drop(struct task_service *service, const char *task_id, const char *exec_id)
{
	struct store_key key;
	int r;

	r = added_key(&key, task_id, exec_id) ?: store_delete(service->store, PROCESS_TABLE, &key);
	return r == STORE_E_NOT_FOUND ? 0 : r;
}

int added_walk(struct task_service *service, const char *task_id, store_walk_fn fn, void *userdata)
{
	struct store_key prefix;
	int r;

	r = store_key(&prefix, task_id, "", NULL);
	return r
		       ?: store_walk(service->store, PROCESS_TABLE, &prefix, &prefix,
				     schema_task_exec_record(), fn, userdata);
}

/* ---- bounds -------------------------------------------------------------- */

struct census {
	unsigned n_present, n_deleted;
	uint64_t oldest_ns; /* of the deleted ones */
	char oldest[ENVELOPE_NAME_MAX + 1];
};

static int count_row(void *userdata, const struct store_key *key, void *data)
{
	const struct task_exec_record *record = data;
	struct census *census = userdata;

	(void)key;
	if (record->status != TASK_DELETED) {
		census->n_present++;
		return 0;
	}
	if (!census->n_deleted++ || record->created_at_ns < census->oldest_ns) {
		census->oldest_ns = record->created_at_ns;
		snprintf(census->oldest, sizeof(census->oldest), "%s", record->exec_id);
	}
	return 0;
}

/* Of those that are deleted the oldest go. */
static int trim(struct task_service *service, const char *task_id, unsigned *ret_present)
{
	struct census census;
	int r;

	do {
		census = (struct census){};
		r = added_walk(service, task_id, count_row, &census);
		if (r || census.n_deleted <= PROCESSES_KEPT)
			break;
		r = added_drop(service, task_id, census.oldest);
	} while (!r);
	*ret_present = census.n_present;
	return r;
}

int added_add(struct task_service *service, const struct task_exec_record *record)
{
	_cleanup_(task_exec_record_clear) struct task_exec_record other = {};
	unsigned n_present;
	int r;

	r = added_row(service, record->task_id, record->exec_id, &other);
	if (!r && other.status != TASK_DELETED)
		return TASK_E_EXISTS;
	if (r && r != TASK_E_NOT_FOUND)
		return r;
	r = trim(service, record->task_id, &n_present);
	if (r)
		return r;
	return n_present >= PROCESSES_MAX ? TASK_E_FULL : added_put(service, record);
}

/* ---- moves --------------------------------------------------------------- */

int added_move(struct task_service *service, struct task_exec_record *record, enum task_status next)
{
	enum task_status before = record->status;
	int r;

	if (!(allowed[before] & 1u << next))
		return TASK_E_STATE;
	record->status = next;
	r = added_put(service, record);
	if (r) {
		record->status = before;
		return r;
	}
	log_debug("task=%s exec=%s %s -> %s", record->task_id, record->exec_id,
		  schema_enum_text(&schema_enum_task_status, before),
		  schema_enum_text(&schema_enum_task_status, next));
	return 0;
}

int added_set_exit(struct task_exec_record *record, const struct exit_record *exit)
{
	if (!exit || record->exit)
		return 0;
	record->exit = calloc(1, sizeof(*record->exit));
	return record->exit ? exit_record_copy(exit, record->exit) : error_origin(-ENOMEM);
}

static void note_start(struct task_exec_record *record, const struct added_report *report)
{
	if (report->pid) {
		record->pid = report->pid;
		record->pid_start_time = report->start_time ?: record->pid_start_time;
	}
	if (report->status == TASK_RUNNING && !record->started_at_ns)
		record->started_at_ns = report->time_ns ?: time_real_ns();
}

/* A report may be older than what is known: then the move is refused, and only what was missing is taken. */
int added_note(struct task_service *service, const char *task_id, const char *exec_id,
	       const struct added_report *report)
{
	_cleanup_(task_exec_record_clear) struct task_exec_record record = {};
	int r;

	r = added_row(service, task_id, exec_id, &record);
	if (r || record.status == TASK_DELETED)
		return r == TASK_E_NOT_FOUND ? 0 : r;
	note_start(&record, report);
	r = added_set_exit(&record, report->exit);
	if (r)
		return r;
	if (record.status == report->status)
		return added_put(service, &record);
	r = added_move(service, &record, report->status);
	return r == TASK_E_STATE ? added_put(service, &record) : r;
}

/* ---- the end of their task ----------------------------------------------- */

static int end_row(void *userdata, const struct store_key *key, void *data)
{
	struct exit_record missed = {.exit_status = 255,
				     .source = EXIT_UNKNOWN,
				     .exited_at_ns = time_real_ns(),
				     .cause = (char *)"missed"};
	struct task_exec_record *record = data;
	struct task_service *service = userdata;
	bool never_ran = record->status == TASK_CREATING || record->status == TASK_CREATED;
	int r = 0;

	(void)key;
	if (record->status == TASK_DELETED)
		return 0;
	if (!never_ran)
		r = added_set_exit(record, &missed);
	if (!r && record->status == TASK_RUNNING)
		r = added_move(service, record, TASK_STOPPED);
	return r ?: added_move(service, record, TASK_DELETED);
}

int added_end_all(struct task_service *service, const char *task_id)
{
	unsigned n_present;
	int r;

	r = added_walk(service, task_id, end_row, service);
	return r ?: trim(service, task_id, &n_present);
}

static int drop_row(void *userdata, const struct store_key *key, void *data)
{
	struct task_service *service = userdata;

	(void)data;
	return store_delete(service->store, PROCESS_TABLE, key);
}

int added_drop_all(struct task_service *service, const char *task_id)
{
	return added_walk(service, task_id, drop_row, service);
}

/* ---- what callers see ---------------------------------------------------- */

int added_describe(const struct task_exec_record *record, const struct task_record *task,
		   struct task_process *ret_process)
{
	_cleanup_(task_process_clear) struct task_process process = {
		.pid = record->pid,
		.status = record->status,
		.shim_pid = task->shim_pid,
		.created_at_ns = record->created_at_ns,
		.started_at_ns = record->started_at_ns,
	};
	int r;

	r = schema_set(&process.container_id, record->container_id)
	    ?: schema_set(&process.id, record->exec_id) ?: schema_set(&process.exec_id, record->exec_id)
	    ?: schema_set(&process.task_id, record->task_id) ?: schema_set(&process.namespace, record->namespace)
	    ?: schema_set(&process.bundle, task->bundle) ?: schema_set(&process.runtime, task->runtime)
	    ?: schema_strs_copy(&record->args, &process.args);
	if (!r && task_io_has_log(record->io))
		r = schema_set(&process.log, task->log);
	if (!r && record->io) {
		process.io = calloc(1, sizeof(*process.io));
		r = process.io ? task_io_copy(record->io, process.io) : -ENOMEM;
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
