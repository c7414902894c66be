/* Listings: see list.h. */

#include <string.h>

#include "services/image/list.h"

#define ITEMS_MAX     1000
#define LIST_SIZE_MAX (900u << 10) /* of the items, packed */

int list_start(struct list *list, const struct list_request *request, struct filter **ret_filter,
	       struct why *why)
{
	struct schema_fault fault = {};
	int r;

	r = filter_parse(&request->filters, ret_filter, &fault);
	if (r > 0)
		return why_set(why, refused(BUS_INVALID_ARGUMENT), "%s", fault.text);
	list->after = request->after;
	list->limit = request->limit && request->limit < ITEMS_MAX ? request->limit : ITEMS_MAX;
	return error_trace(r);
}

void list_clear(struct list *list)
{
	free(list->last);
	list->last = NULL;
}

bool list_is_before(const struct list *list, const char *name)
{
	return list->after && list->after[0] && strcmp(name, list->after) <= 0;
}

bool list_has_room(struct list *list, const struct schema_message *schema, const void *item)
{
	_cleanup_(schema_buffer_clear) struct schema_buffer buffer = {};

	if (list->count == list->limit)
		return false;
	/* That it does not fit into memory the reply will tell. */
	if (schema_pack(schema, item, &buffer, NULL))
		return true;
	list->size += buffer.size;
	return list->size <= LIST_SIZE_MAX || !list->count;
}

int list_stop(struct list *list, char **ret_after)
{
	int r = schema_set(ret_after, list->last);

	return r ? error_trace(r) : LIST_FULL;
}

int list_added(struct list *list, const char *name, int r)
{
	list->count++;
	return r ? r : error_trace(schema_set(&list->last, name));
}
