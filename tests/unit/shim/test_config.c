#include <stdio.h>
#include <string.h>

#include "broker/lib/cleanup.h"
#include "broker/lib/file.h"
#include "shim/config.h"
#include "tests/lib/main.h"

static struct shim_config good(void)
{
	return (struct shim_config){
		.task_id = (char *)"0123456789abcdef0123456789abcdef",
		.namespace = (char *)"default",
		.container_id = (char *)"web",
		.bundle = (char *)"/run/davit/bundles/x",
		.socket = (char *)"/run/davit/s/x",
		.bus = (char *)"/run/davit/bus.sock",
		.runtime_path = (char *)"/usr/bin/crun",
		.oci_root = (char *)"/run/davit/oci",
		.publisher = {(uint8_t *)"0123456789abcdef", 16},
	};
}

static void refuse(const struct shim_config *config, const char *names)
{
	struct why why = {};

	assert_int_equal(config_check(config, &why), -EINVAL);
	if (!strstr(why.text, names))
		fail_msg("'%s' does not name %s", why.text, names);
}

static void good_configuration_comes_back_as_written(void **state)
{
	_cleanup_(cleanup_free) char *path = scratch_path(*state, "shim.msgpack");
	struct shim_config config = good(), back = {};
	struct schema_buffer buffer = {};
	struct why why = {};

	assert_int_equal(schema_pack(schema_shim_config(), &config, &buffer, NULL), 0);
	assert_int_equal(file_write(path, buffer.data, buffer.size, 0600, false, NULL), 0);
	assert_int_equal(config_read(path, &back, &why), 0);
	assert_string_equal(back.container_id, "web");
	shim_config_clear(&back);
	/* Every shorter file is refused by name. */
	for (size_t size = 0; size < buffer.size; size++) {
		why.text[0] = '\0';
		assert_int_equal(file_write(path, buffer.data, size, 0600, false, NULL), 0);
		assert_true(config_read(path, &back, &why) < 0);
		assert_non_null(strstr(why.text, path));
	}
	schema_buffer_clear(&buffer);
}

static void missing_file_is_named(void **state)
{
	_cleanup_(cleanup_free) char *path = scratch_path(*state, "nosuch");
	struct shim_config config;
	struct why why = {};

	assert_int_equal(config_read(path, &config, &why), -ENOENT);
	assert_non_null(strstr(why.text, path));
}

static void each_bad_field_is_named(void **state)
{
	struct shim_config config = good();

	(void)state;
	config.task_id = (char *)"../../etc/passwd................";
	refuse(&config, "task_id");
	config = good();
	config.bundle = (char *)"relative";
	refuse(&config, "bundle");
	config = good();
	config.oci_root = (char *)"/run/../etc";
	refuse(&config, "oci_root");
	config = good();
	config.runtime_path = (char *)"crun";
	refuse(&config, "runtime_path");
	config = good();
	config.container_id = (char *)"a/b";
	refuse(&config, "a/b");
	config = good();
	config.publisher.size = 15;
	refuse(&config, "publisher");
}

TEST_MAIN(TEST_IN_SCRATCH(good_configuration_comes_back_as_written),
	  TEST_IN_SCRATCH(missing_file_is_named), cmocka_unit_test(each_bad_field_is_named))
