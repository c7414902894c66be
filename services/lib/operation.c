/*
 * How the steps of an operation run. Each runs in a nested transaction of its
 * own; steps that need not wait follow each other in one turn and share its
 * commit. What a step changes in memory is packed before it and put back if its
 * transaction, or the turn, is not kept.
 */

#include <string.h>

#include "broker/lib/log.h"
#include "broker/lib/points.h"
#include "services/lib/operation_private.h"

#define STEP_WAITS         101 /* of conclude(): not to go on now */
#define RETRY_MS           100
#define RETRY_MAX_MS       5000
#define MEMORY_ATTEMPTS    8   /* of a step, or an end, that memory is missing for */
#define UNDO_ATTEMPTS      8   /* of an undo that fails for good */
#define UNDO_ATTEMPTS_AWAY 200 /* of one whose service is away */

struct operation *operation_ref(struct operation *operation)
{
	operation->n_refs++;
	return operation;
}

static void snapshot_clear(struct operation_snapshot *snapshot)
{
	schema_buffer_clear(&snapshot->record);
}

struct operation *operation_unref(struct operation *operation)
{
	if (!operation || --operation->n_refs)
		return NULL;
	loop_timer_cancel(&operation->retry);
	operation_set_data(operation, NULL, NULL);
	if (operation->request)
		schema_clear(operation->type->request(), operation->request);
	if (operation->context)
		schema_clear(operation->type->context(), operation->context);
	free(operation->request);
	free(operation->context);
	operation_record_clear(&operation->record);
	snapshot_clear(&operation->before_turn);
	snapshot_clear(&operation->before_step);
	free(operation);
	return NULL;
}

/* ---- snapshots ---- */

static int take_snapshot(struct operation *operation)
{
	struct operation_snapshot *snapshot = &operation->before_step,
				  *turn = &operation->before_turn;
	int r;

	snapshot->record.size = 0;
	r = operation_pack(operation, &snapshot->record);
	if (r)
		return error_trace(r);
	snapshot->generation = operation->generation;
	snapshot->undo_left = operation->undo_left;
	snapshot->n_outstanding = operation->n_outstanding;
	snapshot->n_attempts = operation->n_attempts;
	snapshot->is_waiting = operation->is_waiting;
	snapshot->is_ended = operation->is_ended;
	if (operation->has_turn_snapshot)
		return 0;
	snapshot_clear(turn);
	*turn = *snapshot;
	turn->record = (struct schema_buffer){};
	operation->has_turn_snapshot = true;
	return schema_buffer_add(&turn->record, snapshot->record.data, snapshot->record.size);
}

static void restore(struct operation *operation, const struct operation_snapshot *snapshot)
{
	int r;

	r = operation_unpack(operation, &snapshot->record);
	if (r)
		service_die(operation->service, r < 0 ? r : -EUCLEAN);
	operation->generation = snapshot->generation;
	operation->undo_left = snapshot->undo_left;
	operation->n_outstanding = snapshot->n_outstanding;
	operation->n_attempts = snapshot->n_attempts;
	operation->is_waiting = snapshot->is_waiting;
	operation->is_ended = snapshot->is_ended;
}

/* A nested transaction, and what can be put back if it is not kept. */
static int begin(struct operation *operation)
{
	int r;

	r = service_begin(operation->service);
	if (r)
		return error_trace(r);
	r = take_snapshot(operation);
	if (r)
		service_end(operation->service, false);
	return error_trace(r);
}

static void restore_turn(struct operation *operation)
{
	if (operation->has_turn_snapshot)
		restore(operation, &operation->before_turn);
	operation->has_turn_snapshot = false;
}

/* ---- ends ---- */

static void ended(void *userdata)
{
	operation_leave(userdata);
}

/* In a nested transaction, which it ends. */
static int end(struct operation *operation)
{
	int r;

	r = operation_delete(operation);
	if (!r)
		r = call_settle(operation->call, true);
	if (!r)
		r = service_after_commit(operation->service, ended, NULL, operation);
	if (r) {
		service_end(operation->service, false);
		return error_trace(r);
	}
	r = service_end(operation->service, true);
	if (r)
		return error_trace(r);
	operation->is_ended = true;
	return STEP_WAITS;
}

static int end_failed(struct operation *operation)
{
	int r;

	r = service_begin(operation->service);
	if (r)
		return error_trace(r);
	call_set_status(operation->call, operation->record.status,
			operation->record.error ? operation->record.error : "");
	return end(operation);
}

/* ---- forward and back ---- */

static const struct operation_step *step_of(const struct operation *operation)
{
	return &operation->type->steps[operation->record.step];
}

static int name_step(struct operation *operation, unsigned step)
{
	operation->record.step = step;
	return schema_set(&operation->record.step_name,
			  step < operation->n_steps ? operation->type->steps[step].name : NULL);
}

