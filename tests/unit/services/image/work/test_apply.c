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
#include "services/image/work/writer.h"
#include "tests/lib/tar.h"

#define ENTRIES_MAX 8

struct fixture {
	struct scratch scratch;
	char *snapshots_path, *victim, *victims;
	int snapshots;
	struct stat victim_before, victims_before, outside_before;
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
	f->victims = scratch_path(&f->scratch, "victims");
	if (mkdir(f->victims, 0700) || mkdir(f->snapshots_path, 0700))
		return -1;
	if (stat(f->victim, &f->victim_before) || stat(f->victims, &f->victims_before) ||
	    stat(f->scratch.dir, &f->outside_before))
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
	free(f->victims);
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
#define LONG_NAME                                                                                  \
	"0123456789012345678901234567890123456789012345678901234567890123456789"                   \
	"0123456789012345678901234567890123456789012345678901234567890123456789"                   \
	"0123456789012345678901234567890123456789012345678901234567890123456789"                   \
	"0123456789012345678901234567890123456789012345"

enum outcome { REFUSED_, CONFINED };

static const char *const no_uid[] = {"uid", "4294967295", NULL};
static const char *const no_gid[] = {"gid", "4294967296", NULL};
static const char *const map_behind_the_end[] = {"GNU.sparse.size", "10", "GNU.sparse.map", "100,3",
						 NULL};
static const char *const map_back[] = {"GNU.sparse.size", "10", "GNU.sparse.map", "5,3,0,3", NULL};
static const char *const no_map[] = {"GNU.sparse.size", "1000", NULL};

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
	{"an absolute name", CONFINED, {FILE_("/davit-victim", "bad")}},
	{"an absolute name through the root's parents",
	 CONFINED,
	 {SYM_("l", "/.././.."), FILE_("l/davit-victim", "bad")}},
	{"a file through an absolute link",
	 CONFINED,
	 {SYM_("l", "/"), FILE_("l/davit-victim", "bad")}},
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
	{"times of a directory whose place a link upwards has taken",
	 CONFINED,
	 {{.type = '5', .name = "d/victims", .mtime = 5}, SYM_("d", "../../..")}},
	{"a mode of a directory whose place a link upwards has taken",
	 CONFINED,
	 {SYM_("d", "../../.."), {.type = '5', .name = "d/.", .mode = 0777, .uid = 77}}},
	{"a directory that is removed with a link in it",
	 CONFINED,
	 {DIR_("d"), SYM_("d/l", "../../../.."), SYM_("d/v", "../" VICTIM), FILE_("d", "bad")}},
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
	{"a link to nothing", REFUSED_, {SYM_("l", "")}},
	{"an owner that is no owner",
	 REFUSED_,
	 {{.type = '0', .name = "f", .data = "x", .pax = no_uid}}},
	{"a group that is no group", REFUSED_, {{.type = '5', .name = "d", .pax = no_gid}}},
	{"a hole map that leads behind the end",
	 REFUSED_,
	 {{.type = '0', .name = "f", .data = "bad", .pax = map_behind_the_end}}},
	{"a hole map that leads back",
	 REFUSED_,
	 {{.type = '0', .name = "f", .data = "badbad", .pax = map_back}}},
	{"less content than was said",
	 REFUSED_,
	 {{.type = '0', .name = "f", .data = "bad", .pax = no_map}}},
	{"a type that is none", CONFINED, {{.type = 'Z', .name = "odd", .data = "x"}}},
};

static void assert_is_as_before(const char *path, const struct stat *before)
{
	struct stat now;

	assert_int_equal(stat(path, &now), 0);
	assert_int_equal(now.st_mode, before->st_mode);
	assert_int_equal(now.st_uid, before->st_uid);
	assert_int_equal(now.st_mtim.tv_sec, before->st_mtim.tv_sec);
	assert_int_equal(now.st_mtim.tv_nsec, before->st_mtim.tv_nsec);
}

