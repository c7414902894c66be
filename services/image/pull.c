/*
 * image.pull: a child loads what the reference names into content/ingest, while
 * the layers that have come are unpacked in their order; when all is there it is
 * moved into place, recorded and named. A pull that fails, is cancelled or cut
 * leaves verified and partial blobs in content/ingest, where the next one goes on.
 */

#include <string.h>

#include "broker/lib/file.h"
#include "broker/lib/log.h"
#include "schemas/check.h"
#include "services/image/downloads.h"
#include "services/image/handlers.h"
#include "services/image/lease.h"
#include "services/image/transfer.h"

#define UNPACKING_TELL_MS 500

struct pulling {
	struct image_service *image;
	struct operation *operation;
	const struct image_pull_request *asked;
	char *name; /* full reference */
	struct transfer *transfer;
	struct downloads downloads;
	struct set present; /* blobs of the content store that it needs */
	struct descriptor target;
	bool is_fetched;
	int r; /* why it fails */
	struct why why;

	/* Platforms are unpacked one after the other. */
	struct {
		struct platform *items;
		size_t count;
	} platforms;
	size_t index;
	struct resolved *resolved; /* that of platforms.items[index] */
	struct unpack *unpack;
	bool is_unpacked;
	struct transfer_wait wait;
	struct loop_timer timer; /* for what is to be told */
};

static void try_unpack(struct pulling *pulling);

static void pulling_free(void *userdata)
{
	struct pulling *pulling = userdata;

	transfer_wait_end(&pulling->wait);
	loop_timer_cancel(&pulling->timer);
	unpack_forget(pulling->unpack);
	transfer_free(pulling->transfer);
	downloads_deinit(pulling->image, &pulling->downloads);
	set_clear(&pulling->present);
	descriptor_clear(&pulling->target);
	resolved_free(pulling->resolved);
	for (size_t i = 0; i < pulling->platforms.count; i++)
		platform_clear(&pulling->platforms.items[i]);
	free(pulling->platforms.items);
	free(pulling->name);
	free(pulling);
}

/* ---- the end ---- */

/* The first failure counts. The child is waited for. */
static void fail(struct pulling *pulling, int r, const struct why *why)
{
	if (!pulling->r) {
		pulling->r = r;
		pulling->why = *why;
	}
	unpack_forget(TAKE(pulling->unpack));
	if (pulling->transfer)
		transfer_stop(pulling->transfer);
}

static void go_on(struct pulling *pulling)
{
	if (!pulling->is_fetched || (!pulling->is_unpacked && !pulling->r))
		return;
	image_step_ended(pulling->operation, pulling->r, &pulling->why);
}

/* ---- unpacking ---- */

static bool is_there(void *userdata, const char *digest)
{
	struct pulling *pulling = userdata;

	return set_has(&pulling->downloads.digests, digest) || set_has(&pulling->present, digest);
}

static int hold_layers(void *userdata)
{
	struct pulling *pulling = userdata;
	const char *snapshotter;
	int r;

	r = snapshot_check_name(pulling->image, pulling->asked->snapshotter, &snapshotter, NULL);
	for (size_t i = 0; i < pulling->resolved->n_layers && !r; i++)
		r = lease_hold_layer(pulling->operation, snapshotter, pulling->resolved->chains[i]);
	return r;
}

static int keep_chain(struct pulling *pulling)
{
	struct image_pull_context *context = operation_context(pulling->operation);
	const struct resolved *resolved = pulling->resolved;

	if (context->chain_id || !resolved->n_layers)
		return 0;
	return error_trace(
		schema_set(&context->chain_id, resolved->chains[resolved->n_layers - 1]));
}

static void next_platform(struct pulling *pulling)
{
	resolved_free(TAKE(pulling->resolved));
	pulling->index++;
	try_unpack(pulling);
}

static void unpacked(void *userdata, int r, const struct why *why)
{
	struct pulling *pulling = userdata;

	pulling->unpack = NULL;
	if (!r && keep_chain(pulling))
		r = refused(BUS_RESOURCE_EXHAUSTED);
	if (r) {
		fail(pulling, r, why);
		go_on(pulling);
		return;
	}
	next_platform(pulling);
}

static void start_unpacking(struct pulling *pulling)
{
	const char *snapshotter;
	struct why why = {};
	int r;

	r = snapshot_check_name(pulling->image, pulling->asked->snapshotter, &snapshotter, &why);
	if (!r)
		r = service_transact(pulling->image->service, hold_layers, pulling);
	if (!r)
		r = unpack_start_arriving(pulling->image, pulling->resolved, snapshotter, is_there,
					  unpacked, pulling, &pulling->unpack);
	if (!r)
		return;
	why_set(&why, r, "cannot unpack image %s", pulling->resolved->manifest);
	fail(pulling, r, &why);
	go_on(pulling);
}

