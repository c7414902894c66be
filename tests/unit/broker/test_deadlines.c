#include "tests/lib/main.h"

#include "broker/deadlines.h"

#define N 500

static uint32_t next_random(uint32_t *seed)
{
	*seed = *seed * 1664525 + 1013904223;
	return *seed >> 8;
}

static void test_they_come_out_in_order_whatever_is_removed_between(void **state)
{
	struct deadline entries[N] = {};
	struct deadlines deadlines = {};
	uint32_t seed = 7;
	uint64_t last = 0;
	size_t n = N;

	(void)state;
	assert_int_equal(deadlines_reserve(&deadlines, N), 0);
	for (size_t i = 0; i < N; i++)
		deadlines_add(&deadlines, &entries[i], next_random(&seed) % 1000);
	for (size_t i = 0; i < N; i += 3, n--)
		deadlines_remove(&deadlines, &entries[i]);
	deadlines_remove(&deadlines, &entries[0]);
	for (; n > 0; n--) {
		struct deadline *first = deadlines_first(&deadlines);

		assert_true(first->at_ms >= last);
		last = first->at_ms;
		deadlines_remove(&deadlines, first);
		assert_int_equal(first->position, 0);
	}
	assert_null(deadlines_first(&deadlines));
	deadlines_deinit(&deadlines);
}

static void test_room_is_kept_when_less_is_asked_for(void **state)
{
	struct deadlines deadlines = {};
	struct deadline one = {};

	(void)state;
	assert_int_equal(deadlines_reserve(&deadlines, 10), 0);
	deadlines_add(&deadlines, &one, 5);
	assert_int_equal(deadlines_reserve(&deadlines, 1), 0);
	assert_int_equal(deadlines.size, 10);
	assert_ptr_equal(deadlines_first(&deadlines), &one);
	deadlines_deinit(&deadlines);
}

TEST_MAIN(cmocka_unit_test(test_they_come_out_in_order_whatever_is_removed_between),
	  cmocka_unit_test(test_room_is_kept_when_less_is_asked_for))
