#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>

#include "broker/lib/cleanup.h"
#include "shim/mount_options.h"
#include "tests/lib/main.h"

static int parse(const char *const *texts, size_t n, struct mount_options *options)
{
	struct schema_strs strs = {(char **)texts, n};
	struct schema_fault fault = {};

	return mount_options_parse(&strs, options, &fault);
}

static void flags_layers_and_data_are_told_apart(void **state)
{
	static const char *const texts[] = {"ro",           "nosuid",      "lowerdir=/a:/b\\:c:/d",
					    "lowerdir+=/e", "upperdir=/u", "index=off",
					    "rprivate",     "rw"};
	_cleanup_(mount_options_clear) struct mount_options options = {};
	_cleanup_(cleanup_free) char *joined = NULL;

	(void)state;
	assert_int_equal(parse(texts, ARRAY_SIZE(texts), &options), 0);
	assert_int_equal(options.flags, MS_NOSUID);
	assert_int_equal(options.propagation, MS_PRIVATE | MS_REC);
	assert_int_equal(options.layers.count, 4);
	assert_string_equal(options.layers.items[1], "/b:c");
	assert_string_equal(options.layers.items[3], "/e");
	assert_int_equal(options.data.count, 2);
	assert_int_equal(mount_options_join(&options, &joined), 0);
	assert_string_equal(joined, "lowerdir=/a:/b\\:c:/d:/e,upperdir=/u,index=off");
}

static void bind_is_seen(void **state)
{
	static const char *const texts[] = {"rbind", "ro"};
	_cleanup_(mount_options_clear) struct mount_options options = {};

	(void)state;
	assert_int_equal(parse(texts, 2, &options), 0);
	assert_true(options.is_bind && options.is_recursive);
	assert_int_equal(options.flags, MS_RDONLY);
}

static void shared_mounts_and_empty_layers_are_refused(void **state)
{
	static const char *const bad[] = {"shared", "rshared", "lowerdir=", "lowerdir=/a::/b",
					  "lowerdir=/a:"};
	struct mount_options options;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(parse(&bad[i], 1, &options), -EINVAL);
}

TEST_MAIN(cmocka_unit_test(flags_layers_and_data_are_told_apart), cmocka_unit_test(bind_is_seen),
	  cmocka_unit_test(shared_mounts_and_empty_layers_are_refused))
