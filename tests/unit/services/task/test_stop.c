/* task.stop, task.delete, task.pause and their like, with the shim played by the test. */

#include <signal.h>

#include "tests/unit/services/task/stand_in.h"

static const uint8_t stop_id[ID_SIZE] = {9};

static struct service_answer *send_stop(uint64_t timeout_ms, bool at_once)
{
	struct task_stop_request request = {
		.container_id = (char *)"web", .timeout_ms = timeout_ms, .at_once = at_once};

	return service_case_send(&shim.test, "task.stop", stop_id, 0, &request);
}

/* The signal that the shim is asked to send; it answers. */
static uint64_t killed_with(void)
{
	_cleanup_(shim_kill_request_clear) struct shim_kill_request kill = {};

	shim_asked("kill", &kill);
	assert_int_equal(kill.all, kill.signal == SIGKILL);
	shim_answer_empty();
	return kill.signal;
}

static void init_exits(uint64_t status)
{
	struct event_task_exit event = {.container_id = (char *)"web",
					.id = (char *)"web",
					.pid = (uint64_t)getpid(),
					.exit_status = status,
					.exited_at_ns = 5,
					.source = EXIT_OBSERVED};

	shim_event("/tasks/exit", &event);
}

static void state_event(const char *topic)
{
	struct event_task_state event = {.container_id = (char *)"web"};

	shim_event(topic, &event);
	turns(3);
}

static void assert_stopped(struct service_answer *answer, uint64_t status, bool killed)
{
	_cleanup_(task_stop_reply_clear) struct task_stop_reply reply = {};

	assert_int_equal(answered(answer), BUS_OK);
	assert_int_equal(
		schema_unpack(schema_task_stop_reply(), answer->body, answer->size, &reply, NULL),
		0);
	assert_int_equal(reply.killed, killed);
	assert_int_equal(reply.exit->exit_status, status);
}

static enum task_status status_now(void)
{
	_cleanup_(task_process_reply_clear) struct task_process_reply reply = {};
	struct task_name_request request = {.container_id = (char *)"web"};

	assert_int_equal(service_case_call(&shim.test, "task.get", NULL, &request, &reply), BUS_OK);
	return reply.process->status;
}

/* ---- stop ---------------------------------------------------------------- */

static void test_one_that_heeds_its_stop_signal_is_not_killed(void **state)
{
	struct service_answer *answer = send_stop(60000, false);

	(void)state;
	assert_int_equal(killed_with(), SIGQUIT);
	turns(5);
	assert_false(answer->is_answered);
	init_exits(7);
	assert_stopped(answer, 7, false);
	assert_false(shim.has_request);
}

static void test_one_that_does_not_end_is_killed_after_the_grace_period(void **state)
{
	uint64_t start_ms = time_boot_ms();
	struct service_answer *answer = send_stop(80, false);

	(void)state;
	assert_int_equal(killed_with(), SIGQUIT);
	assert_int_equal(killed_with(), SIGKILL);
	assert_true(time_boot_ms() - start_ms >= 80);
	init_exits(137);
	assert_stopped(answer, 137, true);
}

static void test_at_once_means_no_signal_but_the_last(void **state)
{
	struct service_answer *answer = send_stop(0, true);

	(void)state;
	assert_int_equal(killed_with(), SIGKILL);
	init_exits(137);
	assert_stopped(answer, 137, true);
}

static void test_a_paused_one_is_resumed_after_the_signal(void **state)
{
	struct service_answer *answer;

	(void)state;
	turns(5);
	state_event("/tasks/paused");
	assert_int_equal(status_now(), TASK_PAUSED);
	answer = send_stop(60000, false);
	assert_int_equal(killed_with(), SIGQUIT);
	shim_asked("resume", NULL);
	shim_answer_empty();
	state_event("/tasks/resumed");
	init_exits(0);
	assert_stopped(answer, 0, false);
}

static void test_a_stop_that_was_cut_goes_on_where_it_was(void **state)
{
	(void)state;
	(void)send_stop(300, false);
	assert_int_equal(killed_with(), SIGQUIT);
	turns(5);
	service_dies();
	/* No second stop signal: the next that comes is the last. */
	assert_int_equal(killed_with(), SIGKILL);
	init_exits(137);
	assert_stopped(send_stop(300, false), 137, true);
}

