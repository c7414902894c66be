/* Marking: see references.h. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/lib/file.h"
#include "broker/lib/log.h"
#include "schemas/check.h"
#include "services/image/labels.h"
#include "services/image/lease.h"
#include "services/image/references.h"

#define SCOPE_ANY "?" /* of a label of shared content: whichever namespace */

struct grey {
	struct grey *next;
	enum grey_kind { GREY_BLOB, GREY_SNAPSHOT, GREY_IMAGE } what;
	enum reference_kind kind;
	char *scope, *snapshotter; /* of a snapshot; an image's namespace */
	char *name;                /* digest, key or name */
};

/* An object that lives while another one does. */
struct back {
	char *target;                     /* content/<digest>, snapshot/<scope>/<snapshotter>/<key>,
					     image/<namespace>/<name>, container/<namespace>/<id> */
	char *scope, *snapshotter, *name; /* the object, as of reference_back() */
};

static void grey_free(struct grey *grey)
{
	free(grey->scope);
	free(grey->snapshotter);
	free(grey->name);
	free(grey);
}

static void back_clear(struct back *back)
{
	free(back->target);
	free(back->scope);
	free(back->snapshotter);
	free(back->name);
}

void references_clear(struct references *references)
{
	set_clear(&references->digests);
	set_clear(&references->chains);
	set_clear(&references->snapshots);
	set_clear(&references->ingests);
	set_clear(&references->images);
	set_clear(&references->flat_snapshots);
	set_clear(&references->flat_images);
	set_clear(&references->followed);
	set_clear(&references->live);
	set_clear(&references->back_targets);
	for (size_t i = 0; i < references->n_backs; i++)
		back_clear(&references->backs[i]);
	free(references->backs);
	references->backs = NULL;
	references->n_backs = 0;
	while (references->grey) {
		struct grey *grey = references->grey;

		references->grey = grey->next;
		grey_free(grey);
	}
}

/* ---- marking ---- */

static int push_blob(struct references *references, const char *digest, enum reference_kind kind)
{
	struct grey *grey = calloc(1, sizeof(*grey));

	if (!grey || schema_set(&grey->name, digest)) {
		free(grey);
		return error_origin(-ENOMEM);
	}
	grey->kind = kind;
	grey->next = references->grey;
	references->grey = grey;
	return 0;
}

int reference_blob(struct references *references, const char *digest, enum reference_kind kind)
{
	char name[DIGEST_SIZE + 2];
	int r;

	snprintf(name, sizeof(name), "%d%s", (int)kind, digest);
	if (set_has(&references->followed, name))
		return 0;
	r = set_add(&references->digests, digest);
	if (!r)
		r = set_add(&references->followed, name);
	return r ? error_trace(r) : error_trace(push_blob(references, digest, kind));
}

static int push(struct references *references, enum grey_kind what, const char *scope,
		const char *snapshotter, const char *key)
{
	struct grey *grey = calloc(1, sizeof(*grey));
	int r;

	if (!grey)
		return error_origin(-ENOMEM);
	r = schema_set(&grey->scope, scope) ?: schema_set(&grey->snapshotter, snapshotter)
		       ?: schema_set(&grey->name, key);
	if (r) {
		grey_free(grey);
		return error_trace(r);
	}
	grey->what = what;
	grey->next = references->grey;
	references->grey = grey;
	return 0;
}

int reference_snapshot(struct references *references, const char *scope, const char *snapshotter,
		       const char *key)
{
	_cleanup_(cleanup_free) char *name = text_format("%s/%s/%s", scope, snapshotter, key);
	int r;

	if (!name)
		return error_origin(-ENOMEM);
	if (set_has(&references->snapshots, name))
		return 0;
	r = set_add(&references->snapshots, name);
	/* A digest is a layer's key, whoever names it. */
	if (!r && strcmp(scope, SCOPE_SHARED) != 0 && check_digest(key))
		r = reference_snapshot(references, SCOPE_SHARED, snapshotter, key);
	return r ? error_trace(r)
		 : error_trace(push(references, GREY_SNAPSHOT, scope, snapshotter, key));
}

