/*
 * snapshot.prepare, view, commit, remove, update, usage and cleanup: what
 * containerd's clients do with snapshots of their own.
 */

#include <stdio.h>
#include <string.h>

#include "broker/lib/file.h"
#include "schemas/check.h"
#include "services/image/handlers.h"
#include "services/image/labels.h"
#include "services/image/lease.h"

/* ---- what others lie on ---- */

struct child_search {
	const char *key;
	const char *snapshotter;
	char *child;
};

#define FOUND 1 /* of a walk */

static int look_at_child(void *userdata, const struct store_key *key, void *data)
{
	const struct snapshot_record *record = data;
	struct child_search *search = userdata;

	(void)key;
	if (!record->parent || strcmp(record->parent, search->key) ||
	    strcmp(record->snapshotter, search->snapshotter))
		return 0;
	return schema_set(&search->child, record->key) ?: FOUND;
}

/* *ret_child is NULL when no snapshot of @namespace lies on @key. */
static int find_child(struct image_service *image, const char *namespace, const char *snapshotter,
		      const char *key, char **ret_child)
{
	struct child_search search = {.key = key, .snapshotter = snapshotter};
	struct store_key prefix;
	int r;

	r = store_key(&prefix, namespace, snapshotter, "", NULL);
	if (!r)
		r = store_walk(image->store, TABLE_SNAPSHOTS, &prefix, NULL,
			       schema_snapshot_record(), look_at_child, &search);
	if (r && r != FOUND)
		return error_trace(r);
	*ret_child = search.child;
	return 0;
}

/* ---- prepare, view ---- */

int snapshot_start_copy(struct image_service *image, uint64_t parent, uint64_t number, work_fn fn,
			void *userdata, struct why *why)
{
	_cleanup_(work_apply_request_clear) struct work_apply_request request = {
		.native = true, .copy = true, .no_sync = true};
	_cleanup_(cleanup_free) char *below = text_format("%llu", (unsigned long long)parent);
	int fds[] = {-1, image->snapshots};
	int r;

	request.target = text_format("%llu", (unsigned long long)number);
	if (!below || !request.target)
		return error_origin(-ENOMEM);
	r = schema_strs_add(&request.parents, below);
	if (r)
		return error_trace(r);
	return image_work_start(image, "apply", schema_work_apply_request(), &request, fds, 2,
				schema_work_apply_result(), 0, fn, userdata, why);
}

/* What a new snapshot is to be, and what it lies on. */
struct making {
	struct image_service *image;
	struct operation *operation; /* NULL: within the request */
	const char *namespace;
	const struct snapshot_prepare_request *request;
	bool is_view;
	const char *snapshotter;
	const char *parent;     /* "": none */
	uint64_t parent_number; /* natively it is copied */
	uint64_t number;        /* 0: not made yet */
};

static int check_parent(struct making *making, struct why *why)
{
	_cleanup_(snapshot_record_clear) struct snapshot_record record = {};
	uint64_t numbers[SNAPSHOT_DEPTH_MAX];
	struct store_key key;
	size_t depth = 0;
	int r;

	if (!making->parent[0])
		return 0;
	r = snapshot_find(making->image, making->namespace, making->snapshotter, making->parent,
			  &key, &record, why);
	if (!r && record.kind != SNAPSHOT_COMMITTED)
		return why_set(why, refused(BUS_INVALID_ARGUMENT),
			       "snapshot '%s' is not committed: none can lie on it",
			       making->parent);
	making->parent_number = record.number;
	if (!r)
		r = snapshot_chain(making->image, making->namespace, making->snapshotter,
				   making->parent, numbers, ARRAY_SIZE(numbers), &depth, why);
	if (!r && depth > DOCUMENT_LAYERS_MAX)
		return why_set(why, refused(BUS_RESOURCE_EXHAUSTED),
			       "more than %d snapshots would lie below '%s'", DOCUMENT_LAYERS_MAX,
			       making->request->key);
	return r;
}

