/* Frames of a log as text. */

#include "tools/frames.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "broker/lib/cleanup.h"
#include "tests/lib/main.h"

struct
try {
	struct frames frames;
	struct schema_buffer log;
	uint64_t start;
	char *out, *err;
	size_t out_size, err_size;
};

static int setup(void **state)
{
	struct try *try = calloc(1, sizeof(*try));

	try->frames.out = open_memstream(&try->out, &try->out_size);
	try->frames.err = open_memstream(&try->err, &try->err_size);
	*state = try;
	return 0;
}

static int teardown(void **state)
{
	struct try *try = *state;

	fclose(try->frames.out);
	fclose(try->frames.err);
	frames_deinit(&try->frames);
	schema_buffer_clear(&try->log);
	free(try->out);
	free(try->err);
	free(try);
	return 0;
}

static void add_frame(struct try *try, struct log_frame frame)
{
	uint8_t bytes[4096];

	frame.start = try->start;
	assert_int_equal(schema_buffer_add(&try->log, bytes, log_frame_write(&frame, bytes)), 0);
	try->start += log_frame_output(&frame);
}

static void add(struct try *try, uint64_t seconds, enum log_stream stream, const char *text)
{
	add_frame(try, (struct log_frame){.time_ns = seconds * 1000000000,
					  .size = (uint32_t)strlen(text),
					  .stream = stream,
					  .ends_line = text[strlen(text) - 1] == '\n',
					  .data = (const uint8_t *)text});
}

static void print_all(struct try *try, size_t step)
{
	for (size_t i = 0; i < try->log.size; i += step) {
		size_t n = try->log.size - i < step ? try->log.size - i : step;

		assert_int_equal(frames_print(&try->frames, try->log.data + i, n), 0);
	}
	fflush(try->frames.err);
}

static void test_pieces_of_any_size_give_the_streams(void **state)
{
	struct try *try = *state;

	add(try, 1, LOG_STDOUT, "one\ntwo");
	add(try, 2, LOG_STDERR, "bad\n");
	add(try, 3, LOG_STDOUT, " more\n");
	add(try, 4, LOG_TTY, "tty\r\n");
	print_all(try, 7);
	assert_string_equal(try->out, "one\ntwo more\ntty\r\n");
	assert_string_equal(try->err, "bad\n");
}

static void test_a_time_stands_before_each_line_and_not_before_its_parts(void **state)
{
	struct try *try = *state;

	try->frames.timestamps = true;
	add(try, 1, LOG_STDOUT, "a\nb");
	add(try, 2, LOG_STDERR, "e\n");
	add(try, 3, LOG_STDOUT, "c\nd\n");
	print_all(try, 1000);
	assert_string_equal(try->out, "1970-01-01T00:00:01.000000000Z a\n"
				      "1970-01-01T00:00:01.000000000Z bc\n"
				      "1970-01-01T00:00:03.000000000Z d\n");
	assert_string_equal(try->err, "1970-01-01T00:00:02.000000000Z e\n");
}

static void test_since_and_until_bound_what_is_printed(void **state)
{
	struct try *try = *state;

	try->frames.since_ns = 2000000000;
	try->frames.until_ns = 3000000000;
	add(try, 1, LOG_STDOUT, "1\n");
	add(try, 2, LOG_STDOUT, "2\n");
	add(try, 3, LOG_STDOUT, "3\n");
	print_all(try, 1000);
	assert_false(try->frames.is_past_until);
	add(try, 4, LOG_STDOUT, "4\n");
	print_all(try, 1000);
	assert_string_equal(try->out, "2\n3\n");
	assert_true(try->frames.is_past_until);
}

static void test_what_was_seen_is_not_printed_again(void **state)
{
	struct try *try = *state;

	add(try, 1, LOG_STDOUT, "1\n");
	add(try, 2, LOG_STDOUT, "2\n");
	print_all(try, 1000);
	frames_break(&try->frames);
	add(try, 3, LOG_STDOUT, "3\n");
	print_all(try, 1000);
	assert_string_equal(try->out, "1\n2\n3\n");
	assert_string_equal(try->err ?: "", "");
}

static void test_what_is_lost_is_told(void **state)
{
	struct try *try = *state;
	uint8_t data[8];

	add(try, 1, LOG_STDOUT, "1\n");
	try->start += 100;
	add(try, 2, LOG_STDOUT, "2\n");
	add_frame(try, log_frame_dropped(3000000000, try->start, 77, data));
	add(try, 4, LOG_STDOUT, "4\n");
	print_all(try, 1000);
	assert_string_equal(try->out, "1\n2\n4\n");
	assert_non_null(strstr(try->err, "100 bytes"));
	assert_non_null(strstr(try->err, "77 bytes"));
}

static void test_lines_that_are_too_many_are_left_out(void **state)
{
	struct try *try = *state;

	add(try, 1, LOG_STDOUT, "1\n2\n3");
	add(try, 2, LOG_STDOUT, "3\n4\n5");
	assert_int_equal(frames_count_lines(try->log.data, try->log.size), 5);
	try->frames.skip_lines = 2;
	print_all(try, 1000);
	assert_string_equal(try->out, "33\n4\n5");
}

static void test_what_was_seen_without_frames_is_left_out(void **state)
{
	struct try *try = *state;

	try->frames.skip_bytes[LOG_STDOUT] = 5;
	try->frames.skip_bytes[LOG_STDERR] = 1;
	add(try, 1, LOG_STDOUT, "one\n");
	add(try, 2, LOG_STDERR, "bad\n");
	add(try, 3, LOG_STDOUT, "two\n");
	add(try, 4, LOG_STDOUT, "three\n");
	print_all(try, 9);
	assert_string_equal(try->out, "wo\nthree\n");
	assert_string_equal(try->err, "ad\n");
}

static void test_what_is_gone_and_was_seen_is_not_told(void **state)
{
	struct try *try = *state;
	uint8_t data[8];

	try->frames.skip_bytes[LOG_TTY] = 6;
	add_frame(try, log_frame_dropped(1, 0, 4, data));
	add(try, 2, LOG_TTY, "two\n");
	print_all(try, 1000);
	assert_string_equal(try->out, "o\n");
	assert_string_equal(try->err, "");
}

static void test_bytes_that_are_no_frames_are_an_error(void **state)
{
	struct try *try = *state;
	char junk[256];

	memset(junk, 'x', sizeof(junk));
	assert_int_equal(frames_print(&try->frames, junk, sizeof(junk)), -EBADMSG);
	assert_int_equal(frames_count_lines(junk, sizeof(junk)), 0);
}

#define FRAMES_TEST(test_) cmocka_unit_test_setup_teardown(test_, setup, teardown)
TEST_MAIN(FRAMES_TEST(test_pieces_of_any_size_give_the_streams),
	  FRAMES_TEST(test_a_time_stands_before_each_line_and_not_before_its_parts),
	  FRAMES_TEST(test_since_and_until_bound_what_is_printed),
	  FRAMES_TEST(test_what_was_seen_is_not_printed_again),
	  FRAMES_TEST(test_what_is_lost_is_told),
	  FRAMES_TEST(test_lines_that_are_too_many_are_left_out),
	  FRAMES_TEST(test_what_was_seen_without_frames_is_left_out),
	  FRAMES_TEST(test_what_is_gone_and_was_seen_is_not_told),
	  FRAMES_TEST(test_bytes_that_are_no_frames_are_an_error))
