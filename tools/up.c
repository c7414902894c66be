/*
 * davit up: starts the broker, then the services, each ready before the next
 * depends on it; starts again what dies, with back-off; stops all in order; replaces
 * what `davit upgrade` names. It is a subreaper: shims whose task service died come
 * here and are reaped. davit down: ends it. Containers go on unless they are asked
 * to end too.
 */

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/file.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "broker/lib/file.h"
#include "broker/lib/log.h"
#include "broker/lib/loop.h"
#include "broker/lib/spawn.h"
#include "tools/command.h"
#include "tools/member.h"
#include "tools/upgrade.h"

static const char *const programs[] = {"davit-broker", "davit-runtime", "davit-image", "davit-task",
				       "davit-container"};

/* Of davit-runtime, as words and NULL. */
#define NETWORK_WORDS_MAX 7
/* Of davit-image. */
#define IMAGE_LIMITS_MAX 16
#define IMAGE_WORDS_MAX  (2 * IMAGE_LIMITS_MAX + 1)

struct supervisor {
	struct context *context;
	const char *network_words[NETWORK_WORDS_MAX];
	const char *image_words[IMAGE_WORDS_MAX];
	struct loop *loop;
	struct loop_signals signals;
	struct loop_timer ready_limit, orphans;
	struct member members[ARRAY_SIZE(programs)];
	struct upgrade_server *upgrades;
	int tell_fd; /* --ready-fd */
	bool is_stopping, was_ready;
	int result;
};

static void stop_next(struct supervisor *supervisor);

/* ---- its members --------------------------------------------------------- */

static struct supervisor *supervisor_of(struct member *member)
{
	size_t i = 0;

	while (strcmp(programs[i], member->program))
		i++;
	return container_of(member - i, struct supervisor, members[0]);
}

static void check_all_ready(struct supervisor *supervisor)
{
	for (size_t i = 0; i < ARRAY_SIZE(programs); i++) {
		if (!member_is_ready(&supervisor->members[i]))
			return;
	}
	if (supervisor->was_ready)
		return;
	supervisor->was_ready = true;
	loop_timer_cancel(&supervisor->ready_limit);
	log_info("ready: %s", supervisor->context->paths.bus);
	if (supervisor->tell_fd >= 0)
		(void)file_write_all(supervisor->tell_fd, "READY=1\n", 8);
	supervisor->tell_fd = close_fd(supervisor->tell_fd);
}

static void on_member_ready(struct member *member)
{
	struct supervisor *supervisor = supervisor_of(member);

	/* The first time the broker is there, the rest may begin. */
	for (size_t i = 1; member == &supervisor->members[0] && i < ARRAY_SIZE(programs); i++) {
		if (!supervisor->members[i].started_ms && !supervisor->is_stopping)
			member_start(&supervisor->members[i]);
	}
	check_all_ready(supervisor);
}

static void on_member_stopped(struct member *member)
{
	stop_next(supervisor_of(member));
}

static void on_member_replaced(struct member *member, uint64_t pause_ms, const char *why)
{
	upgrade_server_replaced(supervisor_of(member)->upgrades, member, pause_ms, why);
}

/* ---- stopping ------------------------------------------------------------ */

/* Services all at once, the broker when they are gone. */
static void stop_next(struct supervisor *supervisor)
{
	for (size_t i = 1; i < ARRAY_SIZE(programs); i++) {
		if (member_is_running(&supervisor->members[i]))
			return;
	}
	if (!member_is_running(&supervisor->members[0]))
		loop_stop(supervisor->loop, 0);
	else
		member_stop(&supervisor->members[0]);
}

static void stop(struct supervisor *supervisor)
{
	if (supervisor->is_stopping)
		return;
	supervisor->is_stopping = true;
	for (size_t i = 1; i < ARRAY_SIZE(programs); i++)
		member_stop(&supervisor->members[i]);
	loop_timer_cancel(&supervisor->members[0].timer);
	stop_next(supervisor);
}

static void on_ready_limit(struct loop_timer *timer)
{
	struct supervisor *supervisor = container_of(timer, struct supervisor, ready_limit);

	for (size_t i = 0; i < ARRAY_SIZE(programs); i++) {
		if (!member_is_ready(&supervisor->members[i]))
			log_error("%s is not ready after %d s", programs[i],
				  MEMBER_READY_MS / 1000);
	}
	supervisor->result = EXIT_ERROR;
	stop(supervisor);
}

