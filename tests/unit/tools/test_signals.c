/* Names of signals. */

#include "tools/signals.h"

#include <errno.h>

#include "tests/lib/main.h"

static void assert_signal(const char *text, uint64_t expected)
{
	uint64_t number = 0;

	assert_int_equal(signals_parse(text, &number), 0);
	assert_int_equal(number, expected);
}

static void test_names_and_numbers(void **state)
{
	(void)state;
	assert_signal("TERM", 15);
	assert_signal("SIGKILL", 9);
	assert_signal("sighup", 1);
	assert_signal("9", 9);
	assert_signal("64", 64);
	assert_signal("RTMIN", 34);
	assert_signal("SIGRTMIN+3", 37);
	assert_signal("RTMAX-1", 63);
	assert_signal("RTMAX", 64);
}

static void test_others_are_refused(void **state)
{
	static const char *const words[] = {"",   "0",        "65",      "SIG",    "NOPE", "TERM ",
					    "-9", "RTMIN+31", "RTMAX+1", "RTMIN+", "15x"};
	uint64_t number;

	(void)state;
	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
		assert_int_equal(signals_parse(words[i], &number), -EINVAL);
}

TEST_MAIN(cmocka_unit_test(test_names_and_numbers), cmocka_unit_test(test_others_are_refused))
