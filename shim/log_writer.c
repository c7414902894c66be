#include "shim/log_writer.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include "broker/lib/file.h"
#include "broker/lib/log.h"
#include "broker/lib/output_log.h"

static void name_of(uint64_t file, char name[24])
{
	snprintf(name, 24, "%lu", (unsigned long)file);
}

static void remove_file(const struct log_writer *writer, uint64_t file)
{
	char name[24];

	name_of(file, name);
	if (unlinkat(writer->dir, name, 0) && errno != ENOENT)
		log_warning("the log's file %s cannot be removed: %s", name, strerror(errno));
}

static int open_file(const struct log_writer *writer, uint64_t file, int flags, int *ret_fd)
{
	char name[24];
	int fd;

	name_of(file, name);
	fd = openat(writer->dir, name, flags | O_WRONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC,
		    0600);
	if (fd < 0)
		return error_origin(-errno);
	*ret_fd = fd;
	return 0;
}

/* ---- opening ------------------------------------------------------------- */

static void set_limits(struct log_writer *writer, const struct task_log *limits)
{
	writer->max_size = limits && limits->max_size ? limits->max_size : LOG_SIZE_DEFAULT;
	if (writer->max_size < LOG_SIZE_MIN)
		writer->max_size = LOG_SIZE_MIN;
	writer->max_files = limits && limits->max_files ? limits->max_files : LOG_FILES_DEFAULT;
}

/* How much was written before a file in which there is no frame yet. */
static uint64_t output_before(struct output_log *log, uint64_t oldest, uint64_t newest)
{
	uint64_t offset = 0, output = 0;

	while (newest > oldest && !offset)
		if (output_log_scan(log, --newest, &offset, &output))
			break;
	return output;
}

/* Goes on behind the last whole frame. */
static int take_up(struct log_writer *writer, struct output_log *log, uint64_t newest)
{
	_cleanup_(cleanup_fd) int fd = -1;
	struct stat stat;
	int r;

	r = output_log_scan(log, newest, &writer->offset, &writer->output);
	if (!r && !writer->offset)
		writer->output = output_before(log, writer->oldest, newest);
	if (!r)
		r = open_file(writer, newest, 0, &fd);
	if (r)
		return error_trace(r);
	if (fstat(fd, &stat))
		return error_origin(-errno);
	if ((uint64_t)stat.st_size > writer->offset) {
		log_warning("%lu bytes at the end of a log are no frame and are cut off",
			    (unsigned long)stat.st_size - (unsigned long)writer->offset);
		if (ftruncate(fd, (off_t)writer->offset))
			return error_origin(-errno);
	}
	writer->fd = TAKE_FD(fd);
	writer->file = newest;
	return 0;
}

static int start_anew(struct log_writer *writer, uint64_t oldest, uint64_t newest)
{
	for (uint64_t file = oldest; file && file <= newest; file++)
		remove_file(writer, file);
	writer->file = writer->oldest = 1;
	return error_trace(open_file(writer, 1, O_CREAT | O_TRUNC, &writer->fd));
}

static int open_log(struct log_writer *writer, const char *directory, bool goes_on, struct why *why)
{
	_cleanup_(output_log_close) struct output_log log = OUTPUT_LOG_NULL;
	uint64_t newest = 0;
	int r;

	r = file_make_dir(directory, 0700, why);
	if (!r)
		r = output_log_open(&log, directory, why);
	if (r)
		return r;
	writer->dir = fcntl(log.dir, F_DUPFD_CLOEXEC, 0);
	if (writer->dir < 0)
		return error_origin(-errno);
	r = output_log_files(&log, &writer->oldest, &newest);
	if (r == -ENOENT)
		return start_anew(writer, 0, 0);
	if (r)
		return error_trace(r);
	return goes_on ? take_up(writer, &log, newest) : start_anew(writer, writer->oldest, newest);
}

int log_writer_open(struct log_writer *writer, const char *directory, const struct task_log *limits,
		    bool goes_on, struct why *why)
{
	int r;

	*writer = (struct log_writer)LOG_WRITER_NULL;
	set_limits(writer, limits);
	r = open_log(writer, directory, goes_on, why);
	if (r)
		log_writer_close(writer);
	return r && !why->text[0] ? why_errno(why, r, "cannot open the log %s", directory) : r;
}

void log_writer_close(struct log_writer *writer)
{
	writer->fd = close_fd(writer->fd);
	writer->dir = close_fd(writer->dir);
}

/* ---- appending ----------------------------------------------------------- */

/* The next file is there before the oldest is removed, so there is always one. */
static int rotate(struct log_writer *writer)
{
	int fd, r;

	r = open_file(writer, writer->file + 1, O_CREAT | O_TRUNC, &fd);
	if (r)
		return error_trace(r);
	close_fd(writer->fd);
	writer->fd = fd;
	writer->file++;
	writer->offset = 0;
	while (writer->file - writer->oldest >= writer->max_files)
		remove_file(writer, writer->oldest++);
	return 0;
}

static int write_frame(struct log_writer *writer, const struct log_frame *frame)
{
	uint8_t header[LOG_FRAME_HEADER], trailer[LOG_FRAME_TRAILER];
	struct iovec parts[] = {{header, sizeof(header)},
				{(void *)frame->data, frame->size},
				{trailer, sizeof(trailer)}};
	size_t size = log_frame_size(frame);
	ssize_t n;
	int r;

	log_frame_write_header(frame, header);
	log_frame_write_trailer(frame, trailer);
	n = pwritev(writer->fd, parts, ARRAY_SIZE(parts), (off_t)writer->offset);
	if (n == (ssize_t)size) {
		writer->offset += size;
		writer->output += log_frame_output(frame);
		return 0;
	}
	r = n < 0 ? -errno : -ENOSPC;
	/* The next write goes to the same place, whether this succeeds or not. */
	(void)!ftruncate(writer->fd, (off_t)writer->offset);
	return error_origin(r);
}

int log_writer_append(struct log_writer *writer, struct log_frame *frame)
{
	int r = 0;

	frame->start = writer->output;
	if (writer->offset && writer->offset + log_frame_size(frame) > writer->max_size)
		r = rotate(writer);
	return r ? error_trace(r) : write_frame(writer, frame);
}

int log_writer_make_room(struct log_writer *writer)
{
	if (!fallocate(writer->fd, FALLOC_FL_KEEP_SIZE, (off_t)writer->offset, LOG_FRAME_MAX))
		return 0;
	/* Where that is not known, writing tells. */
	return errno == EOPNOTSUPP || errno == ENOSYS || errno == EINTR ? 0 : error_origin(-errno);
}

size_t log_writer_data_max(const struct log_writer *writer)
{
	uint64_t room = writer->max_size - LOG_FRAME_OVERHEAD;

	return room < LOG_FRAME_DATA_MAX ? (size_t)room : LOG_FRAME_DATA_MAX;
}
