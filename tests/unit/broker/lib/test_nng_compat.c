/* nng 1.5.2's faults stay mended; the answering side and the watchdog, against peers that mean it ill. */

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <nng/nng.h>
#include <nng/protocol/reqrep0/req.h>

#include "broker/lib/bus_server.h"
#include "broker/lib/bus_watchdog.h"
#include "broker/lib/file.h"
#include "broker/lib/nng_compat.h"
#include "broker/lib/sp.h"
#include "broker/lib/spawn.h"
#include "tests/lib/main.h"

#define AS_NOBODY "--as-nobody"

/* nng 1.5.2 loses a message when its peer dies while it is being sent, and keeps what is abandoned. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void)
{
	return "leak:libnng.so\n";
}

struct fixture {
	char dir[32];
	char *path;
	struct loop *loop;
	struct bus_server *server;
	struct bus_server_request *kept; /* of a request that says "keep" */
	unsigned n_requests;
	struct sp_client *client;
	unsigned n_answers;
	int error;
	char answer[64];
	size_t size;
};

static void echo(void *userdata, struct bus_server_request *request)
{
	struct fixture *fixture = userdata;
	const void *data;
	size_t size;

	fixture->n_requests++;
	data = bus_server_request_data(request, &size);
	if (size == 4 && memcmp(data, "keep", 4) == 0)
		fixture->kept = request;
	else if (size == 4 && memcmp(data, "drop", 4) == 0)
		bus_server_drop(request);
	else
		bus_server_reply(request, data, size);
}

static int set_up(void **state)
{
	struct fixture *fixture = calloc(1, sizeof(*fixture));

	if (!fixture)
		return -1;
	strcpy(fixture->dir, "/tmp/dv-XXXXXX");
	if (!mkdtemp(fixture->dir) || chmod(fixture->dir, 0755))
		return -1;
	fixture->path = text_format("%s/rep.sock", fixture->dir);
	*state = fixture;
	return loop_new(&fixture->loop);
}

static int tear_down(void **state)
{
	struct fixture *fixture = *state;
	int r;

	sp_client_free(fixture->client);
	bus_server_free(fixture->server);
	loop_free(fixture->loop);
	r = file_remove_tree(AT_FDCWD, fixture->dir, NULL);
	free(fixture->path);
	free(fixture);
	return r;
}

static void serve(struct fixture *fixture, bool only_own_uid)
{
	struct bus_server_options options = {
		.path = fixture->path,
		.mode = 0666,
		.only_own_uid = only_own_uid,
		.contexts = 2,
		.contexts_max = 16,
	};
	struct why why = {};

	assert_int_equal(
		bus_server_new(fixture->loop, &options, echo, fixture, &fixture->server, &why), 0);
	assert_int_equal(sp_client_new(fixture->loop, fixture->path, &fixture->client), 0);
}

static void set_answer(void *userdata, int r, const void *reply, size_t size)
{
	struct fixture *fixture = userdata;

	fixture->n_answers++;
	fixture->error = r;
	fixture->size = size;
	if (!r && size < sizeof(fixture->answer)) {
		memcpy(fixture->answer, reply, size);
		fixture->answer[size] = '\0';
	}
}

static void send_request(struct fixture *fixture, const char *text)
{
	assert_int_equal(sp_client_request(fixture->client, text, strlen(text),
					   time_boot_ms() + WAIT_MS, set_answer, fixture),
			 0);
}

static void ask(struct fixture *fixture, const char *text)
{
	unsigned n = fixture->n_answers;

	send_request(fixture, text);
	assert_true(wait_on_loop_count(fixture->loop, &fixture->n_answers, n + 1, WAIT_MS));
	assert_int_equal(fixture->error, 0);
}

static int connect_to(const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	strncpy(address.sun_path, path, sizeof(address.sun_path) - 1);
	if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		return -1;
	return fd;
}

static const uint8_t req_greeting[8] = {0, 'S', 'P', 0, 0, 0x30, 0, 0};

/* True once the peer has closed the connection (what it sends before is thrown away). */
static bool is_closed_by_peer(int fd)
{
	struct timeval timeout = {.tv_sec = WAIT_MS / 1000};
	char waste[256];
	ssize_t n;

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
	do
		n = recv(fd, waste, sizeof(waste), 0);
	while (n > 0);
	return n == 0 || errno == ECONNRESET;
}

/* ---- the listener lives on ---- */

