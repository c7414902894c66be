/* Records of added processes in a real store: which moves there are, and how many are kept. */

#include <string.h>

#include "tests/lib/task_case.h"

static struct task_exec_record record_of(const char *id, enum task_status status, uint64_t time_ns)
{
	return (struct task_exec_record){.task_id = (char *)"t",
					 .namespace = (char *)"default",
					 .container_id = (char *)"web",
					 .exec_id = (char *)id,
					 .created_at_ns = time_ns,
					 .status = status};
}

static int add(struct task_case *f, const char *id, enum task_status status, uint64_t time_ns)
{
	struct task_exec_record record = record_of(id, status, time_ns);

	return added_add(&f->service, &record);
}

static bool is_known(struct task_case *f, const char *id)
{
	_cleanup_(task_exec_record_clear) struct task_exec_record record = {};

	return !added_row(&f->service, "t", id, &record);
}

/* ---- moves --------------------------------------------------------------- */

static void assert_moves(struct task_case *f, enum task_status from, unsigned allowed)
{
	for (enum task_status to = TASK_UNKNOWN; to <= TASK_DELETED; to++) {
		struct task_exec_record record = record_of("e", from, 1);
		int r = added_move(&f->service, &record, to);

		assert_int_equal(r, allowed & 1u << to ? 0 : TASK_E_STATE);
		assert_int_equal(record.status, r ? from : to);
	}
}

static void test_only_moves_of_the_table_are_made(void **state)
{
	const unsigned end = 1u << TASK_STOPPED | 1u << TASK_UNKNOWN;

	assert_moves(*state, TASK_CREATING,
		     end | 1u << TASK_CREATED | 1u << TASK_RUNNING | 1u << TASK_DELETED);
	assert_moves(*state, TASK_CREATED, end | 1u << TASK_RUNNING | 1u << TASK_DELETED);
	assert_moves(*state, TASK_RUNNING, end);
	assert_moves(*state, TASK_STOPPED, 1u << TASK_DELETED);
	assert_moves(*state, TASK_DELETED, 0);
}

static void test_a_start_that_is_heard_of_after_the_end_changes_nothing_but_the_pid(void **state)
{
	_cleanup_(task_exec_record_clear) struct task_exec_record record = {};
	struct exit_record exit = {.exit_status = 3, .source = EXIT_OBSERVED};
	struct task_case *f = *state;

	assert_int_equal(add(f, "e", TASK_CREATING, 1), 0);
	assert_int_equal(added_note(&f->service, "t", "e",
				    &(struct added_report){.status = TASK_STOPPED, .exit = &exit}),
			 0);
	assert_int_equal(added_note(&f->service, "t", "e",
				    &(struct added_report){.status = TASK_RUNNING, .pid = 5}),
			 0);
	assert_int_equal(added_row(&f->service, "t", "e", &record), 0);
	assert_int_equal(record.status, TASK_STOPPED);
	assert_int_equal(record.exit->exit_status, 3);
	assert_int_equal(record.pid, 5);
}

/* ---- bounds -------------------------------------------------------------- */

static void test_an_id_is_free_again_when_its_process_is_deleted(void **state)
{
	struct task_case *f = *state;

	assert_int_equal(add(f, "e", TASK_RUNNING, 1), 0);
	assert_int_equal(add(f, "e", TASK_RUNNING, 2), TASK_E_EXISTS);
	assert_int_equal(added_drop(&f->service, "t", "e"), 0);
	assert_int_equal(add(f, "e", TASK_DELETED, 3), 0);
	assert_int_equal(add(f, "e", TASK_RUNNING, 4), 0);
}

static void test_a_task_has_so_many_added_processes_and_no_more(void **state)
{
	struct task_case *f = *state;
	char id[16];

	for (unsigned i = 0; i < PROCESSES_MAX; i++) {
		snprintf(id, sizeof(id), "e%u", i);
		assert_int_equal(add(f, id, i % 2 ? TASK_STOPPED : TASK_RUNNING, i + 1), 0);
	}
	assert_int_equal(add(f, "more", TASK_CREATING, 999), TASK_E_FULL);
	assert_int_equal(
		added_note(&f->service, "t", "e1", &(struct added_report){.status = TASK_DELETED}),
		0);
	assert_int_equal(add(f, "more", TASK_CREATING, 999), 0);
}

/* Ids in the order opposite to that in which they were added. */
static void test_of_deleted_ones_the_oldest_go(void **state)
{
	struct task_case *f = *state;
	char id[16];

	for (unsigned i = 0; i < PROCESSES_KEPT + 5; i++) {
		snprintf(id, sizeof(id), "e%u", 900 - i);
		assert_int_equal(add(f, id, TASK_DELETED, i + 1), 0);
	}
	assert_int_equal(add(f, "live", TASK_RUNNING, 1), 0);
	assert_false(is_known(f, "e900"));
	assert_true(is_known(f, id));
	assert_true(is_known(f, "live"));
}

/* ---- the end of the task -------------------------------------------------- */

static void test_when_a_task_is_deleted_nobody_waits_for_its_processes_for_ever(void **state)
{
	_cleanup_(task_exec_record_clear) struct task_exec_record record = {}, never = {};
	struct task_case *f = *state;

	assert_int_equal(add(f, "e", TASK_RUNNING, 1), 0);
	assert_int_equal(add(f, "n", TASK_CREATED, 2), 0);
	assert_int_equal(added_end_all(&f->service, "t"), 0);
	assert_int_equal(added_row(&f->service, "t", "e", &record), 0);
	assert_int_equal(record.status, TASK_DELETED);
	assert_int_equal(record.exit->source, EXIT_UNKNOWN);
	assert_int_equal(added_row(&f->service, "t", "n", &never), 0);
	assert_null(never.exit);
	assert_int_equal(added_drop_all(&f->service, "t"), 0);
	assert_false(is_known(f, "e"));
}

static void test_the_processes_of_one_task_are_none_of_another_s(void **state)
{
	struct task_case *f = *state;
	struct task_exec_record other = record_of("e", TASK_RUNNING, 1);

	other.task_id = (char *)"t2";
	assert_int_equal(added_add(&f->service, &other), 0);
	assert_int_equal(add(f, "e", TASK_RUNNING, 1), 0);
	assert_int_equal(added_drop_all(&f->service, "t2"), 0);
	assert_true(is_known(f, "e"));
}

#define IN_STORE(test) cmocka_unit_test_setup_teardown(test, task_case_setup, task_case_teardown)

TEST_MAIN(IN_STORE(test_only_moves_of_the_table_are_made),
	  IN_STORE(test_a_start_that_is_heard_of_after_the_end_changes_nothing_but_the_pid),
	  IN_STORE(test_an_id_is_free_again_when_its_process_is_deleted),
	  IN_STORE(test_a_task_has_so_many_added_processes_and_no_more),
	  IN_STORE(test_of_deleted_ones_the_oldest_go),
	  IN_STORE(test_when_a_task_is_deleted_nobody_waits_for_its_processes_for_ever),
	  IN_STORE(test_the_processes_of_one_task_are_none_of_another_s))
