/*
 * image.prepare: a container's snapshot. When the image is unpacked, which is the
 * rule, it is one directory and one record, made within the request's transaction;
 * else an operation unpacks first.
 */

#include <stdio.h>
#include <string.h>

#include "broker/lib/file.h"
#include "services/image/handlers.h"
#include "services/image/lease.h"

/* What a request comes down to. */
struct preparing {
	struct image_record record;
	const struct resolved *resolved; /* the cache's */
	const char *snapshotter;
	const char *parent; /* chain id; "" without layers */
};

static void preparing_clear(struct preparing *preparing)
{
	image_record_clear(&preparing->record);
}

static int check_match(const struct preparing *preparing, struct why *why)
{
	const struct resolved *resolved = preparing->resolved;

	if (!resolved->is_image)
		return why_set(why, refused(BUS_FAILED_PRECONDITION),
			       "'%s' is not an image that can be run", preparing->record.name);
	return resolved_check_match(resolved, preparing->record.name, why);
}

static int find(struct image_service *image, const char *namespace,
		const struct image_prepare_request *request, struct preparing *ret_preparing,
		struct why *why)
{
	_cleanup_(platform_clear) struct platform platform = {};
	int r;

	r = names_find(image, namespace, request->name, &ret_preparing->record, why);
	if (!r)
		r = resolve_platform(image, request->platform, &platform, why);
	if (!r)
		r = resolve_target(image, ret_preparing->record.target, &platform,
				   &ret_preparing->resolved, why);
	if (r)
		return r > REFUSED ? why_prefix(why, r, "image '%.200s'", request->name) : r;
	r = check_match(ret_preparing, why);
	if (!r)
		r = snapshot_check_name(image, request->snapshotter, &ret_preparing->snapshotter,
					why);
	ret_preparing->parent =
		ret_preparing->resolved->n_layers
			? ret_preparing->resolved->chains[ret_preparing->resolved->n_layers - 1]
			: "";
	return r;
}

static int fill_mounts(struct image_service *image, const char *namespace,
		       const struct image_prepare_request *request, const char *snapshotter,
		       struct image_prepare_reply *reply, struct why *why)
{
	_cleanup_(snapshot_record_clear) struct snapshot_record record = {};
	int r;

	r = snapshot_get(image, namespace, snapshotter, request->key, &record);
	if (!r)
		r = snapshot_make_mounts(image, namespace, &record, &reply->mounts.items,
					 &reply->mounts.count, why);
	return r;
}

static int fill_reply(const struct preparing *preparing, const char *key,
		      struct image_prepare_reply *reply)
{
	int r;

	r = schema_set(&reply->name, preparing->record.name)
	    ?: schema_set(&reply->digest, preparing->resolved->manifest)
	    ?: schema_set(&reply->chain_id, preparing->parent[0] ? preparing->parent : NULL)
	    ?: schema_set(&reply->config, preparing->resolved->config)
	    ?: schema_set(&reply->snapshotter, preparing->snapshotter)
	    ?: schema_set(&reply->key, key);
	return error_trace(r);
}

static bool is_unpacked(struct image_service *image, const struct preparing *preparing)
{
	return !preparing->parent[0] ||
	       snapshot_has_layer(image, preparing->snapshotter, preparing->parent);
}

/* A native snapshot is a copy, which is work for a child. */
static bool is_quick(struct image_service *image, const struct preparing *preparing)
{
	return is_unpacked(image, preparing) &&
	       (!strcmp(preparing->snapshotter, SNAPSHOTTER_OVERLAY) || !preparing->parent[0]);
}

static int make_at_once(struct image_service *image, const char *namespace,
			const struct image_prepare_request *request,
			const struct preparing *preparing, struct why *why)
{
	uint64_t number;
	int r;

	r = snapshot_make_dir_within(image, &number, why);
	if (!r && preparing->parent[0])
		r = snapshot_copy_root(image, namespace, preparing->snapshotter, preparing->parent,
				       number, why);
	if (!r)
		r = snapshot_record_own(image, namespace, request, preparing->snapshotter,
					preparing->parent, number);
	return r;
}