static void test_a_listener_survives_two_hundred_that_connect_and_close(void **state)
{
	struct fixture *fixture = *state;

	serve(fixture, false);
	for (unsigned i = 0; i < 200; i++) {
		int fd = connect_to(fixture->path);

		assert_true(fd >= 0);
		close(fd);
	}
	ask(fixture, "still there");
	assert_string_equal(fixture->answer, "still there");
}

static void test_a_dialer_survives_a_peer_that_accepts_and_closes(void **state)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	nng_socket socket_ = NNG_SOCKET_INITIALIZER;
	struct fixture *fixture = *state;
	nng_msg *message = NULL;
	nng_aio *aio = NULL;
	int listener;

	listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	strcpy(address.sun_path, fixture->path);
	assert_int_equal(bind(listener, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(listen(listener, 8), 0);
	assert_int_equal(nng_req0_open(&socket_), 0);
	assert_int_equal(nng_compat_dial(socket_, fixture->path, true), 0);
	for (unsigned i = 0; i < 20; i++) {
		assert_true(wait_on_fd(listener, POLLIN, WAIT_MS));
		close(accept(listener, NULL, NULL));
	}
	close(listener);
	unlink(fixture->path);

	serve(fixture, false);
	assert_int_equal(nng_compat_message("hello", 5, &message), 0);
	assert_int_equal(nng_aio_alloc(&aio, NULL, NULL), 0);
	nng_aio_set_msg(aio, message);
	nng_send_aio(socket_, aio);
	assert_true(wait_on_loop_count(fixture->loop, &fixture->n_requests, 1, WAIT_MS));
	nng_aio_wait(aio);
	assert_int_equal(nng_aio_result(aio), 0);
	nng_aio_free(aio);
}

static void test_a_peer_that_claims_a_gigabyte_is_cut_off(void **state)
{
	uint8_t frame[9 + 4] = {1, 0, 0, 0, 0, 0x40, 0, 0, 0, 0x80, 0, 0, 1};
	struct fixture *fixture = *state;
	int fd;

	serve(fixture, false);
	fd = connect_to(fixture->path);
	assert_true(fd >= 0);
	assert_int_equal(send(fd, req_greeting, sizeof(req_greeting), 0), sizeof(req_greeting));
	assert_int_equal(send(fd, frame, sizeof(frame), MSG_NOSIGNAL), sizeof(frame));
	assert_true(is_closed_by_peer(fd));
	close(fd);
	ask(fixture, "next");
	assert_string_equal(fixture->answer, "next");
}

static void test_a_peer_that_greets_wrongly_is_cut_off(void **state)
{
	struct fixture *fixture = *state;
	int fd;

	serve(fixture, false);
	fd = connect_to(fixture->path);
	assert_true(fd >= 0);
	assert_int_equal(send(fd, "GET / HTTP/1.0\r\n\r\n", 18, 0), 18);
	assert_true(is_closed_by_peer(fd));
	close(fd);
	ask(fixture, "next");
	assert_string_equal(fixture->answer, "next");
}

/* ---- the answering side ---- */

static void test_a_dropped_request_gets_an_empty_answer(void **state)
{
	struct fixture *fixture = *state;

	serve(fixture, false);
	ask(fixture, "drop");
	assert_int_equal(fixture->size, 0);
}

static void test_an_answer_over_a_megabyte_is_refused_and_the_peer_gets_none(void **state)
{
	struct fixture *fixture = *state;
	uint8_t *large;

	serve(fixture, false);
	send_request(fixture, "keep");
	assert_true(wait_on_loop_count(fixture->loop, &fixture->n_requests, 1, WAIT_MS));
	large = calloc(1, NNG_COMPAT_MESSAGE_MAX + 1);
	assert_non_null(large);
	assert_int_equal(bus_server_reply(fixture->kept, large, NNG_COMPAT_MESSAGE_MAX + 1),
			 -EMSGSIZE);
	free(large);
	assert_true(wait_on_loop_count(fixture->loop, &fixture->n_answers, 1, WAIT_MS));
	assert_int_equal(fixture->size, 0);
}

static void test_unanswered_requests_leave_contexts_for_others(void **state)
{
	struct sp_client *clients[10];
	struct fixture *fixture = *state;
	unsigned n_contexts, n_free;

	serve(fixture, false);
	for (unsigned i = 0; i < ARRAY_SIZE(clients); i++) {
		assert_int_equal(sp_client_new(fixture->loop, fixture->path, &clients[i]), 0);
		assert_int_equal(sp_client_request(clients[i], "keep", 4, time_boot_ms() + WAIT_MS,
						   set_answer, fixture),
				 0);
	}
	assert_true(wait_on_loop_count(fixture->loop, &fixture->n_requests, 10, WAIT_MS));
	bus_server_stats(fixture->server, &n_contexts, &n_free);
	assert_in_range(n_contexts, 11, 16);
	assert_in_range(n_free, 1, 2);
	ask(fixture, "and I");
	assert_string_equal(fixture->answer, "and I");
	for (unsigned i = 0; i < ARRAY_SIZE(clients); i++)
		sp_client_free(clients[i]);
}

static void test_a_handle_outlives_its_peer_and_its_server(void **state)
{
	struct fixture *fixture = *state;
	struct bus_server_request *gone;

	serve(fixture, false);
	send_request(fixture, "keep");
	assert_true(wait_on_loop_count(fixture->loop, &fixture->n_requests, 1, WAIT_MS));
	gone = fixture->kept;
	sp_client_close(fixture->client);
	assert_int_equal(bus_server_reply(gone, "x", 1), 0);

	send_request(fixture, "keep");
	assert_true(wait_on_loop_count(fixture->loop, &fixture->n_requests, 2, WAIT_MS));
	fixture->server = bus_server_free(fixture->server);
	assert_int_equal(access(fixture->path, F_OK), -1);
	assert_int_equal(bus_server_reply(fixture->kept, "late", 4), 0);
	assert_true(wait_on_loop_count(fixture->loop, &fixture->n_answers, 1, WAIT_MS));
	assert_string_equal(fixture->answer, "late");
}

static void test_a_path_that_is_taken_or_too_long_is_refused_by_name(void **state)
{
	struct bus_server_options options = {.mode = 0600};
	struct fixture *fixture = *state;
	struct bus_server *server = NULL;
	struct why why = {};
	char path[200];

	serve(fixture, false);
	options.path = fixture->path;
	assert_int_equal(bus_server_new(fixture->loop, &options, echo, NULL, &server, &why),
			 -EADDRINUSE);
	assert_non_null(strstr(why.text, fixture->path));
	ask(fixture, "unharmed");

	memset(path, 'a', sizeof(path));
	path[0] = '/';
	path[sizeof(path) - 1] = '\0';
	options.path = path;
	assert_int_equal(bus_server_new(fixture->loop, &options, echo, NULL, &server, NULL),
			 -ENAMETOOLONG);
}

/* In a process of its own: 0 if the connection was closed without an answer. */
static int run_as_nobody(const char *path)
{
	const uint8_t frame[] = {1, 0, 0, 0, 0, 0, 0, 0, 6, 0x80, 0, 0, 1, 'h', 'i'};
	int fd;

	if (setgid(65534) || setuid(65534))
		return 3;
	fd = connect_to(path);
	if (fd < 0)
		return 2;
	if (send(fd, req_greeting, sizeof(req_greeting), MSG_NOSIGNAL) < 0 ||
	    send(fd, frame, sizeof(frame), MSG_NOSIGNAL) < 0)
		return 0;
	return is_closed_by_peer(fd) ? 0 : 1;
}

static void test_other_uids_are_cut_off_where_only_ours_may_call(void **state)
{
	struct fixture *fixture = *state;
	const char *const argv[] = {"test", AS_NOBODY, fixture->path, NULL};
	struct spawn options = {.argv = argv};
	char program[4096] = "";
	int status = -1;
	pid_t pid = -1;

	if (geteuid() != 0)
		skip();
	serve(fixture, true);
	assert_true(readlink("/proc/self/exe", program, sizeof(program) - 1) > 0);
	options.path = program;
	assert_int_equal(spawn(&options, &pid, NULL), 0);
	while (waitpid(pid, &status, WNOHANG) == 0)
		loop_turn(fixture->loop, 10);
	assert_int_equal(status, 0);
	assert_int_equal(fixture->n_requests, 0);
	ask(fixture, "ours");
	assert_string_equal(fixture->answer, "ours");
}

/* ---- the watchdog ---- */

struct bark {
	int pipe[2];
	char why[256];
};

static void note_failure(void *userdata, const char *why)
{
	struct bark *bark = userdata;

	snprintf(bark->why, sizeof(bark->why), "%s", why);
	close(bark->pipe[1]);
	bark->pipe[1] = -1;
}

static struct bus_watchdog *watch(struct fixture *fixture, struct bark *bark)
{
	struct bus_watchdog_options options = {
		.path = fixture->path,
		.as = SP_REQ,
		.interval_ms = 50,
		.failed = note_failure,
		.userdata = bark,
	};
	struct bus_watchdog *watchdog = NULL;

	assert_int_equal(pipe2(bark->pipe, O_CLOEXEC), 0);
	assert_int_equal(bus_watchdog_new(fixture->loop, &options, &watchdog), 0);
	return watchdog;
}

static void end_watch(struct bus_watchdog *watchdog, struct bark *bark)
{
	bus_watchdog_free(watchdog);
	close_fd(bark->pipe[0]);
	close_fd(bark->pipe[1]);
}

static void test_the_watchdog_leaves_a_process_that_serves_alone(void **state)
{
	struct fixture *fixture = *state;
	struct bus_watchdog *watchdog;
	size_t n_probes = nng_compat_n_own_ended() + 20;
	struct bark bark = {};
	uint64_t until_ms = time_boot_ms() + WAIT_MS;

	serve(fixture, false);
	watchdog = watch(fixture, &bark);
	while (nng_compat_n_own_ended() < n_probes) {
		assert_true(time_boot_ms() < until_ms);
		loop_turn(fixture->loop, 20);
	}
	assert_false(wait_on_fd(bark.pipe[0], POLLIN, 0));
	end_watch(watchdog, &bark);
}

static void test_the_watchdog_notices_a_socket_that_does_not_answer(void **state)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	struct fixture *fixture = *state;
	struct bus_watchdog *watchdog;
	struct bark bark = {};
	int listener;

	listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	strcpy(address.sun_path, fixture->path);
	assert_int_equal(bind(listener, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(listen(listener, 8), 0);
	watchdog = watch(fixture, &bark);
	while (!wait_on_fd(bark.pipe[0], POLLIN | POLLHUP, 0))
		loop_turn(fixture->loop, 20);
	end_watch(watchdog, &bark);
	close(listener);
	assert_non_null(strstr(bark.why, "does not greet"));
	assert_non_null(strstr(bark.why, fixture->path));
}

static void test_the_watchdog_notices_a_loop_that_stands(void **state)
{
	struct fixture *fixture = *state;
	struct bus_watchdog *watchdog;
	struct bark bark = {};

	serve(fixture, false);
	watchdog = watch(fixture, &bark);
	assert_true(wait_on_fd(bark.pipe[0], POLLIN | POLLHUP, WAIT_MS));
	end_watch(watchdog, &bark);
	assert_non_null(strstr(bark.why, "its loop does not turn"));
}

/* Whatever the number of processors. */
static void test_nng_has_two_task_threads(void **state)
{
	_cleanup_(cleanup_dir) DIR *dir = NULL;
	const struct dirent *entry;
	unsigned n = 0;

	serve(*state, false);
	dir = opendir("/proc/self/task");
	while ((entry = readdir(dir))) {
		_cleanup_(cleanup_free) char *path = NULL, *name = NULL;

		path = text_format("/proc/self/task/%s/comm", entry->d_name);
		if (!file_read_proc(path, 64, &name, NULL))
			n += !strcmp(name, "nng:task\n");
	}
	assert_int_equal(n, 2);
}

#define TEST(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		TEST(test_a_listener_survives_two_hundred_that_connect_and_close),
		TEST(test_a_dialer_survives_a_peer_that_accepts_and_closes),
		TEST(test_a_peer_that_claims_a_gigabyte_is_cut_off),
		TEST(test_a_peer_that_greets_wrongly_is_cut_off),
		TEST(test_a_dropped_request_gets_an_empty_answer),
		TEST(test_an_answer_over_a_megabyte_is_refused_and_the_peer_gets_none),
		TEST(test_unanswered_requests_leave_contexts_for_others),
		TEST(test_a_handle_outlives_its_peer_and_its_server),
		TEST(test_a_path_that_is_taken_or_too_long_is_refused_by_name),
		TEST(test_other_uids_are_cut_off_where_only_ours_may_call),
		TEST(test_the_watchdog_leaves_a_process_that_serves_alone),
		TEST(test_the_watchdog_notices_a_socket_that_does_not_answer),
		TEST(test_the_watchdog_notices_a_loop_that_stands),
		TEST(test_nng_has_two_task_threads),
	};

	if (argc == 3 && strcmp(argv[1], AS_NOBODY) == 0)
		return run_as_nobody(argv[2]);
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