int reference_image(struct references *references, const char *namespace, const char *name)
{
	_cleanup_(cleanup_free) char *text = text_format("%s/%s", namespace, name);
	int r;

	if (!text)
		return error_origin(-ENOMEM);
	if (set_has(&references->images, text))
		return 0;
	r = set_add(&references->images, text);
	return r ? error_trace(r)
		 : error_trace(push(references, GREY_IMAGE, namespace, NULL, name));
}

int reference_labels(struct references *references, const char *namespace,
		     const struct schema_map *labels)
{
	char snapshotter[LABEL_SNAPSHOTTER_SIZE];
	int r = 0;

	for (size_t i = 0; i < labels->count && !r; i++) {
		const struct schema_pair *label = &labels->items[i];

		switch (label_reference(label->key, snapshotter)) {
		case LABEL_CONTENT:
			r = reference_blob(references, label->value, REFERENCE_DOCUMENT);
			break;
		case LABEL_SNAPSHOT:
			r = reference_snapshot(references, namespace, snapshotter, label->value);
			break;
		case LABEL_IMAGE:
			r = reference_image(references, namespace, label->value);
			break;
		case LABEL_CONTAINER:
		case LABEL_NONE:
			break;
		}
	}
	return error_trace(r);
}

static int add_ingest(struct references *references, const char *namespace, const char *ref)
{
	_cleanup_(cleanup_free) char *name = text_format("%s/%s", namespace, ref);

	return name ? error_trace(set_add(&references->ingests, name)) : error_origin(-ENOMEM);
}

static const char *scope_of(const char *namespace, const char *key)
{
	return check_digest(key) ? SCOPE_SHARED : namespace;
}

/* It and all that lie below it. */
static int add_flat_snapshot(struct references *references, const char *namespace,
			     const char *snapshotter, const char *key)
{
	_cleanup_(cleanup_free) char *at = strdup(key);
	int r = at ? 0 : error_origin(-ENOMEM);

	while (!r && at && at[0]) {
		_cleanup_(snapshot_record_clear) struct snapshot_record record = {};
		const char *scope = scope_of(namespace, at);
		_cleanup_(cleanup_free) char *name = text_format("%s/%s/%s", scope, snapshotter,
								 at);

		if (name && set_has(&references->flat_snapshots, name))
			return 0;
		r = name ? set_add(&references->flat_snapshots, name) : error_origin(-ENOMEM);
		if (!r)
			r = snapshot_get(references->image, scope, snapshotter, at, &record);
		free(at);
		at = TAKE(record.parent);
	}
	return r == STORE_E_NOT_FOUND || r == STORE_E_DAMAGED ? 0 : error_trace(r);
}

static int get_image(struct references *references, const char *namespace, const char *name,
		     struct image_record *ret_record)
{
	struct store_key key;
	int r = store_key(&key, namespace, name, NULL);

	return r ? error_trace(r)
		 : store_get(references->image->store, TABLE_IMAGES, &key, schema_image_record(),
			     ret_record);
}

/* Not there, damaged, or a name that no image can have. */
static bool is_no_image(int r)
{
	return r > 0 || r == -ENAMETOOLONG;
}

static int add_flat_image(struct references *references, const char *namespace, const char *name)
{
	_cleanup_(image_record_clear) struct image_record record = {};
	_cleanup_(cleanup_free) char *text = text_format("%s/%s", namespace, name);
	int r = text ? set_add(&references->flat_images, text) : error_origin(-ENOMEM);

	if (!r)
		r = get_image(references, namespace, name, &record);
	if (r)
		return is_no_image(r) ? 0 : error_trace(r);
	return error_trace(set_add(&references->digests, record.target->digest));
}

