#include <fcntl.h>
#include <string.h>

#include "broker/lib/error.h"
#include "broker/lib/file.h"
#include "broker/lib/log.h"
#include "tests/lib/main.h"

static void test_the_first_sentence_wins(void **state)
{
	struct why why = {};

	(void)state;
	assert_int_equal(why_set(&why, 7, "no container '%s'", "web"), 7);
	assert_int_equal(why_set(&why, -EIO, "something else"), -EIO);
	assert_int_equal(why_errno(&why, -EIO, "something else"), -EIO);
	assert_string_equal(why.text, "no container 'web'");
}

static void test_an_errno_is_told_in_words(void **state)
{
	struct why why = {};

	(void)state;
	assert_int_equal(why_errno(&why, -ENOENT, "cannot open %s", "/x"), -ENOENT);
	assert_string_equal(why.text, "cannot open /x: No such file or directory");
}

static void test_a_prefix_goes_in_front(void **state)
{
	struct why why = {};

	(void)state;
	assert_int_equal(why_prefix(&why, 3, "task %d", 1), 3);
	assert_string_equal(why.text, "task 1");
	why_prefix(&why, 3, "container %s", "web");
	assert_string_equal(why.text, "container web: task 1");
}

static void test_nobody_needs_to_want_a_sentence(void **state)
{
	(void)state;
	assert_int_equal(why_set(NULL, -1, "x"), -1);
	assert_int_equal(why_errno(NULL, -1, "x"), -1);
	assert_int_equal(why_prefix(NULL, -1, "x"), -1);
}

static void test_a_sentence_too_long_is_cut_between_characters(void **state)
{
	/* 2, 3 and 4 bytes a character: each is cut somewhere at the end of the buffer. */
	static const char *const characters[] = {"\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x9a\xa2"};
	char text[2 * WHY_SIZE];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(characters); i++) {
		for (size_t lead = 0; lead < 4; lead++) {
			size_t size = strlen(characters[i]), n;
			struct why why = {};

			memset(text, 'x', lead);
			for (n = lead; n + size < sizeof(text); n += size)
				memcpy(text + n, characters[i], size);
			text[n] = '\0';
			why_set(&why, 0, "%s", text);
			n = strlen(why.text);
			assert_int_equal((n - lead) % size, 0);
			assert_true(n > WHY_SIZE - 1 - 4);
			assert_memory_equal(why.text, text, n);
		}
	}
}

static void test_errors_come_back_as_what_they_are(void **state)
{
	(void)state;
	errno = 5;
	assert_int_equal(error_origin(-ENOMEM), -ENOMEM);
	assert_int_equal(error_trace(-ENOMEM), -ENOMEM);
	assert_int_equal(error_trace(0), 0);
	assert_int_equal(error_trace(3), 3);
	assert_int_equal(error_fold(0), 0);
	assert_int_equal(error_fold(-EIO), -EIO);
	assert_int_equal(error_fold(3), -ENOTRECOVERABLE);
	assert_int_equal(errno, 5);
}

/* Runs @fn with stderr in a file; returns what it wrote. */
static char *capture(struct scratch *scratch, void (*fn)(void))
{
	_cleanup_(cleanup_free) char *path = scratch_path(scratch, "stderr");
	_cleanup_(cleanup_fd) int kept = -1, fd = -1;
	char *text = NULL;

	kept = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	assert_true(kept >= 0 && fd >= 0);
	dup2(fd, STDERR_FILENO);
	fn();
	dup2(kept, STDERR_FILENO);
	assert_int_equal(file_read(AT_FDCWD, path, 1 << 20, &text, NULL), 0);
	return text;
}

static void write_some(void)
{
	log_init("davit-test", LOG_INFO);
	log_error("id=%s", "a\nb\x1b[2J\x7f");
	log_info("told");
	log_debug("not told");
}

static void test_a_log_line_is_one_line_and_moves_no_terminal(void **state)
{
	_cleanup_(cleanup_free) char *text = capture(*state, write_some);
	char *second = strchr(text, '\n') + 1;

	assert_non_null(strstr(text, "] error: id=a\\x0ab\\x1b[2J\\x7f\n"));
	assert_non_null(strstr(second, "Z davit-test["));
	assert_non_null(strstr(second, "] info: told\n"));
	assert_null(strstr(text, "not told"));
	/* 2026-11-23T22:00:00.123Z */
	assert_int_equal(text[10], 'T');
	assert_int_equal(text[23], 'Z');
}

static void write_much(void)
{
	char text[5000];

	memset(text, '\n', sizeof(text));
	text[sizeof(text) - 1] = '\0';
	log_error("%s", text);
}

static void test_a_log_line_has_at_most_two_kibibytes(void **state)
{
	_cleanup_(cleanup_free) char *text = capture(*state, write_much);
	size_t size = strlen(text);

	assert_true(size <= 2048 && size > 2000);
	assert_ptr_equal(strchr(text, '\n'), text + size - 1);
}

static void fail_twice(void)
{
	setenv("DAVIT_DEBUG", "1", 1);
	log_init("davit-test", LOG_INFO);
	(void)error_trace(error_origin(-EIO));
	unsetenv("DAVIT_DEBUG");
	log_init("davit-test", LOG_INFO);
}

static void test_debugging_shows_where_an_error_came_from(void **state)
{
	_cleanup_(cleanup_free) char *text = capture(*state, fail_twice);

	assert_non_null(strstr(text, "debug: error: -EIO in fail_twice ("));
	assert_non_null(strstr(text, "Input/output error\n"));
	assert_non_null(strstr(text, "debug:   from fail_twice ("));
}

TEST_MAIN(cmocka_unit_test(test_the_first_sentence_wins),
	  cmocka_unit_test(test_an_errno_is_told_in_words),
	  cmocka_unit_test(test_a_prefix_goes_in_front),
	  cmocka_unit_test(test_nobody_needs_to_want_a_sentence),
	  cmocka_unit_test(test_a_sentence_too_long_is_cut_between_characters),
	  cmocka_unit_test(test_errors_come_back_as_what_they_are),
	  TEST_IN_SCRATCH(test_a_log_line_is_one_line_and_moves_no_terminal),
	  TEST_IN_SCRATCH(test_a_log_line_has_at_most_two_kibibytes),
	  TEST_IN_SCRATCH(test_debugging_shows_where_an_error_came_from))
