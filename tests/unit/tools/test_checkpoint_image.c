/* Checkpoint images: what containerd packs as google.protobuf.Any. */

#include "tools/checkpoint_image.h"

#include <string.h>

#include "tests/lib/main.h"

static void test_an_any_is_packed_as_protobuf_does_and_read_again(void **state)
{
	_cleanup_(schema_buffer_clear) struct schema_buffer any = {};
	const char *value;
	char text[300];
	size_t size;

	(void)state;
	assert_int_equal(any_pack("a/B", "\x28\x01", 2, &any), 0);
	assert_int_equal(any.size, 9);
	assert_memory_equal(any.data,
			    "\x0a\x03"
			    "a/B\x12\x02\x28\x01",
			    9);
	schema_buffer_clear(&any);
	memset(text, 'x', sizeof(text));
	assert_int_equal(any_pack("a/B", text, sizeof(text), &any), 0);
	assert_memory_equal(any.data + 5, "\x12\xac\x02", 3);
	assert_true(any_unpack(any.data, any.size, &value, &size));
	assert_int_equal(size, sizeof(text));
	assert_memory_equal(value, text, size);
	/* Cut anywhere it is none, or has no value yet. */
	for (size_t cut = 0; cut < any.size; cut++)
		assert_false(any_unpack(any.data, cut, &value, &size));
}

static void test_hostile_anys_are_refused(void **state)
{
	static const char *const texts[] = {
		"\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01x",
		"\x12\xff\xff\xff\xff\xff\xff\xff\xff\x7fx",
		"\x12\x02x",
		"\x1a\x01x",
		"{}",
	};
	const char *value;
	size_t size;

	(void)state;
	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
		assert_false(any_unpack(texts[i], strlen(texts[i]), &value, &size));
	assert_false(any_unpack("", 0, &value, &size));
}

static void test_parts_and_notes_are_found_in_an_index(void **state)
{
	static const char text[] =
		"{\"manifests\":[1,{},{\"mediaType\":\"a\"},{\"mediaType\":\"b\","
		"\"digest\":\"d\"}],\"annotations\":{\"k\":\"v\",\"n\":1}}";
	json_t *index = json_parse(text, strlen(text), 4096, NULL);

	(void)state;
	assert_non_null(index);
	assert_string_equal(checkpoint_image_part(index, "b"), "d");
	assert_null(checkpoint_image_part(index, "a"));
	assert_null(checkpoint_image_part(index, "c"));
	assert_string_equal(checkpoint_image_note(index, "k"), "v");
	assert_null(checkpoint_image_note(index, "n"));
	json_decref(index);
}

TEST_MAIN(cmocka_unit_test(test_an_any_is_packed_as_protobuf_does_and_read_again),
	  cmocka_unit_test(test_hostile_anys_are_refused),
	  cmocka_unit_test(test_parts_and_notes_are_found_in_an_index))
