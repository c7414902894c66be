/* What is left when a shim is killed, and what the shim that cleans up makes of it. */

#include <endian.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/wait.h>

#include "broker/lib/file.h"
#include "broker/lib/loop.h"
#include "tests/lib/shim_test.h"

static size_t count_entries(const char *path)
{
	_cleanup_(cleanup_dir) DIR *dir = opendir(path);
	size_t n = 0;

	while (dir && readdir(dir))
		n++;
	return n;
}

static void expect_published(const char *expected)
{
	char line[64];

	shim_case_bus_line(&test, line, sizeof(line));
	assert_string_equal(line, expected);
}

static uint64_t init_of(enum task_status expected)
{
	struct shim_state_reply reply = {};
	uint64_t pid;

	assert_int_equal(shim_case_call(&test, "shim.state", NULL, 0, NULL, &reply), BUS_OK);
	assert_int_equal(reply.status, expected);
	pid = reply.pid;
	shim_state_reply_clear(&reply);
	return pid;
}

static void adopted_container_has_its_true_exit_code(void **state)
{
	struct shim_kill_request term = {.signal = SIGTERM};
	uint64_t pid;
	size_t exit;

	(void)state;
	shim_case_init(&test, "sleep 1000 & trap \"kill $!; exit 41\" TERM; >../oci/ready; wait\n");
	shim_case_bus_start(&test, SHIM_BUS_TAKES);
	shim_case_start(&test);
	assert_call(BUS_OK, "shim.create", &create_and_start);
	expect_published("1 /tasks/create");
	expect_published("2 /tasks/start");
	pid = init_of(TASK_RUNNING);
	shim_case_wait_file(&test, "oci/ready");
	shim_case_replace(&test);
	assert_int_equal(init_of(TASK_RUNNING), pid);
	assert_int_equal(kill((pid_t)pid, 0), 0);
	assert_call(BUS_FAILED_PRECONDITION, "shim.start", NULL);
	assert_call(BUS_FAILED_PRECONDITION, "shim.delete", &delete_gently);
	assert_call(BUS_OK, "shim.kill", &term);
	exit = shim_case_wait_event(&test, "/tasks/exit");
	shim_case_assert_adopted_exit(&test, exit, 41);
	assert_int_equal(test.events[exit].exit.pid, pid);
	assert_int_equal(test.events[exit].seq, 3);
	expect_published("3 /tasks/exit");
	assert_call(BUS_OK, "shim.delete", &delete_gently);
	expect_published("4 /tasks/delete");
	shim_test_assert_gone();
}

/* Until it is started, init has the arguments of the OCI runtime that made it. */
static void created_container_of_a_killed_shim_is_started_by_the_next(void **state)
{
	uint64_t pid;
	size_t exit;

	(void)state;
	shim_case_init(&test, "exit 42\n");
	shim_case_bus_start(&test, SHIM_BUS_TAKES);
	shim_case_start(&test);
	assert_call(BUS_OK, "shim.create", &create_only);
	pid = init_of(TASK_CREATED);
	shim_case_replace(&test);
	assert_int_equal(init_of(TASK_CREATED), pid);
	assert_call(BUS_OK, "shim.start", NULL);
	exit = shim_case_wait_event(&test, "/tasks/exit");
	shim_case_assert_adopted_exit(&test, exit, 42);
	assert_call(BUS_OK, "shim.delete", &delete_gently);
	shim_test_assert_gone();
}

/* What starts it has no gate to show any more, and has not opened it yet. */
static void start_that_is_under_way_when_the_shim_dies_comes_to_its_end(void **state)
{
	static const struct empty nothing;
	struct shim_pid_reply reply = {};
	struct shim_state_reply created = {};
	_cleanup_(cleanup_free) char *gate = NULL;
	uint8_t id[ID_SIZE];
	size_t exit;

	(void)state;
	shim_case_init(&test, ">../oci/ran; exit 42\n");
	shim_case_bus_start(&test, SHIM_BUS_TAKES);
	shim_case_start(&test);
	assert_call(BUS_OK, "shim.create", &create_only);
	assert_int_equal(shim_case_call(&test, "shim.state", NULL, 0, NULL, &created), BUS_OK);
	shim_case_order(&test, "start gate 500\n");
	gate = text_format("%s/%s/exec.fifo", test.oci, test.config.task_id);
	assert_int_equal(access(gate, F_OK), 0);
	id_make(id);
	shim_case_send(&test, test.fd, "shim.start", id, 0, &nothing);
	while (!access(gate, F_OK))
		(void)poll(NULL, 0, 1);
	shim_case_replace(&test);
	assert_int_equal(shim_case_call(&test, "shim.start", id, 0, NULL, &reply), BUS_OK);
	assert_int_equal(reply.pid, created.pid);
	exit = shim_case_wait_event(&test, "/tasks/exit");
	shim_case_assert_adopted_exit(&test, exit, 42);
	assert_true(shim_case_has(&test, "oci/ran"));
	shim_state_reply_clear(&created);
	assert_call(BUS_OK, "shim.delete", &delete_gently);
	shim_test_assert_gone();
}

