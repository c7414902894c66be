/* Added processes: task.exec and what follows, with the shim and the runtime service played by the test. */

#include "tests/unit/services/task/stand_in.h"

static const uint8_t exec_id[ID_SIZE] = {7};

static struct service_answer *send_exec(const uint8_t *id, const char *name, bool start)
{
	char *args[] = {(char *)"ls", (char *)"-l"};
	struct task_exec_request request = {.container_id = (char *)"web",
					    .exec_id = (char *)name,
					    .args = {args, 2},
					    .start = start};

	return service_case_send(&shim.test, "task.exec", id, 0, &request);
}

static void make_process(void)
{
	_cleanup_(runtime_process_request_clear) struct runtime_process_request request = {};
	struct runtime_process_reply reply = {.process = (char *)"{\"args\":[\"ls\"]}"};
	struct fake_call *call = bus_asked("runtime.process");
	const void *body;
	size_t size;

	body = fake_call_body(call, &size);
	assert_int_equal(
		schema_unpack(schema_runtime_process_request(), body, size, &request, NULL), 0);
	assert_string_equal(request.task_id, TASK_ID);
	assert_int_equal(request.pid, getpid());
	assert_int_equal(request.args.count, 2);
	fake_call_answer(call, BUS_OK, "", schema_runtime_process_reply(), &reply);
}

static void assert_file(const char *name)
{
	_cleanup_(cleanup_free) char *path = text_format("%s/%s", shim.bundle, name);
	_cleanup_(cleanup_free) char *text = NULL;

	assert_true(strlen(name) <= 128);
	assert_int_equal(file_read(AT_FDCWD, path, 4096, &text, NULL), 0);
	assert_string_equal(text, "{\"args\":[\"ls\"]}");
}

static void exec_to_shim(bool start)
{
	_cleanup_(shim_exec_request_clear) struct shim_exec_request request = {};

	make_process();
	shim_asked("exec", &request);
	assert_string_equal(request.exec_id, "e1");
	assert_int_equal(request.start, start);
	assert_file(request.process_file);
}

static void answer_exec(uint64_t pid)
{
	struct shim_exec_reply reply = {.pid = pid, .start_time = pid ? 42 : 0};

	shim_answer(schema_shim_exec_reply(), &reply);
}

static void tell_exit(const char *id, uint64_t status)
{
	struct event_task_exit event = {.container_id = (char *)"web",
					.id = (char *)id,
					.pid = 99,
					.exit_status = status,
					.exited_at_ns = 5,
					.source = EXIT_OBSERVED};

	shim_event("/tasks/exit", &event);
	turns(3);
}

static enum bus_status get(const char *name, struct task_process_reply *ret_reply)
{
	struct task_name_request request = {.container_id = (char *)"web", .exec_id = (char *)name};

	return service_case_call(&shim.test, "task.get", NULL, &request, ret_reply);
}

static void assert_status(const char *name, enum task_status status)
{
	_cleanup_(task_process_reply_clear) struct task_process_reply reply = {};

	assert_int_equal(get(name, &reply), BUS_OK);
	assert_string_equal(schema_enum_text(&schema_enum_task_status, reply.process->status),
			    schema_enum_text(&schema_enum_task_status, status));
}

static void wait_for_exit(const char *name, bool *ret_exited, struct exit_record *ret_exit)
{
	_cleanup_(task_wait_reply_clear) struct task_wait_reply reply = {};
	struct task_name_request request = {.container_id = (char *)"web", .exec_id = (char *)name};

	assert_int_equal(service_case_call(&shim.test, "task.wait", NULL, &request, &reply),
			 BUS_OK);
	*ret_exited = reply.exited;
	if (reply.exit)
		*ret_exit = *reply.exit;
	ret_exit->cause = NULL;
}

