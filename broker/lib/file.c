#include <fcntl.h>
#include <linux/openat2.h>
#include <stdarg.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "broker/lib/file.h"

int close_fd(int fd)
{
	int saved = errno;

	/* Linux gives the number back whatever close(2) answers: never again. */
	if (fd >= 0)
		close(fd);
	errno = saved;
	return -1;
}

char *text_format(const char *format, ...)
{
	va_list arguments;
	char *text;
	int n;

	va_start(arguments, format);
	n = vasprintf(&text, format, arguments);
	va_end(arguments);
	return n < 0 ? NULL : text;
}

/* ---- reading ---- */

/* Makes room for one byte more than @size, or for twice of what there is, within @limit. */
static int grow(char **data, size_t *room, size_t limit)
{
	size_t wanted = *room ? 2 * *room : 1024;
	char *grown;

	if (wanted > limit + 2)
		wanted = limit + 2;
	grown = realloc(*data, wanted);
	if (!grown)
		return error_origin(-ENOMEM);
	*data = grown;
	*room = wanted;
	return 0;
}

/* @expected is only a guess at the size: the file may change while it is read. */
static int read_all(int fd, size_t expected, size_t limit, char **ret_data, size_t *ret_size)
{
	_cleanup_(cleanup_free) char *data = NULL;
	size_t size = 0, room = expected / 2 + 1;
	ssize_t n;
	int r;

	if (limit > SIZE_MAX / 4)
		limit = SIZE_MAX / 4;
	r = grow(&data, &room, limit);
	if (r)
		return error_trace(r);
	for (;;) {
		/* One byte stays free for the NUL, one shows that there is more than allowed. */
		if (size + 1 == room) {
			r = grow(&data, &room, limit);
			if (r)
				return error_trace(r);
		}
		n = read(fd, data + size, room - size - 1);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return error_origin(-errno);
		if (n == 0)
			break;
		size += (size_t)n;
		if (size > limit)
			return error_origin(-EFBIG);
	}
	data[size] = '\0';
	*ret_data = TAKE(data);
	if (ret_size)
		*ret_size = size;
	return 0;
}

int file_read_open(int fd, size_t limit, char **ret_data, size_t *ret_size)
{
	struct stat status;

	if (fstat(fd, &status) < 0)
		return error_origin(-errno);
	if (!S_ISREG(status.st_mode))
		return error_origin(-EINVAL);
	if ((uint64_t)status.st_size > limit)
		return error_origin(-EFBIG);
	return error_trace(read_all(fd, (size_t)status.st_size + 2, limit, ret_data, ret_size));
}

/* A file that is not there is an answer and leaves no trace in the log. */
int file_read(int dirfd, const char *path, size_t limit, char **ret_data, size_t *ret_size)
{
	_cleanup_(cleanup_fd) int fd = -1;

	/* O_NONBLOCK: a FIFO of that name must not hold us up. */
	fd = openat(dirfd, path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
	if (fd < 0)
		return -errno;
	return error_trace(file_read_open(fd, limit, ret_data, ret_size));
}

int file_read_proc(const char *path, size_t limit, char **ret_data, size_t *ret_size)
{
	_cleanup_(cleanup_fd) int fd = -1;

	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	return error_trace(read_all(fd, 4096, limit, ret_data, ret_size));
}

/* ---- writing ---- */

int file_write_all(int fd, const void *data, size_t size)
{
	const char *at = data;
	ssize_t n;

	while (size) {
		n = write(fd, at, size);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return error_origin(-errno);
		at += n;
		size -= (size_t)n;
	}
	return 0;
}

int file_open_text(const char *name, const char *text, int *ret_fd)
{
	_cleanup_(cleanup_fd) int fd = memfd_create(name, MFD_CLOEXEC);
	int r;

	if (fd < 0)
		return error_origin(-errno);
	r = file_write_all(fd, text, strlen(text));
	if (!r && lseek(fd, 0, SEEK_SET))
		r = error_origin(-errno);
	if (!r)
		*ret_fd = TAKE_FD(fd);
	return error_trace(r);
}

DIR *file_open_dir(int dirfd, const char *path)
{
	int fd = openat(dirfd, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	int saved = errno;

	if (!dir)
		close_fd(fd);
	errno = saved;
	return dir;
}

#define RACES_MAX 1000 /* a busy host has been seen to need 17 */

int file_open_in(int dirfd, const char *path, int flags, uint64_t resolve)
{
	struct open_how how = {.flags = (uint64_t)(flags | O_CLOEXEC), .resolve = resolve};
	int fd = -1;

	for (int i = 0; i < RACES_MAX; i++) {
		fd = (int)syscall(SYS_openat2, dirfd, *path ? path : ".", &how, sizeof(how));
		if (fd >= 0 || errno != EAGAIN)
			break;
	}
	return fd < 0 ? -errno : fd;
}

static int write_new(const char *path, const void *data, size_t size, mode_t mode, bool durable)
{
	_cleanup_(cleanup_fd) int fd = -1;
	int r;

	/* Of a process with our pid that died half-way. */
	if (unlink(path) < 0 && errno != ENOENT)
		return error_origin(-errno);
	fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return error_origin(-errno);
	r = file_write_all(fd, data, size);
	if (r)
		return error_trace(r);
	/* Not left to the umask. */
	if (fchmod(fd, mode) < 0)
		return error_origin(-errno);
	if (durable && fdatasync(fd) < 0)
		return error_origin(-errno);
	return 0;
}

static int sync_parent(const char *path)
{
	_cleanup_(cleanup_free) char *parent = NULL;
	_cleanup_(cleanup_fd) int fd = -1;
	const char *slash = strrchr(path, '/');

	parent = slash ? strndup(path, (size_t)(slash - path) + 1) : strdup(".");
	if (!parent)
		return error_origin(-ENOMEM);
	fd = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return error_origin(-errno);
	return fsync(fd) < 0 ? error_origin(-errno) : 0;
}

int file_write(const char *path, const void *data, size_t size, mode_t mode, bool durable,
	       struct why *why)
{
	_cleanup_(cleanup_free) char *temporary = NULL;
	int r;

	temporary = text_format("%s.tmp-%d", path, (int)getpid());
	if (!temporary)
		return error_origin(-ENOMEM);
	r = write_new(temporary, data, size, mode, durable);
	if (!r && rename(temporary, path) < 0)
		r = error_origin(-errno);
	if (r) {
		unlink(temporary);
		return why_errno(why, error_trace(r), "cannot write %s", path);
	}
	if (durable)
		r = sync_parent(path);
	return r ? why_errno(why, error_trace(r), "cannot sync the directory of %s", path) : 0;
}

/* ---- locking ---- */

/* Whether the file that was locked still is the one of that name: its last holder may have removed
 * it between our open and our lock. */
static bool is_current(int fd, const char *path)
{
	struct stat ours, named;

	return fstat(fd, &ours) == 0 && lstat(path, &named) == 0 && ours.st_dev == named.st_dev &&
	       ours.st_ino == named.st_ino;
}

bool file_can_map(int fd, size_t size)
{
	void *map = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);

	return map != MAP_FAILED && !munmap(map, size);
}

int file_lock(const char *path, int *ret_fd)
{
	for (;;) {
		_cleanup_(cleanup_fd) int fd = -1;

		fd = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
		if (fd < 0)
			return error_origin(-errno);
		if (flock(fd, LOCK_EX | LOCK_NB) < 0)
			return errno == EWOULDBLOCK ? -EWOULDBLOCK : error_origin(-errno);
		if (!is_current(fd, path))
			continue;
		*ret_fd = TAKE_FD(fd);
		return 0;
	}
}
