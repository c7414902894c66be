#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "broker/lib/file.h"
#include "broker/lib/output_log.h"
#include "tests/lib/main.h"

#define BUFFER (2 * LOG_FRAME_MAX)

struct fixture {
	struct scratch scratch;
	struct output_log log;
	uint64_t output; /* written so far */
	uint8_t *buffer;
	struct log_position position;
	struct output_log_read read;
};

static int setup(void **state)
{
	struct fixture *fixture = calloc(1, sizeof(*fixture));

	assert_int_equal(scratch_init(&fixture->scratch), 0);
	assert_int_equal(output_log_open(&fixture->log, fixture->scratch.dir, NULL), 0);
	fixture->buffer = malloc(BUFFER);
	*state = fixture;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *fixture = *state;
	int r;

	output_log_close(&fixture->log);
	r = scratch_deinit(&fixture->scratch);
	free(fixture->buffer);
	free(fixture);
	return r;
}

/* ---- writing ------------------------------------------------------------- */

static void add_bytes(struct fixture *fixture, unsigned file, const void *data, size_t size)
{
	char name[16];
	_cleanup_(cleanup_free) char *path = NULL;
	int fd;

	snprintf(name, sizeof(name), "%u", file);
	path = scratch_path(&fixture->scratch, name);
	fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	assert_int_equal(write(fd, data, size), size);
	close(fd);
}

static size_t make_frame(struct fixture *fixture, const char *text, uint8_t *bytes)
{
	struct log_frame frame = {.time_ns = 1,
				  .start = fixture->output,
				  .size = (uint32_t)strlen(text),
				  .stream = LOG_STDOUT,
				  .ends_line = text[strlen(text) - 1] == '\n',
				  .data = (const uint8_t *)text};

	fixture->output += frame.size;
	return log_frame_write(&frame, bytes);
}

static void add(struct fixture *fixture, unsigned file, const char *text)
{
	uint8_t bytes[512];

	add_bytes(fixture, file, bytes, make_frame(fixture, text, bytes));
}

static void rotate_away(struct fixture *fixture, unsigned file)
{
	char name[16];
	_cleanup_(cleanup_free) char *path = NULL;

	snprintf(name, sizeof(name), "%u", file);
	path = scratch_path(&fixture->scratch, name);
	assert_int_equal(unlink(path), 0);
}

/* ---- reading ------------------------------------------------------------- */

static void text_of(const struct fixture *fixture, char text[4096])
{
	struct log_frame frame;
	size_t at = 0, n = 0;

	while (at < fixture->read.size) {
		assert_int_equal(
			log_frame_read(fixture->buffer + at, fixture->read.size - at, &frame), 0);
		memcpy(text + n, frame.data, frame.size);
		n += frame.size;
		at += log_frame_size(&frame);
	}
	text[n] = '\0';
}

static int read_on(struct fixture *fixture)
{
	return output_log_read(&fixture->log, &fixture->position, fixture->buffer, BUFFER,
			       &fixture->read);
}

static void assert_reads(struct fixture *fixture, const char *expected)
{
	char text[4096];

	assert_int_equal(read_on(fixture), 0);
	text_of(fixture, text);
	assert_string_equal(text, expected);
}

static void assert_tail(struct fixture *fixture, uint64_t lines, const char *expected)
{
	char text[4096];

	assert_int_equal(output_log_tail(&fixture->log, lines, fixture->buffer, BUFFER,
					 &fixture->position, &fixture->read),
			 0);
	text_of(fixture, text);
	assert_string_equal(text, expected);
	assert_true(fixture->read.at_end);
	/* What is read on from there is what comes later. */
	assert_reads(fixture, "");
}

/* ---- tests --------------------------------------------------------------- */

static void a_log_is_read_over_its_files_and_followed(void **state)
{
	struct fixture *fixture = *state;

	assert_reads(fixture, "");
	assert_true(fixture->read.at_end);
	add(fixture, 1, "one\n");
	add(fixture, 1, "two\n");
	add(fixture, 2, "three\n");
	assert_reads(fixture, "one\ntwo\nthree\n");
	assert_true(fixture->read.at_end && !fixture->read.is_truncated);
	assert_int_equal(fixture->position.file, 2);
	add(fixture, 2, "four\n");
	add(fixture, 3, "five\n");
	assert_reads(fixture, "four\nfive\n");
	assert_false(fixture->read.is_truncated);
	assert_reads(fixture, "");
}

