/*
 * Pulling: what the reference names is resolved, its documents are read and
 * walked by the main thread, config and layers are loaded by a pool of threads,
 * from the moment on at which a manifest names them. Or one object alone,
 * whatever it is.
 */

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "broker/lib/file.h"
#include "schemas/check.h"
#include "services/image/document.h"
#include "services/image/reference.h"
#include "services/image/platform.h"
#include "services/image/work/channel.h"
#include "services/image/work/download.h"
#include "services/image/work/fetch.h"

#define NESTING_MAX 4
#define AGAIN_MAX   20
#define ACCEPT                                                                                     \
	MEDIA_DOCKER_MANIFEST ", " MEDIA_DOCKER_LIST ", " MEDIA_OCI_MANIFEST ", " MEDIA_OCI_INDEX  \
			      ", */*"
#define SCHEMA1    "application/vnd.docker.distribution.manifest.v1+"
#define MEDIA_BLOB "application/octet-stream"

struct fetch {
	const struct work_fetch_request *request;
	int channel, ingest;
	struct registry registry;
	struct http *http; /* the main thread's */
	struct pool *pool;
	const char *accept; /* of documents */
	struct descriptor target;
	struct why last; /* of the host that was tried last */
	struct why *why;
};

/* ---- media types ---- */

/* Without parameters. */
static void cut_type(char *type)
{
	size_t size = strcspn(type, "; \t");

	type[size] = '\0';
}

static int check_type(struct fetch *fetch, const char *type, const char *what)
{
	if (type && !strncmp(type, SCHEMA1, strlen(SCHEMA1)))
		return why_set(fetch->why, WORK_E_INVALID,
			       "%s is an image manifest version 2, schema 1, which is obsolete and "
			       "not supported: push it again with a newer tool",
			       what);
	if (document_is_index(type) || document_is_manifest(type))
		return 0;
	return why_set(fetch->why, WORK_E_INVALID, "%s is neither an index nor a manifest but %s",
		       what, type && *type ? work_show(type) : "of no media type");
}

/* ---- the reference ---- */

static int set_target(struct fetch *fetch, const char *digest, const char *type, uint64_t size)
{
	const struct remote *remote = &fetch->registry.remote;
	int r = 0;

	if (remote->digest && strcmp(remote->digest, digest))
		return why_set(fetch->why, WORK_E_DAMAGED, "%s: the registry has %s in its place",
			       remote->digest, work_show(digest));
	if (size > DOCUMENT_SIZE_MAX)
		return why_set(fetch->why, WORK_E_INVALID,
			       "%s has %llu bytes, a document at most %u", digest,
			       (unsigned long long)size, DOCUMENT_SIZE_MAX);
	if (fetch->request->only_object)
		type = type && *type ? type : MEDIA_BLOB;
	else
		r = check_type(fetch, type, remote_object(remote));
	if (!r)
		r = schema_set(&fetch->target.digest, digest)
			    ?: schema_set(&fetch->target.media_type, type);
	fetch->target.size = size;
	return r;
}

/* ---- hosts in their order ---- */

static bool may_resolve(const struct host *host)
{
	return host->can_resolve;
}

static bool may_pull(const struct host *host)
{
	return host->can_pull;
}

/* Until one has it, or it is no use to go on; the last one's failure is that of all. */
static int on_hosts(struct fetch *fetch, bool (*is_fit)(const struct host *host),
		    int (*fn)(struct fetch *fetch, size_t host, void *data), void *data,
		    const char *nobody)
{
	const struct hosts *hosts = &fetch->registry.hosts;
	struct why *why = fetch->why;
	int r = WORK_E_REFUSED;

	fetch->last = (struct why){};
	why_set(&fetch->last, r, "%s", nobody);
	fetch->why = &fetch->last;
	for (size_t i = 0; i < hosts->count; i++) {
		if (!is_fit(&hosts->items[i]))
			continue;
		fetch->last = (struct why){};
		r = fn(fetch, i, data);
		if (r <= 0)
			break;
	}
	fetch->why = why;
	return r && fetch->last.text[0] ? why_set(why, r, "%s", fetch->last.text) : r;
}