static int add_flat(struct references *references, const char *namespace,
		    const struct lease_resource *resource)
{
	if (!strcmp(resource->type, LEASE_CONTENT))
		return error_trace(set_add(&references->digests, resource->id));
	if (!strcmp(resource->type, LEASE_IMAGES))
		return error_trace(add_flat_image(references, namespace, resource->id));
	if (!strncmp(resource->type, LEASE_SNAPSHOTS, strlen(LEASE_SNAPSHOTS)))
		return error_trace(add_flat_snapshot(references, namespace,
						     resource->type + strlen(LEASE_SNAPSHOTS),
						     resource->id));
	return error_trace(add_ingest(references, namespace, resource->id));
}

int reference_leased(struct references *references, const char *namespace,
		     const struct lease_resource *resource, bool is_flat)
{
	if (is_flat)
		return error_trace(add_flat(references, namespace, resource));
	if (!strcmp(resource->type, LEASE_CONTENT))
		return error_trace(reference_blob(references, resource->id, REFERENCE_DOCUMENT));
	if (!strcmp(resource->type, LEASE_IMAGES))
		return error_trace(reference_image(references, namespace, resource->id));
	if (!strncmp(resource->type, LEASE_SNAPSHOTS, strlen(LEASE_SNAPSHOTS)))
		return error_trace(reference_snapshot(references, namespace,
						      resource->type + strlen(LEASE_SNAPSHOTS),
						      resource->id));
	return error_trace(add_ingest(references, namespace, resource->id));
}

/* ---- back references ---- */

static int reference_holder(struct references *references, const struct back *back)
{
	if (back->snapshotter)
		return error_trace(
			reference_snapshot(references, back->scope, back->snapshotter, back->name));
	if (back->scope)
		return error_trace(reference_image(references, back->scope, back->name));
	return error_trace(reference_blob(references, back->name, REFERENCE_DOCUMENT));
}

/* What is there is live once it is followed. Those that live with it are grey then: no chain of them is gone along here. */
static int become_live(struct references *references, const char *target)
{
	int r = set_add(&references->live, target);

	if (r || !set_has(&references->back_targets, target))
		return error_trace(r);
	for (size_t i = 0; i < references->n_backs && !r; i++) {
		if (!strcmp(references->backs[i].target, target))
			r = reference_holder(references, &references->backs[i]);
	}
	return error_trace(r);
}

/* In its namespace, and for labels of what all namespaces share. */
static int become_live_in(struct references *references, const char *kind, const char *scope,
			  const char *rest)
{
	_cleanup_(cleanup_free) char *own = text_format("%s/%s/%s", kind, scope, rest);
	_cleanup_(cleanup_free) char *any = text_format("%s/" SCOPE_ANY "/%s", kind, rest);
	int r = own && any ? become_live(references, own) : error_origin(-ENOMEM);

	return r ? error_trace(r) : error_trace(become_live(references, any));
}

static int blob_is_live(struct references *references, const char *digest)
{
	char target[DIGEST_SIZE + 16];

	snprintf(target, sizeof(target), "content/%s", digest);
	return error_trace(become_live(references, target));
}

static int snapshot_is_live(struct references *references, const char *scope,
			    const struct snapshot_record *record)
{
	_cleanup_(cleanup_free) char *rest = text_format("%s/%s", record->snapshotter, record->key);

	return rest ? error_trace(become_live_in(references, "snapshot", scope, rest))
		    : error_origin(-ENOMEM);
}

int reference_container(struct references *references, const char *namespace, const char *id)
{
	return error_trace(become_live_in(references, "container", namespace, id));
}

static char *name_target(enum label_reference reference, const char *scope, const char *snapshotter,
			 const char *value)
{
	switch (reference) {
	case LABEL_CONTENT:
		return text_format("content/%s", value);
	case LABEL_SNAPSHOT:
		return text_format("snapshot/%s/%s/%s", scope_of(scope, value), snapshotter, value);
	case LABEL_IMAGE:
		return text_format("image/%s/%s", scope, value);
	case LABEL_CONTAINER:
		return text_format("container/%s/%s", scope, value);
	case LABEL_NONE:
		break;
	}
	return NULL;
}

