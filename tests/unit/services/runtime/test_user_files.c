/* Needs root: overlays. */

#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "broker/lib/file.h"
#include "services/runtime/user.h"
#include "tests/lib/main.h"

static void make_dir(const struct scratch *scratch, const char *name)
{
	_cleanup_(cleanup_free) char *path = scratch_path(scratch, name);

	assert_int_equal(file_make_dir(path, 0755, NULL), 0);
}

static void make_file(const struct scratch *scratch, const char *name, const char *text)
{
	_cleanup_(cleanup_free) char *path = scratch_path(scratch, name);

	assert_int_equal(file_write(path, text, strlen(text), 0644, false, NULL), 0);
}

static void make_mount(const struct scratch *scratch, const char *options, struct mount *mount)
{
	_cleanup_(cleanup_free) char *copy = strdup(options);
	char *rest = copy, *word;

	assert_int_equal(schema_set(&mount->type, "overlay"), 0);
	while ((word = strsep(&rest, " "))) {
		_cleanup_(cleanup_free) char *option = NULL;
		char *equals = strchr(word, '='), *second = strchr(word, ':');

		*equals = '\0';
		if (second)
			*second = '\0';
		option = second ? text_format("%s=%s/%s:%s/%s", word, scratch->dir, equals + 1,
					      scratch->dir, second + 1)
				: text_format("%s=%s/%s", word, scratch->dir, equals + 1);
		assert_int_equal(schema_strs_add(&mount->options, option), 0);
	}
}

static bool is_same(const char *one, const char *two)
{
	return one && two ? !strcmp(one, two) : one == two;
}

/* Both ways of reading an overlay must agree. */
static int read_overlay(const struct scratch *scratch, const char *options,
			struct user_files *ret_files, struct why *why)
{
	_cleanup_(user_files_clear) struct user_files layers = {};
	_cleanup_(mount_clear) struct mount mount = {};
	int r;

	make_mount(scratch, options, &mount);
	r = user_files_read(&mount, 1, NULL, ret_files, why);
	assert_int_equal(user_files_read_layers(&mount, &layers, NULL), r);
	assert_true(r || is_same(ret_files->passwd, layers.passwd));
	assert_true(r || is_same(ret_files->group, layers.group));
	return r;
}

static void test_the_upper_layers_file_wins_and_nothing_is_mounted(void **state)
{
	_cleanup_(user_files_clear) struct user_files files = {};
	_cleanup_(cleanup_free) char *before = NULL, *after = NULL;
	const struct scratch *scratch = *state;
	struct why why = {};

	make_dir(scratch, "low/etc");
	make_dir(scratch, "mid/etc");
	make_dir(scratch, "up/etc");
	make_dir(scratch, "work");
	make_file(scratch, "low/etc/passwd", "low");
	make_file(scratch, "low/etc/group", "low");
	make_file(scratch, "mid/etc/passwd", "mid");
	assert_int_equal(file_read_proc("/proc/self/mountinfo", 1 << 20, &before, NULL), 0);
	if (read_overlay(scratch, "lowerdir=mid:low upperdir=up workdir=work", &files, &why))
		fail_msg("%s", why.text);
	assert_int_equal(file_read_proc("/proc/self/mountinfo", 1 << 20, &after, NULL), 0);
	assert_string_equal(files.passwd, "mid");
	assert_string_equal(files.group, "low");
	assert_string_equal(before, after);
}

static void test_a_whiteout_hides_the_file_below(void **state)
{
	_cleanup_(user_files_clear) struct user_files files = {};
	_cleanup_(cleanup_free) char *whiteout = scratch_path(*state, "mid/etc/passwd");
	const struct scratch *scratch = *state;

	make_dir(scratch, "low/etc");
	make_dir(scratch, "mid/etc");
	make_file(scratch, "low/etc/passwd", "low");
	assert_int_equal(mknod(whiteout, S_IFCHR, makedev(0, 0)), 0);
	assert_int_equal(read_overlay(scratch, "lowerdir=mid:low", &files, NULL), 0);
	assert_null(files.passwd);
}

