/* image.inspect and image.check: what an image is made of, and what of it is there. */

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "broker/lib/file.h"
#include "services/image/handlers.h"
#include "services/image/list.h"

#define MISSING_MAX 64

/* ---- inspect ---- */

static int describe_layer(struct image_service *image, const struct resolved *resolved, size_t i,
			  const char *snapshotter, struct image_layer *layer)
{
	_cleanup_(snapshot_record_clear) struct snapshot_record record = {};
	int r;

	layer->blob = calloc(1, sizeof(*layer->blob));
	if (!layer->blob)
		return error_origin(-ENOMEM);
	r = descriptor_copy(resolved->layers[i].blob, layer->blob);
	if (!r)
		r = schema_set(&layer->diff_id, resolved->layers[i].diff_id);
	if (!r)
		r = schema_set(&layer->chain_id, resolved->chains[i]);
	if (r)
		return error_trace(r);
	layer->is_present = content_has(image, resolved->layers[i].blob->digest);
	r = snapshot_get(image, SCOPE_SHARED, snapshotter, resolved->chains[i], &record);
	if (r)
		return r == STORE_E_NOT_FOUND ? 0 : r;
	layer->is_unpacked = true;
	layer->unpacked_size = record.size;
	layer->inodes = record.inodes;
	return 0;
}

static int describe(struct image_service *image, const struct resolved *resolved,
		    const char *snapshotter, struct image_inspect_reply *reply)
{
	int r;

	r = schema_set(&reply->manifest, resolved->manifest)
	    ?: schema_set(&reply->config_digest, resolved->config_digest)
	    ?: schema_set(&reply->config, resolved->config)
	    ?: schema_set(&reply->snapshotter, snapshotter);
	if (!r && resolved->n_layers)
		r = schema_set(&reply->chain_id, resolved->chains[resolved->n_layers - 1]);
	for (size_t i = 0; i < resolved->n_layers && !r; i++) {
		struct image_layer *layer = schema_list_add(&reply->layers);

		r = layer ? describe_layer(image, resolved, i, snapshotter, layer)
			  : error_origin(-ENOMEM);
	}
	return r;
}

static int inspect(struct image_service *image, const char *namespace,
		   const struct image_unpack_request *request, struct image_inspect_reply *reply,
		   struct why *why)
{
	_cleanup_(platform_clear) struct platform platform = {};
	const struct resolved *resolved;
	const char *snapshotter;
	int r;

	reply->image = calloc(1, sizeof(*reply->image));
	if (!reply->image)
		return error_origin(-ENOMEM);
	r = names_find(image, namespace, request->name, reply->image, why);
	if (!r)
		r = resolve_platform(image, request->platform, &platform, why);
	if (!r)
		r = snapshot_check_name(image, request->snapshotter, &snapshotter, why);
	if (r)
		return r;
	r = resolve_target(image, reply->image->target, &platform, &resolved, why);
	if (r)
		return r > REFUSED ? why_prefix(why, r, "image '%.200s'", reply->image->name) : r;
	reply->image->size = resolved->size;
	return describe(image, resolved, snapshotter, reply);
}

int image_inspect(struct image_service *image, const struct image_unpack_request *request,
		  struct image_inspect_reply *reply, struct call *call)
{
	struct why why = {};
	int r = inspect(image, call_namespace(call), request, reply, &why);

	return image_answer(call, r, &why, "the image");
}

/* ---- check ---- */

struct checking {
	struct image_service *image;
	const struct platform *platform;
	const char *snapshotter;
	struct image_check *check;
};

/* One blob that is needed; *ret_has: it is there, as large as it should be. */
static int need(struct checking *checking, const struct descriptor *descriptor, bool *ret_has)
{
	struct image_check *check = checking->check;
	struct stat status;

	check->n_required++;
	check->size_required += descriptor->size;
	*ret_has = content_has(checking->image, descriptor->digest) &&
		   fstatat(checking->image->blobs, descriptor->digest + strlen("sha256:"), &status,
			   AT_SYMLINK_NOFOLLOW) == 0 &&
		   (uint64_t)status.st_size == descriptor->size;
	if (*ret_has) {
		check->n_present++;
		check->size_present += descriptor->size;
	} else if (check->missing.count < MISSING_MAX) {
		return error_trace(schema_strs_add(&check->missing, descriptor->digest));
	}
	return 0;
}

static int check_document(struct checking *checking, const struct descriptor *descriptor,
			  unsigned depth);

static int check_manifest(struct checking *checking, const struct document_manifest *manifest)
{
	bool has;
	int r;

	r = need(checking, &manifest->config, &has);
	for (size_t i = 0; i < manifest->layers.count && !r; i++)
		r = need(checking, &manifest->layers.items[i], &has);
	return error_trace(r);
}

