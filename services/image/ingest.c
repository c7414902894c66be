/* Ingests: see ingest.h; content.write, abort, status, ingests. */

#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "broker/lib/file.h"
#include "broker/lib/log.h"
#include "schemas/check.h"
#include "services/image/downloads.h"
#include "services/image/handlers.h"
#include "services/image/ingest.h"
#include "services/image/lease.h"
#include "services/image/list.h"

#define REF_MAX   240
#define WRITER_MS 10000 /* of silence, after which another one may go on */

struct ingest_writer {
	struct ingest_writer *next;
	char *namespace, *ref, *writer;
	uint64_t until_ms;
};

/* ---- writers ---- */

static void writer_free(struct ingest_writer *writer)
{
	free(writer->namespace);
	free(writer->ref);
	free(writer->writer);
	free(writer);
}

/* Those that fell silent are taken off. */
static struct ingest_writer **find_writer(struct image_service *image, const char *namespace,
					  const char *ref)
{
	struct ingest_writer **at = &image->writers, **found = NULL, *writer;
	uint64_t now = time_boot_ms();

	while ((writer = *at)) {
		if (writer->until_ms <= now) {
			*at = writer->next;
			writer_free(writer);
			continue;
		}
		if (!strcmp(writer->ref, ref) && !strcmp(writer->namespace, namespace))
			found = at;
		at = &writer->next;
	}
	return found;
}

static int add_writer(struct image_service *image, const char *namespace, const char *ref,
		      const char *name)
{
	struct ingest_writer *writer = calloc(1, sizeof(*writer));
	int r;

	if (!writer)
		return error_origin(-ENOMEM);
	r = schema_set(&writer->namespace, namespace) ?: schema_set(&writer->ref, ref)
		       ?: schema_set(&writer->writer, name);
	if (r) {
		writer_free(writer);
		return error_trace(r);
	}
	writer->until_ms = time_boot_ms() + WRITER_MS;
	writer->next = image->writers;
	image->writers = writer;
	return 0;
}

char *ingest_commit_name(const char *ref)
{
	return text_format("ingest %s", ref);
}

static int check_commit(struct image_service *image, const char *namespace, const char *ref,
			struct why *why)
{
	_cleanup_(cleanup_free) char *name = ingest_commit_name(ref);

	if (!name)
		return error_origin(-ENOMEM);
	if (operation_is_any_running(image->service, namespace, name))
		return why_set(why, refused(BUS_UNAVAILABLE),
			       "ingest '%s' is being committed: ask again when that has ended",
			       ref);
	return 0;
}

int ingest_lock(struct image_service *image, const char *namespace, const char *ref,
		const char *writer, struct why *why)
{
	struct ingest_writer **at;
	int r;

	r = check_commit(image, namespace, ref, why);
	if (r)
		return r;
	at = find_writer(image, namespace, ref);
	if (!at)
		return error_trace(add_writer(image, namespace, ref, writer));
	if (strcmp((*at)->writer, writer) != 0)
		return why_set(why, refused(BUS_UNAVAILABLE),
			       "ingest '%s' is being written by another: try again when it has "
			       "ended, or was silent for %d s",
			       ref, WRITER_MS / 1000);
	(*at)->until_ms = time_boot_ms() + WRITER_MS;
	return 0;
}

void ingest_unlock(struct image_service *image, const char *namespace, const char *ref)
{
	struct ingest_writer **at = find_writer(image, namespace, ref), *writer;

	if (!at)
		return;
	writer = *at;
	*at = writer->next;
	writer_free(writer);
}

void ingest_close(struct image_service *image)
{
	while (image->writers) {
		struct ingest_writer *writer = image->writers;

		image->writers = writer->next;
		writer_free(writer);
	}
}

/* ---- records ---- */

static int make_key(const char *namespace, const char *ref, struct store_key *ret_key)
{
	return store_key(ret_key, namespace, ref, NULL);
}

int ingest_check_ref(const char *ref, struct why *why)
{
	size_t size = strlen(ref);
	bool is_good = size && size <= REF_MAX;

	for (const char *c = ref; *c; c++)
		is_good = is_good && (unsigned char)*c >= ' ' && *c != 0x7f;
	return is_good ? 0
		       : why_set(why, refused(BUS_INVALID_ARGUMENT),
				 "a ref has 1 to %d bytes without control characters", REF_MAX);
}

