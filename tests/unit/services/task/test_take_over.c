/*
 * A shim dies and another takes the container over: what is held for it, and what
 * the task's record says meanwhile. The shim that is started is a program that
 * ends at once; the test then plays the one that lives.
 */

#include <poll.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "tests/unit/services/task/stand_in.h"

static enum task_status status_now(void)
{
	_cleanup_(task_process_reply_clear) struct task_process_reply reply = {};
	struct task_name_request request = {.container_id = (char *)"web"};

	assert_int_equal(service_case_call(&shim.test, "task.get", NULL, &request, &reply), BUS_OK);
	return reply.process->status;
}

static void wait_status(enum task_status status)
{
	for (unsigned i = 0; i < ROUNDS && status_now() != status; i++)
		turn();
	assert_string_equal(schema_enum_text(&schema_enum_task_status, status_now()),
			    schema_enum_text(&schema_enum_task_status, status));
}

static void write_config(void)
{
	_cleanup_(schema_buffer_clear) struct schema_buffer buffer = {};
	_cleanup_(cleanup_free) char *path = text_format("%s/shim.msgpack", shim.bundle);
	uint8_t publisher[ID_SIZE] = {1};
	struct shim_config config = {.task_id = (char *)TASK_ID,
				     .namespace = (char *)"default",
				     .container_id = (char *)"web",
				     .bundle = shim.bundle,
				     .socket = (char *)"/x",
				     .bus = (char *)"/x",
				     .runtime_path = (char *)"/x",
				     .oci_root = (char *)"/x",
				     .publisher = {.data = publisher, .size = ID_SIZE}};

	assert_int_equal(schema_pack(schema_shim_config(), &config, &buffer, NULL), 0);
	assert_int_equal(file_write(path, buffer.data, buffer.size, 0600, false, NULL), 0);
}

static void use_program(const char *path)
{
	free(task_service()->shim_program);
	task_service()->shim_program = strdup(path);
}

/* Its lock is given up, its socket closed; who is started in its place ends at once. */
static void shim_dies(void)
{
	write_config();
	use_program("/bin/true");
	shim.listener = close_fd(shim.listener);
	shim.lock = close_fd(shim.lock);
	drop_peer();
	wait_status(TASK_UNKNOWN);
}

static void another_lives(enum task_status status)
{
	_cleanup_(cleanup_free) char *path = text_format("%s/lock", shim.bundle);

	for (unsigned i = 0; i < ROUNDS && shim.lock < 0; i++) {
		if (file_lock(path, &shim.lock))
			turn();
	}
	assert_true(shim.lock >= 0);
	shim.state.status = status;
	listen_on_socket();
}

/* ---- what the record says ------------------------------------------------ */

static void test_a_task_is_unknown_only_until_another_shim_has_it(void **state)
{
	(void)state;
	wait_status(TASK_RUNNING);
	shim_dies();
	another_lives(TASK_RUNNING);
	shim_asked("adopt", NULL);
	assert_int_equal(status_now(), TASK_UNKNOWN);
	shim_answer_empty();
	wait_status(TASK_RUNNING);
}

/* Anything may be wrong with a way: only what is not there is gone. */
static void test_a_task_whose_bundle_cannot_be_looked_at_is_not_forgotten(void **state)
{
	_cleanup_(cleanup_free) char *away = scratch_path(&shim.test.scratch, "away");

	(void)state;
	wait_status(TASK_RUNNING);
	write_config();
	use_program("/bin/true");
	assert_int_equal(rename(shim.bundle, away), 0);
	assert_int_equal(symlink(shim.bundle, shim.bundle), 0);
	shim.listener = close_fd(shim.listener);
	shim.lock = close_fd(shim.lock);
	drop_peer();
	turns(SHIM_BIRTH_MS);
	assert_int_equal(status_now(), TASK_RUNNING);
	assert_int_equal(unlink(shim.bundle), 0);
	assert_int_equal(rename(away, shim.bundle), 0);
	wait_status(TASK_UNKNOWN);
	another_lives(TASK_RUNNING);
	shim_asked("adopt", NULL);
	shim_answer_empty();
	wait_status(TASK_RUNNING);
}

static void test_a_paused_one_is_paused_again(void **state)
{
	(void)state;
	shim.state.status = TASK_PAUSED;
	wait_status(TASK_PAUSED);
	shim_dies();
	another_lives(TASK_PAUSED);
	shim_asked("adopt", NULL);
	shim_answer_empty();
	wait_status(TASK_PAUSED);
}

