/* hosts.toml: the part of TOML that is understood, and what becomes of it. */

#include "tests/lib/main.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "broker/lib/file.h"
#include "services/image/work/hosts.h"

/* ---- TOML ---- */

static char *as_json(const char *text)
{
	json_t *json = NULL;
	char *dump;

	if (toml_parse(text, strlen(text), &json, NULL))
		return NULL;
	dump = json_dumps(json, JSON_COMPACT);
	json_decref(json);
	return dump;
}

static void expect_json(const char *toml, const char *expected)
{
	_cleanup_(cleanup_free) char *found = as_json(toml);

	assert_non_null(found);
	assert_string_equal(found, expected);
}

static void test_toml_of_hosts_files(void **state)
{
	(void)state;
	expect_json("", "{}");
	expect_json("# only a comment", "{}");
	expect_json("a = 1\r\n b = -2 # two\n c = true\nd=false",
		    "{\"a\":1,\"b\":-2,\"c\":true,\"d\":false}");
	expect_json("a = \"x\\t\\u00fc\\\\\\\"\"\nb = 'C:\\x'",
		    "{\"a\":\"x\\t\xc3\xbc\\\\\\\"\",\"b\":\"C:\\\\x\"}");
	expect_json(
		"[host.\"https://m\"]\nx = [\"pull\", # one\n \"resolve\",\n]\n[host.\"https://m\".header]\ny = ['1']",
		"{\"host\":{\"https://m\":{\"x\":[\"pull\",\"resolve\"],\"header\":{\"y\":[\"1\"]}}}}");
	expect_json("a.b.c = [[1,2],[]]\na.d = 3", "{\"a\":{\"b\":{\"c\":[[1,2],[]]},\"d\":3}}");
	/* In their order: mirrors are tried so. */
	expect_json("[host.z]\n[host.a]\n", "{\"host\":{\"z\":{},\"a\":{}}}");
}

