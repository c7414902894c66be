/* When it is told that a stream stands still, and that it goes on. */

#include "tests/lib/main.h"

#include "broker/lib/loop.h"
#include "services/image/work/still.h"

static void test_a_stop_is_told_once_when_it_has_lasted(void **state)
{
	uint64_t told = 0;

	(void)state;
	assert_false(still_is_news(0, 5000, &told));
	assert_false(still_is_news(5000, 5000 + STILL_MIN_MS - 1, &told));
	assert_true(still_is_news(5000, 5000 + STILL_MIN_MS, &told));
	assert_int_equal(told, 5000);
	assert_false(still_is_news(5000, 100000, &told));
}

static void test_what_goes_on_is_told_even_if_it_stops_again(void **state)
{
	uint64_t told = 5000;

	(void)state;
	/* It moved, and has just stopped again. */
	assert_true(still_is_news(9000, 9000 + STILL_MIN_MS - 1, &told));
	assert_int_equal(told, 0);
	assert_true(still_is_news(9000, 9000 + STILL_MIN_MS, &told));
	assert_int_equal(told, 9000);
	/* It moved between two looks, and has stood still for long again. */
	assert_true(still_is_news(12000, 20000, &told));
	assert_int_equal(told, 12000);
	assert_true(still_is_news(0, 20000, &told));
	assert_false(still_is_news(0, 30000, &told));
}

static void test_only_what_waits_stands_still(void **state)
{
	uint64_t before = time_boot_ms();

	(void)state;
	assert_int_equal(still_since(), 0);
	still_begin();
	assert_in_range(still_since(), before, time_boot_ms());
	still_end();
	assert_int_equal(still_since(), 0);
}

TEST_MAIN(cmocka_unit_test(test_a_stop_is_told_once_when_it_has_lasted),
	  cmocka_unit_test(test_what_goes_on_is_told_even_if_it_stops_again),
	  cmocka_unit_test(test_only_what_waits_stands_still))
