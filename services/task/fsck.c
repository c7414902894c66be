/*
 * task.fsck and task.mend: rows against shims, processes, bundles, mounts,
 * sockets, FIFOs, logs and the rows under the root.
 */

#include "services/lib/fsck.h"

#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include "services/task/handlers.h"

#define MOUNTINFO_MAX (16u << 20)

/* ---- facts of a row ---- */

static int add(struct fsck *fsck, const struct fsck_fact *task, enum fact_role role,
	       const char *kind, const char *id)
{
	struct fsck_fact fact = *task;

	fact.role = role;
	fact.kind = (char *)kind;
	fact.id = (char *)id;
	return fsck_add(fsck, &fact);
}

/* <state>/fifo/<directory>/<name>: the directory is what is seen. */
static int add_fifo(struct fsck *fsck, const struct fsck_fact *task, const char *uri)
{
	struct task_service *service = fsck_object(fsck);
	const char *state = service_paths(service->service)->state;
	const char *path = uri && !strncmp(uri, "fifo://", 7) ? uri + 7 : uri;
	size_t size = strlen(state);
	char name[256];

	if (!path || strncmp(path, state, size) || strncmp(path + size, "/fifo/", 6))
		return 0;
	snprintf(name, sizeof(name), "%s", path + size + 6);
	name[strcspn(name, "/")] = '\0';
	return *name ? add(fsck, task, FACT_OWNS, "fifo", name) : 0;
}

static int add_fifos(struct fsck *fsck, const struct fsck_fact *task, const struct task_io *io)
{
	if (!io)
		return 0;
	return add_fifo(fsck, task, io->stdin) ?: add_fifo(fsck, task, io->stdout)
		       ?: add_fifo(fsck, task, io->stderr);
}

static int add_container(struct fsck *fsck, const struct fsck_fact *task,
			 const struct task_record *record, bool is_mendable)
{
	_cleanup_(cleanup_free) char *id = text_format("%s/%s", record->namespace,
						       record->container_id);
	struct fsck_fact fact = *task;

	if (!id)
		return error_origin(-ENOMEM);
	fact.mendable = is_mendable;
	return add(fsck, &fact, FACT_NEEDS, "container", id);
}

static bool is_alive(enum task_status status)
{
	return status == TASK_CREATED || status == TASK_RUNNING || status == TASK_PAUSED ||
	       status == TASK_PAUSING;
}

/* While its shim is there, which would have told of an end. */
static int add_init(struct fsck *fsck, const struct fsck_fact *task,
		    const struct task_record *record)
{
	struct task_service *service = fsck_object(fsck);
	const struct task_shim *shim = task_shim_find(service, record->task_id);
	struct fsck_fact fact = *task;
	uint64_t start_time = 0;
	char text[160];

	if (!is_alive(record->status) || !record->pid || !shim || !shim->is_ready)
		return 0;
	if (!process_start_time((pid_t)record->pid, &start_time) &&
	    (!record->pid_start_time || start_time == record->pid_start_time))
		return 0;
	snprintf(text, sizeof(text), "its first process, %llu, is gone, and it is said to be %s",
		 (unsigned long long)record->pid,
		 schema_enum_text(&schema_enum_task_status, record->status));
	fact.text = text;
	return add(fsck, &fact, FACT_FAULT, "task", record->task_id);
}

/* ---- mounts ---- */

typedef int (*mount_fn)(struct fsck *fsck, const struct fsck_fact *task, const char *path,
			const char *task_id);

/* Mount points in the bundles of this davit, as the namespace of @pid has them ("self": ours); of a @task
 * those that its shim made: what is mounted on a host whose mounts are shared comes to each shim as a
 * slave, and is told of the host. */
