/* A real davit-shim over its control socket, with an OCI runtime that misbehaves on order. */

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "broker/lib/file.h"
#include "broker/lib/program.h"
#include "broker/lib/loop.h"
#include "tests/lib/shim_test.h"

/* Each in its order and exactly once. */
static void assert_events(const char *const *topics)
{
	size_t n = 0;

	while (topics[n])
		n++;
	for (size_t i = 0; i < test.n_events && i < n; i++) {
		assert_string_equal(test.events[i].topic, topics[i]);
		assert_int_equal(test.events[i].seq, i + 1);
	}
	assert_int_equal(test.n_events, n);
}

static void kill_with(int signal)
{
	assert_call(BUS_OK, "shim.kill", &(struct shim_kill_request){.signal = (uint64_t)signal});
}

static void container_goes_through_its_life_in_order(void **state)
{
	static const char *const order[] = {"/tasks/create", "/tasks/start", "/tasks/exit",
					    "/tasks/delete", NULL};
	struct shim_pid_reply created = {}, started = {};
	struct shim_delete_reply deleted = {};
	char line[64];
	size_t exit;

	(void)state;
	shim_case_init(&test, "exit 7\n");
	shim_case_bus_start(&test, SHIM_BUS_TAKES);
	shim_case_start(&test);
	assert_int_equal(shim_case_call(&test, "shim.create", NULL, 0, &create_only, &created),
			 BUS_OK);
	assert_int_equal(shim_case_call(&test, "shim.start", NULL, 0, NULL, &started), BUS_OK);
	assert_int_equal(started.pid, created.pid);
	assert_int_equal(started.start_time, created.start_time);
	exit = shim_case_wait_event(&test, "/tasks/exit");
	assert_int_equal(test.events[exit].exit.exit_status, 7);
	assert_int_equal(test.events[exit].exit.pid, created.pid);
	assert_int_equal(test.events[exit].exit.source, EXIT_OBSERVED);
	assert_int_equal(shim_case_call(&test, "shim.delete", NULL, 0, &delete_gently, &deleted),
			 BUS_OK);
	assert_int_equal(deleted.exit->exit_status, 7);
	shim_delete_reply_clear(&deleted);
	assert_events(order);
	for (size_t i = 0; order[i]; i++) {
		char expected[64];

		snprintf(expected, sizeof(expected), "%zu %s", i + 1, order[i]);
		shim_case_bus_line(&test, line, sizeof(line));
		assert_string_equal(line, expected);
	}
	shim_test_assert_gone();
}

static void runtime_inherits_three_descriptors_and_a_path_and_nothing_else(void **state)
{
	_cleanup_(cleanup_free) char *dump = NULL, *cwd = NULL;
	size_t n_fds = 0, n_environment = 0;
	char *rest, *line;
	struct stat stat;

	(void)state;
	/* Something that must not get through. */
	assert_int_equal(fcntl(open("/", O_RDONLY), F_DUPFD, 100), 100);
	setenv("DAVIT_TEST_SECRET", "1", 1);
	shim_case_init(&test, "exit 0\n");
	close(100);
	shim_case_bus_start(&test, SHIM_BUS_TAKES);
	shim_case_start(&test);
	assert_call(BUS_OK, "shim.create", &create_and_start);
	dump = shim_case_dump(&test, "run");
	cwd = text_format("cwd %s", test.bundle);
	assert_non_null(strstr(dump, cwd));
	assert_non_null(strstr(dump, "umask 022"));
	assert_non_null(strstr(dump, "session 1"));
	assert_non_null(strstr(dump, "CapInh:\t0000000000000000"));
	assert_non_null(strstr(dump, "CapAmb:\t0000000000000000"));
	assert_non_null(strstr(dump, "SigBlk:\t0000000000000000"));
	assert_non_null(strstr(dump, "SigIgn:\t0000000000000000"));
	for (rest = dump; (line = strsep(&rest, "\n"));) {
		n_fds += !strncmp(line, "fd ", 3);
		n_environment += !strncmp(line, "environment ", 12);
		if (!strncmp(line, "environment ", 12))
			assert_memory_equal(line + 12, "PATH=", 5);
	}
	assert_int_equal(n_fds, 3);
	assert_int_equal(n_environment, 1);
	/* The control socket is ours alone. */
	assert_int_equal(lstat(test.config.socket, &stat), 0);
	assert_int_equal(stat.st_mode & 0777, 0600);
	shim_case_wait_event(&test, "/tasks/exit");
	assert_call(BUS_OK, "shim.delete", &delete_gently);
	shim_test_assert_gone();
}

static void init_that_ends_before_run_returns_is_created_started_and_exited(void **state)
{
	static const char *const order[] = {"/tasks/create", "/tasks/start", "/tasks/exit", NULL};

	(void)state;
	shim_case_init(&test, "exit 3\n");
	shim_case_bus_start(&test, SHIM_BUS_TAKES);
	shim_case_order(&test, "run after-wait-init\n");
	shim_case_start(&test);
	assert_call(BUS_OK, "shim.create", &create_and_start);
	shim_case_wait_event(&test, "/tasks/exit");
	assert_events(order);
	assert_int_equal(test.events[2].exit.exit_status, 3);
	assert_call(BUS_OK, "shim.delete", &delete_gently);
	shim_test_assert_gone();
}

