/* See frames.h. */

#include "tools/frames.h"

#include <errno.h>
#include <string.h>

#include "broker/lib/cleanup.h"
#include "broker/lib/utc.h"

static void print_time(FILE *file, uint64_t time_ns)
{
	char text[UTC_SIZE];

	utc_format(time_ns / 1000000000, text);
	fprintf(file, "%s.%09lluZ ", text, (unsigned long long)(time_ns % 1000000000));
}

/* One line, or a part of one. */
static void print_piece(struct frames *frames, const struct log_frame *frame, const uint8_t *data,
			size_t size)
{
	FILE *file = frame->stream == LOG_STDERR ? frames->err : frames->out;
	bool *in_line = &frames->in_line[frame->stream];

	/* In order where both are the same place. */
	if (file == frames->err)
		fflush(frames->out);
	if (frames->timestamps && !*in_line)
		print_time(file, frame->time_ns);
	fwrite(data, 1, size, file);
	*in_line = data[size - 1] != '\n';
}

static void print_data(struct frames *frames, const struct log_frame *frame)
{
	uint64_t *skip = &frames->skip_bytes[frame->stream];
	uint32_t n_seen = *skip < frame->size ? (uint32_t)*skip : frame->size;
	const uint8_t *data = frame->data + n_seen, *end = frame->data + frame->size;

	*skip -= n_seen;

	while (data < end) {
		const uint8_t *newline = memchr(data, '\n', (size_t)(end - data));
		const uint8_t *next = newline ? newline + 1 : end;

		if (!frames->skip_lines)
			print_piece(frames, frame, data, (size_t)(next - data));
		else if (newline)
			frames->skip_lines--;
		data = next;
	}
}

static void print_lost(struct frames *frames, uint64_t lost, const char *why)
{
	if (!lost)
		return;
	fflush(frames->out);
	fprintf(frames->err, "davit: %llu bytes of output are missing here: %s\n",
		(unsigned long long)lost, why);
}

/* What is gone at the beginning was seen, as far as that reaches; of which stream it was is not known. */
static uint64_t lose_seen(struct frames *frames, uint64_t lost)
{
	for (size_t i = 0; i < _LOG_STREAM_MAX; i++) {
		uint64_t *skip = &frames->skip_bytes[i], n = *skip < lost ? *skip : lost;

		*skip -= n;
		lost -= n;
	}
	return lost;
}

static void print_frame(struct frames *frames, const struct log_frame *frame)
{
	uint64_t lost = frame->stream == LOG_DROPPED ? log_frame_output(frame) : 0;
	uint64_t next = frame->start + log_frame_output(frame);
	bool is_wanted = frame->time_ns >= frames->since_ns;

	if (frames->has_begun && frame->start < frames->next_start)
		return;
	if (frames->until_ns && frame->time_ns > frames->until_ns)
		frames->is_past_until = true;
	is_wanted = is_wanted && !frames->is_past_until;
	if (is_wanted && frames->has_begun)
		print_lost(frames, frame->start - frames->next_start, "the log was rotated");
	if (is_wanted && frame->stream == LOG_DROPPED)
		print_lost(frames, frames->has_begun ? lost : lose_seen(frames, lost),
			   "the log does not have them");
	else if (is_wanted)
		print_data(frames, frame);
	frames->has_begun = true;
	frames->next_start = next;
}

/* How many bytes of @data were whole frames, or -errno. */
static ssize_t print_whole(struct frames *frames, const uint8_t *data, size_t size)
{
	size_t done = 0;

	while (done < size) {
		struct log_frame frame;
		int r = log_frame_read(data + done, size - done, &frame);

		if (r == LOG_FRAME_E_PART)
			break;
		if (r)
			return -EBADMSG;
		print_frame(frames, &frame);
		done += log_frame_size(&frame);
	}
	if (fflush(frames->out) || ferror(frames->out) || ferror(frames->err))
		return -EIO;
	return (ssize_t)done;
}

int frames_print(struct frames *frames, const void *data, size_t size)
{
	struct schema_buffer *part = &frames->part;
	ssize_t done;

	if (schema_buffer_add(part, data, size))
		return -ENOMEM;
	done = print_whole(frames, part->data, part->size);
	if (done < 0)
		return (int)done;
	part->size -= (size_t)done;
	memmove(part->data, part->data + done, part->size);
	return 0;
}

void frames_break(struct frames *frames)
{
	frames->part.size = 0;
}

void frames_deinit(struct frames *frames)
{
	schema_buffer_clear(&frames->part);
}

uint64_t frames_count_lines(const void *data, size_t size)
{
	const uint8_t *bytes = data;
	struct log_frame frame;
	uint64_t lines = 0;
	bool ends = true;

	for (size_t done = 0; !log_frame_read(bytes + done, size - done, &frame);
	     done += log_frame_size(&frame)) {
		if (frame.stream == LOG_DROPPED)
			continue;
		lines += log_frame_lines(&frame);
		ends = frame.data[frame.size - 1] == '\n';
	}
	return lines + !ends;
}
