/* Copying by descriptors: shapes as docker cp has them, and nothing leads out of a container's root. */

#include "tools/copy.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "broker/lib/cleanup.h"
#include "broker/lib/file.h"
#include "tests/lib/main.h"

struct
try {
	struct scratch scratch;
	struct copy_tree host, container;
	struct why why;
};

static char *path_of(const struct try *try, const char *name)
{
	return scratch_path(&try->scratch, name);
}

static void make_dir(const struct try *try, const char *name)
{
	_cleanup_(cleanup_free) char *path = path_of(try, name);

	assert_int_equal(file_make_dir(path, 0755, NULL), 0);
}

static void make_file(const struct try *try, const char *name, const char *text)
{
	_cleanup_(cleanup_free) char *path = path_of(try, name);

	assert_int_equal(file_write(path, text, strlen(text), 0640, false, NULL), 0);
}

static void make_link(const struct try *try, const char *name, const char *target)
{
	_cleanup_(cleanup_free) char *path = path_of(try, name);

	assert_int_equal(symlink(target, path), 0);
}

/* The scratch directory holds c/, a container's root, and h/, the host. */
static int setup(void **state)
{
	struct try *try = calloc(1, sizeof(*try));
	_cleanup_(cleanup_free) char *root = NULL;

	if (scratch_init(&try->scratch))
		return -1;
	make_dir(try, "c/etc");
	make_dir(try, "h");
	root = path_of(try, "c");
	try->host.root = AT_FDCWD;
	try->container.root = open(root, O_PATH | O_DIRECTORY | O_CLOEXEC);
	try->container.is_container = true;
	*state = try;
	return 0;
}

static int teardown(void **state)
{
	struct try *try = *state;
	int r;

	close(try->container.root);
	r = scratch_deinit(&try->scratch);
	free(try);
	return r;
}

static int copy_in(struct try *try, const char *from, const char *to)
{
	_cleanup_(cleanup_free) char *path = path_of(try, from);

	return copy_path(&try->host, path, &try->container, to, &(struct copy_options){},
			 &try->why);
}

static int copy_out(struct try *try, const char *from, const char *to, bool follow)
{
	_cleanup_(cleanup_free) char *path = path_of(try, to);

	return copy_path(&try->container, from, &try->host, path,
			 &(struct copy_options){.follow = follow}, &try->why);
}

static void assert_text(const struct try *try, const char *name, const char *expected)
{
	_cleanup_(cleanup_free) char *path = path_of(try, name);
	_cleanup_(cleanup_free) char *data = NULL;

	if (!expected) {
		assert_int_equal(access(path, F_OK), -1);
		return;
	}
	assert_int_equal(file_read(AT_FDCWD, path, 4096, &data, NULL), 0);
	assert_string_equal(data, expected);
}

static void test_a_file_lands_in_a_directory_or_under_the_name(void **state)
{
	struct try *try = *state;

	make_file(try, "h/file", "text");
	assert_int_equal(copy_in(try, "h/file", "/etc"), 0);
	assert_text(try, "c/etc/file", "text");
	assert_int_equal(copy_in(try, "h/file", "/etc/other"), 0);
	assert_text(try, "c/etc/other", "text");
	make_file(try, "h/file", "again");
	assert_int_equal(copy_in(try, "h/file", "/etc/other"), 0);
	assert_text(try, "c/etc/other", "again");
	assert_int_equal(copy_in(try, "h/file", "/no/such/place"), -ENOENT);
	assert_non_null(strstr(try->why.text, "/no/such/place"));
	assert_int_equal(copy_in(try, "h/file", "/etc/new/"), -ENOENT);
	assert_int_equal(copy_in(try, "h/none", "/etc"), -ENOENT);
}

static void test_a_directory_lands_under_its_name_or_becomes_it(void **state)
{
	struct try *try = *state;

	make_dir(try, "c/data/sub");
	make_file(try, "c/data/sub/file", "deep");
	make_link(try, "c/data/link", "sub/file");
	assert_int_equal(copy_out(try, "/data", "h", false), 0);
	assert_text(try, "h/data/sub/file", "deep");
	assert_int_equal(copy_out(try, "/data", "h/new", false), 0);
	assert_text(try, "h/new/sub/file", "deep");
	make_dir(try, "h/flat");
	assert_int_equal(copy_out(try, "/data/.", "h/flat", false), 0);
	assert_text(try, "h/flat/sub/file", "deep");
	make_file(try, "h/file", "");
	assert_int_equal(copy_out(try, "/data", "h/file", false), -ENOTDIR);
	make_dir(try, "h/dir/file");
	make_file(try, "c/file", "");
	assert_int_equal(copy_out(try, "/file", "h/dir", false), -EISDIR);
}

static void test_the_root_of_a_container_can_be_copied(void **state)
{
	struct try *try = *state;

	make_file(try, "c/etc/file", "x");
	assert_int_equal(copy_out(try, "/", "h/all", false), 0);
	assert_text(try, "h/all/etc/file", "x");
}

static void assert_link(const struct try *try, const char *name, const char *expected)
{
	_cleanup_(cleanup_free) char *path = path_of(try, name);
	char target[256] = "";

	assert_true(readlink(path, target, sizeof(target) - 1) > 0);
	assert_string_equal(target, expected);
}

