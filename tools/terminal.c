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

/* It comes again, to its default, when this returns. */
static void on_end(int signal)
{
	terminal_leave_raw();
	raise(signal);
}

/* Out of waiting mode and into it again. */
static void on_stop(int signal)
{
	int error = errno;

	(void)signal;
	terminal_leave_raw();
	raise(SIGSTOP);
	(void)terminal_enter_waiting();
	errno = error;
}

/* Once a process. Faults come by no loop, and what is sent to us only once there is one, which takes it by descriptor. */
static int watch_ends(void)
{
	static const int ends[] = {SIGSEGV, SIGBUS, SIGFPE,  SIGILL, SIGABRT,
				   SIGINT,  SIGHUP, SIGQUIT, SIGTERM};
	static bool is_watched;
	const struct sigaction end = {.sa_handler = on_end, .sa_flags = (int)SA_RESETHAND};
	const struct sigaction stop = {.sa_handler = on_stop, .sa_flags = SA_RESTART};
	struct sigaction before;

	if (is_watched)
		return 0;
	is_watched = true;
	for (size_t i = 0; i < ARRAY_SIZE(ends); i++)
		if (!sigaction(ends[i], NULL, &before) && before.sa_handler != SIG_IGN)
			(void)sigaction(ends[i], &end, NULL);
	if (!sigaction(SIGTSTP, NULL, &before) && before.sa_handler != SIG_IGN)
		(void)sigaction(SIGTSTP, &stop, NULL);
	return atexit(terminal_leave_raw) ? -ENOMEM : 0;
}

static int enter(bool is_waiting)
{
	struct termios mode;
	int r;

	if (!terminal_is_there())
		return 0;
	r = watch_ends();
	if (r)
		return r;
	if (!is_raw && tcgetattr(STDIN_FILENO, &saved))
		return -errno;
	mode = saved;
	cfmakeraw(&mode);
	if (is_waiting) {
		mode.c_oflag = saved.c_oflag;
		mode.c_lflag |= saved.c_lflag & ISIG;
	}
	is_raw = 1;
	if (tcsetattr(STDIN_FILENO, TCSANOW, &mode)) {
		r = -errno;
		terminal_leave_raw();
	}
	return r;
}

int terminal_enter_waiting(void)
{
	return enter(true);
}

int terminal_enter_raw(void)
{
	return enter(false);
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
