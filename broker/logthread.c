#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "broker/lib/cleanup.h"
#include "broker/lib/file.h"
#include "broker/lib/log.h"
#include "broker/logthread.h"
#include "broker/publish.h"

#define GROUP_WEIGHT_MAX 4096 /* rows in one transaction */
#define TRIM_STEP        256  /* events trimmed at a time, beyond twice what is appended */
#define SILENCE_MS       900  /* until a heartbeat: within a second, with the thread's own delay */
#define AGE_ROUNDS       60   /* heartbeats between two looks at the age of the oldest */
#define MAP_SIZE_MIN     ((size_t)256 << 20)

struct logthread {
	struct log_db *db;
	struct publish *publish;
	struct logthread_options options;
	uint8_t log_id[ENVELOPE_ID_SIZE];
	pthread_t thread;

	pthread_mutex_t lock; /* of what follows */
	pthread_cond_t wake;
	struct log_job *first, **last;
	bool is_ending;
	struct logthread_figures figures;

	/* The thread's own. */
	uint64_t spoke_at_ms; /* last message on PUB */
	unsigned n_silent;
	bool may_trim; /* the last step left something */
	bool is_failing;
};

/* ---- one group ---- */

struct group {
	struct log_job *jobs;
	struct broker_log_meta meta;
	bool has_trimmed;
};

static int run_jobs(struct logthread *logthread, struct group *group, struct log_txn *txn)
{
	size_t trimmed = 0;
	uint64_t before;
	int r;

	r = eventlog_load(txn, &group->meta);
	before = r ? 0 : group->meta.next_seq;
	for (struct log_job *job = group->jobs; job && !r; job = job->next)
		r = job->run(job, txn, &group->meta);
	if (!r)
		r = eventlog_trim(txn, &group->meta, &logthread->options.limits, time_real_ns(),
				  TRIM_STEP + 2 * (group->meta.next_seq - before), &trimmed);
	if (!r)
		r = eventlog_save(txn, &group->meta);
	group->has_trimmed = trimmed > 0;
	return r;
}

static int run_group_once(struct logthread *logthread, struct group *group)
{
	_cleanup_(log_abortp) struct log_txn *txn = NULL;
	int r;

	broker_log_meta_clear(&group->meta);
	r = log_begin(logthread->db, true, &txn);
	if (!r)
		r = run_jobs(logthread, group, txn);
	if (!r)
		r = log_commit(TAKE(txn));
	return r;
}

/* What the disk says after a failed sync cannot be trusted: the next process reads it anew. */
static void end_process(int r)
{
	log_error("the event log cannot be written any more (%s): ending", strerror(-r));
	_exit(75);
}

static int run_group(struct logthread *logthread, struct group *group)
{
	int r;

	r = run_group_once(logthread, group);
	if (r == LOG_E_FULL && !log_db_grow(logthread->db))
		r = run_group_once(logthread, group);
	if (r == -EIO)
		end_process(r);
	return r;
}

static void note(struct logthread *logthread, const struct group *group, uint64_t ns)
{
	struct logthread_figures *figures = &logthread->figures;

	pthread_mutex_lock(&logthread->lock);
	figures->n_events += group->meta.next_seq - 1 - figures->last_seq;
	figures->first_seq = group->meta.first_seq;
	figures->last_seq = group->meta.next_seq - 1;
	figures->bytes = group->meta.bytes;
	figures->publishers = group->meta.publishers;
	figures->n_commits++;
	if (ns > figures->commit_ns_max)
		figures->commit_ns_max = ns;
	pthread_mutex_unlock(&logthread->lock);
}

/* Once when it begins, once when it is over. */
static void report(struct logthread *logthread, int r)
{
	if (r && !logthread->is_failing)
		log_error("the event log cannot be written: %s; nothing is taken until it can",
			  r > 0 ? "there is no space" : strerror(-r));
	else if (!r && logthread->is_failing)
		log_info("the event log can be written again");
	logthread->is_failing = r != 0;
}

static void handle_group(struct logthread *logthread, struct log_job *jobs)
{
	_cleanup_(broker_log_meta_clear) struct broker_log_meta meta = {};
	struct group group = {.jobs = jobs};
	uint64_t begin = time_boot_ns(), last = logthread->figures.last_seq;
	int r;

	r = run_group(logthread, &group);
	if (!r)
		note(logthread, &group, time_boot_ns() - begin);
	logthread->may_trim = !r && group.has_trimmed;
	report(logthread, r);
	meta = group.meta;
	/* Readers find it in the log: they need not wait for PUB. */
	if (!r && logthread->figures.last_seq != last && logthread->options.advanced)
		logthread->options.advanced(logthread->options.userdata);
	while (jobs) {
		struct log_job *job = jobs;

		jobs = job->next;
		job->done(job, logthread, r);
	}
}

/* ---- the thread ---- */

/* When the silence on PUB has lasted long enough, or the next step of trimming is due. */
static struct timespec wait_until(const struct logthread *logthread)
{
	uint64_t now = time_boot_ms(), at = logthread->spoke_at_ms + SILENCE_MS;
	uint64_t ms = logthread->may_trim ? 1 : at > now ? at - now : 0;
	struct timespec until;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += (time_t)(ms / 1000);
	until.tv_nsec += (long)(ms % 1000) * 1000000;
	if (until.tv_nsec >= 1000000000) {
		until.tv_sec++;
		until.tv_nsec -= 1000000000;
	}
	return until;
}

