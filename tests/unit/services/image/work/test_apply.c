/* Applying layers: what they may do in the snapshot, and that nothing else can be done. */

#include "tests/lib/main.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "broker/lib/file.h"
#include "services/image/work/hash.h"
#include "services/image/work/work.h"
#include "tests/lib/tar.h"

#define ENTRIES_MAX 8

struct fixture {
	struct scratch scratch;
	char *snapshots_path, *victim;
	int snapshots;
	struct stat victim_before;
	struct why why;
	struct work_apply_result result;
};

/* ---- the fixture: snapshots/ and, beside it, a victim that nobody may touch ---- */

static void make_layer(struct fixture *f, const char *name)
{
	char path[64];

	assert_int_equal(mkdirat(f->snapshots, name, 0700), 0);
	snprintf(path, sizeof(path), "%s/fs", name);
	assert_int_equal(mkdirat(f->snapshots, path, 0755), 0);
	snprintf(path, sizeof(path), "%s/work", name);
	assert_int_equal(mkdirat(f->snapshots, path, 0711), 0);
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	int fd;

	umask(0);
	if (!f || scratch_init(&f->scratch))
		return -1;
	f->snapshots_path = scratch_path(&f->scratch, "snapshots");
	f->victim = scratch_path(&f->scratch, "victim");
	fd = open(f->victim, O_WRONLY | O_CREAT | O_EXCL, 0600);
	if (fd < 0 || write(fd, "secret", 6) != 6 || close(fd))
		return -1;
	if (stat(f->victim, &f->victim_before) || mkdir(f->snapshots_path, 0700))
		return -1;
	f->snapshots = open(f->snapshots_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	make_layer(f, "1");
	make_layer(f, "2");
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	int r;

	work_apply_result_clear(&f->result);
	close(f->snapshots);
	free(f->snapshots_path);
	free(f->victim);
	if (chdir("/"))
		return -1;
	r = scratch_deinit(&f->scratch);
	free(f);
	return r;
}

static int blob_of(const void *data, size_t size)
{
	int fd = memfd_create("layer", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, data, size), size);
	assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
	return fd;
}

static int apply_bytes(struct fixture *f, const void *data, size_t size,
		       struct work_apply_request request)
{
	int fd = blob_of(data, size);
	int r;

	f->why = (struct why){};
	work_apply_result_clear(&f->result);
	request.no_sync = true;
	r = work_apply(&request, fd, f->snapshots, false, &f->result, &f->why);
	close(fd);
	return r;
}

static int apply(struct fixture *f, const char *target, const char *parent, bool native,
		 const struct tar_entry *entries)
{
	char *parents[] = {(char *)parent};
	struct schema_buffer tar = {};
	int r;

	tar_write(&tar, entries);
	r = apply_bytes(f, tar.data, tar.size,
			(struct work_apply_request){.target = (char *)target,
						    .native = native,
						    .parents = {parents, parent ? 1 : 0}});
	schema_buffer_clear(&tar);
	return r;
}

static void assert_victim_is_untouched(struct fixture *f)
{
	struct stat now;
	char *data;

	assert_int_equal(stat(f->victim, &now), 0);
	assert_int_equal(now.st_mode, f->victim_before.st_mode);
	assert_int_equal(now.st_uid, f->victim_before.st_uid);
	assert_int_equal(now.st_nlink, 1);
	assert_int_equal(now.st_mtim.tv_sec, f->victim_before.st_mtim.tv_sec);
	assert_int_equal(now.st_mtim.tv_nsec, f->victim_before.st_mtim.tv_nsec);
	assert_int_equal(now.st_ctim.tv_nsec, f->victim_before.st_ctim.tv_nsec);
	assert_int_equal(file_read(AT_FDCWD, f->victim, 100, &data, NULL), 0);
	assert_string_equal(data, "secret");
	free(data);
}

static struct stat status_of(struct fixture *f, const char *path)
{
	struct stat status = {};

	if (fstatat(f->snapshots, path, &status, AT_SYMLINK_NOFOLLOW) < 0)
		fail_msg("%s: %s", path, strerror(errno));
	return status;
}

static bool is_there(struct fixture *f, const char *path)
{
	struct stat status;

	return fstatat(f->snapshots, path, &status, AT_SYMLINK_NOFOLLOW) == 0;
}