int ingest_get(struct image_service *image, const char *namespace, const char *ref,
	       struct content_ingest *ret_ingest, struct why *why)
{
	struct store_key key;
	int r;

	r = ingest_check_ref(ref, why);
	if (r)
		return r;
	r = make_key(namespace, ref, &key);
	if (!r)
		r = store_get(image->store, TABLE_INGESTS, &key, schema_content_ingest(),
			      ret_ingest);
	if (r == STORE_E_NOT_FOUND || r == STORE_E_DAMAGED)
		return why_set(why, refused(BUS_NOT_FOUND), "no ingest '%s' in namespace '%s'", ref,
			       namespace);
	return error_trace(r);
}

int ingest_look(struct image_service *image, struct content_ingest *ingest)
{
	struct stat status;

	if (fstatat(image->ingest, ingest->file, &status, AT_SYMLINK_NOFOLLOW) < 0)
		return error_origin(-errno);
	ingest->offset = (uint64_t)status.st_size;
	ingest->updated_at_ns = (uint64_t)status.st_mtim.tv_sec * 1000000000 +
				(uint64_t)status.st_mtim.tv_nsec;
	return 0;
}

int ingest_drop(struct image_service *image, const char *namespace,
		const struct content_ingest *ingest)
{
	struct store_key key;
	int r;

	r = make_key(namespace, ingest->ref, &key);
	if (!r)
		r = store_delete(image->store, TABLE_INGESTS, &key);
	if (!r)
		r = trash_after_commit(image, image->ingest, ingest->file, NULL);
	return error_trace(r);
}

/* The same file when the request is run again. */
static int make_ingest(struct image_service *image, const char *namespace, struct call *call,
		       const struct content_write_request *request,
		       struct content_ingest *ret_ingest)
{
	struct content_ingest record = {.ref = request->ref,
					.total = request->total,
					.expected = request->expected,
					.started_at_ns = time_real_ns(),
					.boot = {image->boot, sizeof(image->boot)}};
	char file[ID_TEXT_SIZE];
	uint8_t id[ID_SIZE];
	struct store_key key;
	int r;

	id_derive(call_id(call), "ingest", 0, id);
	id_format(id, file);
	record.file = file;
	r = make_key(namespace, request->ref, &key);
	if (!r)
		r = store_put(image->store, TABLE_INGESTS, &key, schema_content_ingest(), &record);
	if (r)
		return error_trace(r);
	collect_expires(image, record.started_at_ns + INGEST_NS);
	/* An ingest whose commit failed has left a file without a record. */
	(void)unlinkat(image->ingest, file, 0);
	return error_trace(content_ingest_copy(&record, ret_ingest));
}

/* ---- writing ---- */

static int differs(const struct content_write_request *request, struct why *why)
{
	return why_set(why, refused(BUS_FAILED_PRECONDITION),
		       "ingest '%s' has other bytes at %llu than these: `content.abort` drops it",
		       request->ref, (unsigned long long)request->offset);
}

/* Is what is there the same as what comes again? */
static int compare(int fd, const struct content_write_request *request, size_t size,
		   struct why *why)
{
	_cleanup_(cleanup_free) void *there = malloc(size + 1);
	ssize_t n;

	if (!there)
		return error_origin(-ENOMEM);
	n = pread(fd, there, size, (off_t)request->offset);
	if (n < 0)
		return why_errno(why, error_origin(-errno), "cannot read ingest '%s'",
				 request->ref);
	return (size_t)n == size && (!size || !memcmp(there, request->data.data, size))
		       ? 0
		       : differs(request, why);
}

static int append(int fd, const struct content_write_request *request, size_t done, uint64_t size,
		  struct why *why)
{
	size_t left = request->data.size - done;
	ssize_t n;
	int r;

	n = left ? pwrite(fd, request->data.data + done, left, (off_t)size) : 0;
	if (n == (ssize_t)left)
		return 0;
	r = n < 0 ? -errno : -ENOSPC;
	/* Half a part is none. */
	if (ftruncate(fd, (off_t)size) < 0)
		log_error("ingest=%s error=\"%s\"", request->ref, strerror(errno));
	return why_errno(why, error_origin(r), "cannot write ingest '%s'", request->ref);
}

