/* snapshot.diff: a child compares two snapshots, and the layer goes into the content store. */

#include <string.h>

#include "broker/lib/file.h"
#include "schemas/check.h"
#include "services/image/handlers.h"
#include "services/image/batch.h"
#include "services/image/lease.h"

struct differing {
	struct operation *operation;
	struct batch batch;
	struct work_diff_request work;
};

static void differing_free(void *userdata)
{
	struct differing *differing = userdata;

	batch_clear(&differing->batch);
	work_diff_request_clear(&differing->work);
	free(differing);
}

/* ---- which directories ---- */

/* A view has none of its own: it is what it lies on. */
static bool has_own(const struct snapshot_record *record)
{
	return record->kind != SNAPSHOT_VIEW || !record->parent || !record->parent[0];
}

static int add_directory(struct schema_strs *names, uint64_t number)
{
	_cleanup_(cleanup_free) char *name = text_format("%llu", (unsigned long long)number);

	return name ? error_trace(schema_strs_add(names, name)) : error_origin(-ENOMEM);
}

/* Directories of the tree that @record is, top first. */
static int add_tree(struct differing *differing, const struct snapshot_record *record,
		    struct schema_strs *names, struct why *why)
{
	bool is_native = !strcmp(record->snapshotter, SNAPSHOTTER_NATIVE);
	uint64_t numbers[SNAPSHOT_DEPTH_MAX];
	size_t count = 0;
	int r = 0;

	if (is_native || has_own(record))
		r = add_directory(names, record->number);
	if (r || is_native)
		return error_trace(r);
	r = snapshot_chain(differing->batch.image, operation_namespace(differing->operation),
			   record->snapshotter, record->parent, numbers, ARRAY_SIZE(numbers),
			   &count, why);
	for (size_t i = 0; i < count && !r; i++)
		r = add_directory(names, numbers[i]);
	return r;
}

static int find_base(struct differing *differing, const struct snapshot_record *record,
		     struct why *why)
{
	const struct snapshot_diff_request *asked = operation_request(differing->operation);
	_cleanup_(snapshot_record_clear) struct snapshot_record base = {};
	const char *key = asked->base && asked->base[0] ? asked->base : record->parent;
	struct store_key stored;
	int r;

	if (!key || !key[0])
		return 0;
	r = snapshot_find(differing->batch.image, operation_namespace(differing->operation),
			  record->snapshotter, key, &stored, &base, why);
	if (!r)
		r = add_tree(differing, &base, &differing->work.left, why);
	differing->work.guided = !r && !strcmp(record->snapshotter, SNAPSHOTTER_OVERLAY) &&
				 record->parent && !strcmp(record->parent, key) && has_own(record);
	return r;
}

static int fill_work(struct differing *differing, struct why *why)
{
	const struct snapshot_diff_request *asked = operation_request(differing->operation);
	_cleanup_(snapshot_record_clear) struct snapshot_record record = {};
	struct store_key key;
	int r;

	r = snapshot_find(differing->batch.image, operation_namespace(differing->operation),
			  asked->snapshotter, asked->key, &key, &record, why);
	if (!r)
		r = add_tree(differing, &record, &differing->work.right, why);
	if (!r)
		r = image_limits_copy(differing->batch.image, &differing->work.limits);
	if (!r)
		r = find_base(differing, &record, why);
	if (!r)
		r = schema_set(&differing->work.media_type,
			       asked->media_type && asked->media_type[0] ? asked->media_type
									 : MEDIA_OCI_LAYER_GZIP);
	return r;
}

/* ---- the operation ---- */

static void compared(void *userdata, void *data, const struct why *why)
{
	struct differing *differing = userdata;
	struct why own = {};
	int r;

	r = batch_take(&differing->batch, "make a layer of the snapshot", data, why, &own);
	image_step_ended(differing->operation, r, &own);
}

static void start_comparing(struct operation *operation)
{
	struct differing *differing = operation_data(operation);
	struct image_service *image = differing->batch.image;
	_cleanup_(cleanup_fd) int directory = -1;
	struct why why = {};
	int r;

	r = batch_open(&differing->batch, &directory, &why);
	if (!r)
		r = image_work_start(image, "diff", schema_work_diff_request(), &differing->work,
				     (int[]){image->snapshots, directory}, 2,
				     schema_work_import_result(), operation_deadline(operation),
				     compared, differing, &why);
	if (r)
		image_step_ended(operation, r, &why);
}