static void assert_content(struct fixture *f, const char *path, const char *content)
{
	char *data;

	assert_int_equal(file_read(f->snapshots, path, 100000, &data, NULL), 0);
	assert_string_equal(data, content);
	free(data);
}

static bool is_opaque(struct fixture *f, const char *path)
{
	int fd = openat(f->snapshots, path, O_RDONLY | O_DIRECTORY);
	char value = 0;
	bool is_set = fgetxattr(fd, "trusted.overlay.opaque", &value, 1) == 1 && value == 'y';

	close(fd);
	return is_set;
}

static void assert_whiteout(struct fixture *f, const char *path)
{
	struct stat status = status_of(f, path);

	assert_true(S_ISCHR(status.st_mode));
	assert_int_equal(status.st_rdev, 0);
}

/* ---- attacks ---- */

#define DIR_(n)                                                                                    \
	{                                                                                          \
		.type = '5', .name = n                                                             \
	}
#define FILE_(n, d)                                                                                \
	{                                                                                          \
		.type = '0', .name = n, .data = d                                                  \
	}
#define SYM_(n, to)                                                                                \
	{                                                                                          \
		.type = '2', .name = n, .link = to                                                 \
	}
#define HARD_(n, to)                                                                               \
	{                                                                                          \
		.type = '1', .name = n, .link = to                                                 \
	}
#define VICTIM "../../../victim" /* from the layer's root */

enum outcome { REFUSED_, CONFINED };

static const struct attack {
	const char *what;
	enum outcome outcome;
	struct tar_entry entries[ENTRIES_MAX];
} attacks[] = {
	{"a name that leads upwards", REFUSED_, {FILE_(VICTIM, "bad")}},
	{"a name that leads upwards in its middle",
	 REFUSED_,
	 {FILE_("a/../../../../victim", "bad")}},
	{"a name that is ..", REFUSED_, {DIR_("..")}},
	{"an absolute name", CONFINED, {FILE_("/victim", "bad")}},
	{"a file through an absolute link", CONFINED, {SYM_("l", "/"), FILE_("l/victim", "bad")}},
	{"a file through a link upwards",
	 CONFINED,
	 {SYM_("l", "../../.."), FILE_("l/victim", "bad")}},
	{"a file through two links",
	 CONFINED,
	 {SYM_("a", "../.."), SYM_("b", "a/.."), FILE_("b/victim", "bad")}},
	{"a file over a link to the victim", CONFINED, {SYM_("l", VICTIM), FILE_("l", "bad")}},
	{"a directory over a link upwards",
	 CONFINED,
	 {SYM_("l", "../../.."),
	  {.type = '5', .name = "l", .mode = 0777},
	  FILE_("l/victim", "bad")}},
	{"links in a ring", REFUSED_, {SYM_("a", "b"), SYM_("b", "a"), FILE_("a/x", "bad")}},
	{"a hard link out by ..", REFUSED_, {HARD_("h", VICTIM), FILE_("h", "bad")}},
	{"a hard link out by an absolute name", REFUSED_, {HARD_("h", "/../../../victim")}},
	{"a hard link to what is not there", REFUSED_, {HARD_("h", "victim")}},
	{"a hard link through a link",
	 REFUSED_,
	 {SYM_("l", "../../.."), HARD_("h", "l/victim"), FILE_("h", "bad")}},
	{"a hard link to a link to the victim, then a mode",
	 CONFINED,
	 {SYM_("l", VICTIM),
	  HARD_("h", "l"),
	  {.type = '0', .name = "h", .data = "", .mode = 04777}}},
	{"a hard link to a link, with a mode of its own",
	 CONFINED,
	 {SYM_("l", VICTIM), {.type = '1', .name = "h", .link = "l", .mode = 04777, .uid = 77}}},
	{"a hard link to itself", REFUSED_, {FILE_("a", "x"), HARD_("a", "a")}},
	{"a hard link to a directory", REFUSED_, {DIR_("d"), HARD_("h", "d")}},
	{"a hard link to the root", REFUSED_, {HARD_("h", "/")}},
	{"a link in place of the root", REFUSED_, {SYM_(".", "../../..")}},
	{"a link in place of the root, ./", REFUSED_, {SYM_("./", "/")}},
	{"a file in place of the root", REFUSED_, {FILE_("/", "bad")}},
	{"a hard link in place of the root", REFUSED_, {HARD_("//", "a")}},
	{"a whiteout of ..", REFUSED_, {FILE_(".wh...", "")}},
	{"a whiteout of .", REFUSED_, {FILE_(".wh..", "")}},
	{"a whiteout of nothing", REFUSED_, {FILE_(".wh.", "")}},
	{"a whiteout upwards", REFUSED_, {FILE_("../../../.wh.victim", "")}},
	{"a whiteout through a link", CONFINED, {SYM_("l", "../../.."), FILE_("l/.wh.victim", "")}},
	{"an opaque mark through a link",
	 CONFINED,
	 {SYM_("l", "../../.."), FILE_("l/.wh..wh..opq", "")}},
	{"a whiteout as a directory", REFUSED_, {FILE_(".wh.x/y", "bad")}},
	{"a whiteout of a link to the victim", CONFINED, {SYM_("l", VICTIM), FILE_(".wh.l", "")}},
	{"a whiteout in disguise", REFUSED_, {{.type = '3', .name = "etc"}}},
	{"an opaque mark in disguise",
	 REFUSED_,
	 {{.type = '5', .name = "d", .xattr = "trusted.overlay.opaque", .value = "y"}}},
	{"a redirect of overlayfs",
	 REFUSED_,
	 {{.type = '5', .name = "d", .xattr = "trusted.overlay.redirect", .value = "/x"}}},
	{"an attribute of overlayfs for users",
	 REFUSED_,
	 {{.type = '0', .name = "f", .data = "", .xattr = "user.overlay.metacopy", .value = "y"}}},
	{"an attribute onto a link to the victim",
	 CONFINED,
	 {{.type = '2', .name = "l", .link = VICTIM, .xattr = "trusted.x", .value = "y"}}},
	{"a mode and owner onto a link to the victim",
	 CONFINED,
	 {{.type = '2', .name = "l", .link = VICTIM, .mode = 0777, .uid = 77, .mtime = 5}}},
	{"a file below a file", REFUSED_, {FILE_("f", "x"), FILE_("f/victim", "bad")}},
	{"a dangling link as a directory",
	 CONFINED,
	 {SYM_("l", "../../../victim/x"), FILE_("l/y", "bad")}},
	{"a type that is none", CONFINED, {{.type = 'Z', .name = "odd", .data = "x"}}},
};

