/* Operations that are cut, fail, are joined and cancelled at every step. */

#include <limits.h>
#include <string.h>

#include "broker/lib/file.h"
#include "services/lib/operation_private.h"
#include "tests/lib/main.h"
#include "tests/lib/service_case.h"

/*
 * The operation under test is container.remove, of three steps:
 *	first	a row in the store, at once
 *	second	a call to task.delete
 *	third	two calls to image.release, one after the other
 * Its context is a platform: its os is a name that a step leaves for the next.
 */
static char history[1024];
static const char *fail_in;       /* this step fails by itself */
static struct operation *waiting; /* of a step that waits for the test */
static bool is_third_by_hand, is_undo_failing;
static unsigned n_out_of_memory; /* so many ends */
static unsigned n_forgetful;     /* so often what a step has led to finds no memory */

static void note(const char *what)
{
	strcat(history, what);
	strcat(history, " ");
}

static int put_row(struct operation *operation, const char *name)
{
	struct event_cursor record = {.name = (char *)name};
	struct store_key key;
	int r;

	r = store_key(&key, name, NULL);
	return r ? r
		 : store_put(service_store(operation_service(operation)), "rows", &key,
			     schema_event_cursor(), &record);
}

static int may_fail(struct operation *operation, const char *step)
{
	if (fail_in && !strcmp(fail_in, step))
		return operation_fail(operation, BUS_FAILED_PRECONDITION, "%s cannot", step);
	return 0;
}

static int run_first(struct operation *operation)
{
	struct platform *context = operation_context(operation);
	int r;

	note("first");
	r = put_row(operation, "row");
	if (!r)
		r = schema_set(&context->os, "from first");
	return r ? r : may_fail(operation, "first");
}

static int undo_first(struct operation *operation)
{
	struct store_key key;
	int r;

	note("-first");
	r = store_key(&key, "row", NULL);
	if (!r)
		r = store_delete(service_store(operation_service(operation)), "rows", &key);
	return r == STORE_E_NOT_FOUND ? 0 : r;
}

static int second_done(struct operation *operation, void *reply_)
{
	struct task_delete_reply *reply = reply_;

	note(reply ? "second-done" : "?");
	if (n_forgetful) {
		n_forgetful--;
		return -ENOMEM;
	}
	return may_fail(operation, "second-done");
}

static int run_second(struct operation *operation)
{
	struct platform *context = operation_context(operation);
	struct task_delete_request request = {.container_id = "c"};

	note("second");
	if (!context->os || strcmp(context->os, "from first") != 0)
		note("(without context)");
	return operation_call(operation, schema_find_method("task", "delete"), NULL, &request,
			      second_done);
}

static int undo_second(struct operation *operation)
{
	struct task_name_request request = {.container_id = "c"};

	note("-second");
	if (is_undo_failing)
		return operation_fail(operation, BUS_INTERNAL, "cannot be undone");
	return operation_call(operation, schema_find_method("task", "get"), NULL, &request, NULL);
}

static int third_done(struct operation *operation, void *reply)
{
	(void)operation;
	(void)reply;
	note("third-done");
	return 0;
}

static int third_half(struct operation *operation, void *reply)
{
	struct snapshot_key_request request = {.key = "b"};

	(void)reply;
	note("third-half");
	return operation_call(operation, schema_find_method("image", "release"), "b", &request,
			      third_done);
}

static void third_by_hand(struct operation *operation)
{
	note("after-commit");
	waiting = operation;
}

static int run_third(struct operation *operation)
{
	struct snapshot_key_request request = {.key = "a"};
	int r;

	note("third");
	if (!is_third_by_hand)
		return operation_call(operation, schema_find_method("image", "release"), "a",
				      &request, third_half);
	r = operation_after_commit(operation, third_by_hand);
	return r ? r : OPERATION_LATER;
}

static int finish(struct operation *operation, void *reply)
{
	int r;

	(void)reply;
	note("finish");
	r = put_row(operation, "finished");
	if (!r && n_out_of_memory) {
		n_out_of_memory--;
		r = -ENOMEM;
	}
	return r;
}

static const struct operation_step steps[] = {
	{.name = "first", .run = run_first, .undo = undo_first, .persist = true},
	{.name = "second", .run = run_second, .undo = undo_second},
	{.name = "third", .run = run_third},
	{},
};

