/* Blobs on their way into the content store: see downloads.h. */

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>

#include "broker/lib/file.h"
#include "broker/lib/log.h"
#include "schemas/check.h"
#include "services/image/downloads.h"
#include "services/image/lease.h"
#include "services/image/transfer.h"

#define PREFIX       "download-"
#define KEPT_S       (24 * 3600)
#define REF_SIZE_MAX 4096

static const char *hex_of(const char *digest)
{
	return digest + strlen("sha256:");
}

static void make_path(const char *digest, char path[DOWNLOAD_PATH_SIZE])
{
	snprintf(path, DOWNLOAD_PATH_SIZE, PREFIX "%.64s/data", hex_of(digest));
}

void downloads_init(struct image_service *image, struct downloads *downloads)
{
	*downloads = (struct downloads){.next = image->downloads};
	image->downloads = downloads;
}

void downloads_deinit(struct image_service *image, struct downloads *downloads)
{
	for (struct downloads **at = &image->downloads; *at; at = &(*at)->next) {
		if (*at == downloads) {
			*at = downloads->next;
			break;
		}
	}
	set_clear(&downloads->digests);
}

bool downloads_find(const struct image_service *image, const char *digest,
		    char ret_path[DOWNLOAD_PATH_SIZE])
{
	for (const struct downloads *at = image->downloads; at; at = at->next) {
		if (set_has(&at->digests, digest)) {
			make_path(digest, ret_path);
			return true;
		}
	}
	return false;
}

/* Another pull may have taken the same blob: then it is in place already. */
int downloads_take(struct image_service *image, const char *digest, struct why *why)
{
	char path[DOWNLOAD_PATH_SIZE];

	if (!check_digest(digest))
		return why_set(why, error_origin(-EPROTO), "davit-image-work named a blob '%.100s'",
			       digest);
	make_path(digest, path);
	if (renameat(image->ingest, path, image->blobs, hex_of(digest)) < 0) {
		if (errno == ENOENT && !faccessat(image->blobs, hex_of(digest), R_OK, 0))
			return 0;
		return why_errno(why, error_origin(-errno), "cannot move blob %s into place",
				 digest);
	}
	*strchr(path, '/') = '\0';
	trash_take(image, image->ingest, path);
	return 0;
}

bool downloads_is_name(const char *name)
{
	return !strncmp(name, PREFIX, strlen(PREFIX));
}

/* Old, and nobody at it. */
static bool is_given_up(const struct image_service *image, const char *name)
{
	_cleanup_(cleanup_free) char *path = text_format("%s/data", name);
	_cleanup_(cleanup_fd) int fd = -1;
	struct stat status;

	fd = path ? openat(image->ingest, path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC) : -1;
	if (fd < 0 || fstat(fd, &status) < 0)
		return path && errno == ENOENT;
	return status.st_mtime + KEPT_S < time(NULL) && !flock(fd, LOCK_EX | LOCK_NB);
}

