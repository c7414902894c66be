#include "shim/runtime.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "broker/lib/file.h"
#include "broker/lib/log.h"
#include "broker/lib/program.h"
#include "broker/lib/spawn.h"
#include "shim/criu.h"

#define LOG_NAME_SIZE 16
#define HOOKS_NAME                                                                                 \
	"hooks.err" /* what hooks say, where the OCI runtime does not tell: services/runtime/bundle.h */
#define ARGUMENTS    24
#define SENTENCE_MAX 400 /* fits into a struct why with what stands around it */

char *runtime_pid_file(const struct shim_config *config)
{
	return text_format("%s/init.pid", config->bundle);
}

int runtime_read_pid(const char *path, int *ret_pid, struct why *why)
{
	_cleanup_(cleanup_free) char *text = NULL;
	long pid;
	int r;

	r = file_read(AT_FDCWD, path, 64, &text, NULL);
	if (r)
		return why_errno(why, r, "the OCI runtime wrote no pid: %s", path);
	pid = strtol(text, NULL, 10);
	if (pid <= 1 || pid > INT32_MAX)
		return why_set(why, -EINVAL, "%s holds no pid", path);
	*ret_pid = (int)pid;
	return 0;
}

static bool is_of_container(const struct runtime_call *call)
{
	return call == &call->runtime->container;
}

/* Of the container's call, "oci.log"; each other has its own. */
static void log_name(const struct runtime_call *call, char name[LOG_NAME_SIZE])
{
	if (is_of_container(call))
		strcpy(name, "oci.log");
	else
		snprintf(name, LOG_NAME_SIZE, "oci-%u.log",
			 (unsigned)(call - call->runtime->execs) % RUNTIME_EXECS);
}

static char *path_of(const struct runtime_call *call, const char *name)
{
	return text_format("%s/%s", call->runtime->config->bundle, name);
}

/* ---- what it said -------------------------------------------------------- */

static void add_character(char *text, size_t size, size_t *used, char c)
{
	if (*used + 1 < size)
		text[(*used)++] = (unsigned char)c < ' ' ? ' ' : c;
}

/* The JSON string that starts at @from (behind its quote), with its plain escapes undone. */
static void add_json(const char *from, const char *end, char *text, size_t size, size_t *used)
{
	for (; from < end && *from != '"'; from++) {
		if (*from != '\\' || from + 1 == end) {
			add_character(text, size, used, *from);
			continue;
		}
		from++;
		if (*from == 'u' && end - from > 4) {
			add_character(text, size, used, '?');
			from += 4;
		} else {
			add_character(text, size, used, *from == 'n' || *from == 't' ? ' ' : *from);
		}
	}
}

static void add_line(const char *line, const char *end, char *text, size_t size, size_t *used)
{
	static const char key[] = "\"msg\":";
	const char *message = memmem(line, (size_t)(end - line), key, sizeof(key) - 1);

	if (memmem(line, (size_t)(end - line), "level\":\"debug", 13))
		return;
	if (*used) {
		add_character(text, size, used, ';');
		add_character(text, size, used, ' ');
	}
	if (message) {
		message += sizeof(key) - 1;
		while (message < end && *message == ' ')
			message++;
		if (message < end && *message == '"') {
			add_json(message + 1, end, text, size, used);
			return;
		}
	}
	for (; line < end; line++)
		add_character(text, size, used, *line);
}

void runtime_log_text(const char *log, char *text, size_t size)
{
	const char *end;
	size_t used = 0;

	for (; *log; log = *end ? end + 1 : end) {
		end = strchrnul(log, '\n');
		if (end > log)
			add_line(log, end, text, size, &used);
	}
	/* Never half a character. */
	while (used && used + 1 == size && ((unsigned char)text[used - 1] & 0x80))
		used--;
	text[used] = '\0';
	/* What is no UTF-8 would be refused by who reads it: names in an image are any bytes. */
	for (size_t i = 0; i < used && !schema_is_text(text, used); i++)
		if ((unsigned char)text[i] & 0x80)
			text[i] = '?';
}

/* The end of a file of the bundle, as a sentence; empty if it is not there. */
static void read_text(const struct runtime_call *call, const char *name, char *text, size_t size)
{
	_cleanup_(cleanup_free) char *path = path_of(call, name);
	_cleanup_(cleanup_free) char *log = malloc(RUNTIME_LOG_MAX + 1);
	_cleanup_(cleanup_fd) int fd = -1;
	struct stat stat;
	off_t start = 0;
	ssize_t n;

	text[0] = '\0';
	if (!path || !log)
		/* cppcheck-suppress memleak */
		return;
	fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &stat) || !S_ISREG(stat.st_mode))
		return;
	if (stat.st_size > RUNTIME_LOG_MAX)
		start = stat.st_size - RUNTIME_LOG_MAX;
	n = pread(fd, log, RUNTIME_LOG_MAX, start);
	if (n <= 0)
		return;
	log[n] = '\0';
	runtime_log_text(log, text, size);
}

