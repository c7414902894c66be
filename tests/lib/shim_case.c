#include "tests/lib/shim_case.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "broker/lib/file.h"
#include "broker/lib/loop.h"
#include "broker/lib/spawn.h"
#include "tests/lib/main.h"

/* ---- files --------------------------------------------------------------- */

char *shim_case_program(const char *name)
{
	char self[4096];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);

	assert_true(n > 0);
	self[n] = '\0';
	/* <build>/tests/integration/test_x */
	for (int i = 0; i < 3; i++)
		*strrchr(self, '/') = '\0';
	return text_format("%s/%s", self, name);
}

static void write_file(const char *path, const void *data, size_t size)
{
	struct why why = {};

	if (file_write(path, data, size, 0644, false, &why))
		fail_msg("%s", why.text);
}

void shim_case_write(struct shim_case *test, const char *name, const char *text)
{
	_cleanup_(cleanup_free) char *path = text_format("%s/%s", test->bundle, name);

	write_file(path, text, strlen(text));
}

void shim_case_order(struct shim_case *test, const char *orders)
{
	_cleanup_(cleanup_free) char *path = text_format("%s/orders", test->oci);

	write_file(path, orders, strlen(orders));
}

char *shim_case_dump(struct shim_case *test, const char *verb)
{
	_cleanup_(cleanup_free) char *path = text_format("%s/dump.%s", test->oci, verb);
	char *text = NULL;

	(void)file_read(AT_FDCWD, path, 1 << 20, &text, NULL);
	return text;
}

bool shim_case_has(struct shim_case *test, const char *name)
{
	_cleanup_(cleanup_free) char *path = scratch_path(&test->scratch, name);
	struct stat stat;

	return !lstat(path, &stat);
}

static void make_dir(const char *path)
{
	assert_int_equal(file_make_dir(path, 0755, NULL), 0);
}

static void make_bundle(struct shim_case *test, const char *init)
{
	static const char *const dirs[] = {"rootfs", "rootfs/proc", "rootfs/sys", "rootfs/dev",
					   "rootfs/bin"};

	make_dir(test->bundle);
	make_dir(test->oci);
	for (size_t i = 0; i < ARRAY_SIZE(dirs); i++) {
		_cleanup_(cleanup_free) char *path = text_format("%s/%s", test->bundle, dirs[i]);

		make_dir(path);
	}
	shim_case_write(
		test, "config.json",
		"{\"ociVersion\":\"1.0.0\",\"root\":{\"path\":\"rootfs\"},"
		"\"process\":{\"cwd\":\"/\",\"user\":{\"uid\":0,\"gid\":0},\"args\":[\"x\"]}}");
	shim_case_write(test, "init.sh", init);
}

void shim_case_init(struct shim_case *test, const char *init)
{
	*test = (struct shim_case){.fd = -1, .lock = -1, .bus_lines = -1};
	assert_int_equal(scratch_init(&test->scratch), 0);
	test->state = strdup(test->scratch.dir);
	test->bundle = scratch_path(&test->scratch, "bundle");
	test->oci = scratch_path(&test->scratch, "oci");
	test->runtime = shim_case_program("tests/bin/fake-oci");
	test->config = (struct shim_config){
		.task_id = SHIM_CASE_TASK,
		.namespace = "default",
		.container_id = "web",
		.bundle = test->bundle,
		.oci_root = test->oci,
		.runtime_path = test->runtime,
		.socket = scratch_path(&test->scratch, "control"),
		.bus = scratch_path(&test->scratch, "bus.sock"),
		.own_pid_ns = true,
		.publisher = {(uint8_t *)"0123456789abcdef", 16},
	};
	make_bundle(test, init);
	/* What a shim that was killed leaves comes to us and is reaped here. */
	assert_int_equal(prctl(PR_SET_CHILD_SUBREAPER, 1), 0);
}

/* ---- processes ----------------------------------------------------------- */

/* Reaps @pid within the time that a test has. */
static int wait_for(pid_t pid, const char *name)
{
	uint64_t limit_ms = time_boot_ms() + WAIT_MS;
	struct pollfd poll_fd = {.fd = pidfd_open(pid, 0), .events = POLLIN};
	int status = 0, n;

	n = poll(&poll_fd, 1, (int)(limit_ms - time_boot_ms()));
	close_fd(poll_fd.fd);
	if (n != 1)
		fail_msg("%s (%d) does not end", name, (int)pid);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return status;
}

