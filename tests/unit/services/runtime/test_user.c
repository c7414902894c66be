#include <string.h>

#include "services/runtime/user.h"
#include "tests/lib/main.h"

static const char passwd[] = "root:x:0:0:root:/root:/bin/sh\n"
			     "bad line\n"
			     "neg:x:-1:-1::/:\n"
			     "big:x:4294967296:0::/:\n"
			     "www:x:33:34:web:/srv:/bin/false\n";
static const char group[] = "root:x:0:root\n"
			    "wheel:x:10:root,www\n"
			    "www:x:34:\n"
			    "audio:x:29:other,www\n"
			    "huge:x:99999999999:www\n"
			    "fake:x:30:wwwx";

static int resolve(const char *text, const char *passwd_, const char *group_,
		   struct spec_user *ret_user, struct why *why)
{
	struct user_name name;

	return user_parse(text, &name, why) ?: user_resolve(&name, passwd_, group_, ret_user, why);
}

static void assert_user(const char *text, uint32_t uid, uint32_t gid, const uint32_t *groups,
			size_t n)
{
	_cleanup_(spec_user_clear) struct spec_user user = {};
	struct why why = {};

	if (resolve(text, passwd, group, &user, &why))
		fail_msg("'%s': %s", text, why.text);
	assert_int_equal(user.uid, uid);
	assert_int_equal(user.gid, gid);
	assert_int_equal(user.n_groups, n);
	for (size_t i = 0; i < n; i++)
		assert_int_equal(user.groups[i], groups[i]);
}

#define GROUPS(...)                                                                                \
	(const uint32_t[]){__VA_ARGS__}, sizeof((uint32_t[]){__VA_ARGS__}) / sizeof(uint32_t)

static void test_names_and_numbers_give_the_groups_of_the_files(void **state)
{
	(void)state;
	assert_user("", 0, 0, GROUPS(0, 10));
	assert_user("root", 0, 0, GROUPS(0, 10));
	assert_user("0", 0, 0, GROUPS(0, 10));
	assert_user("www", 33, 34, GROUPS(34, 10, 29));
	assert_user("33", 33, 34, GROUPS(34, 10, 29));
	assert_user("www:audio", 33, 29, GROUPS(29, 10));
	assert_user("33:5", 33, 5, GROUPS(5, 10, 29));
	assert_user("1000", 1000, 0, GROUPS(0));
	assert_user("1000:7", 1000, 7, GROUPS(7));
	assert_user("2147483647:2147483647", 2147483647, 2147483647, GROUPS(2147483647));
}

static void test_numbers_need_no_files(void **state)
{
	_cleanup_(spec_user_clear) struct spec_user user = {};

	(void)state;
	assert_int_equal(resolve("5:6", NULL, NULL, &user, NULL), 0);
	assert_int_equal(user.uid, 5);
	assert_int_equal(user.gid, 6);
}

static void test_numbers_that_would_wrap_or_hide_something_are_refused(void **state)
{
	static const char *const texts[] = {
		"2147483648", "4294967295", "4294967296",  "18446744073709551616",
		"-1",         "1e3",        "0x0",         "+1",
		" 1",         "1 ",         "1:",          ":1",
		":",          "1:2:3",      "00",          "01",
		"neg",        "big",        "nobody-here", "root:none",
		"root:huge",  "a/b",        "root\n",      "",
		"1:-1"};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
		struct spec_user user = {};
		struct why why = {};

		if (!*texts[i])
			continue;
		if (resolve(texts[i], passwd, group, &user, &why) != SPEC_E_INVALID || !why.text[0])
			fail_msg("'%s' was taken", texts[i]);
	}
}

static void test_a_user_in_too_many_groups_is_refused(void **state)
{
	_cleanup_(cleanup_free) char *many = malloc(2000 * 24);
	struct spec_user user = {};
	struct why why = {};
	size_t size = 0;

	(void)state;
	for (unsigned i = 0; i < 1100; i++)
		size += (size_t)sprintf(many + size, "g%u:x:%u:www\n", i, i + 100);
	assert_int_equal(resolve("www", passwd, many, &user, &why), SPEC_E_INVALID);
	assert_non_null(strstr(why.text, "groups"));
}

TEST_MAIN(cmocka_unit_test(test_names_and_numbers_give_the_groups_of_the_files),
	  cmocka_unit_test(test_numbers_need_no_files),
	  cmocka_unit_test(test_numbers_that_would_wrap_or_hide_something_are_refused),
	  cmocka_unit_test(test_a_user_in_too_many_groups_is_refused))
