/* Handlers of container records. */

#include <string.h>

#include "broker/lib/file.h"
#include "schemas/check.h"
#include "schemas/filter.h"
#include "services/container/container.h"

/* What record_*() returned for the container @id, as an answer. */
static int refuse(struct call *call, int r, const char *id)
{
	if (r == CONTAINER_E_NOT_FOUND)
		return call_fail(call, BUS_NOT_FOUND, "no container '%s' in namespace '%s'", id,
				 call_namespace(call));
	if (r == CONTAINER_E_EXISTS)
		return call_fail(call, BUS_ALREADY_EXISTS,
				 "container '%s' exists already in namespace '%s'", id,
				 call_namespace(call));
	if (r == CONTAINER_E_DAMAGED)
		return call_fail(call, BUS_DATA_LOSS,
				 "the record of container '%s' in namespace '%s' is damaged", id,
				 call_namespace(call));
	return error_trace(r);
}

static int give(struct container_record *record, struct container_reply *reply)
{
	reply->container = malloc(sizeof(*reply->container));
	if (!reply->container)
		return error_origin(-ENOMEM);
	*reply->container = *record;
	*record = (struct container_record){};
	return 0;
}

/* ---- create, get ---- */

static int fill_new(struct container_service *service, const char *namespace,
		    const struct container_record *from, struct container_record *record)
{
	uint8_t uid[ID_SIZE];
	char text[ID_TEXT_SIZE];
	int r = container_record_copy(from, record);

	id_make(uid);
	id_format(uid, text);
	if (!r && (!record->runtime || !*record->runtime)) {
		free(record->runtime);
		record->runtime = NULL;
		r = namespace_default(service, namespace, "runtime", &record->runtime);
	}
	return r ?: schema_set(&record->uid, text);
}

int container_create(struct container_service *service,
		     const struct container_create_request *request, struct container_reply *reply,
		     struct call *call)
{
	_cleanup_(container_record_clear) struct container_record record = {};
	const char *namespace = call_checked_namespace(call);
	struct schema_fault fault = {};
	int r;

	if (!namespace)
		return 0;
	r = fill_new(service, namespace, request->container, &record);
	if (r)
		return error_trace(r);
	if (check_container(&record, &fault))
		return call_fail(call, BUS_INVALID_ARGUMENT, "%s", fault.text);
	if (operation_is_any_running(service->service, namespace, record.id))
		return call_fail(call, BUS_ALREADY_EXISTS,
				 "container '%s' is being made by container.run", record.id);
	r = record_add(service, namespace, &record);
	return r ? refuse(call, r, request->container->id) : give(&record, reply);
}

int container_get(struct container_service *service, const struct container_get_request *request,
		  struct container_reply *reply, struct call *call)
{
	_cleanup_(container_record_clear) struct container_record record = {};
	const char *namespace = call_checked_namespace(call);
	int r;

	if (!namespace)
		return 0;
	r = record_get(service, namespace, request->id, &record);
	return r ? refuse(call, r, request->id) : give(&record, reply);
}

/* ---- list ---- */

#define PAGE_FULL 1 /* of a walk */

struct page {
	const struct list_request *request;
	struct filter *filter;
	struct container_list_reply *reply;
	struct schema_buffer buffer;
	size_t size;
};

static void page_clear(struct page *page)
{
	filter_freep(&page->filter);
	schema_buffer_clear(&page->buffer);
}

/* How much of the reply the record takes. */
static int measure(struct page *page, const struct container_record *record, size_t *ret_size)
{
	int r;

	page->buffer.size = 0;
	r = schema_pack(schema_container_record(), record, &page->buffer, NULL);
	*ret_size = page->buffer.size;
	return error_fold(r);
}

static int add_to_page(void *userdata, const struct store_key *key, void *object)
{
	struct container_record *record = object, *item;
	struct page *page = userdata;
	struct container_list_reply *reply = page->reply;
	uint64_t limit = page->request->limit ? page->request->limit : 1000;
	size_t size;
	int r;

	(void)key;
	if (page->request->after && strcmp(record->id, page->request->after) <= 0)
		return 0;
	if (!filter_match_message(page->filter, schema_container_record(), record))
		return 0;
	r = measure(page, record, &size);
	if (r)
		return error_trace(r);
	if (reply->containers.count &&
	    (reply->containers.count == limit || page->size + size > PAGE_SIZE))
		return schema_set(&reply->after,
				  reply->containers.items[reply->containers.count - 1].id)
			       ?: PAGE_FULL;
	item = schema_list_add(&reply->containers);
	if (!item)
		return error_origin(-ENOMEM);
	*item = *record;
	*record = (struct container_record){};
	page->size += size;
	return 0;
}

int container_list(struct container_service *service, const struct list_request *request,
		   struct container_list_reply *reply, struct call *call)
{
	_cleanup_(page_clear) struct page page = {.request = request, .reply = reply};
	const char *namespace = call_checked_namespace(call);
	struct store_key prefix, from;
	struct schema_fault fault = {};
	int r;

