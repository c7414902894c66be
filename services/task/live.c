/*
 * One durable row for each live task, in a store of its own under the root: the
 * task store itself lies in the state directory and ends with the boot. Rows are
 * written lazily, many with one commit, at most a second after the task appeared:
 * no start waits for a disk. After a reboot each row of an earlier boot becomes an
 * exit of unknown code, once: the `ended` row says that it has been told.
 */

#include <string.h>

#include "broker/lib/log.h"
#include "broker/lib/pace.h"
#include "services/task/task.h"

#define COMMIT_MS 1000

struct change {
	struct change *next;
	bool is_removal;
	bool is_new;              /* the store has no row of this task */
	struct task_live_row row; /* a removal has only the task's id */
};

struct live {
	struct task_service *service;
	struct store *store;
	struct loop_timer timer;
	struct pace failing;
	struct change *first, **last;
	uint8_t boot_id[ID_SIZE];
};

static void change_free(struct change *change)
{
	task_live_row_clear(&change->row);
	free(change);
}

int live_open(struct task_service *service, struct live **ret_live, struct why *why)
{
	const char *tables[] = {LIVE_TABLE, NULL};
	struct live *live = calloc(1, sizeof(*live));
	_cleanup_(cleanup_free) char *directory = NULL;
	bool fresh;
	int r;

	if (!live)
		return error_origin(-ENOMEM);
	*live = (struct live){.service = service};
	live->last = &live->first;
	directory = text_format("%s/task", service_paths(service->service)->root);
	r = directory ? boot_id_read(live->boot_id) : -ENOMEM;
	if (!r)
		r = store_open(&(struct store_options){.directory = directory,
						       .tables = tables,
						       .may_begin_anew = true,
						       .map_size = 16u << 20},
			       &live->store, &fresh, why);
	if (r) {
		free(live);
		return r;
	}
	*ret_live = live;
	return 0;
}

struct store *live_store(struct live *live)
{
	return live->store;
}

static int apply(struct live *live, const struct change *change)
{
	struct store_key key;
	int r;

	r = store_key(&key, change->row.task_id, NULL);
	if (r)
		return error_trace(r);
	if (!change->is_removal)
		return store_put(live->store, LIVE_TABLE, &key, schema_task_live_row(),
				 &change->row);
	r = store_delete(live->store, LIVE_TABLE, &key);
	return r == STORE_E_NOT_FOUND ? 0 : r;
}

static int apply_all(struct live *live)
{
	int r = store_begin(live->store);

	if (r)
		return r;
	for (struct change *change = live->first; !r && change; change = change->next)
		r = apply(live, change);
	r = store_end(live->store, !r) ?: r;
	r = r ?: store_commit(live->store);
	if (r)
		store_abort(live->store);
	return r;
}

static void forget_changes(struct live *live)
{
	struct change *change;

	while ((change = live->first)) {
		live->first = change->next;
		change_free(change);
	}
	live->last = &live->first;
}

static void flush(struct live *live)
{
	char times[PACE_TIMES];
	int r = live->first ? apply_all(live) : 0;

	if (r == STORE_E_FULL && !store_grow(live->store))
		r = apply_all(live);
	if (!r)
		forget_changes(live);
	else if (pace_again(&live->failing, time_boot_ms(), times))
		log_error(
			"rows of live tasks not written: %s; a reboot now would lose their exits%s",
			r == STORE_E_NO_SPACE ? "no space is left on their disk"
			: r < 0               ? strerror(-r)
					      : "their store is full",
			times);
}

static void on_timer(struct loop_timer *timer)
{
	struct live *live = container_of(timer, struct live, timer);

	flush(live);
	if (live->first)
		(void)loop_timer_set(live->service->loop, &live->timer, time_boot_ms() + COMMIT_MS,
				     on_timer);
}

static void queue(struct live *live, struct change *change)
{
	*live->last = change;
	live->last = &change->next;
	if (!live->timer.loop)
		(void)loop_timer_set(live->service->loop, &live->timer, time_boot_ms() + COMMIT_MS,
				     on_timer);
}

