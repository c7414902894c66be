/* Frozen, limited, checkpointed, restored: a real davit-shim, an OCI runtime that misbehaves on order. */

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "broker/lib/file.h"
#include "broker/lib/loop.h"
#include "tests/lib/shim_test.h"

static size_t count_events(const char *topic)
{
	size_t n = 0;

	for (size_t i = 0; i < test.n_events; i++)
		n += !strcmp(test.events[i].topic, topic);
	return n;
}

static void start_container(void)
{
	shim_case_init(&test, "exec sleep 1000\n");
	shim_case_bus_start(&test, SHIM_BUS_TAKES);
	shim_case_start(&test);
	assert_call(BUS_OK, "shim.create", &create_and_start);
}

static void finish(void)
{
	assert_call(BUS_OK, "shim.delete", &delete_by_force);
	shim_test_assert_gone();
}

/* ---- frozen -------------------------------------------------------------- */

static void frozen_container_goes_on_again(void **state)
{
	(void)state;
	start_container();
	assert_call(BUS_FAILED_PRECONDITION, "shim.resume", NULL);
	assert_call(BUS_OK, "shim.pause", NULL);
	assert_int_equal(shim_test_status(), TASK_PAUSED);
	assert_call(BUS_FAILED_PRECONDITION, "shim.pause", NULL);
	assert_int_equal(shim_case_exec(&test, "one", "exit 0\n", true, NULL),
			 BUS_FAILED_PRECONDITION);
	assert_text("paused");
	assert_call(BUS_FAILED_PRECONDITION, "shim.delete", &delete_gently);
	assert_call(BUS_OK, "shim.resume", NULL);
	assert_int_equal(shim_test_status(), TASK_RUNNING);
	assert_int_equal(shim_case_exec(&test, "one", "exit 3\n", true, NULL), BUS_OK);
	assert_int_equal(
		test.events[shim_case_wait_process(&test, "/tasks/exit", "one")].exit.exit_status,
		3);
	assert_int_equal(count_events("/tasks/paused"), 1);
	assert_int_equal(count_events("/tasks/resumed"), 1);
	finish();
}

static void pause_that_fails_leaves_it_running(void **state)
{
	(void)state;
	start_container();
	shim_case_order(&test, "pause fail no freezer here\n");
	assert_call(BUS_FAILED_PRECONDITION, "shim.pause", NULL);
	assert_text("no freezer here");
	assert_int_equal(shim_test_status(), TASK_RUNNING);
	shim_case_order(&test, "pause die\n");
	assert_call(BUS_FAILED_PRECONDITION, "shim.pause", NULL);
	assert_int_equal(shim_test_status(), TASK_RUNNING);
	assert_int_equal(count_events("/tasks/paused"), 0);
	shim_case_order(&test, "resume fail cannot thaw\n");
	assert_call(BUS_OK, "shim.pause", NULL);
	assert_call(BUS_FAILED_PRECONDITION, "shim.resume", NULL);
	assert_text("cannot thaw");
	assert_int_equal(shim_test_status(), TASK_PAUSED);
	finish();
}

static void pause_that_hangs_ends_at_its_deadline(void **state)
{
	struct shim_kill_request kill_it = {.signal = SIGTERM};
	uint8_t id[ID_SIZE];
	size_t exit;

	(void)state;
	start_container();
	shim_case_order(&test, "pause hang\n");
	id_make(id);
	shim_case_send(&test, test.fd, "shim.pause", id, time_boot_ms() + 700, NULL);
	assert_int_equal(shim_test_status(), TASK_PAUSING);
	assert_call(BUS_ABORTED, "shim.resume", NULL);
	assert_int_equal(shim_case_receive(&test, test.fd, "shim.pause", id, NULL),
			 BUS_DEADLINE_EXCEEDED);
	assert_int_equal(shim_test_status(), TASK_RUNNING);
	/* Nor does it hold up signals and exits. */
	id_make(id);
	shim_case_send(&test, test.fd, "shim.pause", id, 0, NULL);
	assert_call(BUS_OK, "shim.kill", &kill_it);
	exit = shim_case_wait_event(&test, "/tasks/exit");
	assert_int_equal(test.events[exit].exit.signal, SIGTERM);
	/* The call itself is left to its own deadline: the shim is not waited for. */
	kill(test.shim, SIGKILL);
	shim_case_replace(&test);
	finish();
}