int image_prepare(struct image_service *image, const struct image_prepare_request *request,
		  struct image_prepare_reply *reply, struct call *call)
{
	_cleanup_(preparing_clear) struct preparing preparing = {};
	const char *namespace = call_checked_namespace(call);
	struct why why = {};
	int r;

	if (!namespace)
		return 0;
	r = find(image, namespace, request, &preparing, &why);
	if (!r)
		r = snapshot_check_new(image, namespace, preparing.snapshotter, request->key, &why);
	if (!r && !is_quick(image, &preparing))
		return error_trace(
			operation_start(call, &prepare_operation, request, request->key, true));
	if (!r)
		r = make_at_once(image, namespace, request, &preparing, &why);
	if (!r)
		r = fill_reply(&preparing, request->key, reply);
	if (!r)
		r = fill_mounts(image, namespace, request, preparing.snapshotter, reply, &why);
	return image_answer(call, r, &why, "the snapshot");
}

/* ---- the operation ---- */

struct working {
	struct image_service *image;
	struct operation *operation;
	struct resolved *resolved;
	const char *snapshotter;
	struct unpack *unpack;
	uint64_t number; /* of the copy's directory; 0: none */
	uint64_t parent_number;
	bool is_recorded;
};

static void working_free(void *userdata)
{
	struct working *working = userdata;

	unpack_forget(working->unpack);
	resolved_free(working->resolved);
	free(working);
}

static const char *working_parent(const struct working *working)
{
	return working->resolved->n_layers
		       ? working->resolved->chains[working->resolved->n_layers - 1]
		       : "";
}

static bool is_cancelled(void *userdata)
{
	struct working *working = userdata;

	return operation_is_cancelled(working->operation);
}

static void unpacked(void *userdata, int r, const struct why *why)
{
	struct working *working = userdata;

	working->unpack = NULL;
	image_step_ended(working->operation, r, why);
}

static void unpack(struct operation *operation)
{
	struct working *working = operation_data(operation);

	if (unpack_start(working->image, working->resolved, working->snapshotter, is_cancelled,
			 unpacked, working, &working->unpack))
		operation_step_failed(operation, BUS_INTERNAL, "out of memory");
}

static int start_working(struct operation *operation, struct working *working, struct why *why)
{
	const struct image_prepare_request *request = operation_request(operation);
	_cleanup_(preparing_clear) struct preparing preparing = {};
	int r;

	working->image = operation_object(operation);
	working->operation = operation;
	r = find(working->image, operation_namespace(operation), request, &preparing, why);
	if (r)
		return r;
	working->snapshotter = preparing.snapshotter;
	r = lease_hold_content(operation, preparing.resolved->manifest);
	return r ? error_trace(r)
		 : error_trace(resolved_copy(preparing.resolved, &working->resolved));
}

static int prepare_unpack(struct operation *operation)
{
	struct working *working = calloc(1, sizeof(*working));
	struct why why = {};
	int r;

	if (!working)
		return error_origin(-ENOMEM);
	operation_set_data(operation, working, working_free);
	r = start_working(operation, working, &why);
	if (r)
		return image_step_failed(operation, r, &why);
	r = operation_after_commit(operation, unpack);
	return r ? error_trace(r) : OPERATION_LATER;
}

static void copied(void *userdata, void *data, const struct why *why)
{
	const struct work_apply_result *result = data;
	struct working *working = userdata;
	struct why own = {};
	int r = 0;

	if (!result && operation_is_cancelled(working->operation))
		r = why_set(&own, refused(BUS_CANCELED), "it was cancelled");
	else if (!result)
		r = why_set(&own, refused(BUS_INTERNAL), "cannot copy layer %s: %s",
			    working_parent(working), why->text);
	else if (result->error)
		r = why_set(&own, refused(result->status), "cannot copy layer %s: %s",
			    working_parent(working), result->error);
	image_step_ended(working->operation, r, &own);
}

