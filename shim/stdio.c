#include "shim/stdio.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "broker/lib/file.h"

int stdio_open_null(int *ret_fd)
{
	*ret_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	return *ret_fd < 0 ? error_origin(-errno) : 0;
}

const char *stdio_fifo(const char *uri)
{
	if (uri[0] == '/')
		return uri;
	return strncmp(uri, "fifo:///", 8) ? NULL : uri + 7;
}

static int open_fifo(const char *path, int stream, int *ret_fd, struct why *why)
{
	_cleanup_(cleanup_fd) int fd = -1;
	struct stat stat;

	/* Never waits for the other side; blocking again for the container. */
	fd = open(path, (stream ? O_RDWR : O_RDONLY) | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	if (fd < 0)
		return why_errno(why, error_origin(-errno), "cannot open the FIFO %s", path);
	if (fstat(fd, &stat))
		return error_origin(-errno);
	if (!S_ISFIFO(stat.st_mode))
		return why_set(why, STDIO_E_INVALID, "%s is not a FIFO", path);
	if (fcntl(fd, F_SETFL, 0))
		return error_origin(-errno);
	*ret_fd = TAKE_FD(fd);
	return 0;
}

static int make_parents(const char *path, struct why *why)
{
	_cleanup_(cleanup_free) char *parent = strdup(path);
	struct stat stat;

	if (!parent)
		return error_origin(-ENOMEM);
	*strrchr(parent, '/') = '\0';
	if (!*parent || !lstat(parent, &stat))
		return 0; /* what is there keeps its mode */
	return file_make_dir(parent, 0755, why);
}

static int open_file(const char *path, int stream, int *ret_fd, struct why *why)
{
	_cleanup_(cleanup_fd) int fd = -1;
	struct stat stat;
	int r;

	if (!stream)
		return why_set(why, STDIO_E_INVALID, "stdin cannot come from file://%s", path);
	if (path[0] != '/')
		return why_set(why, STDIO_E_INVALID, "file://%s is not an absolute path", path);
	r = make_parents(path, why);
	if (r)
		return r;
	fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, 0644);
	if (fd < 0)
		return why_errno(why, error_origin(-errno), "cannot open %s", path);
	if (fstat(fd, &stat))
		return error_origin(-errno);
	if (!S_ISREG(stat.st_mode))
		return why_set(why, STDIO_E_INVALID, "%s is not a regular file", path);
	if (fcntl(fd, F_SETFL, O_APPEND))
		return error_origin(-errno);
	*ret_fd = TAKE_FD(fd);
	return 0;
}

int stdio_open_stream(const char *uri, int stream, int *ret_fd, struct why *why)
{
	static const char *const names[] = {"stdin", "stdout", "stderr"};

	if (!uri || !*uri)
		return stdio_open_null(ret_fd);
	if (stdio_fifo(uri))
		return open_fifo(stdio_fifo(uri), stream, ret_fd, why);
	if (!strncmp(uri, "file://", 7))
		return open_file(uri + 7, stream, ret_fd, why);
	return why_set(why, STDIO_E_INVALID, "%s '%s' is neither a FIFO's path nor fifo://%s",
		       names[stream], uri, stream ? ", file:// or binary://" : "");
}

int stdio_open(const struct task_io *io, struct stdio *ret_stdio, struct why *why)
{
	static const struct task_io nothing;
	_cleanup_(stdio_close) struct stdio stdio = {.fds = {-1, -1, -1}};
	int r;

	if (!io)
		io = &nothing;
	r = stdio_open_stream(io->stdin, 0, &stdio.fds[0], why);
	if (!r)
		r = stdio_open_stream(io->stdout, 1, &stdio.fds[1], why);
	if (!r)
		r = stdio_open_stream(io->stderr, 2, &stdio.fds[2], why);
	if (r)
		return r;
	*ret_stdio = stdio;
	stdio = (struct stdio){.fds = {-1, -1, -1}};
	return 0;
}

void stdio_close(struct stdio *stdio)
{
	for (size_t i = 0; i < ARRAY_SIZE(stdio->fds); i++)
		stdio->fds[i] = close_fd(stdio->fds[i]);
	free(stdio->console_socket);
	stdio->console_socket = NULL;
}
