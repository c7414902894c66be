/*
 * image.fsck and image.mend: records against blobs, snapshot directories and
 * ingests. What nothing needs is no fault: collections remove it (image.collect).
 */

#include "services/lib/fsck.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "schemas/check.h"
#include "services/image/downloads.h"
#include "services/image/handlers.h"
#include "services/image/ingest.h"
#include "services/image/lease.h"

/* ---- blobs ---- */

static int on_blob(struct fsck *fsck, const struct store_key *key, void *data)
{
	struct image_service *image = fsck_object(fsck);
	const struct content_record *record = data;
	struct fsck_fact fact = {.role = FACT_FAULT, .kind = (char *)"blob", .id = record->digest};
	struct stat status;

	(void)key;
	if (!check_digest(record->digest))
		return 0;
	if (fstatat(image->blobs, record->digest + strlen("sha256:"), &status,
		    AT_SYMLINK_NOFOLLOW) < 0)
		fact.text = (char *)"its file is missing: pull or import the image again";
	else if ((uint64_t)status.st_size != record->size)
		fact.text = (char *)"its file has another size: pull or import the image again";
	else
		return 0;
	return fsck_add(fsck, &fact);
}

static int on_blob_file(struct fsck *fsck, int dir, const char *name)
{
	struct image_service *image = fsck_object(fsck);
	_cleanup_(cleanup_free) char *digest = text_format("sha256:%s", name);

	if (!digest)
		return error_origin(-ENOMEM);
	if (content_has(image, digest))
		return 0;
	return fsck_add_seen(fsck, dir, name, "blob", digest, "a file without a record", true);
}

/* ---- snapshots ---- */

static int add_parent(struct fsck *fsck, const struct fsck_fact *snapshot, const char *scope,
		      const struct snapshot_record *record)
{
	_cleanup_(cleanup_free) char *id =
		text_format("%s/%s/%s", check_digest(record->parent) ? SCOPE_SHARED : scope,
			    record->snapshotter, record->parent);
	_cleanup_(cleanup_free) char *text = text_format("snapshot %s lies on it", snapshot->id);
	struct fsck_fact fact = *snapshot;

	if (!id || !text)
		return error_origin(-ENOMEM);
	fact.role = FACT_NEEDS;
	fact.id = id;
	fact.text = text;
	return fsck_add(fsck, &fact);
}

static int add_directory(struct fsck *fsck, const struct fsck_fact *snapshot,
			 const struct snapshot_record *record)
{
	struct fsck_fact fact = *snapshot;
	char id[24];

	snprintf(id, sizeof(id), "%llu", (unsigned long long)record->number);
	fact.role = FACT_MUST;
	fact.kind = (char *)"snapshot-directory";
	fact.id = id;
	fact.text = snapshot->id;
	return fsck_add(fsck, &fact);
}

static int on_snapshot(struct fsck *fsck, const struct store_key *key, void *data)
{
	const char *scope = store_key_part(key, 0);
	const struct snapshot_record *record = data;
	_cleanup_(cleanup_free) char *id = NULL;
	struct fsck_fact fact = {
		.role = FACT_OWNS,
		.kind = (char *)"snapshot",
		.object = record->key,
		.since_ns = record->created_at_ns,
	};
	int r;

	if (!scope)
		return 0;
	id = text_format("%s/%s/%s", scope, record->snapshotter, record->key);
	if (!id)
		return error_origin(-ENOMEM);
	fact.id = id;
	r = fsck_add(fsck, &fact);
	if (!r)
		r = add_directory(fsck, &fact, record);
	if (!r && record->parent && *record->parent)
		r = add_parent(fsck, &fact, scope, record);
	return r;
}

/* Layers that are being made have a directory, and no record yet. */
static int on_snapshot_directory(struct fsck *fsck, int dir, const char *name)
{
	struct image_service *image = fsck_object(fsck);
	unsigned long long number = strtoull(name, NULL, 10);

	if (number >= unpack_lowest_number(image))
		return 0;
	return fsck_add_seen(fsck, dir, name, "snapshot-directory", name,
			     "a directory below snapshots/", true);
}