static void add(struct live *live, const struct task_record *record, bool is_new)
{
	struct change *change = calloc(1, sizeof(*change));
	struct task_live_row *row = &change->row;

	if (!change || schema_set(&row->task_id, record->task_id) ||
	    schema_set(&row->namespace, record->namespace) ||
	    schema_set(&row->container_id, record->container_id) ||
	    schema_set(&row->container_uid, record->container_uid) ||
	    schema_bytes_set(&row->boot_id, live->boot_id, sizeof(live->boot_id))) {
		log_error("task=%s: out of memory, no row under the root", record->task_id);
		if (change)
			change_free(change);
		return;
	}
	row->auto_remove = record->auto_remove;
	change->is_new = is_new;
	queue(live, change);
}

static bool is_queued(const struct live *live, const char *task_id)
{
	for (const struct change *change = live->first; change; change = change->next) {
		if (!change->is_removal && !strcmp(change->row.task_id, task_id))
			return true;
	}
	return false;
}

bool live_is_changing(const struct live *live, const char *task_id)
{
	for (const struct change *change = live->first; change; change = change->next)
		if (!strcmp(change->row.task_id, task_id))
			return true;
	return false;
}

static bool is_stored(struct live *live, const char *task_id)
{
	struct store_key key;
	bool has = !store_key(&key, task_id, NULL) && !store_begin(live->store) &&
		   store_has(live->store, LIVE_TABLE, &key);

	store_abort(live->store);
	return has;
}

int live_row(struct live *live, const char *task_id, struct task_live_row *ret_row)
{
	struct store_key key;
	int r;

	r = store_key(&key, task_id, NULL) ?: store_begin(live->store);
	if (!r)
		r = store_get(live->store, LIVE_TABLE, &key, schema_task_live_row(), ret_row);
	store_abort(live->store);
	if (r)
		return r == STORE_E_NOT_FOUND ? TASK_E_NOT_FOUND : error_fold(r);
	return ret_row->boot_id.size == ID_SIZE &&
			       !memcmp(ret_row->boot_id.data, live->boot_id, ID_SIZE)
		       ? 0
		       : TASK_E_NOT_FOUND;
}

void live_add(struct live *live, const struct task_record *record)
{
	if (!is_queued(live, record->task_id) && !is_stored(live, record->task_id))
		add(live, record, true);
}

/* A task that came and went within one period leaves no trace. False: the store may have its row. */
static bool cancel_queued(struct live *live, const char *task_id)
{
	struct change **at = &live->first, *change;
	bool is_new = false;

	while ((change = *at)) {
		if (change->is_removal || strcmp(change->row.task_id, task_id)) {
			at = &change->next;
			continue;
		}
		*at = change->next;
		if (live->last == &change->next)
			live->last = at;
		is_new = change->is_new;
		change_free(change);
	}
	return is_new;
}

void live_remove(struct live *live, const char *task_id)
{
	struct change *change;

	if (cancel_queued(live, task_id))
		return;
	change = calloc(1, sizeof(*change));
	if (!change || schema_set(&change->row.task_id, task_id)) {
		free(change);
		return;
	}
	change->is_removal = true;
	queue(live, change);
}

struct live *live_close(struct live *live)
{
	if (!live)
		return NULL;
	live->failing = (struct pace){};
	flush(live);
	forget_changes(live);
	loop_timer_cancel(&live->timer);
	store_close(live->store);
	free(live);
	return NULL;
}

/* ---- after a death of this service ---------------------------------------- */

static int add_missing(void *userdata, const struct store_key *key, void *data)
{
	struct task_record *record = data;
	struct live *live = userdata;

	if (record->status != TASK_DELETED && !store_has(live->store, LIVE_TABLE, key))
		add(live, record, true);
	return 0;
}

static int remove_stale(void *userdata, const struct store_key *key, void *data)
{
	_cleanup_(task_record_clear) struct task_record record = {};
	struct task_live_row *row = data;
	struct live *live = userdata;
	int r;

	(void)key;
	if (row->boot_id.size != ID_SIZE || memcmp(row->boot_id.data, live->boot_id, ID_SIZE) != 0)
		return 0; /* told of when all is open */
	r = task_shim_row(live->service, row->task_id, &record);
	if (r == TASK_E_NOT_FOUND || (!r && record.status == TASK_DELETED))
		live_remove(live, row->task_id);
	return r < 0 ? r : 0;
}

