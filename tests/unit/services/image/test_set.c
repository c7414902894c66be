#include <stdio.h>

#include "broker/lib/cleanup.h"
#include "services/image/set.h"
#include "tests/lib/main.h"

#define N 1000

static const char *name(unsigned i)
{
	static char text[32];

	snprintf(text, sizeof(text), "sha256:%u", i);
	return text;
}

static void test_what_was_added_is_in_it_once(void **state)
{
	_cleanup_(set_clear) struct set set = {};

	(void)state;
	assert_false(set_has(&set, "a"));
	for (unsigned i = 0; i < 2 * N; i++)
		assert_int_equal(set_add(&set, name(i % N)), 0);
	assert_int_equal(set.count, N);
	for (unsigned i = 0; i < N; i++)
		assert_true(set_has(&set, name(i)));
	assert_false(set_has(&set, name(N)));
}

static void test_what_is_removed_takes_nothing_else_along(void **state)
{
	_cleanup_(set_clear) struct set set = {};

	(void)state;
	set_remove(&set, "a");
	for (unsigned i = 0; i < N; i++)
		assert_int_equal(set_add(&set, name(i)), 0);
	for (unsigned i = 0; i < N; i += 3)
		set_remove(&set, name(i));
	set_remove(&set, name(N));
	for (unsigned i = 0; i < N; i++)
		assert_int_equal(set_has(&set, name(i)), i % 3 != 0);
	assert_int_equal(set.count, N - (N + 2) / 3);
}

TEST_MAIN(cmocka_unit_test(test_what_was_added_is_in_it_once),
	  cmocka_unit_test(test_what_is_removed_takes_nothing_else_along))
