/*
 * criu's files on their way between an OCI runtime, which wants a directory, and
 * the content store: a snapshot with nothing below it is such a directory, and the
 * image service makes layers of snapshots, and snapshots of layers. The lease alone
 * holds it, so that it goes though the command dies.
 */

#include <string.h>

#include "broker/lib/file.h"
#include "broker/lib/loop.h"
#include "broker/lib/utc.h"
#include "tools/checkpoint_image.h"

#define LEASE_S 3600

static int make_lease(struct context *context, char **ret_id)
{
	_cleanup_(lease_create_request_clear) struct lease_create_request request = {};
	_cleanup_(lease_reply_clear) struct lease_reply reply = {};
	char stamp[UTC_SIZE], text[UTC_SIZE + 1];
	int r;

	utc_format(time_real_ns() / 1000000000 + LEASE_S, stamp);
	snprintf(text, sizeof(text), "%sZ", stamp);
	r = schema_map_set(&request.labels, "containerd.io/gc.expire", text)
		    ?: lease_create_ask(&context->ask, &request, &reply);
	if (r)
		return fail_ask(context, r);
	*ret_id = TAKE(reply.lease->id);
	return 0;
}

/* By the lease, instead of the label that says: until it is removed. */
static int hold(struct checkpoint_files *files)
{
	_cleanup_(cleanup_free) char *type = text_format("snapshots/%s", files->snapshotter);
	struct lease_resource resource = {.type = type, .id = files->key};
	struct lease_resource_request add = {.id = files->lease, .resource = &resource};
	struct snapshot_record record = {.key = files->key, .snapshotter = files->snapshotter};
	char *mask[] = {(char *)"labels"};
	struct snapshot_update_request update = {.snapshot = &record, .update_mask = {mask, 1}};
	struct ask *ask = &files->context->ask;
	int r;

	if (!type)
		return fail(files->context, "out of memory");
	r = lease_add_resource_ask(ask, &add, NULL) ?: snapshot_update_ask(ask, &update, NULL);
	return r ? fail_ask(files->context, r) : 0;
}

static int make_snapshot(struct checkpoint_files *files)
{
	_cleanup_(snapshot_prepare_reply_clear) struct snapshot_prepare_reply reply = {};
	struct snapshot_prepare_request request = {};
	int r;

	request.key = files->key = text_format("checkpoint-%s", files->lease);
	if (!files->key)
		return fail(files->context, "out of memory");
	r = snapshot_prepare_ask(&files->context->ask, &request, &reply);
	if (r)
		return fail_ask(files->context, r);
	files->snapshotter = TAKE(reply.snapshot->snapshotter);
	if (reply.mounts.count != 1 || strcmp(reply.mounts.items[0].type, "bind") != 0)
		return fail(files->context, "snapshotter %s gives no plain directory",
			    files->snapshotter);
	files->path = TAKE(reply.mounts.items[0].source);
	return hold(files);
}

int checkpoint_files_make(struct context *context, struct checkpoint_files *ret_files)
{
	struct checkpoint_files files = {.context = context};
	int code = make_lease(context, &files.lease) ?: make_snapshot(&files);

	if (code)
		checkpoint_files_clear(&files);
	else
		*ret_files = files;
	return code;
}

static int fill(struct checkpoint_files *files, const char *digest)
{
	struct snapshot_apply_request request = {
		.key = files->key, .snapshotter = files->snapshotter, .digest = (char *)digest};
	int r = snapshot_apply_ask(&files->context->ask, &request, NULL);

	return r ? fail_ask(files->context, r) : 0;
}

int checkpoint_files_load(struct context *context, const char *name,
			  struct checkpoint_files *ret_files)
{
	struct checkpoint_files files = {};
	json_t *index = NULL;
	const char *digest;
	int code = checkpoint_image_read(context, name, &index);

	if (code)
		return code;
	digest = checkpoint_image_part(index, CHECKPOINT_TYPE_CRIU);
	code = digest ? checkpoint_files_make(context, &files) ?: fill(&files, digest)
		      : fail(context, "checkpoint '%s' was made without --task: it holds no memory",
			     name);
	json_decref(index);
	if (code)
		checkpoint_files_clear(&files);
	else
		*ret_files = files;
	return code;
}

void checkpoint_files_clear(struct checkpoint_files *files)
{
	struct snapshot_key_request remove = {.key = files->key, .snapshotter = files->snapshotter};
	struct lease_delete_request end = {.id = files->lease};

	if (files->snapshotter)
		(void)snapshot_remove_ask(&files->context->ask, &remove, NULL);
	if (files->lease)
		(void)lease_delete_ask(&files->context->ask, &end, NULL);
	free(files->lease);
	free(files->key);
	free(files->snapshotter);
	free(files->path);
	*files = (struct checkpoint_files){};
}