static void zombie_that_is_adopted_has_its_true_exit_code(void **state)
{
	pid_t init;
	size_t exit;

	(void)state;
	shim_case_init(&test, "exec sleep 1000\n");
	shim_case_bus_start(&test, SHIM_BUS_TAKES);
	shim_case_start(&test);
	assert_call(BUS_OK, "shim.create", &create_and_start);
	init = (pid_t)init_of(TASK_RUNNING);
	/* Both die before anybody looks; init's parent is the test by then, which reaps later. */
	kill(test.shim, SIGSTOP);
	kill(init, SIGKILL);
	test.keeps_zombies = true;
	shim_case_replace(&test);
	test.keeps_zombies = false;
	exit = shim_case_wait_event(&test, "/tasks/exit");
	shim_case_assert_adopted_exit(&test, exit, 137);
	if (shim_case_kernel_tells_exits())
		assert_int_equal(test.events[exit].exit.signal, SIGKILL);
	assert_call(BUS_OK, "shim.delete", &delete_gently);
	shim_test_assert_gone();
}

/* Kills shim and init, and reaps init, so that nobody but a pidfd knows how it ended. */
static void lose_init(void)
{
	pid_t init = (pid_t)init_of(TASK_RUNNING);

	kill(test.shim, SIGSTOP);
	kill(init, SIGTERM);
	kill(test.shim, SIGKILL);
	waitpid(test.shim, NULL, 0);
	assert_int_equal(waitpid(init, NULL, 0), init);
	test.fd = close_fd(test.fd);
	test.config.cleanup = true;
	test.n_events = 0;
	shim_case_start(&test);
}

static void exit_that_nobody_saw_is_unknown(void **state)
{
	struct shim_adopt_request none = {};
	struct shim_state_reply reply = {};
	size_t exit;

	(void)state;
	shim_case_init(&test, "exec sleep 1000\n");
	shim_case_bus_start(&test, SHIM_BUS_TAKES);
	shim_case_start(&test);
	assert_call(BUS_OK, "shim.create", &create_and_start);
	lose_init();
	(void)init_of(TASK_UNKNOWN);
	assert_call(BUS_NOT_FOUND, "shim.kill", &(struct shim_kill_request){.signal = SIGKILL});
	assert_call(BUS_OK, "shim.adopt", &none);
	exit = shim_case_wait_event(&test, "/tasks/exit");
	assert_int_equal(test.events[exit].exit.source, EXIT_UNKNOWN);
	assert_int_equal(test.events[exit].exit.exit_status, 255);
	assert_int_equal(shim_case_call(&test, "shim.state", NULL, 0, NULL, &reply), BUS_OK);
	assert_int_equal(reply.status, TASK_STOPPED);
	assert_string_equal(reply.exit->cause, "shim-died");
	shim_state_reply_clear(&reply);
	assert_call(BUS_OK, "shim.delete", &delete_gently);
	shim_test_assert_gone();
}

static int take_pidfd(const char *exec_id)
{
	struct shim_process_request request = {.exec_id = (char *)exec_id};
	struct shim_descriptors_reply reply = {};

	assert_int_equal(shim_case_call(&test, "shim.descriptors", NULL, 0, &request, &reply),
			 BUS_OK);
	assert_true(reply.pidfd);
	assert_int_equal(test.n_fds, 1);
	return test.fds[0];
}

static enum bus_status give(const char *exec_id, const int *fds, size_t n)
{
	struct shim_adopt_request request = {.exec_id = (char *)exec_id, .pidfd = true};
	uint8_t id[ID_SIZE];

	id_make(id);
	shim_case_send_with(&test, test.fd, "shim.adopt", id, 0, &request, fds, n);
	return shim_case_receive(&test, test.fd, "shim.adopt", id, NULL);
}