static const struct operation_type type = {
	.method = "container.remove",
	.steps = steps,
	.request = schema_container_remove_request,
	.reply = schema_empty,
	.context = schema_platform,
	.finish = finish,
};

/* The same steps, second first: until the one called first has stored its progress nothing is in the store. */
static const struct operation_step unstored_steps[] = {
	{.name = "second", .run = run_second, .undo = undo_second},
	{.name = "first", .run = run_first, .undo = undo_first, .persist = true},
	{.name = "third", .run = run_third},
	{},
};

static const struct operation_type unstored_type = {
	.method = "container.delete",
	.steps = unstored_steps,
	.request = schema_container_delete_request,
	.reply = schema_empty,
	.context = schema_platform,
	.starts_unstored = true,
	.finish = finish,
};

static int delete_container(void *object, const void *request_, void *reply, struct call *call)
{
	const struct container_delete_request *request = request_;

	(void)object;
	(void)reply;
	note("start");
	return operation_start(call, &unstored_type, request, request->id, true);
}

static int remove_container(void *object, const void *request_, void *reply, struct call *call)
{
	const struct container_remove_request *request = request_;

	(void)object;
	(void)reply;
	note("start");
	return operation_start(call, &type, request, request->id, true);
}

static int list(void *object, const void *request, void *reply, struct call *call)
{
	(void)object;
	(void)request;
	return operation_list(call_service(call), call, reply);
}

static int cancel(void *object, const void *request, void *reply, struct call *call)
{
	(void)object;
	(void)reply;
	return operation_cancel(call_service(call), call, request);
}

static const struct schema_method *find_remove(void)
{
	return schema_find_method("container", "remove");
}

static const struct schema_method *find_delete(void)
{
	return schema_find_method("container", "delete");
}

static const struct schema_method *find_list(void)
{
	return schema_find_method("container", "operations");
}

static const struct schema_method *find_cancel(void)
{
	return schema_find_method("container", "operation_cancel");
}

static const struct service_method methods[] = {{find_remove, remove_container},
						{find_delete, delete_container},
						{find_list, list},
						{find_cancel, cancel},
						{}};
static const char *const names[] = {"container", NULL};
static const char *const tables[] = {"rows", NULL};
static const struct operation_type *const types[] = {&type, &unstored_type, NULL};
static const struct service_definition definition = {
	.program = "davit-test",
	.names = names,
	.methods = methods,
	.tables = tables,
	.directory = "test",
	.operations = types,
};

static int setup(void **state)
{
	struct service_case *test = calloc(1, sizeof(*test));

	if (!test)
		return -1;
	history[0] = '\0';
	fail_in = NULL;
	waiting = NULL;
	is_third_by_hand = is_undo_failing = false;
	n_out_of_memory = n_forgetful = 0;
	service_case_init(test, &definition);
	*state = test;
	return 0;
}

static int teardown(void **state)
{
	int r = service_case_deinit(*state);

	free(*state);
	return r;
}

static const uint8_t id_1[16] = {1}, id_2[16] = {2};

static struct service_answer *start(struct service_case *test, const uint8_t *id)
{
	struct container_remove_request request = {.id = "c"};
	struct service_answer *answer;

	answer = service_case_send(test, "container.remove", id, 0, &request);
	service_case_turn(test);
	return answer;
}

static void answer(struct service_case *test, const char *method, enum bus_status status,
		   const char *text)
{
	struct fake_call *call = fake_bus_find(test->bus, method);
	static union {
		struct task_delete_reply delete;
		struct empty empty;
	} nothing;

	if (!call)
		fail_msg("no call of %s after: %s", method, history);
	fake_call_answer(call, status, text,
			 status                           ? NULL
			 : !strcmp(method, "task.delete") ? schema_task_delete_reply()
							  : schema_empty(),
			 &nothing);
	service_case_turn(test);
}

static bool has_row(struct service_case *test, const char *name)
{
	struct store_key key;
	bool has;

	assert_int_equal(store_key(&key, name, NULL), 0);
	has = store_has(test->service->store, "rows", &key);
	store_abort(test->service->store);
	return has;
}

