/* Processes that are added to a container: a real davit-shim, an OCI runtime that misbehaves on order. */

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "broker/lib/file.h"
#include "broker/lib/loop.h"
#include "tests/lib/shim_test.h"

#define STORM 300

static void must_exec(enum bus_status expected, const char *id, const char *script, bool start)
{
	enum bus_status status = shim_case_exec(&test, id, script, start, NULL);

	if (status != expected)
		fail_msg("exec %s: status %d, not %d: %s", id, status, expected, test.text);
}

static void start_container(const char *init)
{
	shim_case_init(&test, init);
	shim_case_bus_start(&test, SHIM_BUS_TAKES);
	shim_case_start(&test);
	assert_call(BUS_OK, "shim.create", &create_and_start);
}

static void finish(void)
{
	assert_call(BUS_OK, "shim.delete", &delete_by_force);
	shim_test_assert_gone();
}

static const struct event_task_exit *wait_exit(const char *id)
{
	return &test.events[shim_case_wait_process(&test, "/tasks/exit", id)].exit;
}

static size_t count_events(const char *topic, const char *id)
{
	size_t n = 0;

	for (size_t i = 0; i < test.n_events; i++)
		n += !strcmp(test.events[i].topic, topic) && !strcmp(test.events[i].id, id);
	return n;
}

static struct shim_process_request named(const char *id)
{
	return (struct shim_process_request){.exec_id = (char *)id};
}

/* ---- the life of one ----------------------------------------------------- */

static void process_goes_through_its_life_in_order(void **state)
{
	struct shim_process_request one = named("one");
	struct shim_pid_reply started = {};
	struct shim_delete_reply deleted = {};
	struct shim_processes_reply list = {};
	size_t added, start, exit;

	(void)state;
	start_container("exec sleep 1000\n");
	must_exec(BUS_OK, "one", "exit 7\n", false);
	assert_int_equal(shim_case_call(&test, "shim.processes", NULL, 0, NULL, &list), BUS_OK);
	assert_int_equal(list.processes.count, 1);
	assert_int_equal(list.processes.items[0].status, TASK_CREATED);
	shim_processes_reply_clear(&list);
	assert_int_equal(shim_case_call(&test, "shim.exec_start", NULL, 0, &one, &started), BUS_OK);
	assert_true(started.pid > 1 && started.start_time);
	added = shim_case_wait_process(&test, "/tasks/exec-added", "one");
	start = shim_case_wait_process(&test, "/tasks/exec-started", "one");
	exit = shim_case_wait_process(&test, "/tasks/exit", "one");
	assert_true(added < start && start < exit);
	assert_int_equal(test.events[exit].exit.exit_status, 7);
	assert_int_equal(test.events[exit].exit.pid, started.pid);
	assert_int_equal(test.events[exit].exit.source, EXIT_OBSERVED);
	/* Once only. */
	assert_call(BUS_FAILED_PRECONDITION, "shim.exec_start", &one);
	assert_int_equal(shim_case_call(&test, "shim.exec_delete", NULL, 0, &one, &deleted),
			 BUS_OK);
	assert_int_equal(deleted.exit->exit_status, 7);
	assert_int_equal(deleted.pid, started.pid);
	shim_delete_reply_clear(&deleted);
	assert_call(BUS_NOT_FOUND, "shim.exec_delete", &one);
	assert_false(shim_case_has(&test, "bundle/one.json"));
	finish();
}

static void repeated_requests_get_the_same_answer(void **state)
{
	uint8_t id[ID_SIZE], id2[ID_SIZE];
	struct shim_exec_request request = {
		.exec_id = (char *)"one", .process_file = (char *)"one.json", .start = true};
	struct shim_process_request one = named("one");
	struct shim_exec_reply first = {}, again = {};
	struct shim_delete_reply deleted = {};

	(void)state;
	start_container("exec sleep 1000\n");
	shim_case_write(&test, "one.json", "{\"cwd\":\"/\"}");
	shim_case_write(&test, "one.json.sh", "exit 3\n");
	id_make(id);
	id_make(id2);
	assert_int_equal(shim_case_call(&test, "shim.exec", id, 0, &request, &first), BUS_OK);
	assert_int_equal(shim_case_call(&test, "shim.exec", id, 0, &request, &again), BUS_OK);
	assert_int_equal(again.pid, first.pid);
	assert_int_equal(again.start_time, first.start_time);
	request.start = false;
	assert_int_equal(shim_case_call(&test, "shim.exec", id, 0, &request, NULL),
			 BUS_INVALID_ARGUMENT);
	wait_exit("one");
	for (int i = 0; i < 2; i++) {
		assert_int_equal(shim_case_call(&test, "shim.exec_delete", id2, 0, &one, &deleted),
				 BUS_OK);
		assert_int_equal(deleted.exit->exit_status, 3);
		shim_delete_reply_clear(&deleted);
	}
	assert_int_equal(count_events("/tasks/exit", "one"), 1);
	finish();
}

