#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "broker/lib/file.h"
#include "services/runtime/bundle.h"
#include "services/runtime/spec.h"
#include "tests/lib/main.h"

#define TASK "0123456789abcdef0123456789abcdef"

static mode_t mode_of(const struct scratch *scratch, const char *name)
{
	_cleanup_(cleanup_free) char *path = scratch_path(scratch, name);
	struct stat status;

	return stat(path, &status) ? 0 : status.st_mode & 07777;
}

static void test_a_bundle_is_closed_to_others_but_for_its_root(void **state)
{
	_cleanup_(json_cleanup) json_t *spec = json_pack("{s:s}", "a", "b");
	_cleanup_(cleanup_free) char *config = scratch_path(*state, "bundles/" TASK "/config.json");
	_cleanup_(cleanup_free) char *text = NULL;
	const struct scratch *scratch = *state;
	mode_t old = umask(0);

	assert_int_equal(bundle_open(scratch->dir, NULL), 0);
	assert_int_equal(bundle_make(scratch->dir, TASK, spec, false, NULL), 0);
	umask(old);
	assert_int_equal(mode_of(scratch, "bundles"), 0711);
	assert_int_equal(mode_of(scratch, "bundles/" TASK), 0700);
	assert_int_equal(mode_of(scratch, "bundles/" TASK "/rootfs"), 0711);
	assert_int_equal(mode_of(scratch, "bundles/" TASK "/config.json"), 0600);
	assert_int_equal(file_read(AT_FDCWD, config, 100, &text, NULL), 0);
	assert_string_equal(text, "{\"a\":\"b\"}");
}

static void assert_no_bundle(const struct scratch *scratch)
{
	_cleanup_(cleanup_free) char *path = scratch_path(scratch, "bundles");

	assert_int_equal(rmdir(path), 0);
}

static void test_making_and_removing_twice_is_the_same_as_once(void **state)
{
	_cleanup_(json_cleanup) json_t *spec = json_object();
	const struct scratch *scratch = *state;

	assert_int_equal(bundle_open(scratch->dir, NULL), 0);
	assert_int_equal(bundle_make(scratch->dir, TASK, spec, false, NULL), 0);
	assert_int_equal(bundle_make(scratch->dir, TASK, spec, false, NULL), 0);
	assert_int_equal(bundle_remove(scratch->dir, TASK, NULL), 0);
	assert_int_equal(bundle_remove(scratch->dir, TASK, NULL), 0);
	assert_no_bundle(scratch);
}

static void test_a_bundle_in_which_a_shim_lives_is_left_alone(void **state)
{
	_cleanup_(json_cleanup) json_t *spec = json_object();
	_cleanup_(cleanup_free) char *lock = scratch_path(*state, "bundles/" TASK "/lock");
	_cleanup_(cleanup_fd) int fd = -1;
	const struct scratch *scratch = *state;
	struct why why = {};

	assert_int_equal(bundle_open(scratch->dir, NULL), 0);
	assert_int_equal(bundle_make(scratch->dir, TASK, spec, false, NULL), 0);
	assert_int_equal(file_lock(lock, &fd), 0);
	assert_int_equal(bundle_make(scratch->dir, TASK, spec, false, &why), BUNDLE_E_BUSY);
	assert_non_null(strstr(why.text, TASK));
}

static void test_a_bundle_that_cannot_be_looked_into_may_be_in_use(void **state)
{
	_cleanup_(json_cleanup) json_t *spec = json_object();
	const struct scratch *scratch = *state;
	int free_fd = dup(0);
	struct rlimit before;
	bool is_busy;

	close(free_fd);
	assert_int_equal(bundle_open(scratch->dir, NULL), 0);
	assert_int_equal(bundle_make(scratch->dir, TASK, spec, false, NULL), 0);
	assert_false(bundle_is_busy(scratch->dir, TASK));
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
	assert_int_equal(
		setrlimit(RLIMIT_NOFILE, &(struct rlimit){(rlim_t)free_fd, before.rlim_max}), 0);
	is_busy = bundle_is_busy(scratch->dir, TASK);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
	assert_true(is_busy);
}

static void test_what_a_crash_left_half_made_is_cleared_at_start(void **state)
{
	_cleanup_(cleanup_free) char *half = scratch_path(*state, "bundles/" TASK ".new/rootfs");
	const struct scratch *scratch = *state;

	assert_int_equal(bundle_open(scratch->dir, NULL), 0);
	assert_int_equal(file_make_dir(half, 0700, NULL), 0);
	assert_int_equal(bundle_open(scratch->dir, NULL), 0);
	assert_no_bundle(scratch);
}

/* Its place is taken by something that a bundle cannot replace. */
static void test_one_that_cannot_be_made_leaves_nothing_half_made(void **state)
{
	_cleanup_(json_cleanup) json_t *spec = json_object();
	_cleanup_(cleanup_free) char *place = scratch_path(*state, "bundles/" TASK);
	_cleanup_(cleanup_free) char *half = scratch_path(*state, "bundles/" TASK ".new");
	const struct scratch *scratch = *state;
	struct why why = {};

	assert_int_equal(bundle_open(scratch->dir, NULL), 0);
	assert_int_equal(symlink("/nowhere/at/all", place), 0);
	assert_true(bundle_make(scratch->dir, TASK, spec, false, &why) < 0);
	assert_non_null(strstr(why.text, TASK));
	assert_int_not_equal(access(half, F_OK), 0);
	assert_int_equal(unlink(place), 0);
}

TEST_MAIN(TEST_IN_SCRATCH(test_a_bundle_is_closed_to_others_but_for_its_root),
	  TEST_IN_SCRATCH(test_making_and_removing_twice_is_the_same_as_once),
	  TEST_IN_SCRATCH(test_a_bundle_in_which_a_shim_lives_is_left_alone),
	  TEST_IN_SCRATCH(test_a_bundle_that_cannot_be_looked_into_may_be_in_use),
	  TEST_IN_SCRATCH(test_what_a_crash_left_half_made_is_cleared_at_start),
	  TEST_IN_SCRATCH(test_one_that_cannot_be_made_leaves_nothing_half_made))
