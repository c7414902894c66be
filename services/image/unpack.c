/*
 * Unpacking: layer by layer, each into a directory of its own that is recorded
 * under its chain id when it is complete and on disk. Who needs a layer that is
 * being made waits for it.
 */

#include <stdio.h>
#include <string.h>

#include "broker/lib/file.h"
#include "broker/lib/log.h"
#include "services/image/references.h"

struct unpack {
	struct unpack *next;        /* in image->unpacks */
	struct unpack *next_waiter; /* of a layer */
	struct image_service *image;
	struct resolved *resolved;
	const char *snapshotter;
	size_t index;          /* of the layer that is next */
	struct layer_job *job; /* that it waits for */
	bool (*is_cancelled)(void *userdata);
	bool (*is_there)(void *userdata, const char *digest); /* NULL: all are */
	bool is_parked;                                       /* the next layer is not */
	unpack_fn fn;
	void *userdata;
};

struct layer_job {
	struct layer_job *next; /* in image->layer_jobs */
	struct image_service *image;
	const char *snapshotter;
	char chain[DIGEST_SIZE], parent[DIGEST_SIZE], blob[DIGEST_SIZE];
	uint64_t number;
	const struct work_apply_result *result; /* while it is recorded */
	struct unpack *waiters;
	bool is_dropped; /* before its turn */
};

static void unpack_continue(struct unpack *unpack);

/* ---- one layer ---- */

static struct layer_job *find_job(struct image_service *image, const char *snapshotter,
				  const char *chain)
{
	for (struct layer_job *job = image->layer_jobs; job; job = job->next) {
		if (!job->is_dropped && !strcmp(job->chain, chain) &&
		    !strcmp(job->snapshotter, snapshotter))
			return job;
	}
	return NULL;
}

static void job_free(struct layer_job *job)
{
	for (struct layer_job **at = &job->image->layer_jobs; *at; at = &(*at)->next) {
		if (*at == job) {
			*at = job->next;
			break;
		}
	}
	free(job);
}

static void drop_directory(struct layer_job *job)
{
	char name[24];

	snprintf(name, sizeof(name), "%llu", (unsigned long long)job->number);
	trash_take(job->image, job->image->snapshots, name);
}

static void unpack_end(struct unpack *unpack, int r, const struct why *why)
{
	unpack_fn fn = unpack->fn;
	void *userdata = unpack->userdata;

	unpack_forget(unpack);
	fn(userdata, r, why);
}

/* Ends the job; everyone who waited for it fails or goes on. */
static void job_end(struct layer_job *job, int r, const struct why *why)
{
	struct image_service *image = job->image;
	struct unpack *waiters = job->waiters;

	if (r)
		drop_directory(job);
	job_free(job);
	sync_start(image);
	/* What one of them does may end another: each is taken off before it is told. */
	for (struct unpack *unpack = waiters; unpack; unpack = unpack->next_waiter)
		unpack->job = NULL;
	while (waiters) {
		struct unpack *unpack = waiters;

		waiters = TAKE(unpack->next_waiter);
		if (r)
			unpack_end(unpack, r, why);
		else
			unpack_continue(unpack);
	}
}

static int record(void *userdata)
{
	struct layer_job *job = userdata;

	return snapshot_record_layer(job->image, job->snapshotter, job->chain, job->parent,
				     job->number, job->result);
}

static void applied(void *userdata, void *data, const struct why *why)
{
	struct work_apply_result *result = data;
	struct layer_job *job = userdata;
	struct why own = {};
	int r = 0;

	if (!result)
		r = why_set(&own, refused(BUS_INTERNAL), "layer %s: %s", job->blob, why->text);
	else if (result->error)
		r = why_set(&own, refused(result->status), "layer %s: %s", job->blob,
			    result->error);
	if (!r) {
		job->result = result;
		r = service_transact(job->image->service, record, job);
		if (r)
			r = why_set(&own, refused(BUS_INTERNAL), "cannot record layer %s",
				    job->chain);
	}
	job_end(job, r, &own);
}

static int add_parents(struct layer_job *job, struct work_apply_request *request,
		       const uint64_t *numbers, size_t count)
{
	bool is_native = !strcmp(job->snapshotter, SNAPSHOTTER_NATIVE);
	int r = 0;

	for (size_t i = 0; i < count && !r && !(is_native && i); i++) {
		_cleanup_(cleanup_free) char *name = NULL;

		name = text_format("%llu", (unsigned long long)numbers[i]);
		r = name ? schema_strs_add(&request->parents, name) : error_origin(-ENOMEM);
	}
	request->native = is_native;
	request->no_sync = true;
	return error_trace(r);
}