static void test_links_are_copied_as_links_unless_they_are_followed(void **state)
{
	struct try *try = *state;

	make_file(try, "c/etc/file", "inside");
	make_file(try, "h/file", "outside");
	make_link(try, "c/link", "/etc/file");
	make_link(try, "c/again", "link");
	assert_int_equal(copy_out(try, "/again", "h/l", false), 0);
	assert_link(try, "h/l", "link");
	assert_int_equal(copy_out(try, "/again", "h/f", true), 0);
	assert_text(try, "h/f", "inside");
	make_link(try, "c/loop", "loop");
	assert_int_equal(copy_out(try, "/loop", "h/x", true), -ELOOP);
}

static void test_links_of_a_container_lead_nowhere_else(void **state)
{
	struct try *try = *state;
	_cleanup_(cleanup_free) char *host = path_of(try, "h");

	make_file(try, "h/secret", "secret");
	make_dir(try, "c/trap");
	make_link(try, "c/up", "../../../../../..");
	make_link(try, "c/abs", host);
	make_link(try, "c/dots", "../h");
	/* Nothing is read through them … */
	assert_int_equal(copy_out(try, "/abs/secret", "h/got", false), -ENOENT);
	assert_int_equal(copy_out(try, "/dots/secret", "h/got", false), -ENOENT);
	assert_int_equal(copy_out(try, "/../h/secret", "h/got", false), -ENOENT);
	assert_text(try, "h/got", NULL);
	/* … and nothing written. */
	make_file(try, "h/in", "in");
	assert_int_equal(copy_in(try, "h/in", "/abs/new"), -ENOENT);
	assert_int_equal(copy_in(try, "h/in", "/up/etc/new"), 0);
	assert_text(try, "c/etc/new", "in");
	assert_text(try, "h/new", NULL);
}

static void test_a_link_in_the_way_is_replaced_not_followed(void **state)
{
	struct try *try = *state;
	_cleanup_(cleanup_free) char *target = path_of(try, "h/target");

	make_file(try, "h/target", "old");
	make_file(try, "h/file", "new");
	make_link(try, "c/etc/file", target);
	assert_int_equal(copy_in(try, "h/file", "/etc"), 0);
	assert_text(try, "c/etc/file", "new");
	assert_text(try, "h/target", "old");
	/* A directory is not looked for behind a link below what is copied. */
	make_dir(try, "h/tree/sub");
	make_file(try, "h/tree/sub/file", "x");
	make_dir(try, "c/tree");
	make_link(try, "c/tree/sub", "../etc");
	assert_int_equal(copy_in(try, "h/tree", "/"), -ENOTDIR);
}

static void test_modes_are_kept_but_for_set_id_bits(void **state)
{
	struct try *try = *state;
	_cleanup_(cleanup_free) char *from = path_of(try, "c/su"), *to = path_of(try, "h/su");
	struct stat st;

	make_file(try, "c/su", "x");
	assert_int_equal(chmod(from, 04755), 0);
	assert_int_equal(copy_out(try, "/su", "h", false), 0);
	assert_int_equal(stat(to, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0755);
	assert_int_equal(copy_path(&try->container, "/su", &try->host, to,
				   &(struct copy_options){.keep_owner = true}, &try->why),
			 0);
	assert_int_equal(stat(to, &st), 0);
	assert_int_equal(st.st_mode & 07777, 04755);
}

static void test_fifos_are_left_out(void **state)
{
	struct try *try = *state;
	_cleanup_(cleanup_free) char *fifo = path_of(try, "c/etc/fifo");

	make_file(try, "c/etc/file", "x");
	assert_int_equal(mkfifo(fifo, 0600), 0);
	assert_int_equal(copy_out(try, "/etc", "h", false), 0);
	assert_text(try, "h/etc/file", "x");
	assert_text(try, "h/etc/fifo", NULL);
}

static void test_a_word_names_a_container_or_the_host(void **state)
{
	char in[] = "web:/etc/x", relative[] = "web:x:y", host[] = "./a:b", path[] = "/a:b",
	     none[] = ":x";
	char *container, *inner;

	(void)state;
	assert_true(copy_split(in, &container, &inner));
	assert_string_equal(container, "web");
	assert_string_equal(inner, "/etc/x");
	assert_true(copy_split(relative, &container, &inner));
	assert_string_equal(inner, "x:y");
	assert_false(copy_split(host, &container, &inner));
	assert_false(copy_split(path, &container, &inner));
	assert_false(copy_split(none, &container, &inner));
}

#define COPY_TEST(test_) cmocka_unit_test_setup_teardown(test_, setup, teardown)
TEST_MAIN(COPY_TEST(test_a_file_lands_in_a_directory_or_under_the_name),
	  COPY_TEST(test_a_directory_lands_under_its_name_or_becomes_it),
	  COPY_TEST(test_the_root_of_a_container_can_be_copied),
	  COPY_TEST(test_links_are_copied_as_links_unless_they_are_followed),
	  COPY_TEST(test_links_of_a_container_lead_nowhere_else),
	  COPY_TEST(test_a_link_in_the_way_is_replaced_not_followed),
	  COPY_TEST(test_modes_are_kept_but_for_set_id_bits), COPY_TEST(test_fifos_are_left_out),
	  cmocka_unit_test(test_a_word_names_a_container_or_the_host))
