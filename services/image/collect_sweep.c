/* Removing what was not marked, and saying why. */

#include <stdio.h>
#include <string.h>

#include "broker/lib/file.h"
#include "services/image/collect_private.h"
#include "services/image/ingest.h"
#include "services/image/labels.h"
#include "services/image/lease.h"

#define REPORT_MAX  2000
#define REPORT_SIZE 700000

/* ---- the report ---- */

static int report(struct collect_run *run, const struct image_garbage *garbage)
{
	struct image_garbage *item;

	run->n_removed += !run->is_dry;
	run->report.count++;
	run->report.size += garbage->size;
	run->report_size += 128 + strlen(garbage->id) + strlen(garbage->reason);
	if (run->report.garbage.count == REPORT_MAX || run->report_size > REPORT_SIZE)
		return 0;
	item = schema_list_add(&run->report.garbage);
	return item ? error_trace(image_garbage_copy(garbage, item)) : error_origin(-ENOMEM);
}

/* ---- leases ---- */

static int end_lease(struct collect_run *run, const char *namespace,
		     const struct lease_record *record)
{
	const struct event_lease event = {.id = record->id};
	int r;

	r = lease_drop(run->image, namespace, record->id);
	if (r || record->until_used)
		return error_trace(r);
	return error_trace(service_emit(run->image->service, namespace,
					schema_find_event("/leases/delete"), record->id, &event));
}

int sweep_lease(struct collect_run *run, const struct store_key *key, void *data)
{
	const struct lease_record *record = data;
	const char *namespace = store_key_part(key, 0);
	_cleanup_(cleanup_free) char *name = text_format("%s/%s", namespace, record->id);
	char reason[128];
	struct image_garbage garbage = {.kind = GARBAGE_LEASE,
					.namespace = (char *)namespace,
					.id = record->id,
					.reason = reason};
	bool is_expired = label_expiry(&record->labels) <= time_real_ns();
	int r;

	/* One that was made again meanwhile goes on. */
	if (!name || !set_has(&run->ended, name) || !(is_expired || record->until_used))
		return 0;
	if (is_expired)
		snprintf(reason, sizeof(reason), "it expired at %s",
			 schema_map_get(&record->labels, LABEL_EXPIRE));
	else
		snprintf(reason, sizeof(reason), "a container has what it held");
	r = run->is_dry ? 0 : end_lease(run, namespace, record);
	return r ? error_trace(r) : error_trace(report(run, &garbage));
}

/* ---- images ---- */

static int end_image(struct collect_run *run, const char *namespace, const struct store_key *key,
		     const struct image_record *record)
{
	const struct event_image_delete event = {.name = record->name};
	int r = store_delete(run->image->store, TABLE_IMAGES, key);

	return r ? error_trace(r)
		 : error_trace(service_emit(run->image->service, namespace,
					    schema_find_event("/images/delete"), record->name,
					    &event));
}

int sweep_image(struct collect_run *run, const struct store_key *key, void *data)
{
	const struct image_record *record = data;
	const char *namespace = store_key_part(key, 0);
	char reason[256];
	struct image_garbage garbage = {.kind = GARBAGE_IMAGE,
					.namespace = (char *)namespace,
					.id = record->name,
					.reason = reason};
	int r;

	if (run->is_blind || label_expiry(&record->labels) > time_real_ns() ||
	    references_have_image(&run->references, namespace, record->name))
		return 0;
	snprintf(reason, sizeof(reason), "it expired at %.200s",
		 schema_map_get(&record->labels, LABEL_EXPIRE));
	r = run->is_dry ? 0 : end_image(run, namespace, key, record);
	return r ? error_trace(r) : error_trace(report(run, &garbage));
}

/* ---- ingests ---- */

int sweep_ingest(struct collect_run *run, const struct store_key *key, void *data)
{
	struct content_ingest *ingest = data;
	const char *namespace = store_key_part(key, 0);
	char time[LABEL_TIME_SIZE], reason[128];
	struct image_garbage garbage = {.kind = GARBAGE_INGEST,
					.namespace = (char *)namespace,
					.id = ingest->ref,
					.reason = reason};
	int r;

	if (references_have_ingest(&run->references, namespace, ingest->ref))
		return 0;
	r = ingest_look(run->image, ingest);
	if (r && r != -ENOENT)
		return error_trace(r);
	if (!r && ingest->updated_at_ns + INGEST_NS > time_real_ns())
		return 0;
	label_format_time(ingest->updated_at_ns, time);
	snprintf(reason, sizeof(reason),
		 r ? "its file is missing" : "no lease has it, and nothing was written since %s",
		 time);
	garbage.size = ingest->offset;
	r = run->is_dry ? 0 : ingest_drop(run->image, namespace, ingest);
	return r ? error_trace(r) : error_trace(report(run, &garbage));
}

/* ---- snapshots ---- */

/* Of one that is not marked. */
static bool is_stray(struct collect_run *run, const char *scope)
{
	if (run->is_blind)
		return false;
	if (!strcmp(scope, SCOPE_SHARED) || run->knows_containers)
		return true;
	run->has_undecided = true;
	return false;
}