static void assert_nothing_new_outside(struct fixture *f)
{
	_cleanup_(cleanup_dir) DIR *dir = opendir(f->scratch.dir);
	struct dirent *entry;

	assert_is_as_before(f->scratch.dir, &f->outside_before);
	assert_is_as_before(f->victims, &f->victims_before);
	assert_int_equal(access("/davit-victim", F_OK), -1);
	while ((entry = readdir(dir))) {
		if (entry->d_name[0] != '.' && strcmp(entry->d_name, "victim") &&
		    strcmp(entry->d_name, "victims") && strcmp(entry->d_name, "snapshots"))
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

/* Each name has a depth that a name may have; where the link leads has not. */
static void test_ways_that_links_make_too_deep_are_refused(void **state)
{
	static const struct tar_entry below[] = {FILE_("x", "x"), {}};
	char deep[2 * 200 + 1] = "", through[2 + 2 * 200 + 1];
	struct fixture *f = *state;

	for (int i = 0; i < 200; i++)
		strcat(deep, "d/");
	snprintf(through, sizeof(through), "l/%sf", deep);
	deep[sizeof(deep) - 2] = '\0';
	assert_int_equal(apply(f, "1", NULL, false, below), 0);
	for (int i = 0; i < 2; i++) {
		struct tar_entry entries[] = {DIR_(deep), SYM_("l", deep), FILE_(through, "x"), {}};

		assert_int_equal(file_remove_tree(f->snapshots, "2", NULL), 0);
		make_layer(f, "2");
		assert_int_equal(apply(f, "2", i ? "1" : NULL, false, entries), WORK_E_INVALID);
		assert_non_null(strstr(f->why.text, "entry 'l/"));
	}
}

/* A map of two million holes: refused, whatever it says, before it has taken more than a layer may. */
static void test_a_hole_map_takes_no_memory(void **state)
{
	const size_t n = 2000000;
	_cleanup_(cleanup_free) char *map = malloc(n * 4 + 1);
	const char *const pax[] = {"GNU.sparse.size", "10", "GNU.sparse.map", map, NULL};
	struct tar_entry entries[] = {{.type = '0', .name = "f", .data = "x", .pax = pax}, {}};

	for (size_t i = 0; i < n; i++)
		memcpy(map + 4 * i, "0,1,", 4);
	map[4 * n - 1] = '\0';
	assert_int_equal(apply(*state, "1", NULL, false, entries), WORK_E_INVALID);
}

/* ---- limits and damage ---- */

static void test_limits_name_themselves_and_the_entry(void **state)
{
	struct work_limits limits = {.path_depth = 4,
				     .entries = 100,
				     .bytes = 1 << 20,
				     .path_size = 300,
				     .xattr_bytes = 64};
	static const struct {
		struct tar_entry entry;
		const char *word;
	} cases[] = {
		{FILE_("a/b/c/d/e/f", "x"), "4 directories deep"},
		{FILE_(LONG_NAME "/" LONG_NAME, "x"), "more than 300 bytes"},
		{FILE_(LONG_NAME, "x"), "a name of more than 255 bytes"},
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

/* Whole archives of one file each that libarchive reads, if it is let. */
static const char a_zip[] = "\x50\x4b\x03\x04\x14\x00\x00\x00\x00\x00\x00\x00\x21\x00\xfb\x39"
			    "\x2b\x82\x03\x00\x00\x00\x03\x00\x00\x00\x01\x00\x00\x00\x78\x62"
			    "\x61\x64\x50\x4b\x01\x02\x14\x03\x14\x00\x00\x00\x00\x00\x00\x00"
			    "\x21\x00\xfb\x39\x2b\x82\x03\x00\x00\x00\x03\x00\x00\x00\x01\x00"
			    "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x80\x01\x00\x00\x00\x00"
			    "\x78\x50\x4b\x05\x06\x00\x00\x00\x00\x01\x00\x01\x00\x2f\x00\x00"
			    "\x00\x22\x00\x00\x00\x00\x00";
static const char a_cpio[] = "\x30\x37\x30\x37\x30\x31\x30\x30\x30\x30\x30\x30\x30\x31\x30\x30"
			     "\x30\x30\x38\x31\x61\x34\x30\x30\x30\x30\x30\x30\x30\x30\x30\x30"
			     "\x30\x30\x30\x30\x30\x30\x30\x30\x30\x30\x30\x30\x30\x31\x30\x30"
			     "\x30\x30\x30\x30\x30\x30\x30\x30\x30\x30\x30\x30\x30\x34\x30\x30"
			     "\x30\x30\x30\x30\x30\x30\x30\x30\x30\x30\x30\x30\x30\x30\x30\x30"
			     "\x30\x30\x30\x30\x30\x30\x30\x30\x30\x30\x30\x30\x30\x30\x30\x30"
			     "\x30\x30\x30\x30\x30\x32\x30\x30\x30\x30\x30\x30\x30\x30\x78\x00"
			     "\x62\x61\x64\x21\x30\x37\x30\x37\x30\x31\x30\x30\x30\x30\x30\x30"
			     "\x30\x31\x30\x30\x30\x30\x30\x30\x30\x30\x30\x30\x30\x30\x30\x30"
			     "\x30\x30\x30\x30\x30\x30\x30\x30\x30\x30\x30\x30\x30\x30\x30\x30"
			     "\x30\x31\x30\x30\x30\x30\x30\x30\x30\x30\x30\x30\x30\x30\x30\x30"
			     "\x30\x30\x30\x30\x30\x30\x30\x30\x30\x30\x30\x30\x30\x30\x30\x30"
			     "\x30\x30\x30\x30\x30\x30\x30\x30\x30\x30\x30\x30\x30\x30\x30\x30"
			     "\x30\x30\x30\x30\x30\x30\x30\x30\x30\x62\x30\x30\x30\x30\x30\x30"
			     "\x30\x30\x54\x52\x41\x49\x4c\x45\x52\x21\x21\x21\x00\x00\x00\x00";
static const char an_ar[] = "!<arch>\n"
			    "x/              0           0     0     100644  4         `\nbad!";
/* A tar of the same, by bzip2 and xz. */
static const char a_bzip2[] = "\x42\x5a\x68\x39\x31\x41\x59\x26\x53\x59\xaa\x35\x49\xd0\x00\x00"
			      "\x70\xfb\x80\xc9\x80\x00\x00\xc0\x00\x6d\x00\x00\x00\xf4\x00\x1e"
			      "\x40\x08\x08\x20\x00\x54\x46\xa0\x00\x00\x7a\x82\x28\x88\x03\x40"
			      "\x07\xde\xe2\x4a\x21\xcd\x51\x12\x9d\x5b\x02\xd9\xdd\x7a\x09\x01"
			      "\x06\xb3\x58\x4a\x40\x9b\xc8\x45\xe2\xd8\x9b\x1a\xe1\xbe\x9e\xa1"
			      "\x24\xc4\x00\x89\xf1\x77\x24\x53\x85\x09\x0a\xa3\x54\x9d\x00";
static const char an_xz[] = "\xfd\x37\x7a\x58\x5a\x00\x00\x04\xe6\xd6\xb4\x46\x02\x00\x21\x01"
			    "\x16\x00\x00\x00\x74\x2f\xe5\xa3\xe0\x27\xff\x00\x56\x5d\x00\x3c"
			    "\x00\x33\x50\x18\x68\x89\x83\x01\xdc\xe2\x6e\x21\x05\x4e\x88\xf0"
			    "\xd8\x72\xef\x29\x67\xd5\xca\x4d\x63\x92\xcb\xb3\x7f\x1e\x5c\xbe"
			    "\x8f\x97\x43\xce\xc1\x77\xa8\xe4\x3d\x90\x6c\x9f\x40\x2d\x15\x2d"
			    "\x86\xec\x34\x34\x18\x32\xf2\xeb\x1d\xc9\x87\xf1\xeb\xfb\x09\x4d"
			    "\x94\xe0\xb8\x42\x75\x2a\x4a\x0f\x26\x8e\x6b\x42\xc9\x98\x90\x70"
			    "\xd1\xa8\x4b\x87\x00\x00\x00\x00\x3f\x23\x29\x51\x4f\xbd\x19\x34"
			    "\x00\x01\x72\x80\x50\x00\x00\x00\x27\xc7\x54\xff\xb1\xc4\x67\xfb"
			    "\x02\x00\x00\x00\x00\x04\x59\x5a";

static void test_only_tar_is_understood(void **state)
{
	static const struct {
		const char *data;
		size_t size;
	} whole[] = {{a_zip, sizeof(a_zip) - 1},
		     {a_cpio, sizeof(a_cpio) - 1},
		     {an_ar, sizeof(an_ar) - 1},
		     {a_bzip2, sizeof(a_bzip2) - 1},
		     {an_xz, sizeof(an_xz) - 1}};
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
	for (size_t i = 0; i < ARRAY_SIZE(whole); i++) {
		assert_int_equal(apply_bytes(f, whole[i].data, whole[i].size,
					     (struct work_apply_request){.target = "1"}),
				 WORK_E_INVALID);
		assert_false(is_there(f, "1/fs/x"));
	}
}

/* ---- compression ---- */

/* @tar, which is cleared, as a blob of @compression; gives its bytes. */
static struct schema_buffer packed(struct schema_buffer *tar, enum compression compression)
{
	struct schema_buffer blob = {};
	struct writer *writer;
	int fd = memfd_create("packed", MFD_CLOEXEC);
	struct stat status;
	void *data;

	assert_int_equal(writer_new(fd, compression, false, UINT64_MAX, &writer), 0);
	assert_int_equal(writer_add(writer, tar->data, tar->size), 0);
	assert_int_equal(writer_finish(writer, NULL), 0);
	writer_free(writer);
	schema_buffer_clear(tar);
	assert_int_equal(fstat(fd, &status), 0);
	data = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	assert_ptr_not_equal(data, MAP_FAILED);
	assert_int_equal(schema_buffer_add(&blob, data, (size_t)status.st_size), 0);
	munmap(data, (size_t)status.st_size);
	close(fd);
	return blob;
}

static const enum compression compressions[] = {COMPRESSION_GZIP, COMPRESSION_ZSTD};

static void test_a_cut_or_longer_compressed_layer_ends_and_is_refused(void **state)
{
	static char noise[300000], behind[300000]; /* more than what decompressors give at a time */
	const struct tar_entry entries[] = {
		{.type = '0', .name = "a", .data = noise, .size = sizeof(noise)}, {}};
	struct fixture *f = *state;
	uint32_t seed = 1;

	for (size_t i = 0; i < sizeof(noise); i++)
		noise[i] = (char)((seed = seed * 1103515245 + 12345) >> 24);
	for (size_t i = 0; i < ARRAY_SIZE(compressions); i++) {
		struct schema_buffer tar = {}, twice = {}, blob;
		char digest[DIGEST_SIZE];
		struct work_apply_request request = {.target = (char *)"1", .diff_id = digest};

		tar_write(&tar, entries);
		/* Behind the archive's end, where the tar reader looks no more. */
		assert_int_equal(schema_buffer_add(&tar, behind, sizeof(behind)), 0);
		digest_of(tar.data, tar.size, digest);
		blob = packed(&tar, compressions[i]);
		assert_int_equal(apply_bytes(f, blob.data, blob.size, request), 0);
		/* A cut is seen without any digest, too. */
		request.diff_id = NULL;
		for (size_t size = 1; size < blob.size; size += 9999)
			assert_int_equal(apply_bytes(f, blob.data, size, request), WORK_E_INVALID);
		for (size_t size = blob.size - 16; size < blob.size; size++)
			assert_int_equal(apply_bytes(f, blob.data, size, request), WORK_E_INVALID);
		request.diff_id = digest;
		/* A second member is part of the content. */
		assert_int_equal(schema_buffer_add(&twice, blob.data, blob.size), 0);
		assert_int_equal(schema_buffer_add(&twice, blob.data, blob.size), 0);
		assert_int_equal(apply_bytes(f, twice.data, twice.size, request), WORK_E_DAMAGED);
		schema_buffer_clear(&twice);
		schema_buffer_clear(&blob);
	}
}

/* So many zeros, as @n entries of @size. */
static struct schema_buffer bomb(unsigned n, size_t size)
{
	_cleanup_(cleanup_free) char *zeros = calloc(1, size);
	struct schema_buffer tar = {};

	for (unsigned i = 0; i < n; i++)
		tar_add(&tar, &(struct tar_entry){
				      .type = '0', .name = "zeros", .data = zeros, .size = size});
	tar_end(&tar);
	return packed(&tar, COMPRESSION_ZSTD);
}

static void test_a_layer_that_becomes_too_large_is_refused_by_the_limit_that_is_named(void **state)
{
	struct work_limits of_bytes = {.bytes = 1 << 20}, of_ratio = {.ratio = 10};
	struct schema_buffer blob;
	struct fixture *f = *state;

	/* No file is too large, together they are. */
	blob = bomb(5, 1 << 18);
	assert_int_equal(
		apply_bytes(f, blob.data, blob.size,
			    (struct work_apply_request){.target = "1", .limits = &of_bytes}),
		WORK_E_INVALID);
	assert_non_null(strstr(f->why.text, "uncompressed bytes (limit bytes)"));
	assert_int_equal(
		apply_bytes(f, blob.data, blob.size, (struct work_apply_request){.target = "1"}),
		0);
	schema_buffer_clear(&blob);

	blob = bomb(70, 1 << 20);
	assert_int_equal(
		apply_bytes(f, blob.data, blob.size,
			    (struct work_apply_request){.target = "1", .limits = &of_ratio}),
		WORK_E_INVALID);
	assert_non_null(strstr(f->why.text, "(limit ratio)"));
	schema_buffer_clear(&blob);
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
	  CASE(test_only_tar_is_understood),
	  CASE(test_a_cut_or_longer_compressed_layer_ends_and_is_refused),
	  CASE(test_a_layer_that_becomes_too_large_is_refused_by_the_limit_that_is_named),
	  CASE(test_ways_that_links_make_too_deep_are_refused),
	  CASE(test_a_hole_map_takes_no_memory), CASE(test_a_wrong_diff_id_is_data_loss),
	  CASE(test_a_damaged_blob_is_data_loss), CASE(test_files_are_as_the_archive_says),
	  CASE(test_a_long_name_comes_from_its_pax_header),
	  CASE(test_a_link_of_a_layer_below_is_followed_as_in_the_merged_view),
	  CASE(test_whiteouts_become_devices_only_where_something_is_hidden),
	  CASE(test_an_opaque_directory_keeps_what_its_own_layer_brings),
	  CASE(test_a_directory_after_its_whiteout_is_opaque), CASE(test_natively_whiteouts_remove),
	  CASE(test_a_hard_link_to_a_file_below_copies_it_up),
	  CASE(test_an_entry_replaces_what_was_there))
