/* The side of `davit up`. */

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "broker/lib/file.h"
#include "broker/lib/log.h"
#include "tools/upgrade.h"

#define MEMBERS_MAX 16
#define BACKLOG     8

struct upgrade_server {
	struct loop *loop;
	struct member *members;
	size_t n_members;
	char *path;
	int listen_fd, client_fd; /* client_fd -1: nobody asks */
	struct loop_file listen_file, client_file;
	bool is_wanted[MEMBERS_MAX];
	bool is_busy; /* the client has been understood */
};

static void next_one(struct upgrade_server *server);

static void say(struct upgrade_server *server, const char *format, ...)
	__attribute__((format(printf, 2, 3)));
static void say(struct upgrade_server *server, const char *format, ...)
{
	char text[UPGRADE_PACKET_MAX];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	if (server->client_fd >= 0)
		(void)send(server->client_fd, text, strlen(text), MSG_DONTWAIT | MSG_NOSIGNAL);
}

static void forget_client(struct upgrade_server *server)
{
	loop_file_remove(&server->client_file);
	server->client_fd = close_fd(server->client_fd);
	server->is_busy = false;
	memset(server->is_wanted, 0, sizeof(server->is_wanted));
}

/* ---- one after another ---- */

static void fail_upgrade(struct upgrade_server *server, const char *why)
{
	log_warning("upgrade: %s", why);
	say(server, "failed %s", why);
	forget_client(server);
}

void upgrade_server_replaced(struct upgrade_server *server, struct member *member,
			     uint64_t pause_ms, const char *why)
{
	if (*why) {
		fail_upgrade(server, why);
		return;
	}
	log_info("%s pid=%d replaced by pid=%d, pause %d ms", member->program, (int)member->old_pid,
		 member->now->child.pid, (int)pause_ms);
	say(server, "replaced %s %d %d %d", member->program, (int)member->old_pid,
	    member->now->child.pid, (int)pause_ms);
	next_one(server);
}

static void next_one(struct upgrade_server *server)
{
	struct why why = {};
	size_t i = 0;

	while (i < server->n_members && !server->is_wanted[i])
		i++;
	if (i == server->n_members) {
		say(server, "done");
		forget_client(server);
		return;
	}
	server->is_wanted[i] = false;
	if (!member_is_ready(&server->members[i]))
		(void)why_set(&why, -EAGAIN, "%s does not serve yet; try again when it does",
			      server->members[i].program);
	else if (!member_replace(&server->members[i], &why))
		return;
	fail_upgrade(server, why.text);
}

/* ---- what is asked ---- */

/* davit-task, or task for short. */
static bool want(struct upgrade_server *server, const char *name)
{
	for (size_t i = 0; i < server->n_members; i++) {
		const char *program = server->members[i].program;

		if (!strcmp(program, name) || !strcmp(program + strlen("davit-"), name))
			return server->is_wanted[i] = true;
	}
	return false;
}

static void understand(struct upgrade_server *server, char *text)
{
	char *rest = NULL, *name = strtok_r(text, " ", &rest);
	char why[UPGRADE_PACKET_MAX];

	for (size_t i = 0; !name && i < server->n_members; i++)
		server->is_wanted[i] = true;
	for (; name; name = strtok_r(NULL, " ", &rest)) {
		if (want(server, name))
			continue;
		snprintf(
			why, sizeof(why),
			"'%.60s' is none of the processes: broker, runtime, image, task, container",
			name);
		fail_upgrade(server, why);
		return;
	}
	server->is_busy = true;
	next_one(server);
}

static void on_client(struct loop_file *file, uint32_t events)
{
	struct upgrade_server *server = container_of(file, struct upgrade_server, client_file);
	char text[UPGRADE_PACKET_MAX];
	ssize_t n = recv(server->client_fd, text, sizeof(text) - 1, MSG_DONTWAIT);

	(void)events;
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0 || server->is_busy) {
		forget_client(server);
		return;
	}
	text[n] = '\0';
	understand(server, text);
}

static bool is_replacing(const struct upgrade_server *server)
{
	for (size_t i = 0; i < server->n_members; i++)
		if (server->members[i].is_replacing)
			return true;
	return false;
}

static void on_connection(struct loop_file *file, uint32_t events)
{
	static const char busy[] = "failed another upgrade is under way; try again when it is done";
	struct upgrade_server *server = container_of(file, struct upgrade_server, listen_file);
	_cleanup_(cleanup_fd) int fd = accept4(server->listen_fd, NULL, NULL,
					       SOCK_CLOEXEC | SOCK_NONBLOCK);

	(void)events;
	if (fd < 0)
		return;
	if (server->is_busy || is_replacing(server)) {
		(void)send(fd, busy, sizeof(busy) - 1, MSG_DONTWAIT | MSG_NOSIGNAL);
		return;
	}
	forget_client(server); /* one that has not asked yet holds nobody up */
	server->client_fd = TAKE_FD(fd);
	if (loop_file_add(server->loop, &server->client_file, server->client_fd, EPOLLIN,
			  on_client))
		forget_client(server);
	say(server, "ready");
}

/* ---- its life ---- */

static int listen_at(struct upgrade_server *server, struct why *why)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};

	snprintf(address.sun_path, sizeof(address.sun_path), "%s", server->path);
	if (unlink(server->path) < 0 && errno != ENOENT)
		return why_errno(why, error_origin(-errno), "cannot remove %s", server->path);
	server->listen_fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (server->listen_fd < 0 ||
	    bind(server->listen_fd, (struct sockaddr *)&address, sizeof(address)) < 0 ||
	    listen(server->listen_fd, BACKLOG) < 0)
		return why_errno(why, error_origin(-errno), "cannot listen at %s", server->path);
	return loop_file_add(server->loop, &server->listen_file, server->listen_fd, EPOLLIN,
			     on_connection);
}

int upgrade_server_new(struct loop *loop, const char *state, struct member *members,
		       size_t n_members, struct upgrade_server **ret_server, struct why *why)
{
	struct upgrade_server *server = calloc(1, sizeof(*server));
	int r;

	if (!server)
		return why_errno(why, error_origin(-ENOMEM), "cannot take upgrades");
	*server = (struct upgrade_server){.loop = loop,
					  .members = members,
					  .n_members = n_members,
					  .listen_fd = -1,
					  .client_fd = -1};
	server->path = text_format("%s/" UPGRADE_SOCKET, state);
	r = server->path ? listen_at(server, why)
			 : why_errno(why, error_origin(-ENOMEM), "cannot take upgrades");
	if (r) {
		upgrade_server_free(server);
		return error_trace(r);
	}
	*ret_server = server;
	return 0;
}

struct upgrade_server *upgrade_server_free(struct upgrade_server *server)
{
	if (!server)
		return NULL;
	forget_client(server);
	loop_file_remove(&server->listen_file);
	if (server->listen_fd >= 0)
		unlink(server->path);
	close_fd(server->listen_fd);
	free(server->path);
	free(server);
	return NULL;
}
