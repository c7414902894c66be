#include <fcntl.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "broker/lib/file.h"
#include "broker/lib/program.h"
#include "broker/lib/spawn.h"
#include "tests/lib/main.h"

static char *write_program(struct scratch *scratch, const char *name, const void *data, size_t size)
{
	char *path = scratch_path(scratch, name);

	assert_int_equal(file_write(path, data, size, 0700, false, NULL), 0);
	return path;
}

static int exit_code_of(int fd, const char *argument)
{
	_cleanup_(cleanup_free) char *path = text_format("/proc/%d/fd/%d", getpid(), fd);
	const char *const argv[] = {"sh", "-c", argument, NULL};
	struct why why = {};
	siginfo_t info = {};
	pid_t pid;

	assert_int_equal(spawn(&(struct spawn){.path = path, .argv = argv}, &pid, &why), 0);
	assert_int_equal(waitid(P_PID, (id_t)pid, &info, WEXITED), 0);
	assert_int_equal(info.si_code, CLD_EXITED);
	return info.si_status;
}

static void test_a_copy_runs_and_nobody_can_change_it(void **state)
{
	_cleanup_(cleanup_fd) int fd = -1;
	struct stat status;

	(void)state;
	assert_int_equal(program_copy("/bin/sh", &fd, &status), 0);
	assert_int_equal(exit_code_of(fd, "exit 7"), 7);
	/* The very set that crun looks for. */
	assert_int_equal(fcntl(fd, F_GET_SEALS),
			 F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE);
	assert_int_equal(pwrite(fd, "x", 1, 0), -1);
	assert_int_equal(errno, EPERM);
	assert_int_equal(ftruncate(fd, 1), -1);
	assert_int_equal(errno, EPERM);
	assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
}

static void test_what_is_no_program_is_not_copied(void **state)
{
	static const char script[] = "#!/bin/sh\n", magic[] = {0x7f, 'E', 'L', 'F'};
	_cleanup_(cleanup_free) char *text = write_program(*state, "script", script,
							   sizeof(script));
	_cleanup_(cleanup_free) char *small = write_program(*state, "small", magic, 2);
	_cleanup_(cleanup_free) char *big = write_program(*state, "big", magic, sizeof(magic));
	_cleanup_(cleanup_free) char *none = scratch_path(*state, "none");
	struct stat status;
	int fd = -1;

	assert_int_equal(truncate(big, PROGRAM_COPY_MAX + 1), 0);
	assert_int_equal(program_copy(text, &fd, &status), -ENOEXEC);
	assert_int_equal(program_copy(small, &fd, &status), -ENOEXEC);
	assert_int_equal(program_copy(big, &fd, &status), -EFBIG);
	assert_int_equal(program_copy(none, &fd, &status), -ENOENT);
	assert_int_equal(program_copy("/dev/null", &fd, &status), -ENOEXEC);
	assert_int_equal(program_copy("/", &fd, &status), -ENOEXEC);
	assert_int_equal(fd, -1);
}

static void test_a_copy_is_kept_until_its_file_is_another(void **state)
{
	static const char first[] = "\177ELF first", second[] = "\177ELF other";
	_cleanup_(program_cache_clear) struct program_cache cache = {};
	_cleanup_(cleanup_free) char *path = write_program(*state, "oci", first, sizeof(first));
	char text[sizeof(second)];
	int fd = program_cache_get(&cache, path);

	assert_true(fd >= 0);
	assert_int_equal(program_cache_get(&cache, path), fd);
	free(write_program(*state, "oci", second, sizeof(second)));
	fd = program_cache_get(&cache, path);
	assert_int_equal(pread(fd, text, sizeof(text), 0), sizeof(second));
	assert_string_equal(text, second);
}

static void test_a_copy_whose_mode_somebody_changed_is_made_anew(void **state)
{
	static const char program[] = "\177ELF";
	_cleanup_(program_cache_clear) struct program_cache cache = {};
	_cleanup_(cleanup_free) char *path = write_program(*state, "oci", program, sizeof(program));
	struct stat before, after;
	int fd = program_cache_get(&cache, path);

	assert_int_equal(fstat(fd, &before), 0);
	assert_int_equal(fchmod(fd, 0), 0);
	fd = program_cache_get(&cache, path);
	assert_int_equal(fstat(fd, &after), 0);
	assert_int_not_equal(before.st_ino, after.st_ino);
	assert_int_equal(program_cache_get(&cache, path), fd);
}

static void test_a_copy_is_told_from_one_of_another_file(void **state)
{
	static const char program[] = "\177ELF";
	_cleanup_(cleanup_free) char *path = write_program(*state, "oci", program, sizeof(program));
	_cleanup_(cleanup_fd) int fd = -1;
	struct stat status;

	assert_int_equal(program_copy(path, &fd, &status), 0);
	assert_true(program_is_copy(fd, &status));
	free(write_program(*state, "oci", program, sizeof(program)));
	assert_int_equal(stat(path, &status), 0);
	status.st_mtim.tv_sec++; /* of which some file systems tell no less */
	assert_false(program_is_copy(fd, &status));
	assert_int_equal(truncate(path, sizeof(program) + 1), 0);
	assert_int_equal(stat(path, &status), 0);
	assert_false(program_is_copy(fd, &status));
}

static void test_what_cannot_be_copied_is_not_tried_again_until_it_is_another(void **state)
{
	static const char script[] = "#!/bin/sh\n", program[] = "\177ELF";
	_cleanup_(program_cache_clear) struct program_cache cache = {};
	_cleanup_(cleanup_free) char *path = write_program(*state, "oci", script, sizeof(script));
	_cleanup_(cleanup_free) char *none = scratch_path(*state, "none");

	assert_int_equal(program_cache_get(&cache, path), -1);
	assert_int_equal(program_cache_get(&cache, path), -1);
	assert_string_equal(cache.path, path);
	free(write_program(*state, "oci", program, sizeof(program)));
	assert_true(program_cache_get(&cache, path) >= 0);
	assert_int_equal(program_cache_get(&cache, none), -1);
}

TEST_MAIN(cmocka_unit_test_setup_teardown(test_a_copy_runs_and_nobody_can_change_it, scratch_setup,
					  scratch_teardown),
	  cmocka_unit_test_setup_teardown(test_what_is_no_program_is_not_copied, scratch_setup,
					  scratch_teardown),
	  cmocka_unit_test_setup_teardown(test_a_copy_is_kept_until_its_file_is_another,
					  scratch_setup, scratch_teardown),
	  cmocka_unit_test_setup_teardown(test_a_copy_whose_mode_somebody_changed_is_made_anew,
					  scratch_setup, scratch_teardown),
	  cmocka_unit_test_setup_teardown(test_a_copy_is_told_from_one_of_another_file,
					  scratch_setup, scratch_teardown),
	  cmocka_unit_test_setup_teardown(
		  test_what_cannot_be_copied_is_not_tried_again_until_it_is_another, scratch_setup,
		  scratch_teardown))