/* The document itself tells its digest. @is_tried: there was back-off enough. */
static int resolve_by_content(struct fetch *fetch, size_t host, const char *path, bool is_tried)
{
	_cleanup_(http_reply_clear) struct http_reply reply = {};
	const struct registry_request request = {
		.method = "GET", .path = path, .accept = fetch->accept, .limit = DOCUMENT_SIZE_MAX};
	char digest[DIGEST_SIZE];
	int r;

	r = is_tried ? registry_send(&fetch->registry, fetch->http, host, &request, &reply,
				     fetch->why)
		     : registry_call(&fetch->registry, fetch->http, host, &request, &reply,
				     fetch->why);
	if (r)
		return registry_fold(&fetch->registry, host, path, r, fetch->why);
	if (reply.status != 200)
		return registry_explain(&fetch->registry, host, path, &reply, fetch->why);
	digest_of(reply.body.data, reply.body.size, digest);
	if (reply.content_type)
		cut_type(reply.content_type);
	r = set_target(fetch, digest, reply.content_type, reply.body.size);
	if (!r)
		r = download_keep(&fetch->registry, fetch->ingest, digest, reply.body.data,
				  reply.body.size, fetch->why);
	return r;
}

static int resolve_at(struct fetch *fetch, size_t host, void *data)
{
	_cleanup_(cleanup_free) char *path = NULL;
	_cleanup_(http_reply_clear) struct http_reply reply = {};
	struct registry_request request = {.method = "HEAD", .accept = fetch->accept};
	int r;

	(void)data;
	path = text_format("manifests/%s", remote_object(&fetch->registry.remote));
	if (!path)
		return error_origin(-ENOMEM);
	request.path = path;
	r = registry_call(&fetch->registry, fetch->http, host, &request, &reply, fetch->why);
	if (r)
		return registry_fold(&fetch->registry, host, path, r, fetch->why);
	if (reply.content_type)
		cut_type(reply.content_type);
	/* The answer to a HEAD has no sentence of the registry's: a failed GET brings one. */
	if (reply.status != 200 || !reply.digest || !check_digest(reply.digest) ||
	    !reply.content_type || !reply.length)
		return resolve_by_content(fetch, host, path, registry_may_retry(0, &reply));
	return set_target(fetch, reply.digest, reply.content_type, reply.length);
}

static int resolve(struct fetch *fetch)
{
	bool has_digest = fetch->registry.remote.digest;

	/* A digest says what it is, so any mirror may be asked. */
	return on_hosts(fetch, has_digest ? may_pull : may_resolve, resolve_at, NULL,
			"no host resolves references");
}

/* ---- documents ---- */

struct document {
	const struct descriptor *descriptor;
	char *text;
	size_t size;
};

static int load_document_from(struct fetch *fetch, size_t host, void *data)
{
	struct document *document = data;
	const struct descriptor *descriptor = document->descriptor;
	_cleanup_(http_reply_clear) struct http_reply reply = {};
	struct registry_request request = {
		.method = "GET", .accept = fetch->accept, .limit = descriptor->size};
	char path[96], actual[DIGEST_SIZE];
	int r;

	snprintf(path, sizeof(path), "manifests/%s", descriptor->digest);
	request.path = path;
	r = registry_call(&fetch->registry, fetch->http, host, &request, &reply, fetch->why);
	if (r)
		return registry_fold(&fetch->registry, host, path, r, fetch->why);
	if (reply.status != 200)
		return registry_explain(&fetch->registry, host, path, &reply, fetch->why);
	digest_of(reply.body.data, reply.body.size, actual);
	if (reply.body.size != descriptor->size || strcmp(actual, descriptor->digest))
		return why_set(fetch->why, WORK_E_DAMAGED, "%s: %s: what comes is something else",
			       fetch->registry.hosts.items[host].name, path);
	if (reply.content_type)
		cut_type(reply.content_type);
	/* The same bytes must not be one thing for the registry and another for us. */
	if (!reply.content_type || strcmp(reply.content_type, descriptor->media_type))
		return why_set(fetch->why, WORK_E_INVALID,
			       "%s: %s is sent as %s, its descriptor says %s",
			       fetch->registry.hosts.items[host].name, path,
			       reply.content_type ? work_show(reply.content_type) : "nothing",
			       work_show(descriptor->media_type));
	document->text = (char *)TAKE(reply.body.data);
	document->size = reply.body.size;
	return 0;
}