static size_t n_records(struct service_case *test)
{
	size_t n = store_count(test->service->store, STORE_OPERATIONS);

	store_abort(test->service->store);
	return n;
}

static void test_steps_follow_each_other_and_the_caller_gets_the_end(void **state)
{
	struct service_case *test = *state;
	struct service_answer *caller = start(test, id_1);

	assert_string_equal(history, "start first second ");
	assert_false(caller->is_answered);
	assert_int_equal(n_records(test), 1);
	answer(test, "task.delete", BUS_OK, "");
	answer(test, "image.release", BUS_OK, "");
	answer(test, "image.release", BUS_OK, "");
	assert_string_equal(history,
			    "start first second second-done third third-half third-done finish ");
	assert_true(caller->is_answered);
	assert_int_equal(caller->status, BUS_OK);
	assert_int_equal(n_records(test), 0);
	assert_true(has_row(test, "finished"));
	assert_int_equal(test->service->operations.count, 0);
	assert_int_equal(test->service->n_calls, 0);
}

static void test_a_call_leaves_after_the_commit_with_a_derived_id(void **state)
{
	struct service_case *test = *state;
	uint8_t expected[16];
	struct fake_call *call;

	start(test, id_1);
	call = fake_bus_find(test->bus, "task.delete");
	assert_non_null(call);
	id_derive(id_1, "second", 0, expected);
	assert_memory_equal(fake_call_id(call), expected, 16);
	assert_string_equal(fake_call_namespace(call), "default");
}

static void test_a_crash_at_any_step_repeats_it_with_the_same_ids(void **state)
{
	struct service_case *test = *state;
	uint8_t before[16];

	start(test, id_1);
	memcpy(before, fake_call_id(fake_bus_find(test->bus, "task.delete")), 16);
	service_case_crash(test);
	*history = '\0';
	service_case_open(test);
	/* The first step's progress was stored, with the context that the second needs. */
	assert_string_equal(history, "second ");
	assert_memory_equal(fake_call_id(fake_bus_find(test->bus, "task.delete")), before, 16);

	answer(test, "task.delete", BUS_OK, "");
	answer(test, "image.release", BUS_OK, "");
	memcpy(before, fake_call_id(fake_bus_find(test->bus, "image.release")), 16);
	service_case_crash(test);
	*history = '\0';
	service_case_open(test);
	/* The second's was not: it is repeated, and so is the third's first half. */
	answer(test, "task.delete", BUS_OK, "");
	answer(test, "image.release", BUS_OK, "");
	assert_string_equal(history, "second second-done third third-half ");
	assert_memory_equal(fake_call_id(fake_bus_find(test->bus, "image.release")), before, 16);
	answer(test, "image.release", BUS_OK, "");
	assert_true(has_row(test, "finished"));
	/* The caller, who asks again, gets the stored end. */
	assert_int_equal(start(test, id_1)->status, BUS_OK);
	assert_int_equal(n_records(test), 0);
}

static struct service_answer *start_unstored(struct service_case *test)
{
	struct container_delete_request request = {.id = "c"};
	struct service_answer *answer;

	answer = service_case_send(test, "container.delete", id_1, 0, &request);
	service_case_turn(test);
	return answer;
}

static void test_one_that_starts_unstored_is_stored_with_its_first_progress(void **state)
{
	struct service_case *test = *state;
	struct service_answer *callers[2];
	uint8_t before[16];

	callers[0] = start_unstored(test);
	assert_int_equal(n_records(test), 0);
	memcpy(before, fake_call_id(fake_bus_find(test->bus, "task.delete")), 16);
	/* Cut here it is gone; asked again it makes the same call. */
	service_case_crash(test);
	service_case_open(test);
	assert_null(fake_bus_find(test->bus, "task.delete"));
	*history = '\0';
	callers[0] = start_unstored(test);
	callers[1] = start_unstored(test); /* joins */
	assert_string_equal(history, "start second (without context) ");
	assert_memory_equal(fake_call_id(fake_bus_find(test->bus, "task.delete")), before, 16);
	answer(test, "task.delete", BUS_OK, "");
	assert_int_equal(n_records(test), 1);
	/* From here on it is resumed, and its caller joins. */
	service_case_crash(test);
	service_case_open(test);
	callers[0] = start_unstored(test);
	answer(test, "image.release", BUS_OK, "");
	answer(test, "image.release", BUS_OK, "");
	assert_true(callers[0]->is_answered);
	assert_int_equal(callers[0]->status, BUS_OK);
	assert_false(callers[1]->is_answered);
	assert_int_equal(start_unstored(test)->status, BUS_OK);
	assert_int_equal(n_records(test), 0);
}

