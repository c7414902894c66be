/* Regular expressions: a table of what matches, against regcomp(3) too, and what they may cost. */

#include "tests/lib/main.h"

#include <regex.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "schemas/regex.h"
#include "tests/lib/random_message.h"

static bool search(const char *pattern, const char *text)
{
	const char *problem = NULL;
	struct regex *regex = regex_new(pattern, &problem);
	bool found;

	if (!regex)
		fail_msg("'%s' %s", pattern, problem);
	found = regex_search(regex, text);
	regex_free(regex);
	return found;
}

static void test_patterns_match_what_they_say(void **state)
{
	static const struct {
		const char *pattern, *text;
		bool matches;
	} cases[] = {
		{"", "", true},
		{"", "x", true},
		{"b", "abc", true},
		{"^b", "abc", false},
		{"c$", "abc", true},
		{"^abc$", "abc", true},
		{"^$", "", true},
		{"^$", "x", false},
		{"a.c", "a/c", true},
		{"a\\.c", "a/c", false},
		{"a|b|cd", "xcdx", true},
		{"^(a|b)*c$", "ababc", true},
		{"^(a|b)*c$", "abxc", false},
		{"x*", "", true},
		{"^x+$", "xxx", true},
		{"^x+$", "", false},
		{"^ab?c$", "ac", true},
		{"^ab?c$", "abbc", false},
		{"^a{2}$", "aa", true},
		{"^a{2}$", "aaa", false},
		{"^a{2,}$", "aaaa", true},
		{"^a{2,3}$", "aaaa", false},
		{"^(ab){0,2}$", "abab", true},
		{"[a-c]x", "bx", true},
		{"[^a-c]x", "bx", false},
		{"[]a]", "]", true},
		{"[^]a]", "]", false},
		{"[a-]", "-", true},
		{"[[:digit:]]+$", "a12", true},
		{"[[:alpha:]_]", "9", false},
		{"^\\d+$", "123", true},
		{"\\D", "123", false},
		{"^\\w+$", "a_1", true},
		{"\\W", "a_1", false},
		{"\\s", "a b", true},
		{"\\S", " \t", false},
		{"[\\d.]+", "x1.2", true},
		{"\\n", "a\nb", true},
		{"(?i)ABC", "xabcx", true},
		{"(?i)[b-d]", "C", true},
		{"(?:ab)+$", "abab", true},
		{"a*?b", "aab", true},
		{"(a|b|)c", "c", true},
		{"(^a|b$)", "xb", true},
		{"é", "née", true},
		{"\\*\\+", "*+", true},
		{"(a*)*b", "aaaaaaaaaaaaaaaaaaaaaaaaaaaac", false},
		{"(|a)+$", "aaa", true},
		{"((a|b)|(c|d)){3}e", "abde", true},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		if (search(cases[i].pattern, cases[i].text) != cases[i].matches)
			fail_msg("'%s' on '%s'", cases[i].pattern, cases[i].text);
	}
}

static void test_bad_patterns_are_refused_with_a_reason(void **state)
{
	static const char *const patterns[] = {"(",
					       ")",
					       "[",
					       "[a",
					       "a**",
					       "*",
					       "+a",
					       "a{",
					       "a{x}",
					       "a{2",
					       "a{3,2}",
					       "a{256}",
					       "a{0}",
					       "[z-a]",
					       "\\",
					       "\\1",
					       "(?=a)",
					       "(?P<n>a)",
					       "[[:no:]]",
					       "[[:alpha",
					       "\\b",
					       "(a|b",
					       "a{99999999999999999999}"};
	const char *problem;
	char longest[300];

	(void)state;
	for (size_t i = 0; i < sizeof(patterns) / sizeof(patterns[0]); i++) {
		problem = NULL;
		if (regex_new(patterns[i], &problem))
			fail_msg("'%s' was accepted", patterns[i]);
		assert_non_null(problem);
	}
	memset(longest, 'a', sizeof(longest));
	longest[257] = '\0';
	assert_null(regex_new(longest, &problem));
	assert_string_equal(problem, "is longer than 256 bytes");
}