static int load_document(struct fetch *fetch, const struct descriptor *descriptor, char **ret_text,
			 size_t *ret_size)
{
	struct document document = {.descriptor = descriptor};
	int r;

	r = on_hosts(fetch, may_pull, load_document_from, &document, "no host may be pulled from");
	if (r)
		return r;
	*ret_text = document.text;
	*ret_size = document.size;
	return 0;
}

static int read_all(int fd, const struct descriptor *descriptor, char **ret_text, size_t *ret_size)
{
	_cleanup_(cleanup_free) char *text = malloc(descriptor->size + 2);
	char actual[DIGEST_SIZE];
	size_t size = 0;
	ssize_t n;

	if (!text)
		return error_origin(-ENOMEM);
	while ((n = pread(fd, text + size, descriptor->size + 1 - size, (off_t)size)) > 0)
		size += (size_t)n;
	digest_of(text, size, actual);
	if (n < 0 || size != descriptor->size || strcmp(actual, descriptor->digest))
		return WORK_E_DAMAGED;
	text[size] = '\0';
	*ret_text = TAKE(text);
	*ret_size = size;
	return 0;
}

/* From the content store, from an earlier try, or from the registry. */
static int get_document(struct fetch *fetch, struct job *job, char **ret_text, size_t *ret_size)
{
	const struct descriptor *descriptor = &job->blob;
	_cleanup_(cleanup_fd) int fd = -1;
	struct work_note note = {.kind = NOTE_ARRIVED, .blob = &job->blob};
	int r;

	r = channel_ask(fetch->channel, NOTE_OPEN, descriptor, &job->answer, &fd, fetch->why);
	if (r)
		return r;
	/* One that is damaged there is loaded again. */
	if (fd >= 0 && !read_all(fd, descriptor, ret_text, ret_size)) {
		job->status = TRANSFER_EXISTS;
		return 0;
	}
	job->status = TRANSFER_RUNNING;
	r = download_find(fetch->ingest, descriptor->digest, descriptor->size, ret_text, ret_size);
	if (!r && !*ret_text) {
		r = load_document(fetch, descriptor, ret_text, ret_size);
		job->came = job->blob.size;
		if (!r)
			r = download_keep(&fetch->registry, fetch->ingest, descriptor->digest,
					  *ret_text, *ret_size, fetch->why);
	}
	if (r)
		return r;
	job->moved = job->blob.size;
	job->status = TRANSFER_DONE;
	return error_trace(channel_note(fetch->channel, &note));
}

/* ---- blobs ---- */

static int load_blob(void *userdata, struct http *http, struct job *job, struct why *why)
{
	struct fetch *fetch = userdata;

	return download_blob(&fetch->registry, fetch->ingest, http, job, why);
}

/* Is it in the content store? Else it is loaded. */
static int ask_or_load(struct fetch *fetch, struct job *job, struct why *why)
{
	int r;

	work_answer_clear(&job->answer);
	r = channel_ask(fetch->channel, NOTE_ASK, &job->blob, &job->answer, NULL, why);
	if (r)
		return r;
	job->status = job->answer.is_present ? TRANSFER_EXISTS : TRANSFER_WAITING;
	return 0;
}

static int seen(void *userdata, struct job *job, bool is_again, struct why *why)
{
	struct work_note note = {.kind = NOTE_ARRIVED, .blob = &job->blob};
	struct fetch *fetch = userdata;

	if (is_again && ++job->n_again > AGAIN_MAX)
		return why_set(why, WORK_E_AWAY, "blob %s is taken away again and again",
			       job->blob.digest);
	if (is_again)
		return ask_or_load(fetch, job, why);
	job->status = TRANSFER_DONE;
	return error_trace(channel_note(fetch->channel, &note));
}