static void test_one_that_cannot_be_taken_over_stays_unknown_and_is_killed_through_the_shim(
	void **state)
{
	struct task_kill_request request = {.container_id = (char *)"web", .signal = 9};
	struct service_answer *answer;

	(void)state;
	wait_status(TASK_RUNNING);
	shim_dies();
	another_lives(TASK_UNKNOWN);
	shim_asked("adopt", NULL);
	shim_fail(BUS_NOT_IMPLEMENTED, "not by this one");
	turns(10);
	assert_int_equal(status_now(), TASK_UNKNOWN);
	answer = service_case_send(&shim.test, "task.kill", NULL, 0, &request);
	shim_asked("kill", NULL);
	shim_answer_empty();
	assert_int_equal(answered(answer), BUS_OK);
}

static void test_a_request_that_was_under_way_is_asked_again_with_its_id(void **state)
{
	struct task_kill_request request = {.container_id = (char *)"web", .signal = 1};
	struct service_answer *answer;
	uint8_t id[ID_SIZE];

	(void)state;
	wait_status(TASK_RUNNING);
	answer = service_case_send(&shim.test, "task.kill", NULL, 0, &request);
	shim_asked("kill", NULL);
	memcpy(id, shim.request.id, ID_SIZE);
	shim_dies();
	another_lives(TASK_RUNNING);
	shim_asked("adopt", NULL);
	shim_answer_empty();
	shim_asked("kill", NULL);
	assert_memory_equal(shim.request.id, id, ID_SIZE);
	shim_answer_empty();
	assert_int_equal(answered(answer), BUS_OK);
}

/* ---- what is held for it -------------------------------------------------- */

static bool is_pidfd_of(int fd, pid_t pid)
{
	_cleanup_(cleanup_free) char *path = text_format("/proc/self/fdinfo/%d", fd);
	_cleanup_(cleanup_free) char *text = NULL, *line = text_format("Pid:\t%d\n", (int)pid);

	assert_int_equal(file_read_proc(path, 4096, &text, NULL), 0);
	return strstr(text, line);
}

static void test_the_next_shim_gets_a_pidfd_of_init(void **state)
{
	_cleanup_(shim_adopt_request_clear) struct shim_adopt_request adopt = {};

	(void)state;
	wait_status(TASK_RUNNING);
	shim_dies();
	another_lives(TASK_RUNNING);
	shim_asked("adopt", &adopt);
	assert_true(adopt.pidfd);
	assert_false(adopt.terminal);
	assert_true(!adopt.exec_id || !*adopt.exec_id);
	assert_true(is_pidfd_of(shim.fds[0], getpid()));
	shim_answer_empty();
	turns(3);
}

static void test_when_both_die_pidfds_are_opened_anew_for_all_that_run(void **state)
{
	_cleanup_(shim_adopt_request_clear) struct shim_adopt_request first = {};

	(void)state;
	wait_status(TASK_RUNNING);
	write_config();
	shim.listener = close_fd(shim.listener);
	service_dies();
	use_program("/bin/true");
	shim.lock = close_fd(shim.lock);
	wait_status(TASK_UNKNOWN);
	another_lives(TASK_RUNNING);
	shim_asked("adopt", &first);
	assert_true(is_pidfd_of(shim.fds[0], getpid()));
	shim_answer_empty();
	wait_status(TASK_RUNNING);
}

static int put_added(void *userdata)
{
	return added_put(task_service(), userdata);
}

static void add_with_terminal(void)
{
	struct task_io io = {.terminal = true};
	struct task_exec_record record = {.task_id = (char *)TASK_ID,
					  .namespace = (char *)"default",
					  .container_id = (char *)"web",
					  .exec_id = (char *)"e1",
					  .io = &io,
					  .status = TASK_CREATED};
	struct event_task_exec_started started = {
		.container_id = (char *)"web", .exec_id = (char *)"e1", .pid = (uint64_t)getppid()};

	assert_int_equal(service_transact(shim.test.service, put_added, &record), 0);
	turns(5);
	shim_event("/tasks/exec-started", &started);
}

