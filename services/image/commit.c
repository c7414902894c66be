/*
 * content.commit: a child reads the ingest's file again and syncs it; size and
 * digest are compared, then it is linked into place, its directory synced, and the
 * blob recorded. A crash in between leaves the ingest whole, and a file without a
 * record, which goes at the next start.
 */

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "broker/lib/file.h"
#include "schemas/check.h"
#include "services/image/handlers.h"
#include "services/image/ingest.h"
#include "services/image/lease.h"

struct committing {
	struct image_service *image;
	struct operation *operation;
	struct content_ingest ingest;
	char digest[DIGEST_SIZE];
	uint64_t size;
	bool is_placed;
};

static void committing_free(void *userdata)
{
	struct committing *committing = userdata;

	content_ingest_clear(&committing->ingest);
	free(committing);
}

static const struct content_commit_request *request_of(const struct committing *committing)
{
	return operation_request(committing->operation);
}

/* ---- verify ---- */

static const char *expected_of(const struct committing *committing)
{
	const char *expected = request_of(committing)->expected;

	return expected && expected[0] ? expected : committing->ingest.expected;
}

static int check_found(struct committing *committing, const struct work_digest *found,
		       struct why *why)
{
	const struct content_commit_request *request = request_of(committing);
	uint64_t size = request->size ?: committing->ingest.total;
	const char *expected = expected_of(committing);

	if (!found->digest || !check_digest(found->digest))
		return why_set(why, refused(BUS_INTERNAL), "cannot read ingest '%s': %s",
			       request->ref, found->error ?: "no answer");
	if (size && found->size != size)
		return why_set(why, refused(BUS_FAILED_PRECONDITION),
			       "ingest '%s' has %llu bytes, not %llu", request->ref,
			       (unsigned long long)found->size, (unsigned long long)size);
	if (expected && strcmp(found->digest, expected) != 0)
		return why_set(why, refused(BUS_FAILED_PRECONDITION),
			       "ingest '%s' is %s, not %s: `content.abort` drops it", request->ref,
			       found->digest, expected);
	snprintf(committing->digest, sizeof(committing->digest), "%s", found->digest);
	committing->size = found->size;
	return 0;
}

/*
 * In the transaction that records the blob, which may be run again. A link first: the ingest stays until the blob is
 * recorded.
 */
static int place(struct committing *committing, struct why *why)
{
	struct image_service *image = committing->image;
	_cleanup_(cleanup_free) char *name = text_format(".new-%s", committing->ingest.file);
	const char *hex = committing->digest + strlen("sha256:");
	int r = 0;

	if (!name)
		return error_origin(-ENOMEM);
	(void)unlinkat(image->blobs, name, 0);
	if (linkat(image->ingest, committing->ingest.file, image->blobs, name, 0) < 0 ||
	    renameat(image->blobs, name, image->blobs, hex) < 0)
		r = error_origin(-errno);
	/* rename() of two names of one file does nothing, and leaves the first; so does one that fails. */
	(void)unlinkat(image->blobs, name, 0);
	if (r)
		return why_errno(why, r, "cannot move blob %s into place", committing->digest);
	committing->is_placed = true;
	if (fsync(image->blobs) < 0)
		return why_errno(why, error_origin(-errno), "cannot sync the content store");
	return 0;
}

static void verified(void *userdata, void *data, const struct why *why)
{
	const struct work_digest_result *result = data;
	struct committing *committing = userdata;
	const char *ref = request_of(committing)->ref;
	struct why own = {};
	int r;

	if (!result || result->error || result->files.count != 1)
		r = why_set(&own, refused(result ? result->status : BUS_INTERNAL),
			    "cannot read ingest '%s': %s", ref, result ? result->error : why->text);
	else if (operation_is_cancelled(committing->operation))
		r = why_set(&own, refused(BUS_CANCELED), "the commit was cancelled");
	else
		r = check_found(committing, &result->files.items[0], &own);
	image_step_ended(committing->operation, r, &own);
}

static void verify(struct operation *operation)
{
	struct committing *committing = operation_data(operation);
	struct image_service *image = committing->image;
	struct work_digest_request request = {.names = {&committing->ingest.file, 1}, .sync = true};
	struct why why = {};
	int r;

	r = image_work_start(image, "digest", schema_work_digest_request(), &request,
			     &image->ingest, 1, schema_work_digest_result(),
			     operation_deadline(operation), verified, committing, &why);
	if (r)
		image_step_ended(operation, r, &why);
}

