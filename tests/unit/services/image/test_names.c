/* References, chain ids, platforms and mounts: what follows from names and digests alone. */

#include "tests/lib/main.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "services/image/mounts.h"
#include "services/image/platform.h"
#include "services/image/reference.h"
#include "services/image/set.h"

static void test_short_names_are_read_as_docker_does(void **state)
{
	static const char *const cases[][2] = {
		{"busybox", "docker.io/library/busybox:latest"},
		{"busybox:1", "docker.io/library/busybox:1"},
		{"a/b", "docker.io/a/b:latest"},
		{"host.example/x", "host.example/x:latest"},
		{"host:5000/x", "host:5000/x:latest"},
		{"localhost/x:y", "localhost/x:y"},
		{"x@sha256:1", "docker.io/library/x@sha256:1"},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		char *name = reference_normalize(cases[i][0]);

		assert_string_equal(name, cases[i][1]);
		free(name);
	}
}

static void test_a_name_is_tried_as_given_first(void **state)
{
	static const char *const tries[] = {"busybox", "busybox:latest",
					    "docker.io/library/busybox:latest"};

	(void)state;
	for (unsigned i = 0; i < 3; i++) {
		char *name = reference_candidate("busybox", i);

		assert_string_equal(name, tries[i]);
		free(name);
	}
	assert_null(reference_candidate("busybox", 3));
}

static void check_import_name(const char *name, const char *base, bool only_base,
			      const char *expected)
{
	char *result;

	assert_int_equal(reference_import_name(name, base, only_base, &result), 0);
	if (expected)
		assert_string_equal(result, expected);
	else
		assert_null(result);
	free(result);
}

static void test_imported_images_get_names(void **state)
{
	(void)state;
	check_import_name("docker.io/library/x:1", "base", false, "docker.io/library/x:1");
	check_import_name("v1", "base", false, "base:v1");
	check_import_name(NULL, "base", false, NULL);
	check_import_name(NULL, "base", true, "base:latest");
	check_import_name("docker.io/library/x:1", "base", true, NULL);
	check_import_name("base/x:1", "base", true, "base/x:1");
	check_import_name("base2/x:1", "base", true, NULL);
}

/* Two layers of an image, by umoci's and containerd's account. */
static void test_chain_ids_are_the_oci_ones(void **state)
{
	static const char first[] =
		"sha256:0fe5ab0b05f254b43fc9fca87f75d079c8e49563458a6abb39b3ebdad3028db5";
	static const char second[] =
		"sha256:711e30d14fe5ca6ca39a8389387f9b91b7eaeabe733f2f162070eb71271b7204";
	char chain[DIGEST_SIZE];

	(void)state;
	chain_id(NULL, first, chain);
	assert_string_equal(chain, first);
	chain_id(chain, second, chain);
	assert_string_equal(
		chain, "sha256:7506de8dcfc2305ea2a7b5c9b025ba22de1ee5f3b9ab21c6a1d4285da89bbdae");
	digest_of("", 0, chain);
	assert_string_equal(
		chain, "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
}

/* ---- platforms ---- */

static struct platform platform(const char *os, const char *architecture, const char *variant)
{
	return (struct platform){
		.os = (char *)os, .architecture = (char *)architecture, .variant = (char *)variant};
}

static void test_platforms_are_parsed_as_people_write_them(void **state)
{
	static const char *const cases[][2] = {
		{"linux/arm64", "linux/arm64"},  {"linux/arm/v6", "linux/arm/v6"},
		{"arm64", "linux/arm64"},        {"linux/aarch64", "linux/arm64"},
		{"linux/x86_64", "linux/amd64"}, {"windows", "windows/amd64"},
		{"Linux/ARM64", "linux/arm64"},  {"nonsense/arm64", "nonsense/arm64"},
	};
	static const char *const bad[] = {"", "/", "a/b/c/d", "linux/", "li nux/amd64", "nonsense"};
	struct platform host = platform("linux", "amd64", NULL), result;

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		char *text;

		assert_int_equal(platform_parse(cases[i][0], &host, &result, NULL), 0);
		text = platform_text(&result);
		assert_string_equal(text, cases[i][1]);
		free(text);
		platform_clear(&result);
	}
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(platform_parse(bad[i], &host, &result, NULL), DOCUMENT_E_INVALID);
}