static void test_one_that_starts_unstored_is_undone_and_answered_once(void **state)
{
	struct service_case *test = *state;
	struct service_answer *caller = start_unstored(test);

	answer(test, "task.delete", BUS_INTERNAL, "no");
	assert_int_equal(n_records(test), 1); /* that it is being undone is stored */
	service_case_crash(test);
	service_case_open(test);
	caller = start_unstored(test);
	answer(test, "task.get", BUS_OK, "");
	assert_int_equal(caller->status, BUS_INTERNAL);
	assert_int_equal(n_records(test), 0);
	*history = '\0';
	assert_int_equal(start_unstored(test)->status, BUS_INTERNAL);
	assert_string_equal(history, "");
}

static void test_the_same_request_joins_before_and_after_a_crash(void **state)
{
	struct service_case *test = *state;
	struct service_answer *callers[3];

	callers[0] = start(test, id_1);
	callers[1] = start(test, id_1);
	assert_string_equal(history, "start first second ");
	service_case_crash(test);
	service_case_open(test);
	callers[2] = start(test, id_1);
	answer(test, "task.delete", BUS_OK, "");
	answer(test, "image.release", BUS_OK, "");
	answer(test, "image.release", BUS_OK, "");
	assert_false(callers[0]->is_answered);
	assert_false(callers[1]->is_answered);
	assert_true(callers[2]->is_answered);
	assert_int_equal(callers[2]->status, BUS_OK);
}

static void test_a_failure_undoes_last_first_and_is_the_answer(void **state)
{
	struct service_case *test = *state;
	struct service_answer *caller = start(test, id_1);

	answer(test, "task.delete", BUS_OK, "");
	answer(test, "image.release", BUS_NOT_FOUND, "no snapshot 'a'");
	assert_false(caller->is_answered);
	answer(test, "task.get", BUS_OK, "");
	assert_string_equal(history, "start first second second-done third -second -first ");
	assert_true(caller->is_answered);
	assert_int_equal(caller->status, BUS_NOT_FOUND);
	assert_string_equal(caller->text, "no snapshot 'a'");
	assert_false(has_row(test, "row"));
	assert_int_equal(n_records(test), 0);
	/* Under this id nothing runs again. */
	*history = '\0';
	assert_int_equal(start(test, id_1)->status, BUS_NOT_FOUND);
	assert_string_equal(history, "");
}

static void test_a_failing_step_undoes_its_own_changes(void **state)
{
	struct service_case *test = *state;
	struct service_answer *caller;

	fail_in = "first";
	caller = start(test, id_1);
	assert_string_equal(history, "start first -first ");
	assert_int_equal(caller->status, BUS_FAILED_PRECONDITION);
	assert_false(has_row(test, "row"));
}

static void test_a_failure_in_a_reply_is_the_steps_failure(void **state)
{
	struct service_case *test = *state;
	struct service_answer *caller;

	fail_in = "second-done";
	caller = start(test, id_1);
	answer(test, "task.delete", BUS_OK, "");
	answer(test, "task.get", BUS_NOT_FOUND, "is gone");
	assert_string_equal(history, "start first second second-done -second -first ");
	assert_string_equal(caller->text, "second-done cannot");
}

static void test_a_crash_while_undoing_goes_on_undoing(void **state)
{
	struct service_case *test = *state;
	uint8_t before[16];

	start(test, id_1);
	answer(test, "task.delete", BUS_INTERNAL, "broken");
	memcpy(before, fake_call_id(fake_bus_find(test->bus, "task.get")), 16);
	service_case_crash(test);
	*history = '\0';
	service_case_open(test);
	assert_string_equal(history, "-second ");
	assert_memory_equal(fake_call_id(fake_bus_find(test->bus, "task.get")), before, 16);
	answer(test, "task.get", BUS_OK, "");
	assert_string_equal(history, "-second -first ");
	assert_int_equal(start(test, id_1)->status, BUS_INTERNAL);
	assert_string_equal(service_case_text(test), "broken");
}

