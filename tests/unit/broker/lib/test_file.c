#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "broker/lib/file.h"
#include "tests/lib/main.h"

static mode_t mode_of(const char *path)
{
	struct stat status;

	return lstat(path, &status) == 0 ? status.st_mode & 07777 : 0;
}

static void write_text(const char *path, const char *text)
{
	assert_int_equal(file_write(path, text, strlen(text), 0600, false, NULL), 0);
}

static void assert_text(const char *path, const char *expected)
{
	_cleanup_(cleanup_free) char *text = NULL;
	size_t size;

	assert_int_equal(file_read(AT_FDCWD, path, 4096, &text, &size), 0);
	assert_string_equal(text, expected);
	assert_int_equal(size, strlen(expected));
}

/* ---- directories ---- */

static void test_directories_are_made_with_their_mode_whatever_the_umask(void **state)
{
	_cleanup_(cleanup_free) char *path = scratch_path(*state, "a/b//c/");
	_cleanup_(cleanup_free) char *middle = scratch_path(*state, "a/b");
	mode_t old = umask(0777);

	assert_int_equal(file_make_dir(path, 0711, NULL), 0);
	umask(old);
	assert_int_equal(mode_of(path), 0711);
	assert_int_equal(mode_of(middle), 0711);
	assert_int_equal(file_make_dir(path, 0711, NULL), 0);
}

static void test_a_directory_that_is_too_open_is_tightened(void **state)
{
	_cleanup_(cleanup_free) char *path = scratch_path(*state, "open");
	_cleanup_(cleanup_free) char *below = scratch_path(*state, "open/x");

	mkdir(path, 0700);
	chmod(path, 0755);
	assert_int_equal(file_make_dir(below, 0700, NULL), 0);
	assert_int_equal(mode_of(path), 0755);
	assert_int_equal(file_make_dir(path, 0700, NULL), 0);
	assert_int_equal(mode_of(path), 0700);
	/* A narrower one stays as it is. */
	assert_int_equal(file_make_dir(path, 0711, NULL), 0);
	assert_int_equal(mode_of(path), 0700);
}

static void test_a_link_or_file_in_a_directorys_place_is_refused(void **state)
{
	_cleanup_(cleanup_free) char *dir = scratch_path(*state, "dir");
	_cleanup_(cleanup_free) char *link = scratch_path(*state, "link");
	_cleanup_(cleanup_free) char *through = scratch_path(*state, "link/below");
	_cleanup_(cleanup_free) char *file = scratch_path(*state, "file");
	struct why why = {};

	mkdir(dir, 0700);
	assert_int_equal(symlink(dir, link), 0);
	write_text(file, "x");
	assert_true(file_make_dir(link, 0700, &why) < 0);
	assert_non_null(strstr(why.text, "cannot make the directory /"));
	assert_true(file_make_dir(file, 0700, NULL) < 0);
	/* Above the last component links are the host's business. */
	assert_int_equal(file_make_dir(through, 0700, NULL), 0);
}

/* ---- reading and writing ---- */

static void test_a_file_is_read_whole_up_to_its_limit(void **state)
{
	_cleanup_(cleanup_free) char *path = scratch_path(*state, "file");
	_cleanup_(cleanup_free) char *data = NULL;
	_cleanup_(cleanup_free) char *big = malloc(100000);
	size_t size;

	memset(big, 'x', 100000);
	assert_int_equal(file_write(path, big, 100000, 0600, false, NULL), 0);
	assert_int_equal(file_read(AT_FDCWD, path, 99999, &data, &size), -EFBIG);
	assert_null(data);
	assert_int_equal(file_read(AT_FDCWD, path, 100000, &data, &size), 0);
	assert_int_equal(size, 100000);
	assert_memory_equal(data, big, size);
	assert_int_equal(data[size], '\0');
}

static void test_an_empty_file_is_an_empty_text(void **state)
{
	_cleanup_(cleanup_free) char *path = scratch_path(*state, "empty");

	write_text(path, "");
	assert_text(path, "");
}

static void test_only_regular_files_are_read(void **state)
{
	_cleanup_(cleanup_free) char *fifo = scratch_path(*state, "fifo");
	_cleanup_(cleanup_free) char *link = scratch_path(*state, "link");
	struct scratch *scratch = *state;
	char *data = NULL;

	mkfifo(fifo, 0600);
	assert_int_equal(symlink("/etc/passwd", link), 0);
	assert_int_equal(file_read(AT_FDCWD, fifo, 10, &data, NULL), -EINVAL);
	assert_int_equal(file_read(AT_FDCWD, link, 1 << 20, &data, NULL), -ELOOP);
	assert_int_equal(file_read(AT_FDCWD, scratch->dir, 10, &data, NULL), -EINVAL);
	assert_int_equal(file_read(AT_FDCWD, "/no/such", 10, &data, NULL), -ENOENT);
	assert_null(data);
}