/* The failure is stored before anything is undone. */
static int begin_undo(struct operation *operation, unsigned n_steps)
{
	struct operation_record *record = &operation->record;
	int r;

	log_info("operation=%s object=%s step=%s error=\"%s\"", record->method,
		 record->object ? record->object : "", record->step_name ? record->step_name : "",
		 operation->fail_text);
	record->state = OPERATION_UNDOING;
	record->status = operation->fail_status;
	operation->undo_left = n_steps;
	operation->n_attempts = 0;
	call_set_status(operation->call, operation->fail_status, operation->fail_text);
	r = schema_set(&record->error, operation->call->text);
	if (!r && n_steps)
		r = name_step(operation, n_steps - 1);
	if (!r)
		r = service_begin(operation->service);
	if (r)
		return error_trace(r);
	r = operation_put(operation);
	if (r)
		service_end(operation->service, false);
	else
		r = service_end(operation->service, true);
	if (r)
		record->state = OPERATION_RUNNING;
	return error_trace(r);
}

static void retry(struct loop_timer *timer)
{
	operation_queue(container_of(timer, struct operation, retry));
}

/* The step that it is at runs again after a while, longer each time; without a timer, after the next start. */
static int try_later(struct operation *operation)
{
	uint64_t wait_ms = (uint64_t)RETRY_MS
			   << (operation->n_attempts < 6 ? operation->n_attempts : 6);
	int r;

	operation->n_attempts++;
	r = loop_timer_set(operation->service->loop, &operation->retry,
			   time_boot_ms() + (wait_ms < RETRY_MAX_MS ? wait_ms : RETRY_MAX_MS),
			   retry);
	if (r)
		service_die(operation->service, r);
	return STEP_WAITS;
}

static bool is_transient(enum bus_status status)
{
	return status == BUS_UNAVAILABLE || status == BUS_DEADLINE_EXCEEDED ||
	       status == BUS_RESOURCE_EXHAUSTED;
}

/* An undo that cannot be done is left, loudly, rather than keep the others from being done. */
static int undo_failed(struct operation *operation)
{
	unsigned limit = is_transient(operation->fail_status) ? UNDO_ATTEMPTS_AWAY : UNDO_ATTEMPTS;

	if (operation->n_attempts + 1 < limit)
		return try_later(operation);
	log_error("operation=%s object=%s undo=%s error=\"%s\": given up", operation->record.method,
		  operation->record.object ? operation->record.object : "",
		  operation->record.step_name, operation->fail_text);
	operation->undo_left--;
	operation->n_attempts = 0;
	return 0;
}

static int step_succeeded(struct operation *operation)
{
	bool persist = step_of(operation)->persist;
	int r;

	operation->n_attempts = 0;
	if (operation_is_undoing(operation)) {
		operation->undo_left--;
		return error_trace(service_end(operation->service, true));
	}
	r = name_step(operation, (unsigned)operation->record.step + 1);
	if (!r && persist)
		r = operation_put(operation);
	if (r) {
		service_end(operation->service, false);
		restore(operation, &operation->before_step);
		return error_trace(r);
	}
	r = service_end(operation->service, true);
	if (r)
		restore(operation, &operation->before_step);
	return error_trace(r);
}

/* Of what it has led to already nothing is undone: with the same ids it happens once. */
static int step_again(struct operation *operation)
{
	unsigned generation = operation->generation;

	restore(operation, &operation->before_step);
	log_warning("operation=%s object=%s step=%s error=\"%s\": it is tried again",
		    operation->record.method,
		    operation->record.object ? operation->record.object : "",
		    operation->record.step_name,
		    operation->fail_text[0] ? operation->fail_text : "out of memory");
	operation->generation = generation + 1;
	operation->n_outstanding = 0;
	operation->is_waiting = false;
	return try_later(operation);
}

/* @r: what the step (or what followed it) returned; its transaction is open. 0: go on. */
static int conclude(struct operation *operation, int r)
{
	struct service *service = operation->service;
	int failure = store_failure(service->store);

	if (failure) {
		service_end(service, false);
		restore(operation, &operation->before_step);
		return failure;
	}
	if (r == OPERATION_LATER || (r == 0 && operation->n_outstanding)) {
		operation->is_waiting = true;
		r = service_end(service, true);
		return r ? error_trace(r) : STEP_WAITS;
	}
	operation->is_waiting = false;
	if (!r)
		return error_trace(step_succeeded(operation));
	service_end(service, false);
	if (r == -ENOMEM && !operation_is_undoing(operation) &&
	    operation->n_attempts + 1 < MEMORY_ATTEMPTS)
		return step_again(operation);
	if (r != OPERATION_FAILED && !operation->fail_text[0])
		operation_fail(operation, BUS_INTERNAL, "step '%s' of %s failed: %s",
			       operation->record.step_name, operation->record.method,
			       r < 0 ? strerror(-r) : "unexpected result");
	operation->generation++;
	if (operation_is_undoing(operation))
		return undo_failed(operation);
	r = begin_undo(operation, (unsigned)operation->record.step + 1);
	if (r)
		restore(operation, &operation->before_step);
	return error_trace(r);
}

