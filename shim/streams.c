#include "shim/streams.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "broker/lib/file.h"
#include "broker/lib/log.h"
#include "shim/attach.h"
#include "shim/shim.h"

#define PAUSE_MIN_MS 50 /* before a log that could not be written is tried again */
#define PAUSE_MAX_MS 5000
#define CALM_MS      10000 /* that a log works, after which the pauses start anew */
#define REST_MS      50    /* without work, after which memory is given back */
#define REST_READS   32    /* of what is left at the end */

/* ---- the work and its memory --------------------------------------------- */

static void on_rest(struct loop_timer *timer)
{
	struct streaming *streaming = container_of(timer, struct streaming, rest);
	struct shim *shim = container_of(streaming, struct shim, streaming);

	if (streaming->is_active) {
		streaming->is_active = false;
		(void)loop_timer_set(shim->loop, timer, time_boot_ms() + REST_MS, on_rest);
		return;
	}
	free(streaming->buffer);
	streaming->buffer = NULL;
}

uint8_t *streams_buffer(struct streams *streams)
{
	struct shim *shim = streams->process->shim;
	struct streaming *streaming = &shim->streaming;

	streaming->is_active = true;
	if (!streaming->rest.loop)
		(void)loop_timer_set(shim->loop, &streaming->rest, time_boot_ms() + REST_MS,
				     on_rest);
	if (!streaming->buffer)
		streaming->buffer = malloc(LOG_FRAME_MAX);
	return streaming->buffer;
}

bool streaming_is_busy(const struct streaming *streaming)
{
	return streaming->rest.loop;
}

void streaming_deinit(struct streaming *streaming)
{
	loop_timer_cancel(&streaming->rest);
	free(streaming->buffer);
	streaming->buffer = NULL;
	loggers_kill(TAKE(streaming->loggers));
}

/* ---- the end ------------------------------------------------------------- */

bool streams_is_over(const struct streams *streams)
{
	return streams->sources[0].fd < 0 && streams->sources[1].fd < 0 && !streams->pending &&
	       !streams->awaits_terminal;
}

bool streams_is_drained(const struct process *process)
{
	const struct streams *streams = process->streams;

	if (!streams)
		return true;
	if (streams->logger)
		return logger_has_ended(streams->logger);
	return streams_is_over(streams) && clients_are_fed(streams);
}

static void on_drained(struct loop_timer *timer)
{
	struct streams *streams = container_of(timer, struct streams, drained);

	/* They may be closed by this. */
	shim_streams_drained(streams->process);
}

/* In a turn of its own, since whoever calls this goes on with the streams. */
void streams_consider_drained(struct streams *streams)
{
	if (streams->has_ended && streams_is_drained(streams->process))
		(void)loop_timer_set(streams->process->shim->loop, &streams->drained, 0,
				     on_drained);
}

/* ---- into the log -------------------------------------------------------- */

static void sources_set(struct streams *streams, bool reads);

/* Clients must not keep a file open that was removed. */
static void note_written(struct streams *streams)
{
	if (streams->reader.file < streams->log.oldest)
		output_log_forget(&streams->reader);
	clients_feed(streams);
}

static void on_retry(struct loop_timer *timer);

static void retry_later(struct streams *streams)
{
	uint64_t at_ms = time_boot_ms() + streams->pause_ms;

	streams->pause_ms *= 2;
	if (streams->pause_ms > PAUSE_MAX_MS)
		streams->pause_ms = PAUSE_MAX_MS;
	if (loop_timer_set(streams->process->shim->loop, &streams->retry, at_ms, on_retry))
		log_error("task=%s: no timer: a log stays as it is",
			  streams->process->shim->config.task_id);
}

static void log_failed(struct streams *streams, int error)
{
	struct shim *shim = streams->process->shim;

	streams->error = error;
	if (time_boot_ms() - streams->works_ms > CALM_MS)
		streams->pause_ms = PAUSE_MIN_MS;
	streams->dropped = 0;
	log_warning("task=%s process=%s: its log cannot be written: %s", shim->config.task_id,
		    streams->process->id, strerror(-error));
	(void)shim_journal_log(shim, streams->process, strerror(-error), 0);
	retry_later(streams);
}

