#include "tests/lib/raw_peer.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>

#include "broker/lib/cleanup.h"
#include "tests/lib/wait.h"

int raw_peer_connect(const char *path)
{
	_cleanup_(cleanup_fd) int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct sockaddr_un address = {.sun_family = AF_UNIX};

	strncpy(address.sun_path, path, sizeof(address.sun_path) - 1);
	if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		return -1;
	return TAKE_FD(fd);
}

bool raw_peer_is_cut_off(int fd)
{
	struct timeval timeout = {.tv_sec = WAIT_MS / 1000};
	char waste[256];
	ssize_t n;

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
	do
		n = recv(fd, waste, sizeof(waste), 0);
	while (n > 0);
	return n == 0 || errno == ECONNRESET;
}
