/* Reading image archives: what is kept, and which archives are refused. */

#include "tests/lib/main.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "broker/lib/file.h"
#include "services/image/document.h"
#include "services/image/reference.h"
#include "services/image/work/meter.h"
#include "tests/lib/tar.h"

struct fixture {
	struct scratch scratch;
	int ingest;
	struct schema_buffer tar;
	struct work_import_result result;
	struct meter meter;
	struct why why;
	char *texts[32]; /* that entries point to */
	size_t n_texts;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	if (!f || scratch_init(&f->scratch))
		return -1;
	f->ingest = open(f->scratch.dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	*state = f;
	return f->ingest < 0 ? -1 : 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	int r;

	close(f->ingest);
	schema_buffer_clear(&f->tar);
	work_import_result_clear(&f->result);
	meter_clear(&f->meter);
	for (size_t i = 0; i < f->n_texts; i++)
		free(f->texts[i]);
	r = scratch_deinit(&f->scratch);
	free(f);
	return r;
}

/* ---- making layouts ---- */

static const char *keep(struct fixture *f, char *text)
{
	assert_true(f->n_texts < ARRAY_SIZE(f->texts));
	f->texts[f->n_texts++] = text;
	return text;
}

static void add(struct fixture *f, const char *name, const char *data)
{
	tar_add(&f->tar, &(struct tar_entry){.type = '0', .name = name, .data = data});
}

/* Adds a blob; gives its digest. */
static const char *add_blob(struct fixture *f, const char *data)
{
	char digest[DIGEST_SIZE];

	digest_of(data, strlen(data), digest);
	add(f, keep(f, text_format("blobs/sha256/%s", digest + 7)), data);
	return keep(f, strdup(digest));
}

static char *descriptor(const char *media_type, const char *digest, size_t size, const char *more)
{
	return text_format("{\"mediaType\":\"%s\",\"digest\":\"%s\",\"size\":%zu%s}", media_type,
			   digest, size, more);
}

static const char *add_config(struct fixture *f, const char *architecture, size_t n_layers)
{
	return keep(f, text_format("{\"os\":\"linux\",\"architecture\":\"%s\",\"rootfs\":{"
				   "\"diff_ids\":[%s]}}",
				   architecture,
				   n_layers ? "\"sha256:1111111111111111111111111111111111111111"
					      "111111111111111111111111\""
					    : ""));
}

/* A manifest of one layer; gives its descriptor. */
static const char *add_manifest(struct fixture *f, const char *architecture, const char *layer,
				const char *more)
{
	const char *config = add_config(f, architecture, 1), *digest, *layer_digest, *manifest;
	char *config_descriptor, *layer_descriptor, *text;

	digest = add_blob(f, config);
	layer_digest = add_blob(f, layer);
	config_descriptor = descriptor(MEDIA_OCI_CONFIG, digest, strlen(config), "");
	layer_descriptor = descriptor("application/vnd.oci.image.layer.v1.tar", layer_digest,
				      strlen(layer), "");
	manifest = keep(f, text_format("{\"schemaVersion\":2,\"config\":%s,\"layers\":[%s]}",
				       config_descriptor, layer_descriptor));
	free(config_descriptor);
	free(layer_descriptor);
	digest = add_blob(f, manifest);
	text = descriptor(MEDIA_OCI_MANIFEST, digest, strlen(manifest), more);
	return keep(f, text);
}

static void add_layout(struct fixture *f, const char *entries)
{
	add(f, "oci-layout", "{\"imageLayoutVersion\":\"1.0.0\"}");
	add(f, "index.json",
	    keep(f, text_format("{\"schemaVersion\":2,\"manifests\":[%s]}", entries)));
}

#define TAG ",\"annotations\":{\"org.opencontainers.image.ref.name\":\"v1\"}"

/* ---- reading ---- */

static int import_with(struct fixture *f, struct work_import_request request)
{
	struct platform platform = {.os = (char *)"linux", .architecture = (char *)"amd64"};
	int fd = memfd_create("archive", MFD_CLOEXEC);
	int r;

	tar_end(&f->tar);
	assert_int_equal(write(fd, f->tar.data, f->tar.size), f->tar.size);
	assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
	request.platform = &platform;
	request.base_name = request.base_name ? request.base_name : (char *)"base";
	f->why = (struct why){};
	work_import_result_clear(&f->result);
	meter_clear(&f->meter);
	f->meter = METER(-1);
	r = work_import(&request, f->ingest, fd, &f->meter, &f->result, &f->why);
	close(fd);
	return r;
}

static int import(struct fixture *f)
{
	return import_with(f, (struct work_import_request){});
}

static void assert_refused(struct fixture *f, int expected, const char *word)
{
	int r = import(f);

	if (r != expected || !strstr(f->why.text, word))
		fail_msg("%d, not %d: '%s' does not say '%s'", r, expected, f->why.text, word);
	assert_null(f->result.blobs.items);
}

static size_t count_files(struct fixture *f)
{
	_cleanup_(cleanup_dir) DIR *dir = opendir(f->scratch.dir);
	struct dirent *entry;
	size_t count = 0;

	while ((entry = readdir(dir)))
		count += entry->d_name[0] != '.';
	return count;
}

static void assert_blobs_are_what_they_say(struct fixture *f)
{
	for (size_t i = 0; i < f->result.blobs.count; i++) {
		const struct work_blob *blob = &f->result.blobs.items[i];
		char digest[DIGEST_SIZE], *data;
		size_t size;

		assert_int_equal(file_read(f->ingest, blob->path, 1 << 20, &data, &size), 0);
		digest_of(data, size, digest);
		assert_string_equal(digest, blob->digest);
		assert_int_equal(size, blob->size);
		free(data);
	}
}

static void test_a_layout_gives_its_image_and_only_its_blobs(void **state)
{
	struct fixture *f = *state;

	add_layout(f, add_manifest(f, "amd64", "a layer", TAG));
	add_blob(f, "nobody refers to this");
	add(f, "README", "nor to this");
	assert_int_equal(import(f), 0);
	assert_int_equal(f->result.images.count, 1);
	assert_string_equal(f->result.images.items[0].name, "base:v1");
	assert_int_equal(f->result.blobs.count, 3);
	assert_int_equal(count_files(f), 3);
	assert_blobs_are_what_they_say(f);
}

static void test_the_index_may_come_before_its_blobs(void **state)
{
	struct fixture *f = *state, later = {.n_texts = 0};
	const char *entry;

	entry = add_manifest(&later, "amd64", "a layer", TAG);
	add_layout(f, entry);
	assert_int_equal(schema_buffer_add(&f->tar, later.tar.data, later.tar.size), 0);
	assert_int_equal(import(f), 0);
	assert_int_equal(f->result.blobs.count, 3);
	for (size_t i = 0; i < later.n_texts; i++)
		free(later.texts[i]);
	schema_buffer_clear(&later.tar);
}

static void test_of_an_index_only_this_platform_is_kept(void **state)
{
	struct fixture *f = *state;
	const char *amd64, *arm64, *index, *digest;

	amd64 = add_manifest(f, "amd64", "for amd64",
			     ",\"platform\":{\"os\":\"linux\",\"architecture\":\"amd64\"}");
	arm64 = add_manifest(f, "arm64", "for arm64",
			     ",\"platform\":{\"os\":\"linux\",\"architecture\":\"arm64\"}");
	index = keep(f, text_format("{\"schemaVersion\":2,\"manifests\":[%s,%s]}", arm64, amd64));
	digest = add_blob(f, index);
	add_layout(f, keep(f, descriptor(MEDIA_OCI_INDEX, digest, strlen(index), TAG)));
	assert_int_equal(import(f), 0);
	assert_int_equal(f->result.blobs.count, 4);
	assert_int_equal(file_remove_tree(AT_FDCWD, f->scratch.dir, NULL), 0);
	assert_int_equal(mkdir(f->scratch.dir, 0700), 0);
	close(f->ingest);
	f->ingest = open(f->scratch.dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(import_with(f, (struct work_import_request){.all_platforms = true}), 0);
	assert_int_equal(f->result.blobs.count, 7);
}

static void test_a_blob_that_is_not_its_name_is_refused(void **state)
{
	struct fixture *f = *state;
	const char *entry = add_manifest(f, "amd64", "a layer", TAG);
	char digest[DIGEST_SIZE];

	digest_of("a layer", 7, digest);
	add(f, keep(f, text_format("blobs/sha256/%s", digest + 7)), "b layer");
	add_layout(f, entry);
	assert_refused(f, WORK_E_DAMAGED, digest);
}

static void test_a_blob_of_another_size_is_refused(void **state)
{
	struct fixture *f = *state;
	const char *config = add_config(f, "amd64", 0), *digest = add_blob(f, config);

	add_layout(f, keep(f, descriptor(MEDIA_OCI_MANIFEST, digest, strlen(config) + 1, TAG)));
	assert_refused(f, WORK_E_DAMAGED, "its descriptor says");
}

static void test_a_missing_blob_is_named(void **state)
{
	static const char digest[] =
		"sha256:2222222222222222222222222222222222222222222222222222222222222222";
	struct fixture *f = *state;

	add_layout(f, keep(f, descriptor(MEDIA_OCI_MANIFEST, digest, 5, TAG)));
	assert_refused(f, WORK_E_INVALID, digest);
}

static void test_digests_that_are_paths_are_refused(void **state)
{
	struct fixture *f = *state;

	add_layout(f,
		   keep(f, descriptor(MEDIA_OCI_MANIFEST, "sha256:../../../etc/passwd", 5, TAG)));
	assert_refused(f, WORK_E_INVALID, "digest");
}

static void test_indexes_in_indexes_end(void **state)
{
	struct fixture *f = *state;
	const char *inner = "{\"schemaVersion\":2,\"manifests\":[]}";

	/* A ring cannot be made with digests; a deep nesting can. */
	for (int i = 0; i < 6; i++) {
		const char *digest = add_blob(f, inner);
		char *entry = descriptor(MEDIA_OCI_INDEX, digest, strlen(inner), TAG);

		inner = keep(f, text_format("{\"schemaVersion\":2,\"manifests\":[%s]}", entry));
		free(entry);
	}
	add(f, "oci-layout", "{\"imageLayoutVersion\":\"1.0.0\"}");
	add(f, "index.json", inner);
	assert_refused(f, WORK_E_INVALID, "deep");
}

static void test_as_many_layers_as_diff_ids(void **state)
{
	struct fixture *f = *state;
	const char *config = add_config(f, "amd64", 1), *digest = add_blob(f, config), *manifest;
	char *text = descriptor(MEDIA_OCI_CONFIG, digest, strlen(config), "");

	manifest = keep(f, text_format("{\"schemaVersion\":2,\"config\":%s,\"layers\":[]}", text));
	free(text);
	digest = add_blob(f, manifest);
	add_layout(f, keep(f, descriptor(MEDIA_OCI_MANIFEST, digest, strlen(manifest), TAG)));
	assert_refused(f, WORK_E_INVALID, "names 1 layers");
}

static void test_a_document_that_is_too_large_is_not_read(void **state)
{
	size_t size = DOCUMENT_SIZE_MAX + 1;
	char *large = malloc(size + 1);
	struct fixture *f = *state;
	const char *digest;

	memset(large, ' ', size);
	large[size] = '\0';
	digest = add_blob(f, large);
	add_layout(f, keep(f, descriptor(MEDIA_OCI_MANIFEST, digest, size, TAG)));
	free(large);
	assert_refused(f, WORK_E_INVALID, "more than 8388608");
}

static void test_what_is_no_image_archive_is_refused(void **state)
{
	struct fixture *f = *state;

	add(f, "file", "x");
	assert_refused(f, WORK_E_INVALID, "it is no image archive");
}

static void test_an_image_without_a_name_needs_one(void **state)
{
	struct fixture *f = *state;

	add_layout(f, add_manifest(f, "amd64", "a layer", ""));
	assert_refused(f, WORK_E_INVALID, "give a base name");
}

static void test_the_base_name_names_an_image_without_a_tag(void **state)
{
	struct fixture *f = *state;

	add_layout(f, add_manifest(f, "amd64", "a layer", ""));
	assert_int_equal(
		import_with(f, (struct work_import_request){.only_base = true,
							    .digests = true,
							    .index_name = (char *)"all:1"}),
		0);
	assert_int_equal(f->result.images.count, 3);
	assert_string_equal(f->result.images.items[0].name, "base:latest");
	assert_memory_equal(f->result.images.items[1].name, "base@sha256:", 12);
	assert_string_equal(f->result.images.items[2].name, "all:1");
	assert_int_equal(f->result.blobs.count, 4);
}

/* ---- docker save ---- */

static void test_what_docker_saved_becomes_a_manifest(void **state)
{
	struct fixture *f = *state;
	const struct work_image *image;

	add(f, "c.json", add_config(f, "amd64", 1));
	tar_add(&f->tar,
		&(struct tar_entry){.type = '2', .name = "x/layer.tar", .link = "../y/layer.tar"});
	add(f, "y/layer.tar", "a layer");
	add(f, "manifest.json",
	    "[{\"Config\":\"c.json\",\"RepoTags\":[\"busybox\"],\"Layers\":[\"x/layer.tar\"]}]");
	assert_int_equal(import(f), 0);
	assert_int_equal(f->result.images.count, 1);
	image = &f->result.images.items[0];
	assert_string_equal(image->name, "docker.io/library/busybox:latest");
	assert_string_equal(image->target->media_type, MEDIA_DOCKER_MANIFEST);
	assert_int_equal(f->result.blobs.count, 3);
	assert_blobs_are_what_they_say(f);
}

static void test_a_saved_config_that_is_not_its_name_is_refused(void **state)
{
	struct fixture *f = *state;

	add(f, "1111111111111111111111111111111111111111111111111111111111111111.json",
	    add_config(f, "amd64", 0));
	add(f, "manifest.json",
	    "[{\"Config\":\"1111111111111111111111111111111111111111111111111111111111111111.json\","
	    "\"RepoTags\":[\"x\"],\"Layers\":[]}]");
	assert_refused(f, WORK_E_DAMAGED, "the content of");
}

static void test_saved_links_in_a_ring_end(void **state)
{
	struct fixture *f = *state;

	add(f, "c.json", add_config(f, "amd64", 1));
	tar_add(&f->tar, &(struct tar_entry){.type = '2', .name = "a", .link = "b"});
	tar_add(&f->tar, &(struct tar_entry){.type = '2', .name = "b", .link = "a"});
	add(f, "manifest.json",
	    "[{\"Config\":\"c.json\",\"RepoTags\":[\"x\"],\"Layers\":[\"a\"]}]");
	assert_refused(f, WORK_E_INVALID, "lacks 'a'");
}

static void test_an_archive_that_is_cut_is_refused(void **state)
{
	struct fixture *f = *state;

	add_layout(f, add_manifest(f, "amd64", "a layer", TAG));
	f->tar.size -= 700;
	assert_int_not_equal(import(f), 0);
	assert_true(f->why.text[0]);
}

#define CASE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

TEST_MAIN(CASE(test_a_layout_gives_its_image_and_only_its_blobs),
	  CASE(test_the_index_may_come_before_its_blobs),
	  CASE(test_of_an_index_only_this_platform_is_kept),
	  CASE(test_a_blob_that_is_not_its_name_is_refused),
	  CASE(test_a_blob_of_another_size_is_refused), CASE(test_a_missing_blob_is_named),
	  CASE(test_digests_that_are_paths_are_refused), CASE(test_indexes_in_indexes_end),
	  CASE(test_as_many_layers_as_diff_ids),
	  CASE(test_a_document_that_is_too_large_is_not_read),
	  CASE(test_what_is_no_image_archive_is_refused),
	  CASE(test_an_image_without_a_name_needs_one),
	  CASE(test_the_base_name_names_an_image_without_a_tag),
	  CASE(test_what_docker_saved_becomes_a_manifest),
	  CASE(test_a_saved_config_that_is_not_its_name_is_refused),
	  CASE(test_saved_links_in_a_ring_end), CASE(test_an_archive_that_is_cut_is_refused))