static int check_making(struct making *making, struct why *why)
{
	struct schema_fault fault = {};
	int r;

	making->parent = making->request->parent ?: "";
	r = snapshot_check_name(making->image, making->request->snapshotter, &making->snapshotter,
				why);
	if (!r && check_labels(&making->request->labels, &fault))
		r = why_set(why, refused(BUS_INVALID_ARGUMENT), "snapshot '%s': %s",
			    making->request->key, fault.text);
	if (!r)
		r = snapshot_check_new(making->image, making->namespace, making->snapshotter,
				       making->request->key, why);
	return r ? r : check_parent(making, why);
}

static bool must_copy(const struct making *making)
{
	return making->parent[0] && !strcmp(making->snapshotter, SNAPSHOTTER_NATIVE);
}

static int make_directory(struct making *making, struct why *why)
{
	int r;

	if (making->number)
		return 0;
	r = snapshot_make_dir_within(making->image, &making->number, why);
	if (!r && making->parent[0])
		r = snapshot_copy_root(making->image, making->namespace, making->snapshotter,
				       making->parent, making->number, why);
	return r;
}

/* Directory, record and reply in one transaction. */
static int make(struct making *making, struct snapshot_prepare_reply *reply, struct why *why)
{
	const struct image_prepare_request own = {.key = making->request->key,
						  .labels = making->request->labels,
						  .read_only = making->is_view};
	int r;

	r = make_directory(making, why);
	if (!r)
		r = snapshot_record_own(making->image, making->namespace, &own, making->snapshotter,
					making->parent, making->number);
	if (r)
		return r;
	reply->snapshot = calloc(1, sizeof(*reply->snapshot));
	if (!reply->snapshot)
		return error_origin(-ENOMEM);
	r = snapshot_get(making->image, making->namespace, making->snapshotter,
			 making->request->key, reply->snapshot);
	return r ? r
		 : snapshot_make_mounts(making->image, making->namespace, reply->snapshot,
					&reply->mounts.items, &reply->mounts.count, why);
}

static int handle_make(struct image_service *image, const struct snapshot_prepare_request *request,
		       struct snapshot_prepare_reply *reply, struct call *call, bool is_view,
		       const struct operation_type *type)
{
	struct making making = {.image = image,
				.namespace = call_checked_namespace(call),
				.request = request,
				.is_view = is_view};
	struct why why = {};
	int r;

	if (!making.namespace)
		return 0;
	r = check_making(&making, &why);
	if (!r && must_copy(&making))
		return error_trace(operation_start(call, type, request, request->key, true));
	if (!r)
		r = make(&making, reply, &why);
	return image_answer(call, r, &why, "the snapshot");
}

int snapshot_prepare(struct image_service *image, const struct snapshot_prepare_request *request,
		     struct snapshot_prepare_reply *reply, struct call *call)
{
	return handle_make(image, request, reply, call, false, &snapshot_prepare_operation);
}

int snapshot_view(struct image_service *image, const struct snapshot_prepare_request *request,
		  struct snapshot_prepare_reply *reply, struct call *call)
{
	return handle_make(image, request, reply, call, true, &snapshot_view_operation);
}

static void copied(void *userdata, void *data, const struct why *why)
{
	const struct work_apply_result *result = data;
	struct making *making = userdata;
	struct why own = {};
	int r = 0;

	if (!result && operation_is_cancelled(making->operation))
		r = why_set(&own, refused(BUS_CANCELED), "it was cancelled");
	else if (!result || result->error)
		r = why_set(&own, refused(result ? result->status : BUS_INTERNAL),
			    "cannot copy snapshot '%s': %s", making->request->parent,
			    result ? result->error : why->text);
	image_step_ended(making->operation, r, &own);
}

