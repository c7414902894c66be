#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "broker/lib/file.h"
#include "broker/lib/spawn.h"
#include "tests/lib/main.h"

/* Runs a shell script with its stdout in a file; returns what it wrote. */
static char *run(struct scratch *scratch, const char *script, struct spawn spawn_as,
		 const struct spawn_fd *more, size_t n_more)
{
	const char *const argv[] = {"sh", "-c", script, NULL};
	_cleanup_(cleanup_free) char *path = scratch_path(scratch, "output");
	_cleanup_(cleanup_fd) int fd = -1;
	struct spawn_fd fds[16];
	struct why why = {};
	siginfo_t info = {};
	char *text;
	pid_t pid;

	fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	assert_true(fd >= 0 && n_more < ARRAY_SIZE(fds));
	fds[0] = (struct spawn_fd){.from = fd, .to = STDOUT_FILENO};
	for (size_t i = 0; i < n_more; i++)
		fds[i + 1] = more[i];
	spawn_as.path = "/bin/sh";
	spawn_as.argv = argv;
	spawn_as.fds = fds;
	spawn_as.n_fds = n_more + 1;
	assert_int_equal(spawn(&spawn_as, &pid, &why), 0);
	assert_int_equal(waitid(P_PID, (id_t)pid, &info, WEXITED), 0);
	assert_int_equal(info.si_code, CLD_EXITED);
	assert_int_equal(info.si_status, 0);
	assert_int_equal(file_read(AT_FDCWD, path, 1 << 16, &text, NULL), 0);
	return text;
}

static int open_text(struct scratch *scratch, const char *name, int at)
{
	_cleanup_(cleanup_free) char *path = scratch_path(scratch, name);
	int fd, moved;

	assert_int_equal(file_write(path, name, strlen(name), 0600, false, NULL), 0);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	if (at < 0)
		return fd;
	/* Not close-on-exec, as a library might leave it. */
	moved = dup2(fd, at);
	close_fd(fd);
	return moved;
}

static void test_a_child_has_what_was_named_and_nothing_else(void **state)
{
	_cleanup_(cleanup_fd) int stray = open_text(*state, "stray", 9),
				  far = open_text(*state, "far", 200),
				  named = open_text(*state, "named", -1);
	const struct spawn_fd fds[] = {{.from = named, .to = 5}};
	_cleanup_(cleanup_free) char *text = NULL;

	/* 3 is the directory that ls itself has open. */
	text = run(*state,
		   "ls /proc/self/fd; cat <&5; echo; readlink /proc/self/fd/0 /proc/self/fd/2",
		   (struct spawn){}, fds, 1);
	assert_string_equal(text, "0\n1\n2\n3\n5\nnamed\n/dev/null\n/dev/null\n");
	assert_true(stray >= 0 && far >= 0);
}

static void test_descriptors_may_change_places(void **state)
{
	_cleanup_(cleanup_fd) int a = open_text(*state, "a", 20), b = open_text(*state, "b", 21),
				  c = open_text(*state, "c", 22);
	const struct spawn_fd fds[] = {
		{.from = a, .to = 21}, {.from = b, .to = 22},  {.from = c, .to = 20},
		{.from = a, .to = 23}, {.from = -1, .to = 24},
	};
	_cleanup_(cleanup_free) char *text = NULL;

	text = run(*state,
		   "cd /proc/$$/fd; for n in 20 21 22 23 24; do "
		   "t=$(readlink $n); printf '%s ' ${t##*/}; done",
		   (struct spawn){}, fds, ARRAY_SIZE(fds));
	assert_string_equal(text, "c a b a null ");
}

static void test_a_descriptor_that_keeps_its_number_survives_the_exec(void **state)
{
	_cleanup_(cleanup_fd) int fd = open_text(*state, "same", -1);
	const struct spawn_fd fds[] = {{.from = fd, .to = fd}};
	_cleanup_(cleanup_free) char *script = text_format("cat /proc/self/fd/%d", fd);
	_cleanup_(cleanup_free) char *text = NULL;

	text = run(*state, script, (struct spawn){}, fds, 1);
	assert_string_equal(text, "same");
	/* Ours is as it was. */
	assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
}

static void test_two_for_one_number_and_wild_numbers_are_refused(void **state)
{
	static const struct spawn_fd twice[] = {{-1, 4}, {-1, 4}}, wild[] = {{-1, 100000}},
				     negative[] = {{-1, -1}}, closed[] = {{999, 3}};
	static const char *const argv[] = {"true", NULL};
	struct spawn s = {.path = "/bin/true", .argv = argv, .fds = twice, .n_fds = 2};
	struct why why = {};
	pid_t pid;

	(void)state;
	assert_int_equal(spawn(&s, &pid, &why), -EINVAL);
	assert_string_equal(why.text, "cannot prepare to run /bin/true: Invalid argument");
	s.n_fds = 1;
	s.fds = wild;
	assert_int_equal(spawn(&s, &pid, NULL), -EINVAL);
	s.fds = negative;
	assert_int_equal(spawn(&s, &pid, NULL), -EINVAL);
	s.fds = closed;
	assert_int_equal(spawn(&s, &pid, NULL), -EBADF);
}

