/* Documents of an image: what is read from them, and what is refused. */

#include "tests/lib/main.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "services/image/platform.h"

#define D1 "sha256:1111111111111111111111111111111111111111111111111111111111111111"
#define D2 "sha256:2222222222222222222222222222222222222222222222222222222222222222"

static int parse_index(const char *text, struct document_index *index, struct why *why)
{
	*why = (struct why){};
	return document_parse_index(text, strlen(text), NULL, index, why);
}

static int parse_manifest(const char *text, struct document_manifest *manifest, struct why *why)
{
	*why = (struct why){};
	return document_parse_manifest(text, strlen(text), NULL, manifest, why);
}

static void test_an_index_gives_its_entries_with_platforms(void **state)
{
	struct document_index index;
	struct why why;

	(void)state;
	assert_int_equal(
		parse_index(
			"{\"schemaVersion\":2,\"manifests\":[{\"mediaType\":\"" MEDIA_OCI_MANIFEST
			"\",\"digest\":\"" D1 "\",\"size\":7,\"annotations\":{\"a\":\"b\"},"
			"\"platform\":{\"os\":\"linux\",\"architecture\":\"arm\",\"variant\":"
			"\"v7\"}},{\"digest\":\"" D2 "\",\"size\":8}]}",
			&index, &why),
		0);
	assert_int_equal(index.count, 2);
	assert_string_equal(index.items[0].descriptor.digest, D1);
	assert_int_equal(index.items[0].descriptor.size, 7);
	assert_string_equal(schema_map_get(&index.items[0].descriptor.annotations, "a"), "b");
	assert_string_equal(index.items[0].platform.variant, "v7");
	assert_null(index.items[1].platform.os);
	document_index_clear(&index);
}

static void test_a_checkpoints_parts_are_no_images(void **state)
{
	static const char part[] = "application/vnd.containerd.container.criu.checkpoint.criu.tar";
	struct platform host = {.os = (char *)"linux", .architecture = (char *)"amd64"};
	struct document_entry entries[] = {
		{.descriptor.media_type = (char *)part, .platform = host},
		{.descriptor.media_type = (char *)MEDIA_OCI_LAYER_GZIP, .platform = host},
		{.descriptor.media_type = (char *)MEDIA_OCI_MANIFEST, .platform = host},
	};
	struct document_index index = {.items = entries, .count = 3};

	(void)state;
	assert_true(document_is_part(part));
	assert_true(document_is_part(MEDIA_OCI_LAYER_GZIP));
	assert_false(document_is_part(MEDIA_OCI_MANIFEST));
	assert_false(document_is_part(MEDIA_OCI_INDEX));
	assert_false(document_is_part(NULL));
	assert_int_equal(platform_choose(&index, &host), 2);
	index.count = 2;
	assert_int_equal(platform_choose(&index, &host), -1);
}

static void test_hostile_indexes_are_refused(void **state)
{
	static const char *const texts[] = {
		"",
		"[]",
		"{}",
		"{\"schemaVersion\":1,\"manifests\":[]}",
		"{\"schemaVersion\":2,\"manifests\":{}}",
		"{\"schemaVersion\":2,\"manifests\":[1]}",
		"{\"schemaVersion\":2,\"manifests\":[{\"size\":1}]}",
		"{\"schemaVersion\":2,\"manifests\":[{\"digest\":\"" D1 "\",\"size\":-1}]}",
		"{\"schemaVersion\":2,\"manifests\":[{\"digest\":\"" D1 "\",\"size\":\"1\"}]}",
		"{\"schemaVersion\":2,\"manifests\":[{\"digest\":\"sha256:../../x\",\"size\":1}]}",
		"{\"schemaVersion\":2,\"manifests\":[{\"digest\":\"sha512:11\",\"size\":1}]}",
		"{\"schemaVersion\":2,\"manifests\":[{\"digest\":\"SHA256" D1 "\",\"size\":1}]}",
		"{\"schemaVersion\":2,\"manifests\":[],\"layers\":[]}",
		"{\"schemaVersion\":2,\"manifests\":[],\"config\":{}}",
		"{\"schemaVersion\":2,\"manifests\":[]} trailing",
		"{\"schemaVersion\":2,\"manifests\":[],\"manifests\":[]}",
	};
	struct document_index index;
	struct why why;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
		if (parse_index(texts[i], &index, &why) != DOCUMENT_E_INVALID || !why.text[0])
			fail_msg("not refused: %s", texts[i]);
	}
}

