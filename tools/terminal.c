/* See terminal.h. */

#include "tools/terminal.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include "broker/lib/cleanup.h"

static struct termios saved;
static volatile sig_atomic_t is_raw;

bool terminal_is_there(void)
{
	return isatty(STDIN_FILENO);
}

void terminal_size(uint64_t *ret_width, uint64_t *ret_height)
{
	static const int fds[] = {STDOUT_FILENO, STDIN_FILENO, STDERR_FILENO};
	struct winsize size = {};

	for (size_t i = 0; i < ARRAY_SIZE(fds) && !size.ws_col; i++) {
		if (ioctl(fds[i], TIOCGWINSZ, &size))
			size = (struct winsize){};
	}
	*ret_width = size.ws_col;
	*ret_height = size.ws_row;
}

/* Only calls that are allowed in a signal handler. From the background tcsetattr() would stop us, unless SIGTTOU is blocked. */
void terminal_leave_raw(void)
{
	sigset_t block, before;

	if (!is_raw)
		return;
	is_raw = 0;
	sigemptyset(&block);
	sigaddset(&block, SIGTTOU);
	sigprocmask(SIG_BLOCK, &block, &before);
	(void)tcsetattr(STDIN_FILENO, TCSANOW, &saved);
	is_raw = 0;
	sigprocmask(SIG_SETMASK, &before, NULL);
}

static void on_fault(int signal)
{
	terminal_leave_raw();
	raise(signal);
}

/* Once a process: faults come by no loop. */
static int watch_ends(void)
{
	static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT};
	static bool is_watched;
	const struct sigaction action = {.sa_handler = on_fault, .sa_flags = (int)SA_RESETHAND};

	if (is_watched)
		return 0;
	is_watched = true;
	for (size_t i = 0; i < ARRAY_SIZE(faults); i++)
		(void)sigaction(faults[i], &action, NULL);
	return atexit(terminal_leave_raw) ? -ENOMEM : 0;
}

int terminal_enter_raw(void)
{
	struct termios raw;
	int r;

	if (is_raw || !terminal_is_there())
		return 0;
	r = watch_ends();
	if (r)
		return r;
	if (tcgetattr(STDIN_FILENO, &saved))
		return -errno;
	raw = saved;
	cfmakeraw(&raw);
	is_raw = 1;
	if (tcsetattr(STDIN_FILENO, TCSANOW, &raw)) {
		is_raw = 0;
		return -errno;
	}
	return 0;
}

void terminal_stop_self(void)
{
	terminal_leave_raw();
	raise(SIGSTOP);
	(void)terminal_enter_raw();
}

void terminal_die(int signal)
{
	const struct sigaction action = {.sa_handler = SIG_DFL};
	sigset_t only;

	terminal_leave_raw();
	(void)sigaction(signal, &action, NULL);
	sigemptyset(&only);
	sigaddset(&only, signal);
	sigprocmask(SIG_UNBLOCK, &only, NULL);
	raise(signal);
	_exit(128 + signal);
}
