/* Leases: see lease.h; the methods lease.*. */

#include <stdio.h>
#include <string.h>

#include "broker/lib/file.h"
#include "schemas/check.h"
#include "services/image/collect.h"
#include "services/image/handlers.h"
#include "services/image/labels.h"
#include "services/image/lease.h"
#include "services/image/list.h"

#define RESOURCES_MAX 1000 /* of one reply */

static int make_key(const char *namespace, const char *id, struct store_key *ret_key)
{
	return store_key(ret_key, namespace, id, NULL);
}

int lease_resource_key(const char *namespace, const char *id, const char *type,
		       const char *resource, struct store_key *ret_key)
{
	_cleanup_(cleanup_free) char *text = text_format("%s\n%s", type, resource);
	char digest[DIGEST_SIZE];

	if (!text)
		return error_origin(-ENOMEM);
	digest_of(text, strlen(text), digest);
	return error_trace(store_key(ret_key, namespace, id, digest, NULL));
}

static int get(struct image_service *image, const char *namespace, const char *id,
	       struct lease_record *ret_record)
{
	struct store_key key;
	int r;

	r = make_key(namespace, id, &key);
	if (r)
		return error_trace(r);
	return store_get(image->store, TABLE_LEASES, &key, schema_lease_record(), ret_record);
}

static bool exists(struct image_service *image, const char *namespace, const char *id)
{
	struct store_key key;

	return !make_key(namespace, id, &key) && store_has(image->store, TABLE_LEASES, &key);
}

/* ---- for the rest of the service ---- */

static int put(struct image_service *image, const char *namespace, struct lease_record *record)
{
	struct store_key key;
	int r;

	record->created_at_ns = time_real_ns();
	r = make_key(namespace, record->id, &key);
	if (!r)
		r = store_put(image->store, TABLE_LEASES, &key, schema_lease_record(), record);
	return error_trace(r);
}

int lease_make(struct image_service *image, const char *namespace, const char *id, bool until_used)
{
	char end[LABEL_TIME_SIZE];
	struct schema_pair label = {.key = (char *)LABEL_EXPIRE, .value = end};
	struct lease_record record = {
		.id = (char *)id, .labels = {&label, 1}, .until_used = until_used};

	if (exists(image, namespace, id))
		return 0;
	label_format_time(time_real_ns() + LEASE_NS, end);
	collect_expires(image, label_expiry(&record.labels));
	return error_trace(put(image, namespace, &record));
}

int lease_add(struct image_service *image, const char *namespace, const char *id, const char *type,
	      const char *resource)
{
	struct lease_resource record = {.type = (char *)type, .id = (char *)resource};
	struct store_key key;
	int r;

	if (!id || !id[0])
		return 0;
	if (!exists(image, namespace, id))
		return STORE_E_NOT_FOUND;
	r = lease_resource_key(namespace, id, type, resource, &key);
	if (!r)
		r = store_put(image->store, TABLE_LEASE_RESOURCES, &key, schema_lease_resource(),
			      &record);
	return error_trace(r);
}

int lease_add_content(struct image_service *image, const char *namespace, const char *id,
		      const char *digest)
{
	return error_trace(lease_add(image, namespace, id, LEASE_CONTENT, digest));
}

int lease_add_snapshot(struct image_service *image, const char *namespace, const char *id,
		       const char *snapshotter, const char *key)
{
	char type[sizeof(LEASE_SNAPSHOTS) + LABEL_SNAPSHOTTER_SIZE];

	snprintf(type, sizeof(type), "%s%s", LEASE_SNAPSHOTS, snapshotter);
	return error_trace(lease_add(image, namespace, id, type, key));
}

int lease_check(struct image_service *image, const char *namespace, const char *id, struct why *why)
{
	if (!id || !id[0] || exists(image, namespace, id))
		return 0;
	return why_set(why, refused(BUS_NOT_FOUND), "no lease '%s' in namespace '%s'", id,
		       namespace);
}

static int drop_resource(void *userdata, const struct store_key *key, void *data)
{
	struct image_service *image = userdata;

	(void)data;
	return error_trace(store_delete(image->store, TABLE_LEASE_RESOURCES, key));
}

int lease_drop(struct image_service *image, const char *namespace, const char *id)
{
	struct store_key key, prefix;
	int r;

	r = make_key(namespace, id, &key);
	if (!r)
		r = store_key(&prefix, namespace, id, "", NULL);
	if (!r)
		r = store_walk(image->store, TABLE_LEASE_RESOURCES, &prefix, NULL,
			       schema_lease_resource(), drop_resource, image);
	return r ? error_trace(r) : store_delete(image->store, TABLE_LEASES, &key);
}