/* Takes @back. */
static int add_back(struct references *references, struct back *back)
{
	struct back *backs;
	int r = set_add(&references->back_targets, back->target);

	if (r)
		return error_trace(r);
	backs = reallocarray(references->backs, references->n_backs + 1, sizeof(*backs));
	if (!backs)
		return error_origin(-ENOMEM);
	references->backs = backs;
	backs[references->n_backs++] = *back;
	*back = (struct back){};
	return 0;
}

/* Something that other objects may keep. */
struct holder {
	struct references *references;
	const char *scope, *snapshotter, *name; /* as of reference_back() */
	bool knows_containers;

	/* A condition under which a snapshot does. */
	const struct schema_pair *label;
	const char *of, *key;
};

static int keep_with(const struct holder *holder, enum label_reference reference, const char *scope,
		     const char *snapshotter, const char *value)
{
	_cleanup_(back_clear) struct back back = {};
	int r;

	back.target = name_target(reference, scope, snapshotter, value);
	r = back.target ? 0 : error_origin(-ENOMEM);
	if (!r)
		r = schema_set(&back.scope, holder->scope) ?: schema_set(&back.name, holder->name);
	if (!r)
		r = schema_set(&back.snapshotter, holder->snapshotter);
	if (r)
		return error_trace(r);
	return set_has(&holder->references->live, back.target) ||
			       (reference == LABEL_CONTAINER && !holder->knows_containers)
		       ? error_trace(reference_holder(holder->references, &back))
		       : error_trace(add_back(holder->references, &back));
}

static int keep_if(void *userdata, const struct store_key *key, void *data)
{
	const struct snapshot_record *record = data;
	const struct holder *holder = userdata;
	uint64_t end;

	if (strcmp(record->key, holder->key) != 0 || strcmp(record->snapshotter, holder->of) != 0 ||
	    !label_condition_holds(holder->label, &record->labels, time_real_ns(), &end))
		return 0;
	collect_expires(holder->references->image, end);
	return error_trace(
		keep_with(holder, LABEL_SNAPSHOT, store_key_part(key, 0), holder->of, holder->key));
}

/* The label of a blob, which all namespaces share, means snapshots of any of them. */
static int keep_on_condition(struct holder *holder)
{
	struct store *store = holder->references->image->store;
	struct store_key prefix;
	int r;

	if (!holder->scope && !check_digest(holder->key))
		return store_walk(store, TABLE_SNAPSHOTS, NULL, NULL, schema_snapshot_record(),
				  keep_if, holder);
	r = store_key(&prefix, scope_of(holder->scope, holder->key), holder->of, holder->key, NULL);
	if (r) /* no snapshot has such a key */
		return r == -ENAMETOOLONG ? 0 : error_trace(r);
	return store_walk(store, TABLE_SNAPSHOTS, &prefix, NULL, schema_snapshot_record(), keep_if,
			  holder);
}

int reference_back(struct references *references, const char *scope, const char *snapshotter,
		   const char *name, const struct schema_map *labels, bool knows_containers)
{
	struct holder holder = {.references = references,
				.scope = scope,
				.snapshotter = snapshotter,
				.name = name,
				.knows_containers = knows_containers};
	bool is_shared = !scope || !strcmp(scope, SCOPE_SHARED);
	char of[LABEL_SNAPSHOTTER_SIZE];
	int r = 0;

	holder.of = of;
	for (size_t i = 0; i < labels->count && !r; i++) {
		const struct schema_pair *label = &labels->items[i];
		enum label_reference reference = label_back_reference(label->key, of);

		holder.label = label;
		if (reference != LABEL_NONE)
			r = keep_with(&holder, reference, is_shared ? SCOPE_ANY : scope, of,
				      label->value);
		else if (!snapshotter && (holder.key = label_condition(label, of)))
			r = keep_on_condition(&holder);
	}
	return error_trace(r);
}

/* ---- following: a document that cannot be read leads nowhere; whoever needs what it led to is told then ---- */

#define EDGES_SLOTS 16384 /* a power of two */
#define EDGES_BYTES (4u << 20)

/* Of a document: digests of blobs, each with the kind that it is there; of a config: chain ids. */
struct edges {
	char digest[DIGEST_SIZE];
	enum reference_kind kind; /* as what it was read */
	size_t count;
	struct edge {
		char target[DIGEST_SIZE];
		enum reference_kind kind;
	} items[];
};

