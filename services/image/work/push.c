/*
 * Pushing: the documents are read from the content store and walked, what they
 * refer to is sent by a pool of threads unless the registry has it or can take it
 * from another of its repositories; then the documents, the named one last. Or
 * one object alone, whatever it refers to.
 */

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "broker/lib/file.h"
#include "services/image/document.h"
#include "services/image/reference.h"

#include "services/image/work/channel.h"
#include "services/image/work/fetch.h"
#include "services/image/work/pool.h"
#include "services/image/work/registry.h"

#define NESTING_MAX  4
#define SOURCES_MAX  3
#define RESUME_MIN   (256u << 10) /* a smaller blob is simply sent again */
#define PROGRESS_MIN (1u << 20)

struct push_document {
	struct descriptor descriptor;
	char *text;
	size_t size;
};

struct push {
	const struct work_push_request *request;
	int channel;
	struct registry registry;
	size_t host;
	struct http *http;
	struct pool *pool;
	struct {
		struct push_document *items; /* children first */
		size_t count;
	} documents;
	struct work_push_result result;
	struct why *why;
};

static int is_missing(const char *digest, struct why *why)
{
	return why_set(why, WORK_E_MISSING,
		       "%s is not in the content store: pull the image with --all-platforms, or "
		       "push one platform of it with --platform",
		       digest);
}

/* ---- walking ---- */

static int read_document(struct push *push, const struct descriptor *descriptor, char **ret_text,
			 size_t *ret_size)
{
	_cleanup_(work_answer_clear) struct work_answer answer = {};
	_cleanup_(cleanup_fd) int fd = -1;
	_cleanup_(cleanup_free) char *text = NULL;
	char actual[DIGEST_SIZE];
	struct stat status;
	int r;

	r = channel_ask(push->channel, NOTE_OPEN, descriptor, &answer, &fd, push->why);
	if (r)
		return r;
	if (fd < 0)
		return is_missing(descriptor->digest, push->why);
	if (fstat(fd, &status) < 0 || status.st_size > DOCUMENT_SIZE_MAX)
		return why_set(push->why, WORK_E_INVALID, "%s is no document", descriptor->digest);
	text = malloc((size_t)status.st_size + 1);
	if (!text)
		return error_origin(-ENOMEM);
	if (pread(fd, text, (size_t)status.st_size, 0) != status.st_size)
		return why_set(push->why, WORK_E_DAMAGED, "cannot read %s", descriptor->digest);
	text[status.st_size] = '\0';
	digest_of(text, (size_t)status.st_size, actual);
	if (strcmp(actual, descriptor->digest))
		return why_set(push->why, WORK_E_DAMAGED, "blob %s is damaged", descriptor->digest);
	*ret_text = TAKE(text);
	*ret_size = (size_t)status.st_size;
	return 0;
}

static bool is_kept_back(const struct push *push, const struct descriptor *blob)
{
	return blob->media_type && !push->request->allow_non_distributable &&
	       (strstr(blob->media_type, ".nondistributable.") ||
		strstr(blob->media_type, ".foreign."));
}

static int add_blob(struct push *push, const struct descriptor *blob)
{
	struct job *job;
	bool is_new;
	int r;

	if (is_kept_back(push, blob))
		return 0;
	r = pool_add(push->pool, blob, TRANSFER_WAITING, &job, &is_new, push->why);
	if (r || !is_new)
		return r;
	r = channel_ask(push->channel, NOTE_ASK, blob, &job->answer, NULL, push->why);
	if (r)
		return r;
	if (!job->answer.is_present)
		return is_missing(blob->digest, push->why);
	pool_run(push->pool, job);
	return 0;
}

static int visit(struct push *push, const struct descriptor *descriptor, unsigned depth);

static int visit_manifest(struct push *push, const struct descriptor *descriptor, const char *text,
			  size_t size)
{
	_cleanup_(document_manifest_clear) struct document_manifest manifest = {};
	int r;

	r = document_parse_manifest(text, size, descriptor->media_type, &manifest, push->why);
	if (r)
		return r > 0 ? why_prefix(push->why, WORK_E_INVALID, "manifest %s",
					  descriptor->digest)
			     : error_trace(r);
	r = add_blob(push, &manifest.config);
	for (size_t i = 0; i < manifest.layers.count && !r; i++)
		r = add_blob(push, &manifest.layers.items[i]);
	return r;
}

