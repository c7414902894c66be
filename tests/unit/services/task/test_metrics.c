/* Figures and processes of a cgroup, from what kernels say with v1 and with v2. */

#include "services/task/metrics.h"

#include <errno.h>
#include <string.h>

#include "broker/lib/cleanup.h"
#include "broker/lib/file.h"
#include "tests/lib/main.h"

/* ---- text ---------------------------------------------------------------- */

static void test_a_value_is_that_of_the_whole_key(void **state)
{
	static const char text[] = "user_usec 5\nusage_usec 12\nusage 7\n";

	(void)state;
	assert_int_equal(metrics_value(text, "usage"), 7);
	assert_int_equal(metrics_value(text, "usage_usec"), 12);
	assert_int_equal(metrics_value(text, "usec"), 0);
	assert_int_equal(metrics_value(NULL, "usage"), 0);
}

static void test_no_limit_is_0_however_it_is_said(void **state)
{
	(void)state;
	assert_int_equal(metrics_limit("max\n"), 0);
	assert_int_equal(metrics_limit("9223372036854771712\n"), 0);
	assert_int_equal(metrics_limit("67108864\n"), 67108864);
	assert_int_equal(metrics_limit(NULL), 0);
	assert_int_equal(metrics_limit(""), 0);
}

static void test_lines_that_are_none_are_passed_over(void **state)
{
	_cleanup_(task_metrics_clear) struct task_metrics metrics = {};

	(void)state;
	assert_int_equal(metrics_add_stat(&metrics.memory_stat, "\n\ncache 1\n 2\nrss"), 0);
	assert_int_equal(metrics.memory_stat.count, 1);
	assert_int_equal(metrics_add_io(&metrics, "x\n8:\n8 rbytes=1\n:0 rbytes=1\n8:0"), 0);
	assert_int_equal(metrics_add_blkio(&metrics, "Total 5\n8:0 Sync 1\n", NULL), 0);
	assert_int_equal(metrics.io.count, 0);
}

static void test_a_hostile_stat_is_cut(void **state)
{
	_cleanup_(task_metrics_clear) struct task_metrics metrics = {};
	char text[8192] = "";

	(void)state;
	for (unsigned i = 0; i < 2 * METRICS_STAT_MAX; i++)
		snprintf(text + strlen(text), 16, "k%u 1\n", i);
	assert_int_equal(metrics_add_stat(&metrics.memory_stat, text), 0);
	assert_int_equal(metrics.memory_stat.count, METRICS_STAT_MAX);
}

/* ---- files --------------------------------------------------------------- */

static void put(const struct scratch *scratch, const char *name, const char *text)
{
	_cleanup_(cleanup_free) char *path = scratch_path(scratch, name);
	_cleanup_(cleanup_free) char *directory = strdup(path);

	*strrchr(directory, '/') = '\0';
	assert_int_equal(file_make_dir(directory, 0700, NULL), 0);
	assert_int_equal(file_write(path, text, strlen(text), 0600, false, NULL), 0);
}

static void make_v1(const struct scratch *scratch)
{
	put(scratch, "memory/d/web/memory.usage_in_bytes", "1000000\n");
	put(scratch, "memory/d/web/memory.max_usage_in_bytes", "2000000\n");
	put(scratch, "memory/d/web/memory.limit_in_bytes", "67108864\n");
	put(scratch, "memory/d/web/memory.memsw.limit_in_bytes", "134217728\n");
	put(scratch, "memory/d/web/memory.failcnt", "3\n");
	put(scratch, "memory/d/web/memory.stat",
	    "cache 600000\nrss 400000\nswap 4096\ntotal_inactive_file 300000\ntotal_swap 8192\n");
	put(scratch, "memory/d/web/memory.oom_control",
	    "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n");
	put(scratch, "cpuacct/d/web/cpuacct.usage", "123456789\n");
	put(scratch, "cpuacct/d/web/cpuacct.usage_user", "100000000\n");
	put(scratch, "cpuacct/d/web/cpuacct.stat", "user 10\nsystem 2\n");
	put(scratch, "cpu/d/web/cpu.stat", "nr_periods 10\nnr_throttled 4\nthrottled_time 77\n");
	put(scratch, "pids/d/web/pids.current", "5\n");
	put(scratch, "pids/d/web/pids.max", "max\n");
	put(scratch, "blkio/d/web/blkio.throttle.io_service_bytes_recursive",
	    "8:0 Read 4096\n8:0 Write 8192\n8:0 Sync 1\n8:0 Total 12288\n254:16 Read 1\nTotal 12289\n");
	put(scratch, "blkio/d/web/blkio.throttle.io_serviced_recursive",
	    "8:0 Read 1\n8:0 Write 2\n8:0 Total 3\nTotal 3\n");
}

