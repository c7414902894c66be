/* What is removed by the service itself, and what is left to a child. */

#include "tests/lib/main.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "broker/lib/file.h"
#include "services/image/image.h"
#include "tests/lib/service_case.h"

static struct service_case test;

static struct image_service *service(void)
{
	return test.service->object;
}

static int setup(void **state)
{
	(void)state;
	service_case_init(&test, &image_definition);
	/* No child is started: what is left to one is seen. */
	service()->is_ready = false;
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	return service_case_deinit(&test);
}

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

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

TEST_MAIN(CASE(test_so_many_entries_are_removed_in_one_turn),
	  CASE(test_trees_count_by_what_is_in_them),
	  CASE(test_so_many_bytes_are_removed_in_one_turn))
