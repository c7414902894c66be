/* What is still needed, and the removal of the rest. */

#include <string.h>

#include "broker/lib/log.h"
#include "services/image/labels.h"
#include "services/image/lease.h"

#define NESTING_MAX    4
#define CLOCK_CHECK_MS 3600000

void references_clear(struct references *references)
{
	set_clear(&references->digests);
	set_clear(&references->chains);
}

/* ---- marking ---- */

struct marking {
	struct image_service *image;
	struct references *references;
	const char *namespace; /* NULL: all */
};

static int mark_document(struct marking *marking, const struct descriptor *descriptor,
			 unsigned depth);

static int mark_config(struct marking *marking, const char *digest)
{
	_cleanup_(document_config_clear) struct document_config config = {};
	_cleanup_(cleanup_free) char *text = NULL;
	char chain[DIGEST_SIZE] = "";
	size_t size;
	int r;

	if (content_load(marking->image, digest, &text, &size, NULL) ||
	    document_parse_config(text, size, &config, NULL))
		return 0;
	for (size_t i = 0; i < config.diff_ids.count; i++) {
		chain_id(chain, config.diff_ids.items[i], chain);
		r = set_add(&marking->references->chains, chain);
		if (r)
			return error_trace(r);
	}
	return 0;
}

static int mark_manifest(struct marking *marking, const struct document_manifest *manifest)
{
	struct set *digests = &marking->references->digests;
	int r;

	r = set_add(digests, manifest->config.digest);
	for (size_t i = 0; i < manifest->layers.count && !r; i++)
		r = set_add(digests, manifest->layers.items[i].digest);
	if (!r)
		r = mark_config(marking, manifest->config.digest);
	return error_trace(r);
}

static int mark_index(struct marking *marking, const struct document_index *index, unsigned depth)
{
	int r = 0;

	for (size_t i = 0; i < index->count && !r; i++) {
		if (content_has(marking->image, index->items[i].descriptor.digest))
			r = mark_document(marking, &index->items[i].descriptor, depth + 1);
	}
	return error_trace(r);
}

/* A document that cannot be read leads nowhere; whoever needs what it led to is told then. */
static int mark_document(struct marking *marking, const struct descriptor *descriptor,
			 unsigned depth)
{
	_cleanup_(document_manifest_clear) struct document_manifest manifest = {};
	_cleanup_(document_index_clear) struct document_index index = {};
	_cleanup_(cleanup_free) char *text = NULL;
	size_t size;
	int r;

	r = set_add(&marking->references->digests, descriptor->digest);
	if (r)
		return error_trace(r);
	if (depth > NESTING_MAX ||
	    content_load(marking->image, descriptor->digest, &text, &size, NULL))
		return 0;
	if (!document_parse_manifest(text, size, NULL, &manifest, NULL))
		return error_trace(mark_manifest(marking, &manifest));
	if (!document_parse_index(text, size, NULL, &index, NULL))
		return error_trace(mark_index(marking, &index, depth));
	return 0;
}

static int mark_image(void *userdata, const struct store_key *key, void *data)
{
	const struct image_record *record = data;

	(void)key;
	return error_trace(mark_document(userdata, record->target, 0));
}

/* A container's snapshot needs all layers below it. */
static int mark_chain(struct marking *marking, const char *snapshotter, const char *chain)
{
	_cleanup_(cleanup_free) char *next = strdup(chain);
	int r;

	for (unsigned i = 0; next && next[0] && i < SNAPSHOT_DEPTH_MAX; i++) {
		_cleanup_(snapshot_record_clear) struct snapshot_record record = {};

		r = set_add(&marking->references->chains, next);
		if (r)
			return error_trace(r);
		r = snapshot_get(marking->image, SCOPE_SHARED, snapshotter, next, &record);
		if (r && r != STORE_E_NOT_FOUND && r != STORE_E_DAMAGED)
			return error_trace(r);
		free(next);
		next = TAKE(record.parent);
	}
	return 0;
}

