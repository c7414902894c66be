#include <string.h>

#include "schemas/json.h"
#include "services/runtime/spec.h"
#include "tests/lib/main.h"

static struct spec_host host = {.capabilities = (UINT64_C(1) << 41) - 1};

static const char spec[] =
	"{\"ociVersion\":\"1.0.2\",\"process\":{\"args\":[\"init\"],\"cwd\":\"/srv\",\"env\":[\"A=1\",\"B=2\"],"
	"\"terminal\":true,\"consoleSize\":{\"width\":1,\"height\":1},\"noNewPrivileges\":true,"
	"\"user\":{\"uid\":1,\"gid\":2,\"additionalGids\":[3]},"
	"\"capabilities\":{\"bounding\":[\"CAP_KILL\"],\"effective\":[\"CAP_KILL\"],"
	"\"permitted\":[\"CAP_KILL\"],\"inheritable\":[\"CAP_KILL\"]},"
	"\"rlimits\":[{\"type\":\"RLIMIT_NOFILE\",\"hard\":1048576,\"soft\":1024}]}}";

static int setup(void **state)
{
	(void)state;
	for (size_t i = 0; i < RLIM_NLIMITS; i++)
		host.limits[i] = 20000;
	return 0;
}

static json_t *try_make(const char *request_json, const struct spec_user *user, struct why *why)
{
	_cleanup_(runtime_process_request_clear) struct runtime_process_request request = {};
	_cleanup_(json_cleanup) json_t *json = json_loads(request_json, 0, NULL);
	struct schema_fault fault = {};
	json_t *process = NULL;

	assert_non_null(json);
	assert_int_equal(json_object_set_new(json, "task_id", json_string("x")), 0);
	if (json_to_message(schema_runtime_process_request(), json, &request, &fault))
		fail_msg("%s", fault.text);
	return spec_make_process(&host, spec, &request, user, &process, why) ? NULL : process;
}

static void assert_made(const char *request, const struct spec_user *user, const char *expected)
{
	_cleanup_(json_cleanup) json_t *want = json_loads(expected, 0, NULL);
	_cleanup_(json_cleanup) json_t *process = NULL;
	_cleanup_(cleanup_free) char *text = NULL;
	const char *key;
	json_t *value;
	struct why why = {};

	process = try_make(request, user, &why);
	if (!process)
		fail_msg("%s", why.text);
	text = json_dumps(process, JSON_COMPACT);
	json_object_foreach(want, key, value)
	{
		if (!json_is_null(value) ? !json_equal(value, json_object_get(process, key))
					 : !!json_object_get(process, key))
			fail_msg("%s is not as expected in %s", key, text);
	}
}

static void assert_refused(const char *request, const char *part)
{
	struct why why = {};

	assert_null(try_make(request, NULL, &why));
	if (!strstr(why.text, part))
		fail_msg("'%s' does not have '%s'", why.text, part);
}

static void test_what_is_not_asked_for_is_as_in_the_spec_but_for_the_terminal(void **state)
{
	(void)state;
	assert_made(
		"{\"args\":[\"ls\",\"-l\"]}", NULL,
		"{\"args\":[\"ls\",\"-l\"],\"cwd\":\"/srv\",\"env\":[\"A=1\",\"B=2\"],\"terminal\":false,"
		"\"consoleSize\":null,\"noNewPrivileges\":true,"
		"\"user\":{\"uid\":1,\"gid\":2,\"additionalGids\":[3]},"
		"\"capabilities\":{\"bounding\":[\"CAP_KILL\"],\"effective\":[\"CAP_KILL\"],"
		"\"permitted\":[\"CAP_KILL\"]},"
		"\"rlimits\":[{\"type\":\"RLIMIT_NOFILE\",\"hard\":20000,\"soft\":1024}]}");
}

static void test_environment_is_added_and_replaced_and_a_name_alone_takes_away(void **state)
{
	(void)state;
	assert_made("{\"args\":[\"ls\"],\"env\":[\"C=3\",\"B=x\",\"A\"]}", NULL,
		    "{\"env\":[\"B=x\",\"C=3\"]}");
	assert_refused("{\"args\":[\"ls\"],\"env\":[\"=x\"]}", "has no name");
}

static void test_a_terminal_has_a_size_and_a_type(void **state)
{
	(void)state;
	assert_made(
		"{\"args\":[\"sh\"],\"terminal\":true,\"console_width\":80,\"console_height\":24}",
		NULL,
		"{\"terminal\":true,\"consoleSize\":{\"width\":80,\"height\":24},"
		"\"env\":[\"A=1\",\"B=2\",\"TERM=xterm\"]}");
	assert_made("{\"args\":[\"sh\"],\"terminal\":true,\"env\":[\"TERM=dumb\"]}", NULL,
		    "{\"env\":[\"A=1\",\"B=2\",\"TERM=dumb\"]}");
}

