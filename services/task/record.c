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

static int drop_oldest(void *userdata, const struct store_key *key, void *record)
{
	struct task_service *service = userdata;

	(void)record;
	return store_delete(service->store, ENDED_TABLE, key) ?: 1;
}

int task_end(struct task_service *service, struct task_record *record)
{
	struct store_key key;
	int r;

	record->deleted_at_ns = time_real_ns();
	r = task_key(&key, record);
	if (r)
		return error_trace(r);
	if (store_count(service->store, ENDED_TABLE) >= ENDED_MAX)
		(void)store_walk(service->store, ENDED_TABLE, NULL, NULL, schema_task_record(),
				 drop_oldest, service);
	r = store_delete(service->store, TASK_TABLE, &key);
	if (r && r != STORE_E_NOT_FOUND)
		return r;
	r = store_put(service->store, ENDED_TABLE, &key, schema_task_record(), record);
	return r ?: shim_row_put(service, record);
}

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
	    ?: schema_set(&process.id, record->container_id) ?: schema_set(&process.task_id, record->task_id)
	    ?: schema_set(&process.namespace, record->namespace) ?: schema_set(&process.bundle, record->bundle)
	    ?: schema_set(&process.runtime, record->runtime) ?: schema_set(&process.reason, record->reason);
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

int task_signal_number(const char *name)
{
	char *end;
	long number = strtol(name, &end, 10);

	if (*name && !*end)
		return number > 0 && number <= SIGRTMAX ? (int)number : 0;
	if (!strncasecmp(name, "SIG", 3))
		name += 3;
	for (int i = 1; i < SIGRTMIN; i++) {
		if (sigabbrev_np(i) && !strcasecmp(sigabbrev_np(i), name))
			return i;
	}
	if (!strncasecmp(name, "RTMIN+", 6)) {
		number = SIGRTMIN + strtol(name + 6, &end, 10);
		return !*end && number >= SIGRTMIN && number <= SIGRTMAX ? (int)number : 0;
	}
	return 0;
}
