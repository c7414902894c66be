/* What a check makes of the facts of all services. */

#include "tools/findings.h"

#include <stdlib.h>
#include <string.h>

#include "tests/lib/main.h"

#define SECOND UINT64_C(1000000000)

struct check {
	struct facts facts;
	struct findings findings;
};

static void say_since(struct check *check, enum fact_role role, const char *kind, const char *id,
		      const char *object, uint64_t since_ns)
{
	struct fsck_fact fact = {.role = role, .since_ns = since_ns};

	assert_int_equal(schema_set(&fact.kind, kind), 0);
	assert_int_equal(schema_set(&fact.id, id), 0);
	assert_int_equal(schema_set(&fact.object, object), 0);
	assert_int_equal(facts_add(&check->facts, "task", &fact), 0);
	assert_null(fact.kind);
}

static void say(struct check *check, enum fact_role role, const char *kind, const char *id)
{
	say_since(check, role, kind, id, NULL, 1);
}

static void find(struct check *check)
{
	assert_int_equal(findings_find(&check->facts, &check->findings), 0);
}

static void clear(struct check *check)
{
	findings_clear(&check->findings);
	facts_clear(&check->facts);
	*check = (struct check){};
}

static void assert_finding(const struct check *check, size_t i, enum finding_problem problem,
			   const char *kind, const char *id)
{
	assert_true(i < check->findings.count);
	assert_string_equal(finding_problem_text(check->findings.items[i].problem),
			    finding_problem_text(problem));
	assert_string_equal(check->findings.items[i].said->fact.kind, kind);
	assert_string_equal(check->findings.items[i].said->fact.id, id);
}

static void test_nothing_is_clean(void **state)
{
	struct check check = {};

	(void)state;
	find(&check);
	assert_int_equal(check.findings.count, 0);
	clear(&check);
}

static void test_what_is_seen_and_owned_is_clean(void **state)
{
	struct check check = {};

	(void)state;
	say(&check, FACT_SEEN, "bundle", "a");
	say(&check, FACT_MUST, "bundle", "a");
	say(&check, FACT_OWNS, "oci", "a");
	say(&check, FACT_OWNS, "fifo", "a");
	say(&check, FACT_SEEN, "fifo", "a");
	say(&check, FACT_OWNS, "container", "default/a");
	say(&check, FACT_NEEDS, "container", "default/a");
	find(&check);
	assert_int_equal(check.findings.count, 0);
	clear(&check);
}

static void test_each_problem_has_its_name(void **state)
{
	struct check check = {};

	(void)state;
	say(&check, FACT_SEEN, "bundle", "nobody's");
	say(&check, FACT_MUST, "cgroup", "gone");
	say(&check, FACT_NEEDS, "snapshot", "never there");
	say(&check, FACT_FAULT, "task", "wrong");
	find(&check);
	assert_int_equal(check.findings.count, 4);
	assert_finding(&check, 0, FINDING_ORPHAN, "bundle", "nobody's");
	assert_finding(&check, 1, FINDING_MISSING, "cgroup", "gone");
	assert_finding(&check, 2, FINDING_DANGLING, "snapshot", "never there");
	assert_finding(&check, 3, FINDING_FAULT, "task", "wrong");
	clear(&check);
}

/* The same id of another kind is another thing. */
static void test_kinds_are_told_apart(void **state)
{
	struct check check = {};

	(void)state;
	say(&check, FACT_SEEN, "bundle", "a");
	say(&check, FACT_OWNS, "oci", "a");
	find(&check);
	assert_int_equal(check.findings.count, 1);
	assert_finding(&check, 0, FINDING_ORPHAN, "bundle", "a");
	clear(&check);
}

/* A cgroup is seen once in each hierarchy. */
static void test_what_is_seen_often_is_found_once(void **state)
{
	struct check check = {};

	(void)state;
	for (int i = 0; i < 10; i++)
		say(&check, FACT_SEEN, "cgroup", "/davit-0/default/a");
	find(&check);
	assert_int_equal(check.findings.count, 1);
	clear(&check);
}

/* A snapshot may be missing in itself and needed by others: both are said. */
static void test_a_fault_does_not_hide_another_problem(void **state)
{
	struct check check = {};

	(void)state;
	say(&check, FACT_FAULT, "blob", "x");
	say(&check, FACT_NEEDS, "blob", "x");
	find(&check);
	assert_int_equal(check.findings.count, 2);
	clear(&check);
}