/* Its log, and what hooks said where it may be one that failed. */
static void read_said(const struct runtime_call *call, char *text, size_t size)
{
	const char *between = "its hook says: ";
	char name[LOG_NAME_SIZE];
	size_t used, n;

	log_name(call, name);
	read_text(call, name, text, size);
	used = strlen(text);
	if (used)
		between = "; its hook says: ";
	n = strlen(between);
	if (!is_of_container(call) || (used && !strstr(text, "hook")) || used + n + 2 > size)
		return;
	read_text(call, HOOKS_NAME, text + used + n, size - used - n);
	if (text[used + n])
		memcpy(text + used, between, n);
}

/* ---- the call ------------------------------------------------------------ */

static void kill_group(int pid)
{
	/* Its session is its own, so nothing else is in the group. */
	kill(-pid, SIGKILL);
	kill(pid, SIGKILL);
}

static void on_deadline(struct loop_timer *timer)
{
	struct runtime_call *call = container_of(timer, struct runtime_call, timer);

	call->timed_out = true;
	kill_group(call->pid);
}

/* Both files are of this call only. */
static int open_log(const struct runtime_call *call, const char *name, int *ret_fd, struct why *why)
{
	_cleanup_(cleanup_free) char *path = path_of(call, name),
				     *hooks = path_of(call, HOOKS_NAME);

	if (!path || !hooks)
		return error_origin(-ENOMEM);
	if (is_of_container(call))
		(void)unlink(hooks);
	*ret_fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_APPEND | O_NOFOLLOW | O_CLOEXEC, 0600);
	return *ret_fd < 0 ? why_errno(why, error_origin(-errno), "cannot open %s", path) : 0;
}

static void fill_arguments(const struct shim_config *config, const char *log, const char *verb,
			   const char *const *options, const char *arguments[ARGUMENTS])
{
	size_t n = 0;

	arguments[n++] = config->runtime_path;
	arguments[n++] = "--root";
	arguments[n++] = config->oci_root;
	if (config->systemd_cgroup)
		arguments[n++] = "--systemd-cgroup";
	if (config->no_cgroup)
		arguments[n++] = "--cgroup-manager=disabled";
	/* A relative name: crun takes what stands before a colon for a kind of log. */
	arguments[n++] = "--log";
	arguments[n++] = log;
	arguments[n++] = "--log-format";
	arguments[n++] = "json";
	arguments[n++] = verb;
	while (*options && n < ARGUMENTS - 2)
		arguments[n++] = *options++;
	arguments[n++] = config->task_id;
	arguments[n] = NULL;
}

static bool asks_criu(const char *verb)
{
	return !strcmp(verb, "checkpoint") || !strcmp(verb, "restore");
}

/* Where the program is run from. In the child no descriptor of ours is open any more at its execve(2). */
static const char *program_of(const struct runtime *runtime)
{
	struct stat now;

	return *runtime->copy && !stat(runtime->config->runtime_path, &now) &&
			       program_is_same(&now, &runtime->copied)
		       ? runtime->copy
		       : runtime->config->runtime_path;
}

static int start(struct runtime_call *call, const char *verb, const char *const *arguments,
		 const int stdio[3], int log_fd, struct why *why)
{
	const struct shim_config *config = call->runtime->config;
	_cleanup_(cleanup_free) char *criu = asks_criu(verb) ? criu_environment(config->bundle)
							     : NULL;
	const char *const environment[] = {RUNTIME_PATH, criu, NULL};
	struct spawn_fd fds[] = {{stdio ? stdio[0] : -1, 0},
				 {stdio ? stdio[1] : log_fd, 1},
				 {stdio ? stdio[2] : log_fd, 2}};
	struct spawn how;
	int r;

	if (!criu && asks_criu(verb))
		return error_origin(-ENOMEM);
	how = (struct spawn){.path = program_of(call->runtime),
			     .argv = arguments,
			     .envp = environment,
			     .cwd = config->bundle,
			     .fds = fds,
			     .n_fds = ARRAY_SIZE(fds),
			     .new_session = true};
	r = spawn(&how, &call->pid, how.path == config->runtime_path ? why : NULL);
	if (r &&
	    how.path !=
		    config->runtime_path) { /* this host may not let files in memory be executed */
		how.path = config->runtime_path;
		r = spawn(&how, &call->pid, why);
	}
	return r;
}

