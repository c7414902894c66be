/* See streams.h. */

#include "tools/streams.h"

#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "broker/lib/cleanup.h"
#include "broker/lib/file.h"

#define CHUNK 65536

struct output {
	struct streams *streams;
	struct loop_file file;
	int from, to;
};

struct input {
	struct streams *streams;
	struct loop_file file;      /* our stdin */
	struct loop_file fifo_file; /* the FIFO, while it is full */
	int fifo;
	size_t held, sent; /* of buffer */
	char buffer[CHUNK];
};

struct streams {
	struct loop *loop;
	char *directory;
	struct input input;
	struct output outputs[2];
	struct loop_timer limit;
	void (*done)(void *userdata);
	void *userdata;
};

/* ---- output -------------------------------------------------------------- */

static void check_done(struct streams *streams)
{
	void (*done)(void *userdata) = streams->done;

	if (!done || streams->outputs[0].from >= 0 || streams->outputs[1].from >= 0)
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

/* Our own stdout may be a slow pipe: a blocking write is right, nothing else is to be done meanwhile. */
static void on_output(struct loop_file *file, uint32_t events)
{
	struct output *output = container_of(file, struct output, file);
	static char buffer[CHUNK];
	ssize_t n;

	(void)events;
	n = read(output->from, buffer, sizeof(buffer));
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0 || file_write_all(output->to, buffer, (size_t)n))
		output_close(output);
}

/* ---- input --------------------------------------------------------------- */

/* The end of our stdin: the container sees the end of file when it has read what is in the FIFO. */
static void input_close(struct input *input)
{
	loop_file_remove(&input->file);
	loop_file_remove(&input->fifo_file);
	input->fifo = close_fd(input->fifo);
}

static void on_fifo_room(struct loop_file *file, uint32_t events);
static void on_input(struct loop_file *file, uint32_t events);

static void input_send(struct input *input)
{
	struct loop *loop = input->streams->loop;
	int r;

	while (input->sent < input->held) {
		ssize_t n = write(input->fifo, input->buffer + input->sent,
				  input->held - input->sent);

		if (n < 0 && errno == EAGAIN)
			break;
		if (n < 0) {
			input_close(input);
			return;
		}
		input->sent += (size_t)n;
	}
	/* One of the two is watched: a hang-up is reported whatever is asked for, and must wait for room in the FIFO. */
	loop_file_remove(&input->file);
	loop_file_remove(&input->fifo_file);
	if (input->sent < input->held)
		r = loop_file_add(loop, &input->fifo_file, input->fifo, EPOLLOUT, on_fifo_room);
	else
		r = loop_file_add(loop, &input->file, STDIN_FILENO, EPOLLIN, on_input);
	if (r)
		input_close(input);
}

static void on_fifo_room(struct loop_file *file, uint32_t events)
{
	(void)events;
	input_send(container_of(file, struct input, fifo_file));
}

static void on_input(struct loop_file *file, uint32_t events)
{
	struct input *input = container_of(file, struct input, file);
	ssize_t n;

	(void)events;
	n = read(STDIN_FILENO, input->buffer, sizeof(input->buffer));
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		input_close(input);
		return;
	}
	input->held = (size_t)n;
	input->sent = 0;
	input_send(input);
}

/* epoll refuses regular files: those are copied as fast as the FIFO takes them. */
static void on_file_room(struct loop_file *file, uint32_t events)
{
	struct input *input = container_of(file, struct input, fifo_file);
	ssize_t n;

	(void)events;
	if (input->sent == input->held) {
		n = read(STDIN_FILENO, input->buffer, sizeof(input->buffer));
		if (n <= 0) {
			input_close(input);
			return;
		}
		input->held = (size_t)n;
		input->sent = 0;
	}
	n = write(input->fifo, input->buffer + input->sent, input->held - input->sent);
	if (n >= 0)
		input->sent += (size_t)n;
	else if (errno != EAGAIN)
		input_close(input);
}

static int input_start(struct streams *streams)
{
	struct input *input = &streams->input;
	struct stat st;
	int r;

	if (fstat(STDIN_FILENO, &st)) { /* no stdin at all */
		input_close(input);
		return 0;
	}
	if (S_ISREG(st.st_mode))
		return loop_file_add(streams->loop, &input->fifo_file, input->fifo, EPOLLOUT,
				     on_file_room);
	r = loop_file_add(streams->loop, &input->file, STDIN_FILENO, EPOLLIN, on_input);
	if (r == -EPERM) { /* /dev/null and the like: nothing to wait for */
		input_close(input);
		return 0;
	}
	return r;
}

