/* main() of every service: arguments, signals, socket, registration, loop, draining, end. */

#include <dirent.h>
#include <fcntl.h>
#include <getopt.h>
#include <malloc.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "broker/lib/bus_server.h"
#include "broker/lib/bus_watchdog.h"
#include "broker/lib/file.h"
#include "broker/lib/log.h"
#include "services/lib/rebuild.h"
#include "services/lib/service_private.h"

#define EXIT_DAMAGED 74
#define EXIT_USAGE   2
#define LOCK_WAIT_MS 5000  /* for the instance before, which drains */
#define TAKE_OVER_MS 30000 /* the same with --take-over: it is asked to drain when we wait */
#define LOCK_POLL_MS 2
#define DRAIN_MAX_MS 5000 /* for definition->drain() */
#define QUIET_MAX_MS 100  /* for answers that come late; the next instance gets the others again */

struct process {
	const struct service_definition *definition;
	char *root, *state;
	bool is_debug, is_done, takes_over;
	char *copy_to;   /* --copy-stores: nothing else is done */
	bool is_rebuild; /* --rebuild-store: the same */
	int ready_fd;
	struct loop *loop;
	struct loop_signals signals;
	struct bus *bus;
	struct bus_server *server;
	struct bus_watchdog *watchdog;
	struct service *service;
	char *address;
	struct loop_timer drain_timer;
	bool is_quiet_wait;
};

/* One for each process: the callbacks of the registration know the service only. */
static struct process *the_process;

/* ---- arguments ---- */

static void print_help(const char *program)
{
	printf("Usage: %s [--root DIRECTORY] [--state DIRECTORY] [--ready-fd FD] [--take-over] [--debug]\n\n"
	       "A service of davit; started by `davit up` or systemd.\n\n"
	       "  --root DIRECTORY   what outlives the host's boot (%s)\n"
	       "  --state DIRECTORY  sockets and what belongs to this boot (%s)\n"
	       "  --ready-fd FD      gets \"READY=1\" when requests are taken\n"
	       "  --take-over        the instance before still serves: say \"WAITING=1\" on FD, and wait\n"
	       "  --copy-stores DIR  copy its stores there, as they are at one instant, and end\n"
	       "  --rebuild-store    make its store again from what can be read and found, and end\n"
	       "  --debug            log more\n"
	       "  --version\n",
	       program, PATHS_DEFAULT_ROOT, PATHS_DEFAULT_STATE);
}

static int set_option(struct process *process, int option)
{
	char *end;
	long fd;

	switch (option) {
	case 'r':
		process->root = optarg;
		return 0;
	case 's':
		process->state = optarg;
		return 0;
	case 't':
		process->takes_over = true;
		return 0;
	case 'c':
		process->copy_to = optarg;
		return 0;
	case 'b':
		process->is_rebuild = true;
		return 0;
	case 'd':
		process->is_debug = true;
		return 0;
	case 'h':
		print_help(process->definition->program);
		process->is_done = true;
		return 0;
	case 'v':
		printf("%s %s\n", process->definition->program, DAVIT_VERSION);
		process->is_done = true;
		return 0;
	case 'f':
		fd = strtol(optarg, &end, 10);
		if (end == optarg || *end || fd < 3 || fcntl((int)fd, F_SETFD, FD_CLOEXEC) < 0) {
			fprintf(stderr, "%s: --ready-fd: '%s' is no open descriptor\n",
				process->definition->program, optarg);
			return -EINVAL;
		}
		process->ready_fd = (int)fd;
		return 0;
	}
	return -EINVAL;
}

static int parse(struct process *process, int argc, char *argv[])
{
	static const struct option options[] = {
		{"root", required_argument, NULL, 'r'},
		{"state", required_argument, NULL, 's'},
		{"ready-fd", required_argument, NULL, 'f'},
		{"copy-stores", required_argument, NULL, 'c'},
		{"take-over", no_argument, NULL, 't'},
		{"rebuild-store", no_argument, NULL, 'b'},
		{"debug", no_argument, NULL, 'd'},
		{"help", no_argument, NULL, 'h'},
		{"version", no_argument, NULL, 'v'},
		{},
	};
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) >= 0)
		if (set_option(process, option))
			return -EINVAL;
	if (optind == argc)
		return 0;
	fprintf(stderr, "%s: unexpected argument '%s' (see --help)\n", process->definition->program,
		argv[optind]);
	return -EINVAL;
}

