/* Namespaces: records of their own, made on request or with the first object. */

#include <string.h>

#include "broker/lib/file.h"
#include "broker/lib/log.h"
#include "schemas/check.h"
#include "schemas/filter.h"
#include "services/container/container.h"

static int get(struct container_service *service, const char *name,
	       struct namespace_record *ret_record)
{
	struct store_key key;
	int r = error_fold(store_key(&key, name, NULL));

	return r
		       ?: store_get(service->store, NAMESPACE_TABLE, &key,
				    schema_namespace_record(), ret_record);
}

static int put(struct container_service *service, const struct namespace_record *record,
	       const char *topic)
{
	_cleanup_(schema_map_clear) struct schema_map labels = {};
	struct event_namespace event = {.name = record->name};
	struct store_key key;
	int r = error_fold(store_key(&key, record->name, NULL));

	r = r
		    ?: store_put(service->store, NAMESPACE_TABLE, &key, schema_namespace_record(),
				 record);
	r = r ?: record_event_labels(&record->labels, &labels);
	event.labels = labels;
	return error_fold(r
				  ?: service_emit(service->service, record->name,
						  schema_find_event(topic), record->name, &event));
}

int namespace_touch(struct container_service *service, const char *name)
{
	struct namespace_record record = {.name = (char *)name};
	struct store_key key;
	int r = error_fold(store_key(&key, name, NULL));

	if (r || store_has(service->store, NAMESPACE_TABLE, &key))
		return error_trace(r);
	return put(service, &record, "/namespaces/create");
}

int namespace_default(struct container_service *service, const char *name, const char *what,
		      char **ret_value)
{
	_cleanup_(namespace_record_clear) struct namespace_record record = {};
	char key[64];
	int r = get(service, name, &record);

	if (r)
		return r == STORE_E_NOT_FOUND ? 0 : error_fold(r);
	snprintf(key, sizeof(key), "containerd.io/defaults/%s", what);
	return schema_set(ret_value, schema_map_get(&record.labels, key));
}

/* ---- create, get, update ---- */

static int give(struct namespace_record *record, struct namespace_reply *reply)
{
	reply->namespace = malloc(sizeof(*reply->namespace));
	if (!reply->namespace)
		return error_origin(-ENOMEM);
	*reply->namespace = *record;
	*record = (struct namespace_record){};
	return 0;
}

static int not_found(struct call *call, int r, const char *name)
{
	if (r == STORE_E_NOT_FOUND)
		return call_fail(call, BUS_NOT_FOUND, "no namespace '%s'", name);
	return error_fold(r);
}

int namespace_create(struct container_service *service, const struct namespace_request *request,
		     struct namespace_reply *reply, struct call *call)
{
	_cleanup_(namespace_record_clear) struct namespace_record record = {};
	struct schema_fault fault = {};
	int r;

	if (check_namespace(request->namespace, &fault))
		return call_fail(call, BUS_INVALID_ARGUMENT, "%s", fault.text);
	r = get(service, request->namespace->name, &record);
	if (!r)
		return call_fail(call, BUS_ALREADY_EXISTS, "namespace '%s' exists already",
				 record.name);
	if (r != STORE_E_NOT_FOUND)
		return error_fold(r);
	r = namespace_record_copy(request->namespace, &record)
		    ?: put(service, &record, "/namespaces/create");
	return r ?: give(&record, reply);
}

int namespace_get(struct container_service *service, const struct namespace_name_request *request,
		  struct namespace_reply *reply, struct call *call)
{
	_cleanup_(namespace_record_clear) struct namespace_record record = {};
	struct schema_fault fault = {};
	int r;

	if (check_identifier_why("namespace", request->name, &fault))
		return call_fail(call, BUS_INVALID_ARGUMENT, "%s", fault.text);
	r = get(service, request->name, &record);
	return r ? not_found(call, r, request->name) : give(&record, reply);
}

int namespace_update(struct container_service *service, const struct namespace_request *request,
		     struct namespace_reply *reply, struct call *call)
{
	_cleanup_(namespace_record_clear) struct namespace_record record = {};
	struct schema_fault fault = {};
	int r;

