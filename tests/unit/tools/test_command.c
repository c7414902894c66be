/* Parsing, on a table of the test's own: commands[] here stands in for the program's. */

#include <string.h>

#include "tests/unit/tools/capture.h"

struct try_options {
	bool flag;
	char *text;
	uint64_t number, time;
	struct schema_strs list;
};

static const struct option_spec try_specs[] = {
	OPTION(struct try_options, flag, FLAG, "flag", 'f', NULL, "a flag"),
	OPTION(struct try_options, text, TEXT, "text", 't', "WORD", "a text"),
	OPTION(struct try_options, number, NUMBER, "number", 0, "N", "a number"),
	OPTION(struct try_options, time, SECONDS, "time", 0, "TIME", "a time"),
	OPTION(struct try_options, list, LIST, "list", 'l', "WORD", "words"),
	{}};

/* What the last command was given. */
static struct {
	struct try_options options;
	char text[64], list[128], args[256], namespace[64];
	int n_runs;
} got;

static int try(struct context *context, void *data, char **args, int n_args)
{
	const struct try_options *options = data;

	memset(&got, 0, sizeof(got));
	got.options = *options;
	got.n_runs = 1;
	snprintf(got.namespace, sizeof(got.namespace), "%s", context->namespace ?: "");
	snprintf(got.text, sizeof(got.text), "%s", options->text ?: "");
	for (size_t i = 0; i < options->list.count; i++)
		strcat(strcat(got.list, options->list.items[i]), ";");
	for (int i = 0; i < n_args; i++)
		strcat(strcat(got.args, args[i]), ";");
	return 3;
}

static const struct command try_command = {.name = "try",
					   .aliases = "attempt t",
					   .arguments = "[WORD...]",
					   .summary = "take all",
					   .options = try_specs,
					   .options_size = sizeof(struct try_options),
					   .max_args = -1,
					   .run = try};
static const struct command execute_command = {.name = "execute",
					       .arguments = "ID COMMAND...",
					       .summary = "run a program",
					       .options = try_specs,
					       .options_size = sizeof(struct try_options),
					       .min_args = 2,
					       .max_args = -1,
					       .is_run = true,
					       .stops_at_argument = true,
					       .run = try};
static const struct command one_command = {.name = "one",
					   .arguments = "NAME",
					   .summary = "take one",
					   .min_args = 1,
					   .max_args = 1,
					   .run = try};
static const struct command group_command = {
	.name = "group",
	.aliases = "g",
	.summary = "more",
	.subcommands = (const struct command *const[]){&one_command, &try_command, NULL}};

const struct command *const commands[] = {&try_command, &execute_command, &group_command, NULL};

static struct capture capture;

static void forget(void)
{
	memset(&got, 0, sizeof(got));
}

/* ---- options ---- */

static void test_every_kind_of_option_lands_in_its_member(void **state)
{
	(void)state;
	assert_int_equal(CAPTURE(&capture, "try", "-f", "--text", "x y", "--number=4K", "--time",
				 "1m30s", "-l", "a", "--list=b", "word"),
			 3);
	assert_true(got.options.flag);
	assert_string_equal(got.text, "x y");
	assert_int_equal(got.options.number, 4096);
	assert_int_equal(got.options.time, 90000);
	assert_string_equal(got.list, "a;b;");
	assert_string_equal(got.args, "word;");
}

static void test_options_may_follow_words_unless_the_words_are_a_program(void **state)
{
	(void)state;
	(void)CAPTURE(&capture, "try", "a", "-f", "b");
	assert_true(got.options.flag);
	assert_string_equal(got.args, "a;b;");
	(void)CAPTURE(&capture, "execute", "--text", "x", "id", "ls", "-f", "--help", "--number",
		      "no");
	assert_false(got.options.flag);
	assert_string_equal(got.text, "x");
	assert_string_equal(got.args, "id;ls;-f;--help;--number;no;");
}

static void test_two_dashes_end_the_options(void **state)
{
	(void)state;
	(void)CAPTURE(&capture, "try", "--", "-f");
	assert_false(got.options.flag);
	assert_string_equal(got.args, "-f;");
}

static void test_global_options_stand_before_the_command(void **state)
{
	(void)state;
	(void)CAPTURE(&capture, "-n", "other", "--debug", "try", "-f");
	assert_string_equal(got.namespace, "other");
	assert_true(got.options.flag);
}

static void assert_number(const char *text, uint64_t number)
{
	forget();
	assert_int_equal(CAPTURE(&capture, "try", "--number", text), 3);
	assert_int_equal(got.options.number, number);
}

static void test_sizes_take_a_unit(void **state)
{
	(void)state;
	assert_number("0", 0);
	assert_number("1k", 1024);
	assert_number("32M", 32ull << 20);
	assert_number("2G", 2ull << 30);
	assert_number("1T", 1ull << 40);
	assert_number("18446744073709551615", UINT64_MAX);
}

static void assert_time(const char *text, uint64_t ms)
{
	forget();
	assert_int_equal(CAPTURE(&capture, "try", "--time", text), 3);
	assert_int_equal(got.options.time, ms);
}

static void test_times_are_as_in_go(void **state)
{
	(void)state;
	assert_time("0", 0);
	assert_time("10", 10000);
	assert_time("500ms", 500);
	assert_time("1.5s", 1500);
	assert_time("1h2m3s", 3723000);
}

