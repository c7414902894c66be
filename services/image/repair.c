/*
 * image.unpack and snapshot.repair: layers are made, or made again, from their
 * blobs. A layer that is to be made again is forgotten first; while it is away,
 * whoever needs it waits for it.
 */

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "broker/lib/file.h"
#include "schemas/check.h"
#include "services/image/handlers.h"
#include "services/image/lease.h"

struct unpacking {
	struct operation *operation;
	struct resolved *resolved;
	const char *snapshotter;
	struct unpack *unpack;
};

static void unpacking_free(void *userdata)
{
	struct unpacking *unpacking = userdata;

	unpack_forget(unpacking->unpack);
	resolved_free(unpacking->resolved);
	free(unpacking);
}

static int unpacking_new(struct operation *operation, struct unpacking **ret_unpacking)
{
	struct unpacking *unpacking = calloc(1, sizeof(*unpacking));

	if (!unpacking)
		return error_origin(-ENOMEM);
	unpacking->operation = operation;
	operation_set_data(operation, unpacking, unpacking_free);
	*ret_unpacking = unpacking;
	return 0;
}

static bool is_cancelled(void *userdata)
{
	struct unpacking *unpacking = userdata;

	return operation_is_cancelled(unpacking->operation);
}

static void unpacked(void *userdata, int r, const struct why *why)
{
	struct unpacking *unpacking = userdata;

	unpacking->unpack = NULL;
	image_step_ended(unpacking->operation, r, why);
}

static void start_unpacking(struct operation *operation)
{
	struct unpacking *unpacking = operation_data(operation);

	if (unpack_start(operation_object(operation), unpacking->resolved, unpacking->snapshotter,
			 is_cancelled, unpacked, unpacking, &unpacking->unpack))
		operation_step_failed(operation, BUS_INTERNAL, "out of memory");
}

/* ---- image.unpack ---- */

struct target_search {
	const char *digest;
	struct image_record *record;
};

#define FOUND 1 /* of a walk */

static int look_at_target(void *userdata, const struct store_key *key, void *data)
{
	const struct image_record *record = data;
	struct target_search *search = userdata;

	(void)key;
	if (strcmp(record->target->digest, search->digest))
		return 0;
	return image_record_copy(record, search->record) ? error_origin(-ENOMEM) : FOUND;
}

/* By name, or as ctr has it by the digest of the target. */
static int find_image(struct image_service *image, const char *namespace, const char *name,
		      struct image_record *record, struct why *why)
{
	struct target_search search = {.digest = name, .record = record};
	struct store_key prefix;
	int r;

	if (!check_digest(name))
		return names_find(image, namespace, name, record, why);
	r = store_key(&prefix, namespace, "", NULL);
	if (!r)
		r = store_walk(image->store, TABLE_IMAGES, &prefix, NULL, schema_image_record(),
			       look_at_target, &search);
	if (!r)
		return why_set(why, refused(BUS_NOT_FOUND), "no image has the target %s", name);
	return r == FOUND ? 0 : r;
}

static int choose(struct unpacking *unpacking, struct why *why)
{
	const struct image_unpack_request *request = operation_request(unpacking->operation);
	struct image_service *image = operation_object(unpacking->operation);
	_cleanup_(image_record_clear) struct image_record record = {};
	_cleanup_(platform_clear) struct platform platform = {};
	const struct resolved *resolved = NULL;
	int r;

	r = find_image(image, operation_namespace(unpacking->operation), request->name, &record,
		       why);
	if (!r)
		r = resolve_platform(image, request->platform, &platform, why);
	if (!r)
		r = snapshot_check_name(image, request->snapshotter, &unpacking->snapshotter, why);
	if (!r)
		r = resolve_target(image, record.target, &platform, &resolved, why);
	if (!r && !resolved->is_image)
		r = why_set(why, refused(BUS_FAILED_PRECONDITION),
			    "'%s' is not an image that can be unpacked", record.name);
	if (!r)
		r = lease_hold_content(unpacking->operation, record.target->digest);
	return r ? r : error_trace(resolved_copy(resolved, &unpacking->resolved));
}

static int unpack_step(struct operation *operation)
{
	struct unpacking *unpacking = NULL;
	struct why why = {};
	int r;

	r = unpacking_new(operation, &unpacking);
	if (r)
		return error_trace(r);
	r = choose(unpacking, &why);
	if (r)
		return image_step_failed(operation, r, &why);
	r = operation_after_commit(operation, start_unpacking);
	return r ? error_trace(r) : OPERATION_LATER;
}

static int unpack_finish(struct operation *operation, void *data)
{
	const struct unpacking *unpacking = operation_data(operation);
	const struct resolved *resolved = unpacking->resolved;
	struct image_unpack_reply *reply = data;
	int r;

	r = schema_set(&reply->manifest, resolved->manifest);
	if (!r && resolved->n_layers)
		r = schema_set(&reply->chain_id, resolved->chains[resolved->n_layers - 1]);
	return r ? error_trace(r) : lease_undo(operation);
}