static void test_a_child_has_default_signals_and_an_empty_mask(void **state)
{
	_cleanup_(cleanup_free) char *text = NULL;
	sigset_t mask, old;

	sigemptyset(&mask);
	sigaddset(&mask, SIGTERM);
	sigaddset(&mask, SIGCHLD);
	sigprocmask(SIG_BLOCK, &mask, &old);
	signal(SIGPIPE, SIG_IGN);
	signal(SIGINT, SIG_IGN);
	/* exec: a shell that is asked for its own state has changed it. */
	text = run(*state, "exec cat /proc/self/status", (struct spawn){}, NULL, 0);
	signal(SIGPIPE, SIG_DFL);
	signal(SIGINT, SIG_DFL);
	sigprocmask(SIG_SETMASK, &old, NULL);
	assert_non_null(strstr(text, "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n"
				     "SigCgt:\t0000000000000000\n"));
}

static void test_a_child_gets_a_session_if_asked(void **state)
{
	static const char script[] = "read x x x x x session x </proc/self/stat; "
				     "[ $session = $$ ] && echo own || echo ours";
	_cleanup_(cleanup_free) char *own = NULL, *ours = NULL;

	own = run(*state, script, (struct spawn){.new_session = true}, NULL, 0);
	ours = run(*state, script, (struct spawn){}, NULL, 0);
	assert_string_equal(own, "own\n");
	assert_string_equal(ours, "ours\n");
}

static void test_the_environment_and_the_directory_are_those_given(void **state)
{
	static const char *const envp[] = {"A=1", NULL};
	_cleanup_(cleanup_free) char *none = NULL, *one = NULL;

	setenv("DAVIT_SECRET", "x", 1);
	none = run(*state, "exec /usr/bin/env -u PWD", (struct spawn){}, NULL, 0);
	one = run(*state, "/bin/pwd; echo $A", (struct spawn){.envp = envp, .cwd = "/proc"}, NULL,
		  0);
	unsetenv("DAVIT_SECRET");
	assert_null(strstr(none, "DAVIT_SECRET"));
	assert_string_equal(one, "/proc\n1\n");
}

static void test_a_program_that_is_not_there_is_named(void **state)
{
	static const char *const argv[] = {"x", NULL};
	struct spawn s = {.path = "/no/such/program", .argv = argv};
	struct why why = {}, relative = {}, lost = {}, plain = {};
	pid_t pid;

	(void)state;
	assert_int_equal(spawn(&s, &pid, &why), -ENOENT);
	assert_string_equal(why.text, "cannot run /no/such/program: No such file or directory");
	s.path = "x";
	assert_int_equal(spawn(&s, &pid, &relative), -EINVAL);
	assert_string_equal(relative.text, "cannot run x: not an absolute path");
	s.path = "/bin/true";
	s.cwd = "/no/such/dir";
	assert_int_equal(spawn(&s, &pid, &lost), -ENOENT);
	assert_string_equal(lost.text,
			    "cannot run /bin/true in /no/such/dir: No such file or directory");
	s.path = "/etc/passwd";
	s.cwd = NULL;
	assert_int_equal(spawn(&s, &pid, &plain), -EACCES);
	/* The helper that failed was reaped. */
	assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
	assert_int_equal(errno, ECHILD);
}

static void test_a_program_is_found_beside_ours(void **state)
{
	_cleanup_(cleanup_free) char *path = NULL;

	(void)state;
	assert_int_equal(spawn_find_program("test_spawn", &path), 0);
	assert_int_equal(access(path, X_OK), 0);
	assert_int_equal(spawn_find_program("../x", &path), -EINVAL);
}

TEST_MAIN(TEST_IN_SCRATCH(test_a_child_has_what_was_named_and_nothing_else),
	  TEST_IN_SCRATCH(test_descriptors_may_change_places),
	  TEST_IN_SCRATCH(test_a_descriptor_that_keeps_its_number_survives_the_exec),
	  TEST_IN_SCRATCH(test_two_for_one_number_and_wild_numbers_are_refused),
	  TEST_IN_SCRATCH(test_a_child_has_default_signals_and_an_empty_mask),
	  TEST_IN_SCRATCH(test_a_child_gets_a_session_if_asked),
	  TEST_IN_SCRATCH(test_the_environment_and_the_directory_are_those_given),
	  TEST_IN_SCRATCH(test_a_program_that_is_not_there_is_named),
	  TEST_IN_SCRATCH(test_a_program_is_found_beside_ours))
