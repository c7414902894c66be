/* Images by name. */

#include <string.h>

#include "schemas/check.h"
#include "services/image/collect.h"
#include "services/image/handlers.h"
#include "services/image/labels.h"
#include "services/image/list.h"

#define EVENT_LABELS_MAX 8192

static int make_key(const char *namespace, const char *name, struct store_key *ret_key)
{
	return store_key(ret_key, namespace, name, NULL);
}

/* ---- finding ---- */

static int get_exact(struct image_service *image, const char *namespace, const char *name,
		     struct image_record *ret_record)
{
	struct store_key key;
	int r;

	r = make_key(namespace, name, &key);
	if (!r)
		r = store_get(image->store, TABLE_IMAGES, &key, schema_image_record(), ret_record);
	return r == -ENAMETOOLONG ? STORE_E_NOT_FOUND : r;
}

int names_find(struct image_service *image, const char *namespace, const char *name,
	       struct image_record *ret_record, struct why *why)
{
	int r;

	if (!check_reference(name))
		return why_set(why, refused(BUS_INVALID_ARGUMENT), "'%.200s' is not an image name",
			       name);
	for (unsigned i = 0;; i++) {
		_cleanup_(cleanup_free) char *candidate = reference_candidate(name, i);

		if (!candidate)
			break;
		r = get_exact(image, namespace, candidate, ret_record);
		if (r != STORE_E_NOT_FOUND)
			return r;
	}
	return why_set(
		why, refused(BUS_NOT_FOUND),
		"no image '%.200s' in namespace '%s': `davit images pull` loads one from its registry, `davit images import` reads an archive",
		name, namespace);
}

/* What is worth knowing of its content; nothing, where that is missing. */
static int add_details(struct image_service *image, struct image_record *record)
{
	const struct resolved *resolved;
	int r;

	r = resolve_target(image, record->target, &image->host, &resolved, NULL);
	if (r)
		return r == -ENOMEM ? r : 0;
	record->size = resolved->size;
	schema_strs_clear(&record->platforms);
	return error_trace(schema_strs_copy(&resolved->platforms, &record->platforms));
}

/* ---- changing ---- */

int image_event_labels(const struct schema_map *labels, struct schema_map *ret_labels)
{
	size_t size = 0;
	int r = 0;

	for (size_t i = 0; i < labels->count && !r; i++) {
		const struct schema_pair *pair = &labels->items[i];

		size += strlen(pair->key) + strlen(pair->value) + 8;
		if (size > EVENT_LABELS_MAX)
			break;
		r = schema_map_set(ret_labels, pair->key, pair->value);
	}
	return error_trace(r);
}

/* Without its annotations, which may be large. */
static int set_target(const struct descriptor *target, struct descriptor **ret_target)
{
	*ret_target = calloc(1, sizeof(**ret_target));
	if (!*ret_target)
		return error_origin(-ENOMEM);
	(*ret_target)->size = target->size;
	return schema_set(&(*ret_target)->digest, target->digest)
		       ?: schema_set(&(*ret_target)->media_type, target->media_type);
}

static int emit_change(struct image_service *image, const char *namespace, const char *topic,
		       const struct image_record *record)
{
	_cleanup_(event_image_clear) struct event_image event = {};
	int r;

	r = schema_set(&event.name, record->name);
	if (!r)
		r = image_event_labels(&record->labels, &event.labels);
	if (!r)
		r = set_target(record->target, &event.target);
	if (!r)
		r = service_emit(image->service, namespace, schema_find_event(topic), record->name,
				 &event);
	return error_trace(r);
}

/* Stores @record, which is new unless @old was there. */
static int put(struct image_service *image, const char *namespace, const struct image_record *old,
	       struct image_record *record)
{
	struct store_key key;
	int r;

	record->updated_at_ns = time_real_ns();
	record->created_at_ns = old ? old->created_at_ns : record->updated_at_ns;
	record->size = 0;
	schema_strs_clear(&record->platforms);
	r = make_key(namespace, record->name, &key);
	if (!r)
		r = store_put(image->store, TABLE_IMAGES, &key, schema_image_record(), record);
	if (!r)
		r = emit_change(image, namespace, old ? "/images/update" : "/images/create",
				record);
	collect_expires(image, label_expiry(&record->labels));
	return r;
}

static int add_labels(const struct schema_map *labels, struct image_record *record)
{
	int r = 0;

	for (size_t i = 0; labels && i < labels->count && !r; i++)
		r = schema_map_set(&record->labels, labels->items[i].key, labels->items[i].value);
	return error_trace(r);
}

