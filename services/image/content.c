/* The content store: files by digest, and their records. */

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "broker/lib/file.h"
#include "broker/lib/log.h"
#include "schemas/check.h"
#include "schemas/filter.h"
#include "services/image/downloads.h"
#include "services/image/handlers.h"
#include "services/image/references.h"
#include "services/image/labels.h"
#include "services/image/list.h"

#define READ_MAX 262144

int content_key(const char *digest, struct store_key *ret_key)
{
	return error_trace(store_key(ret_key, digest, NULL));
}

int content_find(struct image_service *image, const char *digest)
{
	struct store_key key;
	int r = content_key(digest, &key);

	return r ?: store_find(image->store, TABLE_BLOBS, &key);
}

bool content_has(struct image_service *image, const char *digest)
{
	return !content_find(image, digest);
}

/* ---- files ---- */

static const char *hex_of(const char *digest)
{
	return digest + strlen("sha256:");
}

static int explain(const char *digest, int r, struct why *why)
{
	if (r == -ENOENT)
		return why_set(why, refused(BUS_DATA_LOSS),
			       "blob %s is not in the content store: import the image again",
			       digest);
	if (r == -EFBIG)
		return why_set(why, refused(BUS_DATA_LOSS), "blob %s is no document: it is larger",
			       digest);
	return why_errno(why, error_trace(r), "cannot read blob %s", digest);
}

/* In place; or what a running pull has brought and verified. Gives the directory that @ret_path lies in. */
static int find_file(struct image_service *image, const char *digest,
		     char ret_path[DOWNLOAD_PATH_SIZE])
{
	snprintf(ret_path, DOWNLOAD_PATH_SIZE, "%s", hex_of(digest));
	if (faccessat(image->blobs, ret_path, F_OK, 0) < 0 && errno == ENOENT &&
	    downloads_find(image, digest, ret_path))
		return image->ingest;
	return image->blobs;
}