static void init_that_ends_while_it_is_frozen_is_stopped(void **state)
{
	(void)state;
	start_container();
	shim_case_order(&test, "pause kill-init\n");
	assert_call(BUS_FAILED_PRECONDITION, "shim.pause", NULL);
	assert_text("init has ended");
	shim_case_wait_event(&test, "/tasks/exit");
	assert_int_equal(shim_test_status(), TASK_STOPPED);
	assert_int_equal(count_events("/tasks/paused"), 0);
	finish();
}

static void pause_waits_for_processes_that_are_being_made(void **state)
{
	struct shim_process_request one = {(char *)"one"};
	uint8_t exec_id[ID_SIZE], pause_id[ID_SIZE];

	(void)state;
	start_container();
	shim_case_order(&test, "exec delay 300\n");
	assert_int_equal(shim_case_exec(&test, "one", "exec sleep 1000\n", false, NULL), BUS_OK);
	id_make(exec_id);
	id_make(pause_id);
	shim_case_send(&test, test.fd, "shim.exec_start", exec_id, 0, &one);
	shim_case_send(&test, test.fd, "shim.pause", pause_id, 0, NULL);
	assert_int_equal(shim_case_receive(&test, test.fd, "shim.pause", pause_id, NULL), BUS_OK);
	assert_true(shim_case_wait_event(&test, "/tasks/exec-started") <
		    shim_case_wait_event(&test, "/tasks/paused"));
	finish();
}

static void frozen_container_is_deleted_by_force(void **state)
{
	(void)state;
	start_container();
	assert_call(BUS_OK, "shim.pause", NULL);
	finish();
}

/* ---- limits -------------------------------------------------------------- */

static void limits_reach_the_runtime(void **state)
{
	_cleanup_(cleanup_free) char *path = NULL, *text = NULL;
	struct shim_update_request update = {(char *)"resources.json"};

	(void)state;
	start_container();
	shim_case_write(&test, "resources.json", "{\"pids\":{\"limit\":7}}");
	assert_call(BUS_OK, "shim.update", &update);
	path = scratch_path(&test.scratch, "oci/updated");
	assert_int_equal(file_read(AT_FDCWD, path, 4096, &text, NULL), 0);
	assert_string_equal(text, "{\"pids\":{\"limit\":7}}");
	assert_false(shim_case_has(&test, "bundle/resources.json"));
	assert_call(BUS_FAILED_PRECONDITION, "shim.update", &update);
	assert_text("resources.json");
	update.resources_file = (char *)"../resources.json";
	assert_call(BUS_INVALID_ARGUMENT, "shim.update", &update);
	shim_case_order(&test, "update fail no such controller\n");
	update.resources_file = (char *)"resources.json";
	assert_call(BUS_FAILED_PRECONDITION, "shim.update", &update);
	assert_text("no such controller");
	assert_int_equal(shim_test_status(), TASK_RUNNING);
	finish();
}

/* ---- checkpoints --------------------------------------------------------- */

static struct task_checkpoint_request to_images(const char *path)
{
	return (struct task_checkpoint_request){.container_id = (char *)"web",
						.image_path = (char *)path};
}

static void checkpoint_that_fails_leaves_it_running(void **state)
{
	_cleanup_(cleanup_free) char *images = NULL;
	struct task_checkpoint_request request;

	(void)state;
	start_container();
	request = to_images(images = scratch_path(&test.scratch, "images"));
	shim_case_order(&test, "checkpoint fail criu is not installed\n");
	assert_call(BUS_FAILED_PRECONDITION, "shim.checkpoint", &request);
	assert_text("criu is not installed");
	assert_int_equal(shim_test_status(), TASK_RUNNING);
	request.image_path = (char *)"images";
	assert_call(BUS_INVALID_ARGUMENT, "shim.checkpoint", &request);
	assert_int_equal(count_events("/tasks/checkpointed"), 0);
	finish();
}