struct find {
	struct pulling *pulling;
	struct why why;
};

/* Its documents may not have come yet. */
static int resolve(void *userdata)
{
	struct find *find = userdata;
	struct pulling *pulling = find->pulling;
	const struct resolved *resolved;
	int r;

	r = resolve_target(pulling->image, &pulling->target,
			   &pulling->platforms.items[pulling->index], &resolved, &find->why);
	return r ? r : resolved_copy(resolved, &pulling->resolved);
}

/* All platforms of an index, as it names them itself. */
static int list_platforms(void *userdata)
{
	struct find *find = userdata;
	struct pulling *pulling = find->pulling;
	const struct resolved *resolved;
	int r;

	r = resolve_target(pulling->image, &pulling->target, &pulling->image->host, &resolved,
			   &find->why);
	if (r == refused(BUS_NOT_FOUND))
		return 0;
	for (size_t i = 0; !r && i < resolved->platforms.count; i++) {
		struct platform platform = {}, *item;

		/* Nothing of another system can be unpacked into a root file system of this one. */
		if (strncmp(resolved->platforms.items[i], "linux/", 6) ||
		    platform_parse(resolved->platforms.items[i], &pulling->image->host, &platform,
				   NULL))
			continue;
		item = schema_list_add(&pulling->platforms);
		if (!item) {
			platform_clear(&platform);
			return error_origin(-ENOMEM);
		}
		*item = platform;
	}
	return r;
}

/* Nothing more to be unpacked. */
static void unpacking_is_done(struct pulling *pulling)
{
	pulling->is_unpacked = true;
	go_on(pulling);
}

static bool is_document_missing(int r)
{
	return r == refused(BUS_DATA_LOSS) || r == refused(BUS_NOT_FOUND);
}

/* Begins with the next platform as soon as its documents are there. */
static void try_unpack(struct pulling *pulling)
{
	struct find find = {.pulling = pulling};
	int r;

	if (pulling->r || pulling->is_unpacked || pulling->unpack || pulling->resolved ||
	    !pulling->target.digest)
		return;
	if (pulling->index == pulling->platforms.count) {
		/* With all platforms it is known at the end which there are. */
		if (pulling->is_fetched)
			unpacking_is_done(pulling);
		return;
	}
	r = service_transact(pulling->image->service, resolve, &find);
	if (!r && pulling->resolved && !pulling->resolved->is_image) {
		next_platform(pulling);
	} else if (!r) {
		start_unpacking(pulling);
	} else if (pulling->is_fetched && r == refused(BUS_NOT_FOUND)) {
		pulling->index++;
		try_unpack(pulling);
	} else if (pulling->is_fetched || !is_document_missing(r)) {
		fail(pulling, r, &find.why);
		go_on(pulling);
	}
}

/* ---- what the child says ---- */

static void resolved_hook(void *userdata, const struct descriptor *target)
{
	struct pulling *pulling = userdata;

	descriptor_clear(&pulling->target);
	if (descriptor_copy(target, &pulling->target))
		fail(pulling, -ENOMEM, &(struct why){"out of memory"});
}

static void arrived(void *userdata, const struct descriptor *blob, bool is_new)
{
	struct pulling *pulling = userdata;
	struct set *set = is_new ? &pulling->downloads.digests : &pulling->present;

	if (set_add(set, blob->digest)) {
		fail(pulling, -ENOMEM, &(struct why){"out of memory"});
		return;
	}
	if (pulling->unpack)
		unpack_poke(pulling->unpack);
	else if (blob->size <= DOCUMENT_CONFIG_MAX)
		try_unpack(pulling);
}

/* Layers that are done or at work. */
static void describe(void *userdata, struct transfer_item *item)
{
	struct pulling *pulling = userdata;
	size_t position = pulling->unpack ? unpack_position(pulling->unpack) : 0;

	for (size_t i = 0; pulling->unpack && i < pulling->resolved->n_layers; i++) {
		if (strcmp(pulling->resolved->layers[i].blob->digest, item->digest))
			continue;
		if (i < position)
			item->status = TRANSFER_UNPACKED;
		else if (i == position && is_there(pulling, item->digest))
			item->status = TRANSFER_UNPACKING;
		return;
	}
}

static int tell_unpacking(void *userdata)
{
	struct pulling *pulling = userdata;

	return transfer_tell(pulling->transfer, "unpacking");
}