static void log_works(struct streams *streams)
{
	struct shim *shim = streams->process->shim;

	streams->error = 0;
	streams->works_ms = time_boot_ms();
	loop_timer_cancel(&streams->retry);
	log_info("task=%s process=%s: its log can be written again, %lu bytes are missing",
		 shim->config.task_id, streams->process->id, (unsigned long)streams->dropped);
	(void)shim_journal_log(shim, streams->process, "", streams->dropped);
}

/* The frame that says how much is missing. */
static int write_dropped(struct streams *streams)
{
	uint8_t data[8];
	struct log_frame frame = log_frame_dropped(time_real_ns(), 0, streams->dropped, data);

	return streams->dropped ? log_writer_append(&streams->log, &frame) : 0;
}

/* What was read and not written, or how much was not kept. */
static int write_waiting(struct streams *streams)
{
	int r;

	r = streams->pending ? log_writer_append(&streams->log, &streams->frame)
			     : write_dropped(streams);
	if (r)
		return r;
	free(streams->pending);
	streams->pending = NULL;
	return 0;
}

static void on_retry(struct loop_timer *timer)
{
	struct streams *streams = container_of(timer, struct streams, retry);
	int r;

	r = log_writer_make_room(&streams->log);
	if (!r)
		r = write_waiting(streams);
	if (r) {
		retry_later(streams);
		return;
	}
	log_works(streams);
	sources_set(streams, true);
	note_written(streams);
	streams_consider_drained(streams);
}

/* What the log did not take is kept where it was read to, and nothing more is read. */
static void keep(struct streams *streams, const struct log_frame *frame)
{
	struct streaming *streaming = &streams->process->shim->streaming;

	streams->frame = *frame;
	streams->pending = TAKE(streaming->buffer);
	sources_set(streams, false);
}

static void take_output(struct source *source, const uint8_t *data, size_t size)
{
	struct streams *streams = source->streams;
	struct log_frame frame = {
		.time_ns = time_real_ns(),
		.size = (uint32_t)size,
		.stream = source->stream,
		.ends_line = data[size - 1] == '\n',
		.data = data,
	};
	int r = streams->error;

	if (!r) {
		r = log_writer_append(&streams->log, &frame);
		if (!r) {
			note_written(streams);
			return;
		}
		log_failed(streams, r);
	}
	if (streams->drops)
		streams->dropped += size;
	else
		keep(streams, &frame);
}

/* ---- input --------------------------------------------------------------- */

static void input_close(struct input *input)
{
	loop_file_remove(&input->file);
	input->fd = close_fd(input->fd);
	free(input->data);
	input->data = NULL;
}

/* Bytes taken; the rest would have to wait. What nobody will ever read is taken, too. */
static size_t input_write(struct input *input, const uint8_t *data, size_t size)
{
	ssize_t n = input->fd < 0 ? (ssize_t)size : write(input->fd, data, size);

	if (n >= 0)
		return (size_t)n;
	if (errno == EAGAIN || errno == EINTR)
		return 0;
	input_close(input);
	return size;
}

static void input_ready(struct loop_file *file, uint32_t events)
{
	struct input *input = container_of(file, struct input, file);
	struct streams *streams = container_of(input, struct streams, input);

	(void)events;
	input->done += input_write(input, input->data + input->done, input->size - input->done);
	if (input->data && input->done < input->size)
		return;
	loop_file_remove(&input->file);
	free(input->data);
	input->data = NULL;
	if (input->is_closing)
		input_close(input);
	clients_input_goes_on(streams);
}

bool streams_type(struct streams *streams, const void *data, size_t size)
{
	struct input *input = &streams->input;
	size_t n = input_write(input, data, size);

	if (n == size)
		return true;
	input->size = size - n;
	input->done = 0;
	input->data = malloc(input->size);
	if (input->data)
		memcpy(input->data, (const uint8_t *)data + n, input->size);
	if (!input->data || loop_file_add(streams->process->shim->loop, &input->file, input->fd,
					  EPOLLOUT, input_ready))
		input_close(input); /* the process sees the end of it, instead of a hole in it */
	return !input->data;
}

/* ---- sources ------------------------------------------------------------- */

static void source_ended(struct source *source)
{
	struct streams *streams = source->streams;

	loop_file_remove(&source->file);
	if (streams->is_terminal) {
		input_close(&streams->input);
		terminal_close(&streams->terminal);
	} else {
		close_fd(source->fd);
	}
	source->fd = -1;
	if (streams_is_over(streams))
		clients_feed(streams);
	streams_consider_drained(streams);
}

