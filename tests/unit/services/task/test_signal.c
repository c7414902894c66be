/* Names and numbers of signals, as images' stop signals give them. */

#include <signal.h>

#include "services/task/task.h"
#include "tests/lib/main.h"

static void test_a_signal_has_a_name_with_and_without_sig_in_any_case(void **state)
{
	(void)state;
	assert_int_equal(task_signal_number("SIGTERM"), SIGTERM);
	assert_int_equal(task_signal_number("TERM"), SIGTERM);
	assert_int_equal(task_signal_number("sigkill"), SIGKILL);
	assert_int_equal(task_signal_number("Hup"), SIGHUP);
	assert_int_equal(task_signal_number("SIGIOT"), SIGABRT);
	assert_int_equal(task_signal_number("SIGCLD"), SIGCHLD);
	assert_int_equal(task_signal_number("SIGIO"), SIGIO);
}

static void test_a_number_is_a_signal_when_there_is_such_a_one(void **state)
{
	(void)state;
	assert_int_equal(task_signal_number("9"), 9);
	assert_int_equal(task_signal_number("64"), 64);
	assert_int_equal(task_signal_number("0"), 0);
	assert_int_equal(task_signal_number("65"), 0);
	assert_int_equal(task_signal_number("99999999999999999999"), 0);
	assert_int_equal(task_signal_number("-9"), 0);
	assert_int_equal(task_signal_number("9x"), 0);
	assert_int_equal(task_signal_number(" 9"), 0);
}

static void test_real_time_signals_count_from_either_end(void **state)
{
	(void)state;
	assert_int_equal(task_signal_number("SIGRTMIN"), SIGRTMIN);
	assert_int_equal(task_signal_number("SIGRTMIN+3"), SIGRTMIN + 3);
	assert_int_equal(task_signal_number("rtmax"), SIGRTMAX);
	assert_int_equal(task_signal_number("RTMAX-1"), SIGRTMAX - 1);
	assert_int_equal(task_signal_number("RTMIN+999"), 0);
	assert_int_equal(task_signal_number("RTMIN-1"), 0);
	assert_int_equal(task_signal_number("RTMIN+"), 0);
	assert_int_equal(task_signal_number("RTMAX+1"), 0);
	assert_int_equal(task_signal_number("RTMIN+ 1"), 0);
}

static void test_what_is_no_signal_gives_0(void **state)
{
	(void)state;
	assert_int_equal(task_signal_number(""), 0);
	assert_int_equal(task_signal_number("SIG"), 0);
	assert_int_equal(task_signal_number("SIGSIGTERM"), 0);
	assert_int_equal(task_signal_number("TERMINATE"), 0);
	assert_int_equal(task_signal_number("RT"), 0);
}

TEST_MAIN(cmocka_unit_test(test_a_signal_has_a_name_with_and_without_sig_in_any_case),
	  cmocka_unit_test(test_a_number_is_a_signal_when_there_is_such_a_one),
	  cmocka_unit_test(test_real_time_signals_count_from_either_end),
	  cmocka_unit_test(test_what_is_no_signal_gives_0))