static int each_mount(struct fsck *fsck, const struct fsck_fact *task, const char *pid, mount_fn fn)
{
	struct task_service *service = fsck_object(fsck);
	_cleanup_(cleanup_free) char *state = realpath(service_paths(service->service)->state,
						       NULL);
	_cleanup_(cleanup_free) char *path = text_format("/proc/%s/mountinfo", pid), *text = NULL;
	_cleanup_(cleanup_free) char *bundles = text_format("%s/bundles/", state ?: "?");
	char *rest, *line;
	int r = 0;

	if (!path || !bundles)
		return error_origin(-ENOMEM);
	/* A process that has ended has none. */
	if (!state || file_read_proc(path, MOUNTINFO_MAX, &text, NULL))
		return 0;
	rest = text;
	while (!r && (line = strsep(&rest, "\n"))) {
		char point[4096], task_id[ID_TEXT_SIZE];

		if (sscanf(line, "%*s %*s %*s %*s %4095s", point) != 1 ||
		    strncmp(point, bundles, strlen(bundles)) || (task && strstr(line, " master:")))
			continue;
		snprintf(task_id, sizeof(task_id), "%s", point + strlen(bundles));
		r = fn(fsck, task, point, task_id);
	}
	return r;
}

/* A root is mounted where its shim sees it, and nowhere else. */
static int on_host_mount(struct fsck *fsck, const struct fsck_fact *task, const char *path,
			 const char *task_id)
{
	struct fsck_fact fact = {
		.role = FACT_SEEN,
		.kind = (char *)"mount",
		.id = (char *)path,
		.text = (char *)"mounted on the host",
		.mendable = true,
	};

	(void)task;
	(void)task_id;
	return strlen(path) <= 700 ? fsck_add(fsck, &fact) : 0;
}

static int on_shim_mount(struct fsck *fsck, const struct fsck_fact *task, const char *path,
			 const char *task_id)
{
	struct fsck_fact fact = *task;
	_cleanup_(cleanup_free) char *text = NULL;

	if (!strcmp(task_id, task->id) || strlen(path) > 700)
		return 0;
	text = text_format("another task's root is mounted in the shim of task %s", task->id);
	if (!text)
		return error_origin(-ENOMEM);
	fact.text = text;
	return add(fsck, &fact, FACT_FAULT, "mount", path);
}

static int add_mounts(struct fsck *fsck, const struct fsck_fact *task,
		      const struct task_record *record)
{
	char pid[24];

	if (!record->shim_pid || record->status == TASK_DELETED)
		return 0;
	snprintf(pid, sizeof(pid), "%llu", (unsigned long long)record->shim_pid);
	return each_mount(fsck, task, pid, on_shim_mount);
}

static int run_mounts(struct fsck *fsck)
{
	return each_mount(fsck, NULL, "self", on_host_mount);
}

/* ---- rows ---- */

static struct fsck_fact task_fact(const struct task_record *record)
{
	return (struct fsck_fact){
		.role = FACT_OWNS,
		.kind = (char *)"task",
		.id = record->task_id,
		.object = record->container_id,
		.uid = record->container_uid,
		.since_ns = record->created_at_ns,
		.text = record->container_id,
	};
}

static int add_shim(struct fsck *fsck, const struct fsck_fact *task,
		    const struct task_record *record)
{
	bool is_told = is_alive(record->status) || record->status == TASK_STOPPED;
	const char *socket = record->socket ? strrchr(record->socket, '/') : NULL;
	int r;

	r = add(fsck, task, is_told ? FACT_MUST : FACT_OWNS, "bundle", record->task_id);
	if (!r)
		r = add(fsck, task, is_told && record->shim_pid ? FACT_MUST : FACT_OWNS, "shim",
			record->task_id);
	if (!r && socket)
		r = add(fsck, task, FACT_OWNS, "socket", socket + 1);
	if (!r)
		r = add(fsck, task, FACT_OWNS, "oci", record->task_id);
	if (!r && record->cgroup && *record->cgroup)
		r = add(fsck, task, FACT_OWNS, "cgroup", record->cgroup);
	return r;
}

