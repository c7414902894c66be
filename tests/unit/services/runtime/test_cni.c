#include <string.h>

#include "broker/lib/file.h"
#include "services/runtime/cni.h"
#include "services/runtime/spec.h"
#include "tests/lib/main.h"

static const char list[] =
	"{\"cniVersion\":\"1.0.0\",\"name\":\"n-1\",\"disableCheck\":true,\"plugins\":["
	"{\"type\":\"bridge\",\"ipam\":{\"type\":\"host-local\"},\"capabilities\":{\"mac\":true},"
	"\"runtimeConfig\":{\"mac\":\"x\"},\"prevResult\":{},\"name\":\"other\"},"
	"{\"type\":\"tuning\"}]}";

/* ---- configurations ---- */

static void test_a_plugin_reads_its_part_with_name_version_and_the_result_before(void **state)
{
	_cleanup_(cni_conf_clear) struct cni_conf conf = {};
	_cleanup_(json_cleanup) json_t *previous = json_pack("{s:[]}", "ips");
	_cleanup_(cleanup_free) char *first = NULL, *second = NULL;

	(void)state;
	assert_int_equal(cni_conf_parse(list, true, &conf, NULL), 0);
	assert_string_equal(conf.name, "n-1");
	assert_int_equal(cni_conf_count(&conf), 2);
	assert_string_equal(cni_conf_type(&conf, 1), "tuning");
	first = cni_conf_input(&conf, 0, NULL);
	second = cni_conf_input(&conf, 1, previous);
	assert_string_equal(
		first, "{\"type\":\"bridge\",\"ipam\":{\"type\":\"host-local\"},\"name\":\"n-1\","
		       "\"cniVersion\":\"1.0.0\"}");
	assert_string_equal(second,
			    "{\"type\":\"tuning\",\"name\":\"n-1\",\"cniVersion\":\"1.0.0\","
			    "\"prevResult\":{\"ips\":[]}}");
}

static void test_one_plugin_becomes_a_list_of_one(void **state)
{
	static const char one[] =
		"{\"cniVersion\":\"0.4.0\",\"name\":\"n\",\"type\":\"ptp\",\"mtu\":9}";
	_cleanup_(cni_conf_clear) struct cni_conf conf = {}, again = {};
	_cleanup_(cleanup_free) char *input = NULL, *text = NULL;

	(void)state;
	assert_int_equal(cni_conf_parse(one, false, &conf, NULL), 0);
	text = json_dumps(conf.json, JSON_COMPACT);
	assert_int_equal(cni_conf_parse(text, true, &again, NULL), 0);
	assert_int_equal(cni_conf_count(&again), 1);
	input = cni_conf_input(&again, 0, NULL);
	assert_string_equal(input,
			    "{\"cniVersion\":\"0.4.0\",\"name\":\"n\",\"type\":\"ptp\",\"mtu\":9}");
}

#define LIST(plugins) "{\"cniVersion\":\"1.0.0\",\"name\":\"n\",\"plugins\":" plugins "}"
#define NAMED(name)   "{\"cniVersion\":\"1.0.0\",\"name\":" name ",\"plugins\":[{\"type\":\"a\"}]}"