static void pidfd_that_was_kept_tells_the_code_of_an_exit_without_a_shim(void **state)
{
	_cleanup_(cleanup_fd) int kept = -1, other = -1;
	size_t exit;

	(void)state;
	shim_case_init(&test, "exec sleep 1000\n");
	if (!shim_case_kernel_tells_exits())
		return; /* exit_that_nobody_saw_is_unknown is what holds then */
	shim_case_bus_start(&test, SHIM_BUS_TAKES);
	shim_case_start(&test);
	assert_call(BUS_OK, "shim.create", &create_and_start);
	kept = take_pidfd(NULL);
	lose_init();
	/* What it is not is not taken for it. */
	other = open("/dev/null", O_RDONLY | O_CLOEXEC);
	assert_int_equal(give(NULL, &other, 1), BUS_INVALID_ARGUMENT);
	close_fd(other);
	other = pidfd_open(getpid(), 0);
	assert_int_equal(give(NULL, &other, 1), BUS_INVALID_ARGUMENT);
	assert_int_equal(give(NULL, NULL, 0), BUS_INVALID_ARGUMENT);
	assert_int_equal(give(NULL, (int[]){kept, other}, 2), BUS_INVALID_ARGUMENT);
	assert_int_equal(give(NULL, &kept, 1), BUS_OK);
	exit = shim_case_wait_event(&test, "/tasks/exit");
	assert_int_equal(test.events[exit].exit.source, EXIT_OBSERVED);
	assert_int_equal(test.events[exit].exit.exit_status, 128 + SIGTERM);
	assert_call(BUS_OK, "shim.delete", &delete_gently);
	shim_test_assert_gone();
}

static void descriptors_are_taken_with_adopt_only(void **state)
{
	_cleanup_(cleanup_free) char *path = NULL;
	struct shim_kill_request signal = {.signal = SIGCONT};
	uint8_t id[ID_SIZE];
	size_t before, after;
	int fds[] = {0, 0, 0, 0};

	(void)state;
	shim_case_init(&test, "exec sleep 1000\n");
	shim_case_bus_start(&test, SHIM_BUS_TAKES);
	shim_case_start(&test);
	assert_call(BUS_OK, "shim.create", &create_and_start);
	path = text_format("/proc/%d/fd", (int)test.shim);
	expect_published("1 /tasks/create");
	expect_published("2 /tasks/start");
	before = count_entries(path);
	for (int i = 0; i < 20; i++) {
		id_make(id);
		shim_case_send_with(&test, test.fd, "shim.kill", id, 0, &signal, fds,
				    ARRAY_SIZE(fds));
		assert_int_equal(shim_case_receive(&test, test.fd, "shim.kill", id, NULL), BUS_OK);
	}
	assert_int_equal(give(NULL, fds, 1), BUS_FAILED_PRECONDITION);
	/* It may have a file open for a moment. */
	for (int i = 0; (after = count_entries(path)) > before && i < 100; i++)
		(void)poll(NULL, 0, 10);
	assert_in_range(after, 1, before);
	assert_call(BUS_OK, "shim.delete", &delete_by_force);
	shim_test_assert_gone();
}

static void known_exit_stays_known_and_is_published_by_the_next_shim(void **state)
{
	struct shim_delete_reply deleted = {};

	(void)state;
	shim_case_init(&test, "exit 42\n");
	shim_case_start(&test);
	assert_call(BUS_OK, "shim.create", &create_and_start);
	shim_case_wait_event(&test, "/tasks/exit");
	shim_case_replace(&test);
	shim_case_bus_start(&test, SHIM_BUS_TAKES);
	assert_int_equal(shim_case_call(&test, "shim.delete", NULL, 0, &delete_gently, &deleted),
			 BUS_OK);
	assert_int_equal(deleted.exit->exit_status, 42);
	assert_int_equal(deleted.exit->source, EXIT_OBSERVED);
	shim_delete_reply_clear(&deleted);
	expect_published("1 /tasks/create");
	expect_published("2 /tasks/start");
	expect_published("3 /tasks/exit");
	expect_published("4 /tasks/delete");
	shim_test_assert_gone();
}

