/* What davit-image-work can no longer do. Each test in a child of its own, for what is given up stays so. */

#include "tests/lib/main.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sched.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "services/image/work/work.h"

static void run_in_child(int (*fn)(const char *directory), const char *directory)
{
	int status;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (!pid)
		_exit(fn(directory));
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

static int try_calls(const char *directory)
{
	char *const argv[] = {(char *)"false", NULL}; /* should it be run, it fails the test */
	int fds[2];

	(void)directory;
	if (sandbox_limit(768ull << 20, NULL) || sandbox_filter(NULL))
		return 1;
	if (socket(AF_UNIX, SOCK_STREAM, 0) >= 0 || errno != EPERM)
		return 2;
	if (execve("/bin/false", argv, argv + 1) != -1 || errno != EPERM)
		return 3;
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, fds) != -1 || errno != EPERM ||
	    unshare(CLONE_NEWNS) != -1 || errno != EPERM ||
	    syscall(SYS_pidfd_getfd, 0, 0, 0) != -1 || errno != EPERM)
		return 4;
#ifdef __x86_64__
	/* Under the numbers of the x32 calls: 41 is socket() there, too. */
	if (syscall(0x40000000 + SYS_socket, AF_UNIX, SOCK_STREAM, 0) != -1 || errno != EPERM)
		return 5;
#endif
	return getpid() > 0 ? 0 : 6;
}

static void test_no_program_is_run_and_no_socket_opened(void **state)
{
	(void)state;
	run_in_child(try_calls, NULL);
}

static int try_limits(const char *directory)
{
	struct rlimit limit;

	(void)directory;
	if (sandbox_limit(768ull << 20, NULL))
		return 1;
	if (getrlimit(RLIMIT_CORE, &limit) || limit.rlim_max)
		return 2;
	if (getrlimit(RLIMIT_NOFILE, &limit) || limit.rlim_max > 1024)
		return 3;
	return 0;
}

static void test_descriptors_and_cores_are_limited(void **state)
{
	(void)state;
	run_in_child(try_limits, NULL);
}

static int try_paths(const char *directory)
{
	struct stat status;
	int fd = open(directory, O_RDONLY | O_DIRECTORY);

	if (fd < 0 || sandbox_enter(fd, NULL))
		return 1;
	if (stat("/etc/passwd", &status) == 0 || stat("../../../../etc/passwd", &status) == 0)
		return 2;
	return stat("/", &status) || !S_ISDIR(status.st_mode) ? 3 : 0;
}

static void test_no_path_leads_out_of_the_layer(void **state)
{
	struct scratch *scratch = *state;

	run_in_child(try_paths, scratch->dir);
}

static int try_mounts(const char *directory)
{
	struct stat before, after;
	int fd = open(directory, O_RDONLY | O_DIRECTORY);

	if (stat("/proc/self/ns/net", &before) || sandbox_unshare(fd, NULL))
		return 1;
	if (stat("/proc/self/ns/net", &after) || before.st_ino == after.st_ino)
		return 2;
	return fcntl(fd, F_GETFD) == FD_CLOEXEC ? 0 : 3;
}

static void test_it_has_a_network_and_mounts_of_its_own(void **state)
{
	struct scratch *scratch = *state;

	run_in_child(try_mounts, scratch->dir);
}

static int try_network(const char *directory)
{
	char *const argv[] = {(char *)"false", NULL}; /* should it be run, it fails the test */
	struct sockaddr_in address = {.sin_family = AF_INET};
	struct stat status;
	int fds[2], own = open(directory, O_RDONLY | O_DIRECTORY), fd;

	if (own < 0 || sandbox_limit(768ull << 20, NULL) || sandbox_network(NULL))
		return 1;
	/* Of the file system: copies of what names are resolved with, and what was opened before. */
	if (!stat("/etc/passwd", &status) || !stat("/proc", &status) || !stat(directory, &status) ||
	    !stat("../../../../etc/passwd", &status) || stat("/etc/hosts", &status))
		return 2;
	fd = openat(own, "file", O_WRONLY | O_CREAT, 0600);
	if (fd < 0 || write(fd, "x", 1) != 1)
		return 3;
	/* Of the network: connections to addresses. */
	fd = socket(AF_INET, SOCK_STREAM, 0);
	if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) != -1 ||
	    errno != EPERM || listen(fd, 1) != -1 || errno != EPERM)
		return 4;
	if (socket(AF_UNIX, SOCK_STREAM, 0) != -1 || errno != EPERM ||
	    socket(AF_PACKET, SOCK_RAW, 0) != -1 || errno != EPERM)
		return 5;
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, fds))
		return 6;
	if (execve("/bin/false", argv, argv + 1) != -1 || errno != EPERM || chroot("/") != -1 ||
	    errno != EPERM || unshare(CLONE_NEWNS) != -1 || errno != EPERM ||
	    syscall(SYS_pidfd_getfd, 0, 0, 0) != -1 || errno != EPERM ||
	    accept(fd, NULL, NULL) != -1 || errno != EPERM)
		return 7;
#ifdef __x86_64__
	if (syscall(0x40000000 + SYS_socket, AF_UNIX, SOCK_STREAM, 0) != -1 || errno != EPERM)
		return 8;
#endif
	return 0;
}

static void test_what_talks_to_registries_sees_no_file_system(void **state)
{
	struct scratch *scratch = *state;

	run_in_child(try_network, scratch->dir);
}

TEST_MAIN(cmocka_unit_test(test_no_program_is_run_and_no_socket_opened),
	  cmocka_unit_test(test_descriptors_and_cores_are_limited),
	  TEST_IN_SCRATCH(test_no_path_leads_out_of_the_layer),
	  TEST_IN_SCRATCH(test_it_has_a_network_and_mounts_of_its_own),
	  TEST_IN_SCRATCH(test_what_talks_to_registries_sees_no_file_system))