static int visit_index(struct push *push, const struct descriptor *descriptor, const char *text,
		       size_t size, unsigned depth)
{
	_cleanup_(document_index_clear) struct document_index index = {};
	int r;

	r = document_parse_index(text, size, descriptor->media_type, &index, push->why);
	if (r)
		return r > 0 ? why_prefix(push->why, WORK_E_INVALID, "index %s", descriptor->digest)
			     : error_trace(r);
	for (size_t i = 0; i < index.count && !r; i++) {
		const struct descriptor *entry = &index.items[i].descriptor;

		r = document_is_part(entry->media_type) ? add_blob(push, entry)
							: visit(push, entry, depth + 1);
	}
	return r;
}

static int keep_document(struct push *push, const struct descriptor *descriptor, char **text,
			 size_t size)
{
	struct push_document *document = schema_list_add(&push->documents);

	if (!document)
		return error_origin(-ENOMEM);
	document->text = TAKE(*text);
	document->size = size;
	return error_trace(descriptor_copy(descriptor, &document->descriptor));
}

static bool is_known(const struct push *push, const char *digest)
{
	for (size_t i = 0; i < push->documents.count; i++) {
		if (!strcmp(push->documents.items[i].descriptor.digest, digest))
			return true;
	}
	return false;
}

static int visit(struct push *push, const struct descriptor *descriptor, unsigned depth)
{
	_cleanup_(cleanup_free) char *text = NULL;
	size_t size;
	int r;

	if (depth > NESTING_MAX)
		return why_set(push->why, WORK_E_INVALID, "index in index, more than %d deep",
			       NESTING_MAX);
	if (is_known(push, descriptor->digest))
		return 0;
	r = read_document(push, descriptor, &text, &size);
	if (r)
		return r;
	if (document_is_index(descriptor->media_type))
		r = visit_index(push, descriptor, text, size, depth);
	else if (document_is_manifest(descriptor->media_type))
		r = visit_manifest(push, descriptor, text, size);
	else
		r = why_set(push->why, WORK_E_INVALID,
			    "%s is neither an index nor a manifest but %s", descriptor->digest,
			    descriptor->media_type ? work_show(descriptor->media_type) : "nothing");
	return r ? r : keep_document(push, descriptor, &text, size);
}

/* ---- one blob ---- */

/* HEAD: 0 and @ret_exists, or a failure. */
static int look(struct push *push, struct http *http, const char *path, const char *accept,
		const char *digest, bool *ret_exists, struct why *why)
{
	_cleanup_(http_reply_clear) struct http_reply reply = {};
	const struct registry_request request = {.method = "HEAD", .path = path, .accept = accept};
	int r;

	r = registry_call(&push->registry, http, push->host, &request, &reply, why);
	if (r)
		return registry_fold(&push->registry, push->host, path, r, why);
	*ret_exists = reply.status == 200 &&
		      (!digest || (reply.digest && !strcmp(reply.digest, digest)));
	if (reply.status == 200 || reply.status == 404)
		return 0;
	return registry_explain(&push->registry, push->host, path, &reply, why);
}

/* Where the blob is to be sent; NULL: the registry has taken it from @from. */
static int begin_upload(struct push *push, struct http *http, const struct job *job,
			const char *from, char **ret_url, struct why *why)
{
	const struct host *host = &push->registry.hosts.items[push->host];
	_cleanup_(cleanup_free) char *path = NULL, *escaped = NULL, *url = NULL;
	_cleanup_(http_reply_clear) struct http_reply reply = {};
	struct registry_request request = {.method = "POST", .from = from};
	int r;

	escaped = from ? http_escape(from) : strdup("");
	path = from ? text_format("blobs/uploads/?mount=%s&from=%s", job->blob.digest, escaped)
		    : strdup("blobs/uploads/");
	if (!escaped || !path)
		return error_origin(-ENOMEM);
	request.path = path;
	r = registry_call(&push->registry, http, push->host, &request, &reply, why);
	if (r)
		return registry_fold(&push->registry, push->host, "beginning an upload", r, why);
	*ret_url = NULL;
	if (reply.status == 201 && from)
		return 0;
	if (reply.status != 202)
		return registry_explain(&push->registry, push->host, "beginning an upload", &reply,
					why);
	url = reply.location ? http_resolve(host->url, reply.location) : NULL;
	if (!url)
		return why_set(why, WORK_E_INVALID, "%s: beginning an upload: no Location",
			       host->name);
	*ret_url = TAKE(url);
	return 0;
}

/* A mount is asked for while there are sources; a registry that cannot opens an upload instead. */
static int begin_or_mount(struct push *push, struct http *http, struct job *job, char **ret_url,
			  struct why *why)
{
	unsigned n_tried = 0;