/* What the runtime service keeps of it, as it names that. */
static int add_network(struct fsck *fsck, const struct fsck_fact *task,
		       const struct task_record *record)
{
	bool is_told = is_alive(record->status) || record->status == TASK_STOPPED;
	_cleanup_(cleanup_free) char *id = NULL;

	if (!record->network)
		return 0;
	id = text_format("%s@%s", record->network->attach_id, record->task_id);
	return id ? add(fsck, task, is_told ? FACT_MUST : FACT_OWNS, "network", id)
		  : error_origin(-ENOMEM);
}

/* Mendable: the row is written again. */
static int add_live(struct fsck *fsck, const struct fsck_fact *task,
		    const struct task_record *record, bool is_made)
{
	struct task_service *service = fsck_object(fsck);
	struct fsck_fact fact = *task;

	is_made = is_made && !live_is_changing(service->live, record->task_id);
	fact.mendable = true;
	return add(fsck, &fact, is_made ? FACT_MUST : FACT_OWNS, "live", record->task_id);
}

static int on_shim_row(struct fsck *fsck, const struct store_key *key, void *data)
{
	const struct task_record *record = data;
	struct fsck_fact task = task_fact(record);
	bool is_made = record->status != TASK_CREATING && record->status != TASK_DELETED;
	int r;

	(void)key;
	r = fsck_add(fsck, &task) ?: add_shim(fsck, &task, record) ?: add_network(fsck, &task, record);
	if (!r)
		r = add_live(fsck, &task, record, is_made);
	if (!r)
		r = add(fsck, &task, FACT_OWNS, "log", record->task_id);
	if (!r && is_made)
		r = add_container(fsck, &task, record, false);
	return r ?: add_fifos(fsck, &task, record->io) ?: add_init(fsck, &task, record)
		       ?: add_mounts(fsck, &task, record);
}

static int on_task_row(struct fsck *fsck, const struct store_key *key, void *data)
{
	struct task_service *service = fsck_object(fsck);
	const struct task_record *record = data;
	struct fsck_fact task = task_fact(record);
	struct store_key shim;
	int r;

	(void)key;
	r = store_key(&shim, record->task_id, NULL);
	if (r || store_has(service->store, SHIM_TABLE, &shim))
		return r;
	task.text = (char *)"it is listed, and no shim is known for it";
	return add(fsck, &task, FACT_FAULT, "task", record->task_id);
}

static int on_ended_row(struct fsck *fsck, const struct store_key *key, void *data)
{
	const struct task_record *record = data;
	struct fsck_fact task = task_fact(record);
	int r;

	(void)key;
	task.text = (char *)"its last task is kept for it";
	task.since_ns = record->deleted_at_ns;
	r = fsck_add(fsck, &task);
	if (!r && record->log && *record->log)
		r = add(fsck, &task, FACT_OWNS, "log", record->task_id);
	if (!r && !record->forgotten)
		r = add_container(fsck, &task, record, true);
	return r;
}

static int on_process_row(struct fsck *fsck, const struct store_key *key, void *data)
{
	const struct task_exec_record *record = data;
	_cleanup_(cleanup_free) char *text = text_format("process %s was added to it",
							 record->exec_id);
	struct fsck_fact fact = {
		.object = record->container_id,
		.since_ns = record->created_at_ns,
		.text = text,
	};
	int r;

	(void)key;
	if (!text)
		return error_origin(-ENOMEM);
	r = add(fsck, &fact, FACT_NEEDS, "task", record->task_id);
	return r ?: add_fifos(fsck, &fact, record->io);
}

static int on_live_row(struct fsck *fsck, const struct store_key *key, void *data)
{
	struct task_service *service = fsck_object(fsck);
	const struct task_live_row *row = data;
	struct fsck_fact fact = {
		.role = FACT_SEEN,
		.kind = (char *)"live",
		.id = row->task_id,
		.object = row->container_id,
		.uid = row->container_uid,
		.text = (char *)"a row under the root, for after a reboot",
		.mendable = true,
	};

	(void)key;
	return live_is_changing(service->live, row->task_id) ? 0 : fsck_add(fsck, &fact);
}

