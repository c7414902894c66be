#include <string.h>

#include "schemas/log_frame.h"
#include "tests/lib/main.h"

static struct log_frame frame_of(const char *text, enum log_stream stream)
{
	size_t size = strlen(text);

	return (struct log_frame){
		.time_ns = 1700000000123456789,
		.start = 42,
		.size = (uint32_t)size,
		.stream = stream,
		.ends_line = size && text[size - 1] == '\n',
		.data = (const uint8_t *)text,
	};
}

static void a_frame_that_was_written_reads_the_same(void **state)
{
	struct log_frame frame = frame_of("one\ntwo\n", LOG_STDERR), again;
	uint8_t bytes[64];
	size_t size = log_frame_write(&frame, bytes);

	(void)state;
	assert_int_equal(size, 8 + LOG_FRAME_OVERHEAD);
	assert_int_equal(log_frame_read(bytes, size, &again), 0);
	assert_int_equal(again.time_ns, frame.time_ns);
	assert_int_equal(again.start, 42);
	assert_int_equal(again.stream, LOG_STDERR);
	assert_true(again.ends_line);
	assert_memory_equal(again.data, "one\ntwo\n", 8);
	assert_int_equal(log_frame_lines(&again), 2);
	assert_int_equal(log_frame_output(&again), 8);
	assert_int_equal(log_frame_read_trailer(bytes + size - LOG_FRAME_TRAILER), size);
}

/* Logs outlive versions: these bytes do not change. */
static void the_bytes_of_a_frame_are_a_contract(void **state)
{
	static const uint8_t expected[] = {8, 7, 6, 5, 4, 3, 2, 1,    3,    2,   1,    0, 0, 0, 0,
					   0, 2, 0, 0, 0, 1, 1, 0x17, 0xda, 'a', '\n', 2, 0, 0, 0};
	struct log_frame frame = frame_of("a\n", LOG_STDOUT);
	uint8_t bytes[64];

	(void)state;
	frame.time_ns = 0x0102030405060708;
	frame.start = 0x010203;
	assert_int_equal(log_frame_write(&frame, bytes), sizeof(expected));
	assert_memory_equal(bytes, expected, sizeof(expected));
}

static void every_part_of_a_frame_says_that_more_is_to_come(void **state)
{
	struct log_frame frame = frame_of("text", LOG_TTY), again;
	uint8_t bytes[64];
	size_t size = log_frame_write(&frame, bytes);
	int rest;

	(void)state;
	for (size_t i = 0; i < size; i++)
		assert_int_equal(log_frame_read(bytes, i, &again), LOG_FRAME_E_PART);
	assert_int_equal(log_frames_whole(bytes, size - 1, &rest), 0);
	assert_int_equal(rest, LOG_FRAME_E_PART);
	assert_int_equal(log_frames_whole(bytes, size, &rest), size);
	assert_int_equal(rest, 0);
}

static void what_is_no_frame_is_refused(void **state)
{
	static const size_t places[] = {16, 17, 18, 20, 21, 22, 23, LOG_FRAME_HEADER + 4};
	struct log_frame frame = frame_of("text", LOG_STDOUT), again;
	uint8_t bytes[64], zeros[64] = {};

	(void)state;
	for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
		size_t size = log_frame_write(&frame, bytes);

		bytes[places[i]] = 0xff;
		assert_int_not_equal(log_frame_read(bytes, size, &again), 0);
	}
	assert_int_equal(log_frame_read(zeros, sizeof(zeros), &again), LOG_FRAME_E_INVALID);
	frame.stream = LOG_DROPPED; /* of four bytes */
	log_frame_write(&frame, bytes);
	assert_int_equal(log_frame_read(bytes, sizeof(bytes), &again), LOG_FRAME_E_INVALID);
	assert_int_equal(log_frame_read_trailer(zeros), 0);
}

static void a_dropped_frame_stands_for_what_is_missing(void **state)
{
	uint8_t data[8], bytes[64];
	struct log_frame frame = log_frame_dropped(1, 1000, 5ull << 32, data), again;
	size_t size = log_frame_write(&frame, bytes);

	(void)state;
	assert_int_equal(log_frame_read(bytes, size, &again), 0);
	assert_int_equal(again.stream, LOG_DROPPED);
	assert_int_equal(log_frame_output(&again), 5ull << 32);
	assert_int_equal(log_frame_lines(&again), 0);
}

TEST_MAIN(cmocka_unit_test(a_frame_that_was_written_reads_the_same),
	  cmocka_unit_test(the_bytes_of_a_frame_are_a_contract),
	  cmocka_unit_test(every_part_of_a_frame_says_that_more_is_to_come),
	  cmocka_unit_test(what_is_no_frame_is_refused),
	  cmocka_unit_test(a_dropped_frame_stands_for_what_is_missing))