static void bad_requests_are_refused_by_name(void **state)
{
	struct shim_exec_request request = {.exec_id = (char *)"../x",
					    .process_file = (char *)"x.json"};

	(void)state;
	start_container("exec sleep 1000\n");
	assert_call(BUS_INVALID_ARGUMENT, "shim.exec", &request);
	request.exec_id = (char *)"x";
	request.process_file = (char *)"../x.json";
	assert_call(BUS_INVALID_ARGUMENT, "shim.exec", &request);
	request.process_file = (char *)"x.json";
	request.exec_id = (char *)"web";
	assert_call(BUS_ALREADY_EXISTS, "shim.exec", &request);
	must_exec(BUS_OK, "x", "exit 0\n", false);
	must_exec(BUS_ALREADY_EXISTS, "x", "exit 0\n", false);
	assert_text("'x'");
	assert_call(BUS_NOT_FOUND, "shim.exec_start",
		    &(struct shim_process_request){(char *)"nosuch"});
	assert_text("nosuch");
	finish();
}

static void process_file_is_checked_before_a_runtime_reads_it(void **state)
{
	struct shim_exec_request request = {
		.exec_id = (char *)"x", .process_file = (char *)"x.json", .start = true};

	(void)state;
	start_container("exec sleep 1000\n");
	assert_call(BUS_INVALID_ARGUMENT, "shim.exec", &request);
	shim_case_write(&test, "x.json", "{\"cwd\":\"/proc/self/fd/7\"}");
	assert_call(BUS_INVALID_ARGUMENT, "shim.exec", &request);
	assert_text("/proc/self/fd/7");
	shim_case_write(&test, "x.json",
			"{\"cwd\":\"/\",\"capabilities\":{\"inheritable\":[\"CAP_KILL\"]}}");
	assert_call(BUS_INVALID_ARGUMENT, "shim.exec", &request);
	shim_case_write(&test, "x.json", "{\"cwd\":\"/\"}, \"process\":{\"cwd\":\"/\"");
	assert_call(BUS_INVALID_ARGUMENT, "shim.exec", &request);
	assert_null(shim_case_dump(&test, "exec"));
	finish();
}

static void table_is_bounded(void **state)
{
	char id[16];

	(void)state;
	start_container("exec sleep 1000\n");
	for (int i = 0; i < 256; i++) {
		snprintf(id, sizeof(id), "p%d", i);
		must_exec(BUS_OK, id, "exit 0\n", false);
	}
	must_exec(BUS_RESOURCE_EXHAUSTED, "more", "exit 0\n", false);
	assert_text("256");
	assert_call(BUS_OK, "shim.exec_delete", &(struct shim_process_request){(char *)"p17"});
	must_exec(BUS_OK, "more", "exit 0\n", false);
	finish();
}

/* ---- a runtime that misbehaves ------------------------------------------- */

static void runtimes_words_reach_the_caller(void **state)
{
	struct shim_process_request two = named("two");
	struct shim_processes_reply list = {};

	(void)state;
	start_container("exec sleep 1000\n");
	shim_case_order(&test, "exec fail executable file `/nosuch` not found\n");
	must_exec(BUS_FAILED_PRECONDITION, "one", "", true);
	assert_text("executable file `/nosuch` not found");
	/* It was added only to be started. */
	assert_int_equal(shim_case_call(&test, "shim.processes", NULL, 0, NULL, &list), BUS_OK);
	assert_int_equal(list.processes.count, 0);
	must_exec(BUS_OK, "two", "", false);
	assert_call(BUS_FAILED_PRECONDITION, "shim.exec_start", &two);
	assert_call(BUS_FAILED_PRECONDITION, "shim.exec_start", &two);
	assert_call(BUS_OK, "shim.exec_delete", &two);
	assert_int_equal(count_events("/tasks/exit", "one") + count_events("/tasks/exit", "two"),
			 0);
	shim_case_order(&test, "");
	must_exec(BUS_OK, "one", "exit 4\n", true);
	assert_int_equal(wait_exit("one")->exit_status, 4);
	finish();
}

