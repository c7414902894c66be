/* container.roots: what containers keep from being collected, page by page. */

#include <string.h>

#include "services/container/container.h"

#define ROOTS_MAX   200
#define LABELS_SIZE 524288 /* of a page; one record has at most 64 KiB */
#define PAGE_FULL   1      /* of a walk */
#define REF_PREFIX  "containerd.io/gc.ref."

struct page {
	const struct container_roots_request *request;
	struct container_roots_reply *reply;
	size_t size; /* of labels */
};

static bool is_before(const struct page *page, const char *namespace, const char *id)
{
	const char *after = page->request->after_namespace;
	int order = after ? strcmp(namespace, after) : 1;

	return order < 0 ||
	       (!order && page->request->after_id && strcmp(id, page->request->after_id) <= 0);
}

static int copy_references(struct page *page, const struct schema_map *from, struct schema_map *to)
{
	int r = 0;

	for (size_t i = 0; i < from->count && !r; i++) {
		const struct schema_pair *pair = &from->items[i];

		if (strncmp(pair->key, REF_PREFIX, strlen(REF_PREFIX)) != 0)
			continue;
		page->size += strlen(pair->key) + strlen(pair->value);
		r = schema_map_set(to, pair->key, pair->value);
	}
	return r;
}

static int add_root(void *userdata, const struct store_key *key, void *data)
{
	const struct container_record *record = data;
	const char *namespace = store_key_part(key, 0);
	struct container_root *root;
	struct page *page = userdata;

	if (!namespace || is_before(page, namespace, record->id))
		return 0;
	if (page->reply->roots.count == ROOTS_MAX || page->size > LABELS_SIZE) {
		page->reply->more = true;
		return PAGE_FULL;
	}
	root = schema_list_add(&page->reply->roots);
	if (!root)
		return error_origin(-ENOMEM);
	return schema_set(&root->namespace, namespace) ?: schema_set(&root->id, record->id)
		       ?: schema_set(&root->snapshotter, record->snapshotter)
		       ?: schema_set(&root->snapshot_key, record->snapshot_key)
		       ?: copy_references(page, &record->labels, &root->labels);
}

int container_roots(struct container_service *service,
		    const struct container_roots_request *request,
		    struct container_roots_reply *reply, struct call *call)
{
	struct page page = {.request = request, .reply = reply};
	bool is_first = !request->after_namespace || !request->after_namespace[0];
	struct store_key from;
	int r = 0;

	(void)call;
	if (!is_first)
		r = record_key(&from, request->after_namespace, request->after_id ?: "");
	if (r)
		return error_trace(r);
	r = store_walk(service->store, CONTAINER_TABLE, NULL, is_first ? NULL : &from,
		       schema_container_record(), add_root, &page);
	reply->incomplete = store_is_damaged(service->store, CONTAINER_TABLE);
	reply->unaccepted = store_rebuilt(service->store);
	return error_trace(r == PAGE_FULL ? 0 : r);
}
