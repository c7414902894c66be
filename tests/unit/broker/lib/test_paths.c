#include <string.h>

#include "broker/lib/paths.h"
#include "tests/lib/main.h"

static int clear_environment(void **state)
{
	(void)state;
	unsetenv("DAVIT_ROOT");
	unsetenv("DAVIT_STATE");
	unsetenv("DAVIT_ADDRESS");
	return 0;
}

static void test_defaults_hold_where_nothing_is_said(void **state)
{
	_cleanup_(paths_deinit) struct paths paths = {};

	(void)state;
	setenv("DAVIT_ROOT", "", 1);
	assert_int_equal(paths_init(&paths, NULL, NULL, NULL, NULL), 0);
	assert_string_equal(paths.root, "/var/lib/davit");
	assert_string_equal(paths.state, "/run/davit");
	assert_string_equal(paths.bus, "/run/davit/bus.sock");
	assert_string_equal(paths.events, "/run/davit/events.sock");
	assert_string_equal(paths.registry, "/run/davit/registry.sock");
}

static void test_the_environment_beats_the_defaults(void **state)
{
	_cleanup_(paths_deinit) struct paths paths = {};

	(void)state;
	setenv("DAVIT_ROOT", "/r", 1);
	setenv("DAVIT_STATE", "/s", 1);
	setenv("DAVIT_ADDRESS", "/a/b/my.sock", 1);
	assert_int_equal(paths_init(&paths, NULL, NULL, NULL, NULL), 0);
	assert_string_equal(paths.root, "/r");
	assert_string_equal(paths.state, "/s");
	assert_string_equal(paths.bus, "/a/b/my.sock");
	assert_string_equal(paths.events, "/a/b/events.sock");
	assert_string_equal(paths.registry, "/s/registry.sock");
}

static void test_flags_beat_the_environment(void **state)
{
	_cleanup_(paths_deinit) struct paths paths = {}, other = {};

	(void)state;
	setenv("DAVIT_ROOT", "/r", 1);
	setenv("DAVIT_STATE", "/s", 1);
	setenv("DAVIT_ADDRESS", "/a/bus.sock", 1);
	assert_int_equal(paths_init(&paths, "/x/", "/y//", NULL, NULL), 0);
	assert_string_equal(paths.root, "/x");
	assert_string_equal(paths.state, "/y");
	assert_string_equal(paths.bus, "/y/bus.sock");
	assert_int_equal(paths_init(&other, NULL, "/y", "/z.sock", NULL), 0);
	assert_string_equal(other.bus, "/z.sock");
	assert_string_equal(other.events, "/events.sock");
}

static void test_an_unclean_path_is_refused_with_a_sentence(void **state)
{
	static const char *const unclean[] = {"",     "/",     "run/davit", "./x", "/a//b",
					      "/a/.", "/../a", "/a/../b",   "//a", "/a/./b"};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(unclean); i++) {
		struct paths paths;
		struct why why = {};

		assert_int_equal(paths_init(&paths, NULL, unclean[i], NULL, &why), -EINVAL);
		assert_non_null(strstr(why.text, "the state directory '"));
		assert_null(paths.state);
		assert_int_equal(paths_init(&paths, unclean[i], NULL, NULL, NULL), -EINVAL);
		assert_int_equal(paths_init(&paths, NULL, NULL, unclean[i], NULL), -EINVAL);
	}
}

static void test_dots_within_a_name_are_fine(void **state)
{
	_cleanup_(paths_deinit) struct paths paths = {};

	(void)state;
	assert_int_equal(paths_init(&paths, "/..a/b..", "/.../.x", NULL, NULL), 0);
}

static void test_a_state_path_has_at_most_sixty_bytes(void **state)
{
	_cleanup_(paths_deinit) struct paths paths = {};
	struct why why = {};
	char text[PATHS_STATE_MAX + 2];
	struct paths refused;

	(void)state;
	memset(text, 'x', sizeof(text));
	text[0] = '/';
	text[PATHS_STATE_MAX + 1] = '\0';
	assert_int_equal(paths_init(&refused, NULL, text, NULL, &why), -ENAMETOOLONG);
	assert_non_null(strstr(why.text, "has 61 bytes, over the limit of 60"));
	text[PATHS_STATE_MAX] = '\0';
	assert_int_equal(paths_init(&paths, NULL, text, NULL, NULL), 0);
}

static void test_an_address_leaves_room_for_the_events_beside_it(void **state)
{
	struct paths paths;
	char text[128];

	(void)state;
	memset(text, 'x', sizeof(text));
	text[0] = '/';
	text[100] = '\0';
	assert_int_equal(paths_init(&paths, NULL, NULL, text, NULL), -ENAMETOOLONG);
	text[90] = '\0';
	assert_int_equal(paths_init(&paths, NULL, NULL, text, NULL), 0);
	paths_deinit(&paths);
}

#define TEST(test) cmocka_unit_test_setup_teardown(test, clear_environment, clear_environment)

TEST_MAIN(TEST(test_defaults_hold_where_nothing_is_said),
	  TEST(test_the_environment_beats_the_defaults), TEST(test_flags_beat_the_environment),
	  TEST(test_an_unclean_path_is_refused_with_a_sentence),
	  TEST(test_dots_within_a_name_are_fine), TEST(test_a_state_path_has_at_most_sixty_bytes),
	  TEST(test_an_address_leaves_room_for_the_events_beside_it))
