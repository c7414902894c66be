/* A service: its store, its object and what they are given. No socket here: service_main.c has it. */

#include <string.h>
#include <sys/resource.h>

#include "broker/lib/file.h"
#include "broker/lib/log.h"
#include "services/lib/service_private.h"

#define READERS_CHECK_MS 60000

/* ---- damage is told as an event, in the transaction that moves the record ---- */

static void damaged(void *userdata, const char *table, const struct store_key *key)
{
	struct service *service = userdata;
	struct event_store_quarantined event = {
		.program = (char *)service->definition->program,
		.table = (char *)table,
		.key = {.data = (uint8_t *)key->data, .size = key->size},
	};
	const struct schema_event *schema = schema_find_event("/stores/quarantined");

	if (service_emit(service, NULL, schema, table, &event))
		log_error("store of %s: the event of a damaged record is lost",
			  service->definition->program);
}

/* ---- open ---- */

static int open_store(struct service *service, struct why *why)
{
	const struct service_definition *definition = service->definition;
	_cleanup_(cleanup_free) char *directory = NULL;
	struct store_options options = {
		.is_volatile = definition->is_volatile,
		.tables = definition->tables,
	};
	int r;

	directory = text_format(
		"%s/%s", definition->is_volatile ? service->paths.state : service->paths.root,
		definition->directory);
	if (!directory)
		return error_origin(-ENOMEM);
	options.directory = directory;
	r = store_open(&options, &service->store, &service->is_fresh_boot, why);
	if (r)
		return error_trace(r);
	store_on_damage(service->store, damaged, service);
	return 0;
}

/* What the store's own tables hold; their damage does not keep the service from starting. */
static int recover(struct service *service)
{
	int r = 0;

	if (service->is_fresh_boot)
		r = reply_forget_other_boots(service);
	if (!r)
		r = outbox_open(service);
	if (!r)
		r = operations_open(service);
	return error_fold(r);
}

static void on_readers(struct loop_timer *timer)
{
	struct service *service = container_of(timer, struct service, readers_timer);

	store_check_readers(service->store);
	loop_timer_set(service->loop, timer, time_boot_ms() + READERS_CHECK_MS, on_readers);
}

/* Its only purpose is the turn that follows. */
static void on_kick(struct loop_timer *timer)
{
	(void)timer;
}

/* What waited for room tries again, in the turn that follows. */
static void on_stall(struct loop_timer *timer)
{
	struct service *service = container_of(timer, struct service, stall);
	struct job *job;

	while ((job = job_list_take(&service->stalled)))
		job_list_add(&service->queue, job);
}

static struct service *service_new(const struct service_definition *definition, struct loop *loop,
				   struct bus *bus, struct paths *paths)
{
	struct service *service = calloc(1, sizeof(*service));

	if (!service)
		return NULL;
	service->definition = definition;
	service->loop = loop;
	service->bus = bus;
	service->paths = *paths;
	*paths = (struct paths){};
	service->started_at_ns = time_real_ns();
	service->kick.fn = on_kick;
	service->stall.fn = on_stall;
	job_list_init(&service->queue);
	job_list_init(&service->done);
	job_list_init(&service->stalled);
	effect_list_init(&service->answers);
	effect_list_init(&service->effects);
	effect_list_init(&service->ready);
	return service;
}

int service_open(const struct service_definition *definition, struct loop *loop, struct bus *bus,
		 struct paths *paths, struct service **ret_service, struct why *why)
{
	struct service *service = service_new(definition, loop, bus, paths);
	int r;

	if (!service)
		return error_origin(-ENOMEM);
	r = open_store(service, why);
	if (!r)
		r = recover(service);
	if (!r && definition->open) {
		r = (*definition->open)(service, &service->object);
		service->is_object_open = !r;
	}
	if (r) {
		why_set(why, r, "%s cannot start: %s", definition->program,
			r < 0 ? strerror(-r) : "its store cannot be opened");
		service_close(service);
		return error_trace(r);
	}
	service_turn(service);
	loop_timer_set(loop, &service->readers_timer, time_boot_ms() + READERS_CHECK_MS,
		       on_readers);
	*ret_service = service;
	return 0;
}

