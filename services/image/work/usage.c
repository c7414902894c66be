/* davit-image-work usage: what a snapshot's own directory takes, and that it is on disk. */

#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "broker/lib/file.h"
#include "services/image/work/inodes.h"
#include "services/image/work/work.h"

#define DEPTH_MAX 300 /* each level holds a descriptor */

struct usage {
	struct work_usage_result *result;
	struct inodes linked; /* files of several names, seen before */
	unsigned depth;
};

static int measure_directory(struct usage *usage, int fd);

static int measure_entry(struct usage *usage, int dir, const char *name)
{
	struct stat status;
	int fd;

	/* A container may be at work in it. */
	if (fstatat(dir, name, &status, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0 : error_origin(-errno);
	if (status.st_nlink > 1 && !S_ISDIR(status.st_mode)) {
		if (inodes_get(&usage->linked, status.st_ino))
			return 0;
		if (inodes_set(&usage->linked, status.st_ino, 1))
			return error_origin(-ENOMEM);
	}
	usage->result->inodes++;
	if (S_ISREG(status.st_mode))
		usage->result->size += (uint64_t)status.st_size;
	if (!S_ISDIR(status.st_mode))
		return 0;
	fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT || errno == ENOTDIR ? 0 : error_origin(-errno);
	return error_trace(measure_directory(usage, fd));
}

/* Takes @fd. */
static int measure_directory(struct usage *usage, int fd)
{
	_cleanup_(cleanup_dir) DIR *dir = fdopendir(fd);
	struct dirent *entry;
	int r = 0;

	if (!dir) {
		close_fd(fd);
		return error_origin(-ENOMEM);
	}
	if (++usage->depth > DEPTH_MAX)
		return error_origin(-ELOOP);
	while (!r && (entry = readdir(dir))) {
		if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, ".."))
			r = measure_entry(usage, dirfd(dir), entry->d_name);
	}
	usage->depth--;
	return error_trace(r);
}

int work_usage(const struct work_usage_request *request, int snapshots,
	       struct work_usage_result *ret_result, struct why *why)
{
	_cleanup_(cleanup_free) char *path = text_format("%s/fs", request->target);
	struct usage usage = {.result = ret_result};
	int fd, r;

	if (!path)
		return error_origin(-ENOMEM);
	fd = openat(snapshots, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return why_errno(why, error_origin(-errno), "cannot open snapshot directory '%s'",
				 path);
	r = measure_directory(&usage, fd);
	inodes_clear(&usage.linked);
	if (r == -ELOOP)
		return why_set(why, WORK_E_INVALID, "it is more than %d directories deep",
			       DEPTH_MAX);
	if (r)
		return why_errno(why, r, "cannot read snapshot directory '%s'", path);
	if (request->sync && syncfs(snapshots) < 0)
		return why_errno(why, error_origin(-errno), "cannot sync the snapshot");
	return 0;
}
