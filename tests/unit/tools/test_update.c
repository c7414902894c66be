/* The limits that update changes. */

#include "tools/update.h"

#include <string.h>

#include "tests/unit/tools/capture.h"

static struct capture capture;

static int make(const struct update_options *options, char text[512])
{
	struct context context = {};
	json_t *json = NULL;
	char *dump;
	int code;

	capture_begin(&capture);
	code = update_resources(&context, options, &json);
	capture_end(&capture);
	if (code)
		return code;
	dump = json_dumps(json, JSON_COMPACT | JSON_SORT_KEYS);
	snprintf(text, 512, "%s", dump);
	free(dump);
	json_decref(json);
	return 0;
}

static void test_only_what_is_given_is_in_it(void **state)
{
	char text[512];

	(void)state;
	assert_int_equal(make(&(struct update_options){.memory_limit = 4096}, text), 0);
	assert_string_equal(text, "{\"memory\":{\"limit\":4096}}");
	assert_int_equal(make(&(struct update_options){.cpus = (char *)"1.5"}, text), 0);
	assert_string_equal(text, "{\"cpu\":{\"period\":100000,\"quota\":150000}}");
	assert_int_equal(make(&(struct update_options){.pids_limit = (char *)"0",
						       .cpu_quota = (char *)"-1",
						       .cpu_shares = 5,
						       .cpuset_cpus = (char *)"0-1",
						       .cpuset_mems = (char *)"0"},
			      text),
			 0);
	assert_string_equal(text, "{\"cpu\":{\"cpus\":\"0-1\",\"mems\":\"0\",\"quota\":-1,"
				  "\"shares\":5},\"pids\":{\"limit\":-1}}");
}

static void test_what_makes_no_sense_is_refused(void **state)
{
	char text[512];

	(void)state;
	assert_int_equal(make(&(struct update_options){}, text), EXIT_USAGE);
	assert_int_equal(make(&(struct update_options){.cpus = (char *)"x"}, text), EXIT_USAGE);
	assert_non_null(strstr(capture.text, "--cpus"));
	assert_int_equal(make(&(struct update_options){.cpus = (char *)"1", .cpu_period = 5}, text),
			 EXIT_USAGE);
	assert_int_equal(make(&(struct update_options){.pids_limit = (char *)"-2"}, text),
			 EXIT_USAGE);
	assert_int_equal(make(&(struct update_options){.cpu_quota = (char *)"5k"}, text),
			 EXIT_USAGE);
}

TEST_MAIN(cmocka_unit_test(test_only_what_is_given_is_in_it),
	  cmocka_unit_test(test_what_makes_no_sense_is_refused))
