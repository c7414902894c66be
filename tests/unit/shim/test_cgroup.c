#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "broker/lib/cleanup.h"
#include "broker/lib/file.h"
#include "shim/cgroup.h"
#include "tests/lib/main.h"

static void oom_kills_are_counted_in_both_formats(void **state)
{
	static const char v1[] = "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n";
	static const char v2[] = "low 0\nhigh 0\nmax 14\noom 9\noom_kill 2\noom_group_kill 0\n";

	(void)state;
	assert_int_equal(cgroup_parse_count(v1, "oom_kill"), 3);
	assert_int_equal(cgroup_parse_count(v2, "oom_kill"), 2);
	assert_int_equal(cgroup_parse_count("", "oom_kill"), 0);
	assert_int_equal(cgroup_parse_count("oom_kill_disable 1\n", "oom_kill"), 0);
}

static void counts_are_read_from_the_files_of_v1_and_v2(void **state)
{
	struct scratch *scratch = *state;
	_cleanup_(cleanup_free) char *v2 = scratch_path(scratch, "memory.events");
	_cleanup_(cleanup_free) char *v1 = scratch_path(scratch, "memory.oom_control");
	struct cgroup cgroup = {.memory = scratch->dir};

	assert_int_equal(file_write(v1, "oom_kill 5\n", 11, 0600, false, NULL), 0);
	assert_int_equal(file_write(v2, "oom 1\noom_kill 7\n", 17, 0600, false, NULL), 0);
	assert_int_equal(cgroup_oom_kills(&cgroup), 5);
	cgroup.is_v2 = true;
	assert_int_equal(cgroup_oom_kills(&cgroup), 7);
}

static void cgroup_of_somebody_else_is_never_signalled(void **state)
{
	struct scratch *scratch = *state;
	_cleanup_(cleanup_free) char *procs = scratch_path(scratch, "cgroup.procs");
	struct cgroup cgroup = {.procs = scratch->dir}, found = {};
	char text[64];
	size_t count;

	/* This very process, which SIGKILL would end. */
	snprintf(text, sizeof(text), "%d\n", (int)getpid());
	assert_int_equal(file_write(procs, text, strlen(text), 0600, false, NULL), 0);
	assert_int_equal(cgroup_signal(&cgroup, SIGKILL, 0, &count), -EPERM);
	/* Without a path, and for a name that is not where the process is, there is none. */
	assert_int_equal(cgroup_find(NULL, getpid(), &found), 0);
	assert_null(found.procs);
	assert_int_equal(cgroup_find("system.slice:davit:web", getpid(), &found), 0);
	assert_null(found.procs);
	assert_int_equal(cgroup_find("/", getpid(), &found), 0);
	assert_null(found.procs);
}

static pid_t put_child(const struct scratch *scratch, const char *directory)
{
	_cleanup_(cleanup_free) char *path = scratch_path(scratch, directory), *procs = NULL;
	char text[32];
	pid_t child = fork();

	if (!child)
		for (;;)
			pause();
	assert_int_equal(file_make_dir(path, 0700, NULL), 0);
	procs = text_format("%s/cgroup.procs", path);
	snprintf(text, sizeof(text), "%d\n", (int)child);
	assert_int_equal(file_write(procs, text, strlen(text), 0600, false, NULL), 0);
	return child;
}

/* As a manager inside of a container makes them. */
static void processes_of_cgroups_below_are_signalled_too(void **state)
{
	struct scratch *scratch = *state;
	_cleanup_(cleanup_free) char *top = scratch_path(scratch, "top");
	struct cgroup cgroup = {.procs = top};
	pid_t children[3];
	size_t count;
	int status;

	children[0] = put_child(scratch, "top");
	children[1] = put_child(scratch, "top/init.scope");
	children[2] = put_child(scratch, "top/init.scope/below");
	assert_int_equal(cgroup_signal(&cgroup, 0, 0, &count), 0);
	assert_int_equal(count, 3);
	assert_int_equal(cgroup_signal(&cgroup, SIGTERM, children[1], &count), 0);
	assert_int_equal(count, 2);
	kill(children[1], SIGKILL);
	for (size_t i = 0; i < ARRAY_SIZE(children); i++) {
		assert_int_equal(waitpid(children[i], &status, 0), children[i]);
		assert_int_equal(WTERMSIG(status), i == 1 ? SIGKILL : SIGTERM);
	}
}

static void frozen_cgroup_is_thawed(void **state)
{
	_cleanup_(cleanup_free) char *v1 = scratch_path(*state, "freezer.state");
	_cleanup_(cleanup_free) char *v2 = scratch_path(*state, "cgroup.freeze"), *text = NULL;
	struct cgroup cgroup = {.freeze = v1};

	assert_int_equal(file_write(v1, "FROZEN\n", 7, 0600, false, NULL), 0);
	assert_int_equal(file_write(v2, "1\n", 2, 0600, false, NULL), 0);
	assert_true(cgroup_is_frozen(&cgroup));
	assert_int_equal(cgroup_thaw(&cgroup), 0);
	assert_false(cgroup_is_frozen(&cgroup));
	cgroup = (struct cgroup){.freeze = v2, .is_v2 = true};
	assert_true(cgroup_is_frozen(&cgroup));
	assert_int_equal(cgroup_thaw(&cgroup), 0);
	assert_false(cgroup_is_frozen(&cgroup));
	assert_int_equal(file_read(AT_FDCWD, v2, 16, &text, NULL), 0);
	assert_int_equal(text[0], '0');
	assert_int_equal(cgroup_thaw(&(struct cgroup){}), -ENOENT);
	assert_false(cgroup_is_frozen(&(struct cgroup){}));
}

TEST_MAIN(cmocka_unit_test(oom_kills_are_counted_in_both_formats),
	  TEST_IN_SCRATCH(counts_are_read_from_the_files_of_v1_and_v2),
	  TEST_IN_SCRATCH(cgroup_of_somebody_else_is_never_signalled),
	  TEST_IN_SCRATCH(processes_of_cgroups_below_are_signalled_too),
	  TEST_IN_SCRATCH(frozen_cgroup_is_thawed))