static void test_an_opaque_directory_and_a_missing_one_hide_what_is_below(void **state)
{
	_cleanup_(user_files_clear) struct user_files opaque = {}, gone = {};
	_cleanup_(cleanup_free) char *etc = scratch_path(*state, "mid/etc");
	_cleanup_(cleanup_free) char *whiteout = scratch_path(*state, "top/etc");
	const struct scratch *scratch = *state;

	make_dir(scratch, "low/etc");
	make_dir(scratch, "mid/etc");
	make_dir(scratch, "top");
	make_file(scratch, "low/etc/passwd", "low");
	make_file(scratch, "mid/etc/group", "mid");
	assert_int_equal(setxattr(etc, "trusted.overlay.opaque", "y", 1, 0), 0);
	assert_int_equal(read_overlay(scratch, "lowerdir=mid:low", &opaque, NULL), 0);
	assert_null(opaque.passwd);
	assert_string_equal(opaque.group, "mid");
	assert_int_equal(mknod(whiteout, S_IFCHR, makedev(0, 0)), 0);
	assert_int_equal(read_overlay(scratch, "lowerdir=top:low", &gone, NULL), 0);
	assert_null(gone.passwd);
}

static void test_a_single_layer_and_a_directory_are_read_as_they_are(void **state)
{
	_cleanup_(user_files_clear) struct user_files one = {}, two = {};
	_cleanup_(cleanup_free) char *path = scratch_path(*state, "low");
	const struct scratch *scratch = *state;

	make_dir(scratch, "low/etc");
	make_file(scratch, "low/etc/passwd", "low");
	assert_int_equal(read_overlay(scratch, "lowerdir=low", &one, NULL), 0);
	assert_string_equal(one.passwd, "low");
	assert_null(one.group);
	assert_int_equal(user_files_read(NULL, 0, path, &two, NULL), 0);
	assert_string_equal(two.passwd, "low");
}

static void test_links_stay_inside_the_root(void **state)
{
	_cleanup_(user_files_clear) struct user_files files = {};
	_cleanup_(cleanup_free) char *root = scratch_path(*state, "root");
	_cleanup_(cleanup_free) char *passwd = scratch_path(*state, "root/etc/passwd");
	_cleanup_(cleanup_free) char *group = scratch_path(*state, "root/etc/group");
	const struct scratch *scratch = *state;

	make_dir(scratch, "root/etc");
	make_file(scratch, "root/etc/shadowed", "inside");
	assert_int_equal(symlink("/etc/shadowed", passwd), 0);
	assert_int_equal(symlink("../../../../../../../etc/group", group), 0);
	assert_int_equal(user_files_read(NULL, 0, root, &files, NULL), SPEC_E_INVALID);
	unlink(group);
	assert_int_equal(user_files_read(NULL, 0, root, &files, NULL), 0);
	assert_string_equal(files.passwd, "inside");
	assert_null(files.group);
}

static void test_what_is_not_a_small_regular_file_is_refused_without_waiting(void **state)
{
	_cleanup_(cleanup_free) char *root = scratch_path(*state, "root");
	_cleanup_(cleanup_free) char *passwd = scratch_path(*state, "root/etc/passwd");
	const struct scratch *scratch = *state;
	struct user_files files = {};
	struct why why = {};

	make_dir(scratch, "root/etc");
	assert_int_equal(mkfifo(passwd, 0644), 0);
	assert_int_equal(user_files_read(NULL, 0, root, &files, &why), SPEC_E_INVALID);
	assert_non_null(strstr(why.text, "not a regular file"));
	unlink(passwd);

	assert_int_equal(mknod(passwd, S_IFCHR | 0666, makedev(1, 5)), 0);
	assert_int_equal(user_files_read(NULL, 0, root, &files, NULL), SPEC_E_INVALID);
	unlink(passwd);

	make_file(scratch, "root/etc/passwd", "x");
	assert_int_equal(truncate(passwd, (off_t)16 << 30), 0);
	why.text[0] = '\0';
	assert_int_equal(user_files_read(NULL, 0, root, &files, &why), SPEC_E_INVALID);
	assert_non_null(strstr(why.text, "larger"));
	unlink(passwd);

	assert_int_equal(symlink("/proc/self/environ", passwd), 0);
	assert_int_equal(user_files_read(NULL, 0, root, &files, NULL), 0);
	assert_null(files.passwd);
}

TEST_MAIN(TEST_IN_SCRATCH(test_the_upper_layers_file_wins_and_nothing_is_mounted),
	  TEST_IN_SCRATCH(test_a_whiteout_hides_the_file_below),
	  TEST_IN_SCRATCH(test_an_opaque_directory_and_a_missing_one_hide_what_is_below),
	  TEST_IN_SCRATCH(test_a_single_layer_and_a_directory_are_read_as_they_are),
	  TEST_IN_SCRATCH(test_links_stay_inside_the_root),
	  TEST_IN_SCRATCH(test_what_is_not_a_small_regular_file_is_refused_without_waiting))
