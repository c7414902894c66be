/* Blocking calls, against a responder that is a process of its own. */

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>

#include "broker/lib/ask.h"
#include "broker/lib/file.h"
#include "tests/lib/main.h"
#include "tests/lib/responder.h"

struct fixture {
	struct scratch scratch;
	char *path;
	struct ask ask;
	pid_t responder;
};

static int set_up(void **state)
{
	struct fixture *fixture = calloc(1, sizeof(*fixture));

	if (!fixture || scratch_init(&fixture->scratch))
		return -1;
	fixture->path = scratch_path(&fixture->scratch, "bus.sock");
	fixture->ask = (struct ask){.bus_path = fixture->path, .timeout_ms = WAIT_MS};
	*state = fixture;
	return fixture->path ? 0 : -1;
}

static int tear_down(void **state)
{
	struct fixture *fixture = *state;
	int r;

	ask_deinit(&fixture->ask);
	if (fixture->responder > 0)
		responder_kill(fixture->responder);
	free(fixture->path);
	r = scratch_deinit(&fixture->scratch);
	free(fixture);
	return r;
}

static void respond(struct fixture *fixture)
{
	fixture->responder = responder_start(fixture->path);
	assert_true(fixture->responder > 0);
}

/* Asks with the one-byte body @number; the answer's first byte, or -1. */
static int ask_number(struct fixture *fixture, const char *method, uint8_t number)
{
	void *body = NULL;
	size_t size = 0;
	int r, answer;

	r = ask_raw(&fixture->ask, method, NULL, &number, 1, &body, &size);
	assert_int_equal(r, (int)fixture->ask.status);
	if (r)
		return -1;
	assert_string_equal(fixture->ask.text, "");
	answer = size > 0 ? *(uint8_t *)body : -1;
	free(body);
	return answer;
}

static void test_a_question_gets_its_answer(void **state)
{
	struct bus_echo_request request = {.data = {.data = (uint8_t *)"abc", .size = 3}};
	_cleanup_(bus_echo_reply_clear) struct bus_echo_reply reply = {};
	struct fixture *fixture = *state;

	respond(fixture);
	assert_int_equal(ask_number(fixture, "echo.x", 5), 5);
	assert_int_equal(bus_echo_ask(&fixture->ask, &request, &reply), 0);
	assert_int_equal(reply.data.size, 3);
	assert_memory_equal(reply.data.data, "abc", 3);
	assert_int_equal(bus_echo_ask(&fixture->ask, &request, NULL), 0);
}

static void test_a_failure_is_a_status_and_a_sentence(void **state)
{
	struct fixture *fixture = *state;

	respond(fixture);
	assert_int_equal(ask_number(fixture, "deny.x", 5), -1);
	assert_int_equal(fixture->ask.status, BUS_PERMISSION_DENIED);
	assert_string_equal(fixture->ask.text, "no deny.x");
}

static void test_pending_and_unreadable_answers_are_asked_again_with_one_id(void **state)
{
	struct fixture *fixture = *state;

	respond(fixture);
	assert_int_equal(ask_number(fixture, "pending.3", 7), 7);
	assert_int_equal(ask_number(fixture, "garbage.2", 8), 8);
	assert_int_equal(ask_number(fixture, "drop.2", 9), 9);
	assert_int_equal(ask_number(fixture, "stat.requests", 0), 4 + 3 + 3 + 1);
}

static void test_at_the_deadline_it_is_said_what_was_waited_for(void **state)
{
	struct fixture *fixture = *state;

	respond(fixture);
	assert_int_equal(ask_number(fixture, "echo.x", 6), 6); /* it is there */
	fixture->ask.timeout_ms = 1000;
	assert_int_equal(ask_number(fixture, "pending.1000000", 7), -1);
	assert_int_equal(fixture->ask.status, BUS_DEADLINE_EXCEEDED);
	assert_non_null(strstr(fixture->ask.text, ENVELOPE_WAITS "the test"));
}

static void test_a_broker_that_restarts_answers_on(void **state)
{
	struct fixture *fixture = *state;

	respond(fixture);
	for (uint8_t round = 0; round < 10; round++) {
		assert_int_equal(ask_number(fixture, "echo.x", round), round);
		responder_kill(fixture->responder);
		respond(fixture);
	}
	assert_int_equal(ask_number(fixture, "echo.x", 99), 99);
}