static void retry_now(struct service_case *test)
{
	struct operation *operation = test->service->operations.first;

	assert_non_null(operation->retry.loop);
	loop_timer_cancel(&operation->retry);
	operation_queue(operation);
	service_case_turn(test);
}

static void test_an_undo_is_tried_again_with_another_id(void **state)
{
	struct service_case *test = *state;
	uint8_t before[16];

	start(test, id_1);
	answer(test, "task.delete", BUS_INTERNAL, "broken");
	memcpy(before, fake_call_id(fake_bus_find(test->bus, "task.get")), 16);
	answer(test, "task.get", BUS_UNAVAILABLE, "away");
	retry_now(test);
	assert_memory_not_equal(fake_call_id(fake_bus_find(test->bus, "task.get")), before, 16);
	answer(test, "task.get", BUS_OK, "");
	assert_int_equal(n_records(test), 0);
}

static void test_an_undo_that_never_succeeds_does_not_keep_the_others(void **state)
{
	struct service_case *test = *state;
	struct service_answer *caller;

	is_undo_failing = true;
	caller = start(test, id_1);
	answer(test, "task.delete", BUS_INTERNAL, "broken");
	while (!caller->is_answered)
		retry_now(test);
	assert_int_equal(caller->status, BUS_INTERNAL);
	assert_string_equal(caller->text, "broken");
	assert_false(has_row(test, "row"));
}

static void end_without_memory(struct service_case *test, struct service_answer *caller)
{
	answer(test, "task.delete", BUS_OK, "");
	answer(test, "image.release", BUS_OK, "");
	history[0] = '\0';
	answer(test, "image.release", BUS_OK, "");
	assert_string_equal(history, "third-done finish ");
	assert_false(caller->is_answered);
	assert_false(has_row(test, "finished"));
	assert_int_equal(n_records(test), 1);
}

static void test_an_end_without_memory_for_its_reply_is_tried_again(void **state)
{
	struct service_case *test = *state;
	struct service_answer *caller = start(test, id_1);

	n_out_of_memory = 3;
	end_without_memory(test, caller);
	retry_now(test);
	retry_now(test);
	assert_false(caller->is_answered);
	retry_now(test);
	assert_string_equal(history, "third-done finish finish finish finish ");
	assert_true(caller->is_answered);
	assert_int_equal(caller->status, BUS_OK);
	assert_true(has_row(test, "row"));
	assert_true(has_row(test, "finished"));
	assert_int_equal(n_records(test), 0);
	assert_int_equal(test->service->operations.count, 0);
}

static void test_a_step_without_memory_for_its_reply_asks_again_with_the_same_id(void **state)
{
	struct service_case *test = *state;
	struct service_answer *caller = start(test, id_1);
	uint8_t before[16];

	n_forgetful = 1;
	memcpy(before, fake_call_id(fake_bus_find(test->bus, "task.delete")), 16);
	answer(test, "task.delete", BUS_OK, "");
	assert_string_equal(history, "start first second second-done ");
	retry_now(test);
	assert_string_equal(history, "start first second second-done second ");
	assert_memory_equal(fake_call_id(fake_bus_find(test->bus, "task.delete")), before, 16);
	answer(test, "task.delete", BUS_OK, "");
	answer(test, "image.release", BUS_OK, "");
	answer(test, "image.release", BUS_OK, "");
	assert_true(caller->is_answered);
	assert_int_equal(caller->status, BUS_OK);
	assert_int_equal(n_records(test), 0);
}

static void test_a_step_that_never_finds_memory_fails(void **state)
{
	struct service_case *test = *state;
	struct service_answer *caller = start(test, id_1);

	n_forgetful = UINT_MAX;
	answer(test, "task.delete", BUS_OK, "");
	while (test->service->operations.first->retry.loop) {
		retry_now(test);
		answer(test, "task.delete", BUS_OK, "");
	}
	answer(test, "task.get", BUS_OK, "");
	assert_true(caller->is_answered);
	assert_int_equal(caller->status, BUS_INTERNAL);
	assert_non_null(strstr(caller->text, "step 'second' of container.remove failed"));
	assert_false(has_row(test, "row"));
	assert_int_equal(n_records(test), 0);
}

