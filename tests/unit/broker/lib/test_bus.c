/* Calls over the pool of REQ sockets, against a responder that is a process of its own. */

#include <fcntl.h>
#include <string.h>
#include <sys/resource.h>

#include "broker/lib/bus.h"
#include "broker/lib/bus_private.h"
#include "broker/lib/calls.h"
#include "broker/lib/file.h"
#include "tests/lib/main.h"
#include "tests/lib/responder.h"

/* nng 1.5.2 loses a message when its peer dies while it is being sent, and keeps what is abandoned. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void)
{
	return "leak:libnng.so\n";
}

struct fixture {
	char dir[32]; /* no struct scratch: sockets that nng keeps come and go */
	char *path;
	struct loop *loop;
	struct bus *bus;
	pid_t responder;
};

struct answer {
	unsigned n; /* how often it came */
	enum bus_status status;
	char text[ENVELOPE_TEXT_MAX + 1];
	uint8_t body[64];
	size_t size;
};

static void set_answer(void *userdata, enum bus_status status, const char *text, const void *body,
		       size_t size)
{
	struct answer *answer = userdata;

	answer->n++;
	answer->status = status;
	snprintf(answer->text, sizeof(answer->text), "%s", text);
	answer->size = size < sizeof(answer->body) ? size : sizeof(answer->body);
	if (answer->size > 0)
		memcpy(answer->body, body, answer->size);
}

static void respond(struct fixture *fixture)
{
	fixture->responder = responder_start(fixture->path);
	assert_true(fixture->responder > 0);
}

static void stop(struct fixture *fixture)
{
	if (fixture->responder > 0)
		responder_kill(fixture->responder);
	fixture->responder = 0;
}

static int set_up(void **state)
{
	struct fixture *fixture = calloc(1, sizeof(*fixture));

	if (!fixture)
		return -1;
	strcpy(fixture->dir, "/tmp/dv-XXXXXX");
	if (!mkdtemp(fixture->dir))
		return -1;
	fixture->path = text_format("%s/bus.sock", fixture->dir);
	if (!fixture->path || loop_new(&fixture->loop) ||
	    bus_new(fixture->loop, fixture->path, NULL, &fixture->bus))
		return -1;
	*state = fixture;
	return 0;
}

static int tear_down(void **state)
{
	struct fixture *fixture = *state;
	int r;

	bus_free(fixture->bus);
	loop_free(fixture->loop);
	stop(fixture);
	free(fixture->path);
	r = file_remove_tree(AT_FDCWD, fixture->dir, NULL);
	free(fixture);
	return r;
}

/* Calls @method with the one-byte body @number. */
static struct bus_call *call(struct fixture *fixture, const char *method, uint8_t number,
			     uint64_t timeout_ms, struct answer *answer)
{
	struct bus_options options = {.deadline_ms = time_boot_ms() + timeout_ms};
	struct bus_call *made = NULL;

	*answer = (struct answer){};
	assert_int_equal(
		bus_call(fixture->bus, method, &options, &number, 1, set_answer, answer, &made), 0);
	return made;
}

static void wait_for_answer(struct fixture *fixture, struct answer *answer)
{
	assert_true(wait_on_loop_count(fixture->loop, &answer->n, 1, WAIT_MS));
}

static void ask(struct fixture *fixture, const char *method, uint8_t number, struct answer *answer)
{
	call(fixture, method, number, WAIT_MS, answer);
	wait_for_answer(fixture, answer);
}

static void assert_echoed(const struct answer *answer, uint8_t number)
{
	assert_string_equal(answer->text, "");
	assert_int_equal(answer->status, BUS_OK);
	assert_int_equal(answer->size, 1);
	assert_int_equal(answer->body[0], number);
}

static unsigned n_requests(struct fixture *fixture)
{
	struct answer answer;

	ask(fixture, "stat.requests", 0, &answer);
	assert_int_equal(answer.status, BUS_OK);
	return answer.body[0];
}

static unsigned n_busy(struct fixture *fixture, unsigned *ret_all)
{
	unsigned n;

	bus_pool_stats(fixture->bus->pool, ret_all, &n);
	return n;
}

/* ---- answers ---- */

static void test_a_call_gets_its_answer(void **state)
{
	struct fixture *fixture = *state;
	struct answer answer;

	respond(fixture);
	ask(fixture, "echo.x", 7, &answer);
	assert_echoed(&answer, 7);
}