static void on_timer(struct loop_timer *timer)
{
	struct pulling *pulling = container_of(timer, struct pulling, timer);

	if (!pulling->unpack)
		return;
	(void)service_transact(pulling->image->service, tell_unpacking, pulling);
	(void)loop_timer_set(service_loop(pulling->image->service), timer,
			     time_boot_ms() + UNPACKING_TELL_MS, on_timer);
}

static void ended(void *userdata, void *data, const struct why *why)
{
	struct work_fetch_result *result = data;
	struct pulling *pulling = userdata;
	struct find find = {.pulling = pulling};
	struct why own = {};
	int r = 0;

	pulling->is_fetched = true;
	if (operation_is_cancelled(pulling->operation))
		r = why_set(&own, refused(BUS_CANCELED), "the pull of '%.200s' was cancelled",
			    pulling->asked->name);
	else if (!result)
		r = why_set(&own, refused(BUS_INTERNAL), "cannot pull '%.200s': %s", pulling->name,
			    why->text);
	else if (result->error)
		r = why_set(&own, refused(result->status), "cannot pull '%.200s': %s",
			    pulling->name, result->error);
	else if (!result->target)
		r = why_set(&own, refused(BUS_INTERNAL), "cannot pull '%.200s': no target",
			    pulling->name);
	else
		r = downloads_keep(operation_context(pulling->operation), result);
	if (!r && pulling->asked->all_platforms && !pulling->is_unpacked)
		r = service_transact(pulling->image->service, list_platforms, &find);
	if (r) {
		fail(pulling, r, own.text[0] ? &own : &find.why);
		go_on(pulling);
		return;
	}
	on_timer(&pulling->timer);
	/* Unpacking may have failed when all had come already. */
	if (pulling->is_unpacked || pulling->r)
		go_on(pulling);
	else
		try_unpack(pulling);
}

static const struct transfer_hooks hooks = {.method = "image.pull",
					    .resolved = resolved_hook,
					    .arrived = arrived,
					    .describe = describe,
					    .ended = ended};

/* ---- the start ---- */

static int fill_request(struct pulling *pulling, struct work_fetch_request *request,
			struct why *why)
{
	const struct image_pull_request *asked = pulling->asked;
	int r = 0;

	request->name = pulling->name;
	request->registry = asked->registry;
	request->all_platforms = asked->all_platforms;
	request->all_metadata = asked->all_metadata;
	request->metadata_only = asked->metadata_only;
	request->connections = asked->max_concurrent_downloads;
	r = transfer_environment(&request->environment);
	for (size_t i = 0; i < (asked->platforms.count ?: 1) && !r; i++) {
		struct platform *platform = schema_list_add(&request->platforms);

		r = platform ? resolve_platform(pulling->image,
						asked->platforms.count ? asked->platforms.items[i]
								       : NULL,
						platform, why)
			     : error_origin(-ENOMEM);
	}
	return r;
}

/* What is borrowed is given back. */
static void request_clear(struct work_fetch_request *request)
{
	request->name = NULL;
	request->registry = NULL;
	work_fetch_request_clear(request);
}

static int tell_start(void *userdata)
{
	struct pulling *pulling = userdata;

	return transfer_tell_end(pulling->operation, "image.pull", pulling->asked->name,
				 "resolving");
}

static int start(struct pulling *pulling, struct why *why)
{
	_cleanup_(request_clear) struct work_fetch_request request = {};
	bool is_all = pulling->asked->all_platforms;
	int r;

	downloads_clean(pulling->image);
	r = fill_request(pulling, &request, why);
	for (size_t i = 0; i < request.platforms.count && !r && !is_all; i++) {
		struct platform *platform = schema_list_add(&pulling->platforms);

		r = platform ? platform_copy(&request.platforms.items[i], platform)
			     : error_origin(-ENOMEM);
	}
	if (!r)
		r = service_transact(pulling->image->service, tell_start, pulling);
	if (r)
		return r;
	return transfer_start(pulling->operation, pulling->asked->name, "fetch",
			      schema_work_fetch_request(), &request, pulling->image->ingest,
			      schema_work_fetch_result(), &hooks, pulling, &pulling->transfer, why);
}

static void start_now(struct operation *operation)
{
	struct pulling *pulling = operation_data(operation);
	struct why why = {};
	int r;

	transfer_wait_end(&pulling->wait);
	r = start(pulling, &why);
	if (r)
		image_step_ended(operation, r, &why);
}

static void begin(struct operation *operation)
{
	struct pulling *pulling = operation_data(operation);

	transfer_begin(&pulling->wait, operation, start_now, "pull", pulling->asked->name);
}

