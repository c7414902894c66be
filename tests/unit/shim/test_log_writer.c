#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <signal.h>

#include "broker/lib/file.h"
#include "broker/lib/log.h"
#include "broker/lib/output_log.h"
#include "shim/log_writer.h"
#include "tests/lib/main.h"

static char *directory;

static int setup(void **state)
{
	int r = scratch_setup(state);

	/* Each cut is a warning. */
	log_init("test", LOG_ERROR);
	directory = scratch_path(*state, "logs/web");
	return r;
}

static int teardown(void **state)
{
	free(directory);
	return scratch_teardown(state);
}

static void open_writer(struct log_writer *writer, const struct task_log *limits, bool goes_on)
{
	struct why why = {};

	if (log_writer_open(writer, directory, limits, goes_on, &why))
		fail_msg("%s", why.text);
}

static int append(struct log_writer *writer, const char *text)
{
	struct log_frame frame = {.time_ns = 1,
				  .size = (uint32_t)strlen(text),
				  .stream = LOG_STDOUT,
				  .data = (const uint8_t *)text};

	return log_writer_append(writer, &frame);
}

static void must_append(struct log_writer *writer, const char *text)
{
	assert_int_equal(append(writer, text), 0);
}

/* The text of all frames; each one's start follows from those before it. */
static void assert_log(const char *expected, uint64_t start)
{
	struct output_log log;
	struct log_position position = {};
	struct output_log_read read;
	struct log_frame frame;
	uint8_t *buffer = malloc(2 * LOG_FRAME_MAX);
	char text[65536];
	size_t n = 0;

	assert_int_equal(output_log_open(&log, directory, NULL), 0);
	assert_int_equal(output_log_read(&log, &position, buffer, 2 * LOG_FRAME_MAX, &read), 0);
	assert_true(read.at_end && !read.is_truncated);
	for (size_t at = 0; at < read.size; at += log_frame_size(&frame)) {
		assert_int_equal(log_frame_read(buffer + at, read.size - at, &frame), 0);
		assert_int_equal(frame.start, start);
		start += frame.size;
		memcpy(text + n, frame.data, frame.size);
		n += frame.size;
	}
	text[n] = '\0';
	assert_string_equal(text, expected);
	output_log_close(&log);
	free(buffer);
}

static bool has_file(unsigned number)
{
	_cleanup_(cleanup_free) char *path = text_format("%s/%u", directory, number);

	return !access(path, F_OK);
}