/* ---- ingests ---- */

static int on_ingest(struct fsck *fsck, const struct store_key *key, void *data)
{
	const struct content_ingest *ingest = data;
	struct fsck_fact fact = {
		.role = FACT_MUST,
		.kind = (char *)"ingest",
		.id = ingest->file,
		.object = ingest->ref,
		.since_ns = ingest->started_at_ns,
		.text = ingest->ref,
	};

	(void)key;
	return ingest->file ? fsck_add(fsck, &fact) : 0;
}

static int on_ingest_file(struct fsck *fsck, int dir, const char *name)
{
	if (downloads_is_name(name))
		return 0;
	return fsck_add_seen(fsck, dir, name, "ingest", name, "a write that nobody goes on with",
			     true);
}

/* ---- what refers to blobs ---- */

static int on_image(struct fsck *fsck, const struct store_key *key, void *data)
{
	struct image_service *image = fsck_object(fsck);
	const struct image_record *record = data;
	_cleanup_(cleanup_free) char *text = NULL;
	struct fsck_fact fact = {
		.role = FACT_NEEDS,
		.kind = (char *)"blob",
		.id = record->target->digest,
		.object = record->name,
		.since_ns = record->updated_at_ns,
	};

	if (content_has(image, record->target->digest))
		return 0;
	text = text_format("image %s of namespace %s has it as its target", record->name,
			   store_key_part(key, 0) ?: "?");
	fact.text = text;
	return text ? fsck_add(fsck, &fact) : error_origin(-ENOMEM);
}

/* Of a lease that is gone. What a lease holds need not be there. */
static int on_resource(struct fsck *fsck, const struct store_key *key, void *data)
{
	const char *namespace = store_key_part(key, 0), *lease = store_key_part(key, 1);
	const struct lease_resource *resource = data;
	struct image_service *image = fsck_object(fsck);
	_cleanup_(cleanup_free) char *id = NULL, *text = NULL;
	struct fsck_fact fact = {.role = FACT_NEEDS, .kind = (char *)"lease"};
	struct store_key at;
	int r;

	if (!namespace || !lease)
		return 0;
	r = store_key(&at, namespace, lease, NULL);
	if (r || store_has(image->store, TABLE_LEASES, &at))
		return r;
	id = text_format("%s/%s", namespace, lease);
	text = text_format("%s %s is held by it", resource->type, resource->id);
	if (!id || !text)
		return error_origin(-ENOMEM);
	fact.id = id;
	fact.text = text;
	return fsck_add(fsck, &fact);
}

/* ---- stages ---- */

static int walk(struct fsck *fsck, const char *table, const struct schema_message *schema,
		fsck_record_fn fn)
{
	struct image_service *image = fsck_object(fsck);

	return fsck_walk(fsck, image->store, table, schema, fn);
}

static int names(struct fsck *fsck, const char *directory, fsck_name_fn fn)
{
	struct image_service *image = fsck_object(fsck);
	_cleanup_(cleanup_free) char *path = text_format("%s/%s", image->directory, directory);

	return path ? fsck_names(fsck, path, fn) : error_origin(-ENOMEM);
}

static int run_blobs(struct fsck *fsck)
{
	return walk(fsck, TABLE_BLOBS, schema_content_record(), on_blob);
}

static int run_blob_files(struct fsck *fsck)
{
	return names(fsck, "content/blobs/sha256", on_blob_file);
}

static int run_snapshots(struct fsck *fsck)
{
	return walk(fsck, TABLE_SNAPSHOTS, schema_snapshot_record(), on_snapshot);
}

static int run_snapshot_directories(struct fsck *fsck)
{
	return names(fsck, "snapshots", on_snapshot_directory);
}

static int run_ingests(struct fsck *fsck)
{
	return walk(fsck, TABLE_INGESTS, schema_content_ingest(), on_ingest);
}