static void make_v2(const struct scratch *scratch)
{
	put(scratch, "cgroup.controllers", "cpu io memory pids\n");
	put(scratch, "d/web/memory.current", "1000000\n");
	put(scratch, "d/web/memory.peak", "2000000\n");
	put(scratch, "d/web/memory.max", "max\n");
	put(scratch, "d/web/memory.swap.current", "8192\n");
	put(scratch, "d/web/memory.swap.max", "134217728\n");
	put(scratch, "d/web/memory.stat", "anon 400000\nfile 600000\ninactive_file 300000\n");
	put(scratch, "d/web/memory.events",
	    "low 0\nhigh 0\nmax 3\noom 2\noom_kill 2\noom_group_kill 0\n");
	put(scratch, "d/web/cpu.stat",
	    "usage_usec 123456\nuser_usec 100000\nsystem_usec 23456\nnr_periods 10\nnr_throttled 4\n"
	    "throttled_usec 77\n");
	put(scratch, "d/web/pids.current", "5\n");
	put(scratch, "d/web/pids.max", "32\n");
	put(scratch, "d/web/io.stat",
	    "8:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n254:16 rbytes=1\n");
}

static void read_of(const struct scratch *scratch, bool brief, struct task_metrics *metrics)
{
	_cleanup_(cgroup_deinit) struct cgroup cgroup = {};

	assert_int_equal(cgroup_init(&cgroup, scratch->dir, "/d/web", 0), 0);
	assert_int_equal(metrics_read(&cgroup, brief, metrics), 0);
}

static void assert_common(const struct task_metrics *metrics)
{
	assert_int_equal(metrics->memory_usage, 1000000);
	assert_int_equal(metrics->memory_working_set, 700000);
	assert_int_equal(metrics->memory_max_usage, 2000000);
	assert_int_equal(metrics->memory_swap, 8192);
	assert_int_equal(metrics->memory_swap_limit, 134217728);
	assert_int_equal(metrics->memory_failcnt, 3);
	assert_int_equal(metrics->memory_oom_kills, 2);
	assert_int_equal(metrics->cpu_user_ns, 100000000);
	assert_int_equal(metrics->cpu_periods, 10);
	assert_int_equal(metrics->cpu_throttled_periods, 4);
	assert_int_equal(metrics->pids_current, 5);
	assert_int_equal(metrics->io.count, 2);
	assert_int_equal(metrics->io.items[0].major, 8);
	assert_int_equal(metrics->io.items[0].read_bytes, 4096);
	assert_int_equal(metrics->io.items[0].write_bytes, 8192);
	assert_int_equal(metrics->io.items[0].read_ops, 1);
	assert_int_equal(metrics->io.items[0].write_ops, 2);
	assert_int_equal(metrics->io.items[1].minor, 16);
}

static void test_figures_of_v1(void **state)
{
	_cleanup_(task_metrics_clear) struct task_metrics metrics = {};

	make_v1(*state);
	read_of(*state, false, &metrics);
	assert_common(&metrics);
	assert_int_equal(metrics.memory_limit, 67108864);
	assert_int_equal(metrics.cpu_usage_ns, 123456789);
	assert_int_equal(metrics.cpu_system_ns, 20000000); /* by ticks: this kernel says no more */
	assert_int_equal(metrics.cpu_throttled_ns, 77);
	assert_int_equal(metrics.pids_limit, 0);
	assert_string_equal(schema_map_get(&metrics.memory_stat, "rss"), "400000");
}

static void test_figures_of_v2(void **state)
{
	_cleanup_(task_metrics_clear) struct task_metrics metrics = {};

	make_v2(*state);
	read_of(*state, false, &metrics);
	assert_common(&metrics);
	assert_int_equal(metrics.memory_limit, 0);
	assert_int_equal(metrics.cpu_usage_ns, 123456000);
	assert_int_equal(metrics.cpu_system_ns, 23456000);
	assert_int_equal(metrics.cpu_throttled_ns, 77000);
	assert_int_equal(metrics.pids_limit, 32);
	assert_string_equal(schema_map_get(&metrics.memory_stat, "anon"), "400000");
}

