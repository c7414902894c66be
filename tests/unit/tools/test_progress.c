/* Bars that fit and say what is so. */

#include "tools/progress.h"

#include "tests/lib/main.h"

#include <string.h>

static void bar(enum transfer_status status, uint64_t offset, uint64_t total, unsigned columns,
		char text[256])
{
	const struct transfer_item item = {.digest = (char *)"sha256:0123456789abcdef",
					   .status = status,
					   .offset = offset,
					   .total = total};

	progress_bar(&item, columns, text, 256);
	assert_true(strlen(text) <= columns);
}

static void test_a_bar_is_as_full_as_the_blob(void **state)
{
	char text[256];

	(void)state;
	bar(TRANSFER_RUNNING, 512, 1024, 100, text);
	assert_non_null(strstr(text, "sha256:0123456789ab  running"));
	assert_non_null(strstr(text, "[===================>"));
	assert_null(strstr(text, "===================="));
	bar(TRANSFER_WAITING, 0, 1024, 100, text);
	assert_non_null(strstr(text, "[>   "));
	bar(TRANSFER_DONE, 0, 1024, 100, text);
	assert_non_null(strstr(text, "======================================]"));
}

static void test_odd_figures_and_narrow_terminals(void **state)
{
	char text[256];

	(void)state;
	bar(TRANSFER_RUNNING, 5, 0, 100, text);
	bar(TRANSFER_RUNNING, UINT64_MAX, 1, 100, text);
	assert_non_null(strstr(text, "=]"));
	bar(TRANSFER_RUNNING, 1, UINT64_MAX, 79, text);
	for (unsigned columns = 1; columns < 256; columns++)
		bar(TRANSFER_RUNNING, 7, 9, columns, text);
}

TEST_MAIN(cmocka_unit_test(test_a_bar_is_as_full_as_the_blob),
	  cmocka_unit_test(test_odd_figures_and_narrow_terminals))