static void exec_that_hangs_holds_up_nobody(void **state)
{
	struct shim_process_request hangs = named("hangs");
	struct shim_kill_request kill_other = {.exec_id = (char *)"other", .signal = SIGTERM};
	uint64_t deadline = time_boot_ms() + 2000;
	uint8_t id[ID_SIZE];

	(void)state;
	start_container("exec sleep 1000\n");
	shim_case_order(&test, "exec:hangs.json hang\n");
	must_exec(BUS_OK, "hangs", "exit 0\n", false);
	id_make(id);
	shim_case_send(&test, test.fd, "shim.exec_start", id, deadline, &hangs);
	must_exec(BUS_OK, "other", "exec sleep 1000\n", true);
	assert_call(BUS_OK, "shim.kill", &kill_other);
	assert_int_equal(wait_exit("other")->signal, SIGTERM);
	assert_call(BUS_FAILED_PRECONDITION, "shim.exec_delete", &hangs);
	assert_true(time_boot_ms() < deadline);
	/* Whether it was started is not known: it has an end, and is not run again. */
	assert_int_equal(shim_case_receive(&test, test.fd, "shim.exec_start", id, NULL),
			 BUS_DEADLINE_EXCEEDED);
	assert_text("whether it was started is not known");
	assert_int_equal(wait_exit("hangs")->source, EXIT_UNKNOWN);
	assert_call(BUS_FAILED_PRECONDITION, "shim.exec_start", &hangs);
	assert_call(BUS_OK, "shim.exec_delete", &hangs);
	finish();
}

static void more_than_can_be_made_at_once_wait_for_their_turn(void **state)
{
	char name[16];
	uint8_t ids[20][ID_SIZE];

	(void)state;
	start_container("exec sleep 1000\n");
	shim_case_order(&test, "exec delay 100\n");
	for (int i = 0; i < 20; i++) {
		struct shim_process_request process = named(name);

		snprintf(name, sizeof(name), "p%d", i);
		must_exec(BUS_OK, name, "exit 5\n", false);
		id_make(ids[i]);
		shim_case_send(&test, test.fd, "shim.exec_start", ids[i], 0, &process);
	}
	for (int i = 19; i >= 0; i--) {
		snprintf(name, sizeof(name), "p%d", i);
		assert_int_equal(wait_exit(name)->exit_status, 5);
	}
	finish();
}

static void runtime_that_dies_leaves_no_process_unnoticed(void **state)
{
	_cleanup_(cleanup_free) char *path = NULL, *text = NULL;

	(void)state;
	start_container("exec sleep 1000\n");
	path = scratch_path(&test.scratch, "pid");
	shim_case_order(&test, "exec after-die\n");
	{
		_cleanup_(cleanup_free) char *script = text_format("echo $$ >%s; exec sleep 1000\n",
								   path);

		must_exec(BUS_FAILED_PRECONDITION, "one", script, true);
	}
	assert_text("whether it was started is not known");
	assert_int_equal(wait_exit("one")->source, EXIT_UNKNOWN);
	assert_call(BUS_OK, "shim.exec_delete", &(struct shim_process_request){(char *)"one"});
	finish();
}

static void exec_that_kills_init_ends_before_it(void **state)
{
	size_t init, one;

	(void)state;
	start_container("exec sleep 1000\n");
	shim_case_order(&test, "exec after-kill-init\n");
	must_exec(BUS_OK, "one", "exec sleep 1000\n", true);
	init = shim_case_wait_process(&test, "/tasks/exit", "web");
	one = shim_case_wait_process(&test, "/tasks/exit", "one");
	assert_true(one < init);
	assert_int_equal(test.events[one].exit.signal, SIGKILL);
	must_exec(BUS_FAILED_PRECONDITION, "late", "exit 0\n", true);
	must_exec(BUS_FAILED_PRECONDITION, "late", "exit 0\n", false);
	finish();
}

static void process_cannot_be_started_before_init(void **state)
{
	(void)state;
	shim_case_init(&test, "exec sleep 1000\n");
	shim_case_bus_start(&test, SHIM_BUS_TAKES);
	shim_case_start(&test);
	must_exec(BUS_FAILED_PRECONDITION, "one", "exit 0\n", true);
	assert_call(BUS_OK, "shim.create", &create_only);
	must_exec(BUS_FAILED_PRECONDITION, "one", "exit 0\n", true);
	must_exec(BUS_OK, "one", "exit 6\n", false);
	assert_call(BUS_OK, "shim.start", NULL);
	assert_call(BUS_OK, "shim.exec_start", &(struct shim_process_request){(char *)"one"});
	assert_int_equal(wait_exit("one")->exit_status, 6);
	finish();
}