static void add_running(void)
{
	struct service_answer *answer = send_exec(exec_id, "e1", true);

	exec_to_shim(true);
	answer_exec(99);
	assert_int_equal(answered(answer), BUS_OK);
}

/* ---- adding -------------------------------------------------------------- */

static void test_a_process_is_added_and_started_in_one_request_to_the_shim(void **state)
{
	_cleanup_(task_process_reply_clear) struct task_process_reply reply = {};
	bool exited;
	struct exit_record exit = {};

	(void)state;
	add_running();
	assert_int_equal(get("e1", &reply), BUS_OK);
	assert_int_equal(reply.process->status, TASK_RUNNING);
	assert_int_equal(reply.process->pid, 99);
	assert_string_equal(reply.process->args.items[1], "-l");
	wait_for_exit("e1", &exited, &exit);
	assert_false(exited);
}

static void test_one_that_was_only_added_is_started_later(void **state)
{
	struct task_start_request start = {.container_id = (char *)"web", .exec_id = (char *)"e1"};
	struct shim_pid_reply started = {.pid = 99, .start_time = 42};
	struct service_answer *answer = send_exec(NULL, "e1", false);

	(void)state;
	exec_to_shim(false);
	answer_exec(0);
	assert_int_equal(answered(answer), BUS_OK);
	assert_status("e1", TASK_CREATED);
	answer = service_case_send(&shim.test, "task.start", NULL, 0, &start);
	shim_asked("exec_start", NULL);
	shim_answer(schema_shim_pid_reply(), &started);
	assert_int_equal(answered(answer), BUS_OK);
	assert_status("e1", TASK_RUNNING);
}

static void test_the_same_request_gets_the_same_answer_and_adds_nothing_twice(void **state)
{
	struct service_answer *answer;

	(void)state;
	add_running();
	answer = send_exec(exec_id, "e1", true);
	assert_int_equal(answered(answer), BUS_OK);
	assert_false(shim.has_request);
	assert_null(fake_bus_find(shim.test.bus, NULL));
	answer = send_exec(NULL, "e1", true);
	assert_int_equal(answered(answer), BUS_ALREADY_EXISTS);
}

static void test_what_the_shim_refuses_leaves_no_row(void **state)
{
	struct service_answer *answer = send_exec(NULL, "e1", true);

	(void)state;
	exec_to_shim(true);
	shim_fail(BUS_FAILED_PRECONDITION, "ls: not found");
	shim_asked("exec_delete", NULL);
	shim_fail(BUS_NOT_FOUND, "no such process");
	assert_int_equal(answered(answer), BUS_FAILED_PRECONDITION);
	assert_non_null(strstr(answer->text, "ls: not found"));
	assert_int_equal(get("e1", NULL), BUS_NOT_FOUND);
}

static void test_one_whose_start_is_uncertain_is_reported_as_unknown(void **state)
{
	struct service_answer *answer = send_exec(exec_id, "e1", true);
	struct exit_record exit = {};
	bool exited;

	(void)state;
	exec_to_shim(true);
	shim_fail(BUS_UNAVAILABLE, "a shim died");
	shim_asked("exec", NULL); /* the same id: the shim knows it */
	shim_fail(BUS_ABORTED, "its start is uncertain");
	shim_asked("exec_delete", NULL);
	shim.processes[0] = (struct shim_process_state){.exec_id = (char *)"e1",
							.status = TASK_UNKNOWN};
	shim.n_processes = 1;
	shim_fail(BUS_FAILED_PRECONDITION, "it may run");
	assert_int_equal(answered(answer), BUS_ABORTED);
	assert_status("e1", TASK_UNKNOWN);
	wait_for_exit("e1", &exited, &exit);
	assert_true(exited);
	assert_int_equal(exit.source, EXIT_UNKNOWN);
	assert_int_equal(answered(send_exec(exec_id, "e1", true)), BUS_ABORTED);
	assert_false(shim.has_request);
}

