/*
 * What is kept of tasks that are deleted: the last one of each container, with
 * its added processes and its logs, as long as the container is there; when that
 * is deleted too, only how they ended, for a while, for those who still wait.
 */

#include <dirent.h>
#include <fcntl.h>
#include <string.h>

#include "broker/lib/log.h"
#include "services/task/task.h"

#define FORGOTTEN_KEPT_NS UINT64_C(600000000000)
#define SWEEP_MS          60000

static int ended_key(struct store_key *key, const struct task_record *record)
{
	return store_key(key, record->namespace, record->container_id, NULL);
}

int ended_row(struct task_service *service, const char *namespace, const char *id,
	      struct task_record *ret_record)
{
	struct store_key key;
	int r;

	r = store_key(&key, namespace, id, NULL);
	if (r)
		return error_trace(r);
	r = store_get(service->store, ENDED_TABLE, &key, schema_task_record(), ret_record);
	return r == STORE_E_NOT_FOUND ? TASK_E_NOT_FOUND : error_fold(r);
}

int task_any_row(struct task_service *service, const char *namespace, const char *id,
		 const char *task_id, struct task_record *ret_record)
{
	_cleanup_(task_record_clear) struct task_record live = {}, ended = {};
	int r;

	r = task_row(service, namespace, id, &live);
	if (!r && !strcmp(live.task_id, task_id)) {
		*ret_record = live;
		live = (struct task_record){};
		return 0;
	}
	if (r && r != TASK_E_NOT_FOUND)
		return r;
	r = ended_row(service, namespace, id, &ended);
	if (r || strcmp(ended.task_id, task_id))
		return r ?: TASK_E_NOT_FOUND;
	*ret_record = ended;
	ended = (struct task_record){};
	return 0;
}

/* ---- logs ---------------------------------------------------------------- */

bool task_io_has_log(const struct task_io *io)
{
	return io && (io->log || io->terminal);
}

char *task_log_directory(const struct task_service *service, const char *task_id)
{
	return text_format("%s/task/logs/%s", service_paths(service->service)->root, task_id);
}

struct log_removal {
	struct task_service *service;
	char task_id[ID_TEXT_SIZE];
};

static void remove_log_now(const struct task_service *service, const char *task_id)
{
	_cleanup_(cleanup_free) char *path = task_log_directory(service, task_id);
	struct why why = {};

	if (!path || file_remove_tree(AT_FDCWD, path, &why))
		log_warning("task=%s: its log is not removed: %s", task_id,
			    path ? why.text : "out of memory");
}

static void remove_log(void *userdata)
{
	struct log_removal *removal = userdata;

	remove_log_now(removal->service, removal->task_id);
	free(removal);
}

/* After the commit; one that is left by a crash is found at the next start. */
int task_log_drop(struct task_service *service, const struct task_record *record)
{
	struct log_removal *removal;
	int r;

	if (!record->log || !*record->log)
		return 0;
	removal = calloc(1, sizeof(*removal));
	if (!removal)
		return error_origin(-ENOMEM);
	removal->service = service;
	snprintf(removal->task_id, sizeof(removal->task_id), "%s", record->task_id);
	r = service_after_commit(service->service, remove_log, free, removal);
	if (r)
		free(removal);
	return error_trace(r);
}

/* ---- bounds -------------------------------------------------------------- */

static int drop(struct task_service *service, const struct task_record *record)
{
	struct store_key key;
	int r;

	r = ended_key(&key, record) ?: store_delete(service->store, ENDED_TABLE, &key);
	if (r && r != STORE_E_NOT_FOUND)
		return r;
	return added_drop_all(service, record->task_id) ?: task_log_drop(service, record);
}

struct ages {
	struct task_service *service;
	uint64_t *times;
	size_t count;
	uint64_t limit; /* those that ended by then go */
};

static int collect_age(void *userdata, const struct store_key *key, void *data)
{
	struct task_record *record = data;
	struct ages *ages = userdata;
	uint64_t *time;

	(void)key;
	time = schema_list_grow((void **)&ages->times, &ages->count, sizeof(*time));
	if (!time)
		return error_origin(-ENOMEM);
	*time = record->deleted_at_ns;
	return 0;
}

static int drop_old(void *userdata, const struct store_key *key, void *data)
{
	struct task_record *record = data;
	struct ages *ages = userdata;

	(void)key;
	return record->deleted_at_ns <= ages->limit ? drop(ages->service, record) : 0;
}

static int compare_times(const void *a, const void *b)
{
	const uint64_t *left = a, *right = b;

	return *left < *right ? -1 : *left > *right;
}

/* Many at a time, so that a full table is looked through once in a while only. */
static int drop_oldest(struct task_service *service)
{
	struct ages ages = {.service = service};
	int r;

	if (store_count(service->store, ENDED_TABLE) < ENDED_MAX)
		return 0;
	r = store_walk(service->store, ENDED_TABLE, NULL, NULL, schema_task_record(), collect_age,
		       &ages);
	if (!r && ages.count >= ENDED_MAX) {
		qsort(ages.times, ages.count, sizeof(*ages.times), compare_times);
		ages.limit = ages.times[ages.count - ENDED_MAX + ENDED_TRIM];
		r = store_walk(service->store, ENDED_TABLE, NULL, NULL, schema_task_record(),
			       drop_old, &ages);
	}
	free(ages.times);
	return r;
}

