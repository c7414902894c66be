/*
 * The peer of `davit bus bench`: plain nng REQ/REP over a unix socket, one process
 * answering, one asking; what a round trip costs without a broker.
 * usage: nng_direct REQUESTS; prints min, median and max in microseconds.
 */

#include <nng/nng.h>
#include <nng/protocol/reqrep0/rep.h>
#include <nng/protocol/reqrep0/req.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static char url[128];

static void serve(void)
{
	nng_socket socket;
	nng_msg *message;

	if (nng_rep0_open(&socket) || nng_listen(socket, url, NULL, 0))
		_exit(1);
	while (!nng_recvmsg(socket, &message, 0)) {
		if (nng_sendmsg(socket, message, 0))
			nng_msg_free(message);
	}
	_exit(0);
}

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static int ask(size_t n, uint64_t *times)
{
	char payload[200] = "";
	nng_socket socket;
	nng_msg *message;

	if (nng_req0_open(&socket) || nng_dial(socket, url, NULL, NNG_FLAG_NONBLOCK))
		return 1;
	for (size_t i = 0; i < n; i++) {
		uint64_t start = now_ns();

		if (nng_msg_alloc(&message, 0) ||
		    nng_msg_append(message, payload, sizeof(payload)) ||
		    nng_sendmsg(socket, message, 0) || nng_recvmsg(socket, &message, 0))
			return 1;
		nng_msg_free(message);
		times[i] = now_ns() - start;
	}
	return 0;
}

int main(int argc, char *argv[])
{
	size_t n = argc > 1 ? strtoul(argv[1], NULL, 10) : 5000;
	uint64_t *times = calloc(n ? n : 1, sizeof(*times));
	pid_t server;
	int r;

	snprintf(url, sizeof(url), "ipc:///tmp/davit-bench-%d.sock", (int)getpid());
	server = fork();
	if (!server)
		serve();
	r = !times || server < 0 || ask(n, times);
	kill(server, SIGKILL);
	waitpid(server, NULL, 0);
	unlink(url + strlen("ipc://"));
	if (r)
		return 1;
	qsort(times, n, sizeof(*times), compare);
	printf("%.1f %.1f %.1f\n", (double)times[0] / 1e3, (double)times[n / 2] / 1e3,
	       (double)times[n - 1] / 1e3);
	return 0;
}