static int check_part(const struct content_ingest *ingest,
		      const struct content_write_request *request, uint64_t size, struct why *why)
{
	uint64_t end = request->offset + request->data.size;

	if (request->offset > size)
		return why_set(why, refused(BUS_FAILED_PRECONDITION),
			       "ingest '%s' has %llu bytes: the next part does not start at %llu",
			       request->ref, (unsigned long long)size,
			       (unsigned long long)request->offset);
	if (end > INT64_MAX || (ingest->total && end > ingest->total))
		return why_set(why, refused(BUS_FAILED_PRECONDITION),
			       "ingest '%s' shall have %llu bytes: this part ends at %llu",
			       request->ref, (unsigned long long)ingest->total,
			       (unsigned long long)end);
	return 0;
}

static int write_part(struct image_service *image, const struct content_ingest *ingest,
		      const struct content_write_request *request, struct why *why)
{
	_cleanup_(cleanup_fd) int fd = -1;
	struct stat status;
	uint64_t size;
	size_t done;
	int r;

	fd = openat(image->ingest, ingest->file, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0 || fstat(fd, &status) < 0)
		return why_errno(why, error_origin(-errno), "cannot open ingest '%s'",
				 request->ref);
	size = (uint64_t)status.st_size;
	r = check_part(ingest, request, size, why);
	if (r)
		return r;
	done = size - request->offset < request->data.size ? (size_t)(size - request->offset)
							   : request->data.size;
	r = compare(fd, request, done, why);
	return r ? r : append(fd, request, done, size, why);
}

/* What is said of the whole must not change. */
static int check_same(const struct content_ingest *ingest,
		      const struct content_write_request *request, struct why *why)
{
	if (request->total && ingest->total && request->total != ingest->total)
		return why_set(why, refused(BUS_FAILED_PRECONDITION),
			       "ingest '%s' shall have %llu bytes, not %llu", request->ref,
			       (unsigned long long)ingest->total,
			       (unsigned long long)request->total);
	if (request->expected && request->expected[0] && ingest->expected &&
	    strcmp(request->expected, ingest->expected) != 0)
		return why_set(why, refused(BUS_FAILED_PRECONDITION),
			       "ingest '%s' shall become %s, not %s", request->ref,
			       ingest->expected, request->expected);
	return 0;
}

static int write_ingest(struct image_service *image, const char *namespace, struct call *call,
			const struct content_write_request *request, struct content_ingest *ingest,
			struct why *why)
{
	struct why none = {}; /* that there was none yet explains nothing */
	bool is_new;
	int r;

	r = ingest_lock(image, namespace, request->ref, request->writer, why);
	if (r)
		return r;
	r = ingest_get(image, namespace, request->ref, ingest, &none);
	is_new = r == refused(BUS_NOT_FOUND);
	if (is_new)
		r = make_ingest(image, namespace, call, request, ingest);
	else if (!r)
		r = check_same(ingest, request, why);
	if (!r)
		r = lease_add(image, namespace, request->lease, LEASE_INGESTS, request->ref);
	if (!r)
		r = write_part(image, ingest, request, why);
	/* It gets no record then. */
	if (r && is_new && ingest->file)
		(void)unlinkat(image->ingest, ingest->file, 0);
	return r ? r : ingest_look(image, ingest);
}

static int check_write(struct image_service *image, const char *namespace,
		       const struct content_write_request *request, struct why *why)
{
	int r;

	r = ingest_check_ref(request->ref, why);
	if (r)
		return r;
	if (!request->writer[0])
		return why_set(why, refused(BUS_INVALID_ARGUMENT),
			       "ingest '%s': the writer has no name", request->ref);
	if (request->expected && request->expected[0] && !check_digest(request->expected))
		return why_set(why, refused(BUS_INVALID_ARGUMENT), "'%.100s' is not a digest",
			       request->expected);
	return lease_check(image, namespace, request->lease, why);
}

