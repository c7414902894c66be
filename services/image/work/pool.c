/* Threads that move blobs: see pool.h. */

#include <pthread.h>
#include <string.h>
#include <time.h>

#include "services/image/work/channel.h"
#include "services/image/work/pool.h"

#define STACK_BYTES 262144
#define PROGRESS_MS 250
#define TOLD_MAX    512 /* blobs in one note */

struct pool {
	int channel;
	pool_fn fn;
	void *userdata;
	pthread_mutex_t lock;
	pthread_cond_t work, ended;
	pthread_t threads[POOL_THREADS_MAX];
	unsigned n_threads;
	bool is_closing;
	struct job **jobs;
	size_t n_jobs;
	uint64_t told_ms;
};

static uint64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* ---- threads ---- */

static struct job *next_job(struct pool *pool)
{
	for (size_t i = 0; i < pool->n_jobs; i++) {
		struct job *job = pool->jobs[i];

		if (!job->is_taken && !job->is_ended) {
			job->is_taken = true;
			return job;
		}
	}
	return NULL;
}

static void run_job(struct pool *pool, struct http *http, struct job *job)
{
	struct why why = {};
	int r;

	pthread_mutex_unlock(&pool->lock);
	r = pool->fn(pool->userdata, http, job, &why);
	pthread_mutex_lock(&pool->lock);
	job->r = r;
	job->why = why;
	job->is_ended = true;
	pthread_cond_signal(&pool->ended);
}

static void *run(void *userdata)
{
	_cleanup_(http_freep) struct http *http = NULL;
	struct pool *pool = userdata;
	int r = http_new(&http);

	pthread_mutex_lock(&pool->lock);
	while (!pool->is_closing) {
		struct job *job = next_job(pool);

		if (!job) {
			pthread_cond_wait(&pool->work, &pool->lock);
		} else if (r) {
			job->r = r;
			job->is_ended = true;
			pthread_cond_signal(&pool->ended);
		} else {
			run_job(pool, http, job);
		}
	}
	pthread_mutex_unlock(&pool->lock);
	return NULL;
}

static int start_threads(struct pool *pool, unsigned n_threads)
{
	pthread_attr_t attributes;
	int r = 0;

	pthread_attr_init(&attributes);
	pthread_attr_setstacksize(&attributes, STACK_BYTES);
	while (!r && pool->n_threads < n_threads) {
		r = pthread_create(&pool->threads[pool->n_threads], &attributes, run, pool);
		if (!r)
			pool->n_threads++;
	}
	pthread_attr_destroy(&attributes);
	return pool->n_threads ? 0 : -r;
}

int pool_new(unsigned n_threads, int channel, pool_fn fn, void *userdata, struct pool **ret_pool,
	     struct why *why)
{
	_cleanup_(pool_freep) struct pool *pool = calloc(1, sizeof(*pool));
	pthread_condattr_t attributes;
	int r;

	if (!pool)
		return error_origin(-ENOMEM);
	pool->channel = channel;
	pool->fn = fn;
	pool->userdata = userdata;
	pthread_mutex_init(&pool->lock, NULL);
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&pool->work, NULL);
	pthread_cond_init(&pool->ended, &attributes);
	pthread_condattr_destroy(&attributes);
	n_threads = n_threads ?: POOL_THREADS_DEFAULT;
	r = start_threads(pool, n_threads < POOL_THREADS_MAX ? n_threads : POOL_THREADS_MAX);
	if (r)
		return why_errno(why, error_origin(r), "cannot start threads");
	*ret_pool = TAKE(pool);
	return 0;
}

struct pool *pool_free(struct pool *pool)
{
	if (!pool)
		return NULL;
	pthread_mutex_lock(&pool->lock);
	pool->is_closing = true;
	pthread_cond_broadcast(&pool->work);
	pthread_mutex_unlock(&pool->lock);
	for (unsigned i = 0; i < pool->n_threads; i++)
		pthread_join(pool->threads[i], NULL);
	for (size_t i = 0; i < pool->n_jobs; i++) {
		descriptor_clear(&pool->jobs[i]->blob);
		work_answer_clear(&pool->jobs[i]->answer);
		close_fd(pool->jobs[i]->fd);
		free(pool->jobs[i]);
	}
	free(pool->jobs);
	pthread_cond_destroy(&pool->work);
	pthread_cond_destroy(&pool->ended);
	pthread_mutex_destroy(&pool->lock);
	free(pool);
	return NULL;
}

void pool_freep(struct pool **pool)
{
	*pool = pool_free(*pool);
}

/* ---- jobs ---- */

static struct job *find_job(const struct pool *pool, const char *digest)
{
	for (size_t i = 0; i < pool->n_jobs; i++) {
		if (!strcmp(pool->jobs[i]->blob.digest, digest))
			return pool->jobs[i];
	}
	return NULL;
}

static int insert(struct pool *pool, struct job *job)
{
	struct job **jobs;

	pthread_mutex_lock(&pool->lock);
	jobs = reallocarray(pool->jobs, pool->n_jobs + 1, sizeof(struct job *));
	if (jobs) {
		pool->jobs = jobs;
		jobs[pool->n_jobs++] = job;
	}
	pthread_mutex_unlock(&pool->lock);
	return jobs ? 0 : error_origin(-ENOMEM);
}