static void assert_nothing_new_outside(struct fixture *f)
{
	_cleanup_(cleanup_dir) DIR *dir = opendir(f->scratch.dir);
	struct dirent *entry;

	while ((entry = readdir(dir))) {
		if (entry->d_name[0] != '.' && strcmp(entry->d_name, "victim") &&
		    strcmp(entry->d_name, "snapshots"))
			fail_msg("'%s' was made outside", entry->d_name);
	}
}

static void run_attack(struct fixture *f, const struct attack *attack, const char *parent,
		       bool native)
{
	int r;

	assert_int_equal(file_remove_tree(f->snapshots, "2", NULL), 0);
	make_layer(f, "2");
	r = apply(f, "2", parent, native, attack->entries);
	if (r < 0)
		fail_msg("%s: %s", attack->what, f->why.text);
	if (attack->outcome == REFUSED_ && (r != WORK_E_INVALID || !f->why.text[0]))
		fail_msg("%s was not refused", attack->what);
	if (attack->outcome == CONFINED && r)
		fail_msg("%s was refused: %s", attack->what, f->why.text);
	assert_victim_is_untouched(f);
	assert_nothing_new_outside(f);
}

static void test_no_entry_leads_out_of_the_root(void **state)
{
	for (size_t i = 0; i < ARRAY_SIZE(attacks); i++)
		run_attack(*state, &attacks[i], NULL, false);
}

/* The same with layers below: there the way is found step by step in the merged view. */
static void test_no_entry_leads_out_over_layers_below(void **state)
{
	static const struct tar_entry below[] = {
		SYM_("out", "../../.."), DIR_("etc"), FILE_("etc/x", "x"), {}};
	static const struct attack through_below = {
		"a file through a link below", CONFINED, {FILE_("out/victim", "bad")}};

	assert_int_equal(apply(*state, "1", NULL, false, below), 0);
	for (size_t i = 0; i < ARRAY_SIZE(attacks); i++)
		run_attack(*state, &attacks[i], "1", false);
	run_attack(*state, &through_below, "1", false);
}