	if (!namespace)
		return 0;
	if (request->after && *request->after && !check_identifier(request->after))
		return call_fail(call, BUS_INVALID_ARGUMENT,
				 "list after: that is not a container id");
	r = filter_parse(&request->filters, &page.filter, &fault);
	if (r > 0)
		return call_fail(call, BUS_INVALID_ARGUMENT, "%s", fault.text);
	r = r ?: record_key(&prefix, namespace, "");
	r = r ?: record_key(&from, namespace, request->after ? request->after : "");
	r = r
		    ?: store_walk(service->store, CONTAINER_TABLE, &prefix, &from,
				  schema_container_record(), add_to_page, &page);
	return r == PAGE_FULL ? 0 : error_fold(r);
}

/* ---- update ---- */

int container_update(struct container_service *service,
		     const struct container_update_request *request, struct container_reply *reply,
		     struct call *call)
{
	_cleanup_(container_record_clear) struct container_record record = {};
	const char *namespace = call_checked_namespace(call);
	struct schema_fault fault = {};
	int r;

	if (!namespace)
		return 0;
	r = record_get(service, namespace, request->container->id, &record);
	if (r)
		return refuse(call, r, request->container->id);
	r = check_apply_mask(&record, request->container, &request->update_mask, &fault);
	if (!r)
		r = check_container(&record, &fault);
	if (r > 0)
		return call_fail(call, BUS_INVALID_ARGUMENT, "%s", fault.text);
	r = r ?: record_change(service, namespace, &record);
	return r ? refuse(call, r, request->container->id) : give(&record, reply);
}

/* ---- operations ---- */

static int check_run(const struct container_run_request *request, struct schema_fault *fault)
{
	const struct spec_options *options = request->options;
	bool has_rootfs = options && options->rootfs && *options->rootfs;

	if (check_identifier_why("container id", request->id, fault) ||
	    check_labels(&request->labels, fault) || check_labels(&request->snapshot_labels, fault))
		return 1;
	if (request->spec && *request->spec)
		return check_spec_text(request->spec, fault);
	if (has_rootfs || (request->image && *request->image))
		return 0;
	snprintf(fault->text, sizeof(fault->text),
		 "container '%s': neither an image, nor a root file system, nor a spec was given",
		 request->id);
	return 1;
}

int container_run(struct container_service *service, const struct container_run_request *request,
		  struct container_run_reply *reply, struct call *call)
{
	const char *namespace = call_checked_namespace(call);
	struct schema_fault fault = {};

	(void)reply;
	if (!namespace)
		return 0;
	if (check_run(request, &fault))
		return call_fail(call, BUS_INVALID_ARGUMENT, "%s", fault.text);
	if (record_exists(service, namespace, request->id))
		return refuse(call, CONTAINER_E_EXISTS, request->id);
	return operation_start(call, &container_run_operation, request, request->id, true);
}

/*
 * Both work on one container, named by its uid: two at a time would get in each other's way, but neither has to
 * wait for the container.run that made it.
 */
int container_delete(struct container_service *service,
		     const struct container_delete_request *request, struct empty *reply,
		     struct call *call)
{
	_cleanup_(container_record_clear) struct container_record record = {};
	const char *namespace = call_checked_namespace(call);
	int r;

	(void)reply;
	if (!namespace)
		return 0;
	r = record_get(service, namespace, request->id, &record);
	if (r)
		return refuse(call, r, request->id);
	return operation_start(call, &container_delete_operation, request,
			       record.uid ? record.uid : record.id, true);
}

int container_remove(struct container_service *service,
		     const struct container_remove_request *request,
		     struct container_remove_reply *reply, struct call *call)
{
	_cleanup_(container_record_clear) struct container_record record = {};
	const char *namespace = call_checked_namespace(call);
	bool has_uid = request->uid && *request->uid;
	int r;

	(void)reply;
	if (!namespace)
		return 0;
	r = record_get(service, namespace, request->id, &record);
	if (has_uid && (r == CONTAINER_E_NOT_FOUND ||
			(!r && (!record.uid || strcmp(record.uid, request->uid) != 0))))
		return 0;
	if (r)
		return refuse(call, r, request->id);
	return operation_start(call, &container_remove_operation, request,
			       record.uid ? record.uid : record.id, true);
}

int container_operations(struct container_service *service, const struct empty *request,
			 struct operation_list_reply *reply, struct call *call)
{
	(void)request;
	return operation_list(service->service, call, reply);
}

int container_operation_cancel(struct container_service *service,
			       const struct operation_cancel_request *request, struct empty *reply,
			       struct call *call)
{
	(void)reply;
	return operation_cancel(service->service, call, request);
}

int container_stats(struct container_service *service, const struct empty *request,
		    struct service_stats_reply *reply, struct call *call)
{
	(void)request;
	(void)call;
	return service_stats(service->service, reply);
}

int container_quarantine(struct container_service *service, const struct empty *request,
			 struct store_quarantine_reply *reply, struct call *call)
{
	(void)request;
	(void)call;
	return service_quarantine(service->service, reply);
}

int container_quarantine_drop(struct container_service *service,
			      const struct store_drop_request *request,
			      struct store_drop_reply *reply, struct call *call)
{
	return service_quarantine_drop(service->service, call, request, reply);
}

int container_store_accept(struct container_service *service, const struct empty *request,
			   struct store_accept_reply *reply, struct call *call)
{
	(void)request;
	return service_accept(service->service, call, reply, NULL, NULL);
}
