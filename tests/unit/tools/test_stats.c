/* Figures over a time. */

#include "tools/stats.h"

#include "tests/lib/main.h"

static struct task_metrics at(uint64_t seconds, uint64_t cpu_ns)
{
	return (struct task_metrics){.container_id = (char *)"c",
				     .time_ns = seconds * 1000000000,
				     .cpu_usage_ns = cpu_ns,
				     .memory_usage = 3000,
				     .memory_working_set = 1000,
				     .pids_current = 4};
}

static void test_cpu_time_is_over_the_time_between(void **state)
{
	struct task_metrics before = at(10, 1000000000), now = at(12, 4000000000);

	(void)state;
	assert_int_equal((int)(stats_compute(&before, &now, 1).cpu_percent + 0.5), 150);
	/* Nothing is known, or the container was started anew. */
	assert_int_equal((int)stats_compute(NULL, &now, 1).cpu_percent, 0);
	assert_int_equal((int)stats_compute(&now, &before, 1).cpu_percent, 0);
}

static void test_memory_is_of_its_limit_or_of_the_host(void **state)
{
	struct task_metrics now = at(1, 0);
	struct stats_row row = stats_compute(NULL, &now, 4000);

	(void)state;
	assert_int_equal(row.memory_usage, 1000);
	assert_int_equal(row.memory_limit, 4000);
	assert_int_equal((int)row.memory_percent, 25);
	now.memory_limit = 2000;
	assert_int_equal((int)stats_compute(NULL, &now, 4000).memory_percent, 50);
	now.memory_working_set = 0;
	assert_int_equal(stats_compute(NULL, &now, 4000).memory_usage, 3000);
}

static void test_devices_are_added_up(void **state)
{
	struct task_metrics_io io[] = {{.read_bytes = 1, .write_bytes = 10},
				       {.read_bytes = 2, .write_bytes = 20}};
	struct task_metrics now = at(1, 0);
	struct stats_row row;

	(void)state;
	now.io.items = io;
	now.io.count = 2;
	row = stats_compute(NULL, &now, 1);
	assert_int_equal(row.read_bytes, 3);
	assert_int_equal(row.write_bytes, 30);
	assert_int_equal(row.pids, 4);
}

TEST_MAIN(cmocka_unit_test(test_cpu_time_is_over_the_time_between),
	  cmocka_unit_test(test_memory_is_of_its_limit_or_of_the_host),
	  cmocka_unit_test(test_devices_are_added_up))