struct lookup {
	struct layer_job *job;
	uint64_t numbers[SNAPSHOT_DEPTH_MAX];
	size_t count;
	struct why *why;
};

static int look_up_parents(void *userdata)
{
	struct lookup *lookup = userdata;

	return snapshot_chain(lookup->job->image, SCOPE_SHARED, lookup->job->snapshotter,
			      lookup->job->parent, lookup->numbers, ARRAY_SIZE(lookup->numbers),
			      &lookup->count, lookup->why);
}

static int fill_request(struct layer_job *job, const char *diff_id,
			struct work_apply_request *request, struct why *why)
{
	struct lookup lookup = {.job = job, .why = why};
	int r;

	r = service_transact(job->image->service, look_up_parents, &lookup);
	if (r)
		return r;
	request->target = text_format("%llu", (unsigned long long)job->number);
	if (!request->target)
		return error_origin(-ENOMEM);
	r = schema_set(&request->diff_id, diff_id) ?: schema_set(&request->blob, job->blob);
	if (!r)
		r = image_limits_copy(job->image, &request->limits);
	return r ? error_trace(r) : add_parents(job, request, lookup.numbers, lookup.count);
}

static int start_child(struct layer_job *job, const char *diff_id, struct why *why)
{
	_cleanup_(work_apply_request_clear) struct work_apply_request request = {};
	_cleanup_(cleanup_fd) int blob = -1;
	int fds[2];
	int r;

	r = content_open_blob(job->image, job->blob, &blob, why);
	if (!r)
		r = snapshot_make_dir(job->image, &job->number, why);
	if (!r)
		r = fill_request(job, diff_id, &request, why);
	if (r)
		return r;
	fds[0] = blob;
	fds[1] = job->image->snapshots;
	return image_work_start(job->image, "apply", schema_work_apply_request(), &request, fds, 2,
				schema_work_apply_result(), 0, applied, job, why);
}

static int start_job(struct unpack *unpack, struct layer_job **ret_job, struct why *why)
{
	const struct resolved *resolved = unpack->resolved;
	const struct work_layer *layer = &resolved->layers[unpack->index];
	struct layer_job *job = calloc(1, sizeof(*job));
	int r;

	if (!job)
		return error_origin(-ENOMEM);
	job->image = unpack->image;
	job->snapshotter = unpack->snapshotter;
	snprintf(job->blob, sizeof(job->blob), "%s", layer->blob->digest);
	memcpy(job->chain, resolved->chains[unpack->index], DIGEST_SIZE);
	if (unpack->index)
		memcpy(job->parent, resolved->chains[unpack->index - 1], DIGEST_SIZE);
	r = start_child(job, layer->diff_id, why);
	if (r) {
		if (job->number)
			drop_directory(job);
		free(job);
		return r;
	}
	job->next = unpack->image->layer_jobs;
	unpack->image->layer_jobs = job;
	*ret_job = job;
	return 0;
}

/* ---- all layers of an image ---- */

/* Steps over the layers that are there. */
static int skip_present(void *userdata)
{
	struct unpack *unpack = userdata;

	while (unpack->index < unpack->resolved->n_layers &&
	       snapshot_has_layer(unpack->image, unpack->snapshotter,
				  unpack->resolved->chains[unpack->index]))
		unpack->index++;
	return 0;
}

/* Nothing and no failure: done, or parked. */
static int next_layer(struct unpack *unpack, struct layer_job **ret_job, struct why *why)
{
	int r;

	*ret_job = NULL;
	unpack->is_parked = false;
	r = service_transact(unpack->image->service, skip_present, unpack);
	if (r || unpack->index == unpack->resolved->n_layers)
		return error_fold(r);
	if (unpack->is_cancelled && unpack->is_cancelled(unpack->userdata))
		return why_set(why, refused(BUS_CANCELED), "unpacking was cancelled");
	*ret_job = find_job(unpack->image, unpack->snapshotter,
			    unpack->resolved->chains[unpack->index]);
	if (!*ret_job && unpack->is_there &&
	    !unpack->is_there(unpack->userdata,
			      unpack->resolved->layers[unpack->index].blob->digest)) {
		unpack->is_parked = true;
		return 0;
	}
	return *ret_job ? 0 : start_job(unpack, ret_job, why);
}

static void unpack_continue(struct unpack *unpack)
{
	struct layer_job *job;
	struct why why = {};
	int r;

	r = next_layer(unpack, &job, &why);
	if (!r && job) {
		unpack->job = job;
		unpack->next_waiter = job->waiters;
		job->waiters = unpack;
		return;
	}
	if (!r && unpack->is_parked)
		return;
	if (r && r < REFUSED) {
		why_set(&why, r, "cannot unpack image %s", unpack->resolved->manifest);
		r = refused(BUS_INTERNAL);
	}
	unpack_end(unpack, r, &why);
}