static void test_no_entry_leads_out_natively(void **state)
{
	static const struct tar_entry below[] = {SYM_("out", "../../.."), FILE_("etc/x", "x"), {}};

	assert_int_equal(apply(*state, "1", NULL, true, below), 0);
	for (size_t i = 0; i < ARRAY_SIZE(attacks); i++)
		run_attack(*state, &attacks[i], "1", true);
}

/* ---- limits and damage ---- */

static void test_limits_name_themselves_and_the_entry(void **state)
{
	struct work_limits limits = {.path_depth = 4,
				     .entries = 100,
				     .bytes = 1 << 20,
				     .path_size = 64,
				     .xattr_bytes = 64};
	static const struct {
		struct tar_entry entry;
		const char *word;
	} cases[] = {
		{FILE_("a/b/c/d/e/f", "x"), "4 directories deep"},
		{FILE_("0123456789012345678901234567890123456789012345678901234567890123456789",
		       "x"),
		 "more than 64 bytes"},
		{{.type = '0', .name = "big", .claimed = 1 << 21, .data = "x"},
		 "more than 1048576"},
		{{.type = '0',
		  .name = "f",
		  .data = "x",
		  .xattr = "user.x",
		  .value = "01234567890123456789012345678901234567890123456789012345678901234567"},
		 "64 bytes of extended attributes"},
	};
	struct fixture *f = *state;

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct schema_buffer tar = {};

		tar_add(&tar, &cases[i].entry);
		tar_end(&tar);
		assert_int_equal(
			apply_bytes(f, tar.data, tar.size,
				    (struct work_apply_request){.target = "1", .limits = &limits}),
			WORK_E_INVALID);
		if (!strstr(f->why.text, cases[i].word))
			fail_msg("'%s' does not say '%s'", f->why.text, cases[i].word);
		schema_buffer_clear(&tar);
	}
}

static void test_too_many_entries_are_refused(void **state)
{
	struct work_limits limits = {.entries = 3};
	struct schema_buffer tar = {};
	struct fixture *f = *state;

	for (int i = 0; i < 5; i++)
		tar_add(&tar, &(struct tar_entry){.type = '5', .name = "d"});
	tar_end(&tar);
	assert_int_equal(apply_bytes(f, tar.data, tar.size,
				     (struct work_apply_request){.target = "1", .limits = &limits}),
			 WORK_E_INVALID);
	assert_non_null(strstr(f->why.text, "more than 3 entries"));
	schema_buffer_clear(&tar);
}

/* Every cut of a layer is refused, or ends between two entries. */
static void test_a_cut_layer_is_refused(void **state)
{
	static const struct tar_entry entries[] = {FILE_("a", "content of a file"), DIR_("d"), {}};
	struct schema_buffer tar = {};
	struct fixture *f = *state;

	tar_write(&tar, entries);
	for (size_t size = 1; size < 1024; size += 37) {
		assert_int_equal(
			apply_bytes(f, tar.data, size, (struct work_apply_request){.target = "1"}),
			WORK_E_INVALID);
		assert_true(f->why.text[0]);
	}
	schema_buffer_clear(&tar);
}

/*
 * An archive that ends with the last byte of its last file is whole, as umoci insert writes it. One byte less, or
 * a part of the zeros that would follow, is a cut: refused without any digest. Where the digest is known, what was
 * cut exactly there is refused too.
 */
static void test_the_last_block_need_not_be_filled_up(void **state)
{
	static const char data[512] = "last";
	static const size_t sizes[] = {1, 77, 511};
	struct fixture *f = *state;

	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		const struct tar_entry entries[] = {
			FILE_("first", "1"),
			{.type = '0', .name = "last", .data = data, .size = sizes[i]},
			{}};
		size_t end = 512 + 512 + 512 + sizes[i];
		struct schema_buffer tar = {};
		char digest[DIGEST_SIZE];

		tar_write(&tar, entries);
		digest_of(tar.data, tar.size, digest);
		for (size_t size = end - 1; size < end + 2 && size < 2048; size++) {
			assert_int_equal(apply_bytes(f, tar.data, size,
						     (struct work_apply_request){.target = "1"}),
					 size == end ? 0 : WORK_E_INVALID);
			assert_int_not_equal(apply_bytes(f, tar.data, size,
							 (struct work_apply_request){
								 .target = "1", .diff_id = digest}),
					     0);
		}
		assert_int_equal(
			apply_bytes(f, tar.data, end, (struct work_apply_request){.target = "1"}),
			0);
		assert_int_equal(status_of(f, "1/fs/last").st_size, sizes[i]);
		digest_of(tar.data, end, digest);
		assert_string_equal(f->result.diff_id, digest);
		schema_buffer_clear(&tar);
	}
}