	for (size_t i = 0; i < job->answer.sources.count && n_tried < SOURCES_MAX; i++) {
		const char *from = job->answer.sources.items[i];
		struct why own = {};
		int r;

		if (!strcmp(from, push->registry.remote.repository))
			continue;
		n_tried++;
		r = begin_upload(push, http, job, from, ret_url, &own);
		/* One that may not be read: the blob is sent. */
		if (r == WORK_E_DENIED || r == WORK_E_MISSING || r == WORK_E_REFUSED)
			continue;
		return r ? why_set(why, r, "%s", own.text) : 0;
	}
	return begin_upload(push, http, job, NULL, ret_url, why);
}

struct upload {
	char *url;       /* NULL: it must be begun */
	uint64_t offset; /* so much is there */
	uint64_t best;   /* the furthest that it was asked to go on from */
	bool is_whole;   /* the registry takes a blob in one request alone */
};

static void upload_clear(struct upload *upload)
{
	free(upload->url);
	upload->url = NULL;
	upload->offset = 0;
}

static bool is_resumable(const struct upload *upload, const struct job *job)
{
	return !upload->is_whole && job->blob.size >= RESUME_MIN;
}

static void take_location(const struct push *push, const struct http_reply *reply,
			  struct upload *upload)
{
	char *url = reply->location ? http_resolve(push->registry.hosts.items[push->host].url,
						   reply->location)
				    : NULL;

	/* Without one, or one that is none, it stays where it was. */
	if (!url)
		return;
	free(upload->url);
	upload->url = url;
}

/* What is not there yet, in one stream as docker sends it. */
static int send_rest(struct push *push, struct http *http, struct job *job, struct upload *upload,
		     struct http_reply *ret_reply, struct why *why)
{
	const struct registry_request request = {.method = "PATCH",
						 .url = upload->url,
						 .body_fd = job->fd,
						 .body_first = upload->offset,
						 .body_size = job->blob.size - upload->offset,
						 .has_body = true,
						 .moved = &job->moved};
	int r;

	r = registry_send(&push->registry, http, push->host, &request, ret_reply, why);
	if (r || ret_reply->status / 100 != 2)
		return r;
	upload->offset = job->blob.size;
	take_location(push, ret_reply, upload);
	return 0;
}

/* It becomes a blob; with its bytes, if it was not sent in parts. */
static int finish_upload(struct push *push, struct http *http, struct job *job,
			 const struct upload *upload, struct http_reply *ret_reply, struct why *why)
{
	bool has_gone = is_resumable(upload, job);
	_cleanup_(cleanup_free) char *url = text_format("%s%sdigest=%s", upload->url,
							strchr(upload->url, '?') ? "&" : "?",
							job->blob.digest);
	const struct registry_request request = {.method = "PUT",
						 .url = url,
						 .body_fd = job->fd,
						 .body_size = has_gone ? 0 : job->blob.size,
						 .has_body = true,
						 .moved = has_gone ? NULL : &job->moved};

	if (!url)
		return error_origin(-ENOMEM);
	return registry_send(&push->registry, http, push->host, &request, ret_reply, why);
}

static int send_to(struct push *push, struct http *http, struct job *job, struct upload *upload,
		   struct http_reply *ret_reply, struct why *why)
{
	if (is_resumable(upload, job) && upload->offset < job->blob.size) {
		_cleanup_(http_reply_clear) struct http_reply reply = {};
		int r = send_rest(push, http, job, upload, &reply, why);

		if (r || reply.status / 100 != 2) {
			*ret_reply = reply;
			reply = (struct http_reply){};
			return r;
		}
	}
	return finish_upload(push, http, job, upload, ret_reply, why);
}

/*
 * Asks how much of a broken upload is there. One that the registry knows no more is begun anew: docker's keeps only
 * what came in whole requests, and forgets an upload that was cut in the midst of one.
 */
static void find_offset(struct push *push, struct http *http, const struct job *job,
			struct upload *upload)
{
	const struct registry_request request = {
		.method = "GET", .url = upload->url, .limit = HTTP_BODY_MAX};
	_cleanup_(http_reply_clear) struct http_reply reply = {};
	struct why why = {};
	uint64_t size = 0;

	if (!registry_send(&push->registry, http, push->host, &request, &reply, &why) &&
	    reply.status / 100 == 2 && reply.uploaded &&
	    remote_parse_uploaded(reply.uploaded, &size) && size <= job->blob.size) {
		upload->offset = size;
		take_location(push, &reply, upload);
		return;
	}
	upload_clear(upload);
}

