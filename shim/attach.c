#include "shim/attach.h"

#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include "broker/lib/log.h"
#include "shim/shim.h"
#include "shim/streams.h"

#define PARTS_MAX 64 /* frames that one write takes along */
#define PIECE_MAX (PIPE_BUF - LOG_FRAME_OVERHEAD)
#define ROUNDS    4 /* of one feed; then the others get their turn */

/* One output of a client. */
struct feed {
	struct loop_file file;
	struct client *client;
	int fd; /* -1: none */
	bool frames;
	unsigned streams; /* of enum log_stream, a bit for each */
	bool is_at_end;   /* waits for more in the log, and not for its reader */

	struct log_position position; /* of the frame that is to be written */
	uint32_t done;                /* bytes of its data that have been */
	uint64_t output;              /* its start, if it is the next one */
	bool has_output;              /* that is known */
	bool has_gap;                 /* frames before it are gone, how much they held is: */
	uint64_t gap;
};

struct client {
	struct streams *streams;
	struct client *next;
	struct feed feeds[2];
	struct loop_file input; /* registered while it may be read */
	int input_fd;           /* -1: none */
};

/* ---- forgetting ---------------------------------------------------------- */

static void forget_client(struct client *client)
{
	struct streams *streams = client->streams;
	struct client **at = &streams->clients;

	while (*at != client)
		at = &(*at)->next;
	*at = client->next;
	streams->n_clients--;
	loop_file_remove(&client->input);
	close_fd(client->input_fd);
	for (size_t i = 0; i < ARRAY_SIZE(client->feeds); i++) {
		loop_file_remove(&client->feeds[i].file);
		close_fd(client->feeds[i].fd);
	}
	free(client);
}

/* True: it is forgotten. */
static bool consider_client(struct client *client)
{
	bool has_output = client->feeds[0].fd >= 0 || client->feeds[1].fd >= 0;

	if (has_output || client->input_fd >= 0)
		return false;
	forget_client(client);
	return true;
}

static void close_input(struct client *client)
{
	loop_file_remove(&client->input);
	client->input_fd = close_fd(client->input_fd);
}

/* Its reader has all, or is gone. With its last output a client is gone, and what it types. */
static void end_feed(struct feed *feed)
{
	struct client *client = feed->client;

	loop_file_remove(&feed->file);
	feed->fd = close_fd(feed->fd);
	if (client->feeds[0].fd < 0 && client->feeds[1].fd < 0)
		close_input(client);
}

/* ---- writing ------------------------------------------------------------- */

/* FEED_MORE: all that was there is written. */
enum feeding {
	FEED_MORE,
	FEED_FULL, /* its reader does not read */
	FEED_GONE,
};

static enum feeding write_parts(const struct feed *feed, const struct iovec *parts, int count,
				size_t *ret_size)
{
	ssize_t n = writev(feed->fd, parts, count);

	*ret_size = n < 0 ? 0 : (size_t)n;
	if (n >= 0)
		return FEED_MORE;
	return errno == EAGAIN || errno == EINTR ? FEED_FULL : FEED_GONE;
}

static bool is_wanted(const struct feed *feed, const struct log_frame *frame)
{
	return feed->streams & 1u << frame->stream;
}

static void next_frame(struct feed *feed, const struct log_frame *frame)
{
	feed->position.offset += log_frame_size(frame);
	feed->done = 0;
	feed->output = frame->start + log_frame_output(frame);
	feed->has_output = true;
}

/* Advances by @size bytes that were written of the frames at @data. */
static void advance(struct feed *feed, const uint8_t *data, size_t size)
{
	struct log_frame frame;

	for (;; data += log_frame_size(&frame)) {
		size_t left;

		(void)log_frame_read(data, LOG_FRAME_MAX, &frame);
		left = is_wanted(feed, &frame) ? frame.size - feed->done : 0;
		if (size < left) {
			feed->done += (uint32_t)size;
			return;
		}
		size -= left;
		next_frame(feed, &frame);
		if (!size)
			return;
	}
}