struct edge_cache {
	struct edges *slots[EDGES_SLOTS];
	size_t size; /* of them, in bytes */
};

static size_t edges_size(const struct edges *edges)
{
	return sizeof(*edges) + edges->count * sizeof(edges->items[0]);
}

static void edges_drop(struct edge_cache *cache, struct edges **slot)
{
	if (!*slot)
		return;
	cache->size -= edges_size(*slot);
	free(*slot);
	*slot = NULL;
}

static struct edges **edges_slot(struct edge_cache *cache, const char *digest)
{
	char hex[9] = {};

	memcpy(hex, digest + strlen("sha256:"), 8);
	return &cache->slots[strtoul(hex, NULL, 16) & (EDGES_SLOTS - 1)];
}

void references_forget_blob(struct image_service *image, const char *digest)
{
	struct edges **slot = image->edges ? edges_slot(image->edges, digest) : NULL;

	if (slot && *slot && !strcmp((*slot)->digest, digest))
		edges_drop(image->edges, slot);
}

void references_close(struct image_service *image)
{
	for (size_t i = 0; image->edges && i < EDGES_SLOTS; i++)
		free(image->edges->slots[i]);
	free(image->edges);
	image->edges = NULL;
}

static struct edges *edges_new(const char *digest, enum reference_kind kind, size_t count)
{
	struct edges *edges = calloc(1, sizeof(*edges) + count * sizeof(edges->items[0]));

	if (!edges)
		return NULL;
	memcpy(edges->digest, digest, DIGEST_SIZE);
	edges->kind = kind;
	return edges;
}

static void edges_add(struct edges *edges, const char *target, enum reference_kind kind)
{
	struct edge *edge = &edges->items[edges->count++];

	snprintf(edge->target, sizeof(edge->target), "%s", target);
	edge->kind = kind;
}

/* What is no config leads nowhere. */
static int read_config(const char *digest, const char *text, size_t size, struct edges **ret_edges)
{
	_cleanup_(document_config_clear) struct document_config config = {};
	struct edges *edges;
	char chain[DIGEST_SIZE] = "";
	int r = document_parse_config(text, size, &config, NULL);

	if (r < 0)
		return error_trace(r);
	edges = edges_new(digest, REFERENCE_CONFIG, r ? 0 : config.diff_ids.count);
	if (!edges)
		return error_origin(-ENOMEM);
	for (size_t i = 0; !r && i < config.diff_ids.count; i++) {
		chain_id(chain, config.diff_ids.items[i], chain);
		edges_add(edges, chain, REFERENCE_BLOB);
	}
	*ret_edges = edges;
	return 0;
}

static struct edges *manifest_edges(const char *digest, const struct document_manifest *manifest)
{
	struct edges *edges = edges_new(digest, REFERENCE_DOCUMENT, 1 + manifest->layers.count);

	if (!edges)
		return NULL;
	edges_add(edges, manifest->config.digest, REFERENCE_CONFIG);
	for (size_t i = 0; i < manifest->layers.count; i++)
		edges_add(edges, manifest->layers.items[i].digest, REFERENCE_BLOB);
	return edges;
}

static struct edges *index_edges(const char *digest, const struct document_index *index)
{
	struct edges *edges = edges_new(digest, REFERENCE_DOCUMENT, index->count);

	for (size_t i = 0; edges && i < index->count; i++)
		edges_add(edges, index->items[i].descriptor.digest, REFERENCE_DOCUMENT);
	return edges;
}

/* What is neither manifest nor index leads nowhere; for want of memory it is not known what it is. */
static int read_document(const char *digest, const char *text, size_t size,
			 struct edges **ret_edges)
{
	_cleanup_(document_manifest_clear) struct document_manifest manifest = {};
	_cleanup_(document_index_clear) struct document_index index = {};
	struct edges *edges;
	int r = document_parse_manifest(text, size, NULL, &manifest, NULL);