static void start_copy(struct operation *operation)
{
	struct making *making = operation_data(operation);
	struct why why = {};
	int r;

	r = snapshot_make_dir(making->image, &making->number, &why);
	if (!r)
		r = snapshot_start_copy(making->image, making->parent_number, making->number,
					copied, making, &why);
	if (r)
		image_step_ended(operation, r, &why);
}

static int copy_step(struct operation *operation)
{
	struct making *making = calloc(1, sizeof(*making));
	struct why why = {};
	int r;

	if (!making)
		return error_origin(-ENOMEM);
	*making = (struct making){.image = operation_object(operation),
				  .operation = operation,
				  .namespace = operation_namespace(operation),
				  .request = operation_request(operation)};
	operation_set_data(operation, making, free);
	r = check_making(making, &why);
	if (!r)
		r = lease_hold_layer(operation, making->snapshotter, making->parent);
	if (r)
		return image_step_failed(operation, r, &why);
	r = operation_after_commit(operation, start_copy);
	return r ? error_trace(r) : OPERATION_LATER;
}

/* The directory of a copy that was not recorded. */
static int undo_copy(struct operation *operation)
{
	struct making *making = operation_data(operation);
	char name[24];
	int r;

	r = lease_end_of(operation);
	if (r || !making || !making->number)
		return error_trace(r);
	snprintf(name, sizeof(name), "%llu", (unsigned long long)making->number);
	making->number = 0;
	return error_trace(trash_after_commit(making->image, making->image->snapshots, name, NULL));
}

static int finish_making(struct operation *operation, void *reply, bool is_view)
{
	struct making *making = operation_data(operation);
	struct why why = {};
	int r;

	making->is_view = is_view;
	r = check_making(making, &why);
	if (!r)
		r = make(making, reply, &why);
	if (!r)
		r = lease_end_of(operation);
	return r ? image_step_failed(operation, r, &why) : 0;
}

static int finish_prepare(struct operation *operation, void *reply)
{
	return finish_making(operation, reply, false);
}

static int finish_view(struct operation *operation, void *reply)
{
	return finish_making(operation, reply, true);
}

static const struct operation_step make_steps[] = {
	{.name = "copy", .run = copy_step, .undo = undo_copy},
	{},
};

static void make_cancelled(struct operation *operation)
{
	image_work_drop(operation_object(operation), operation_data(operation));
}

const struct operation_type snapshot_prepare_operation = {
	.method = "snapshot.prepare",
	.steps = make_steps,
	.request = schema_snapshot_prepare_request,
	.reply = schema_snapshot_prepare_reply,
	.context = schema_empty,
	.finish = finish_prepare,
	.cancelled = make_cancelled,
};

const struct operation_type snapshot_view_operation = {
	.method = "snapshot.view",
	.steps = make_steps,
	.request = schema_snapshot_prepare_request,
	.reply = schema_snapshot_prepare_reply,
	.context = schema_empty,
	.finish = finish_view,
	.cancelled = make_cancelled,
};

/* ---- measuring ---- */

static int start_measuring(struct image_service *image, uint64_t number, bool sync, work_fn fn,
			   void *userdata, struct why *why)
{
	_cleanup_(cleanup_free) char *name = text_format("%llu", (unsigned long long)number);
	struct work_usage_request request = {.target = name, .sync = sync};

	if (!name)
		return error_origin(-ENOMEM);
	return image_work_start(image, "usage", schema_work_usage_request(), &request,
				&image->snapshots, 1, schema_work_usage_result(), 0, fn, userdata,
				why);
}

struct measuring {
	struct image_service *image;
	struct call *call;
	uint64_t number;
	char key[257];
};

static void measured(void *userdata, void *data, const struct why *why)
{
	const struct work_usage_result *result = data;
	struct measuring *measuring = userdata;
	struct snapshot_usage_reply reply = {};

	if (result && !result->error) {
		reply.size = result->size;
		reply.inodes = result->inodes;
		call_finish(measuring->call, &reply);
	} else {
		call_finish_fail(measuring->call, result ? result->status : BUS_INTERNAL,
				 "cannot measure snapshot '%s': %s", measuring->key,
				 result ? result->error : why->text);
	}
	free(measuring);
}