static void test_what_a_step_led_to_is_recorded_when_there_is_memory_again(void **state)
{
	struct service_case *test = *state;
	struct service_answer *caller;

	is_third_by_hand = true;
	caller = start(test, id_1);
	answer(test, "task.delete", BUS_OK, "");
	history[0] = '\0';
	operation_step_again(waiting, "it cannot be recorded");
	service_case_turn(test);
	assert_string_equal(history, "");
	assert_false(caller->is_answered);
	retry_now(test);
	assert_string_equal(history, "third after-commit ");
	operation_step_done(waiting);
	service_case_turn(test);
	assert_true(caller->is_answered);
	assert_int_equal(caller->status, BUS_OK);
}

static void test_what_can_never_be_recorded_is_told(void **state)
{
	struct service_case *test = *state;
	struct service_answer *caller;

	is_third_by_hand = true;
	caller = start(test, id_1);
	answer(test, "task.delete", BUS_OK, "");
	do {
		operation_step_again(waiting, "it cannot be recorded");
		service_case_turn(test);
		if (test->service->operations.first->retry.loop)
			retry_now(test);
	} while (!fake_bus_find(test->bus, "task.get"));
	answer(test, "task.get", BUS_OK, "");
	assert_true(caller->is_answered);
	assert_int_equal(caller->status, BUS_INTERNAL);
	assert_string_equal(caller->text, "it cannot be recorded");
}

static void test_an_end_that_waits_for_memory_outlives_a_crash(void **state)
{
	struct service_case *test = *state;
	struct service_answer *caller = start(test, id_1);

	n_out_of_memory = 1;
	end_without_memory(test, caller);
	service_case_crash(test);
	service_case_open(test);
	answer(test, "task.delete", BUS_OK, "");
	answer(test, "image.release", BUS_OK, "");
	answer(test, "image.release", BUS_OK, "");
	caller = start(test, id_1);
	assert_true(caller->is_answered);
	assert_int_equal(caller->status, BUS_OK);
	assert_true(has_row(test, "row"));
	assert_true(has_row(test, "finished"));
	assert_int_equal(n_records(test), 0);
}

static void test_another_operation_on_the_object_is_refused(void **state)
{
	struct service_case *test = *state;
	struct service_answer *caller;

	start(test, id_1);
	caller = start(test, id_2);
	assert_int_equal(caller->status, BUS_ABORTED);
	assert_non_null(strstr(caller->text, "container.remove"));
	assert_true(operation_is_any_running(test->service, "default", "c"));
	assert_false(operation_is_any_running(test->service, "default", "d"));
	assert_false(operation_is_any_running(test->service, "other", "c"));
}

static void test_two_in_one_turn_exclude_each_other(void **state)
{
	struct container_remove_request request = {.id = "c"};
	struct service_case *test = *state;
	struct service_answer *callers[2];

	callers[0] = service_case_send(test, "container.remove", id_1, 0, &request);
	callers[1] = service_case_send(test, "container.remove", id_2, 0, &request);
	service_case_turn(test);
	assert_false(callers[0]->is_answered);
	assert_int_equal(callers[1]->status, BUS_ABORTED);
}

static enum bus_status cancel_now(struct service_case *test, const uint8_t id[16])
{
	struct operation_cancel_request request = {.id = {(uint8_t *)id, 16}};

	return service_case_call(test, "container.operation_cancel", NULL, &request, NULL);
}

static void test_a_cancelled_operation_stops_at_its_next_step_and_is_undone(void **state)
{
	struct service_case *test = *state;
	struct service_answer *caller = start(test, id_1);

	assert_int_equal(cancel_now(test, id_2), BUS_NOT_FOUND);
	assert_int_equal(cancel_now(test, id_1), BUS_OK);
	assert_false(caller->is_answered);
	answer(test, "task.delete", BUS_OK, "");
	answer(test, "task.get", BUS_OK, "");
	assert_string_equal(history, "start first second second-done -second -first ");
	assert_int_equal(caller->status, BUS_CANCELED);
}

