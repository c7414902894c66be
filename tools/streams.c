/* See streams.h. */

#include "tools/streams.h"

#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "broker/lib/cleanup.h"
#include "broker/lib/file.h"

#define CHUNK 65536

struct output {
	struct streams *streams;
	struct loop_file file;
	int from, to;
	uint64_t size; /* that has come */
};

struct input {
	struct streams *streams;
	struct loop_file file;      /* our stdin */
	struct loop_file fifo_file; /* the FIFO, while it is full */
	int fifo;
	bool is_ended, is_detached;
	struct detach_keys keys;
	size_t held, sent; /* of buffer */
	uint8_t buffer[CHUNK + DETACH_KEYS_MAX];
};

struct streams {
	struct loop *loop;
	struct streams_options options;
	char *directory, *id;
	int lock_fd; /* of the directory */
	struct input input;
	struct output outputs[2];
	struct loop_timer limit;
	uint64_t limit_ms;
	void (*done)(void *userdata);
	void *userdata;
};

/* ---- output -------------------------------------------------------------- */

static void check_done(struct streams *streams)
{
	const struct streams_options *options = &streams->options;
	void (*done)(void *userdata) = streams->done;

	if (streams->outputs[0].from >= 0 || streams->outputs[1].from >= 0)
		return;
	if (options->on_output_end && options->on_output_end(options->userdata))
		return;
	if (!done)
		return;
	streams->done = NULL;
	loop_timer_cancel(&streams->limit);
	done(streams->userdata);
}

static void output_close(struct output *output)
{
	loop_file_remove(&output->file);
	output->from = close_fd(output->from);
	check_done(output->streams);
}

static void on_limit(struct loop_timer *timer);

/* Once the process has ended: counted from the last output, so that a slow reader of ours gets all of it. */
static void restart_limit(struct streams *streams)
{
	if (streams->done && streams->limit_ms != UINT64_MAX)
		(void)loop_timer_set(streams->loop, &streams->limit,
				     time_boot_ms() + streams->limit_ms, on_limit);
}

/* Our own stdout may be a slow pipe: a blocking write is right, nothing else is to be done meanwhile. */
static int output_write(struct output *output, const void *data, size_t size)
{
	const struct streams_options *options = &output->streams->options;

	if (!options->on_output)
		return file_write_all(output->to, data, size);
	options->on_output(options->userdata, data, size);
	return 0;
}

static void on_output_ready(struct loop_file *file, uint32_t events)
{
	struct output *output = container_of(file, struct output, file);
	static char buffer[CHUNK];
	ssize_t n;

	(void)events;
	n = read(output->from, buffer, sizeof(buffer));
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	output->size += n > 0 ? (uint64_t)n : 0;
	if (n <= 0 || output_write(output, buffer, (size_t)n))
		output_close(output);
	else
		restart_limit(output->streams);
}

/* ---- input --------------------------------------------------------------- */

/* A container that reads the FIFO itself sees the end of file when it has read what is in it. */
static void input_close(struct input *input)
{
	loop_file_remove(&input->file);
	loop_file_remove(&input->fifo_file);
	input->fifo = close_fd(input->fifo);
}

static void input_end(struct input *input)
{
	const struct streams_options *options = &input->streams->options;

	input_close(input);
	if (!input->is_ended && options->on_input_end)
		options->on_input_end(options->userdata);
	input->is_ended = true;
}

static void on_fifo_room(struct loop_file *file, uint32_t events);
static void on_input(struct loop_file *file, uint32_t events);

/* 1: all of the buffer is in the FIFO; 0: it is full; -errno. */
static int input_flush(struct input *input)
{
	while (input->sent < input->held) {
		ssize_t n = write(input->fifo, input->buffer + input->sent,
				  input->held - input->sent);

		if (n < 0)
			return errno == EAGAIN ? 0 : -errno;
		input->sent += (size_t)n;
	}
	return 1;
}

static void input_send(struct input *input)
{
	const struct streams_options *options = &input->streams->options;
	struct loop *loop = input->streams->loop;
	int r = input_flush(input);

	if (r > 0 && input->is_detached) {
		input_close(input);
		if (options->on_detach)
			options->on_detach(options->userdata);
		return;
	}
	/* One of the two is watched: a hang-up is reported whatever is asked for, and must wait for room in the FIFO. */
	loop_file_remove(&input->file);
	loop_file_remove(&input->fifo_file);
	if (r == 0)
		r = loop_file_add(loop, &input->fifo_file, input->fifo, EPOLLOUT, on_fifo_room);
	else if (r > 0)
		r = loop_file_add(loop, &input->file, STDIN_FILENO, EPOLLIN, on_input);
	if (r)
		input_close(input);
}

static void on_fifo_room(struct loop_file *file, uint32_t events)
{
	(void)events;
	input_send(container_of(file, struct input, fifo_file));
}