int pool_add(struct pool *pool, const struct descriptor *blob, enum transfer_status status,
	     struct job **ret_job, bool *ret_is_new, struct why *why)
{
	struct job *job = find_job(pool, blob->digest);
	int r;

	*ret_is_new = !job;
	if (job) {
		*ret_job = job;
		return job->blob.size == blob->size
			       ? 0
			       : why_set(why, WORK_E_INVALID,
					 "blob %s has two sizes, %llu and %llu", blob->digest,
					 (unsigned long long)blob->size,
					 (unsigned long long)job->blob.size);
	}
	if (pool->n_jobs == POOL_JOBS_MAX)
		return why_set(why, WORK_E_INVALID, "it has more than %d blobs", POOL_JOBS_MAX);
	job = calloc(1, sizeof(*job));
	if (!job)
		return error_origin(-ENOMEM);
	job->fd = -1;
	job->status = status;
	job->is_taken = true; /* until pool_run() */
	job->is_ended = job->is_seen = true;
	r = descriptor_copy(blob, &job->blob) ?: insert(pool, job);
	if (r) {
		descriptor_clear(&job->blob);
		free(job);
		return error_trace(r);
	}
	*ret_job = job;
	return 0;
}

void pool_run(struct pool *pool, struct job *job)
{
	pthread_mutex_lock(&pool->lock);
	job->is_taken = job->is_ended = job->is_seen = false;
	job->status = TRANSFER_WAITING;
	pthread_cond_signal(&pool->work);
	pthread_mutex_unlock(&pool->lock);
}

size_t pool_count(const struct pool *pool)
{
	return pool->n_jobs;
}

const struct job *pool_job(const struct pool *pool, size_t i)
{
	return pool->jobs[i];
}

/* ---- waiting ---- */

static bool is_over(const struct job *job)
{
	return job->status != TRANSFER_WAITING && job->status != TRANSFER_RUNNING;
}

static int tell_of(const struct job *job, struct work_note *note)
{
	struct transfer_item *transfer = schema_list_add(&note->transfers);

	if (!transfer)
		return error_origin(-ENOMEM);
	transfer->status = job->status;
	transfer->offset = job->moved;
	transfer->total = job->blob.size;
	return error_trace(schema_set(&transfer->digest, job->blob.digest));
}

/* A packet has its limit: of very many those that are done are not told of. */
static int tell(struct pool *pool)
{
	_cleanup_(work_note_clear) struct work_note note = {.kind = NOTE_PROGRESS};
	int r = 0;

	for (unsigned round = 0; round < 2; round++) {
		for (size_t i = 0; i < pool->n_jobs && !r && note.transfers.count < TOLD_MAX; i++) {
			if (is_over(pool->jobs[i]) == (round == 1))
				r = tell_of(pool->jobs[i], &note);
		}
	}
	return r ? error_trace(r) : error_trace(channel_note(pool->channel, &note));
}

/* One that has ended and was not looked at yet; waits for a moment. NULL: none; @ret_is_over: nor will there be. */
static struct job *next_ended(struct pool *pool, bool *ret_is_over)
{
	struct timespec until;
	struct job *found = NULL;
	bool is_over = true;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_nsec += 100000000;
	until.tv_sec += until.tv_nsec / 1000000000;
	until.tv_nsec %= 1000000000;
	pthread_mutex_lock(&pool->lock);
	for (unsigned round = 0; round < 2 && !found; round++) {
		is_over = true;
		for (size_t i = 0; i < pool->n_jobs && !found; i++) {
			if (!pool->jobs[i]->is_seen)
				is_over = false;
			if (pool->jobs[i]->is_ended && !pool->jobs[i]->is_seen)
				found = pool->jobs[i];
		}
		if (is_over || found || round)
			break;
		pthread_cond_timedwait(&pool->ended, &pool->lock, &until);
	}
	pthread_mutex_unlock(&pool->lock);
	*ret_is_over = is_over;
	return found;
}

static int look_at(struct pool *pool, struct job *job, pool_seen_fn seen, struct why *why)
{
	bool is_again = job->r == POOL_AGAIN;
	int r;

	job->is_seen = true;
	if (job->r && !is_again)
		return why_set(why, job->r, "%s", job->why.text);
	r = seen(pool->userdata, job, is_again, why);
	if (!r && is_again && job->status == TRANSFER_WAITING)
		pool_run(pool, job);
	return r;
}

int pool_wait(struct pool *pool, pool_seen_fn seen, struct why *why)
{
	bool is_over = false;
	int r = 0;

	while (!r && !is_over) {
		struct job *job = next_ended(pool, &is_over);

		if (job)
			r = look_at(pool, job, seen, why);
		if (!r && (is_over || now_ms() - pool->told_ms >= PROGRESS_MS)) {
			r = tell(pool);
			pool->told_ms = now_ms();
		}
	}
	if (r)
		http_stop();
	return r;
}