static void unpack_cancelled(struct operation *operation)
{
	struct unpacking *unpacking = operation_data(operation);

	if (unpacking && unpacking->unpack)
		unpack_cancel(unpacking->unpack);
}

static const struct operation_step unpack_steps[] = {
	{.name = "unpack", .run = unpack_step, .undo = lease_undo},
	{},
};

const struct operation_type unpack_operation = {
	.method = "image.unpack",
	.steps = unpack_steps,
	.request = schema_image_unpack_request,
	.reply = schema_image_unpack_reply,
	.context = schema_empty,
	.finish = unpack_finish,
	.cancelled = unpack_cancelled,
};

int image_unpack(struct image_service *image, const struct image_unpack_request *request,
		 struct image_unpack_reply *reply, struct call *call)
{
	(void)image;
	(void)reply;
	if (!call_checked_namespace(call))
		return 0;
	return error_trace(operation_start(call, &unpack_operation, request, request->name, false));
}

/* ---- snapshot.repair ---- */

/* An image, of any namespace, that has the layer. */
struct layer_search {
	struct image_service *image;
	const char *chain;
	struct resolved *resolved; /* cut off above the layer */
};

static int look_at_image(void *userdata, const struct store_key *key, void *data)
{
	const struct image_record *record = data;
	struct layer_search *search = userdata;
	const struct resolved *resolved;
	int r;

	(void)key;
	if (resolve_target(search->image, record->target, &search->image->host, &resolved, NULL))
		return 0;
	for (size_t i = 0; i < resolved->n_layers; i++) {
		if (strcmp(resolved->chains[i], search->chain))
			continue;
		r = resolved_copy(resolved, &search->resolved);
		while (!r && search->resolved->n_layers > i + 1)
			work_layer_clear(&search->resolved->layers[--search->resolved->n_layers]);
		return r ? error_trace(r) : FOUND;
	}
	return 0;
}

static int find_blob(struct image_service *image, const char *chain, struct resolved **ret_resolved,
		     struct why *why)
{
	struct layer_search search = {.image = image, .chain = chain};
	_cleanup_(cleanup_fd) int fd = -1;
	int r;

	r = store_walk(image->store, TABLE_IMAGES, NULL, NULL, schema_image_record(), look_at_image,
		       &search);
	if (!r)
		return why_set(why, refused(BUS_NOT_FOUND),
			       "no image for this host has layer %s: it cannot be made again",
			       chain);
	if (r != FOUND)
		return r;
	*ret_resolved = search.resolved;
	/* It is not given up before there is something to make it of. */
	return content_open_blob(
		image, search.resolved->layers[search.resolved->n_layers - 1].blob->digest, &fd,
		why);
}

/* A snapshot of some namespace that lies on the layer, perhaps mounted now. */
struct user_search {
	struct image_service *image;
	const char *chain, *snapshotter;
	char *user;
};

static int look_at_user(void *userdata, const struct store_key *key, void *data)
{
	const char *scope = store_key_part(key, 0);
	const struct snapshot_record *record = data;
	struct user_search *search = userdata;
	_cleanup_(cleanup_free) char *next = NULL;

	if (!scope || !strcmp(scope, SCOPE_SHARED) ||
	    strcmp(record->snapshotter, search->snapshotter))
		return 0;
	next = record->parent ? strdup(record->parent) : NULL;
	for (unsigned i = 0; next && next[0] && i < SNAPSHOT_DEPTH_MAX; i++) {
		_cleanup_(snapshot_record_clear) struct snapshot_record below = {};
		int r;

		if (!strcmp(next, search->chain))
			return schema_set(&search->user, record->key) ?: FOUND;
		r = snapshot_get(search->image, scope, search->snapshotter, next, &below);
		if (r)
			return r == STORE_E_NOT_FOUND || r == STORE_E_DAMAGED ? 0 : r;
		free(next);
		next = TAKE(below.parent);
	}
	return 0;
}

static int check_unused(struct image_service *image, const char *snapshotter, const char *chain,
			struct why *why)
{
	struct user_search search = {.image = image, .chain = chain, .snapshotter = snapshotter};
	_cleanup_(cleanup_free) char *user = NULL;
	int r;

	r = store_walk(image->store, TABLE_SNAPSHOTS, NULL, NULL, schema_snapshot_record(),
		       look_at_user, &search);
	user = search.user;
	if (r != FOUND)
		return r;
	return why_set(why, refused(BUS_FAILED_PRECONDITION),
		       "layer %s cannot be made again: snapshot '%s' lies on it; remove its "
		       "container first",
		       chain, user);
}

/* Natively each layer is a copy with what lies below it: those above are made again too. */
struct above {
	struct image_service *image;
	const char *snapshotter, *chain;
	struct schema_strs *found;
};

static int find_above(struct image_service *image, const char *snapshotter, const char *chain,
		      struct schema_strs *found);

