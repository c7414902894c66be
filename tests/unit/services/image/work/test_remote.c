/* References, URLs, ranges, challenges and tokens: what is pure of talking to a registry. */

#include "tests/lib/main.h"

#include <string.h>

#include "services/image/work/challenge.h"
#include "services/image/work/registry.h"

static void expect_parts(const char *name, const char *host, const char *repository,
			 const char *tag, const char *digest)
{
	_cleanup_(remote_clear) struct remote remote = {};

	assert_int_equal(remote_parse(name, &remote, NULL), 0);
	assert_string_equal(remote.name, name);
	assert_string_equal(remote.host, host);
	assert_string_equal(remote.repository, repository);
	assert_string_equal(remote.tag ?: "", tag ?: "");
	assert_string_equal(remote.digest ?: "", digest ?: "");
	assert_string_equal(remote_object(&remote), digest ?: tag);
}

#define DIGEST "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

static void test_references_are_taken_apart(void **state)
{
	(void)state;
	expect_parts("docker.io/library/busybox:latest", "docker.io", "library/busybox", "latest",
		     NULL);
	expect_parts("localhost:5000/a:1", "localhost:5000", "a", "1", NULL);
	expect_parts("[::1]:5000/a/b_c/d__e/f-g/h.i:V.1-_", "[::1]:5000", "a/b_c/d__e/f-g/h.i",
		     "V.1-_", NULL);
	expect_parts("r.example/a@" DIGEST, "r.example", "a", NULL, DIGEST);
	expect_parts("r.example/a:tag@" DIGEST, "r.example", "a", "tag", DIGEST);
}