static int check_index(struct checking *checking, const struct document_index *index,
		       unsigned depth)
{
	int chosen = platform_choose(index, checking->platform);

	if (chosen < 0)
		return error_trace(
			schema_set(&checking->check->problem, "it has no image for this platform"));
	return error_trace(check_document(checking, &index->items[chosen].descriptor, depth + 1));
}

/* A damaged document is as good as missing. */
static int check_document(struct checking *checking, const struct descriptor *descriptor,
			  unsigned depth)
{
	_cleanup_(document_manifest_clear) struct document_manifest manifest = {};
	_cleanup_(document_index_clear) struct document_index index = {};
	_cleanup_(cleanup_free) char *text = NULL;
	struct why why = {};
	size_t size;
	bool has;
	int r;

	r = need(checking, descriptor, &has);
	if (r || !has)
		return error_trace(r);
	if (depth > 4 || content_load(checking->image, descriptor->digest, &text, &size, &why))
		return error_trace(schema_set(&checking->check->problem,
					      depth > 4 ? "it is nested too deep" : why.text));
	if (!document_parse_manifest(text, size, NULL, &manifest, NULL))
		return error_trace(check_manifest(checking, &manifest));
	if (!document_parse_index(text, size, NULL, &index, &why))
		return error_trace(check_index(checking, &index, depth));
	return error_trace(schema_set(&checking->check->problem, why.text));
}

/* All its layers have records and directories. */
static bool is_unpacked(struct checking *checking, const struct descriptor *target)
{
	const struct resolved *resolved;

	if (resolve_target(checking->image, target, checking->platform, &resolved, NULL) ||
	    !resolved->is_image)
		return false;
	for (size_t i = 0; i < resolved->n_layers; i++) {
		_cleanup_(snapshot_record_clear) struct snapshot_record record = {};
		struct stat status;
		char path[32];

		if (snapshot_get(checking->image, SCOPE_SHARED, checking->snapshotter,
				 resolved->chains[i], &record))
			return false;
		snprintf(path, sizeof(path), "%llu/fs", (unsigned long long)record.number);
		if (fstatat(checking->image->snapshots, path, &status, AT_SYMLINK_NOFOLLOW) < 0)
			return false;
	}
	return true;
}

static int check_image(struct checking *checking, const struct image_record *record)
{
	struct image_check *check = checking->check;
	int r;

	check->image = calloc(1, sizeof(*check->image));
	if (!check->image)
		return error_origin(-ENOMEM);
	r = image_record_copy(record, check->image);
	if (!r)
		r = check_document(checking, record->target, 0);
	check->is_available = content_has(checking->image, record->target->digest);
	check->is_unpacked = is_unpacked(checking, record->target);
	return error_trace(r);
}

struct listing {
	struct list list;
	struct checking checking;
	struct image_check_reply *reply;
	struct filter *filter;
};

static int check_one(void *userdata, const struct store_key *key, void *data)
{
	_cleanup_(image_check_clear) struct image_check check = {};
	const struct image_record *record = data;
	struct listing *listing = userdata;
	struct image_check *item;
	int r;

	(void)key;
	if (list_is_before(&listing->list, record->name) ||
	    !filter_match_message(listing->filter, schema_image_record(), record))
		return 0;
	listing->checking.check = &check;
	r = check_image(&listing->checking, record);
	if (r)
		return error_trace(r);
	if (!list_has_room(&listing->list, schema_image_check(), &check))
		return list_stop(&listing->list, &listing->reply->after);
	item = schema_list_add(&listing->reply->checks);
	if (!item)
		return error_origin(-ENOMEM);
	*item = check;
	check = (struct image_check){};
	return error_trace(list_added(&listing->list, record->name, 0));
}

static int check_all(struct image_service *image, const char *namespace,
		     const struct image_check_request *request, struct listing *listing,
		     struct why *why)
{
	const struct list_request list = {
		.filters = request->filters, .after = request->after, .limit = request->limit};
	struct store_key prefix;
	int r;

	r = snapshot_check_name(image, request->snapshotter, &listing->checking.snapshotter, why);
	if (!r)
		r = list_start(&listing->list, &list, &listing->filter, why);
	if (!r)
		r = store_key(&prefix, namespace, "", NULL);
	return r ? r
		 : store_walk(image->store, TABLE_IMAGES, &prefix, NULL, schema_image_record(),
			      check_one, listing);
}

int image_check(struct image_service *image, const struct image_check_request *request,
		struct image_check_reply *reply, struct call *call)
{
	_cleanup_(platform_clear) struct platform platform = {};
	struct listing listing = {.reply = reply,
				  .checking = {.image = image, .platform = &platform}};
	struct why why = {};
	int r;

	r = resolve_platform(image, request->platform, &platform, &why);
	if (!r)
		r = check_all(image, call_namespace(call), request, &listing, &why);
	filter_free(listing.filter);
	list_clear(&listing.list);
	return image_answer(call, r == LIST_FULL ? 0 : r, &why, "images");
}