static void test_a_failure_comes_with_its_sentence(void **state)
{
	struct fixture *fixture = *state;
	struct answer answer;

	respond(fixture);
	ask(fixture, "deny.x", 7, &answer);
	assert_int_equal(answer.status, BUS_PERMISSION_DENIED);
	assert_string_equal(answer.text, "no deny.x");
}

static void echoed(void *userdata, enum bus_status status, const char *text,
		   struct bus_echo_reply *reply)
{
	struct answer *answer = userdata;

	set_answer(answer, status, text, reply ? reply->data.data : NULL,
		   reply ? reply->data.size : 0);
}

static int call_echo(struct fixture *fixture, const struct bus_echo_request *request,
		     struct answer *answer)
{
	return bus_call_typed(fixture->bus, schema_find_method("bus", "echo"), NULL, request,
			      (bus_typed_fn)(void (*)(void))echoed, answer, NULL);
}

static void test_a_typed_call_gets_a_message(void **state)
{
	struct bus_echo_request request = {.data = {.data = (uint8_t *)"abc", .size = 3}};
	struct fixture *fixture = *state;
	struct answer answer = {};

	respond(fixture);
	assert_int_equal(call_echo(fixture, &request, &answer), 0);
	wait_for_answer(fixture, &answer);
	assert_int_equal(answer.status, BUS_OK);
	assert_memory_equal(answer.body, "abc", 3);
}

static void test_a_request_that_breaks_its_schema_is_refused_by_name(void **state)
{
	uint8_t data[1] = {0};
	struct bus_echo_request request = {.data = {.data = data, .size = 65537}};
	struct fixture *fixture = *state;
	struct answer answer = {};

	assert_int_equal(call_echo(fixture, &request, &answer), 0);
	assert_int_equal(answer.n, 0);
	wait_for_answer(fixture, &answer);
	assert_int_equal(answer.status, BUS_INVALID_ARGUMENT);
	assert_non_null(strstr(answer.text, "bus_echo_request.data"));
}

static void test_a_request_over_a_megabyte_is_refused_at_once(void **state)
{
	struct fixture *fixture = *state;
	struct answer answer = {};
	uint8_t *body;

	body = calloc(1, SCHEMA_MESSAGE_MAX + 10);
	assert_non_null(body);
	body[0] = 0xc6;
	body[1] = 0x00, body[2] = 0x10, body[3] = 0x00, body[4] = 0x00;
	assert_int_equal(bus_call(fixture->bus, "echo.x", NULL, body, SCHEMA_MESSAGE_MAX + 5,
				  set_answer, &answer, NULL),
			 0);
	free(body);
	wait_for_answer(fixture, &answer);
	assert_int_equal(answer.status, BUS_INVALID_ARGUMENT);
	assert_non_null(strstr(answer.text, "echo.x"));
}

static void test_two_hundred_calls_at_once_are_all_answered(void **state)
{
	struct fixture *fixture = *state;
	struct answer answers[200];
	unsigned n_open;

	respond(fixture);
	for (unsigned i = 0; i < ARRAY_SIZE(answers); i++)
		call(fixture, "late.20", (uint8_t)(i % 128), WAIT_MS, &answers[i]);
	for (unsigned i = 0; i < ARRAY_SIZE(answers); i++) {
		wait_for_answer(fixture, &answers[i]);
		assert_echoed(&answers[i], (uint8_t)(i % 128));
	}
	n_busy(fixture, &n_open);
	assert_in_range(n_open, 2, 64);
}

/* ---- asked again ---- */

static void test_pending_is_asked_again_with_the_same_id(void **state)
{
	struct fixture *fixture = *state;
	struct answer answer;

	respond(fixture);
	ask(fixture, "pending.3", 5, &answer);
	assert_echoed(&answer, 5);
	assert_int_equal(n_requests(fixture), 5); /* with this one */
}

static void test_an_answer_that_cannot_be_read_counts_as_none(void **state)
{
	struct fixture *fixture = *state;
	struct answer answer;

	respond(fixture);
	ask(fixture, "garbage.2", 5, &answer);
	assert_echoed(&answer, 5);
	ask(fixture, "drop.2", 6, &answer);
	assert_echoed(&answer, 6);
	assert_int_equal(n_requests(fixture), 7);
}

static void test_a_call_waits_for_a_broker_that_is_not_there_yet(void **state)
{
	struct fixture *fixture = *state;
	struct answer answer;

	call(fixture, "echo.x", 9, WAIT_MS, &answer);
	for (unsigned i = 0; i < 5; i++)
		loop_turn(fixture->loop, 10);
	assert_int_equal(answer.n, 0);
	respond(fixture);
	wait_for_answer(fixture, &answer);
	assert_echoed(&answer, 9);
}

