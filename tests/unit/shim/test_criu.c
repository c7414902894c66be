/* What criu is told of a container's stdio, and what it says when it fails. */

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "broker/lib/file.h"
#include "shim/criu.h"
#include "tests/lib/main.h"

static void assert_file(const char *dir, const char *name, const char *expected)
{
	_cleanup_(cleanup_free) char *path = text_format("%s/%s", dir, name), *text = NULL;

	assert_int_equal(file_read(AT_FDCWD, path, 4096, &text, NULL), 0);
	assert_string_equal(text, expected);
}

static void streams_outside_go_from_a_dump_to_a_restore(void **state)
{
	const char *dir = ((struct scratch *)*state)->dir;
	const struct criu_stdio stdio = {{"", "file[110:3b0]", "file[1f:ffffffffffffffff]"}};
	struct criu_stdio read;

	assert_int_equal(criu_tell_dump(dir, &stdio, NULL), 0);
	assert_file(dir, "criu.conf",
		    "external file[110:3b0]\nexternal file[1f:ffffffffffffffff]\n");
	assert_int_equal(criu_write_stdio(dir, &stdio, NULL), 0);
	assert_file(dir, CRIU_STDIO_FILE, "1 file[110:3b0]\n2 file[1f:ffffffffffffffff]\n");
	assert_int_equal(criu_read_stdio(dir, &read, NULL), 0);
	assert_memory_equal(&read, &stdio, sizeof(stdio));
	assert_int_equal(criu_tell_restore(dir, &read, "/d/c", NULL), 0);
	assert_file(dir, "criu.conf",
		    "inherit-fd fd[1]:file[110:3b0]\ninherit-fd fd[2]:file[1f:ffffffffffffffff]\n"
		    "cgroup-root /d/c\n");
}

static void images_without_the_file_have_no_such_streams(void **state)
{
	const char *dir = ((struct scratch *)*state)->dir;
	struct criu_stdio stdio;

	assert_int_equal(criu_read_stdio(dir, &stdio, NULL), 0);
	assert_int_equal(criu_tell_restore(dir, &stdio, "system.slice:d:c", NULL), 0);
	assert_file(dir, "criu.conf", "");
}

static void nothing_but_keys_is_taken_from_images(void **state)
{
	static const char *const bad[] = {
		"1",
		"1 ",
		"\n",
		"3 file[1:2]",
		"1 file[1:2]\naction-script /bin/sh\n",
		"1 file[1:2]x",
		"1 file[1:2]]",
		"1 file[:2]",
		"1 file[1:]",
		"1 file[1:g]",
		"1 tty[1:2]",
		"1  file[1:2]",
		"1 file[1:2] ",
		"/ file[1:2]",
		"1 file[1111111111111111111111:2222222222222222222222]",
	};
	const char *dir = ((struct scratch *)*state)->dir;
	_cleanup_(cleanup_free) char *path = text_format("%s/" CRIU_STDIO_FILE, dir);
	_cleanup_(cleanup_free) char *target = text_format("%s/x", dir);
	struct criu_stdio stdio;
	struct why why = {};

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(criu_parse_stdio(bad[i], &stdio), -EBADMSG);
	assert_int_equal(file_write(path, bad[4], strlen(bad[4]), 0600, false, NULL), 0);
	assert_int_equal(criu_read_stdio(dir, &stdio, &why), -EBADMSG);
	assert_non_null(strstr(why.text, path));
	assert_int_equal(unlink(path) | symlink(target, path), 0);
	assert_int_equal(criu_read_stdio(dir, &stdio, NULL), -ELOOP);
}

/* Its 0 is a pipe, its 1 was opened before it got mounts of its own, its 2 after. */
static void become_a_container(const char *path, const int pipe_fds[2])
{
	if (dup2(open(path, O_WRONLY), 1) != 1 || unshare(CLONE_NEWNS) ||
	    dup2(open(path, O_WRONLY), 2) != 2 || dup2(pipe_fds[0], 0) != 0)
		_exit(1);
	(void)!write(pipe_fds[1], "", 1);
	for (;;)
		pause();
}

static void streams_outside_of_the_mounts_are_found(void **state)
{
	const char *dir = ((struct scratch *)*state)->dir;
	_cleanup_(cleanup_free) char *path = text_format("%s/out", dir);
	struct criu_stdio stdio;
	struct stat out;
	char expected[32], byte;
	int pipe_fds[2];
	pid_t pid;

	assert_int_equal(file_write(path, "", 0, 0600, false, NULL), 0);
	assert_int_equal(stat(path, &out) | pipe(pipe_fds), 0);
	pid = fork();
	if (!pid)
		become_a_container(path, pipe_fds);
	close(pipe_fds[1]);
	assert_int_equal(read(pipe_fds[0], &byte, 1), 1);
	close(pipe_fds[0]);
	assert_int_equal(criu_find_stdio(pid, &stdio), 0);
	assert_int_equal(kill(pid, SIGKILL), 0);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	assert_string_equal(stdio.keys[0], "");
	assert_string_equal(stdio.keys[2], "");
	snprintf(expected, sizeof(expected), ":%llx]", (unsigned long long)out.st_ino);
	assert_int_equal(strncmp(stdio.keys[1], "file[", 5), 0);
	assert_string_equal(strchr(stdio.keys[1], ':'), expected);
	assert_int_equal(criu_find_stdio(INT32_MAX, &stdio), -ENOENT);
}

static void first_error_of_a_log_is_the_reason(void **state)
{
	static const char log[] =
		"(00.1) Warn  (criu/x.c:1): nothing\n(00.2)      1: Error (criu/fifo.c:104): Can't "
		"open fifo\t0x3\n(00.3) Error (criu/y.c:2): Restoring FAILED.\n";
	const char *dir = ((struct scratch *)*state)->dir;
	_cleanup_(cleanup_free) char *path = text_format("%s/dump.log", dir);
	char text[CRIU_REASON_MAX], whole[64] = "criu failed", full[16] = "criu failed";

	criu_parse_reason(log, text);
	assert_string_equal(text, "Can't open fifo?0x3");
	criu_parse_reason("fine\n", text);
	assert_string_equal(text, "");
	criu_parse_reason("Error (criu/x.c", text);
	assert_string_equal(text, "");
	criu_parse_reason("Error (x\nnext): line", text);
	assert_string_equal(text, "");
	criu_add_reason(dir, "dump.log", whole, sizeof(whole));
	assert_string_equal(whole, "criu failed");
	assert_int_equal(file_write(path, log, strlen(log), 0600, false, NULL), 0);
	criu_add_reason(dir, "dump.log", whole, sizeof(whole));
	assert_string_equal(whole, "criu failed: Can't open fifo?0x3");
	criu_add_reason(dir, "dump.log", full, sizeof(full));
	assert_string_equal(full, "criu failed: Ca");
}

TEST_MAIN(TEST_IN_SCRATCH(streams_outside_go_from_a_dump_to_a_restore),
	  TEST_IN_SCRATCH(images_without_the_file_have_no_such_streams),
	  TEST_IN_SCRATCH(nothing_but_keys_is_taken_from_images),
	  TEST_IN_SCRATCH(streams_outside_of_the_mounts_are_found),
	  TEST_IN_SCRATCH(first_error_of_a_log_is_the_reason))