static void init_that_ends_before_start_returns_has_exited_after_its_start(void **state)
{
	static const char *const order[] = {"/tasks/create", "/tasks/start", "/tasks/exit", NULL};

	(void)state;
	shim_case_init(&test, "exit 4\n");
	shim_case_bus_start(&test, SHIM_BUS_TAKES);
	shim_case_order(&test, "start after-wait-init\n");
	shim_case_start(&test);
	assert_call(BUS_OK, "shim.create", &create_only);
	assert_call(BUS_OK, "shim.start", NULL);
	shim_case_wait_event(&test, "/tasks/exit");
	assert_events(order);
	assert_int_equal(test.events[2].exit.exit_status, 4);
	assert_call(BUS_OK, "shim.delete", &delete_gently);
	shim_test_assert_gone();
}

static void init_killed_between_create_and_start_is_never_started(void **state)
{
	static const char *const order[] = {"/tasks/create", "/tasks/exit", NULL};
	struct shim_state_reply reply = {};

	(void)state;
	shim_case_init(&test, "exit 0\n");
	shim_case_bus_start(&test, SHIM_BUS_TAKES);
	shim_case_order(&test, "create after-kill-init\n");
	shim_case_start(&test);
	assert_call(BUS_OK, "shim.create", &create_only);
	shim_case_wait_event(&test, "/tasks/exit");
	assert_int_equal(test.events[1].exit.exit_status, 137);
	assert_int_equal(test.events[1].exit.signal, SIGKILL);
	assert_call(BUS_FAILED_PRECONDITION, "shim.start", NULL);
	assert_text("init has ended");
	assert_int_equal(shim_case_call(&test, "shim.state", NULL, 0, NULL, &reply), BUS_OK);
	assert_int_equal(reply.status, TASK_STOPPED);
	assert_int_equal(reply.exit->exit_status, 137);
	shim_state_reply_clear(&reply);
	assert_events(order);
	assert_call(BUS_OK, "shim.delete", &delete_gently);
	shim_test_assert_gone();
}

static void start_of_an_init_that_dies_meanwhile_fails_soon(void **state)
{
	uint64_t before_ms;

	(void)state;
	shim_case_init(&test, "exit 0\n");
	shim_case_bus_start(&test, SHIM_BUS_TAKES);
	shim_case_order(&test, "start kill-init\nstart hang\n");
	shim_case_start(&test);
	assert_call(BUS_OK, "shim.create", &create_only);
	before_ms = time_boot_ms();
	assert_call(BUS_DEADLINE_EXCEEDED, "shim.start", NULL);
	assert_true(time_boot_ms() - before_ms < 10000);
	shim_case_wait_event(&test, "/tasks/exit");
	assert_call(BUS_OK, "shim.delete", &delete_gently);
	shim_test_assert_gone();
}

static void hanging_create_ends_at_its_deadline_and_is_undone(void **state)
{
	(void)state;
	shim_case_init(&test, "exit 0\n");
	shim_case_order(&test, "create after-hang\n");
	shim_case_start(&test);
	assert_int_equal(shim_case_call(&test, "shim.create", NULL, time_boot_ms() + 300,
					&create_only, NULL),
			 BUS_DEADLINE_EXCEEDED);
	assert_text("did not end in time");
	assert_false(shim_case_has(&test, "oci/" SHIM_CASE_TASK));
	assert_int_equal(test.n_events, 0);
	assert_call(BUS_OK, "shim.delete", &delete_by_force);
	shim_test_assert_gone();
}

static void failing_create_tells_the_runtimes_own_words(void **state)
{
	uint8_t id[ID_SIZE];

	(void)state;
	shim_case_init(&test, "exit 0\n");
	shim_case_order(&test, "create fail exec: \\\"nosuch\\\": not found in $PATH\n");
	shim_case_start(&test);
	id_make(id);
	assert_int_equal(shim_case_call(&test, "shim.create", id, 0, &create_only, NULL),
			 BUS_FAILED_PRECONDITION);
	assert_text("fake-oci create: exec: \"nosuch\": not found in $PATH");
	/* The same request: the same answer. Another one: no second try. */
	assert_int_equal(shim_case_call(&test, "shim.create", id, 0, &create_only, NULL),
			 BUS_FAILED_PRECONDITION);
	assert_text("not found in $PATH");
	assert_call(BUS_FAILED_PRECONDITION, "shim.create", &create_only);
	assert_call(BUS_OK, "shim.delete", &delete_gently);
	shim_test_assert_gone();
}

static void runtime_that_dies_is_named(void **state)
{
	(void)state;
	shim_case_init(&test, "exit 0\n");
	shim_case_order(&test, "create after-die\n");
	shim_case_start(&test);
	assert_call(BUS_FAILED_PRECONDITION, "shim.create", &create_only);
	assert_text("fake-oci create was killed by signal 9");
	assert_call(BUS_OK, "shim.delete", &delete_gently);
	shim_test_assert_gone();
}