static void what_was_rotated_away_is_told_before_what_comes_after_it(void **state)
{
	struct fixture *fixture = *state;

	add(fixture, 1, "one\n");
	assert_reads(fixture, "one\n");
	add(fixture, 1, "more\n");
	add(fixture, 2, "two\n");
	add(fixture, 3, "three\n");
	rotate_away(fixture, 1);
	rotate_away(fixture, 2);
	/* The file that is open is read to its end all the same. */
	assert_reads(fixture, "more\n");
	assert_false(fixture->read.is_truncated);
	assert_reads(fixture, "three\n");
	assert_true(fixture->read.is_truncated);
	output_log_forget(&fixture->log);
	fixture->position = (struct log_position){.file = 1, .offset = 32};
	assert_reads(fixture, "three\n");
	assert_true(fixture->read.is_truncated);
}

static void a_torn_tail_ends_the_log_until_it_is_whole(void **state)
{
	struct fixture *fixture = *state;
	uint8_t bytes[512];
	size_t size;

	add(fixture, 1, "one\n");
	size = make_frame(fixture, "two\n", bytes);
	add_bytes(fixture, 1, bytes, size - 5);
	assert_reads(fixture, "one\n");
	assert_true(fixture->read.at_end);
	assert_reads(fixture, "");
	add_bytes(fixture, 1, bytes + size - 5, 5);
	assert_reads(fixture, "two\n");
}

static void behind_damaged_bytes_the_next_file_is_read(void **state)
{
	struct fixture *fixture = *state;
	static const char zeros[200];

	add(fixture, 1, "one\n");
	add_bytes(fixture, 1, zeros, sizeof(zeros));
	assert_reads(fixture, "one\n");
	assert_true(fixture->read.at_end);
	assert_reads(fixture, "");
	assert_true(fixture->read.at_end);
	fixture->position.offset += 10;
	assert_int_equal(read_on(fixture), OUTPUT_LOG_E_POSITION);
	fixture->position.offset -= 10;
	add(fixture, 2, "two\n");
	assert_reads(fixture, "two\n");
	assert_true(fixture->read.is_truncated);
	/* Nor is a tail read across them. */
	assert_tail(fixture, 1, "two\n");
}

static void a_place_where_no_frame_starts_is_refused(void **state)
{
	struct fixture *fixture = *state;
	static const struct log_position wrong[] = {
		{1, 3}, {1, 33}, {9, 0}, {1, UINT64_MAX}, {UINT64_MAX, 0}, {1, INT64_MAX}};

	fixture->position = (struct log_position){1, 0};
	assert_int_equal(read_on(fixture), OUTPUT_LOG_E_POSITION);
	add(fixture, 1, "one\n");
	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
		fixture->position = wrong[i];
		assert_int_equal(read_on(fixture), OUTPUT_LOG_E_POSITION);
	}
}

static void the_last_lines_are_found_within_frames_and_over_files(void **state)
{
	struct fixture *fixture = *state;

	assert_tail(fixture, 3, "");
	add(fixture, 1, "1\n2\n3\n");
	add(fixture, 1, "4\n");
	add(fixture, 2, "5");
	add(fixture, 2, "5\n6\n7\n");
	assert_tail(fixture, 0, "");
	assert_tail(fixture, 1, "7\n");
	assert_tail(fixture, 3, "55\n6\n7\n");
	assert_tail(fixture, 4, "4\n55\n6\n7\n");
	assert_tail(fixture, 5, "3\n4\n55\n6\n7\n");
	assert_tail(fixture, 7, "1\n2\n3\n4\n55\n6\n7\n");
	assert_tail(fixture, 1000000000, "1\n2\n3\n4\n55\n6\n7\n");
	add(fixture, 2, "part");
	assert_tail(fixture, 0, "");
	assert_tail(fixture, 1, "part");
	assert_tail(fixture, 2, "7\npart");
}

static void the_last_lines_are_found_before_a_torn_tail(void **state)
{
	struct fixture *fixture = *state;
	uint8_t bytes[512];
	size_t size;

	add(fixture, 1, "one\n");
	add(fixture, 1, "two\n");
	size = make_frame(fixture, "three\n", bytes);
	add_bytes(fixture, 1, bytes, size / 2);
	assert_tail(fixture, 1, "two\n");
	assert_tail(fixture, 9, "one\ntwo\n");
}