static void test_files_without_a_size_are_read_to_their_end(void **state)
{
	_cleanup_(cleanup_free) char *data = NULL;
	size_t size;

	(void)state;
	assert_int_equal(file_read_proc("/proc/self/smaps", 1 << 24, &data, &size), 0);
	assert_true(size > 4096);
	assert_int_equal(size, strlen(data));
	assert_int_equal(file_read_proc("/proc/self/smaps", 100, &data, &size), -EFBIG);
}

static void test_a_file_is_replaced_whole_and_leaves_nothing_beside_it(void **state)
{
	_cleanup_(cleanup_free) char *path = scratch_path(*state, "file");
	_cleanup_(cleanup_free) char *stale = text_format("%s.tmp-%d", path, (int)getpid());
	mode_t old = umask(0777);

	assert_int_equal(file_write(path, "old", 3, 0644, true, NULL), 0);
	assert_int_equal(symlink("/etc/passwd", stale), 0);
	assert_int_equal(file_write(path, "new text", 8, 0640, true, NULL), 0);
	umask(old);
	assert_text(path, "new text");
	assert_int_equal(mode_of(path), 0640);
	assert_int_equal(access(stale, F_OK), -1);
}

static void test_a_failed_write_keeps_the_old_file(void **state)
{
	_cleanup_(cleanup_free) char *dir = scratch_path(*state, "dir");
	_cleanup_(cleanup_free) char *inside = scratch_path(*state, "dir/inside");
	_cleanup_(cleanup_free) char *temporary = text_format("%s.tmp-%d", dir, (int)getpid());
	_cleanup_(cleanup_free) char *lost = scratch_path(*state, "no/such");
	struct why why = {}, other = {};

	mkdir(dir, 0700);
	write_text(inside, "kept");
	assert_true(file_write(dir, "x", 1, 0600, true, &why) < 0);
	assert_non_null(strstr(why.text, "cannot write /"));
	assert_int_equal(access(temporary, F_OK), -1);
	assert_text(inside, "kept");
	assert_int_equal(file_write(lost, "x", 1, 0600, true, &other), -ENOENT);
	assert_non_null(strstr(other.text, "no/such: No such file or directory"));
}

/* ---- removing ---- */

static void test_a_tree_is_removed_and_what_its_links_name_stays(void **state)
{
	_cleanup_(cleanup_free) char *tree = scratch_path(*state, "tree");
	_cleanup_(cleanup_free) char *deep = scratch_path(*state, "tree/a/b/c");
	_cleanup_(cleanup_free) char *file = scratch_path(*state, "tree/a/file");
	_cleanup_(cleanup_free) char *link = scratch_path(*state, "tree/a/link");
	_cleanup_(cleanup_free) char *victim = scratch_path(*state, "victim");
	_cleanup_(cleanup_free) char *kept = scratch_path(*state, "victim/kept");
	_cleanup_(cleanup_free) char *top = scratch_path(*state, "top-link");

	assert_int_equal(file_make_dir(deep, 0700, NULL), 0);
	assert_int_equal(file_make_dir(victim, 0700, NULL), 0);
	write_text(file, "x");
	write_text(kept, "kept");
	chmod(deep, 0);
	assert_int_equal(symlink(victim, link), 0);
	assert_int_equal(symlink(victim, top), 0);
	assert_int_equal(file_remove_tree(AT_FDCWD, tree, NULL), 0);
	assert_int_equal(file_remove_tree(AT_FDCWD, top, NULL), 0);
	assert_int_equal(access(tree, F_OK), -1);
	assert_int_equal(access(top, F_OK), -1);
	assert_text(kept, "kept");
}

