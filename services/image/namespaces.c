/* Which namespaces have something here. */

#include <string.h>

#include "services/image/handlers.h"

#define NAMESPACES_MAX 1000

/* Tables whose keys begin with a namespace. */
static const char *const tables[] = {TABLE_IMAGES, TABLE_SNAPSHOTS};

static const struct schema_message *schema_of(const char *table)
{
	return !strcmp(table, TABLE_IMAGES) ? schema_image_record() : schema_snapshot_record();
}

#define FOUND 1 /* of a walk */

static int take_first(void *userdata, const struct store_key *key, void *record)
{
	const char *name = store_key_part(key, 0);

	(void)record;
	if (!name || !strcmp(name, SCOPE_SHARED))
		return 0;
	return schema_set(userdata, name) ?: FOUND;
}

/* The first namespace of @table behind @after: no namespace has a byte as low as 1 in it. */
static int first_of(struct image_service *image, const char *table, const char *after,
		    char **ret_name)
{
	_cleanup_(cleanup_free) char *place = text_format("%s\x01", after);
	struct store_key from;
	int r;

	if (!place)
		return error_origin(-ENOMEM);
	store_key_bytes(&from, place, strlen(place));
	r = store_walk(image->store, table, NULL, *after ? &from : NULL, schema_of(table),
		       take_first, ret_name);
	return r == FOUND ? 0 : r;
}

static int next_namespace(struct image_service *image, const char *after, char **ret_name)
{
	_cleanup_(cleanup_free) char *next = NULL;

	for (size_t i = 0; i < ARRAY_SIZE(tables); i++) {
		_cleanup_(cleanup_free) char *name = NULL;
		int r = first_of(image, tables[i], after, &name);

		if (r)
			return r;
		if (!name || (next && strcmp(next, name) <= 0))
			continue;
		free(next);
		next = TAKE(name);
	}
	*ret_name = TAKE(next);
	return 0;
}

static int list(struct image_service *image, const struct image_namespaces_request *request,
		struct image_namespaces_reply *reply)
{
	uint64_t limit = request->limit && request->limit < NAMESPACES_MAX ? request->limit
									   : NAMESPACES_MAX;
	_cleanup_(cleanup_free) char *name = strdup(request->after ?: "");
	int r = name ? 0 : error_origin(-ENOMEM);

	while (!r) {
		_cleanup_(cleanup_free) char *next = NULL;

		r = next_namespace(image, name, &next);
		if (r || !next)
			return r;
		if (reply->namespaces.count == limit)
			return error_trace(schema_set(&reply->after, name));
		r = schema_strs_add(&reply->namespaces, next);
		free(name);
		name = TAKE(next);
	}
	return error_trace(r);
}

int image_namespaces(struct image_service *image, const struct image_namespaces_request *request,
		     struct image_namespaces_reply *reply, struct call *call)
{
	return image_answer(call, list(image, request, reply), &(struct why){}, "namespaces");
}
