/* Needs root: user namespaces and mounts that map ids. */

#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "broker/lib/file.h"
#include "shim/mounts.h"
#include "tests/lib/main.h"

#define MAP "0 100000 1000\n5000 1000 1\n"

static void test_the_containers_root_is_found_in_a_map(void **state)
{
	unsigned id = 7;

	(void)state;
	assert_int_equal(idmap_root("1 5 1\n0 100000 10\n", &id), 0);
	assert_int_equal(id, 100000);
	assert_int_equal(idmap_root("1 5 1\n", &id), -EINVAL);
	assert_int_equal(idmap_root("0 5 0\n", &id), -EINVAL);
	assert_int_equal(idmap_root("", &id), -EINVAL);
	assert_int_equal(idmap_root("x", &id), -EINVAL);
}

static void test_a_map_that_the_kernel_refuses_is_named(void **state)
{
	struct idmap idmap = {.userns = -1};
	struct why why = {};

	assert_int_equal(
		idmap_open(MAP, "0 1 1\n0 2 1\n", ((struct scratch *)*state)->dir, &idmap, &why),
		-EINVAL);
	assert_non_null(strstr(why.text, "gid_map"));
	assert_int_equal(idmap.userns, -1);
}

static void make_dir(const struct scratch *scratch, const char *name)
{
	_cleanup_(cleanup_free) char *path = scratch_path(scratch, name);

	assert_int_equal(file_make_dir(path, 0755, NULL), 0);
}

static void assert_owner(const struct scratch *scratch, const char *name, uid_t uid, gid_t gid)
{
	_cleanup_(cleanup_free) char *path = scratch_path(scratch, name);
	struct stat status;

	assert_int_equal(stat(path, &status), 0);
	assert_int_equal(status.st_uid, uid);
	assert_int_equal(status.st_gid, gid);
}

static void make_root(const struct scratch *scratch, struct mount *mount)
{
	_cleanup_(cleanup_free) char *root = scratch_path(scratch, "root");
	struct idmap idmap = {.userns = -1};
	struct why why = {};

	if (idmap_open(MAP, MAP, scratch->dir, &idmap, &why) ||
	    mounts_make(root, mount, 1, &idmap, &why))
		fail_msg("%s", why.text);
	idmap_close(&idmap);
}

/* In a mount namespace of a child, so that nothing is left. */
static void in_namespace(const struct scratch *scratch, void (*check)(const struct scratch *))
{
	pid_t pid = fork();
	int status;

	if (!pid) {
		if (mounts_enter(false, NULL))
			_exit(1);
		check(scratch);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

static void check_overlay(const struct scratch *scratch)
{
	_cleanup_(cleanup_free) char *lower = text_format("lowerdir=%s/b:%s/a", scratch->dir,
							  scratch->dir);
	_cleanup_(cleanup_free) char *upper = text_format("upperdir=%s/s/fs", scratch->dir);
	_cleanup_(cleanup_free) char *work = text_format("workdir=%s/s/work", scratch->dir);
	_cleanup_(cleanup_free) char *made = scratch_path(scratch, "root/made");
	_cleanup_(cleanup_free) char *layers = scratch_path(scratch, "layers");
	char *options[] = {lower, upper, work};
	struct mount mount = {.type = (char *)"overlay", .options = {options, 3}};

	make_root(scratch, &mount);
	assert_owner(scratch, "root/etc", 100000, 100000);
	assert_owner(scratch, "root", 100000, 100000);
	assert_int_equal(setfsuid((uid_t)-1), 0);
	assert_int_equal(chmod(scratch->dir, 0711), 0);
	setfsgid(100007);
	setfsuid(100007);
	assert_int_equal(mkdir(made, 0700), -1);
	setfsuid(100000);
	assert_int_equal(mkdir(made, 0700), 0);
	setfsuid(0);
	setfsgid(0);
	assert_int_equal(chown(made, 100003, 1000), 0);
	assert_owner(scratch, "s/fs/made", 3, 5000);
	assert_int_equal(access(layers, F_OK), -1);
}

static void test_an_overlays_layers_are_seen_with_the_ids(void **state)
{
	make_dir(*state, "a/etc");
	make_dir(*state, "b/usr");
	make_dir(*state, "s/fs");
	make_dir(*state, "s/work");
	make_dir(*state, "root");
	in_namespace(*state, check_overlay);
}

static void check_bind(const struct scratch *scratch)
{
	_cleanup_(cleanup_free) char *source = scratch_path(scratch, "a");
	char *options[] = {(char *)"rbind", (char *)"rw"};
	struct mount mount = {.type = (char *)"bind", .source = source, .options = {options, 2}};

	make_root(scratch, &mount);
	assert_owner(scratch, "root/etc", 100000, 100000);
	assert_owner(scratch, "a/etc", 0, 0);
}

static void test_a_directory_is_seen_with_the_ids(void **state)
{
	make_dir(*state, "a/etc");
	make_dir(*state, "root");
	in_namespace(*state, check_bind);
}

TEST_MAIN(cmocka_unit_test(test_the_containers_root_is_found_in_a_map),
	  TEST_IN_SCRATCH(test_a_map_that_the_kernel_refuses_is_named),
	  TEST_IN_SCRATCH(test_an_overlays_layers_are_seen_with_the_ids),
	  TEST_IN_SCRATCH(test_a_directory_is_seen_with_the_ids))
