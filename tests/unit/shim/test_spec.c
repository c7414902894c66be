#include <stdlib.h>
#include <string.h>

#include "broker/lib/cleanup.h"
#include "shim/spec.h"
#include "tests/lib/main.h"

static const char whole[] =
	"{ \"ociVersion\" : \"1.0.0\", \"root\": {\"path\": \"rootfs\", \"readonly\": true},\n"
	"\"process\": {\"args\": [\"a\", {\"cwd\": 1}], \"cwd\": \"\\/w\\u006frk\", \"terminal\": false,"
	"\"user\": {\"uid\": 1000, \"gid\": 7, \"additionalGids\": [1, 2]},"
	"\"capabilities\": {\"bounding\": [\"CAP_KILL\"], \"inheritable\": [ ]}}, \"x\": -1.5e3 }";

static int parse(const char *text, struct spec *spec)
{
	struct schema_fault fault = {};

	return spec_parse(text, strlen(text), spec, &fault);
}

static void values_are_found_where_they_stand(void **state)
{
	struct spec spec = {};

	(void)state;
	assert_int_equal(parse(whole, &spec), 0);
	assert_string_equal(spec.root, "rootfs");
	assert_string_equal(spec.cwd, "/work");
	assert_true(spec.has_uid && spec.has_gid);
	assert_int_equal(spec.uid, 1000);
	assert_int_equal(spec.gid, 7);
	assert_false(spec.has_inheritable);
	spec_clear(&spec);
}

static void every_truncation_is_refused(void **state)
{
	struct spec spec = {};

	(void)state;
	for (size_t size = 0; size + 1 < sizeof(whole) - 1; size++) {
		/* A copy of the exact size, so that reading past it is seen. */
		_cleanup_(cleanup_free) char *text = malloc(size + 1);

		memcpy(text, whole, size);
		assert_int_equal(spec_parse(text, size, &spec, NULL), SPEC_E_INVALID);
	}
}

static void refuse(const char *text)
{
	struct spec spec = {};

	if (parse(text, &spec) != SPEC_E_INVALID)
		fail_msg("taken: %s", text);
}

static void what_runtimes_could_read_differently_is_refused(void **state)
{
	(void)state;
	refuse("{\"process\":{\"cwd\":\"/\",\"cwd\":\"/proc\"}}");
	refuse("{\"process\":{\"cwd\":\"/\",\"CWD\":\"/proc\"}}");
	refuse("{\"process\":{\"cwd\":\"/\",\"c\\u0077d\":\"/proc\"}}");
	refuse("{\"process\":{\"cwd\":\"/\"},\"Process\":{\"cwd\":\"/proc\"}}");
	refuse("{\"root\":{\"path\":\"a\"},\"root\":{\"path\":\"b\"}}");
	refuse("{\"process\":{\"cwd\":\"/\\u0000\"}}");
	refuse("{\"process\":{\"cwd\":7}}");
}

static void ids_that_are_no_numbers_are_refused(void **state)
{
	(void)state;
	refuse("{\"process\":{\"user\":{\"uid\":\"root\"}}}");
	refuse("{\"process\":{\"user\":{\"uid\":-1}}}");
	refuse("{\"process\":{\"user\":{\"uid\":2147483648}}}");
	refuse("{\"process\":{\"user\":{\"uid\":4294967296}}}");
	refuse("{\"process\":{\"user\":{\"gid\":1e3}}}");
	refuse("{\"process\":{\"user\":{\"gid\":1.0}}}");
}

static void inheritable_capabilities_are_seen(void **state)
{
	struct spec spec = {};

	(void)state;
	assert_int_equal(
		parse("{\"process\":{\"capabilities\":{\"inheritable\":[\"CAP_KILL\"]}}}", &spec),
		0);
	assert_true(spec.has_inheritable);
	spec_clear(&spec);
	assert_int_equal(parse("{\"process\":{\"capabilities\":{\"inheritable\":null}}}", &spec),
			 0);
	assert_false(spec.has_inheritable);
	spec_clear(&spec);
}

static void depth_without_end_is_refused(void **state)
{
	char text[4096] = "{\"a\":";

	(void)state;
	memset(text + 5, '[', sizeof(text) - 6);
	refuse(text);
	refuse("{} {}");
	refuse("[]");
	refuse("");
}

TEST_MAIN(cmocka_unit_test(values_are_found_where_they_stand),
	  cmocka_unit_test(every_truncation_is_refused),
	  cmocka_unit_test(what_runtimes_could_read_differently_is_refused),
	  cmocka_unit_test(ids_that_are_no_numbers_are_refused),
	  cmocka_unit_test(inheritable_capabilities_are_seen),
	  cmocka_unit_test(depth_without_end_is_refused))
