#include "shim/logger.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/pidfd.h>
#include <sys/stat.h>

#include "broker/lib/file.h"
#include "broker/lib/log.h"
#include "broker/lib/spawn.h"
#include "shim/shim.h"
#include "shim/streams.h"

#define SCHEME "binary://"

enum logger_state {
	LOGGER_STARTING, /* not ready yet */
	LOGGER_RUNNING,
	LOGGER_PAUSING, /* before it is started again */
	LOGGER_ENDED,
};

struct logger {
	struct shim *shim;
	struct process *process; /* NULL: closed, and in the shim's list */
	struct logger *next;
	char *id; /* of the process */
	struct logger_command command;
	enum logger_state state;
	bool is_finishing; /* the process has ended */
	bool is_logged[2]; /* stdout, stderr */
	int keepers[2];    /* reading ends, so that nothing is lost with the program */
	int writers[2];    /* until the process has its own, so that there is no end before */
	struct loop_child child;
	struct loop_file ready;
	int ready_fd;
	struct loop_timer timer;
	uint64_t started_ms, pause_ms;
	logger_fn fn;
};

/* ---- the URI ------------------------------------------------------------- */

bool logger_is_uri(const char *uri)
{
	return uri && !strncmp(uri, SCHEME, strlen(SCHEME));
}