static void write_config(struct shim_case *test)
{
	_cleanup_(cleanup_free) char *path = text_format("%s/shim.msgpack", test->bundle);
	struct schema_buffer buffer = {};

	assert_int_equal(schema_pack(schema_shim_config(), &test->config, &buffer, NULL), 0);
	write_file(path, buffer.data, buffer.size);
	schema_buffer_clear(&buffer);
}

static void hello(struct shim_case *test)
{
	struct shim_hello_reply reply = {};

	assert_int_equal(shim_case_call(test, "shim.hello", NULL, 0,
					&(struct shim_hello_request){.protocol = 1, .watch = true},
					&reply),
			 BUS_OK);
	assert_string_equal(reply.task_id, SHIM_CASE_TASK);
	shim_hello_reply_clear(&reply);
}

/* A child that a killed shim was spawning has its descriptors until it has closed them. */
static void lock_bundle(struct shim_case *test, const char *path)
{
	uint64_t limit_ms = time_boot_ms() + WAIT_MS;

	while (file_lock(path, &test->lock)) {
		if (time_boot_ms() > limit_ms)
			fail_msg("%s stays locked", path);
		(void)poll(NULL, 0, 2);
	}
}

void shim_case_start(struct shim_case *test)
{
	_cleanup_(cleanup_free) char *program = shim_case_program("bin/davit-shim");
	_cleanup_(cleanup_free) char *config = text_format("%s/shim.msgpack", test->bundle);
	_cleanup_(cleanup_free) char *lock = text_format("%s/lock", test->bundle);
	_cleanup_(cleanup_free) char *log = text_format("%s/log", test->bundle);
	const char *argv[] = {program,     "--config", config,      "--root",
			      test->state, "--state",  test->state, NULL};
	int pair[2], log_fd;
	struct why why = {};

	write_config(test);
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	lock_bundle(test, lock);
	log_fd = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	if (spawn(&(struct spawn){.path = program,
				  .argv = argv,
				  .fds = (struct spawn_fd[]){{log_fd, 2},
							     {pair[1], 3},
							     {test->lock, 4},
							     {test->copy, 5}},
				  .n_fds = test->copy ? 4 : 3,
				  .new_session = true},
		  &test->shim, &why))
		fail_msg("%s", why.text);
	close_fd(log_fd);
	close_fd(pair[1]);
	test->lock = close_fd(test->lock);
	test->fd = pair[0];
	hello(test);
}

void shim_case_replace(struct shim_case *test)
{
	kill(test->shim, SIGKILL);
	wait_for(test->shim, "the killed shim");
	test->fd = close_fd(test->fd);
	test->config.cleanup = true;
	shim_case_start(test);
}

