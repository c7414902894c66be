/* Task records in a real store: which moves there are, and what is kept of a task that ended. */

#include <string.h>

#include "tests/lib/task_case.h"

static struct task_record record_of(const char *task_id, const char *id, enum task_status status)
{
	return (struct task_record){.task_id = (char *)task_id,
				    .namespace = (char *)"default",
				    .container_id = (char *)id,
				    .status = status};
}

/* ---- moves ---- */

static void assert_moves(struct task_case *f, enum task_status from, unsigned allowed)
{
	for (enum task_status to = TASK_UNKNOWN; to <= TASK_DELETED; to++) {
		struct task_record record = record_of("t", "c", from);
		int r = task_move(&f->service, &record, to);

		assert_int_equal(r, allowed & 1u << to ? 0 : TASK_E_STATE);
		assert_int_equal(record.status, r ? from : to);
	}
}

static void test_a_move_that_is_not_in_the_table_is_refused_and_changes_nothing(void **state)
{
	const unsigned dead = 1u << TASK_UNKNOWN;

	assert_moves(*state, TASK_CREATING,
		     1u << TASK_CREATED | 1u << TASK_RUNNING | 1u << TASK_STOPPED |
			     1u << TASK_DELETED | dead);
	assert_moves(*state, TASK_CREATED,
		     1u << TASK_RUNNING | 1u << TASK_STOPPED | 1u << TASK_DELETED | dead);
	assert_moves(*state, TASK_RUNNING,
		     1u << TASK_PAUSING | 1u << TASK_PAUSED | 1u << TASK_STOPPED | dead);
	assert_moves(*state, TASK_STOPPED, 1u << TASK_DELETED);
	assert_moves(*state, TASK_DELETED, 0);
}

static void test_a_stopped_task_never_runs_again(void **state)
{
	struct task_case *f = *state;
	struct task_record record = record_of("t", "c", TASK_STOPPED);

	assert_int_equal(task_move(&f->service, &record, TASK_RUNNING), TASK_E_STATE);
	assert_int_equal(task_move(&f->service, &record, TASK_UNKNOWN), TASK_E_STATE);
}

static void test_a_record_is_found_by_name_and_by_task_id(void **state)
{
	_cleanup_(task_record_clear) struct task_record by_name = {}, by_id = {}, none = {};
	struct task_case *f = *state;
	struct task_record record = record_of("t1", "web", TASK_CREATED);

	assert_int_equal(task_put(&f->service, &record), 0);
	assert_int_equal(task_row(&f->service, "default", "web", &by_name), 0);
	assert_string_equal(by_name.task_id, "t1");
	assert_int_equal(task_shim_row(&f->service, "t1", &by_id), 0);
	assert_string_equal(by_id.container_id, "web");
	assert_int_equal(task_row(&f->service, "other", "web", &none), TASK_E_NOT_FOUND);
	assert_int_equal(task_row(&f->service, "default", "we", &none), TASK_E_NOT_FOUND);
}

static void test_why_a_task_was_unknown_is_forgotten_when_it_is_known_again(void **state)
{
	_cleanup_(task_record_clear) struct task_record stored = {};
	struct task_case *f = *state;
	struct task_record record = record_of("t", "c", TASK_UNKNOWN);

	record.reason = strdup("its shim died");
	assert_int_equal(task_move(&f->service, &record, TASK_STOPPED), 0);
	assert_null(record.reason);
	assert_int_equal(task_row(&f->service, "default", "c", &stored), 0);
	assert_null(stored.reason);
}

/* ---- tasks that ended ---- */

static bool has_ended(struct task_case *f, const char *id)
{
	struct store_key key;

	assert_int_equal(store_key(&key, "default", id, NULL), 0);
	return store_has(f->service.store, ENDED_TABLE, &key);
}

