/* content.verify: a child reads blobs again, some at a time, and compares their digests. */

#include <string.h>

#include "broker/lib/file.h"
#include "schemas/check.h"
#include "services/image/handlers.h"

#define BATCH_MAX    128  /* blobs for one child */
#define VERDICTS_MAX 1000 /* of one reply */

struct verifying {
	struct image_service *image;
	struct operation *operation;
	struct schema_strs digests; /* to be read */
	bool is_all;                /* of the store: good ones are not told */
	size_t index;               /* of the next batch */
	struct content_verify_reply reply;
};

static void verifying_free(void *userdata)
{
	struct verifying *verifying = userdata;

	schema_strs_clear(&verifying->digests);
	content_verify_reply_clear(&verifying->reply);
	free(verifying);
}

/* ---- verdicts ---- */

static int add_verdict(struct verifying *verifying, const char *digest, enum bus_status status,
		       char *error)
{
	_cleanup_(cleanup_free) char *text = error;
	struct content_verdict *verdict;

	verifying->reply.n_bad += status == BUS_DATA_LOSS;
	if ((verifying->is_all && status == BUS_OK) ||
	    verifying->reply.verdicts.count == VERDICTS_MAX)
		return 0;
	verdict = schema_list_add(&verifying->reply.verdicts);
	if (!verdict)
		return error_origin(-ENOMEM);
	verdict->status = status;
	return schema_set(&verdict->digest, digest) ?: schema_set(&verdict->error, text);
}

static int add_missing(struct verifying *verifying, const char *digest)
{
	return add_verdict(verifying, digest, BUS_NOT_FOUND, text_format("no blob %s", digest));
}

static int judge(struct verifying *verifying, const char *digest, const struct work_digest *found)
{
	static const char advice[] = "import or pull the image again";

	verifying->reply.n_checked++;
	if (!found->digest)
		return add_verdict(verifying, digest, BUS_DATA_LOSS,
				   text_format("blob %s cannot be read: %s; %s", digest,
					       found->error ?: "no answer", advice));
	if (strcmp(found->digest, digest) != 0)
		return add_verdict(verifying, digest, BUS_DATA_LOSS,
				   text_format("blob %s is damaged: its content is %s; %s", digest,
					       found->digest, advice));
	return add_verdict(verifying, digest, BUS_OK, NULL);
}

/* ---- batches ---- */

static size_t batch_size(const struct verifying *verifying)
{
	size_t left = verifying->digests.count - verifying->index;

	return left < BATCH_MAX ? left : BATCH_MAX;
}

struct look {
	struct verifying *verifying;
	const struct work_digest_result *result;
};

/* A blob that was deleted meanwhile is not bad. */
static int judge_batch(void *userdata)
{
	struct look *look = userdata;
	struct verifying *verifying = look->verifying;
	int r = 0;

	for (size_t i = 0; i < look->result->files.count && !r; i++) {
		const char *digest = verifying->digests.items[verifying->index + i];

		if (content_has(verifying->image, digest))
			r = judge(verifying, digest, &look->result->files.items[i]);
		else if (!verifying->is_all)
			r = add_missing(verifying, digest);
	}
	return error_trace(r);
}

static void next_batch(struct verifying *verifying);

static void batch_read(void *userdata, void *data, const struct why *why)
{
	const struct work_digest_result *result = data;
	struct verifying *verifying = userdata;
	struct look look = {verifying, result};
	struct why own = {};
	int r;

	if (!result || result->error || result->files.count != batch_size(verifying))
		r = why_set(&own, refused(BUS_INTERNAL), "cannot read blobs: %s",
			    !result         ? why->text
			    : result->error ? result->error
					    : "an answer is missing");
	else if (operation_is_cancelled(verifying->operation))
		r = why_set(&own, refused(BUS_CANCELED), "the check was cancelled");
	else
		r = service_transact(verifying->image->service, judge_batch, &look);
	if (r) {
		image_step_ended(verifying->operation, r, &own);
		return;
	}
	verifying->index += result->files.count;
	next_batch(verifying);
}

static int start_batch(struct verifying *verifying, struct why *why)
{
	_cleanup_(work_digest_request_clear) struct work_digest_request request = {};
	struct image_service *image = verifying->image;
	size_t n = batch_size(verifying);
	int r = 0;

	for (size_t i = 0; i < n && !r; i++)
		r = schema_strs_add(&request.names, verifying->digests.items[verifying->index + i] +
							    strlen("sha256:"));
	if (r)
		return error_trace(r);
	return image_work_start(image, "digest", schema_work_digest_request(), &request,
				&image->blobs, 1, schema_work_digest_result(),
				operation_deadline(verifying->operation), batch_read, verifying,
				why);
}

static void next_batch(struct verifying *verifying)
{
	struct why why = {};
	int r;

	if (verifying->index == verifying->digests.count) {
		operation_step_done(verifying->operation);
		return;
	}
	r = start_batch(verifying, &why);
	if (r)
		image_step_ended(verifying->operation, r, &why);
}

static void first_batch(struct operation *operation)
{
	next_batch(operation_data(operation));
}

/* ---- the operation ---- */

static int add_blob(void *userdata, const struct store_key *key, void *data)
{
	const struct content_record *record = data;
	struct verifying *verifying = userdata;

	(void)key;
	return error_trace(schema_strs_add(&verifying->digests, record->digest));
}

static int choose(struct verifying *verifying, const struct content_verify_request *request)
{
	int r = 0;

	verifying->is_all = !request->digests.count;
	if (verifying->is_all)
		return store_walk(verifying->image->store, TABLE_BLOBS, NULL, NULL,
				  schema_content_record(), add_blob, verifying);
	for (size_t i = 0; i < request->digests.count && !r; i++) {
		const char *digest = request->digests.items[i];

		if (content_has(verifying->image, digest))
			r = schema_strs_add(&verifying->digests, digest);
		else
			r = add_missing(verifying, digest);
	}
	return error_trace(r);
}

static int verify_read(struct operation *operation)
{
	struct verifying *verifying = calloc(1, sizeof(*verifying));
	int r;

	if (!verifying)
		return error_origin(-ENOMEM);
	verifying->image = operation_object(operation);
	verifying->operation = operation;
	operation_set_data(operation, verifying, verifying_free);
	r = choose(verifying, operation_request(operation));
	if (!r)
		r = operation_after_commit(operation, first_batch);
	return r ? error_trace(r) : OPERATION_LATER;
}

static int verify_finish(struct operation *operation, void *data)
{
	struct verifying *verifying = operation_data(operation);

	return error_trace(content_verify_reply_copy(&verifying->reply, data));
}

static const struct operation_step verify_steps[] = {
	{.name = "read", .run = verify_read},
	{},
};

const struct operation_type verify_operation = {
	.method = "content.verify",
	.steps = verify_steps,
	.request = schema_content_verify_request,
	.reply = schema_content_verify_reply,
	.context = schema_empty,
	.finish = verify_finish,
};

int content_verify(struct image_service *image, const struct content_verify_request *request,
		   struct content_verify_reply *reply, struct call *call)
{
	(void)image;
	(void)reply;
	for (size_t i = 0; i < request->digests.count; i++) {
		if (!check_digest(request->digests.items[i]))
			return call_fail(call, BUS_INVALID_ARGUMENT, "'%.100s' is not a digest",
					 request->digests.items[i]);
	}
	return error_trace(operation_start(call, &verify_operation, request, "blobs", false));
}
