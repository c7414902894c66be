/*
 * A file of a process' log: read forwards, frame by frame, and through the reader
 * of logs from its last lines on. What is read as a frame writes the same bytes.
 */

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "broker/lib/output_log.h"
#include "tests/fuzz/fuzz.h"

#define BUFFER (4 * LOG_FRAME_MAX)

static void check_frames(const uint8_t *data, size_t size)
{
	uint8_t *again = malloc(LOG_FRAME_MAX);
	struct log_frame frame;
	size_t at = 0, n;
	int rest;

	FUZZ_ASSERT(again);
	while (at < size && !log_frame_read(data + at, size - at, &frame)) {
		n = log_frame_write(&frame, again);
		FUZZ_ASSERT(n <= size - at && n <= LOG_FRAME_MAX);
		FUZZ_ASSERT(!memcmp(again, data + at, n));
		FUZZ_ASSERT(log_frame_read_trailer(data + at + n - LOG_FRAME_TRAILER) == n);
		FUZZ_ASSERT(log_frame_lines(&frame) <= frame.size);
		at += n;
	}
	FUZZ_ASSERT(log_frames_whole(data, size, &rest) == at);
	FUZZ_ASSERT(!rest == (at == size));
	free(again);
}

static void write_log(const char *path, const uint8_t *data, size_t size)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

	FUZZ_ASSERT(fd >= 0 && write(fd, data, size) == (ssize_t)size);
	close(fd);
}

static void read_log(struct output_log *log, uint8_t *buffer, uint64_t lines)
{
	struct log_position position = {};
	struct output_log_read read;
	uint64_t offset, output;
	int rest;

	FUZZ_ASSERT(!output_log_scan(log, 1, &offset, &output));
	if (!output_log_read(log, &position, buffer, BUFFER, &read)) {
		FUZZ_ASSERT(log_frames_whole(buffer, read.size, &rest) == read.size && !rest);
		FUZZ_ASSERT(read.size <= offset && position.offset == read.size);
	}
	if (output_log_tail(log, lines, buffer, BUFFER, &position, &read))
		return;
	FUZZ_ASSERT(log_frames_whole(buffer, read.size, &rest) == read.size && !rest);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct output_log log = OUTPUT_LOG_NULL;
	char dir[] = "/tmp/fuzz-log-XXXXXX", path[sizeof(dir) + 2];
	uint8_t *buffer = malloc(BUFFER);

	check_frames(data, size);
	FUZZ_ASSERT(buffer && mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/1", dir);
	write_log(path, data, size);
	FUZZ_ASSERT(!output_log_open(&log, dir, NULL));
	read_log(&log, buffer, size ? data[0] % 8 : 0);
	output_log_close(&log);
	FUZZ_ASSERT(!unlink(path) && !rmdir(dir));
	free(buffer);
	return 0;
}