	if (!r) {
		edges = manifest_edges(digest, &manifest);
	} else {
		if (r > 0)
			r = document_parse_index(text, size, NULL, &index, NULL);
		if (r < 0)
			return error_trace(r);
		edges = r ? edges_new(digest, REFERENCE_DOCUMENT, 0) : index_edges(digest, &index);
	}
	if (!edges)
		return error_origin(-ENOMEM);
	*ret_edges = edges;
	return 0;
}

static int add_layer(struct references *references, const char *chain)
{
	static const char *const snapshotters[] = {SNAPSHOTTER_OVERLAY, SNAPSHOTTER_NATIVE};
	int r = set_add(&references->chains, chain);

	for (size_t i = 0; i < ARRAY_SIZE(snapshotters) && !r; i++) {
		if (snapshot_has_layer(references->image, snapshotters[i], chain))
			r = reference_snapshot(references, SCOPE_SHARED, snapshotters[i], chain);
	}
	return error_trace(r);
}

static int follow_edges(struct references *references, const struct edges *edges)
{
	int r = 0;

	for (size_t i = 0; i < edges->count && !r; i++) {
		const struct edge *edge = &edges->items[i];

		r = edges->kind == REFERENCE_CONFIG
			    ? add_layer(references, edge->target)
			    : reference_blob(references, edge->target, edge->kind);
	}
	return error_trace(r);
}

/* Takes the place of what was there, if there is room. */
static void keep_edges(struct image_service *image, struct edges *edges)
{
	struct edges **slot;

	if (!image->edges)
		image->edges = calloc(1, sizeof(*image->edges));
	slot = image->edges ? edges_slot(image->edges, edges->digest) : NULL;
	if (slot)
		edges_drop(image->edges, slot);
	if (!slot || image->edges->size + edges_size(edges) > EDGES_BYTES) {
		free(edges);
		return;
	}
	image->edges->size += edges_size(edges);
	*slot = edges;
}

static int follow_document(struct references *references, const char *digest,
			   enum reference_kind kind)
{
	struct image_service *image = references->image;
	struct edges *edges = image->edges ? *edges_slot(image->edges, digest) : NULL;
	_cleanup_(cleanup_free) char *text = NULL;
	size_t size;
	int r;

	if (edges && !strcmp(edges->digest, digest) && edges->kind == kind)
		return error_trace(follow_edges(references, edges));
	/* One that is lost or damaged has none; one that cannot be read just now may have some. */
	r = content_load(image, digest, &text, &size, NULL);
	if (r < 0)
		log_warning("blob=%s unreadable=\"%s\": nothing is collected as long as it is so",
			    digest, strerror(-r));
	if (r)
		return r >= REFUSED ? 0 : error_trace(r);
	r = kind == REFERENCE_CONFIG ? read_config(digest, text, size, &edges)
				     : read_document(digest, text, size, &edges);
	if (r)
		return error_trace(r);
	r = follow_edges(references, edges);
	keep_edges(image, edges);
	return error_trace(r);
}

static int follow_blob(struct references *references, const char *digest, enum reference_kind kind)
{
	_cleanup_(content_record_clear) struct content_record record = {};
	int r;

	r = content_get(references->image, digest, &record, NULL);
	if (r)
		return r >= REFUSED || r == STORE_E_DAMAGED ? 0 : error_trace(r);
	r = blob_is_live(references, digest);
	if (!r)
		r = reference_labels(references, SCOPE_ANY, &record.labels);
	if (r || kind == REFERENCE_BLOB || record.size > DOCUMENT_SIZE_MAX)
		return error_trace(r);
	return error_trace(follow_document(references, digest, kind));
}

struct search {
	struct references *references;
	const struct grey *grey;
};

static int find_anywhere(void *userdata, const struct store_key *key, void *data)
{
	const struct snapshot_record *record = data;
	const struct search *search = userdata;

	if (strcmp(record->key, search->grey->name) != 0 ||
	    strcmp(record->snapshotter, search->grey->snapshotter) != 0)
		return 0;
	return error_trace(reference_snapshot(search->references, store_key_part(key, 0),
					      record->snapshotter, record->key));
}