/* More of our stdin into the buffer: 0, or as read(). */
static ssize_t input_read(struct input *input)
{
	static uint8_t chunk[CHUNK];
	ssize_t n = read(STDIN_FILENO, chunk, sizeof(chunk));

	if (n <= 0)
		return n;
	input->held = detach_keys_feed(&input->keys, chunk, (size_t)n, input->buffer,
				       &input->is_detached);
	input->sent = 0;
	return n;
}

static void on_input(struct loop_file *file, uint32_t events)
{
	struct input *input = container_of(file, struct input, file);
	ssize_t n;

	(void)events;
	n = input_read(input);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0)
		input_end(input);
	else
		input_send(input);
}

/* epoll refuses regular files: those are copied as fast as the FIFO takes them. */
static void on_file_room(struct loop_file *file, uint32_t events)
{
	struct input *input = container_of(file, struct input, fifo_file);
	ssize_t n = 1;

	(void)events;
	if (input->sent == input->held)
		n = input_read(input);
	if (n <= 0)
		input_end(input);
	else if (input_flush(input) < 0)
		input_close(input);
}

static int input_start(struct streams *streams)
{
	struct input *input = &streams->input;
	struct stat st;
	int r;

	if (streams->options.output_only)
		return 0;
	if (fstat(STDIN_FILENO, &st)) { /* no stdin at all */
		input_end(input);
		return 0;
	}
	if (S_ISREG(st.st_mode))
		return loop_file_add(streams->loop, &input->fifo_file, input->fifo, EPOLLOUT,
				     on_file_room);
	r = loop_file_add(streams->loop, &input->file, STDIN_FILENO, EPOLLIN, on_input);
	if (r == -EPERM) { /* /dev/null and the like: nothing to wait for */
		input_end(input);
		return 0;
	}
	return r;
}

/* ---- making and removing ------------------------------------------------- */

/* The task service takes away what nobody holds. */
static int hold_directory(const char *path, int *ret_lock_fd, struct why *why)
{
	_cleanup_(cleanup_fd) int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

	if (fd < 0 || flock(fd, LOCK_SH | LOCK_NB))
		return why_errno(why, error_origin(-errno), "cannot lock %s", path);
	*ret_lock_fd = TAKE_FD(fd);
	return 0;
}

int streams_make_directory(const char *directory, char **ret_directory, int *ret_lock_fd,
			   struct why *why)
{
	uint8_t random[ID_SIZE];
	char name[ID_TEXT_SIZE];
	int r;

	id_make(random);
	id_format(random, name);
	name[16] = '\0';
	/* One that is there keeps its mode. */
	r = access(directory, F_OK) ? file_make_dir(directory, 0700, why) : 0;
	if (r)
		return error_trace(r);
	*ret_directory = text_format("%s/%s", directory, name);
	r = *ret_directory ? file_make_dir(*ret_directory, 0700, why) : error_origin(-ENOMEM);
	return r ?: hold_directory(*ret_directory, ret_lock_fd, why);
}

static int make_fifo(const char *directory, const char *id, const char *name, char **ret_path,
		     struct why *why)
{
	_cleanup_(cleanup_free) char *path = text_format("%s/%s-%s", directory, id, name);

	if (!path)
		return error_origin(-ENOMEM);
	if (mkfifo(path, 0600))
		return why_errno(why, -errno, "cannot make the FIFO %s", path);
	*ret_path = TAKE(path);
	return 0;
}

static int make_fifos(const struct streams_options *options, struct task_io *io,
		      char **ret_directory, int *ret_lock_fd, struct why *why)
{
	int r = streams_make_directory(options->directory, ret_directory, ret_lock_fd, why);

	if (!r && !options->output_only)
		r = make_fifo(*ret_directory, options->id, "stdin", &io->stdin, why);
	if (!r && !options->input_only)
		r = make_fifo(*ret_directory, options->id, "stdout", &io->stdout, why);
	if (!r && !options->terminal && !options->input_only)
		r = make_fifo(*ret_directory, options->id, "stderr", &io->stderr, why);
	return error_trace(r);
}

int streams_make_fifos(const struct streams_options *options, struct task_io *io, struct why *why)
{
	_cleanup_(cleanup_free) char *directory = NULL;
	_cleanup_(cleanup_fd) int lock_fd = -1; /* they are a task's within the hour, or nobody's */

	return make_fifos(options, io, &directory, &lock_fd, why);
}

static int open_fifo(const char *path, int flags, int *ret_fd, struct why *why)
{
	if (!path)
		return 0;
	*ret_fd = open(path, flags | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW);
	return *ret_fd < 0 ? why_errno(why, -errno, "cannot open the FIFO %s", path) : 0;
}

/* stdin is opened for reading too: so the open does not wait for the container. */
static int open_fifos(struct streams *streams, const struct task_io *io, struct why *why)
{
	return open_fifo(io->stdin, O_RDWR, &streams->input.fifo, why)
		       ?: open_fifo(io->stdout, O_RDONLY, &streams->outputs[0].from, why)
		       ?: open_fifo(io->stderr, O_RDONLY, &streams->outputs[1].from, why);
}

int streams_new(struct loop *loop, const struct streams_options *options, struct task_io *io,
		struct streams **ret_streams, struct why *why)
{
	_cleanup_(streams_freep) struct streams *streams = calloc(1, sizeof(*streams));
	int r;