static int start_copy(struct working *working, struct why *why)
{
	int r;

	r = snapshot_make_dir(working->image, &working->number, why);
	return r ? r
		 : snapshot_start_copy(working->image, working->parent_number, working->number,
				       copied, working, why);
}

static void copy(struct operation *operation)
{
	struct why why = {};
	int r;

	r = start_copy(operation_data(operation), &why);
	if (r)
		image_step_ended(operation, r, &why);
}

/* Natively the snapshot starts as a copy of the top layer. */
static int prepare_copy(struct operation *operation)
{
	struct working *working = operation_data(operation);
	uint64_t numbers[SNAPSHOT_DEPTH_MAX];
	struct why why = {};
	size_t count;
	int r;

	if (strcmp(working->snapshotter, SNAPSHOTTER_NATIVE) || !working->resolved->n_layers)
		return 0;
	r = snapshot_chain(working->image, SCOPE_SHARED, working->snapshotter,
			   working_parent(working), numbers, ARRAY_SIZE(numbers), &count, &why);
	if (r)
		return image_step_failed(operation, r, &why);
	working->parent_number = numbers[0];
	r = operation_after_commit(operation, copy);
	return r ? error_trace(r) : OPERATION_LATER;
}

/* The directory of a copy that was not recorded. */
static int prepare_undo_copy(struct operation *operation)
{
	struct working *working = operation_data(operation);
	char name[24];

	if (!working || !working->number)
		return 0;
	snprintf(name, sizeof(name), "%llu", (unsigned long long)working->number);
	working->number = 0;
	return error_trace(
		trash_after_commit(working->image, working->image->snapshots, name, NULL));
}

static int record(struct operation *operation, struct working *working, struct why *why)
{
	const struct image_prepare_request *request = operation_request(operation);
	const char *namespace = operation_namespace(operation), *parent = working_parent(working);
	int r = 0;

	r = snapshot_check_new(working->image, namespace, working->snapshotter, request->key, why);
	if (!r && !working->number) {
		r = snapshot_make_dir(working->image, &working->number, why);
		if (!r && parent[0])
			r = snapshot_copy_root(working->image, namespace, working->snapshotter,
					       parent, working->number, why);
	}
	if (!r)
		r = snapshot_record_own(working->image, namespace, request, working->snapshotter,
					parent, working->number);
	return r;
}

/* The last step: record and reply come in one transaction. */
static int prepare_finish(struct operation *operation, void *data)
{
	const struct image_prepare_request *request = operation_request(operation);
	struct working *working = operation_data(operation);
	_cleanup_(preparing_clear) struct preparing preparing = {};
	struct why why = {};
	int r;

	r = find(working->image, operation_namespace(operation), request, &preparing, &why);
	if (!r)
		r = record(operation, working, &why);
	if (!r)
		r = fill_reply(&preparing, request->key, data);
	if (!r)
		r = fill_mounts(working->image, operation_namespace(operation), request,
				working->snapshotter, data, &why);
	if (!r)
		r = lease_end_of(operation);
	return r ? image_step_failed(operation, r, &why) : 0;
}

static void prepare_cancelled(struct operation *operation)
{
	struct working *working = operation_data(operation);

	if (working && working->unpack)
		unpack_cancel(working->unpack);
	else if (working)
		image_work_drop(working->image, working);
}

static const struct operation_step prepare_steps[] = {
	{.name = "unpack", .run = prepare_unpack, .undo = lease_undo},
	{.name = "copy", .run = prepare_copy, .undo = prepare_undo_copy},
	{},
};

const struct operation_type prepare_operation = {
	.method = "image.prepare",
	.steps = prepare_steps,
	.request = schema_image_prepare_request,
	.reply = schema_image_prepare_reply,
	.context = schema_image_prepare_context,
	.finish = prepare_finish,
	.cancelled = prepare_cancelled,
};
