/* containerd's filters. */

#include "tests/lib/main.h"

#include <stdlib.h>
#include <string.h>

#include "schemas/filter.h"
#include "schemas/messages.h"

static const struct container_record *sample(void)
{
	static struct schema_pair labels[] = {{(char *)"tier", (char *)"web"},
					      {(char *)"com.example.a", (char *)"x y"},
					      {(char *)"empty", (char *)""}};
	static struct container_record record = {
		.id = (char *)"web-1",
		.image = (char *)"docker.io/library/busybox:latest",
		.runtime = (char *)"crun",
		.created_at_ns = 77,
		.auto_remove = true,
		.labels = {labels, 3}};
	return &record;
}

static bool matches(const struct schema_message *schema, const void *message, const char *text)
{
	char *items[] = {(char *)text};
	struct schema_strs filters = {items, 1};
	struct schema_fault fault = {};
	struct filter *filter = NULL;
	bool found;

	if (filter_parse(&filters, &filter, &fault))
		fail_msg("'%s': %s", text, fault.text);
	found = filter_match_message(filter, schema, message);
	filter_free(filter);
	return found;
}

static void test_selectors_match_what_they_say(void **state)
{
	static const struct {
		const char *filter;
		bool matches;
	} cases[] = {
		{"", true},
		{"  ", true},
		{"id", true},
		{"snapshotter", false},
		{"id==web-1", true},
		{"id==web-2", false},
		{"id!=web-2", true},
		{"id!=web-1", false},
		{"snapshotter!=overlayfs", true}, /* absent is different, as in containerd */
		{"snapshotter==overlayfs", false},
		{"id == web-1", true},
		{" id==web-1 , labels.tier==web ", true},
		{"id==web-1,labels.tier==db", false},
		{"labels.tier", true},
		{"labels.none", false},
		{"labels.empty", true},
		{"labels.empty==\"\"", true},
		{"labels.none==\"\"", false},
		{"labels.com.example.a==\"x y\"", true},
		{"labels.\"com.example.a\"==\"x y\"", true},
		{"labels.\"com.example\".a==\"x y\"", true},
		{"\"id\"==web-1", true},
		{"id==\"web\\x2d1\"", true},
		{"id==\"web\\0551\"", true},
		{"id==\"web\\u002d1\"", true},
		{"id==\"web\\U0000002d1\"", true},
		{"id~=web", true},
		{"id~=/^web-[0-9]+$/", true},
		{"id~=/^web-\\d$/", true},
		{"id~=|^web|", true},
		{"id~=\"^(web|db)-\\\\d$\"", true},
		{"image~=/library\\/busy/", true},
		{"image==docker.io/library/busybox:latest", true},
		{"id~=^eb", false},
		{"runtime.name==crun", true},
		{"runtime==crun", true},
		{"runtime.options==x", false},
		{"created_at_ns==77", true},
		{"createdatns==77", true},
		{"auto_remove==true", true},
		{"no_such_field", false},
		{"no.such.field!=x", true},
		{"labels", false},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		if (matches(schema_container_record(), sample(), cases[i].filter) !=
		    cases[i].matches)
			fail_msg("'%s'", cases[i].filter);
	}
}

static void test_fields_of_nested_messages_and_enums_are_found(void **state)
{
	struct descriptor target = {.digest = (char *)"sha256:00",
				    .media_type = (char *)"application/x"};
	struct image_record image = {.name = (char *)"busybox", .target = &target};
	struct snapshot_record snapshot = {.key = (char *)"k", .kind = SNAPSHOT_COMMITTED};

	(void)state;
	assert_true(matches(schema_image_record(), &image, "target.digest==sha256:00"));
	assert_true(matches(schema_image_record(), &image, "target.mediatype==application/x"));
	assert_true(matches(schema_image_record(), &image, "name~=busy,target.digest"));
	assert_false(matches(schema_image_record(), &image, "target"));
	assert_true(matches(schema_snapshot_record(), &snapshot, "kind==committed"));
	assert_false(matches(schema_snapshot_record(), &snapshot, "parent"));
}

static void test_a_bad_filter_is_refused_with_its_place(void **state)
{
	static const struct {
		const char *filter, *fault;
	} cases[] = {
		{"id=web", "filter 1, character 3: ==, !=, ~= or , is wanted here"},
		{"id==", "filter 1, character 5: a value is wanted here"},
		{"id~=", "filter 1, character 5: a value is wanted here"},
		{"id==a b", "filter 1, character 7: the end or , is wanted here"},
		{",id", NULL},
		{"id,", NULL},
		{"id,,id", NULL},
		{".id", NULL},
		{"id.", NULL},
		{"my-label==x", NULL},
		{"id==\"abc", "filter 1, character 9: a quoted text does not end"},
		{"id==\"\\q\"", NULL},
		{"id==\"\\x0\"", NULL},
		{"id==\"\\x00\"", NULL},
		{"id==\"\\400\"", NULL},
		{"id==\"\\ud800\"", NULL},
		{"id==\"\\U00110000\"", NULL},
		{"id~=/abc", NULL},
		{"id~=/(/",
		 "filter 1, character 8: the regular expression before this has a ( without )"},
		{"id~=(a)\\1", NULL},
		{"!", NULL},
	};
	struct schema_fault fault;
	struct filter *filter;

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		char *items[] = {(char *)cases[i].filter};
		struct schema_strs filters = {items, 1};

		fault.text[0] = '\0';
		if (filter_parse(&filters, &filter, &fault) != SCHEMA_E_VALUE)
			fail_msg("'%s' was accepted", cases[i].filter);
		assert_non_null(strstr(fault.text, "filter 1, character "));
		if (cases[i].fault)
			assert_string_equal(fault.text, cases[i].fault);
		assert_int_equal(filter_parse(&filters, &filter, NULL), SCHEMA_E_VALUE);
	}
}