/* What only the service needs. */
static void hide_own(struct content_ingest *ingest)
{
	schema_set(&ingest->file, NULL);
	schema_bytes_clear(&ingest->boot);
}

int content_write(struct image_service *image, const struct content_write_request *request,
		  struct content_write_reply *reply, struct call *call)
{
	const char *namespace = call_checked_namespace(call);
	struct why why = {};
	int r;

	if (!namespace)
		return 0;
	r = check_write(image, namespace, request, &why);
	if (r)
		return image_answer(call, r, &why, "the ingest");
	if (request->expected && content_has(image, request->expected)) {
		reply->exists = true;
		r = lease_add_content(image, namespace, request->lease, request->expected);
		return image_answer(call, r, &why, "the lease");
	}
	reply->ingest = calloc(1, sizeof(*reply->ingest));
	if (!reply->ingest)
		return error_origin(-ENOMEM);
	r = write_ingest(image, namespace, call, request, reply->ingest, &why);
	hide_own(reply->ingest);
	return image_answer(call, r, &why, "the ingest");
}

/* ---- the other methods ---- */

/* No client's ingest has that name, as @why says. */
static int abort_download(struct image_service *image, const char *ref, struct why *why)
{
	struct why own = {};
	int r = downloads_abort(image, ref, &own);

	if (r == -ENOENT)
		return refused(BUS_NOT_FOUND);
	*why = own;
	return r;
}

static int look_up(struct image_service *image, const char *namespace, const char *ref,
		   struct content_ingest *ret_ingest, struct why *why)
{
	int r, found;

	r = ingest_get(image, namespace, ref, ret_ingest, why);
	if (r == refused(BUS_NOT_FOUND)) {
		found = downloads_look(image, ref, ret_ingest);
		return found == -ENOENT ? r : error_trace(found);
	}
	return r ? r : error_trace(ingest_look(image, ret_ingest));
}

int content_abort(struct image_service *image, const struct content_ref_request *request,
		  struct empty *reply, struct call *call)
{
	_cleanup_(content_ingest_clear) struct content_ingest ingest = {};
	const char *namespace = call_checked_namespace(call);
	struct why why = {};
	int r;

	(void)reply;
	if (!namespace)
		return 0;
	r = ingest_get(image, namespace, request->ref, &ingest, &why);
	if (r == refused(BUS_NOT_FOUND))
		return image_answer(call, abort_download(image, request->ref, &why), &why,
				    "the ingest");
	if (!r)
		r = check_commit(image, namespace, request->ref, &why);
	if (!r)
		r = ingest_drop(image, namespace, &ingest);
	if (!r)
		ingest_unlock(image, namespace, request->ref);
	return image_answer(call, r, &why, "the ingest");
}

int content_status(struct image_service *image, const struct content_ref_request *request,
		   struct content_ingest_reply *reply, struct call *call)
{
	const char *namespace = call_checked_namespace(call);
	struct why why = {};
	int r;

	if (!namespace)
		return 0;
	reply->ingest = calloc(1, sizeof(*reply->ingest));
	if (!reply->ingest)
		return error_origin(-ENOMEM);
	r = look_up(image, namespace, request->ref, reply->ingest, &why);
	hide_own(reply->ingest);
	return image_answer(call, r, &why, "the ingest");
}

struct listing {
	struct list list;
	struct image_service *image;
	struct content_ingests_reply *reply;
	struct filter *filter;
	struct schema_strs downloads; /* in order */
	size_t next;                  /* of them */
};

static int list_item(struct listing *listing, const struct content_ingest *ingest)
{
	struct content_ingest *item;

	if (!filter_match_message(listing->filter, schema_content_ingest(), ingest))
		return 0;
	if (!list_has_room(&listing->list, schema_content_ingest(), ingest))
		return list_stop(&listing->list, &listing->reply->after);
	item = schema_list_add(&listing->reply->ingests);
	if (!item)
		return error_origin(-ENOMEM);
	return error_trace(
		list_added(&listing->list, ingest->ref, content_ingest_copy(ingest, item)));
}

static int list_download(struct listing *listing, const char *name)
{
	_cleanup_(content_ingest_clear) struct content_ingest ingest = {};
	int r;

	if (list_is_before(&listing->list, name))
		return 0;
	r = downloads_look(listing->image, name, &ingest);
	if (r)
		return r == -ENOENT ? 0 : error_trace(r);
	return list_item(listing, &ingest);
}