static void source_ready(struct loop_file *file, uint32_t events)
{
	struct source *source = container_of(file, struct source, file);
	uint8_t *buffer = streams_buffer(source->streams);
	ssize_t n;

	(void)events;
	if (!buffer)
		return; /* tried again, as long as it is readable */
	n = read(source->fd, buffer, log_writer_data_max(&source->streams->log));
	if (n > 0)
		take_output(source, buffer, (size_t)n);
	else if (!n || (errno != EAGAIN && errno != EINTR))
		source_ended(source); /* EIO: nobody has the terminal open any more */
}

/* A source whose end has come stays registered with nothing but that, so it is removed instead. */
static void source_set(struct source *source, bool reads)
{
	struct shim *shim = source->streams->process->shim;

	if (source->fd < 0 || reads == (bool)source->file.loop)
		return;
	if (!reads)
		loop_file_remove(&source->file);
	else if (loop_file_add(shim->loop, &source->file, source->fd, EPOLLIN, source_ready))
		log_error("task=%s: output of '%s' cannot be watched", shim->config.task_id,
			  source->streams->process->id);
}

static void sources_set(struct streams *streams, bool reads)
{
	for (size_t i = 0; i < ARRAY_SIZE(streams->sources); i++)
		source_set(&streams->sources[i], reads);
}

/* ---- opening ------------------------------------------------------------- */

static char *fifo_path(const struct process *process, const char *stream)
{
	return text_format("%s/%s.%s", process->shim->config.bundle, stream, process->id);
}

/* Both ends of a FIFO in the bundle: @ret_ours, which never waits, and @ret_theirs. A restore by criu
 * opens theirs with the flags that it has, through a link: O_NOFOLLOW must not be one of them. */
static int open_ends(const char *path, int our_flags, int their_flags, int *ret_ours,
		     int *ret_theirs, struct why *why)
{
	/* A writer finds a reader, and a reader who comes first does not wait. */
	_cleanup_(cleanup_fd) int both = -1, ours = -1, theirs = -1;
	char link[32];

	both = open(path, O_RDWR | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC);
	snprintf(link, sizeof(link), "/proc/self/fd/%d", both);
	ours = open(path, our_flags | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC);
	theirs = open(link, their_flags | O_CLOEXEC);
	if (both < 0 || ours < 0 || theirs < 0)
		return why_errno(why, error_origin(-errno), "cannot open %s", path);
	*ret_ours = TAKE_FD(ours);
	*ret_theirs = TAKE_FD(theirs);
	return 0;
}

static int make_fifo(const struct process *process, const char *stream, int our_flags,
		     int their_flags, int *ret_ours, int *ret_theirs, struct why *why)
{
	_cleanup_(cleanup_free) char *path = fifo_path(process, stream);

	if (!path)
		return error_origin(-ENOMEM);
	if (unlink(path) && errno != ENOENT)
		return why_errno(why, error_origin(-errno), "cannot remove %s", path);
	if (mkfifo(path, 0600))
		return why_errno(why, error_origin(-errno), "cannot make %s", path);
	return open_ends(path, our_flags, their_flags, ret_ours, ret_theirs, why);
}

static int open_fifos(struct streams *streams, const struct task_io *io, struct stdio *stdio,
		      struct why *why)
{
	static const char *const names[] = {"out", "err"};
	struct process *process = streams->process;
	int r = 0;

	for (int i = 0; i < 2 && !r; i++)
		r = make_fifo(process, names[i], O_RDONLY, O_RDWR, &streams->sources[i].fd,
			      &stdio->fds[1 + i], why);
	if (!r && io->stdin && io->stdin[0])
		r = make_fifo(process, "in", O_WRONLY, O_RDONLY, &streams->input.fd, &stdio->fds[0],
			      why);
	else if (!r)
		r = stdio_open_null(&stdio->fds[0]);
	return r;
}

static void terminal_came(struct terminal *terminal)
{
	struct streams *streams = container_of(terminal, struct streams, terminal);

	streams->awaits_terminal = false;
	/* Of its own, so that it can be waited for on its own. */
	streams->input.fd = fcntl(terminal->master, F_DUPFD_CLOEXEC, 0);
	streams->sources[0].fd = terminal->master;
	source_set(&streams->sources[0], true);
	clients_input_goes_on(streams);
}