/* What may stay needs what lies below it. */
static int keep_undecided(struct collect_run *run, const char *scope,
			  const struct snapshot_record *record)
{
	if (!strcmp(scope, SCOPE_SHARED))
		return 0;
	return error_trace(
		reference_snapshot(&run->references, scope, record->snapshotter, record->key));
}

int sweep_find_snapshot(struct collect_run *run, const struct store_key *key, void *data)
{
	const struct snapshot_record *record = data;
	const char *scope = store_key_part(key, 0);
	struct stray *strays, *stray;
	int r;

	if (references_have_snapshot(&run->references, scope, record))
		return 0;
	if (!is_stray(run, scope))
		return error_trace(keep_undecided(run, scope, record));
	strays = reallocarray(run->strays, run->n_strays + 1, sizeof(*strays));
	if (!strays)
		return error_origin(-ENOMEM);
	run->strays = strays;
	stray = &strays[run->n_strays];
	*stray = (struct stray){.scope = strdup(scope)};
	if (!stray->scope)
		return error_origin(-ENOMEM);
	r = snapshot_record_copy(record, &stray->record);
	if (r) {
		free(stray->scope);
		return error_trace(r);
	}
	run->n_strays++;
	return 0;
}

static int compare_names(const void *first, const void *second)
{
	const struct stray *a = first, *b = second;
	int order = strcmp(a->record.snapshotter, b->record.snapshotter);

	return order ?: strcmp(a->record.key, b->record.key);
}

static int compare_depths(const void *first, const void *second)
{
	const struct stray *a = first, *b = second;

	/* Taken from the end: the deepest last. */
	return a->depth < b->depth ? -1 : a->depth > b->depth;
}

static const struct stray *find_parent(const struct collect_run *run, const struct stray *stray)
{
	struct stray wanted = {
		.record = {.key = stray->record.parent, .snapshotter = stray->record.snapshotter}};

	if (!stray->record.parent)
		return NULL;
	return bsearch(&wanted, run->strays, run->n_strays, sizeof(wanted), compare_names);
}

/* A child has a greater depth than its parent. */
static void sort_strays(struct collect_run *run)
{
	run->is_sorted = true;
	if (!run->n_strays)
		return;
	qsort(run->strays, run->n_strays, sizeof(*run->strays), compare_names);
	for (size_t i = 0; i < run->n_strays; i++) {
		const struct stray *at = &run->strays[i];

		while (run->strays[i].depth < SNAPSHOT_DEPTH_MAX && (at = find_parent(run, at)))
			run->strays[i].depth++;
	}
	qsort(run->strays, run->n_strays, sizeof(*run->strays), compare_depths);
}

static int remove_stray(struct collect_run *run, const struct stray *stray)
{
	bool is_layer = !strcmp(stray->scope, SCOPE_SHARED);
	struct image_garbage garbage = {
		.kind = GARBAGE_SNAPSHOT,
		.namespace = is_layer ? NULL : stray->scope,
		.id = stray->record.key,
		.snapshotter = stray->record.snapshotter,
		.size = stray->record.size,
		.reason = (char *)(is_layer ? "no image, snapshot, lease or label needs this layer"
					    : "no container, snapshot, lease or label has it"),
	};
	struct store_key key;
	int r;

	r = store_key(&key, stray->scope, stray->record.snapshotter, stray->record.key, NULL);
	if (!r && !run->is_dry)
		r = snapshot_forget(run->image, &key, is_layer ? "" : stray->scope, &stray->record);
	if (r == STORE_E_NOT_FOUND)
		return 0;
	return r ? error_trace(r) : error_trace(report(run, &garbage));
}

/* One that was removed and made again meanwhile is marked, since it was put. */
int sweep_snapshot(struct collect_run *run, bool *ret_is_last)
{
	struct stray *stray;
	int r;

	if (!run->is_sorted)
		sort_strays(run);
	*ret_is_last = !run->n_strays;
	if (!run->n_strays)
		return 0;
	stray = &run->strays[run->n_strays - 1];
	r = run->is_blind ||
			    references_have_snapshot(&run->references, stray->scope, &stray->record)
		    ? 0
		    : remove_stray(run, stray);
	if (r)
		return error_trace(r);
	free(stray->scope);
	snapshot_record_clear(&stray->record);
	run->n_strays--;
	return 0;
}

/* ---- blobs ---- */

int sweep_blob(struct collect_run *run, const struct store_key *key, void *data)
{
	const struct content_record *record = data;
	struct image_garbage garbage = {
		.kind = GARBAGE_CONTENT,
		.id = record->digest,
		.size = record->size,
		.reason = (char *)"no image, lease or label leads to it",
	};
	int r;

	(void)key;
	if (run->is_blind || set_has(&run->references.digests, record->digest))
		return 0;
	r = run->is_dry ? 0 : content_remove(run->image, record->digest);
	return r ? error_trace(r) : error_trace(report(run, &garbage));
}