static void test_one_that_has_ended_is_stopped_already(void **state)
{
	(void)state;
	turns(5);
	init_exits(4);
	turns(3);
	assert_stopped(send_stop(0, false), 4, false);
	assert_false(shim.has_request);
}

static void test_one_that_was_not_started_is_killed(void **state)
{
	struct service_answer *answer = send_stop(60000, false);

	(void)state;
	assert_int_equal(killed_with(), SIGKILL);
	init_exits(137);
	assert_stopped(answer, 137, true);
}

/* ---- delete -------------------------------------------------------------- */

static struct service_answer *send_delete(const uint8_t *id, bool force)
{
	struct task_delete_request request = {.container_id = (char *)"web", .force = force};

	return service_case_send(&shim.test, "task.delete", id, 0, &request);
}

static void answer_delete(void)
{
	struct exit_record exit = {.exit_status = 9, .source = EXIT_OBSERVED};
	struct shim_delete_reply reply = {.pid = 1, .exit = &exit};

	shim_answer(schema_shim_delete_reply(), &reply);
}

static unsigned n_listed(void)
{
	_cleanup_(task_list_reply_clear) struct task_list_reply reply = {};
	struct task_list_request request = {};

	assert_int_equal(service_case_call(&shim.test, "task.list", NULL, &request, &reply),
			 BUS_OK);
	return (unsigned)reply.tasks.count;
}

static void test_a_task_is_listed_until_its_shim_has_deleted_it(void **state)
{
	struct task_create_request create = {.container_id = (char *)"web"};
	struct service_answer *answer = send_delete(NULL, true);
	_cleanup_(shim_delete_request_clear) struct shim_delete_request delete = {};

	(void)state;
	shim_asked("delete", &delete);
	assert_true(delete.force);
	assert_int_equal(n_listed(), 1);
	assert_int_equal(service_case_call(&shim.test, "task.create", NULL, &create, NULL),
			 BUS_ALREADY_EXISTS);
	answer_delete();
	assert_int_equal(answered(answer), BUS_OK);
	assert_int_equal(n_listed(), 0);
	assert_int_equal(status_now(), TASK_DELETED);
}

static void test_a_delete_that_was_cut_is_finished_and_answers_the_same(void **state)
{
	uint8_t id[ID_SIZE];

	(void)state;
	(void)send_delete(stop_id, true);
	shim_asked("delete", NULL);
	memcpy(id, shim.request.id, ID_SIZE);
	service_dies();
	shim_asked("delete", NULL);
	assert_memory_equal(shim.request.id, id, ID_SIZE);
	answer_delete();
	assert_int_equal(answered(send_delete(stop_id, true)), BUS_OK);
	assert_int_equal(n_listed(), 0);
}

static void test_a_delete_whose_shim_is_gone_with_all_of_it_succeeds(void **state)
{
	struct service_answer *answer = send_delete(NULL, true);
	_cleanup_(task_delete_reply_clear) struct task_delete_reply reply = {};

	(void)state;
	shim_asked("delete", NULL);
	/* It did all, and died before it could answer. */
	init_exits(9);
	turns(3);
	assert_int_equal(file_remove_tree(AT_FDCWD, shim.bundle, NULL), 0);
	shim.listener = close_fd(shim.listener);
	shim.lock = close_fd(shim.lock);
	drop_peer();
	assert_int_equal(answered(answer), BUS_OK);
	assert_int_equal(
		schema_unpack(schema_task_delete_reply(), answer->body, answer->size, &reply, NULL),
		0);
	assert_int_equal(reply.exit->exit_status, 9);
	assert_int_equal(n_listed(), 0);
}

static void test_a_second_delete_waits_for_the_first(void **state)
{
	struct service_answer *first = send_delete(NULL, true), *second;

	(void)state;
	shim_asked("delete", NULL);
	second = send_delete(NULL, true);
	turns(3);
	answer_delete();
	assert_int_equal(answered(first), BUS_OK);
	shim_asked("delete", NULL);
	shim_fail(BUS_ABORTED, "a delete is under way");
	shim_asked("delete", NULL);
	answer_delete();
	assert_int_equal(answered(second), BUS_OK);
}