/* ---- making and removing ------------------------------------------------- */

static int make_fifo(struct streams *streams, const char *id, const char *name, int flags,
		     char **ret_path, int *ret_fd, struct why *why)
{
	_cleanup_(cleanup_free) char *path = text_format("%s/%s-%s", streams->directory, id, name);
	int fd;

	if (!path)
		return error_origin(-ENOMEM);
	if (mkfifo(path, 0600))
		return why_errno(why, -errno, "cannot make the FIFO %s", path);
	fd = open(path, flags | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return why_errno(why, -errno, "cannot open the FIFO %s", path);
	*ret_fd = fd;
	*ret_path = TAKE(path);
	return 0;
}

static int make_all(struct streams *streams, const char *id, bool terminal, struct task_io *io,
		    struct why *why)
{
	int r;

	/* stdin is opened for reading too: so the open does not wait for the container. */
	r = make_fifo(streams, id, "stdin", O_RDWR, &io->stdin, &streams->input.fifo, why);
	if (!r)
		r = make_fifo(streams, id, "stdout", O_RDONLY, &io->stdout,
			      &streams->outputs[0].from, why);
	if (!r && !terminal)
		r = make_fifo(streams, id, "stderr", O_RDONLY, &io->stderr,
			      &streams->outputs[1].from, why);
	io->terminal = terminal;
	return r;
}

static int make_directory(struct streams *streams, const char *directory, struct why *why)
{
	uint8_t random[ID_SIZE];
	char name[ID_TEXT_SIZE];
	int r;

	id_make(random);
	id_format(random, name);
	name[16] = '\0';
	r = file_make_dir(directory, 0700, why);
	if (r)
		return error_trace(r);
	streams->directory = text_format("%s/%s", directory, name);
	return streams->directory ? file_make_dir(streams->directory, 0700, why)
				  : error_origin(-ENOMEM);
}

int streams_new(struct loop *loop, const char *directory, const char *id, bool terminal,
		struct task_io *io, struct streams **ret_streams, struct why *why)
{
	_cleanup_(streams_freep) struct streams *streams = calloc(1, sizeof(*streams));
	int r;

	if (!streams)
		return error_origin(-ENOMEM);
	streams->loop = loop;
	streams->input.streams = streams;
	streams->input.fifo = -1;
	streams->outputs[0] = (struct output){.streams = streams, .from = -1, .to = STDOUT_FILENO};
	streams->outputs[1] = (struct output){.streams = streams, .from = -1, .to = STDERR_FILENO};
	r = make_directory(streams, directory, why) ?: make_all(streams, id, terminal, io, why);
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
	loop_timer_cancel(&streams->limit);
	input_close(&streams->input);
	output_close(&streams->outputs[0]);
	output_close(&streams->outputs[1]);
	if (streams->directory)
		(void)file_remove_tree(AT_FDCWD, streams->directory, NULL);
	free(streams->directory);
	free(streams);
	return NULL;
}

void streams_freep(struct streams **streams)
{
	*streams = streams_free(*streams);
}

int streams_start(struct streams *streams)
{
	int r = 0;

	for (size_t i = 0; !r && i < ARRAY_SIZE(streams->outputs); i++) {
		if (streams->outputs[i].from >= 0)
			r = loop_file_add(streams->loop, &streams->outputs[i].file,
					  streams->outputs[i].from, EPOLLIN, on_output);
	}
	return r ?: input_start(streams);
}

/* ---- the end ------------------------------------------------------------- */

/* A FIFO that nobody ever wrote to gives no hang-up: with no writer left, read() says end of file. */
static void look_once(struct output *output)
{
	if (output->from >= 0)
		on_output(&output->file, 0);
}

static void on_limit(struct loop_timer *timer)
{
	struct streams *streams = container_of(timer, struct streams, limit);

	output_close(&streams->outputs[0]);
	output_close(&streams->outputs[1]);
}

void streams_finish(struct streams *streams, uint64_t limit_ms, void (*done)(void *userdata),
		    void *userdata)
{
	streams->done = done;
	streams->userdata = userdata;
	input_close(&streams->input);
	(void)loop_timer_set(streams->loop, &streams->limit, time_boot_ms() + limit_ms, on_limit);
	look_once(&streams->outputs[0]);
	look_once(&streams->outputs[1]);
	check_done(streams);
}
