#pragma once
/*
 * The frames of a process' log, which is also what attach with `frames` and
 * task.logs give. All numbers are little-endian:
 *
 *	u64 time_ns	CLOCK_REALTIME, when it was read from the process
 *	u64 start	bytes of output of the process before this frame
 *	u32 size	bytes of data, 1 to LOG_FRAME_DATA_MAX
 *	u8 stream	enum log_stream
 *	u8 flags	1: the data ends with a line's end
 *	u16 mark	LOG_FRAME_MARK
 *	data
 *	u32 size	again, so that a log can be read from its end
 *
 * A frame is what one read gave: it may hold many lines, and a part of one at
 * either end. `start` counts what was dropped too, so a reader who finds the next
 * frame's higher than what it has seen knows how much it missed. Bytes that are
 * not a frame are never read as one; nothing here trusts a size.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LOG_FRAME_HEADER   24
#define LOG_FRAME_TRAILER  4
#define LOG_FRAME_OVERHEAD (LOG_FRAME_HEADER + LOG_FRAME_TRAILER)
#define LOG_FRAME_DATA_MAX 65536
#define LOG_FRAME_MAX      (LOG_FRAME_DATA_MAX + LOG_FRAME_OVERHEAD)
#define LOG_FRAME_MARK     0xda17

enum log_stream {
	LOG_STDOUT = 1,
	LOG_STDERR = 2,
	LOG_TTY = 3,
	LOG_DROPPED = 4, /* data: u64, how many bytes of output are not in the log */
	_LOG_STREAM_MAX,
};

struct log_frame {
	uint64_t time_ns;
	uint64_t start;
	uint32_t size;
	enum log_stream stream;
	bool ends_line;
	const uint8_t *data; /* borrowed */
};

enum {
	_LOG_FRAME_E_SUCCESS,
	LOG_FRAME_E_PART,    /* a frame, or the start of one, of which more bytes are to come */
	LOG_FRAME_E_INVALID, /* no frame starts here */
};

/* What stands before and behind the data of @frame. */
void log_frame_write_header(const struct log_frame *frame, uint8_t header[LOG_FRAME_HEADER]);
void log_frame_write_trailer(const struct log_frame *frame, uint8_t trailer[LOG_FRAME_TRAILER]);
/* The whole frame; @to has room for log_frame_size(). Returns that size. */
size_t log_frame_write(const struct log_frame *frame, uint8_t *to);
/* A frame that says that @dropped bytes are missing; @data keeps its content. */
struct log_frame log_frame_dropped(uint64_t time_ns, uint64_t start, uint64_t dropped,
				   uint8_t data[8]);

static inline size_t log_frame_size(const struct log_frame *frame)
{
	return (size_t)frame->size + LOG_FRAME_OVERHEAD;
}

/* The frame at @data, whole: LOG_FRAME_E_*. */
int log_frame_read(const uint8_t *data, size_t size, struct log_frame *ret_frame);
/* Without its data, which need not be there. */
int log_frame_read_header(const uint8_t *data, size_t size, struct log_frame *ret_frame);
/* The size of the frame that ends with these bytes; 0: none does. */
size_t log_frame_read_trailer(const uint8_t trailer[LOG_FRAME_TRAILER]);

/* Bytes of output that the frame stands for: `start` of what follows is so much higher. */
uint64_t log_frame_output(const struct log_frame *frame);
/* Line ends in it. */
size_t log_frame_lines(const struct log_frame *frame);
/* How many of @size bytes are whole frames; what follows them: 0 (nothing), LOG_FRAME_E_PART or
 * LOG_FRAME_E_INVALID. */
size_t log_frames_whole(const uint8_t *data, size_t size, int *ret_rest);