static void test_an_exec_that_was_cut_by_a_crash_asks_the_shim_with_the_same_id(void **state)
{
	uint8_t id[ID_SIZE];

	(void)state;
	(void)send_exec(exec_id, "e1", true);
	exec_to_shim(true);
	memcpy(id, shim.request.id, ID_SIZE);
	service_dies();
	shim_asked("exec", NULL);
	assert_memory_equal(shim.request.id, id, ID_SIZE);
	answer_exec(99);
	assert_int_equal(answered(send_exec(exec_id, "e1", true)), BUS_OK);
	assert_status("e1", TASK_RUNNING);
}

static void test_names_and_states_that_cannot_be_are_refused(void **state)
{
	struct task_exec_request none = {.container_id = (char *)"web", .exec_id = (char *)"e1"};

	(void)state;
	assert_int_equal(answered(send_exec(NULL, "web", true)), BUS_INVALID_ARGUMENT);
	assert_int_equal(answered(send_exec(NULL, "a/b", true)), BUS_INVALID_ARGUMENT);
	assert_int_equal(service_case_call(&shim.test, "task.exec", NULL, &none, NULL),
			 BUS_INVALID_ARGUMENT);
	tell_exit("web", 0);
	assert_int_equal(answered(send_exec(NULL, "e1", true)), BUS_FAILED_PRECONDITION);
}

/* ---- its end ------------------------------------------------------------- */

static void test_its_exit_is_known_until_long_after_it_was_deleted(void **state)
{
	struct task_delete_request request = {.container_id = (char *)"web",
					      .exec_id = (char *)"e1"};
	struct exit_record exit = {};
	struct shim_delete_reply deleted = {.pid = 99};
	struct service_answer *answer;
	bool exited;

	(void)state;
	add_running();
	assert_int_equal(service_case_call(&shim.test, "task.delete", NULL, &request, NULL),
			 BUS_FAILED_PRECONDITION);
	tell_exit("e1", 3);
	assert_status("web", TASK_RUNNING);
	assert_status("e1", TASK_STOPPED);
	answer = service_case_send(&shim.test, "task.delete", NULL, 0, &request);
	shim_asked("exec_delete", NULL);
	shim_answer(schema_shim_delete_reply(), &deleted);
	assert_int_equal(answered(answer), BUS_OK);
	assert_status("e1", TASK_DELETED);
	wait_for_exit("e1", &exited, &exit);
	assert_true(exited);
	assert_int_equal(exit.exit_status, 3);
	assert_int_equal(exit.source, EXIT_OBSERVED);
}

static void test_force_kills_it_and_waits_for_its_end(void **state)
{
	struct task_delete_request request = {
		.container_id = (char *)"web", .exec_id = (char *)"e1", .force = true};
	_cleanup_(shim_kill_request_clear) struct shim_kill_request kill = {};
	struct shim_delete_reply deleted = {.pid = 99};
	struct service_answer *answer;

	(void)state;
	add_running();
	answer = service_case_send(&shim.test, "task.delete", NULL, 0, &request);
	shim_asked("kill", &kill);
	assert_string_equal(kill.exec_id, "e1");
	assert_int_equal(kill.signal, 9);
	shim_answer_empty();
	turns(5);
	assert_false(shim.has_request);
	tell_exit("e1", 137);
	shim_asked("exec_delete", NULL);
	shim_answer(schema_shim_delete_reply(), &deleted);
	assert_int_equal(answered(answer), BUS_OK);
}

static void test_what_was_missed_while_the_service_was_away_is_asked_for(void **state)
{
	static struct exit_record exit = {
		.exit_status = 5, .source = EXIT_OBSERVED, .exited_at_ns = 1};
	struct exit_record found = {};
	bool exited;

	(void)state;
	add_running();
	shim.processes[0] = (struct shim_process_state){
		.exec_id = (char *)"e1", .status = TASK_STOPPED, .pid = 99, .exit = &exit};
	shim.n_processes = 1;
	service_dies();
	turns(20);
	wait_for_exit("e1", &exited, &found);
	assert_true(exited);
	assert_int_equal(found.exit_status, 5);
}