static int open_terminal(struct streams *streams, const struct task_io *io, struct stdio *stdio,
			 struct why *why)
{
	static unsigned n_sockets;
	struct shim *shim = streams->process->shim;
	int r;

	streams->terminal.width = io->width;
	streams->terminal.height = io->height;
	stdio->console_socket = text_format("%s/tty%u", shim->config.bundle, n_sockets++ % 100);
	if (!stdio->console_socket)
		return error_origin(-ENOMEM);
	r = terminal_listen(&streams->terminal, shim->loop, stdio->console_socket, terminal_came,
			    why);
	streams->awaits_terminal = !r;
	return r;
}

static int open_log(struct streams *streams, const struct task_io *io, bool goes_on,
		    struct why *why)
{
	const struct process *process = streams->process;
	const char *log_dir = process->shim->config.log_dir;
	_cleanup_(cleanup_free) char *path = text_format("%s/%s", log_dir ?: "", process->id);
	int r;

	if (!log_dir || log_dir[0] != '/')
		return why_set(why, STDIO_E_INVALID, "there is no directory for a log");
	if (!path)
		return error_origin(-ENOMEM);
	streams->drops = io->log && io->log->drop;
	r = log_writer_open(&streams->log, path, io->log, goes_on, why);
	return r ?: output_log_open(&streams->reader, path, why);
}

static bool is_fifo_uri(const char *uri)
{
	return !uri || !uri[0] || stdio_fifo(uri);
}

/* Who asked for the process is its first client, if it named FIFOs. */
static int attach_first(struct streams *streams, const struct task_io *io, struct why *why)
{
	struct shim_attach_request request = {.stdin = io->stdin,
					      .stdout = io->stdout,
					      .stderr = io->stderr,
					      .start = LOG_FROM_START};

	if ((!io->stdin || !io->stdin[0]) && (!io->stdout || !io->stdout[0]) &&
	    (!io->stderr || !io->stderr[0]))
		return 0;
	return client_attach(streams, &request, NULL, why) ? STDIO_E_INVALID : 0;
}

static int open_logged(struct process *process, const struct task_io *io, struct stdio *stdio,
		       struct why *why)
{
	struct streams *streams = process->streams;
	int r;

	if (!is_fifo_uri(io->stdin) || !is_fifo_uri(io->stdout) || !is_fifo_uri(io->stderr))
		return why_set(why, STDIO_E_INVALID,
			       "with a log or a terminal, streams are FIFOs, not other URIs");
	r = open_log(streams, io, false, why);
	if (!r)
		r = io->terminal ? open_terminal(streams, io, stdio, why)
				 : open_fifos(streams, io, stdio, why);
	if (!r)
		r = attach_first(streams, io, why);
	if (!r)
		sources_set(streams, true);
	return r;
}

static int streams_new(struct process *process, const struct task_io *io)
{
	struct streams *streams = calloc(1, sizeof(*streams));

	if (!streams)
		return error_origin(-ENOMEM);
	*streams = (struct streams){
		.process = process,
		.is_terminal = io->terminal,
		.log = LOG_WRITER_NULL,
		.reader = OUTPUT_LOG_NULL,
		.sources = {{.streams = streams,
			     .fd = -1,
			     .stream = io->terminal ? LOG_TTY : LOG_STDOUT},
			    {.streams = streams, .fd = -1, .stream = LOG_STDERR}},
		.terminal = TERMINAL_NULL,
		.input = {.fd = -1},
	};
	process->streams = streams;
	return 0;
}

static bool is_logged(const struct task_io *io)
{
	return io && (io->terminal || io->log);
}

static bool has_logger(const struct task_io *io)
{
	return io && !is_logged(io) && (logger_is_uri(io->stdout) || logger_is_uri(io->stderr));
}

int streams_prepare(struct process *process, const struct task_io *io, logger_fn fn,
		    struct why *why)
{
	int r;

	if (!has_logger(io))
		return 0;
	r = streams_new(process, io);
	if (!r)
		r = logger_start(process, io, fn, &process->streams->logger, why);
	if (!r)
		return STDIO_E_LATER;
	streams_close(process);
	return r == LOGGER_E_INVALID ? STDIO_E_INVALID : r;
}

