#include <fcntl.h>
#include <grp.h>
#include <inttypes.h>
#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "broker/broker.h"
#include "broker/callers.h"
#include "broker/eventread.h"
#include "broker/lib/bus_watchdog.h"
#include "broker/lib/file.h"
#include "broker/lib/log.h"
#include "broker/lib/nng_compat.h"
#include "broker/pool.h"
#include "broker/services.h"

#define LOCK_WAIT_MS 30000 /* with --take-over */
#define LOCK_POLL_MS 2

/*
 * What may be under way at a time. Callers and services together stay below
 * CALLERS_MAX, so that connections are left for what is answered at once.
 */
static const struct quota_limits quota_limits = {
	.caller = {.requests = 512, .bytes = 16 << 20},
	.service = {.requests = 1536, .bytes = 64 << 20},
	.callers = {.requests = 2560, .bytes = 64 << 20},
	.all = {.requests = 4096, .bytes = 128 << 20},
};

/* ---- carrying out decisions ---- */

static void do_chores(struct errand *errand)
{
	struct broker *broker = container_of(errand, struct broker, chores);
	struct route_actions actions = {};
	uint64_t at;

	broker->is_chores_posted = false;
	route_expire(&broker->router, time_boot_ms(), &actions);
	at = route_due(&broker->router);
	broker->router.armed_ms = at;
	broker_perform(broker, &actions);
	services_grow(broker->services);
	if (at == UINT64_MAX)
		loop_timer_cancel(&broker->deadline_timer);
	else
		loop_timer_set(broker->loop, &broker->deadline_timer, at,
			       broker->deadline_timer.fn);
}

static void on_deadline(struct loop_timer *timer)
{
	struct broker *broker = container_of(timer, struct broker, deadline_timer);

	do_chores(&broker->chores);
}

void broker_perform(struct broker *broker, struct route_actions *actions)
{
	if ((actions->needs_connections || actions->needs_timer) && !broker->is_chores_posted) {
		broker->is_chores_posted = true;
		broker_post(broker, &broker->chores, do_chores);
	}
	while (actions->sends) {
		struct route_connection *connection = actions->sends;

		actions->sends = connection->next_send;
		pool_send(connection);
	}
	while (actions->answers) {
		struct exchange *exchange = actions->answers;

		actions->answers = exchange->next;
		caller_answer(container_of(exchange, struct caller, exchange), exchange->status,
			      exchange->text, NULL, 0);
	}
}

void broker_post(struct broker *broker, struct errand *errand, void (*fn)(struct errand *errand))
{
	errand->fn = fn;
	loop_mail_post(&broker->mail, &errand->item);
}

static void on_mail(struct loop_mail *mail, struct loop_mail_item *item)
{
	struct errand *errand = container_of(item, struct errand, item);

	(void)mail;
	errand->fn(errand);
}

/* ---- directories and sockets ---- */

static void raise_limits(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
		limit.rlim_cur = limit.rlim_max;
		setrlimit(RLIMIT_NOFILE, &limit);
	}
}

static int lock_in(const char *directory, const char *name, int *ret_fd, struct why *why)
{
	_cleanup_(cleanup_free) char *path = text_format("%s/%s", directory, name);
	int r;

	if (!path)
		return error_origin(-ENOMEM);
	r = file_lock(path, ret_fd);
	if (r == -EWOULDBLOCK)
		return why_set(why, r, "another davit-broker holds %s", path);
	return r ? why_errno(why, r, "cannot lock %s", path) : 0;
}

static void tell_supervisor(const struct broker *broker, const char *text)
{
	if (broker->options->ready_fd >= 0 &&
	    write(broker->options->ready_fd, text, strlen(text)) < 0)
		log_debug("ready-fd %d cannot be written: %m", broker->options->ready_fd);
}

/* With --take-over: the broker before still serves, and is asked to end when we say that we wait. */
static int take_lock(const struct broker *broker, const char *directory, const char *name,
		     int *ret_fd, struct why *why)
{
	uint64_t until = time_boot_ms() + LOCK_WAIT_MS;
	bool is_told = false;

	for (;;) {
		int r = lock_in(directory, name, ret_fd, why);

		if (r != -EWOULDBLOCK || !broker->options->takes_over || time_boot_ms() >= until)
			return error_trace(r);
		if (!is_told)
			tell_supervisor(broker, "WAITING=1\n");
		is_told = true;
		*why = (struct why){};
		poll(NULL, 0, LOCK_POLL_MS);
	}
}