static void missing_runtime_is_named(void **state)
{
	(void)state;
	shim_case_init(&test, "exit 0\n");
	free(test.runtime);
	test.config.runtime_path = test.runtime = strdup("/nonexistent/oci");
	shim_case_start(&test);
	assert_call(BUS_FAILED_PRECONDITION, "shim.create", &create_only);
	assert_text("/nonexistent/oci");
	assert_call(BUS_OK, "shim.delete", &delete_gently);
	shim_test_assert_gone();
}

static void repeated_request_gets_the_same_answer_and_has_one_effect(void **state)
{
	struct shim_pid_reply first = {}, second = {};
	uint8_t id[ID_SIZE];

	(void)state;
	shim_case_init(&test,
		       "trap 'echo hup >>hups' HUP\necho >ready\nwhile :; do sleep 0.01; done\n");
	shim_case_bus_start(&test, SHIM_BUS_TAKES);
	shim_case_order(&test, "create delay 100\n");
	shim_case_start(&test);
	id_make(id);
	/* The second one joins the first, which is still under way. */
	shim_case_send(&test, test.fd, "shim.create", id, 0, &create_only);
	shim_case_send(&test, test.fd, "shim.create", id, 0, &create_only);
	assert_int_equal(shim_case_receive(&test, test.fd, "shim.create", id, &first), BUS_OK);
	assert_int_equal(shim_case_receive(&test, test.fd, "shim.create", id, &second), BUS_OK);
	assert_int_equal(first.pid, second.pid);
	assert_int_equal(shim_case_call(&test, "shim.create", id, 0, &create_only, &second),
			 BUS_OK);
	assert_int_equal(first.pid, second.pid);
	/* With another body, or for another method, an id is not the same request. */
	assert_int_equal(shim_case_call(&test, "shim.create", id, 0, &create_and_start, NULL),
			 BUS_INVALID_ARGUMENT);
	assert_int_equal(shim_case_call(&test, "shim.start", id, 0, NULL, NULL),
			 BUS_INVALID_ARGUMENT);
	assert_call(BUS_OK, "shim.start", NULL);
	assert_call(BUS_FAILED_PRECONDITION, "shim.start", NULL);
	assert_call(BUS_FAILED_PRECONDITION, "shim.delete", &delete_gently);
	assert_text("running");
	assert_call(BUS_OK, "shim.delete", &delete_by_force);
	shim_test_assert_gone();
}

/* The next character that the container writes. */
static char next_output(int fd)
{
	char c = 0;

	if (!wait_on_fd(fd, POLLIN, WAIT_MS))
		fail_msg("the container writes nothing");
	assert_int_equal(read(fd, &c, 1), 1);
	return c;
}