static int run_step(struct operation *operation, int (*run)(struct operation *operation))
{
	int r;

	r = begin(operation);
	if (r)
		return r;
	operation->generation++;
	operation->n_outstanding = 0;
	operation->fail_status = BUS_INTERNAL;
	operation->fail_text[0] = '\0';
	r = -point("%s.%s.%s", operation_is_undoing(operation) ? "undo" : "step",
		   operation->record.method, operation->record.step_name);
	return conclude(operation, r ?: run(operation));
}

/* @r: why; its transaction is no more. Nothing is undone: what was asked for is done. */
static int end_later(struct operation *operation, int r)
{
	if (operation->n_attempts + 1 >= MEMORY_ATTEMPTS)
		return error_trace(r);
	log_warning("operation=%s object=%s error=\"no memory for its reply\": it is tried again",
		    operation->record.method,
		    operation->record.object ? operation->record.object : "");
	return try_later(operation);
}

/* In a nested transaction: the reply, which the caller finds in @operation's call. */
static int make_reply(struct operation *operation)
{
	const struct schema_message *schema = operation->type->reply();
	_cleanup_(cleanup_free) void *reply = calloc(1, schema->size + 1);
	int r = 0;

	if (!reply)
		return error_origin(-ENOMEM);
	operation->fail_text[0] = '\0';
	if (operation->type->finish)
		r = operation->type->finish(operation, reply);
	if (!r)
		r = call_set_reply(operation->call, schema, reply);
	schema_clear(schema, reply);
	return r;
}

static int finish(struct operation *operation)
{
	struct service *service = operation->service;
	int r, failure;

	r = begin(operation);
	if (r)
		return r;
	r = make_reply(operation);
	failure = store_failure(service->store);
	if (!r && !failure)
		return end(operation);
	service_end(service, false);
	if (failure || r == -ENOMEM)
		restore(operation, &operation->before_step);
	if (failure)
		return failure;
	if (r == -ENOMEM)
		return end_later(operation, r);
	if (r != OPERATION_FAILED)
		operation_fail(operation, BUS_INTERNAL, "the end of %s failed: %s",
			       operation->record.method,
			       r < 0 ? strerror(-r) : "unexpected result");
	r = begin_undo(operation, operation->n_steps);
	if (r)
		restore(operation, &operation->before_step);
	return error_trace(r);
}

static int undo_one(struct operation *operation)
{
	int (*undo)(struct operation *) = operation->type->steps[operation->undo_left - 1].undo;
	int r;

	r = name_step(operation, operation->undo_left - 1);
	if (r)
		return error_trace(r);
	if (undo)
		return run_step(operation, undo);
	operation->undo_left--;
	return 0;
}

/* 0: go on. */
static int advance_once(struct operation *operation)
{
	if (operation_is_undoing(operation))
		return operation->undo_left ? undo_one(operation) : end_failed(operation);
	if (operation->record.cancelled) {
		operation_fail(operation, BUS_CANCELED, "%s of '%s' was cancelled",
			       operation->record.method,
			       operation->record.object ? operation->record.object : "");
		/* The step that it is at may have been cut by a crash. */
		return begin_undo(operation, operation->record.step < operation->n_steps
						     ? (unsigned)operation->record.step + 1
						     : operation->n_steps);
	}
	if (operation->record.step >= operation->n_steps)
		return finish(operation);
	return run_step(operation, step_of(operation)->run);
}

/* A service that drains begins no further step: the next instance does. */
static int advance(struct operation *operation)
{
	int r = 0;

	while (!r && !operation->service->is_draining)
		r = advance_once(operation);
	return r == STEP_WAITS ? 0 : error_trace(r);
}

/* ---- jobs: to go on, and results ---- */

static int job_run(struct service *service, struct job *job)
{
	struct operation *operation = container_of(job, struct operation, job);

	(void)service;
	if (operation->is_gone || operation->is_ended || operation->is_waiting) {
		operation->is_queued = false;
		operation_unref(operation);
		return JOB_GONE;
	}
	return advance(operation);
}

static void job_again(struct job *job)
{
	struct operation *operation = container_of(job, struct operation, job);

	if (!operation->is_gone)
		restore_turn(operation);
}

static void job_refuse(struct service *service, struct job *job, int r)
{
	struct operation *operation = container_of(job, struct operation, job);

	(void)r;
	job_again(job);
	if (operation->is_gone)
		operation_unref(operation);
	else
		job_list_add(&service->stalled, job);
}