static void test_calls_outlive_thirty_deaths_of_the_peer(void **state)
{
	struct fixture *fixture = *state;
	struct answer answers[16];
	unsigned n_answered = 0, n_fds;

	respond(fixture);
	for (unsigned i = 0; i < ARRAY_SIZE(answers); i++)
		ask(fixture, "echo.x", (uint8_t)i, &answers[i]);
	for (unsigned i = 0; i < ARRAY_SIZE(answers); i++)
		call(fixture, "late.5", (uint8_t)i, WAIT_MS, &answers[i]);
	n_fds = fds_count();
	for (unsigned round = 0; round < 30; round++) {
		unsigned wanted = n_answered + 1 + round * 7 % 40;

		while (n_answered < wanted) {
			assert_int_equal(loop_turn(fixture->loop, WAIT_MS), 0);
			for (unsigned i = 0; i < ARRAY_SIZE(answers); i++) {
				if (answers[i].n == 0)
					continue;
				assert_int_equal(answers[i].n, 1);
				assert_echoed(&answers[i], (uint8_t)i);
				n_answered++;
				call(fixture, "late.5", (uint8_t)i, WAIT_MS, &answers[i]);
			}
		}
		stop(fixture);
		respond(fixture);
	}
	for (unsigned i = 0; i < ARRAY_SIZE(answers); i++) {
		wait_for_answer(fixture, &answers[i]);
		assert_echoed(&answers[i], (uint8_t)i);
	}
	assert_in_range(fds_count(), 0, n_fds + ARRAY_SIZE(answers));
}

/* ---- deadlines ---- */

static void test_without_a_broker_the_deadline_says_that_nothing_was_sent(void **state)
{
	struct fixture *fixture = *state;
	struct answer answer;

	call(fixture, "echo.x", 1, 50, &answer);
	wait_for_answer(fixture, &answer);
	assert_int_equal(answer.status, BUS_DEADLINE_EXCEEDED);
	assert_non_null(strstr(answer.text, "echo.x could not be sent"));
}

static void test_without_a_descriptor_the_deadline_says_what_was_lacking(void **state)
{
	struct fixture *fixture = *state;
	struct rlimit before, none;
	struct answer answer;
	int fd;

	call(fixture, "echo.x", 0, 50, &answer); /* the loop has its timer then */
	wait_for_answer(fixture, &answer);
	respond(fixture);
	fd = open("/dev/null", O_RDONLY | O_CLOEXEC); /* the lowest that is free */
	assert_true(fd >= 0);
	close(fd);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
	none = (struct rlimit){.rlim_cur = (rlim_t)fd, .rlim_max = before.rlim_max};
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
	call(fixture, "echo.x", 1, 50, &answer);
	wait_for_answer(fixture, &answer);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
	assert_int_equal(answer.status, BUS_DEADLINE_EXCEEDED);
	assert_non_null(strstr(answer.text, "echo.x could not be sent"));
	assert_non_null(strstr(answer.text, strerror(EMFILE)));

	call(fixture, "echo.x", 2, WAIT_MS, &answer);
	wait_for_answer(fixture, &answer);
	assert_echoed(&answer, 2);
}

static void test_without_an_answer_the_deadline_says_that_it_was_sent(void **state)
{
	struct fixture *fixture = *state;
	struct answer answer;

	respond(fixture);
	ask(fixture, "echo.x", 1, &answer);
	call(fixture, "never.x", 1, 50, &answer);
	wait_for_answer(fixture, &answer);
	assert_int_equal(answer.status, BUS_DEADLINE_EXCEEDED);
	assert_non_null(strstr(answer.text, "never.x was not answered"));
}

static void test_five_hundred_timeouts_leave_no_socket_behind(void **state)
{
	struct fixture *fixture = *state;
	struct answer answers[50];
	unsigned n_open, n_fds;

	respond(fixture);
	ask(fixture, "echo.x", 3, &answers[0]);
	n_fds = fds_count();
	for (unsigned round = 0; round < 10; round++) {
		for (unsigned i = 0; i < ARRAY_SIZE(answers); i++)
			call(fixture, "late.250", 1, 20, &answers[i]);
		for (unsigned i = 0; i < ARRAY_SIZE(answers); i++) {
			wait_for_answer(fixture, &answers[i]);
			assert_int_equal(answers[i].status, BUS_DEADLINE_EXCEEDED);
		}
		assert_int_equal(n_busy(fixture, &n_open), 0);
	}
	n_busy(fixture, &n_open);
	assert_in_range(n_open, 1, ARRAY_SIZE(answers));
	assert_in_range(fds_count(), 0, n_fds + ARRAY_SIZE(answers));
	ask(fixture, "echo.x", 3, &answers[0]);
	assert_echoed(&answers[0], 3);
}

