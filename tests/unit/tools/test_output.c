/* Tables, times and sizes as they are printed. */

#include "tools/output.h"

#include <string.h>

#include "broker/lib/loop.h"
#include "tests/unit/tools/capture.h"

static struct capture capture;

static void print(const struct table *table)
{
	capture_begin(&capture);
	table_print(table);
	capture_end(&capture);
}

static void test_columns_are_aligned_and_no_line_ends_with_blanks(void **state)
{
	_cleanup_(table_clear) struct table table;

	(void)state;
	table_init(&table, "NAME", "PID", "STATUS", NULL);
	table_add(&table, "a", "1", "RUNNING");
	table_add(&table, "much-longer", "12345", NULL);
	print(&table);
	assert_string_equal(capture.text, "NAME           PID      STATUS\n"
					  "a              1        RUNNING\n"
					  "much-longer    12345    \n");
}

static void test_an_empty_table_prints_its_header(void **state)
{
	_cleanup_(table_clear) struct table table;

	(void)state;
	table_init(&table, "NAME", "PID", NULL);
	print(&table);
	assert_string_equal(capture.text, "NAME    PID\n");
}

static void test_formats_are_table_and_json(void **state)
{
	enum output_format format;

	(void)state;
	assert_int_equal(output_parse(NULL, false, &format), 0);
	assert_int_equal(format, OUTPUT_TABLE);
	assert_int_equal(output_parse("table", true, &format), 0);
	assert_int_equal(format, OUTPUT_QUIET);
	assert_int_equal(output_parse("json", false, &format), 0);
	assert_int_equal(format, OUTPUT_JSON);
	assert_int_equal(output_parse("yaml", false, &format), -1);
}

static void test_sizes_have_the_unit_that_fits(void **state)
{
	char text[32];

	(void)state;
	output_size(0, text);
	assert_string_equal(text, "0.0 B");
	output_size(1023, text);
	assert_string_equal(text, "1023.0 B");
	output_size(1536, text);
	assert_string_equal(text, "1.5 KiB");
	output_size(5ull << 30, text);
	assert_string_equal(text, "5.0 GiB");
	output_size(UINT64_MAX, text);
	assert_non_null(strstr(text, "TiB"));
}

static void test_times_are_rfc_3339(void **state)
{
	char text[40];

	(void)state;
	output_time(0, text);
	assert_string_equal(text, "1970-01-01T00:00:00.000000Z");
	output_time(1700000000123456789ull, text);
	assert_string_equal(text, "2023-11-14T22:13:20.123456Z");
	output_time(UINT64_MAX, text);
	assert_true(strlen(text) < sizeof(text));
}

static void test_ages_never_come_from_the_future(void **state)
{
	uint64_t now = time_real_ns(), second = 1000000000;
	char text[32];

	(void)state;
	output_age(0, text);
	assert_string_equal(text, "-");
	output_age(now + 100 * second, text);
	assert_string_equal(text, "0s ago");
	output_age(now - 90 * second, text);
	assert_string_equal(text, "1m ago");
	output_age(now - 3 * 3600 * second, text);
	assert_string_equal(text, "3h ago");
	output_age(now - 72 * 3600 * second, text);
	assert_string_equal(text, "3d ago");
}

TEST_MAIN(cmocka_unit_test(test_columns_are_aligned_and_no_line_ends_with_blanks),
	  cmocka_unit_test(test_an_empty_table_prints_its_header),
	  cmocka_unit_test(test_formats_are_table_and_json),
	  cmocka_unit_test(test_sizes_have_the_unit_that_fits),
	  cmocka_unit_test(test_times_are_rfc_3339),
	  cmocka_unit_test(test_ages_never_come_from_the_future))
