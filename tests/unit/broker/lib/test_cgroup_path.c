/* Cgroups of containers, from what /proc/<pid>/cgroup says with v1, v2 and both. */

#include <stdlib.h>

#include "broker/lib/cgroup_path.h"
#include "broker/lib/cleanup.h"
#include "tests/lib/main.h"

static const char hybrid[] = "11:pids:/davit/web\n9:cpu,cpuacct:/both\n8:memory:/davit/web\n"
			     "1:name=systemd:/named\n0::/unified/x\n";

static void assert_text(char *owned, const char *expected)
{
	_cleanup_(cleanup_free) char *text = owned;

	if (expected)
		assert_string_equal(text, expected);
	else
		assert_null(text);
}

static void paths_of_v1_and_v2_are_found(void **state)
{
	(void)state;
	assert_text(cgroup_path_parse(hybrid, "memory"), "/davit/web");
	assert_text(cgroup_path_parse(hybrid, "cpuacct"), "/both");
	assert_text(cgroup_path_parse(hybrid, "cpu"), "/both");
	assert_text(cgroup_path_parse(hybrid, ""), "/unified/x");
	assert_text(cgroup_path_parse(hybrid, "mem"), NULL);
	assert_text(cgroup_path_parse(hybrid, "freezer"), NULL);
	assert_text(cgroup_path_parse("0::/x", ""), "/x");
	assert_text(cgroup_path_parse("nonsense\n\n5:memory\n", "memory"), NULL);
}

static void units_are_matched_whole(void **state)
{
	static const struct {
		const char *path, *unit, *expected;
	} cases[] = {
		{"/system.slice/davit-web.scope", "system.slice:davit:web",
		 "/system.slice/davit-web.scope"},
		/* crun's, and what a systemd in the container makes of either. */
		{"/system.slice/davit-web.scope/container", "system.slice:davit:web",
		 "/system.slice/davit-web.scope/container"},
		{"/system.slice/davit-web.scope/container/init.scope", "system.slice:davit:web",
		 "/system.slice/davit-web.scope/container"},
		{"/system.slice/davit-web.scope/init.scope", "system.slice:davit:web",
		 "/system.slice/davit-web.scope"},
		{"/system.slice/davit-web.scope/containers", "system.slice:davit:web",
		 "/system.slice/davit-web.scope"},
		{"/system.slice/davit-web2.scope", "system.slice:davit:web", NULL},
		{"/system.slice/davit-web.scope2", "system.slice:davit:web", NULL},
		{"/system.slice/my-davit-web.scope", "system.slice:davit:web", NULL},
		{"/user.slice/session-1.scope", "system.slice:davit:web", NULL},
		{"/system.slice/davit-.scope", "system.slice:davit:", NULL},
		{"/system.slice/davit-web.scope/../..", "system.slice:davit:web", NULL},
		{"/nonsense", "nonsense", NULL},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
		assert_text(cgroup_path_in_unit(cases[i].path, cases[i].unit), cases[i].expected);
}

TEST_MAIN(cmocka_unit_test(paths_of_v1_and_v2_are_found), cmocka_unit_test(units_are_matched_whole))