static void test_an_index_with_too_many_entries_is_refused(void **state)
{
	struct schema_buffer text = {};
	struct document_index index;
	struct why why = {};

	(void)state;
	assert_int_equal(schema_buffer_addf(&text, "{\"schemaVersion\":2,\"manifests\":["), 0);
	for (int i = 0; i <= DOCUMENT_ENTRIES_MAX; i++)
		assert_int_equal(schema_buffer_addf(&text, "%s{\"digest\":\"" D1 "\",\"size\":1}",
						    i ? "," : ""),
				 0);
	assert_int_equal(schema_buffer_addf(&text, "]}"), 0);
	assert_int_equal(document_parse_index((char *)text.data, text.size, NULL, &index, &why),
			 DOCUMENT_E_INVALID);
	assert_non_null(strstr(why.text, "more than 1024"));
	schema_buffer_clear(&text);
}

static void test_a_manifest_gives_config_and_layers(void **state)
{
	struct document_manifest manifest;
	struct why why;

	(void)state;
	assert_int_equal(parse_manifest("{\"schemaVersion\":2,\"config\":{\"digest\":\"" D1
					"\",\"size\":3},\"layers\":[{\"digest\":\"" D2
					"\",\"size\":4,\"urls\":[\"http://x\"]}]}",
					&manifest, &why),
			 0);
	assert_string_equal(manifest.config.digest, D1);
	assert_int_equal(manifest.layers.count, 1);
	assert_string_equal(manifest.layers.items[0].digest, D2);
	document_manifest_clear(&manifest);
}

static void test_hostile_manifests_are_refused(void **state)
{
	static const char *const texts[] = {
		"null",
		"{\"schemaVersion\":2}",
		"{\"schemaVersion\":2,\"config\":{}}",
		"{\"schemaVersion\":2,\"config\":[]}",
		"{\"schemaVersion\":2,\"config\":{\"digest\":\"" D1
		"\",\"size\":1},\"layers\":[{\"digest\":\"" D1 "\"}]}",
		"{\"schemaVersion\":2,\"config\":{\"digest\":\"" D1
		"\",\"size\":1},\"layers\":[],\"manifests\":[]}",
		"{\"schemaVersion\":2,\"config\":{\"digest\":\"" D1 "\",\"size\":1},\"layers\":{}}",
	};
	struct document_manifest manifest;
	struct why why;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
		if (parse_manifest(texts[i], &manifest, &why) != DOCUMENT_E_INVALID || !why.text[0])
			fail_msg("not refused: %s", texts[i]);
	}
}

static void test_a_document_must_be_what_its_descriptor_says(void **state)
{
	static const char text[] = "{\"schemaVersion\":2,\"mediaType\":\"" MEDIA_OCI_INDEX
				   "\",\"manifests\":[]}";
	struct document_index index;
	struct why why = {};

	(void)state;
	assert_int_equal(document_parse_index(text, strlen(text), MEDIA_DOCKER_LIST, &index, &why),
			 DOCUMENT_E_INVALID);
	assert_int_equal(document_parse_index(text, strlen(text), MEDIA_OCI_INDEX, &index, &why),
			 0);
	document_index_clear(&index);
}

static void test_a_config_gives_platform_and_diff_ids(void **state)
{
	static const char text[] =
		"{\"os\":\"linux\",\"architecture\":\"amd64\",\"rootfs\":{\"type\":"
		"\"layers\",\"diff_ids\":[\"" D1 "\",\"" D2 "\"]}}";
	static const char *const bad[] = {"{\"rootfs\":[]}", "{\"rootfs\":{\"diff_ids\":[\"x\"]}}",
					  "{\"rootfs\":{\"diff_ids\":[3]}}", "{\"os\":7}"};
	struct document_config config;
	struct why why = {};

	(void)state;
	assert_int_equal(document_parse_config(text, strlen(text), &config, &why), 0);
	assert_string_equal(config.platform.architecture, "amd64");
	assert_int_equal(config.diff_ids.count, 2);
	assert_string_equal(config.diff_ids.items[1], D2);
	document_config_clear(&config);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(document_parse_config(bad[i], strlen(bad[i]), &config, &why),
				 DOCUMENT_E_INVALID);
}