static int add_blob(struct fetch *fetch, const struct descriptor *blob)
{
	struct job *job;
	bool is_new;
	int r;

	r = pool_add(fetch->pool, blob, TRANSFER_WAITING, &job, &is_new, fetch->why);
	if (r || !is_new)
		return r;
	r = ask_or_load(fetch, job, fetch->why);
	if (!r && job->status == TRANSFER_WAITING)
		pool_run(fetch->pool, job);
	return r;
}

/* ---- walking ---- */

static int visit(struct fetch *fetch, const struct descriptor *descriptor, unsigned depth,
		 bool with_layers);

static int visit_manifest(struct fetch *fetch, const struct descriptor *descriptor,
			  const char *text, size_t size, bool with_layers)
{
	_cleanup_(document_manifest_clear) struct document_manifest manifest = {};
	int r;

	r = document_parse_manifest(text, size, descriptor->media_type, &manifest, fetch->why);
	if (r)
		return r > 0 ? why_prefix(fetch->why, WORK_E_INVALID, "manifest %s",
					  descriptor->digest)
			     : error_trace(r);
	if (manifest.config.size > DOCUMENT_SIZE_MAX)
		return why_set(fetch->why, WORK_E_INVALID,
			       "config %s has %llu bytes, a document at most %u",
			       manifest.config.digest, (unsigned long long)manifest.config.size,
			       DOCUMENT_SIZE_MAX);
	r = add_blob(fetch, &manifest.config);
	for (size_t i = 0; i < manifest.layers.count && !r && with_layers; i++)
		r = add_blob(fetch, &manifest.layers.items[i]);
	return r;
}

static int nothing_for(struct fetch *fetch, const struct descriptor *descriptor,
		       const struct document_index *index)
{
	_cleanup_(cleanup_free) char *wanted = platform_text(&fetch->request->platforms.items[0]);
	char has[256] = "";
	size_t size = 0;

	for (size_t i = 0; i < index->count; i++) {
		_cleanup_(cleanup_free) char *text = platform_text(&index->items[i].platform);

		if (text && index->items[i].platform.os && size < sizeof(has) - 1)
			size += (size_t)snprintf(has + size, sizeof(has) - size, "%s%s",
						 size ? ", " : "", work_show(text));
	}
	return why_set(fetch->why, WORK_E_MISSING, "index %s has nothing for %s, only for %s",
		       descriptor->digest, wanted, has[0] ? has : "no platform that it names");
}

static int visit_index(struct fetch *fetch, const struct descriptor *descriptor, const char *text,
		       size_t size, unsigned depth, bool with_layers)
{
	const struct work_fetch_request *request = fetch->request;
	_cleanup_(document_index_clear) struct document_index index = {};
	bool is_chosen[DOCUMENT_ENTRIES_MAX] = {};
	size_t n_chosen = 0;
	int r;

	r = document_parse_index(text, size, descriptor->media_type, &index, fetch->why);
	if (r)
		return r > 0 ? why_prefix(fetch->why, WORK_E_INVALID, "index %s",
					  descriptor->digest)
			     : error_trace(r);
	for (size_t i = 0; i < request->platforms.count; i++) {
		int chosen = platform_choose(&index, &request->platforms.items[i]);

		if (chosen >= 0)
			is_chosen[chosen] = true;
		n_chosen += chosen >= 0;
	}
	if (!n_chosen && !request->all_platforms)
		return nothing_for(fetch, descriptor, &index);
	for (size_t i = 0; i < index.count && !r; i++) {
		bool is_wanted = is_chosen[i] || request->all_platforms;
		const struct descriptor *entry = &index.items[i].descriptor;

		if (document_is_part(entry->media_type))
			r = with_layers ? add_blob(fetch, entry) : 0;
		else if (is_wanted || request->all_metadata)
			r = visit(fetch, entry, depth + 1, with_layers && is_wanted);
	}
	return r;
}