static bool match_list(char **items, size_t count)
{
	struct schema_strs filters = {items, count};
	struct filter *filter = NULL;
	bool found;

	assert_int_equal(filter_parse(&filters, &filter, NULL), 0);
	found = filter_match_message(filter, schema_container_record(), sample());
	filter_free(filter);
	return found;
}

static void test_several_filters_are_alternatives(void **state)
{
	(void)state;
	assert_true(match_list(NULL, 0));
	assert_true(match_list((char *[]){(char *)"id==x", (char *)"id==web-1"}, 2));
	assert_false(match_list((char *[]){(char *)"id==x", (char *)"id==y,id==web-1"}, 2));
	assert_true(match_list((char *[]){(char *)"id==x", (char *)""}, 2));
}

static void test_an_empty_filter_is_known(void **state)
{
	struct schema_strs none = {}, one = {};
	struct filter *filter = NULL;

	(void)state;
	assert_int_equal(filter_parse(&none, &filter, NULL), 0);
	assert_true(filter_is_empty(filter));
	filter_freep(&filter);
	assert_null(filter);
	schema_strs_add(&one, "id");
	assert_int_equal(filter_parse(&one, &filter, NULL), 0);
	assert_false(filter_is_empty(filter));
	filter_free(filter);
	schema_strs_clear(&one);
}

static void test_numbers_and_sizes_are_bounded(void **state)
{
	struct schema_strs many = {}, longer = {}, selectors = {}, regexes = {}, fields = {};
	char text[5000] = "";
	struct filter *filter;

	(void)state;
	for (int i = 0; i < 65; i++)
		schema_strs_add(&many, "id");
	assert_int_equal(filter_parse(&many, &filter, NULL), SCHEMA_E_VALUE);
	memset(text, 'a', 4097);
	schema_strs_add(&longer, text);
	assert_int_equal(filter_parse(&longer, &filter, NULL), SCHEMA_E_VALUE);
	strcpy(text, "id");
	for (int i = 0; i < 256; i++)
		strcat(text, ",id");
	schema_strs_add(&selectors, text);
	assert_int_equal(filter_parse(&selectors, &filter, NULL), SCHEMA_E_VALUE);
	strcpy(text, "id~=a");
	for (int i = 0; i < 64; i++)
		strcat(text, ",id~=a");
	schema_strs_add(&regexes, text);
	assert_int_equal(filter_parse(&regexes, &filter, NULL), SCHEMA_E_VALUE);
	strcpy(text, "a");
	for (int i = 0; i < 32; i++)
		strcat(text, ".b");
	schema_strs_add(&fields, text);
	assert_int_equal(filter_parse(&fields, &filter, NULL), SCHEMA_E_VALUE);
	schema_strs_clear(&many);
	schema_strs_clear(&longer);
	schema_strs_clear(&selectors);
	schema_strs_clear(&regexes);
	schema_strs_clear(&fields);
}

static const char *field_of_pair(void *userdata, const char *const *path, size_t n_path,
				 char *scratch)
{
	if (n_path != 2 || strcmp(path[0], "event") != 0)
		return NULL;
	strcpy(scratch, userdata);
	strcat(scratch, path[1]);
	return scratch;
}

static void test_a_caller_can_give_fields_of_its_own(void **state)
{
	char *items[] = {(char *)"event.id==prefix-id"};
	struct schema_strs filters = {items, 1};
	struct filter *filter = NULL;
	char other[] = "other-", prefix[] = "prefix-";

	(void)state;
	assert_int_equal(filter_parse(&filters, &filter, NULL), 0);
	assert_true(filter_match(filter, field_of_pair, prefix));
	assert_false(filter_match(filter, field_of_pair, other));
	filter_free(filter);
}

TEST_MAIN(cmocka_unit_test(test_selectors_match_what_they_say),
	  cmocka_unit_test(test_fields_of_nested_messages_and_enums_are_found),
	  cmocka_unit_test(test_a_bad_filter_is_refused_with_its_place),
	  cmocka_unit_test(test_several_filters_are_alternatives),
	  cmocka_unit_test(test_an_empty_filter_is_known),
	  cmocka_unit_test(test_numbers_and_sizes_are_bounded),
	  cmocka_unit_test(test_a_caller_can_give_fields_of_its_own))
