#include <string.h>

#include "shim/runtime.h"
#include "tests/lib/main.h"

static void assert_text(const char *log, const char *expected)
{
	char text[64];

	runtime_log_text(log, text, sizeof(text));
	assert_string_equal(text, expected);
}

static void messages_of_a_json_log_are_joined(void **state)
{
	(void)state;
	assert_text("{\"msg\":\"open `x`: not found\",\"level\":\"error\"}\n",
		    "open `x`: not found");
	assert_text("{\"level\":\"error\",\"msg\": \"a \\\"b\\\"\\n\"}\n{\"msg\":\"c\"}\n",
		    "a \"b\" ; c");
	assert_text("{\"level\":\"debug\",\"msg\":\"noise\"}\n{\"msg\":\"said\"}", "said");
}

static void plain_lines_are_taken_as_they_are(void **state)
{
	(void)state;
	assert_text("panic: oh\nmore\n\n", "panic: oh; more");
	assert_text("", "");
	assert_text("\x01\x02 x", "   x");
}

static void bytes_that_are_no_text_are_replaced(void **state)
{
	(void)state;
	assert_text("{\"msg\":\"open `\xff\xfe`\"}", "open `??`");
	assert_text("a\xc3\xa4", "a\xc3\xa4");
}

static void long_text_is_cut_between_characters(void **state)
{
	char log[200], text[64];

	(void)state;
	memset(log, 'a', 62);
	strcpy(log + 62, "\xc3\xa4\xc3\xa4");
	runtime_log_text(log, text, sizeof(text));
	assert_int_equal(strlen(text), 62);
	/* Cut in the midst of a JSON escape. */
	assert_text("{\"msg\":\"a\\u12", "au12");
	assert_text("{\"msg\":\"a\\", "a\\");
}

TEST_MAIN(cmocka_unit_test(messages_of_a_json_log_are_joined),
	  cmocka_unit_test(plain_lines_are_taken_as_they_are),
	  cmocka_unit_test(bytes_that_are_no_text_are_replaced),
	  cmocka_unit_test(long_text_is_cut_between_characters))
