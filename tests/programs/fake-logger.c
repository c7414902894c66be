/*
 * A logging program (shim/logger.h) that misbehaves on order:
 *
 *	fake-logger to FILE [ready byte|close|never|die] [die BYTES] [end wait|stubborn]
 *
 * What comes on descriptor 3 goes to FILE, what comes on 4 to FILE.err; FILE.env
 * gets its arguments, environment and descriptors. `die`: it ends when it has read so
 * much, but only once. `end`: at the end it waits for a signal, or ignores SIGTERM.
 */

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "broker/lib/file.h"

extern char **environ;

static const char *option(char **argv, const char *name)
{
	for (char **at = argv + 1; at[0] && at[1]; at += 2)
		if (!strcmp(at[0], name))
			return at[1];
	return "";
}

static int open_beside(const char *path, const char *suffix)
{
	_cleanup_(cleanup_free) char *name = text_format("%s%s", path, suffix);

	return open(name, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

static void dump(char **argv)
{
	int fd = open_beside(option(argv, "to"), ".env");

	for (char **at = argv; *at; at++)
		dprintf(fd, "argument %s\n", *at);
	for (char **at = environ; *at; at++)
		dprintf(fd, "environment %s\n", *at);
	for (int i = 6; i < fd; i++)
		if (fcntl(i, F_GETFD) >= 0)
			dprintf(fd, "descriptor %d\n", i);
	close(fd);
}

static void be_ready(const char *how)
{
	if (!strcmp(how, "die"))
		_exit(7);
	while (!strcmp(how, "never"))
		pause();
	if (strcmp(how, "close") && write(5, "", 1) != 1)
		_exit(8);
	close(5);
}

/* Dies once: a mark says that it has. */
static void consider_dying(const char *path, const char *limit, size_t seen)
{
	_cleanup_(cleanup_free) char *mark = text_format("%s.died", path);

	if (*limit && seen >= strtoul(limit, NULL, 10) &&
	    open(mark, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600) >= 0)
		_exit(1);
}

static void copy(char **argv)
{
	const char *path = option(argv, "to"), *limit = option(argv, "die");
	struct pollfd fds[] = {{3, POLLIN, 0}, {4, POLLIN, 0}};
	int to[] = {open_beside(path, ""), open_beside(path, ".err")};
	size_t seen = 0;
	char data[4096];

	while (fds[0].fd >= 0 || fds[1].fd >= 0) {
		if (poll(fds, 2, -1) < 0)
			_exit(9);
		for (int i = 0; i < 2; i++) {
			ssize_t n = fds[i].revents ? read(fds[i].fd, data, sizeof(data)) : -1;

			if (fds[i].revents && n <= 0)
				fds[i].fd = -1;
			else if (n > 0 && write(to[i], data, (size_t)n) == n)
				seen += (size_t)n;
			if (n > 0)
				consider_dying(path, limit, seen);
		}
	}
}

int main(int argc, char **argv)
{
	const char *end = option(argv, "end");

	(void)argc;
	dump(argv);
	be_ready(option(argv, "ready"));
	copy(argv);
	if (!strcmp(end, "stubborn"))
		signal(SIGTERM, SIG_IGN);
	if (*end)
		close(open_beside(option(argv, "to"), ".end"));
	while (*end)
		pause();
	return 0;
}
