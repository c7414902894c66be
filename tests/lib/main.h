#pragma once
/*
 * What every unit test includes first: cmocka with all that its header wants, a
 * main() that takes a filter of test names (* and ?) as its argument, and the
 * helpers of this folder.
 *
 * cmocka leaves a failing test by longjmp: assert only in the test's own thread,
 * and expect no cleanup attribute to run on a failing path.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/lib/scratch.h"
#include "tests/lib/wait.h"

/* main() of a test: TEST_MAIN(cmocka_unit_test(…), …) */
#define TEST_MAIN(...)                                                                             \
	int main(int argc, char **argv)                                                            \
	{                                                                                          \
		const struct CMUnitTest tests[] = {__VA_ARGS__};                                   \
                                                                                                   \
		if (argc > 1)                                                                      \
			cmocka_set_test_filter(argv[1]);                                           \
		return cmocka_run_group_tests(tests, NULL, NULL);                                  \
	}

/* A test that gets a struct scratch as its state, and fails if it leaves a descriptor open. */
#define TEST_IN_SCRATCH(test) cmocka_unit_test_setup_teardown(test, scratch_setup, scratch_teardown)
