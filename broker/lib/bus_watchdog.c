#include "broker/lib/bus_watchdog.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "broker/lib/log.h"
#include "broker/lib/nng_compat.h"
#include "broker/lib/thread.h"

#define INTERVAL_MS       2000
#define FAILURES_MAX      3
#define LOOP_FAILURES_MAX 15
/* Stream sockets that are not nng's connections: listeners, those being made, plain clients. */
#define OTHER_SOCKETS_MAX 128
#define GREETING_SIZE     8
#define STACK_SIZE        (256 * 1024)
#define LAST_WORDS_MS     1000

struct bus_watchdog {
	struct bus_watchdog_options options;
	struct sockaddr_un address;
	unsigned interval_ms;
	int stop_fd; /* eventfd: readable when the watchdog is to end */
	pthread_t thread;
	bool has_thread, has_mail;
	struct loop_mail mail;
	struct loop_mail_item item;
	atomic_bool is_posted; /* the item is with the loop */
	unsigned n_failures, n_loop_failures;
};

/* True: the watchdog is to end. */
static bool pause_for(const struct bus_watchdog *watchdog, unsigned timeout_ms)
{
	struct pollfd file = {.fd = watchdog->stop_fd, .events = POLLIN};

	return poll(&file, 1, (int)timeout_ms) > 0;
}

/* ---- the probe: NULL, or what is wrong ---- */

static const char *exchange_greetings(const struct bus_watchdog *watchdog, int fd)
{
	const uint8_t ours[GREETING_SIZE] = {0, 'S', 'P', 0, 0, (uint8_t)watchdog->options.as};
	struct pollfd file = {.fd = fd, .events = POLLIN};
	uint8_t theirs[GREETING_SIZE];

	if (send(fd, ours, sizeof(ours), MSG_NOSIGNAL) != sizeof(ours))
		return "its socket takes no greeting";
	if (poll(&file, 1, (int)watchdog->interval_ms) <= 0)
		return "its socket does not greet";
	if (recv(fd, theirs, sizeof(theirs), 0) != sizeof(theirs) || memcmp(theirs, ours, 4) != 0)
		return "its socket greets wrongly";
	return NULL;
}

static const char *await_end(const struct bus_watchdog *watchdog, size_t n_ended)
{
	for (unsigned wait_ms = 1; wait_ms < watchdog->interval_ms; wait_ms *= 2) {
		if (nng_compat_n_own_ended() > n_ended)
			return NULL;
		if (pause_for(watchdog, wait_ms))
			return NULL;
	}
	return nng_compat_n_own_ended() > n_ended ? NULL : "nng does not notice that peers go";
}

static const char *probe_socket(const struct bus_watchdog *watchdog)
{
	_cleanup_(cleanup_fd) int fd = -1;
	size_t n_ended = nng_compat_n_own_ended();
	const char *why;

	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return "it has no file descriptor left";
	if (connect(fd, (const struct sockaddr *)&watchdog->address, sizeof(watchdog->address)) < 0)
		return "its socket cannot be connected to";

	why = exchange_greetings(watchdog, fd);
	if (why)
		return why;
	fd = close_fd(fd);
	return await_end(watchdog, n_ended);
}

static bool is_stream_socket(int fd)
{
	int type = 0, domain = 0;
	socklen_t size = sizeof(int);

	if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) < 0)
		return false;
	size = sizeof(int);
	if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) < 0)
		return false;
	return type == SOCK_STREAM && domain == AF_UNIX;
}

static const char *count_sockets(const struct bus_watchdog *watchdog)
{
	_cleanup_(cleanup_dir) DIR *dir = opendir("/proc/self/fd");
	size_t n_plain = watchdog->options.n_plain ? atomic_load(watchdog->options.n_plain) : 0;
	const struct dirent *entry;
	size_t n_sockets = 0;

	while (dir && (entry = readdir(dir)))
		n_sockets += entry->d_name[0] != '.' && is_stream_socket(atoi(entry->d_name));
	if (n_sockets > nng_compat_n_pipes() + n_plain + OTHER_SOCKETS_MAX)
		return "connections that ended stay open";
	return NULL;
}