int names_put(struct image_service *image, const char *namespace, const struct work_image *found,
	      const struct schema_map *labels, struct image_record *ret_record)
{
	_cleanup_(image_record_clear) struct image_record record = {}, old = {};
	bool is_old;
	int r;

	r = get_exact(image, namespace, found->name, &old);
	if (r && r != STORE_E_NOT_FOUND)
		return r;
	is_old = !r;
	record.target = calloc(1, sizeof(*record.target));
	if (!record.target)
		return error_origin(-ENOMEM);
	r = schema_set(&record.name, found->name);
	if (!r)
		r = descriptor_copy(found->target, record.target);
	if (!r && is_old)
		r = schema_map_copy(&old.labels, &record.labels);
	if (!r)
		r = add_labels(labels, &record);
	if (!r)
		r = put(image, namespace, is_old ? &old : NULL, &record);
	if (!r)
		r = add_details(image, &record);
	if (r)
		return r;
	*ret_record = record;
	record = (struct image_record){};
	return 0;
}

static int check_new(struct image_service *image, const struct image_record *record,
		     struct why *why)
{
	struct schema_fault fault = {};

	if (!check_reference(record->name))
		return why_set(why, refused(BUS_INVALID_ARGUMENT), "'%.200s' is not an image name",
			       record->name);
	if (check_labels(&record->labels, &fault))
		return why_set(why, refused(BUS_INVALID_ARGUMENT), "image '%s': %s", record->name,
			       fault.text);
	if (!check_digest(record->target->digest))
		return why_set(why, refused(BUS_INVALID_ARGUMENT), "'%.100s' is not a digest",
			       record->target->digest);
	if (!content_has(image, record->target->digest))
		return why_set(why, refused(BUS_NOT_FOUND),
			       "image '%s': blob %s is not in the content store", record->name,
			       record->target->digest);
	return 0;
}

static int create(struct image_service *image, const char *namespace,
		  const struct image_request *request, struct image_record *record, struct why *why)
{
	_cleanup_(image_record_clear) struct image_record old = {};
	int r;

	r = check_new(image, request->image, why);
	if (r)
		return r;
	r = get_exact(image, namespace, request->image->name, &old);
	if (r && r != STORE_E_NOT_FOUND)
		return r;
	if (!r && !request->force)
		return why_set(why, refused(BUS_ALREADY_EXISTS), "image '%s' exists already",
			       request->image->name);
	if (image_record_copy(request->image, record))
		return error_origin(-ENOMEM);
	r = put(image, namespace, r ? NULL : &old, record);
	return r ? r : add_details(image, record);
}

int image_create(struct image_service *image, const struct image_request *request,
		 struct image_reply *reply, struct call *call)
{
	const char *namespace = call_checked_namespace(call);
	struct why why = {};
	int r;

	if (!namespace)
		return 0;
	reply->image = calloc(1, sizeof(*reply->image));
	if (!reply->image)
		return error_origin(-ENOMEM);
	r = create(image, namespace, request, reply->image, &why);
	return image_answer(call, r, &why, "the image");
}

int image_get(struct image_service *image, const struct image_name_request *request,
	      struct image_reply *reply, struct call *call)
{
	struct why why = {};
	int r;

	reply->image = calloc(1, sizeof(*reply->image));
	if (!reply->image)
		return error_origin(-ENOMEM);
	r = names_find(image, call_namespace(call), request->name, reply->image, &why);
	if (!r)
		r = add_details(image, reply->image);
	return image_answer(call, r, &why, "the image");
}

/* ---- update ---- */

static int copy_label(const struct image_record *from, const char *key, struct image_record *to)
{
	const char *value = schema_map_get(&from->labels, key);

	if (!value || !value[0]) {
		schema_map_remove(&to->labels, key);
		return 0;
	}
	return error_trace(schema_map_set(&to->labels, key, value));
}

static int copy_labels(const struct image_record *from, struct image_record *to)
{
	schema_map_clear(&to->labels);
	return error_trace(schema_map_copy(&from->labels, &to->labels));
}

static int copy_target(const struct image_record *from, struct image_record *to)
{
	descriptor_clear(to->target);
	return error_trace(descriptor_copy(from->target, to->target));
}

static int copy_field(const struct image_record *from, const char *field, struct image_record *to,
		      struct why *why)
{
	if (!strcmp(field, "labels"))
		return copy_labels(from, to);
	if (!strncmp(field, "labels.", 7) && field[7])
		return copy_label(from, field + 7, to);
	if (!strcmp(field, "target"))
		return copy_target(from, to);
	return why_set(
		why, refused(BUS_INVALID_ARGUMENT),
		"'%.100s' of an image cannot be changed: labels, labels.<key> and target can",
		field);
}

static int copy_fields(const struct image_request *request, struct image_record *to,
		       struct why *why)
{
	int r = 0;