static void test_only_tar_is_understood(void **state)
{
	static const char *const others[] = {"Rar!\x1a\x07\x01 some more bytes",
					     "PK\x03\x04 some more bytes of a zip archive",
					     "7z\xbc\xaf\x27\x1c some more bytes", "just text\n"};
	struct fixture *f = *state;

	for (size_t i = 0; i < ARRAY_SIZE(others); i++) {
		char block[2048] = {};

		strcpy(block, others[i]);
		assert_int_equal(apply_bytes(f, block, sizeof(block),
					     (struct work_apply_request){.target = "1"}),
				 WORK_E_INVALID);
	}
}

static void test_a_wrong_diff_id_is_data_loss(void **state)
{
	static const struct tar_entry entries[] = {FILE_("a", "x"), {}};
	struct work_apply_request request = {
		.target = "1",
		.diff_id =
			"sha256:0000000000000000000000000000000000000000000000000000000000000000"};
	struct schema_buffer tar = {};
	struct fixture *f = *state;
	char digest[DIGEST_SIZE];

	tar_write(&tar, entries);
	digest_of(tar.data, tar.size, digest);
	assert_int_equal(apply_bytes(f, tar.data, tar.size, request), WORK_E_DAMAGED);
	assert_non_null(strstr(f->why.text, digest));
	request.diff_id = digest;
	assert_int_equal(apply_bytes(f, tar.data, tar.size, request), 0);
	assert_string_equal(f->result.diff_id, digest);
	/* One byte behind the end belongs to the layer too. */
	assert_int_equal(schema_buffer_add(&tar, "x", 1), 0);
	assert_int_equal(apply_bytes(f, tar.data, tar.size, request), WORK_E_DAMAGED);
	schema_buffer_clear(&tar);
}

/* ---- what a layer may do ---- */

/* A blob that the disk has damaged is told from a layer that is bad. */
static void test_a_damaged_blob_is_data_loss(void **state)
{
	static const struct tar_entry entries[] = {FILE_("a", "content"), {}};
	struct work_apply_request request = {.target = (char *)"1"};
	struct schema_buffer tar = {};
	struct fixture *f = *state;
	char digest[DIGEST_SIZE];

	tar_write(&tar, entries);
	digest_of(tar.data, tar.size, digest);
	request.blob = digest;
	((char *)tar.data)[0] = 'b';
	assert_int_equal(apply_bytes(f, tar.data, tar.size, request), WORK_E_DAMAGED);
	assert_non_null(strstr(f->why.text, "pull the image again"));
	digest_of(tar.data, tar.size, digest);
	assert_int_equal(apply_bytes(f, tar.data, tar.size, request), WORK_E_INVALID);
	schema_buffer_clear(&tar);
}