static void test_brief_figures_are_without_the_stat(void **state)
{
	_cleanup_(task_metrics_clear) struct task_metrics metrics = {};

	make_v2(*state);
	read_of(*state, true, &metrics);
	assert_int_equal(metrics.memory_stat.count, 0);
	assert_int_equal(metrics.memory_working_set, 700000);
}

static void test_a_cgroup_that_is_gone_or_leads_elsewhere_has_no_figures(void **state)
{
	static const char *const paths[] = {"/d/gone", "", "/", "/d/../d/web", "system:davit:web"};
	struct scratch *scratch = *state;

	make_v1(scratch);
	for (size_t i = 0; i < ARRAY_SIZE(paths); i++) {
		_cleanup_(task_metrics_clear) struct task_metrics metrics = {};
		_cleanup_(cgroup_deinit) struct cgroup cgroup = {};

		assert_int_equal(cgroup_init(&cgroup, scratch->dir, paths[i], 0), 0);
		assert_int_equal(metrics_read(&cgroup, true, &metrics), -ENOENT);
	}
}

/* ---- a systemd name ------------------------------------------------------- */

static void test_a_systemd_name_is_found_by_what_init_is_in(void **state)
{
	struct cgroup cgroup = {.mount = "/m", .path = "system.slice:davit:web"};
	_cleanup_(cleanup_free) char *memory = NULL, *cpu = NULL, *pids = NULL;

	(void)state;
	cgroup.proc = strdup("5:memory:/system.slice/davit-web.scope\n"
			     "4:cpu,cpuacct:/system.slice/davit-web.scope/container\n"
			     "3:pids:/system.slice/sshd.service\n0::/x\n");
	memory = cgroup_directory(&cgroup, "memory");
	assert_string_equal(memory, "/m/memory/system.slice/davit-web.scope");
	cpu = cgroup_directory(&cgroup, "cpuacct");
	assert_string_equal(cpu, "/m/cpuacct/system.slice/davit-web.scope/container");
	pids = cgroup_directory(&cgroup, "pids");
	assert_null(pids); /* somebody else's */
	cgroup_deinit(&cgroup);
}

/* ---- processes ------------------------------------------------------------ */

static void assert_processes(const struct scratch *scratch)
{
	_cleanup_(cgroup_deinit) struct cgroup cgroup = {};
	_cleanup_(cleanup_free) pid_t *pids = NULL, *few = NULL;
	size_t count;

	assert_int_equal(cgroup_init(&cgroup, scratch->dir, "/d/web", 0), 0);
	assert_int_equal(cgroup_processes(&cgroup, 10, &pids, &count), 0);
	assert_int_equal(count, 4);
	assert_int_equal(pids[0], 7);
	assert_int_equal(pids[3], 100);
	assert_int_equal(cgroup_processes(&cgroup, 3, &few, &count), -E2BIG);
}

static void test_processes_of_inner_cgroups_count_too(void **state)
{
	put(*state, "pids/d/web/cgroup.procs", "100\n7\n0\n");
	put(*state, "pids/d/web/inner/cgroup.procs", "50\n");
	put(*state, "pids/d/web/inner/deeper/cgroup.procs", "60\n");
	assert_processes(*state);
}

static void test_processes_of_v2_are_found_the_same_way(void **state)
{
	make_v2(*state);
	put(*state, "d/web/cgroup.procs", "");
	put(*state, "d/web/init.scope/cgroup.procs", "7\n50\n");
	put(*state, "d/web/system.slice/cgroup.procs", "60\n100\n");
	assert_processes(*state);
}

TEST_MAIN(cmocka_unit_test(test_a_value_is_that_of_the_whole_key),
	  cmocka_unit_test(test_no_limit_is_0_however_it_is_said),
	  cmocka_unit_test(test_lines_that_are_none_are_passed_over),
	  cmocka_unit_test(test_a_hostile_stat_is_cut), TEST_IN_SCRATCH(test_figures_of_v1),
	  TEST_IN_SCRATCH(test_figures_of_v2),
	  TEST_IN_SCRATCH(test_brief_figures_are_without_the_stat),
	  TEST_IN_SCRATCH(test_a_cgroup_that_is_gone_or_leads_elsewhere_has_no_figures),
	  cmocka_unit_test(test_a_systemd_name_is_found_by_what_init_is_in),
	  TEST_IN_SCRATCH(test_processes_of_inner_cgroups_count_too),
	  TEST_IN_SCRATCH(test_processes_of_v2_are_found_the_same_way))