static void test_the_deadline_ends_a_question_and_names_it(void **state)
{
	struct fixture *fixture = *state;
	uint64_t started_ms;

	respond(fixture);
	assert_int_equal(ask_number(fixture, "echo.x", 1), 1);
	fixture->ask.timeout_ms = 50;
	started_ms = time_boot_ms();
	assert_int_equal(ask_number(fixture, "never.x", 1), -1);
	assert_int_equal(fixture->ask.status, BUS_DEADLINE_EXCEEDED);
	assert_non_null(strstr(fixture->ask.text, "never.x"));
	assert_in_range(time_boot_ms() - started_ms, 50, WAIT_MS);
	/* The late answer is on a connection that is gone. */
	fixture->ask.timeout_ms = WAIT_MS;
	assert_int_equal(ask_number(fixture, "echo.x", 2), 2);
}

static void test_without_a_broker_it_asks_whether_davit_is_up(void **state)
{
	struct fixture *fixture = *state;

	fixture->ask.timeout_ms = 50;
	assert_int_equal(ask_number(fixture, "echo.x", 1), -1);
	assert_int_equal(fixture->ask.status, BUS_UNAVAILABLE);
	assert_non_null(strstr(fixture->ask.text, fixture->path));
	assert_non_null(strstr(fixture->ask.text, "is davit up?"));
}

static void test_a_stale_socket_counts_as_no_broker(void **state)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	struct fixture *fixture = *state;
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	strcpy(address.sun_path, fixture->path);
	assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	close(fd);
	fixture->ask.timeout_ms = 50;
	assert_int_equal(ask_number(fixture, "echo.x", 1), -1);
	assert_int_equal(fixture->ask.status, BUS_UNAVAILABLE);
}

static void test_what_cannot_be_sent_is_refused_by_name(void **state)
{
	uint8_t data[1] = {0};
	struct bus_echo_request request = {.data = {.data = data, .size = 65537}};
	struct fixture *fixture = *state;
	uint8_t *body;
	void *answer;
	size_t size;

	assert_int_equal(bus_echo_ask(&fixture->ask, &request, NULL), BUS_INVALID_ARGUMENT);
	assert_non_null(strstr(fixture->ask.text, "bus_echo_request.data"));

	respond(fixture);
	assert_int_equal(ask_number(fixture, "echo.x", 1), 1);
	body = calloc(1, SCHEMA_MESSAGE_MAX);
	assert_non_null(body);
	body[0] = 0xc6;
	body[2] = 0x0f, body[3] = 0xff, body[4] = 0xfb;
	assert_int_equal(
		ask_raw(&fixture->ask, "echo.x", NULL, body, SCHEMA_MESSAGE_MAX, &answer, &size),
		BUS_INVALID_ARGUMENT);
	free(body);
	assert_int_equal(ask_number(fixture, "echo.x", 2), 2);
}

static volatile int interrupted;

static void interrupt(int signal)
{
	(void)signal;
	interrupted = 1;
}

static void test_a_signal_ends_the_wait(void **state)
{
	const struct itimerval soon = {.it_value = {.tv_usec = 30000}};
	struct sigaction action = {.sa_handler = interrupt}, before;
	struct fixture *fixture = *state;
	uint64_t started_ms;

	respond(fixture);
	assert_int_equal(ask_number(fixture, "echo.x", 1), 1);
	interrupted = 0;
	fixture->ask.interrupted = &interrupted;
	started_ms = time_boot_ms();
	sigaction(SIGALRM, &action, &before);
	setitimer(ITIMER_REAL, &soon, NULL);
	assert_int_equal(ask_number(fixture, "never.x", 1), -1);
	sigaction(SIGALRM, &before, NULL);
	assert_int_equal(fixture->ask.status, BUS_CANCELED);
	assert_non_null(strstr(fixture->ask.text, "never.x was interrupted"));
	assert_in_range(time_boot_ms() - started_ms, 0, WAIT_MS / 2);
	/* And while it stays so, nothing is begun. */
	assert_int_equal(ask_number(fixture, "echo.x", 1), -1);
	assert_int_equal(fixture->ask.status, BUS_CANCELED);
}

#define TEST(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		TEST(test_a_question_gets_its_answer),
		TEST(test_a_failure_is_a_status_and_a_sentence),
		TEST(test_pending_and_unreadable_answers_are_asked_again_with_one_id),
		TEST(test_at_the_deadline_it_is_said_what_was_waited_for),
		TEST(test_a_broker_that_restarts_answers_on),
		TEST(test_the_deadline_ends_a_question_and_names_it),
		TEST(test_without_a_broker_it_asks_whether_davit_is_up),
		TEST(test_a_stale_socket_counts_as_no_broker),
		TEST(test_what_cannot_be_sent_is_refused_by_name),
		TEST(test_a_signal_ends_the_wait),
	};

	if (responder_main(argc, argv))
		return 0;
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
