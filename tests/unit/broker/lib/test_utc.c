/* Dates by hand agree with glibc's, over leap years and centuries. */

#include <string.h>
#include <time.h>

#include "broker/lib/cleanup.h"
#include "broker/lib/utc.h"
#include "tests/lib/main.h"

static void test_each_day_of_four_centuries_is_glibc_s(void **state)
{
	(void)state;
	for (time_t at = 0; at < (time_t)400 * 366 * 86400; at += 86400 + 3661) {
		char expected[32], text[UTC_SIZE];
		struct tm date;

		assert_non_null(gmtime_r(&at, &date));
		strftime(expected, sizeof(expected), "%Y-%m-%dT%H:%M:%S", &date);
		utc_format((uint64_t)at, text);
		assert_string_equal(text, expected);
	}
}

static void test_the_ends_of_days_and_years(void **state)
{
	static const struct {
		uint64_t seconds;
		const char *text;
	} cases[] = {
		{0, "1970-01-01T00:00:00"},
		{68169599, "1972-02-28T23:59:59"},
		{68169600, "1972-02-29T00:00:00"},
		{951782400, "2000-02-29T00:00:00"},
		{4107542399, "2100-02-28T23:59:59"},
		{4107542400, "2100-03-01T00:00:00"},
		{253402300799, "9999-12-31T23:59:59"},
		{253402300800, "9999-12-31T23:59:59"},
		{UINT64_MAX, "9999-12-31T23:59:59"},
	};
	char text[UTC_SIZE];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		utc_format(cases[i].seconds, text);
		assert_string_equal(text, cases[i].text);
	}
}

TEST_MAIN(cmocka_unit_test(test_each_day_of_four_centuries_is_glibc_s),
	  cmocka_unit_test(test_the_ends_of_days_and_years))