static int walk(struct fsck *fsck, const char *table, const struct schema_message *schema,
		fsck_record_fn fn)
{
	struct task_service *service = fsck_object(fsck);

	return fsck_walk(fsck, service->store, table, schema, fn);
}

static int run_shims(struct fsck *fsck)
{
	return walk(fsck, SHIM_TABLE, schema_task_record(), on_shim_row);
}

static int run_tasks(struct fsck *fsck)
{
	return walk(fsck, TASK_TABLE, schema_task_record(), on_task_row);
}

static int run_ended(struct fsck *fsck)
{
	return walk(fsck, ENDED_TABLE, schema_task_record(), on_ended_row);
}

static int run_processes(struct fsck *fsck)
{
	return walk(fsck, PROCESS_TABLE, schema_task_exec_record(), on_process_row);
}

static int run_live(struct fsck *fsck)
{
	struct task_service *service = fsck_object(fsck);
	struct store *store = live_store(service->live);
	int r;

	r = fsck_walk(fsck, store, LIVE_TABLE, schema_task_live_row(), on_live_row);
	store_abort(store);
	return r;
}

/* ---- directories ---- */

static int on_socket(struct fsck *fsck, int dir, const char *name)
{
	return fsck_add_seen(fsck, dir, name, "socket", name, "a shim's control socket", true);
}

static int on_fifo(struct fsck *fsck, int dir, const char *name)
{
	struct fsck_fact fact = {
		.role = FACT_SEEN,
		.kind = (char *)"fifo",
		.id = (char *)name,
		.text = (char *)"a client's FIFOs",
		.mendable = true,
	};
	struct stat status;

	if (fstatat(dir, name, &status, AT_SYMLINK_NOFOLLOW))
		return 0;
	/* When it was made: a client that is at it changes the times of what is in it. */
	fact.since_ns = (uint64_t)status.st_mtim.tv_sec * 1000000000;
	return fsck_add(fsck, &fact);
}

static int on_log(struct fsck *fsck, int dir, const char *name)
{
	return fsck_add_seen(fsck, dir, name, "log", name, "output of a task", true);
}

static int names(struct fsck *fsck, const char *top, const char *directory, fsck_name_fn fn)
{
	_cleanup_(cleanup_free) char *path = text_format("%s/%s", top, directory);

	return path ? fsck_names(fsck, path, fn) : error_origin(-ENOMEM);
}

static const struct paths *paths_of(struct fsck *fsck)
{
	struct task_service *service = fsck_object(fsck);

	return service_paths(service->service);
}

static int run_sockets(struct fsck *fsck)
{
	return names(fsck, paths_of(fsck)->state, "s", on_socket);
}

static int run_fifos(struct fsck *fsck)
{
	return names(fsck, paths_of(fsck)->state, "fifo", on_fifo);
}

static int run_logs(struct fsck *fsck)
{
	return names(fsck, paths_of(fsck)->root, "task/logs", on_log);
}

int task_fsck(struct task_service *service, const struct fsck_request *request,
	      struct fsck_reply *reply, struct call *call)
{
	static const struct fsck_stage stages[] = {
		{run_shims},   {run_tasks}, {run_ended}, {run_processes}, {run_live},
		{run_sockets}, {run_fifos}, {run_logs},  {run_mounts},    {}};

	(void)call;
	return fsck_page(service->store, stages, service, request, reply);
}

/* ---- mending ---- */

static int has_socket(void *userdata, const struct store_key *key, void *data)
{
	const struct task_record *record = data;
	const char *name = userdata, *socket = record->socket ? strrchr(record->socket, '/') : NULL;

	(void)key;
	return socket && !strcmp(socket + 1, name);
}

