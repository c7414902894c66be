/* Rules for names. */

#include "tests/lib/main.h"

#include <stdlib.h>
#include <string.h>

#include "schemas/check.h"

static char *repeat(char c, size_t n)
{
	char *text = calloc(1, n + 1);

	memset(text, c, n);
	return text;
}

static void test_identifiers_are_containerds(void **state)
{
	static const char *const good[] = {"a", "0", "web", "web-1", "a.b_c-d", "A9", "x.0"};
	static const char *const bad[] = {"",    ".",   "..",  "-a",    "a-",   "a..b",
					  "a/b", "/",   "a b", "a\n",   "a_-b", "é",
					  "a:b", "a%b", "_",   "../etc"};
	char *longest = repeat('a', 76), *longer = repeat('a', 77);

	(void)state;
	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
		assert_true(check_identifier(good[i]));
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_false(check_identifier(bad[i]));
	assert_true(check_identifier(longest));
	assert_false(check_identifier(longer));
	assert_false(check_identifier(NULL));
	free(longest);
	free(longer);
}

static void test_a_bad_identifier_is_explained(void **state)
{
	struct schema_fault fault = {};
	char *longer = repeat('a', 200);

	(void)state;
	assert_int_equal(check_identifier_why("container id", "web", &fault), 0);
	assert_int_equal(check_identifier_why("container id", "a/b", &fault), SCHEMA_E_VALUE);
	assert_string_equal(fault.text,
			    "container id 'a/b' is not made of letters and digits with single "
			    "'.', '_' or '-' between them");
	assert_int_equal(check_identifier_why("container id", "", &fault), SCHEMA_E_VALUE);
	assert_string_equal(fault.text, "container id is empty");
	assert_int_equal(check_identifier_why("container id", longer, &fault), SCHEMA_E_VALUE);
	assert_non_null(strstr(fault.text, "...' is longer than 76 bytes"));
	assert_int_equal(check_identifier_why("container id", "a\033[2J", &fault), SCHEMA_E_VALUE);
	assert_null(strchr(fault.text, '\033'));
	assert_int_equal(check_identifier_why("container id", "..", NULL), SCHEMA_E_VALUE);
	free(longer);
}

static void test_topics_are_identifiers_behind_slashes(void **state)
{
	char longest[300] = "";

	(void)state;
	assert_true(check_topic("/tasks/exit"));
	assert_true(check_topic("/a"));
	assert_false(check_topic("tasks/exit"));
	assert_false(check_topic("/"));
	assert_false(check_topic(""));
	assert_false(check_topic("/tasks/"));
	assert_false(check_topic("//exit"));
	assert_false(check_topic("/tasks/../exit"));
	assert_false(check_topic("/tasks/e x"));
	assert_false(check_topic(NULL));
	for (int i = 0; i < 64; i++)
		strcat(longest, "/abc");
	assert_true(check_topic(longest));
	strcat(longest, "d");
	assert_false(check_topic(longest));
}

static void test_digests_are_sha256_in_lower_case(void **state)
{
	char good[] = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
	char longer[80];

	(void)state;
	assert_true(check_digest(good));
	strcpy(longer, good);
	strcat(longer, "0");
	assert_false(check_digest(longer));
	good[7] = 'A';
	assert_false(check_digest(good));
	good[7] = '/';
	assert_false(check_digest(good));
	good[70] = '\0';
	assert_false(check_digest(good));
	assert_false(check_digest("sha512:00"));
	assert_false(check_digest(""));
	assert_false(check_digest(NULL));
}

static void test_labels_are_bounded(void **state)
{
	struct schema_map labels = {};
	struct schema_fault fault = {};
	char *key = repeat('k', 128), *longer = repeat('k', 129), *value = repeat('v', 4096);
	char name[16] = "a00";

	(void)state;
	assert_int_equal(schema_map_set(&labels, key, "x"), 0);
	assert_int_equal(check_labels(&labels, &fault), 0);
	schema_map_set(&labels, longer, "x");
	assert_int_equal(check_labels(&labels, &fault), SCHEMA_E_VALUE);
	schema_map_clear(&labels);
	schema_map_set(&labels, "a b", "");
	assert_int_equal(check_labels(&labels, &fault), SCHEMA_E_VALUE);
	assert_non_null(strstr(fault.text, "label 'a b'"));
	schema_map_clear(&labels);
	schema_map_set(&labels, "", "x");
	assert_int_equal(check_labels(&labels, NULL), SCHEMA_E_VALUE);
	schema_map_clear(&labels);
	schema_map_set(&labels, "k", value + 1);
	assert_int_equal(check_labels(&labels, &fault), 0);
	schema_map_set(&labels, "k", value);
	assert_int_equal(check_labels(&labels, &fault), SCHEMA_E_VALUE);
	schema_map_clear(&labels);
	for (int i = 0; i < 17; i++) {
		name[1] = (char)('a' + i);
		schema_map_set(&labels, name, value + 3);
	}
	assert_int_equal(check_labels(&labels, &fault), SCHEMA_E_VALUE);
	schema_map_remove(&labels, name);
	assert_int_equal(check_labels(&labels, &fault), 0);
	schema_map_clear(&labels);
	free(key);
	free(longer);
	free(value);
}

static void test_references_cannot_climb(void **state)
{
	char *longest = repeat('a', 512), *longer = repeat('a', 513);

	(void)state;
	assert_true(check_reference("docker.io/library/busybox:latest"));
	assert_true(check_reference("busybox@sha256:00"));
	assert_false(check_reference(""));
	assert_false(check_reference("a b"));
	assert_false(check_reference("a\tb"));
	assert_false(check_reference("a\x7f"));
	assert_false(check_reference("a/../b"));
	assert_false(check_reference("a\xff"));
	assert_false(check_reference(NULL));
	assert_true(check_reference(longest));
	assert_false(check_reference(longer));
	free(longest);
	free(longer);
}

TEST_MAIN(cmocka_unit_test(test_identifiers_are_containerds),
	  cmocka_unit_test(test_a_bad_identifier_is_explained),
	  cmocka_unit_test(test_topics_are_identifiers_behind_slashes),
	  cmocka_unit_test(test_digests_are_sha256_in_lower_case),
	  cmocka_unit_test(test_labels_are_bounded), cmocka_unit_test(test_references_cannot_climb))
