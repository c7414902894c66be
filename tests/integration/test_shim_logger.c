/* Logging programs (binary://): tests/programs/fake-logger, which misbehaves on order. */

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "broker/lib/file.h"
#include "broker/lib/loop.h"
#include "tests/lib/shim_test.h"

static struct task_io io;
static char *program;

/* The script finds the scratch directory in $D; @orders: further arguments of the logger. */
static void setup(const char *script, const char *orders)
{
	_cleanup_(cleanup_free) char *text = NULL;

	shim_case_init(&test, "");
	text = text_format("D=%s\n%s", test.state, script);
	shim_case_write(&test, "init.sh", text);
	program = shim_case_program("tests/bin/fake-logger");
	io = (struct task_io){};
	io.stdout = text_format("binary://%s?to=%s/log%s", program, test.state, orders);
	io.stderr = strdup(io.stdout);
	test.config.io = &io;
	shim_case_bus_start(&test, SHIM_BUS_TAKES);
}

static int teardown(void **state)
{
	(void)state;
	free(program);
	free(io.stdout);
	free(io.stderr);
	return shim_case_deinit(&test);
}

#define LOGGER_TEST(name) cmocka_unit_test_teardown(name, teardown)

static void start(void)
{
	shim_case_start(&test);
	assert_call(BUS_OK, "shim.create", &create_and_start);
}

static void delete_it(void)
{
	assert_call(BUS_OK, "shim.delete", &delete_gently);
	assert_int_equal(shim_case_wait_end(&test), 0);
	assert_false(shim_case_has(&test, "bundle"));
}

static char *text_of(const char *name)
{
	_cleanup_(cleanup_free) char *path = scratch_path(&test.scratch, name);
	char *text = NULL;

	(void)file_read(AT_FDCWD, path, 16 << 20, &text, NULL);
	return text;
}

static void assert_file(const char *name, const char *expected)
{
	_cleanup_(cleanup_free) char *text = text_of(name);

	assert_non_null(text);
	assert_string_equal(text, expected);
}

static void wait_for_file(const char *name)
{
	uint64_t limit_ms = time_boot_ms() + WAIT_MS;

	while (!shim_case_has(&test, name)) {
		if (time_boot_ms() > limit_ms)
			fail_msg("there is no %s", name);
		poll(NULL, 0, 2);
	}
}

/* ---- tests --------------------------------------------------------------- */

static void a_logging_program_gets_both_streams_and_nothing_else(void **state)
{
	_cleanup_(cleanup_free) char *text = NULL, *expected = NULL;

	(void)state;
	setup("echo out; echo err >&2", "&key=a%20value");
	start();
	shim_case_wait_event(&test, "/tasks/exit");
	delete_it();
	assert_file("log", "out\n");
	assert_file("log.err", "err\n");
	text = text_of("log.env");
	expected = text_format("argument %s\nargument to\nargument %s/log\nargument key\n"
			       "argument a value\n"
			       "environment PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:"
			       "/sbin:/bin\n"
			       "environment CONTAINER_ID=web\n"
			       "environment CONTAINER_NAMESPACE=default\n",
			       program, test.state);
	assert_string_equal(text, expected);
}

static void closing_the_pipe_says_that_it_is_ready(void **state)
{
	(void)state;
	setup("echo out", "&ready=close");
	start();
	shim_case_wait_event(&test, "/tasks/exit");
	delete_it();
	assert_file("log", "out\n");
}

static void one_that_is_never_ready_makes_create_fail(void **state)
{
	uint64_t start_ms;

	(void)state;
	setup("echo never", "&ready=never");
	start_ms = time_boot_ms();
	shim_case_start(&test);
	assert_call(BUS_FAILED_PRECONDITION, "shim.create", &create_and_start);
	assert_text("was not ready within 5000 ms");
	assert_true(time_boot_ms() - start_ms < 10000);
	assert_null(shim_case_dump(&test, "run"));
	delete_it();
}