/* A document and all that it refers to. */
static int visit(struct fetch *fetch, const struct descriptor *descriptor, unsigned depth,
		 bool with_layers)
{
	_cleanup_(cleanup_free) char *text = NULL;
	unsigned how = with_layers ? 2 : 1;
	struct job *job = NULL;
	bool is_new = false;
	size_t size;
	int r;

	if (depth > NESTING_MAX)
		return why_set(fetch->why, WORK_E_INVALID, "index in index, more than %d deep",
			       NESTING_MAX);
	if (descriptor->size > DOCUMENT_SIZE_MAX)
		return why_set(fetch->why, WORK_E_INVALID,
			       "%s has %llu bytes, a document at most %u", descriptor->digest,
			       (unsigned long long)descriptor->size, DOCUMENT_SIZE_MAX);
	r = check_type(fetch, descriptor->media_type, descriptor->digest);
	if (!r)
		r = pool_add(fetch->pool, descriptor, TRANSFER_WAITING, &job, &is_new, fetch->why);
	/* Once is enough, however often indexes name it. */
	if (r || job->visited >= how)
		return r;
	job->visited = how;
	r = get_document(fetch, job, &text, &size);
	if (r)
		return r;
	if (document_is_index(descriptor->media_type))
		return visit_index(fetch, descriptor, text, size, depth, with_layers);
	return visit_manifest(fetch, descriptor, text, size, with_layers);
}

/* ---- one object ---- */

static bool is_document(const struct work_fetch_request *request)
{
	for (size_t i = 0; i < request->media_types.count; i++) {
		if (document_is_index(request->media_types.items[i]) ||
		    document_is_manifest(request->media_types.items[i]))
			return true;
	}
	return false;
}

static int find_blob_at(struct fetch *fetch, size_t host, void *data)
{
	const char *digest = fetch->registry.remote.digest;
	_cleanup_(http_reply_clear) struct http_reply reply = {};
	struct registry_request request = {.method = "HEAD"};
	char path[96], empty[DIGEST_SIZE];
	int r;

	(void)data;
	snprintf(path, sizeof(path), "blobs/%s", digest);
	request.path = path;
	r = registry_call(&fetch->registry, fetch->http, host, &request, &reply, fetch->why);
	if (r)
		return registry_fold(&fetch->registry, host, path, r, fetch->why);
	if (reply.status != 200)
		return registry_explain(&fetch->registry, host, path, &reply, fetch->why);
	if (reply.content_type)
		cut_type(reply.content_type);
	digest_of("", 0, empty);
	if (!reply.length && strcmp(digest, empty) != 0)
		return why_set(fetch->why, WORK_E_INVALID,
			       "%s: %s: it does not say how large it is",
			       fetch->registry.hosts.items[host].name, path);
	fetch->target.size = reply.length;
	return error_trace(schema_set(&fetch->target.digest, digest)
				   ?: schema_set(&fetch->target.media_type,
						 reply.content_type && *reply.content_type
							 ? reply.content_type
							 : MEDIA_BLOB));
}

static int load_found_blob(struct fetch *fetch)
{
	int r = add_blob(fetch, &fetch->target);

	return r ? r : pool_wait(fetch->pool, seen, fetch->why);
}

static int load_found_document(struct fetch *fetch)
{
	_cleanup_(cleanup_free) char *text = NULL;
	struct job *job;
	size_t size;
	bool is_new;
	int r;

	r = pool_add(fetch->pool, &fetch->target, TRANSFER_WAITING, &job, &is_new, fetch->why);
	return r ? r : get_document(fetch, job, &text, &size);
}

/* A digest is a blob's, or a document's: both have their own place in a registry. */
static int load_object(struct fetch *fetch)
{
	struct why own = {};
	int r;

	if (fetch->registry.remote.digest && !is_document(fetch->request)) {
		r = on_hosts(fetch, may_pull, find_blob_at, NULL, "no host may be pulled from");
		if (!r)
			return load_found_blob(fetch);
		if (r != WORK_E_MISSING)
			return r;
		own = *fetch->why;
		*fetch->why = (struct why){};
	}
	r = resolve(fetch);
	if (r == WORK_E_MISSING && own.text[0]) {
		*fetch->why = (struct why){};
		return why_set(fetch->why, r, "%s, nor is there a document of that digest",
			       own.text);
	}
	return r ? r : load_found_document(fetch);
}