int lease_end(struct image_service *image, const char *namespace, const char *id)
{
	int r;

	r = lease_drop(image, namespace, id);
	if (r == STORE_E_NOT_FOUND)
		return 0;
	return r ? error_trace(r) : error_trace(collect(image));
}

int lease_end_unused(struct image_service *image, const char *namespace, const char *key)
{
	_cleanup_(lease_record_clear) struct lease_record record = {};
	int r;

	r = get(image, namespace, key, &record);
	if (r == STORE_E_NOT_FOUND || r == STORE_E_DAMAGED || (!r && !record.until_used))
		return 0;
	return r ? error_trace(r) : error_trace(lease_drop(image, namespace, key));
}

/* ---- of an operation ---- */

struct holder {
	struct image_service *image;
	const char *namespace;
	char id[sizeof("operation-") + ID_TEXT_SIZE];
};

static void find_holder(struct operation *operation, struct holder *ret_holder)
{
	char id[ID_TEXT_SIZE];

	id_format(operation_id(operation), id);
	ret_holder->image = operation_object(operation);
	ret_holder->namespace = operation_namespace(operation);
	snprintf(ret_holder->id, sizeof(ret_holder->id), "operation-%s", id);
}

static int make_holder(struct operation *operation, struct holder *ret_holder)
{
	find_holder(operation, ret_holder);
	return lease_make(ret_holder->image, ret_holder->namespace, ret_holder->id, false);
}

int lease_hold_content(struct operation *operation, const char *digest)
{
	struct holder holder;
	int r;

	r = make_holder(operation, &holder);
	return r ? error_trace(r)
		 : lease_add_content(holder.image, holder.namespace, holder.id, digest);
}

int lease_hold_layer(struct operation *operation, const char *snapshotter, const char *chain)
{
	struct holder holder;
	int r;

	r = make_holder(operation, &holder);
	return r ? error_trace(r)
		 : lease_add_snapshot(holder.image, holder.namespace, holder.id, snapshotter,
				      chain);
}

int lease_end_of(struct operation *operation)
{
	struct holder holder;

	find_holder(operation, &holder);
	return error_trace(lease_end(holder.image, holder.namespace, holder.id));
}

int lease_undo(struct operation *operation)
{
	int r = lease_end_of(operation);

	return r ? image_step_failed(operation, r, NULL) : 0;
}

/* ---- methods: what a user may name ---- */

static int check_id(const char *id, struct why *why)
{
	size_t size = strlen(id);
	bool is_good = size && size <= LEASE_ID_MAX;

	for (const char *c = id; *c; c++)
		is_good = is_good && *c > ' ' && (unsigned char)*c < 0x7f;
	if (is_good)
		return 0;
	return why_set(why, refused(BUS_INVALID_ARGUMENT),
		       "'%.100s' is not a lease's id: 1 to %d bytes of printable ASCII without "
		       "spaces",
		       id, LEASE_ID_MAX);
}

static int check_lease_labels(const char *id, const struct schema_map *labels, struct why *why)
{
	const char *end = schema_map_get(labels, LABEL_EXPIRE);
	struct schema_fault fault = {};

	if (check_labels(labels, &fault))
		return why_set(why, refused(BUS_INVALID_ARGUMENT), "lease '%s': %s", id,
			       fault.text);
	if (end && label_parse_time(end, &(uint64_t){0}))
		return why_set(why, refused(BUS_INVALID_ARGUMENT),
			       "lease '%s': label %s is '%.60s', not a time as RFC 3339 has it", id,
			       LABEL_EXPIRE, end);
	return 0;
}

static int check_resource(struct image_service *image, const struct lease_resource *resource,
			  struct why *why)
{
	const char *snapshotter;

	if (!resource->id[0])
		return why_set(why, refused(BUS_INVALID_ARGUMENT),
			       "what a lease holds has an id: it is empty");
	if (!strncmp(resource->type, LEASE_SNAPSHOTS, strlen(LEASE_SNAPSHOTS)) &&
	    resource->type[strlen(LEASE_SNAPSHOTS)])
		return snapshot_check_name(image, resource->type + strlen(LEASE_SNAPSHOTS),
					   &snapshotter, why);
	if (!strcmp(resource->type, LEASE_CONTENT) && !check_digest(resource->id))
		return why_set(why, refused(BUS_INVALID_ARGUMENT), "'%.100s' is not a digest",
			       resource->id);
	if (strcmp(resource->type, LEASE_CONTENT) != 0 &&
	    strcmp(resource->type, LEASE_INGESTS) != 0 && strcmp(resource->type, LEASE_IMAGES) != 0)
		return why_set(
			why, refused(BUS_INVALID_ARGUMENT),
			"a lease holds content, images, ingests and snapshots/<snapshotter>, "
			"not '%.96s'",
			resource->type);
	return 0;
}