static int diff_compare(struct operation *operation)
{
	struct differing *differing = calloc(1, sizeof(*differing));
	struct why why = {};
	int r;

	if (!differing)
		return error_origin(-ENOMEM);
	differing->operation = operation;
	batch_init(&differing->batch, operation);
	operation_set_data(operation, differing, differing_free);
	r = fill_work(differing, &why);
	if (r)
		return image_step_failed(operation, r, &why);
	r = operation_after_commit(operation, start_comparing);
	return r ? error_trace(r) : OPERATION_LATER;
}

/* The labels of a blob that was there already stay, beside those that are asked for. */
static int finish_record(struct operation *operation, const struct work_blob *blob)
{
	const struct snapshot_diff_request *asked = operation_request(operation);
	_cleanup_(content_record_clear) struct content_record record = {};
	struct image_service *image = operation_object(operation);
	struct store_key key;
	int r;

	r = content_key(blob->digest, &key);
	if (!r)
		r = store_get(image->store, TABLE_BLOBS, &key, schema_content_record(), &record);
	if (!r)
		r = schema_set(&record.diff_id, blob->diff_id);
	if (!r)
		r = schema_map_set(&record.labels, "containerd.io/uncompressed", blob->diff_id);
	for (size_t i = 0; i < asked->labels.count && !r; i++)
		r = schema_map_set(&record.labels, asked->labels.items[i].key,
				   asked->labels.items[i].value);
	return r ? r : store_put(image->store, TABLE_BLOBS, &key, schema_content_record(), &record);
}

static int fill_reply(const struct work_blob *blob, struct snapshot_diff_reply *reply)
{
	reply->diff = calloc(1, sizeof(*reply->diff));
	if (!reply->diff)
		return error_origin(-ENOMEM);
	reply->diff->size = blob->size;
	return schema_set(&reply->diff_id, blob->diff_id)
	       ?: schema_set(&reply->diff->digest, blob->digest)
	       ?: schema_set(&reply->diff->media_type, blob->media_type);
}

static int diff_finish(struct operation *operation, void *reply)
{
	const struct snapshot_diff_request *asked = operation_request(operation);
	struct differing *differing = operation_data(operation);
	const struct work_blob *blob = differing->batch.result.blobs.items;
	struct why why = {};
	int r;

	if (differing->batch.result.blobs.count != 1 || !blob->diff_id)
		return operation_fail(operation, BUS_INTERNAL, "davit-image-work made no layer");
	r = lease_check(differing->batch.image, operation_namespace(operation), asked->lease, &why);
	if (!r)
		r = batch_record(&differing->batch, &why);
	if (!r)
		r = finish_record(operation, blob);
	if (!r)
		r = lease_add_content(differing->batch.image, operation_namespace(operation),
				      asked->lease && asked->lease[0] ? asked->lease : NULL,
				      blob->digest);
	if (!r)
		r = fill_reply(blob, reply) ?: lease_end_of(operation);
	return r ? image_step_failed(operation, r, &why) : 0;
}

static void diff_cancelled(struct operation *operation)
{
	image_work_drop(operation_object(operation), operation_data(operation));
}

static const struct operation_step diff_steps[] = {
	{.name = "compare", .run = diff_compare, .undo = lease_undo},
	{},
};

const struct operation_type snapshot_diff_operation = {
	.method = "snapshot.diff",
	.steps = diff_steps,
	.request = schema_snapshot_diff_request,
	.reply = schema_snapshot_diff_reply,
	.context = schema_empty,
	.finish = diff_finish,
	.cancelled = diff_cancelled,
};

static int check_request(struct image_service *image, const char *namespace,
			 const struct snapshot_diff_request *request, struct why *why)
{
	enum compression compression;
	struct schema_fault fault = {};

	if (request->media_type && request->media_type[0] &&
	    !document_layer_compression(request->media_type, &compression))
		return why_set(why, refused(BUS_INVALID_ARGUMENT),
			       "'%.200s' is not the media type of a layer", request->media_type);
	if (check_labels(&request->labels, &fault))
		return why_set(why, refused(BUS_INVALID_ARGUMENT), "%s", fault.text);
	return lease_check(image, namespace, request->lease, why);
}

int snapshot_diff(struct image_service *image, const struct snapshot_diff_request *request,
		  struct snapshot_diff_reply *reply, struct call *call)
{
	const char *namespace = call_checked_namespace(call);
	struct why why = {};
	int r;

	(void)reply;
	if (!namespace)
		return 0;
	r = check_request(image, namespace, request, &why);
	if (r)
		return image_answer(call, r, &why, "the layer");
	return error_trace(
		operation_start(call, &snapshot_diff_operation, request, request->key, false));
}
