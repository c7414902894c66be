#pragma once
/* What all listings do: pages, filters, and a reply that fits into a message. */

#include "schemas/filter.h"
#include "services/image/image.h"

#define LIST_FULL 900 /* of a walk: the page is full */

struct list {
	const char *after; /* the request's */
	uint64_t limit;
	size_t count, size;
	char *last; /* name of the last item */
};

/* *ret_filter is the caller's. */
int list_start(struct list *list, const struct list_request *request, struct filter **ret_filter,
	       struct why *why);
void list_clear(struct list *list);
/* Is @name on a page before this one? */
bool list_is_before(const struct list *list, const char *name);
bool list_has_room(struct list *list, const struct schema_message *schema, const void *item);
/* Notes that there is more; LIST_FULL or -ENOMEM. */
int list_stop(struct list *list, char **ret_after);
/* An item was added, if @r is 0. Returns @r or -ENOMEM. */
int list_added(struct list *list, const char *name, int r);