static int emit(struct image_service *image, const char *namespace, const char *topic,
		const char *id)
{
	const struct event_lease event = {.id = (char *)id};

	return error_trace(
		service_emit(image->service, namespace, schema_find_event(topic), id, &event));
}

/* ---- methods ---- */

static int create(struct image_service *image, const char *namespace,
		  const struct lease_create_request *request, struct lease_record *record,
		  struct why *why)
{
	int r;

	r = check_id(record->id, why);
	if (!r)
		r = check_lease_labels(record->id, &request->labels, why);
	if (r)
		return r;
	if (exists(image, namespace, record->id))
		return why_set(why, refused(BUS_ALREADY_EXISTS), "lease '%s' exists already",
			       record->id);
	r = schema_map_copy(&request->labels, &record->labels);
	if (!r)
		r = put(image, namespace, record);
	if (!r)
		r = emit(image, namespace, "/leases/create", record->id);
	collect_expires(image, label_expiry(&record->labels));
	return error_trace(r);
}

int lease_create(struct image_service *image, const struct lease_create_request *request,
		 struct lease_reply *reply, struct call *call)
{
	const char *namespace = call_checked_namespace(call);
	char made[ID_TEXT_SIZE];
	struct why why = {};
	int r;

	if (!namespace)
		return 0;
	id_format(call_id(call), made);
	reply->lease = calloc(1, sizeof(*reply->lease));
	if (!reply->lease)
		return error_origin(-ENOMEM);
	r = schema_set(&reply->lease->id,
		       request->id && request->id[0] ? request->id : (const char *)made);
	if (!r)
		r = create(image, namespace, request, reply->lease, &why);
	return image_answer(call, r, &why, "the lease");
}

static int remove_lease(struct image_service *image, const char *namespace, const char *id,
			struct why *why)
{
	int r;

	r = lease_check(image, namespace, id, why);
	if (!r)
		r = lease_end(image, namespace, id);
	if (!r)
		r = emit(image, namespace, "/leases/delete", id);
	return r;
}

int lease_delete(struct image_service *image, const struct lease_delete_request *request,
		 struct empty *reply, struct call *call)
{
	const char *namespace = call_checked_namespace(call);
	struct why why = {};
	int r;

	(void)reply;
	if (!namespace)
		return 0;
	r = check_id(request->id, &why);
	if (!r && request->sync)
		return error_trace(operation_start(call, &lease_delete_operation, request,
						   request->id, false));
	if (!r)
		r = remove_lease(image, namespace, request->id, &why);
	return image_answer(call, r, &why, "the lease");
}

static int delete_step(struct operation *operation)
{
	const struct lease_delete_request *request = operation_request(operation);
	struct why why = {};
	int r;

	r = remove_lease(operation_object(operation), operation_namespace(operation), request->id,
			 &why);
	return r ? image_step_failed(operation, r, &why) : 0;
}

static const struct operation_step delete_steps[] = {
	{.name = "lease", .run = delete_step, .persist = true},
	{.name = "collect", .run = collect_step},
	{.name = "files", .run = collect_files_step},
	{},
};

const struct operation_type lease_delete_operation = {
	.method = "lease.delete",
	.steps = delete_steps,
	.request = schema_lease_delete_request,
	.reply = schema_empty,
	.context = schema_empty,
};

static int check_resource_request(struct image_service *image,
				  const struct lease_resource_request *request, struct why *why)
{
	int r;

	r = check_id(request->id, why);
	return r ? r : check_resource(image, request->resource, why);
}

int lease_add_resource(struct image_service *image, const struct lease_resource_request *request,
		       struct empty *reply, struct call *call)
{
	const char *namespace = call_checked_namespace(call);
	struct lease_record record = {.id = request->id};
	struct why why = {};
	int r;