static int mark_snapshot(void *userdata, const struct store_key *key, void *data)
{
	const struct snapshot_record *record = data;
	const char *scope = store_key_part(key, 0);

	if (!scope || !strcmp(scope, SCOPE_SHARED) || !record->parent)
		return 0;
	return error_trace(mark_chain(userdata, record->snapshotter, record->parent));
}

/* ---- leases ---- */

static int mark_leased(struct marking *marking, const struct lease_resource *resource, bool is_flat)
{
	struct descriptor descriptor = {.digest = resource->id};

	if (!strcmp(resource->type, LEASE_CONTENT))
		return is_flat ? error_trace(set_add(&marking->references->digests, resource->id))
			       : error_trace(mark_document(marking, &descriptor, 0));
	if (!strncmp(resource->type, LEASE_SNAPSHOTS, strlen(LEASE_SNAPSHOTS)))
		return error_trace(mark_chain(marking, resource->type + strlen(LEASE_SNAPSHOTS),
					      resource->id));
	return 0;
}

static int mark_resource(void *userdata, const struct store_key *key, void *data)
{
	_cleanup_(lease_record_clear) struct lease_record lease = {};
	struct marking *marking = userdata;
	struct store_key lease_key;
	int r;

	r = store_key(&lease_key, store_key_part(key, 0), store_key_part(key, 1), NULL);
	if (!r)
		r = store_get(marking->image->store, TABLE_LEASES, &lease_key,
			      schema_lease_record(), &lease);
	if (r == STORE_E_NOT_FOUND)
		return 0;
	if (r || label_expiry(&lease.labels) <= time_real_ns())
		return error_trace(r);
	return error_trace(
		mark_leased(marking, data, schema_map_get(&lease.labels, LABEL_FLAT) != NULL));
}

static int walk(struct marking *marking, const char *table, const struct schema_message *schema,
		store_walk_fn fn)
{
	struct store_key prefix;
	int r;

	if (!marking->namespace)
		return store_walk(marking->image->store, table, NULL, NULL, schema, fn, marking);
	r = store_key(&prefix, marking->namespace, "", NULL);
	if (r)
		return error_trace(r);
	return store_walk(marking->image->store, table, &prefix, NULL, schema, fn, marking);
}

int references_find(struct image_service *image, const char *namespace,
		    struct references *ret_references)
{
	struct marking marking = {
		.image = image, .references = ret_references, .namespace = namespace};
	int r;

	r = walk(&marking, TABLE_IMAGES, schema_image_record(), mark_image);
	if (!r)
		r = walk(&marking, TABLE_SNAPSHOTS, schema_snapshot_record(), mark_snapshot);
	if (!r)
		r = walk(&marking, TABLE_LEASE_RESOURCES, schema_lease_resource(), mark_resource);
	if (!r && !namespace)
		r = unpack_references(image, ret_references);
	return r;
}

/* ---- removing ---- */

struct sweep {
	struct image_service *image;
	struct references references;
	struct schema_strs blobs; /* digests to forget */
	struct {
		struct snapshot_record *items;
		size_t count;
	} layers;
};

static int find_blob(void *userdata, const struct store_key *key, void *data)
{
	const struct content_record *record = data;
	struct sweep *sweep = userdata;

	(void)key;
	if (set_has(&sweep->references.digests, record->digest))
		return 0;
	return error_trace(schema_strs_add(&sweep->blobs, record->digest));
}

static int find_layer(void *userdata, const struct store_key *key, void *data)
{
	const struct snapshot_record *record = data;
	struct sweep *sweep = userdata;
	struct snapshot_record *item;

	(void)key;
	if (set_has(&sweep->references.chains, record->key))
		return 0;
	item = schema_list_add(&sweep->layers);
	if (!item)
		return error_origin(-ENOMEM);
	return error_trace(snapshot_record_copy(record, item));
}

static bool has_child(const struct sweep *sweep, const struct snapshot_record *layer)
{
	for (size_t i = 0; i < sweep->layers.count; i++) {
		const struct snapshot_record *other = &sweep->layers.items[i];

		if (other->parent && !strcmp(other->parent, layer->key) &&
		    !strcmp(other->snapshotter, layer->snapshotter))
			return true;
	}
	return false;
}