static int check_size(const struct job *job, struct why *why)
{
	struct stat status;

	if (fstat(job->fd, &status) < 0)
		return error_origin(-errno);
	if ((uint64_t)status.st_size != job->blob.size)
		return why_set(why, WORK_E_DAMAGED,
			       "blob %s has %llu bytes, its descriptor says %llu", job->blob.digest,
			       (unsigned long long)status.st_size,
			       (unsigned long long)job->blob.size);
	return 0;
}

static bool is_done(const struct http_reply *reply)
{
	return reply->status == 201 || reply->status == 200 || reply->status == 204;
}

/* A stream of its own is not for every registry; and what it does not know any more is begun anew. */
static bool may_go_on(struct upload *upload, const struct job *job, int r,
		      const struct http_reply *reply)
{
	if (!r && is_resumable(upload, job) && !upload->offset &&
	    (reply->status == 405 || reply->status == 501)) {
		upload->is_whole = true;
		return true;
	}
	return registry_may_retry(r, reply) ||
	       (!r && (reply->status == 404 || reply->status == 416));
}

static int upload_once(struct push *push, struct http *http, struct job *job, struct upload *upload,
		       struct http_reply *ret_reply, struct why *ret_own, struct why *why)
{
	int r;

	if (!upload->url) {
		job->moved = 0;
		r = begin_or_mount(push, http, job, &upload->url, why);
		if (r)
			return r;
		if (!upload->url) {
			job->status = TRANSFER_MOUNTED;
			return 0;
		}
	}
	r = send_to(push, http, job, upload, ret_reply, ret_own);
	if (!r && is_done(ret_reply))
		job->status = TRANSFER_DONE;
	return r;
}

static int upload_failed(struct push *push, const struct job *job, int r,
			 const struct http_reply *reply, const struct why *own, struct why *why)
{
	char what[96];

	snprintf(what, sizeof(what), "blob %s", job->blob.digest);
	if (!r)
		return registry_explain(&push->registry, push->host, what, reply, why);
	why_set(why, r, "%s", own->text);
	return registry_fold(&push->registry, push->host, what, r, why);
}

/* A broken upload is gone on with where the registry has it; each that has come further has all its attempts again. */
static int upload(struct push *push, struct http *http, struct job *job, struct why *why)
{
	_cleanup_(upload_clear) struct upload upload = {};
	int r = check_size(job, why);

	for (unsigned n = 1; !r; n++) {
		_cleanup_(http_reply_clear) struct http_reply reply = {};
		struct why own = {};
		int sent = upload_once(push, http, job, &upload, &reply, &own, why);

		if (why->text[0])
			return sent;
		if (job->status != TRANSFER_RUNNING)
			return 0;
		if (n == REGISTRY_ATTEMPTS || !may_go_on(&upload, job, sent, &reply))
			return upload_failed(push, job, sent, &reply, &own, why);
		r = registry_back_off(n, &reply);
		if (!r && is_resumable(&upload, job) && upload.url)
			find_offset(push, http, job, &upload);
		else
			upload_clear(&upload);
		if (upload.offset > upload.best + PROGRESS_MIN) {
			upload.best = upload.offset;
			n = 0;
		}
	}
	return r;
}

static int push_blob(void *userdata, struct http *http, struct job *job, struct why *why)
{
	struct push *push = userdata;
	char path[96];
	bool exists;
	int r;

	job->status = TRANSFER_RUNNING;
	if (job->fd >= 0) {
		r = upload(push, http, job, why);
		job->fd = close_fd(job->fd);
		return r;
	}
	snprintf(path, sizeof(path), "blobs/%s", job->blob.digest);
	r = look(push, http, path, NULL, NULL, &exists, why);
	if (r)
		return r;
	if (!exists)
		return POOL_AGAIN; /* with a descriptor */
	job->status = TRANSFER_EXISTS;
	return 0;
}

static int seen(void *userdata, struct job *job, bool is_again, struct why *why)
{
	struct push *push = userdata;
	int r;

	if (!is_again) {
		push->result.uploaded += job->status == TRANSFER_DONE;
		push->result.mounted += job->status == TRANSFER_MOUNTED;
		push->result.existing += job->status == TRANSFER_EXISTS;
		return 0;
	}
	work_answer_clear(&job->answer);
	r = channel_ask(push->channel, NOTE_OPEN, &job->blob, &job->answer, &job->fd, why);
	if (!r && job->fd < 0)
		r = is_missing(job->blob.digest, why);
	job->status = TRANSFER_WAITING;
	return r;
}

/* ---- documents ---- */

