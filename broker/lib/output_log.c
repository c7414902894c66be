#include "broker/lib/output_log.h"

#include <assert.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

/* ---- files --------------------------------------------------------------- */

int output_log_open(struct output_log *log, const char *directory, struct why *why)
{
	*log = (struct output_log)OUTPUT_LOG_NULL;
	log->dir = open(directory, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	return log->dir < 0
		       ? why_errno(why, error_origin(-errno), "cannot open the log %s", directory)
		       : 0;
}

void output_log_forget(struct output_log *log)
{
	log->fd = close_fd(log->fd);
	log->file = 0;
}

void output_log_close(struct output_log *log)
{
	output_log_forget(log);
	log->dir = close_fd(log->dir);
}

/* 0: not a log file's name. */
static uint64_t parse_name(const char *name)
{
	uint64_t number;
	char *end;

	if (name[0] < '1' || name[0] > '9' || strlen(name) > 19)
		return 0;
	number = strtoull(name, &end, 10);
	return *end ? 0 : number;
}

/* The lowest number from @from on and the highest; both 0 if there is none. */
static int list(const struct output_log *log, uint64_t from, uint64_t *ret_first,
		uint64_t *ret_last)
{
	_cleanup_(cleanup_fd) int fd = openat(log->dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	_cleanup_(cleanup_dir) DIR *dir = NULL;
	uint64_t first = 0, last = 0;
	struct dirent *entry;

	dir = fd < 0 ? NULL : fdopendir(fd);
	if (!dir)
		return error_origin(-errno);
	(void)TAKE_FD(fd);
	while ((entry = readdir(dir))) {
		uint64_t number = parse_name(entry->d_name);

		if (!number || number < from)
			continue;
		if (!first || number < first)
			first = number;
		if (number > last)
			last = number;
	}
	*ret_first = first;
	*ret_last = last;
	return 0;
}

int output_log_files(const struct output_log *log, uint64_t *ret_oldest, uint64_t *ret_newest)
{
	uint64_t oldest, newest;
	int r;

	r = list(log, 1, &oldest, &newest);
	if (r)
		return error_trace(r);
	if (!oldest)
		return -ENOENT;
	*ret_oldest = oldest;
	*ret_newest = newest;
	return 0;
}

/* -ENOENT: it is gone, or was never there. */
static int select_file(struct output_log *log, uint64_t file)
{
	_cleanup_(cleanup_fd) int fd = -1;
	struct stat stat;
	char name[24];

	if (log->fd >= 0 && log->file == file)
		return 0;
	snprintf(name, sizeof(name), "%lu", (unsigned long)file);
	fd = openat(log->dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? -ENOENT : error_origin(-errno);
	if (fstat(fd, &stat))
		return error_origin(-errno);
	if (!S_ISREG(stat.st_mode))
		return error_origin(-EINVAL);
	close_fd(log->fd);
	log->fd = TAKE_FD(fd);
	log->file = file;
	return 0;
}

static int read_at(const struct output_log *log, uint64_t offset, uint8_t *buffer, size_t size,
		   size_t *ret_size)
{
	ssize_t n;

	do
		n = pread(log->fd, buffer, size, (off_t)offset);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return error_origin(-errno);
	*ret_size = (size_t)n;
	return 0;
}

static int size_of(const struct output_log *log, uint64_t *ret_size)
{
	struct stat stat;

	if (fstat(log->fd, &stat))
		return error_origin(-errno);
	*ret_size = (uint64_t)stat.st_size;
	return 0;
}

/* ---- forwards ------------------------------------------------------------ */

/* The reading under way. */
struct reading {
	struct output_log *log;
	struct log_position *position;
	uint8_t *buffer;
	size_t size;
	struct output_log_read done;
	int rest;         /* what stands behind the last frame that was read */
	bool is_done;     /* nothing more in this call */
	bool is_closed;   /* the file has a successor, so nothing is added to it any more */
	uint64_t follows; /* that successor */
};

/* Goes to @file from its start on. Frames that are gone are told before any that come after them. */
static void move_to(struct reading *reading, uint64_t file, bool is_gap)
{
	if (is_gap && reading->done.size) {
		reading->is_done = true;
		return;
	}
	if (is_gap)
		reading->done.is_truncated = true;
	*reading->position = (struct log_position){.file = file};
	reading->is_closed = false;
}

/* The file of the position is not there: it was rotated away, or none was ever written. */
static int find_first(struct reading *reading)
{
	uint64_t first, last;
	int r;

	r = list(reading->log, 1, &first, &last);
	if (r)
		return error_trace(r);
	if (!first && !reading->position->file) {
		reading->done.at_end = reading->is_done = true;
		return 0;
	}
	if (first <= reading->position->file)
		return OUTPUT_LOG_E_POSITION;
	move_to(reading, first, reading->position->file > 0);
	return 0;
}

/* Adds what is there now. */
static int read_frames(struct reading *reading, size_t *ret_size)
{
	struct log_position *position = reading->position;
	uint8_t *to = reading->buffer + reading->done.size;
	uint64_t end = UINT64_MAX;
	size_t n = 0;
	int r;

	r = read_at(reading->log, position->offset, to, reading->size - reading->done.size, &n);
	if (!r && !n)
		r = size_of(reading->log, &end);
	if (r)
		return r;
	if (!n && end < position->offset)
		return OUTPUT_LOG_E_POSITION;
	n = log_frames_whole(to, n, &reading->rest);
	position->offset += n;
	reading->done.size += n;
	*ret_size = n;
	return 0;
}

/* Where the frames end, damaged bytes are an end like any other; elsewhere the position is wrong. */
static int check_end(const struct reading *reading)
{
	uint64_t offset, output;
	int r;

	if (reading->rest != LOG_FRAME_E_INVALID || reading->done.size)
		return 0;
	r = output_log_scan(reading->log, reading->position->file, &offset, &output);
	return !r && offset != reading->position->offset ? OUTPUT_LOG_E_POSITION : r;
}

/* Nothing more is to be had of this file. */
static int leave_file(struct reading *reading)
{
	uint64_t file = reading->position->file, last;
	int r;

	if (reading->is_closed) {
		move_to(reading, reading->follows, reading->rest || reading->follows != file + 1);
		return 0;
	}
	r = list(reading->log, file + 1, &reading->follows, &last);
	if (r)
		return error_trace(r);
	/* What was written before the next file was made has perhaps not been read yet. */
	reading->is_closed = reading->follows;
	if (reading->is_closed)
		return 0;
	r = check_end(reading);
	if (r)
		return r;
	reading->is_done = reading->done.at_end = true;
	return 0;
}

static int read_step(struct reading *reading)
{
	size_t n;
	int r;

	r = reading->position->file ? select_file(reading->log, reading->position->file) : -ENOENT;
	if (r == -ENOENT)
		return find_first(reading);
	if (!r)
		r = read_frames(reading, &n);
	if (r || n)
		return r;
	return leave_file(reading);
}

int output_log_read(struct output_log *log, struct log_position *position, uint8_t *buffer,
		    size_t size, struct output_log_read *ret_read)
{
	struct reading reading = {.log = log, .position = position, .buffer = buffer, .size = size};
	int r;

	assert(size >= LOG_FRAME_MAX);
	if (position->offset > INT64_MAX - size)
		return OUTPUT_LOG_E_POSITION;
	while (!reading.is_done && size - reading.done.size >= LOG_FRAME_MAX) {
		r = read_step(&reading);
		if (r)
			return r;
	}
	*ret_read = reading.done;
	return 0;
}

int output_log_scan(struct output_log *log, uint64_t file, uint64_t *ret_offset,
		    uint64_t *ret_output)
{
	_cleanup_(cleanup_free) uint8_t *buffer = malloc(LOG_FRAME_MAX);
	uint64_t offset = 0, output = 0;
	struct log_frame frame;
	size_t n, whole;
	int r, rest;

	if (!buffer)
		return error_origin(-ENOMEM);
	r = select_file(log, file);
	if (r)
		return r;
	do {
		r = read_at(log, offset, buffer, LOG_FRAME_MAX, &n);
		if (r)
			return r;
		whole = log_frames_whole(buffer, n, &rest);
		for (n = 0; n < whole; n += log_frame_size(&frame)) {
			(void)log_frame_read(buffer + n, whole - n, &frame);
			output = frame.start + log_frame_output(&frame);
		}
		offset += whole;
	} while (whole);
	*ret_offset = offset;
	*ret_output = output;
	return 0;
}

/* ---- backwards ----------------------------------------------------------- */

/* Where the last lines start: @skip bytes into the frame at @position. */
struct tail {
	uint64_t n_ends;  /* line ends that are still to be passed */
	bool is_counting; /* the last output was seen, which counts as a line without an end too */
	struct log_position position;
	uint32_t skip;
};

/* True: it is in this frame, or right behind it. */
static bool pass_frame(struct tail *tail, const struct log_frame *frame)
{
	const uint8_t *end = frame->data + frame->size;

	if (frame->stream == LOG_DROPPED)
		return false;
	if (!tail->is_counting && frame->ends_line)
		tail->n_ends++;
	tail->is_counting = true;
	if (!tail->n_ends) {
		tail->skip = frame->size;
		return true;
	}
	while ((end = memrchr(frame->data, '\n', (size_t)(end - frame->data))))
		if (!--tail->n_ends) {
			tail->skip = (uint32_t)(end + 1 - frame->data);
			return true;
		}
	return false;
}

/* Passes the whole frames at the end of @size bytes. @ret_left: bytes before them. */
static bool pass_frames(struct tail *tail, const uint8_t *data, size_t size, size_t *ret_left)
{
	struct log_frame frame;
	size_t n;

	while (size >= LOG_FRAME_OVERHEAD) {
		n = log_frame_read_trailer(data + size - LOG_FRAME_TRAILER);
		if (!n || n > size || log_frame_read(data + size - n, n, &frame))
			break;
		if (pass_frame(tail, &frame)) {
			*ret_left = tail->skip < frame.size ? size - n : size;
			if (tail->skip == frame.size)
				tail->skip = 0;
			return true;
		}
		size -= n;
	}
	*ret_left = size;
	return false;
}

/* Passes the frames of the file from @end on backwards. @ret_left: where it could not go on. */
static int pass_file(struct output_log *log, struct tail *tail, uint64_t end, uint8_t *buffer,
		     bool *ret_found, uint64_t *ret_left)
{
	size_t part, n, left;
	int r;

	*ret_found = false;
	do {
		part = end < LOG_FRAME_MAX ? (size_t)end : LOG_FRAME_MAX;
		r = read_at(log, end - part, buffer, part, &n);
		if (r)
			return r;
		left = part;
		if (n == part)
			*ret_found = pass_frames(tail, buffer, part, &left);
		end -= part - left;
	} while (!*ret_found && left < part);
	*ret_left = end;
	return 0;
}

/* Mostly the last frame ends the file; what a writer has left torn, or is writing, is passed over. */
static int tail_file(struct output_log *log, struct tail *tail, uint64_t file, uint8_t *buffer,
		     bool *ret_found)
{
	uint64_t end = 0, left = 0, output;
	int r;

	r = select_file(log, file);
	if (!r)
		r = size_of(log, &end);
	if (!r)
		r = pass_file(log, tail, end, buffer, ret_found, &left);
	if (!r && !*ret_found && left == end && end) {
		r = output_log_scan(log, file, &end, &output);
		if (!r)
			r = pass_file(log, tail, end, buffer, ret_found, &left);
	}
	if (!r)
		tail->position = (struct log_position){file, left};
	return r;
}

static int find_tail(struct output_log *log, struct tail *tail, uint8_t *buffer)
{
	uint64_t oldest, newest;
	bool is_found = false;
	int r;

	r = output_log_files(log, &oldest, &newest);
	if (r)
		return r == -ENOENT ? 0 : r;
	for (uint64_t file = newest; file >= oldest && !is_found; file--) {
		r = tail_file(log, tail, file, buffer, &is_found);
		if (r == -ENOENT)
			return 0; /* rotated away meanwhile, and all before it */
		if (r)
			return r;
	}
	return 0;
}

/* Takes the first @skip bytes of data, which are not all, away from the first frame. */
static size_t trim(uint8_t *frames, size_t size, uint32_t skip)
{
	struct log_frame frame;
	size_t whole;

	if (!skip || log_frame_read(frames, size, &frame) || skip >= frame.size)
		return size;
	whole = log_frame_size(&frame);
	memmove(frames + LOG_FRAME_HEADER, frames + LOG_FRAME_HEADER + skip,
		size - LOG_FRAME_HEADER - skip);
	frame.size -= skip;
	frame.start += skip;
	log_frame_write_header(&frame, frames);
	log_frame_write_trailer(&frame, frames + whole - skip - LOG_FRAME_TRAILER);
	return size - skip;
}

int output_log_tail(struct output_log *log, uint64_t lines, uint8_t *buffer, size_t size,
		    struct log_position *ret_position, struct output_log_read *ret_read)
{
	struct tail tail = {.n_ends = lines};
	int r;

	assert(size >= LOG_FRAME_MAX);
	r = find_tail(log, &tail, buffer);
	if (!r)
		r = output_log_read(log, &tail.position, buffer, size, ret_read);
	if (r)
		return r;
	if (!ret_read->is_truncated)
		ret_read->size = trim(buffer, ret_read->size, tail.skip);
	ret_read->is_truncated = false;
	*ret_position = tail.position;
	return 0;
}
