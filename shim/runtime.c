#include "shim/runtime.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "broker/lib/file.h"
#include "broker/lib/log.h"
#include "broker/lib/spawn.h"

#define LOG_NAME     "oci.log"
#define ARGUMENTS    24
#define SENTENCE_MAX 400 /* fits into a struct why with what stands around it */

char *runtime_pid_file(const struct shim_config *config)
{
	return text_format("%s/init.pid", config->bundle);
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
}

static void read_log(const struct runtime *runtime, char *text, size_t size)
{
	_cleanup_(cleanup_free) char *path = text_format("%s/" LOG_NAME, runtime->config->bundle);
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

/* ---- the call ------------------------------------------------------------ */

static void kill_group(int pid)
{
	/* Its session is its own, so nothing else is in the group. */
	kill(-pid, SIGKILL);
	kill(pid, SIGKILL);
}

static void on_deadline(struct loop_timer *timer)
{
	struct runtime *runtime = container_of(timer, struct runtime, timer);

	runtime->timed_out = true;
	kill_group(runtime->pid);
}

static int open_log(const struct shim_config *config, int *ret_fd, struct why *why)
{
	_cleanup_(cleanup_free) char *path = text_format("%s/" LOG_NAME, config->bundle);

	if (!path)
		return error_origin(-ENOMEM);
	*ret_fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_APPEND | O_NOFOLLOW | O_CLOEXEC, 0600);
	return *ret_fd < 0 ? why_errno(why, error_origin(-errno), "cannot open %s", path) : 0;
}

static void fill_arguments(const struct shim_config *config, const char *verb,
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
	arguments[n++] = LOG_NAME;
	arguments[n++] = "--log-format";
	arguments[n++] = "json";
	arguments[n++] = verb;
	while (*options && n < ARGUMENTS - 2)
		arguments[n++] = *options++;
	arguments[n++] = config->task_id;
	arguments[n] = NULL;
}

static int start(struct runtime *runtime, const char *const *arguments, const int stdio[3],
		 int log_fd, struct why *why)
{
	static const char *const environment[] = {RUNTIME_PATH, NULL};
	struct spawn_fd fds[] = {{stdio ? stdio[0] : -1, 0},
				 {stdio ? stdio[1] : log_fd, 1},
				 {stdio ? stdio[2] : log_fd, 2}};

	return spawn(&(struct spawn){.path = runtime->config->runtime_path,
				     .argv = arguments,
				     .envp = environment,
				     .cwd = runtime->config->bundle,
				     .fds = fds,
				     .n_fds = ARRAY_SIZE(fds),
				     .new_session = true},
		     &runtime->pid, why);
}

int runtime_call(struct runtime *runtime, const char *verb, const char *const *options,
		 const int stdio[3], uint64_t deadline_ms, runtime_fn fn, void *userdata,
		 struct why *why)
{
	const char *arguments[ARGUMENTS];
	_cleanup_(cleanup_fd) int log_fd = -1;
	uint64_t limit_ms = time_boot_ms() + RUNTIME_DEADLINE_MS;
	int r;

	r = open_log(runtime->config, &log_fd, why);
	if (r)
		return r;
	if (deadline_ms && deadline_ms < limit_ms)
		limit_ms = deadline_ms;
	r = loop_timer_set(runtime->loop, &runtime->timer, limit_ms, on_deadline);
	if (r)
		return error_trace(r);
	fill_arguments(runtime->config, verb, options, arguments);
	r = start(runtime, arguments, stdio, log_fd, why);
	if (r) {
		runtime->pid = 0;
		loop_timer_cancel(&runtime->timer);
		return r;
	}
	runtime->verb = verb;
	runtime->timed_out = false;
	runtime->fn = fn;
	runtime->userdata = userdata;
	return 0;
}

static void describe_end(const struct runtime *runtime, const siginfo_t *info, char *text,
			 size_t size)
{
	const char *name = strrchr(runtime->config->runtime_path, '/') + 1;
	char said[SENTENCE_MAX];

	read_log(runtime, said, sizeof(said));
	if (runtime->timed_out)
		snprintf(text, size, "%s %s did not end in time and was killed%s%s", name,
			 runtime->verb, said[0] ? ": " : "", said);
	else if (info->si_code != CLD_EXITED)
		snprintf(text, size, "%s %s was killed by signal %d%s%s", name, runtime->verb,
			 info->si_status, said[0] ? ": " : "", said);
	else if (said[0])
		snprintf(text, size, "%s %s: %s", name, runtime->verb, said);
	else
		snprintf(text, size, "%s %s failed with code %d and said nothing", name,
			 runtime->verb, info->si_status);
}

void runtime_ended(struct runtime *runtime, const siginfo_t *info)
{
	char text[WHY_SIZE] = "";
	bool is_ok = info->si_code == CLD_EXITED && !info->si_status && !runtime->timed_out;

	loop_timer_cancel(&runtime->timer);
	if (!is_ok) {
		describe_end(runtime, info, text, sizeof(text));
		log_warning("task=%s %s", runtime->config->task_id, text);
	}
	runtime->pid = 0;
	runtime->fn(runtime->userdata, is_ok, text);
}

void runtime_hurry(struct runtime *runtime, uint64_t ms)
{
	uint64_t at_ms = time_boot_ms() + ms;

	if (runtime->pid && runtime->timer.loop && runtime->timer.at_ms > at_ms)
		(void)loop_timer_set(runtime->loop, &runtime->timer, at_ms, on_deadline);
}

void runtime_deinit(struct runtime *runtime)
{
	if (runtime->pid)
		kill_group(runtime->pid);
	runtime->pid = 0;
	loop_timer_cancel(&runtime->timer);
}