static int open_ingest(const struct image_service *image, DIR **ret_dir)
{
	int fd = openat(image->ingest, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	*ret_dir = fd < 0 ? NULL : fdopendir(fd);
	if (*ret_dir)
		return 0;
	close_fd(fd);
	return error_origin(-EIO);
}

void downloads_clean(struct image_service *image)
{
	_cleanup_(cleanup_dir) DIR *dir = NULL;
	struct dirent *entry;

	if (open_ingest(image, &dir))
		return;
	while ((entry = readdir(dir))) {
		char path[DOWNLOAD_PATH_SIZE], digest[DIGEST_SIZE];

		if (!downloads_is_name(entry->d_name))
			continue;
		snprintf(digest, sizeof(digest), "sha256:%.64s", entry->d_name + strlen(PREFIX));
		if (!downloads_find(image, digest, path) && is_given_up(image, entry->d_name))
			trash_take(image, image->ingest, entry->d_name);
	}
}

/* ---- as ingests ---- */

static bool digest_of_name(const char *name, char ret_digest[DIGEST_SIZE])
{
	if (!downloads_is_name(name) || strlen(name) != strlen(PREFIX) + 64)
		return false;
	snprintf(ret_digest, DIGEST_SIZE, "sha256:%.64s", name + strlen(PREFIX));
	return check_digest(ret_digest);
}

static int compare_names(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

int downloads_names(struct image_service *image, struct schema_strs *ret_names)
{
	_cleanup_(cleanup_dir) DIR *dir = NULL;
	char digest[DIGEST_SIZE];
	struct dirent *entry;
	int r;

	r = open_ingest(image, &dir);
	while (!r && (entry = readdir(dir))) {
		if (digest_of_name(entry->d_name, digest))
			r = schema_strs_add(ret_names, entry->d_name);
	}
	if (!r && ret_names->count)
		qsort(ret_names->items, ret_names->count, sizeof(*ret_names->items), compare_names);
	return error_trace(r);
}

/* The third line of `ref`; 0: it does not say. */
static uint64_t read_total(const struct image_service *image, const char *name)
{
	_cleanup_(cleanup_free) char *path = text_format("%s/ref", name), *text = NULL;
	unsigned long long total;
	size_t size;

	if (!path || file_read(image->ingest, path, REF_SIZE_MAX, &text, &size) ||
	    sscanf(text, "%*[^\n]\n%*[^\n]\n%llu", &total) != 1 || total > INT64_MAX)
		return 0;
	return total;
}

static uint64_t time_of(const struct timespec *time)
{
	return (uint64_t)time->tv_sec * 1000000000 + (uint64_t)time->tv_nsec;
}

int downloads_look(struct image_service *image, const char *ref, struct content_ingest *ret_ingest)
{
	char path[DOWNLOAD_PATH_SIZE], digest[DIGEST_SIZE];
	struct stat status, directory;
	int r;

	if (!digest_of_name(ref, digest))
		return -ENOENT;
	make_path(digest, path);
	if (fstatat(image->ingest, path, &status, AT_SYMLINK_NOFOLLOW) < 0 ||
	    fstatat(image->ingest, ref, &directory, AT_SYMLINK_NOFOLLOW) < 0)
		return -ENOENT;
	r = schema_set(&ret_ingest->ref, ref) ?: schema_set(&ret_ingest->expected, digest);
	if (r)
		return error_trace(r);
	ret_ingest->offset = (uint64_t)status.st_size;
	ret_ingest->total = read_total(image, ref);
	/* Its two files were made then. */
	ret_ingest->started_at_ns = time_of(&directory.st_mtim);
	ret_ingest->updated_at_ns = time_of(&status.st_mtim);
	return 0;
}

/* Is it held by the one that loads it; or whole, and perhaps of a pull that waits for its other blobs? */
static bool is_in_use(struct image_service *image, const struct content_ingest *ingest, int fd)
{
	char path[DOWNLOAD_PATH_SIZE];

	return downloads_find(image, ingest->expected, path) ||
	       (image->downloads && ingest->total && ingest->offset == ingest->total) ||
	       flock(fd, LOCK_EX | LOCK_NB) < 0;
}

int downloads_abort(struct image_service *image, const char *ref, struct why *why)
{
	_cleanup_(content_ingest_clear) struct content_ingest ingest = {};
	_cleanup_(cleanup_fd) int fd = -1;
	char path[DOWNLOAD_PATH_SIZE];
	int r;

	r = downloads_look(image, ref, &ingest);
	if (r)
		return r;
	make_path(ingest.expected, path);
	fd = openat(image->ingest, path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? -ENOENT : error_origin(-errno);
	if (is_in_use(image, &ingest, fd))
		return why_set(why, refused(BUS_FAILED_PRECONDITION),
			       "ingest '%s' is being loaded by a pull: it can be dropped when that "
			       "has ended",
			       ref);
	/* It has no record that could be kept without it: it is gone before the answer. */
	trash_take(image, image->ingest, ref);
	return 0;
}

/* ---- what a child has loaded ---- */

int downloads_keep(struct image_pull_context *context, struct work_fetch_result *result)
{
	if (!context->result)
		context->result = calloc(1, sizeof(*context->result));
	if (!context->result)
		return error_origin(-ENOMEM);
	work_fetch_result_clear(context->result);
	*context->result = *result;
	*result = (struct work_fetch_result){};
	return 0;
}

static int take_all(struct image_service *image, const struct work_fetch_result *result,
		    struct why *why)
{
	int r = 0;

	for (size_t i = 0; i < result->blobs.count && !r; i++) {
		if (result->blobs.items[i].path && result->blobs.items[i].path[0])
			r = downloads_take(image, result->blobs.items[i].digest, why);
	}
	return r ? r : content_sync(image, why);
}

int downloads_record(struct operation *operation, const char *name,
		     const struct work_fetch_result *result, struct why *why)
{
	struct image_service *image = operation_object(operation);
	_cleanup_(cleanup_free) char *full = reference_normalize(name);
	struct work_import_result blobs = {};
	int r = full ? 0 : error_origin(-ENOMEM);

	for (size_t i = 0; i < result->blobs.count && !r; i++)
		r = lease_hold_content(operation, result->blobs.items[i].digest);
	if (!r)
		r = take_all(image, result, why);
	blobs.blobs.items = result->blobs.items;
	blobs.blobs.count = result->blobs.count;
	if (!r)
		r = content_record_blobs(image, &blobs);
	for (size_t i = 0; i < result->blobs.count && !r; i++)
		r = transfer_add_source(image, result->blobs.items[i].digest, full);
	return r;
}

void downloads_drop(struct image_service *image, const struct work_fetch_result *result)
{
	for (size_t i = 0; result && i < result->blobs.count; i++) {
		const struct work_blob *blob = &result->blobs.items[i];

		if (blob->path && blob->path[0] && check_digest(blob->digest) &&
		    !content_has(image, blob->digest))
			(void)trash_after_commit(image, image->blobs,
						 blob->digest + strlen("sha256:"), blob->digest);
	}
}