static void one_kill_request_is_one_signal(void **state)
{
	struct shim_kill_request first = {.signal = SIGUSR1}, other = {.signal = SIGUSR2};
	_cleanup_(cleanup_free) char *out = NULL;
	struct task_io io = {};
	uint8_t id[ID_SIZE];
	int fd;

	(void)state;
	shim_case_init(&test, "trap 'printf 1' USR1\ntrap 'printf 2' USR2\nprintf r\n"
			      "while :; do sleep 0.01; done\n");
	io.stdout = out = scratch_path(&test.scratch, "out");
	assert_int_equal(mkfifo(out, 0600), 0);
	test.config.io = &io;
	fd = open(out, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	shim_case_bus_start(&test, SHIM_BUS_TAKES);
	shim_case_start(&test);
	assert_call(BUS_OK, "shim.create", &create_and_start);
	assert_int_equal(next_output(fd), 'r');
	id_make(id);
	assert_int_equal(shim_case_call(&test, "shim.kill", id, 0, &first, NULL), BUS_OK);
	assert_int_equal(next_output(fd), '1');
	/* A second one would be seen before what is sent after it. */
	assert_int_equal(shim_case_call(&test, "shim.kill", id, 0, &first, NULL), BUS_OK);
	assert_call(BUS_OK, "shim.kill", &other);
	assert_int_equal(next_output(fd), '2');
	close(fd);
	kill_with(SIGKILL);
	shim_case_wait_event(&test, "/tasks/exit");
	assert_call(BUS_NOT_FOUND, "shim.kill", &first);
	assert_call(BUS_OK, "shim.delete", &delete_gently);
	shim_test_assert_gone();
}

static void death_by_a_signal_is_told_as_such(void **state)
{
	size_t exit;

	(void)state;
	shim_case_init(&test, "exec sleep 1000\n");
	shim_case_bus_start(&test, SHIM_BUS_TAKES);
	shim_case_start(&test);
	assert_call(BUS_OK, "shim.create", &create_and_start);
	assert_call(BUS_NOT_FOUND, "shim.kill",
		    &(struct shim_kill_request){.signal = 9, .exec_id = (char *)"other"});
	kill_with(SIGTERM);
	exit = shim_case_wait_event(&test, "/tasks/exit");
	assert_int_equal(test.events[exit].exit.exit_status, 128 + SIGTERM);
	assert_int_equal(test.events[exit].exit.signal, SIGTERM);
	assert_call(BUS_OK, "shim.delete", &delete_gently);
	shim_test_assert_gone();
}

static void failed_delete_can_be_asked_again(void **state)
{
	(void)state;
	shim_case_init(&test, "exit 0\n");
	shim_case_bus_start(&test, SHIM_BUS_TAKES);
	shim_case_order(&test, "delete fail the disk is on fire\n");
	shim_case_start(&test);
	assert_call(BUS_OK, "shim.create", &create_and_start);
	shim_case_wait_event(&test, "/tasks/exit");
	assert_call(BUS_INTERNAL, "shim.delete", &delete_gently);
	assert_text("the disk is on fire");
	shim_case_order(&test, "");
	assert_call(BUS_OK, "shim.delete", &delete_gently);
	shim_test_assert_gone();
}

static size_t count_calls(const char *verb)
{
	_cleanup_(cleanup_free) char *dump = shim_case_dump(&test, verb);
	size_t n = 0;

	for (const char *at = dump; at && (at = strstr(at, "umask ")); at++)
		n++;
	return n;
}

static void start_one_that_will_be_removed(const char *orders)
{
	shim_case_init(&test, "exit 6\n");
	test.config.auto_remove = true;
	shim_case_bus_start(&test, SHIM_BUS_TAKES);
	shim_case_order(&test, orders);
	shim_case_start(&test);
	assert_call(BUS_OK, "shim.create", &create_and_start);
	shim_case_wait_event(&test, "/tasks/exit");
}

static void wait_forgotten(void)
{
	uint64_t limit_ms = time_boot_ms() + WAIT_MS;

	while (shim_case_has(&test, "oci/" SHIM_CASE_TASK)) {
		assert_true(time_boot_ms() < limit_ms);
		(void)poll(NULL, 0, 5);
	}
}

static void runtimes_delete_begins_at_the_exit_of_what_will_be_removed(void **state)
{
	static const char *const order[] = {"/tasks/create", "/tasks/start", "/tasks/exit",
					    "/tasks/delete", NULL};
	struct shim_delete_reply deleted = {};

	(void)state;
	start_one_that_will_be_removed("");
	wait_forgotten();
	assert_int_equal(shim_test_status(), TASK_STOPPED);
	assert_int_equal(shim_case_call(&test, "shim.delete", NULL, 0, &delete_gently, &deleted),
			 BUS_OK);
	assert_int_equal(deleted.exit->exit_status, 6);
	shim_delete_reply_clear(&deleted);
	assert_int_equal(count_calls("delete"), 1);
	assert_events(order);
	shim_test_assert_gone();
}

/* A copy of the stand-in that is the test's own, to be replaced. */
static void copy_runtime(const char *path)
{
	_cleanup_(cleanup_free) char *data = NULL;
	size_t size;

	assert_int_equal(file_read(AT_FDCWD, test.runtime, 64 << 20, &data, &size), 0);
	assert_int_equal(file_write(path, data, size, 0700, false, NULL), 0);
}

static void assert_ran_from(const char *verb, const char *program)
{
	_cleanup_(cleanup_free) char *dump = shim_case_dump(&test, verb);
	_cleanup_(cleanup_free) char *line = text_format("exe %s\n", program);

	assert_non_null(dump);
	if (!strstr(dump, line))
		fail_msg("%s was not run from %s: %s", verb, program, dump);
}

static void runtime_is_run_from_its_copy_until_its_file_is_another(void **state)
{
	_cleanup_(cleanup_free) char *path = NULL;
	_cleanup_(cleanup_fd) int copy = -1;
	struct stat status;

	(void)state;
	shim_case_init(&test, "exit 6\n");
	path = scratch_path(&test.scratch, "oci-program");
	copy_runtime(path);
	assert_int_equal(program_copy(path, &copy, &status), 0);
	test.copy = copy;
	test.config.runtime_path = path;
	test.config.clones_itself = true;
	shim_case_bus_start(&test, SHIM_BUS_TAKES);
	shim_case_order(&test, "");
	shim_case_start(&test);
	assert_call(BUS_OK, "shim.create", &create_and_start);
	assert_ran_from("run", "/memfd:oci-program (deleted)");
	shim_case_wait_event(&test, "/tasks/exit");
	copy_runtime(path);
	assert_call(BUS_OK, "shim.delete", &delete_gently);
	assert_ran_from("delete", path);
	shim_test_assert_gone();
	test.config.runtime_path = test.runtime;
}

static void delete_that_comes_amid_the_early_one_waits_for_it(void **state)
{
	(void)state;
	start_one_that_will_be_removed("delete delay 300\n");
	assert_call(BUS_OK, "shim.delete", &delete_gently);
	assert_int_equal(count_calls("delete"), 1);
	shim_test_assert_gone();
}

static void early_delete_that_fails_is_done_again_by_the_delete(void **state)
{
	(void)state;
	start_one_that_will_be_removed("delete fail the disk is on fire\n");
	assert_call(BUS_INTERNAL, "shim.delete", &delete_gently);
	assert_text("the disk is on fire");
	shim_case_order(&test, "");
	assert_call(BUS_OK, "shim.delete", &delete_gently);
	/* The early one, then each delete once, and the failed one once more by force. */
	assert_int_equal(count_calls("delete"), 4);
	shim_test_assert_gone();
}

static void early_delete_that_hangs_ends_at_the_deadline_of_the_delete(void **state)
{
	enum bus_status status;

	(void)state;
	start_one_that_will_be_removed("delete hang\n");
	status = shim_case_call(&test, "shim.delete", NULL, time_boot_ms() + 300, &delete_gently,
				NULL);
	assert_int_equal(status, BUS_DEADLINE_EXCEEDED);
	shim_case_order(&test, "");
	assert_call(BUS_OK, "shim.delete", &delete_gently);
	shim_test_assert_gone();
}

static void shim_that_dies_after_the_early_delete_is_replaced(void **state)
{
	(void)state;
	start_one_that_will_be_removed("");
	wait_forgotten();
	shim_case_replace(&test);
	assert_call(BUS_OK, "shim.delete", &delete_gently);
	shim_test_assert_gone();
}

/* The order in which the names went, from the first IN_DELETE on. */
static size_t when_deleted(int fd, const char *name)
{
	char buffer[8192] __attribute__((aligned(__alignof__(struct inotify_event))));
	ssize_t size = read(fd, buffer, sizeof(buffer));
	size_t n = 0;

	assert_true(size > 0);
	for (ssize_t at = 0; at < size;) {
		const struct inotify_event *event = (const void *)(buffer + at);

		n++;
		if (event->len && !strcmp(event->name, name))
			return n;
		at += (ssize_t)sizeof(*event) + event->len;
	}
	fail_msg("%s was not deleted", name);
	return 0;
}

/* In what is left of a bundle somebody may find the lock free: no shim must be started there. */
static void configuration_goes_before_the_lock(void **state)
{
	static const char *const names[] = {"shim.msgpack", "lock"};
	size_t when[2];

	(void)state;
	shim_case_init(&test, "exit 0\n");
	shim_case_bus_start(&test, SHIM_BUS_TAKES);
	shim_case_start(&test);
	assert_call(BUS_OK, "shim.create", &create_and_start);
	shim_case_wait_event(&test, "/tasks/exit");
	for (size_t i = 0; i < 2; i++) {
		int fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);

		assert_true(fd >= 0);
		assert_true(inotify_add_watch(fd, test.bundle, IN_DELETE) >= 0);
		when[i] = (size_t)fd;
	}
	assert_call(BUS_OK, "shim.delete", &delete_gently);
	shim_test_assert_gone();
	for (size_t i = 0; i < 2; i++) {
		int fd = (int)when[i];

		when[i] = when_deleted(fd, names[i]);
		close(fd);
	}
	assert_true(when[0] < when[1]);
}