static void test_files_are_as_the_archive_says(void **state)
{
	static const struct tar_entry entries[] = {
		{.type = '5', .name = "d", .mode = 02750, .uid = 3, .gid = 4, .mtime = 10},
		{.type = '0', .name = "d/suid", .data = "x", .mode = 04755, .uid = 5, .mtime = 20},
		{.type = '1', .name = "h", .link = "d/suid", .mode = 04755, .uid = 5, .mtime = 20},
		{.type = '2', .name = "l", .link = "d", .uid = 6, .mtime = 30},
		{.type = '3', .name = "null", .major = 1, .minor = 3, .mode = 0666},
		{.type = '6', .name = "fifo", .mode = 0622},
		{.type = '0', .name = "x", .data = "1", .xattr = "user.a", .value = "b"},
		{}};
	struct fixture *f = *state;
	struct stat status;
	char value[8] = {};
	char *path;

	assert_int_equal(apply(f, "1", NULL, false, entries), 0);
	status = status_of(f, "1/fs/d");
	assert_int_equal(status.st_mode, S_IFDIR | 02750);
	assert_int_equal(status.st_uid, 3);
	assert_int_equal(status.st_gid, 4);
	assert_int_equal(status.st_mtim.tv_sec, 10);
	status = status_of(f, "1/fs/h");
	assert_int_equal(status.st_mode, S_IFREG | 04755);
	assert_int_equal(status.st_nlink, 2);
	assert_int_equal(status.st_ino, status_of(f, "1/fs/d/suid").st_ino);
	status = status_of(f, "1/fs/l");
	assert_true(S_ISLNK(status.st_mode));
	assert_int_equal(status.st_uid, 6);
	assert_int_equal(status.st_mtim.tv_sec, 30);
	assert_int_equal(status_of(f, "1/fs/null").st_rdev, makedev(1, 3));
	assert_int_equal(status_of(f, "1/fs/fifo").st_mode, S_IFIFO | 0622);
	path = text_format("%s/1/fs/x", f->snapshots_path);
	assert_int_equal(getxattr(path, "user.a", value, sizeof(value)), 1);
	assert_string_equal(value, "b");
	free(path);
}

static void test_a_long_name_comes_from_its_pax_header(void **state)
{
	char name[240], path[256];
	struct tar_entry entries[] = {{.type = '0', .name = name, .data = "long"}, {}};
	struct fixture *f = *state;

	memset(name, 'n', sizeof(name) - 1);
	name[sizeof(name) - 1] = '\0';
	name[120] = '/';
	assert_int_equal(apply(f, "1", NULL, false, entries), 0);
	snprintf(path, sizeof(path), "1/fs/%s", name);
	assert_content(f, path, "long");
}

static const struct tar_entry lower_entries[] = {
	{.type = '5', .name = "usr"},
	{.type = '5', .name = "usr/lib", .mode = 0711, .uid = 9, .mtime = 70},
	SYM_("lib", "usr/lib"),
	FILE_("usr/lib/old", "old"),
	DIR_("gone"),
	FILE_("gone/x", "x"),
	DIR_("opq"),
	FILE_("opq/old", "old"),
	FILE_("file", "file"),
	{}};

static void apply_lower(struct fixture *f, bool native)
{
	assert_int_equal(apply(f, "1", NULL, native, lower_entries), 0);
}

static void test_a_link_of_a_layer_below_is_followed_as_in_the_merged_view(void **state)
{
	static const struct tar_entry upper[] = {{.type = '0', .name = "lib/new", .data = "new"},
						 {}};
	struct fixture *f = *state;
	struct stat status;

	apply_lower(f, false);
	assert_int_equal(apply(f, "2", "1", false, upper), 0);
	assert_content(f, "2/fs/usr/lib/new", "new");
	assert_false(is_there(f, "2/fs/lib"));
	/* The directory looks as it does below. */
	status = status_of(f, "2/fs/usr/lib");
	assert_int_equal(status.st_mode, S_IFDIR | 0711);
	assert_int_equal(status.st_uid, 9);
	assert_int_equal(status.st_mtim.tv_sec, 70);
}

static void test_whiteouts_become_devices_only_where_something_is_hidden(void **state)
{
	static const struct tar_entry upper[] = {
		FILE_("usr/lib/.wh.old", ""), FILE_(".wh.gone", ""), FILE_(".wh.never", ""), {}};
	struct fixture *f = *state;

	apply_lower(f, false);
	assert_int_equal(apply(f, "2", "1", false, upper), 0);
	assert_whiteout(f, "2/fs/usr/lib/old");
	assert_whiteout(f, "2/fs/gone");
	assert_false(is_there(f, "2/fs/never"));
}

static void test_an_opaque_directory_keeps_what_its_own_layer_brings(void **state)
{
	static const struct tar_entry upper[] = {FILE_("opq/before", "1"),
						 FILE_("opq/.wh..wh..opq", ""),
						 FILE_("opq/after", "2"),
						 {}};
	struct fixture *f = *state;

	apply_lower(f, false);
	assert_int_equal(apply(f, "2", "1", false, upper), 0);
	assert_true(is_opaque(f, "2/fs/opq"));
	assert_content(f, "2/fs/opq/before", "1");
	assert_content(f, "2/fs/opq/after", "2");
	assert_false(is_there(f, "2/fs/opq/old"));
}