static void signals_reach_the_process_that_is_named(void **state)
{
	struct shim_kill_request signal = {.exec_id = (char *)"one", .signal = SIGUSR1};

	(void)state;
	start_container("exec sleep 1000\n");
	must_exec(BUS_OK, "one", "exec sleep 1000\n", false);
	assert_call(BUS_FAILED_PRECONDITION, "shim.kill", &signal);
	assert_call(BUS_OK, "shim.exec_start", &(struct shim_process_request){(char *)"one"});
	assert_call(BUS_OK, "shim.kill", &signal);
	assert_int_equal(wait_exit("one")->signal, SIGUSR1);
	assert_call(BUS_NOT_FOUND, "shim.kill", &signal);
	signal.exec_id = (char *)"nosuch";
	assert_call(BUS_NOT_FOUND, "shim.kill", &signal);
	assert_text("nosuch");
	finish();
}

/* ---- many ---------------------------------------------------------------- */

/* Each exit once, with its code, and before init's. @adopted: of processes that another shim made. */
static void assert_exits(int n, bool exact, bool adopted)
{
	size_t init = shim_case_wait_process(&test, "/tasks/exit", "web");
	char id[16];

	for (int i = 0; i < n; i++) {
		size_t started, at;

		snprintf(id, sizeof(id), "p%d", i);
		started = count_events("/tasks/exec-started", id);
		assert_int_equal(count_events("/tasks/exit", id), started);
		if (!started)
			continue;
		at = shim_case_wait_process(&test, "/tasks/exit", id);
		assert_true(at < init);
		if (adopted && !shim_case_kernel_tells_exits())
			continue;
		assert_int_equal(test.events[at].exit.source, EXIT_OBSERVED);
		if (exact || test.events[at].exit.signal != SIGKILL)
			assert_int_equal(test.events[at].exit.exit_status, i % 100);
	}
	assert_int_equal(count_events("/tasks/exit", "web"), 1);
}

static void exits_of_a_storm_come_once_and_before_inits(void **state)
{
	char name[16], script[32];
	uint8_t id[ID_SIZE];

	(void)state;
	start_container("exec sleep 1000\n");
	for (int i = 0; i < STORM; i++) {
		struct shim_exec_request request = {
			.exec_id = name, .process_file = name, .start = true};
		struct shim_process_request process = named(name);
		char file[24];

		snprintf(name, sizeof(name), "p%d", i);
		snprintf(file, sizeof(file), "%s.sh", name);
		snprintf(script, sizeof(script), "exit %d\n", i % 100);
		shim_case_write(&test, name, "{\"cwd\":\"/\"}");
		shim_case_write(&test, file, script);
		/* The table has 256 places. */
		if (i >= 250) {
			snprintf(name, sizeof(name), "p%d", i - 250);
			shim_case_wait_process(&test, "/tasks/exit", name);
			assert_call(BUS_OK, "shim.exec_delete", &process);
			snprintf(name, sizeof(name), "p%d", i);
		}
		id_make(id);
		shim_case_send(&test, test.fd, "shim.exec", id, 0, &request);
		shim_case_drain(&test);
		if (i == STORM - 20)
			assert_call(BUS_OK, "shim.kill",
				    &(struct shim_kill_request){.signal = SIGKILL});
	}
	assert_exits(STORM, false, false);
	finish();
}

/* ---- without the shim ---------------------------------------------------- */