/* ---- the loop ---- */

static void loop_turned(struct loop_mail *mail, struct loop_mail_item *item)
{
	struct bus_watchdog *watchdog = container_of(mail, struct bus_watchdog, mail);

	(void)item;
	atomic_store(&watchdog->is_posted, false);
}

static bool is_loop_standing(struct bus_watchdog *watchdog)
{
	if (atomic_exchange(&watchdog->is_posted, true)) {
		watchdog->n_loop_failures++;
	} else {
		watchdog->n_loop_failures = 0;
		loop_mail_post(&watchdog->mail, &watchdog->item);
	}
	return watchdog->n_loop_failures >= LOOP_FAILURES_MAX;
}

/* ---- the thread ---- */

static void fail(const struct bus_watchdog *watchdog, const char *what)
{
	char why[256];

	snprintf(why, sizeof(why), "this process does not serve %s any more: %s",
		 watchdog->address.sun_path, what);
	watchdog->options.failed(watchdog->options.userdata, why);
}

static void *watch(void *userdata)
{
	struct bus_watchdog *watchdog = userdata;
	const char *what;

	while (!pause_for(watchdog, watchdog->interval_ms)) {
		if (is_loop_standing(watchdog)) {
			fail(watchdog, "its loop does not turn");
			return NULL;
		}
		if (!watchdog->options.as)
			continue;
		what = probe_socket(watchdog);
		if (!what)
			what = count_sockets(watchdog);
		watchdog->n_failures = what ? watchdog->n_failures + 1 : 0;
		if (watchdog->n_failures >= FAILURES_MAX) {
			fail(watchdog, what);
			return NULL;
		}
	}
	return NULL;
}

int bus_watchdog_new(struct loop *loop, const struct bus_watchdog_options *options,
		     struct bus_watchdog **ret_watchdog)
{
	_cleanup_(bus_watchdog_freep) struct bus_watchdog *watchdog = NULL;
	int r;

	if (strlen(options->path) > NNG_COMPAT_PATH_MAX)
		return error_origin(-ENAMETOOLONG);
	watchdog = calloc(1, sizeof(*watchdog));
	if (!watchdog)
		return error_origin(-ENOMEM);

	watchdog->options = *options;
	watchdog->interval_ms = options->interval_ms > 0 ? options->interval_ms : INTERVAL_MS;
	watchdog->address.sun_family = AF_UNIX;
	strcpy(watchdog->address.sun_path, options->path);
	watchdog->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (watchdog->stop_fd < 0)
		return error_origin(-errno);

	r = loop_mail_add(loop, &watchdog->mail, loop_turned);
	if (r)
		return error_trace(r);

	watchdog->has_mail = true;
	r = thread_start(&watchdog->thread, STACK_SIZE, watch, watchdog);
	if (r)
		return error_trace(r);

	watchdog->has_thread = true;
	*ret_watchdog = TAKE(watchdog);
	return 0;
}

struct bus_watchdog *bus_watchdog_free(struct bus_watchdog *watchdog)
{
	const uint64_t one = 1;

	if (!watchdog)
		return NULL;

	if (watchdog->has_thread) {
		if (write(watchdog->stop_fd, &one, sizeof(one)) < 0)
			pthread_cancel(watchdog->thread);
		pthread_join(watchdog->thread, NULL);
	}
	if (watchdog->has_mail)
		loop_mail_remove(&watchdog->mail);
	watchdog->stop_fd = close_fd(watchdog->stop_fd);
	free(watchdog);
	return NULL;
}

void bus_watchdog_freep(struct bus_watchdog **watchdog)
{
	*watchdog = bus_watchdog_free(*watchdog);
}

void bus_watchdog_exit(void *userdata, const char *why)
{
	struct pollfd log = {.fd = STDERR_FILENO, .events = POLLOUT};

	(void)userdata;
	if (poll(&log, 1, LAST_WORDS_MS) > 0)
		log_error("%s: ending", why);
	_exit(75);
}