#define NO_GROUP ((gid_t)-1)

static gid_t look_up_group(void)
{
	const struct group *group = getgrnam("davit");

	return group ? group->gr_gid : NO_GROUP;
}

/* The host's name services are libraries that stay mapped once they are loaded, half a megabyte of them: a child
 * loads them, and ends. There is no thread yet. */
static gid_t find_group(void)
{
	_cleanup_(cleanup_fd) int ours = -1, theirs = -1;
	gid_t gid = NO_GROUP;
	int ends[2];
	pid_t pid;

	if (pipe2(ends, O_CLOEXEC) < 0)
		return look_up_group();
	ours = ends[0];
	theirs = ends[1];
	pid = fork();
	if (pid < 0)
		return look_up_group();
	if (pid == 0) {
		gid = look_up_group();
		_exit(file_write_all(theirs, &gid, sizeof(gid)) ? 1 : 0);
	}
	theirs = close_fd(theirs);
	if (read(ours, &gid, sizeof(gid)) != sizeof(gid))
		gid = NO_GROUP;
	waitpid(pid, NULL, 0);
	return gid;
}

static int prepare_state(struct broker *broker, struct why *why)
{
	const char *state = broker->options->paths.state;
	_cleanup_(cleanup_free) char *services = text_format("%s/svc", state);
	int r;

	if (!services)
		return error_origin(-ENOMEM);
	broker->group = find_group();
	broker->has_group = broker->group != NO_GROUP;
	r = file_make_dir(state, broker->has_group ? 0710 : 0700, why);
	if (r)
		return error_trace(r);
	if (broker->has_group &&
	    (chown(state, (uid_t)-1, broker->group) < 0 || chmod(state, 0710) < 0))
		return why_errno(why, error_origin(-errno), "cannot open %s to group davit", state);
	r = file_make_dir(services, 0700, why);
	if (!r)
		r = take_lock(broker, state, "broker.lock", &broker->state_lock, why);
	return error_trace(r);
}

/* Under the lock: whoever listened there is gone. */
static int unlink_stale(const char *path, struct why *why)
{
	if (unlink(path) < 0 && errno != ENOENT)
		return why_errno(why, error_origin(-errno), "cannot remove the stale socket %s",
				 path);
	return 0;
}

static int open_to_group(const struct broker *broker, const char *path, struct why *why)
{
	if (!broker->has_group)
		return 0;
	if (chown(path, (uid_t)-1, broker->group) < 0 || chmod(path, 0660) < 0)
		return why_errno(why, error_origin(-errno), "cannot open %s to group davit", path);
	return 0;
}

/* ---- setting up ---- */

static void on_subscriber(void *userdata, bool is_added, bool is_own)
{
	struct broker *broker = userdata;

	if (is_own)
		return;
	if (is_added)
		atomic_fetch_add(&broker->n_subscribers, 1);
	else
		atomic_fetch_sub(&broker->n_subscribers, 1);
}

static void on_advanced(void *userdata)
{
	struct broker *broker = userdata;

	eventread_advanced(broker->eventread);
}

static int open_log(struct broker *broker, struct why *why)
{
	const struct options *options = broker->options;
	_cleanup_(cleanup_free) char *directory = text_format("%s/events", options->paths.root);
	struct logthread_options log = {
		.directory = directory,
		.limits = {options->log_max_bytes, options->log_max_age_ns},
		.n_subscribers = &broker->n_subscribers,
		.advanced = on_advanced,
		.userdata = broker,
	};
	int r;

	if (!directory)
		return error_origin(-ENOMEM);
	r = file_make_dir(directory, 0700, why);
	if (!r)
		r = take_lock(broker, directory, "lock", &broker->root_lock, why);
	if (!r)
		r = eventread_new(broker, &broker->eventread);
	if (!r)
		r = nng_compat_open_pub(&broker->events_socket);
	if (!r)
		r = nng_compat_on_pipe(broker->events_socket, on_subscriber, broker);
	if (r)
		return error_trace(r);
	log.pub = broker->events_socket;
	return logthread_new(&log, &broker->logthread, why);
}

