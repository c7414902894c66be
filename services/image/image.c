/* The image service: its start, its end, and what its files share. */

#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "broker/lib/file.h"
#include "broker/lib/log.h"
#include "services/image/collect.h"
#include "services/image/downloads.h"
#include "services/image/handlers.h"
#include "services/image/ingest.h"
#include "services/image/lease.h"
#include "services/image/references.h"

#define SERVICE_TYPE    struct image_service
#define SERVICE_DEF     "schemas/image.def"
#define SERVICE_LINKAGE extern
#include "services/lib/methods.h"

/* ---- failures ---- */

int image_answer(struct call *call, int r, const struct why *why, const char *what)
{
	if (r >= REFUSED)
		return call_fail(call, (enum bus_status)(r - REFUSED), "%s", why->text);
	if (r < 0 && why->text[0])
		log_error("error=\"%s\"", why->text);
	if (r < 0 && why->text[0])
		return call_fail(call, r == -ENOSPC ? BUS_RESOURCE_EXHAUSTED : BUS_INTERNAL, "%s",
				 why->text);
	return r ? call_fail_store(call, r, what) : 0;
}

static enum bus_status status_of(int r)
{
	if (r >= REFUSED)
		return (enum bus_status)(r - REFUSED);
	return r == -ENOSPC || r == -EDQUOT ? BUS_RESOURCE_EXHAUSTED : BUS_INTERNAL;
}

static const char *text_of(int r, const struct why *why)
{
	if (why && why->text[0])
		return why->text;
	return r < 0 ? strerror(-r) : "the store failed";
}

int image_step_failed(struct operation *operation, int r, const struct why *why)
{
	if (r < REFUSED && r > 0)
		return r; /* the store's: the turn sees it by itself */
	if (r == -ENOMEM && !(why && why->text[0]))
		return r; /* it is tried again */
	return operation_fail(operation, status_of(r), "%s", text_of(r, why));
}

void image_step_ended(struct operation *operation, int r, const struct why *why)
{
	if (r)
		operation_step_failed(operation, status_of(r), "%s", text_of(r, why));
	else
		operation_step_done(operation);
}

/* ---- start and end ---- */

static int open_dir(struct image_service *image, const char *name, int *ret_fd)
{
	_cleanup_(cleanup_free) char *path = text_format("%s/%s", image->directory, name);
	struct why why = {};
	int r;

	if (!path)
		return error_origin(-ENOMEM);
	r = file_make_dir(path, 0700, &why);
	if (r) {
		log_error("error=\"%s\"", why.text);
		return error_trace(r);
	}
	*ret_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return *ret_fd < 0 ? error_origin(-errno) : 0;
}

static int open_dirs(struct image_service *image)
{
	_cleanup_(cleanup_fd) int content = -1, sums = -1;
	int r;

	/* Each level by itself, so that each is 0700. */
	r = open_dir(image, "content", &content);
	if (!r)
		r = open_dir(image, "content/blobs", &sums);
	if (!r)
		r = open_dir(image, "content/blobs/sha256", &image->blobs);
	if (!r)
		r = open_dir(image, "content/ingest", &image->ingest);
	if (!r)
		r = open_dir(image, "snapshots", &image->snapshots);
	if (!r)
		r = open_dir(image, "trash", &image->trash);
	return error_trace(r);
}

static int recover(struct image_service *image)
{
	int r;

	r = trash_clean(image);
	if (!r)
		r = ingest_clean(image);
	if (!r)
		r = content_clean(image);
	if (!r)
		r = snapshot_clean(image);
	if (!r)
		r = snapshot_probe(image);
	return error_trace(r);
}

static int image_set_up(struct image_service *image)
{
	int r;

	image->directory = text_format("%s/image", service_paths(image->service)->root);
	if (!image->directory)
		return error_origin(-ENOMEM);
	image->snapshots_path = text_format("%s/snapshots", image->directory);
	if (!image->snapshots_path)
		return error_origin(-ENOMEM);
	r = platform_host(&image->host);
	if (!r)
		r = boot_id_read(image->boot);
	if (!r)
		r = open_dirs(image);
	if (!r)
		r = recover(image);
	return error_trace(r);
}