void service_start(struct service *service)
{
	if (service->outbox.is_started)
		return;
	service->outbox.is_started = true;
	if (service->definition->ready)
		service->definition->ready(service->object);
	operations_resume(service);
	loop_timer_set(service->loop, &service->kick, 0, service->kick.fn);
}

/* ---- close ---- */

static void forget_jobs(struct service *service)
{
	/* A job's owner frees it: calls and operations below, or the process' end. */
	job_list_init(&service->queue);
	job_list_init(&service->done);
	job_list_init(&service->stalled);
	effect_list_drop(&service->answers);
	effect_list_drop(&service->effects);
	effect_list_drop(&service->ready);
}

struct service *service_close(struct service *service)
{
	if (!service)
		return NULL;
	service->registration = registration_free(service->registration);
	work_kill_all(service);
	if (service->store)
		store_abort(service->store);
	forget_jobs(service);
	outbox_close(service);
	/* What operations keep may lean on the service's own object. */
	operations_close(service);
	if (service->is_object_open && service->definition->close)
		service->definition->close(service->object);
	calls_free(service);
	loop_timer_cancel(&service->kick);
	loop_timer_cancel(&service->stall);
	loop_timer_cancel(&service->readers_timer);
	service->store = store_close(service->store);
	paths_deinit(&service->paths);
	free(service);
	return NULL;
}

/* ---- what it is asked ---- */

struct loop *service_loop(struct service *service)
{
	return service->loop;
}

struct bus *service_bus(struct service *service)
{
	return service->bus;
}

struct store *service_store(struct service *service)
{
	return service->store;
}

const struct paths *service_paths(struct service *service)
{
	return &service->paths;
}

bool service_is_draining(struct service *service)
{
	return service->is_draining;
}

void service_drained(struct service *service)
{
	service->is_drained = true;
	loop_timer_set(service->loop, &service->kick, 0, service->kick.fn);
}

int service_stats(struct service *service, struct service_stats_reply *reply)
{
	_cleanup_(cleanup_free) char *program = NULL;

	program = text_format("%s %s", service->definition->program, DAVIT_VERSION);
	if (!program)
		return error_origin(-ENOMEM);
	reply->pid = (uint64_t)getpid();
	reply->started_at_ns = service->started_at_ns;
	reply->requests = service->n_requests;
	reply->outbox = outbox_size(service);
	reply->replies = store_count(service->store, STORE_REPLIES);
	reply->operations = service->operations.count;
	reply->children = service->n_children;
	store_usage(service->store, &reply->map_size, &reply->map_used, &reply->commits);
	return schema_set(&reply->program, program);
}

int service_quarantine(struct service *service, struct store_quarantine_reply *reply)
{
	return store_list_quarantine(service->store, reply);
}

int service_quarantine_drop(struct service *service, struct call *call,
			    const struct store_drop_request *request,
			    struct store_drop_reply *reply)
{
	int r = store_drop_quarantine(service->store, request, &reply->count);

	if (r == STORE_E_NOT_FOUND)
		return call_fail(call, BUS_NOT_FOUND, "no such record is in the quarantine of %s",
				 service->definition->program);
	return error_trace(r);
}

struct acceptance {
	struct service *service;
	int (*fn)(void *userdata);
	void *userdata;
};

static void accept_now(void *userdata)
{
	const struct acceptance *acceptance = userdata;
	struct service *service = acceptance->service;
	int r = acceptance->fn ? acceptance->fn(acceptance->userdata) : 0;

	if (r || store_accept(service->store))
		log_error("store of %s: it cannot be marked as accepted",
			  service->definition->program);
}

int service_accept(struct service *service, struct call *call, struct store_accept_reply *reply,
		   int (*fn)(void *userdata), void *userdata)
{
	const char *rebuilt = store_rebuilt(service->store);
	_cleanup_(cleanup_free) struct acceptance *acceptance = NULL;
	int r;

	if (!rebuilt)
		return 0;
	acceptance = malloc(sizeof(*acceptance));
	if (!acceptance)
		return error_origin(-ENOMEM);
	*acceptance = (struct acceptance){.service = service, .fn = fn, .userdata = userdata};
	r = schema_set(&reply->rebuilt, rebuilt)
		    ?: call_after_commit(call, accept_now, free, acceptance);
	if (!r)
		TAKE(acceptance);
	return error_trace(r);
}
