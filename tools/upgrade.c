/* davit upgrade: asks `davit up` to replace processes while they serve, and shows the pauses. */

#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "broker/lib/file.h"
#include "tools/command.h"
#include "tools/upgrade.h"

/* The longest time between two packets: a new process starts, an old one ends. */
#define ANSWER_MS (MEMBER_READY_MS + MEMBER_STOP_MS + 5000)

static int connect_up(struct context *context, int *ret_fd)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	_cleanup_(cleanup_fd) int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	snprintf(address.sun_path, sizeof(address.sun_path), "%s/" UPGRADE_SOCKET,
		 context->paths.state);
	if (fd < 0)
		return fail(context, "no socket: %s", strerror(errno));
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		return fail(
			context,
			"`davit up` does not run in %s (%s); under systemd, use `systemctl restart UNIT`",
			context->paths.state, strerror(errno));
	*ret_fd = TAKE_FD(fd);
	return 0;
}

static int ask(struct context *context, int fd, char **names, int n_names)
{
	char text[UPGRADE_PACKET_MAX] = " "; /* an empty packet would be the end */
	size_t size = 1;

	for (int i = 0; i < n_names; i++) {
		int n = snprintf(text + size, sizeof(text) - size, "%s ", names[i]);

		if (n < 0 || size + (size_t)n >= sizeof(text))
			return fail(context, "too many names");
		size += (size_t)n;
	}
	if (send(fd, text, size, MSG_NOSIGNAL) < 0)
		return fail(context, "`davit up` cannot be asked: %s", strerror(errno));
	return 0;
}

/* One packet of what `davit up` says. */
static int hear(struct context *context, int fd, char text[UPGRADE_PACKET_MAX + 1])
{
	struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
	ssize_t n;

	if (poll(&poll_fd, 1, ANSWER_MS) != 1)
		return fail(context, "`davit up` does not answer");
	n = recv(fd, text, UPGRADE_PACKET_MAX, 0);
	if (n <= 0)
		return fail(context, "`davit up` ended, or another upgrade came first");
	text[n] = '\0';
	return strncmp(text, "failed ", 7) ? 0 : fail(context, "%s", text + 7);
}

static void show(const char *text)
{
	char program[64];
	int before, after, pause_ms;

	if (sscanf(text, "replaced %63s %d %d %d", program, &before, &after, &pause_ms) == 4)
		printf("%s: process %d replaced by %d, pause %d ms\n", program, before, after,
		       pause_ms);
	fflush(stdout);
}

static int upgrade(struct context *context, void *data, char **args, int n_args)
{
	_cleanup_(cleanup_fd) int fd = -1;
	char text[UPGRADE_PACKET_MAX + 1] = "";
	int code;

	(void)data;
	code = connect_up(context, &fd);
	if (!code)
		code = hear(context, fd, text);
	if (!code)
		code = ask(context, fd, args, n_args);
	while (!code && strcmp(text, "done")) {
		show(text);
		code = hear(context, fd, text);
	}
	return code;
}

const struct command upgrade_command = {
	.name = "upgrade",
	.arguments = "[PROCESS...]",
	.summary = "replace the broker and the services by what is on disk, while they serve",
	.details =
		"   PROCESS is broker, runtime, image, task or container; without any, all of them, one after another.\n"
		"   The new process starts and waits; the old one drains and ends; requests that come meanwhile are held.\n"
		"   A new process that does not start leaves the old one as it is. Containers and their shims go on.",
	.max_args = 8,
	.run = upgrade,
};