static int run_ingest_files(struct fsck *fsck)
{
	return names(fsck, "content/ingest", on_ingest_file);
}

static int run_images(struct fsck *fsck)
{
	return walk(fsck, TABLE_IMAGES, schema_image_record(), on_image);
}

static int run_resources(struct fsck *fsck)
{
	return walk(fsck, TABLE_LEASE_RESOURCES, schema_lease_resource(), on_resource);
}

int image_fsck(struct image_service *image, const struct fsck_request *request,
	       struct fsck_reply *reply, struct call *call)
{
	static const struct fsck_stage stages[] = {{run_blobs},
						   {run_blob_files},
						   {run_snapshots},
						   {run_snapshot_directories},
						   {run_ingests},
						   {run_ingest_files},
						   {run_images},
						   {run_resources},
						   {}};

	(void)call;
	return fsck_page(image->store, stages, image, request, reply);
}

/* ---- mending: what has no record goes ---- */

struct owner {
	const char *name;
	bool is_found;
};

static int is_directory_of(void *userdata, const struct store_key *key, void *data)
{
	const struct snapshot_record *record = data;
	struct owner *owner = userdata;
	char name[24];

	(void)key;
	snprintf(name, sizeof(name), "%llu", (unsigned long long)record->number);
	owner->is_found = !strcmp(name, owner->name);
	return owner->is_found;
}

static int is_file_of(void *userdata, const struct store_key *key, void *data)
{
	const struct content_ingest *ingest = data;
	struct owner *owner = userdata;

	(void)key;
	owner->is_found = ingest->file && !strcmp(ingest->file, owner->name);
	return owner->is_found;
}

static int find_owner(struct image_service *image, const char *kind, const char *id, int *ret_dir,
		      const char **ret_name, bool *ret_found)
{
	struct owner owner = {.name = id};
	int r = 0;

	if (!strcmp(kind, "blob") && check_digest(id)) {
		*ret_dir = image->blobs;
		owner.name = id + strlen("sha256:");
		r = content_find(image, id);
		owner.is_found = r != STORE_E_NOT_FOUND;
	} else if (!strcmp(kind, "snapshot-directory")) {
		*ret_dir = image->snapshots;
		r = store_walk(image->store, TABLE_SNAPSHOTS, NULL, NULL, schema_snapshot_record(),
			       is_directory_of, &owner);
		if (strtoull(id, NULL, 10) >= unpack_lowest_number(image))
			owner.is_found = true;
	} else if (!strcmp(kind, "ingest")) {
		*ret_dir = image->ingest;
		r = store_walk(image->store, TABLE_INGESTS, NULL, NULL, schema_content_ingest(),
			       is_file_of, &owner);
	} else {
		*ret_dir = -1;
	}
	*ret_name = owner.name;
	*ret_found = owner.is_found || downloads_is_name(id);
	return r < 0 ? r : 0;
}

int image_mend(struct image_service *image, const struct fsck_mend_request *request,
	       struct fsck_mend_reply *reply, struct call *call)
{
	const char *name;
	bool is_found;
	int dir, r;

	if (strchr(request->id, '/') || request->id[0] == '.')
		return call_fail(call, BUS_INVALID_ARGUMENT, "'%s' is not the name of a file",
				 request->id);
	r = find_owner(image, request->kind, request->id, &dir, &name, &is_found);
	if (r)
		return error_trace(r);
	if (dir < 0)
		return call_fail(call, BUS_INVALID_ARGUMENT, "no '%s' is mended here",
				 request->kind);
	if (store_rebuilt(image->store))
		return call_fail(call, BUS_FAILED_PRECONDITION,
				 "the image service's store was rebuilt: what has no record stays "
				 "until `davit store accept image`");
	if (is_found || faccessat(dir, name, F_OK, AT_SYMLINK_NOFOLLOW))
		return 0;
	r = trash_after_commit(image, dir, name,
			       strcmp(request->kind, "blob") ? NULL : request->id);
	return r ? error_trace(r) : schema_set(&reply->done, "removed");
}