static int put_document(struct push *push, const struct push_document *document, bool is_last,
			bool *ret_existed)
{
	const struct remote *remote = &push->registry.remote;
	const char *object = is_last && remote->tag ? remote->tag : document->descriptor.digest;
	_cleanup_(http_reply_clear) struct http_reply reply = {};
	_cleanup_(cleanup_free) char *path = text_format("manifests/%s", object);
	const struct registry_request request = {.method = "PUT",
						 .path = path,
						 .type = document->descriptor.media_type,
						 .body = document->text,
						 .body_size = document->size,
						 .has_body = true};
	int r;

	if (!path)
		return error_origin(-ENOMEM);
	r = look(push, push->http, path, document->descriptor.media_type,
		 document->descriptor.digest, ret_existed, push->why);
	if (r || *ret_existed)
		return r;
	r = registry_call(&push->registry, push->http, push->host, &request, &reply, push->why);
	if (r)
		return registry_fold(&push->registry, push->host, path, r, push->why);
	if (reply.status / 100 != 2)
		return registry_explain(&push->registry, push->host, path, &reply, push->why);
	if (reply.digest && strcmp(reply.digest, document->descriptor.digest))
		return why_set(push->why, WORK_E_DAMAGED, "the registry has stored %s as %s",
			       document->descriptor.digest, work_show(reply.digest));
	return 0;
}

static int put_documents(struct push *push)
{
	bool existed;
	int r = 0;

	for (size_t i = 0; i < push->documents.count && !r; i++)
		r = put_document(push, &push->documents.items[i], i + 1 == push->documents.count,
				 &existed);
	return r;
}

/* ---- one object ---- */

static int push_one_document(struct push *push)
{
	const struct descriptor *target = push->request->target;
	const struct remote *remote = &push->registry.remote;
	_cleanup_(cleanup_free) char *text = NULL;
	bool existed = false;
	size_t size;
	int r;

	if (remote->digest && !remote->tag && strcmp(remote->digest, target->digest) != 0)
		return why_set(push->why, WORK_E_INVALID,
			       "reference '%s' names another document than %s",
			       work_show(remote->name), target->digest);
	r = read_document(push, target, &text, &size);
	if (!r)
		r = keep_document(push, target, &text, size);
	if (!r)
		r = put_document(push, &push->documents.items[0], true, &existed);
	push->result.existing = !r && existed;
	push->result.uploaded = !r && !existed;
	return r;
}

static int push_object(struct push *push)
{
	const struct descriptor *target = push->request->target;
	int r;

	if (document_is_index(target->media_type) || document_is_manifest(target->media_type))
		return push_one_document(push);
	r = add_blob(push, target);
	return r ? r : pool_wait(push->pool, seen, push->why);
}

/* ---- the whole ---- */

static int choose_host(struct push *push)
{
	const struct hosts *hosts = &push->registry.hosts;

	for (push->host = 0; push->host < hosts->count; push->host++) {
		if (hosts->items[push->host].can_push)
			return 0;
	}
	return why_set(push->why, WORK_E_REFUSED, "%s: no host of its hosts.toml may be pushed to",
		       push->registry.remote.host);
}

static int push_image(struct push *push)
{
	int r = visit(push, push->request->target, 0);

	if (!r)
		r = pool_wait(push->pool, seen, push->why);
	return r ? r : put_documents(push);
}

static int push_all(struct push *push)
{
	int r;

	r = pool_new((unsigned)push->request->connections, push->channel, push_blob, push,
		     &push->pool, push->why);
	if (!r)
		r = push->request->only_object ? push_object(push) : push_image(push);
	if (r)
		http_stop();
	return r;
}

static void clear_documents(struct push *push)
{
	for (size_t i = 0; i < push->documents.count; i++) {
		descriptor_clear(&push->documents.items[i].descriptor);
		free(push->documents.items[i].text);
	}
	free(push->documents.items);
}

int work_push(const struct work_push_request *request, int channel,
	      struct work_push_result *ret_result, struct why *why)
{
	static int log_channel;
	struct push push = {.request = request, .channel = channel, .why = why};
	int r;

	log_channel = channel;
	http_set_log(channel_log, &log_channel);
	r = http_set_up(request->registry, &request->environment, why);
	if (!r)
		r = registry_init(&push.registry, request->name, request->registry, true, why);
	if (!r)
		r = choose_host(&push);
	if (!r)
		r = sandbox_network(why);
	if (!r)
		r = channel_watch(channel, why);
	if (!r)
		r = http_new(&push.http);
	if (!r)
		r = push_all(&push);
	push.pool = pool_free(push.pool);
	http_free(push.http);
	registry_deinit(&push.registry);
	clear_documents(&push);
	if (r)
		return r > WORK_E_REFUSED ? why_set(why, error_origin(-EPROTO), "failed") : r;
	*ret_result = push.result;
	return 0;
}