/* Nothing of these frames is for this output. */
static void pass_over(struct feed *feed, const uint8_t *data, size_t size)
{
	struct log_frame frame;

	for (size_t at = 0; at < size; at += log_frame_size(&frame)) {
		(void)log_frame_read(data + at, size - at, &frame);
		next_frame(feed, &frame);
	}
}

/* The bytes of as many frames as one write takes. @ret_passed: bytes of @data that it deals with. */
static enum feeding write_plain(struct feed *feed, const uint8_t *data, size_t size,
				size_t *ret_passed)
{
	struct iovec parts[PARTS_MAX];
	size_t at = 0, total = 0, done = feed->done, n;
	struct log_frame frame;
	enum feeding feeding;
	int count = 0;

	for (; at < size && count < PARTS_MAX; at += log_frame_size(&frame), done = 0) {
		(void)log_frame_read(data + at, size - at, &frame);
		if (!is_wanted(feed, &frame))
			continue;
		parts[count++] = (struct iovec){(void *)(frame.data + done), frame.size - done};
		total += frame.size - done;
	}
	*ret_passed = at;
	if (!count) {
		pass_over(feed, data, at);
		return FEED_MORE;
	}
	feeding = write_parts(feed, parts, count, &n);
	if (n == total)
		pass_over(feed, data, at);
	else if (n)
		advance(feed, data, n);
	return feeding == FEED_MORE && n < total ? FEED_FULL : feeding;
}

/* One write of at most PIPE_BUF bytes, which a FIFO takes whole or not at all. */
static enum feeding write_piece(const struct feed *feed, const struct log_frame *piece)
{
	uint8_t header[LOG_FRAME_HEADER], trailer[LOG_FRAME_TRAILER];
	const struct iovec parts[] = {{header, sizeof(header)},
				      {(void *)piece->data, piece->size},
				      {trailer, sizeof(trailer)}};
	size_t n;

	log_frame_write_header(piece, header);
	log_frame_write_trailer(piece, trailer);
	return write_parts(feed, parts, ARRAY_SIZE(parts), &n);
}

static enum feeding write_gap(struct feed *feed, const struct log_frame *next)
{
	uint8_t data[8];
	struct log_frame frame = log_frame_dropped(next->time_ns, next->start - feed->gap,
						   feed->gap, data);
	enum feeding feeding = write_piece(feed, &frame);

	if (feeding == FEED_MORE)
		feed->has_gap = false;
	return feeding;
}

/* The first frame of @data, in pieces. */
static enum feeding write_frame(struct feed *feed, const uint8_t *data, size_t size,
				size_t *ret_passed)
{
	enum feeding feeding = FEED_MORE;
	struct log_frame frame;

	(void)log_frame_read(data, size, &frame);
	*ret_passed = log_frame_size(&frame);
	if (feed->has_gap)
		feeding = write_gap(feed, &frame);
	while (feeding == FEED_MORE && feed->done < frame.size) {
		struct log_frame piece = frame;

		piece.data += feed->done;
		piece.start += feed->done;
		piece.size -= feed->done;
		if (piece.size > PIECE_MAX) {
			piece.size = PIECE_MAX;
			piece.ends_line = false;
		}
		feeding = write_piece(feed, &piece);
		if (feeding == FEED_MORE)
			feed->done += piece.size;
	}
	if (feeding == FEED_MORE)
		next_frame(feed, &frame);
	return feeding;
}

/* ---- feeding ------------------------------------------------------------- */

static bool is_at_end(const struct feed *feed)
{
	const struct log_writer *log = &feed->client->streams->log;

	return feed->position.file == log->file && feed->position.offset == log->offset;
}