static void test_a_late_answer_is_nobodys(void **state)
{
	struct fixture *fixture = *state;
	struct answer late, answer;
	unsigned n_open;

	respond(fixture);
	ask(fixture, "echo.x", 1, &answer);
	call(fixture, "late.200", 1, 20, &late);
	wait_for_answer(fixture, &late);
	assert_int_equal(late.status, BUS_DEADLINE_EXCEEDED);
	for (uint8_t i = 10; i < 20; i++) {
		ask(fixture, "late.30", i, &answer);
		assert_echoed(&answer, i);
	}
	assert_int_equal(late.n, 1);
	assert_int_equal(n_busy(fixture, &n_open), 0);
	assert_int_equal(n_open, 1);
}

static void test_a_new_peer_answers_after_one_that_never_did(void **state)
{
	struct fixture *fixture = *state;
	struct answer answer;

	respond(fixture);
	ask(fixture, "echo.x", 1, &answer);
	call(fixture, "never.x", 1, 20, &answer);
	wait_for_answer(fixture, &answer);
	stop(fixture);
	respond(fixture);
	ask(fixture, "echo.x", 2, &answer);
	assert_echoed(&answer, 2);
}

/* ---- giving up ---- */

static void test_a_cancelled_call_is_not_told_of(void **state)
{
	struct fixture *fixture = *state;
	struct answer cancelled, answer;

	respond(fixture);
	bus_call_cancel(call(fixture, "late.20", 1, WAIT_MS, &cancelled));
	ask(fixture, "late.60", 2, &answer);
	assert_echoed(&answer, 2);
	assert_int_equal(cancelled.n, 0);
}

static void test_a_cancelled_call_that_was_not_sent_is_never_sent(void **state)
{
	struct fixture *fixture = *state;
	struct answer answer;

	bus_call_cancel(call(fixture, "echo.x", 1, WAIT_MS, &answer));
	respond(fixture);
	assert_int_equal(n_requests(fixture), 1);
}

static void test_the_end_of_the_bus_ends_its_calls(void **state)
{
	struct fixture *fixture = *state;
	struct answer answers[3];

	respond(fixture);
	ask(fixture, "echo.x", 1, &answers[0]);
	for (unsigned i = 0; i < ARRAY_SIZE(answers); i++)
		call(fixture, "never.x", 1, WAIT_MS, &answers[i]);
	loop_turn(fixture->loop, 0);
	fixture->bus = bus_free(fixture->bus);
	for (unsigned i = 0; i < ARRAY_SIZE(answers); i++) {
		assert_int_equal(answers[i].n, 1);
		assert_int_equal(answers[i].status, BUS_CANCELED);
		assert_non_null(strstr(answers[i].text, "never.x"));
	}
}

#define TEST(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		/* First, as long as no other sockets come and go: they count descriptors. */
		TEST(test_five_hundred_timeouts_leave_no_socket_behind),
		TEST(test_calls_outlive_thirty_deaths_of_the_peer),
		TEST(test_a_call_gets_its_answer),
		TEST(test_a_failure_comes_with_its_sentence),
		TEST(test_a_typed_call_gets_a_message),
		TEST(test_a_request_that_breaks_its_schema_is_refused_by_name),
		TEST(test_a_request_over_a_megabyte_is_refused_at_once),
		TEST(test_pending_is_asked_again_with_the_same_id),
		TEST(test_an_answer_that_cannot_be_read_counts_as_none),
		TEST(test_a_call_waits_for_a_broker_that_is_not_there_yet),
		TEST(test_without_a_broker_the_deadline_says_that_nothing_was_sent),
		TEST(test_without_a_descriptor_the_deadline_says_what_was_lacking),
		TEST(test_without_an_answer_the_deadline_says_that_it_was_sent),
		TEST(test_a_late_answer_is_nobodys),
		TEST(test_a_new_peer_answers_after_one_that_never_did),
		TEST(test_a_cancelled_call_is_not_told_of),
		TEST(test_a_cancelled_call_that_was_not_sent_is_never_sent),
		TEST(test_the_end_of_the_bus_ends_its_calls),
		/* Last: sockets that are left behind dial for ever. */
		TEST(test_two_hundred_calls_at_once_are_all_answered),
	};

	if (responder_main(argc, argv))
		return 0;
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
