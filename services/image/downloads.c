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

#define PREFIX "download-"
#define KEPT_S (24 * 3600)

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

void downloads_clean(struct image_service *image)
{
	_cleanup_(cleanup_dir) DIR *dir = NULL;
	struct dirent *entry;
	int fd;

	fd = openat(image->ingest, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	dir = fd < 0 ? NULL : fdopendir(fd);
	if (!dir) {
		close_fd(fd);
		return;
	}
	while ((entry = readdir(dir))) {
		char path[DOWNLOAD_PATH_SIZE], digest[DIGEST_SIZE];

		if (!downloads_is_name(entry->d_name))
			continue;
		snprintf(digest, sizeof(digest), "sha256:%.64s", entry->d_name + strlen(PREFIX));
		if (!downloads_find(image, digest, path) && is_given_up(image, entry->d_name))
			trash_take(image, image->ingest, entry->d_name);
	}
}