static void measure(void *userdata)
{
	struct measuring *measuring = userdata;
	struct why why = {};
	int r;

	r = start_measuring(measuring->image, measuring->number, false, measured, measuring, &why);
	if (r)
		measured(measuring, NULL, why.text[0] ? &why : &(struct why){"it failed"});
}

/* A layer's figures are kept; a snapshot that changes is walked by a child. */
int snapshot_usage(struct image_service *image, const struct snapshot_key_request *request,
		   struct snapshot_usage_reply *reply, struct call *call)
{
	_cleanup_(snapshot_record_clear) struct snapshot_record record = {};
	struct measuring *measuring;
	struct store_key key;
	struct why why = {};
	int r;

	r = snapshot_find(image, call_namespace(call), request->snapshotter, request->key, &key,
			  &record, &why);
	if (r)
		return image_answer(call, r, &why, "the snapshot");
	reply->size = record.size;
	reply->inodes = record.inodes;
	if (record.kind == SNAPSHOT_COMMITTED)
		return 0;
	measuring = calloc(1, sizeof(*measuring));
	if (!measuring)
		return error_origin(-ENOMEM);
	*measuring = (struct measuring){.image = image, .call = call, .number = record.number};
	snprintf(measuring->key, sizeof(measuring->key), "%s", request->key);
	r = call_after_commit(call, measure, free, measuring);
	if (r)
		free(measuring);
	return r ? error_trace(r) : CALL_LATER;
}

/* ---- commit ---- */

struct committing {
	struct operation *operation;
	uint64_t number, size, inodes;
};

static int find_active(struct operation *operation, struct store_key *ret_key,
		       struct snapshot_record *ret_record, struct why *why)
{
	const struct snapshot_commit_request *request = operation_request(operation);
	struct image_service *image = operation_object(operation);
	const char *namespace = operation_namespace(operation);
	int r;

	r = snapshot_find(image, namespace, request->snapshotter, request->key, ret_key, ret_record,
			  why);
	if (!r && ret_record->kind != SNAPSHOT_ACTIVE)
		return why_set(why, refused(BUS_FAILED_PRECONDITION),
			       "snapshot '%s' is not active: it cannot be committed", request->key);
	return r ? r
		 : snapshot_check_new(image, namespace, ret_record->snapshotter, request->name,
				      why);
}

static void commit_measured(void *userdata, void *data, const struct why *why)
{
	const struct work_usage_result *result = data;
	struct committing *committing = userdata;
	struct why own = {};
	int r = 0;

	if (!result || result->error) {
		r = why_set(&own, refused(result ? result->status : BUS_INTERNAL),
			    "cannot commit the snapshot: %s", result ? result->error : why->text);
	} else {
		committing->size = result->size;
		committing->inodes = result->inodes;
	}
	image_step_ended(committing->operation, r, &own);
}

static void start_commit(struct operation *operation)
{
	struct committing *committing = operation_data(operation);
	struct why why = {};
	int r;

	r = start_measuring(operation_object(operation), committing->number, true, commit_measured,
			    committing, &why);
	if (r)
		image_step_ended(operation, r, &why);
}

/* It cannot be made again from a blob: on disk before it is recorded. */
static int commit_sync(struct operation *operation)
{
	_cleanup_(snapshot_record_clear) struct snapshot_record record = {};
	struct committing *committing = calloc(1, sizeof(*committing));
	struct store_key key;
	struct why why = {};
	int r;

	if (!committing)
		return error_origin(-ENOMEM);
	committing->operation = operation;
	operation_set_data(operation, committing, free);
	r = find_active(operation, &key, &record, &why);
	if (r)
		return image_step_failed(operation, r, &why);
	committing->number = record.number;
	r = operation_after_commit(operation, start_commit);
	return r ? error_trace(r) : OPERATION_LATER;
}