static int digit_of(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 0x20;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Decodes the @size bytes at @from; NULL: not valid, or out of memory. */
static char *decode(const char *from, size_t size, bool plus_is_space)
{
	_cleanup_(cleanup_free) char *text = calloc(1, size + 1);
	size_t n = 0;

	for (size_t i = 0; text && i < size; i++) {
		char c = from[i];

		if (c == '%') {
			int high = i + 2 < size ? digit_of(from[i + 1]) : -1;
			int low = i + 2 < size ? digit_of(from[i + 2]) : -1;

			if (high < 0 || low < 0 || !(high | low))
				return NULL;
			c = (char)(high << 4 | low);
			i += 2;
		} else if (c == '+' && plus_is_space) {
			c = ' ';
		}
		text[n++] = c;
	}
	return TAKE(text);
}

static bool has_argument(const struct logger_command *command, const char *name)
{
	for (size_t i = 1; command->arguments[i]; i += 2)
		if (!strcmp(command->arguments[i], name))
			return true;
	return false;
}

/* One name=value; of a name that comes again, the first counts. False: not valid. */
static bool add_argument(struct logger_command *command, size_t *count, const char *pair,
			 size_t size)
{
	const char *equals = memchr(pair, '=', size);
	size_t name_size = equals ? (size_t)(equals - pair) : size;
	_cleanup_(cleanup_free) char *name = decode(pair, name_size, true), *value = NULL;

	value = equals ? decode(equals + 1, size - name_size - 1, true) : calloc(1, 1);
	if (!name || !value)
		return false;
	if (has_argument(command, name))
		return true;
	if (*count == LOGGER_ARGUMENTS)
		return false;
	command->arguments[1 + 2 * *count] = TAKE(name);
	command->arguments[2 + 2 * *count] = TAKE(value);
	(*count)++;
	return true;
}

static bool add_arguments(struct logger_command *command, const char *query)
{
	size_t count = 0, size;

	for (; *query; query += size + (query[size] == '&')) {
		size = strcspn(query, "&");
		if (size && !add_argument(command, &count, query, size))
			return false;
	}
	return true;
}

int logger_parse(const char *uri, struct logger_command *ret_command, struct why *why)
{
	_cleanup_(logger_command_clear) struct logger_command command = {};
	const char *path = uri + strlen(SCHEME);
	size_t size = strcspn(path, "?#");
	_cleanup_(cleanup_free) char *query = NULL;

	if (path[0] != '/')
		return why_set(why, LOGGER_E_INVALID,
			       "%s: a logging program is named by its absolute path", uri);
	command.path = decode(path, size, false);
	query = strndup(path + size + (path[size] == '?'),
			path[size] == '?' ? strcspn(path + size + 1, "#") : 0);
	if (command.path)
		command.arguments[0] = strdup(command.path);
	if (!command.arguments[0] || !query || !add_arguments(&command, query))
		return why_set(why, LOGGER_E_INVALID,
			       "%s is not a valid URI of a program with at most %d arguments", uri,
			       LOGGER_ARGUMENTS);
	*ret_command = command;
	command = (struct logger_command){};
	return 0;
}

void logger_command_clear(struct logger_command *command)
{
	for (size_t i = 0; command->arguments[i]; i++)
		free(command->arguments[i]);
	free(command->path);
	*command = (struct logger_command){};
}

/* ---- the FIFOs ----------------------------------------------------------- */

static char *fifo_path(const struct logger *logger, int stream)
{
	return text_format("%s/%s.%s", logger->shim->config.bundle, stream ? "err" : "out",
			   logger->id);
}

static int open_end(const struct logger *logger, int stream, int flags, int *ret_fd,
		    struct why *why)
{
	_cleanup_(cleanup_free) char *path = fifo_path(logger, stream);
	int fd;

	if (!path)
		return error_origin(-ENOMEM);
	fd = open(path, flags | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return why_errno(why, error_origin(-errno), "cannot open %s", path);
	*ret_fd = fd;
	return 0;
}

static int make_fifo(struct logger *logger, int stream, struct why *why)
{
	_cleanup_(cleanup_free) char *path = fifo_path(logger, stream);
	int r;

	if (!path)
		return error_origin(-ENOMEM);
	if ((unlink(path) && errno != ENOENT) || mkfifo(path, 0600))
		return why_errno(why, error_origin(-errno), "cannot make %s", path);
	r = open_end(logger, stream, O_RDWR, &logger->writers[stream], why);
	return r ?: open_end(logger, stream, O_RDONLY | O_NONBLOCK, &logger->keepers[stream], why);
}

int logger_open(const struct logger *logger, int stream, int *ret_fd, struct why *why)
{
	*ret_fd = -1;
	return logger->is_logged[stream] ? open_end(logger, stream, O_RDWR, ret_fd, why) : 0;
}

void logger_release(struct logger *logger)
{
	for (int i = 0; i < 2; i++)
		logger->writers[i] = close_fd(logger->writers[i]);
}

static bool has_output(const struct logger *logger)
{
	int size = 0;

	for (int i = 0; i < 2; i++)
		if (logger->keepers[i] >= 0 && !ioctl(logger->keepers[i], FIONREAD, &size) && size)
			return true;
	return false;
}

/* ---- who it is, for another shim ----------------------------------------- */

static char *pid_path(const struct logger *logger)
{
	return text_format("%s/logger.%s", logger->shim->config.bundle, logger->id);
}

static void write_pid(const struct logger *logger)
{
	_cleanup_(cleanup_free) char *path = pid_path(logger), *text = NULL;
	struct why why = {};
	uint64_t ticks = 0;

	(void)process_start_time(logger->child.pid, &ticks);
	text = text_format("%d %lu\n", logger->child.pid, (unsigned long)ticks);
	if (!path || !text || file_write(path, text, strlen(text), 0600, false, &why))
		log_warning("another shim will not find the logger of '%s': %s", logger->id,
			    why.text);
}

/* 0: there is none, or it has ended. */
static int read_pid(const struct logger *logger)
{
	_cleanup_(cleanup_free) char *path = pid_path(logger), *text = NULL;
	unsigned long start_time;
	uint64_t ticks;
	int pid;

	if (!path || file_read(AT_FDCWD, path, 64, &text, NULL) ||
	    sscanf(text, "%d %lu", &pid, &start_time) != 2 || pid <= 1)
		return 0;
	return process_start_time(pid, &ticks) || ticks != start_time ? 0 : pid;
}

/* ---- running it ---------------------------------------------------------- */

static void on_end(struct loop_child *child, const siginfo_t *info);

/* By its pidfd: whoever reaps all children may have been first, and its pid be another's by now. */
static void send_signal(const struct logger *logger, int signal)
{
	if (logger->child.pidfd >= 0)
		(void)pidfd_send_signal(logger->child.pidfd, signal, NULL, 0);
}

/* The reading ends of its own, which wait; so does not whoever opens one that has no writer. */
static int open_inputs(const struct logger *logger, int fds[2], struct why *why)
{
	int r = 0;

	for (int i = 0; i < 2 && !r; i++) {
		if (!logger->is_logged[i])
			continue;
		r = open_end(logger, i, O_RDONLY | O_NONBLOCK, &fds[i], why);
		if (!r && fcntl(fds[i], F_SETFL, 0))
			r = error_origin(-errno);
	}
	return r;
}

static int spawn_program(struct logger *logger, const int inputs[2], int ready, struct why *why)
{
	_cleanup_(cleanup_free) char *id = NULL, *namespace = NULL;
	const struct shim_config *config = &logger->shim->config;
	const struct spawn_fd fds[] = {{inputs[0], 3}, {inputs[1], 4}, {ready, 5}};
	const char *environment[4];
	pid_t pid;
	int r;

	id = text_format("CONTAINER_ID=%s", config->container_id);
	namespace = text_format("CONTAINER_NAMESPACE=%s", config->namespace);
	if (!id || !namespace)
		return error_origin(-ENOMEM);
	environment[0] = RUNTIME_PATH;
	environment[1] = id;
	environment[2] = namespace;
	environment[3] = NULL;
	r = spawn(&(struct spawn){.path = logger->command.path,
				  .argv = (const char *const *)logger->command.arguments,
				  .envp = environment,
				  .cwd = "/",
				  .fds = fds,
				  .n_fds = ARRAY_SIZE(fds),
				  .new_session = true},
		  &pid, why);
	if (!r)
		r = loop_child_add(logger->shim->loop, &logger->child, pid, on_end);
	if (!r)
		write_pid(logger);
	return r;
}

/* @ret_ready: the shim's end of the pipe; NULL: nobody waits for it to be ready. */
static int run(struct logger *logger, int *ret_ready, struct why *why)
{
	_cleanup_(cleanup_fd) int out = -1, err = -1, ours = -1, theirs = -1;
	int inputs[2] = {-1, -1}, pipe[2], r;

	r = open_inputs(logger, inputs, why);
	out = inputs[0];
	err = inputs[1];
	if (!r && ret_ready && pipe2(pipe, O_CLOEXEC))
		r = error_origin(-errno);
	if (r)
		return r;
	if (ret_ready) {
		ours = pipe[0];
		theirs = pipe[1];
	}
	r = spawn_program(logger, inputs, theirs, why);
	if (r)
		return r;
	logger->started_ms = time_boot_ms();
	logger->state = LOGGER_RUNNING;
	if (ret_ready)
		*ret_ready = TAKE_FD(ours);
	return 0;
}

/* ---- being ready --------------------------------------------------------- */

static void settle(struct logger *logger, const char *error)
{
	logger_fn fn = logger->fn;

	loop_file_remove(&logger->ready);
	loop_timer_cancel(&logger->timer);
	logger->ready_fd = close_fd(logger->ready_fd);
	logger->fn = NULL;
	if (logger->state == LOGGER_STARTING)
		logger->state = LOGGER_RUNNING;
	/* It may be closed by this. */
	if (fn)
		fn(logger->process, error);
}

static void on_not_ready(struct loop_timer *timer)
{
	struct logger *logger = container_of(timer, struct logger, timer);
	char text[WHY_SIZE];

	snprintf(text, sizeof(text), "the logging program %.256s was not ready within %d ms",
		 logger->command.path, LOGGER_READY_MS);
	send_signal(logger, SIGKILL);
	logger->is_finishing = true; /* and not to be started again */
	settle(logger, text);
}

/* Its program is gone already when it closes what it has open. */
static bool is_ending(int pid)
{
	char path[32], target[8];

	snprintf(path, sizeof(path), "/proc/%d/exe", pid);
	return readlink(path, target, sizeof(target)) < 0;
}

static void on_ready(struct loop_file *file, uint32_t events)
{
	struct logger *logger = container_of(file, struct logger, ready);
	char byte;
	ssize_t n = read(logger->ready_fd, &byte, 1);

	(void)events;
	if (n < 0)
		return;
	loop_file_remove(&logger->ready);
	/* Closing the pipe says that it is ready, dying does not. */
	if (n || !is_ending(logger->child.pid))
		settle(logger, NULL);
}

/* ---- its end ------------------------------------------------------------- */

static void free_logger(struct logger *logger)
{
	_cleanup_(cleanup_free) char *path = logger->id ? pid_path(logger) : NULL;

	if (path)
		(void)unlink(path);
	loop_child_remove(&logger->child);
	loop_file_remove(&logger->ready);
	loop_timer_cancel(&logger->timer);
	close_fd(logger->ready_fd);
	logger_release(logger);
	for (int i = 0; i < 2; i++)
		close_fd(logger->keepers[i]);
	logger_command_clear(&logger->command);
	free(logger->id);
	free(logger);
}

static void on_pause(struct loop_timer *timer)
{
	struct logger *logger = container_of(timer, struct logger, timer);
	uint64_t pause_ms = logger->pause_ms;
	struct why why = {};
	int r;

	r = run(logger, NULL, &why);
	if (!r)
		return;
	log_warning("task=%s process=%s: its logger cannot be started again: %s",
		    logger->shim->config.task_id, logger->id,
		    why.text[0] ? why.text : strerror(-r));
	logger->pause_ms = pause_ms * 2 < LOGGER_PAUSE_MAX_MS ? pause_ms * 2 : LOGGER_PAUSE_MAX_MS;
	(void)loop_timer_set(logger->shim->loop, timer, time_boot_ms() + logger->pause_ms,
			     on_pause);
}

static void pause_it(struct logger *logger)
{
	if (time_boot_ms() - logger->started_ms >= LOGGER_PAUSE_MAX_MS || !logger->pause_ms)
		logger->pause_ms = LOGGER_PAUSE_MS;
	else if (logger->pause_ms < LOGGER_PAUSE_MAX_MS / 2)
		logger->pause_ms *= 2;
	else
		logger->pause_ms = LOGGER_PAUSE_MAX_MS;
	logger->state = LOGGER_PAUSING;
	if (loop_timer_set(logger->shim->loop, &logger->timer, time_boot_ms() + logger->pause_ms,
			   on_pause))
		log_error("task=%s process=%s: no timer: its logger is not started again",
			  logger->shim->config.task_id, logger->id);
}

static void describe(const struct logger *logger, const siginfo_t *info, char text[WHY_SIZE])
{
	bool by_signal = info->si_code != CLD_EXITED;

	const char *when = logger->state == LOGGER_STARTING ? " before it was ready" : "";

	/* Whoever reaps all children may have been first. */
	if (!info->si_pid)
		snprintf(text, WHY_SIZE, "the logging program %.256s ended%s", logger->command.path,
			 when);
	else
		snprintf(text, WHY_SIZE, "the logging program %.256s ended%s with %s %d",
			 logger->command.path, when, by_signal ? "signal" : "code",
			 info->si_status);
}

/* The list without @logger. */
static struct logger *loggers_remove(struct logger *first, struct logger *logger)
{
	struct logger **at = &first;

	while (*at != logger)
		at = &(*at)->next;
	*at = logger->next;
	return first;
}

static void on_end(struct loop_child *child, const siginfo_t *info)
{
	struct logger *logger = container_of(child, struct logger, child);
	bool was_starting = logger->state == LOGGER_STARTING;
	struct shim *shim = logger->shim;
	char text[WHY_SIZE];

	describe(logger, info, text);
	logger->state = LOGGER_ENDED;
	logger->child.pid = 0;
	if (!logger->process) {
		shim->streaming.loggers = loggers_remove(shim->streaming.loggers, logger);
		free_logger(logger);
		shim_consider_end(shim);
	} else if (was_starting) {
		settle(logger, text);
	} else if (!logger->is_finishing || has_output(logger)) {
		log_warning("task=%s process=%s: %s", shim->config.task_id, logger->id, text);
		pause_it(logger);
	} else {
		streams_consider_drained(logger->process->streams);
	}
}

void logger_finish(struct logger *logger)
{
	logger->is_finishing = true;
	if (logger->state == LOGGER_PAUSING && !has_output(logger)) {
		loop_timer_cancel(&logger->timer);
		logger->state = LOGGER_ENDED;
	}
}

bool logger_has_ended(const struct logger *logger)
{
	return logger->state == LOGGER_ENDED;
}

static void on_not_ended(struct loop_timer *timer)
{
	struct logger *logger = container_of(timer, struct logger, timer);

	log_warning("task=%s process=%s: its logger does not end after SIGTERM",
		    logger->shim->config.task_id, logger->id);
	send_signal(logger, SIGKILL);
}

void logger_close(struct logger *logger)
{
	struct streaming *streaming = &logger->shim->streaming;

	loop_file_remove(&logger->ready);
	loop_timer_cancel(&logger->timer);
	logger_release(logger);
	if (!logger->child.pid || logger->state == LOGGER_ENDED ||
	    logger->state == LOGGER_PAUSING) {
		free_logger(logger);
		return;
	}
	logger->process = NULL;
	logger->fn = NULL;
	logger->next = streaming->loggers;
	streaming->loggers = logger;
	send_signal(logger, SIGTERM);
	(void)loop_timer_set(logger->shim->loop, &logger->timer, time_boot_ms() + LOGGER_TERM_MS,
			     on_not_ended);
}

void loggers_kill(struct logger *loggers)
{
	while (loggers) {
		struct logger *next = loggers->next;

		send_signal(loggers, SIGKILL);
		free_logger(loggers);
		loggers = next;
	}
}

/* ---- making it ----------------------------------------------------------- */

/* Both streams go to one program, or one of them. */
static int check_io(const struct task_io *io, const char **ret_uri, struct why *why)
{
	bool out = logger_is_uri(io->stdout), err = logger_is_uri(io->stderr);

	if (out && err && strcmp(io->stdout, io->stderr))
		return why_set(why, LOGGER_E_INVALID,
			       "stdout '%s' and stderr '%s' go to one logging program, or to none",
			       io->stdout, io->stderr);
	*ret_uri = out ? io->stdout : io->stderr;
	return 0;
}

static int check_program(const char *path, struct why *why)
{
	struct stat status;

	if (stat(path, &status))
		return why_set(why, LOGGER_E_INVALID, "the logging program %s: %s", path,
			       strerror(errno));
	if (!S_ISREG(status.st_mode) || access(path, X_OK))
		return why_set(why, LOGGER_E_INVALID,
			       "the logging program %s is not an executable file", path);
	return 0;
}

static int new_logger(struct process *process, const struct task_io *io, struct logger **ret_logger,
		      struct why *why)
{
	struct logger *logger;
	const char *uri = NULL;
	int r;

	r = check_io(io, &uri, why);
	if (r)
		return r;
	logger = calloc(1, sizeof(*logger));
	if (!logger)
		return error_origin(-ENOMEM);
	*logger =
		(struct logger){.shim = process->shim,
				.process = process,
				.state = LOGGER_ENDED,
				.is_logged = {logger_is_uri(io->stdout), logger_is_uri(io->stderr)},
				.keepers = {-1, -1},
				.writers = {-1, -1},
				.child.pidfd = -1,
				.ready_fd = -1};
	logger->id = strdup(process->id);
	r = logger->id ? logger_parse(uri, &logger->command, why) : error_origin(-ENOMEM);
	if (r) {
		free_logger(logger);
		return r;
	}
	*ret_logger = logger;
	return 0;
}

static int start(struct logger *logger, struct why *why)
{
	int r;

	r = check_program(logger->command.path, why);
	for (int i = 0; i < 2 && !r; i++)
		if (logger->is_logged[i])
			r = make_fifo(logger, i, why);
	if (!r)
		r = run(logger, &logger->ready_fd, why);
	if (r)
		return r;
	logger->state = LOGGER_STARTING;
	r = loop_file_add(logger->shim->loop, &logger->ready, logger->ready_fd, EPOLLIN, on_ready);
	if (!r)
		r = loop_timer_set(logger->shim->loop, &logger->timer,
				   time_boot_ms() + LOGGER_READY_MS, on_not_ready);
	return r;
}

int logger_start(struct process *process, const struct task_io *io, logger_fn fn,
		 struct logger **ret_logger, struct why *why)
{
	struct logger *logger;
	int r;

	r = new_logger(process, io, &logger, why);
	if (r)
		return r;
	logger->fn = fn;
	r = start(logger, why);
	if (r) {
		logger_close(logger);
		return r;
	}
	*ret_logger = logger;
	return 0;
}

int logger_recover(struct process *process, const struct task_io *io, struct logger **ret_logger,
		   struct why *why)
{
	struct logger *logger;
	int pid, r;

	r = new_logger(process, io, &logger, why);
	if (r)
		return r;
	for (int i = 0; i < 2; i++)
		if (logger->is_logged[i])
			(void)open_end(logger, i, O_RDONLY | O_NONBLOCK, &logger->keepers[i], NULL);
	pid = read_pid(logger);
	logger->state = LOGGER_RUNNING;
	if (!pid || loop_child_add(process->shim->loop, &logger->child, pid, on_end))
		pause_it(logger);
	*ret_logger = logger;
	return 0;
}