static void one_that_dies_at_once_makes_create_fail(void **state)
{
	(void)state;
	setup("echo never", "&ready=die");
	shim_case_start(&test);
	assert_call(BUS_FAILED_PRECONDITION, "shim.create", &create_and_start);
	assert_text("before it was ready");
	assert_null(shim_case_dump(&test, "run"));
	delete_it();
}

static void what_cannot_be_run_is_named(void **state)
{
	static const char *const uris[][2] = {
		{"binary:///no/such/program", "No such file"},
		{"binary:///tmp", "not an executable file"},
		{"binary:///etc/passwd", "not an executable file"},
		{"binary://relative", "absolute path"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(uris); i++) {
		setup("echo never", "");
		free(io.stdout);
		io.stdout = strdup(uris[i][0]);
		free(io.stderr);
		io.stderr = strdup("");
		shim_case_start(&test);
		assert_call(BUS_INVALID_ARGUMENT, "shim.create", &create_and_start);
		assert_text(uris[i][1]);
		delete_it();
		teardown(NULL);
	}
}

static void one_that_dies_is_started_again_and_nothing_else_is_lost(void **state)
{
	_cleanup_(cleanup_free) char *text = NULL;

	(void)state;
	setup("i=0; while [ $i -lt 8 ]; do head -c 65536 /dev/zero | tr '\\0' x; i=$((i+1)); done; "
	      "echo end >&2",
	      "&die=20000");
	start();
	shim_case_wait_event(&test, "/tasks/exit");
	delete_it();
	assert_true(shim_case_has(&test, "log.died"));
	text = text_of("log");
	/* It dies behind a write, so all that it read was written. */
	assert_int_equal(strlen(text), 8 * 65536);
	assert_file("log.err", "end\n");
}

static void delete_does_not_wait_for_one_that_does_not_end(void **state)
{
	uint64_t start_ms;

	(void)state;
	setup("echo out", "&end=stubborn");
	start();
	shim_case_wait_event(&test, "/tasks/exit");
	wait_for_file("log.end");
	start_ms = time_boot_ms();
	assert_call(BUS_OK, "shim.delete", &delete_gently);
	assert_true(time_boot_ms() - start_ms < 4000);
	/* SIGTERM, five seconds, SIGKILL: then the shim has nothing left to do. */
	assert_int_equal(shim_case_wait_end(&test), 0);
	assert_file("log", "out\n");
}

static void one_that_waits_for_a_signal_gets_sigterm(void **state)
{
	uint64_t start_ms;

	(void)state;
	setup("echo out", "&end=wait");
	start();
	shim_case_wait_event(&test, "/tasks/exit");
	wait_for_file("log.end");
	start_ms = time_boot_ms();
	delete_it();
	assert_true(time_boot_ms() - start_ms < 4500);
}

static void it_goes_on_when_the_shim_is_killed(void **state)
{
	_cleanup_(cleanup_free) char *gate = NULL;
	int fd;

	(void)state;
	setup("echo one; read x <$D/gate; echo two", "");
	gate = scratch_path(&test.scratch, "gate");
	assert_int_equal(mkfifo(gate, 0600), 0);
	fd = open(gate, O_RDWR | O_CLOEXEC);
	start();
	shim_case_replace(&test);
	assert_int_equal(write(fd, "x\n", 2), 2);
	shim_test_wait_stopped();
	close(fd);
	delete_it();
	assert_file("log", "one\ntwo\n");
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		LOGGER_TEST(a_logging_program_gets_both_streams_and_nothing_else),
		LOGGER_TEST(closing_the_pipe_says_that_it_is_ready),
		LOGGER_TEST(one_that_is_never_ready_makes_create_fail),
		LOGGER_TEST(one_that_dies_at_once_makes_create_fail),
		cmocka_unit_test(what_cannot_be_run_is_named),
		LOGGER_TEST(one_that_dies_is_started_again_and_nothing_else_is_lost),
		LOGGER_TEST(delete_does_not_wait_for_one_that_does_not_end),
		LOGGER_TEST(one_that_waits_for_a_signal_gets_sigterm),
		LOGGER_TEST(it_goes_on_when_the_shim_is_killed),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