static int remove_layer(struct sweep *sweep, size_t i)
{
	struct snapshot_record *layer = &sweep->layers.items[i];
	struct store_key key;
	int r;

	r = store_key(&key, SCOPE_SHARED, layer->snapshotter, layer->key, NULL);
	if (!r)
		r = snapshot_forget(sweep->image, &key, "", layer);
	snapshot_record_clear(layer);
	*layer = sweep->layers.items[--sweep->layers.count];
	return error_trace(r);
}

/* What nothing lies on goes first. */
static int remove_layers(struct sweep *sweep)
{
	bool is_moving = true;
	int r = 0;

	while (sweep->layers.count && is_moving && !r) {
		is_moving = false;
		for (size_t i = 0; i < sweep->layers.count && !r; i++) {
			if (has_child(sweep, &sweep->layers.items[i]))
				continue;
			r = remove_layer(sweep, i);
			is_moving = true;
		}
	}
	return error_trace(r);
}

static void sweep_clear(struct sweep *sweep)
{
	references_clear(&sweep->references);
	schema_strs_clear(&sweep->blobs);
	for (size_t i = 0; i < sweep->layers.count; i++)
		snapshot_record_clear(&sweep->layers.items[i]);
	free(sweep->layers.items);
}

/* ---- what ends by itself ---- */

static int end_expired(void *userdata, const struct store_key *key, void *data)
{
	struct image_service *image = userdata;
	const struct lease_record *record = data;
	const struct event_lease event = {.id = record->id};
	const char *namespace = store_key_part(key, 0);
	uint64_t end = label_expiry(&record->labels);
	int r;

	if (end > time_real_ns()) {
		collect_expires(image, end);
		return 0;
	}
	r = lease_drop(image, namespace, record->id);
	return r ? error_trace(r)
		 : error_trace(service_emit(image->service, namespace,
					    schema_find_event("/leases/delete"), record->id,
					    &event));
}

static int collect_expired(void *userdata)
{
	return error_trace(collect(userdata));
}

static void expired(struct loop_timer *timer)
{
	struct image_service *image = container_of(timer, struct image_service, expiry_timer);

	image->expires_ns = UINT64_MAX;
	if (service_transact(image->service, collect_expired, image))
		log_warning("collect=failed");
}

/* The wall clock may be set: it is looked at again each hour. */
void collect_expires(struct image_service *image, uint64_t ns)
{
	uint64_t now = time_real_ns(), wait;

	if (ns >= image->expires_ns)
		return;
	image->expires_ns = ns;
	wait = ns > now ? (ns - now) / 1000000 + 1 : 0;
	loop_timer_set(service_loop(image->service), &image->expiry_timer,
		       time_boot_ms() + (wait < CLOCK_CHECK_MS ? wait : CLOCK_CHECK_MS), expired);
}

void collect_close(struct image_service *image)
{
	loop_timer_cancel(&image->expiry_timer);
}

int collect(struct image_service *image)
{
	_cleanup_(sweep_clear) struct sweep sweep = {.image = image};
	struct store_key prefix;
	int r;

	r = store_walk(image->store, TABLE_LEASES, NULL, NULL, schema_lease_record(), end_expired,
		       image);
	if (!r)
		r = references_find(image, NULL, &sweep.references);
	if (!r)
		r = store_walk(image->store, TABLE_BLOBS, NULL, NULL, schema_content_record(),
			       find_blob, &sweep);
	if (!r)
		r = store_key(&prefix, SCOPE_SHARED, "", NULL);
	if (!r)
		r = store_walk(image->store, TABLE_SNAPSHOTS, &prefix, NULL,
			       schema_snapshot_record(), find_layer, &sweep);
	for (size_t i = 0; i < sweep.blobs.count && !r; i++)
		r = content_remove(image, sweep.blobs.items[i]);
	if (!r)
		r = remove_layers(&sweep);
	return r;
}
