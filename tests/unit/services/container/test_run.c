/* container.run, remove and delete as operations, with the other services played by the test. */

#include <string.h>

#include "broker/lib/file.h"
#include "services/container/container.h"
#include "services/container/service.h"
#include "tests/lib/main.h"
#include "tests/lib/service_case.h"

#define TASK "00112233445566778899aabbccddeeff"

static struct service_case test;
static const uint8_t run_id[ID_SIZE] = {1, 2, 3};

static int setup(void **state)
{
	(void)state;
	service_case_init(&test, &container_definition);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	return service_case_deinit(&test);
}

static struct fake_call *asked(const char *method)
{
	for (unsigned i = 0; i < 20 && !fake_bus_find(test.bus, method); i++)
		service_case_turn(&test);
	if (!fake_bus_find(test.bus, method))
		fail_msg("%s is not called", method);
	return fake_bus_find(test.bus, method);
}

static void wait_answer(const struct service_answer *answer)
{
	for (unsigned i = 0; i < 20 && !answer->is_answered; i++)
		service_case_turn(&test);
	assert_true(answer->is_answered);
}

static void request_of(struct fake_call *call, const struct schema_message *schema,
		       void *ret_request)
{
	const void *body;
	size_t size;

	body = fake_call_body(call, &size);
	assert_int_equal(schema_unpack(schema, body, size, ret_request, NULL), 0);
}

static void answer_empty(const char *method)
{
	struct empty empty;

	fake_call_answer(asked(method), BUS_OK, "", schema_empty(), &empty);
}

/* ---- the other services ---- */

static void prepare_image(char *ret_key)
{
	_cleanup_(image_prepare_request_clear) struct image_prepare_request request = {};
	struct fake_call *call = asked("image.prepare");
	struct mount mount = {.type = (char *)"overlay"};
	struct image_prepare_reply reply = {
		.name = (char *)"docker.io/library/busybox:latest",
		.digest = (char *)"sha256:0",
		.config =
			(char *)"{\"config\":{\"Labels\":{\"maker\":\"me\",\"containerd.io/x\":\"y\"}}}",
		.snapshotter = (char *)"overlayfs",
	};

	request_of(call, schema_image_prepare_request(), &request);
	assert_string_equal(request.name, "busybox");
	snprintf(ret_key, 256, "%s", request.key);
	reply.key = request.key;
	reply.mounts.items = &mount;
	reply.mounts.count = 1;
	fake_call_answer(call, BUS_OK, "", schema_image_prepare_reply(), &reply);
}

static void make_spec(void)
{
	_cleanup_(runtime_spec_request_clear) struct runtime_spec_request request = {};
	struct fake_call *call = asked("runtime.spec");
	struct runtime_spec_reply reply = {.spec = (char *)"{\"x\":1}",
					   .runtime = (char *)"crun",
					   .stop_signal = (char *)"SIGQUIT"};

	request_of(call, schema_runtime_spec_request(), &request);
	assert_string_equal(request.container_id, "web");
	assert_int_equal(request.mounts.count, 1);
	assert_non_null(strstr(request.image_config, "Labels"));
	fake_call_answer(call, BUS_OK, "", schema_runtime_spec_reply(), &reply);
}

static void create_task(void)
{
	struct task_create_reply reply = {
		.container_id = (char *)"web", .task_id = (char *)TASK, .pid = 4242};

	fake_call_answer(asked("task.create"), BUS_OK, "", schema_task_create_reply(), &reply);
}

static struct service_answer *send_run(bool create_only)
{
	struct schema_pair pair = {(char *)"maker", (char *)"you"};
	struct container_run_request request = {.id = (char *)"web",
						.image = (char *)"busybox",
						.labels = {&pair, 1},
						.create_only = create_only,
						.auto_remove = true};

	return service_case_send(&test, "container.run", run_id, 0, &request);
}

static enum bus_status get(struct container_reply *ret_reply)
{
	struct container_get_request request = {.id = (char *)"web"};

	return service_case_call(&test, "container.get", NULL, &request, ret_reply);
}

/* A container of image busybox without a task. */
static void make_container(char *ret_key)
{
	struct service_answer *answer = send_run(true);

	prepare_image(ret_key);
	make_spec();
	wait_answer(answer);
	assert_int_equal(answer->status, BUS_OK);
}

static struct service_answer *send_remove(const char *uid)
{
	struct container_remove_request request = {
		.id = (char *)"web", .uid = (char *)uid, .force = true};

	return service_case_send(&test, "container.remove", NULL, 0, &request);
}

