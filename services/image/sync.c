/*
 * Getting layers onto the disk behind the caller's back. A layer can be made again
 * from its blob, which is on disk before anything names it; so an unpacked layer
 * is used at once, carries the boot in which it was made until it is known to be
 * on disk, and is dropped at the start of another boot if it still does.
 */

#include "broker/lib/log.h"
#include "services/image/image.h"

static int mark(void *userdata, const struct store_key *key, void *data)
{
	struct image_service *image = userdata;
	struct snapshot_record *record = data;

	if (!record->unsynced_boot.size || record->number >= image->syncing_before)
		return 0;
	schema_bytes_clear(&record->unsynced_boot);
	return snapshot_put(image, key, record);
}

static int mark_all(void *userdata)
{
	struct image_service *image = userdata;
	struct store_key prefix;
	int r;

	r = store_key(&prefix, SCOPE_SHARED, "", NULL);
	if (r)
		return error_trace(r);
	image->is_marking_synced = true;
	r = store_walk(image->store, TABLE_SNAPSHOTS, &prefix, NULL, schema_snapshot_record(), mark,
		       image);
	image->is_marking_synced = false;
	return error_trace(r);
}

static void synced(void *userdata, void *data, const struct why *why)
{
	const struct work_remove_result *result = data;
	struct image_service *image = userdata;

	image->is_syncing = false;
	if (!result || result->error)
		log_error("sync=failed error=\"%s\"", result ? result->error : why->text);
	else if (service_transact(image->service, mark_all, image))
		log_error("sync=failed error=\"the store failed\"");
	if (image->must_sync)
		sync_start(image);
}

void sync_start(struct image_service *image)
{
	const struct empty request = {};
	struct why why = {};

	image->must_sync = true;
	if (image->is_syncing || !image->is_ready || image->is_draining)
		return;
	image->must_sync = false;
	/* What is recorded by now was written before; a layer that is still being made was not. */
	image->syncing_before = unpack_lowest_number(image);
	if (image_work_start(image, "sync", schema_empty(), &request, &image->snapshots, 1,
			     schema_work_remove_result(), 0, synced, image, &why))
		log_error("sync=failed error=\"%s\"", why.text);
	else
		image->is_syncing = true;
}