static void test_the_user_is_replaced_with_its_groups(void **state)
{
	uint32_t groups[] = {100, 10};
	struct spec_user user = {.uid = 33, .gid = 100, .groups = groups, .n_groups = 2};
	struct spec_user alone = {.uid = 7, .gid = 8};

	(void)state;
	assert_made("{\"args\":[\"id\"],\"user\":\"www\"}", &user,
		    "{\"user\":{\"uid\":33,\"gid\":100,\"additionalGids\":[100,10]}}");
	assert_made("{\"args\":[\"id\"],\"user\":\"7:8\"}", &alone,
		    "{\"user\":{\"uid\":7,\"gid\":8}}");
}

static void test_capabilities_are_added_and_taken_away_in_all_sets(void **state)
{
	(void)state;
	assert_made("{\"args\":[\"id\"],\"cap_add\":[\"CAP_CHOWN\"],\"cap_drop\":[\"CAP_KILL\"]}",
		    NULL,
		    "{\"capabilities\":{\"bounding\":[\"CAP_CHOWN\"],\"effective\":[\"CAP_CHOWN\"],"
		    "\"permitted\":[\"CAP_CHOWN\"]}}");
	assert_refused("{\"args\":[\"id\"],\"cap_add\":[\"CHOWN\"]}", "not a capability");
	host.capabilities = 1;
	assert_refused("{\"args\":[\"id\"],\"cap_add\":[\"CAP_SYS_ADMIN\"]}", "cannot give it");
	host.capabilities = (UINT64_C(1) << 41) - 1;
}

static void test_a_whole_process_is_taken_and_checked(void **state)
{
	(void)state;
	assert_made(
		"{\"process\":\"{\\\"args\\\":[\\\"x\\\"],\\\"cwd\\\":\\\"/\\\",\\\"terminal\\\":true}\"}",
		NULL, "{\"args\":[\"x\"],\"cwd\":\"/\",\"terminal\":true,\"user\":null}");
	assert_made(
		"{\"process\":\"{\\\"args\\\":[\\\"x\\\"],\\\"cwd\\\":\\\"/\\\"}\",\"args\":[\"y\"],"
		"\"cap_add\":[\"CAP_KILL\"]}",
		NULL,
		"{\"args\":[\"y\"],\"terminal\":false,\"capabilities\":{\"bounding\":[\"CAP_KILL\"],"
		"\"effective\":[\"CAP_KILL\"],\"permitted\":[\"CAP_KILL\"]}}");
	assert_refused("{\"process\":\"{\"}", "OCI process");
	assert_refused("{\"process\":\"[]\"}", "not an object");
	assert_refused("{\"process\":\"{\\\"args\\\":[\\\"x\\\"]}\"}", "cwd");
	assert_refused(
		"{\"process\":\"{\\\"args\\\":[\\\"x\\\"],\\\"cwd\\\":\\\"/proc/self/fd/7\\\"}\"}",
		"could reach the host");
	assert_refused("{\"process\":\"{\\\"args\\\":[\\\"x\\\"],\\\"cwd\\\":\\\"/\\\","
		       "\\\"user\\\":{\\\"uid\\\":\\\"root\\\"}}\"}",
		       "process.user.uid");
	assert_refused("{\"process\":\"{\\\"args\\\":[\\\"x\\\"],\\\"cwd\\\":\\\"/\\\","
		       "\\\"capabilities\\\":{\\\"bounding\\\":7}}\",\"cap_add\":[\"CAP_KILL\"]}",
		       "not lists");
}

static void test_a_command_and_a_harmless_directory_are_needed(void **state)
{
	(void)state;
	assert_refused("{}", "no command");
	assert_refused("{\"args\":[\"\"]}", "no command");
	assert_refused("{\"args\":[\"x\"],\"cwd\":\"/dev/fd/3\"}", "could reach the host");
	assert_refused("{\"args\":[\"x\"],\"cwd\":\"srv\"}", "not an absolute path");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_what_is_not_asked_for_is_as_in_the_spec_but_for_the_terminal),
		cmocka_unit_test(
			test_environment_is_added_and_replaced_and_a_name_alone_takes_away),
		cmocka_unit_test(test_a_terminal_has_a_size_and_a_type),
		cmocka_unit_test(test_the_user_is_replaced_with_its_groups),
		cmocka_unit_test(test_capabilities_are_added_and_taken_away_in_all_sets),
		cmocka_unit_test(test_a_whole_process_is_taken_and_checked),
		cmocka_unit_test(test_a_command_and_a_harmless_directory_are_needed),
	};

	return cmocka_run_group_tests(tests, setup, NULL);
}
