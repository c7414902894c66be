/* See network.h. */

#include "services/runtime/network.h"

#include <dirent.h>
#include <string.h>

#include "broker/lib/log.h"
#include "broker/lib/loop.h"
#include "schemas/check.h"
#include "services/lib/work.h"
#include "services/runtime/attachment.h"
#include "services/runtime/bundle.h"

#define PERIOD_MS    60000
#define RETRY_MS     1000 /* after the first failure, then twice as long each time */
#define RETRY_MAX_MS 600000
#define SLACK_MS     10000

/* What is not taken back yet, and why. */
struct pending {
	struct pending *next;
	char *name, *text;
};

struct networks {
	struct service *service;
	struct pending *pending;
	struct network_options options;
	char *directory;
	uint8_t boot_id[ID_SIZE];
	struct loop_timer timer;
	struct job *jobs;
	/* A sweep goes through the files in order of their names. */
	bool is_sweeping, has_failed;
	char after[ATTACHMENT_ID_SIZE + ID_TEXT_SIZE];
	bool has_looked; /* at the boot of all there are */
	uint64_t delay_ms;
};

/* One child at work. */
struct job {
	struct job *next;
	struct networks *networks;
	struct call *call; /* NULL: of a sweep */
	bool detach;
	char attach_id[ATTACHMENT_ID_SIZE], task_id[ID_TEXT_SIZE];
	char container_id[77];
	struct work *work;
};

static struct job *job_new(struct networks *networks, bool detach)
{
	struct job *job = calloc(1, sizeof(*job));

	if (!job)
		return NULL;
	*job = (struct job){.next = networks->jobs, .networks = networks, .detach = detach};
	networks->jobs = job;
	return job;
}

static void job_free(void *userdata)
{
	struct job *job = userdata, **at;

	if (!job)
		return;
	for (at = &job->networks->jobs; *at != job;)
		at = &(*at)->next;
	*at = job->next;
	free(job);
}

static void job_freep(struct job **job)
{
	job_free(*job);
}

/* ---- the child ---- */

static int start(struct job *job, work_fn fn, struct why *why)
{
	struct networks *networks = job->networks;
	static const char *const argv[] = {"--network", NULL};
	struct runtime_network_work work = {
		.detach = job->detach,
		.attach_id = job->attach_id,
		.task_id = job->task_id,
		.directory = networks->directory,
		.state = service_paths(networks->service)->state,
		.conf_dir = (char *)networks->options.conf_dir,
		.bin_dirs = (char *)networks->options.bin_dirs,
		.timeout_ms = networks->options.timeout_ms,
	};
	/* Waiting for another child takes as long as two of a network's runs, and there are three at most here. */
	struct work_options options = {
		.program = "davit-runtime",
		.argv = argv,
		.request = schema_runtime_network_work(),
		.request_message = &work,
		.reply = schema_runtime_network_done(),
		.deadline_ms = time_boot_ms() + 5 * networks->options.timeout_ms + SLACK_MS,
	};

	return work_start(networks->service, &options, fn, job, &job->work, why);
}

static const char *failure(const struct runtime_network_done *done, const struct why *why)
{
	if (!done)
		return why->text[0] ? why->text : "out of memory";
	return done->error && *done->error ? done->error : NULL;
}

static void set_timer(struct networks *networks, uint64_t delay_ms);

/* ---- what is pending ---- */

static struct pending **find_pending(struct networks *networks, const char *name)
{
	struct pending **at = &networks->pending;

	while (*at && strcmp((*at)->name, name))
		at = &(*at)->next;
	return at;
}

static void drop_pending(struct pending **at)
{
	struct pending *pending = *at;

	*at = pending->next;
	free(pending->name);
	free(pending->text);
	free(pending);
}

void networks_forget_pending(struct networks *networks, const char *name)
{
	struct pending **at = find_pending(networks, name);

	if (*at)
		drop_pending(at);
}

const char *networks_pending(struct networks *networks, const char *name)
{
	struct pending *pending = *find_pending(networks, name);

	return pending ? pending->text : NULL;
}