	if (check_namespace(request->namespace, &fault))
		return call_fail(call, BUS_INVALID_ARGUMENT, "%s", fault.text);
	r = get(service, request->namespace->name, &record);
	if (r)
		return not_found(call, r, request->namespace->name);
	r = check_apply_labels(&record.labels, &request->namespace->labels, &request->update_mask,
			       &fault);
	r = r ?: check_namespace(&record, &fault);
	if (r > 0)
		return call_fail(call, BUS_INVALID_ARGUMENT, "%s", fault.text);
	r = r ?: put(service, &record, "/namespaces/update");
	return r ?: give(&record, reply);
}

/* ---- list ---- */

/*
 * A namespace is there when it has a record, or when it has images or snapshots: these are the image service's,
 * which is asked. Both give a page; what is behind the end of a page that is not the last is left for the next.
 */
struct page {
	struct container_service *service;
	struct call *call;
	char *after;
	uint64_t limit;
	struct filter *filter;
	struct namespace_list_reply reply;
	size_t size;
	char *last;                       /* that was looked at */
	const struct schema_strs *others; /* in order, without records perhaps */
	const char *others_end;           /* NULL: these are all */
	size_t n_others;                  /* that were looked at */
};

#define PAGE_FULL 1 /* of a walk */

static void page_free(struct page *page)
{
	namespace_list_reply_clear(&page->reply);
	filter_free(page->filter);
	free(page->after);
	free(page->last);
	free(page);
}

static void page_drop(void *userdata)
{
	page_free(userdata);
}

static size_t measure(const struct namespace_record *record)
{
	size_t size = 128;

	for (size_t i = 0; i < record->labels.count; i++)
		size += strlen(record->labels.items[i].key) +
			strlen(record->labels.items[i].value) + 10;
	return size;
}

/* Adds a copy of @record; PAGE_FULL when it does not fit any more. */
static int add_to_page(struct page *page, const struct namespace_record *record)
{
	struct namespace_list_reply *reply = &page->reply;
	struct namespace_record *item;
	size_t size = measure(record);

	if (filter_match_message(page->filter, schema_namespace_record(), record)) {
		if (reply->namespaces.count &&
		    (reply->namespaces.count == page->limit || page->size + size > PAGE_SIZE))
			return schema_set(&reply->after, page->last) ?: PAGE_FULL;
		page->size += size;
		item = schema_list_add(&reply->namespaces);
		if (!item || namespace_record_copy(record, item))
			return error_origin(-ENOMEM);
	}
	return error_trace(schema_set(&page->last, record->name));
}

/* The others before @name (NULL: all), and not @name itself. */
static int add_others(struct page *page, const char *name)
{
	int r = 0;

	while (!r && page->n_others < page->others->count) {
		struct namespace_record other = {.name = page->others->items[page->n_others]};
		int order = name ? strcmp(other.name, name) : -1;

		if (order > 0)
			break;
		page->n_others++;
		if (order < 0)
			r = add_to_page(page, &other);
	}
	return r;
}

static int add_record(void *userdata, const struct store_key *key, void *object)
{
	const struct namespace_record *record = object;
	struct page *page = userdata;
	int r;

	(void)key;
	if (page->after && strcmp(record->name, page->after) <= 0)
		return 0;
	r = add_others(page, record->name);
	if (!r && page->others_end && strcmp(record->name, page->others_end) > 0)
		return schema_set(&page->reply.after, page->others_end) ?: PAGE_FULL;
	return r ?: add_to_page(page, record);
}

static int fill_page(void *userdata)
{
	struct page *page = userdata;
	int r;

	/* It may be run again, when the map was full. */
	namespace_list_reply_clear(&page->reply);
	page->n_others = page->size = 0;
	r = store_walk(page->service->store, NAMESPACE_TABLE, NULL, NULL, schema_namespace_record(),
		       add_record, page);
	r = r ?: add_others(page, NULL);
	if (!r && page->others_end)
		r = schema_set(&page->reply.after, page->others_end);
	return r == PAGE_FULL ? 0 : error_fold(r);
}