static void job_done(struct service *service, struct job *job)
{
	struct operation *operation = container_of(job, struct operation, job);

	(void)service;
	operation->has_turn_snapshot = false;
	operation->is_queued = false;
	operation_unref(operation);
}

const struct job operation_job = {
	.run = job_run, .refuse = job_refuse, .again = job_again, .done = job_done};

void operation_queue(struct operation *operation)
{
	if (operation->is_queued)
		return;
	operation->is_queued = true;
	service_queue(operation->service, &operation_ref(operation)->job);
}

static void result_free(struct operation_result *result)
{
	operation_effect_free(result->effect);
	operation_unref(result->operation);
	schema_bytes_clear(&result->body);
	free(result->text);
	free(result);
}

/* Inside the nested transaction: unpacked anew each time, for @done may take things out of the reply. */
static int give_reply(struct operation *operation, struct operation_result *result)
{
	const struct schema_message *schema = result->effect->method->reply();
	_cleanup_(cleanup_free) void *reply = calloc(1, schema->size + 1);
	struct schema_fault fault = {};
	int r;

	if (!result->effect->done)
		return 0;
	if (!reply)
		return error_origin(-ENOMEM);
	r = schema_unpack(schema, result->body.data, result->body.size, reply, &fault);
	if (r > 0)
		return operation_fail(operation, BUS_INTERNAL, "%s.%s answered something else: %s",
				      result->effect->method->service, result->effect->method->name,
				      fault.text);
	if (r)
		return error_trace(r);
	r = result->effect->done(operation, reply);
	schema_clear(schema, reply);
	return r;
}

static int take_result(struct operation *operation, struct operation_result *result)
{
	if (result->is_short_of_memory) {
		operation_fail(operation, BUS_INTERNAL, "%s", result->text);
		return error_origin(-ENOMEM);
	}
	if (result->status == BUS_OK)
		return result->effect ? give_reply(operation, result) : 0;
	/* Of an undo: what is to go is gone. */
	if (result->status == BUS_NOT_FOUND && result->effect &&
	    (result->effect->may_be_gone || operation_is_undoing(operation)))
		return 0;
	return operation_fail(operation, result->status, "%s", result->text);
}

static int result_run(struct service *service, struct job *job)
{
	struct operation_result *result = container_of(job, struct operation_result, job);
	struct operation *operation = result->operation;
	int r;

	(void)service;
	if (operation->is_gone || operation->is_ended || !operation->is_waiting ||
	    result->generation != operation->generation) {
		result_free(result);
		return JOB_GONE;
	}
	r = begin(operation);
	if (r)
		return r;
	operation->fail_text[0] = '\0';
	r = conclude(operation, take_result(operation, result));
	if (r)
		return r == STEP_WAITS ? 0 : error_trace(r);
	/* That step's result is settled, the next ones are another job: they may be run again alone. */
	operation_queue(operation);
	return 0;
}

static void result_again(struct job *job)
{
	struct operation_result *result = container_of(job, struct operation_result, job);

	if (!result->operation->is_gone)
		restore_turn(result->operation);
}

static void result_refuse(struct service *service, struct job *job, int r)
{
	struct operation_result *result = container_of(job, struct operation_result, job);

	(void)r;
	result_again(job);
	if (result->operation->is_gone)
		result_free(result);
	else
		job_list_add(&service->stalled, job);
}

static void result_done(struct service *service, struct job *job)
{
	struct operation_result *result = container_of(job, struct operation_result, job);

	(void)service;
	result->operation->has_turn_snapshot = false;
	result_free(result);
}

static struct operation_result *result_new(struct operation *operation)
{
	struct operation_result *result = calloc(1, sizeof(*result));

	if (result)
		*result = (struct operation_result){
			.job = {.run = result_run,
				.refuse = result_refuse,
				.again = result_again,
				.done = result_done},
			.operation = operation_ref(operation),
			.generation = operation->generation,
		};
	return result;
}

void operation_queue_result(struct operation *operation, struct operation_effect *effect,
			    enum bus_status status, const char *text, const void *body, size_t size)
{
	struct operation_result *result = result_new(operation);
	int r = -ENOMEM;

	if (result) {
		result->status = status;
		result->effect = effect;
		result->text = strdup(text ? text : "");
		r = result->text ? schema_bytes_set(&result->body, body, size) : -ENOMEM;
	}
	/* Without it the step would never end: the next start asks again with the same ids. */
	if (r)
		service_die(operation->service, r);
	service_queue(operation->service, &result->job);
}

void operation_step_again(struct operation *operation, const char *text)
{
	struct operation_result *result = result_new(operation);

	if (result)
		result->text = strdup(text);
	if (!result || !result->text)
		service_die(operation->service, -ENOMEM);
	result->is_short_of_memory = true;
	service_queue(operation->service, &result->job);
}