/* ---- run ---- */

static void test_a_wrong_option_is_refused_before_an_image_is_asked_for(void **state)
{
	_cleanup_(runtime_spec_request_clear) struct runtime_spec_request check = {};
	struct spec_options options = {.cpu_period = 5};
	struct container_run_request request = {
		.id = (char *)"web", .image = (char *)"busybox", .options = &options};
	struct service_answer *answer;

	(void)state;
	answer = service_case_send(&test, "container.run", run_id, 0, &request);
	request_of(asked("runtime.spec"), schema_runtime_spec_request(), &check);
	assert_true(check.check_only);
	assert_int_equal(check.options->cpu_period, 5);
	assert_null(fake_bus_find(test.bus, "image.prepare"));
	fake_call_answer(asked("runtime.spec"), BUS_INVALID_ARGUMENT, "cpu-period", NULL, NULL);
	wait_answer(answer);
	assert_int_equal(answer->status, BUS_INVALID_ARGUMENT);
	assert_null(fake_bus_find(test.bus, "image.prepare"));
}

static void test_options_without_a_fault_are_checked_once_and_plain_ones_never(void **state)
{
	char *word = (char *)"ls";
	struct spec_options options = {.args = {&word, 1}, .read_only = true};
	struct container_run_request request = {.id = (char *)"web",
						.image = (char *)"busybox",
						.options = &options,
						.create_only = true};
	struct runtime_spec_reply nothing = {.spec = (char *)"{}", .runtime = (char *)"crun"};
	struct service_answer *answer;
	uint8_t other[ID_SIZE] = {7};

	(void)state;
	answer = service_case_send(&test, "container.run", run_id, 0, &request);
	(void)asked("image.prepare");
	assert_null(fake_bus_find(test.bus, "runtime.spec"));
	fake_call_answer(asked("image.prepare"), BUS_NOT_FOUND, "none", NULL, NULL);
	answer_empty("image.release");
	wait_answer(answer);
	options.cap_add = (struct schema_strs){.items = &word, .count = 1};
	answer = service_case_send(&test, "container.run", other, 0, &request);
	fake_call_answer(asked("runtime.spec"), BUS_OK, "", schema_runtime_spec_reply(), &nothing);
	fake_call_answer(asked("image.prepare"), BUS_NOT_FOUND, "none", NULL, NULL);
	answer_empty("image.release");
	wait_answer(answer);
	assert_int_equal(answer->status, BUS_NOT_FOUND);
}

static void test_a_run_makes_snapshot_spec_record_and_task_in_this_order(void **state)
{
	_cleanup_(container_run_reply_clear) struct container_run_reply reply = {};
	_cleanup_(container_reply_clear) struct container_reply container = {};
	struct service_answer *answer = send_run(false);
	char key[256];

	(void)state;
	prepare_image(key);
	make_spec();
	asked("task.create");
	assert_int_equal(get(&container), BUS_OK);
	create_task();
	wait_answer(answer);
	assert_int_equal(answer->status, BUS_OK);
	assert_int_equal(schema_unpack(schema_container_run_reply(), answer->body, answer->size,
				       &reply, NULL),
			 0);
	assert_string_equal(reply.task_id, TASK);
	assert_int_equal(reply.pid, 4242);
	assert_string_equal(reply.uid, container.container->uid);
	assert_string_equal(container.container->image, "docker.io/library/busybox:latest");
	assert_string_equal(container.container->snapshot_key, key);
	assert_string_equal(container.container->snapshotter, "overlayfs");
	assert_string_equal(container.container->spec, "{\"x\":1}");
	assert_string_equal(container.container->runtime, "crun");
	assert_string_equal(container.container->stop_signal, "SIGQUIT");
	assert_true(container.container->auto_remove);
	assert_non_null(strstr(key, container.container->uid));
}

static void test_labels_of_the_image_come_along_unless_they_mean_something(void **state)
{
	_cleanup_(container_reply_clear) struct container_reply reply = {};
	char key[256];

	(void)state;
	make_container(key);
	assert_int_equal(get(&reply), BUS_OK);
	assert_string_equal(schema_map_get(&reply.container->labels, "maker"), "you");
	assert_null(schema_map_get(&reply.container->labels, "containerd.io/x"));
	assert_string_equal(
		schema_map_get(&reply.container->labels, "io.containerd.image.config.stop-signal"),
		"SIGQUIT");
}

