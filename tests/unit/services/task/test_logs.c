/* task.logs, over files that the test writes as a shim does. */

#include "schemas/log_frame.h"
#include "tests/unit/services/task/stand_in.h"

#define LINES 40

static int note_log(void *userdata)
{
	_cleanup_(task_record_clear) struct task_record record = {};

	(void)userdata;
	assert_int_equal(task_row(task_service(), "default", "web", &record), 0);
	record.log = task_log_directory(task_service(), TASK_ID);
	record.io = calloc(1, sizeof(*record.io));
	record.io->log = calloc(1, sizeof(*record.io->log));
	return task_put(task_service(), &record);
}

static char *log_file(void)
{
	_cleanup_(cleanup_free) char *directory = task_log_directory(task_service(), TASK_ID);

	return text_format("%s/web/1", directory);
}

/* "line 0\n", "line 1\n" … a frame each. */
static void write_log(void)
{
	_cleanup_(schema_buffer_clear) struct schema_buffer buffer = {};
	_cleanup_(cleanup_free) char *path = log_file(), *directory = strdup(path);
	uint64_t start = 0;

	assert_int_equal(service_transact(shim.test.service, note_log, NULL), 0);
	turns(3);
	for (unsigned i = 0; i < LINES; i++) {
		uint8_t bytes[LOG_FRAME_OVERHEAD + 32];
		char line[32];
		struct log_frame frame = {
			.time_ns = i + 1,
			.start = start,
			.size = (uint32_t)snprintf(line, sizeof(line), "line %u\n", i),
			.stream = LOG_TTY,
			.ends_line = true,
			.data = (uint8_t *)line};

		start += frame.size;
		assert_int_equal(schema_buffer_add(&buffer, bytes, log_frame_write(&frame, bytes)),
				 0);
	}
	*strrchr(directory, '/') = '\0';
	assert_int_equal(file_make_dir(directory, 0700, NULL), 0);
	assert_int_equal(file_write(path, buffer.data, buffer.size, 0600, false, NULL), 0);
}

static enum bus_status logs(const struct task_logs_request *request, struct task_logs_reply *reply)
{
	return service_case_call(&shim.test, "task.logs", NULL, request, reply);
}

static unsigned n_frames(const struct schema_bytes *frames)
{
	struct log_frame frame;
	unsigned n = 0;

	for (size_t at = 0; at < frames->size; at += log_frame_size(&frame), n++)
		assert_int_equal(log_frame_read(frames->data + at, frames->size - at, &frame), 0);
	return n;
}

static void test_a_log_is_read_whole_and_then_from_where_it_ended(void **state)
{
	_cleanup_(task_logs_reply_clear) struct task_logs_reply first = {}, second = {};
	struct task_logs_request request = {.container_id = (char *)"web"};

	(void)state;
	write_log();
	assert_int_equal(logs(&request, &first), BUS_OK);
	assert_int_equal(n_frames(&first.frames), LINES);
	assert_true(first.at_end);
	assert_false(first.ended);
	request.position = first.position;
	assert_int_equal(logs(&request, &second), BUS_OK);
	assert_int_equal(second.frames.size, 0);
	assert_true(second.at_end);
}

static void test_a_tail_is_the_last_lines(void **state)
{
	_cleanup_(task_logs_reply_clear) struct task_logs_reply reply = {};
	struct task_logs_request request = {.container_id = (char *)"web", .tail = 3};
	struct log_frame frame;

	(void)state;
	write_log();
	assert_int_equal(logs(&request, &reply), BUS_OK);
	assert_int_equal(n_frames(&reply.frames), 3);
	assert_int_equal(log_frame_read(reply.frames.data, reply.frames.size, &frame), 0);
	assert_memory_equal(frame.data, "line 37\n", 8);
}

static void test_a_position_within_a_frame_is_refused(void **state)
{
	struct log_position position = {.file = 1, .offset = 3};
	struct task_logs_request request = {.container_id = (char *)"web", .position = &position};

	(void)state;
	write_log();
	assert_int_equal(logs(&request, NULL), BUS_INVALID_ARGUMENT);
}

static void test_a_process_that_has_written_nothing_has_an_empty_log(void **state)
{
	_cleanup_(task_logs_reply_clear) struct task_logs_reply reply = {};
	struct task_logs_request request = {.container_id = (char *)"web"};

	(void)state;
	assert_int_equal(logs(&request, NULL), BUS_FAILED_PRECONDITION); /* it keeps none */
	assert_int_equal(service_transact(shim.test.service, note_log, NULL), 0);
	turns(3);
	assert_int_equal(logs(&request, &reply), BUS_OK);
	assert_true(reply.at_end);
	assert_int_equal(reply.frames.size, 0);
}

static void delete_task(bool forget)
{
	struct task_delete_request request = {
		.container_id = (char *)"web", .force = true, .forget = forget};
	struct shim_delete_reply deleted = {.pid = 1};
	struct service_answer *answer = service_case_send(&shim.test, "task.delete", NULL, 0,
							  &request);

	shim_asked("delete", NULL);
	shim_answer(schema_shim_delete_reply(), &deleted);
	assert_int_equal(answered(answer), BUS_OK);
	turns(3);
}

static void test_a_log_stays_until_its_container_is_deleted(void **state)
{
	_cleanup_(task_logs_reply_clear) struct task_logs_reply reply = {};
	struct task_logs_request request = {.container_id = (char *)"web"};
	struct task_forget_request forget = {.container_id = (char *)"web"};
	_cleanup_(cleanup_free) char *path = log_file();

	(void)state;
	write_log();
	delete_task(false);
	assert_int_equal(logs(&request, &reply), BUS_OK);
	assert_int_equal(n_frames(&reply.frames), LINES);
	assert_true(reply.ended);
	assert_int_equal(service_case_call(&shim.test, "task.forget", NULL, &forget, NULL), BUS_OK);
	turns(3);
	assert_int_not_equal(access(path, F_OK), 0);
	assert_int_equal(logs(&request, NULL), BUS_FAILED_PRECONDITION);
}

static void test_a_log_goes_with_the_container(void **state)
{
	_cleanup_(cleanup_free) char *path = log_file();

	(void)state;
	write_log();
	delete_task(true);
	assert_int_not_equal(access(path, F_OK), 0);
}

static void test_logs_that_no_row_tells_of_go_at_the_start(void **state)
{
	_cleanup_(cleanup_free) char *orphan = NULL, *path = log_file(), *inner = NULL;

	(void)state;
	write_log();
	orphan = task_log_directory(task_service(), "ffffffffffffffffffffffffffffffff");
	inner = text_format("%s/web", orphan);
	assert_int_equal(file_make_dir(inner, 0700, NULL), 0);
	ended_remove_orphans(task_service());
	assert_int_not_equal(access(orphan, F_OK), 0);
	assert_int_equal(access(path, F_OK), 0);
}

#define WITH_SHIM(test) cmocka_unit_test_setup_teardown(test, stand_in_running, stand_in_teardown)

TEST_MAIN(WITH_SHIM(test_a_log_is_read_whole_and_then_from_where_it_ended),
	  WITH_SHIM(test_a_tail_is_the_last_lines),
	  WITH_SHIM(test_a_position_within_a_frame_is_refused),
	  WITH_SHIM(test_a_process_that_has_written_nothing_has_an_empty_log),
	  WITH_SHIM(test_a_log_stays_until_its_container_is_deleted),
	  WITH_SHIM(test_a_log_goes_with_the_container),
	  WITH_SHIM(test_logs_that_no_row_tells_of_go_at_the_start))