static void test_an_exit_that_is_heard_of_after_the_delete_is_kept(void **state)
{
	static struct exit_record exit = {
		.exit_status = 6, .source = EXIT_OBSERVED, .exited_at_ns = 1};
	struct event_task_delete event = {.container_id = (char *)"web"};
	_cleanup_(task_wait_reply_clear) struct task_wait_reply wait = {};
	struct task_name_request name = {.container_id = (char *)"web"};

	(void)state;
	turns(5);
	shim_event("/tasks/delete", &event);
	turns(3);
	assert_int_equal(status_now(), TASK_DELETED);
	shim.state.status = TASK_DELETED;
	shim.state.exit = &exit;
	service_dies();
	turns(20);
	assert_int_equal(service_case_call(&shim.test, "task.wait", NULL, &name, &wait), BUS_OK);
	assert_int_equal(wait.exit->exit_status, 6);
}

/* The shim removes its bundle, and this service looks for its lock in it meanwhile. */
static void test_what_is_left_of_a_bundle_is_removed(void **state)
{
	struct service_answer *answer = send_delete(NULL, true);
	struct event_read_reply log = {.next = 1};

	(void)state;
	shim_asked("delete", NULL);
	shim.listener = close_fd(shim.listener);
	shim.lock = close_fd(shim.lock);
	drop_peer();
	/* Nothing is answered before the log has been read for its exit, which has none. */
	turns(5);
	assert_false(answer->is_answered);
	fake_call_answer(bus_asked("event.read"), BUS_OK, "", schema_event_read_reply(), &log);
	assert_int_equal(answered(answer), BUS_OK);
	assert_int_equal(n_listed(), 0);
	assert_int_not_equal(access(shim.bundle, F_OK), 0);
}

static void test_one_that_runs_is_not_deleted_without_force(void **state)
{
	(void)state;
	turns(5);
	assert_int_equal(answered(send_delete(NULL, false)), BUS_FAILED_PRECONDITION);
	state_event("/tasks/paused");
	assert_int_equal(answered(send_delete(NULL, false)), BUS_FAILED_PRECONDITION);
}

static void test_one_that_was_not_started_is_deleted(void **state)
{
	struct service_answer *answer = send_delete(NULL, false);

	(void)state;
	shim_asked("delete", NULL);
	answer_delete();
	assert_int_equal(answered(answer), BUS_OK);
}

static void test_what_is_forgotten_is_not_listed_but_still_waited_for(void **state)
{
	_cleanup_(task_list_reply_clear) struct task_list_reply reply = {};
	_cleanup_(task_wait_reply_clear) struct task_wait_reply wait = {};
	struct task_list_request list = {.deleted = true};
	struct task_name_request name = {.container_id = (char *)"web"};
	struct task_delete_request request = {
		.container_id = (char *)"web", .force = true, .forget = true};
	struct service_answer *answer = service_case_send(&shim.test, "task.delete", NULL, 0,
							  &request);

	(void)state;
	shim_asked("delete", NULL);
	answer_delete();
	assert_int_equal(answered(answer), BUS_OK);
	assert_int_equal(service_case_call(&shim.test, "task.list", NULL, &list, &reply), BUS_OK);
	assert_int_equal(reply.tasks.count, 0);
	assert_int_equal(service_case_call(&shim.test, "task.wait", NULL, &name, &wait), BUS_OK);
	assert_int_equal(wait.exit->exit_status, 9);
	/* There is no task any more, which is no error of one who wants none. */
	assert_int_equal(service_case_call(&shim.test, "task.delete", NULL, &request, NULL),
			 BUS_OK);
	ended_sweep(task_service(), time_real_ns() + UINT64_C(3600000000000));
	turns(2);
	assert_int_equal(service_case_call(&shim.test, "task.wait", NULL, &name, NULL),
			 BUS_NOT_FOUND);
}

/* ---- pause, update, streams ------------------------------------------------ */

static void test_a_pause_is_recorded_when_the_shim_has_done_it(void **state)
{
	struct task_container_request request = {.container_id = (char *)"web"};
	struct service_answer *answer;

	(void)state;
	answer = service_case_send(&shim.test, "task.resume", NULL, 0, &request);
	shim_asked("resume", NULL);
	shim_fail(BUS_FAILED_PRECONDITION, "container 'web' is running");
	assert_int_equal(answered(answer), BUS_FAILED_PRECONDITION);
	assert_int_equal(status_now(), TASK_RUNNING);
	answer = service_case_send(&shim.test, "task.pause", NULL, 0, &request);
	shim_asked("pause", NULL);
	assert_int_equal(status_now(), TASK_PAUSING);
	shim_answer_empty();
	assert_int_equal(answered(answer), BUS_OK);
	assert_int_equal(status_now(), TASK_PAUSED);
	answer = service_case_send(&shim.test, "task.resume", NULL, 0, &request);
	shim_asked("resume", NULL);
	shim_answer_empty();
	assert_int_equal(answered(answer), BUS_OK);
	assert_int_equal(status_now(), TASK_RUNNING);
}