static void checkpoint_comes_before_the_exit_that_it_brings(void **state)
{
	_cleanup_(cleanup_free) char *images = NULL, *dump = NULL;
	struct task_checkpoint_request request;

	(void)state;
	start_container();
	request = to_images(images = scratch_path(&test.scratch, "images"));
	request.open_tcp = request.file_locks = true;
	assert_call(BUS_OK, "shim.checkpoint", &request);
	assert_int_equal(shim_test_status(), TASK_RUNNING);
	dump = shim_case_dump(&test, "checkpoint");
	assert_non_null(strstr(dump, "argument --leave-running"));
	assert_non_null(strstr(dump, "argument --tcp-established"));
	assert_non_null(strstr(dump, "argument --file-locks"));
	assert_null(strstr(dump, "argument --shell-job"));
	request.exit = true;
	assert_call(BUS_OK, "shim.checkpoint", &request);
	assert_true(shim_case_wait_event(&test, "/tasks/checkpointed") <
		    shim_case_wait_event(&test, "/tasks/exit"));
	assert_int_equal(count_events("/tasks/checkpointed"), 2);
	assert_call(BUS_OK, "shim.delete", &delete_gently);
	assert_int_equal(shim_case_wait_end(&test), 0);
}

static void container_is_restored_and_runs(void **state)
{
	_cleanup_(cleanup_free) char *images = NULL, *path = NULL, *dump = NULL;

	(void)state;
	shim_case_init(&test, "exec sleep 1000\n");
	images = scratch_path(&test.scratch, "images");
	path = scratch_path(&test.scratch, "images/dump.img");
	assert_int_equal(file_make_dir(images, 0700, NULL), 0);
	assert_int_equal(file_write(path, "image", 5, 0600, false, NULL), 0);
	test.config.checkpoint = images;
	shim_case_bus_start(&test, SHIM_BUS_TAKES);
	shim_case_start(&test);
	assert_call(BUS_OK, "shim.create", &create_only);
	assert_int_equal(shim_test_status(), TASK_RUNNING);
	dump = shim_case_dump(&test, "restore");
	assert_non_null(strstr(dump, "argument --detach"));
	/* A caller that does not know of the restoring starts it as well. */
	assert_call(BUS_OK, "shim.start", NULL);
	assert_int_equal(count_events("/tasks/start"), 1);
	finish();
}

static void restore_that_fails_says_why(void **state)
{
	_cleanup_(cleanup_free) char *images = NULL;

	(void)state;
	shim_case_init(&test, "exec sleep 1000\n");
	test.config.checkpoint = images = scratch_path(&test.scratch, "images");
	shim_case_bus_start(&test, SHIM_BUS_TAKES);
	shim_case_start(&test);
	assert_call(BUS_FAILED_PRECONDITION, "shim.create", &create_only);
	assert_text("no image in");
	assert_int_equal(test.n_events, 0);
	finish();
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		SHIM_TEST(frozen_container_goes_on_again),
		SHIM_TEST(pause_that_fails_leaves_it_running),
		SHIM_TEST(pause_that_hangs_ends_at_its_deadline),
		SHIM_TEST(init_that_ends_while_it_is_frozen_is_stopped),
		SHIM_TEST(pause_waits_for_processes_that_are_being_made),
		SHIM_TEST(frozen_container_is_deleted_by_force),
		SHIM_TEST(limits_reach_the_runtime),
		SHIM_TEST(checkpoint_that_fails_leaves_it_running),
		SHIM_TEST(checkpoint_comes_before_the_exit_that_it_brings),
		SHIM_TEST(container_is_restored_and_runs),
		SHIM_TEST(restore_that_fails_says_why),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
