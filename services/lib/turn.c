/* The turn: jobs in nested transactions, one commit, and what waited for it. */

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "broker/lib/log.h"
#include "services/lib/service_private.h"

/* Effects may make new work at once; beyond so many rounds it waits for the loop. */
#define ROUNDS_MAX 8
#define STALL_MS   1000

/* ---- lists ---- */

void job_list_init(struct job_list *list)
{
	list->first = NULL;
	list->last = &list->first;
}

void job_list_add(struct job_list *list, struct job *job)
{
	job->next = NULL;
	*list->last = job;
	list->last = &job->next;
}

struct job *job_list_take(struct job_list *list)
{
	struct job *job = list->first;

	if (!job)
		return NULL;
	list->first = job->next;
	if (!list->first)
		list->last = &list->first;
	job->next = NULL;
	return job;
}

/* All of @from, before what is in @list. */
static void job_list_prepend(struct job_list *list, struct job_list *from)
{
	if (!from->first)
		return;
	*from->last = list->first;
	if (!list->first)
		list->last = from->last;
	list->first = from->first;
	job_list_init(from);
}

void effect_list_init(struct effect_list *list)
{
	list->first = NULL;
	list->last = &list->first;
}

static int effect_list_add(struct effect_list *list, void (*fn)(void *), void (*free_fn)(void *),
			   void *userdata)
{
	struct effect *effect = malloc(sizeof(*effect));

	if (!effect)
		return error_origin(-ENOMEM);
	*effect = (struct effect){.fn = fn, .free_fn = free_fn, .userdata = userdata};
	*list->last = effect;
	list->last = &effect->next;
	return 0;
}

static void effect_list_join(struct effect_list *list, struct effect_list *from)
{
	if (!from->first)
		return;
	*list->last = from->first;
	list->last = from->last;
	effect_list_init(from);
}

static struct effect *effect_list_take(struct effect_list *list)
{
	struct effect *effect = list->first;

	if (!effect)
		return NULL;
	list->first = effect->next;
	if (!list->first)
		list->last = &list->first;
	return effect;
}

static void drop_effects(struct effect *effect)
{
	while (effect) {
		struct effect *next = effect->next;

		if (effect->free_fn)
			effect->free_fn(effect->userdata);
		free(effect);
		effect = next;
	}
}

void effect_list_drop(struct effect_list *list)
{
	struct effect *first = list->first;

	effect_list_init(list);
	drop_effects(first);
}

/* The last effect now, so that what follows can be cut off; NULL: the list is empty. */
static struct effect *effect_list_mark(const struct effect_list *list)
{
	return list->first ? container_of(list->last, struct effect, next) : NULL;
}

static void effect_list_cut(struct effect_list *list, struct effect *mark)
{
	struct effect *first;

	if (!mark) {
		effect_list_drop(list);
		return;
	}
	first = mark->next;
	mark->next = NULL;
	list->last = &mark->next;
	drop_effects(first);
}

/* ---- nested transactions ---- */

int service_begin(struct service *service)
{
	int r;

	if (!store_is_open(service->store) && store_is_tight(service->store)) {
		r = store_grow(service->store);
		if (r < 0)
			return error_trace(r);
	}
	r = store_begin(service->store);
	if (r)
		return error_trace(r);
	service->answers_mark = effect_list_mark(&service->answers);
	service->effects_mark = effect_list_mark(&service->effects);
	service->outbox.mark = service->outbox.next_seq;
	return 0;
}

int service_end(struct service *service, bool keep)
{
	int r;

	r = store_end(service->store, keep);
	if (keep && !r)
		return 0;
	service->outbox.next_seq = service->outbox.mark;
	effect_list_cut(&service->answers, service->answers_mark);
	effect_list_cut(&service->effects, service->effects_mark);
	return error_trace(r);
}

int service_add_answer(struct service *service, void (*fn)(void *), void (*free_fn)(void *),
		       void *userdata)
{
	return effect_list_add(&service->answers, fn, free_fn, userdata);
}

int service_after_commit(struct service *service, void (*fn)(void *userdata),
			 void (*free_fn)(void *userdata), void *userdata)
{
	int r;

	r = effect_list_add(&service->effects, fn, free_fn, userdata);
	if (!r && !service->is_turning)
		loop_timer_set(service->loop, &service->kick, 0, service->kick.fn);
	return error_trace(r);
}

/* ---- the commit ---- */

void service_die(struct service *service, int r)
{
	log_error(
		"store of %s: what was done cannot be committed (%s): ending, to start again from the store",
		service->definition->program,
		r < 0                   ? strerror(-r)
		: r == STORE_E_NO_SPACE ? "no space is left"
					: "the map is full");
	_exit(SERVICE_EXIT_RESTART);
}

static void drop_turn(struct service *service)
{
	effect_list_drop(&service->answers);
	effect_list_drop(&service->effects);
	service->outbox.next_seq = service->outbox.committed;
	service->is_unrepeatable = false;
}

static void refuse_turn(struct service *service, int r)
{
	struct job_list jobs = service->done;
	struct job *job;

	if (jobs.first)
		job_list_init(&service->done);
	else
		job_list_init(&jobs);
	while ((job = job_list_take(&jobs)))
		job->refuse(service, job, r);
}

static void run_turn_again(struct service *service)
{
	for (struct job *job = service->done.first; job; job = job->next)
		if (job->again)
			job->again(job);
	job_list_prepend(&service->queue, &service->done);
}

