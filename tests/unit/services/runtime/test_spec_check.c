#include <string.h>

#include "broker/lib/file.h"
#include "services/runtime/spec.h"
#include "tests/lib/main.h"

static struct spec_host host;

static const char good[] =
	"{\"ociVersion\":\"1.0.2\",\"process\":{\"args\":[\"sh\"],\"cwd\":\"/\",\"apparmorProfile\":\"mine\",\"user\":{\"uid\":1,\"gid\":2},"
	"\"capabilities\":{\"bounding\":[\"CAP_KILL\"],\"inheritable\":[\"CAP_KILL\"],\"ambient\":[\"CAP_KILL\"]},"
	"\"rlimits\":[{\"type\":\"RLIMIT_NOFILE\",\"hard\":1048576,\"soft\":1024}]},"
	"\"root\":{\"path\":\"rootfs\"},\"mounts\":[{\"destination\":\"/proc\",\"type\":\"proc\"}],"
	"\"linux\":{\"cgroupsPath\":\"/a/b\",\"namespaces\":[{\"type\":\"mount\"},{\"type\":\"pid\"}]},"
	"\"annotations\":{\"io.davit.no-pivot\":\"true\",\"io.davit.no-cgroup\":\"true\",\"io.davit.oci-root\":\"/own\",\"io.davit.apparmor-default\":\"true\"}}";

static int setup(void **state)
{
	(void)state;
	for (size_t i = 0; i < RLIM_NLIMITS; i++)
		host.limits[i] = 20000;
	return 0;
}

/* @good with the first @from replaced by @to. */
static char *changed(const char *from, const char *to)
{
	const char *at = strstr(good, from);
	char *text = malloc(sizeof(good) + strlen(to));

	assert_non_null(at);
	assert_non_null(text);
	sprintf(text, "%.*s%s%s", (int)(at - good), good, to, at + strlen(from));
	return text;
}

static void test_the_maps_of_a_user_namespace_are_as_the_kernel_takes_them(void **state)
{
	static const char users[] =
		"\"linux\":{\"uidMappings\":[{\"containerID\":0,\"hostID\":1000,\"size\":1},"
		"{\"containerID\":1,\"hostID\":5,\"size\":2}],"
		"\"gidMappings\":[{\"containerID\":0,\"hostID\":7,\"size\":4294967295}],"
		"\"namespaces\":[{\"type\":\"user\"},";
	_cleanup_(cleanup_free) char *text =
		changed("\"linux\":{\"cgroupsPath\":\"/a/b\",\"namespaces\":[", users);
	_cleanup_(spec_facts_clear) struct spec_facts facts = {};
	_cleanup_(json_cleanup) json_t *spec = NULL;

	(void)state;
	assert_int_equal(spec_check(&host, text, "/bundle/rootfs", "/netns/x", &spec, &facts, NULL),
			 0);
	assert_string_equal(facts.uid_map, "0 1000 1\n1 5 2\n");
	assert_string_equal(facts.gid_map, "0 7 4294967295\n");
	assert_string_equal(
		json_string_value(json_object_get(json_object_get(spec, "root"), "path")),
		"rootfs");
}

