#include <stdio.h>
#include <string.h>

#include "broker/lib/cleanup.h"
#include "shim/logger.h"
#include "tests/lib/main.h"

static void assert_command(const char *uri, const char *const *expected)
{
	struct logger_command command;
	struct why why = {};
	size_t i;

	if (logger_parse(uri, &command, &why))
		fail_msg("%s", why.text);
	assert_string_equal(command.path, expected[0]);
	for (i = 0; expected[i]; i++) {
		assert_non_null(command.arguments[i]);
		assert_string_equal(command.arguments[i], expected[i]);
	}
	assert_null(command.arguments[i]);
	logger_command_clear(&command);
}

static void arguments_are_names_and_values_in_order(void **state)
{
	(void)state;
	assert_command("binary:///bin/log", (const char *const[]){"/bin/log", NULL});
	assert_command("binary:///bin/log?", (const char *const[]){"/bin/log", NULL});
	assert_command("binary:///bin/log?z=1&a=2&flag&empty=",
		       (const char *const[]){"/bin/log", "z", "1", "a", "2", "flag", "", "empty",
					     "", NULL});
	assert_command("binary:///bin/log?a=1&a=2&b=x=y#part",
		       (const char *const[]){"/bin/log", "a", "1", "b", "x=y", NULL});
}

static void escapes_are_undone(void **state)
{
	(void)state;
	assert_command("binary:///my%20dir/l+g?a%26b=c%3Dd+e&%2f=%7E",
		       (const char *const[]){"/my dir/l+g", "a&b", "c=d e", "/", "~", NULL});
}

static void what_is_not_valid_is_refused(void **state)
{
	static const char *const wrong[] = {
		"binary://",        "binary://log",     "binary://host/log", "binary:///l%",
		"binary:///l%2",    "binary:///l%zz",   "binary:///l%00",    "binary:///l?a=%",
		"binary:///l?%4=a", "binary:///l?a=%0",
	};
	struct logger_command command;
	struct why why;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
		why.text[0] = '\0';
		if (logger_parse(wrong[i], &command, &why) != LOGGER_E_INVALID)
			fail_msg("%s is taken", wrong[i]);
		assert_non_null(strstr(why.text, wrong[i]));
	}
	assert_true(logger_is_uri("binary:///x"));
	assert_false(logger_is_uri("file:///x") || logger_is_uri("") || logger_is_uri(NULL));
}

static void there_are_at_most_64_arguments(void **state)
{
	struct logger_command command;
	char uri[1024] = "binary:///l?", pair[16];

	(void)state;
	for (int i = 0; i < LOGGER_ARGUMENTS; i++) {
		snprintf(pair, sizeof(pair), "a%d=b&", i);
		strcat(uri, pair);
	}
	assert_int_equal(logger_parse(uri, &command, NULL), 0);
	logger_command_clear(&command);
	strcat(uri, "more=");
	assert_int_equal(logger_parse(uri, &command, NULL), LOGGER_E_INVALID);
}

TEST_MAIN(cmocka_unit_test(arguments_are_names_and_values_in_order),
	  cmocka_unit_test(escapes_are_undone), cmocka_unit_test(what_is_not_valid_is_refused),
	  cmocka_unit_test(there_are_at_most_64_arguments))