static void test_only_what_two_looks_have_stands(void **state)
{
	struct check first = {}, second = {};

	(void)state;
	say(&first, FACT_SEEN, "bundle", "being made");
	say(&first, FACT_SEEN, "bundle", "left");
	say(&first, FACT_MUST, "live", "lazy");
	say(&second, FACT_SEEN, "bundle", "left");
	say(&second, FACT_SEEN, "bundle", "new");
	say(&second, FACT_SEEN, "live", "lazy");
	find(&first);
	find(&second);
	findings_keep_standing(&second.findings, &first.findings);
	assert_int_equal(second.findings.count, 1);
	assert_finding(&second, 0, FINDING_ORPHAN, "bundle", "left");
	clear(&first);
	clear(&second);
}

static void excuse(struct check *check, const char *object, uint64_t started_at_ns)
{
	struct operation_record operation = {.object = (char *)object,
					     .started_at_ns = started_at_ns};

	findings_excuse(&check->findings, &operation, 1, 1000 * SECOND);
}

static void test_what_appeared_before_any_operation_is_not_excused(void **state)
{
	struct check check = {};

	(void)state;
	say_since(&check, FACT_SEEN, "bundle", "old", NULL, 10 * SECOND);
	say_since(&check, FACT_SEEN, "bundle", "young", NULL, 30 * SECOND);
	say_since(&check, FACT_SEEN, "shim", "of unknown age", NULL, 0);
	find(&check);
	excuse(&check, "other", 20 * SECOND);
	assert_int_equal(check.findings.count, 3);
	assert_false(check.findings.items[0].is_undecided);
	assert_true(check.findings.items[1].is_undecided);
	assert_true(check.findings.items[2].is_undecided);
	clear(&check);
}

static void test_what_an_operation_names_is_undecided(void **state)
{
	struct check check = {};

	(void)state;
	say_since(&check, FACT_MUST, "bundle", "a", "web", 10 * SECOND);
	say_since(&check, FACT_MUST, "bundle", "b", "other", 10 * SECOND);
	find(&check);
	check.facts.items[1].fact.uid = strdup("uid of it");
	excuse(&check, "web", 20 * SECOND);
	assert_true(check.findings.items[0].is_undecided);
	assert_false(check.findings.items[1].is_undecided);
	excuse(&check, "uid of it", 20 * SECOND);
	assert_true(check.findings.items[1].is_undecided);
	clear(&check);
}

static void test_faults_are_never_excused(void **state)
{
	struct check check = {};

	(void)state;
	say_since(&check, FACT_FAULT, "blob", "a", "web", 30 * SECOND);
	find(&check);
	excuse(&check, "web", 20 * SECOND);
	assert_false(check.findings.items[0].is_undecided);
	clear(&check);
}

/* A client makes them before it asks for anything. */
static void test_fifos_are_left_a_minute(void **state)
{
	struct check check = {};

	(void)state;
	say_since(&check, FACT_SEEN, "fifo", "a", NULL, 939 * SECOND);
	say_since(&check, FACT_SEEN, "fifo", "b", NULL, 941 * SECOND);
	find(&check);
	findings_excuse(&check.findings, NULL, 0, 1000 * SECOND);
	assert_false(check.findings.items[0].is_undecided);
	assert_true(check.findings.items[1].is_undecided);
	clear(&check);
}

static void test_damaged_records_are_noticed(void **state)
{
	struct check check = {};

	(void)state;
	say(&check, FACT_FAULT, "blob", "a");
	find(&check);
	assert_false(findings_have_damage(&check.findings));
	clear(&check);
	say(&check, FACT_FAULT, "record", "/r/image blobs/x");
	find(&check);
	assert_true(findings_have_damage(&check.findings));
	clear(&check);
}

TEST_MAIN(cmocka_unit_test(test_nothing_is_clean),
	  cmocka_unit_test(test_what_is_seen_and_owned_is_clean),
	  cmocka_unit_test(test_each_problem_has_its_name),
	  cmocka_unit_test(test_kinds_are_told_apart),
	  cmocka_unit_test(test_what_is_seen_often_is_found_once),
	  cmocka_unit_test(test_a_fault_does_not_hide_another_problem),
	  cmocka_unit_test(test_only_what_two_looks_have_stands),
	  cmocka_unit_test(test_what_appeared_before_any_operation_is_not_excused),
	  cmocka_unit_test(test_what_an_operation_names_is_undecided),
	  cmocka_unit_test(test_faults_are_never_excused),
	  cmocka_unit_test(test_fifos_are_left_a_minute),
	  cmocka_unit_test(test_damaged_records_are_noticed))