/* ---- the end ---- */

/* What was asked and not answered goes to the next instance: only short work is waited for. */
static bool is_quiet(const struct service *service)
{
	if (service->queue.first || service->ready.first)
		return false;
	for (size_t i = 0; i < SERVICE_CALLS_BUCKETS; i++)
		for (const struct call *call = service->calls[i]; call; call = call->next)
			if (!call->operation)
				return false;
	return true;
}

static void stop(struct loop_timer *timer)
{
	struct process *process = container_of(timer, struct process, drain_timer);

	loop_stop(process->loop, 0);
}

static void after_turn(void *userdata)
{
	struct process *process = userdata;
	struct service *service = process->service;

	service_turn(service);
	if (!service->is_drained)
		return;
	if (is_quiet(service)) {
		loop_stop(process->loop, 0);
		return;
	}
	if (!process->is_quiet_wait)
		loop_timer_set(process->loop, &process->drain_timer, time_boot_ms() + QUIET_MAX_MS,
			       stop);
	process->is_quiet_wait = true;
}

static void drain(struct service *service)
{
	if (service->definition->drain)
		service->definition->drain(service->object);
	else
		service_drained(service);
}

static void on_signal(struct loop_signals *signals, int signal)
{
	struct process *process = container_of(signals, struct process, signals);
	struct service *service = process->service;

	if (service->is_draining) {
		loop_stop(process->loop, 0);
		return;
	}
	log_info("%s: draining", signal == SIGTERM ? "SIGTERM" : "SIGINT");
	service->is_draining = true;
	loop_timer_set(process->loop, &process->drain_timer, time_boot_ms() + DRAIN_MAX_MS, stop);
	if (service->registration)
		registration_drain(service->registration, drain);
	else
		drain(service);
}

/* ---- requests ---- */

static void answer(void *userdata, const void *reply, size_t size)
{
	struct bus_server_request *request = userdata;

	if (size)
		bus_server_reply(request, reply, size);
	else
		bus_server_drop(request);
}

static void on_request(void *userdata, struct bus_server_request *request)
{
	struct process *process = userdata;
	const void *data;
	size_t size;

	data = bus_server_request_data(request, &size);
	if (service_dispatch(process->service, data, size, answer, request))
		bus_server_drop(request);
}

/* ---- readiness ---- */

static void notify_supervisor(void)
{
	const char *path = getenv("NOTIFY_SOCKET");
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	_cleanup_(cleanup_fd) int fd = -1;

	if (!path || (*path != '/' && *path != '@') || strlen(path) >= sizeof(address.sun_path))
		return;
	memcpy(address.sun_path, path, strlen(path));
	if (*path == '@')
		address.sun_path[0] = '\0';
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0 ||
	    sendto(fd, "READY=1", 7, MSG_NOSIGNAL, (struct sockaddr *)&address,
		   (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path))) < 0)
		log_warning("NOTIFY_SOCKET '%s' cannot be told: %s", path, strerror(errno));
}

static void tell_ready_fd(const struct process *process, const char *text)
{
	if (process->ready_fd >= 0 && file_write_all(process->ready_fd, text, strlen(text)))
		log_warning("--ready-fd cannot be written");
}

static void on_registered(struct service *service)
{
	struct process *process = the_process;

	log_info("ready");
	service_start(service);
	tell_ready_fd(process, "READY=1\n");
	process->ready_fd = close_fd(process->ready_fd);
	notify_supervisor();
	/* What starting took and does not need any more. */
	malloc_trim(0);
}

/* ---- setup ---- */

/* The store's file is mapped: a page that is not there, or that the disk does not give, ends the process. */
static void on_bus_error(int signal)
{
	static const char text[] =
		"error: SIGBUS: the store's file is shorter than it says, or its disk fails; it is left as it is\n";

	(void)signal;
	(void)!write(STDERR_FILENO, text, sizeof(text) - 1);
	_exit(EXIT_DAMAGED);
}