static int commit_verify(struct operation *operation)
{
	const struct content_commit_request *request = operation_request(operation);
	struct committing *committing = calloc(1, sizeof(*committing));
	struct why why = {};
	int r;

	if (!committing)
		return error_origin(-ENOMEM);
	committing->image = operation_object(operation);
	committing->operation = operation;
	operation_set_data(operation, committing, committing_free);
	r = ingest_get(committing->image, operation_namespace(operation), request->ref,
		       &committing->ingest, &why);
	if (r)
		return image_step_failed(operation, r, &why);
	r = operation_after_commit(operation, verify);
	return r ? error_trace(r) : OPERATION_LATER;
}

/* A file that no record names. */
static int commit_undo(struct operation *operation)
{
	struct committing *committing = operation_data(operation);

	if (!committing || !committing->is_placed)
		return 0;
	return error_trace(trash_after_commit(committing->image, committing->image->blobs,
					      committing->digest + strlen("sha256:"),
					      committing->digest));
}

/* ---- record ---- */

static int commit_finish(struct operation *operation, void *data)
{
	struct committing *committing = operation_data(operation);
	const struct content_commit_request *request = operation_request(operation);
	const char *namespace = operation_namespace(operation);
	struct image_service *image = committing->image;
	struct content_commit_reply *reply = data;
	struct content_record record = {.digest = committing->digest,
					.size = committing->size,
					.labels = request->labels,
					.media_type = request->media_type};
	struct why why = {};
	int r;

	reply->content = calloc(1, sizeof(*reply->content));
	if (!reply->content)
		return error_origin(-ENOMEM);
	r = lease_check(image, namespace, request->lease, &why);
	if (!r)
		r = place(committing, &why);
	if (!r)
		r = content_commit_record(image, namespace, &record, &reply->existed);
	if (!r)
		r = lease_add_content(image, namespace, request->lease, committing->digest);
	if (!r)
		r = ingest_drop(image, namespace, &committing->ingest);
	if (!r)
		r = content_get(image, committing->digest, reply->content, &why);
	if (!r)
		ingest_unlock(image, namespace, request->ref);
	return r ? image_step_failed(operation, r, &why) : 0;
}

static const struct operation_step commit_steps[] = {
	{.name = "verify", .run = commit_verify, .undo = commit_undo},
	{},
};

const struct operation_type commit_operation = {
	.method = "content.commit",
	.steps = commit_steps,
	.request = schema_content_commit_request,
	.reply = schema_content_commit_reply,
	.context = schema_empty,
	.finish = commit_finish,
};

static int check_commit(struct image_service *image, const char *namespace,
			const struct content_commit_request *request, struct why *why)
{
	_cleanup_(content_ingest_clear) struct content_ingest ingest = {};
	struct schema_fault fault = {};
	int r;

	if (request->expected && request->expected[0] && !check_digest(request->expected))
		return why_set(why, refused(BUS_INVALID_ARGUMENT), "'%.100s' is not a digest",
			       request->expected);
	if (check_labels(&request->labels, &fault))
		return why_set(why, refused(BUS_INVALID_ARGUMENT), "ingest '%s': %s", request->ref,
			       fault.text);
	r = lease_check(image, namespace, request->lease, why);
	if (!r)
		r = ingest_get(image, namespace, request->ref, &ingest, why);
	return r ? r : ingest_lock(image, namespace, request->ref, request->writer, why);
}

int content_commit(struct image_service *image, const struct content_commit_request *request,
		   struct content_commit_reply *reply, struct call *call)
{
	const char *namespace = call_checked_namespace(call);
	_cleanup_(cleanup_free) char *name = NULL;
	struct why why = {};
	int r;

	(void)reply;
	if (!namespace)
		return 0;
	r = check_commit(image, namespace, request, &why);
	if (r)
		return image_answer(call, r, &why, "the ingest");
	name = ingest_commit_name(request->ref);
	if (!name)
		return error_origin(-ENOMEM);
	return error_trace(operation_start(call, &commit_operation, request, name, true));
}
