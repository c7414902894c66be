/* Detach keys in what is typed. */

#include "tools/detach_keys.h"

#include <errno.h>
#include <string.h>

#include "tests/lib/main.h"

static struct detach_keys keys_of(const char *text)
{
	struct detach_keys keys = {};

	assert_int_equal(detach_keys_parse(text, &keys), 0);
	return keys;
}

/* What comes out of @in, given piece by piece of @step bytes; whether it detached. */
static bool feed(struct detach_keys *keys, const char *in, size_t step, char out[256])
{
	size_t n_out = 0, size = strlen(in);
	bool detached = false;

	for (size_t i = 0; i < size && !detached; i += step) {
		size_t n = size - i < step ? size - i : step;

		n_out += detach_keys_feed(keys, (const uint8_t *)in + i, n, (uint8_t *)out + n_out,
					  &detached);
	}
	out[n_out] = '\0';
	return detached;
}

static void assert_feed(const char *text, const char *in, const char *expected, bool detaches)
{
	for (size_t step = 1; step <= strlen(in); step++) {
		struct detach_keys keys = keys_of(text);
		char out[256];

		assert_int_equal(feed(&keys, in, step, out), detaches);
		assert_string_equal(out, expected);
	}
}

static void test_the_sequence_detaches_and_nothing_of_it_comes_out(void **state)
{
	(void)state;
	assert_feed("ctrl-p,ctrl-q", "ls\n\x10\x11", "ls\n", true);
	assert_feed("ctrl-p,ctrl-q", "\x10\x11xyz", "", true);
	assert_feed("ctrl-x,a,@",
		    "b\x18"
		    "a@",
		    "b", true);
	assert_feed("ctrl-]", "q\x1d", "q", true);
}

static void test_what_only_begins_like_it_comes_out_whole(void **state)
{
	(void)state;
	assert_feed("ctrl-p,ctrl-q", "\x10x\x11", "\x10x\x11", false);
	assert_feed("ctrl-p,ctrl-q", "\x10\x10\x10x", "\x10\x10\x10x", false);
	assert_feed("a,a,b", "aacaa-", "aacaa-", false);
}

static void test_a_sequence_behind_its_own_beginning_is_found(void **state)
{
	(void)state;
	assert_feed("ctrl-p,ctrl-q", "\x10\x10\x11", "\x10", true);
	assert_feed("a,a,b", "aaaab", "aa", true);
	assert_feed("a,b,a,c", "ababac", "ab", true);
}

static void test_the_beginning_is_held_back_until_it_is_decided(void **state)
{
	struct detach_keys keys = keys_of("ctrl-p,ctrl-q");
	char out[256];

	(void)state;
	assert_false(feed(&keys, "a\x10", 2, out));
	assert_string_equal(out, "a");
	assert_false(feed(&keys, "b", 1, out));
	assert_string_equal(out, "\x10"
				 "b");
}

static void test_without_keys_all_passes(void **state)
{
	(void)state;
	assert_feed("", "a\x10\x11z", "a\x10\x11z", false);
}

static void test_words_that_are_no_keys_are_refused(void **state)
{
	static const char *const words[] = {"ctrl-", "ctrl-1", "ab", ",a", "a,", "ctrl-pp", "a,,b"};
	struct detach_keys keys;

	(void)state;
	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
		assert_int_equal(detach_keys_parse(words[i], &keys), -EINVAL);
	assert_int_equal(detach_keys_parse("a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a", &keys), -E2BIG);
	assert_int_equal(detach_keys_parse("a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a", &keys), 0);
	assert_int_equal(keys_of("ctrl-P,ctrl-[").keys[1], 0x1b);
}

TEST_MAIN(cmocka_unit_test(test_the_sequence_detaches_and_nothing_of_it_comes_out),
	  cmocka_unit_test(test_what_only_begins_like_it_comes_out_whole),
	  cmocka_unit_test(test_a_sequence_behind_its_own_beginning_is_found),
	  cmocka_unit_test(test_the_beginning_is_held_back_until_it_is_decided),
	  cmocka_unit_test(test_without_keys_all_passes),
	  cmocka_unit_test(test_words_that_are_no_keys_are_refused))
