#pragma once
/*
 * What the test programs of a shim have in common: one shim_case for the test that
 * runs, the requests that nearly every test sends, and short ways to say what must
 * come of them. Included by one .c file of each program.
 */

#include <string.h>

#include "broker/lib/loop.h"
#include "tests/lib/main.h"
#include "tests/lib/shim_case.h"

#define SHIM_TEST_UNUSED __attribute__((unused))

static struct shim_case test;

static const struct shim_create_request create_only SHIM_TEST_UNUSED;
static const struct shim_create_request create_and_start SHIM_TEST_UNUSED = {.start = true};
static const struct shim_delete_request delete_gently SHIM_TEST_UNUSED;
static const struct shim_delete_request delete_by_force SHIM_TEST_UNUSED = {.force = true};

static inline int shim_test_teardown(void **state)
{
	(void)state;
	return shim_case_deinit(&test);
}

#define SHIM_TEST(name) cmocka_unit_test_teardown(name, shim_test_teardown)

/* The answer to @method has the status; test.text is its text. */
#define assert_call(status, method, ...)                                                           \
	do {                                                                                       \
		enum bus_status got_ = shim_case_call(&test, method, NULL, 0, __VA_ARGS__, NULL);  \
		if (got_ != (status))                                                              \
			fail_msg("%s: status %d, not %d: %s", method, got_, status, test.text);    \
	} while (0)

#define assert_text(part)                                                                          \
	do {                                                                                       \
		if (!strstr(test.text, part))                                                      \
			fail_msg("'%s' does not say '%s'", test.text, part);                       \
	} while (0)

static inline enum task_status shim_test_status(void)
{
	struct shim_state_reply reply = {};
	enum task_status status;

	assert_int_equal(shim_case_call(&test, "shim.state", NULL, 0, NULL, &reply), BUS_OK);
	status = reply.status;
	shim_state_reply_clear(&reply);
	return status;
}

/* The exit may be known before anybody watches. */
static inline void shim_test_wait_stopped(void)
{
	uint64_t limit_ms = time_boot_ms() + WAIT_MS;

	while (shim_test_status() != TASK_STOPPED)
		assert_true(time_boot_ms() < limit_ms);
}

/* The shim has ended, and nothing of its container is left. */
static inline void shim_test_assert_gone(void)
{
	assert_int_equal(shim_case_wait_end(&test), 0);
	assert_false(shim_case_has(&test, "bundle"));
	assert_false(shim_case_has(&test, "control"));
	assert_false(shim_case_has(&test, "oci/" SHIM_CASE_TASK));
}
