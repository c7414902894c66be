#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "broker/lib/file.h"
#include "services/runtime/apparmor.h"
#include "services/runtime/spec.h"
#include "tests/lib/main.h"

static void test_a_profile_names_itself_and_forbids_what_is_the_hosts(void **state)
{
	_cleanup_(cleanup_free) char *text = apparmor_text("mine.d", true);
	_cleanup_(cleanup_free) char *own = apparmor_text("mine.d", false);

	(void)state;
	assert_non_null(strstr(text, "#include <tunables/global>\nprofile mine.d flags="));
	assert_non_null(strstr(text, "peer=mine.d,"));
	assert_non_null(strstr(text, "  deny mount,\n"));
	assert_non_null(strstr(text, "  deny @{PROC}/sysrq-trigger rwklx,\n"));
	assert_null(strstr(own, "#include"));
	assert_non_null(strstr(own, "@{PROC}=/proc/\nprofile mine.d"));
}

static void test_a_loaded_profile_is_found_by_its_whole_name(void **state)
{
	(void)state;
	assert_true(apparmor_is_loaded("a (enforce)\nb (complain)\n", "b"));
	assert_true(apparmor_is_loaded("a (enforce)", "a"));
	assert_false(apparmor_is_loaded("ab (enforce)\n", "a"));
	assert_false(apparmor_is_loaded("a//b (enforce)\n", "a"));
	assert_false(apparmor_is_loaded("", "a"));
}

static char *make_file(const struct scratch *scratch, const char *name, const char *text,
		       mode_t mode)
{
	char *path = scratch_path(scratch, name);

	assert_int_equal(file_write(path, text, strlen(text), mode, false, NULL), 0);
	assert_int_equal(chmod(path, mode), 0);
	return path;
}

static void test_a_profile_that_is_not_loaded_is_refused_by_name(void **state)
{
	_cleanup_(cleanup_free) char *loaded = make_file(*state, "loaded", "a (enforce)\n", 0600);
	struct why why = {};

	assert_int_equal(apparmor_check(loaded, "a", &why), 0);
	assert_int_equal(apparmor_check(loaded, "unconfined", &why), 0);
	assert_int_equal(apparmor_check("/nowhere", "mine", &why), 0);
	assert_int_equal(apparmor_check(loaded, "mine", &why), SPEC_E_INVALID);
	assert_non_null(strstr(why.text, "'mine' is not loaded"));
}

static void test_the_parser_gets_the_text_unless_the_profile_is_there(void **state)
{
	const struct scratch *scratch = *state;
	_cleanup_(cleanup_free) char *loaded = make_file(scratch, "loaded", "other (enforce)\n",
							 0600);
	_cleanup_(cleanup_free) char *got = scratch_path(scratch, "got");
	_cleanup_(cleanup_free) char *script =
		text_format("#!/bin/sh\n/bin/echo \"$@\" >%s; /bin/cat >>%s\n", got, got);
	_cleanup_(cleanup_free) char *parser = make_file(scratch, "parser", script, 0700);
	_cleanup_(cleanup_free) char *failing = make_file(scratch, "failing", "#!/bin/sh\nexit 7\n",
							  0700);
	_cleanup_(cleanup_free) char *text = NULL;
	struct why why = {};

	assert_int_equal(apparmor_load(loaded, parser, "other", &why), 0);
	assert_int_equal(access(got, F_OK), -1);
	assert_int_equal(apparmor_load(loaded, parser, "mine", &why), 0);
	assert_int_equal(file_read(AT_FDCWD, got, 65536, &text, NULL), 0);
	assert_ptr_equal(strstr(text, "-Kr\n"), text);
	assert_non_null(strstr(text, "profile mine flags="));
	assert_int_not_equal(apparmor_load(loaded, failing, "mine", &why), 0);
	assert_non_null(strstr(why.text, "does not load profile 'mine'"));
}

static void test_a_host_without_apparmor_is_told(void **state)
{
	_cleanup_(cleanup_free) char *none = scratch_path(*state, "none");
	struct why why = {};

	assert_int_equal(apparmor_load(none, "/bin/true", "mine", &why), -ENOENT);
	assert_non_null(strstr(why.text, none));
}

TEST_MAIN(cmocka_unit_test(test_a_profile_names_itself_and_forbids_what_is_the_hosts),
	  cmocka_unit_test(test_a_loaded_profile_is_found_by_its_whole_name),
	  TEST_IN_SCRATCH(test_a_profile_that_is_not_loaded_is_refused_by_name),
	  TEST_IN_SCRATCH(test_the_parser_gets_the_text_unless_the_profile_is_there),
	  TEST_IN_SCRATCH(test_a_host_without_apparmor_is_told))