/* The answer to shim.descriptors, with a descriptor of @fd's file as the terminal's master. */
static void give_terminal(int fd)
{
	_cleanup_(schema_buffer_clear) struct schema_buffer body = {}, packet = {};
	struct shim_descriptors_reply message = {.terminal = true};
	_Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
	struct envelope_reply reply = {};
	struct iovec part;
	struct msghdr header = {.msg_iov = &part,
				.msg_iovlen = 1,
				.msg_control = control,
				.msg_controllen = sizeof(control)};
	struct cmsghdr *rights = (struct cmsghdr *)control;

	assert_int_equal(schema_pack(schema_shim_descriptors_reply(), &message, &body, NULL), 0);
	memcpy(reply.id, shim.request.id, sizeof(reply.id));
	reply.body = (struct schema_span){body.data, body.size};
	assert_int_equal(envelope_write_reply(&reply, &packet), 0);
	part = (struct iovec){packet.data, packet.size};
	*rights = (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof(int)),
				   .cmsg_level = SOL_SOCKET,
				   .cmsg_type = SCM_RIGHTS};
	memcpy(CMSG_DATA(rights), &fd, sizeof(fd));
	assert_int_equal(sendmsg(shim.peer, &header, 0), packet.size);
	shim.has_request = false;
	turns(3);
}

static bool is_same_file(int a, int b)
{
	struct stat first, second;

	assert_int_equal(fstat(a, &first), 0);
	assert_int_equal(fstat(b, &second), 0);
	return first.st_ino == second.st_ino && first.st_dev == second.st_dev;
}

static void test_the_master_of_a_terminal_is_kept_and_given_back(void **state)
{
	_cleanup_(shim_process_request_clear) struct shim_process_request asked = {};
	_cleanup_(cleanup_fd) int master = memfd_create("master", MFD_CLOEXEC);
	bool found = false;

	(void)state;
	wait_status(TASK_RUNNING);
	add_with_terminal();
	shim_asked("descriptors", &asked);
	assert_string_equal(asked.exec_id, "e1");
	give_terminal(master);
	shim_dies();
	another_lives(TASK_RUNNING);
	for (unsigned i = 0; i < 2; i++) {
		_cleanup_(shim_adopt_request_clear) struct shim_adopt_request adopt = {};

		shim_asked("adopt", &adopt);
		if (adopt.exec_id && !strcmp(adopt.exec_id, "e1")) {
			assert_true(adopt.terminal && adopt.pidfd);
			found = is_same_file(shim.fds[1], master);
		}
		shim_answer_empty();
	}
	assert_true(found);
	wait_status(TASK_RUNNING);
}

static void test_of_what_has_ended_nothing_is_held(void **state)
{
	struct event_task_exit event = {.container_id = (char *)"web",
					.id = (char *)"e1",
					.pid = (uint64_t)getppid(),
					.exited_at_ns = 5,
					.source = EXIT_OBSERVED};
	_cleanup_(shim_adopt_request_clear) struct shim_adopt_request adopt = {};

	(void)state;
	wait_status(TASK_RUNNING);
	add_with_terminal();
	shim_asked("descriptors", NULL);
	shim_fail(BUS_NOT_FOUND, "it has ended");
	shim_event("/tasks/exit", &event);
	turns(3);
	shim_dies();
	another_lives(TASK_RUNNING);
	shim_asked("adopt", &adopt);
	assert_true(!adopt.exec_id || !*adopt.exec_id);
	shim_answer_empty();
	wait_status(TASK_RUNNING);
	assert_false(shim.has_request);
}

#define WITH_SHIM(test) cmocka_unit_test_setup_teardown(test, stand_in_running, stand_in_teardown)

TEST_MAIN(
	WITH_SHIM(test_a_task_is_unknown_only_until_another_shim_has_it),
	WITH_SHIM(test_a_task_whose_bundle_cannot_be_looked_at_is_not_forgotten),
	WITH_SHIM(test_a_paused_one_is_paused_again),
	WITH_SHIM(test_one_that_cannot_be_taken_over_stays_unknown_and_is_killed_through_the_shim),
	WITH_SHIM(test_a_request_that_was_under_way_is_asked_again_with_its_id),
	WITH_SHIM(test_the_next_shim_gets_a_pidfd_of_init),
	WITH_SHIM(test_when_both_die_pidfds_are_opened_anew_for_all_that_run),
	WITH_SHIM(test_the_master_of_a_terminal_is_kept_and_given_back),
	WITH_SHIM(test_of_what_has_ended_nothing_is_held))
