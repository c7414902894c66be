/* Children that do blocking work. The child is this program itself, started again as "child <what>". */

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "broker/lib/file.h"
#include "services/lib/work.h"
#include "tests/lib/main.h"
#include "tests/lib/service_case.h"

/* ---- the child ---- */

static int echo(void)
{
	_cleanup_(namespace_name_request_clear) struct namespace_name_request request = {};
	_cleanup_(schema_buffer_clear) struct schema_buffer buffer = {};
	struct platform reply = {};
	uint8_t data[4096];
	ssize_t size = read(3, data, sizeof(data));

	if (size < 0 ||
	    schema_unpack(schema_namespace_name_request(), data, (size_t)size, &request, NULL))
		return 3;
	reply.os = request.name;
	if (schema_pack(schema_platform(), &reply, &buffer, NULL))
		return 4;
	return file_write_all(4, buffer.data, buffer.size) ? 5 : 0;
}

/* Someone holds its pipes, and goes only when the test lets fd 5 go. */
static int leave_a_child(void)
{
	char byte;

	if (fork() == 0) {
		(void)!read(5, &byte, 1);
		_exit(0);
	}
	return echo();
}

static int flood(void)
{
	for (unsigned i = 0; i < 20000; i++)
		fprintf(stderr, "line %u\n", i);
	fprintf(stderr, "the reason\n");
	return 9;
}

static int write_much(void)
{
	static char zeros[2 << 20];

	return file_write_all(4, zeros, sizeof(zeros)) ? 0 : 0;
}

static int count_fds(void)
{
	/* 0 to 4, and 5 that was named; the directory's own comes on top. */
	unsigned n = fds_count();

	return n == 6 ? echo() : (int)(100 + n);
}

static int child(const char *what)
{
	signal(SIGPIPE, SIG_IGN);
	if (!strcmp(what, "echo"))
		return echo();
	if (!strcmp(what, "garbage"))
		return file_write_all(4, "\xc1\xc1", 2) ? 5 : 0;
	if (!strcmp(what, "flood"))
		return flood();
	if (!strcmp(what, "much"))
		return write_much();
	if (!strcmp(what, "leave"))
		return leave_a_child();
	if (!strcmp(what, "fds"))
		return count_fds();
	if (!strcmp(what, "crash"))
		raise(SIGKILL);
	pause();
	return 0;
}

/* ---- the test ---- */

static const char *const names[] = {"namespace", NULL};
static const struct service_method methods[] = {{}};
static const struct service_definition definition = {
	.program = "davit-test",
	.names = names,
	.methods = methods,
	.directory = "test",
};

struct outcome {
	bool is_done;
	unsigned n_calls;
	char *os;
	struct why why;
};

static void done(void *userdata, void *reply_, const struct why *why)
{
	struct outcome *outcome = userdata;
	struct platform *reply = reply_;

	outcome->is_done = true;
	outcome->n_calls++;
	if (reply)
		outcome->os = TAKE(reply->os);
	else
		outcome->why = *why;
}

static struct work *start(struct service_case *test, const char *what, int fd, uint64_t deadline_ms,
			  struct outcome *outcome)
{
	struct namespace_name_request request = {.name = "hello"};
	const char *argv[] = {"child", what, NULL};
	struct spawn_fd fds[] = {{fd, 5}};
	struct work_options options = {
		.program = "test_work",
		.argv = argv,
		.fds = fds,
		.n_fds = fd >= 0,
		.request = schema_namespace_name_request(),
		.request_message = &request,
		.reply = schema_platform(),
		.deadline_ms = deadline_ms,
	};
	struct work *work = NULL;
	struct why why = {};

	*outcome = (struct outcome){};
	if (work_start(test->service, &options, done, outcome, &work, &why))
		fail_msg("%s", why.text);
	return work;
}

static void finish(struct service_case *test, struct outcome *outcome)
{
	assert_true(wait_on_loop(test->loop, &outcome->is_done, WAIT_MS));
	service_turn(test->service);
	assert_int_equal(outcome->n_calls, 1);
	assert_int_equal(test->service->n_children, 0);
}

static int setup(void **state)
{
	struct service_case *test = calloc(1, sizeof(*test));

	if (!test)
		return -1;
	service_case_init(test, &definition);
	*state = test;
	return 0;
}