/* Many frames of every size, so that each ends somewhere else in what one read gives. */
static void any_number_of_last_lines_is_right_in_a_large_log(void **state)
{
	struct fixture *fixture = *state;
	struct log_frame frame;
	uint8_t *bytes = malloc(LOG_FRAME_MAX), *data = malloc(LOG_FRAME_DATA_MAX);
	size_t n_lines = 0, seen, at;

	for (unsigned i = 0; i < 400; i++) {
		uint32_t size = 1 + (i * 7919u) % (i % 9 ? 900 : LOG_FRAME_DATA_MAX);

		memset(data, 'x', size);
		data[size - 1] = '\n';
		n_lines++;
		frame = (struct log_frame){.time_ns = 1,
					   .start = fixture->output,
					   .size = size,
					   .stream = LOG_STDOUT,
					   .ends_line = true,
					   .data = data};
		fixture->output += size;
		add_bytes(fixture, 1 + i / 100, bytes, log_frame_write(&frame, bytes));
	}
	for (uint64_t lines = 1; lines <= n_lines; lines += 13) {
		assert_int_equal(output_log_tail(&fixture->log, lines, fixture->buffer, BUFFER,
						 &fixture->position, &fixture->read),
				 0);
		seen = 0;
		do {
			for (at = 0; at < fixture->read.size; at += log_frame_size(&frame), seen++)
				assert_int_equal(log_frame_read(fixture->buffer + at,
								fixture->read.size - at, &frame),
						 0);
			assert_int_equal(read_on(fixture), 0);
		} while (fixture->read.size);
		assert_int_equal(seen, lines);
	}
	free(bytes);
	free(data);
}

static void only_numbers_are_files_of_a_log(void **state)
{
	struct fixture *fixture = *state;
	_cleanup_(cleanup_free) char *fifo = scratch_path(&fixture->scratch, "7");
	_cleanup_(cleanup_free) char *other = scratch_path(&fixture->scratch, "08");
	uint64_t oldest, newest;

	assert_int_equal(output_log_files(&fixture->log, &oldest, &newest), -ENOENT);
	assert_int_equal(mkdir(other, 0700), 0);
	add(fixture, 3, "three\n");
	add(fixture, 4, "four\n");
	assert_int_equal(output_log_files(&fixture->log, &oldest, &newest), 0);
	assert_int_equal(oldest, 3);
	assert_int_equal(newest, 4);
	assert_int_equal(mkfifo(fifo, 0600), 0);
	fixture->position = (struct log_position){7, 0};
	assert_int_equal(read_on(fixture), -EINVAL);
}

static void a_scan_ends_before_what_is_not_whole(void **state)
{
	struct fixture *fixture = *state;
	uint8_t bytes[512];
	uint64_t offset, output;
	size_t size;

	add(fixture, 1, "one\n");
	size = make_frame(fixture, "two\n", bytes);
	add_bytes(fixture, 1, bytes, size - 1);
	assert_int_equal(output_log_scan(&fixture->log, 1, &offset, &output), 0);
	assert_int_equal(offset, 4 + LOG_FRAME_OVERHEAD);
	assert_int_equal(output, 4);
	assert_int_equal(output_log_scan(&fixture->log, 2, &offset, &output), -ENOENT);
}

#define LOG_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

TEST_MAIN(LOG_TEST(a_log_is_read_over_its_files_and_followed),
	  LOG_TEST(what_was_rotated_away_is_told_before_what_comes_after_it),
	  LOG_TEST(a_torn_tail_ends_the_log_until_it_is_whole),
	  LOG_TEST(behind_damaged_bytes_the_next_file_is_read),
	  LOG_TEST(a_place_where_no_frame_starts_is_refused),
	  LOG_TEST(the_last_lines_are_found_within_frames_and_over_files),
	  LOG_TEST(the_last_lines_are_found_before_a_torn_tail),
	  LOG_TEST(any_number_of_last_lines_is_right_in_a_large_log),
	  LOG_TEST(only_numbers_are_files_of_a_log), LOG_TEST(a_scan_ends_before_what_is_not_whole))