static void files_follow_each_other_and_the_oldest_goes(void **state)
{
	const struct task_log limits = {.max_size = 4096, .max_files = 2};
	struct log_writer writer;
	char text[1500];

	(void)state;
	memset(text, 'x', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	open_writer(&writer, &limits, false);
	for (unsigned i = 1; i <= 7; i++) {
		must_append(&writer, text);
		assert_int_equal(writer.file, (i + 1) / 2);
	}
	assert_false(has_file(1) || has_file(2));
	assert_true(has_file(3) && has_file(4));
	assert_false(has_file(5));
	assert_int_equal(writer.oldest, 3);
	assert_int_equal(writer.output, 7 * (sizeof(text) - 1));
	log_writer_close(&writer);
}

static void a_log_is_gone_on_with_or_made_anew(void **state)
{
	struct log_writer writer;

	(void)state;
	open_writer(&writer, NULL, false);
	must_append(&writer, "one ");
	log_writer_close(&writer);
	open_writer(&writer, NULL, true);
	must_append(&writer, "two");
	log_writer_close(&writer);
	assert_log("one two", 0);
	open_writer(&writer, NULL, false);
	must_append(&writer, "three");
	log_writer_close(&writer);
	assert_log("three", 0);
}

static void what_a_killed_writer_left_is_cut_off(void **state)
{
	struct log_writer writer;
	_cleanup_(cleanup_free) char *path = text_format("%s/1", directory);
	int fd;

	(void)state;
	open_writer(&writer, NULL, false);
	must_append(&writer, "one ");
	must_append(&writer, "two");
	log_writer_close(&writer);
	assert_int_equal(truncate(path, 4 + LOG_FRAME_OVERHEAD + 20), 0);
	open_writer(&writer, NULL, true);
	assert_int_equal(writer.output, 4);
	must_append(&writer, "three");
	log_writer_close(&writer);
	assert_log("one three", 0);
	/* Zeros, as after the host's death. */
	fd = open(path, O_RDWR | O_CLOEXEC);
	assert_int_equal(ftruncate(fd, 8192), 0);
	close(fd);
	open_writer(&writer, NULL, true);
	must_append(&writer, " four");
	log_writer_close(&writer);
	assert_log("one three four", 0);
}

static void a_file_without_frames_goes_on_counting_where_the_one_before_it_ended(void **state)
{
	_cleanup_(cleanup_free) char *path = text_format("%s/2", directory);
	struct log_writer writer;
	int fd;

	(void)state;
	open_writer(&writer, NULL, false);
	must_append(&writer, "one ");
	log_writer_close(&writer);
	fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	assert_int_equal(write(fd, "torn", 4), 4);
	close(fd);
	open_writer(&writer, NULL, true);
	must_append(&writer, "two");
	log_writer_close(&writer);
	assert_log("one two", 0);
}

/* A limit of the file's size fails in the midst of a frame, as a full disk does. */
static void a_frame_that_does_not_fit_leaves_the_log_as_it_was(void **state)
{
	_cleanup_(cleanup_free) char *path = text_format("%s/1", directory);
	struct rlimit limit, old;
	struct log_writer writer;
	struct stat stat;

	(void)state;
	signal(SIGXFSZ, SIG_IGN);
	open_writer(&writer, NULL, false);
	must_append(&writer, "one ");
	getrlimit(RLIMIT_FSIZE, &old);
	limit = (struct rlimit){50, old.rlim_max};
	setrlimit(RLIMIT_FSIZE, &limit);
	assert_int_equal(append(&writer, "two"), -ENOSPC);
	assert_int_equal(append(&writer, "two"), -ENOSPC);
	setrlimit(RLIMIT_FSIZE, &old);
	assert_int_equal(lstat(path, &stat), 0);
	assert_int_equal(stat.st_size, 4 + LOG_FRAME_OVERHEAD);
	must_append(&writer, "two");
	log_writer_close(&writer);
	assert_log("one two", 0);
}

static void limits_have_defaults_and_a_least_size(void **state)
{
	struct log_writer writer;

	(void)state;
	open_writer(&writer, NULL, false);
	assert_int_equal(writer.max_size, LOG_SIZE_DEFAULT);
	assert_int_equal(writer.max_files, LOG_FILES_DEFAULT);
	assert_int_equal(log_writer_data_max(&writer), LOG_FRAME_DATA_MAX);
	log_writer_close(&writer);
	open_writer(&writer, &(struct task_log){.max_size = 1, .max_files = 1}, true);
	assert_int_equal(log_writer_data_max(&writer), LOG_SIZE_MIN - LOG_FRAME_OVERHEAD);
	log_writer_close(&writer);
}

static void a_log_that_cannot_be_opened_is_named(void **state)
{
	_cleanup_(cleanup_free) char *file = scratch_path(*state, "logs");
	struct log_writer writer;
	struct why why = {};

	close(open(file, O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
	assert_int_not_equal(log_writer_open(&writer, directory, NULL, false, &why), 0);
	assert_non_null(strstr(why.text, "logs"));
}

#define LOG_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

TEST_MAIN(LOG_TEST(files_follow_each_other_and_the_oldest_goes),
	  LOG_TEST(a_log_is_gone_on_with_or_made_anew),
	  LOG_TEST(what_a_killed_writer_left_is_cut_off),
	  LOG_TEST(a_file_without_frames_goes_on_counting_where_the_one_before_it_ended),
	  LOG_TEST(a_frame_that_does_not_fit_leaves_the_log_as_it_was),
	  LOG_TEST(limits_have_defaults_and_a_least_size),
	  LOG_TEST(a_log_that_cannot_be_opened_is_named))