static int pull_fetch(struct operation *operation)
{
	struct pulling *pulling = calloc(1, sizeof(*pulling));
	int r;

	if (!pulling)
		return error_origin(-ENOMEM);
	pulling->image = operation_object(operation);
	pulling->operation = operation;
	pulling->asked = operation_request(operation);
	pulling->is_unpacked = pulling->asked->no_unpack || pulling->asked->metadata_only;
	pulling->name = reference_normalize(pulling->asked->name);
	downloads_init(pulling->image, &pulling->downloads);
	operation_set_data(operation, pulling, pulling_free);
	if (!pulling->name)
		return error_origin(-ENOMEM);
	r = operation_after_commit(operation, begin);
	return r ? error_trace(r) : OPERATION_LATER;
}

static void pull_cancelled(struct operation *operation)
{
	struct pulling *pulling = operation_data(operation);
	struct why why = {};

	if (!pulling || transfer_wait_cancel(&pulling->wait) || !pulling->transfer)
		return;
	why_set(&why, 0, "the pull of '%.200s' was cancelled", pulling->asked->name);
	fail(pulling, refused(BUS_CANCELED), &why);
	go_on(pulling);
}

static int pull_undo(struct operation *operation)
{
	const struct image_pull_request *asked = operation_request(operation);
	struct image_pull_context *context = operation_context(operation);
	int r;

	downloads_drop(operation_object(operation), context->result);
	r = lease_end_of(operation);
	if (!r)
		r = transfer_tell_end(operation, "image.pull", asked->name, "failed");
	return r ? image_step_failed(operation, r, NULL) : 0;
}

/* ---- record and name ---- */

static int pull_record(struct operation *operation)
{
	const struct image_pull_request *asked = operation_request(operation);
	struct image_pull_context *context = operation_context(operation);
	struct why why = {};
	int r = downloads_record(operation, asked->name, context->result, &why);

	return r ? image_step_failed(operation, r, &why) : 0;
}

static int pull_finish(struct operation *operation, void *data)
{
	const struct image_pull_request *asked = operation_request(operation);
	struct image_pull_context *context = operation_context(operation);
	_cleanup_(cleanup_free) char *name = reference_normalize(asked->name);
	struct work_image found = {.name = name, .target = context->result->target};
	struct image_pull_reply *reply = data;
	int r;

	reply->image = calloc(1, sizeof(*reply->image));
	if (!reply->image || !name)
		return error_origin(-ENOMEM);
	reply->downloaded = context->result->downloaded;
	r = names_put(operation_object(operation), operation_namespace(operation), &found,
		      &asked->labels, reply->image);
	if (!r)
		r = schema_set(&reply->chain_id, context->chain_id);
	if (!r)
		r = lease_end_of(operation);
	if (!r)
		r = transfer_tell_end(operation, "image.pull", asked->name, "done");
	return r ? image_step_failed(operation, r, NULL) : 0;
}

static const struct operation_step pull_steps[] = {
	{.name = "fetch", .run = pull_fetch, .undo = pull_undo},
	{.name = "record", .run = pull_record},
	{},
};

const struct operation_type pull_operation = {
	.method = "image.pull",
	.steps = pull_steps,
	.request = schema_image_pull_request,
	.reply = schema_image_pull_reply,
	.context = schema_image_pull_context,
	.finish = pull_finish,
	.cancelled = pull_cancelled,
	.has_secrets = start_now,
};

static int check_request(struct image_service *image, const struct image_pull_request *request,
			 struct why *why)
{
	struct schema_fault fault = {};
	const char *snapshotter;
	int r;

	if (!check_reference(request->name))
		return why_set(why, refused(BUS_INVALID_ARGUMENT), "'%.200s' is not an image name",
			       request->name);
	if (check_labels(&request->labels, &fault))
		return why_set(why, refused(BUS_INVALID_ARGUMENT), "image '%.200s': %s",
			       request->name, fault.text);
	r = transfer_check_options(request->registry, why);
	for (size_t i = 0; i < request->platforms.count && !r; i++) {
		_cleanup_(platform_clear) struct platform platform = {};

		r = resolve_platform(image, request->platforms.items[i], &platform, why);
	}
	return r ? r : snapshot_check_name(image, request->snapshotter, &snapshotter, why);
}

int image_pull(struct image_service *image, const struct image_pull_request *request,
	       struct image_pull_reply *reply, struct call *call)
{
	struct why why = {};
	int r;

	(void)reply;
	if (!call_checked_namespace(call))
		return 0;
	r = check_request(image, request, &why);
	if (r)
		return image_answer(call, r, &why, "the pull");
	return error_trace(operation_start(call, &pull_operation, request, request->name, false));
}