int shim_case_wait_end(struct shim_case *test)
{
	int status = wait_for(test->shim, "davit-shim");

	test->shim = 0;
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

static void print_log(struct shim_case *test)
{
	_cleanup_(cleanup_free) char *path = text_format("%s/log", test->bundle), *text = NULL;

	if (!file_read(AT_FDCWD, path, 1 << 20, &text, NULL))
		fprintf(stderr, "%s", text);
}

/* Waits for @child a moment: an orphan that is about to end by itself is not left behind. True: it had to be killed. */
static bool reap_one(pid_t child)
{
	struct pollfd poll_fd = {.fd = pidfd_open(child, 0), .events = POLLIN};
	bool is_alive = poll(&poll_fd, 1, 1000) != 1;

	if (is_alive) {
		fprintf(stderr, "left behind: process %d\n", (int)child);
		kill(child, SIGKILL);
	}
	close_fd(poll_fd.fd);
	/* The init of a pid namespace ends when all that was in it has been reaped, by us. */
	while (waitpid(child, NULL, WNOHANG) == 0) {
		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
		(void)poll(NULL, 0, 1);
	}
	return is_alive;
}

/* Children that came to us from shims, until there are none. True: something was still alive. */
static bool reap_rest(void)
{
	char path[64], *end;
	bool is_alive = false;

	snprintf(path, sizeof(path), "/proc/self/task/%d/children", (int)getpid());
	for (;;) {
		_cleanup_(cleanup_free) char *children = NULL;
		pid_t child;

		if (file_read_proc(path, 65536, &children, NULL))
			return true;
		child = (pid_t)strtol(children, &end, 10);
		if (child <= 0)
			return is_alive;
		is_alive |= reap_one(child);
	}
}

static bool has_mounts(const struct shim_case *test)
{
	_cleanup_(cleanup_free) char *text = NULL;

	return !file_read_proc("/proc/self/mountinfo", 1 << 20, &text, NULL) &&
	       strstr(text, test->scratch.dir);
}

int shim_case_deinit(struct shim_case *test)
{
	bool is_alive;
	int r = 0;

	if (test->shim) {
		print_log(test);
		kill(test->shim, SIGKILL);
		waitpid(test->shim, NULL, 0);
	}
	shim_case_bus_stop(test);
	close_fd(test->fd);
	is_alive = reap_rest();
	if (test->shim || is_alive || has_mounts(test)) {
		fprintf(stderr, "left behind: %s\n", test->shim ? "the shim" : "see above");
		r = -1;
	}
	free(test->config.socket);
	free(test->config.bus);
	free(test->state);
	free(test->bundle);
	free(test->oci);
	free(test->runtime);
	return scratch_deinit(&test->scratch) || r ? -1 : 0;
}

/* ---- control ------------------------------------------------------------- */

int shim_case_connect(struct shim_case *test)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	strncpy(address.sun_path, test->config.socket, sizeof(address.sun_path) - 1);
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)))
		return close_fd(fd);
	return fd;
}

static const struct schema_method *method_of(const char *method)
{
	return schema_find_method("shim", strchr(method, '.') + 1);
}

static void send_with(int fd, const struct schema_buffer *packet, const int *fds, size_t n)
{
	union {
		char bytes[CMSG_SPACE(sizeof(int) * 8)];
		struct cmsghdr header;
	} rights = {};
	struct iovec data = {packet->data, packet->size};
	struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1};

	if (n) {
		message.msg_control = &rights;
		message.msg_controllen = CMSG_SPACE(sizeof(int) * n);
		rights.header.cmsg_level = SOL_SOCKET;
		rights.header.cmsg_type = SCM_RIGHTS;
		rights.header.cmsg_len = CMSG_LEN(sizeof(int) * n);
		memcpy(CMSG_DATA(&rights.header), fds, sizeof(int) * n);
	}
	assert_int_equal(sendmsg(fd, &message, MSG_NOSIGNAL), packet->size);
}

void shim_case_send_with(struct shim_case *test, int fd, const char *method, const uint8_t *id,
			 uint64_t deadline_ms, const void *request, const int *fds, size_t n)
{
	struct envelope_request envelope = {.deadline_ms = deadline_ms, .namespace = "default"};
	struct schema_buffer body = {}, packet = {};

	(void)test;
	memcpy(envelope.id, id, ID_SIZE);
	strncpy(envelope.method, method, sizeof(envelope.method) - 1);
	assert_int_equal(schema_pack(method_of(method)->request(), request, &body, NULL), 0);
	envelope.body = (struct schema_span){body.data, body.size};
	assert_int_equal(envelope_write_request(&envelope, &packet), 0);
	send_with(fd, &packet, fds, n);
	schema_buffer_clear(&body);
	schema_buffer_clear(&packet);
}

void shim_case_send(struct shim_case *test, int fd, const char *method, const uint8_t *id,
		    uint64_t deadline_ms, const void *request)
{
	shim_case_send_with(test, fd, method, id, deadline_ms, request, NULL, 0);
}

static bool is_event(const uint8_t *data)
{
	return data[1] == 0xc4;
}

static void take_exit(struct shim_event *event, const struct envelope_event *envelope)
{
	assert_int_equal(schema_unpack(schema_event_task_exit(), envelope->event.data,
				       envelope->event.size, &event->exit, NULL),
			 0);
	snprintf(event->id, sizeof(event->id), "%s", event->exit.id);
	free(event->exit.container_id);
	free(event->exit.id);
	free(event->exit.task_id);
	free(event->exit.cause);
	event->exit.container_id = event->exit.id = event->exit.task_id = event->exit.cause = NULL;
}