static void test_what_fails_is_undone_and_the_first_failure_is_told(void **state)
{
	_cleanup_(snapshot_key_request_clear) struct snapshot_key_request release = {};
	struct service_answer *answer = send_run(false);
	struct fake_call *call;
	char key[256];

	(void)state;
	prepare_image(key);
	make_spec();
	fake_call_answer(asked("task.create"), BUS_FAILED_PRECONDITION, "the OCI runtime said no",
			 NULL, NULL);
	fake_call_answer(asked("task.delete"), BUS_NOT_FOUND, "no task", NULL, NULL);
	call = asked("image.release");
	request_of(call, schema_snapshot_key_request(), &release);
	assert_string_equal(release.key, key);
	assert_false(answer->is_answered);
	answer_empty("image.release");
	wait_answer(answer);
	assert_int_equal(answer->status, BUS_FAILED_PRECONDITION);
	assert_string_equal(answer->text, "the OCI runtime said no");
	assert_int_equal(get(NULL), BUS_NOT_FOUND);
}

static void test_an_image_that_is_not_there_leaves_nothing_behind(void **state)
{
	struct service_answer *answer = send_run(false);

	(void)state;
	fake_call_answer(asked("image.prepare"), BUS_NOT_FOUND, "no image 'busybox'", NULL, NULL);
	fake_call_answer(asked("image.release"), BUS_NOT_FOUND, "no snapshot", NULL, NULL);
	wait_answer(answer);
	assert_int_equal(answer->status, BUS_NOT_FOUND);
	assert_string_equal(answer->text, "no image 'busybox'");
	assert_int_equal(get(NULL), BUS_NOT_FOUND);
}

static void test_a_run_that_a_crash_cut_goes_on_with_the_same_ids(void **state)
{
	_cleanup_(container_reply_clear) struct container_reply reply = {};
	uint8_t prepare_id[ID_SIZE], create_id[ID_SIZE];
	struct service_answer *answer;
	char key[256], again[256];

	(void)state;
	send_run(false);
	memcpy(prepare_id, fake_call_id(asked("image.prepare")), ID_SIZE);
	prepare_image(key);
	asked("runtime.spec");
	service_case_crash(&test);
	service_case_open(&test);
	/* Nothing was stored yet: it is asked again, by the broker or its caller. */
	send_run(false);
	assert_memory_equal(fake_call_id(asked("image.prepare")), prepare_id, ID_SIZE);
	prepare_image(again);
	assert_string_equal(key, again);
	make_spec();
	memcpy(create_id, fake_call_id(asked("task.create")), ID_SIZE);
	service_case_crash(&test);
	service_case_open(&test);
	assert_memory_equal(fake_call_id(asked("task.create")), create_id, ID_SIZE);
	assert_null(fake_bus_find(test.bus, "image.prepare"));
	answer = send_run(false);
	create_task();
	wait_answer(answer);
	assert_int_equal(answer->status, BUS_OK);
	assert_int_equal(get(&reply), BUS_OK);
	assert_string_equal(reply.container->snapshot_key, key);
}

/* Its task has ended and its container was removed, all before this service knew of the task. */
static struct service_answer *cut_until_removed(char *ret_uid)
{
	_cleanup_(container_reply_clear) struct container_reply reply = {};
	struct service_answer *removal;
	char key[256];

	send_run(false);
	prepare_image(key);
	make_spec();
	asked("task.create");
	assert_int_equal(get(&reply), BUS_OK);
	snprintf(ret_uid, 64, "%s", reply.container->uid);
	removal = send_remove(ret_uid);
	answer_empty("task.delete");
	answer_empty("image.release");
	wait_answer(removal);
	assert_int_equal(removal->status, BUS_OK);
	service_case_crash(&test);
	service_case_open(&test);
	return send_run(false);
}

static void answer_ended(const char *uid)
{
	struct task_process process = {.container_id = (char *)"web",
				       .id = (char *)"web",
				       .container_uid = (char *)uid,
				       .task_id = (char *)TASK,
				       .pid = 4242};
	struct task_process_reply reply = {&process};

	fake_call_answer(asked("task.get"), BUS_OK, "", schema_task_process_reply(), &reply);
}

static void test_a_run_that_a_crash_cut_is_known_though_its_container_is_removed(void **state)
{
	_cleanup_(container_run_reply_clear) struct container_run_reply reply = {};
	struct service_answer *answer;
	char uid[64];

	(void)state;
	answer = cut_until_removed(uid);
	answer_ended(uid);
	wait_answer(answer);
	assert_int_equal(answer->status, BUS_OK);
	assert_null(fake_bus_find(test.bus, "task.create"));
	assert_int_equal(schema_unpack(schema_container_run_reply(), answer->body, answer->size,
				       &reply, NULL),
			 0);
	assert_string_equal(reply.task_id, TASK);
}

