/* Raw mode, on a terminal of the test's own, and that it is left on every way out. */

#include "tools/terminal.h"

#include <fcntl.h>
#include <pty.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "tests/lib/main.h"

struct end {
	void (*leave)(void);
	int signal, code; /* how the child ends */
};

static bool is_raw(int fd)
{
	struct termios modes;

	assert_int_equal(tcgetattr(fd, &modes), 0);
	return !(modes.c_lflag & (ICANON | ECHO | ISIG));
}

/* A child with the terminal as its stdin goes raw and ends by @end. */
static void assert_cooked_after(const struct end *end)
{
	int master, slave, status;
	pid_t pid;

	assert_int_equal(openpty(&master, &slave, NULL, NULL, NULL), 0);
	assert_false(is_raw(slave));
	pid = fork();
	if (!pid) {
		dup2(slave, STDIN_FILENO);
		if (terminal_enter_raw() || !is_raw(slave))
			_exit(99);
		end->leave();
		_exit(98);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (end->signal)
		assert_int_equal(WTERMSIG(status), end->signal);
	else
		assert_int_equal(WEXITSTATUS(status), end->code);
	assert_false(is_raw(slave));
	close(master);
	close(slave);
}

static void leave_by_exit(void)
{
	exit(3);
}

static void leave_by_call(void)
{
	terminal_leave_raw();
	_exit(4);
}

static void leave_by_fault(void)
{
	raise(SIGSEGV);
}

static void leave_by_abort(void)
{
	abort();
}

static void leave_by_signal(void)
{
	terminal_die(SIGTERM);
}

static void test_raw_mode_is_left_on_every_way_out(void **state)
{
	(void)state;
	assert_cooked_after(&(struct end){.leave = leave_by_exit, .code = 3});
	assert_cooked_after(&(struct end){.leave = leave_by_call, .code = 4});
	assert_cooked_after(&(struct end){.leave = leave_by_fault, .signal = SIGSEGV});
	assert_cooked_after(&(struct end){.leave = leave_by_abort, .signal = SIGABRT});
	assert_cooked_after(&(struct end){.leave = leave_by_signal, .signal = SIGTERM});
}

static void stop_and_go_on(void)
{
	terminal_stop_self();
	_exit(is_raw(STDIN_FILENO) ? 0 : 1);
}

static void test_a_stop_gives_the_terminal_back_for_as_long(void **state)
{
	int master, slave, status;
	pid_t pid;

	(void)state;
	assert_int_equal(openpty(&master, &slave, NULL, NULL, NULL), 0);
	pid = fork();
	if (!pid) {
		dup2(slave, STDIN_FILENO);
		(void)terminal_enter_raw();
		stop_and_go_on();
	}
	assert_int_equal(waitpid(pid, &status, WUNTRACED), pid);
	assert_true(WIFSTOPPED(status));
	assert_false(is_raw(slave));
	kill(pid, SIGCONT);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
	close(master);
	close(slave);
}

static void test_what_is_no_terminal_stays_as_it_is(void **state)
{
	uint64_t width = 1, height = 1;
	int status;
	pid_t pid = fork();

	(void)state;
	if (!pid) {
		int null = open("/dev/null", O_RDWR);

		for (int fd = 0; fd < 3; fd++)
			dup2(null, fd);
		terminal_size(&width, &height);
		_exit(terminal_enter_raw() || terminal_is_there() || width || height);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

TEST_MAIN(cmocka_unit_test(test_raw_mode_is_left_on_every_way_out),
	  cmocka_unit_test(test_a_stop_gives_the_terminal_back_for_as_long),
	  cmocka_unit_test(test_what_is_no_terminal_stays_as_it_is))
