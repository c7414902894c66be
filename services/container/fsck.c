/* container.fsck: records, and what they refer to. */

#include "services/lib/fsck.h"

#include "broker/lib/file.h"
#include "services/container/container.h"

static int add_snapshot(struct fsck *fsck, const struct fsck_fact *container, const char *namespace,
			const struct container_record *record)
{
	_cleanup_(cleanup_free) char *id =
		text_format("%s/%s/%s", namespace, record->snapshotter ?: "", record->snapshot_key);
	_cleanup_(cleanup_free) char *text = text_format("container %s has it as its root",
							 container->id);
	struct fsck_fact fact = *container;

	if (!id || !text)
		return error_origin(-ENOMEM);
	fact.role = FACT_NEEDS;
	fact.kind = (char *)"snapshot";
	fact.id = id;
	fact.text = text;
	return fsck_add(fsck, &fact);
}

static int on_container(struct fsck *fsck, const struct store_key *key, void *data)
{
	const char *namespace = store_key_part(key, 0);
	const struct container_record *record = data;
	_cleanup_(cleanup_free) char *id = NULL;
	struct fsck_fact fact = {
		.role = FACT_OWNS,
		.kind = (char *)"container",
		.object = record->id,
		.uid = record->uid,
		.since_ns = record->created_at_ns,
	};
	int r;

	if (!namespace)
		return 0;
	id = text_format("%s/%s", namespace, record->id);
	if (!id)
		return error_origin(-ENOMEM);
	fact.id = id;
	r = fsck_add(fsck, &fact);
	if (!r && record->snapshot_key && *record->snapshot_key)
		r = add_snapshot(fsck, &fact, namespace, record);
	return r;
}

static int on_auto_remove(struct fsck *fsck, const struct store_key *key, void *data)
{
	const char *namespace = store_key_part(key, 0), *name = store_key_part(key, 1);
	const struct container_name_row *row = data;
	_cleanup_(cleanup_free) char *id = NULL;
	struct fsck_fact fact = {
		.role = FACT_NEEDS,
		.kind = (char *)"container",
		.object = (char *)name,
		.uid = row->uid,
		.since_ns = row->created_at_ns,
		.text = (char *)"it is to be removed when its process has ended",
	};

	if (!namespace || !name)
		return 0;
	id = text_format("%s/%s", namespace, name);
	if (!id)
		return error_origin(-ENOMEM);
	fact.id = id;
	return fsck_add(fsck, &fact);
}

static int run_containers(struct fsck *fsck)
{
	struct container_service *service = fsck_object(fsck);

	return fsck_walk(fsck, service->store, CONTAINER_TABLE, schema_container_record(),
			 on_container);
}

static int run_auto_remove(struct fsck *fsck)
{
	struct container_service *service = fsck_object(fsck);

	return fsck_walk(fsck, service->store, AUTO_REMOVE_TABLE, schema_container_name_row(),
			 on_auto_remove);
}

int container_fsck(struct container_service *service, const struct fsck_request *request,
		   struct fsck_reply *reply, struct call *call)
{
	static const struct fsck_stage stages[] = {{run_containers}, {run_auto_remove}, {}};

	(void)call;
	return fsck_page(service->store, stages, service, request, reply);
}