/* Of exec-added, which has the same first fields as exec-started. */
static void take_exec(struct shim_event *event, const struct envelope_event *envelope, bool started)
{
	struct event_task_exec_added added = {};
	struct event_task_exec_started start = {};

	assert_int_equal(schema_unpack(started ? schema_event_task_exec_started()
					       : schema_event_task_exec_added(),
				       envelope->event.data, envelope->event.size,
				       started ? (void *)&start : (void *)&added, NULL),
			 0);
	snprintf(event->id, sizeof(event->id), "%s", started ? start.exec_id : added.exec_id);
	event_task_exec_added_clear(&added);
	event_task_exec_started_clear(&start);
}

static void take_event(struct shim_case *test, const uint8_t *data, size_t size)
{
	struct shim_event *event = &test->events[test->n_events++];
	struct envelope_event envelope;

	assert_true(test->n_events < SHIM_CASE_EVENTS);
	assert_int_equal(envelope_read_event(data, size, &envelope, NULL), 0);
	event->seq = envelope.publisher_seq;
	assert_true(strlen(envelope.topic) < sizeof(event->topic));
	strcpy(event->topic, envelope.topic);
	if (!strcmp(envelope.topic, "/tasks/exit"))
		take_exit(event, &envelope);
	else if (!strncmp(envelope.topic, "/tasks/exec-", 12))
		take_exec(event, &envelope, !strcmp(envelope.topic, "/tasks/exec-started"));
}

void shim_case_reap(struct shim_case *test)
{
	siginfo_t info = {};

	while (!test->keeps_zombies && !waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) &&
	       info.si_pid && info.si_pid != test->shim && info.si_pid != test->bus) {
		waitpid(info.si_pid, NULL, 0);
		info.si_pid = 0;
	}
}

/* Whoever waits is a parent that reaps, as davit up and pid 1 are. */
static bool wait_for_packet(struct shim_case *test, int fd)
{
	uint64_t limit_ms = time_boot_ms() + WAIT_MS;

	do {
		shim_case_reap(test);
		if (wait_on_fd(fd, POLLIN, 20))
			return true;
	} while (time_boot_ms() < limit_ms);
	return false;
}

static void take_fds(struct shim_case *test, struct msghdr *message)
{
	struct cmsghdr *header = CMSG_FIRSTHDR(message);

	test->n_fds = 0;
	if (!header)
		return;
	test->n_fds = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
	assert_in_range(test->n_fds, 1, ARRAY_SIZE(test->fds));
	memcpy(test->fds, CMSG_DATA(header), test->n_fds * sizeof(int));
}

/* One packet: its size, or 0 at the end of the connection. */
static size_t next_packet(struct shim_case *test, int fd, uint8_t *packet, size_t size)
{
	char rights[CMSG_SPACE(sizeof(int) * 2)];
	struct iovec data = {packet, size};
	struct msghdr message = {.msg_iov = &data,
				 .msg_iovlen = 1,
				 .msg_control = rights,
				 .msg_controllen = sizeof(rights)};
	ssize_t n;

	if (!wait_for_packet(test, fd))
		fail_msg("the shim does not answer");
	n = recvmsg(fd, &message, MSG_CMSG_CLOEXEC);
	if (n <= 0)
		return 0;
	take_fds(test, &message);
	return (size_t)n;
}

enum bus_status shim_case_receive(struct shim_case *test, int fd, const char *method,
				  const uint8_t *id, void *reply)
{
	static uint8_t packet[70000];
	struct envelope_reply envelope;
	size_t size;

	for (;;) {
		size = next_packet(test, fd, packet, sizeof(packet));
		if (!size)
			fail_msg("the shim closed the connection instead of answering %s", method);
		if (is_event(packet)) {
			take_event(test, packet, size);
			continue;
		}
		assert_int_equal(envelope_read_reply(packet, size, &envelope, NULL), 0);
		if (!id || !memcmp(envelope.id, id, ID_SIZE))
			break;
	}
	snprintf(test->text, sizeof(test->text), "%s", envelope.text);
	if (reply && envelope.status == BUS_OK)
		assert_int_equal(schema_unpack(method_of(method)->reply(), envelope.body.data,
					       envelope.body.size, reply, NULL),
				 0);
	return envelope.status;
}