/* A digest of the request's takes the place of what the reference names. */
static int prepare_object(struct fetch *fetch, struct schema_buffer *accept)
{
	const struct work_fetch_request *request = fetch->request;
	int r = 0;

	if (request->digest && *request->digest)
		r = schema_set(&fetch->registry.remote.digest, request->digest);
	for (size_t i = 0; i < request->media_types.count && !r; i++)
		r = schema_buffer_addf(accept, "%s%s", i ? ", " : "",
				       request->media_types.items[i]);
	if (!r && accept->size)
		r = schema_buffer_add(accept, "", 1);
	if (accept->size)
		fetch->accept = (const char *)accept->data;
	return error_trace(r);
}

/* ---- the whole ---- */

static int add_result(const struct job *job, struct work_fetch_result *result)
{
	struct work_blob *blob = schema_list_add(&result->blobs);
	char path[DOWNLOAD_PATH_SIZE] = "";

	if (!blob)
		return error_origin(-ENOMEM);
	blob->size = job->blob.size;
	if (job->status == TRANSFER_DONE) {
		download_path(job->blob.digest, path);
		result->downloaded += job->came;
	}
	return error_trace(schema_set(&blob->digest, job->blob.digest)
				   ?: schema_set(&blob->path, path)
				   ?: schema_set(&blob->media_type, job->blob.media_type));
}

static int fill_result(struct fetch *fetch, struct work_fetch_result *result)
{
	int r;

	result->target = calloc(1, sizeof(*result->target));
	if (!result->target)
		return error_origin(-ENOMEM);
	r = descriptor_copy(&fetch->target, result->target);
	for (size_t i = 0; i < pool_count(fetch->pool) && !r; i++)
		r = add_result(pool_job(fetch->pool, i), result);
	return error_trace(r);
}

static int load_image(struct fetch *fetch)
{
	struct work_note note = {.kind = NOTE_RESOLVED, .blob = &fetch->target};
	int r;

	r = resolve(fetch);
	if (!r)
		r = channel_note(fetch->channel, &note);
	if (!r)
		r = visit(fetch, &fetch->target, 0, !fetch->request->metadata_only);
	if (!r)
		r = pool_wait(fetch->pool, seen, fetch->why);
	return r;
}

static int fetch_all(struct fetch *fetch)
{
	_cleanup_(schema_buffer_clear) struct schema_buffer accept = {};
	int r;

	r = pool_new((unsigned)fetch->request->connections, fetch->channel, load_blob, fetch,
		     &fetch->pool, fetch->why);
	if (!r && fetch->request->only_object)
		r = prepare_object(fetch, &accept);
	if (!r)
		r = fetch->request->only_object ? load_object(fetch) : load_image(fetch);
	if (r)
		http_stop();
	return r;
}

int work_fetch(const struct work_fetch_request *request, int channel, int ingest,
	       struct work_fetch_result *ret_result, struct why *why)
{
	static int log_channel;
	struct fetch fetch = {.request = request,
			      .channel = channel,
			      .ingest = ingest,
			      .accept = ACCEPT,
			      .why = why};
	struct work_fetch_result result = {};
	int r;

	log_channel = channel;
	http_set_log(channel_log, &log_channel);
	r = http_set_up(request->registry, &request->environment, why);
	if (!r)
		r = registry_init(&fetch.registry, request->name, request->registry, false, why);
	if (!r)
		r = sandbox_network(why);
	if (!r)
		r = channel_watch(channel, why);
	if (!r)
		r = http_new(&fetch.http);
	if (!r)
		r = fetch_all(&fetch);
	if (!r)
		r = fill_result(&fetch, &result);
	fetch.pool = pool_free(fetch.pool);
	http_free(fetch.http);
	registry_deinit(&fetch.registry);
	descriptor_clear(&fetch.target);
	if (r) {
		work_fetch_result_clear(&result);
		return r > WORK_E_REFUSED ? why_set(why, error_origin(-EPROTO), "failed") : r;
	}
	*ret_result = result;
	return 0;
}
