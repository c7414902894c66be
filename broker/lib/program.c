/* See program.h. */

#include "broker/lib/program.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>

#include "broker/lib/cleanup.h"
#include "broker/lib/error.h"
#include "broker/lib/log.h"

#ifndef MFD_EXEC
#define MFD_EXEC 0x0010U /* linux/memfd.h of Linux 6.3 */
#endif

#define COPY_MODE (S_IFREG | 0777) /* of a memory file that can be executed */
#define ALL_SEALS (F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE)

static bool is_same_time(const struct timespec *a, const struct timespec *b)
{
	return a->tv_sec == b->tv_sec && a->tv_nsec == b->tv_nsec;
}

bool program_is_same(const struct stat *a, const struct stat *b)
{
	return a->st_dev == b->st_dev && a->st_ino == b->st_ino && a->st_size == b->st_size &&
	       is_same_time(&a->st_mtim, &b->st_mtim) && is_same_time(&a->st_ctim, &b->st_ctim);
}

bool program_is_copy(int fd, const struct stat *file)
{
	struct stat copy;

	return !fstat(fd, &copy) && copy.st_size == file->st_size &&
	       is_same_time(&copy.st_mtim, &file->st_mtim);
}

static int check(int fd, struct stat *ret_status)
{
	char magic[SELFMAG];

	if (fstat(fd, ret_status))
		return -errno;
	if (!S_ISREG(ret_status->st_mode))
		return -ENOEXEC;
	if (ret_status->st_size > PROGRAM_COPY_MAX)
		return -EFBIG;
	if (pread(fd, magic, SELFMAG, 0) != SELFMAG || memcmp(magic, ELFMAG, SELFMAG) != 0)
		return -ENOEXEC;
	return 0;
}

/* Its name is what ps(1) shows. Before 6.3 every one could be executed and the flag was not known. */
static int make_memory_file(const char *path)
{
	const char *name = strrchr(path, '/') ? strrchr(path, '/') + 1 : path;
	const unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
	int fd = memfd_create(name, flags | MFD_EXEC);

	if (fd < 0 && errno == EINVAL)
		fd = memfd_create(name, flags);
	return fd < 0 ? -errno : fd;
}

static int fill(int to, int from, off_t size)
{
	off_t at = 0;
	ssize_t n;

	while (at < size) {
		n = sendfile(to, from, &at, (size_t)(size - at));
		if (n < 0)
			return -errno;
		if (!n) /* it was cut meanwhile */
			return -ENOEXEC;
	}
	return fcntl(to, F_ADD_SEALS, ALL_SEALS) ? -errno : 0;
}

int program_copy(const char *path, int *ret_fd, struct stat *ret_status)
{
	_cleanup_(cleanup_fd) int from = -1, to = -1;
	struct stat status, after;
	int r;

	from = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (from < 0)
		return error_origin(-errno);
	r = check(from, &status);
	if (r)
		return r;
	to = make_memory_file(path);
	if (to < 0)
		return to;
	r = fill(to, from, status.st_size);
	if (!r && futimens(to, (struct timespec[]){status.st_atim, status.st_mtim}))
		r = -errno;
	if (!r && (fstat(from, &after) || !program_is_same(&status, &after)))
		r = -ENOEXEC; /* it is being written */
	if (r)
		return r;
	*ret_fd = TAKE_FD(to);
	*ret_status = status;
	return 0;
}

/* ---- one that is kept ---------------------------------------------------- */

void program_cache_clear(struct program_cache *cache)
{
	if (cache->path)
		close_fd(cache->fd);
	free(cache->path);
	*cache = (struct program_cache){};
}

static bool is_cached(const struct program_cache *cache, const char *path)
{
	struct stat now;

	if (!cache->path || strcmp(cache->path, path) || stat(path, &now) ||
	    !program_is_same(&cache->status, &now))
		return false;
	/* Root in a container that is shown its runtime cannot write to the copy, but change its mode, for all. */
	return cache->fd < 0 || (!fstat(cache->fd, &now) && now.st_mode == COPY_MODE);
}

int program_cache_get(struct program_cache *cache, const char *path)
{
	_cleanup_(cleanup_fd) int fd = -1;
	_cleanup_(cleanup_free) char *name = NULL;
	struct stat status;
	int r;

	if (is_cached(cache, path))
		return cache->fd;
	program_cache_clear(cache);
	name = strdup(path);
	if (!name || stat(path, &status))
		return -1;
	r = program_copy(path, &fd, &status);
	if (r)
		log_info("program=%s copy=no error=\"%s\"", path, strerror(-r));
	if (r && r != -ENOEXEC && r != -EFBIG && r != -EACCES) /* it may go the next time */
		return -1;
	*cache = (struct program_cache){.path = TAKE(name), .status = status, .fd = TAKE_FD(fd)};
	return cache->fd;
}