/* What was read starts at @start: elsewhere than expected, after a file's end or a rotation. */
static void take_position(struct feed *feed, const struct log_position *start, const uint8_t *data,
			  bool is_truncated)
{
	struct log_frame frame;

	if (start->file == feed->position.file && start->offset == feed->position.offset)
		return;
	feed->position = *start;
	feed->output += feed->done; /* the pieces that it has of a frame that is gone */
	feed->done = 0;
	if (!is_truncated)
		return;
	(void)log_frame_read(data, LOG_FRAME_MAX, &frame);
	feed->has_gap = feed->frames;
	feed->gap = feed->has_output ? frame.start - feed->output : 0;
}

/* Reads once, and writes what that gave. */
static enum feeding feed_step(struct feed *feed)
{
	struct streams *streams = feed->client->streams;
	struct log_position start, position = feed->position;
	uint8_t *buffer = streams_buffer(streams);
	enum feeding feeding = FEED_MORE;
	struct output_log_read read;
	size_t passed;

	/* With room for one frame at most, all that is read is of one file. */
	if (!buffer || output_log_read(&streams->reader, &position, buffer, LOG_FRAME_MAX, &read)) {
		log_warning("a client of process '%s' cannot be fed from its log",
			    streams->process->id);
		return FEED_GONE;
	}
	if (!read.size)
		return FEED_GONE; /* not the end that the writer knows of */
	start = (struct log_position){position.file, position.offset - read.size};
	take_position(feed, &start, buffer, read.is_truncated);
	for (size_t at = 0; at < read.size && feeding == FEED_MORE; at += passed)
		feeding = feed->frames ? write_frame(feed, buffer + at, read.size - at, &passed)
				       : write_plain(feed, buffer + at, read.size - at, &passed);
	return feeding;
}

/* May end the feed, but forgets no client. */
static void feed_run(struct feed *feed)
{
	enum feeding feeding = FEED_MORE;

	for (int i = 0; i < ROUNDS && feeding == FEED_MORE && !is_at_end(feed); i++)
		feeding = feed_step(feed);
	feed->is_at_end = feeding == FEED_MORE && is_at_end(feed);
	if (feeding == FEED_GONE || (feed->is_at_end && streams_is_over(feed->client->streams)) ||
	    loop_file_set(&feed->file, feed->is_at_end ? 0 : EPOLLOUT))
		end_feed(feed);
}

static void feed_ready(struct loop_file *file, uint32_t events)
{
	struct feed *feed = container_of(file, struct feed, file);
	struct streams *streams = feed->client->streams;

	if (events & EPOLLERR)
		end_feed(feed); /* nobody reads any more */
	else
		feed_run(feed);
	(void)consider_client(feed->client);
	streams_consider_drained(streams);
}

void clients_feed(struct streams *streams)
{
	struct client *next;

	for (struct client *client = streams->clients; client; client = next) {
		next = client->next;
		for (size_t i = 0; i < ARRAY_SIZE(client->feeds); i++)
			if (client->feeds[i].fd >= 0 && client->feeds[i].is_at_end)
				feed_run(&client->feeds[i]);
		(void)consider_client(client);
	}
}

bool clients_are_fed(const struct streams *streams)
{
	for (const struct client *client = streams->clients; client; client = client->next)
		for (size_t i = 0; i < ARRAY_SIZE(client->feeds); i++)
			if (client->feeds[i].fd >= 0 && !client->feeds[i].is_at_end)
				return false;
	return true;
}

/* ---- typing -------------------------------------------------------------- */

static void input_ready(struct loop_file *file, uint32_t events);

static void input_set(struct client *client, bool reads)
{
	struct loop *loop = client->streams->process->shim->loop;

	if (client->input_fd < 0 || reads == (bool)client->input.loop)
		return;
	if (!reads)
		loop_file_remove(&client->input);
	else if (loop_file_add(loop, &client->input, client->input_fd, EPOLLIN, input_ready))
		close_input(client);
}