static int rename_record(struct operation *operation, const struct store_key *old,
			 struct snapshot_record *record)
{
	const struct snapshot_commit_request *request = operation_request(operation);
	const struct committing *committing = operation_data(operation);
	struct image_service *image = operation_object(operation);
	struct store_key new;
	int r;

	record->kind = SNAPSHOT_COMMITTED;
	record->size = committing->size;
	record->inodes = committing->inodes;
	record->updated_at_ns = time_real_ns();
	r = schema_set(&record->key, request->name);
	for (size_t i = 0; i < request->labels.count && !r; i++)
		r = schema_map_set(&record->labels, request->labels.items[i].key,
				   request->labels.items[i].value);
	r = r ?: snapshot_keep(&record->labels);
	collect_expires(operation_object(operation), label_expiry(&record->labels));
	r = r
		    ?: snapshot_key(operation_namespace(operation), record->snapshotter,
				    request->name, &new);
	r = r ?: store_delete(image->store, TABLE_SNAPSHOTS, old);
	return r ?: snapshot_put(image, &new, record);
}

static int finish_commit(struct operation *operation, void *data)
{
	const struct snapshot_commit_request *request = operation_request(operation);
	const struct committing *committing = operation_data(operation);
	struct snapshot_reply *reply = data;
	struct store_key key;
	struct why why = {};
	int r;

	reply->snapshot = calloc(1, sizeof(*reply->snapshot));
	if (!reply->snapshot)
		return error_origin(-ENOMEM);
	r = find_active(operation, &key, reply->snapshot, &why);
	if (!r && reply->snapshot->number != committing->number)
		r = why_set(&why, refused(BUS_ABORTED),
			    "snapshot '%s' was replaced while it was committed", request->key);
	if (!r)
		r = rename_record(operation, &key, reply->snapshot);
	if (!r)
		r = snapshot_emit_commit(operation_object(operation),
					 operation_namespace(operation), request->key,
					 request->name, reply->snapshot->snapshotter);
	return r ? image_step_failed(operation, r, &why) : 0;
}

static const struct operation_step commit_steps[] = {
	{.name = "sync", .run = commit_sync},
	{},
};

const struct operation_type snapshot_commit_operation = {
	.method = "snapshot.commit",
	.steps = commit_steps,
	.request = schema_snapshot_commit_request,
	.reply = schema_snapshot_reply,
	.context = schema_empty,
	.finish = finish_commit,
};

int snapshot_commit(struct image_service *image, const struct snapshot_commit_request *request,
		    struct snapshot_reply *reply, struct call *call)
{
	struct schema_fault fault = {};

	(void)image;
	(void)reply;
	if (!call_checked_namespace(call))
		return 0;
	if (check_labels(&request->labels, &fault))
		return call_fail(call, BUS_INVALID_ARGUMENT, "snapshot '%s': %s", request->name,
				 fault.text);
	return error_trace(
		operation_start(call, &snapshot_commit_operation, request, request->key, true));
}

/* ---- the others ---- */

int snapshot_mounts(struct image_service *image, const struct snapshot_key_request *request,
		    struct image_mounts_reply *reply, struct call *call)
{
	return image_mounts(image, request, reply, call);
}

/* Layers belong to no namespace: they go with the last image that needs them. */
static int remove_own(struct image_service *image, const char *namespace,
		      const struct snapshot_key_request *request, struct why *why)
{
	_cleanup_(snapshot_record_clear) struct snapshot_record record = {};
	_cleanup_(cleanup_free) char *child = NULL;
	struct store_key key;
	int r;

	r = snapshot_find(image, namespace, request->snapshotter, request->key, &key, &record, why);
	if (!r && check_digest(request->key))
		r = why_set(why, refused(BUS_FAILED_PRECONDITION),
			    "snapshot '%s' is a layer: it goes with the last image that needs it",
			    request->key);
	if (!r)
		r = find_child(image, namespace, record.snapshotter, request->key, &child);
	if (!r && child)
		r = why_set(why, refused(BUS_FAILED_PRECONDITION),
			    "snapshot '%s' cannot be removed: '%s' lies on it", request->key,
			    child);
	if (!r)
		r = snapshot_forget(image, &key, namespace, &record);
	return r ? r : collect_later(image);
}