static void test_what_is_absent_is_removed_already(void **state)
{
	struct scratch *scratch = *state;
	_cleanup_(cleanup_fd) int dir = open(scratch->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	assert_int_equal(file_remove_tree(dir, "nothing", NULL), 0);
	assert_int_equal(file_remove_tree(dir, "no/thing", NULL), 0);
	assert_int_equal(mkdirat(dir, "some", 0700), 0);
	assert_int_equal(file_remove_tree(dir, "some/", NULL), 0);
	assert_int_equal(faccessat(dir, "some", F_OK, 0), -1);
	assert_int_equal(file_remove_tree(dir, ".", NULL), -EINVAL);
	assert_int_equal(file_remove_tree(dir, "some/..", NULL), 0);
	assert_int_equal(file_remove_tree(dir, "..", NULL), -EINVAL);
	assert_int_equal(file_remove_tree(AT_FDCWD, "/", NULL), -EINVAL);
}

/* Deeper than any path may be long, and than there are descriptors. */
static void test_a_tree_of_any_depth_is_removed(void **state)
{
	struct scratch *scratch = *state;
	_cleanup_(cleanup_fd) int dir = open(scratch->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int next;

	for (int i = 0; i < 3000; i++) {
		assert_int_equal(mkdirat(dir, "deep", 0700), 0);
		next = openat(dir, "deep", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		assert_true(next >= 0);
		close(openat(dir, ".davit-hoisted-0", O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
		close_fd(dir);
		dir = next;
	}
	assert_int_equal(file_remove_tree(AT_FDCWD, scratch->dir, NULL), 0);
	assert_int_equal(access(scratch->dir, F_OK), -1);
}

/* In a child with a mount namespace of its own, so that nothing stays mounted. */
static int remove_across_a_mount(const char *tree, const char *point, const char *victim)
{
	struct why why = {};
	int r;

	if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return 77;
	/* Of the same filesystem, where the device number tells nothing. */
	if (mount(victim, point, NULL, MS_BIND, NULL) < 0)
		return 77;
	r = file_remove_tree(AT_FDCWD, tree, &why);
	if (r != -EBUSY || !strstr(why.text, ": mnt is a mount point"))
		return 1;
	r = file_remove_tree(AT_FDCWD, point, NULL);
	return r == -EBUSY ? 0 : 2;
}

static void test_what_is_mounted_in_a_tree_is_not_touched(void **state)
{
	_cleanup_(cleanup_free) char *tree = scratch_path(*state, "tree");
	_cleanup_(cleanup_free) char *point = scratch_path(*state, "tree/a/mnt");
	_cleanup_(cleanup_free) char *victim = scratch_path(*state, "victim");
	_cleanup_(cleanup_free) char *kept = scratch_path(*state, "victim/kept");
	int status;
	pid_t pid;

	assert_int_equal(file_make_dir(point, 0700, NULL), 0);
	assert_int_equal(file_make_dir(victim, 0700, NULL), 0);
	write_text(kept, "kept");
	pid = fork();
	if (!pid)
		_exit(remove_across_a_mount(tree, point, victim));
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (WEXITSTATUS(status) == 77 && !getenv("STRICT")) {
		print_message("skipped: no right to mount\n");
		skip();
	}
	assert_int_equal(status, 0);
	assert_text(kept, "kept");
}

static void test_a_directory_with_many_entries_is_removed(void **state)
{
	struct scratch *scratch = *state;
	char path[128];

	for (int i = 0; i < 3000; i++) {
		snprintf(path, sizeof(path), "%s/%d", scratch->dir, i);
		assert_int_equal(i % 3 ? mkdir(path, 0700) : mknod(path, S_IFREG | 0600, 0), 0);
	}
	assert_int_equal(file_remove_tree(AT_FDCWD, scratch->dir, NULL), 0);
}

/* ---- locks ---- */

static void test_a_lock_is_held_by_one(void **state)
{
	_cleanup_(cleanup_free) char *path = scratch_path(*state, "lock");
	int fd = -1, other = -1;

	assert_int_equal(file_lock(path, &fd), 0);
	assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
	assert_int_equal(mode_of(path), 0600);
	assert_int_equal(file_lock(path, &other), -EWOULDBLOCK);
	assert_int_equal(other, -1);
	fd = close_fd(fd);
	assert_int_equal(file_lock(path, &other), 0);
	close_fd(other);
}

static void test_a_removed_lock_file_does_not_bind(void **state)
{
	_cleanup_(cleanup_free) char *path = scratch_path(*state, "lock");
	_cleanup_(cleanup_fd) int fd = -1, other = -1;

	assert_int_equal(file_lock(path, &fd), 0);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(file_lock(path, &other), 0);
}

/* ---- ids, checksums, processes ---- */

static void test_ids_survive_their_text_form(void **state)
{
	static const char *const wrong[] = {
		"",
		"0123456789abcdef0123456789abcde",
		"0123456789abcdef0123456789abcdef0",
		"0123456789ABCDEF0123456789abcdef",
		"0123456789abcdef 123456789abcdef",
	};
	uint8_t id[ID_SIZE], other[ID_SIZE], parsed[ID_SIZE] = {};
	char text[ID_TEXT_SIZE];

	(void)state;
	id_make(id);
	id_make(other);
	assert_memory_not_equal(id, other, ID_SIZE);
	id_format(id, text);
	assert_int_equal(strlen(text), 32);
	assert_int_equal(id_parse(text, parsed), 0);
	assert_memory_equal(id, parsed, ID_SIZE);
	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++)
		assert_int_equal(id_parse(wrong[i], parsed), -EINVAL);
	assert_memory_equal(id, parsed, ID_SIZE);
}

static void assert_derived(const char *parent, const char *step, uint32_t attempt,
			   const char *expected)
{
	uint8_t from[ID_SIZE], id[ID_SIZE];
	char text[ID_TEXT_SIZE];

	assert_int_equal(id_parse(parent, from), 0);
	id_derive(from, step, attempt, id);
	id_format(id, text);
	assert_string_equal(text, expected);
}

/* Values computed by an independent implementation; stores hold ids made this way. */
static void test_derived_ids_never_change(void **state)
{
	(void)state;
	assert_derived("00000000000000000000000000000000", "", 0,
		       "3b5c2780c391fbfa490c5c3cf059d3e3");
	assert_derived("000102030405060708090a0b0c0d0e0f", "task.create", 1,
		       "86475f89b68f2b56a19d204a795b0757");
	assert_derived("000102030405060708090a0b0c0d0e0f", "task.create", 2,
		       "b346b2ad70b3afd7995b4383c56ae3ca");
	assert_derived("ffffffffffffffffffffffffffffffff", "image.get", 4294967295u,
		       "c11503347d6ec0d4f3421603f6058211");
}

static void test_checksums_are_crc32c(void **state)
{
	static const char digits[] = "123456789";
	uint8_t data[64];

	(void)state;
	/* RFC 3720 B.4 */
	memset(data, 0, 32);
	assert_int_equal(crc32c(0, data, 32), 0x8a9136aa);
	memset(data, 0xff, 32);
	assert_int_equal(crc32c(0, data, 32), 0x62a8ab43);
	for (size_t i = 0; i < 32; i++)
		data[i] = (uint8_t)i;
	assert_int_equal(crc32c(0, data, 32), 0x46dd794e);
	assert_int_equal(crc32c(0, digits, 9), 0xe3069283);
	assert_int_equal(crc32c(0, "", 0), 0);
	for (size_t i = 0; i <= 9; i++)
		assert_int_equal(crc32c(crc32c(0, digits, i), digits + i, 9 - i), 0xe3069283);
}

static void test_this_boot_has_an_id(void **state)
{
	uint8_t id[ID_SIZE], again[ID_SIZE];

	(void)state;
	assert_int_equal(boot_id_read(id), 0);
	assert_int_equal(boot_id_read(again), 0);
	assert_memory_equal(id, again, ID_SIZE);
}

static void test_a_process_is_known_by_its_start_time(void **state)
{
	uint64_t ours, parents, zombies;
	siginfo_t info;
	pid_t pid;

	(void)state;
	assert_int_equal(process_start_time(getpid(), &ours), 0);
	assert_int_equal(process_start_time(1, &parents), 0);
	assert_true(ours >= parents && ours > 0);
	pid = fork();
	if (!pid)
		_exit(0);
	assert_int_equal(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT), 0);
	assert_int_equal(process_start_time(pid, &zombies), 0);
	assert_true(zombies >= ours);
	assert_int_equal(waitid(P_PID, (id_t)pid, &info, WEXITED), 0);
	assert_int_equal(process_start_time(pid, &zombies), -ESRCH);
	assert_int_equal(process_start_time(0, &zombies), -ESRCH);
	assert_int_equal(process_start_time(-1, &zombies), -ESRCH);
}

static void test_a_text_is_read_from_a_file_without_a_name(void **state)
{
	_cleanup_(cleanup_fd) int fd = -1;
	char data[16] = {};

	(void)state;
	assert_int_equal(file_open_text("test", "some text", &fd), 0);
	assert_int_equal(read(fd, data, sizeof(data)), 9);
	assert_string_equal(data, "some text");
}

static void test_only_a_directory_itself_is_walked(void **state)
{
	struct scratch *scratch = *state;
	_cleanup_(cleanup_free) char *real = scratch_path(scratch, "real");
	_cleanup_(cleanup_free) char *link = scratch_path(scratch, "link");
	_cleanup_(cleanup_dir) DIR *dir = NULL;

	assert_int_equal(mkdir(real, 0700), 0);
	assert_int_equal(symlink("real", link), 0);
	assert_null(file_open_dir(AT_FDCWD, link));
	assert_int_equal(errno, ENOTDIR);
	dir = file_open_dir(AT_FDCWD, scratch->dir);
	assert_non_null(dir);
	assert_null(file_open_dir(dirfd(dir), "absent"));
	assert_int_equal(errno, ENOENT);
}

/* ---- paths below a directory ---- */

/* Renames until it is killed. */
static pid_t start_renames(const char *one, const char *other)
{
	pid_t child = fork();

	while (!child)
		if (rename(one, other) || rename(other, one))
			_exit(1);
	return child;
}

static void test_a_path_is_found_while_others_rename(void **state)
{
	struct scratch *scratch = *state;
	_cleanup_(cleanup_free) char *root = scratch_path(scratch, "root");
	_cleanup_(cleanup_free) char *one = scratch_path(scratch, "one"),
				     *other = scratch_path(scratch, "other");
	_cleanup_(cleanup_fd) int dir = -1;
	int fd = -1;
	pid_t child;

	assert_int_equal(file_make_dir(root, 0700, NULL), 0);
	dir = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(mkdirat(dir, "etc", 0700) | mkdirat(dir, "lib", 0700), 0);
	assert_int_equal(symlinkat("../lib/users", dir, "etc/passwd"), 0);
	assert_int_equal(file_open_in(dir, "etc/passwd", O_PATH, RESOLVE_IN_ROOT), -ENOENT);
	close_fd(openat(dir, "lib/users", O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
	write_text(one, "");
	child = start_renames(one, other);
	for (int i = 0; i < 20000 && (!i || fd >= 0); i++) {
		close_fd(fd);
		fd = file_open_in(dir, "etc/passwd", O_PATH, RESOLVE_IN_ROOT);
	}
	kill(child, SIGKILL);
	assert_int_equal(waitpid(child, NULL, 0), child);
	assert_in_range(fd, 0, INT_MAX);
	close_fd(fd);
}

TEST_MAIN(TEST_IN_SCRATCH(test_directories_are_made_with_their_mode_whatever_the_umask),
	  TEST_IN_SCRATCH(test_a_directory_that_is_too_open_is_tightened),
	  TEST_IN_SCRATCH(test_a_link_or_file_in_a_directorys_place_is_refused),
	  TEST_IN_SCRATCH(test_a_file_is_read_whole_up_to_its_limit),
	  TEST_IN_SCRATCH(test_an_empty_file_is_an_empty_text),
	  TEST_IN_SCRATCH(test_only_regular_files_are_read),
	  TEST_IN_SCRATCH(test_files_without_a_size_are_read_to_their_end),
	  TEST_IN_SCRATCH(test_a_file_is_replaced_whole_and_leaves_nothing_beside_it),
	  TEST_IN_SCRATCH(test_a_failed_write_keeps_the_old_file),
	  TEST_IN_SCRATCH(test_a_tree_is_removed_and_what_its_links_name_stays),
	  TEST_IN_SCRATCH(test_what_is_absent_is_removed_already),
	  TEST_IN_SCRATCH(test_a_tree_of_any_depth_is_removed),
	  TEST_IN_SCRATCH(test_what_is_mounted_in_a_tree_is_not_touched),
	  TEST_IN_SCRATCH(test_a_directory_with_many_entries_is_removed),
	  TEST_IN_SCRATCH(test_a_text_is_read_from_a_file_without_a_name),
	  TEST_IN_SCRATCH(test_only_a_directory_itself_is_walked),
	  TEST_IN_SCRATCH(test_a_path_is_found_while_others_rename),
	  TEST_IN_SCRATCH(test_a_lock_is_held_by_one),
	  TEST_IN_SCRATCH(test_a_removed_lock_file_does_not_bind),
	  cmocka_unit_test(test_ids_survive_their_text_form),
	  cmocka_unit_test(test_derived_ids_never_change),
	  cmocka_unit_test(test_checksums_are_crc32c), cmocka_unit_test(test_this_boot_has_an_id),
	  cmocka_unit_test(test_a_process_is_known_by_its_start_time))