static int open_one(const struct logger *logger, const char *uri, int stream, int *ret_fd,
		    struct why *why)
{
	if (stream && logger_is_uri(uri))
		return logger_open(logger, stream - 1, ret_fd, why);
	return stdio_open_stream(uri, stream, ret_fd, why);
}

static int open_with_logger(const struct logger *logger, const struct task_io *io,
			    struct stdio *stdio, struct why *why)
{
	int r;

	r = open_one(logger, io->stdin, 0, &stdio->fds[0], why);
	if (!r)
		r = open_one(logger, io->stdout, 1, &stdio->fds[1], why);
	if (!r)
		r = open_one(logger, io->stderr, 2, &stdio->fds[2], why);
	return r;
}

int streams_open(struct process *process, const struct task_io *io, struct stdio *ret_stdio,
		 struct why *why)
{
	_cleanup_(stdio_close) struct stdio stdio = {.fds = {-1, -1, -1}};
	int r;

	if (!is_logged(io) && !process->streams)
		return stdio_open(io, ret_stdio, why);
	r = process->streams ? open_with_logger(process->streams->logger, io, &stdio, why)
			     : streams_new(process, io);
	if (!r && !process->streams->logger)
		r = open_logged(process, io, &stdio, why);
	if (r) {
		streams_close(process);
		return r;
	}
	*ret_stdio = stdio;
	stdio = (struct stdio){.fds = {-1, -1, -1}};
	return 0;
}

int streams_started(struct process *process, struct why *why)
{
	struct streams *streams = process->streams;

	if (streams && streams->logger)
		logger_release(streams->logger);
	return streams && streams->is_terminal ? terminal_finish(&streams->terminal, why) : 0;
}

/* ---- after another shim -------------------------------------------------- */

static int reopen_fifo(const struct process *process, const char *stream, int flags, int *ret_fd,
		       struct why *why)
{
	_cleanup_(cleanup_free) char *path = fifo_path(process, stream);
	int fd;

	if (!path)
		return error_origin(-ENOMEM);
	fd = open(path, flags | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC);
	/* Input that was closed, or that nobody has open any more. */
	if (fd < 0 && (errno == ENOENT || errno == ENXIO))
		return 0;
	if (fd < 0)
		return why_errno(why, error_origin(-errno), "cannot open %s again", path);
	*ret_fd = fd;
	return 0;
}

static int recover_fifos(struct streams *streams, struct why *why)
{
	const struct process *process = streams->process;
	int r;

	r = reopen_fifo(process, "out", O_RDONLY, &streams->sources[0].fd, why);
	if (!r)
		r = reopen_fifo(process, "err", O_RDONLY, &streams->sources[1].fd, why);
	if (!r)
		r = reopen_fifo(process, "in", O_WRONLY, &streams->input.fd, why);
	sources_set(streams, true);
	/* An end that came before they were opened is seen by reading only. */
	for (size_t i = 0; i < ARRAY_SIZE(streams->sources); i++)
		if (streams->sources[i].file.loop)
			source_ready(&streams->sources[i].file, 0);
	return r;
}

int streams_recover(struct process *process, const struct task_io *io, struct why *why)
{
	int r;

	if (!is_logged(io) && !has_logger(io))
		return 0;
	r = streams_new(process, io);
	if (!r && has_logger(io))
		return logger_recover(process, io, &process->streams->logger, why);
	if (!r)
		r = open_log(process->streams, io, true, why);
	if (!r && io->terminal)
		process->streams->awaits_terminal = true;
	else if (!r)
		r = recover_fifos(process->streams, why);
	if (r)
		streams_close(process);
	return r;
}

