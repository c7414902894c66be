#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "services/runtime/attachment.h"
#include "tests/lib/main.h"

#define TASK "0123456789abcdef0123456789abcdef"

static void test_a_files_name_has_both_ids(void **state)
{
	_cleanup_(cleanup_free) char *path = attachment_path("/d", "default-web", TASK);
	char attach_id[ATTACHMENT_ID_SIZE], task_id[ID_TEXT_SIZE];
	char longest[ATTACHMENT_ID_SIZE + ID_TEXT_SIZE] = "";

	(void)state;
	assert_string_equal(path, "/d/default-web@" TASK);
	assert_true(attachment_split(path + 3, attach_id, task_id));
	assert_string_equal(attach_id, "default-web");
	assert_string_equal(task_id, TASK);
	assert_false(attachment_split("default-web@lock", attach_id, task_id));
	assert_false(attachment_split("default-web@" TASK "0", attach_id, task_id));
	assert_false(attachment_split("default-web@" TASK ".tmp-1", attach_id, task_id));
	assert_false(attachment_split("@" TASK, attach_id, task_id));
	assert_false(attachment_split(TASK, attach_id, task_id));
	memset(longest, 'x', ATTACHMENT_ID_SIZE);
	strcpy(longest + ATTACHMENT_ID_SIZE - 1, "@" TASK);
	assert_true(attachment_split(longest, attach_id, task_id));
	assert_int_equal(strlen(attach_id), ATTACHMENT_ID_SIZE - 1);
}

static void test_what_is_written_is_read_again_and_damage_is_told(void **state)
{
	_cleanup_(cleanup_free) char *path = scratch_path(*state, "a");
	uint8_t boot[ID_SIZE] = "bootbootbootboo";
	struct runtime_attachment kept = {
		.task_id = (char *)TASK, .boot_id = {boot, sizeof(boot)}, .conf = (char *)"{}"};
	_cleanup_(runtime_attachment_clear) struct runtime_attachment read = {}, none = {};

	assert_int_equal(attachment_read(path, &none), -ENOENT);
	assert_int_equal(attachment_write(path, &kept, true, NULL), 0);
	assert_int_equal(attachment_read(path, &read), 0);
	assert_string_equal(read.conf, "{}");
	assert_memory_equal(read.boot_id.data, boot, ID_SIZE);
	assert_null(read.network);
	assert_int_equal(truncate(path, 9), 0);
	assert_int_equal(attachment_read(path, &none), ATTACHMENT_E_DAMAGED);
	assert_int_equal(truncate(path, 0), 0);
	assert_int_equal(attachment_read(path, &none), ATTACHMENT_E_DAMAGED);
	assert_int_equal(truncate(path, (off_t)SCHEMA_MESSAGE_MAX * 2), 0);
	assert_int_equal(attachment_read(path, &none), ATTACHMENT_E_DAMAGED);
}

static void test_a_lock_that_is_held_is_waited_for_and_at_last_told(void **state)
{
	const struct scratch *scratch = *state;
	_cleanup_(cleanup_free) char *file = scratch_path(scratch, "web@lock");
	struct why why = {};
	int mine = -1, other = -1;

	assert_int_equal(attachment_lock(scratch->dir, "web", 60, &mine, NULL), 0);
	assert_int_equal(attachment_lock(scratch->dir, "web", 1, &other, &why), ATTACHMENT_E_BUSY);
	assert_non_null(strstr(why.text, "'web'"));
	/* Another's is another's. */
	assert_int_equal(attachment_lock(scratch->dir, "db", 60, &other, NULL), 0);
	attachment_unlock(scratch->dir, "db", other);
	attachment_unlock(scratch->dir, "web", mine);
	assert_int_equal(access(file, F_OK), -1);
}

static void test_a_lock_is_given_up_for_those_too_who_inherited_it(void **state)
{
	const struct scratch *scratch = *state;
	int mine = -1, other = -1, heir;

	assert_int_equal(attachment_lock(scratch->dir, "web", 60, &mine, NULL), 0);
	heir = dup(mine);
	attachment_unlock(scratch->dir, "web", mine);
	assert_int_equal(attachment_lock(scratch->dir, "web", 60, &other, NULL), 0);
	attachment_unlock(scratch->dir, "web", other);
	close(heir);
}

static void make(const struct scratch *scratch, const char *name)
{
	_cleanup_(cleanup_free) char *path = scratch_path(scratch, name);

	assert_int_equal(file_write(path, "", 0, 0600, false, NULL), 0);
}

static bool is_there(const struct scratch *scratch, const char *name)
{
	_cleanup_(cleanup_free) char *path = scratch_path(scratch, name);

	return !access(path, F_OK);
}

static void test_what_the_dead_left_is_removed_and_nothing_else(void **state)
{
	const struct scratch *scratch = *state;
	int mine = -1;

	make(scratch, "web@" TASK);
	make(scratch, "web@" TASK ".tmp-7");
	make(scratch, "web@lock");
	make(scratch, "db@" TASK ".tmp-8");
	assert_int_equal(attachment_lock(scratch->dir, "db", 60, &mine, NULL), 0);
	/* Its lock, and what it may be writing. */
	assert_int_equal(attachment_tidy(scratch->dir), 2);
	assert_true(is_there(scratch, "web@" TASK));
	assert_false(is_there(scratch, "web@" TASK ".tmp-7"));
	assert_false(is_there(scratch, "web@lock"));
	assert_true(is_there(scratch, "db@" TASK ".tmp-8") && is_there(scratch, "db@lock"));
	attachment_unlock(scratch->dir, "db", mine);
	assert_int_equal(attachment_tidy(scratch->dir), 0);
	assert_false(is_there(scratch, "db@" TASK ".tmp-8") || is_there(scratch, "db@lock"));
}

TEST_MAIN(cmocka_unit_test(test_a_files_name_has_both_ids),
	  TEST_IN_SCRATCH(test_what_is_written_is_read_again_and_damage_is_told),
	  TEST_IN_SCRATCH(test_a_lock_that_is_held_is_waited_for_and_at_last_told),
	  TEST_IN_SCRATCH(test_a_lock_is_given_up_for_those_too_who_inherited_it),
	  TEST_IN_SCRATCH(test_what_the_dead_left_is_removed_and_nothing_else))