static void exit_while_the_broker_is_down_is_published_when_it_is_back(void **state)
{
	struct shim_state_reply reply = {};
	char line[64];

	(void)state;
	shim_case_init(&test, "exit 9\n");
	shim_case_start(&test);
	assert_call(BUS_OK, "shim.create", &create_and_start);
	shim_case_wait_event(&test, "/tasks/exit");
	assert_int_equal(shim_case_call(&test, "shim.state", NULL, 0, NULL, &reply), BUS_OK);
	assert_int_equal(reply.unpublished, 3);
	shim_state_reply_clear(&reply);
	assert_call(BUS_OK, "shim.delete", &delete_gently);
	/* Deleted, but it does not end before all is published. */
	assert_int_equal(kill(test.shim, 0), 0);
	shim_case_bus_start(&test, SHIM_BUS_TAKES);
	for (int i = 0; i < 3; i++)
		shim_case_bus_line(&test, line, sizeof(line));
	assert_string_equal(line, "3 /tasks/exit");
	shim_case_bus_line(&test, line, sizeof(line));
	assert_string_equal(line, "4 /tasks/delete");
	shim_test_assert_gone();
}

static void broker_that_lost_its_log_gets_every_event_again(void **state)
{
	char line[64];

	(void)state;
	shim_case_init(&test, "exec sleep 1000\n");
	shim_case_bus_start(&test, SHIM_BUS_TAKES);
	shim_case_start(&test);
	assert_call(BUS_OK, "shim.create", &create_and_start);
	shim_case_bus_line(&test, line, sizeof(line));
	shim_case_bus_line(&test, line, sizeof(line));
	assert_string_equal(line, "2 /tasks/start");
	shim_case_bus_stop(&test);
	shim_case_bus_start(&test, SHIM_BUS_FORGETS);
	kill_with(SIGKILL);
	shim_case_bus_line(&test, line, sizeof(line));
	assert_string_equal(line, "1 /tasks/create");
	shim_case_bus_line(&test, line, sizeof(line));
	assert_string_equal(line, "2 /tasks/start");
	shim_case_bus_line(&test, line, sizeof(line));
	assert_string_equal(line, "3 /tasks/exit");
	assert_call(BUS_OK, "shim.delete", &delete_by_force);
	shim_test_assert_gone();
}

