#include "schemas/log_frame.h"

#include <endian.h>
#include <string.h>

#define FLAG_ENDS_LINE 1

/* ---- writing ------------------------------------------------------------- */

static uint8_t *put(uint8_t *to, uint64_t value, size_t size)
{
	value = htole64(value);
	memcpy(to, &value, size);
	return to + size;
}

void log_frame_write_header(const struct log_frame *frame, uint8_t header[LOG_FRAME_HEADER])
{
	header = put(header, frame->time_ns, 8);
	header = put(header, frame->start, 8);
	header = put(header, frame->size, 4);
	header = put(header, frame->stream, 1);
	header = put(header, frame->ends_line ? FLAG_ENDS_LINE : 0, 1);
	put(header, LOG_FRAME_MARK, 2);
}

void log_frame_write_trailer(const struct log_frame *frame, uint8_t trailer[LOG_FRAME_TRAILER])
{
	put(trailer, frame->size, LOG_FRAME_TRAILER);
}

size_t log_frame_write(const struct log_frame *frame, uint8_t *to)
{
	log_frame_write_header(frame, to);
	memcpy(to + LOG_FRAME_HEADER, frame->data, frame->size);
	log_frame_write_trailer(frame, to + LOG_FRAME_HEADER + frame->size);
	return log_frame_size(frame);
}

struct log_frame log_frame_dropped(uint64_t time_ns, uint64_t start, uint64_t dropped,
				   uint8_t data[8])
{
	put(data, dropped, 8);
	return (struct log_frame){
		.time_ns = time_ns,
		.start = start,
		.size = 8,
		.stream = LOG_DROPPED,
		.data = data,
	};
}

/* ---- reading ------------------------------------------------------------- */

static uint64_t get(const uint8_t *from, size_t size)
{
	uint64_t value = 0;

	memcpy(&value, from, size);
	return le64toh(value);
}

int log_frame_read_header(const uint8_t *data, size_t size, struct log_frame *ret_frame)
{
	struct log_frame frame = {};
	uint8_t flags;

	if (size < LOG_FRAME_HEADER)
		return LOG_FRAME_E_PART;
	frame.time_ns = get(data, 8);
	frame.start = get(data + 8, 8);
	frame.size = (uint32_t)get(data + 16, 4);
	frame.stream = data[20];
	flags = data[21];
	if (get(data + 22, 2) != LOG_FRAME_MARK || flags > FLAG_ENDS_LINE || !frame.stream ||
	    frame.stream >= _LOG_STREAM_MAX || !frame.size || frame.size > LOG_FRAME_DATA_MAX)
		return LOG_FRAME_E_INVALID;
	if (frame.stream == LOG_DROPPED && frame.size != 8)
		return LOG_FRAME_E_INVALID;
	frame.ends_line = flags & FLAG_ENDS_LINE;
	*ret_frame = frame;
	return 0;
}

int log_frame_read(const uint8_t *data, size_t size, struct log_frame *ret_frame)
{
	struct log_frame frame;
	int r;

	r = log_frame_read_header(data, size, &frame);
	if (r)
		return r;
	if (size < log_frame_size(&frame))
		return LOG_FRAME_E_PART;
	if (get(data + LOG_FRAME_HEADER + frame.size, LOG_FRAME_TRAILER) != frame.size)
		return LOG_FRAME_E_INVALID;
	frame.data = data + LOG_FRAME_HEADER;
	*ret_frame = frame;
	return 0;
}

size_t log_frame_read_trailer(const uint8_t trailer[LOG_FRAME_TRAILER])
{
	uint64_t size = get(trailer, LOG_FRAME_TRAILER);

	return size && size <= LOG_FRAME_DATA_MAX ? (size_t)size + LOG_FRAME_OVERHEAD : 0;
}

uint64_t log_frame_output(const struct log_frame *frame)
{
	return frame->stream == LOG_DROPPED ? get(frame->data, 8) : frame->size;
}

size_t log_frame_lines(const struct log_frame *frame)
{
	const uint8_t *at = frame->data, *end = at + frame->size;
	size_t n = 0;

	if (frame->stream == LOG_DROPPED)
		return 0;
	while ((at = memchr(at, '\n', (size_t)(end - at)))) {
		at++;
		n++;
	}
	return n;
}

size_t log_frames_whole(const uint8_t *data, size_t size, int *ret_rest)
{
	struct log_frame frame;
	size_t whole = 0;

	*ret_rest = 0;
	while (whole < size) {
		*ret_rest = log_frame_read(data + whole, size - whole, &frame);
		if (*ret_rest)
			break;
		whole += log_frame_size(&frame);
	}
	return whole;
}