static int mend_socket(struct task_service *service, const char *name, bool *ret_done)
{
	_cleanup_(cleanup_free) char *path =
		text_format("%s/s/%s", service_paths(service->service)->state, name);
	int r;

	if (!path)
		return error_origin(-ENOMEM);
	r = store_walk(service->store, SHIM_TABLE, NULL, NULL, schema_task_record(), has_socket,
		       (void *)name);
	*ret_done = !r && !unlink(path);
	return r < 0 ? r : 0;
}

static int mend_fifo(struct task_service *service, const char *name, bool *ret_done)
{
	return task_remove_fifo_directory(service, name, ret_done);
}

static int mend_log(struct task_service *service, const char *task_id, bool *ret_done)
{
	_cleanup_(cleanup_free) char *path = task_log_directory(service, task_id);
	struct store_key key;
	uint8_t id[ID_SIZE];
	bool has_owner;
	int r;

	if (!path || id_parse(task_id, id))
		return path ? 0 : error_origin(-ENOMEM);
	r = store_key(&key, task_id, NULL) ?: task_log_has_owner(service, task_id, &has_owner);
	if (r || has_owner || store_has(service->store, SHIM_TABLE, &key))
		return r;
	*ret_done = !file_remove_tree(AT_FDCWD, path, NULL);
	return 0;
}

static int mend_live(struct task_service *service, const char *task_id, bool *ret_done)
{
	_cleanup_(task_record_clear) struct task_record record = {};
	int r = task_shim_row(service, task_id, &record);

	if (r && r != TASK_E_NOT_FOUND)
		return r;
	*ret_done = true;
	if (r || record.status == TASK_DELETED)
		live_remove(service->live, task_id);
	else
		live_add(service->live, &record);
	return 0;
}

static int mend_mount(struct task_service *service, const char *path, bool *ret_done)
{
	_cleanup_(cleanup_free) char *state = realpath(service_paths(service->service)->state,
						       NULL);
	_cleanup_(cleanup_free) char *bundles = text_format("%s/bundles/", state ?: "?");

	if (!bundles)
		return error_origin(-ENOMEM);
	*ret_done = !strncmp(path, bundles, strlen(bundles)) && !strstr(path, "/../") &&
		    !umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW);
	return 0;
}

/* The last task of a container that is gone. */
static int mend_container(struct task_service *service, const char *id, bool *ret_done)
{
	_cleanup_(cleanup_free) char *namespace = strdup(id);
	char *slash = namespace ? strchr(namespace, '/') : NULL;

	if (!slash)
		return namespace ? 0 : error_origin(-ENOMEM);
	*slash = '\0';
	*ret_done = true;
	return ended_forget(service, namespace, slash + 1, NULL);
}

int task_mend(struct task_service *service, const struct fsck_mend_request *request,
	      struct fsck_mend_reply *reply, struct call *call)
{
	static const struct {
		const char *kind, *done;
		bool is_name;
		int (*fn)(struct task_service *service, const char *id, bool *ret_done);
	} menders[] = {
		{"socket", "removed", true, mend_socket},
		{"fifo", "removed", true, mend_fifo},
		{"log", "removed", true, mend_log},
		{"live", "made to agree with the task", true, mend_live},
		{"mount", "unmounted", false, mend_mount},
		{"container", "its last task is forgotten", false, mend_container},
	};
	bool is_done = false;
	int r;

	for (size_t i = 0; i < ARRAY_SIZE(menders); i++) {
		if (strcmp(menders[i].kind, request->kind))
			continue;
		if (menders[i].is_name && (strchr(request->id, '/') || request->id[0] == '.'))
			return call_fail(call, BUS_INVALID_ARGUMENT, "'%s' is not a name",
					 request->id);
		r = menders[i].fn(service, request->id, &is_done);
		if (r)
			return r;
		return is_done ? schema_set(&reply->done, menders[i].done) : 0;
	}
	return call_fail(call, BUS_INVALID_ARGUMENT, "no '%s' is mended here", request->kind);
}