static void output_goes_to_a_file_that_is_appended_to(void **state)
{
	_cleanup_(cleanup_free) char *path = NULL, *uri = NULL, *text = NULL;
	struct task_io io = {};

	(void)state;
	shim_case_init(&test, "echo out; echo err >&2\n");
	path = scratch_path(&test.scratch, "logs/deep/web.log");
	uri = text_format("file://%s", path);
	io.stdout = io.stderr = uri;
	test.config.io = &io;
	shim_case_bus_start(&test, SHIM_BUS_TAKES);
	shim_case_start(&test);
	assert_call(BUS_OK, "shim.create", &create_and_start);
	shim_case_wait_event(&test, "/tasks/exit");
	assert_int_equal(file_read(AT_FDCWD, path, 4096, &text, NULL), 0);
	assert_string_equal(text, "out\nerr\n");
	assert_call(BUS_OK, "shim.delete", &delete_gently);
	shim_test_assert_gone();
}

static void streams_are_the_callers_fifos_and_survive_a_reader(void **state)
{
	_cleanup_(cleanup_free) char *in = NULL, *out = NULL;
	struct task_io io = {};
	char text[64] = "";
	int write_end, read_end;

	(void)state;
	shim_case_init(&test,
		       "read -r word; echo \"got $word\"; read -r word || echo end; echo last\n");
	in = scratch_path(&test.scratch, "in");
	out = scratch_path(&test.scratch, "out");
	assert_int_equal(mkfifo(in, 0600) | mkfifo(out, 0600), 0);
	io.stdin = in;
	io.stdout = out;
	test.config.io = &io;
	shim_case_bus_start(&test, SHIM_BUS_TAKES);
	write_end = open(in, O_RDWR | O_CLOEXEC);
	read_end = open(out, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	shim_case_start(&test);
	assert_call(BUS_OK, "shim.create", &create_and_start);
	assert_int_equal(write(write_end, "word\n", 5), 5);
	assert_true(wait_on_fd(read_end, POLLIN, WAIT_MS));
	assert_int_equal(read(read_end, text, sizeof(text)), 9);
	assert_string_equal(text, "got word\n");
	/* No reader: the container is not killed for it. The writer's end is the end of its input. */
	close(read_end);
	close(write_end);
	shim_case_wait_event(&test, "/tasks/exit");
	assert_int_equal(test.events[2].exit.exit_status, 0);
	assert_call(BUS_OK, "shim.delete", &delete_gently);
	shim_test_assert_gone();
}

static void streams_that_are_no_streams_are_refused(void **state)
{
	struct task_io io = {.stdout = (char *)"/dev/zero"};

	(void)state;
	shim_case_init(&test, "exit 0\n");
	test.config.io = &io;
	shim_case_start(&test);
	assert_call(BUS_INVALID_ARGUMENT, "shim.create", &create_only);
	assert_text("/dev/zero is not a FIFO");
	assert_null(shim_case_dump(&test, "create"));
	assert_call(BUS_OK, "shim.delete", &delete_gently);
	shim_test_assert_gone();
}

static void refuse_config(const char *config, const char *root_dev, const char *says)
{
	_cleanup_(cleanup_free) char *path = NULL;

	shim_case_init(&test, "exit 0\n");
	if (config)
		shim_case_write(&test, "config.json", config);
	path = text_format("%s/rootfs/dev", test.bundle);
	if (root_dev) {
		assert_int_equal(rmdir(path), 0);
		assert_int_equal(symlink(root_dev, path), 0);
	}
	shim_case_start(&test);
	assert_call(BUS_INVALID_ARGUMENT, "shim.create", &create_only);
	assert_text(says);
	assert_null(shim_case_dump(&test, "create"));
	assert_call(BUS_OK, "shim.delete", &delete_gently);
	shim_test_assert_gone();
}

static void root_whose_dev_is_a_link_is_refused(void **state)
{
	(void)state;
	refuse_config(NULL, "/tmp", "/dev");
}

static void working_directory_in_proc_is_refused(void **state)
{
	(void)state;
	refuse_config("{\"root\":{\"path\":\"rootfs\"},\"process\":{\"cwd\":\"/proc/self/fd/7\"}}",
		      NULL, "/proc/self/fd/7");
}

static void config_that_is_no_json_is_refused(void **state)
{
	(void)state;
	refuse_config("{\"root\":", NULL, "config.json");
}

static void the_older_of_two_protocols_is_spoken(void **state)
{
	struct shim_hello_reply reply = {};

	(void)state;
	shim_case_init(&test, "exit 0\n");
	shim_case_start(&test);
	assert_int_equal(shim_case_call(&test, "shim.hello", NULL, 0,
					&(struct shim_hello_request){.protocol = 7}, &reply),
			 BUS_OK);
	assert_int_equal(reply.protocol, 1);
	shim_hello_reply_clear(&reply);
	assert_call(BUS_INVALID_ARGUMENT, "shim.hello",
		    (&(struct shim_hello_request){.protocol = 0}));
	assert_text("protocol 0");
	assert_call(BUS_OK, "shim.delete", &delete_gently);
	shim_test_assert_gone();
}

static void hostile_packets_are_answered_and_harm_nothing(void **state)
{
	static uint8_t junk[100000];
	uint64_t seed = 1;
	uint8_t id[ID_SIZE];
	int fd;

	(void)state;
	shim_case_init(&test, "exit 0\n");
	shim_case_bus_start(&test, SHIM_BUS_TAKES);
	shim_case_start(&test);
	fd = shim_case_connect(&test);
	id_make(id);
	/* Not greeted yet. */
	shim_case_send(&test, fd, "shim.state", id, 0, &(struct empty){});
	assert_int_equal(shim_case_receive(&test, fd, "shim.state", id, NULL),
			 BUS_FAILED_PRECONDITION);
	for (int i = 0; i < 500; i++) {
		size_t size = 1 + (size_t)(i * 37) % 300;

		for (size_t j = 0; j < size; j++) {
			seed = seed * 6364136223846793005u + 1442695040888963407u;
			junk[j] = (uint8_t)(seed >> 56);
		}
		assert_int_equal(send(fd, junk, size, MSG_NOSIGNAL), size);
		assert_int_equal(shim_case_receive(&test, fd, "shim.state", NULL, NULL),
				 BUS_INVALID_ARGUMENT);
	}
	/* A message that claims 2^31 items, and one that is too long. */
	assert_int_equal(send(fd, "\xdd\x80\x00\x00\x00", 5, MSG_NOSIGNAL), 5);
	assert_int_equal(shim_case_receive(&test, fd, "shim.state", NULL, NULL),
			 BUS_INVALID_ARGUMENT);
	assert_int_equal(send(fd, junk, sizeof(junk), MSG_NOSIGNAL), sizeof(junk));
	assert_int_equal(shim_case_receive(&test, fd, "shim.state", NULL, NULL),
			 BUS_INVALID_ARGUMENT);
	close(fd);
	assert_call(BUS_OK, "shim.state", NULL);
	assert_call(BUS_OK, "shim.delete", &delete_gently);
	shim_test_assert_gone();
}

static unsigned n_fds_of(pid_t pid)
{
	_cleanup_(cleanup_free) char *path = text_format("/proc/%d/fd", (int)pid);
	_cleanup_(cleanup_dir) DIR *dir = opendir(path);
	unsigned n = 0;

	while (readdir(dir))
		n++;
	return n;
}

static void descriptors_sent_along_are_not_taken(void **state)
{
	char control[CMSG_SPACE(sizeof(int))] = {};
	struct iovec iov = {"x", 1};
	struct msghdr message = {.msg_iov = &iov,
				 .msg_iovlen = 1,
				 .msg_control = control,
				 .msg_controllen = sizeof(control)};
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);
	unsigned before;

	(void)state;
	shim_case_init(&test, "exit 0\n");
	shim_case_start(&test);
	before = n_fds_of(test.shim);
	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(header), &test.fd, sizeof(int));
	for (int i = 0; i < 20; i++) {
		assert_int_equal(sendmsg(test.fd, &message, MSG_NOSIGNAL), 1);
		assert_int_equal(shim_case_receive(&test, test.fd, "shim.state", NULL, NULL),
				 BUS_INVALID_ARGUMENT);
	}
	assert_int_equal(n_fds_of(test.shim), before);
	assert_call(BUS_OK, "shim.delete", &delete_gently);
	shim_test_assert_gone();
}