/* An image service that never was there has nothing. */
static void on_others(void *userdata, enum bus_status status, const char *text,
		      struct image_namespaces_reply *reply)
{
	static const struct schema_strs none;
	struct page *page = userdata;

	if (status != BUS_OK && status != BUS_NOT_FOUND) {
		call_finish_fail(page->call, status, "cannot tell which namespaces have images: %s",
				 text);
		page_free(page);
		return;
	}
	page->others = reply ? &reply->namespaces : &none;
	page->others_end = reply ? reply->after : NULL;
	if (service_transact(page->service->service, fill_page, page))
		call_finish_fail(page->call, BUS_INTERNAL, "namespaces could not be listed");
	else
		call_finish(page->call, &page->reply);
	page_free(page);
}

static void ask_others(void *userdata)
{
	struct page *page = userdata;
	struct bus_options options = {.parent = call_id(page->call)};
	struct image_namespaces_request request = {.after = page->after, .limit = page->limit};

	if (image_namespaces_call(service_bus(page->service->service), &options, &request,
				  on_others, page, NULL))
		on_others(page, BUS_INTERNAL, "out of memory", NULL);
}

static int start_page(struct page *page, const struct list_request *request)
{
	page->limit = request->limit && request->limit < 1000 ? request->limit : 1000;
	return schema_set(&page->after, request->after)
		       ?: call_after_commit(page->call, ask_others, page_drop, page);
}

int namespace_list(struct container_service *service, const struct list_request *request,
		   struct namespace_list_reply *reply, struct call *call)
{
	struct page *page = calloc(1, sizeof(*page));
	struct schema_fault fault = {};
	int r = page ? filter_parse(&request->filters, &page->filter, &fault)
		     : error_origin(-ENOMEM);

	(void)reply;
	if (r > 0) {
		page_free(page);
		return call_fail(call, BUS_INVALID_ARGUMENT, "%s", fault.text);
	}
	if (!r) {
		page->service = service;
		page->call = call;
		r = start_page(page, request);
	}
	if (!r)
		return CALL_LATER;
	if (page)
		page_free(page);
	return error_fold(r);
}

/* ---- delete ---- */

/* Asks the other services what they have in the namespace, all at once. */
struct deletion {
	struct container_service *service;
	struct call *call;
	char *name;
	unsigned n_waiting;
	bool has_record;
	bool has_images, has_snapshots, has_tasks;
	enum bus_status status; /* of the first that could not say */
	char text[ENVELOPE_TEXT_MAX + 1];
};

static void deletion_free(struct deletion *deletion)
{
	free(deletion->name);
	free(deletion);
}

static int delete_record(void *userdata)
{
	struct deletion *deletion = userdata;
	struct event_namespace_delete event = {.name = deletion->name};
	struct store_key key;
	int r = error_fold(store_key(&key, deletion->name, NULL));

	r = r ?: store_delete(deletion->service->store, NAMESPACE_TABLE, &key);
	if (r == STORE_E_NOT_FOUND)
		return 0;
	return error_fold(r
				  ?: service_emit(deletion->service->service, deletion->name,
						  schema_find_event("/namespaces/delete"),
						  deletion->name, &event));
}

/* "containers, images" */
static void list_left(const struct deletion *deletion, bool has_containers, char *text, size_t size)
{
	const struct {
		bool is_left;
		const char *what;
	} kinds[] = {{has_containers, "containers"},
		     {deletion->has_tasks, "tasks"},
		     {deletion->has_images, "images"},
		     {deletion->has_snapshots, "snapshots"}};

	*text = '\0';
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++)
		if (kinds[i].is_left)
			snprintf(text + strlen(text), size - strlen(text), "%s%s",
				 *text ? ", " : "", kinds[i].what);
}

static int count_containers(void *userdata)
{
	struct deletion *deletion = userdata;

	return record_count(deletion->service, deletion->name) ? 1 : 0;
}