/* Its parent is a layer, or another one of the same namespace. */
static int follow_snapshot(struct references *references, const struct grey *grey)
{
	_cleanup_(snapshot_record_clear) struct snapshot_record record = {};
	struct search search = {references, grey};
	int r;

	if (!strcmp(grey->scope, SCOPE_ANY))
		return store_walk(references->image->store, TABLE_SNAPSHOTS, NULL, NULL,
				  schema_snapshot_record(), find_anywhere, &search);
	r = snapshot_get(references->image, grey->scope, grey->snapshotter, grey->name, &record);
	if (r)
		return r == STORE_E_NOT_FOUND || r == STORE_E_DAMAGED ? 0 : error_trace(r);
	r = snapshot_is_live(references, grey->scope, &record);
	if (!r)
		r = reference_labels(references, grey->scope, &record.labels);
	if (!r && record.parent && record.parent[0])
		r = reference_snapshot(references, grey->scope, grey->snapshotter, record.parent);
	return error_trace(r);
}

int reference_image_record(struct references *references, const char *namespace,
			   const struct image_record *record)
{
	_cleanup_(cleanup_free) char *text = text_format("%s/%s", namespace, record->name);
	int r = text ? set_add(&references->images, text) : error_origin(-ENOMEM);

	if (!r)
		r = become_live_in(references, "image", namespace, record->name);
	if (!r)
		r = reference_labels(references, namespace, &record->labels);
	return r ? error_trace(r)
		 : error_trace(
			   reference_blob(references, record->target->digest, REFERENCE_DOCUMENT));
}

static int find_image_anywhere(void *userdata, const struct store_key *key, void *data)
{
	const struct image_record *record = data;
	const struct search *search = userdata;

	if (strcmp(record->name, search->grey->name) != 0)
		return 0;
	return error_trace(
		reference_image(search->references, store_key_part(key, 0), record->name));
}

static int follow_image(struct references *references, const struct grey *grey)
{
	_cleanup_(image_record_clear) struct image_record record = {};
	struct search search = {references, grey};
	int r;

	if (!strcmp(grey->scope, SCOPE_ANY))
		return store_walk(references->image->store, TABLE_IMAGES, NULL, NULL,
				  schema_image_record(), find_image_anywhere, &search);
	r = get_image(references, grey->scope, grey->name, &record);
	if (r)
		return is_no_image(r) ? 0 : error_trace(r);
	return error_trace(reference_image_record(references, grey->scope, &record));
}

int references_follow(struct references *references, bool *ret_was_grey)
{
	struct grey *grey = references->grey;
	int r = 0;

	*ret_was_grey = grey != NULL;
	if (!grey)
		return 0;
	references->grey = grey->next;
	switch (grey->what) {
	case GREY_BLOB:
		r = follow_blob(references, grey->name, grey->kind);
		break;
	case GREY_SNAPSHOT:
		r = follow_snapshot(references, grey);
		break;
	case GREY_IMAGE:
		r = follow_image(references, grey);
		break;
	}
	grey_free(grey);
	return error_trace(r);
}

/* ---- asking ---- */

static bool has(const struct references *references, const char *scope,
		const struct snapshot_record *record)
{
	_cleanup_(cleanup_free) char *name = text_format("%s/%s/%s", scope, record->snapshotter,
							 record->key);

	/* Without memory it counts as needed. */
	return !name || set_has(&references->snapshots, name) ||
	       set_has(&references->flat_snapshots, name);
}

bool references_have_snapshot(const struct references *references, const char *scope,
			      const struct snapshot_record *record)
{
	return has(references, scope, record) ||
	       (!strcmp(scope, SCOPE_SHARED) && set_has(&references->chains, record->key));
}

bool references_have_image(const struct references *references, const char *namespace,
			   const char *name)
{
	_cleanup_(cleanup_free) char *text = text_format("%s/%s", namespace, name);

	return !text || set_has(&references->images, text) ||
	       set_has(&references->flat_images, text);
}

