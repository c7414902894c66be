#include "shim/terminal.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "broker/lib/log.h"

/* ---- the master ---------------------------------------------------------- */

static int check_master(int fd, struct why *why)
{
	unsigned number;

	if (ioctl(fd, TIOCGPTN, &number))
		return why_set(why, -ENOTTY, "what came is not the master of a pseudo-terminal");
	return 0;
}

int terminal_resize(struct terminal *terminal, uint64_t width, uint64_t height)
{
	struct winsize size = {.ws_col = (unsigned short)width, .ws_row = (unsigned short)height};

	if (terminal->master < 0)
		return -ENOTTY;
	return ioctl(terminal->master, TIOCSWINSZ, &size) ? error_origin(-errno) : 0;
}

int terminal_adopt(struct terminal *terminal, int fd, struct why *why)
{
	int r;

	r = check_master(fd, why);
	if (!r && fcntl(fd, F_SETFL, O_RDWR | O_NONBLOCK))
		r = error_origin(-errno);
	if (r) {
		close_fd(fd);
		return r;
	}
	close_fd(terminal->master);
	terminal->master = fd;
	terminal->has_come = true;
	return 0;
}

/* ---- what the runtime sends ---------------------------------------------- */

static void stop_listening(struct terminal *terminal)
{
	loop_file_remove(&terminal->file);
	terminal->connection = close_fd(terminal->connection);
	terminal->listener = close_fd(terminal->listener);
	if (terminal->path)
		(void)unlink(terminal->path);
	free(terminal->path);
	terminal->path = NULL;
}

/* All descriptors of the message; @ret_n may be more than are kept. */
static int take_descriptors(struct msghdr *message, int *ret_fd, size_t *ret_n)
{
	int fd = -1;
	size_t n = 0;

	for (struct cmsghdr *part = CMSG_FIRSTHDR(message); part;
	     part = CMSG_NXTHDR(message, part)) {
		size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);

		if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t i = 0; i < count; i++, n++) {
			close_fd(fd);
			memcpy(&fd, CMSG_DATA(part) + i * sizeof(int), sizeof(fd));
		}
	}
	*ret_fd = fd;
	*ret_n = n;
	return message->msg_flags & MSG_CTRUNC ? -EMSGSIZE : 0;
}

/* -EAGAIN: it has not come yet. */
static int receive(struct terminal *terminal, struct why *why)
{
	char name[4096];
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(4 * sizeof(int))];
	} control;
	struct iovec part = {name, sizeof(name)};
	struct msghdr message = {.msg_iov = &part,
				 .msg_iovlen = 1,
				 .msg_control = &control,
				 .msg_controllen = sizeof(control)};
	ssize_t n = recvmsg(terminal->connection, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	_cleanup_(cleanup_fd) int fd = -1;
	size_t n_fds;

	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? -EAGAIN : error_origin(-errno);
	if (take_descriptors(&message, &fd, &n_fds) || n_fds != 1)
		return why_set(why, -EPROTO, "the OCI runtime sent %zu descriptors instead of one",
			       n_fds);
	return terminal_adopt(terminal, TAKE_FD(fd), why);
}

/* In the shim's mount namespace is nobody but what it starts. (Pids do not tell: crun's forks are
 * neither its children nor of its session.) Who has ended can no longer be asked. */
static bool is_stranger(int fd)
{
	struct ucred peer = {};
	socklen_t size = sizeof(peer);
	struct stat ours, theirs;
	char path[32];

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) ||
	    (peer.uid != geteuid() && peer.uid != 0))
		return true;
	snprintf(path, sizeof(path), "/proc/%d/ns/mnt", (int)peer.pid);
	return stat(path, &theirs) == 0 && stat("/proc/self/ns/mnt", &ours) == 0 &&
	       theirs.st_ino != ours.st_ino;
}

/* -EAGAIN: nobody has come yet. */
static int accept_one(struct terminal *terminal)
{
	_cleanup_(cleanup_fd) int fd = -1;

	fd = accept4(terminal->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd < 0)
		return -EAGAIN;
	if (is_stranger(fd)) {
		log_warning("a process of another mount namespace came to %s", terminal->path);
		return -EAGAIN;
	}
	terminal->connection = TAKE_FD(fd);
	return 0;
}

static void socket_ready(struct loop_file *file, uint32_t events);

/* Takes what has come. -EAGAIN: it has not. */
static int step(struct terminal *terminal, struct why *why)
{
	int r;

	if (terminal->connection < 0) {
		r = accept_one(terminal);
		if (r)
			return r;
		loop_file_remove(&terminal->file);
		r = loop_file_add(terminal->loop, &terminal->file, terminal->connection, EPOLLIN,
				  socket_ready);
		if (r)
			return error_trace(r);
	}
	r = receive(terminal, why);
	if (r)
		return r;
	if (terminal->width || terminal->height)
		(void)terminal_resize(terminal, terminal->width, terminal->height);
	stop_listening(terminal);
	terminal->fn(terminal);
	return 0;
}

static void socket_ready(struct loop_file *file, uint32_t events)
{
	struct terminal *terminal = container_of(file, struct terminal, file);
	int r;

	(void)events;
	r = step(terminal, &terminal->why);
	if (!r || r == -EAGAIN)
		return;
	(void)why_errno(&terminal->why, r, "a terminal cannot be taken");
	stop_listening(terminal);
}

int terminal_finish(struct terminal *terminal, struct why *why)
{
	int r;

	if (terminal->has_come)
		return 0;
	r = terminal->listener >= 0 ? step(terminal, &terminal->why) : -EAGAIN;
	if (!r)
		return 0;
	stop_listening(terminal);
	return why_set(why, -EPROTO, "%s",
		       terminal->why.text[0] ? terminal->why.text
					     : "the OCI runtime sent no terminal");
}

/* ---- the socket ---------------------------------------------------------- */

static int make_socket(const char *path, int *ret_fd)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	_cleanup_(cleanup_fd) int fd = -1;
	mode_t mask;
	int r;

	strcpy(address.sun_path, path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return error_origin(-errno);
	(void)unlink(path); /* of a shim that died */
	mask = umask(0177);
	r = bind(fd, (struct sockaddr *)&address, sizeof(address)) ? -errno : 0;
	umask(mask);
	if (!r && listen(fd, 4))
		r = -errno;
	if (r)
		return error_origin(r);
	*ret_fd = TAKE_FD(fd);
	return 0;
}

int terminal_listen(struct terminal *terminal, struct loop *loop, const char *path, terminal_fn fn,
		    struct why *why)
{
	int r;

	if (strlen(path) > TERMINAL_PATH_MAX)
		return why_set(why, -ENAMETOOLONG,
			       "the path of the terminal's socket, %s, is longer than %d bytes",
			       path, TERMINAL_PATH_MAX);
	terminal->path = strdup(path);
	if (!terminal->path)
		return error_origin(-ENOMEM);
	terminal->loop = loop;
	terminal->fn = fn;
	r = make_socket(path, &terminal->listener);
	if (!r)
		r = loop_file_add(loop, &terminal->file, terminal->listener, EPOLLIN, socket_ready);
	if (!r)
		return 0;
	stop_listening(terminal);
	return why_errno(why, r, "cannot listen at %s", path);
}

void terminal_close(struct terminal *terminal)
{
	stop_listening(terminal);
	terminal->master = close_fd(terminal->master);
}
