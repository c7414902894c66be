/*
 * Containers that are to be removed when their process has ended are normally
 * removed on the task service's word. One that has had no task for ten minutes
 * (its run was cut off, and nobody asked again) is removed here.
 */

#include <string.h>

#include "broker/lib/file.h"
#include "broker/lib/log.h"
#include "services/container/container.h"

#define AGE_NS    UINT64_C(600000000000)
#define PERIOD_MS 60000
#define BATCH     32 /* containers that one round asks about */

struct sweep {
	struct container_service *service;
	struct loop_timer timer;
	struct store_key next; /* size 0: from the start */
	struct candidate *candidates;
};

struct candidate {
	struct candidate *next;
	struct sweep *sweep;
	char *namespace, *id, *uid;
};

static void candidate_free(struct candidate *candidate)
{
	free(candidate->namespace);
	free(candidate->id);
	free(candidate->uid);
	free(candidate);
}

static int remove_it(void *userdata)
{
	struct candidate *candidate = userdata;
	struct container_remove_request request = {.id = candidate->id, .uid = candidate->uid};
	uint8_t uid[ID_SIZE], id[ID_SIZE];

	if (id_parse(candidate->uid, uid))
		return 0;
	id_derive(uid, "sweep", (uint32_t)(time_boot_ms() / PERIOD_MS), id);
	return operation_start_internal(candidate->sweep->service->service,
					&container_remove_operation, id, candidate->namespace,
					&request, candidate->uid);
}

static void on_task(void *userdata, enum bus_status status, const char *text,
		    struct task_process_reply *reply)
{
	struct candidate *candidate = userdata;
	struct service *service = candidate->sweep->service->service;
	bool has_none = status == BUS_NOT_FOUND ||
			(status == BUS_OK && reply->process->status == TASK_DELETED);

	(void)text;
	if (has_none && !operation_is_any_running(service, candidate->namespace, candidate->id) &&
	    !operation_is_any_running(service, candidate->namespace, candidate->uid)) {
		log_info("container=%s/%s: it has no task and is removed", candidate->namespace,
			 candidate->id);
		if (remove_it(candidate))
			log_warning("container=%s/%s: not removed yet", candidate->namespace,
				    candidate->id);
	}
	candidate_free(candidate);
}

static void ask(struct candidate *candidate)
{
	struct task_name_request request = {.container_id = candidate->id};
	struct bus_options options = {.namespace = candidate->namespace};

	if (task_get_call(service_bus(candidate->sweep->service->service), &options, &request,
			  on_task, candidate, NULL))
		candidate_free(candidate);
}

/* ---- one round ---- */

struct round {
	struct sweep *sweep;
	unsigned n;
	struct store_key last;
};

static int add_candidate(struct round *round, const char *namespace, const char *id,
			 const char *uid)
{
	struct candidate *candidate = calloc(1, sizeof(*candidate));

	if (!candidate)
		return error_origin(-ENOMEM);
	candidate->sweep = round->sweep;
	candidate->namespace = strdup(namespace);
	candidate->id = strdup(id);
	candidate->uid = strdup(uid);
	if (!candidate->namespace || !candidate->id || !candidate->uid) {
		candidate_free(candidate);
		return error_origin(-ENOMEM);
	}
	candidate->next = round->sweep->candidates;
	round->sweep->candidates = candidate;
	round->n++;
	return 0;
}

static int look_at(void *userdata, const struct store_key *key, void *object)
{
	const struct container_name_row *row = object;
	struct round *round = userdata;
	const char *namespace = store_key_part(key, 0), *id = store_key_part(key, 1);

	round->last = *key;
	if (!namespace || !id || !row->uid || row->created_at_ns + AGE_NS > time_real_ns())
		return 0;
	if (round->n == BATCH)
		return 1;
	return add_candidate(round, namespace, id, row->uid);
}

static int run_round(void *userdata)
{
	struct round *round = userdata;
	struct sweep *sweep = round->sweep;
	int r = store_walk(sweep->service->store, AUTO_REMOVE_TABLE, NULL,
			   sweep->next.size ? &sweep->next : NULL, schema_container_name_row(),
			   look_at, round);

	sweep->next = round->last;
	if (r != 1)
		sweep->next.size = 0;
	return r == 1 ? 0 : error_fold(r);
}

void sweep_now(struct sweep *sweep)
{
	struct round round = {.sweep = sweep};
	struct candidate *candidate;

	if (service_transact(sweep->service->service, run_round, &round))
		log_warning("containers to be removed could not be looked through");
	while ((candidate = sweep->candidates)) {
		sweep->candidates = candidate->next;
		ask(candidate);
	}
}

static void on_timer(struct loop_timer *timer)
{
	struct sweep *sweep = container_of(timer, struct sweep, timer);

	sweep_now(sweep);
	if (loop_timer_set(service_loop(sweep->service->service), timer, time_boot_ms() + PERIOD_MS,
			   on_timer))
		log_error("out of memory: containers without a task are not removed any more");
}

int sweep_new(struct container_service *service, struct sweep **ret_sweep)
{
	struct sweep *sweep = calloc(1, sizeof(*sweep));
	int r;

	if (!sweep)
		return error_origin(-ENOMEM);
	sweep->service = service;
	r = loop_timer_set(service_loop(service->service), &sweep->timer,
			   time_boot_ms() + PERIOD_MS, on_timer);
	if (r) {
		free(sweep);
		return error_trace(r);
	}
	*ret_sweep = sweep;
	return 0;
}

struct sweep *sweep_free(struct sweep *sweep)
{
	if (!sweep)
		return NULL;
	loop_timer_cancel(&sweep->timer);
	free(sweep);
	return NULL;
}