static void test_a_directory_after_its_whiteout_is_opaque(void **state)
{
	static const struct tar_entry upper[] = {
		FILE_(".wh.gone", ""), DIR_("gone"), FILE_("gone/new", "new"), {}};
	struct fixture *f = *state;

	apply_lower(f, false);
	assert_int_equal(apply(f, "2", "1", false, upper), 0);
	assert_true(is_opaque(f, "2/fs/gone"));
	assert_content(f, "2/fs/gone/new", "new");
}

static void test_natively_whiteouts_remove(void **state)
{
	static const struct tar_entry upper[] = {
		FILE_("usr/lib/.wh.old", ""),  FILE_(".wh.gone", ""),   FILE_("opq/before", "1"),
		FILE_("opq/.wh..wh..opq", ""), FILE_("opq/after", "2"), {}};
	struct fixture *f = *state;

	apply_lower(f, true);
	assert_int_equal(apply(f, "2", "1", true, upper), 0);
	assert_false(is_there(f, "2/fs/usr/lib/old"));
	assert_false(is_there(f, "2/fs/gone"));
	assert_false(is_there(f, "2/fs/opq/old"));
	assert_content(f, "2/fs/opq/before", "1");
	assert_content(f, "2/fs/opq/after", "2");
	assert_content(f, "2/fs/file", "file");
	assert_int_equal(status_of(f, "2/fs/usr/lib").st_mtim.tv_sec, 70);
	/* The layer below is as it was. */
	assert_content(f, "1/fs/usr/lib/old", "old");
}

static void test_a_hard_link_to_a_file_below_copies_it_up(void **state)
{
	static const struct tar_entry upper[] = {HARD_("usr/lib/second", "lib/old"), {}};
	struct fixture *f = *state;

	apply_lower(f, false);
	assert_int_equal(apply(f, "2", "1", false, upper), 0);
	assert_content(f, "2/fs/usr/lib/second", "old");
	assert_int_equal(status_of(f, "2/fs/usr/lib/second").st_ino,
			 status_of(f, "2/fs/usr/lib/old").st_ino);
	assert_int_equal(status_of(f, "1/fs/usr/lib/old").st_nlink, 1);
}

static void test_an_entry_replaces_what_was_there(void **state)
{
	static const struct tar_entry entries[] = {
		DIR_("d"),       FILE_("d/x", "x"), FILE_("d", "now a file"),
		SYM_("s", "d"),  DIR_("s"),         FILE_("s/y", "y"),
		FILE_("f", "1"), FILE_("f", "2"),   {}};
	struct fixture *f = *state;

	assert_int_equal(apply(f, "1", NULL, false, entries), 0);
	assert_content(f, "1/fs/d", "now a file");
	assert_content(f, "1/fs/s/y", "y");
	assert_content(f, "1/fs/f", "2");
}

#define CASE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

TEST_MAIN(CASE(test_no_entry_leads_out_of_the_root),
	  CASE(test_no_entry_leads_out_over_layers_below), CASE(test_no_entry_leads_out_natively),
	  CASE(test_limits_name_themselves_and_the_entry), CASE(test_too_many_entries_are_refused),
	  CASE(test_a_cut_layer_is_refused), CASE(test_the_last_block_need_not_be_filled_up),
	  CASE(test_only_tar_is_understood), CASE(test_a_wrong_diff_id_is_data_loss),
	  CASE(test_a_damaged_blob_is_data_loss), CASE(test_files_are_as_the_archive_says),
	  CASE(test_a_long_name_comes_from_its_pax_header),
	  CASE(test_a_link_of_a_layer_below_is_followed_as_in_the_merged_view),
	  CASE(test_whiteouts_become_devices_only_where_something_is_hidden),
	  CASE(test_an_opaque_directory_keeps_what_its_own_layer_brings),
	  CASE(test_a_directory_after_its_whiteout_is_opaque), CASE(test_natively_whiteouts_remove),
	  CASE(test_a_hard_link_to_a_file_below_copies_it_up),
	  CASE(test_an_entry_replaces_what_was_there))
