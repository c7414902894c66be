#include <stdlib.h>
#include <string.h>

#include "broker/cursor.h"

struct cursor_job {
	struct log_job job;
	struct errand errand;
	struct broker *broker;
	char *name;
	bool is_delete;
	uint64_t from, ack;
	enum bus_status status;
	cursor_fn fn;
	void *userdata;
};

static void job_freep(struct cursor_job **at)
{
	if (*at)
		free((*at)->name);
	free(*at);
}

/* ---- on the log's thread ---- */

static int run_delete(struct cursor_job *job, struct log_txn *txn)
{
	struct log_key key = log_key_text(job->name);
	int r;

	r = log_delete(txn, LOG_CURSORS, &key);
	job->status = r == LOG_E_NOT_FOUND ? BUS_NOT_FOUND : BUS_OK;
	return r == LOG_E_NOT_FOUND ? 0 : r;
}

static int run(struct log_job *log_job, struct log_txn *txn, struct broker_log_meta *meta)
{
	struct cursor_job *job = container_of(log_job, struct cursor_job, job);
	uint64_t ack = job->ack;
	int r;

	if (job->is_delete)
		return run_delete(job, txn);
	r = eventlog_move_cursor(txn, meta, job->name, job->from, job->ack, time_real_ns(), &ack,
				 &job->status);
	/* Where it stands now; moving it there again changes nothing. */
	if (!r && job->status == BUS_OK)
		job->ack = ack;
	return r;
}

static void finish_on_loop(struct errand *errand)
{
	_cleanup_(job_freep) struct cursor_job *job = container_of(errand, struct cursor_job,
								   errand);

	job->fn(job->userdata, job->status, job->ack);
}

static void done(struct log_job *log_job, struct logthread *logthread, int r)
{
	struct cursor_job *job = container_of(log_job, struct cursor_job, job);

	(void)logthread;
	if (r)
		job->status = BUS_RESOURCE_EXHAUSTED;
	broker_post(job->broker, &job->errand, finish_on_loop);
}

/* ---- on the loop's thread ---- */

static int make_job(struct broker *broker, cursor_fn fn, void *userdata,
		    struct cursor_job **ret_job)
{
	struct cursor_job *job = calloc(1, sizeof(*job));

	if (!job)
		return error_origin(-ENOMEM);
	job->job = (struct log_job){.run = run, .done = done, .weight = 1};
	job->broker = broker;
	job->fn = fn;
	job->userdata = userdata;
	*ret_job = job;
	return 0;
}

static int post(struct broker *broker, const char *name, bool is_delete, uint64_t from,
		uint64_t ack, cursor_fn fn, void *userdata)
{
	_cleanup_(job_freep) struct cursor_job *job = NULL;
	int r;

	r = make_job(broker, fn, userdata, &job);
	if (!r)
		r = schema_set(&job->name, name);
	if (r)
		return error_trace(r);
	job->is_delete = is_delete;
	job->from = from;
	job->ack = ack;
	logthread_post(broker->logthread, &TAKE(job)->job);
	return 0;
}

int cursor_move(struct broker *broker, const char *name, uint64_t from, uint64_t ack, cursor_fn fn,
		void *userdata)
{
	return post(broker, name, false, from, ack, fn, userdata);
}

int cursor_delete(struct broker *broker, const char *name, cursor_fn fn, void *userdata)
{
	return post(broker, name, true, 0, 0, fn, userdata);
}

int cursor_find(struct broker *broker, const char *name, uint64_t *ret_ack)
{
	_cleanup_(log_abortp) struct log_txn *txn = NULL;
	int r;

	r = log_begin(logthread_db(broker->logthread), false, &txn);
	if (r)
		return error_trace(r);
	return eventlog_find_cursor(txn, name, ret_ack);
}

int cursor_list(struct broker *broker, struct event_cursors_reply *reply)
{
	_cleanup_(log_abortp) struct log_txn *txn = NULL;
	int r;

	r = log_begin(logthread_db(broker->logthread), false, &txn);
	if (r)
		return error_trace(r);
	return error_fold(eventlog_list_cursors(txn, reply));
}

int cursor_count(struct broker *broker, size_t *ret_count)
{
	_cleanup_(log_abortp) struct log_txn *txn = NULL;
	int r;

	r = log_begin(logthread_db(broker->logthread), false, &txn);
	if (r)
		return error_trace(r);
	return error_fold(log_count(txn, LOG_CURSORS, ret_count));
}
