/* Two trees become a layer: which entries there are, and what is refused. */

#include "tests/lib/main.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "services/image/document.h"
#include "services/image/work/stream.h"
#include "tests/lib/scratch.h"

#define ENTRIES_MAX 64

struct fixture {
	struct scratch scratch;
	int snapshots, ingest;
	struct why why;
	struct work_import_result result;
	char entries[ENTRIES_MAX][320]; /* "<type> <path>[ -> <link>]" */
	size_t n_entries;
};

static int open_new(struct fixture *f, const char *name)
{
	char *path = scratch_path(&f->scratch, name);
	int fd = mkdir(path, 0700) ? -1 : open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	free(path);
	return fd;
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	umask(0);
	if (!f || scratch_init(&f->scratch))
		return -1;
	f->snapshots = open_new(f, "snapshots");
	f->ingest = open_new(f, "ingest");
	if (f->snapshots < 0 || f->ingest < 0)
		return -1;
	for (const char *const *name = (const char *const[]){"1", "1/fs", "2", "2/fs", NULL}; *name;
	     name++) {
		if (mkdirat(f->snapshots, *name, 0755))
			return -1;
	}
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	int r;

	work_import_result_clear(&f->result);
	close(f->snapshots);
	close(f->ingest);
	r = scratch_deinit(&f->scratch);
	free(f);
	return r;
}

/* ---- making trees ---- */

static void settle(struct fixture *f, const char *path)
{
	static const struct timespec times[2] = {{1000, 0}, {1000, 0}};

	assert_int_equal(utimensat(f->snapshots, path, times, AT_SYMLINK_NOFOLLOW), 0);
}

static void add_file(struct fixture *f, const char *path, const char *content)
{
	int fd = openat(f->snapshots, path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, content, strlen(content)), strlen(content));
	close(fd);
	settle(f, path);
}

static void add_dir(struct fixture *f, const char *path)
{
	assert_int_equal(mkdirat(f->snapshots, path, 0755), 0);
}

/* The times of what was made in them. */
static void settle_dirs(struct fixture *f, const char *const *paths)
{
	for (; *paths; paths++)
		settle(f, *paths);
}

/* ---- the layer ---- */

static void note_entry(struct fixture *f, struct archive_entry *entry)
{
	static const char types[] = "?pc?d?b?f?l?s???";
	const char *link = archive_entry_hardlink(entry);
	char type = link ? 'h' : types[(archive_entry_filetype(entry) >> 12) & 15];

	assert_true(f->n_entries < ENTRIES_MAX);
	link = link ?: archive_entry_symlink(entry);
	snprintf(f->entries[f->n_entries++], sizeof(f->entries[0]), "%c %s%s%s", type,
		 archive_entry_pathname(entry), link ? " -> " : "", link ?: "");
}

static void read_layer(struct fixture *f)
{
	int fd = openat(f->ingest, f->result.blobs.items[0].path, O_RDONLY | O_CLOEXEC);
	struct archive_entry *entry;
	char digest[DIGEST_SIZE];
	struct stream *stream;
	struct archive *tar;

	assert_true(fd >= 0);
	assert_int_equal(stream_new(fd, true, NULL, &stream, NULL), 0);
	assert_int_equal(stream_open_tar(stream, &tar, NULL), 0);
	f->n_entries = 0;
	while (!stream_next(stream, &entry, NULL) && entry)
		note_entry(f, entry);
	assert_int_equal(stream_finish(stream, digest, NULL), 0);
	assert_string_equal(digest, f->result.blobs.items[0].diff_id);
	stream_free(stream);
	close(fd);
}

static int diff_with(struct fixture *f, struct work_limits *limits)
{
	char *left[] = {(char *)"1"}, *right[] = {(char *)"2"};
	const struct work_diff_request request = {.left = {left, 1},
						  .right = {right, 1},
						  .media_type = (char *)MEDIA_OCI_LAYER_GZIP,
						  .limits = limits};
	int r;

	work_import_result_clear(&f->result);
	f->why = (struct why){};
	settle_dirs(f, (const char *const[]){"1/fs", "2/fs", NULL});
	r = work_diff(&request, f->snapshots, f->ingest, false, &f->result, &f->why);
	if (!r)
		read_layer(f);
	return r;
}

/* The layer is these entries, up to NULL. */
static void assert_layer(struct fixture *f, const char *const *expected)
{
	size_t i = 0;

	if (diff_with(f, NULL))
		fail_msg("%s", f->why.text);
	for (; expected[i]; i++) {
		assert_true(i < f->n_entries);
		assert_string_equal(f->entries[i], expected[i]);
	}
	assert_int_equal(f->n_entries, i);
}

#define LAYER(...) ((const char *const[]){__VA_ARGS__, NULL})
#define NO_ENTRY   ((const char *const[]){NULL})

/* ---- tests ---- */

static void test_what_is_the_same_is_left_out(void **state)
{
	struct fixture *f = *state;

	for (int tree = 1; tree <= 2; tree++) {
		char path[32];

		snprintf(path, sizeof(path), "%d/fs/d", tree);
		add_dir(f, path);
		snprintf(path, sizeof(path), "%d/fs/d/same", tree);
		add_file(f, path, "content");
		snprintf(path, sizeof(path), "%d/fs/link", tree);
		assert_int_equal(symlinkat("d/same", f->snapshots, path), 0);
		settle(f, path);
		snprintf(path, sizeof(path), "%d/fs/d", tree);
		settle(f, path);
	}
	assert_layer(f, NO_ENTRY);
	/* The same size, time and mode: only the bytes are others. */
	add_file(f, "2/fs/d/same", "CONTENT");
	assert_layer(f, LAYER("f d/same"));
	add_file(f, "2/fs/d/same", "content");
	assert_int_equal(fchmodat(f->snapshots, "2/fs/d/same", 04644, 0), 0);
	assert_layer(f, LAYER("f d/same"));
}