static void conclude(struct deletion *deletion)
{
	struct service *service = deletion->service->service;
	char left[128];
	int r = service_transact(service, count_containers, deletion);

	list_left(deletion, r > 0, left, sizeof(left));
	if (deletion->status != BUS_OK)
		call_finish_fail(deletion->call, deletion->status,
				 "cannot tell whether namespace '%s' is empty: %s", deletion->name,
				 deletion->text);
	else if (*left)
		call_finish_fail(deletion->call, BUS_FAILED_PRECONDITION,
				 "namespace '%s' is not empty: it has %s", deletion->name, left);
	else if (!r && !deletion->has_record)
		call_finish_fail(deletion->call, BUS_NOT_FOUND, "no namespace '%s'",
				 deletion->name);
	else if (r || service_transact(service, delete_record, deletion))
		call_finish_fail(deletion->call, BUS_INTERNAL,
				 "namespace '%s' could not be deleted", deletion->name);
	else
		call_finish(deletion->call, NULL);
	deletion_free(deletion);
}

/* A service that never was there has nothing. */
static void note(struct deletion *deletion, enum bus_status status, const char *text, bool has_some,
		 bool *has)
{
	*has = status == BUS_OK && has_some;
	if (status != BUS_OK && status != BUS_NOT_FOUND && deletion->status == BUS_OK) {
		deletion->status = status;
		snprintf(deletion->text, sizeof(deletion->text), "%s", text);
	}
	if (!--deletion->n_waiting)
		conclude(deletion);
}

static void on_images(void *userdata, enum bus_status status, const char *text,
		      struct image_list_reply *reply)
{
	struct deletion *deletion = userdata;

	note(deletion, status, text, reply && reply->images.count, &deletion->has_images);
}

static void on_snapshots(void *userdata, enum bus_status status, const char *text,
			 struct snapshot_list_reply *reply)
{
	struct deletion *deletion = userdata;

	note(deletion, status, text, reply && reply->snapshots.count, &deletion->has_snapshots);
}

static void on_tasks(void *userdata, enum bus_status status, const char *text,
		     struct task_list_reply *reply)
{
	struct deletion *deletion = userdata;

	note(deletion, status, text, reply && reply->tasks.count, &deletion->has_tasks);
}

static void ask_all(void *userdata)
{
	struct deletion *deletion = userdata;
	struct bus *bus = service_bus(deletion->service->service);
	struct bus_options options = {.namespace = deletion->name,
				      .parent = call_id(deletion->call)};
	struct list_request list = {.limit = 1};
	struct task_list_request tasks = {.limit = 1};

	deletion->n_waiting = 3;
	if (image_list_call(bus, &options, &list, on_images, deletion, NULL))
		on_images(deletion, BUS_INTERNAL, "out of memory", NULL);
	if (snapshot_list_call(bus, &options, &list, on_snapshots, deletion, NULL))
		on_snapshots(deletion, BUS_INTERNAL, "out of memory", NULL);
	if (task_list_call(bus, &options, &tasks, on_tasks, deletion, NULL))
		on_tasks(deletion, BUS_INTERNAL, "out of memory", NULL);
}

static void deletion_drop(void *userdata)
{
	deletion_free(userdata);
}

int namespace_delete(struct container_service *service,
		     const struct namespace_name_request *request, struct empty *reply,
		     struct call *call)
{
	_cleanup_(namespace_record_clear) struct namespace_record record = {};
	struct deletion *deletion;
	struct schema_fault fault = {};
	int r;

	(void)reply;
	if (check_identifier_why("namespace", request->name, &fault))
		return call_fail(call, BUS_INVALID_ARGUMENT, "%s", fault.text);
	r = get(service, request->name, &record);
	if (r && r != STORE_E_NOT_FOUND)
		return error_fold(r);
	deletion = calloc(1, sizeof(*deletion));
	if (!deletion)
		return error_origin(-ENOMEM);
	deletion->service = service;
	deletion->call = call;
	deletion->has_record = !r;
	deletion->name = strdup(request->name);
	r = !deletion->name ? error_origin(-ENOMEM)
			    : call_after_commit(call, ask_all, deletion_drop, deletion);
	if (r) {
		deletion_free(deletion);
		return error_fold(r);
	}
	return CALL_LATER;
}