static bool is_same_file(const struct stat *a, const struct stat *b)
{
	return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

static bool is_open_as(int fd, const struct stat *file)
{
	struct stat status;

	return fd >= 0 && !fstat(fd, &status) && is_same_file(&status, file);
}

/* Whether one of a client's FIFOs is that. */
static bool is_named(const struct task_io *io, const struct stat *file)
{
	const char *const uris[] = {io ? io->stdin : NULL, io ? io->stdout : NULL,
				    io ? io->stderr : NULL};
	struct stat status;

	for (size_t i = 0; i < ARRAY_SIZE(uris); i++) {
		const char *path = uris[i] ? stdio_fifo(uris[i]) : NULL;

		if (path && !stat(path, &status) && is_same_file(&status, file))
			return true;
	}
	return false;
}

bool streams_owns(const struct process *process, const struct stat *file)
{
	const struct streams *streams = process->streams;
	const struct shim *shim = process->shim;

	if (is_logged(process->io))
		return streams && (is_open_as(streams->sources[0].fd, file) ||
				   is_open_as(streams->sources[1].fd, file) ||
				   is_open_as(streams->input.fd, file));
	if (!is_named(process->io, file) || is_named(shim->init.io, file))
		return false;
	for (const struct process *other = shim->added.first; other; other = other->next)
		if (other != process && is_named(other->io, file))
			return false;
	return true;
}

int streams_terminal(const struct process *process)
{
	return process->streams ? process->streams->terminal.master : -1;
}

int streams_take_terminal(struct process *process, int fd, struct why *why)
{
	struct streams *streams = process->streams;
	int r;

	if (!streams || !streams->is_terminal || streams->terminal.master >= 0) {
		close_fd(fd);
		return why_set(why, -EEXIST, "process '%s' %s a terminal", process->id,
			       streams && streams->is_terminal ? "has" : "is not to have");
	}
	r = terminal_adopt(&streams->terminal, fd, why);
	if (!r)
		terminal_came(&streams->terminal);
	return r;
}

/* Its FIFO goes as well, so that no other shim holds it open again. */
void streams_close_input(struct process *process)
{
	_cleanup_(cleanup_free) char *path = NULL;
	struct streams *streams = process->streams;

	if (!streams || streams->is_terminal)
		return;
	path = fifo_path(process, "in");
	if (path)
		(void)unlink(path);
	streams->input.is_closing = true;
	if (!streams->input.data)
		input_close(&streams->input);
}

/* ---- closing ------------------------------------------------------------- */

void streams_process_ended(struct process *process)
{
	struct streams *streams = process->streams;

	if (!streams)
		return;
	streams->has_ended = true;
	/* Nobody has kept it. */
	streams->awaits_terminal = false;
	if (streams->logger)
		logger_finish(streams->logger);
	else if (streams_is_over(streams))
		clients_feed(streams);
	streams_consider_drained(streams);
}

static void remove_fifos(const struct process *process)
{
	static const char *const names[] = {"in", "out", "err"};

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		_cleanup_(cleanup_free) char *path = fifo_path(process, names[i]);

		if (path)
			(void)unlink(path);
	}
}

/* What is in the FIFOs now, while others may go on writing. */
static void read_rest(struct streams *streams)
{
	for (size_t i = 0; i < ARRAY_SIZE(streams->sources); i++) {
		struct source *source = &streams->sources[i];

		for (int n = 0; n < REST_READS && source->file.loop; n++)
			source_ready(&source->file, 0);
	}
}

/* Nothing is tried again after this: what is missing is told. */
static void give_up_log(struct streams *streams)
{
	struct shim *shim = streams->process->shim;

	if (!streams->error)
		return;
	if (!write_waiting(streams)) {
		log_works(streams);
		return;
	}
	streams->dropped += streams->pending ? streams->frame.size : 0;
	log_warning("task=%s process=%s: %lu bytes of its output are not in the log",
		    shim->config.task_id, streams->process->id, (unsigned long)streams->dropped);
	/* The event of its deletion is a task's last. */
	if (shim->state != STATE_DELETED)
		(void)shim_journal_log(shim, streams->process, strerror(-streams->error),
				       streams->dropped);
}

void streams_close(struct process *process)
{
	struct streams *streams = process->streams;

	if (!streams)
		return;
	read_rest(streams);
	give_up_log(streams);
	clients_close(streams);
	if (streams->logger)
		logger_close(streams->logger);
	for (size_t i = 0; i < ARRAY_SIZE(streams->sources); i++) {
		loop_file_remove(&streams->sources[i].file);
		if (!streams->is_terminal)
			close_fd(streams->sources[i].fd);
	}
	loop_timer_cancel(&streams->retry);
	loop_timer_cancel(&streams->drained);
	terminal_close(&streams->terminal);
	input_close(&streams->input);
	log_writer_close(&streams->log);
	output_log_close(&streams->reader);
	free(streams->pending);
	if (!streams->is_terminal)
		remove_fifos(process);
	process->streams = NULL;
	free(streams);
}