/* @text NULL: it is taken back. Without memory it is tried again all the same. */
static void note_pending(const struct job *job, const char *text)
{
	_cleanup_(cleanup_free) char *name = text_format("%s@%s", job->attach_id, job->task_id);
	_cleanup_(cleanup_free) char *path = attachment_path(job->networks->directory,
							     job->attach_id, job->task_id);
	struct pending *pending = NULL;

	if (!name || !path)
		return;
	networks_forget_pending(job->networks, name);
	if (text && !access(path, F_OK))
		pending = calloc(1, sizeof(*pending));
	if (!pending)
		return;
	*pending = (struct pending){job->networks->pending, TAKE(name), strdup(text)};
	job->networks->pending = pending;
}

/* ---- what is asked for ---- */

static void on_attached(void *userdata, void *reply, const struct why *why)
{
	_cleanup_(job_freep) struct job *job = userdata;
	struct runtime_network_done *done = reply;
	const char *text = failure(done, why);

	set_timer(job->networks, text ? RETRY_MS : PERIOD_MS);
	if (text || !done->network)
		call_finish_fail(job->call, BUS_FAILED_PRECONDITION,
				 "container '%s' gets no network: %s", job->container_id,
				 text ?: "nothing was answered");
	else
		call_finish(job->call, &(struct runtime_attach_reply){.network = done->network});
}

/* What is pending is the sweep's from now on. */
static void on_detached(void *userdata, void *reply, const struct why *why)
{
	_cleanup_(job_freep) struct job *job = userdata;
	const char *text = failure(reply, why);

	note_pending(job, text);
	if (text) {
		log_warning("container=%s: its network is not taken back yet, tried again: %s",
			    job->attach_id, text);
		job->networks->delay_ms = 0;
		set_timer(job->networks, RETRY_MS);
	}
	call_finish(job->call, &(struct runtime_detach_reply){.pending = (char *)text});
}

static void start_asked(void *userdata)
{
	struct job *job = userdata;
	work_fn fn = job->detach ? on_detached : on_attached;
	struct why why = {};

	if (start(job, fn, &why))
		fn(job, NULL, &why);
}

static int ask(struct networks *networks, const struct runtime_network_request *request,
	       bool detach, struct call *call)
{
	_cleanup_(job_freep) struct job *job = NULL;
	const char *namespace = call_checked_namespace(call);
	struct schema_fault fault = {};
	uint8_t id[ID_SIZE];
	int r;

	if (!namespace)
		return 0;
	if (check_identifier_why("container id", request->container_id, &fault))
		return call_fail(call, BUS_INVALID_ARGUMENT, "%s", fault.text);
	if (id_parse(request->task_id, id))
		return call_fail(call, BUS_INVALID_ARGUMENT, "task id '%s' is not 32 hex digits",
				 request->task_id);
	job = job_new(networks, detach);
	if (!job)
		return error_origin(-ENOMEM);
	job->call = call;
	snprintf(job->attach_id, sizeof(job->attach_id), "%s-%s", namespace, request->container_id);
	snprintf(job->container_id, sizeof(job->container_id), "%s", request->container_id);
	id_format(id, job->task_id);
	r = call_after_commit(call, start_asked, job_free, job);
	if (r)
		return error_fold(r);
	job = NULL;
	return CALL_LATER;
}

int networks_attach(struct networks *networks, const struct runtime_network_request *request,
		    struct call *call)
{
	return ask(networks, request, false, call);
}

int networks_detach(struct networks *networks, const struct runtime_network_request *request,
		    struct call *call)
{
	return ask(networks, request, true, call);
}

/* ---- what nobody asks for ---- */

static bool is_of_this_boot(const struct networks *networks, const char *name)
{
	_cleanup_(runtime_attachment_clear) struct runtime_attachment kept = {};
	_cleanup_(cleanup_free) char *path = text_format("%s/%s", networks->directory, name);

	return !path || attachment_read(path, &kept) || kept.boot_id.size != ID_SIZE ||
	       !memcmp(kept.boot_id.data, networks->boot_id, ID_SIZE);
}

/* Its boot needs a look only once: no other comes while this service runs. */
static bool is_orphan(const struct networks *networks, const char *name, const char *task_id)
{
	_cleanup_(cleanup_free) char *bundle = bundle_path(service_paths(networks->service)->state,
							   task_id);

	if (bundle && access(bundle, F_OK) && errno == ENOENT)
		return true;
	return !networks->has_looked && !is_of_this_boot(networks, name);
}