static void slow_connection_is_dropped_and_stalls_nobody(void **state)
{
	uint8_t id[ID_SIZE];
	int fd;

	(void)state;
	shim_case_init(&test, "exit 0\n");
	shim_case_start(&test);
	fd = shim_case_connect(&test);
	id_make(id);
	shim_case_send(&test, fd, "shim.hello", id, 0, &(struct shim_hello_request){.protocol = 1});
	/* Asks and never listens, until the shim has had enough of it. */
	while (send(fd, "junk", 4, MSG_NOSIGNAL) == 4)
		;
	assert_true(errno == EPIPE || errno == ECONNRESET);
	close(fd);
	assert_call(BUS_OK, "shim.state", NULL);
	/* More connections than are taken: those beyond are closed, the others work. */
	for (int i = 0; i < 40; i++) {
		fd = shim_case_connect(&test);
		assert_true(fd >= 0);
		close(fd);
	}
	assert_call(BUS_OK, "shim.state", NULL);
	assert_call(BUS_OK, "shim.delete", &delete_gently);
	shim_test_assert_gone();
}

static void container_goes_on_when_its_caller_goes_away(void **state)
{
	struct shim_state_reply reply = {};
	uint8_t id[ID_SIZE];

	(void)state;
	shim_case_init(&test, "exec sleep 1000\n");
	shim_case_bus_start(&test, SHIM_BUS_TAKES);
	shim_case_start(&test);
	id_make(id);
	assert_int_equal(shim_case_call(&test, "shim.create", id, 0, &create_and_start, NULL),
			 BUS_OK);
	close(test.fd);
	test.fd = shim_case_connect(&test);
	assert_true(test.fd >= 0);
	assert_call(BUS_OK, "shim.hello",
		    (&(struct shim_hello_request){.protocol = 1, .watch = true}));
	/* It asks again what it had asked. */
	assert_int_equal(shim_case_call(&test, "shim.create", id, 0, &create_and_start, NULL),
			 BUS_OK);
	assert_int_equal(shim_case_call(&test, "shim.state", NULL, 0, NULL, &reply), BUS_OK);
	assert_int_equal(reply.status, TASK_RUNNING);
	shim_state_reply_clear(&reply);
	kill_with(SIGKILL);
	shim_case_wait_event(&test, "/tasks/exit");
	assert_call(BUS_OK, "shim.delete", &delete_gently);
	shim_test_assert_gone();
}

