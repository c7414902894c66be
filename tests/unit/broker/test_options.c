#include "tests/lib/main.h"

#include <string.h>

#include "broker/options.h"

static int parse(struct options *options, struct why *why, const char *name, const char *value)
{
	char *argv[] = {(char *)"davit-broker", (char *)"--state", (char *)"/tmp/x",
			(char *)name,           (char *)value,     NULL};

	return options_parse(options, name ? 5 : 3, argv, why);
}

static void test_sizes_and_ages_have_units(void **state)
{
	struct options options;
	struct why why = {};

	(void)state;
	assert_int_equal(parse(&options, &why, "--log-max-bytes", "3M"), 0);
	assert_int_equal(options.log_max_bytes, 3 << 20);
	options_deinit(&options);
	assert_int_equal(parse(&options, &why, "--log-max-age", "2h"), 0);
	assert_int_equal(options.log_max_age_ns, 7200000000000);
	options_deinit(&options);
}

static void test_without_flags_the_defaults_hold(void **state)
{
	struct options options;
	struct why why = {};

	(void)state;
	assert_int_equal(parse(&options, &why, NULL, NULL), 0);
	assert_int_equal(options.log_max_bytes, 256 << 20);
	assert_int_equal(options.log_max_age_ns / 1000000000, 30 * 86400);
	assert_int_equal(options.ready_fd, -1);
	assert_string_equal(options.paths.bus, "/tmp/x/bus.sock");
	options_deinit(&options);
}

static void test_only_one_that_takes_over_waits_for_the_broker_before(void **state)
{
	struct options options;
	struct why why = {};
	char *argv[] = {(char *)"davit-broker", (char *)"--state", (char *)"/tmp/x",
			(char *)"--take-over", NULL};

	(void)state;
	assert_int_equal(parse(&options, &why, NULL, NULL), 0);
	assert_false(options.takes_over);
	options_deinit(&options);
	assert_int_equal(options_parse(&options, 4, argv, &why), 0);
	assert_true(options.takes_over);
	options_deinit(&options);
}

static void test_what_makes_no_sense_is_refused_with_its_name(void **state)
{
	static const char *const bad[] = {"0", "-1", "x", "", "5MM", "99999999999999999999", "1e3"};
	struct options options;

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		struct why why = {};

		assert_int_equal(parse(&options, &why, "--log-max-bytes", bad[i]), -EINVAL);
		assert_non_null(strstr(why.text, "log-max-bytes"));
		options_deinit(&options);
	}
}

TEST_MAIN(cmocka_unit_test(test_sizes_and_ages_have_units),
	  cmocka_unit_test(test_without_flags_the_defaults_hold),
	  cmocka_unit_test(test_only_one_that_takes_over_waits_for_the_broker_before),
	  cmocka_unit_test(test_what_makes_no_sense_is_refused_with_its_name))