	if (!streams)
		return error_origin(-ENOMEM);
	streams->loop = loop;
	streams->options = *options;
	streams->input.streams = streams;
	streams->input.fifo = -1;
	streams->lock_fd = -1;
	if (options->keys)
		streams->input.keys = *options->keys;
	streams->outputs[0] = (struct output){.streams = streams, .from = -1, .to = STDOUT_FILENO};
	streams->outputs[1] = (struct output){.streams = streams, .from = -1, .to = STDERR_FILENO};
	streams->id = strdup(options->id);
	r = streams->id ? make_fifos(options, io, &streams->directory, &streams->lock_fd, why)
				  ?: open_fifos(streams, io, why)
			: error_origin(-ENOMEM);
	if (r)
		return error_trace(r);
	*ret_streams = TAKE(streams);
	return 0;
}

struct streams *streams_free(struct streams *streams)
{
	if (!streams)
		return NULL;
	streams->done = NULL;
	streams->options.on_output_end = NULL;
	loop_timer_cancel(&streams->limit);
	input_close(&streams->input);
	output_close(&streams->outputs[0]);
	output_close(&streams->outputs[1]);
	streams_unlink(streams);
	free(streams->id);
	free(streams);
	return NULL;
}

void streams_freep(struct streams **streams)
{
	*streams = streams_free(*streams);
}

void streams_unlink(struct streams *streams)
{
	if (streams->directory)
		(void)file_remove_tree(AT_FDCWD, streams->directory, NULL);
	free(streams->directory);
	streams->directory = NULL;
	streams->lock_fd = close_fd(streams->lock_fd);
}

void streams_drop_input(struct streams *streams)
{
	input_close(&streams->input);
	streams->options.output_only = true;
}

int streams_start(struct streams *streams)
{
	int r = 0;

	for (size_t i = 0; !r && i < ARRAY_SIZE(streams->outputs); i++) {
		if (streams->outputs[i].from >= 0)
			r = loop_file_add(streams->loop, &streams->outputs[i].file,
					  streams->outputs[i].from, EPOLLIN, on_output_ready);
	}
	return r ?: input_start(streams);
}

/* ---- anew ---------------------------------------------------------------- */

uint64_t streams_output_size(const struct streams *streams, int output)
{
	return streams->outputs[output].size;
}

/* What nobody has read from @from; both wait for nothing. */
static void move_typed(int from, int to)
{
	char buffer[4096];
	ssize_t n;

	while ((n = read(from, buffer, sizeof(buffer))) > 0)
		if (write(to, buffer, (size_t)n) != n)
			return;
}

static int renew_input(struct streams *streams, const char *path, struct why *why)
{
	struct input *input = &streams->input;
	bool waits = input->fifo_file.loop;
	void (*fn)(struct loop_file * file, uint32_t events) = input->fifo_file.fn;
	int fd = -1, r;

	if (input->fifo < 0)
		return 0;
	r = open_fifo(path, O_RDWR, &fd, why);
	if (r)
		return r;
	loop_file_remove(&input->fifo_file);
	move_typed(input->fifo, fd);
	close_fd(input->fifo);
	input->fifo = fd;
	return waits ? loop_file_add(streams->loop, &input->fifo_file, fd, EPOLLOUT, fn) : 0;
}

int streams_renew(struct streams *streams, const char *directory,
		  void (*on_output)(void *userdata, const void *data, size_t size),
		  struct task_io *io, struct why *why)
{
	const struct streams_options options = {.directory = directory,
						.id = streams->id,
						.terminal = true,
						.output_only = streams->input.fifo < 0};
	struct output *output = &streams->outputs[0];
	int r;

	streams_unlink(streams);
	r = make_fifos(&options, io, &streams->directory, &streams->lock_fd, why)
		    ?: renew_input(streams, io->stdin, why)
		    ?: open_fifo(io->stdout, O_RDONLY, &output->from, why);
	if (r)
		return error_trace(r);
	streams->options.on_output = on_output;
	return loop_file_add(streams->loop, &output->file, output->from, EPOLLIN, on_output_ready);
}

/* ---- the end ------------------------------------------------------------- */

/* A FIFO that nobody ever wrote to gives no hang-up: with no writer left, read() says end of file. */
static void look_once(struct output *output)
{
	if (output->from >= 0)
		on_output_ready(&output->file, 0);
}

static void on_limit(struct loop_timer *timer)
{
	struct streams *streams = container_of(timer, struct streams, limit);

	streams->options.on_output_end = NULL;
	output_close(&streams->outputs[0]);
	output_close(&streams->outputs[1]);
}

void streams_finish(struct streams *streams, uint64_t limit_ms, void (*done)(void *userdata),
		    void *userdata)
{
	streams->done = done;
	streams->userdata = userdata;
	streams->limit_ms = limit_ms;
	input_close(&streams->input);
	restart_limit(streams);
	look_once(&streams->outputs[0]);
	look_once(&streams->outputs[1]);
	check_done(streams);
}