static struct unpack *unpack_new(struct image_service *image, const struct resolved *resolved,
				 const char *snapshotter, unpack_fn fn, void *userdata)
{
	struct unpack *unpack = calloc(1, sizeof(*unpack));

	if (!unpack || resolved_copy(resolved, &unpack->resolved)) {
		free(unpack);
		return NULL;
	}
	unpack->image = image;
	unpack->snapshotter = snapshotter;
	unpack->fn = fn;
	unpack->userdata = userdata;
	unpack->next = image->unpacks;
	image->unpacks = unpack;
	return unpack;
}

int unpack_start(struct image_service *image, const struct resolved *resolved,
		 const char *snapshotter, bool (*is_cancelled)(void *userdata), unpack_fn fn,
		 void *userdata, struct unpack **ret_unpack)
{
	struct unpack *unpack = unpack_new(image, resolved, snapshotter, fn, userdata);

	if (!unpack)
		return error_origin(-ENOMEM);
	unpack->is_cancelled = is_cancelled;
	*ret_unpack = unpack;
	unpack_continue(unpack);
	return 0;
}

int unpack_start_arriving(struct image_service *image, const struct resolved *resolved,
			  const char *snapshotter,
			  bool (*is_there)(void *userdata, const char *digest), unpack_fn fn,
			  void *userdata, struct unpack **ret_unpack)
{
	struct unpack *unpack = unpack_new(image, resolved, snapshotter, fn, userdata);

	if (!unpack)
		return error_origin(-ENOMEM);
	unpack->is_there = is_there;
	*ret_unpack = unpack;
	unpack_continue(unpack);
	return 0;
}

void unpack_poke(struct unpack *unpack)
{
	if (unpack->is_parked)
		unpack_continue(unpack);
}

size_t unpack_position(const struct unpack *unpack)
{
	return unpack->index;
}

static void leave_job(struct unpack *unpack)
{
	struct layer_job *job = unpack->job;

	for (struct unpack **at = &unpack->job->waiters; *at; at = &(*at)->next_waiter) {
		if (*at == unpack) {
			*at = unpack->next_waiter;
			break;
		}
	}
	unpack->job = NULL;
	if (!job->waiters)
		job->is_dropped = image_work_drop(job->image, job);
}

void unpack_cancel(struct unpack *unpack)
{
	struct why why = {};

	why_set(&why, 0, "unpacking was cancelled");
	unpack_end(unpack, refused(BUS_CANCELED), &why);
}

void unpack_forget(struct unpack *unpack)
{
	if (!unpack)
		return;
	if (unpack->job)
		leave_job(unpack);
	for (struct unpack **at = &unpack->image->unpacks; *at; at = &(*at)->next) {
		if (*at == unpack) {
			*at = unpack->next;
			break;
		}
	}
	resolved_free(unpack->resolved);
	free(unpack);
}

static int add_references(const struct resolved *resolved, struct references *references)
{
	int r;

	r = set_add(&references->digests, resolved->target);
	if (!r)
		r = set_add(&references->digests, resolved->manifest);
	if (!r)
		r = set_add(&references->digests, resolved->config_digest);
	for (size_t i = 0; i < resolved->n_layers && !r; i++) {
		r = set_add(&references->digests, resolved->layers[i].blob->digest);
		if (!r)
			r = set_add(&references->chains, resolved->chains[i]);
	}
	return error_trace(r);
}

/* A layer that is being made needs those below it, whoever asked for it. */
static int add_job_references(struct image_service *image, struct references *references)
{
	int r = 0;

	for (struct layer_job *job = image->layer_jobs; job && !r; job = job->next) {
		r = set_add(&references->chains, job->chain);
		if (!r && job->parent[0])
			r = set_add(&references->chains, job->parent);
	}
	return error_trace(r);
}

int unpack_references(struct image_service *image, struct references *references)
{
	int r = 0;

	for (struct unpack *unpack = image->unpacks; unpack && !r; unpack = unpack->next)
		r = add_references(unpack->resolved, references);
	return r ? error_trace(r) : add_job_references(image, references);
}

uint64_t unpack_lowest_number(const struct image_service *image)
{
	uint64_t lowest = image->next_number;

	for (const struct layer_job *job = image->layer_jobs; job; job = job->next) {
		if (job->number < lowest)
			lowest = job->number;
	}
	return lowest;
}

void unpack_close(struct image_service *image)
{
	while (image->unpacks)
		unpack_forget(image->unpacks);
	while (image->layer_jobs)
		job_free(image->layer_jobs);
}