static bool is_member(const struct supervisor *supervisor, pid_t pid)
{
	for (size_t i = 0; i < ARRAY_SIZE(programs); i++) {
		if (member_has_pid(&supervisor->members[i], pid))
			return true;
	}
	return false;
}

static void on_orphans(struct loop_timer *timer);

/* Orphans that came to us: a container's pid namespace does not end before all its processes are reaped. Members are
 * reaped by their pidfds; what is behind one that waits for that is seen when that is done. */
static void reap_orphans(struct supervisor *supervisor)
{
	siginfo_t info = {};

	while (!waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) && info.si_pid) {
		if (is_member(supervisor, info.si_pid)) {
			(void)loop_timer_set(supervisor->loop, &supervisor->orphans,
					     time_boot_ms() + 1, on_orphans);
			return;
		}
		(void)waitid(P_PID, (id_t)info.si_pid, &info, WEXITED | WNOHANG);
		info = (siginfo_t){};
	}
}

static void on_orphans(struct loop_timer *timer)
{
	reap_orphans(container_of(timer, struct supervisor, orphans));
}

static void on_signal(struct loop_signals *signals, int signal)
{
	struct supervisor *supervisor = container_of(signals, struct supervisor, signals);

	if (signal == SIGCHLD)
		reap_orphans(supervisor);
	else
		stop(supervisor);
}

/* ---- up ------------------------------------------------------------------ */

struct up_options {
	bool detach;
	uint64_t ready_fd;
	char *log;
	char *cni_conf_dir, *cni_bin_dir, *cni_timeout;
	struct schema_strs image_limits;
};

/* What davit-image is started with besides. */
static void list_image_options(const struct up_options *options, const char *option,
			       const char *ret_words[IMAGE_WORDS_MAX])
{
	size_t n = 0;

	for (size_t i = 0; i < options->image_limits.count; i++) {
		ret_words[n++] = option;
		ret_words[n++] = options->image_limits.items[i];
	}
	ret_words[n] = NULL;
}

/* What davit-runtime is started with besides. */
static void list_network_options(const struct up_options *options,
				 const char *ret_words[NETWORK_WORDS_MAX])
{
	const char *const words[][2] = {{"--cni-conf-dir", options->cni_conf_dir},
					{"--cni-bin-dir", options->cni_bin_dir},
					{"--cni-timeout", options->cni_timeout}};
	size_t n = 0;

	for (size_t i = 0; i < ARRAY_SIZE(words); i++) {
		if (!words[i][1])
			continue;
		ret_words[n++] = words[i][0];
		ret_words[n++] = words[i][1];
	}
	ret_words[n] = NULL;
}

static int find_programs(struct context *context, struct supervisor *supervisor)
{
	for (size_t i = 0; i < ARRAY_SIZE(programs); i++) {
		struct member *member = &supervisor->members[i];

		*member = (struct member){.loop = supervisor->loop,
					  .paths = &context->paths,
					  .program = programs[i],
					  .ready = on_member_ready,
					  .stopped = on_member_stopped,
					  .replaced = on_member_replaced};
		if (!strcmp(programs[i], "davit-runtime"))
			member->words = supervisor->network_words;
		if (!strcmp(programs[i], "davit-image"))
			member->words = supervisor->image_words;
		member_init(member);
		if (spawn_find_program(programs[i], &member->path))
			return fail(context, "%s is not beside this program", programs[i]);
	}
	return 0;
}

/* <state>/up.lock, held for life, with our pid in it for `davit down`. */
static int take_lock(struct context *context, int *ret_fd)
{
	_cleanup_(cleanup_free) char *path = text_format("%s/up.lock", context->paths.state);
	struct why why = {};
	int r;

	if (!path || file_make_dir(context->paths.root, 0700, &why) ||
	    file_make_dir(context->paths.state, 0700, &why))
		return fail(context, "%s", why.text);
	r = file_lock(path, ret_fd);
	if (r == -EWOULDBLOCK)
		return fail(context, "davit is up already in %s", context->paths.state);
	if (r)
		return fail(context, "%s: %s", path, strerror(-r));
	if (ftruncate(*ret_fd, 0) || dprintf(*ret_fd, "%d\n", (int)getpid()) < 0)
		return fail(context, "%s: %s", path, strerror(errno));
	return 0;
}

