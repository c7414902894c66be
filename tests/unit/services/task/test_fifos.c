/* FIFOs that clients left: which of them the task service takes away. */

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "services/task/task.h"
#include "tests/lib/main.h"
#include "tests/lib/service_case.h"

#define HOUR_NS (3600 * 1000000000ull)

static struct service_case test;

static int setup(void **state)
{
	(void)state;
	service_case_init(&test, &task_service_definition);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	return service_case_deinit(&test);
}

static char *path_of(const char *name)
{
	return text_format("%s/fifo/%s", service_paths(test.service)->state, name);
}

static void make(const char *name)
{
	_cleanup_(cleanup_free) char *path = path_of(name);
	_cleanup_(cleanup_free) char *fifo = text_format("%s/web-stdin", path);

	assert_int_equal(file_make_dir(path, 0700, NULL), 0);
	assert_int_equal(mkfifo(fifo, 0600), 0);
}

static bool has(const char *name)
{
	_cleanup_(cleanup_free) char *path = path_of(name);

	return !access(path, F_OK);
}

static int put(void *userdata)
{
	return task_put(test.service->object, userdata);
}

static void add_task(const char *directory)
{
	_cleanup_(cleanup_free) char *stdin = text_format(
		"fifo://%s/fifo/%s/web-stdin", service_paths(test.service)->state, directory);
	struct task_io io = {.stdin = stdin};
	struct task_record record = {.task_id = (char *)"00112233445566778899aabbccddeeff",
				     .namespace = (char *)"default",
				     .container_id = (char *)"web",
				     .bundle = (char *)"/nowhere",
				     .socket = (char *)"/nowhere",
				     .io = &io,
				     .status = TASK_STOPPED};

	assert_int_equal(service_transact(test.service, put, &record), 0);
	service_case_turn(&test);
}

static void sweep(uint64_t after_ns)
{
	task_sweep_fifos(test.service->object, time_real_ns() + after_ns);
	service_case_turn(&test);
}

static void test_what_no_task_names_and_no_client_holds_goes_after_an_hour(void **state)
{
	_cleanup_(cleanup_free) char *path = NULL;
	_cleanup_(cleanup_fd) int lock_fd = -1;

	(void)state;
	make("left");
	make("named");
	make("held");
	add_task("named");
	path = path_of("held");
	lock_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(flock(lock_fd, LOCK_SH), 0);
	sweep(0);
	assert_true(has("left") && has("named") && has("held"));
	sweep(HOUR_NS + 60 * 1000000000ull);
	assert_false(has("left"));
	assert_true(has("named") && has("held"));
	lock_fd = close_fd(lock_fd);
	sweep(HOUR_NS + 60 * 1000000000ull);
	assert_false(has("held"));
	assert_true(has("named"));
}

static void test_what_is_no_fifo_stays(void **state)
{
	_cleanup_(cleanup_free) char *path = NULL;
	_cleanup_(cleanup_fd) int fd = -1;

	(void)state;
	make("other");
	path = path_of("other/file");
	fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	sweep(2 * HOUR_NS);
	assert_true(has("other/file"));
}

#define WITH_SERVICE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

TEST_MAIN(WITH_SERVICE(test_what_no_task_names_and_no_client_holds_goes_after_an_hour),
	  WITH_SERVICE(test_what_is_no_fifo_stays))
