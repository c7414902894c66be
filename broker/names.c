#include <stdlib.h>
#include <string.h>

#include "broker/lib/log.h"
#include "broker/names.h"

/* One write to the store, and who waits for it. */
struct names_job {
	struct log_job job;
	struct errand errand;
	struct broker *broker;
	struct schema_strs names;
	struct broker_name_record record;
	bool is_forget;
	void (*done)(void *userdata, int r);
	void *userdata;
	int r;
};

static void job_freep(struct names_job **at)
{
	if (!*at)
		return;
	schema_strs_clear(&(*at)->names);
	broker_name_record_clear(&(*at)->record);
	free(*at);
}

static int run(struct log_job *log_job, struct log_txn *txn, struct broker_log_meta *meta)
{
	struct names_job *job = container_of(log_job, struct names_job, job);
	int r = 0;

	(void)meta;
	for (size_t i = 0; i < job->names.count && !r; i++) {
		struct log_key key = log_key_text(job->names.items[i]);

		if (!job->is_forget)
			r = log_put(txn, LOG_NAMES, &key, schema_broker_name_record(), &job->record,
				    NULL);
		else if ((r = log_delete(txn, LOG_NAMES, &key)) == LOG_E_NOT_FOUND)
			r = 0;
	}
	return r;
}

static void finish_on_loop(struct errand *errand)
{
	_cleanup_(job_freep) struct names_job *job = container_of(errand, struct names_job, errand);

	job->done(job->userdata, job->r);
}

static void done(struct log_job *log_job, struct logthread *logthread, int r)
{
	struct names_job *job = container_of(log_job, struct names_job, job);

	(void)logthread;
	job->r = r;
	broker_post(job->broker, &job->errand, finish_on_loop);
}

static int make_job(struct broker *broker, void (*done_fn)(void *userdata, int r), void *userdata,
		    struct names_job **ret_job)
{
	struct names_job *job = calloc(1, sizeof(*job));

	if (!job)
		return error_origin(-ENOMEM);
	job->job = (struct log_job){.run = run, .done = done, .weight = 1};
	job->broker = broker;
	job->done = done_fn;
	job->userdata = userdata;
	*ret_job = job;
	return 0;
}

int names_find(struct broker *broker, const char *name, struct broker_name_record *ret_record)
{
	_cleanup_(log_abortp) struct log_txn *txn = NULL;
	struct log_key key = log_key_text(name);
	int r;

	r = log_begin(logthread_db(broker->logthread), false, &txn);
	if (r)
		return error_trace(r);
	return log_get(txn, LOG_NAMES, &key, schema_broker_name_record(), ret_record, NULL);
}

static bool is_same(const char *a, const char *b)
{
	return strcmp(a ? a : "", b ? b : "") == 0;
}

int names_keep(struct broker *broker, const struct registry_register_request *request,
	       bool *ret_need_schema, void (*done_fn)(void *userdata, int r), void *userdata)
{
	_cleanup_(broker_name_record_clear) struct broker_name_record known = {};
	_cleanup_(job_freep) struct names_job *job = NULL;
	bool is_program, is_news, has_schema = request->schema && request->schema[0];
	int r = 0, found = 0;

	/* All names of an instance are stored together: the last says what is known of each. */
	for (size_t i = 0; i < request->names.count && !r && !found; i++) {
		broker_name_record_clear(&known);
		found = names_find(broker, request->names.items[i], &known);
		r = found < 0 ? found : 0;
	}
	if (r)
		return error_trace(r);
	is_program = !found && is_same(known.program, request->program);
	is_news = !is_program || (has_schema && !is_same(known.schema, request->schema));
	*ret_need_schema = !has_schema && (!is_program || !known.schema);
	if (!is_news)
		return 0;
	r = make_job(broker, done_fn, userdata, &job);
	if (!r)
		r = schema_strs_copy(&request->names, &job->names);
	if (!r)
		r = schema_set(&job->record.program, request->program);
	if (!r)
		r = schema_set(&job->record.schema, has_schema ? request->schema : known.schema);
	if (r)
		return error_fold(r);
	logthread_post(broker->logthread, &TAKE(job)->job);
	return 1;
}

int names_forget(struct broker *broker, const char *name, void (*done_fn)(void *userdata, int r),
		 void *userdata)
{
	_cleanup_(job_freep) struct names_job *job = NULL;
	int r;

	r = make_job(broker, done_fn, userdata, &job);
	if (!r)
		r = schema_strs_add(&job->names, name);
	if (r)
		return error_fold(r);
	job->is_forget = true;
	logthread_post(broker->logthread, &TAKE(job)->job);
	return 0;
}

int names_load(struct broker *broker)
{
	_cleanup_(log_abortp) struct log_txn *txn = NULL;
	struct log_key key = {};
	int r;

	r = log_begin(logthread_db(broker->logthread), false, &txn);
	if (r)
		return error_trace(r);
	while (!(r = log_next_key(txn, LOG_NAMES, &key))) {
		char name[LOG_KEY_MAX + 1] = {};

		memcpy(name, key.data, key.size);
		if (!route_add_service(&broker->router, name))
			log_warning("service '%s' of the store is left out: too many", name);
	}
	return r == LOG_E_NOT_FOUND ? 0 : error_trace(r);
}
