/* The life of the task service: what is opened, taken up after a restart, and closed. */

#include <string.h>

#include "broker/lib/log.h"
#include "broker/lib/spawn.h"
#include "services/task/cgroup.h"
#include "services/task/task.h"

static int make_directory(struct task_service *service, const char *name, struct why *why)
{
	_cleanup_(cleanup_free) char *path =
		text_format("%s/%s", service_paths(service->service)->state, name);

	return path ? file_make_dir(path, 0700, why) : error_origin(-ENOMEM);
}

void task_service_close(void *object)
{
	struct task_service *service = object;

	service->is_closing = true;
	task_shims_free(service);
	task_forwards_free(service);
	missed_free_all(service);
	loop_timer_cancel(&service->sweep);
	loop_timer_cancel(&service->fifo_sweep);
	live_close(service->live);
	cgroup_wake_free(service->cgroup_wake);
	program_cache_clear(&service->runtime);
	free(service->shim_program);
	free(service);
}

int task_service_open(struct service *parent, void **ret_object)
{
	struct task_service *service = calloc(1, sizeof(*service));
	struct why why = {};
	int r;

	if (!service)
		return error_origin(-ENOMEM);
	*service = (struct task_service){
		.service = parent, .loop = service_loop(parent), .store = service_store(parent)};
	r = make_directory(service, "s", &why)
		    ?: spawn_find_program("davit-shim", &service->shim_program);
	if (!r)
		r = live_open(service, &service->live, &why);
	/* It has a thread, and live_open() may fork. Without it all goes on, but slower. */
	if (!r && cgroup_wake_new(CGROUP_MOUNT, &service->cgroup_wake))
		log_warning("no thread wakes the lock of cgroups: containers start slower");
	if (!r)
		r = found_tasks(service) ?: task_recover(service) ?: live_reconcile(service->live);
	if (r) {
		log_error("cannot open the task service: %s",
			  why.text[0] ? why.text : strerror(r < 0 ? -r : EINVAL));
		task_service_close(service);
		return error_fold(r);
	}
	*ret_object = service;
	return 0;
}

void task_service_ready(void *object)
{
	struct task_service *service = object;

	if (live_reap_earlier_boots(service->live))
		log_error(
			"tasks of an earlier boot could not be reported; they are tried at the next start");
	ended_remove_orphans(service);
	ended_sweep(service, time_real_ns());
	task_sweep_fifos(service, time_real_ns());
}
