/*
 * The store of tasks was lost while the host ran on (it lies in the state directory,
 * which something may have emptied): bundles and shims know nearly all that it knew.
 * What they do not know comes from the rows under the root, or stays empty: the
 * signal with which to stop, names of CNI networks, the streams of added processes.
 *
 * A store without any row is such a one; in a new boot there is nothing to be found.
 */

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "broker/lib/file.h"
#include "broker/lib/log.h"
#include "services/task/task.h"

static const char *name_of(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

static uint64_t time_of(const char *bundle)
{
	_cleanup_(cleanup_free) char *path = text_format("%s/shim.msgpack", bundle);
	struct stat status;

	if (!path || stat(path, &status))
		return time_real_ns();
	return (uint64_t)status.st_mtim.tv_sec * 1000000000 + (uint64_t)status.st_mtim.tv_nsec;
}

/* Its network namespace is there: whoever deletes the task has it taken back. The interface is the one that all have. */
static int fill_network(const struct task_service *service, struct task_record *record)
{
	_cleanup_(cleanup_free) char *path =
		text_format("%s/netns/%s", service_paths(service->service)->state, record->task_id);
	_cleanup_(cleanup_free) char *id = text_format("%s-%s", record->namespace,
						       record->container_id);

	if (!path || !id)
		return error_origin(-ENOMEM);
	if (access(path, F_OK))
		return 0;
	record->network = calloc(1, sizeof(*record->network));
	if (!record->network)
		return error_origin(-ENOMEM);
	return schema_set(&record->network->name, "unknown")
		       ?: schema_set(&record->network->attach_id, id)
		       ?: schema_set(&record->network->netns, path)
		       ?: schema_set(&record->network->interface, "eth0");
}

static int fill_streams(const struct shim_config *config, struct task_record *record)
{
	if (!config->io)
		return 0;
	record->io = calloc(1, sizeof(*record->io));
	if (!record->io || task_io_copy(config->io, record->io))
		return error_origin(-ENOMEM);
	return task_io_has_log(config->io) ? schema_set(&record->log, config->log_dir) : 0;
}

static int fill(const struct task_service *service, const struct shim_config *config,
		struct task_record *record)
{
	_cleanup_(task_live_row_clear) struct task_live_row row = {};
	int r;

	record->status = TASK_UNKNOWN;
	record->created_at_ns = time_of(config->bundle);
	r = schema_set(&record->task_id, config->task_id)
	    ?: schema_set(&record->namespace, config->namespace)
	    ?: schema_set(&record->container_id, config->container_id)
	    ?: schema_set(&record->socket, config->socket)
	    ?: schema_set(&record->bundle, config->bundle)
	    ?: schema_set(&record->runtime, name_of(config->runtime_path))
	    ?: schema_set(&record->runtime_path, config->runtime_path)
	    ?: schema_set(&record->oci_root, config->oci_root)
	    ?: schema_set(&record->cgroup, config->cgroup)
	    ?: schema_set(&record->reason, "its record was lost; its shim is being asked")
	    ?: fill_streams(config, record) ?: fill_network(service, record);
	if (r || live_row(service->live, config->task_id, &row))
		return r;
	record->auto_remove = row.auto_remove;
	return schema_set(&record->container_uid, row.container_uid);
}

/* True: a container was made in it, of which a shim of this boot may tell. */
static bool is_of_a_task(const struct task_service *service, const char *bundle,
			 const char *task_id)
{
	_cleanup_(task_live_row_clear) struct task_live_row row = {};
	_cleanup_(cleanup_free) char *pid = text_format("%s/init.pid", bundle);
	_cleanup_(cleanup_fd) int lock_fd = -1;

	if (!pid || access(pid, F_OK))
		return false;
	return task_shim_lock(bundle, &lock_fd) == TASK_E_LOCKED ||
	       !live_row(service->live, task_id, &row);
}

static int find_one(struct task_service *service, const char *bundles, const char *task_id)
{
	_cleanup_(shim_config_clear) struct shim_config config = {};
	_cleanup_(task_record_clear) struct task_record record = {};
	_cleanup_(cleanup_free) char *bundle = text_format("%s/%s", bundles, task_id);
	int r;

	if (!bundle)
		return error_origin(-ENOMEM);
	if (!is_of_a_task(service, bundle, task_id) || task_shim_config(bundle, &config) ||
	    strcmp(config.task_id, task_id) != 0)
		return 0;
	r = fill(service, &config, &record) ?: task_put(service, &record);
	if (!r)
		log_warning("task=%s container=%s/%s: its record was lost and is made anew",
			    task_id, record.namespace, record.container_id);
	return r;
}

static int find_all(struct task_service *service)
{
	_cleanup_(cleanup_free) char *bundles = text_format("%s/bundles",
							    service_paths(service->service)->state);
	_cleanup_(cleanup_dir) DIR *dir = bundles ? file_open_dir(AT_FDCWD, bundles) : NULL;
	const struct dirent *entry;
	uint8_t id[ID_SIZE];
	int r = 0;

	while (!r && dir && (entry = readdir(dir)))
		if (!id_parse(entry->d_name, id))
			r = find_one(service, bundles, entry->d_name);
	return r;
}

int found_tasks(struct task_service *service)
{
	int r;

	r = store_begin(service->store);
	if (r)
		return error_fold(r);
	if (!store_count(service->store, SHIM_TABLE) && !store_count(service->store, ENDED_TABLE))
		r = find_all(service);
	r = store_end(service->store, !r) ?: r;
	r = r ?: store_commit(service->store);
	if (r)
		store_abort(service->store);
	return error_fold(r);
}

int found_process(struct task_service *service, const char *task_id, const char *exec_id,
		  const struct added_report *report)
{
	_cleanup_(task_exec_record_clear) struct task_exec_record record = {};
	_cleanup_(task_record_clear) struct task_record task = {};
	int r;

	r = added_row(service, task_id, exec_id, &record);
	if (r != TASK_E_NOT_FOUND || report->exit)
		return r == TASK_E_NOT_FOUND ? 0 : r;
	r = task_shim_row(service, task_id, &task);
	if (r)
		return r == TASK_E_NOT_FOUND ? 0 : r;
	record = (struct task_exec_record){.created_at_ns = time_real_ns(), .status = TASK_UNKNOWN};
	r = schema_set(&record.task_id, task_id) ?: schema_set(&record.namespace, task.namespace)
	    ?: schema_set(&record.container_id, task.container_id)
	    ?: schema_set(&record.exec_id, exec_id);
	r = r ?: added_add(service, &record);
	return r == TASK_E_EXISTS || r == TASK_E_FULL ? 0 : r;
}