static void test_the_task_of_another_container_of_that_name_is_not_taken(void **state)
{
	struct service_answer *answer;
	char uid[64];

	(void)state;
	answer = cut_until_removed(uid);
	answer_ended("ffffffffffffffffffffffffffffffff");
	answer_empty("task.delete");
	answer_empty("image.release");
	wait_answer(answer);
	assert_int_equal(answer->status, BUS_NOT_FOUND);
	assert_non_null(strstr(answer->text, "container 'web' was deleted"));
}

static void test_two_runs_of_one_name_make_one_container(void **state)
{
	struct container_run_request request = {.id = (char *)"web", .image = (char *)"busybox"};
	struct service_answer *first = send_run(true);
	char key[256];

	(void)state;
	asked("image.prepare");
	assert_int_equal(service_case_call(&test, "container.run", NULL, &request, NULL),
			 BUS_ABORTED);
	prepare_image(key);
	make_spec();
	wait_answer(first);
	assert_int_equal(first->status, BUS_OK);
	assert_int_equal(service_case_call(&test, "container.run", NULL, &request, NULL),
			 BUS_ALREADY_EXISTS);
}

static void test_faulty_requests_are_refused_before_anything_is_asked(void **state)
{
	struct container_run_request request = {.id = (char *)"a/../b", .image = (char *)"busybox"};

	(void)state;
	assert_int_equal(service_case_call(&test, "container.run", NULL, &request, NULL),
			 BUS_INVALID_ARGUMENT);
	request = (struct container_run_request){.id = (char *)"web"};
	assert_int_equal(service_case_call(&test, "container.run", NULL, &request, NULL),
			 BUS_INVALID_ARGUMENT);
	assert_non_null(strstr(service_case_text(&test), "neither an image"));
	request.spec = (char *)"{\"a\":";
	assert_int_equal(service_case_call(&test, "container.run", NULL, &request, NULL),
			 BUS_INVALID_ARGUMENT);
	assert_non_null(strstr(service_case_text(&test), "not JSON"));
	assert_int_equal(fake_bus_count(test.bus), 0);
}

/* ---- remove and delete ---- */

static void test_a_removal_takes_task_snapshot_and_record(void **state)
{
	_cleanup_(task_delete_request_clear) struct task_delete_request delete = {};
	_cleanup_(snapshot_key_request_clear) struct snapshot_key_request release = {};
	struct service_answer *answer;
	char key[256];

	(void)state;
	make_container(key);
	answer = send_remove(NULL);
	request_of(asked("task.delete"), schema_task_delete_request(), &delete);
	assert_true(delete.force);
	fake_call_answer(asked("task.delete"), BUS_NOT_FOUND, "no task", NULL, NULL);
	request_of(asked("image.release"), schema_snapshot_key_request(), &release);
	assert_string_equal(release.key, key);
	assert_int_equal(get(NULL), BUS_OK);
	answer_empty("image.release");
	wait_answer(answer);
	assert_int_equal(answer->status, BUS_OK);
	assert_int_equal(get(NULL), BUS_NOT_FOUND);
}

static void test_a_removal_of_another_container_of_that_name_does_nothing(void **state)
{
	struct service_answer *answer;
	char key[256];

	(void)state;
	make_container(key);
	answer = send_remove("ffffffffffffffffffffffffffffffff");
	wait_answer(answer);
	assert_int_equal(answer->status, BUS_OK);
	assert_null(fake_bus_find(test.bus, "task.delete"));
	assert_int_equal(get(NULL), BUS_OK);
}

static void test_a_removal_that_a_crash_cut_is_finished(void **state)
{
	char key[256];

	(void)state;
	make_container(key);
	send_remove(NULL);
	asked("task.delete");
	service_case_crash(&test);
	service_case_open(&test);
	fake_call_answer(asked("task.delete"), BUS_NOT_FOUND, "no task", NULL, NULL);
	answer_empty("image.release");
	for (unsigned i = 0; i < 10; i++)
		service_case_turn(&test);
	assert_int_equal(get(NULL), BUS_NOT_FOUND);
}

