#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "broker/lib/cgroup_path.h"
#include "broker/lib/file.h"
#include "services/task/cgroup.h"
#include "services/task/cgroup_wake.h"
#include "tests/lib/main.h"

static char *own_cgroups(void)
{
	char *text = NULL;

	assert_int_equal(file_read_proc("/proc/self/cgroup", 65536, &text, NULL), 0);
	return text;
}

/* A FIFO where cgroup.procs of this process' cgroup would be, beneath the scratch directory. */
static char *make_procs(struct scratch *scratch)
{
	_cleanup_(cleanup_free) char *cgroups = own_cgroups(), *path = NULL, *dir = NULL;
	const char *controller = "";
	char *procs;

	path = cgroup_path_parse(cgroups, controller);
	if (!path)
		path = cgroup_path_parse(cgroups, controller = "pids");
	assert_non_null(path);
	dir = text_format("%s%s%s%s", scratch->dir, *controller ? "/" : "", controller, path);
	for (char *at = dir + strlen(scratch->dir) + 1; (at = strchr(at, '/')); *at++ = '/') {
		*at = '\0';
		(void)mkdir(dir, 0700);
	}
	(void)mkdir(dir, 0700);
	procs = text_format("%s/cgroup.procs", dir);
	assert_int_equal(mkfifo(procs, 0600), 0);
	return procs;
}

static void read_own_pid(int fifo)
{
	struct pollfd file = {.fd = fifo, .events = POLLIN};
	char text[32] = "";

	assert_int_equal(poll(&file, 1, WAIT_MS), 1);
	assert_true(read(fifo, text, sizeof(text) - 1) > 0);
	assert_int_equal(atoi(text), getpid());
}

static void test_each_wake_moves_this_process_to_where_it_is(void **state)
{
	struct scratch *scratch = *state;
	_cleanup_(cgroup_wake_freep) struct cgroup_wake *wake = NULL;
	_cleanup_(cleanup_free) char *procs = make_procs(scratch);
	_cleanup_(cleanup_fd) int fifo = open(procs, O_RDWR | O_NONBLOCK | O_CLOEXEC);

	assert_true(fifo >= 0);
	assert_int_equal(cgroup_wake_new(scratch->dir, &wake), 0);
	for (int i = 0; i < 3; i++) {
		cgroup_wake(wake);
		read_own_pid(fifo);
	}
}

static void test_the_hosts_cgroups_are_as_before(void **state)
{
	_cleanup_(cleanup_free) char *before = own_cgroups(), *after = NULL;
	struct cgroup_wake *wake;

	(void)state;
	assert_int_equal(cgroup_wake_new(CGROUP_MOUNT, &wake), 0);
	for (int i = 0; i < 100; i++)
		cgroup_wake(wake);
	cgroup_wake_free(wake);
	after = own_cgroups();
	assert_string_equal(after, before);
}

static void test_a_host_without_cgroups_has_nothing_to_wake(void **state)
{
	struct scratch *scratch = *state;
	struct cgroup_wake *wake;

	assert_int_equal(cgroup_wake_new(scratch->dir, &wake), 0);
	cgroup_wake(wake);
	cgroup_wake_free(wake);
}

TEST_MAIN(cmocka_unit_test_setup_teardown(test_each_wake_moves_this_process_to_where_it_is,
					  scratch_setup, scratch_teardown),
	  cmocka_unit_test_setup_teardown(test_the_hosts_cgroups_are_as_before, scratch_setup,
					  scratch_teardown),
	  cmocka_unit_test_setup_teardown(test_a_host_without_cgroups_has_nothing_to_wake,
					  scratch_setup, scratch_teardown))