static void requests_of_before_are_answered_from_the_journal(void **state)
{
	struct shim_kill_request stop = {.signal = SIGKILL};
	uint8_t create[ID_SIZE], kill_id[ID_SIZE];

	(void)state;
	shim_case_init(&test, "exec sleep 1000\n");
	shim_case_bus_start(&test, SHIM_BUS_TAKES);
	shim_case_start(&test);
	id_make(create);
	id_make(kill_id);
	assert_int_equal(shim_case_call(&test, "shim.create", create, 0, &create_and_start, NULL),
			 BUS_OK);
	assert_int_equal(shim_case_call(&test, "shim.kill", kill_id, 0, &stop, NULL), BUS_OK);
	shim_case_wait_event(&test, "/tasks/exit");
	shim_case_replace(&test);
	assert_int_equal(shim_case_call(&test, "shim.create", create, 0, &create_and_start, NULL),
			 BUS_OK);
	assert_int_equal(shim_case_call(&test, "shim.kill", kill_id, 0, &stop, NULL), BUS_OK);
	assert_call(BUS_NOT_FOUND, "shim.kill", &stop);
	assert_call(BUS_OK, "shim.delete", &delete_gently);
	shim_test_assert_gone();
}

/* As a shim writes it that dies right after it. */
static void write_kill(int fd, const uint8_t id[ID_SIZE], int signal, bool is_sent)
{
	_cleanup_(schema_buffer_clear) struct schema_buffer entry = {};
	struct journal_record record = {
		.kind = JOURNAL_KILL,
		.time_ns = time_real_ns(),
		.signal = (uint64_t)signal,
		.request_id = {(uint8_t *)id, ID_SIZE},
		.error = is_sent ? NULL : (char *)"not known",
	};
	uint8_t head[8] = {};
	uint32_t numbers[2];

	assert_int_equal(schema_buffer_add(&entry, head, sizeof(head)), 0);
	assert_int_equal(schema_pack(schema_journal_record(), &record, &entry, NULL), 0);
	numbers[0] = htole32((uint32_t)(entry.size - sizeof(head)));
	numbers[1] = htole32(crc32c(0, entry.data + sizeof(head), entry.size - sizeof(head)));
	memcpy(entry.data, numbers, sizeof(numbers));
	assert_int_equal(write(fd, entry.data, entry.size), (ssize_t)entry.size);
}

static void signal_that_may_not_have_been_sent_is_told_so_and_only_sigkill_is_sent_again(
	void **state)
{
	struct shim_kill_request term = {.signal = SIGTERM}, end = {.signal = SIGKILL};
	static const uint8_t unknown[ID_SIZE] = {1}, sent[ID_SIZE] = {2}, last[ID_SIZE] = {3},
			     lost[ID_SIZE] = {4};
	_cleanup_(cleanup_free) char *path = NULL;
	_cleanup_(cleanup_fd) int fd = -1;

	(void)state;
	shim_case_init(&test, "exec sleep 1000\n");
	shim_case_bus_start(&test, SHIM_BUS_TAKES);
	shim_case_start(&test);
	assert_call(BUS_OK, "shim.create", &create_and_start);
	expect_published("1 /tasks/create");
	expect_published("2 /tasks/start");
	path = text_format("%s/journal", test.bundle);
	fd = open(path, O_WRONLY | O_APPEND | O_CLOEXEC);
	assert_true(fd >= 0);
	kill(test.shim, SIGSTOP);
	write_kill(fd, unknown, SIGTERM, false);
	write_kill(fd, sent, SIGTERM, false);
	write_kill(fd, sent, SIGTERM, true);
	write_kill(fd, last, SIGKILL, false);
	shim_case_replace(&test);
	assert_int_equal(shim_case_call(&test, "shim.kill", unknown, 0, &term, NULL), BUS_ABORTED);
	assert_string_equal(test.text, "not known");
	assert_int_equal(shim_case_call(&test, "shim.kill", sent, 0, &term, NULL), BUS_OK);
	init_of(TASK_RUNNING);
	assert_int_equal(shim_case_call(&test, "shim.kill", last, 0, &end, NULL), BUS_OK);
	shim_case_wait_event(&test, "/tasks/exit");
	/* One that has ended meanwhile may have done so of it. */
	kill(test.shim, SIGSTOP);
	write_kill(fd, lost, SIGKILL, false);
	shim_case_replace(&test);
	assert_int_equal(shim_case_call(&test, "shim.kill", lost, 0, &end, NULL), BUS_ABORTED);
	assert_text("not known");
	assert_call(BUS_NOT_FOUND, "shim.kill", &end);
	assert_call(BUS_OK, "shim.delete", &delete_gently);
	shim_test_assert_gone();
}