static int open_sockets(struct broker *broker, struct why *why)
{
	const struct paths *paths = &broker->options->paths;
	int r;

	r = unlink_stale(paths->bus, why);
	if (!r)
		r = unlink_stale(paths->events, why);
	if (!r)
		r = unlink_stale(paths->registry, why);
	if (!r)
		r = pool_new(broker, &broker->pool);
	if (!r)
		r = services_new(broker, paths->registry, &broker->services, why);
	if (!r)
		r = nng_compat_listen(broker->events_socket, paths->events, 0600, why);
	if (!r)
		r = open_to_group(broker, paths->events, why);
	if (!r)
		r = callers_new(broker, paths->bus, 0600, &broker->callers, why);
	if (!r)
		r = open_to_group(broker, paths->bus, why);
	return error_trace(r);
}

static void on_signal(struct loop_signals *signals, int signal)
{
	(void)signal;
	loop_stop(signals->file.loop, 0);
}

static int open_loop(struct broker *broker)
{
	sigset_t mask;
	int r;

	sigemptyset(&mask);
	sigaddset(&mask, SIGTERM);
	sigaddset(&mask, SIGINT);
	signal(SIGPIPE, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	r = loop_new(&broker->loop);
	if (!r)
		r = loop_signals_add(broker->loop, &broker->signals, &mask, on_signal);
	if (!r)
		r = loop_mail_add(broker->loop, &broker->mail, on_mail);
	broker->deadline_timer.fn = on_deadline;
	return error_trace(r);
}

/* ---- readiness ---- */

static void notify_supervisor(void)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	const char *path = getenv("NOTIFY_SOCKET");
	socklen_t size;
	int fd;

	if (!path || (path[0] != '/' && path[0] != '@') || strlen(path) >= sizeof(address.sun_path))
		return;
	strcpy(address.sun_path, path);
	size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path));
	if (path[0] == '@')
		address.sun_path[0] = '\0';
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return;
	if (sendto(fd, "READY=1", 7, 0, (struct sockaddr *)&address, size) < 0)
		log_debug("the supervisor cannot be told: %m");
	close(fd);
}

static void report_ready(const struct broker *broker)
{
	tell_supervisor(broker, "READY=1\n");
	close_fd(broker->options->ready_fd);
	notify_supervisor();
}

/* ---- its life ---- */

static int set_up(struct broker *broker, struct why *why)
{
	struct bus_watchdog_options watchdog = {
		.path = broker->options->paths.events,
		.as = SP_SUB,
		.n_plain = &broker->n_plain_sockets,
		.interval_ms = broker->options->watchdog_ms,
		.failed = bus_watchdog_exit,
	};
	int r;

	umask(077);
	raise_limits();
	r = open_loop(broker);
	if (!r)
		r = quota_new(&quota_limits, &broker->quota);
	if (!r)
		r = prepare_state(broker, why);
	if (!r)
		r = open_log(broker, why);
	if (!r)
		r = open_sockets(broker, why);
	if (!r)
		r = bus_watchdog_new(broker->loop, &watchdog, &broker->watchdog);
	return error_trace(r);
}

/* What is acknowledged is on disk, and the next one finds no stale socket. */
static void shut_down(struct broker *broker)
{
	const struct paths *paths = &broker->options->paths;

	unlink(paths->bus);
	unlink(paths->registry);
	unlink(paths->events);
	logthread_free(broker->logthread);
}

int broker_run(const struct options *options)
{
	/* nng's threads go on using it until the process has ended. */
	static struct broker broker;
	struct why why = {};
	int r;

	broker.options = options;
	broker.state_lock = broker.root_lock = -1;
	broker.router.armed_ms = UINT64_MAX;
	broker.started_at_ns = time_real_ns();
	r = set_up(&broker, &why);
	if (r) {
		log_error("cannot start: %s", why.text[0] ? why.text : strerror(-r));
		return 1;
	}
	report_ready(&broker);
	log_info("serving %s, event log %s/events", options->paths.bus, options->paths.root);
	r = loop_run(broker.loop);
	shut_down(&broker);
	log_info("stopped");
	return r == 0 ? 0 : 1;
}