/* "<name>:<spaces><number>" of a file in /proc. */
static unsigned long figure(pid_t pid, const char *file, const char *name)
{
	_cleanup_(cleanup_free) char *path = text_format("/proc/%d/%s", (int)pid, file);
	_cleanup_(cleanup_free) char *text = NULL;
	const char *at;

	assert_int_equal(file_read_proc(path, 65536, &text, NULL), 0);
	at = strstr(text, name);
	assert_non_null(at);
	return strtoul(at + strlen(name), NULL, 10);
}

static void idle_shim_never_wakes_up_and_is_small(void **state)
{
	struct shim_state_reply reply = {.unpublished = 1};
	unsigned long before, own;
	char line[64];

	(void)state;
	shim_case_init(&test, "exec sleep 1000\n");
	shim_case_bus_start(&test, SHIM_BUS_TAKES);
	shim_case_start(&test);
	assert_call(BUS_OK, "shim.create", &create_and_start);
	shim_case_bus_line(&test, line, sizeof(line));
	shim_case_bus_line(&test, line, sizeof(line));
	while (reply.unpublished)
		assert_int_equal(shim_case_call(&test, "shim.state", NULL, 0, NULL, &reply),
				 BUS_OK);
	/* The figure below is not reached before it sleeps: an interval, not a wait for something. */
	(void)wait_on_fd(test.fd, POLLIN, 100);
	before = figure(test.shim, "status", "\nvoluntary_ctxt_switches:");
	assert_false(wait_on_fd(test.fd, POLLIN, 1500));
	assert_int_equal(figure(test.shim, "status", "\nvoluntary_ctxt_switches:"), before);
	own = figure(test.shim, "smaps_rollup", "\nAnonymous:");
	print_message("shim: PSS %lu KB, of its own %lu KB\n",
		      figure(test.shim, "smaps_rollup", "\nPss:"), own);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
	assert_true(own <= 100);
#endif
	assert_call(BUS_OK, "shim.delete", &delete_by_force);
	shim_test_assert_gone();
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		SHIM_TEST(container_goes_through_its_life_in_order),
		SHIM_TEST(runtime_inherits_three_descriptors_and_a_path_and_nothing_else),
		SHIM_TEST(init_that_ends_before_run_returns_is_created_started_and_exited),
		SHIM_TEST(init_that_ends_before_start_returns_has_exited_after_its_start),
		SHIM_TEST(init_killed_between_create_and_start_is_never_started),
		SHIM_TEST(start_of_an_init_that_dies_meanwhile_fails_soon),
		SHIM_TEST(hanging_create_ends_at_its_deadline_and_is_undone),
		SHIM_TEST(failing_create_tells_the_runtimes_own_words),
		SHIM_TEST(runtime_that_dies_is_named),
		SHIM_TEST(missing_runtime_is_named),
		SHIM_TEST(repeated_request_gets_the_same_answer_and_has_one_effect),
		SHIM_TEST(one_kill_request_is_one_signal),
		SHIM_TEST(death_by_a_signal_is_told_as_such),
		SHIM_TEST(failed_delete_can_be_asked_again),
		SHIM_TEST(runtimes_delete_begins_at_the_exit_of_what_will_be_removed),
		SHIM_TEST(runtime_is_run_from_its_copy_until_its_file_is_another),
		SHIM_TEST(delete_that_comes_amid_the_early_one_waits_for_it),
		SHIM_TEST(early_delete_that_fails_is_done_again_by_the_delete),
		SHIM_TEST(early_delete_that_hangs_ends_at_the_deadline_of_the_delete),
		SHIM_TEST(shim_that_dies_after_the_early_delete_is_replaced),
		SHIM_TEST(configuration_goes_before_the_lock),
		SHIM_TEST(exit_while_the_broker_is_down_is_published_when_it_is_back),
		SHIM_TEST(broker_that_lost_its_log_gets_every_event_again),
		SHIM_TEST(output_goes_to_a_file_that_is_appended_to),
		SHIM_TEST(streams_are_the_callers_fifos_and_survive_a_reader),
		SHIM_TEST(streams_that_are_no_streams_are_refused),
		SHIM_TEST(root_whose_dev_is_a_link_is_refused),
		SHIM_TEST(working_directory_in_proc_is_refused),
		SHIM_TEST(config_that_is_no_json_is_refused),
		SHIM_TEST(the_older_of_two_protocols_is_spoken),
		SHIM_TEST(hostile_packets_are_answered_and_harm_nothing),
		SHIM_TEST(descriptors_sent_along_are_not_taken),
		SHIM_TEST(slow_connection_is_dropped_and_stalls_nobody),
		SHIM_TEST(container_goes_on_when_its_caller_goes_away),
		SHIM_TEST(idle_shim_never_wakes_up_and_is_small),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