static int open_loop(struct supervisor *supervisor)
{
	sigset_t mask;

	sigemptyset(&mask);
	sigaddset(&mask, SIGTERM);
	sigaddset(&mask, SIGINT);
	sigaddset(&mask, SIGHUP);
	sigaddset(&mask, SIGCHLD);
	signal(SIGPIPE, SIG_IGN);
	(void)prctl(PR_SET_CHILD_SUBREAPER, 1);
	return loop_new(&supervisor->loop)
		       ?: loop_signals_add(supervisor->loop, &supervisor->signals, &mask,
					   on_signal);
}

static int supervise(struct supervisor *supervisor)
{
	struct context *context = supervisor->context;
	struct why why = {};
	int code, r;

	r = open_loop(supervisor);
	if (r)
		return fail(context, "%s", strerror(-r));
	code = find_programs(context, supervisor);
	if (code)
		return code;
	r = upgrade_server_new(supervisor->loop, context->paths.state, supervisor->members,
			       ARRAY_SIZE(programs), &supervisor->upgrades, &why);
	if (r)
		return fail(context, "%s", why.text);
	(void)loop_timer_set(supervisor->loop, &supervisor->ready_limit,
			     time_boot_ms() + MEMBER_READY_MS, on_ready_limit);
	member_start(&supervisor->members[0]);
	r = loop_run(supervisor->loop);
	return r ? fail(context, "%s", strerror(-r)) : supervisor->result;
}

static int up_here(struct context *context, const struct up_options *options)
{
	_cleanup_(cleanup_fd) int lock_fd = -1;
	struct supervisor supervisor = {.context = context, .signals = {.fd = -1}, .tell_fd = -1};
	int code = take_lock(context, &lock_fd);

	if (code)
		return code;
	list_network_options(options, supervisor.network_words);
	list_image_options(options, "--limit", supervisor.image_words);
	if (options->ready_fd)
		supervisor.tell_fd = (int)options->ready_fd;
	if (!context->debug)
		log_init("davit-up", LOG_INFO);
	code = supervise(&supervisor);
	supervisor.upgrades = upgrade_server_free(supervisor.upgrades);
	for (size_t i = 0; i < ARRAY_SIZE(programs); i++)
		free(supervisor.members[i].path);
	loop_timer_cancel(&supervisor.orphans);
	loop_signals_remove(&supervisor.signals);
	loop_free(supervisor.loop);
	return code;
}

/* ---- up --detach --------------------------------------------------------- */

/* 1: ready. 0: it ended before. */
static int wait_ready(int fd)
{
	struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
	char text[16];
	int r;

	do
		r = poll(&poll_fd, 1, MEMBER_READY_MS + MEMBER_STOP_MS);
	while (r < 0 && errno == EINTR);
	return r > 0 && read(fd, text, sizeof(text)) > 0;
}

static int spawn_up(struct context *context, const struct up_options *options, int ready_fd,
		    int log_fd, pid_t *ret_pid, struct why *why)
{
	_cleanup_(cleanup_free) char *self = NULL;
	const char *argv[8 + NETWORK_WORDS_MAX + IMAGE_WORDS_MAX] = {
		"davit",      "--root", context->paths.root, "--state", context->paths.state, "up",
		"--ready-fd", "3"};
	const char *envp[MEMBER_ENVIRONMENT];
	struct spawn_fd fds[] = {{log_fd, 1}, {log_fd, 2}, {ready_fd, 3}};
	int r = spawn_find_program("davit", &self);
	size_t n = 8;

	list_network_options(options, argv + 8);
	while (argv[n])
		n++;
	list_image_options(options, "--image-limit", argv + n);
	member_environment(context->debug, true, envp);
	if (r)
		return why_errno(why, r, "davit is not beside itself");
	return spawn(&(struct spawn){.path = self,
				     .argv = argv,
				     .envp = envp,
				     .cwd = "/",
				     .fds = fds,
				     .n_fds = ARRAY_SIZE(fds),
				     .new_session = true},
		     ret_pid, why);
}

/* The first error since @start, without the log's own words in front. */
static void find_reason(const char *log, off_t start, char *ret_reason, size_t size)
{
	_cleanup_(cleanup_file) FILE *file = fopen(log, "re");
	_cleanup_(cleanup_free) char *line = NULL;
	size_t room = 0;
	char *at = NULL;
	ssize_t n;

	if (!file || fseeko(file, start, SEEK_SET))
		return;
	while (!at && (n = getline(&line, &room, file)) > 0) {
		line[n - 1] = line[n - 1] == '\n' ? '\0' : line[n - 1];
		at = strstr(line, " error: ");
		at = at ? at + strlen(" error: ") : !strncmp(line, "davit: ", 7) ? line + 7 : NULL;
	}
	if (at)
		snprintf(ret_reason, size, ": %s", at);
}

