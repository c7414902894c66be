#include "shim/log_ring.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "broker/lib/file.h"

/* The descriptor may be for writing only: the file is opened again to be read. */
static ssize_t read_tail(int fd, off_t size, char *tail)
{
	_cleanup_(cleanup_fd) int readable = -1;
	char path[32];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	readable = open(path, O_RDONLY | O_CLOEXEC);
	return readable < 0 ? -1 : pread(readable, tail, LOG_RING_KEEP, size - LOG_RING_KEEP);
}

void log_ring_trim(int fd)
{
	_cleanup_(cleanup_free) char *tail = NULL;
	struct stat stat;
	const char *line;
	ssize_t n;

	if (fstat(fd, &stat) || !S_ISREG(stat.st_mode) || stat.st_size <= LOG_RING_MAX)
		return;
	tail = malloc(LOG_RING_KEEP);
	n = tail ? read_tail(fd, stat.st_size, tail) : -1;
	if (ftruncate(fd, 0) || n <= 0)
		return;
	line = memchr(tail, '\n', (size_t)n);
	line = line ? line + 1 : tail;
	/* Without O_APPEND the position stands where the end was. */
	(void)lseek(fd, 0, SEEK_SET);
	(void)file_write_all(fd, line, (size_t)(tail + n - line));
}