static void test_what_is_no_number_or_time_is_refused_with_its_name(void **state)
{
	static const char *const numbers[] = {
		"", "x", "-1", "1KB", "1.5", "99999999999999999999", "18446744073709551615K", " 1"};
	static const char *const times[] = {"", "x", "-1s", "1x", "1hinf", "1hnan", "1e99s", "s"};

	(void)state;
	forget();
	for (size_t i = 0; i < ARRAY_SIZE(numbers); i++) {
		assert_int_equal(CAPTURE(&capture, "try", "--number", numbers[i]), EXIT_USAGE);
		assert_non_null(strstr(capture.text, "--number"));
	}
	for (size_t i = 0; i < ARRAY_SIZE(times); i++) {
		assert_int_equal(CAPTURE(&capture, "try", "--time", times[i]), EXIT_USAGE);
		assert_non_null(strstr(capture.text, "--time"));
	}
	assert_int_equal(got.n_runs, 0);
}

/* ---- mistakes ---- */

static void test_an_unknown_option_is_named_and_what_was_meant_is_said(void **state)
{
	(void)state;
	forget();
	assert_int_equal(CAPTURE(&capture, "try", "--tekst", "x"), EXIT_USAGE);
	assert_non_null(strstr(capture.text, "--tekst"));
	assert_non_null(strstr(capture.text, "did you mean --text?"));
	assert_int_equal(CAPTURE(&capture, "try", "--somethingelse"), EXIT_USAGE);
	assert_null(strstr(capture.text, "did you mean"));
	assert_int_equal(CAPTURE(&capture, "try", "-x"), EXIT_USAGE);
	assert_non_null(strstr(capture.text, "-x"));
	assert_int_equal(CAPTURE(&capture, "try", "--text"), EXIT_USAGE);
	assert_non_null(strstr(capture.text, "--text needs a value"));
	assert_int_equal(CAPTURE(&capture, "try", "--flag=yes"), EXIT_USAGE);
	assert_non_null(strstr(capture.text, "--flag takes no value"));
	assert_int_equal(got.n_runs, 0);
}

static void test_an_unknown_command_is_named_and_what_was_meant_is_said(void **state)
{
	(void)state;
	assert_int_equal(CAPTURE(&capture, "tri"), EXIT_USAGE);
	assert_non_null(strstr(capture.text, "did you mean 'try'?"));
	assert_int_equal(CAPTURE(&capture, "group", "onne", "x"), EXIT_USAGE);
	assert_non_null(
		strstr(capture.text, "davit group has no command 'onne'; did you mean 'one'?"));
	assert_int_equal(CAPTURE(&capture, "quite-different"), EXIT_USAGE);
	assert_null(strstr(capture.text, "did you mean"));
}

static void test_too_few_and_too_many_words_are_refused(void **state)
{
	(void)state;
	forget();
	assert_int_equal(CAPTURE(&capture, "group", "one"), EXIT_USAGE);
	assert_non_null(strstr(capture.text, "NAME"));
	assert_int_equal(CAPTURE(&capture, "group", "one", "a", "b"), EXIT_USAGE);
	assert_non_null(strstr(capture.text, "'b'"));
	assert_int_equal(CAPTURE(&capture, "execute", "id"), EXIT_RUN_FAILED);
	assert_int_equal(got.n_runs, 0);
}

static void test_a_command_has_its_aliases(void **state)
{
	(void)state;
	assert_int_equal(CAPTURE(&capture, "attempt"), 3);
	assert_int_equal(CAPTURE(&capture, "g", "t"), 3);
	assert_int_equal(CAPTURE(&capture, "attempt t"), EXIT_USAGE);
	assert_int_equal(CAPTURE(&capture, "att"), EXIT_USAGE);
}

/* ---- the environment ---- */

static void test_a_flag_wins_over_the_environment(void **state)
{
	(void)state;
	setenv("DAVIT_NAMESPACE", "outer", 1);
	(void)CAPTURE(&capture, "try");
	assert_string_equal(got.namespace, "outer");
	(void)CAPTURE(&capture, "-n", "inner", "try");
	assert_string_equal(got.namespace, "inner");
	unsetenv("DAVIT_NAMESPACE");
}

TEST_MAIN(cmocka_unit_test(test_every_kind_of_option_lands_in_its_member),
	  cmocka_unit_test(test_options_may_follow_words_unless_the_words_are_a_program),
	  cmocka_unit_test(test_two_dashes_end_the_options),
	  cmocka_unit_test(test_global_options_stand_before_the_command),
	  cmocka_unit_test(test_sizes_take_a_unit), cmocka_unit_test(test_times_are_as_in_go),
	  cmocka_unit_test(test_what_is_no_number_or_time_is_refused_with_its_name),
	  cmocka_unit_test(test_an_unknown_option_is_named_and_what_was_meant_is_said),
	  cmocka_unit_test(test_an_unknown_command_is_named_and_what_was_meant_is_said),
	  cmocka_unit_test(test_too_few_and_too_many_words_are_refused),
	  cmocka_unit_test(test_a_command_has_its_aliases),
	  cmocka_unit_test(test_a_flag_wins_over_the_environment))