/* The shim dies in the midst of @create; the same request hears of it from the next shim, and from the one after it. */
static void expect_failed_create(const struct shim_create_request *create, const char *orders,
				 const char *expected)
{
	uint8_t id[ID_SIZE];

	shim_case_init(&test, "exec sleep 1000\n");
	shim_case_order(&test, orders);
	shim_case_start(&test);
	id_make(id);
	shim_case_send(&test, test.fd, "shim.create", id, 0, create);
	while (!shim_case_has(&test, "oci/" SHIM_CASE_TASK "/pid"))
		sched_yield();
	for (int i = 0; i < 2; i++) {
		shim_case_replace(&test);
		assert_int_equal(shim_case_call(&test, "shim.create", id, 0, create, NULL),
				 BUS_FAILED_PRECONDITION);
		assert_string_equal(test.text, expected);
	}
	assert_call(BUS_FAILED_PRECONDITION, "shim.create", create);
	assert_false(shim_case_has(&test, "oci/" SHIM_CASE_TASK));
	assert_call(BUS_OK, "shim.delete", &delete_by_force);
	shim_test_assert_gone();
	assert_int_equal(test.n_events, 0);
}

static void shim_killed_in_the_midst_of_create_leaves_nothing(void **state)
{
	(void)state;
	expect_failed_create(&create_only, "create after-hang\n",
			     "its shim died while it was being created");
}

static void create_that_may_have_started_it_says_so_after_the_shims_death(void **state)
{
	(void)state;
	expect_failed_create(&create_and_start, "run after-hang\n",
			     "its shim died while it was being created; whether it was started is "
			     "not known, what there was is ended");
}

static void shim_killed_after_delete_is_followed_by_one_that_publishes_the_rest(void **state)
{
	(void)state;
	shim_case_init(&test, "exit 0\n");
	shim_case_start(&test);
	assert_call(BUS_OK, "shim.create", &create_and_start);
	shim_case_wait_event(&test, "/tasks/exit");
	assert_call(BUS_OK, "shim.delete", &delete_gently);
	shim_case_replace(&test);
	shim_case_bus_start(&test, SHIM_BUS_TAKES);
	expect_published("1 /tasks/create");
	expect_published("2 /tasks/start");
	expect_published("3 /tasks/exit");
	expect_published("4 /tasks/delete");
	shim_test_assert_gone();
}

static void torn_journal_is_cut_and_continued(void **state)
{
	_cleanup_(cleanup_free) char *path = NULL;
	int fd;

	(void)state;
	shim_case_init(&test, "exit 0\n");
	shim_case_bus_start(&test, SHIM_BUS_TAKES);
	shim_case_start(&test);
	assert_call(BUS_OK, "shim.create", &create_and_start);
	shim_case_wait_event(&test, "/tasks/exit");
	kill(test.shim, SIGSTOP);
	path = text_format("%s/journal", test.bundle);
	fd = open(path, O_WRONLY | O_APPEND | O_CLOEXEC);
	assert_int_equal(write(fd, "\x40\0\0\0torn", 8), 8);
	close(fd);
	shim_case_replace(&test);
	assert_call(BUS_OK, "shim.delete", &delete_gently);
	assert_string_equal(test.events[test.n_events - 1].topic, "/tasks/delete");
	assert_int_equal(test.events[test.n_events - 1].seq, 4);
	shim_test_assert_gone();
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		SHIM_TEST(adopted_container_has_its_true_exit_code),
		SHIM_TEST(created_container_of_a_killed_shim_is_started_by_the_next),
		SHIM_TEST(start_that_is_under_way_when_the_shim_dies_comes_to_its_end),
		SHIM_TEST(zombie_that_is_adopted_has_its_true_exit_code),
		SHIM_TEST(exit_that_nobody_saw_is_unknown),
		SHIM_TEST(pidfd_that_was_kept_tells_the_code_of_an_exit_without_a_shim),
		SHIM_TEST(descriptors_are_taken_with_adopt_only),
		SHIM_TEST(known_exit_stays_known_and_is_published_by_the_next_shim),
		SHIM_TEST(requests_of_before_are_answered_from_the_journal),
		SHIM_TEST(
			signal_that_may_not_have_been_sent_is_told_so_and_only_sigkill_is_sent_again),
		SHIM_TEST(shim_killed_in_the_midst_of_create_leaves_nothing),
		SHIM_TEST(create_that_may_have_started_it_says_so_after_the_shims_death),
		SHIM_TEST(shim_killed_after_delete_is_followed_by_one_that_publishes_the_rest),
		SHIM_TEST(torn_journal_is_cut_and_continued),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
