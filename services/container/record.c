/* Containers in the store, and the events that tell of their changes. */

#include <string.h>

#include "broker/lib/file.h"
#include "services/container/container.h"

/* Together with the longest name of a runtime they fit into an event. */
#define EVENT_LABELS_MAX  6144
#define EVENT_OPTIONS_MAX 4096

int record_key(struct store_key *key, const char *namespace, const char *id)
{
	return error_fold(store_key(key, namespace, id, NULL));
}

int record_get(struct container_service *service, const char *namespace, const char *id,
	       struct container_record *ret_record)
{
	struct store_key key;
	int r = record_key(&key, namespace, id);

	if (r)
		return error_trace(r);
	r = store_get(service->store, CONTAINER_TABLE, &key, schema_container_record(), ret_record);
	if (r == STORE_E_NOT_FOUND)
		return CONTAINER_E_NOT_FOUND;
	return r == STORE_E_DAMAGED ? CONTAINER_E_DAMAGED : error_fold(r);
}

bool record_exists(struct container_service *service, const char *namespace, const char *id)
{
	struct store_key key;

	return !record_key(&key, namespace, id) && store_has(service->store, CONTAINER_TABLE, &key);
}

/* ---- events ---- */

int record_event_labels(const struct schema_map *labels, struct schema_map *ret_labels)
{
	size_t size = 0;

	for (size_t i = 0; i < labels->count; i++) {
		const struct schema_pair *pair = &labels->items[i];
		int r;

		size += strlen(pair->key) + strlen(pair->value) + 8;
		if (size > EVENT_LABELS_MAX)
			break;
		r = schema_map_set(ret_labels, pair->key, pair->value);
		if (r)
			return error_trace(r);
	}
	return 0;
}

static int emit(struct container_service *service, const char *namespace, const char *topic,
		const char *id, const void *event)
{
	return error_fold(
		service_emit(service->service, namespace, schema_find_event(topic), id, event));
}

static int emit_create(struct container_service *service, const char *namespace,
		       const struct container_record *record)
{
	_cleanup_(schema_map_clear) struct schema_map labels = {};
	const char *options = record->runtime_options;
	int r = record_event_labels(&record->labels, &labels);
	struct event_container_runtime runtime = {
		.name = record->runtime,
		.options = options && strlen(options) <= EVENT_OPTIONS_MAX ? record->runtime_options
									   : NULL,
	};
	struct event_container_create event = {.id = record->id,
					       .image = record->image,
					       .runtime = &runtime,
					       .uid = record->uid,
					       .labels = labels,
					       .snapshotter = record->snapshotter,
					       .snapshot_key = record->snapshot_key,
					       .auto_remove = record->auto_remove};

	return r ?: emit(service, namespace, "/containers/create", record->id, &event);
}

static int emit_update(struct container_service *service, const char *namespace,
		       const struct container_record *record)
{
	_cleanup_(schema_map_clear) struct schema_map labels = {};
	int r = record_event_labels(&record->labels, &labels);
	struct event_container_update event = {.id = record->id,
					       .image = record->image,
					       .labels = labels,
					       .snapshot_key = record->snapshot_key};

	return r ?: emit(service, namespace, "/containers/update", record->id, &event);
}

/* ---- changes ---- */

static int put(struct container_service *service, const char *namespace,
	       const struct container_record *record)
{
	struct store_key key;
	int r = record_key(&key, namespace, record->id);

	return r
		       ?: error_fold(store_put(service->store, CONTAINER_TABLE, &key,
					       schema_container_record(), record));
}

static int put_auto_remove(struct container_service *service, const char *namespace,
			   const struct container_record *record)
{
	struct container_name_row row = {.created_at_ns = record->created_at_ns,
					 .uid = record->uid};
	struct store_key key;
	int r = record_key(&key, namespace, record->id);

	if (r || !record->auto_remove)
		return r;
	return error_fold(store_put(service->store, AUTO_REMOVE_TABLE, &key,
				    schema_container_name_row(), &row));
}

int record_add(struct container_service *service, const char *namespace,
	       struct container_record *record)
{
	int r;

	if (record_exists(service, namespace, record->id))
		return CONTAINER_E_EXISTS;
	record->created_at_ns = record->updated_at_ns = time_real_ns();
	r = namespace_touch(service, namespace) ?: put(service, namespace, record);
	return r ?: put_auto_remove(service, namespace, record) ?: emit_create(service, namespace, record);
}

int record_change(struct container_service *service, const char *namespace,
		  struct container_record *record)
{
	record->updated_at_ns = time_real_ns();
	return put(service, namespace, record) ?: emit_update(service, namespace, record);
}

static int delete_row(struct container_service *service, const char *table,
		      const struct store_key *key)
{
	int r = store_delete(service->store, table, key);

	return r == STORE_E_NOT_FOUND ? 0 : error_fold(r);
}

int record_remove(struct container_service *service, const char *namespace, const char *id,
		  const char *uid)
{
	_cleanup_(container_record_clear) struct container_record record = {};
	struct event_container_delete event;
	struct store_key key;
	int r = record_get(service, namespace, id, &record);

	if (r)
		return r;
	if (uid && *uid && (!record.uid || strcmp(record.uid, uid) != 0))
		return CONTAINER_E_OTHER;
	event = (struct event_container_delete){.id = record.id, .uid = record.uid};
	return record_key(&key, namespace, id) ?: delete_row(service, CONTAINER_TABLE, &key)
		       ?: delete_row(service, AUTO_REMOVE_TABLE, &key)
		       ?: emit(service, namespace, "/containers/delete", id, &event);
}

static int count_row(void *userdata, const struct store_key *key, void *record)
{
	(void)key;
	(void)record;
	++*(size_t *)userdata;
	return 0;
}

size_t record_count(struct container_service *service, const char *namespace)
{
	struct store_key prefix;
	size_t count = 0;

	if (record_key(&prefix, namespace, "") ||
	    store_walk(service->store, CONTAINER_TABLE, &prefix, NULL, schema_container_record(),
		       count_row, &count))
		return 1;
	return count;
}