int runtime_call(struct runtime_call *call, const char *verb, const char *const *options,
		 const int stdio[3], uint64_t deadline_ms, runtime_fn fn, void *userdata,
		 struct why *why)
{
	const char *arguments[ARGUMENTS];
	_cleanup_(cleanup_fd) int log_fd = -1;
	uint64_t limit_ms = time_boot_ms() + RUNTIME_DEADLINE_MS;
	char log[LOG_NAME_SIZE];
	int r;

	log_name(call, log);
	r = open_log(call, log, &log_fd, why);
	if (r)
		return r;
	if (deadline_ms && deadline_ms < limit_ms)
		limit_ms = deadline_ms;
	r = loop_timer_set(call->runtime->loop, &call->timer, limit_ms, on_deadline);
	if (r)
		return error_trace(r);
	fill_arguments(call->runtime->config, log, verb, options, arguments);
	r = start(call, verb, arguments, stdio, log_fd, why);
	if (r) {
		call->pid = 0;
		loop_timer_cancel(&call->timer);
		return r;
	}
	/* A child that nobody has reaped has a start time. */
	(void)process_start_time(call->pid, &call->start_time);
	call->verb = verb;
	call->timed_out = call->was_cut = false;
	call->fn = fn;
	call->userdata = userdata;
	return 0;
}

static void describe_end(const struct runtime_call *call, const siginfo_t *info, char *text,
			 size_t size)
{
	const char *name = strrchr(call->runtime->config->runtime_path, '/') + 1;
	char said[SENTENCE_MAX];

	read_said(call, said, sizeof(said));
	if (call->timed_out)
		snprintf(text, size, "%s %s did not end in time and was killed%s%s", name,
			 call->verb, said[0] ? ": " : "", said);
	else if (info->si_code != CLD_EXITED)
		snprintf(text, size, "%s %s was killed by signal %d%s%s", name, call->verb,
			 info->si_status, said[0] ? ": " : "", said);
	else if (said[0])
		snprintf(text, size, "%s %s: %s", name, call->verb, said);
	else
		snprintf(text, size, "%s %s failed with code %d and said nothing", name, call->verb,
			 info->si_status);
}

void runtime_ended(struct runtime_call *call, const siginfo_t *info)
{
	char text[WHY_SIZE] = "";
	bool is_ok = info->si_code == CLD_EXITED && !info->si_status && !call->timed_out;

	loop_timer_cancel(&call->timer);
	call->was_cut = call->timed_out || info->si_code != CLD_EXITED;
	if (!is_ok) {
		describe_end(call, info, text, sizeof(text));
		log_warning("task=%s %s", call->runtime->config->task_id, text);
	}
	call->pid = 0;
	call->fn(call->userdata, is_ok, text);
}

void runtime_hurry(struct runtime_call *call, uint64_t ms)
{
	uint64_t at_ms = time_boot_ms() + ms;

	if (call->pid && call->timer.loop && call->timer.at_ms > at_ms)
		(void)loop_timer_set(call->runtime->loop, &call->timer, at_ms, on_deadline);
}

/* ---- all calls ----------------------------------------------------------- */

struct runtime_call *runtime_next(struct runtime *runtime, const struct runtime_call *call)
{
	if (!call)
		return &runtime->container;
	if (call == &runtime->container)
		return &runtime->execs[0];
	return call + 1 < runtime->execs + RUNTIME_EXECS ? (struct runtime_call *)call + 1 : NULL;
}

struct runtime_call *runtime_free_exec(struct runtime *runtime)
{
	for (size_t i = 0; i < RUNTIME_EXECS; i++)
		if (!runtime->execs[i].pid)
			return &runtime->execs[i];
	return NULL;
}

bool runtime_may_have_made(struct runtime *runtime, uint64_t start_time)
{
	struct runtime_call *call = NULL;

	while ((call = runtime_next(runtime, call)))
		if (call->pid && call->start_time <= start_time)
			return true;
	return false;
}

void runtime_init(struct runtime *runtime, struct loop *loop, const struct shim_config *config)
{
	struct runtime_call *call = NULL;

	*runtime = (struct runtime){.loop = loop, .config = config};
	if (config->clones_itself && fcntl(RUNTIME_COPY_FD, F_GET_SEALS) > 0 &&
	    !stat(config->runtime_path, &runtime->copied) &&
	    program_is_copy(RUNTIME_COPY_FD, &runtime->copied))
		snprintf(runtime->copy, sizeof(runtime->copy), "/proc/%d/fd/%d", getpid(),
			 RUNTIME_COPY_FD);
	while ((call = runtime_next(runtime, call)))
		call->runtime = runtime;
}

void runtime_deinit(struct runtime *runtime)
{
	struct runtime_call *call = NULL;

	while ((call = runtime_next(runtime, call))) {
		if (call->pid)
			kill_group(call->pid);
		call->pid = 0;
		loop_timer_cancel(&call->timer);
	}
}
