/* One run of the collection: its phases, a record at a time. */

#include <string.h>

#include "broker/lib/file.h"
#include "services/image/collect_private.h"
#include "services/image/ingest.h"
#include "services/image/labels.h"
#include "services/image/lease.h"

#define STOPPED 900 /* of a walk: one record was visited */

static int add_name(struct set *set, const char *namespace, const char *id)
{
	_cleanup_(cleanup_free) char *name = text_format("%s/%s", namespace, id);

	return name ? error_trace(set_add(set, name)) : error_origin(-ENOMEM);
}

static bool has_name(const struct set *set, const char *namespace, const char *id)
{
	_cleanup_(cleanup_free) char *name = text_format("%s/%s", namespace, id);

	return name && set_has(set, name);
}

/* ---- roots ---- */

int collect_add_container(struct collect_run *run, const struct container_root *root)
{
	bool has_snapshot = root->snapshot_key && root->snapshot_key[0] && root->snapshotter;
	int r = reference_labels(&run->references, root->namespace, &root->labels);

	if (!r)
		r = reference_container(&run->references, root->namespace, root->id);
	if (r || !has_snapshot)
		return error_trace(r);
	r = add_name(&run->used, root->namespace, root->snapshot_key);
	return r ? error_trace(r)
		 : error_trace(reference_snapshot(&run->references, root->namespace,
						  root->snapshotter, root->snapshot_key));
}

/* One that has expired is no root, but something may refer to it: a container, too. */
static int mark_image(struct collect_run *run, const struct store_key *key, void *data)
{
	const struct image_record *record = data;
	const char *namespace = store_key_part(key, 0);
	uint64_t end = label_expiry(&record->labels);

	if (end <= time_real_ns() && run->knows_containers)
		return error_trace(reference_back(&run->references, namespace, NULL, record->name,
						  &record->labels, true));
	collect_expires(run->image, end);
	return error_trace(reference_image_record(&run->references, namespace, record));
}

static int mark_lease(struct collect_run *run, const struct store_key *key, void *data)
{
	const struct lease_record *record = data;
	const char *namespace = store_key_part(key, 0);
	uint64_t end = label_expiry(&record->labels);

	if (end <= time_real_ns() ||
	    (record->until_used && has_name(&run->used, namespace, record->id)))
		return error_trace(add_name(&run->ended, namespace, record->id));
	collect_expires(run->image, end);
	return schema_map_get(&record->labels, LABEL_FLAT)
		       ? error_trace(add_name(&run->flat, namespace, record->id))
		       : 0;
}

static int mark_resource(struct collect_run *run, const struct store_key *key, void *data)
{
	const char *namespace = store_key_part(key, 0), *id = store_key_part(key, 1);

	if (has_name(&run->ended, namespace, id))
		return 0;
	return error_trace(reference_leased(&run->references, namespace, data,
					    has_name(&run->flat, namespace, id)));
}

static int mark_snapshot(struct collect_run *run, const struct store_key *key, void *data)
{
	const struct snapshot_record *record = data;
	const char *scope = store_key_part(key, 0);
	uint64_t end;

	if (!label_is_root(&record->labels, time_real_ns(), &end))
		return error_trace(reference_back(&run->references, scope, record->snapshotter,
						  record->key, &record->labels,
						  run->knows_containers));
	collect_expires(run->image, end);
	return error_trace(
		reference_snapshot(&run->references, scope, record->snapshotter, record->key));
}

static int mark_blob(struct collect_run *run, const struct store_key *key, void *data)
{
	const struct content_record *record = data;
	uint64_t end;

	(void)key;
	if (!label_is_root(&record->labels, time_real_ns(), &end))
		return error_trace(reference_back(&run->references, NULL, NULL, record->digest,
						  &record->labels, run->knows_containers));
	collect_expires(run->image, end);
	return error_trace(reference_blob(&run->references, record->digest, REFERENCE_DOCUMENT));
}

/* What it shall become is there already, perhaps. */
static int mark_ingest(struct collect_run *run, const struct store_key *key, void *data)
{
	struct content_ingest *ingest = data;

	(void)key;
	if (ingest_look(run->image, ingest) || ingest->updated_at_ns + INGEST_NS <= time_real_ns())
		return 0;
	collect_expires(run->image, ingest->updated_at_ns + INGEST_NS);
	return ingest->expected ? error_trace(reference_blob(&run->references, ingest->expected,
							     REFERENCE_BLOB))
				: 0;
}

/* ---- what is put meanwhile ---- */