static int not_up(struct context *context, const char *log, off_t start)
{
	char reason[1024] = "";

	find_reason(log, start, reason, sizeof(reason));
	return fail(context, "davit did not come up%s; see %s", reason, log);
}

static int up_detached(struct context *context, const struct up_options *options)
{
	_cleanup_(cleanup_free) char *log = options->log ? strdup(options->log)
							 : text_format("%s/up.log",
								       context->paths.state);
	_cleanup_(cleanup_fd) int ours = -1, theirs = -1, log_fd = -1;
	struct why why = {};
	int pipe_fds[2];
	pid_t pid = 0;
	off_t start;

	if (!log || file_make_dir(context->paths.state, 0700, &why))
		return fail(context, "%s", why.text);
	log_fd = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	if (log_fd < 0 || pipe2(pipe_fds, O_CLOEXEC))
		return fail(context, "%s: %s", log, strerror(errno));
	ours = pipe_fds[0];
	theirs = pipe_fds[1];
	start = lseek(log_fd, 0, SEEK_END);
	if (spawn_up(context, options, theirs, log_fd, &pid, &why))
		return fail(context, "%s", why.text);
	theirs = close_fd(theirs);
	return wait_ready(ours) ? EXIT_OK : not_up(context, log, start);
}

static int check_network_options(struct context *context, const struct up_options *options)
{
	const char *seconds = options->cni_timeout;
	char *end;

	if (options->cni_conf_dir && *options->cni_conf_dir != '/')
		return fail_usage(context, "--cni-conf-dir '%s' is not an absolute path",
				  options->cni_conf_dir);
	if (options->cni_bin_dir && *options->cni_bin_dir != '/')
		return fail_usage(context, "--cni-bin-dir '%s' is not an absolute path",
				  options->cni_bin_dir);
	if (seconds && (strtoul(seconds, &end, 10) - 1 >= 3600 || *end || *seconds == '-'))
		return fail_usage(context, "--cni-timeout '%s' is not from 1 to 3600 seconds",
				  seconds);
	return 0;
}

static int check_image_options(struct context *context, const struct up_options *options)
{
	struct work_limits limits = {};
	struct schema_fault fault = {};

	if (options->image_limits.count > IMAGE_LIMITS_MAX)
		return fail_usage(context, "--image-limit: at most %d", IMAGE_LIMITS_MAX);
	if (json_parse_words(schema_work_limits(), options->image_limits.items,
			     options->image_limits.count, &limits, &fault))
		return fail_usage(context, "--image-limit: %s", fault.text);
	return 0;
}

static int up(struct context *context, void *data, char **args, int n_args)
{
	const struct up_options *options = data;
	int code = check_network_options(context, options) ?: check_image_options(context, options);

	(void)args;
	(void)n_args;
	if (code)
		return code;
	return options->detach ? up_detached(context, options) : up_here(context, options);
}

static const struct option_spec up_options[] = {
	OPTION(struct up_options, detach, FLAG, "detach", 'd', NULL,
	       "return when everything is ready"),
	OPTION(struct up_options, log, TEXT, "log", 0, "FILE",
	       "with --detach: log file (default: up.log in the state directory)"),
	OPTION(struct up_options, ready_fd, NUMBER, "ready-fd", 0, "FD",
	       "write READY=1 there when everything is ready"),
	OPTION(struct up_options, cni_conf_dir, TEXT, "cni-conf-dir", 0, "DIR",
	       "where configurations of CNI networks are (default: /etc/cni/net.d)"),
	OPTION(struct up_options, cni_bin_dir, TEXT, "cni-bin-dir", 0, "DIR[:DIR...]",
	       "where CNI plugins are (default: /opt/cni/bin:/usr/lib/cni)"),
	OPTION(struct up_options, cni_timeout, TEXT, "cni-timeout", 0, "SECONDS",
	       "for all plugins of a network together (default: 30)"),
	OPTION(struct up_options, image_limits, LIST, "image-limit", 0, "NAME=NUMBER",
	       "a limit on what images may have and on work with them; may be given several times"),
	{}};