static void test_the_best_platform_of_an_index_is_chosen(void **state)
{
	struct document_entry entries[] = {
		{.platform = platform("unknown", "unknown", NULL)},
		{.platform = platform("linux", "arm", "v5")},
		{.platform = platform("linux", "arm", "v7")},
		{.platform = platform("linux", "arm", "v8")},
		{.platform = platform("linux", "amd64", NULL)},
	};
	struct document_index index = {entries, 5}, unnamed = {(struct document_entry[]){{}}, 1};
	struct platform want = platform("linux", "arm", "v7");

	(void)state;
	assert_int_equal(platform_choose(&index, &want), 2);
	want = platform("linux", "arm", "v6");
	assert_int_equal(platform_choose(&index, &want), 1);
	want = platform("linux", "amd64", NULL);
	assert_int_equal(platform_choose(&index, &want), 4);
	want = platform("linux", "s390x", NULL);
	assert_int_equal(platform_choose(&index, &want), -1);
	assert_int_equal(platform_choose(&unnamed, &want), 0);
}

/* ---- mounts ---- */

static void check_mount(bool is_overlay, enum snapshot_kind kind, const uint64_t *lowers, size_t n,
			const char *type, const char *source, const char *options)
{
	struct schema_buffer joined = {};
	struct mount *mounts;
	size_t count;

	assert_int_equal(mounts_make("/s", is_overlay, kind, 9, lowers, n, &mounts, &count), 0);
	assert_int_equal(count, 1);
	assert_string_equal(mounts->type, type);
	assert_string_equal(mounts->source, source);
	for (size_t i = 0; i < mounts->options.count; i++)
		assert_int_equal(
			schema_buffer_addf(&joined, "%s%s", i ? "," : "", mounts->options.items[i]),
			0);
	assert_int_equal(schema_buffer_add(&joined, "", 1), 0);
	assert_string_equal((char *)joined.data, options);
	schema_buffer_clear(&joined);
	mounts_free(mounts, count);
}

static void test_mounts_are_containerds(void **state)
{
	static const uint64_t lowers[] = {3, 2, 1};

	(void)state;
	check_mount(true, SNAPSHOT_ACTIVE, NULL, 0, "bind", "/s/9/fs", "rw,rbind");
	check_mount(true, SNAPSHOT_VIEW, NULL, 0, "bind", "/s/9/fs", "ro,rbind");
	check_mount(true, SNAPSHOT_VIEW, lowers, 1, "bind", "/s/3/fs", "ro,rbind");
	check_mount(true, SNAPSHOT_VIEW, lowers, 3, "overlay", "overlay",
		    "index=off,lowerdir=/s/3/fs:/s/2/fs:/s/1/fs");
	check_mount(
		true, SNAPSHOT_ACTIVE, lowers, 3, "overlay", "overlay",
		"index=off,workdir=/s/9/work,upperdir=/s/9/fs,lowerdir=/s/3/fs:/s/2/fs:/s/1/fs");
	check_mount(false, SNAPSHOT_ACTIVE, lowers, 3, "bind", "/s/9/fs", "rw,rbind");
	check_mount(false, SNAPSHOT_VIEW, lowers, 3, "bind", "/s/9/fs", "ro,rbind");
}

static void test_many_layers_are_options_of_their_own(void **state)
{
	char directory[101];
	struct mount *mounts;
	uint64_t lowers[128];
	size_t count;

	(void)state;
	memset(directory, 'd', 100);
	directory[100] = '\0';
	for (size_t i = 0; i < 128; i++)
		lowers[i] = i;
	assert_int_equal(
		mounts_make(directory, true, SNAPSHOT_ACTIVE, 9, lowers, 128, &mounts, &count), 0);
	assert_int_equal(mounts->options.count, 3 + 128);
	for (size_t i = 3; i < mounts->options.count; i++)
		assert_memory_equal(mounts->options.items[i], "lowerdir+=", 10);
	mounts_free(mounts, count);
}

static void test_a_set_has_what_was_added(void **state)
{
	struct set set = {};
	char text[16];

	(void)state;
	assert_false(set_has(&set, "0"));
	for (int i = 0; i < 1000; i++) {
		snprintf(text, sizeof(text), "%d", i % 500);
		assert_int_equal(set_add(&set, text), 0);
	}
	assert_int_equal(set.count, 500);
	assert_true(set_has(&set, "499"));
	assert_false(set_has(&set, "500"));
	set_clear(&set);
}

TEST_MAIN(cmocka_unit_test(test_short_names_are_read_as_docker_does),
	  cmocka_unit_test(test_a_name_is_tried_as_given_first),
	  cmocka_unit_test(test_imported_images_get_names),
	  cmocka_unit_test(test_chain_ids_are_the_oci_ones),
	  cmocka_unit_test(test_platforms_are_parsed_as_people_write_them),
	  cmocka_unit_test(test_the_best_platform_of_an_index_is_chosen),
	  cmocka_unit_test(test_mounts_are_containerds),
	  cmocka_unit_test(test_many_layers_are_options_of_their_own),
	  cmocka_unit_test(test_a_set_has_what_was_added))
