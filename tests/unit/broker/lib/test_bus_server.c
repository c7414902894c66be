/* The answering side of the bus: its handles, its bounds, who may call. */

#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "broker/lib/bus_server.h"
#include "broker/lib/sp.h"
#include "broker/lib/spawn.h"
#include "tests/lib/main.h"
#include "tests/lib/raw_peer.h"
#include "tests/lib/scratch.h"

#define AS_NOBODY  "--as-nobody"
#define READ_LARGE "--read-large"
#define N_AT_WORK  16
#define LARGE_SIZE (SP_MESSAGE_MAX - 16)

struct fixture {
	struct scratch scratch;
	char *path;
	struct loop *loop;
	struct bus_server *server;
	struct bus_server_request *kept[N_AT_WORK]; /* of requests that say "keep" */
	size_t n_kept;
	unsigned n_requests;
	atomic_size_t n_connections;
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
		fixture->kept[fixture->n_kept++] = request;
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
	if (scratch_init(&fixture->scratch) || chmod(fixture->scratch.dir, 0755))
		return -1;
	fixture->path = scratch_path(&fixture->scratch, "rep.sock");
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
	r = scratch_deinit(&fixture->scratch);
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
		.connections_max = N_AT_WORK,
		.n_connections = &fixture->n_connections,
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

static pid_t start_self(const char *as, const char *path)
{
	const char *const argv[] = {"test", as, path, NULL};
	struct spawn options = {.argv = argv};
	char program[4096] = "";
	pid_t pid = -1;

	assert_true(readlink("/proc/self/exe", program, sizeof(program) - 1) > 0);
	options.path = program;
	assert_int_equal(spawn(&options, &pid, NULL), 0);
	return pid;
}

static const uint8_t req_greeting[8] = {0, 'S', 'P', 0, 0, 0x30, 0, 0};

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
	large = calloc(1, SP_MESSAGE_MAX + 1);
	assert_non_null(large);
	assert_int_equal(bus_server_reply(fixture->kept[0], large, SP_MESSAGE_MAX + 1), -EMSGSIZE);
	free(large);
	assert_true(wait_on_loop_count(fixture->loop, &fixture->n_answers, 1, WAIT_MS));
	assert_int_equal(fixture->size, 0);
}

static void test_unanswered_requests_leave_room_for_others(void **state)
{
	struct sp_client *clients[N_AT_WORK - 1];
	struct fixture *fixture = *state;

	serve(fixture, false);
	for (unsigned i = 0; i < ARRAY_SIZE(clients); i++) {
		assert_int_equal(sp_client_new(fixture->loop, fixture->path, &clients[i]), 0);
		assert_int_equal(sp_client_request(clients[i], "keep", 4, time_boot_ms() + WAIT_MS,
						   set_answer, fixture),
				 0);
	}
	assert_true(wait_on_loop_count(fixture->loop, &fixture->n_requests, ARRAY_SIZE(clients),
				       WAIT_MS));
	assert_int_equal(fixture->n_connections, ARRAY_SIZE(clients));
	ask(fixture, "and I");
	assert_string_equal(fixture->answer, "and I");
	assert_int_equal(fixture->n_connections, N_AT_WORK);
	for (unsigned i = 0; i < ARRAY_SIZE(clients); i++)
		sp_client_free(clients[i]);
	for (size_t i = 0; i < fixture->n_kept; i++)
		bus_server_drop(fixture->kept[i]);
	assert_int_equal(fixture->n_connections, 1);
}

static void test_a_handle_outlives_its_peer_and_its_server(void **state)
{
	struct fixture *fixture = *state;

	serve(fixture, false);
	send_request(fixture, "keep");
	assert_true(wait_on_loop_count(fixture->loop, &fixture->n_requests, 1, WAIT_MS));
	sp_client_close(fixture->client);
	assert_int_equal(bus_server_reply(fixture->kept[0], "x", 1), 0);

	send_request(fixture, "keep");
	assert_true(wait_on_loop_count(fixture->loop, &fixture->n_requests, 2, WAIT_MS));
	fixture->server = bus_server_free(fixture->server);
	assert_int_equal(access(fixture->path, F_OK), -1);
	assert_int_equal(bus_server_reply(fixture->kept[1], "late", 4), 0);
	assert_true(wait_on_loop_count(fixture->loop, &fixture->n_answers, 1, WAIT_MS));
	assert_string_equal(fixture->answer, "late");
	assert_int_equal(fixture->n_connections, 0);
}

/* In a process of its own, as @path's peer: 0 if the whole answer came. */
static int read_large(const char *path)
{
	_cleanup_(cleanup_free) void *reply = NULL;
	_cleanup_(sp_freep) struct sp *sp = NULL;
	size_t size = 0;

	if (sp_connect(path, SP_REQ, time_boot_ms() + WAIT_MS, &sp))
		return 2;
	if (sp_request(sp, "keep", 4, time_boot_ms() + WAIT_MS, &reply, &size))
		return 3;
	return size == LARGE_SIZE ? 0 : 1;
}

/* Most of it does not fit into the socket, and the loop does not turn any more. */
static void test_what_was_answered_is_sent_before_the_server_goes(void **state)
{
	struct fixture *fixture = *state;
	uint8_t *large = calloc(1, LARGE_SIZE);
	int status = -1;
	pid_t pid;

	assert_non_null(large);
	serve(fixture, false);
	pid = start_self(READ_LARGE, fixture->path);
	assert_true(wait_on_loop_count(fixture->loop, &fixture->n_requests, 1, WAIT_MS));
	assert_int_equal(bus_server_reply(fixture->kept[0], large, LARGE_SIZE), 0);
	free(large);
	fixture->server = bus_server_free(fixture->server);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
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
	fd = raw_peer_connect(path);
	if (fd < 0)
		return 2;
	if (send(fd, req_greeting, sizeof(req_greeting), MSG_NOSIGNAL) < 0 ||
	    send(fd, frame, sizeof(frame), MSG_NOSIGNAL) < 0)
		return 0;
	return raw_peer_is_cut_off(fd) ? 0 : 1;
}

static void test_other_uids_are_cut_off_where_only_ours_may_call(void **state)
{
	struct fixture *fixture = *state;
	int status = -1;
	pid_t pid;

	if (geteuid() != 0)
		skip();
	serve(fixture, true);
	pid = start_self(AS_NOBODY, fixture->path);
	while (waitpid(pid, &status, WNOHANG) == 0)
		loop_turn(fixture->loop, 10);
	assert_int_equal(status, 0);
	assert_int_equal(fixture->n_requests, 0);
	ask(fixture, "ours");
	assert_string_equal(fixture->answer, "ours");
}

#define TEST(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		TEST(test_a_dropped_request_gets_an_empty_answer),
		TEST(test_an_answer_over_a_megabyte_is_refused_and_the_peer_gets_none),
		TEST(test_unanswered_requests_leave_room_for_others),
		TEST(test_a_handle_outlives_its_peer_and_its_server),
		TEST(test_what_was_answered_is_sent_before_the_server_goes),
		TEST(test_a_path_that_is_taken_or_too_long_is_refused_by_name),
		TEST(test_other_uids_are_cut_off_where_only_ours_may_call),
	};

	if (argc == 3 && strcmp(argv[1], AS_NOBODY) == 0)
		return run_as_nobody(argv[2]);
	if (argc == 3 && strcmp(argv[1], READ_LARGE) == 0)
		return read_large(argv[2]);
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
