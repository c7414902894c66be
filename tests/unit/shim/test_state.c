#include "shim/state.h"
#include "tests/lib/main.h"

static void life_goes_in_one_direction(void **state)
{
	static const enum state life[] = {STATE_NEW,      STATE_CREATING, STATE_CREATED,
					  STATE_STARTING, STATE_RUNNING,  STATE_STOPPED,
					  STATE_DELETING, STATE_DELETED};

	(void)state;
	for (size_t i = 0; i + 1 < sizeof(life) / sizeof(life[0]); i++)
		assert_true(state_may_move(life[i], life[i + 1]));
	for (int next = 0; next < STATE_COUNT; next++)
		assert_false(state_may_move(STATE_DELETED, (enum state)next));
}

/* What can be reached from @from without passing @without. */
static unsigned reach(enum state from, int without)
{
	unsigned reached = 1u << from, before;

	do {
		before = reached;
		for (int a = 0; a < STATE_COUNT; a++)
			for (int b = 0; b < STATE_COUNT; b++)
				if (reached & 1u << a && a != without &&
				    state_may_move((enum state)a, (enum state)b))
					reached |= 1u << b;
	} while (reached != before);
	return reached;
}

static void nothing_runs_after_it_has_stopped(void **state)
{
	unsigned later = reach(STATE_STOPPED, -1);

	(void)state;
	assert_false(later & (1u << STATE_RUNNING | 1u << STATE_CREATED | 1u << STATE_STARTING |
			      1u << STATE_LOST));
}

static void what_was_created_is_deleted_only_after_its_exit(void **state)
{
	(void)state;
	assert_true(reach(STATE_CREATED, -1) & 1u << STATE_DELETED);
	assert_false(reach(STATE_CREATED, STATE_STOPPED) & 1u << STATE_DELETED);
	assert_false(reach(STATE_LOST, STATE_STOPPED) & 1u << STATE_DELETED);
}

static void what_failed_is_never_created(void **state)
{
	(void)state;
	assert_int_equal(reach(STATE_FAILED, -1), 1u << STATE_FAILED | 1u << STATE_DELETED);
}

static void every_state_has_a_name_and_a_status(void **state)
{
	(void)state;
	for (int i = 0; i < STATE_COUNT; i++)
		assert_non_null(state_name((enum state)i));
	assert_int_equal(state_status(STATE_LOST), TASK_UNKNOWN);
	assert_int_equal(state_status(STATE_RUNNING), TASK_RUNNING);
	assert_int_equal(state_status(STATE_DELETING), TASK_STOPPED);
}

TEST_MAIN(cmocka_unit_test(life_goes_in_one_direction),
	  cmocka_unit_test(nothing_runs_after_it_has_stopped),
	  cmocka_unit_test(what_was_created_is_deleted_only_after_its_exit),
	  cmocka_unit_test(what_failed_is_never_created),
	  cmocka_unit_test(every_state_has_a_name_and_a_status))