	if (!request->update_mask.count) {
		r = copy_labels(request->image, to);
		return r ? r : copy_target(request->image, to);
	}
	for (size_t i = 0; i < request->update_mask.count && !r; i++)
		r = copy_field(request->image, request->update_mask.items[i], to, why);
	return r;
}

static int update(struct image_service *image, const char *namespace,
		  const struct image_request *request, struct image_record *record, struct why *why)
{
	_cleanup_(image_record_clear) struct image_record old = {};
	int r;

	r = names_find(image, namespace, request->image->name, &old, why);
	if (r)
		return r;
	if (image_record_copy(&old, record))
		return error_origin(-ENOMEM);
	r = copy_fields(request, record, why);
	if (!r)
		r = check_new(image, record, why);
	if (!r)
		r = put(image, namespace, &old, record);
	if (!r && strcmp(old.target->digest, record->target->digest))
		r = collect(image);
	return r ? r : add_details(image, record);
}

int image_update(struct image_service *image, const struct image_request *request,
		 struct image_reply *reply, struct call *call)
{
	struct why why = {};
	int r;

	reply->image = calloc(1, sizeof(*reply->image));
	if (!reply->image)
		return error_origin(-ENOMEM);
	r = update(image, call_namespace(call), request, reply->image, &why);
	return image_answer(call, r, &why, "the image");
}

/* ---- list ---- */

struct listing {
	struct list list;
	struct image_service *image;
	struct image_list_reply *reply;
	struct filter *filter;
};

static int list_one(void *userdata, const struct store_key *key, void *data)
{
	struct listing *listing = userdata;
	struct image_record *record = data, *item;
	int r;

	(void)key;
	if (list_is_before(&listing->list, record->name) ||
	    !filter_match_message(listing->filter, schema_image_record(), record))
		return 0;
	r = add_details(listing->image, record);
	if (r)
		return error_trace(r);
	if (!list_has_room(&listing->list, schema_image_record(), record))
		return list_stop(&listing->list, &listing->reply->after);
	item = schema_list_add(&listing->reply->images);
	if (!item)
		return error_origin(-ENOMEM);
	return error_trace(
		list_added(&listing->list, record->name, image_record_copy(record, item)));
}

int image_list(struct image_service *image, const struct list_request *request,
	       struct image_list_reply *reply, struct call *call)
{
	struct listing listing = {.image = image, .reply = reply};
	struct store_key prefix;
	struct why why = {};
	int r;

	r = list_start(&listing.list, request, &listing.filter, &why);
	if (!r)
		r = store_key(&prefix, call_namespace(call), "", NULL);
	if (!r)
		r = store_walk(image->store, TABLE_IMAGES, &prefix, NULL, schema_image_record(),
			       list_one, &listing);
	filter_free(listing.filter);
	list_clear(&listing.list);
	return image_answer(call, r == LIST_FULL ? 0 : r, &why, "images");
}

/* ---- delete ---- */

static int remove_name(struct image_service *image, const char *namespace, const char *name,
		       struct why *why)
{
	_cleanup_(image_record_clear) struct image_record record = {};
	struct event_image_delete event = {};
	struct store_key key;
	int r;

	r = names_find(image, namespace, name, &record, why);
	if (!r)
		r = make_key(namespace, record.name, &key);
	if (!r)
		r = store_delete(image->store, TABLE_IMAGES, &key);
	event.name = record.name;
	if (!r)
		r = service_emit(image->service, namespace, schema_find_event("/images/delete"),
				 record.name, &event);
	return r ? r : collect(image);
}

int image_delete(struct image_service *image, const struct image_delete_request *request,
		 struct empty *reply, struct call *call)
{
	const char *namespace = call_checked_namespace(call);
	struct why why = {};
	int r;

	(void)reply;
	if (!namespace)
		return 0;
	if (request->sync)
		return error_trace(
			operation_start(call, &delete_operation, request, request->name, false));
	r = remove_name(image, namespace, request->name, &why);
	return image_answer(call, r, &why, "the image");
}

static int delete_name(struct operation *operation)
{
	const struct image_delete_request *request = operation_request(operation);
	struct why why = {};
	int r;

	r = remove_name(operation_object(operation), operation_namespace(operation), request->name,
			&why);
	return r ? image_step_failed(operation, r, &why) : 0;
}

static const struct operation_step delete_steps[] = {
	{.name = "name", .run = delete_name, .persist = true},
	{.name = "collect", .run = collect_step},
	{.name = "files", .run = collect_files_step},
	{},
};

const struct operation_type delete_operation = {
	.method = "image.delete",
	.steps = delete_steps,
	.request = schema_image_delete_request,
	.reply = schema_empty,
	.context = schema_empty,
};
