/* Where streams go: which options go together, and what is asked of the service for them. */

#include "tools/io_options.h"

#include <string.h>

#include "tests/unit/tools/capture.h"

static struct capture capture;

static int check(struct io_options options, bool terminal)
{
	struct context context = {};
	int code;

	capture_begin(&capture);
	code = io_options_check(&context, &options, terminal);
	capture_end(&capture);
	return code;
}

static void test_options_that_exclude_each_other_are_named(void **state)
{
	char *uri = (char *)"file:///x";

	(void)state;
	assert_int_equal(check((struct io_options){.null_io = true}, true), EXIT_USAGE);
	assert_non_null(strstr(capture.text, "--tty and --null-io"));
	assert_int_equal(check((struct io_options){.log_uri = uri}, true), EXIT_USAGE);
	assert_int_equal(check((struct io_options){.no_log = true}, true), EXIT_USAGE);
	assert_int_equal(check((struct io_options){.log_uri = uri, .log_max_size = 1}, false),
			 EXIT_USAGE);
	assert_int_equal(check((struct io_options){.log = true, .no_log = true}, false),
			 EXIT_USAGE);
	assert_int_equal(check((struct io_options){.log_mode = (char *)"lose"}, false), EXIT_USAGE);
	assert_int_equal(check((struct io_options){.detach_keys = (char *)"ctrl"}, true),
			 EXIT_USAGE);
	assert_non_null(strstr(capture.text, "--detach-keys 'ctrl'"));
	assert_int_equal(check((struct io_options){.log = true, .log_mode = (char *)"drop"}, true),
			 0);
}

static struct task_io *detached(struct io_options options, bool terminal)
{
	struct context context = {};
	struct task_io *io = NULL;

	assert_int_equal(io_options_detached(&context, &options, "c", terminal, true, &io), 0);
	return io;
}

static void free_io(struct task_io *io)
{
	task_io_clear(io);
	free(io);
}

static void test_a_detached_container_logs_unless_it_is_told_otherwise(void **state)
{
	struct task_io *io = detached((struct io_options){}, false);

	(void)state;
	assert_non_null(io->log);
	free_io(io);
	io = detached((struct io_options){.no_log = true}, false);
	assert_null(io->log);
	free_io(io);
	assert_null(detached((struct io_options){.null_io = true}, false));
	io = detached((struct io_options){.log_uri = (char *)"binary:///logger?a=b"}, false);
	assert_null(io->log);
	assert_string_equal(io->stdout, "binary:///logger?a=b");
	assert_string_equal(io->stderr, "binary:///logger?a=b");
	free_io(io);
	io = detached((struct io_options){.log_max_size = 4096,
					  .log_max_files = 2,
					  .log_mode = (char *)"drop"},
		      true);
	assert_true(io->terminal);
	assert_int_equal(io->log->max_size, 4096);
	assert_int_equal(io->log->max_files, 2);
	assert_true(io->log->drop);
	free_io(io);
}

static void test_a_detached_process_with_fifos_has_them_left_for_others(void **state)
{
	struct scratch *scratch = *state;
	_cleanup_(cleanup_free) char *directory = scratch_path(scratch, "fifos");
	struct task_io *io = detached((struct io_options){.fifo_dir = directory}, false);

	assert_null(io->log);
	assert_int_equal(strncmp(io->stdout, directory, strlen(directory)), 0);
	assert_int_equal(access(io->stdin, F_OK), 0);
	assert_int_equal(access(io->stderr, F_OK), 0);
	free_io(io);
	io = detached((struct io_options){.fifo_dir = directory}, true);
	assert_null(io->stderr);
	free_io(io);
}

static void test_an_input_is_kept_open_for_attach_by_a_fifo_that_goes_again(void **state)
{
	struct scratch *scratch = *state;
	const struct io_options options = {.interactive = true};
	struct context context = {.paths = {.state = scratch->dir}};
	struct task_io *io = NULL;

	assert_int_equal(io_options_detached(&context, &options, "c", false, true, &io), 0);
	assert_non_null(io->log);
	assert_null(io->stdout);
	assert_int_equal(access(io->stdin, F_OK), 0);
	io_options_release(&options, io);
	assert_int_equal(access(io->stdin, F_OK), -1);
	free_io(io);
	io = detached(options, true);
	assert_null(io->stdin);
	free_io(io);
}

static void test_a_spec_says_whether_it_wants_a_terminal(void **state)
{
	(void)state;
	assert_true(io_options_spec_has_terminal("{\"process\":{\"terminal\":true}}"));
	assert_false(io_options_spec_has_terminal("{\"process\":{\"terminal\":false}}"));
	assert_false(io_options_spec_has_terminal("{}"));
	assert_false(io_options_spec_has_terminal("no JSON"));
	assert_false(io_options_spec_has_terminal(NULL));
}

TEST_MAIN(cmocka_unit_test(test_options_that_exclude_each_other_are_named),
	  cmocka_unit_test(test_a_detached_container_logs_unless_it_is_told_otherwise),
	  TEST_IN_SCRATCH(test_a_detached_process_with_fifos_has_them_left_for_others),
	  TEST_IN_SCRATCH(test_an_input_is_kept_open_for_attach_by_a_fifo_that_goes_again),
	  cmocka_unit_test(test_a_spec_says_whether_it_wants_a_terminal))
