/* Labels of collection: what refers to what, and when a lease ends. */

#include "tests/lib/main.h"

#include <errno.h>
#include <string.h>

#include "services/image/labels.h"

static void test_labels_refer_as_containerds_do(void **state)
{
	static const struct {
		const char *key, *snapshotter;
		enum label_reference expected;
	} cases[] = {
		{"containerd.io/gc.ref.content", NULL, LABEL_CONTENT},
		{"containerd.io/gc.ref.content.0", NULL, LABEL_CONTENT},
		{"containerd.io/gc.ref.content.config", NULL, LABEL_CONTENT},
		{"containerd.io/gc.ref.content/x", NULL, LABEL_CONTENT},
		{"containerd.io/gc.ref.contents", NULL, LABEL_NONE},
		{"containerd.io/gc.ref.snapshot.overlayfs", "overlayfs", LABEL_SNAPSHOT},
		{"containerd.io/gc.ref.snapshot.native/2", "native", LABEL_SNAPSHOT},
		{"containerd.io/gc.ref.snapshot.", NULL, LABEL_NONE},
		{"containerd.io/gc.ref.snapshot./x", NULL, LABEL_NONE},
		{"containerd.io/gc.ref.image", NULL, LABEL_IMAGE},
		{"containerd.io/gc.ref.image.base", NULL, LABEL_IMAGE},
		{"containerd.io/gc.ref.images", NULL, LABEL_NONE},
		{"containerd.io/gc.ref.container", NULL, LABEL_NONE},
		{"containerd.io/gc.bref.content", NULL, LABEL_NONE},
		{"containerd.io/gc.root", NULL, LABEL_NONE},
		{"", NULL, LABEL_NONE},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		char snapshotter[LABEL_SNAPSHOTTER_SIZE] = "";

		assert_int_equal(label_reference(cases[i].key, snapshotter), cases[i].expected);
		assert_string_equal(snapshotter, cases[i].snapshotter ?: "");
	}
}

static void test_labels_refer_back_as_containerds_do(void **state)
{
	static const struct {
		const char *key, *snapshotter;
		enum label_reference expected;
	} cases[] = {
		{"containerd.io/gc.bref.content", NULL, LABEL_CONTENT},
		{"containerd.io/gc.bref.content.0", NULL, LABEL_CONTENT},
		{"containerd.io/gc.bref.image/x", NULL, LABEL_IMAGE},
		{"containerd.io/gc.bref.container", NULL, LABEL_CONTAINER},
		{"containerd.io/gc.bref.containers", NULL, LABEL_NONE},
		{"containerd.io/gc.bref.snapshot.overlayfs", "overlayfs", LABEL_SNAPSHOT},
		{"containerd.io/gc.bref.snapshot.native/2", "native", LABEL_SNAPSHOT},
		{"containerd.io/gc.bref.snapshot", NULL, LABEL_NONE},
		{"containerd.io/gc.ref.content", NULL, LABEL_NONE},
		{"", NULL, LABEL_NONE},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		char snapshotter[LABEL_SNAPSHOTTER_SIZE] = "";

		assert_int_equal(label_back_reference(cases[i].key, snapshotter),
				 cases[i].expected);
		assert_string_equal(snapshotter, cases[i].snapshotter ?: "");
	}
}

static void test_a_root_is_one_for_good_or_until_its_end(void **state)
{
	static const struct {
		const char *key, *value;
		uint64_t now, end;
		bool is_root;
	} cases[] = {
		{LABEL_ROOT, "anything", 5, UINT64_MAX, true},
		{LABEL_EXPIRE, "1970-01-01T00:00:01Z", 999999999, 1000000000, true},
		{LABEL_EXPIRE, "1970-01-01T00:00:01Z", 1000000000, 1000000000, false},
		{LABEL_EXPIRE, "soon", 5, UINT64_MAX, false},
		{"containerd.io/gc.bref.content", "x", 5, UINT64_MAX, false},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct schema_pair pair = {(char *)cases[i].key, (char *)cases[i].value};
		struct schema_map labels = {&pair, 1};
		uint64_t end;

		assert_int_equal(label_is_root(&labels, cases[i].now, &end), cases[i].is_root);
		assert_true(end == cases[i].end);
		assert_true(label_says_how_long(&labels));
	}
	assert_false(label_says_how_long(&(struct schema_map){}));
}

static void test_a_snapshotters_name_that_is_too_long_refers_to_nothing(void **state)
{
	char key[256] = "containerd.io/gc.ref.snapshot.", snapshotter[LABEL_SNAPSHOTTER_SIZE];

	(void)state;
	memset(key + strlen(key), 'x', LABEL_SNAPSHOTTER_SIZE);
	assert_int_equal(label_reference(key, snapshotter), LABEL_NONE);
}

static void test_times_are_read_as_rfc_3339_has_them(void **state)
{
	static const struct {
		const char *text;
		uint64_t ns;
	} cases[] = {
		{"1970-01-01T00:00:01Z", 1000000000},
		{"2026-11-28T12:00:00Z", 1795867200000000000},
		{"2026-11-28T12:00:00.25Z", 1795867200250000000},
		{"2026-11-28T13:30:00.000000001+01:30", 1795867200000000001},
		{"2026-11-28T11:00:00-01:00", 1795867200000000000},
	};
	static const char *const bad[] = {"",
					  "soon",
					  "2026-11-28",
					  "2026-11-28T12:00:00",
					  "2026-11-28T12:00:00+1:00",
					  "2026-11-28T12:00:00+01:99",
					  "2026-11-28T12:00:00Zx",
					  "2026-13-28T12:00:00Z",
					  "1960-01-01T00:00:00Z",
					  "9999-01-01T00:00:00Z"};
	uint64_t ns;

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		assert_int_equal(label_parse_time(cases[i].text, &ns), 0);
		assert_int_equal(ns, cases[i].ns);
	}
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(label_parse_time(bad[i], &ns), -EINVAL);
}

static void test_a_time_that_is_written_is_read_again(void **state)
{
	char text[LABEL_TIME_SIZE];
	uint64_t ns;

	(void)state;
	label_format_time(1795867200999999999, text);
	assert_string_equal(text, "2026-11-28T12:00:00Z");
	assert_int_equal(label_parse_time(text, &ns), 0);
	assert_int_equal(ns, 1795867200000000000);
}

static void test_a_label_that_cannot_be_read_ends_nothing(void **state)
{
	struct schema_pair label = {.key = (char *)LABEL_EXPIRE, .value = (char *)"soon"};
	struct schema_map labels = {&label, 1}, none = {};

	(void)state;
	assert_true(label_expiry(&labels) == UINT64_MAX);
	assert_true(label_expiry(&none) == UINT64_MAX);
	label.value = (char *)"1970-01-01T00:00:01Z";
	assert_int_equal(label_expiry(&labels), 1000000000);
}

TEST_MAIN(cmocka_unit_test(test_labels_refer_as_containerds_do),
	  cmocka_unit_test(test_labels_refer_back_as_containerds_do),
	  cmocka_unit_test(test_a_root_is_one_for_good_or_until_its_end),
	  cmocka_unit_test(test_a_snapshotters_name_that_is_too_long_refers_to_nothing),
	  cmocka_unit_test(test_times_are_read_as_rfc_3339_has_them),
	  cmocka_unit_test(test_a_time_that_is_written_is_read_again),
	  cmocka_unit_test(test_a_label_that_cannot_be_read_ends_nothing))
