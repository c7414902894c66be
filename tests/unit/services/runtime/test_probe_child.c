#include <string.h>

#include "services/runtime/host.h"
#include "services/runtime/probe.h"
#include "tests/lib/main.h"

static bool has_feature(const struct runtime_record *record, const char *name)
{
	for (size_t i = 0; i < record->features.count; i++)
		if (!strcmp(record->features.items[i], name))
			return true;
	return false;
}

static void test_a_version_is_its_first_line_and_its_features(void **state)
{
	_cleanup_(runtime_record_clear) struct runtime_record record = {};

	(void)state;
	assert_int_equal(
		probe_read_version("crun version 1.8.1\ncommit: x\n+SYSTEMD +SECCOMP +EBPF\n",
				   &record),
		0);
	assert_string_equal(record.version, "crun version 1.8.1");
	assert_true(has_feature(&record, "systemd"));
	assert_true(has_feature(&record, "seccomp"));
	assert_true(has_feature(&record, "ebpf"));
	assert_int_equal(record.features.count, 3);
}

static void test_odd_answers_do_no_harm(void **state)
{
	_cleanup_(cleanup_free) char *longest = malloc(60000);
	static const char *const texts[] = {"",       "\n",  "+",  "+ +\n", "+a",
					    "\n\n+A", "+++", "{}", "[",     "{\"linux\":7}"};

	(void)state;
	memset(longest, '+', 59999);
	longest[59999] = '\0';
	for (size_t i = 0; i <= ARRAY_SIZE(texts); i++) {
		_cleanup_(runtime_record_clear) struct runtime_record record = {};
		const char *text = i < ARRAY_SIZE(texts) ? texts[i] : longest;

		assert_int_equal(probe_read_version(text, &record), 0);
		assert_int_equal(probe_read_features(text, &record), 0);
		assert_true(strlen(record.version) < 128);
	}
}

static void test_the_features_document_is_read(void **state)
{
	_cleanup_(runtime_record_clear) struct runtime_record record = {};

	(void)state;
	assert_int_equal(
		probe_read_features(
			"{\"linux\":{\"seccomp\":{\"enabled\":true},\"selinux\":{\"enabled\":false},"
			"\"cgroup\":{\"systemd\":true}}}",
			&record),
		0);
	assert_true(has_feature(&record, "seccomp"));
	assert_true(has_feature(&record, "systemd"));
	assert_false(has_feature(&record, "selinux"));
}

static void test_this_hosts_cgroup_mode_is_told_by_what_is_mounted(void **state)
{
	const struct scratch *scratch = *state;
	bool detach = true;

	assert_int_equal(cgroup_mode_read(scratch->dir, &detach), CGROUP_V1);
	assert_false(detach);
}

static void test_a_state_directory_has_a_cgroup_name_of_its_own(void **state)
{
	char one[16], two[16];

	(void)state;
	host_cgroup_parent("/run/davit", one);
	host_cgroup_parent("/run/davit2", two);
	assert_int_equal(strlen(one), strlen("davit-00000000"));
	assert_string_not_equal(one, two);
}

TEST_MAIN(cmocka_unit_test(test_a_version_is_its_first_line_and_its_features),
	  cmocka_unit_test(test_odd_answers_do_no_harm),
	  cmocka_unit_test(test_the_features_document_is_read),
	  TEST_IN_SCRATCH(test_this_hosts_cgroup_mode_is_told_by_what_is_mounted),
	  cmocka_unit_test(test_a_state_directory_has_a_cgroup_name_of_its_own))