static void test_a_cancelled_operation_is_cancelled_after_a_crash_too(void **state)
{
	struct service_case *test = *state;

	start(test, id_1);
	assert_int_equal(cancel_now(test, id_1), BUS_OK);
	service_case_crash(test);
	*history = '\0';
	service_case_open(test);
	/* What was under way may have happened: it is undone as well. */
	assert_string_equal(history, "-second ");
	answer(test, "task.get", BUS_NOT_FOUND, "gone");
	assert_string_equal(history, "-second -first ");
	assert_int_equal(start(test, id_1)->status, BUS_CANCELED);
}

static void test_operations_are_listed(void **state)
{
	_cleanup_(operation_list_reply_clear) struct operation_list_reply reply = {};
	struct service_case *test = *state;

	start(test, id_1);
	assert_int_equal(service_case_call(test, "container.operations", NULL, NULL, &reply),
			 BUS_OK);
	assert_int_equal(reply.operations.count, 1);
	assert_string_equal(reply.operations.items[0].method, "container.remove");
	assert_string_equal(reply.operations.items[0].object, "c");
	assert_string_equal(reply.operations.items[0].step_name, "second");
	assert_memory_equal(reply.operations.items[0].id.data, id_1, 16);
	assert_int_equal(reply.operations.items[0].request.size, 0);
}

static void test_a_step_may_wait_for_something_of_its_own(void **state)
{
	struct service_case *test = *state;
	struct service_answer *caller;

	is_third_by_hand = true;
	caller = start(test, id_1);
	answer(test, "task.delete", BUS_OK, "");
	assert_non_null(waiting);
	assert_false(caller->is_answered);
	operation_step_done(waiting);
	service_case_turn(test);
	assert_int_equal(caller->status, BUS_OK);
	assert_true(has_row(test, "finished"));
}

static void test_a_step_may_fail_later(void **state)
{
	struct service_case *test = *state;
	struct service_answer *caller;

	is_third_by_hand = true;
	caller = start(test, id_1);
	answer(test, "task.delete", BUS_OK, "");
	operation_step_failed(waiting, BUS_DATA_LOSS, "it is %s", "lost");
	service_case_turn(test);
	answer(test, "task.get", BUS_OK, "");
	assert_int_equal(caller->status, BUS_DATA_LOSS);
	assert_string_equal(caller->text, "it is lost");
}

static void test_an_operation_of_the_services_own_runs_once(void **state)
{
	struct container_remove_request request = {.id = "c"};
	struct service_case *test = *state;

	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(operation_start_internal(test->service, &type, id_1, "default",
							  &request, "c"),
				 0);
		service_case_turn(test);
	}
	assert_string_equal(history, "first second ");
	answer(test, "task.delete", BUS_OK, "");
	answer(test, "image.release", BUS_OK, "");
	answer(test, "image.release", BUS_OK, "");
	assert_int_equal(n_records(test), 0);
	assert_int_equal(test->service->n_calls, 0);
	*history = '\0';
	assert_int_equal(
		operation_start_internal(test->service, &type, id_1, "default", &request, "c"), 0);
	service_case_turn(test);
	assert_string_equal(history, "");
}

static void test_a_draining_service_begins_no_further_step(void **state)
{
	struct service_case *test = *state;
	struct service_answer *caller = start(test, id_1);

	test->service->is_draining = true;
	answer(test, "task.delete", BUS_OK, "");
	assert_string_equal(history, "start first second second-done ");
	assert_false(caller->is_answered);
	service_case_crash(test);
	service_case_open(test);
	answer(test, "task.delete", BUS_OK, "");
	answer(test, "image.release", BUS_OK, "");
	answer(test, "image.release", BUS_OK, "");
	assert_true(has_row(test, "finished"));
}