bool references_have_ingest(const struct references *references, const char *namespace,
			    const char *ref)
{
	_cleanup_(cleanup_free) char *name = text_format("%s/%s", namespace, ref);

	return !name || set_has(&references->ingests, name);
}

/* ---- of some namespaces, at once ---- */

struct finding {
	struct references *references;
	const char *namespace;
	bool is_others; /* of all but that one */
};

static bool is_wanted(const struct finding *finding, const struct store_key *key)
{
	const char *scope = store_key_part(key, 0);

	return scope && strcmp(scope, SCOPE_SHARED) != 0 &&
	       (!strcmp(scope, finding->namespace) ^ finding->is_others);
}

static int find_image(void *userdata, const struct store_key *key, void *data)
{
	const struct image_record *record = data;
	struct finding *finding = userdata;
	int r;

	if (!is_wanted(finding, key))
		return 0;
	r = reference_labels(finding->references, store_key_part(key, 0), &record->labels);
	return r ? error_trace(r)
		 : error_trace(reference_blob(finding->references, record->target->digest,
					      REFERENCE_DOCUMENT));
}

static int find_snapshot(void *userdata, const struct store_key *key, void *data)
{
	const struct snapshot_record *record = data;
	struct finding *finding = userdata;

	if (!is_wanted(finding, key))
		return 0;
	return error_trace(reference_snapshot(finding->references, store_key_part(key, 0),
					      record->snapshotter, record->key));
}

static int find_leased(void *userdata, const struct store_key *key, void *data)
{
	struct finding *finding = userdata;

	if (!is_wanted(finding, key))
		return 0;
	return error_trace(
		reference_leased(finding->references, store_key_part(key, 0), data, false));
}

static bool is_of(const struct finding *finding, const struct content_record *record)
{
	bool is_own = false, is_others = false;

	for (size_t i = 0; i < record->namespaces.count; i++) {
		bool is_same = !strcmp(record->namespaces.items[i], finding->namespace);

		is_own = is_own || is_same;
		is_others = is_others || !is_same;
	}
	return finding->is_others ? is_others : is_own;
}

/* What a namespace has labelled so that it stays. */
static int find_root_blob(void *userdata, const struct store_key *key, void *data)
{
	const struct content_record *record = data;
	struct finding *finding = userdata;
	uint64_t end;

	(void)key;
	if (!label_is_root(&record->labels, time_real_ns(), &end) || !is_of(finding, record))
		return 0;
	return error_trace(reference_blob(finding->references, record->digest, REFERENCE_DOCUMENT));
}

static int walk(struct finding *finding, const char *table, const struct schema_message *schema,
		store_walk_fn fn)
{
	struct store *store = finding->references->image->store;
	struct store_key prefix;
	int r;

	if (finding->is_others)
		return store_walk(store, table, NULL, NULL, schema, fn, finding);
	r = store_key(&prefix, finding->namespace, "", NULL);
	return r ? error_trace(r) : store_walk(store, table, &prefix, NULL, schema, fn, finding);
}

static int find(struct finding *finding)
{
	bool was_grey = true;
	int r;

	r = walk(finding, TABLE_IMAGES, schema_image_record(), find_image);
	if (!r)
		r = walk(finding, TABLE_SNAPSHOTS, schema_snapshot_record(), find_snapshot);
	if (!r)
		r = walk(finding, TABLE_LEASE_RESOURCES, schema_lease_resource(), find_leased);
	if (!r)
		r = store_walk(finding->references->image->store, TABLE_BLOBS, NULL, NULL,
			       schema_content_record(), find_root_blob, finding);
	while (!r && was_grey)
		r = references_follow(finding->references, &was_grey);
	return error_trace(r);
}

int references_find(struct image_service *image, const char *namespace,
		    struct references *ret_references)
{
	ret_references->image = image;
	return find(&(struct finding){ret_references, namespace, false});
}

int references_find_others(struct image_service *image, const char *namespace,
			   struct references *ret_references)
{
	ret_references->image = image;
	return find(&(struct finding){ret_references, namespace, true});
}
