/* Times as people type them. */

#include "tools/times.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>

#include "tests/lib/main.h"

#define NOW 1700000000000000000ull /* 2023-11-14T22:13:20Z */

static void assert_moment(const char *text, uint64_t expected)
{
	uint64_t ns = 0;

	assert_int_equal(times_parse_moment(text, NOW, &ns), 0);
	assert_int_equal(ns, expected);
}

static void test_rfc3339_with_zones_and_fractions(void **state)
{
	(void)state;
	assert_moment("2023-11-14T22:13:20Z", NOW);
	assert_moment("2023-11-14t22:13:20z", NOW);
	assert_moment("2023-11-15T00:13:20+02:00", NOW);
	assert_moment("2023-11-14T16:43:20-05:30", NOW);
	assert_moment("2023-11-14T22:13:20.5Z", NOW + 500000000);
	assert_moment("2023-11-14T22:13:20.0000000019Z", NOW + 1);
}

static void test_without_a_zone_it_is_local_time(void **state)
{
	(void)state;
	setenv("TZ", "UTC-3", 1); /* three hours before UTC, as POSIX has it */
	tzset();
	assert_moment("2023-11-15T01:13:20", NOW);
	assert_moment("2023-11-15", NOW - (3600 + 13 * 60 + 20) * 1000000000ull);
	unsetenv("TZ");
	tzset();
}

static void test_seconds_since_1970(void **state)
{
	(void)state;
	assert_moment("1700000000", NOW);
	assert_moment("1700000000.25", NOW + 250000000);
	assert_moment("0", 0);
}

static void test_durations_are_before_now(void **state)
{
	(void)state;
	assert_moment("10m", NOW - 600 * 1000000000ull);
	assert_moment("1h30m", NOW - 5400 * 1000000000ull);
	assert_moment("1.5s", NOW - 1500000000);
	assert_moment("500000000s", NOW - 500000000 * 1000000000ull);
}

static void test_what_is_no_time_is_refused(void **state)
{
	static const char *const words[] = {"",
					    "yesterday",
					    "10x",
					    "-5",
					    "1.2.3",
					    "2023-13-01",
					    "2023-11-14T25:00:00Z",
					    "2023-11-14T22:13Z",
					    "2023-11-14X",
					    "2023-11-14T22:13:20.Z",
					    "2023-11-14T22:13:20+2",
					    "2023-11-14T22:13:20+02:99",
					    "10m ",
					    "99999999999999999999",
					    "1969-12-31T23:59:59Z"};
	uint64_t ns;

	(void)state;
	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
		assert_int_equal(times_parse_moment(words[i], NOW, &ns), -EINVAL);
}

static void test_durations(void **state)
{
	static const char *const wrong[] = {"", "s", "1x", "-1s", "1h 2m", "inf", "1sm"};
	uint64_t ms;

	(void)state;
	assert_int_equal(times_parse_duration("1h2m3s", &ms), 0);
	assert_int_equal(ms, 3723000);
	assert_int_equal(times_parse_duration("10", &ms), 0);
	assert_int_equal(ms, 10000);
	assert_int_equal(times_parse_duration("250ms", &ms), 0);
	assert_int_equal(ms, 250);
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
		assert_int_equal(times_parse_duration(wrong[i], &ms), -EINVAL);
}

TEST_MAIN(cmocka_unit_test(test_rfc3339_with_zones_and_fractions),
	  cmocka_unit_test(test_without_a_zone_it_is_local_time),
	  cmocka_unit_test(test_seconds_since_1970),
	  cmocka_unit_test(test_durations_are_before_now),
	  cmocka_unit_test(test_what_is_no_time_is_refused), cmocka_unit_test(test_durations))