static void next_shim_goes_on_with_all_processes(void **state)
{
	struct shim_kill_request signal = {.exec_id = (char *)"runs", .signal = SIGTERM};
	struct shim_processes_reply list = {};
	struct shim_delete_reply deleted = {};
	struct shim_process_request ended = named("ended");
	size_t at;

	(void)state;
	start_container("exec sleep 1000\n");
	must_exec(BUS_OK, "added", "exit 9\n", false);
	must_exec(BUS_OK, "runs",
		  "sleep 1000 & trap \"kill $!; exit 8\" TERM; >../oci/ready; wait\n", true);
	shim_case_wait_file(&test, "oci/ready");
	must_exec(BUS_OK, "ended", "exit 2\n", true);
	wait_exit("ended");
	shim_case_replace(&test);
	assert_int_equal(shim_case_call(&test, "shim.processes", NULL, 0, NULL, &list), BUS_OK);
	assert_int_equal(list.processes.count, 3);
	assert_string_equal(list.processes.items[0].exec_id, "added");
	assert_int_equal(list.processes.items[0].status, TASK_CREATED);
	assert_int_equal(list.processes.items[1].status, TASK_RUNNING);
	assert_int_equal(list.processes.items[2].status, TASK_STOPPED);
	assert_int_equal(list.processes.items[2].exit->exit_status, 2);
	shim_processes_reply_clear(&list);
	assert_call(BUS_OK, "shim.kill", &signal);
	at = shim_case_wait_process(&test, "/tasks/exit", "runs");
	shim_case_assert_adopted_exit(&test, at, 8);
	assert_int_equal(shim_case_call(&test, "shim.exec_delete", NULL, 0, &ended, &deleted),
			 BUS_OK);
	assert_int_equal(deleted.exit->exit_status, 2);
	shim_delete_reply_clear(&deleted);
	/* And with new ones. */
	assert_call(BUS_OK, "shim.exec_start", &(struct shim_process_request){(char *)"added"});
	assert_int_equal(wait_exit("added")->exit_status, 9);
	must_exec(BUS_OK, "new", "exit 1\n", true);
	assert_int_equal(wait_exit("new")->exit_status, 1);
	finish();
}

static void start_that_a_shims_death_cut_short_is_not_run_again(void **state)
{
	_cleanup_(cleanup_free) char *path = NULL, *script = NULL, *text = NULL;
	struct shim_process_request one = named("one");
	struct shim_processes_reply list = {};
	uint8_t id[ID_SIZE];

	(void)state;
	start_container("exec sleep 1000\n");
	path = scratch_path(&test.scratch, "ran");
	script = text_format("echo ran >>%s\n", path);
	shim_case_order(&test, "exec fill 256\nexec hang\n");
	must_exec(BUS_OK, "one", script, false);
	id_make(id);
	shim_case_send(&test, test.fd, "shim.exec_start", id, 0, &one);
	while (!text) {
		text = shim_case_dump(&test, "exec");
		(void)!wait_on_fd(test.fd, 0, 10);
	}
	shim_case_replace(&test);
	shim_case_order(&test, "");
	assert_int_equal(shim_case_call(&test, "shim.processes", NULL, 0, NULL, &list), BUS_OK);
	assert_int_equal(list.processes.items[0].status, TASK_STOPPED);
	assert_int_equal(list.processes.items[0].exit->source, EXIT_UNKNOWN);
	shim_processes_reply_clear(&list);
	assert_int_equal(shim_case_call(&test, "shim.exec_start", id, 0, &one, NULL), BUS_ABORTED);
	assert_call(BUS_FAILED_PRECONDITION, "shim.exec_start", &one);
	assert_false(shim_case_has(&test, "ran"));
	assert_call(BUS_OK, "shim.exec_delete", &one);
	finish();
}

static void exits_of_before_come_before_inits_after_a_take_over(void **state)
{
	char id[16];

	(void)state;
	start_container("exec sleep 1000\n");
	for (int i = 0; i < 10; i++) {
		snprintf(id, sizeof(id), "p%d", i);
		must_exec(BUS_OK, id, "exec sleep 1000\n", true);
	}
	shim_case_replace(&test);
	assert_call(BUS_OK, "shim.kill", &(struct shim_kill_request){.signal = SIGKILL});
	assert_exits(10, false, true);
	assert_call(BUS_OK, "shim.delete", &delete_gently);
	assert_int_equal(shim_case_wait_end(&test), 0);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		SHIM_TEST(process_goes_through_its_life_in_order),
		SHIM_TEST(repeated_requests_get_the_same_answer),
		SHIM_TEST(bad_requests_are_refused_by_name),
		SHIM_TEST(process_file_is_checked_before_a_runtime_reads_it),
		SHIM_TEST(table_is_bounded),
		SHIM_TEST(runtimes_words_reach_the_caller),
		SHIM_TEST(exec_that_hangs_holds_up_nobody),
		SHIM_TEST(more_than_can_be_made_at_once_wait_for_their_turn),
		SHIM_TEST(runtime_that_dies_leaves_no_process_unnoticed),
		SHIM_TEST(exec_that_kills_init_ends_before_it),
		SHIM_TEST(process_cannot_be_started_before_init),
		SHIM_TEST(signals_reach_the_process_that_is_named),
		SHIM_TEST(exits_of_a_storm_come_once_and_before_inits),
		SHIM_TEST(next_shim_goes_on_with_all_processes),
		SHIM_TEST(start_that_a_shims_death_cut_short_is_not_run_again),
		SHIM_TEST(exits_of_before_come_before_inits_after_a_take_over),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