static int block_signals(struct process *process)
{
	sigset_t mask;

	signal(SIGPIPE, SIG_IGN);
	signal(SIGBUS, on_bus_error);
	sigemptyset(&mask);
	sigaddset(&mask, SIGTERM);
	sigaddset(&mask, SIGINT);
	return loop_signals_add(process->loop, &process->signals, &mask, on_signal);
}

/* The instance before may be on its way out. */
static int open_service(struct process *process, struct paths *paths, struct why *why)
{
	uint64_t until = time_boot_ms() + (process->takes_over ? TAKE_OVER_MS : LOCK_WAIT_MS);
	bool is_told = !process->takes_over;
	int r;

	for (;;) {
		struct paths own = {};

		*why = (struct why){};
		r = paths_init(&own, paths->root, paths->state, NULL, why);
		if (!r)
			r = service_open(process->definition, process->loop, process->bus, &own,
					 &process->service, why);
		paths_deinit(&own);
		if (r != STORE_E_LOCKED || time_boot_ms() >= until)
			return error_trace(r);
		if (!is_told)
			tell_ready_fd(process, "WAITING=1\n");
		is_told = true;
		poll(NULL, 0, LOCK_POLL_MS);
	}
}

static int open_paths(struct process *process, struct paths *paths, struct why *why)
{
	_cleanup_(cleanup_free) char *directory = NULL;
	int r;

	r = paths_init(paths, process->root, process->state, NULL, why);
	if (r)
		return error_trace(r);
	directory = text_format("%s/svc", paths->state);
	process->address = text_format("%s/svc/%s-%d.sock", paths->state,
				       process->definition->names[0], getpid());
	if (!directory || !process->address)
		return error_origin(-ENOMEM);
	/* The mode of the directory itself is the broker's to choose (group davit). */
	return error_trace(file_make_dir(directory, 0711, why));
}

static int listen_and_register(struct process *process, struct why *why)
{
	struct bus_server_options options = {
		.path = process->address,
		.mode = 0600,
		.only_own_uid = true,
	};
	struct bus_watchdog_options watchdog = {
		.path = process->address,
		.failed = bus_watchdog_exit,
	};
	int r;

	unlink(process->address);
	r = bus_server_new(process->loop, &options, on_request, process, &process->server, why);
	if (!r)
		r = bus_watchdog_new(process->loop, &watchdog, &process->watchdog);
	if (!r)
		r = registration_new(process->service, process->address, on_registered,
				     &process->service->registration);
	return error_trace(r);
}

static int setup(struct process *process, struct why *why)
{
	_cleanup_(paths_deinit) struct paths paths = {};
	int r;

	umask(077);
	/* One arena: what the other threads (the watchdog's, and nng's of who subscribes) allocate is small. */
	mallopt(M_ARENA_MAX, 1);
	r = open_paths(process, &paths, why);
	if (!r)
		r = loop_new(&process->loop);
	if (!r)
		r = block_signals(process);
	if (!r)
		r = bus_new(process->loop, paths.bus, paths.events, &process->bus);
	if (!r)
		r = open_service(process, &paths, why);
	if (r)
		return error_trace(r);
	loop_set_after_turn(process->loop, after_turn, process);
	return error_trace(listen_and_register(process, why));
}

static int run(struct process *process)
{
	struct why why = {};
	int r;

	r = setup(process, &why);
	if (r) {
		log_error("%s", *why.text ? why.text : r < 0 ? strerror(-r) : "cannot start");
		return 1;
	}
	r = loop_run(process->loop);
	if (r < 0)
		log_error("the loop failed: %s", strerror(-r));
	/* What is committed is told, the rest is the next instance's. */
	service_turn(process->service);
	process->server = bus_server_free(process->server);
	process->service = service_close(process->service);
	return r < 0 ? 1 : 0;
}

/* ---- copies ---- */