static void test_all_processes_are_listed_init_first(void **state)
{
	_cleanup_(task_processes_reply_clear) struct task_processes_reply reply = {};
	struct task_container_request request = {.container_id = (char *)"web"};

	(void)state;
	add_running();
	assert_int_equal(service_case_call(&shim.test, "task.processes", NULL, &request, &reply),
			 BUS_OK);
	assert_int_equal(reply.processes.count, 2);
	assert_string_equal(reply.processes.items[0].id, "web");
	assert_string_equal(reply.processes.items[1].exec_id, "e1");
}

static void test_a_kill_names_the_process(void **state)
{
	struct task_kill_request request = {
		.container_id = (char *)"web", .exec_id = (char *)"e1", .signal = 2};
	_cleanup_(shim_kill_request_clear) struct shim_kill_request kill = {};
	struct service_answer *answer;

	(void)state;
	add_running();
	answer = service_case_send(&shim.test, "task.kill", NULL, 0, &request);
	shim_asked("kill", &kill);
	assert_string_equal(kill.exec_id, "e1");
	shim_answer_empty();
	assert_int_equal(answered(answer), BUS_OK);
	tell_exit("e1", 130);
	answer = service_case_send(&shim.test, "task.kill", NULL, 0, &request);
	shim_asked("kill", NULL);
	shim_fail(BUS_NOT_FOUND, "process 'e1' is stopped");
	assert_int_equal(answered(answer), BUS_NOT_FOUND);
}

/* Whether the signal was this request's only the shim knows. */
static void test_a_kill_that_ended_it_is_answered_by_the_shim_after_a_crash(void **state)
{
	struct task_kill_request request = {.container_id = (char *)"web", .signal = 2};
	static const uint8_t id[ID_SIZE] = {8};
	struct service_answer *answer;

	(void)state;
	service_case_send(&shim.test, "task.kill", id, 0, &request);
	shim_asked("kill", NULL);
	tell_exit("web", 130);
	service_dies();
	shim.state.status = TASK_STOPPED;
	assert_status("web", TASK_STOPPED);
	answer = service_case_send(&shim.test, "task.kill", id, 0, &request);
	shim_asked("kill", NULL);
	assert_memory_equal(shim.request.id, id, ID_SIZE);
	shim_answer_empty();
	assert_int_equal(answered(answer), BUS_OK);
}

#define WITH_SHIM(test) cmocka_unit_test_setup_teardown(test, stand_in_running, stand_in_teardown)

TEST_MAIN(WITH_SHIM(test_a_process_is_added_and_started_in_one_request_to_the_shim),
	  WITH_SHIM(test_one_that_was_only_added_is_started_later),
	  WITH_SHIM(test_the_same_request_gets_the_same_answer_and_adds_nothing_twice),
	  WITH_SHIM(test_what_the_shim_refuses_leaves_no_row),
	  WITH_SHIM(test_one_whose_start_is_uncertain_is_reported_as_unknown),
	  WITH_SHIM(test_an_exec_that_was_cut_by_a_crash_asks_the_shim_with_the_same_id),
	  WITH_SHIM(test_names_and_states_that_cannot_be_are_refused),
	  WITH_SHIM(test_its_exit_is_known_until_long_after_it_was_deleted),
	  WITH_SHIM(test_force_kills_it_and_waits_for_its_end),
	  WITH_SHIM(test_what_was_missed_while_the_service_was_away_is_asked_for),
	  WITH_SHIM(test_all_processes_are_listed_init_first),
	  WITH_SHIM(test_a_kill_names_the_process),
	  WITH_SHIM(test_a_kill_that_ended_it_is_answered_by_the_shim_after_a_crash))