const struct command up_command = {
	.name = "up",
	.summary = "start the broker and the services",
	.details =
		"   Stays in the foreground, starts again what dies, and stops all in order on SIGTERM or SIGINT.\n"
		"   Limits of --image-limit, for each archive or layer: entries (1000000), bytes, uncompressed (64 GiB),\n"
		"   ratio of uncompressed to compressed bytes (1000), path_depth (255), path_size (4096), xattr_bytes\n"
		"   of an entry (262144); for the children that read and write them: memory in bytes (768 MiB), seconds\n"
		"   (3600), children at a time, of each kind, beyond which the next one waits (8), turn, the seconds for\n"
		"   which an import or export of a stream waits then (30), and still, those for which one that does not\n"
		"   wait may move nothing while others do (300).",
	.options = up_options,
	.options_size = sizeof(struct up_options),
	.run = up,
};

/* ---- down ---------------------------------------------------------------- */

#define BUNDLES_MS 10000

struct down_options {
	bool containers;
};

static int read_pid(struct context *context, pid_t *ret_pid)
{
	_cleanup_(cleanup_free) char *path = text_format("%s/up.lock", context->paths.state),
				     *text = NULL;
	_cleanup_(cleanup_fd) int fd = -1;
	size_t size;

	if (!path || file_lock(path, &fd) != -EWOULDBLOCK ||
	    file_read(AT_FDCWD, path, 64, &text, &size))
		return fail(context, "davit is not up in %s", context->paths.state);
	*ret_pid = atoi(text);
	return *ret_pid > 0 ? 0 : fail(context, "%s names no process", path);
}

/* A shim takes its bundle away when all that it had to tell is on the bus; what it leaves of the cgroups above its own
 * is the runtime service's to remove, which goes next. */
static void wait_for_bundles(struct context *context, const struct task_list_reply *tasks)
{
	uint64_t limit_ms = time_boot_ms() + BUNDLES_MS;

	for (size_t i = 0; i < tasks->tasks.count; i++) {
		_cleanup_(cleanup_free) char *path = text_format(
			"%s/bundles/%s", context->paths.state, tasks->tasks.items[i].task_id);

		while (path && !access(path, F_OK) && time_boot_ms() < limit_ms)
			(void)poll(NULL, 0, 5);
		if (path && !access(path, F_OK))
			fprintf(stderr, "davit: the shim of '%s' has not ended yet\n",
				tasks->tasks.items[i].container_id);
	}
}

static int remove_containers(struct context *context)
{
	_cleanup_(task_list_reply_clear) struct task_list_reply reply = {};
	struct task_list_request request = {.all_namespaces = true};
	int r = task_list_ask(&context->ask, &request, &reply);

	for (size_t i = 0; !r && i < reply.tasks.count; i++) {
		struct task_delete_request delete = {
			.container_id = reply.tasks.items[i].container_id, .force = true};

		context->ask.namespace = reply.tasks.items[i].namespace;
		r = task_delete_ask(&context->ask, &delete, NULL);
		if (r > 0 && context->ask.status == BUS_NOT_FOUND)
			r = 0;
		context->ask.namespace = context->namespace;
	}
	if (!r)
		wait_for_bundles(context, &reply);
	return r ? fail_ask(context, r) : 0;
}

static int down(struct context *context, void *data, char **args, int n_args)
{
	const struct down_options *options = data;
	_cleanup_(cleanup_fd) int pidfd = -1;
	struct pollfd poll_fd;
	pid_t pid = 0;
	int code;

	(void)args;
	(void)n_args;
	code = read_pid(context, &pid);
	if (!code && options->containers)
		code = remove_containers(context);
	if (code)
		return code;
	pidfd = pidfd_open(pid, 0);
	if (pidfd < 0 || pidfd_send_signal(pidfd, SIGTERM, NULL, 0))
		return fail(context, "cannot stop process %d: %s", (int)pid, strerror(errno));
	poll_fd = (struct pollfd){.fd = pidfd, .events = POLLIN};
	if (poll(&poll_fd, 1, 2 * MEMBER_STOP_MS + 5000) != 1)
		return fail(context, "process %d does not end", (int)pid);
	return EXIT_OK;
}

static const struct option_spec down_options[] = {OPTION(struct down_options, containers, FLAG,
							 "containers", 0, NULL,
							 "end all running containers too"),
						  {}};

const struct command down_command = {
	.name = "down",
	.summary = "stop the broker and the services; containers go on",
	.options = down_options,
	.options_size = sizeof(struct down_options),
	.run = down,
};