enum bus_status shim_case_call(struct shim_case *test, const char *method, const uint8_t *id,
			       uint64_t deadline_ms, const void *request, void *reply)
{
	static const struct empty nothing;
	uint8_t random[ID_SIZE];

	if (!id) {
		id_make(random);
		id = random;
	}
	shim_case_send(test, test->fd, method, id, deadline_ms, request ?: &nothing);
	return shim_case_receive(test, test->fd, method, id, reply);
}

size_t shim_case_wait_process(struct shim_case *test, const char *topic, const char *id)
{
	static uint8_t packet[70000];

	for (size_t i = 0;; i++) {
		while (i == test->n_events) {
			size_t size = next_packet(test, test->fd, packet, sizeof(packet));

			if (!size)
				fail_msg("the shim ended before %s", topic);
			if (is_event(packet))
				take_event(test, packet, size);
		}
		if (!strcmp(test->events[i].topic, topic) &&
		    (!id || !strcmp(test->events[i].id, id)))
			return i;
	}
}

size_t shim_case_wait_event(struct shim_case *test, const char *topic)
{
	return shim_case_wait_process(test, topic, NULL);
}

/* Linux 6.13's ioctl of pidfds, which Debian 12's headers lack: a mask, and 56 bytes that it asks for. */
#define PIDFD_GET_INFO_  _IOWR(0xff, 11, uint64_t[8])
#define PIDFD_INFO_EXIT_ (1u << 3)

bool shim_case_kernel_tells_exits(void)
{
	uint64_t info[8] = {PIDFD_INFO_EXIT_};
	_cleanup_(cleanup_fd) int fd = -1;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (!pid)
		_exit(0);
	fd = pidfd_open(pid, 0);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	return !ioctl(fd, PIDFD_GET_INFO_, info) && info[0] & PIDFD_INFO_EXIT_;
}

void shim_case_assert_adopted_exit(const struct shim_case *test, size_t at, uint64_t status)
{
	bool is_told = shim_case_kernel_tells_exits();

	assert_int_equal(test->events[at].exit.source, is_told ? EXIT_OBSERVED : EXIT_UNKNOWN);
	assert_int_equal(test->events[at].exit.exit_status, is_told ? status : 255);
}

void shim_case_wait_file(struct shim_case *test, const char *path)
{
	uint64_t limit_ms = time_boot_ms() + WAIT_MS;

	while (!shim_case_has(test, path)) {
		if (time_boot_ms() > limit_ms)
			fail_msg("%s does not appear", path);
		(void)poll(NULL, 0, 5);
	}
}

void shim_case_drain(struct shim_case *test)
{
	static uint8_t packet[70000];

	while (wait_on_fd(test->fd, POLLIN, 0)) {
		size_t size = next_packet(test, test->fd, packet, sizeof(packet));

		if (!size)
			fail_msg("the shim closed the connection");
		if (is_event(packet))
			take_event(test, packet, size);
	}
}

enum bus_status shim_case_exec(struct shim_case *test, const char *id, const char *script,
			       bool start, struct shim_exec_reply *reply)
{
	_cleanup_(cleanup_free) char *file = text_format("%s.json", id);
	_cleanup_(cleanup_free) char *script_file = text_format("%s.json.sh", id);
	struct shim_exec_request request = {
		.exec_id = (char *)id, .process_file = file, .start = start};

	shim_case_write(test, file,
			"{\"cwd\":\"/\",\"user\":{\"uid\":0,\"gid\":0},\"args\":[\"x\"]}");
	shim_case_write(test, script_file, script);
	return shim_case_call(test, "shim.exec", NULL, 0, &request, reply);
}

/* ---- the bus: a REP socket of its own process ---------------------------- */

static bool read_exactly(int fd, void *data, size_t size)
{
	return recv(fd, data, size, MSG_WAITALL) == (ssize_t)size;
}

static uint64_t take_batch(const struct event_publish_request *request, uint64_t next_seq,
			   int lines)
{
	for (size_t i = 0; i < request->events.count; i++) {
		const struct event_item *item = &request->events.items[i];

		if (item->seq != next_seq)
			continue;
		dprintf(lines, "%lu %s\n", (unsigned long)item->seq, item->topic);
		next_seq++;
	}
	return next_seq;
}