static void test_a_deleted_task_leaves_its_name_free_and_its_exit_known(void **state)
{
	_cleanup_(task_record_clear) struct task_record none = {}, kept = {};
	struct task_case *f = *state;
	struct exit_record exit = {.exit_status = 7, .source = EXIT_OBSERVED, .exited_at_ns = 1};
	struct task_record record = record_of("t", "c", TASK_STOPPED);
	struct store_key key;

	record.exit = &exit;
	assert_int_equal(task_put(&f->service, &record), 0);
	assert_int_equal(task_move(&f->service, &record, TASK_DELETED), 0);
	assert_int_equal(task_row(&f->service, "default", "c", &none), TASK_E_NOT_FOUND);
	assert_int_equal(store_key(&key, "default", "c", NULL), 0);
	assert_int_equal(
		store_get(f->service.store, ENDED_TABLE, &key, schema_task_record(), &kept), 0);
	assert_int_equal(kept.exit->exit_status, 7);
	assert_int_equal(kept.status, TASK_DELETED);
}

static void test_the_first_exit_that_is_known_stays(void **state)
{
	struct exit_record first = {.exit_status = 7}, second = {.exit_status = 255};
	_cleanup_(task_record_clear) struct task_record record = {};

	(void)state;
	assert_int_equal(task_set_exit(&record, NULL), 0);
	assert_null(record.exit);
	assert_int_equal(task_set_exit(&record, &first), 0);
	assert_int_equal(task_set_exit(&record, &second), 0);
	assert_int_equal(record.exit->exit_status, 7);
}

/* Names in the order opposite to that in which they end: the table's order must not decide who goes. */
static void test_of_many_ended_tasks_the_oldest_go(void **state)
{
	struct task_case *f = *state;
	char id[16];

	for (unsigned i = 0; i < ENDED_MAX + 1; i++) {
		struct task_record record;

		snprintf(id, sizeof(id), "c%05u", 99999 - i);
		record = record_of(id, id, TASK_STOPPED);
		assert_int_equal(task_end(&f->service, &record), 0);
	}
	assert_true(store_count(f->service.store, ENDED_TABLE) <= ENDED_MAX);
	assert_true(store_count(f->service.store, ENDED_TABLE) >= ENDED_MAX - ENDED_TRIM);
	assert_true(has_ended(f, id));
	assert_true(has_ended(f, "c99500"));
	assert_false(has_ended(f, "c99999"));
}

/* ---- what callers see ---- */

static void test_what_callers_see_is_a_copy_with_the_exit_status(void **state)
{
	_cleanup_(task_process_clear) struct task_process process = {};
	struct exit_record exit = {.exit_status = 137, .signal = 9, .source = EXIT_OBSERVED};
	struct task_record record = record_of("t", "c", TASK_STOPPED);

	(void)state;
	record.exit = &exit;
	record.pid = 42;
	assert_int_equal(task_describe(&record, &process), 0);
	assert_string_equal(process.id, "c");
	assert_string_equal(process.container_id, "c");
	assert_int_equal(process.exit_status, 137);
	assert_int_equal(process.pid, 42);
	assert_ptr_not_equal(process.exit, &exit);
}

#define IN_STORE(test) cmocka_unit_test_setup_teardown(test, task_case_setup, task_case_teardown)

TEST_MAIN(IN_STORE(test_a_move_that_is_not_in_the_table_is_refused_and_changes_nothing),
	  IN_STORE(test_a_stopped_task_never_runs_again),
	  IN_STORE(test_a_record_is_found_by_name_and_by_task_id),
	  IN_STORE(test_why_a_task_was_unknown_is_forgotten_when_it_is_known_again),
	  IN_STORE(test_a_deleted_task_leaves_its_name_free_and_its_exit_known),
	  IN_STORE(test_of_many_ended_tasks_the_oldest_go),
	  cmocka_unit_test(test_the_first_exit_that_is_known_stays),
	  cmocka_unit_test(test_what_callers_see_is_a_copy_with_the_exit_status))