/* The next one by name, into @job. @ret_n_used: those that are in use. */
static bool find_orphan(struct networks *networks, struct job *job, size_t *ret_n_used)
{
	_cleanup_(cleanup_dir) DIR *dir = opendir(networks->directory);
	char attach_id[ATTACHMENT_ID_SIZE], task_id[ID_TEXT_SIZE];
	char first[sizeof(networks->after)] = "";
	struct dirent *entry;

	while (dir && (entry = readdir(dir))) {
		const char *name = entry->d_name;

		if (!attachment_split(name, attach_id, task_id))
			continue;
		if (!is_orphan(networks, name, task_id))
			(*ret_n_used)++;
		else if (strcmp(name, networks->after) > 0 && (!*first || strcmp(name, first) < 0))
			snprintf(first, sizeof(first), "%s@%s", attach_id, task_id);
	}
	snprintf(networks->after, sizeof(networks->after), "%s", first);
	return *first && attachment_split(first, job->attach_id, job->task_id);
}

static void sweep(struct networks *networks);

static void on_swept(void *userdata, void *reply, const struct why *why)
{
	_cleanup_(job_freep) struct job *job = userdata;
	struct networks *networks = job->networks;
	const char *text = failure(reply, why);

	note_pending(job, text);
	if (text)
		log_warning("container=%s: its network is not taken back yet, tried again: %s",
			    job->attach_id, text);
	else
		log_info("container=%s: its network is taken back", job->attach_id);
	networks->has_failed = networks->has_failed || text;
	networks->is_sweeping = false;
	sweep(networks);
}

static void end_sweep(struct networks *networks, size_t n_used)
{
	uint64_t longer_ms = networks->delay_ms ? 2 * networks->delay_ms : RETRY_MS;

	n_used += attachment_tidy(networks->directory);
	networks->has_looked = true;
	networks->delay_ms = !networks->has_failed      ? 0
			     : longer_ms < RETRY_MAX_MS ? longer_ms
							: RETRY_MAX_MS;
	if (networks->has_failed)
		set_timer(networks, networks->delay_ms);
	else if (n_used)
		set_timer(networks, PERIOD_MS);
	networks->has_failed = false;
}

/* One after another. */
static void sweep(struct networks *networks)
{
	struct job *job = job_new(networks, true);
	struct why why = {};
	size_t n_used = 0;

	if (!job) {
		set_timer(networks, PERIOD_MS);
	} else if (!find_orphan(networks, job, &n_used)) {
		job_free(job);
		end_sweep(networks, n_used);
	} else {
		networks->is_sweeping = true;
		if (start(job, on_swept, &why))
			on_swept(job, NULL, &why);
	}
}

static void on_timer(struct loop_timer *timer)
{
	struct networks *networks = container_of(timer, struct networks, timer);

	if (!networks->is_sweeping)
		sweep(networks);
}

/* The earlier of the two counts. */
static void set_timer(struct networks *networks, uint64_t delay_ms)
{
	uint64_t at_ms = time_boot_ms() + delay_ms;

	if (networks->timer.loop && networks->timer.at_ms <= at_ms)
		return;
	if (loop_timer_set(service_loop(networks->service), &networks->timer, at_ms, on_timer))
		log_error("out of memory: networks that are left are not taken back");
}

/* ---- life ---- */

struct networks *networks_free(struct networks *networks)
{
	if (!networks)
		return NULL;
	loop_timer_cancel(&networks->timer);
	while (networks->jobs)
		job_free(networks->jobs);
	while (networks->pending)
		drop_pending(&networks->pending);
	free(networks->directory);
	free(networks);
	return NULL;
}

int networks_new(struct service *service, const struct network_options *options,
		 struct networks **ret_networks)
{
	struct networks *networks = calloc(1, sizeof(*networks));
	struct why why = {};
	int r;

	if (!networks)
		return error_origin(-ENOMEM);
	*networks = (struct networks){.service = service, .options = *options};
	networks->directory = attachment_directory(service_paths(service)->root);
	r = networks->directory ? boot_id_read(networks->boot_id) : error_origin(-ENOMEM);
	r = r ?: file_make_dir(networks->directory, 0700, &why);
	r = r ?: loop_timer_set(service_loop(service), &networks->timer, time_boot_ms(), on_timer);
	if (r) {
		log_error("networks: %s", why.text[0] ? why.text : strerror(-r));
		networks_free(networks);
		return error_fold(r);
	}
	*ret_networks = networks;
	return 0;
}