static void test_other_toml_is_refused_with_its_line(void **state)
{
	static const struct {
		const char *text, *word;
	} cases[] = {
		{"a = 1\nb", "line 2: '=' is missing behind 'b'"},
		{"\n\n= 1", "line 3: a key is missing"},
		{"a = ", "line 1: a value is missing"},
		{"a = 1 2", "should end"},
		{"a = \"x", "does not end"},
		{"a = \"x\ny\"", "does not end"},
		{"a = \"\"\"x\"\"\"", "several lines"},
		{"a = '''x'''", "several lines"},
		{"a = \"\\x\"", "bad escape"},
		{"a = \"\\u00\"", "bad escape"},
		{"a = \"\\u0000\"", "no character"},
		{"a = \"\\ud800\"", "no character"},
		{"a = \"\x01\"", "control character"},
		{"a = \"\xff\"", "UTF-8"},
		{"a = 1.5", "whole"},
		{"a = 1979-05-27", "whole"},
		{"a = 99999999999999999999", "whole"},
		{"a = { b = 1 }", "inline tables"},
		{"[[a]]", "lists of tables"},
		{"[a", "']'"},
		{"[a]\nb = 1\nb = 2", "line 3: 'b' stands twice"},
		{"a = 1\n[a]", "'a' is a value already"},
		{"a = [1", "list does not end"},
		{"a = [[[[[[[[[[1]]]]]]]]]]", "nested"},
		{"a.b.c.d.e.f.g.h.i.j.k = 1", "nested"},
		{"a = maybe", "unknown kind"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct why why = {};
		json_t *json = NULL;

		assert_int_equal(toml_parse(cases[i].text, strlen(cases[i].text), &json, &why),
				 TOML_E_INVALID);
		if (!strstr(why.text, cases[i].word))
			fail_msg("'%s': %s", cases[i].text, why.text);
	}
}

/* ---- hosts ---- */

static int parse(const char *name, const struct registry_options *options, const char *text,
		 struct hosts *hosts, struct why *why)
{
	_cleanup_(remote_clear) struct remote remote = {};

	assert_int_equal(remote_parse(name, &remote, NULL), 0);
	return hosts_parse(&remote, options, text, strlen(text), NULL, hosts, why);
}

static void test_mirrors_come_in_their_order_and_the_server_last(void **state)
{
	_cleanup_(hosts_clear) struct hosts hosts = {};
	const char *text =
		"server = \"https://registry-1.docker.io\"\n"
		"[host.\"http://z:5000\"]\ncapabilities = [\"pull\"]\nskip_verify = true\n"
		"[host.\"https://a/cache\"]\n[host.\"https://a/cache\".header]\nx-a = \"1\"\n"
		"[host.\"https://b/base/v2/\"]\n[host.\"https://c/own\"]\noverride_path = true\n";

	(void)state;
	assert_int_equal(parse("docker.io/library/a:1", NULL, text, &hosts, NULL), 0);
	assert_int_equal(hosts.count, 5);
	assert_string_equal(hosts.items[0].url, "http://z:5000/v2");
	assert_true(hosts.items[0].can_pull && !hosts.items[0].can_resolve &&
		    !hosts.items[0].can_push && hosts.items[0].skip_verify);
	assert_string_equal(hosts.items[1].url, "https://a/cache/v2");
	assert_string_equal(schema_map_get(&hosts.items[1].headers, "x-a"), "1");
	assert_true(hosts.items[1].can_push && !hosts.items[1].is_origin);
	assert_string_equal(hosts.items[2].url, "https://b/base/v2");
	assert_string_equal(hosts.items[3].url, "https://c/own");
	assert_string_equal(hosts.items[4].url, "https://registry-1.docker.io/v2");
	assert_true(hosts.items[4].is_origin);
}

static void test_without_a_server_the_registry_itself_is_the_last(void **state)
{
	_cleanup_(hosts_clear) struct hosts hosts = {};
	struct registry_options plain = {.plain_http = true};

	(void)state;
	assert_int_equal(parse("r.example:5000/a:1", NULL, "[host.\"https://m\"]\n", &hosts, NULL),
			 0);
	assert_string_equal(hosts.items[1].url, "https://r.example:5000/v2");
	assert_true(hosts.items[1].is_origin);
	hosts_clear(&hosts);
	assert_int_equal(parse("r.example:5000/a:1", &plain, "", &hosts, NULL), 0);
	assert_string_equal(hosts.items[0].url, "http://r.example:5000/v2");
	hosts_clear(&hosts);
	/* Local registries are plain unless something speaks for TLS, as with containerd. */
	assert_int_equal(parse("localhost:5000/a:1", NULL, "", &hosts, NULL), 0);
	assert_string_equal(hosts.items[0].url, "http://localhost:5000/v2");
	hosts_clear(&hosts);
	assert_int_equal(parse("localhost:5000/a:1",
			       &(struct registry_options){.skip_verify = true}, "", &hosts, NULL),
			 0);
	assert_string_equal(hosts.items[0].url, "https://localhost:5000/v2");
}

static void test_what_hosts_files_may_not_say(void **state)
{
	static const struct {
		const char *text, *word;
	} cases[] = {
		{"server = 1", "'server'"},
		{"server = \"ftp://a\"", "neither http:// nor https://"},
		{"server = \"https://a b\"", "not the URL"},
		{"server = \"https://u:p@a\"", "not the URL"},
		{"server = \"https://a/../b\"", "not the URL"},
		{"server = \"https://\"", "not the URL"},
		{"server = \"https://a\"\ncapabilities = [\"fly\"]", "'fly' is none of"},
		{"server = \"https://a\"\nunknown = 1", "'unknown'"},
		{"skip_verify = true", "needs a 'server'"},
		{"host = 1", "'host'"},
		{"[host.\"https://a\"]\nserver = \"https://b\"", "'server'"},
		{"[host.\"https://a\"]\nclient = [[\"a\",\"b\"],[\"c\",\"d\"]]", "'client'"},
		{"[host.\"https://a\"]\nca = \"/nowhere/x\"", "/nowhere/x"},
		{"[host.\"https://a\".header]\n\"x\\ny\" = \"1\"", "not known"},
		{"[host.\"https://a\".header]\nx = \"1\\r\\nEvil: 1\"", "'x'"},
		{"[host.\"https://a\".header]\nHost = \"evil\"", "'Host'"},
		{"[host.\"https://a\".header]\nx = [\"1\", \"2\"]", "'x'"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct hosts hosts = {};
		struct why why = {};

		assert_int_equal(parse("r.example/a:1", NULL, cases[i].text, &hosts, &why),
				 WORK_E_INVALID);
		if (!strstr(why.text, cases[i].word))
			fail_msg("'%s': %s", cases[i].text, why.text);
	}
}

static void write_text(const char *directory, const char *name, const char *text)
{
	_cleanup_(cleanup_free) char *path = text_format("%s/%s", directory, name);

	assert_int_equal(file_write(path, text, strlen(text), 0600, false, NULL), 0);
}

#define PEM(what) "-----BEGIN " what "-----\nAA==\n-----END " what "-----\n"

static void test_certificates_are_found_beside_the_file(void **state)
{
	struct scratch *scratch = *state;
	_cleanup_(cleanup_free) char *directory = NULL;
	_cleanup_(remote_clear) struct remote remote = {};
	_cleanup_(hosts_clear) struct hosts hosts = {};
	struct registry_options options = {};
	struct why why = {};

	options.hosts_dir = scratch->dir;
	assert_int_equal(remote_parse("localhost:5000/a:1", &remote, NULL), 0);
	/* No directory of that name: the registry itself. */
	assert_int_equal(hosts_load(&remote, &options, &hosts, NULL), 0);
	assert_null(hosts.items[0].ca);
	hosts_clear(&hosts);
	/* Docker's layout: certificates speak for TLS. */
	directory = text_format("%s/localhost_5000_", scratch->dir);
	assert_int_equal(mkdir(directory, 0700), 0);
	write_text(directory, "x.crt", PEM("CERTIFICATE"));
	write_text(directory, "x.cert", PEM("CERTIFICATE"));
	assert_int_equal(hosts_load(&remote, &options, &hosts, &why), WORK_E_INVALID);
	assert_non_null(strstr(why.text, "x.key"));
	write_text(directory, "x.key", PEM("PRIVATE KEY"));
	assert_int_equal(hosts_load(&remote, &options, &hosts, NULL), 0);
	assert_string_equal(hosts.items[0].url, "https://localhost:5000/v2");
	assert_string_equal(hosts.items[0].ca, PEM("CERTIFICATE"));
	assert_string_equal(hosts.items[0].key, PEM("PRIVATE KEY"));
	hosts_clear(&hosts);
	/* A hosts.toml counts alone; its paths lie beside it. */
	write_text(directory, "hosts.toml",
		   "server = \"https://localhost:5000\"\nca = [\"x.crt\", \"x.cert\"]\n");
	assert_int_equal(hosts_load(&remote, &options, &hosts, NULL), 0);
	assert_string_equal(hosts.items[0].ca, PEM("CERTIFICATE") "\n" PEM("CERTIFICATE"));
	assert_null(hosts.items[0].cert);
	hosts_clear(&hosts);
	write_text(directory, "hosts.toml",
		   "server = \"https://localhost:5000\"\nca = \"hosts.toml\"\n");
	why = (struct why){};
	assert_int_equal(hosts_load(&remote, &options, &hosts, &why), WORK_E_INVALID);
	assert_non_null(strstr(why.text, "is not PEM"));
	options.hosts_dir = (char *)"/nowhere";
	assert_int_equal(hosts_load(&remote, &options, &hosts, NULL), WORK_E_INVALID);
}

TEST_MAIN(cmocka_unit_test(test_toml_of_hosts_files),
	  cmocka_unit_test(test_other_toml_is_refused_with_its_line),
	  cmocka_unit_test(test_mirrors_come_in_their_order_and_the_server_last),
	  cmocka_unit_test(test_without_a_server_the_registry_itself_is_the_last),
	  cmocka_unit_test(test_what_hosts_files_may_not_say),
	  TEST_IN_SCRATCH(test_certificates_are_found_beside_the_file))