static void inputs_set(struct streams *streams, bool reads)
{
	for (struct client *client = streams->clients; client; client = client->next)
		input_set(client, reads);
}

/* The end of a client's typing is not that of the process' input: others may type. */
static void input_ready(struct loop_file *file, uint32_t events)
{
	struct client *client = container_of(file, struct client, input);
	char typed[INPUT_MAX];
	ssize_t n = read(client->input_fd, typed, sizeof(typed));

	(void)events;
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n > 0 && !streams_type(client->streams, typed, (size_t)n))
		inputs_set(client->streams, false);
	if (n > 0)
		return;
	close_input(client);
	(void)consider_client(client);
}

void clients_input_goes_on(struct streams *streams)
{
	inputs_set(streams, true);
}

/* ---- attaching ----------------------------------------------------------- */

static bool is_named(const char *uri)
{
	return uri && uri[0];
}

static int open_client_fifo(const char *uri, int flags, int *ret_fd, struct why *why)
{
	const char *path = stdio_fifo(uri);
	_cleanup_(cleanup_fd) int fd = -1;
	struct stat stat;

	if (!path)
		return why_set(why, CLIENT_E_INVALID, "'%s' is not a FIFO's path", uri);
	fd = open(path, flags | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	if (fd < 0 && errno == ENXIO)
		return why_set(why, CLIENT_E_INVALID, "nobody has the FIFO %s open for reading",
			       path);
	if (fd < 0)
		return why_set(why, CLIENT_E_INVALID, "cannot open the FIFO %s: %s", path,
			       strerror(errno));
	if (fstat(fd, &stat) || !S_ISFIFO(stat.st_mode))
		return why_set(why, CLIENT_E_INVALID, "%s is not a FIFO", path);
	*ret_fd = TAKE_FD(fd);
	return 0;
}

bool client_has_input(const struct streams *streams)
{
	return streams->is_terminal || streams->input.fd >= 0;
}

static int check_request(const struct streams *streams, const struct shim_attach_request *request,
			 struct why *why)
{
	const char *id = streams->process->id;
	bool has_output = is_named(request->stdout) || is_named(request->stderr);

	if (!is_named(request->stdin) && !has_output)
		return why_set(why, CLIENT_E_INVALID, "no FIFO is named");
	if (request->frames && (!is_named(request->stdout) || is_named(request->stderr)))
		return why_set(why, CLIENT_E_INVALID,
			       "frames of all streams go to stdout, and to nothing else");
	/* Whoever wants the output gets it. */
	if (!has_output && !client_has_input(streams))
		return why_set(why, CLIENT_E_INVALID, "process '%s' has no standard input%s", id,
			       streams->process->io && is_named(streams->process->io->stdin)
				       ? " any more"
				       : ": it was made without one");
	if (streams->n_clients == CLIENTS_MAX)
		return why_set(why, CLIENT_E_TOO_MANY, "process '%s' has %d clients already", id,
			       CLIENTS_MAX);
	return 0;
}

/* Where a feed starts that begins with the oldest frame, or with what comes. */
static void start_feed(struct feed *feed, bool is_now)
{
	const struct log_writer *log = &feed->client->streams->log;

	if (is_now) {
		feed->position = (struct log_position){log->file, log->offset};
		feed->output = log->output;
	} else {
		feed->position = (struct log_position){.file = log->oldest};
	}
	feed->has_output = is_now || log->oldest == 1;
}

/* A place that the client names: it is read from, to see what is there. */
static int start_at(struct feed *feed, const struct log_position *named,
		    struct log_position *ret_start, struct why *why)
{
	struct streams *streams = feed->client->streams;
	struct log_position position = *named;
	uint8_t *buffer = streams_buffer(streams);
	struct output_log_read read;
	int r;

	if (!buffer)
		return why_set(why, CLIENT_E_INVALID, "out of memory");
	r = output_log_read(&streams->reader, &position, buffer, LOG_FRAME_MAX, &read);
	if (r)
		return why_set(why, CLIENT_E_INVALID,
			       "no frame of the log starts at byte %lu of its file %lu",
			       (unsigned long)named->offset, (unsigned long)named->file);
	feed->position = *named;
	*ret_start = (struct log_position){position.file, position.offset - read.size};
	/* Nor is it known how much was before a place that is gone. */
	if (!read.size)
		feed->position = position;
	return 0;
}

static int start_client(struct client *client, const struct shim_attach_request *request,
			struct log_position *ret_start, struct why *why)
{
	static const struct log_position oldest;
	int r = 0;

	for (size_t i = 0; i < ARRAY_SIZE(client->feeds) && !r; i++) {
		struct feed *feed = &client->feeds[i];

		if (request->start == LOG_FROM_POSITION) {
			r = start_at(feed, request->position ?: &oldest, ret_start, why);
		} else {
			start_feed(feed, request->start == LOG_FROM_NOW);
			*ret_start = feed->position;
		}
	}
	return r;
}

static int open_feed(struct feed *feed, const char *uri, unsigned streams, struct why *why)
{
	struct loop *loop = feed->client->streams->process->shim->loop;
	int r;

	if (!is_named(uri))
		return 0;
	feed->streams = streams;
	r = open_client_fifo(uri, O_WRONLY, &feed->fd, why);
	if (!r && loop_file_add(loop, &feed->file, feed->fd, 0, feed_ready))
		r = why_set(why, CLIENT_E_INVALID, "the FIFO %s cannot be waited for", uri);
	return r;
}

static int open_client(struct client *client, const struct shim_attach_request *request,
		       struct why *why)
{
	bool is_one = is_named(request->stdout) && is_named(request->stderr) &&
		      !strcmp(request->stdout, request->stderr);
	unsigned out = 1u << LOG_STDOUT | 1u << LOG_TTY, err = 1u << LOG_STDERR;
	int r = 0;

	client->feeds[0].frames = request->frames;
	if (is_named(request->stdin) && client_has_input(client->streams))
		r = open_client_fifo(request->stdin, O_RDONLY, &client->input_fd, why);
	if (!r)
		r = open_feed(&client->feeds[0], request->stdout, is_one ? out | err : out, why);
	if (!r && !is_one)
		r = open_feed(&client->feeds[1], request->stderr, err, why);
	return r;
}

static struct client *add_client(struct streams *streams)
{
	struct client *client = calloc(1, sizeof(*client));

	if (!client)
		return NULL;
	client->streams = streams;
	client->input_fd = -1;
	for (size_t i = 0; i < ARRAY_SIZE(client->feeds); i++)
		client->feeds[i] = (struct feed){.client = client, .fd = -1};
	client->next = streams->clients;
	streams->clients = client;
	streams->n_clients++;
	return client;
}

int client_attach(struct streams *streams, const struct shim_attach_request *request,
		  struct log_position *ret_position, struct why *why)
{
	struct log_position start = {};
	struct client *client;
	int r;

	r = check_request(streams, request, why);
	if (r)
		return r;
	client = add_client(streams);
	if (!client)
		return why_set(why, CLIENT_E_TOO_MANY, "out of memory");
	r = open_client(client, request, why);
	if (!r)
		r = start_client(client, request, &start, why);
	if (r) {
		forget_client(client);
		return r;
	}
	if (ret_position)
		*ret_position = start;
	input_set(client, !streams_input_waits(streams));
	for (size_t i = 0; i < ARRAY_SIZE(client->feeds); i++)
		if (client->feeds[i].fd >= 0)
			feed_run(&client->feeds[i]);
	(void)consider_client(client);
	return 0;
}

void clients_close(struct streams *streams)
{
	while (streams->clients)
		forget_client(streams->clients);
}
