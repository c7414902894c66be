/* Where the event log is read for the end of a task whose shim is gone. */

#include "tests/unit/services/task/stand_in.h"

static char log_id[ID_SIZE] = "the log of today", other_id[ID_SIZE] = "another, shorter";

static int note_begin(void *userdata)
{
	_cleanup_(task_record_clear) struct task_record record = {};

	(void)userdata;
	assert_int_equal(task_row(task_service(), "default", "web", &record), 0);
	record.log_from = 1000;
	assert_int_equal(schema_bytes_set(&record.log_id, log_id, ID_SIZE), 0);
	return task_put(task_service(), &record);
}

/* It was deleted by its shim, which is gone, and this service has not heard of it. */
static struct service_answer *lose_shim(void)
{
	struct task_delete_request request = {.container_id = (char *)"web", .force = true};
	struct service_answer *answer;

	assert_int_equal(service_transact(shim.test.service, note_begin, NULL), 0);
	answer = service_case_send(&shim.test, "task.delete", NULL, 0, &request);
	shim_asked("delete", NULL);
	shim.listener = close_fd(shim.listener);
	shim.lock = close_fd(shim.lock);
	drop_peer();
	return answer;
}

static uint64_t read_from(void)
{
	_cleanup_(event_read_request_clear) struct event_read_request request = {};
	size_t size;
	const void *body = fake_call_body(bus_asked("event.read"), &size);

	assert_int_equal(schema_unpack(schema_event_read_request(), body, size, &request, NULL), 0);
	return request.from;
}

static void answer_read(const char *id, struct bus_event *event)
{
	struct event_read_reply log = {
		.log_id = {(uint8_t *)id, ID_SIZE}, .next = 2000, .first_seq = 1, .last_seq = 1999};

	if (event) {
		log.events.items = event;
		log.events.count = 1;
	}
	fake_call_answer(bus_asked("event.read"), BUS_OK, "", schema_event_read_reply(), &log);
}

static void answer_with_exit(const char *id)
{
	_cleanup_(schema_buffer_clear) struct schema_buffer packed = {};
	struct event_task_exit exit = {.container_id = (char *)"web",
				       .id = (char *)"web",
				       .task_id = (char *)TASK_ID,
				       .exit_status = 6,
				       .exited_at_ns = 1,
				       .source = EXIT_OBSERVED};
	struct bus_event event = {.seq = 1500,
				  .time_ns = 1,
				  .topic = (char *)"/tasks/exit",
				  .publisher = {(uint8_t *)log_id, ID_SIZE},
				  .publisher_seq = 1};

	assert_int_equal(schema_pack(schema_event_task_exit(), &exit, &packed, NULL), 0);
	event.event = (struct schema_bytes){packed.data, packed.size};
	answer_read(id, &event);
}

static void assert_exit(struct service_answer *answer)
{
	_cleanup_(task_delete_reply_clear) struct task_delete_reply reply = {};

	assert_int_equal(answered(answer), BUS_OK);
	assert_int_equal(
		schema_unpack(schema_task_delete_reply(), answer->body, answer->size, &reply, NULL),
		0);
	assert_non_null(reply.exit);
	assert_int_equal(reply.exit->exit_status, 6);
}

static void test_it_is_read_from_where_the_task_began(void **state)
{
	struct service_answer *answer = lose_shim();

	(void)state;
	assert_int_equal(read_from(), 1000);
	answer_with_exit(log_id);
	assert_exit(answer);
}

static void test_another_log_is_read_from_its_beginning(void **state)
{
	struct service_answer *answer = lose_shim();

	(void)state;
	assert_int_equal(read_from(), 1000);
	answer_read(other_id, NULL);
	assert_int_equal(read_from(), 1);
	answer_with_exit(other_id);
	assert_exit(answer);
}

/* ---- where a task begins ------------------------------------------------- */

static void send_create(const char *id)
{
	struct container_record container = {.id = (char *)id, .spec = (char *)"{}"};
	struct task_create_request create = {.container_id = (char *)id, .container = &container};

	(void)service_case_send(&shim.test, "task.create", NULL, 0, &create);
}

static void assert_begin(const char *id, uint64_t from)
{
	struct runtime_prepare_reply prepared = {.bundle = shim.bundle,
						 .runtime = (char *)"crun",
						 .runtime_path = (char *)"/bin/false",
						 .oci_root = shim.bundle};
	_cleanup_(task_record_clear) struct task_record record = {};

	fake_call_answer(bus_asked("runtime.prepare"), BUS_OK, "", schema_runtime_prepare_reply(),
			 &prepared);
	for (unsigned i = 0; i < ROUNDS; i++) {
		task_record_clear(&record);
		if (!task_row(task_service(), "default", id, &record))
			break;
		turn();
	}
	assert_int_equal(record.log_from, from);
	assert_int_equal(record.log_id.size, from ? ID_SIZE : 0);
}

static void test_a_task_begins_where_the_log_ended_and_waits_for_no_log(void **state)
{
	(void)state;
	send_create("early");
	(void)bus_asked("event.read");
	assert_begin("early", 0);
	answer_read(log_id, NULL);
	send_create("late");
	assert_begin("late", 2000);
	assert_null(fake_bus_find(shim.test.bus, "event.read"));
}

#define WITH_SHIM(test) cmocka_unit_test_setup_teardown(test, stand_in_running, stand_in_teardown)

TEST_MAIN(WITH_SHIM(test_it_is_read_from_where_the_task_began),
	  WITH_SHIM(test_another_log_is_read_from_its_beginning),
	  WITH_SHIM(test_a_task_begins_where_the_log_ended_and_waits_for_no_log))