/* A line for who asked: "durable" or "volatile", and the store's directory, which is the copy's too. */
static int copy_store(const struct process *process, const char *top, const char *kind,
		      const char *name)
{
	_cleanup_(cleanup_free) char *from = text_format("%s/%s", top, name);
	_cleanup_(cleanup_free) char *to = text_format("%s/%s/%s", process->copy_to, kind, name);
	struct why why = {};
	int r = from && to ? store_copy(from, to, &why) : error_origin(-ENOMEM);

	if (r == STORE_E_NOT_FOUND)
		return 0;
	if (r)
		fprintf(stderr, "%s: %s\n", process->definition->program,
			why.text[0] ? why.text : strerror(r < 0 ? -r : EIO));
	else
		printf("%s %s\n", kind, name);
	return r;
}

/* Each is replaced as a whole by who writes it. Locks are empty. */
static int copy_file(const char *from, const char *to, const char *name, struct why *why)
{
	_cleanup_(cleanup_free) char *source = text_format("%s/%s", from, name);
	_cleanup_(cleanup_free) char *copy = text_format("%s/%s", to, name), *data = NULL;
	size_t size;
	int r = source && copy ? file_read(AT_FDCWD, source, SCHEMA_MESSAGE_MAX, &data, &size)
			       : error_origin(-ENOMEM);

	if (r == -ENOENT || (!r && !size))
		return 0;
	return r ? why_errno(why, r, "%s", source ?: name)
		 : file_write(copy, data, size, 0600, true, why);
}

/* Told as the stores are: "files", and the directory. */
static int copy_files(const struct process *process, const char *root, const char *name)
{
	_cleanup_(cleanup_free) char *from = text_format("%s/%s", root, name);
	_cleanup_(cleanup_free) char *to = text_format("%s/files/%s", process->copy_to, name);
	_cleanup_(cleanup_dir) DIR *dir = from ? opendir(from) : NULL;
	struct dirent *entry;
	struct why why = {};
	int r = from && to ? 0 : error_origin(-ENOMEM);

	if (!r && !dir)
		return 0;
	r = r ?: file_make_dir(to, 0700, &why);
	while (!r && (entry = readdir(dir)))
		if (entry->d_name[0] != '.')
			r = copy_file(from, to, entry->d_name, &why);
	if (r)
		fprintf(stderr, "%s: %s\n", process->definition->program,
			why.text[0] ? why.text : strerror(r < 0 ? -r : EIO));
	else
		printf("files %s\n", name);
	return r;
}

static int copy_stores(const struct process *process)
{
	const struct service_definition *definition = process->definition;
	const char *const *more = definition->more_stores;
	_cleanup_(paths_deinit) struct paths paths = {};
	struct why why = {};
	int r;

	umask(077);
	r = paths_init(&paths, process->root, process->state, NULL, &why);
	if (r) {
		fprintf(stderr, "%s: %s\n", definition->program, why.text);
		return 1;
	}
	r = copy_store(process, definition->is_volatile ? paths.state : paths.root,
		       definition->is_volatile ? "volatile" : "durable", definition->directory);
	for (; !r && more && *more; more++)
		r = copy_store(process, paths.root, "durable", *more);
	if (!r && definition->files)
		r = copy_files(process, paths.root, definition->files);
	return r ? 1 : 0;
}

static int rebuild_store(const struct process *process)
{
	const struct service_definition *definition = process->definition;
	_cleanup_(paths_deinit) struct paths paths = {};
	struct why why = {};

	if (definition->is_volatile) {
		fprintf(stderr, "%s: its store begins anew by itself\n", definition->program);
		return EXIT_USAGE;
	}
	if (paths_init(&paths, process->root, process->state, NULL, &why)) {
		fprintf(stderr, "%s: %s\n", definition->program, why.text);
		return 1;
	}
	return rebuild_run(definition, &paths);
}

int service_main(int argc, char *argv[], const struct service_definition *definition)
{
	struct process process = {.definition = definition, .ready_fd = -1};
	int code = 0;

	the_process = &process;
	if (parse(&process, argc, argv))
		_exit(EXIT_USAGE);
	if (!process.is_done && process.copy_to) {
		code = copy_stores(&process);
	} else if (!process.is_done && process.is_rebuild) {
		code = rebuild_store(&process);
	} else if (!process.is_done) {
		log_init(definition->program, process.is_debug ? LOG_DEBUG : LOG_INFO);
		code = run(&process);
	}
	fflush(stdout);
	/* nng's threads may hang in an orderly exit, and have nothing to lose. */
	_exit(code);
}
