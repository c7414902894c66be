#include <poll.h>

#include "broker/lib/loop.h"
#include "tests/lib/wait.h"

static bool turn(struct loop *loop, uint64_t deadline_ms)
{
	uint64_t now_ms = time_boot_ms();

	return now_ms < deadline_ms && loop_turn(loop, (int)(deadline_ms - now_ms)) == 0;
}

bool wait_on_loop(struct loop *loop, const bool *done, int timeout_ms)
{
	uint64_t deadline_ms = time_boot_ms() + (uint64_t)timeout_ms;

	while (!*done)
		if (!turn(loop, deadline_ms))
			return false;
	return true;
}

bool wait_on_loop_count(struct loop *loop, const unsigned *counter, unsigned n, int timeout_ms)
{
	uint64_t deadline_ms = time_boot_ms() + (uint64_t)timeout_ms;

	while (*counter < n)
		if (!turn(loop, deadline_ms))
			return false;
	return true;
}

bool wait_on_fd(int fd, short events, int timeout_ms)
{
	struct pollfd file = {.fd = fd, .events = events};

	return poll(&file, 1, timeout_ms) == 1;
}