static void test_a_pause_that_fails_leaves_it_running(void **state)
{
	struct task_container_request request = {.container_id = (char *)"web"};
	struct service_answer *answer;

	(void)state;
	answer = service_case_send(&shim.test, "task.pause", NULL, 0, &request);
	shim_asked("pause", NULL);
	assert_int_equal(status_now(), TASK_PAUSING);
	shim_fail(BUS_FAILED_PRECONDITION, "no freezer here");
	assert_int_equal(answered(answer), BUS_FAILED_PRECONDITION);
	assert_int_equal(status_now(), TASK_RUNNING);
}

static void test_a_pause_that_outlives_the_service_is_asked_again(void **state)
{
	struct task_container_request request = {.container_id = (char *)"web"};
	struct service_answer *answer;

	(void)state;
	(void)service_case_send(&shim.test, "task.pause", stop_id, 0, &request);
	shim_asked("pause", NULL);
	shim.state.status = TASK_PAUSING;
	service_dies();
	assert_int_equal(status_now(), TASK_PAUSING);
	answer = service_case_send(&shim.test, "task.pause", stop_id, 0, &request);
	shim_asked("pause", NULL);
	shim_answer_empty();
	assert_int_equal(answered(answer), BUS_OK);
	assert_int_equal(status_now(), TASK_PAUSED);
}

/* Its status is on record, its reply is not: the shim knows what it did for that request. */
static void test_a_pause_that_is_done_and_not_answered_is_asked_again(void **state)
{
	struct task_container_request request = {.container_id = (char *)"web"};
	struct service_answer *answer;

	(void)state;
	(void)service_case_send(&shim.test, "task.pause", stop_id, 0, &request);
	shim_asked("pause", NULL);
	state_event("/tasks/paused");
	shim.state.status = TASK_PAUSED;
	service_dies();
	assert_int_equal(status_now(), TASK_PAUSED);
	answer = service_case_send(&shim.test, "task.pause", stop_id, 0, &request);
	shim_asked("pause", NULL);
	shim_answer_empty();
	assert_int_equal(answered(answer), BUS_OK);
	assert_int_equal(status_now(), TASK_PAUSED);
}

static void test_resources_go_into_a_file_of_the_bundle(void **state)
{
	_cleanup_(shim_update_request_clear) struct shim_update_request update = {};
	struct task_update_request request = {.container_id = (char *)"web",
					      .resources = (char *)"{\"pids\":{\"limit\":7}}"};
	_cleanup_(cleanup_free) char *path = NULL, *text = NULL;
	struct service_answer *answer = service_case_send(&shim.test, "task.update", NULL, 0,
							  &request);

	(void)state;
	shim_asked("update", &update);
	path = text_format("%s/%s", shim.bundle, update.resources_file);
	assert_int_equal(file_read(AT_FDCWD, path, 4096, &text, NULL), 0);
	assert_string_equal(text, request.resources);
	shim_answer_empty();
	assert_int_equal(answered(answer), BUS_OK);
	request.resources = (char *)"7";
	assert_int_equal(service_case_call(&shim.test, "task.update", NULL, &request, NULL),
			 BUS_INVALID_ARGUMENT);
}

static void test_fifos_of_attach_are_absolute(void **state)
{
	struct task_attach_request request = {.container_id = (char *)"web",
					      .stdout = (char *)"out"};
	struct task_attach_reply reply = {.terminal = true};
	struct service_answer *answer;

	(void)state;
	assert_int_equal(service_case_call(&shim.test, "task.attach", NULL, &request, NULL),
			 BUS_INVALID_ARGUMENT);
	request.stdout = (char *)"/tmp/out";
	answer = service_case_send(&shim.test, "task.attach", NULL, 0, &request);
	shim_asked("attach", NULL);
	shim_answer(schema_task_attach_reply(), &reply);
	assert_int_equal(answered(answer), BUS_OK);
}

