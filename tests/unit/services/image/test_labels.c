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

static void test_durations_are_read_as_go_has_them(void **state)
{
	static const struct {
		const char *text;
		uint64_t ns;
	} cases[] = {
		{"0", 0},
		{"0s", 0},
		{"72h", 259200000000000},
		{"+1h30m", 5400000000000},
		{"1.5s", 1500000000},
		{".5s", 500000000},
		{"1.s", 1000000000},
		{"300ms2us1ns", 300002001},
		{"1\xc2\xb5s", 1000},
	};
	static const char *const bad[] = {"",     "1",      "h",     "-1h",     "1d",
					  "1h ",  "1.2.3s", "1..s",  ".s",      "0x10s",
					  "1e3s", "infs",   "1hh",   "1h30",    "++1s",
					  "nans", "1 h",    "9e99h", "3000000h"};
	char digits[80] = {};
	uint64_t ns;

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		assert_int_equal(label_parse_duration(cases[i].text, &ns), 0);
		assert_int_equal(ns, cases[i].ns);
	}
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(label_parse_duration(bad[i], &ns), -EINVAL);
	memset(digits, '1', 78);
	digits[78] = 's';
	assert_int_equal(label_parse_duration(digits, &ns), -EINVAL);
}

static void test_a_condition_names_a_snapshot(void **state)
{
	static const struct {
		const char *key, *value, *snapshotter, *name;
	} cases[] = {
		{LABEL_CONDITION ".overlayfs", "usedat<1h|k", "overlayfs", "k"},
		{LABEL_CONDITION "/native", "|a|b", "native", "a|b"},
		{LABEL_CONDITION ".overlayfs/2", "usedat<1h|k", "overlayfs", "k"},
		{LABEL_CONDITION ".overlayfs", "usedat<1h", "", NULL},
		{LABEL_CONDITION, "usedat<1h|k", "", NULL},
		{LABEL_USED_AT, "x|k", "", NULL},
		{"containerd.io/gc.bref.snapshot.overlayfs", "x|k", "", NULL},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct schema_pair label = {(char *)cases[i].key, (char *)cases[i].value};
		char snapshotter[LABEL_SNAPSHOTTER_SIZE] = "";
		const char *name = label_condition(&label, snapshotter);

		assert_int_equal(!name, !cases[i].name);
		if (name)
			assert_string_equal(name, cases[i].name);
		assert_string_equal(snapshotter, cases[i].snapshotter);
	}
}

static void test_a_condition_compares_when_a_snapshot_was_used(void **state)
{
	static const struct {
		const char *value;
		unsigned ago;
		bool is_true;
		uint64_t end; /* seconds after it was used; 0: for good */
	} cases[] = {
		{"usedat<1m|k", 59, true, 60},
		{"usedat<1m|k", 60, false, 0},
		{"usedat>1m|k", 60, false, 0},
		{"usedat>1m|k", 61, true, 0},
		{"usedat<1s,usedat<1m|k", 30, true, 60},
		{"usedat<1m,usedat<1h,usedat<1s|k", 30, true, 3600},
		{"usedat<1m,usedat>10s|k", 30, true, 0},
		{"usedat<=1m|k", 30, false, 0},
		{"usedat=1m|k", 60, false, 0},
		{"usedat!=1m|k", 30, false, 0},
		{"usedat|k", 30, false, 0},
		{"usedat<|k", 30, false, 0},
		{"usedat<never,usedat<1m|k", 30, true, 60},
		{"created<1m|k", 30, false, 0},
		{",,|k", 30, false, 0},
		{"|usedat<1m", 30, false, 0},
	};
	const uint64_t used = 1795867200000000000, second = 1000000000;
	struct schema_pair value = {(char *)LABEL_USED_AT, (char *)"2026-11-28T12:00:00Z"};
	struct schema_map labels = {&value, 1};
	uint64_t end;

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct schema_pair label = {(char *)LABEL_CONDITION ".native",
					    (char *)cases[i].value};

		assert_int_equal(
			label_condition_holds(&label, &labels, used + cases[i].ago * second, &end),
			cases[i].is_true);
		assert_false(label_condition_holds(&label, &(struct schema_map){}, used, &end));
		label_condition_holds(&label, &labels, used + cases[i].ago * second, &end);
		if (cases[i].is_true)
			assert_true(end ==
				    (cases[i].end ? used + cases[i].end * second : UINT64_MAX));
	}
	/* What will be used was used just now. */
	assert_true(label_condition_holds(
		&(struct schema_pair){(char *)LABEL_CONDITION ".native", (char *)"usedat<1s|k"},
		&labels, used - second, &end));
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
	  cmocka_unit_test(test_durations_are_read_as_go_has_them),
	  cmocka_unit_test(test_a_condition_names_a_snapshot),
	  cmocka_unit_test(test_a_condition_compares_when_a_snapshot_was_used),
	  cmocka_unit_test(test_times_are_read_as_rfc_3339_has_them),
	  cmocka_unit_test(test_a_time_that_is_written_is_read_again),
	  cmocka_unit_test(test_a_label_that_cannot_be_read_ends_nothing))