int content_open_blob(struct image_service *image, const char *digest, int *ret_fd, struct why *why)
{
	char path[DOWNLOAD_PATH_SIZE];
	int dir;

	if (!check_digest(digest))
		return why_set(why, refused(BUS_INVALID_ARGUMENT), "'%.100s' is not a digest",
			       digest);
	dir = find_file(image, digest, path);
	*ret_fd = openat(dir, path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	return *ret_fd < 0 ? explain(digest, -errno, why) : 0;
}

int content_load(struct image_service *image, const char *digest, char **ret_text, size_t *ret_size,
		 struct why *why)
{
	_cleanup_(cleanup_free) char *text = NULL;
	char actual[DIGEST_SIZE], path[DOWNLOAD_PATH_SIZE];
	size_t size;
	int dir, r;

	if (!check_digest(digest))
		return why_set(why, refused(BUS_INVALID_ARGUMENT), "'%.100s' is not a digest",
			       digest);
	dir = find_file(image, digest, path);
	r = file_read(dir, path, DOCUMENT_SIZE_MAX, &text, &size);
	if (r)
		return explain(digest, r, why);
	digest_of(text, size, actual);
	if (strcmp(actual, digest))
		return why_set(why, refused(BUS_DATA_LOSS),
			       "blob %s is damaged: its content is %s; import the image again",
			       digest, actual);
	*ret_text = TAKE(text);
	*ret_size = size;
	return 0;
}

static bool is_there(struct image_service *image, const char *digest)
{
	return faccessat(image->blobs, hex_of(digest), F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

/* A transaction that comes to nothing leaves no file that no record knows. */
static int give_back(struct image_service *image, int ingest,
		     const struct work_import_result *result, size_t n, int r)
{
	for (size_t i = 0; i < n; i++) {
		const struct work_blob *blob = &result->blobs.items[i];

		if (content_find(image, blob->digest) == STORE_E_NOT_FOUND)
			(void)renameat(image->blobs, hex_of(blob->digest), ingest, blob->path);
	}
	return r;
}

/*
 * Same content under the same name: replacing a file mends it if it was damaged.
 * What was moved already when the transaction is run again is in place.
 */
int content_take_blobs(struct image_service *image, int ingest,
		       const struct work_import_result *result, struct why *why)
{
	size_t i;
	int r;

	for (i = 0; i < result->blobs.count; i++) {
		const struct work_blob *blob = &result->blobs.items[i];

		if (!check_digest(blob->digest) || strchr(blob->path, '/'))
			return give_back(image, ingest, result, i,
					 why_set(why, error_origin(-EPROTO),
						 "davit-image-work named a blob '%.100s'",
						 blob->digest));
		if (renameat(ingest, blob->path, image->blobs, hex_of(blob->digest)) < 0 &&
		    !(errno == ENOENT && is_there(image, blob->digest)))
			return give_back(image, ingest, result, i,
					 why_errno(why, error_origin(-errno),
						   "cannot move blob %s into place", blob->digest));
	}
	r = content_sync(image, why);
	return r ? give_back(image, ingest, result, i, r) : 0;
}

int content_sync(struct image_service *image, struct why *why)
{
	if (fsync(image->blobs) < 0)
		return why_errno(why, error_origin(-errno), "cannot sync the content store");
	return 0;
}

struct clean {
	struct image_service *image;
	size_t n_removed;
};

/* STORE_E_NOT_FOUND: no record has it. */
static int find_named(struct image_service *image, const char *name)
{
	char digest[DIGEST_SIZE];

	if (snprintf(digest, sizeof(digest), "sha256:%.64s", name) != DIGEST_SIZE - 1 ||
	    strlen(name) != 64)
		return STORE_E_NOT_FOUND;
	return content_find(image, digest);
}

static int clean_one(struct clean *clean, const char *name)
{
	struct image_service *image = clean->image;
	int r = name[0] == '.' ? 0 : find_named(image, name);

	if (r != STORE_E_NOT_FOUND)
		return error_fold(r);
	if (store_rebuilt(image->store))
		return error_trace(schema_strs_add(&image->unrecorded_blobs, name));
	trash_take(image, image->blobs, name);
	clean->n_removed++;
	return 0;
}

static int clean_all(void *userdata)
{
	struct clean *clean = userdata;
	_cleanup_(cleanup_dir) DIR *dir = NULL;
	struct dirent *entry;
	int fd, r = 0;

	fd = openat(clean->image->blobs, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	dir = fd < 0 ? NULL : fdopendir(fd);
	if (!dir) {
		close_fd(fd);
		return error_origin(-EIO);
	}
	while (!r && (entry = readdir(dir)))
		r = clean_one(clean, entry->d_name);
	return r;
}

int content_clean(struct image_service *image)
{
	struct clean clean = {.image = image};
	int r;

	r = store_begin(image->store);
	if (r)
		return error_fold(r);
	/* A file without a record may be that of one that was damaged. */
	r = store_is_damaged(image->store, TABLE_BLOBS) ? 0 : clean_all(&clean);
	store_end(image->store, false);
	if (clean.n_removed)
		log_info("content=orphans removed=%zu", clean.n_removed);
	return error_fold(r);
}

/* ---- records ---- */

static int emit_create(struct image_service *image, const struct content_record *record)
{
	struct event_content_create event = {
		.digest = record->digest, .size = record->size, .media_type = record->media_type};

	return error_trace(service_emit(image->service, "", schema_find_event("/content/create"),
					record->digest, &event));
}

static int put_record(struct image_service *image, struct content_record *record)
{
	struct store_key key;
	int r;

	record->updated_at_ns = time_real_ns();
	r = content_key(record->digest, &key);
	if (!r)
		r = store_put(image->store, TABLE_BLOBS, &key, schema_content_record(), record);
	collect_expires(image, label_expiry(&record->labels));
	return error_trace(r);
}

static int put_new(struct image_service *image, struct content_record *record)
{
	int r;

	record->created_at_ns = time_real_ns();
	r = put_record(image, record);
	return r ? error_trace(r) : error_trace(emit_create(image, record));
}

static int record_blob(struct image_service *image, const struct work_blob *blob)
{
	struct content_record record = {
		.digest = blob->digest, .size = blob->size, .media_type = blob->media_type};

	return content_has(image, blob->digest) ? 0 : error_trace(put_new(image, &record));
}

int content_record_blobs(struct image_service *image, const struct work_import_result *result)
{
	int r = 0;

	for (size_t i = 0; i < result->blobs.count && !r; i++)
		r = record_blob(image, &result->blobs.items[i]);
	return error_trace(r);
}

static bool has_namespace(const struct content_record *record, const char *namespace)
{
	for (size_t i = 0; i < record->namespaces.count; i++) {
		if (!strcmp(record->namespaces.items[i], namespace))
			return true;
	}
	return false;
}

int content_commit_record(struct image_service *image, const char *namespace,
			  struct content_record *record, bool *ret_existed)
{
	_cleanup_(content_record_clear) struct content_record old = {};
	struct store_key key;
	int r;

	r = content_key(record->digest, &key);
	if (!r)
		r = store_get(image->store, TABLE_BLOBS, &key, schema_content_record(), &old);
	*ret_existed = !r;
	if (r == STORE_E_NOT_FOUND || r == STORE_E_DAMAGED) {
		record->namespaces = (struct schema_strs){(char **)&namespace, 1};
		return error_trace(put_new(image, record));
	}
	if (r || has_namespace(&old, namespace))
		return error_trace(r);
	r = schema_strs_add(&old.namespaces, namespace);
	return r ? error_trace(r) : error_trace(put_record(image, &old));
}

int content_remove(struct image_service *image, const char *digest)
{
	struct event_content_delete event = {.digest = (char *)digest};
	struct store_key key;
	int r;

	references_forget_blob(image, digest);
	r = content_key(digest, &key);
	if (!r)
		r = store_delete(image->store, TABLE_BLOBS, &key);
	if (!r)
		r = service_emit(image->service, "", schema_find_event("/content/delete"), digest,
				 &event);
	if (!r)
		r = trash_after_commit(image, image->blobs, hex_of(digest), digest);
	return error_trace(r);
}

/* ---- methods ---- */

int content_get(struct image_service *image, const char *digest, struct content_record *ret_record,
		struct why *why)
{
	struct store_key key;
	int r;

	if (!check_digest(digest))
		return why_set(why, refused(BUS_INVALID_ARGUMENT), "'%.100s' is not a digest",
			       digest);
	r = content_key(digest, &key);
	if (!r)
		r = store_get(image->store, TABLE_BLOBS, &key, schema_content_record(), ret_record);
	if (r == STORE_E_NOT_FOUND)
		return why_set(why, refused(BUS_NOT_FOUND), "no blob %s", digest);
	return error_trace(r);
}

int content_info(struct image_service *image, const struct content_info_request *request,
		 struct content_reply *reply, struct call *call)
{
	struct why why = {};
	int r;

	reply->content = calloc(1, sizeof(*reply->content));
	if (!reply->content)
		return error_origin(-ENOMEM);
	r = content_get(image, request->digest, reply->content, &why);
	return image_answer(call, r, &why, "the blob");
}

/* ---- update, delete ---- */

static int copy_label(const struct schema_map *from, const char *key, struct schema_map *to)
{
	const char *value = schema_map_get(from, key);

	if (value && value[0])
		return error_trace(schema_map_set(to, key, value));
	schema_map_remove(to, key);
	return 0;
}

static int copy_labels(const struct schema_map *from, struct schema_map *to)
{
	schema_map_clear(to);
	return error_trace(schema_map_copy(from, to));
}

static int copy_fields(const struct content_update_request *request, struct content_record *record,
		       struct why *why)
{
	const struct schema_strs *mask = &request->update_mask;
	const struct schema_map *from = &request->content->labels;
	int r = mask->count ? 0 : copy_labels(from, &record->labels);

	for (size_t i = 0; i < mask->count && !r; i++) {
		const char *field = mask->items[i];

		if (!strcmp(field, "labels"))
			r = copy_labels(from, &record->labels);
		else if (!strncmp(field, "labels.", 7) && field[7])
			r = copy_label(from, field + 7, &record->labels);
		else
			r = why_set(why, refused(BUS_INVALID_ARGUMENT),
				    "'%.100s' of a blob cannot be changed: labels and labels.<key> "
				    "can",
				    field);
	}
	return r;
}

static int update(struct image_service *image, const char *namespace,
		  const struct content_update_request *request, struct content_record *record,
		  struct why *why)
{
	struct schema_fault fault = {};
	uint64_t end;
	int r;

	r = content_get(image, request->content->digest, record, why);
	if (!r)
		r = copy_fields(request, record, why);
	/* Who labels it lists it, too. */
	if (!r && label_is_root(&record->labels, time_real_ns(), &end) &&
	    !has_namespace(record, namespace))
		r = schema_strs_add(&record->namespaces, namespace);
	if (r)
		return r;
	if (check_labels(&record->labels, &fault))
		return why_set(why, refused(BUS_INVALID_ARGUMENT), "blob %s: %s", record->digest,
			       fault.text);
	r = put_record(image, record);
	return r ? error_trace(r) : error_trace(collect(image));
}

int content_update(struct image_service *image, const struct content_update_request *request,
		   struct content_reply *reply, struct call *call)
{
	const char *namespace = call_checked_namespace(call);
	struct why why = {};
	int r;

	if (!namespace)
		return 0;
	reply->content = calloc(1, sizeof(*reply->content));
	if (!reply->content)
		return error_origin(-ENOMEM);
	r = update(image, namespace, request, reply->content, &why);
	return image_answer(call, r, &why, "the blob");
}

/* Blobs are shared: what one namespace deletes must not be missed by another. */
static int check_others(struct image_service *image, const char *namespace,
			const struct content_record *record, struct why *why)
{
	_cleanup_(references_clear) struct references references = {};
	int r;

	for (size_t i = 0; i < record->namespaces.count; i++) {
		if (strcmp(record->namespaces.items[i], namespace) != 0)
			return why_set(why, refused(BUS_FAILED_PRECONDITION),
				       "blob %s belongs to namespace '%s' too", record->digest,
				       record->namespaces.items[i]);
	}
	r = references_find_others(image, namespace, &references);
	if (!r && set_has(&references.digests, record->digest))
		return why_set(why, refused(BUS_FAILED_PRECONDITION),
			       "blob %s is needed by another namespace", record->digest);
	return error_trace(r);
}

int content_delete(struct image_service *image, const struct content_info_request *request,
		   struct empty *reply, struct call *call)
{
	_cleanup_(content_record_clear) struct content_record record = {};
	const char *namespace = call_checked_namespace(call);
	struct why why = {};
	int r;

	(void)reply;
	if (!namespace)
		return 0;
	r = content_get(image, request->digest, &record, &why);
	if (!r)
		r = check_others(image, namespace, &record, &why);
	if (!r)
		r = content_remove(image, request->digest);
	if (!r)
		r = collect(image);
	return image_answer(call, r, &why, "the blob");
}

struct listing {
	struct list list;
	struct content_list_reply *reply;
	const char *namespace;
	struct references references;
	struct filter *filter;
};

static int list_one(void *userdata, const struct store_key *key, void *data)
{
	struct listing *listing = userdata;
	struct content_record *record = data, *item;

	(void)key;
	if (list_is_before(&listing->list, record->digest) ||
	    !(set_has(&listing->references.digests, record->digest) ||
	      has_namespace(record, listing->namespace)) ||
	    !filter_match_message(listing->filter, schema_content_record(), record))
		return 0;
	if (!list_has_room(&listing->list, schema_content_record(), record))
		return list_stop(&listing->list, &listing->reply->after);
	item = schema_list_add(&listing->reply->contents);
	if (!item)
		return error_origin(-ENOMEM);
	return error_trace(
		list_added(&listing->list, record->digest, content_record_copy(record, item)));
}

int content_list(struct image_service *image, const struct list_request *request,
		 struct content_list_reply *reply, struct call *call)
{
	const char *namespace = call_checked_namespace(call);
	struct listing listing = {.reply = reply, .namespace = namespace};
	bool is_next = request->after && check_digest(request->after);
	struct store_key from;
	struct why why = {};
	int r;

	if (!namespace)
		return 0;
	r = list_start(&listing.list, request, &listing.filter, &why);
	if (!r && is_next)
		r = content_key(request->after, &from);
	if (!r)
		r = references_find(image, namespace, &listing.references);
	if (!r)
		r = store_walk(image->store, TABLE_BLOBS, NULL, is_next ? &from : NULL,
			       schema_content_record(), list_one, &listing);
	references_clear(&listing.references);
	filter_free(listing.filter);
	list_clear(&listing.list);
	return image_answer(call, r == LIST_FULL ? 0 : r, &why, "blobs");
}

int content_read(struct image_service *image, const struct content_read_request *request,
		 struct content_read_reply *reply, struct call *call)
{
	size_t size = request->size ? request->size : READ_MAX;
	_cleanup_(cleanup_fd) int fd = -1;
	_cleanup_(content_record_clear) struct content_record record = {};
	struct why why = {};
	ssize_t n;
	int r;

	r = content_get(image, request->digest, &record, &why);
	if (!r)
		r = content_open_blob(image, request->digest, &fd, &why);
	if (r)
		return image_answer(call, r, &why, "the blob");
	reply->size = record.size;
	reply->data.data = malloc(size);
	if (!reply->data.data)
		return error_origin(-ENOMEM);
	n = pread(fd, reply->data.data, size, (off_t)request->offset);
	if (n < 0)
		return call_fail(call, BUS_DATA_LOSS, "cannot read blob %s: %s", request->digest,
				 strerror(errno));
	reply->data.size = (size_t)n;
	return 0;
}