static int note_put(struct collect_run *run, const char *table, const struct store_key *key,
		    const void *data)
{
	const char *namespace = store_key_part(key, 0);

	if (!strcmp(table, TABLE_IMAGES))
		return error_trace(reference_image_record(&run->references, namespace, data));
	if (!strcmp(table, TABLE_LEASE_RESOURCES))
		return error_trace(reference_leased(&run->references, namespace, data, false));
	if (!strcmp(table, TABLE_SNAPSHOTS)) {
		const struct snapshot_record *record = data;

		return error_trace(reference_snapshot(&run->references, namespace,
						      record->snapshotter, record->key));
	}
	if (!strcmp(table, TABLE_BLOBS))
		return error_trace(reference_blob(&run->references,
						  ((const struct content_record *)data)->digest,
						  REFERENCE_DOCUMENT));
	if (!strcmp(table, TABLE_INGESTS)) {
		const struct content_ingest *ingest = data;

		return ingest->expected
			       ? error_trace(reference_blob(&run->references, ingest->expected,
							    REFERENCE_BLOB))
			       : 0;
	}
	return 0;
}

void collect_note_put(void *userdata, const char *table, const struct store_key *key,
		      const void *record)
{
	struct collect_run *run = userdata;

	if (!run->failure && !run->image->is_marking_synced)
		run->failure = note_put(run, table, key, record);
}

/* ---- phases ---- */

typedef int (*visit_fn)(struct collect_run *run, const struct store_key *key, void *data);

static const struct phase {
	const char *table; /* NULL: the snapshots that were found */
	const struct schema_message *(*schema)(void);
	visit_fn visit;
} phases[] = {
	{TABLE_LEASES, schema_lease_record, mark_lease},
	{TABLE_LEASE_RESOURCES, schema_lease_resource, mark_resource},
	{TABLE_IMAGES, schema_image_record, mark_image},
	{TABLE_SNAPSHOTS, schema_snapshot_record, mark_snapshot},
	{TABLE_BLOBS, schema_content_record, mark_blob},
	{TABLE_INGESTS, schema_content_ingest, mark_ingest},
	{TABLE_LEASES, schema_lease_record, sweep_lease},
	{TABLE_INGESTS, schema_content_ingest, sweep_ingest},
	{TABLE_IMAGES, schema_image_record, sweep_image},
	{TABLE_SNAPSHOTS, schema_snapshot_record, sweep_find_snapshot},
	{NULL, NULL, NULL},
	{TABLE_BLOBS, schema_content_record, sweep_blob},
};

struct visit {
	struct collect_run *run;
	visit_fn fn;
};

static int visit_record(void *userdata, const struct store_key *key, void *data)
{
	struct visit *visit = userdata;
	struct collect_run *run = visit->run;
	int r;

	if (run->has_place && key->size == run->place.size &&
	    !memcmp(key->data, run->place.data, key->size))
		return 0;
	r = visit->fn(run, key, data);
	if (r)
		return error_trace(r);
	run->place = *key;
	run->has_place = true;
	return STOPPED;
}

/* Damage is met by reading: what was not known to be blind before a phase may be so at its end. */
static void look_for_damage(struct collect_run *run)
{
	static const char *const tables[] = {TABLE_IMAGES, TABLE_LEASES, TABLE_LEASE_RESOURCES,
					     TABLE_BLOBS, TABLE_SNAPSHOTS};

	for (size_t i = 0; i < ARRAY_SIZE(tables); i++)
		run->is_blind = run->is_blind || store_is_damaged(run->image->store, tables[i]);
}

/* One record more, or the next phase. */
static int visit_next(struct collect_run *run)
{
	const struct phase *phase = &phases[run->phase];
	struct visit visit = {run, phase->visit};
	bool is_last = false;
	int r;

	if (phase->table) {
		r = store_walk(run->image->store, phase->table, NULL,
			       run->has_place ? &run->place : NULL, phase->schema(), visit_record,
			       &visit);
		is_last = !r;
		r = r == STOPPED ? 0 : r;
	} else {
		r = sweep_snapshot(run, &is_last);
	}
	if (!r && is_last) {
		look_for_damage(run);
		run->has_place = false;
		run->phase++;
		run->is_done = run->phase == ARRAY_SIZE(phases);
	}
	return error_trace(r);
}

/* What work under way needs is in memory only. */
static int mark_work(struct collect_run *run)
{
	look_for_damage(run);
	return error_trace(unpack_references(run->image, &run->references));
}

/* Nothing is removed while something is grey. */
int collect_run_step(struct collect_run *run, uint64_t end_ns)
{
	int r = mark_work(run);

	run->n_removed = 0;
	while (!r && !run->is_done) {
		bool was_grey;

		r = run->failure ?: references_follow(&run->references, &was_grey);
		if (!r && !was_grey)
			r = visit_next(run);
		if (time_boot_ns() >= end_ns || run->n_removed >= COLLECT_REMOVALS)
			break;
	}
	return error_trace(r);
}

void collect_run_clear(struct collect_run *run)
{
	references_clear(&run->references);
	set_clear(&run->ended);
	set_clear(&run->flat);
	set_clear(&run->used);
	for (size_t i = 0; i < run->n_strays; i++) {
		free(run->strays[i].scope);
		snapshot_record_clear(&run->strays[i].record);
	}
	free(run->strays);
	image_collect_reply_clear(&run->report);
}