static void test_a_checkpoint_that_fails_leaves_no_directory_of_ours(void **state)
{
	_cleanup_(task_checkpoint_request_clear) struct task_checkpoint_request asked = {};
	struct task_checkpoint_request request = {.container_id = (char *)"web"};
	struct service_answer *answer = service_case_send(&shim.test, "task.checkpoint", NULL, 0,
							  &request);

	(void)state;
	shim_asked("checkpoint", &asked);
	assert_int_equal(access(asked.image_path, F_OK), 0);
	shim_fail(BUS_FAILED_PRECONDITION, "criu is not installed");
	assert_int_equal(answered(answer), BUS_FAILED_PRECONDITION);
	assert_int_not_equal(access(asked.image_path, F_OK), 0);
}

static void test_a_checkpoint_of_ours_stays_until_it_is_released(void **state)
{
	_cleanup_(task_checkpoint_reply_clear) struct task_checkpoint_reply reply = {};
	struct task_checkpoint_request request = {.container_id = (char *)"web"};
	struct service_answer *answer = service_case_send(&shim.test, "task.checkpoint", NULL, 0,
							  &request);
	struct task_checkpoint_release_request release = {.directory = (char *)"/etc"};

	(void)state;
	shim_asked("checkpoint", NULL);
	shim_answer_empty();
	assert_int_equal(answered(answer), BUS_OK);
	assert_int_equal(schema_unpack(schema_task_checkpoint_reply(), answer->body, answer->size,
				       &reply, NULL),
			 0);
	assert_int_equal(access(reply.directory, F_OK), 0);
	assert_int_equal(
		service_case_call(&shim.test, "task.checkpoint_release", NULL, &release, NULL),
		BUS_INVALID_ARGUMENT);
	release.directory = reply.directory;
	answer = service_case_send(&shim.test, "task.checkpoint_release", NULL, 0, &release);
	assert_int_equal(answered(answer), BUS_OK);
	assert_int_not_equal(access(reply.directory, F_OK), 0);
}

#define WITH_SHIM(test) cmocka_unit_test_setup_teardown(test, stand_in_running, stand_in_teardown)
#define WITH_CREATED(test)                                                                         \
	cmocka_unit_test_setup_teardown(test, stand_in_created, stand_in_teardown)

TEST_MAIN(WITH_SHIM(test_one_that_heeds_its_stop_signal_is_not_killed),
	  WITH_SHIM(test_one_that_does_not_end_is_killed_after_the_grace_period),
	  WITH_SHIM(test_at_once_means_no_signal_but_the_last),
	  WITH_SHIM(test_a_paused_one_is_resumed_after_the_signal),
	  WITH_SHIM(test_a_stop_that_was_cut_goes_on_where_it_was),
	  WITH_SHIM(test_one_that_has_ended_is_stopped_already),
	  WITH_CREATED(test_one_that_was_not_started_is_killed),
	  WITH_SHIM(test_a_task_is_listed_until_its_shim_has_deleted_it),
	  WITH_SHIM(test_a_delete_that_was_cut_is_finished_and_answers_the_same),
	  WITH_SHIM(test_a_delete_whose_shim_is_gone_with_all_of_it_succeeds),
	  WITH_SHIM(test_a_second_delete_waits_for_the_first),
	  WITH_SHIM(test_an_exit_that_is_heard_of_after_the_delete_is_kept),
	  WITH_SHIM(test_what_is_left_of_a_bundle_is_removed),
	  WITH_SHIM(test_one_that_runs_is_not_deleted_without_force),
	  WITH_CREATED(test_one_that_was_not_started_is_deleted),
	  WITH_SHIM(test_what_is_forgotten_is_not_listed_but_still_waited_for),
	  WITH_SHIM(test_a_pause_is_recorded_when_the_shim_has_done_it),
	  WITH_SHIM(test_a_pause_that_fails_leaves_it_running),
	  WITH_SHIM(test_a_pause_that_outlives_the_service_is_asked_again),
	  WITH_SHIM(test_a_pause_that_is_done_and_not_answered_is_asked_again),
	  WITH_SHIM(test_resources_go_into_a_file_of_the_bundle),
	  WITH_SHIM(test_fifos_of_attach_are_absolute),
	  WITH_SHIM(test_a_checkpoint_that_fails_leaves_no_directory_of_ours),
	  WITH_SHIM(test_a_checkpoint_of_ours_stays_until_it_is_released))