	(void)reply;
	if (!namespace)
		return 0;
	r = check_resource_request(image, request, &why);
	if (!r && request->create && !exists(image, namespace, request->id)) {
		r = put(image, namespace, &record);
		if (!r)
			r = emit(image, namespace, "/leases/create", request->id);
	}
	if (!r)
		r = lease_check(image, namespace, request->id, &why);
	if (!r)
		r = lease_add(image, namespace, request->id, request->resource->type,
			      request->resource->id);
	return image_answer(call, r, &why, "the lease");
}

int lease_delete_resource(struct image_service *image, const struct lease_resource_request *request,
			  struct empty *reply, struct call *call)
{
	const char *namespace = call_checked_namespace(call);
	struct store_key key;
	struct why why = {};
	int r;

	(void)reply;
	if (!namespace)
		return 0;
	r = check_resource_request(image, request, &why);
	if (!r)
		r = lease_check(image, namespace, request->id, &why);
	if (!r)
		r = lease_resource_key(namespace, request->id, request->resource->type,
				       request->resource->id, &key);
	if (!r)
		r = store_delete(image->store, TABLE_LEASE_RESOURCES, &key);
	if (r == STORE_E_NOT_FOUND)
		r = why_set(&why, refused(BUS_NOT_FOUND), "lease '%s' does not hold %s '%.200s'",
			    request->id, request->resource->type, request->resource->id);
	if (!r)
		r = collect(image);
	return image_answer(call, r, &why, "the lease");
}

/* ---- lists ---- */

struct listing {
	struct list list;
	struct lease_list_reply *reply;
	struct filter *filter;
};

static int list_one(void *userdata, const struct store_key *key, void *data)
{
	struct listing *listing = userdata;
	struct lease_record *record = data, *item;

	(void)key;
	if (list_is_before(&listing->list, record->id) ||
	    !filter_match_message(listing->filter, schema_lease_record(), record))
		return 0;
	if (!list_has_room(&listing->list, schema_lease_record(), record))
		return list_stop(&listing->list, &listing->reply->after);
	item = schema_list_add(&listing->reply->leases);
	if (!item)
		return error_origin(-ENOMEM);
	return error_trace(list_added(&listing->list, record->id, lease_record_copy(record, item)));
}

int lease_list(struct image_service *image, const struct list_request *request,
	       struct lease_list_reply *reply, struct call *call)
{
	const char *namespace = call_checked_namespace(call);
	struct listing listing = {.reply = reply};
	struct store_key prefix;
	struct why why = {};
	int r;

	if (!namespace)
		return 0;
	r = list_start(&listing.list, request, &listing.filter, &why);
	if (!r)
		r = store_key(&prefix, namespace, "", NULL);
	if (!r)
		r = store_walk(image->store, TABLE_LEASES, &prefix, NULL, schema_lease_record(),
			       list_one, &listing);
	filter_free(listing.filter);
	list_clear(&listing.list);
	return image_answer(call, r == LIST_FULL ? 0 : r, &why, "leases");
}

struct resource_listing {
	struct lease_resources_reply *reply;
	const char *after;
	char last[DIGEST_SIZE];
};

static int list_resource(void *userdata, const struct store_key *key, void *data)
{
	struct resource_listing *listing = userdata;
	const char *place = store_key_part(key, 2);
	const struct lease_resource *record = data;
	struct lease_resource *item;

	if (!place || (listing->after && strcmp(place, listing->after) <= 0))
		return 0;
	if (listing->reply->resources.count == RESOURCES_MAX) {
		int r = schema_set(&listing->reply->after, listing->last);

		return r ? error_trace(r) : LIST_FULL;
	}
	snprintf(listing->last, sizeof(listing->last), "%s", place);
	item = schema_list_add(&listing->reply->resources);
	return item ? error_trace(lease_resource_copy(record, item)) : error_origin(-ENOMEM);
}

int lease_resources(struct image_service *image, const struct lease_resources_request *request,
		    struct lease_resources_reply *reply, struct call *call)
{
	const char *namespace = call_checked_namespace(call);
	struct resource_listing listing = {.reply = reply, .after = request->after};
	struct store_key prefix;
	struct why why = {};
	int r;

	if (!namespace)
		return 0;
	r = check_id(request->id, &why);
	if (!r)
		r = lease_check(image, namespace, request->id, &why);
	if (!r)
		r = store_key(&prefix, namespace, request->id, "", NULL);
	if (!r)
		r = store_walk(image->store, TABLE_LEASE_RESOURCES, &prefix, NULL,
			       schema_lease_resource(), list_resource, &listing);
	return image_answer(call, r == LIST_FULL ? 0 : r, &why, "the lease");
}
