#pragma once
/*
 * A task service in a scratch directory with one live task, "web", whose shim the
 * test plays: it listens on the task's socket and holds its lock. hello, state
 * and processes answer by themselves; everything else waits for the test.
 */

#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "services/task/task.h"
#include "tests/lib/main.h"
#include "tests/lib/service_case.h"

#define TASK_ID    "00112233445566778899aabbccddeeff"
#define ROUNDS     200
#define PACKET_MAX 65536

struct stand_in {
	struct service_case test;
	char *bundle;
	int listener, peer, lock;
	struct shim_state_reply state;
	struct shim_process_state processes[4];
	size_t n_processes;
	uint64_t seq;
	/* the request that came last and was not answered by itself */
	struct envelope_request request;
	uint8_t body[PACKET_MAX];
	bool has_request;
	int fds[SHIM_LINK_FDS];
	unsigned n_hellos;
};

static struct stand_in shim;

static struct task_service *task_service(void)
{
	return shim.test.service->object;
}

static int put_row(void *userdata)
{
	return task_put(task_service(), userdata);
}

static char *socket_path(void)
{
	return text_format("%s/s/%.16s", service_paths(shim.test.service)->state, TASK_ID);
}

static void listen_on_socket(void)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	_cleanup_(cleanup_free) char *path = socket_path();

	shim.listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	(void)unlink(path);
	assert_int_equal(bind(shim.listener, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(listen(shim.listener, 8), 0);
}

static void take_lock(void)
{
	_cleanup_(cleanup_free) char *path = text_format("%s/lock", shim.bundle);

	assert_int_equal(file_lock(path, &shim.lock), 0);
}

/* The shim lives: whoever starts the service finds it. */
static void shim_lives(enum task_status status)
{
	shim.state = (struct shim_state_reply){.status = status, .pid = (uint64_t)getpid()};
	assert_int_equal(process_start_time(getpid(), &shim.state.start_time), 0);
	listen_on_socket();
	take_lock();
}

static void add_task(enum task_status status)
{
	_cleanup_(cleanup_free) char *socket = socket_path();
	struct task_record record = {.task_id = (char *)TASK_ID,
				     .namespace = (char *)"default",
				     .container_id = (char *)"web",
				     .bundle = shim.bundle,
				     .socket = socket,
				     .pid = (uint64_t)getpid(),
				     .stop_signal = (char *)"SIGQUIT",
				     .status = status};
	struct task_shim *added;

	assert_int_equal(process_start_time(getpid(), &record.pid_start_time), 0);
	assert_int_equal(service_transact(shim.test.service, put_row, &record), 0);
	service_case_turn(&shim.test);
	assert_int_equal(task_shim_add(task_service(), TASK_ID, &added), 0);
	task_shim_take_up(added);
}

static int stand_in_setup(enum task_status status)
{
	shim = (struct stand_in){.listener = -1, .peer = -1, .lock = -1, .fds = {-1, -1}};
	service_case_init(&shim.test, &task_service_definition);
	shim.bundle = scratch_path(&shim.test.scratch, "bundle");
	assert_int_equal(file_make_dir(shim.bundle, 0700, NULL), 0);
	shim_lives(status);
	add_task(status);
	return 0;
}

static inline int stand_in_running(void **state)
{
	(void)state;
	return stand_in_setup(TASK_RUNNING);
}

static inline int stand_in_created(void **state)
{
	(void)state;
	return stand_in_setup(TASK_CREATED);
}

static void drop_peer(void)
{
	shim.peer = close_fd(shim.peer);
	shim.has_request = false;
	for (size_t i = 0; i < SHIM_LINK_FDS; i++)
		shim.fds[i] = close_fd(shim.fds[i]);
}

static int stand_in_teardown(void **state)
{
	(void)state;
	drop_peer();
	shim.listener = close_fd(shim.listener);
	shim.lock = close_fd(shim.lock);
	free(shim.bundle);
	return service_case_deinit(&shim.test);
}

/* ---- what the shim says -------------------------------------------------- */

static void shim_send(const struct schema_buffer *packet)
{
	assert_int_equal(send(shim.peer, packet->data, packet->size, MSG_NOSIGNAL), packet->size);
}

static void shim_answer_with(enum bus_status status, const char *text,
			     const struct schema_message *schema, const void *message)
{
	_cleanup_(schema_buffer_clear) struct schema_buffer body = {}, packet = {};
	struct envelope_reply reply = {.status = status};

	if (schema)
		assert_int_equal(schema_pack(schema, message, &body, NULL), 0);
	memcpy(reply.id, shim.request.id, sizeof(reply.id));
	reply.body = (struct schema_span){body.data, body.size};
	snprintf(reply.text, sizeof(reply.text), "%s", text);
	assert_int_equal(envelope_write_reply(&reply, &packet), 0);
	shim_send(&packet);
	shim.has_request = false;
}

static __attribute__((unused)) void shim_answer(const struct schema_message *schema,
						const void *message)
{
	shim_answer_with(BUS_OK, "", schema, message);
}

static __attribute__((unused)) void shim_answer_empty(void)
{
	static const struct empty nothing;

	shim_answer(schema_empty(), &nothing);
}

static __attribute__((unused)) void shim_fail(enum bus_status status, const char *text)
{
	shim_answer_with(status, text, NULL, NULL);
}

static __attribute__((unused)) void shim_event(const char *topic, const void *message)
{
	_cleanup_(schema_buffer_clear) struct schema_buffer body = {}, packet = {};
	const struct schema_event *event = schema_find_event(topic);
	struct envelope_event envelope = {.seq = ++shim.seq, .time_ns = time_real_ns()};

	assert_int_equal(schema_pack(event->message(), message, &body, NULL), 0);
	snprintf(envelope.topic, sizeof(envelope.topic), "%s", topic);
	strcpy(envelope.namespace, "default");
	envelope.event = (struct schema_span){body.data, body.size};
	assert_int_equal(envelope_write_event(&envelope, &packet), 0);
	shim_send(&packet);
}

/* ---- what it is asked ----------------------------------------------------- */

static void keep_descriptors(struct msghdr *message)
{
	struct cmsghdr *part = CMSG_FIRSTHDR(message);
	size_t n = part ? (part->cmsg_len - CMSG_LEN(0)) / sizeof(int) : 0;

	for (size_t i = 0; i < n && i < SHIM_LINK_FDS; i++) {
		close_fd(shim.fds[i]);
		memcpy(&shim.fds[i], CMSG_DATA(part) + i * sizeof(int), sizeof(int));
	}
}

static bool receive_request(void)
{
	_Alignas(struct cmsghdr) char control[64];
	static uint8_t packet[PACKET_MAX];
	struct iovec part = {packet, sizeof(packet)};
	struct msghdr message = {.msg_iov = &part,
				 .msg_iovlen = 1,
				 .msg_control = control,
				 .msg_controllen = sizeof(control)};
	ssize_t n = recvmsg(shim.peer, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

	if (n == 0)
		drop_peer();
	if (n <= 0)
		return false;
	keep_descriptors(&message);
	assert_int_equal(envelope_read_request(packet, (size_t)n, &shim.request, NULL), 0);
	memcpy(shim.body, shim.request.body.data, shim.request.body.size);
	return true;
}

static bool answers_by_itself(void)
{
	struct shim_hello_reply hello = {
		.protocol = 1, .pid = (uint64_t)getpid(), .task_id = (char *)TASK_ID};
	struct shim_processes_reply processes = {.processes = {shim.processes, shim.n_processes}};

	if (!strcmp(shim.request.method, "shim.hello")) {
		shim.n_hellos++;
		shim_answer(schema_shim_hello_reply(), &hello);
	} else if (!strcmp(shim.request.method, "shim.state")) {
		shim_answer(schema_shim_state_reply(), &shim.state);
	} else if (!strcmp(shim.request.method, "shim.processes")) {
		shim_answer(schema_shim_processes_reply(), &processes);
	} else {
		return false;
	}
	return true;
}

/* A turn of the service, then of the shim. */
static void turn(void)
{
	assert_int_equal(loop_turn(shim.test.loop, 2), 0);
	service_turn(shim.test.service);
	if (shim.peer < 0 && shim.listener >= 0)
		shim.peer = accept4(shim.listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (shim.peer >= 0 && !shim.has_request && receive_request())
		shim.has_request = !answers_by_itself();
}

static __attribute__((unused)) void turns(unsigned n)
{
	while (n--)
		turn();
}

/* Until the shim is asked for @method; its request. */
static __attribute__((unused)) void shim_asked(const char *method, void *ret_request)
{
	const struct schema_method *schema = schema_find_method("shim", method);

	for (unsigned i = 0; i < ROUNDS && !shim.has_request; i++)
		turn();
	if (!shim.has_request)
		fail_msg("the shim is not asked for %s", method);
	assert_string_equal(shim.request.method + strlen("shim."), method);
	if (ret_request)
		assert_int_equal(schema_unpack(schema->request(), shim.body, shim.request.body.size,
					       ret_request, NULL),
				 0);
}

static __attribute__((unused)) enum bus_status answered(struct service_answer *answer)
{
	for (unsigned i = 0; i < ROUNDS && !answer->is_answered; i++)
		turn();
	assert_true(answer->is_answered);
	return answer->status;
}

static __attribute__((unused)) struct fake_call *bus_asked(const char *method)
{
	for (unsigned i = 0; i < ROUNDS && !fake_bus_find(shim.test.bus, method); i++)
		turn();
	if (!fake_bus_find(shim.test.bus, method))
		fail_msg("%s is not called", method);
	return fake_bus_find(shim.test.bus, method);
}

/* The service is killed: what was not committed is gone. The shim lives on. */
static __attribute__((unused)) void service_dies(void)
{
	service_case_crash(&shim.test);
	drop_peer();
	service_case_open(&shim.test);
}