static void test_a_user_namespace_without_good_maps_is_refused(void **state)
{
	static const char *const maps[][2] = {
		{"", "uidMappings"},
		{"\"uidMappings\":[],\"gidMappings\":[],", "0 bytes"},
		{"\"uidMappings\":7,", "uidMappings"},
		{"\"uidMappings\":[7],", "containerID"},
		{"\"uidMappings\":[{\"containerID\":0,\"hostID\":-1,\"size\":1}],", "hostID"},
		{"\"uidMappings\":[{\"containerID\":0,\"hostID\":1,\"size\":4294967296}],", "size"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(maps); i++) {
		_cleanup_(cleanup_free) char *linux_ = text_format(
			"\"linux\":{%s\"namespaces\":[{\"type\":\"user\"},", maps[i][0]);
		_cleanup_(cleanup_free) char *text =
			changed("\"linux\":{\"cgroupsPath\":\"/a/b\",\"namespaces\":[", linux_);
		struct spec_facts facts = {};
		json_t *spec = NULL;
		struct why why = {};

		assert_int_equal(
			spec_check(&host, text, "/bundle/rootfs", "/netns/x", &spec, &facts, &why),
			SPEC_E_INVALID);
		if (!strstr(why.text, maps[i][1]))
			fail_msg("'%s' does not have '%s'", why.text, maps[i][1]);
	}
}

static void test_a_good_spec_is_put_right(void **state)
{
	_cleanup_(spec_facts_clear) struct spec_facts facts = {};
	_cleanup_(json_cleanup) json_t *spec = NULL;
	json_t *process, *limit;

	(void)state;
	assert_int_equal(
		spec_check(&host, good, "/state/bundles/x/rootfs", "/netns/x", &spec, &facts, NULL),
		0);
	process = json_object_get(spec, "process");
	assert_null(json_object_get(json_object_get(process, "capabilities"), "inheritable"));
	assert_null(json_object_get(json_object_get(process, "capabilities"), "ambient"));
	limit = json_array_get(json_object_get(process, "rlimits"), 0);
	assert_int_equal(json_integer_value(json_object_get(limit, "hard")), 20000);
	assert_int_equal(json_integer_value(json_object_get(limit, "soft")), 1024);
	assert_string_equal(
		json_string_value(json_object_get(json_object_get(spec, "root"), "path")),
		"/state/bundles/x/rootfs");
	assert_null(facts.rootfs);
	assert_string_equal(facts.cgroup, "/a/b");
	assert_true(facts.own_pid_ns);
	assert_true(facts.no_pivot);
	assert_true(facts.no_cgroup);
	assert_string_equal(facts.oci_root, "/own");
	assert_string_equal(facts.apparmor, "mine");
	assert_false(facts.systemd_cgroup);
}

static void test_a_root_of_the_host_is_named(void **state)
{
	_cleanup_(spec_facts_clear) struct spec_facts facts = {};
	_cleanup_(json_cleanup) json_t *spec = NULL;
	_cleanup_(cleanup_free) char *text = changed("\"path\":\"rootfs\"",
						     "\"path\":\"/srv/tree\"");

	(void)state;
	assert_int_equal(spec_check(&host, text, "/x", "/netns/x", &spec, &facts, NULL), 0);
	assert_string_equal(facts.rootfs, "/srv/tree");
}

static void test_a_shared_pid_namespace_is_seen(void **state)
{
	_cleanup_(spec_facts_clear) struct spec_facts facts = {};
	_cleanup_(json_cleanup) json_t *spec = NULL;
	_cleanup_(cleanup_free) char *text =
		changed("{\"type\":\"pid\"}", "{\"type\":\"pid\",\"path\":\"/proc/1/ns/pid\"}");

	(void)state;
	assert_int_equal(spec_check(&host, text, "/x", "/netns/x", &spec, &facts, NULL), 0);
	assert_false(facts.own_pid_ns);
}

static void test_hostile_specs_are_refused_by_name(void **state)
{
	static const char *const cases[][3] = {
		{"\"ociVersion\":\"1.0.2\"", "\"ociVersion\":\"2.0\"", "ociVersion"},
		{"\"process\":{", "\"no\":{", "'process' is missing"},
		{"[\"sh\"]", "[]", "no command"},
		{"[\"sh\"]", "[\"\"]", "no command"},
		{"[\"sh\"]", "[7]", "process.args[0]"},
		{"[\"sh\"]", "[\"a\\u0000b\"]", ""},
		{"\"cwd\":\"/\"", "\"cwd\":\"/proc/self/fd/3\"", "/proc"},
		{"\"cwd\":\"/\"", "\"cwd\":\"/x/../dev\"", "'..'"},
		{"\"uid\":1", "\"uid\":-1", "process.user.uid"},
		{"\"uid\":1", "\"uid\":2147483648", "process.user.uid"},
		{"\"uid\":1", "\"uid\":1.5", "process.user.uid"},
		{"\"gid\":2", "\"gid\":2,\"additionalGids\":[4294967296]", "additionalGids[0]"},
		{"RLIMIT_NOFILE", "RLIMIT_ODD", "RLIMIT_ODD"},
		{"\"soft\":1024", "\"soft\":-1", "RLIMIT_NOFILE"},
		{"\"path\":\"rootfs\"", "\"path\":\"/\"", "the host's own"},
		{"\"path\":\"rootfs\"", "\"path\":\"/a/..\"", "'..'"},
		{"\"type\":\"proc\"", "\"type\":\"proc\",\"options\":[\"shared\"]", "propagation"},
		{"\"destination\":\"/proc\"", "\"destination\":\"proc\"", "destination"},
		{"{\"type\":\"mount\"},", "", "mount namespace"},
		{"{\"type\":\"mount\"}", "{\"type\":\"mount\",\"path\":\"/proc/1/ns/mnt\"}",
		 "mount namespace"},
		{"\"cgroupsPath\":", "\"rootfsPropagation\":\"shared\",\"cgroupsPath\":",
		 "propagation"},
		{"/a/b", "/a/../..", "'..'"},
		{"}}", "}", "OCI spec"},
		{"\"cwd\":\"/\"", "\"cwd\":\"/\",\"cwd\":\"/proc\"", "OCI spec"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		_cleanup_(cleanup_free) char *text = changed(cases[i][0], cases[i][1]);
		struct spec_facts facts = {};
		struct why why = {};
		json_t *spec = NULL;

		assert_int_equal(spec_check(&host, text, "/x", "/netns/x", &spec, &facts, &why),
				 SPEC_E_INVALID);
		if (!why.text[0] || !strstr(why.text, cases[i][2]))
			fail_msg("case %zu: '%s' does not have '%s'", i, why.text, cases[i][2]);
	}
}

static void test_every_truncation_is_refused(void **state)
{
	(void)state;
	for (size_t size = 0; size + 1 < sizeof(good); size++) {
		_cleanup_(cleanup_free) char *text = strndup(good, size);
		struct spec_facts facts = {};
		json_t *spec = NULL;

		assert_int_equal(spec_check(&host, text, "/x", "/netns/x", &spec, &facts, NULL),
				 SPEC_E_INVALID);
	}
}

#define OTHER_NOTE "\"io.davit.no-cgroup\":\"true\""
#define CNI_NOTE   "\"io.davit.cni\":\"true\""

static int check_with_network(const char *namespaces, json_t **ret_spec, struct why *why)
{
	_cleanup_(cleanup_free) char *noted = changed(OTHER_NOTE, CNI_NOTE);
	_cleanup_(cleanup_free) char *text = malloc(strlen(noted) + strlen(namespaces) + 1);
	_cleanup_(spec_facts_clear) struct spec_facts facts = {};
	const char *at = strstr(noted, "{\"type\":\"pid\"}");
	int r;

	assert_non_null(text);
	sprintf(text, "%.*s%s%s", (int)(at - noted), noted, namespaces,
		at + strlen("{\"type\":\"pid\"}"));
	r = spec_check(&host, text, "/x", "/state/netns/x", ret_spec, &facts, why);
	assert_true(r || facts.cni);
	return r;
}

static void test_with_a_cni_network_the_namespace_is_davits_own(void **state)
{
	_cleanup_(json_cleanup) json_t *spec = NULL;
	json_t *item;

	(void)state;
	assert_int_equal(check_with_network("{\"type\":\"network\"}", &spec, NULL), 0);
	item = json_array_get(json_object_get(json_object_get(spec, "linux"), "namespaces"), 1);
	assert_string_equal(json_string_value(json_object_get(item, "path")), "/state/netns/x");
}

static void test_a_cni_network_needs_a_network_namespace_of_its_own(void **state)
{
	static const char *const cases[] = {"{\"type\":\"pid\"}",
					    "{\"type\":\"network\",\"path\":\"/proc/1/ns/net\"}"};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct why why = {};
		json_t *spec = NULL;

		assert_int_equal(check_with_network(cases[i], &spec, &why), SPEC_E_INVALID);
		assert_non_null(strstr(why.text, "network namespace of the container's own"));
	}
}

static void assert_caught(const char *text, const char *expected)
{
	_cleanup_(json_cleanup) json_t *spec = json_loads(text, 0, NULL);
	const json_t *annotations;
	const char *found;

	assert_int_equal(spec_catch_hooks(spec, "/bundle/hooks.err"), 0);
	annotations = json_object_get(spec, "annotations");
	found = json_string_value(json_object_get(annotations, "run.oci.hooks.stderr"));
	assert_string_equal(found ?: "", expected);
}

static void test_what_hooks_say_is_kept_unless_it_goes_elsewhere(void **state)
{
	(void)state;
	assert_caught("{\"hooks\":{\"prestart\":[]}}", "/bundle/hooks.err");
	assert_caught("{\"hooks\":{\"prestart\":[]},\"annotations\":{}}", "/bundle/hooks.err");
	assert_caught(
		"{\"hooks\":{\"prestart\":[]},\"annotations\":{\"run.oci.hooks.stderr\":\"/x\"}}",
		"/x");
	assert_caught("{\"hooks\":{}}", "");
	assert_caught("{\"hooks\":7}", "");
	assert_caught("{}", "");
}

TEST_MAIN(cmocka_unit_test_setup(test_the_maps_of_a_user_namespace_are_as_the_kernel_takes_them,
				 setup),
	  cmocka_unit_test_setup(test_a_user_namespace_without_good_maps_is_refused, setup),
	  cmocka_unit_test_setup(test_a_good_spec_is_put_right, setup),
	  cmocka_unit_test_setup(test_a_root_of_the_host_is_named, setup),
	  cmocka_unit_test_setup(test_a_shared_pid_namespace_is_seen, setup),
	  cmocka_unit_test_setup(test_hostile_specs_are_refused_by_name, setup),
	  cmocka_unit_test_setup(test_with_a_cni_network_the_namespace_is_davits_own, setup),
	  cmocka_unit_test_setup(test_a_cni_network_needs_a_network_namespace_of_its_own, setup),
	  cmocka_unit_test(test_what_hooks_say_is_kept_unless_it_goes_elsewhere),
	  cmocka_unit_test_setup(test_every_truncation_is_refused, setup))