/* Waits for something to do; takes what there is up to the bound. */
static struct log_job *take_jobs(struct logthread *logthread, bool *ret_ending)
{
	struct timespec until = wait_until(logthread);
	struct log_job *jobs, **at;
	size_t weight = 0;

	pthread_mutex_lock(&logthread->lock);
	while (!logthread->first && !logthread->is_ending)
		if (pthread_cond_timedwait(&logthread->wake, &logthread->lock, &until))
			break;
	jobs = logthread->first;
	for (at = &logthread->first; *at && weight < GROUP_WEIGHT_MAX; at = &(*at)->next)
		weight += (*at)->weight;
	logthread->first = *at;
	*at = NULL;
	if (!logthread->first)
		logthread->last = &logthread->first;
	*ret_ending = logthread->is_ending && !jobs;
	pthread_mutex_unlock(&logthread->lock);
	return jobs;
}

/* A lost tail shows by the heartbeat; the age of the oldest event is looked at now and then. */
static void break_silence(struct logthread *logthread)
{
	publish_heartbeat(logthread->publish, logthread->log_id, logthread->figures.last_seq);
	logthread->spoke_at_ms = time_boot_ms();
	if (++logthread->n_silent % AGE_ROUNDS == 0) {
		log_db_check_readers(logthread->db);
		handle_group(logthread, NULL);
	}
}

static void *run_thread(void *userdata)
{
	struct logthread *logthread = userdata;
	bool is_ending = false;

	while (!is_ending) {
		struct log_job *jobs = take_jobs(logthread, &is_ending);

		if (jobs || logthread->may_trim)
			handle_group(logthread, jobs);
		if (time_boot_ms() >= logthread->spoke_at_ms + SILENCE_MS)
			break_silence(logthread);
	}
	return NULL;
}

/* ---- its life ---- */

static int load(struct logthread *logthread)
{
	_cleanup_(broker_log_meta_clear) struct broker_log_meta meta = {};
	_cleanup_(log_abortp) struct log_txn *txn = NULL;
	int r;

	r = log_begin(logthread->db, true, &txn);
	if (!r)
		r = eventlog_load(txn, &meta);
	if (!r)
		r = log_commit(TAKE(txn));
	if (r)
		return error_fold(r);
	memcpy(logthread->log_id, meta.log_id.data, ENVELOPE_ID_SIZE);
	logthread->figures.first_seq = meta.first_seq;
	logthread->figures.last_seq = meta.next_seq - 1;
	logthread->figures.bytes = meta.bytes;
	logthread->figures.publishers = meta.publishers;
	return 0;
}

static int start(struct logthread *logthread)
{
	pthread_condattr_t attributes;
	int r;

	pthread_mutex_init(&logthread->lock, NULL);
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&logthread->wake, &attributes);
	pthread_condattr_destroy(&attributes);
	logthread->may_trim = true;
	r = pthread_create(&logthread->thread, NULL, run_thread, logthread);
	return r ? error_origin(-r) : 0;
}

int logthread_new(const struct logthread_options *options, struct logthread **ret_logthread,
		  struct why *why)
{
	struct logthread *logthread = calloc(1, sizeof(*logthread));
	size_t map_size = options->map_size;
	int r;

	if (!logthread)
		return error_origin(-ENOMEM);
	logthread->options = *options;
	logthread->last = &logthread->first;
	if (map_size == 0)
		map_size = MAP_SIZE_MIN + 4 * options->limits.max_bytes;
	r = log_db_open(options->directory, map_size & ~(size_t)0xfff, &logthread->db, why);
	if (!r)
		r = load(logthread);
	if (!r)
		r = publish_new(options->pub, options->n_subscribers, &logthread->publish);
	if (!r)
		r = start(logthread);
	if (r) {
		log_db_close(logthread->db);
		publish_free(logthread->publish);
		free(logthread);
		why_errno(why, r, "the event log in %s cannot be used", options->directory);
		return error_trace(r);
	}
	*ret_logthread = logthread;
	return 0;
}

struct logthread *logthread_free(struct logthread *logthread)
{
	if (!logthread)
		return NULL;
	pthread_mutex_lock(&logthread->lock);
	logthread->is_ending = true;
	pthread_cond_signal(&logthread->wake);
	pthread_mutex_unlock(&logthread->lock);
	pthread_join(logthread->thread, NULL);
	pthread_mutex_destroy(&logthread->lock);
	pthread_cond_destroy(&logthread->wake);
	log_db_close(logthread->db);
	publish_free(logthread->publish);
	free(logthread);
	return NULL;
}

void logthread_post(struct logthread *logthread, struct log_job *job)
{
	job->next = NULL;
	pthread_mutex_lock(&logthread->lock);
	*logthread->last = job;
	logthread->last = &job->next;
	pthread_cond_signal(&logthread->wake);
	pthread_mutex_unlock(&logthread->lock);
}

struct log_db *logthread_db(struct logthread *logthread)
{
	return logthread->db;
}

const uint8_t *logthread_log_id(const struct logthread *logthread)
{
	return logthread->log_id;
}

struct logthread_figures logthread_figures(struct logthread *logthread)
{
	struct logthread_figures figures;

	pthread_mutex_lock(&logthread->lock);
	figures = logthread->figures;
	pthread_mutex_unlock(&logthread->lock);
	return figures;
}

void logthread_publish(struct logthread *logthread, const struct envelope_event *event)
{
	publish_event(logthread->publish, event);
	logthread->spoke_at_ms = time_boot_ms();
}