static int look_at_child(void *userdata, const struct store_key *key, void *data)
{
	const struct snapshot_record *record = data;
	const struct above *above = userdata;
	int r;

	(void)key;
	if (!record->parent || strcmp(record->parent, above->chain) ||
	    strcmp(record->snapshotter, above->snapshotter))
		return 0;
	r = schema_strs_add(above->found, record->key);
	return r ? error_trace(r)
		 : find_above(above->image, above->snapshotter, record->key, above->found);
}

/* The lowest first. */
static int find_above(struct image_service *image, const char *snapshotter, const char *chain,
		      struct schema_strs *found)
{
	struct above above = {
		.image = image, .snapshotter = snapshotter, .chain = chain, .found = found};
	struct store_key prefix;
	int r = store_key(&prefix, SCOPE_SHARED, snapshotter, "", NULL);

	return r ? error_trace(r)
		 : store_walk(image->store, TABLE_SNAPSHOTS, &prefix, NULL,
			      schema_snapshot_record(), look_at_child, &above);
}

static int forget_layer(struct image_service *image, const char *snapshotter, const char *chain)
{
	_cleanup_(snapshot_record_clear) struct snapshot_record record = {};
	struct store_key key;
	int r;

	r = snapshot_key(SCOPE_SHARED, snapshotter, chain, &key);
	if (!r)
		r = store_get(image->store, TABLE_SNAPSHOTS, &key, schema_snapshot_record(),
			      &record);
	if (r)
		return r == STORE_E_NOT_FOUND ? 0 : r;
	return error_trace(snapshot_forget(image, &key, "", &record));
}

/* What is to be made again, if that can be. */
static int find_repair(struct image_service *image, const struct snapshot_repair_request *request,
		       struct resolved **ret_resolved, const char **ret_snapshotter,
		       struct snapshot_repair_reply *reply, struct why *why)
{
	const char *snapshotter;
	int r;

	r = snapshot_check_name(image, request->snapshotter, &snapshotter, why);
	if (!r && !check_digest(request->key))
		r = why_set(why, refused(BUS_INVALID_ARGUMENT),
			    "'%.100s' is not the chain id of a layer: only layers have blobs to be "
			    "made of",
			    request->key);
	if (!r)
		r = find_blob(image, request->key, ret_resolved, why);
	if (!r)
		r = check_unused(image, snapshotter, request->key, why);
	if (!r && !strcmp(snapshotter, SNAPSHOTTER_NATIVE))
		r = find_above(image, snapshotter, request->key, &reply->above);
	if (!r)
		r = schema_set(&reply->snapshotter, snapshotter);
	if (!r)
		r = schema_set(&reply->blob,
			       (*ret_resolved)->layers[(*ret_resolved)->n_layers - 1].blob->digest);
	*ret_snapshotter = snapshotter;
	return r;
}

static int forget(struct unpacking *unpacking, struct why *why)
{
	const struct snapshot_repair_request *request = operation_request(unpacking->operation);
	struct image_service *image = operation_object(unpacking->operation);
	struct snapshot_repair_reply *reply = operation_context(unpacking->operation);
	int r;

	snapshot_repair_reply_clear(reply);
	r = find_repair(image, request, &unpacking->resolved, &unpacking->snapshotter, reply, why);
	if (!r)
		r = lease_hold_content(unpacking->operation, unpacking->resolved->target);
	for (size_t i = 0; i < reply->above.count && !r; i++)
		r = forget_layer(image, unpacking->snapshotter, reply->above.items[i]);
	return r ? r : forget_layer(image, unpacking->snapshotter, request->key);
}

static int repair_step(struct operation *operation)
{
	struct unpacking *unpacking = NULL;
	struct why why = {};
	int r;

	r = unpacking_new(operation, &unpacking);
	if (r)
		return error_trace(r);
	r = forget(unpacking, &why);
	if (r)
		return image_step_failed(operation, r, &why);
	r = operation_after_commit(operation, start_unpacking);
	return r ? error_trace(r) : OPERATION_LATER;
}

static int repair_finish(struct operation *operation, void *reply)
{
	int r = snapshot_repair_reply_copy(operation_context(operation), reply);

	return r ? error_trace(r) : lease_undo(operation);
}

static const struct operation_step repair_steps[] = {
	{.name = "unpack", .run = repair_step, .undo = lease_undo},
	{},
};

const struct operation_type snapshot_repair_operation = {
	.method = "snapshot.repair",
	.steps = repair_steps,
	.request = schema_snapshot_repair_request,
	.reply = schema_snapshot_repair_reply,
	.context = schema_snapshot_repair_reply,
	.finish = repair_finish,
	.cancelled = unpack_cancelled,
};

int snapshot_repair(struct image_service *image, const struct snapshot_repair_request *request,
		    struct snapshot_repair_reply *reply, struct call *call)
{
	struct resolved *resolved = NULL;
	const char *snapshotter;
	struct why why = {};
	int r;

	if (!call_checked_namespace(call))
		return 0;
	if (!request->dry_run)
		return error_trace(operation_start(call, &snapshot_repair_operation, request,
						   request->key, true));
	r = find_repair(image, request, &resolved, &snapshotter, reply, &why);
	resolved_free(resolved);
	return r ? image_answer(call, r, &why, "the layer") : 0;
}