/* Each of these takes other engines exponential time or memory. */
static void test_the_cost_is_bounded(void **state)
{
	static const char *const refused[] = {"((a{20}){20}){20}",
					      "((((((){255}){255}){255}){255}){255}){255}",
					      "(((((a*){9}){9}){9}){9}){9}"};
	static const char *const slow[] = {"(a|aa)*$x", "(a*)*(a*)*(a*)*b", "(a|b)*a(a|b){120}c",
					   "((a?){60}){3}a{60}b"};
	char *text = malloc(65537);
	const char *problem;
	clock_t start = clock();

	(void)state;
	for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
		assert_null(regex_new(refused[i], &problem));
		assert_string_equal(problem, "is too large");
	}
	memset(text, 'a', 65536);
	text[65536] = '\0';
	for (size_t i = 0; i < sizeof(slow) / sizeof(slow[0]); i++)
		assert_false(search(slow[i], text));
	free(text);
	assert_true(clock() - start < 20 * CLOCKS_PER_SEC);
}

static bool posix_search(const char *pattern, const char *text, bool *ret_found)
{
	regex_t regex;

	if (regcomp(&regex, pattern, REG_EXTENDED | REG_NOSUB))
		return false;
	*ret_found = !regexec(&regex, text, 0, NULL, 0);
	regfree(&regex);
	return true;
}

/* Made so that both languages read them alike: atoms, alternatives, repeats, groups. */
static void random_pattern(uint64_t *seed, char *pattern, unsigned depth)
{
	static const char *const atoms[] = {"a", "b", "c", ".", "[ab]", "[^a]", "[b-c]"};
	static const char *const repeats[] = {"", "", "", "*", "+", "?", "{2}", "{1,2}", "{0,2}"};
	unsigned n = 1 + random_next(seed) % 3;

	for (unsigned i = 0; i < n; i++) {
		if (depth < 3 && random_next(seed) % 3 == 0) {
			strcat(pattern, "(");
			random_pattern(seed, pattern, depth + 1);
			if (random_next(seed) % 2) {
				strcat(pattern, "|");
				random_pattern(seed, pattern, depth + 1);
			}
			strcat(pattern, ")");
		} else {
			strcat(pattern, atoms[random_next(seed) % 7]);
		}
		strcat(pattern, repeats[random_next(seed) % 9]);
	}
}

static void test_random_patterns_agree_with_the_c_library(void **state)
{
	uint64_t seed = 2026;
	unsigned compared = 0;

	(void)state;
	for (unsigned i = 0; i < 4000; i++) {
		char pattern[4096] = "", text[12] = "";
		size_t size = random_next(&seed) % 10;
		const char *problem;
		struct regex *regex;
		bool expected, found;

		if (random_next(&seed) % 2)
			strcat(pattern, "^");
		random_pattern(&seed, pattern, 0);
		if (random_next(&seed) % 2)
			strcat(pattern, "$");
		for (size_t n = 0; n < size; n++)
			text[n] = "abc"[random_next(&seed) % 3];
		regex = strlen(pattern) < 120 ? regex_new(pattern, &problem) : NULL;
		if (regex && posix_search(pattern, text, &expected)) {
			found = regex_search(regex, text);
			if (found != expected)
				fail_msg("'%s' on '%s': %d, and the C library says %d", pattern,
					 text, found, expected);
			compared++;
		}
		regex_free(regex);
	}
	assert_true(compared > 2000);
}

TEST_MAIN(cmocka_unit_test(test_patterns_match_what_they_say),
	  cmocka_unit_test(test_bad_patterns_are_refused_with_a_reason),
	  cmocka_unit_test(test_the_cost_is_bounded),
	  cmocka_unit_test(test_random_patterns_agree_with_the_c_library))