static void turn_committed(struct service *service)
{
	struct job *job;

	service->outbox.committed = service->outbox.next_seq;
	service->is_unrepeatable = false;
	effect_list_join(&service->ready, &service->answers);
	effect_list_join(&service->ready, &service->effects);
	while ((job = job_list_take(&service->done)))
		job->done(service, job);
}

/* After this no transaction is open: the jobs are committed, or wait to be run again, or are refused. */
static void turn_commit(struct service *service)
{
	bool is_unrepeatable = service->is_unrepeatable || service->store->is_unnested;
	char times[PACE_TIMES];
	int r;

	r = store_move_damaged(service->store);
	if (!r)
		r = outbox_before_commit(service);
	if (r < 0)
		service_die(service, r);
	r = store_commit(service->store);
	if (!r) {
		turn_committed(service);
		return;
	}
	if (r < 0 || is_unrepeatable)
		service_die(service, r);
	drop_turn(service);
	if (r == STORE_E_FULL) {
		r = store_grow(service->store);
		if (!r) {
			run_turn_again(service);
			return;
		}
	}
	if (r == STORE_E_NO_SPACE)
		service->no_room_ms = time_boot_ms();
	if (pace_again(&service->refusals, time_boot_ms(), times))
		log_error("store of %s: %s; the requests of this turn are refused%s",
			  service->definition->program,
			  r == STORE_E_NO_SPACE ? "no space is left on its disk"
						: "its map is full",
			  times);
	refuse_turn(service, r < 0 ? STORE_E_FULL : r);
}

/* ---- running ---- */

void service_queue(struct service *service, struct job *job)
{
	job_list_add(&service->queue, job);
}

/* @job failed for want of room in the map: what was done before it is committed, then the map grows. */
static void make_room(struct service *service, struct job *job)
{
	struct job_list again;
	int r;

	turn_commit(service);
	r = store_grow(service->store);
	if (r) {
		job->refuse(service, job, STORE_E_FULL);
		return;
	}
	job_list_init(&again);
	job_list_add(&again, job);
	/* The commit may have put the earlier jobs back: @job comes after those. */
	if (service->queue.first) {
		job_list_prepend(&again, &service->queue);
		job_list_prepend(&service->queue, &again);
		return;
	}
	job_list_add(&service->queue, job);
}

static void run_jobs(struct service *service)
{
	struct job *job;
	int r;

	for (unsigned n = 0; n < SERVICE_TURN_JOBS; n++) {
		job = job_list_take(&service->queue);
		if (!job)
			return;
		r = job->run(service, job);
		assert(!service->store->is_nested);
		if (r == STORE_E_FULL) {
			make_room(service, job);
			continue;
		}
		if (r == JOB_GONE)
			continue;
		if (r == STORE_E_NO_SPACE) {
			service->no_room_ms = time_boot_ms();
			job->refuse(service, job, r);
		} else if (r)
			service_die(service, r);
		else
			job_list_add(&service->done, job);
	}
}

static void run_ready(struct service *service)
{
	struct effect_list list = service->ready;
	struct effect *effect;

	if (!list.first)
		return;
	effect_list_init(&service->ready);
	while ((effect = effect_list_take(&list))) {
		effect->fn(effect->userdata);
		free(effect);
	}
}

static bool has_work(const struct service *service)
{
	return service->queue.first || service->answers.first || service->effects.first ||
	       service->ready.first || store_is_open(service->store);
}

void service_turn(struct service *service)
{
	assert(!service->is_turning);
	service->is_turning = true;
	loop_timer_cancel(&service->kick);
	for (unsigned i = 0; i < ROUNDS_MAX && has_work(service); i++) {
		run_jobs(service);
		turn_commit(service);
		run_ready(service);
	}
	/* No transaction outlives its turn. */
	if (store_is_open(service->store))
		turn_commit(service);
	outbox_flush(service);
	if (service->stalled.first && !service->stall.loop)
		loop_timer_set(service->loop, &service->stall, time_boot_ms() + STALL_MS,
			       service->stall.fn);
	if (has_work(service))
		loop_timer_set(service->loop, &service->kick, 0, service->kick.fn);
	service->is_turning = false;
}

static int transact_once(struct service *service, int (*fn)(void *userdata), void *userdata)
{
	bool is_changed;
	int r, failure;

	r = service_begin(service);
	if (r)
		return error_trace(r);
	r = fn(userdata);
	failure = store_failure(service->store);
	if (failure)
		r = failure;
	if (r) {
		service_end(service, false);
		return r;
	}
	is_changed = service->store->nested ||
		     effect_list_mark(&service->answers) != service->answers_mark ||
		     effect_list_mark(&service->effects) != service->effects_mark;
	r = service_end(service, true);
	if (!r && is_changed)
		service->is_unrepeatable = true;
	return error_trace(r);
}

int service_transact(struct service *service, int (*fn)(void *userdata), void *userdata)
{
	int r;

	/* Within a handler: a part of its transaction. */
	if (service->store->is_nested)
		return fn(userdata);
	while ((r = transact_once(service, fn, userdata)) == STORE_E_FULL) {
		turn_commit(service);
		if (store_grow(service->store))
			break;
	}
	if (!r && !service->is_turning)
		loop_timer_set(service->loop, &service->kick, 0, service->kick.fn);
	return r;
}