int snapshot_remove(struct image_service *image, const struct snapshot_key_request *request,
		    struct empty *reply, struct call *call)
{
	struct why why = {};
	int r;

	(void)reply;
	r = remove_own(image, call_namespace(call), request, &why);
	return image_answer(call, r, &why, "the snapshot");
}

static int change_label(struct schema_map *labels, const struct schema_map *from, const char *field,
			struct why *why)
{
	const char *key = field + strlen("labels."), *value;

	if (strncmp(field, "labels.", 7) || !*key)
		return why_set(why, refused(BUS_INVALID_ARGUMENT),
			       "'%.100s' of a snapshot cannot be changed: labels and labels.<key> "
			       "can",
			       field);
	value = schema_map_get(from, key);
	if (value && *value)
		return error_trace(schema_map_set(labels, key, value));
	schema_map_remove(labels, key);
	return 0;
}

static int change_labels(struct snapshot_record *record,
			 const struct snapshot_update_request *request, struct why *why)
{
	const struct schema_strs *mask = &request->update_mask;
	struct schema_fault fault = {};
	int r = 0;

	if (!mask->count || (mask->count == 1 && !strcmp(mask->items[0], "labels"))) {
		schema_map_clear(&record->labels);
		r = schema_map_copy(&request->snapshot->labels, &record->labels);
	} else {
		for (size_t i = 0; i < mask->count && !r; i++)
			r = change_label(&record->labels, &request->snapshot->labels,
					 mask->items[i], why);
	}
	if (!r && check_labels(&record->labels, &fault))
		r = why_set(why, refused(BUS_INVALID_ARGUMENT), "snapshot '%s': %s", record->key,
			    fault.text);
	return r;
}

int snapshot_update(struct image_service *image, const struct snapshot_update_request *request,
		    struct snapshot_reply *reply, struct call *call)
{
	struct snapshot_record *record = calloc(1, sizeof(*record));
	struct store_key key;
	struct why why = {};
	int r;

	reply->snapshot = record;
	if (!record)
		return error_origin(-ENOMEM);
	r = snapshot_find(image, call_namespace(call), request->snapshot->snapshotter,
			  request->snapshot->key, &key, record, &why);
	if (!r)
		r = change_labels(record, request, &why);
	record->updated_at_ns = time_real_ns();
	if (!r)
		r = snapshot_put(image, &key, record);
	if (!r)
		r = collect(image);
	return image_answer(call, r, &why, "the snapshot");
}

struct cleaning {
	struct image_service *image;
	struct call *call;
};

static void cleaned(void *userdata)
{
	struct cleaning *cleaning = userdata;

	call_finish(cleaning->call, NULL);
	free(cleaning);
}

static void wait_for_files(void *userdata)
{
	struct cleaning *cleaning = userdata;

	if (!trash_wait(cleaning->image, cleaned, cleaning))
		return;
	call_finish_fail(cleaning->call, BUS_INTERNAL, "out of memory");
	free(cleaning);
}

int snapshot_cleanup(struct image_service *image, const struct empty *request, struct empty *reply,
		     struct call *call)
{
	struct cleaning *cleaning = malloc(sizeof(*cleaning));
	int r;

	(void)request;
	(void)reply;
	if (!cleaning)
		return error_origin(-ENOMEM);
	*cleaning = (struct cleaning){.image = image, .call = call};
	r = call_after_commit(call, wait_for_files, free, cleaning);
	if (r)
		free(cleaning);
	return r ? error_trace(r) : CALL_LATER;
}