static int teardown(void **state)
{
	int r = service_case_deinit(*state);

	free(*state);
	return r;
}

static void test_a_child_answers(void **state)
{
	struct service_case *test = *state;
	struct outcome outcome;

	start(test, "echo", -1, 0, &outcome);
	assert_int_equal(test->service->n_children, 1);
	finish(test, &outcome);
	assert_string_equal(outcome.os, "hello");
	free(outcome.os);
}

static void test_a_child_has_the_descriptors_that_were_named_and_no_others(void **state)
{
	struct service_case *test = *state;
	struct outcome outcome;

	start(test, "fds", STDERR_FILENO, 0, &outcome);
	finish(test, &outcome);
	if (!outcome.os)
		fail_msg("%s", outcome.why.text);
	free(outcome.os);
}

static void test_a_child_that_answers_nonsense_is_a_failure(void **state)
{
	struct service_case *test = *state;
	struct outcome outcome;

	start(test, "garbage", -1, 0, &outcome);
	finish(test, &outcome);
	assert_null(outcome.os);
	assert_non_null(strstr(outcome.why.text, "test_work answered with something else"));
}

static void test_an_answer_that_is_too_large_is_a_failure(void **state)
{
	struct service_case *test = *state;
	struct outcome outcome;

	start(test, "much", -1, 0, &outcome);
	finish(test, &outcome);
	assert_null(outcome.os);
	assert_non_null(strstr(outcome.why.text, "too large"));
}

static void test_the_end_of_what_a_failed_child_said_is_the_reason(void **state)
{
	struct service_case *test = *state;
	struct outcome outcome;

	start(test, "flood", -1, 0, &outcome);
	finish(test, &outcome);
	assert_string_equal(outcome.why.text, "test_work ended with code 9: the reason");
}

static void test_a_child_that_is_killed_is_a_failure(void **state)
{
	struct service_case *test = *state;
	struct outcome outcome;

	start(test, "crash", -1, 0, &outcome);
	finish(test, &outcome);
	assert_non_null(strstr(outcome.why.text, "killed by signal 9"));
	work_kill(start(test, "hang", -1, 0, &outcome));
	finish(test, &outcome);
	assert_non_null(strstr(outcome.why.text, "killed by signal 9"));
}

static void test_a_child_is_killed_at_its_deadline(void **state)
{
	struct service_case *test = *state;
	struct outcome outcome;

	start(test, "hang", -1, time_boot_ms() + 20, &outcome);
	finish(test, &outcome);
	assert_string_equal(outcome.why.text, "test_work was killed at its deadline");
}

static void test_who_inherits_a_childs_pipes_is_not_waited_for(void **state)
{
	struct service_case *test = *state;
	struct outcome outcome;
	int fds[2];

	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	start(test, "leave", fds[0], 0, &outcome);
	finish(test, &outcome);
	assert_string_equal(outcome.os, "hello");
	free(outcome.os);
	close(fds[0]);
	close(fds[1]);
}

static void test_a_service_that_ends_kills_its_children(void **state)
{
	struct service_case *test = *state;
	struct outcome outcome;
	siginfo_t info = {};

	start(test, "hang", -1, 0, &outcome);
	service_case_crash(test);
	assert_int_equal(waitid(P_ALL, 0, &info, WEXITED), 0);
	assert_int_equal(info.si_code, CLD_KILLED);
	assert_false(outcome.is_done);
}

#define CASE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		CASE(test_a_child_answers),
		CASE(test_a_child_has_the_descriptors_that_were_named_and_no_others),
		CASE(test_a_child_that_answers_nonsense_is_a_failure),
		CASE(test_an_answer_that_is_too_large_is_a_failure),
		CASE(test_the_end_of_what_a_failed_child_said_is_the_reason),
		CASE(test_a_child_that_is_killed_is_a_failure),
		CASE(test_a_child_is_killed_at_its_deadline),
		CASE(test_who_inherits_a_childs_pipes_is_not_waited_for),
		CASE(test_a_service_that_ends_kills_its_children),
	};

	if (argc == 3 && !strcmp(argv[1], "child"))
		return child(argv[2]);
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