static void test_bad_references_are_refused_with_what_is_wrong(void **state)
{
	static const struct {
		const char *name, *word;
	} cases[] = {
		{"busybox", "no registry"},
		{"r.example/a", "neither a tag nor a digest"},
		{"r.example/A:1", "'A' is not a repository"},
		{"r.example/a//b:1", "not a repository"},
		{"r.example/a/:1", "not a repository"},
		{"r.example/../b:1", "not a repository"},
		{"r.example/a..b:1", "not a repository"},
		{"r.example/a___b:1", "not a repository"},
		{"r.example/a?x=y:1", "not a repository"},
		{"r.example/-a:1", "not a repository"},
		{"r.example/a:.x", "not a tag"},
		{"r.example/a:", "not a tag"},
		{"r.example/a:x y", "not a tag"},
		{"r.example/a@sha256:12", "64 lower-case hex digits"},
		{"r.example/a@sha256:../../../../../../../../../etc/passwd0123456789012345678901234567890",
		 "64 lower-case"},
		{"user@r.example/a:1", "not a registry"},
		{"r.example:/a:1", "not a registry"},
		{"r.example:123456/a:1", "not a registry"},
		{"r.example:1x/a:1", "not a registry"},
		{"[::1/a:1", "not a registry"},
		{"[::g]/a:1", "not a registry"},
		{"/a:1", "not a registry"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct remote remote = {};
		struct why why = {};

		assert_int_equal(remote_parse(cases[i].name, &remote, &why), WORK_E_INVALID);
		if (!strstr(why.text, cases[i].word))
			fail_msg("'%s': %s", cases[i].name, why.text);
	}
}

static void test_hosts_that_are_near(void **state)
{
	(void)state;
	assert_true(remote_is_local("localhost") && remote_is_local("localhost:5000"));
	assert_true(remote_is_local("127.0.0.1:1") && remote_is_local("[::1]:5000"));
	assert_false(remote_is_local("localhost.example") || remote_is_local("127.evil.example"));
	assert_false(remote_is_local("[::2]:5000") || remote_is_local("128.0.0.1"));
	assert_string_equal(remote_endpoint("docker.io"), "registry-1.docker.io");
	assert_string_equal(remote_endpoint("quay.io"), "quay.io");
}

static void test_another_scheme_host_or_port_is_another_server(void **state)
{
	(void)state;
	assert_true(remote_same_origin("https://a/v2", "https://A:443/x?y=http://b"));
	assert_true(remote_same_origin("http://[::1]:5000/", "http://[::1]:5000"));
	assert_true(remote_same_origin("http://a", "http://a:80/"));
	assert_false(remote_same_origin("https://a", "http://a"));
	assert_false(remote_same_origin("https://a", "https://a:444"));
	assert_false(remote_same_origin("https://a", "https://a.evil"));
	assert_false(remote_same_origin("https://a", "https://a@evil"));
	assert_false(remote_same_origin("https://a", "https://evil/@a"));
	assert_false(remote_same_origin("https://a", "//a"));
}

static void test_ranges(void **state)
{
	uint64_t first, last, total;

	(void)state;
	assert_true(remote_parse_range("bytes 5-9/10", &first, &last, &total));
	assert_true(first == 5 && last == 9 && total == 10);
	assert_true(remote_parse_range("Bytes 0-0/*", &first, &last, &total));
	assert_true(total == UINT64_MAX);
	assert_false(remote_parse_range("bytes 5-9", &first, &last, &total));
	assert_false(remote_parse_range("bytes 9-5/10", &first, &last, &total));
	assert_false(remote_parse_range("bytes 5-10/10", &first, &last, &total));
	assert_false(remote_parse_range("bytes -5/10", &first, &last, &total));
	assert_false(remote_parse_range("bytes 5-9/10x", &first, &last, &total));
	assert_false(remote_parse_range("items 5-9/10", &first, &last, &total));
	assert_false(remote_parse_range("bytes 99999999999999999999-9/10", &first, &last, &total));
}

static void test_what_is_there_of_an_upload(void **state)
{
	uint64_t size = 7;

	(void)state;
	assert_true(remote_parse_uploaded("0-0", &size) && size == 0);
	assert_true(remote_parse_uploaded("0-1048575", &size) && size == 1048576);
	assert_true(remote_parse_uploaded("bytes=0-9", &size) && size == 10);
	size = 7;
	assert_false(remote_parse_uploaded("", &size));
	assert_false(remote_parse_uploaded("0-", &size));
	assert_false(remote_parse_uploaded("5-9", &size));
	assert_false(remote_parse_uploaded("0--1", &size));
	assert_false(remote_parse_uploaded("0-9 ", &size));
	assert_false(remote_parse_uploaded("0-99999999999999999999", &size));
	assert_true(size == 7);
}

static const struct challenge *chosen(struct challenges *challenges, const char *header)
{
	challenges_clear(challenges);
	challenge_parse(header, challenges);
	return challenge_choose(challenges);
}

static void test_challenges_as_registries_send_them(void **state)
{
	struct challenges challenges = {};
	const struct challenge *challenge;

	(void)state;
	challenge = chosen(
		&challenges,
		"Bearer realm=\"https://auth.docker.io/token\",service=\"registry.docker.io\","
		"scope=\"repository:library/busybox:pull\"");
	assert_int_equal(challenge->scheme, CHALLENGE_BEARER);
	assert_string_equal(challenge->realm, "https://auth.docker.io/token");
	assert_string_equal(challenge->service, "registry.docker.io");
	assert_string_equal(challenge->scope, "repository:library/busybox:pull");
	challenge = chosen(&challenges, "basic REALM = \"a \\\"b\\\"\" ");
	assert_int_equal(challenge->scheme, CHALLENGE_BASIC);
	assert_string_equal(challenge->realm, "a \"b\"");
	/* Several in one header: the strongest that we know. */
	challenge = chosen(&challenges,
			   "Negotiate, Basic realm=x, Bearer realm=http://t/,error=\"e\"");
	assert_int_equal(challenge->scheme, CHALLENGE_BEARER);
	assert_string_equal(challenge->realm, "http://t/");
	assert_string_equal(challenge->error, "e");
	assert_int_equal(challenges.count, 3);
	/* Nothing to go on with. */
	assert_null(chosen(&challenges, "Bearer service=\"x\""));
	assert_null(chosen(&challenges, "Digest realm=\"x\", nonce=\"y\""));
	assert_null(chosen(&challenges, ""));
	assert_null(chosen(&challenges, ",,, ;"));
	/* A quote that does not end; more than are kept. */
	(void)chosen(&challenges, "Bearer realm=\"https://x");
	(void)chosen(&challenges, "a,b,c,d,e,f,g,h,i,j,k,l");
	assert_int_equal(challenges.count, CHALLENGES_MAX);
	challenges_clear(&challenges);
}

static void test_a_token_is_fit_for_a_header(void **state)
{
	(void)state;
	assert_true(registry_is_token("eyJhbGciOi.J-_~+/="));
	assert_false(registry_is_token(""));
	assert_false(registry_is_token("a b"));
	assert_false(registry_is_token("a\r\nX-Evil: 1"));
	assert_false(registry_is_token("\xc3\xbc"));
}

static void test_a_registrys_error_is_shown_without_its_control_characters(void **state)
{
	const char *body = "{\"errors\":[{\"code\":\"DENIED\",\"message\":\"no\\u001b[31m\"}]}";
	char text[256];

	(void)state;
	registry_error_text(body, strlen(body), text, sizeof(text));
	assert_string_equal(text, ": no?[31m");
	body = "{\"errors\":[{\"code\":\"DENIED\"}]}";
	registry_error_text(body, strlen(body), text, sizeof(text));
	assert_string_equal(text, ": DENIED");
	registry_error_text("<html>", 6, text, sizeof(text));
	assert_string_equal(text, "");
	registry_error_text("", 1, text, sizeof(text));
	assert_string_equal(text, "");
	body = "two\nlines\n";
	registry_error_text(body, strlen(body), text, sizeof(text));
	assert_string_equal(text, "");
	body = "an HTTP request to\x1b an HTTPS server\r\n";
	registry_error_text(body, strlen(body), text, sizeof(text));
	assert_string_equal(text, ": an HTTP request to? an HTTPS server");
	registry_error_text(NULL, 0, text, sizeof(text));
	assert_string_equal(text, "");
}

TEST_MAIN(cmocka_unit_test(test_references_are_taken_apart),
	  cmocka_unit_test(test_bad_references_are_refused_with_what_is_wrong),
	  cmocka_unit_test(test_hosts_that_are_near),
	  cmocka_unit_test(test_another_scheme_host_or_port_is_another_server),
	  cmocka_unit_test(test_ranges), cmocka_unit_test(test_what_is_there_of_an_upload),
	  cmocka_unit_test(test_challenges_as_registries_send_them),
	  cmocka_unit_test(test_a_token_is_fit_for_a_header),
	  cmocka_unit_test(test_a_registrys_error_is_shown_without_its_control_characters))
