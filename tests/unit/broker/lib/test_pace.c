#include "broker/lib/pace.h"
#include "tests/lib/main.h"

static void said_once_and_then_once_a_minute_with_the_count(void **state)
{
	struct pace pace = {};
	char times[PACE_TIMES];

	(void)state;
	assert_true(pace_again(&pace, 1000, times));
	assert_string_equal(times, "");
	for (uint64_t ms = 2000; ms < 1000 + PACE_MS; ms += 1000)
		assert_false(pace_again(&pace, ms, times));
	assert_true(pace_again(&pace, 1000 + PACE_MS, times));
	assert_string_equal(times, " (and 59 times since that was said last)");
	assert_false(pace_again(&pace, 1001 + PACE_MS, times));
}

static void what_comes_after_a_long_silence_is_said_at_once(void **state)
{
	struct pace pace = {};
	char times[PACE_TIMES];

	(void)state;
	assert_true(pace_again(&pace, 1000, times));
	assert_true(pace_again(&pace, 1000 + 2 * PACE_MS, times));
	assert_string_equal(times, "");
}

TEST_MAIN(cmocka_unit_test(said_once_and_then_once_a_minute_with_the_count),
	  cmocka_unit_test(what_comes_after_a_long_silence_is_said_at_once))