static void test_what_is_gone_becomes_a_whiteout(void **state)
{
	struct fixture *f = *state;

	add_dir(f, "1/fs/d");
	add_file(f, "1/fs/d/a", "");
	add_file(f, "1/fs/d/b", "");
	add_file(f, "1/fs/file", "");
	add_dir(f, "1/fs/gone");
	add_file(f, "1/fs/gone/x", "");
	add_dir(f, "2/fs/d");
	add_file(f, "2/fs/d/c", "");
	add_dir(f, "2/fs/file");
	add_file(f, "2/fs/file/in", "");
	settle_dirs(f, LAYER("1/fs/d", "2/fs/d", "2/fs/file"));
	/* Of d nothing is left: one mark instead of a whiteout for each name. */
	assert_layer(f, LAYER("f .wh.gone", "f d/.wh..wh..opq", "f d/c", "d file/", "f file/in"));
}

static void test_names_of_one_file_stay_names_of_one_file(void **state)
{
	struct fixture *f = *state;

	add_file(f, "1/fs/a", "x");
	assert_int_equal(linkat(f->snapshots, "1/fs/a", f->snapshots, "1/fs/b", 0), 0);
	add_file(f, "2/fs/a", "x");
	assert_int_equal(linkat(f->snapshots, "2/fs/a", f->snapshots, "2/fs/b", 0), 0);
	assert_layer(f, NO_ENTRY);
	/* A third name: the two others belong to it. */
	assert_int_equal(linkat(f->snapshots, "2/fs/a", f->snapshots, "2/fs/c", 0), 0);
	assert_layer(f, LAYER("f a", "h b -> a", "h c -> a"));
	/* Two names of other files than before, with the same content and as many names. */
	assert_int_equal(unlinkat(f->snapshots, "2/fs/c", 0), 0);
	for (int tree = 1; tree <= 2; tree++) {
		char from[32], to[32];

		snprintf(from, sizeof(from), "%d/fs/c", tree);
		snprintf(to, sizeof(to), "%d/fs/d", tree);
		add_file(f, from, "x");
		assert_int_equal(linkat(f->snapshots, from, f->snapshots, to, 0), 0);
	}
	assert_layer(f, NO_ENTRY);
	assert_int_equal(renameat(f->snapshots, "2/fs/b", f->snapshots, "2/fs/t"), 0);
	assert_int_equal(renameat(f->snapshots, "2/fs/d", f->snapshots, "2/fs/b"), 0);
	assert_int_equal(renameat(f->snapshots, "2/fs/t", f->snapshots, "2/fs/d"), 0);
	if (diff_with(f, NULL))
		fail_msg("%s", f->why.text);
	assert_int_equal(f->n_entries, 4);
}

static void test_links_are_never_followed(void **state)
{
	struct fixture *f = *state;

	add_dir(f, "1/fs/d");
	add_file(f, "1/fs/d/x", "");
	assert_int_equal(symlinkat("/etc", f->snapshots, "2/fs/d"), 0);
	assert_int_equal(symlinkat("../../ingest", f->snapshots, "2/fs/up"), 0);
	assert_layer(f, LAYER("l d -> /etc", "l up -> ../../ingest"));
}

static void test_what_a_layer_cannot_hold_is_refused_by_name(void **state)
{
	struct work_limits entries = {.entries = 2}, depth = {.path_depth = 2};
	char long_name[5 + 252 + 1] = "1/fs/";
	struct fixture *f = *state;

	add_file(f, "2/fs/.wh.x", "");
	assert_int_equal(diff_with(f, NULL), WORK_E_INVALID);
	assert_non_null(strstr(f->why.text, "'.wh.x'"));
	assert_int_equal(unlinkat(f->snapshots, "2/fs/.wh.x", 0), 0);
	memset(long_name + 5, 'n', 252);
	add_file(f, long_name, "");
	assert_int_equal(diff_with(f, NULL), WORK_E_INVALID);
	assert_non_null(strstr(f->why.text, "too long"));
	assert_int_equal(unlinkat(f->snapshots, long_name, 0), 0);
	add_dir(f, "2/fs/a");
	add_dir(f, "2/fs/a/b");
	add_dir(f, "2/fs/a/b/c");
	assert_int_equal(diff_with(f, &entries), WORK_E_INVALID);
	assert_non_null(strstr(f->why.text, "more than 2 entries"));
	assert_int_equal(diff_with(f, &depth), WORK_E_INVALID);
	assert_non_null(strstr(f->why.text, "'a/b/c'"));
	assert_non_null(strstr(f->why.text, "2 directories"));
	assert_int_equal(diff_with(f, NULL), 0);
}

static void test_a_socket_is_left_out_and_a_fifo_is_not_waited_for(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(mknodat(f->snapshots, "2/fs/fifo", S_IFIFO | 0600, 0), 0);
	assert_int_equal(mknodat(f->snapshots, "2/fs/sock", S_IFSOCK | 0600, 0), 0);
	assert_layer(f, LAYER("p fifo"));
}

#define CASE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

TEST_MAIN(CASE(test_what_is_the_same_is_left_out), CASE(test_what_is_gone_becomes_a_whiteout),
	  CASE(test_names_of_one_file_stay_names_of_one_file), CASE(test_links_are_never_followed),
	  CASE(test_what_a_layer_cannot_hold_is_refused_by_name),
	  CASE(test_a_socket_is_left_out_and_a_fifo_is_not_waited_for))