static void image_close(void *object)
{
	struct image_service *image = object;

	image_work_close(image);
	collect_close(image);
	references_close(image);
	ingest_close(image);
	unpack_close(image);
	trash_close(image);
	for (size_t i = 0; i < RESOLVED_CACHE; i++)
		resolved_free(image->cache[i]);
	free(image->unrecorded);
	schema_strs_clear(&image->unrecorded_blobs);
	schema_strs_clear(&image->unrecorded_snapshots);
	close_fd(image->blobs);
	close_fd(image->ingest);
	close_fd(image->snapshots);
	close_fd(image->trash);
	platform_clear(&image->host);
	free(image->directory);
	free(image->snapshots_path);
	free(image);
}

static struct work_limits configured_limits;

void image_configure(const struct work_limits *limits)
{
	configured_limits = *limits;
}

static int image_open(struct service *service, void **ret_object)
{
	struct image_service *image = calloc(1, sizeof(*image));
	int r;

	if (!image)
		return error_origin(-ENOMEM);
	image->service = service;
	image->store = service_store(service);
	image->limits = configured_limits;
	image->blobs = image->ingest = image->snapshots = image->trash = -1;
	/* Places in trash/ of an earlier process of the same pid are not taken again. */
	image->next_trash = time_boot_ms() << 20;
	r = collect_open(image);
	if (!r)
		r = image_set_up(image);
	if (r) {
		image_close(image);
		return error_trace(r);
	}
	*ret_object = image;
	return 0;
}

static void image_ready(void *object)
{
	struct image_service *image = object;

	image->is_ready = true;
	trash_start(image);
	if (image->must_sync)
		sync_start(image);
	/* What a crash left. */
	collect(image);
}

/* Children end; what they were doing begins again in the next instance. */
static void image_drain(void *object)
{
	struct image_service *image = object;

	image->is_draining = true;
	image_work_drain(image);
}

/* ---- methods that are the library's ---- */

int image_operations(struct image_service *image, const struct empty *request,
		     struct operation_list_reply *reply, struct call *call)
{
	(void)request;
	return operation_list(image->service, call, reply);
}

int image_operation_cancel(struct image_service *image,
			   const struct operation_cancel_request *request, struct empty *reply,
			   struct call *call)
{
	(void)reply;
	return operation_cancel(image->service, call, request);
}

int image_stats(struct image_service *image, const struct empty *request,
		struct service_stats_reply *reply, struct call *call)
{
	(void)request;
	(void)call;
	return service_stats(image->service, reply);
}

int image_quarantine(struct image_service *image, const struct empty *request,
		     struct store_quarantine_reply *reply, struct call *call)
{
	(void)request;
	(void)call;
	return service_quarantine(image->service, reply);
}

int image_quarantine_drop(struct image_service *image, const struct store_drop_request *request,
			  struct store_drop_reply *reply, struct call *call)
{
	int r = service_quarantine_drop(image->service, call, request, reply);

	/* What a damaged record kept from being collected is looked at again. */
	if (!r)
		collect(image);
	return r;
}

static const char *const names[] = {"image", "content", "snapshot", "lease", NULL};
static const char *const tables[] = {TABLE_IMAGES, TABLE_BLOBS,           TABLE_SNAPSHOTS,
				     TABLE_LEASES, TABLE_LEASE_RESOURCES, TABLE_INGESTS,
				     NULL};
static const struct operation_type *const operations[] = {
	&import_operation,
	&export_operation,
	&convert_operation,
	&unpack_operation,
	&prepare_operation,
	&delete_operation,
	&pull_operation,
	&push_operation,
	&fetch_object_operation,
	&push_object_operation,
	&lease_delete_operation,
	&commit_operation,
	&verify_operation,
	&collect_operation,
	&snapshot_prepare_operation,
	&snapshot_view_operation,
	&snapshot_commit_operation,
	&snapshot_diff_operation,
	&snapshot_apply_operation,
	&snapshot_repair_operation,
	NULL,
};

const struct service_definition image_definition = {
	.program = "davit-image",
	.names = names,
	.methods = service_methods,
	.tables = tables,
	.directory = "image",
	.open = image_open,
	.ready = image_ready,
	.drain = image_drain,
	.close = image_close,
	.operations = operations,
	.rebuild = image_rebuild,
};