/* Reads both stores; what differs is queued. */
int live_reconcile(struct live *live)
{
	struct store *tasks = live->service->store;
	int r;

	r = store_begin(tasks) ?: store_begin(live->store);
	if (!r)
		r = store_walk(tasks, SHIM_TABLE, NULL, NULL, schema_task_record(), add_missing,
			       live);
	if (!r)
		r = store_walk(live->store, LIVE_TABLE, NULL, NULL, schema_task_live_row(),
			       remove_stale, live);
	store_abort(live->store);
	store_abort(tasks);
	return error_fold(r);
}

/* ---- after a reboot ------------------------------------------------------ */

struct reaping {
	struct live *live;
	struct task_live_row *rows;
	size_t count;
};

static int collect(void *userdata, const struct store_key *key, void *data)
{
	struct reaping *reaping = userdata;
	struct task_live_row *row = data, *item;

	(void)key;
	if (row->boot_id.size == ID_SIZE &&
	    !memcmp(row->boot_id.data, reaping->live->boot_id, ID_SIZE))
		return 0;
	item = schema_list_grow((void **)&reaping->rows, &reaping->count, sizeof(*item));
	return item ? task_live_row_copy(row, item) : error_origin(-ENOMEM);
}

static int emit_exit(struct task_service *service, const struct task_live_row *row,
		     const struct exit_record *exit)
{
	struct event_task_exit event = {
		.container_id = row->container_id,
		.id = row->container_id,
		.exit_status = exit->exit_status,
		.exited_at_ns = exit->exited_at_ns,
		.source = exit->source,
		.cause = exit->cause,
		.task_id = row->task_id,
	};
	struct event_task_delete deleted = {
		.container_id = row->container_id,
		.id = row->container_id,
		.exit_status = exit->exit_status,
		.exited_at_ns = exit->exited_at_ns,
		.task_id = row->task_id,
	};
	int r;

	r = service_emit(service->service, row->namespace, schema_find_event("/tasks/exit"),
			 row->container_id, &event);
	return r
		       ?: service_emit(service->service, row->namespace,
				       schema_find_event("/tasks/delete"), row->container_id,
				       &deleted);
}

struct reboot {
	struct task_service *service;
	const struct task_live_row *row;
};

static int tell_reboot(void *userdata)
{
	_cleanup_(task_record_clear) struct task_record told = {};
	struct reboot *reboot = userdata;
	const struct task_live_row *row = reboot->row;
	struct exit_record exit = {.exit_status = 255,
				   .exited_at_ns = time_real_ns(),
				   .source = EXIT_UNKNOWN,
				   .cause = (char *)"reboot"};
	struct task_record record = {
		.task_id = row->task_id,
		.namespace = row->namespace,
		.container_id = row->container_id,
		.container_uid = row->container_uid,
		.status = TASK_DELETED,
		.exit = &exit,
		.auto_remove = row->auto_remove,
		.deleted_at_ns = exit.exited_at_ns,
	};
	_cleanup_(cleanup_free) char *log = task_log_directory(reboot->service, row->task_id);
	struct store_key key;
	int r;

	if (!log)
		return error_origin(-ENOMEM);
	if (!access(log, F_OK))
		record.log = log;
	r = store_key(&key, row->namespace, row->container_id, NULL);
	if (r)
		return error_trace(r);
	r = store_get(reboot->service->store, ENDED_TABLE, &key, schema_task_record(), &told);
	if (!r && !strcmp(told.task_id, row->task_id))
		return 0;
	r = emit_exit(reboot->service, row, &exit);
	if (!r)
		r = store_put(reboot->service->store, ENDED_TABLE, &key, schema_task_record(),
			      &record);
	if (!r && row->auto_remove)
		r = task_auto_remove(reboot->service, &record);
	return r;
}

int live_reap_earlier_boots(struct live *live)
{
	struct reaping reaping = {.live = live};
	int r;

	r = store_begin(live->store);
	if (r)
		return error_fold(r);
	r = store_walk(live->store, LIVE_TABLE, NULL, NULL, schema_task_live_row(), collect,
		       &reaping);
	(void)store_end(live->store, false);
	store_abort(live->store);
	for (size_t i = 0; i < reaping.count; i++) {
		struct reboot reboot = {.service = live->service, .row = &reaping.rows[i]};

		if (!r)
			r = service_transact(live->service->service, tell_reboot, &reboot);
		if (!r)
			live_remove(live, reaping.rows[i].task_id);
		task_live_row_clear(&reaping.rows[i]);
	}
	free(reaping.rows);
	return error_fold(r);
}
