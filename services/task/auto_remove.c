/*
 * auto_remove: when init has exited, the container service is asked to remove
 * the container. The request id is derived from the task's id and the attempt,
 * so that asking again (after a crash of this service too) does nothing twice.
 */

#include <string.h>

#include "broker/lib/log.h"
#include "services/task/task.h"

/* Short at first: an operation that has just started the container may be about to end. */
#define RETRY_MIN_MS   5
#define RETRY_MAX_MS   60000
#define QUIET_ATTEMPTS 6

struct removal {
	struct task_service *service;
	struct loop_timer timer;
	struct task_record record;
	uint32_t attempt;
	bool is_asked; /* a call is under way */
};

static void removal_free(void *data)
{
	struct removal *removal = data;

	loop_timer_cancel(&removal->timer);
	task_record_clear(&removal->record);
	free(removal);
}

static void ask(struct removal *removal);

static void on_retry(struct loop_timer *timer)
{
	ask(container_of(timer, struct removal, timer));
}

static uint64_t delay(const struct removal *removal)
{
	unsigned shift = removal->attempt < 16 ? removal->attempt : 16;
	uint64_t ms = (uint64_t)RETRY_MIN_MS << shift;

	return ms < RETRY_MAX_MS ? ms : RETRY_MAX_MS;
}

static void on_removed(void *userdata, enum bus_status status, const char *text,
		       struct container_remove_reply *reply)
{
	struct removal *removal = userdata;

	(void)reply;
	if (status == BUS_OK || status == BUS_NOT_FOUND || status == BUS_CANCELED) {
		removal_free(removal);
		return;
	}
	if (removal->attempt++ > QUIET_ATTEMPTS)
		log_warning("container=%s/%s: not removed yet, trying again: %s",
			    removal->record.namespace, removal->record.container_id, text);
	if (loop_timer_set(removal->service->loop, &removal->timer, time_boot_ms() + delay(removal),
			   on_retry))
		removal_free(removal);
}

static void ask(struct removal *removal)
{
	struct container_remove_request request = {.id = removal->record.container_id,
						   .uid = removal->record.container_uid};
	struct bus_options options = {.namespace = removal->record.namespace};
	uint8_t task_id[ID_SIZE], id[ID_SIZE];

	if (id_parse(removal->record.task_id, task_id)) {
		removal_free(removal);
		return;
	}
	id_derive(task_id, "auto-remove", removal->attempt, id);
	options.id = id;
	if (container_remove_call(service_bus(removal->service->service), &options, &request,
				  on_removed, removal, NULL))
		on_removed(removal, BUS_INTERNAL, "out of memory", NULL);
}

static void start(void *userdata)
{
	ask(userdata);
}

int task_auto_remove(struct task_service *service, const struct task_record *record)
{
	struct removal *removal = calloc(1, sizeof(*removal));
	int r;

	if (!removal)
		return error_origin(-ENOMEM);
	removal->service = service;
	r = task_record_copy(record, &removal->record);
	if (!r)
		r = service_after_commit(service->service, start, removal_free, removal);
	if (r)
		removal_free(removal);
	return error_trace(r);
}