static void test_a_large_config_is_refused(void **state)
{
	char *text = malloc(DOCUMENT_CONFIG_MAX + 1);
	struct document_config config;
	struct why why = {};

	(void)state;
	memset(text, ' ', DOCUMENT_CONFIG_MAX + 1);
	assert_int_equal(document_parse_config(text, DOCUMENT_CONFIG_MAX + 1, &config, &why),
			 DOCUMENT_E_INVALID);
	free(text);
}

static void test_what_docker_saved_is_read(void **state)
{
	static const char text[] =
		"[{\"Config\":\"c.json\",\"RepoTags\":[\"a:1\",\"b\"],\"Layers\":["
		"\"x/layer.tar\"]},{\"Config\":\"d.json\",\"RepoTags\":null,"
		"\"Layers\":[]}]";
	struct document_saved_list list;
	struct why why = {};

	(void)state;
	assert_int_equal(document_parse_saved(text, strlen(text), &list, &why), 0);
	assert_int_equal(list.count, 2);
	assert_int_equal(list.items[0].names.count, 2);
	assert_string_equal(list.items[0].layers.items[0], "x/layer.tar");
	assert_int_equal(list.items[1].names.count, 0);
	document_saved_list_clear(&list);
	assert_int_equal(document_parse_saved("{}", 2, &list, &why), DOCUMENT_E_INVALID);
	assert_int_equal(document_parse_saved("[{}]", 4, &list, &why), DOCUMENT_E_INVALID);
}

static void test_a_written_manifest_is_read_again(void **state)
{
	struct descriptor config = {
		.media_type = (char *)MEDIA_DOCKER_CONFIG, .digest = (char *)D1, .size = 1};
	struct descriptor layer = {
		.media_type = (char *)MEDIA_DOCKER_LAYER, .digest = (char *)D2, .size = 2};
	struct document_manifest manifest;
	struct why why;
	char *text;

	(void)state;
	text = document_write_manifest(&config, &layer, 1);
	assert_string_equal(text, "{\"schemaVersion\":2,\"mediaType\":\"" MEDIA_DOCKER_MANIFEST
				  "\",\"config\":{\"mediaType\":\"" MEDIA_DOCKER_CONFIG
				  "\",\"digest\":\"" D1
				  "\",\"size\":1},\"layers\":[{\"mediaType\":\"" MEDIA_DOCKER_LAYER
				  "\",\"digest\":\"" D2 "\",\"size\":2}]}");
	assert_int_equal(parse_manifest(text, &manifest, &why), 0);
	assert_string_equal(manifest.media_type, MEDIA_DOCKER_MANIFEST);
	document_manifest_clear(&manifest);
	free(text);
}

static void test_only_layouts_of_version_1_are_read(void **state)
{
	(void)state;
	assert_int_equal(document_check_layout("{\"imageLayoutVersion\":\"1.0.0\"}", 30, NULL), 0);
	assert_int_equal(document_check_layout("{\"imageLayoutVersion\":\"2.0.0\"}", 30, NULL),
			 DOCUMENT_E_INVALID);
	assert_int_equal(document_check_layout("{}", 2, NULL), DOCUMENT_E_INVALID);
}

TEST_MAIN(cmocka_unit_test(test_an_index_gives_its_entries_with_platforms),
	  cmocka_unit_test(test_a_checkpoints_parts_are_no_images),
	  cmocka_unit_test(test_hostile_indexes_are_refused),
	  cmocka_unit_test(test_an_index_with_too_many_entries_is_refused),
	  cmocka_unit_test(test_a_manifest_gives_config_and_layers),
	  cmocka_unit_test(test_hostile_manifests_are_refused),
	  cmocka_unit_test(test_a_document_must_be_what_its_descriptor_says),
	  cmocka_unit_test(test_a_config_gives_platform_and_diff_ids),
	  cmocka_unit_test(test_a_large_config_is_refused),
	  cmocka_unit_test(test_what_docker_saved_is_read),
	  cmocka_unit_test(test_a_written_manifest_is_read_again),
	  cmocka_unit_test(test_only_layouts_of_version_1_are_read))