static void test_a_container_with_a_task_is_not_deleted(void **state)
{
	struct container_delete_request request = {.id = (char *)"web"};
	struct task_process process = {
		.container_id = (char *)"web", .id = (char *)"web", .status = TASK_RUNNING};
	_cleanup_(snapshot_update_request_clear) struct snapshot_update_request update = {};
	struct task_process_reply reply = {.process = &process};
	struct service_answer *answer;
	char key[256];

	(void)state;
	make_container(key);
	answer = service_case_send(&test, "container.delete", NULL, 0, &request);
	fake_call_answer(asked("task.get"), BUS_OK, "", schema_task_process_reply(), &reply);
	wait_answer(answer);
	assert_int_equal(answer->status, BUS_FAILED_PRECONDITION);
	assert_non_null(strstr(answer->text, "RUNNING"));
	assert_int_equal(get(NULL), BUS_OK);

	request.keep_snapshot = true;
	answer = service_case_send(&test, "container.delete", NULL, 0, &request);
	fake_call_answer(asked("task.get"), BUS_NOT_FOUND, "no task", NULL, NULL);
	answer_empty("task.forget");
	request_of(asked("snapshot.update"), schema_snapshot_update_request(), &update);
	assert_string_equal(update.snapshot->key, key);
	assert_string_equal(update.update_mask.items[0], "labels.containerd.io/gc.root");
	assert_non_null(schema_map_get(&update.snapshot->labels, "containerd.io/gc.root"));
	fake_call_answer(asked("snapshot.update"), BUS_NOT_FOUND, "no snapshot", NULL, NULL);
	wait_answer(answer);
	assert_int_equal(answer->status, BUS_OK);
	assert_null(fake_bus_find(test.bus, "image.release"));
	assert_int_equal(get(NULL), BUS_NOT_FOUND);
}

/* ---- auto_remove without a task ---- */

static int make_old(void *userdata)
{
	struct container_name_row row = {};
	struct store_key key;

	assert_int_equal(store_key(&key, "default", "web", NULL), 0);
	assert_int_equal(store_get(service_store(test.service), AUTO_REMOVE_TABLE, &key,
				   schema_container_name_row(), &row),
			 0);
	row.created_at_ns -= UINT64_C(601000000000);
	assert_int_equal(store_put(service_store(test.service), AUTO_REMOVE_TABLE, &key,
				   schema_container_name_row(), &row),
			 0);
	container_name_row_clear(&row);
	(void)userdata;
	return 0;
}

static void test_an_old_container_that_nobody_runs_is_removed(void **state)
{
	struct task_process process = {
		.container_id = (char *)"web", .id = (char *)"web", .status = TASK_DELETED};
	struct task_process_reply ended = {.process = &process};
	struct container_service *service;
	char key[256];

	(void)state;
	make_container(key);
	service = test.service->object;
	sweep_now(service->sweep);
	service_case_turn(&test);
	assert_null(fake_bus_find(test.bus, "task.get"));
	assert_int_equal(service_transact(test.service, make_old, NULL), 0);
	service_case_turn(&test);
	sweep_now(service->sweep);
	fake_call_answer(asked("task.get"), BUS_OK, "", schema_task_process_reply(), &ended);
	fake_call_answer(asked("task.delete"), BUS_NOT_FOUND, "no task", NULL, NULL);
	answer_empty("image.release");
	for (unsigned i = 0; i < 10; i++)
		service_case_turn(&test);
	assert_int_equal(get(NULL), BUS_NOT_FOUND);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

TEST_MAIN(TEST(test_a_wrong_option_is_refused_before_an_image_is_asked_for),
	  TEST(test_options_without_a_fault_are_checked_once_and_plain_ones_never),
	  TEST(test_a_run_makes_snapshot_spec_record_and_task_in_this_order),
	  TEST(test_labels_of_the_image_come_along_unless_they_mean_something),
	  TEST(test_what_fails_is_undone_and_the_first_failure_is_told),
	  TEST(test_an_image_that_is_not_there_leaves_nothing_behind),
	  TEST(test_a_run_that_a_crash_cut_goes_on_with_the_same_ids),
	  TEST(test_a_run_that_a_crash_cut_is_known_though_its_container_is_removed),
	  TEST(test_the_task_of_another_container_of_that_name_is_not_taken),
	  TEST(test_two_runs_of_one_name_make_one_container),
	  TEST(test_faulty_requests_are_refused_before_anything_is_asked),
	  TEST(test_a_removal_takes_task_snapshot_and_record),
	  TEST(test_a_removal_of_another_container_of_that_name_does_nothing),
	  TEST(test_a_removal_that_a_crash_cut_is_finished),
	  TEST(test_a_container_with_a_task_is_not_deleted),
	  TEST(test_an_old_container_that_nobody_runs_is_removed))
