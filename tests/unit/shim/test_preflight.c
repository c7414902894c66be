#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "broker/lib/cleanup.h"
#include "broker/lib/file.h"
#include "shim/preflight.h"
#include "tests/lib/main.h"

static void make_link(const struct scratch *scratch, const char *name, const char *target)
{
	_cleanup_(cleanup_free) char *path = scratch_path(scratch, name);

	assert_int_equal(symlink(target, path), 0);
}

static void make_dir(const struct scratch *scratch, const char *name)
{
	_cleanup_(cleanup_free) char *path = scratch_path(scratch, name);

	assert_int_equal(mkdir(path, 0755), 0);
}

static void paths_are_resolved_as_the_container_would(void **state)
{
	static const struct {
		const char *path, *resolved; /* NULL: refused */
	} cases[] = {
		{"/", "/"},
		{"/work", "/work"},
		{"//work/./deep/..", "/work"},
		{"/absent/below", "/absent/below"},
		{"/../../..", "/"},
		{"/to-work", "/work"},
		{"/to-work/deep", "/work/deep"},
		{"/out", "/etc"},
		{"/proc", NULL},
		{"/proc/self/fd/7", NULL},
		{"/to-proc", NULL},
		{"/to-proc/self", NULL},
		{"/work/../proc", NULL},
		{"/work/up/proc/1", NULL},
		{"/dev/shm", NULL},
		{"/sys", NULL},
		{"/loop", NULL},
		{"/process", "/process"},
		{"/devices", "/devices"},
	};
	struct scratch *scratch = *state;
	_cleanup_(cleanup_fd) int root_fd = open(scratch->dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	char resolved[PATH_MAX];

	make_dir(scratch, "work");
	make_dir(scratch, "work/deep");
	make_dir(scratch, "proc");
	make_link(scratch, "to-work", "work");
	make_link(scratch, "out", "../../../../etc");
	make_link(scratch, "to-proc", "/proc");
	make_link(scratch, "work/up", "..");
	make_link(scratch, "loop", "loop");
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		int r = preflight_resolve(root_fd, cases[i].path, resolved, sizeof(resolved));

		if (!cases[i].resolved && r != -ELOOP)
			fail_msg("%s is taken: %d %s", cases[i].path, r, r ? "" : resolved);
		if (cases[i].resolved && (r || strcmp(resolved, cases[i].resolved)))
			fail_msg("%s: %d, %s instead of %s", cases[i].path, r, r ? "" : resolved,
				 cases[i].resolved);
	}
}

/* Without a descriptor there is no looking whether it is a link. */
static void path_that_cannot_be_looked_at_is_not_taken(void **state)
{
	struct scratch *scratch = *state;
	_cleanup_(cleanup_fd) int root_fd = open(scratch->dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	char resolved[PATH_MAX];
	struct rlimit before;
	int free_fd = dup(root_fd), r;

	make_link(scratch, "to-proc", "/proc");
	close_fd(free_fd);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
	assert_int_equal(
		setrlimit(RLIMIT_NOFILE, &(struct rlimit){(rlim_t)free_fd, before.rlim_max}), 0);
	r = preflight_resolve(root_fd, "/to-proc/self/fd/7", resolved, sizeof(resolved));
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
	assert_int_equal(r, -EMFILE);
}

TEST_MAIN(TEST_IN_SCRATCH(paths_are_resolved_as_the_container_would),
	  TEST_IN_SCRATCH(path_that_cannot_be_looked_at_is_not_taken))
