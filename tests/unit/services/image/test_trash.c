/* What is removed by the service itself, and what is left to a child. */

#include "tests/lib/main.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "broker/lib/file.h"
#include "tests/lib/image_case.h"
#include "tests/lib/wait.h"

static void take_file(unsigned number, size_t size)
{
	_cleanup_(cleanup_fd) int fd = -1;
	char name[32];

	snprintf(name, sizeof(name), "file-%u", number);
	fd = openat(service()->ingest, name, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	if (size)
		assert_int_equal(posix_fallocate(fd, 0, (off_t)size), 0);
	trash_take(service(), service()->ingest, name);
	assert_int_equal(faccessat(service()->ingest, name, F_OK, 0), -1);
}

static void take_tree(unsigned n_entries)
{
	_cleanup_(cleanup_fd) int dir = -1;

	assert_int_equal(mkdirat(service()->snapshots, "tree", 0700), 0);
	dir = openat(service()->snapshots, "tree", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	for (unsigned i = 0; i < n_entries; i++) {
		char name[32];

		snprintf(name, sizeof(name), "%u", i);
		assert_int_equal(mkdirat(dir, name, 0700), 0);
	}
	trash_take(service(), service()->snapshots, "tree");
}

static void test_so_many_entries_are_removed_in_one_turn(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 100; i++)
		take_file(i, 0);
	assert_int_equal(service()->trash_names.count, 36);
	service_case_turn(&test);
	for (unsigned i = 0; i < 10; i++)
		take_file(i, 0);
	assert_int_equal(service()->trash_names.count, 36);
}

static void test_trees_count_by_what_is_in_them(void **state)
{
	(void)state;
	take_tree(50);
	assert_int_equal(service()->trash_names.count, 0);
	take_tree(20);
	assert_int_equal(service()->trash_names.count, 1);
	service_case_turn(&test);
	take_tree(63);
	assert_int_equal(service()->trash_names.count, 1);
	service_case_turn(&test);
	take_tree(64);
	assert_int_equal(service()->trash_names.count, 2);
}

static void test_so_many_bytes_are_removed_in_one_turn(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 4; i++)
		take_file(i, 6u << 20);
	assert_int_equal(service()->trash_names.count, 2);
	service_case_turn(&test);
	take_file(4, 6u << 20);
	take_file(5, 17u << 20);
	assert_int_equal(service()->trash_names.count, 3);
}

/* ---- what a child could not be started for ---- */

/* Until the service has put another try off. */
static void wait_until_put_off(void)
{
	uint64_t end = time_boot_ms() + WAIT_MS;

	while (!service()->trash_retry.loop && time_boot_ms() < end)
		assert_int_equal(loop_turn(test.loop, 100), 0);
	assert_non_null(service()->trash_retry.loop);
}

static void note(void *userdata)
{
	*(bool *)userdata = true;
}

static void test_what_a_child_cannot_be_started_for_is_tried_again(void **state)
{
	uint64_t end = time_boot_ms() + WAIT_MS;
	bool is_told = false;

	(void)state;
	/* No davit-image-work lies beside this program. */
	service()->is_ready = true;
	service()->trash_retry_ms = 10;
	take_tree(100);
	assert_int_equal(trash_wait(service(), note, &is_told), 0);
	wait_until_put_off();
	assert_int_equal(service()->trash_names.count, 0);
	/* Nobody waits for the next try, which comes by itself, later each time. */
	assert_true(is_told);
	assert_int_equal(service()->trash_retry_ms, 20);
	while (service()->trash_retry_ms == 20 && time_boot_ms() < end)
		assert_int_equal(loop_turn(test.loop, 100), 0);
	assert_int_equal(service()->trash_retry_ms, 40);
	wait_until_put_off();
	/* It looks for what lies there. */
	service()->is_ready = false;
	while (!service()->trash_names.count && time_boot_ms() < end)
		assert_int_equal(loop_turn(test.loop, 100), 0);
	assert_int_equal(service()->trash_names.count, 1);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, image_case_setup_idle, image_case_teardown)

TEST_MAIN(CASE(test_so_many_entries_are_removed_in_one_turn),
	  CASE(test_trees_count_by_what_is_in_them),
	  CASE(test_so_many_bytes_are_removed_in_one_turn),
	  CASE(test_what_a_child_cannot_be_started_for_is_tried_again))
