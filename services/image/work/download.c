/* Loading one blob: see download.h. */

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "broker/lib/file.h"
#include "services/image/document.h"
#include "services/image/work/download.h"
#include "services/image/work/hash.h"

#define CONNECTIONS_MAX 1000 /* for one blob from one host, as long as each brings something */
#define DAMAGES_MAX     3    /* times that all of it was loaded and was something else */
#define SYNC_STEP       (8u << 20) /* so that the last sync is short */
#define BLOB_SIZE_MAX   (64ull << 30)

struct download {
	struct registry *registry;
	const struct descriptor *blob;
	struct job *job;
	int fd;
	struct hash *hash; /* of what is on disk */
	uint64_t offset;   /* so much is */
	uint64_t skip;     /* bytes that come although they are there */
	uint64_t synced;
	int r;           /* why the sink refused */
	struct why last; /* of the host that was tried last */
	struct why *why;
};

static void download_clear(struct download *download)
{
	close_fd(download->fd);
	hash_free(download->hash);
}

void download_path(const char *digest, char ret_path[DOWNLOAD_PATH_SIZE])
{
	snprintf(ret_path, DOWNLOAD_PATH_SIZE, "download-%s/data", digest + strlen("sha256:"));
}

/* ---- the place ---- */

static int write_reference(int dir, const struct registry *registry, const char *digest,
			   uint64_t size)
{
	_cleanup_(cleanup_free) char *text = text_format("%s\n%s\n%llu\n", registry->remote.name,
							 digest, (unsigned long long)size);
	_cleanup_(cleanup_fd) int fd = -1;

	if (!text)
		return error_origin(-ENOMEM);
	fd = openat(dir, "ref", O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return error_origin(-errno);
	return error_trace(file_write_all(fd, text, strlen(text)));
}

static int open_place(const struct registry *registry, int ingest, const char *digest,
		      uint64_t size, int *ret_fd, struct why *why)
{
	_cleanup_(cleanup_fd) int dir = -1, fd = -1;
	char name[DOWNLOAD_NAME_SIZE];
	int r;

	snprintf(name, sizeof(name), "download-%s", digest + strlen("sha256:"));
	if (mkdirat(ingest, name, 0700) < 0 && errno != EEXIST)
		return why_errno(why, error_origin(-errno), "cannot make an ingest for %s", digest);
	dir = openat(ingest, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	fd = dir < 0 ? -1 : openat(dir, "data", O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	/* Another pull has just put it into the content store. */
	if (fd < 0 && errno == ENOENT)
		return POOL_AGAIN;
	if (fd < 0)
		return why_errno(why, error_origin(-errno), "cannot open the ingest of %s", digest);
	r = write_reference(dir, registry, digest, size);
	if (r)
		return why_errno(why, r, "cannot write into the ingest of %s", digest);
	*ret_fd = TAKE_FD(fd);
	return 0;
}

static bool is_still_there(int ingest, const char *digest, int fd)
{
	char path[DOWNLOAD_PATH_SIZE];
	struct stat own, there;

	download_path(digest, path);
	return !fstat(fd, &own) && !fstatat(ingest, path, &there, AT_SYMLINK_NOFOLLOW) &&
	       own.st_ino == there.st_ino && own.st_dev == there.st_dev;
}

/* Whoever loads the same blob is waited for. */
static int lock_place(int ingest, const char *digest, int fd)
{
	while (flock(fd, LOCK_EX | LOCK_NB) < 0) {
		if (errno != EWOULDBLOCK && errno != EINTR)
			return error_origin(-errno);
		if (http_is_stopped())
			return -ECANCELED;
		poll(NULL, 0, 100);
	}
	return is_still_there(ingest, digest, fd) ? 0 : POOL_AGAIN;
}

static int begin_anew(struct download *download)
{
	char digest[DIGEST_SIZE];

	hash_finish(download->hash, digest);
	download->offset = download->synced = 0;
	download->job->moved = 0;
	if (ftruncate(download->fd, 0) < 0)
		return why_errno(download->why, error_origin(-errno),
				 "cannot empty the ingest of %s", download->blob->digest);
	return 0;
}

/* What is there already is read, since only its digest tells what it is. */
static int read_present(struct download *download)
{
	_cleanup_(cleanup_free) char *buffer = malloc(1u << 20);
	ssize_t n;

	if (!buffer)
		return error_origin(-ENOMEM);
	while ((n = pread(download->fd, buffer, 1u << 20, (off_t)download->offset)) > 0) {
		if (http_is_stopped())
			return -ECANCELED;
		hash_add(download->hash, buffer, (size_t)n);
		download->offset += (uint64_t)n;
		download->job->moved = download->offset;
		if (download->offset > download->blob->size)
			return begin_anew(download);
	}
	return n < 0 ? why_errno(download->why, error_origin(-errno),
				 "cannot read the ingest of %s", download->blob->digest)
		     : 0;
}

/* ---- bytes ---- */

static int on_begin(void *userdata, const struct http_reply *reply)
{
	struct download *download = userdata;
	const char *digest = download->blob->digest;
	uint64_t first, last, total;

	download->skip = 0;
	if (reply->status != 206) {
		/* A server that knows no ranges sends all of it. */
		download->skip = download->offset;
		return 0;
	}
	if (!reply->range || !remote_parse_range(reply->range, &first, &last, &total) ||
	    first != download->offset || (total != UINT64_MAX && total != download->blob->size))
		return download->r = why_set(
			       download->why, WORK_E_INVALID,
			       "blob %s: the reply has the range '%s', not from %llu of %llu",
			       digest, reply->range ? work_show(reply->range) : "",
			       (unsigned long long)download->offset,
			       (unsigned long long)download->blob->size);
	return 0;
}

static int store(struct download *download, const char *data, size_t size)
{
	while (size) {
		ssize_t n = pwrite(download->fd, data, size, (off_t)download->offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return why_errno(download->why, error_origin(-errno),
					 "cannot store blob %s", download->blob->digest);
		hash_add(download->hash, data, (size_t)n);
		download->offset += (uint64_t)n;
		download->job->came += (uint64_t)n;
		data += n;
		size -= (size_t)n;
	}
	download->job->moved = download->offset;
	if (download->offset - download->synced >= SYNC_STEP) {
		(void)sync_file_range(download->fd, (off_t)download->synced,
				      (off_t)(download->offset - download->synced),
				      SYNC_FILE_RANGE_WRITE);
		download->synced = download->offset;
	}
	return 0;
}

static int on_data(void *userdata, const void *data, size_t size)
{
	struct download *download = userdata;
	size_t skipped = size < download->skip ? size : (size_t)download->skip;

	download->skip -= skipped;
	data = (const char *)data + skipped;
	size -= skipped;
	if (size > download->blob->size - download->offset)
		return download->r = why_set(download->why, WORK_E_DAMAGED,
					     "blob %s: more comes than the %llu bytes that it has",
					     download->blob->digest,
					     (unsigned long long)download->blob->size);
	return download->r = store(download, data, size);
}

static int finish(struct download *download, bool *ret_is_good)
{
	char digest[DIGEST_SIZE];

	*ret_is_good = false;
	if (download->offset != download->blob->size)
		return 0;
	hash_finish(download->hash, digest);
	*ret_is_good = !strcmp(digest, download->blob->digest);
	if (!*ret_is_good)
		return begin_anew(download);
	if (fdatasync(download->fd) < 0)
		return why_errno(download->why, error_origin(-errno), "cannot sync blob %s",
				 download->blob->digest);
	return 0;
}

/* ---- one host ---- */

struct tries {
	unsigned n_failures; /* in a row, that brought nothing */
	unsigned n_damages, n_connections;
};

/* The request has ended, and the blob is not whole: may it be asked for again? 0: yes. */
static int judge(struct download *download, size_t host, struct tries *tries, int r,
		 const struct http_reply *reply, uint64_t before, struct why *own)
{
	unsigned limit = host + 1 < download->registry->hosts.count ? 2 : REGISTRY_ATTEMPTS;
	char what[96];

	snprintf(what, sizeof(what), "blob %s", download->blob->digest);
	if (r == -ECANCELED || http_is_stopped())
		return -ECANCELED;
	if (download->r)
		return download->r;
	/* What was kept does not belong to what is there. */
	if (!r && reply->status == 416) {
		r = begin_anew(download);
		if (r)
			return r;
	} else if (!r && reply->status / 100 != 2 && !registry_may_retry(r, reply)) {
		return registry_explain(download->registry, host, what, reply, download->why);
	} else if (r && !registry_may_retry(r, reply)) {
		why_set(download->why, r, "%s", own->text);
		return registry_fold(download->registry, host, what, r, download->why);
	}
	tries->n_failures = download->offset > before ? 0 : tries->n_failures + 1;
	if (tries->n_failures < limit && tries->n_connections < CONNECTIONS_MAX)
		return registry_back_off(tries->n_failures + 1, reply);
	if (!r && reply->status / 100 != 2)
		return registry_explain(download->registry, host, what, reply, download->why);
	why_set(download->why, WORK_E_AWAY, "%s", own->text[0] ? own->text : "it ends too soon");
	return registry_fold(download->registry, host, what, HTTP_E_NETWORK, download->why);
}

static int damaged(struct download *download, size_t host, struct tries *tries)
{
	if (++tries->n_damages < DAMAGES_MAX)
		return registry_back_off(tries->n_damages, NULL);
	return why_set(download->why, WORK_E_DAMAGED,
		       "%s: blob %s: what comes is something else, %d times",
		       download->registry->hosts.items[host].name, download->blob->digest,
		       DAMAGES_MAX);
}

static int load_from(struct download *download, struct http *http, size_t host)
{
	struct tries tries = {};
	char path[96];
	int r = 0;

	snprintf(path, sizeof(path), "blobs/%s", download->blob->digest);
	while (!r) {
		_cleanup_(http_reply_clear) struct http_reply reply = {};
		const struct registry_request request = {.method = "GET",
							 .path = path,
							 .first = download->offset,
							 .begin = on_begin,
							 .sink = on_data,
							 .userdata = download};
		uint64_t before = download->offset;
		struct why own = {};
		bool is_good, is_whole;

		download->r = 0;
		tries.n_connections++;
		r = registry_send(download->registry, http, host, &request, &reply, &own);
		is_whole = download->offset == download->blob->size && !download->r &&
			   (r || reply.status / 100 == 2);
		if (!is_whole) {
			r = judge(download, host, &tries, r, &reply, before, &own);
			continue;
		}
		r = finish(download, &is_good);
		if (!r && is_good)
			return 0;
		r = r ?: damaged(download, host, &tries);
	}
	return r;
}

/* ---- all of it ---- */

static int load(struct download *download, struct http *http)
{
	const struct hosts *hosts = &download->registry->hosts;
	struct why *why = download->why;
	int r = WORK_E_REFUSED;

	download->last = (struct why){"no host may be pulled from"};
	download->why = &download->last;
	for (size_t i = 0; i < hosts->count; i++) {
		if (!hosts->items[i].can_pull)
			continue;
		download->last = (struct why){};
		r = load_from(download, http, i);
		if (r <= 0)
			break;
	}
	download->why = why;
	return r && download->last.text[0] ? why_set(why, r, "%s", download->last.text) : r;
}

int download_blob(struct registry *registry, int ingest, struct http *http, struct job *job,
		  struct why *why)
{
	_cleanup_(download_clear) struct download download = {
		.registry = registry, .blob = &job->blob, .job = job, .fd = -1, .why = why};
	bool is_good;
	int r;

	if (job->blob.size > BLOB_SIZE_MAX)
		return why_set(why, WORK_E_INVALID, "blob %s has %llu bytes, more than %llu",
			       job->blob.digest, (unsigned long long)job->blob.size, BLOB_SIZE_MAX);
	r = hash_new(&download.hash);
	if (!r)
		r = open_place(registry, ingest, job->blob.digest, job->blob.size, &download.fd,
			       why);
	if (!r)
		r = lock_place(ingest, job->blob.digest, download.fd);
	if (r)
		return r;
	job->status = TRANSFER_RUNNING;
	r = read_present(&download);
	if (!r)
		r = finish(&download, &is_good);
	if (!r && !is_good)
		r = load(&download, http);
	/* A name in the directory that was not there before. */
	if (!r && fsync(ingest) < 0)
		r = why_errno(why, error_origin(-errno), "cannot sync the ingest directory");
	if (!r && !is_still_there(ingest, job->blob.digest, download.fd))
		r = POOL_AGAIN;
	return r;
}

int download_keep(struct registry *registry, int ingest, const char *digest, const void *data,
		  size_t size, struct why *why)
{
	_cleanup_(cleanup_fd) int fd = -1;
	int r;

	/* Somebody else may take it away in between: then it is in the content store, or made again. */
	do {
		fd = close_fd(fd);
		r = open_place(registry, ingest, digest, size, &fd, why);
		if (!r)
			r = lock_place(ingest, digest, fd);
	} while (r == POOL_AGAIN);
	if (r)
		return r;
	if (ftruncate(fd, 0) < 0)
		r = error_origin(-errno);
	if (!r)
		r = file_write_all(fd, data, size);
	if (!r && (fdatasync(fd) < 0 || fsync(ingest) < 0))
		r = error_origin(-errno);
	return r ? why_errno(why, r, "cannot store document %s", digest) : 0;
}

int download_find(int ingest, const char *digest, uint64_t size_max, char **ret_text,
		  size_t *ret_size)
{
	_cleanup_(cleanup_free) char *text = NULL;
	char path[DOWNLOAD_PATH_SIZE], actual[DIGEST_SIZE];
	size_t size;

	*ret_text = NULL;
	download_path(digest, path);
	if (file_read(ingest, path, size_max, &text, &size))
		return 0;
	digest_of(text, size, actual);
	if (strcmp(actual, digest))
		return 0;
	*ret_text = TAKE(text);
	*ret_size = size;
	return 0;
}
