/* The program's own table: every command explains itself. */

#include <string.h>

#include "tools/about_tables.h"

#include "tests/unit/tools/capture.h"

static struct capture capture;

static void assert_help(const struct command *command, const char *const *path, size_t depth)
{
	const char *words[8] = {};

	for (size_t i = 0; i < depth; i++)
		words[i] = path[i];
	words[depth++] = command->name;
	words[depth] = "--help";
	assert_int_equal(capture_command(&capture, words), EXIT_OK);
	assert_non_null(strstr(capture.text, "USAGE:"));
	assert_non_null(strstr(capture.text, command->summary));
	for (const struct option_spec *option = command->options; option && option->name; option++)
		assert_non_null(strstr(capture.text, option->name));
	for (const struct command *const *sub = command->subcommands; sub && *sub; sub++)
		assert_help(*sub, words, depth);
}

static void test_the_help_of_every_command_prints_and_exits_0(void **state)
{
	(void)state;
	for (const struct command *const *command = commands; *command; command++)
		assert_help(*command, NULL, 0);
	assert_int_equal(CAPTURE(&capture, "--help"), EXIT_OK);
	assert_int_equal(CAPTURE(&capture, "help"), EXIT_OK);
	assert_int_equal(CAPTURE(&capture, "--version"), EXIT_OK);
}

/* A letter or name that stands twice in one command would hide an option. */
static void assert_options_differ(const struct command *command)
{
	for (const struct option_spec *a = command->options; a && a->name; a++) {
		for (const struct option_spec *b = a + 1; b->name; b++) {
			assert_string_not_equal(a->name, b->name);
			assert_true(!a->letter || a->letter != b->letter);
		}
		assert_int_not_equal(a->letter, 'h');
		assert_true(a->help && *a->help);
	}
	for (const struct command *const *sub = command->subcommands; sub && *sub; sub++)
		assert_options_differ(*sub);
}

static void test_no_option_hides_another(void **state)
{
	(void)state;
	for (const struct command *const *command = commands; *command; command++)
		assert_options_differ(*command);
}

static void test_without_a_command_the_help_is_an_error(void **state)
{
	const char *const none[] = {NULL};

	(void)state;
	assert_int_equal(capture_command(&capture, none), EXIT_USAGE);
	assert_non_null(strstr(capture.text, "COMMANDS:"));
}

static void test_manual_page_and_completion_name_every_command(void **state)
{
	(void)state;
	capture_begin(&capture);
	print_manual_page(stdout);
	capture_end(&capture);
	assert_non_null(strstr(capture.text, ".TH DAVIT 1"));
	assert_non_null(strstr(capture.text, "\\-\\-log\\-uri"));
	capture_begin(&capture);
	print_completion(stdout);
	capture_end(&capture);
	for (const struct command *const *command = commands; *command; command++)
		assert_non_null(strstr(capture.text, (*command)->name));
	assert_int_equal(CAPTURE(&capture, "help-all", "--format", "html"), EXIT_USAGE);
}

TEST_MAIN(cmocka_unit_test(test_the_help_of_every_command_prints_and_exits_0),
	  cmocka_unit_test(test_no_option_hides_another),
	  cmocka_unit_test(test_without_a_command_the_help_is_an_error),
	  cmocka_unit_test(test_manual_page_and_completion_name_every_command))