/* The turn's commit fails once all its jobs have run: memory must be as it was, and they run again. */
static void test_a_turn_that_is_run_again_runs_its_steps_again(void **state)
{
	struct container_remove_request request = {.id = "c"};
	struct service_case *test = *state;
	struct service_answer *caller;
	struct job *job;

	caller = service_case_send(test, "container.remove", id_1, 0, &request);
	while ((job = job_list_take(&test->service->queue))) {
		assert_int_equal(job->run(test->service, job), 0);
		job_list_add(&test->service->done, job);
	}
	test->service->store->failure = STORE_E_FULL;
	service_case_turn(test);
	assert_string_equal(history, "start first second start first second ");
	assert_int_equal(fake_bus_count(test->bus), 1);
	assert_int_equal(test->service->operations.count, 1);

	/* The same for a result: its reply is given again, and the next step's call is made once. */
	fake_call_answer(fake_bus_find(test->bus, "task.delete"), BUS_OK, "",
			 schema_task_delete_reply(), &(struct task_delete_reply){});
	while ((job = job_list_take(&test->service->queue))) {
		assert_int_equal(job->run(test->service, job), 0);
		job_list_add(&test->service->done, job);
	}
	test->service->store->failure = STORE_E_FULL;
	*history = '\0';
	service_case_turn(test);
	assert_string_equal(history, "second-done third ");
	answer(test, "image.release", BUS_OK, "");
	answer(test, "image.release", BUS_OK, "");
	assert_true(caller->is_answered);
	assert_int_equal(caller->status, BUS_OK);
}

static void test_a_full_disk_refuses_the_operation_and_leaves_nothing_of_it(void **state)
{
	struct container_remove_request request = {.id = "c"};
	struct service_case *test = *state;
	struct service_answer *caller;
	struct job *job;

	caller = service_case_send(test, "container.remove", id_1, 0, &request);
	while ((job = job_list_take(&test->service->queue))) {
		assert_int_equal(job->run(test->service, job), 0);
		job_list_add(&test->service->done, job);
	}
	test->service->store->failure = STORE_E_NO_SPACE;
	service_case_turn(test);
	assert_true(caller->is_answered);
	assert_int_equal(caller->status, BUS_RESOURCE_EXHAUSTED);
	assert_int_equal(fake_bus_count(test->bus), 0);
	assert_int_equal(test->service->operations.count, 0);
	assert_int_equal(n_records(test), 0);
}

#define CASE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

TEST_MAIN(CASE(test_steps_follow_each_other_and_the_caller_gets_the_end),
	  CASE(test_a_call_leaves_after_the_commit_with_a_derived_id),
	  CASE(test_a_crash_at_any_step_repeats_it_with_the_same_ids),
	  CASE(test_one_that_starts_unstored_is_stored_with_its_first_progress),
	  CASE(test_one_that_starts_unstored_is_undone_and_answered_once),
	  CASE(test_the_same_request_joins_before_and_after_a_crash),
	  CASE(test_a_failure_undoes_last_first_and_is_the_answer),
	  CASE(test_a_failing_step_undoes_its_own_changes),
	  CASE(test_a_failure_in_a_reply_is_the_steps_failure),
	  CASE(test_a_crash_while_undoing_goes_on_undoing),
	  CASE(test_an_undo_is_tried_again_with_another_id),
	  CASE(test_an_undo_that_never_succeeds_does_not_keep_the_others),
	  CASE(test_an_end_without_memory_for_its_reply_is_tried_again),
	  CASE(test_a_step_without_memory_for_its_reply_asks_again_with_the_same_id),
	  CASE(test_a_step_that_never_finds_memory_fails),
	  CASE(test_what_a_step_led_to_is_recorded_when_there_is_memory_again),
	  CASE(test_what_can_never_be_recorded_is_told),
	  CASE(test_an_end_that_waits_for_memory_outlives_a_crash),
	  CASE(test_another_operation_on_the_object_is_refused),
	  CASE(test_two_in_one_turn_exclude_each_other),
	  CASE(test_a_cancelled_operation_stops_at_its_next_step_and_is_undone),
	  CASE(test_a_cancelled_operation_is_cancelled_after_a_crash_too),
	  CASE(test_operations_are_listed), CASE(test_a_step_may_wait_for_something_of_its_own),
	  CASE(test_a_step_may_fail_later), CASE(test_an_operation_of_the_services_own_runs_once),
	  CASE(test_a_draining_service_begins_no_further_step),
	  CASE(test_a_turn_that_is_run_again_runs_its_steps_again),
	  CASE(test_a_full_disk_refuses_the_operation_and_leaves_nothing_of_it))
