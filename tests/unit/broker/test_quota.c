#include "tests/lib/main.h"

#include "broker/quota.h"

static struct quota *make(void)
{
	static const struct quota_limits limits = {
		.caller = {.requests = 4, .bytes = 1000},
		.service = {.requests = 6, .bytes = 1000},
		.callers = {.requests = 8, .bytes = 2000},
		.all = {.requests = 12, .bytes = 3000},
	};
	struct quota *quota = NULL;

	assert_int_equal(quota_new(&limits, &quota), 0);
	return quota;
}

static void test_a_caller_may_have_so_many_requests_and_no_more(void **state)
{
	struct quota *quota = make();

	(void)state;
	for (int i = 0; i < 4; i++)
		assert_int_equal(quota_take(quota, 1, false, 10), 0);
	assert_int_equal(quota_take(quota, 1, false, 10), QUOTA_E_CALLER);
	assert_int_equal(quota_take(quota, 2, false, 10), 0);
	quota_give(quota, 1, false, 10);
	quota_give(quota, 1, false, 10);
	assert_int_equal(quota_take(quota, 1, false, 10), 0);
	quota_free(quota);
}

static void test_a_caller_may_have_so_many_bytes_and_no_more(void **state)
{
	struct quota *quota = make();

	(void)state;
	assert_int_equal(quota_take(quota, 1, false, 1000), 0);
	assert_int_equal(quota_take(quota, 1, false, 1), QUOTA_E_CALLER);
	quota_give(quota, 1, false, 1);
	quota_give(quota, 1, false, 1000);
	assert_int_equal(quota_take(quota, 1, false, 1000), 0);
	quota_free(quota);
}

static void test_callers_together_leave_a_reserve_for_services(void **state)
{
	struct quota *quota = make();

	(void)state;
	for (uint64_t i = 0; i < 8; i++)
		assert_int_equal(quota_take(quota, i / 4, false, 10), 0);
	assert_int_equal(quota_take(quota, 7, false, 10), QUOTA_E_TOTAL);
	for (int i = 0; i < 3; i++)
		assert_int_equal(quota_take(quota, 100, true, 10), 0);
	assert_int_equal(quota_take(quota, 100, true, 10), QUOTA_E_TOTAL);
	quota_free(quota);
}

static void test_who_takes_no_answers_is_cut_off_at_twice_the_bound(void **state)
{
	struct quota *quota = make();

	(void)state;
	for (int i = 0; i < 8; i++)
		quota_take(quota, 1, false, 1);
	assert_int_equal(quota_take(quota, 1, false, 1), QUOTA_E_DEAF);
	quota_free(quota);
}

static void test_all_is_given_back(void **state)
{
	struct quota *quota = make();

	(void)state;
	/* So many callers that each chain holds some. */
	for (uint64_t i = 0; i < 5000; i++)
		quota_take(quota, i << 32 | i, i % 3 == 0, i % 7);
	assert_int_equal(quota_used(quota).requests, 5000);
	for (uint64_t i = 0; i < 5000; i++)
		quota_give(quota, i << 32 | i, i % 3 == 0, i % 7);
	assert_int_equal(quota_used(quota).requests, 0);
	assert_int_equal(quota_used(quota).bytes, 0);
	assert_int_equal(quota_take(quota, 1, false, 1), 0);
	quota_free(quota);
}

TEST_MAIN(cmocka_unit_test(test_a_caller_may_have_so_many_requests_and_no_more),
	  cmocka_unit_test(test_a_caller_may_have_so_many_bytes_and_no_more),
	  cmocka_unit_test(test_callers_together_leave_a_reserve_for_services),
	  cmocka_unit_test(test_who_takes_no_answers_is_cut_off_at_twice_the_bound),
	  cmocka_unit_test(test_all_is_given_back))