static void test_a_faulty_configuration_is_refused_with_the_part_that_is_wrong(void **state)
{
	static const struct {
		const char *text, *reason;
	} cases[] = {
		{"", "line 1"},
		{"{", "line 1"},
		{"[]", "not an object"},
		{"{\"name\":1,\"name\":2}", "duplicate"},
		{NAMED("\"\""), "name ''"},
		{NAMED("7"), "name ''"},
		{NAMED("\"a/b\""), "name 'a/b'"},
		{NAMED("\"..\""), "name '..'"},
		{NAMED("\".hidden\""), "name '.hidden'"},
		{NAMED("\"-x\""), "name '-x'"},
		{NAMED("\"a b\""), "name 'a b'"},
		{NAMED("\"a\\n\""), "not that of a network"},
		{"{\"name\":\"n\",\"plugins\":[{\"type\":\"a\"}]}", "cniVersion ''"},
		{"{\"name\":\"n\",\"cniVersion\":\"0.2.0\",\"plugins\":[{\"type\":\"a\"}]}",
		 "0.2.0"},
		{"{\"name\":\"n\",\"cniVersion\":\"2.0.0\",\"plugins\":[{\"type\":\"a\"}]}",
		 "2.0.0"},
		{"{\"name\":\"n\",\"cniVersion\":1,\"plugins\":[{\"type\":\"a\"}]}",
		 "cniVersion ''"},
		{LIST("{}"), "no list 'plugins'"},
		{LIST("[]"), "is empty"},
		{LIST("[3]"), "plugins[0] is not an object"},
		{LIST("[{\"type\":\"a\"},{}]"), "plugins[1] has no type"},
		{LIST("[{\"type\":[]}]"), "plugins[0] has no type"},
		{LIST("[{\"type\":\"\"}]"), "type ''"},
		{LIST("[{\"type\":\"../../bin/sh\"}]"), "type '../../bin/sh'"},
		{LIST("[{\"type\":\"/bin/sh\"}]"), "type '/bin/sh'"},
		{LIST("[{\"type\":\"..\"}]"), "type '..'"},
		{LIST("[{\"type\":\"a:b\"}]"), "type 'a:b'"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		_cleanup_(cni_conf_clear) struct cni_conf conf = {};
		struct why why = {};

		assert_int_equal(cni_conf_parse(cases[i].text, true, &conf, &why), CNI_E_INVALID);
		if (!strstr(why.text, cases[i].reason))
			fail_msg("case %zu: '%s' lacks '%s'", i, why.text, cases[i].reason);
		assert_null(conf.json);
	}
}

static char *repeated(const char *head, const char *part, size_t n, const char *tail)
{
	size_t size = strlen(part);
	char *text = malloc(strlen(head) + n * size + strlen(tail) + 1), *at = text;

	assert_non_null(text);
	at = stpcpy(at, head);
	for (size_t i = 0; i < n; i++)
		at = stpcpy(at, part);
	strcpy(at, tail);
	return text;
}

static void assert_refused(char *text, const char *reason)
{
	_cleanup_(cni_conf_clear) struct cni_conf conf = {};
	struct why why = {};

	assert_int_equal(cni_conf_parse(text, true, &conf, &why), CNI_E_INVALID);
	if (!strstr(why.text, reason))
		fail_msg("'%s' lacks '%s'", why.text, reason);
	free(text);
}

static void test_a_configuration_without_bounds_is_refused(void **state)
{
	static const char head[] =
		"{\"cniVersion\":\"1.0.0\",\"name\":\"n\",\"plugins\":[{\"type\":\"a\"}";

	(void)state;
	assert_refused(repeated(head, ",{\"type\":\"a\"}", 5000, "]}"),
		       "it has 5001 plugins, more than 32");
	assert_refused(repeated(head, ",[", 1000, ""), "");
	assert_refused(repeated("{\"name\":\"", "n", 300000, "\"}"), "");
	assert_refused(repeated("{\"cniVersion\":\"1.0.0\",\"name\":\"", "n", 129,
				"\",\"plugins\":[{\"type\":\"a\"}]}"),
		       "at most 128");
	assert_refused(
		repeated("{\"cniVersion\":\"1.0.0\",\"name\":\"n\",\"plugins\":[{\"type\":\"", "a",
			 65, "\"}]}"),
		"at most 64");
}

static void test_a_list_in_a_file_for_one_plugin_is_told(void **state)
{
	_cleanup_(cni_conf_clear) struct cni_conf conf = {};
	struct why why = {};

	(void)state;
	assert_int_equal(cni_conf_parse(list, false, &conf, &why), CNI_E_INVALID);
	assert_non_null(strstr(why.text, "named .conflist"));
}

static void test_files_of_configurations_are_known_by_their_names(void **state)
{
	bool is_list;

	(void)state;
	assert_true(cni_conf_is_file("10-a.conflist", &is_list) && is_list);
	assert_true(cni_conf_is_file("a.conf", &is_list) && !is_list);
	assert_true(cni_conf_is_file("a.b.json", &is_list) && !is_list);
	assert_false(cni_conf_is_file("cni.lock", &is_list));
	assert_false(cni_conf_is_file("conf", &is_list));
	assert_false(cni_conf_is_file(".conf", &is_list));
	assert_false(cni_conf_is_file("a.conf~", &is_list));
}

/* ---- results ---- */

static int read_result(const char *text, struct task_network *network, struct why *why)
{
	_cleanup_(json_cleanup) json_t *result = NULL;
	int r = cni_result_parse(text, &result, why);

	return r ?: cni_result_read(result, network, why);
}

static void test_a_result_gives_addresses_of_both_kinds_and_the_mac(void **state)
{
	static const char text[] =
		"{\"cniVersion\":\"1.0.0\",\"interfaces\":[{\"name\":\"br0\",\"mac\":\"1\"},"
		"{\"name\":\"eth0\",\"mac\":\"host\"},{\"name\":\"eth0\",\"mac\":\"02:00:00:00:00:01\",\"sandbox\":\"/n\"}],"
		"\"ips\":[{\"interface\":2,\"address\":\"10.1.0.2/16\",\"gateway\":\"10.1.0.1\"},"
		"{\"address\":\"fd00::2/64\"},{\"interface\":99,\"address\":\"10.9.9.9/32\"}],\"dns\":{}}";
	_cleanup_(task_network_clear) struct task_network network = {};

	(void)state;
	assert_int_equal(schema_set(&network.interface, "eth0"), 0);
	assert_int_equal(read_result(text, &network, NULL), 0);
	assert_string_equal(network.mac, "02:00:00:00:00:01");
	assert_int_equal(network.addresses.count, 3);
	assert_string_equal(network.addresses.items[0].address, "10.1.0.2/16");
	assert_string_equal(network.addresses.items[0].gateway, "10.1.0.1");
	assert_string_equal(network.addresses.items[0].interface, "eth0");
	assert_string_equal(network.addresses.items[1].address, "fd00::2/64");
	assert_null(network.addresses.items[1].gateway);
	assert_null(network.addresses.items[2].interface);
}

static void test_a_result_may_have_no_address(void **state)
{
	_cleanup_(task_network_clear) struct task_network network = {};

	(void)state;
	assert_int_equal(schema_set(&network.interface, "eth0"), 0);
	assert_int_equal(read_result("{}", &network, NULL), 0);
	assert_int_equal(read_result("{\"ips\":null}\n", &network, NULL), 0);
	assert_int_equal(network.addresses.count, 0);
}

static void test_what_is_no_result_is_refused_with_the_reason(void **state)
{
	static const struct {
		const char *text, *reason;
	} cases[] = {
		{"", "answered nothing"},
		{" \n", "answered nothing"},
		{"eth0", "not JSON"},
		{"{} {}", "not JSON"},
		{"[]", "not an object"},
		{"{\"ips\":{}}", "no list as 'ips'"},
		{"{\"ips\":[1]}", "'' as an address"},
		{"{\"ips\":[{\"address\":\"10.0.0.1\"}]}", "'10.0.0.1' as an address"},
		{"{\"ips\":[{\"address\":\"10.0.0.1/33\"}]}", "10.0.0.1/33"},
		{"{\"ips\":[{\"address\":\"10.0.0.1/\"}]}", "10.0.0.1/"},
		{"{\"ips\":[{\"address\":\"10.0.0.1/-1\"}]}", "10.0.0.1/-1"},
		{"{\"ips\":[{\"address\":\"fd00::1/129\"}]}", "fd00::1/129"},
		{"{\"ips\":[{\"address\":\"10.0.0.256/8\"}]}", "10.0.0.256/8"},
		{"{\"ips\":[{\"address\":\"10.0.0.1/8\",\"gateway\":\"x\"}]}", "'x' as a gateway"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		_cleanup_(task_network_clear) struct task_network network = {};
		struct why why = {};

		assert_int_equal(schema_set(&network.interface, "eth0"), 0);
		assert_int_equal(read_result(cases[i].text, &network, &why), CNI_E_INVALID);
		if (!strstr(why.text, cases[i].reason))
			fail_msg("case %zu: '%s' lacks '%s'", i, why.text, cases[i].reason);
	}
}

static void test_a_result_without_bounds_is_refused(void **state)
{
	_cleanup_(task_network_clear) struct task_network network = {};
	_cleanup_(cleanup_free) char *many = repeated("{\"ips\":[{\"address\":\"10.0.0.1/8\"}",
						      ",{\"address\":\"10.0.0.1/8\"}", 64, "]}");
	_cleanup_(cleanup_free) char *deep = repeated("{\"ips\":", "[", 10000, "");
	struct why why = {}, other = {};

	(void)state;
	assert_int_equal(schema_set(&network.interface, "eth0"), 0);
	assert_int_equal(read_result(many, &network, &why), CNI_E_INVALID);
	assert_non_null(strstr(why.text, "65 addresses, more than 64"));
	assert_int_equal(read_result(deep, &network, &other), CNI_E_INVALID);
}

/* ---- failures ---- */

static void assert_explained(const char *output, const char *errors, const char *expected)
{
	struct why why = {};

	cni_explain_failure(output, errors, 3, &why);
	assert_string_equal(why.text, expected);
}

static void test_a_failure_is_told_by_the_plugins_own_words(void **state)
{
	(void)state;
	assert_explained("{\"code\":11,\"msg\":\"full\",\"details\":\"10.0.0.0/8\"}", "noise",
			 "full; 10.0.0.0/8 (code 11)");
	assert_explained("{\"code\":4,\"msg\":\"no such file\"}", "", "no such file (code 4)");
	assert_explained("{\"code\":4,\"msg\":7}", "a\nlast words\n\n", "exit code 3: last words");
	assert_explained("panic", "", "exit code 3, without a word");
	assert_explained("", "\n \n", "exit code 3, without a word");
	assert_explained("[]", "x", "exit code 3: x");
}

TEST_MAIN(cmocka_unit_test(test_a_plugin_reads_its_part_with_name_version_and_the_result_before),
	  cmocka_unit_test(test_one_plugin_becomes_a_list_of_one),
	  cmocka_unit_test(test_a_faulty_configuration_is_refused_with_the_part_that_is_wrong),
	  cmocka_unit_test(test_a_configuration_without_bounds_is_refused),
	  cmocka_unit_test(test_a_list_in_a_file_for_one_plugin_is_told),
	  cmocka_unit_test(test_files_of_configurations_are_known_by_their_names),
	  cmocka_unit_test(test_a_result_gives_addresses_of_both_kinds_and_the_mac),
	  cmocka_unit_test(test_a_result_may_have_no_address),
	  cmocka_unit_test(test_what_is_no_result_is_refused_with_the_reason),
	  cmocka_unit_test(test_a_result_without_bounds_is_refused),
	  cmocka_unit_test(test_a_failure_is_told_by_the_plugins_own_words))