static bool send_reply(int fd, const uint8_t head[4], const struct envelope_request *request,
		       enum bus_status status, uint64_t next_seq)
{
	struct event_publish_reply reply = {.next_seq = next_seq};
	struct envelope_reply envelope = {.status = status};
	struct schema_buffer body = {}, packet = {};
	uint8_t frame[13] = {1};
	uint64_t size;
	bool is_sent;

	memcpy(envelope.id, request->id, ID_SIZE);
	if (schema_pack(schema_event_publish_reply(), &reply, &body, NULL))
		_exit(3);
	envelope.body = (struct schema_span){body.data, body.size};
	if (envelope_write_reply(&envelope, &packet))
		_exit(3);
	size = htobe64(packet.size + 4);
	memcpy(frame + 1, &size, sizeof(size));
	memcpy(frame + 9, head, 4);
	is_sent = send(fd, frame, sizeof(frame), MSG_NOSIGNAL | MSG_MORE) == sizeof(frame) &&
		  send(fd, packet.data, packet.size, MSG_NOSIGNAL) == (ssize_t)packet.size;
	schema_buffer_clear(&body);
	schema_buffer_clear(&packet);
	return is_sent;
}

static bool serve_one(int fd, uint64_t *next_seq, bool *forgets, int lines)
{
	static uint8_t message[1 << 20];
	struct event_publish_request publish = {};
	struct envelope_request request;
	enum bus_status status = BUS_OK;
	uint8_t head[9];
	uint64_t size;

	if (!read_exactly(fd, head, sizeof(head)))
		return false;
	memcpy(&size, head + 1, sizeof(size));
	size = be64toh(size);
	if (size > sizeof(message) || !read_exactly(fd, message, size))
		return false;
	if (envelope_read_request(message + 4, size - 4, &request, NULL) ||
	    strcmp(request.method, "event.publish") ||
	    schema_unpack(schema_event_publish_request(), request.body.data, request.body.size,
			  &publish, NULL))
		_exit(4);
	if (*forgets || publish.events.items[0].seq > *next_seq)
		status = BUS_ABORTED;
	else
		*next_seq = take_batch(&publish, *next_seq, lines);
	*forgets = false;
	event_publish_request_clear(&publish);
	return send_reply(fd, message, &request, status, *next_seq);
}

__attribute__((noreturn)) static void serve(int listener, bool forgets, int lines)
{
	static const uint8_t greeting[8] = {0, 'S', 'P', 0, 0, 0x31, 0, 0};
	uint64_t next_seq = 1;
	uint8_t theirs[8];
	int fd;

	for (;;) {
		fd = accept(listener, NULL, NULL);
		if (fd < 0)
			_exit(2);
		if (send(fd, greeting, sizeof(greeting), MSG_NOSIGNAL) == sizeof(greeting) &&
		    read_exactly(fd, theirs, sizeof(theirs)))
			while (serve_one(fd, &next_seq, &forgets, lines))
				;
		close(fd);
	}
}

void shim_case_bus_start(struct shim_case *test, enum shim_case_bus kind)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int lines[2];

	assert_int_equal(pipe2(lines, O_CLOEXEC), 0);
	strncpy(address.sun_path, test->config.bus, sizeof(address.sun_path) - 1);
	unlink(address.sun_path);
	assert_int_equal(bind(listener, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(listen(listener, 8), 0);
	test->bus = fork();
	if (!test->bus) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		serve(listener, kind == SHIM_BUS_FORGETS, lines[1]);
	}
	close_fd(listener);
	close_fd(lines[1]);
	test->bus_lines = lines[0];
}

void shim_case_bus_stop(struct shim_case *test)
{
	if (test->bus) {
		kill(test->bus, SIGKILL);
		waitpid(test->bus, NULL, 0);
	}
	test->bus = 0;
	test->bus_lines = close_fd(test->bus_lines);
}

void shim_case_bus_line(struct shim_case *test, char *line, size_t size)
{
	size_t used = 0;

	for (;;) {
		if (!wait_on_fd(test->bus_lines, POLLIN, WAIT_MS))
			fail_msg("no event is published");
		assert_int_equal(read(test->bus_lines, line + used, 1), 1);
		if (line[used] == '\n')
			break;
		assert_true(++used < size);
	}
	line[used] = '\0';
}