int ended_put(struct task_service *service, const struct task_record *record)
{
	_cleanup_(task_record_clear) struct task_record former = {};
	struct store_key key;
	int r;

	r = ended_key(&key, record) ?: drop_oldest(service);
	if (r)
		return r;
	r = ended_row(service, record->namespace, record->container_id, &former);
	if (!r && strcmp(former.task_id, record->task_id))
		r = drop(service, &former);
	if (r && r != TASK_E_NOT_FOUND)
		return r;
	return store_put(service->store, ENDED_TABLE, &key, schema_task_record(), record);
}

/* ---- forgetting ---------------------------------------------------------- */

static void on_sweep(struct loop_timer *timer);

static void sweep_later(struct task_service *service)
{
	if (!service->sweep.loop)
		(void)loop_timer_set(service->loop, &service->sweep, time_boot_ms() + SWEEP_MS,
				     on_sweep);
}

struct sweep {
	struct task_service *service;
	uint64_t now_ns;
	unsigned n_left;
};

static int sweep_row(void *userdata, const struct store_key *key, void *data)
{
	struct task_record *record = data;
	struct sweep *sweep = userdata;

	(void)key;
	if (!record->forgotten)
		return 0;
	if (record->deleted_at_ns + FORGOTTEN_KEPT_NS <= sweep->now_ns)
		return drop(sweep->service, record);
	sweep->n_left++;
	return 0;
}

static int sweep_rows(void *userdata)
{
	struct sweep *sweep = userdata;

	sweep->n_left = 0;
	return store_walk(sweep->service->store, ENDED_TABLE, NULL, NULL, schema_task_record(),
			  sweep_row, sweep);
}

void ended_sweep(struct task_service *service, uint64_t now_ns)
{
	struct sweep sweep = {.service = service, .now_ns = now_ns};

	if (service_transact(service->service, sweep_rows, &sweep) || sweep.n_left)
		sweep_later(service);
}

static void on_sweep(struct loop_timer *timer)
{
	ended_sweep(container_of(timer, struct task_service, sweep), time_real_ns());
}

int ended_forget(struct task_service *service, const char *namespace, const char *id,
		 const char *uid)
{
	_cleanup_(task_record_clear) struct task_record record = {};
	struct store_key key;
	int r;

	r = ended_row(service, namespace, id, &record);
	if (r || record.forgotten)
		return r == TASK_E_NOT_FOUND ? 0 : r;
	if (uid && *uid && record.container_uid && strcmp(uid, record.container_uid))
		return 0;
	r = task_log_drop(service, &record);
	if (r)
		return r;
	record.forgotten = true;
	(void)schema_set(&record.log, NULL);
	sweep_later(service);
	r = ended_key(&key, &record);
	return r ?: store_put(service->store, ENDED_TABLE, &key, schema_task_record(), &record);
}

/* ---- logs that nobody owns ------------------------------------------------ */

struct owner {
	const char *task_id;
	bool is_found;
};

static int is_owner(void *userdata, const struct store_key *key, void *data)
{
	const struct task_record *record = data;
	struct owner *owner = userdata;

	(void)key;
	owner->is_found = record->log && *record->log && !strcmp(record->task_id, owner->task_id);
	return owner->is_found;
}

int task_log_has_owner(struct task_service *service, const char *task_id, bool *ret_has)
{
	struct owner owner = {.task_id = task_id};
	int r;

	r = store_walk(service->store, TASK_TABLE, NULL, NULL, schema_task_record(), is_owner,
		       &owner);
	if (!r)
		r = store_walk(service->store, ENDED_TABLE, NULL, NULL, schema_task_record(),
			       is_owner, &owner);
	*ret_has = owner.is_found;
	return r < 0 ? r : 0;
}

struct orphan {
	struct task_service *service;
	const char *task_id;
	bool has_owner;
};

static int find_owner(void *userdata)
{
	struct orphan *orphan = userdata;

	return task_log_has_owner(orphan->service, orphan->task_id, &orphan->has_owner);
}

void ended_remove_orphans(struct task_service *service)
{
	_cleanup_(cleanup_free) char *path = task_log_directory(service, "");
	_cleanup_(cleanup_dir) DIR *dir = path ? opendir(path) : NULL;
	struct dirent *entry;

	while (dir && (entry = readdir(dir))) {
		struct orphan orphan = {.service = service, .task_id = entry->d_name};
		uint8_t id[ID_SIZE];

		if (!id_parse(entry->d_name, id) &&
		    !service_transact(service->service, find_owner, &orphan) && !orphan.has_owner)
			remove_log_now(service, entry->d_name);
	}
}
