#include <stdlib.h>
#include <string.h>

#include "broker/eventread.h"

/* A batch on its way into the log, and the caller who waits for it. */
struct publish_job {
	struct log_job job;
	struct caller *caller;
	struct event_publish_request request;
	struct eventlog_appended appended;
};

static void job_freep(struct publish_job **at)
{
	if (*at)
		event_publish_request_clear(&(*at)->request);
	free(*at);
}

static int run(struct log_job *log_job, struct log_txn *txn, struct broker_log_meta *meta)
{
	struct publish_job *job = container_of(log_job, struct publish_job, job);

	return eventlog_append(txn, meta, &job->request, time_real_ns(), &job->appended);
}

static void answer(struct publish_job *job, int r)
{
	_cleanup_(schema_buffer_clear) struct schema_buffer body = {};
	const struct eventlog_appended *appended = &job->appended;
	struct event_publish_reply reply = {
		.next_seq = appended->next_seq,
		.last_seq = appended->n_new > 0 ? appended->first_seq + appended->n_new - 1 : 0,
	};

	if (r || schema_pack(schema_event_publish_reply(), &reply, &body, NULL))
		caller_answer(job->caller, BUS_RESOURCE_EXHAUSTED,
			      "the event log could not be written; try again in 1 s", NULL, 0);
	else
		caller_answer(job->caller, appended->status, appended->text, body.data, body.size);
}

static void send_out(const struct publish_job *job, struct logthread *logthread)
{
	const struct eventlog_appended *appended = &job->appended;

	for (size_t i = 0; i < appended->n_new; i++) {
		const struct event_item *item = &job->request.events.items[appended->n_repeats + i];
		struct envelope_event event = {
			.seq = appended->first_seq + i,
			.time_ns = item->time_ns,
			.publisher_seq = item->seq,
			.event = {item->event.data, item->event.size},
		};

		memcpy(event.log_id, logthread_log_id(logthread), sizeof(event.log_id));
		memcpy(event.publisher, job->request.publisher.data, sizeof(event.publisher));
		strcpy(event.topic, item->topic);
		strcpy(event.namespace, item->namespace ? item->namespace : "");
		strcpy(event.object, item->object ? item->object : "");
		logthread_publish(logthread, &event);
	}
}

static void done(struct log_job *log_job, struct logthread *logthread, int r)
{
	_cleanup_(job_freep) struct publish_job *job = container_of(log_job, struct publish_job,
								    job);

	answer(job, r);
	if (!r)
		send_out(job, logthread);
}

void eventread_publish(struct broker *broker, struct caller *caller)
{
	_cleanup_(job_freep) struct publish_job *job = calloc(1, sizeof(*job));
	struct schema_fault fault = {};

	if (!job) {
		caller_answer(caller, BUS_RESOURCE_EXHAUSTED,
			      "the broker is out of memory; try again in 1 s", NULL, 0);
		return;
	}
	job->job = (struct log_job){.run = run, .done = done};
	job->caller = caller;
	if (!caller_unpack(caller, schema_event_publish_request(), &job->request))
		return;
	if (eventlog_check(&job->request, &fault)) {
		caller_answer(caller, BUS_INVALID_ARGUMENT, fault.text, NULL, 0);
		return;
	}
	job->job.weight = job->request.events.count;
	logthread_post(broker->logthread, &TAKE(job)->job);
}