/* Those that come before @ref; NULL: all. A client's ingest of the same name hides one. */
static int list_downloads(struct listing *listing, const char *ref)
{
	int r = 0;

	while (!r && listing->next < listing->downloads.count) {
		const char *name = listing->downloads.items[listing->next];
		int order = ref ? strcmp(name, ref) : -1;

		if (order > 0)
			break;
		if (order < 0)
			r = list_download(listing, name);
		listing->next++;
	}
	return r;
}

static int list_one(void *userdata, const struct store_key *key, void *data)
{
	struct listing *listing = userdata;
	struct content_ingest *ingest = data;
	int r;

	(void)key;
	r = list_downloads(listing, ingest->ref);
	if (r || list_is_before(&listing->list, ingest->ref) || ingest_look(listing->image, ingest))
		return r;
	hide_own(ingest);
	return list_item(listing, ingest);
}

int content_ingests(struct image_service *image, const struct list_request *request,
		    struct content_ingests_reply *reply, struct call *call)
{
	struct listing listing = {.image = image, .reply = reply};
	const char *namespace = call_checked_namespace(call);
	struct store_key prefix;
	struct why why = {};
	int r;

	if (!namespace)
		return 0;
	r = list_start(&listing.list, request, &listing.filter, &why);
	if (!r)
		r = downloads_names(image, &listing.downloads);
	if (!r)
		r = store_key(&prefix, namespace, "", NULL);
	if (!r)
		r = store_walk(image->store, TABLE_INGESTS, &prefix, NULL, schema_content_ingest(),
			       list_one, &listing);
	if (!r)
		r = list_downloads(&listing, NULL);
	schema_strs_clear(&listing.downloads);
	filter_free(listing.filter);
	list_clear(&listing.list);
	return image_answer(call, r == LIST_FULL ? 0 : r, &why, "ingests");
}

/* ---- at the start ---- */

struct cleaning {
	struct image_service *image;
	struct set files;
};

static int keep_ingest(void *userdata, const struct store_key *key, void *data)
{
	struct cleaning *cleaning = userdata;
	struct image_service *image = cleaning->image;
	struct content_ingest *ingest = data;

	if (ingest->boot.size != sizeof(image->boot) ||
	    memcmp(ingest->boot.data, image->boot, sizeof(image->boot)) != 0 ||
	    ingest_look(image, ingest)) {
		log_info("ingest=%s dropped=\"it is of another boot\"", ingest->ref);
		return error_trace(store_delete(image->store, TABLE_INGESTS, key));
	}
	collect_expires(image, ingest->updated_at_ns + INGEST_NS);
	return error_trace(set_add(&cleaning->files, ingest->file));
}

/* Imports that were cut read their archive again; downloads go on. */
static int clean_files(struct cleaning *cleaning)
{
	struct image_service *image = cleaning->image;
	_cleanup_(cleanup_dir) DIR *dir = NULL;
	struct dirent *entry;
	int fd;

	fd = openat(image->ingest, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	dir = fd < 0 ? NULL : fdopendir(fd);
	if (!dir) {
		close_fd(fd);
		return error_origin(-EIO);
	}
	while ((entry = readdir(dir))) {
		if (entry->d_name[0] != '.' && !downloads_is_name(entry->d_name) &&
		    !set_has(&cleaning->files, entry->d_name) && !store_rebuilt(image->store))
			trash_take(image, image->ingest, entry->d_name);
	}
	downloads_clean(image);
	return 0;
}

int ingest_clean(struct image_service *image)
{
	struct cleaning cleaning = {.image = image};
	int r;

	r = store_begin(image->store);
	if (r)
		return error_fold(r);
	r = store_walk(image->store, TABLE_INGESTS, NULL, NULL, schema_content_ingest(),
		       keep_ingest, &cleaning);
	store_end(image->store, !r);
	if (!r)
		r = store_commit(image->store);
	if (!r)
		r = clean_files(&cleaning);
	set_clear(&cleaning.files);
	return error_fold(r);
}
