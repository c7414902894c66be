#pragma once
/*
 * Blobs that are loaded or sent by a few threads at a time. The owner's thread adds
 * them, waits for all, and tells davit-image how far they are.
 */

#include "services/image/work/http.h"

#define POOL_THREADS_DEFAULT 3
#define POOL_THREADS_MAX     16
#define POOL_JOBS_MAX        3500 /* what is known of them fits into a message */

/* Of a job's function, beside WORK_E_*: @is_again() decides. */
#define POOL_AGAIN 300

struct job {
	struct descriptor blob;
	struct work_answer answer; /* what davit-image said of it */
	int fd;                    /* owned; -1: none */
	_Atomic uint64_t moved;
	uint64_t came;    /* of these from the registry now */
	unsigned visited; /* a document: its owner's, 1 without layers, 2 with them */
	_Atomic unsigned status; /* enum transfer_status */
	unsigned n_again;
	bool is_taken, is_ended, is_seen;
	int r;
	struct why why;
};

/* In a thread of the pool; sets job->status while it goes on. */
typedef int (*pool_fn)(void *userdata, struct http *http, struct job *job, struct why *why);

struct pool;

int pool_new(unsigned n_threads, int channel, pool_fn fn, void *userdata, struct pool **ret_pool,
	     struct why *why);
/* Ends its threads; the jobs stay until now. */
struct pool *pool_free(struct pool *pool);
void pool_freep(struct pool **pool);
/* Adds one, or finds that of the same digest; WORK_E_INVALID if it has another size, or there are too many. */
int pool_add(struct pool *pool, const struct descriptor *blob, enum transfer_status status,
	     struct job **ret_job, bool *ret_is_new, struct why *why);
/* Hands it to the threads. */
void pool_run(struct pool *pool, struct job *job);
/* A job has ended well; or has asked for POOL_AGAIN: then 0 runs it again. In the owner's thread. */
typedef int (*pool_seen_fn)(void *userdata, struct job *job, bool is_again, struct why *why);
/* Until all have ended, or the first has failed: its failure. */
int pool_wait(struct pool *pool, pool_seen_fn seen, struct why *why);
size_t pool_count(const struct pool *pool);
const struct job *pool_job(const struct pool *pool, size_t i);
