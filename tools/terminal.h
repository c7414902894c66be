#pragma once
/*
 * The terminal that this command was started in. Raw mode is a state of the
 * process: it is left on every way out of it, exit() and faults included, and
 * may be left and entered again as often as one likes.
 */

#include <stdbool.h>
#include <stdint.h>

/* Whether standard input is one. */
bool terminal_is_there(void);
/* Of standard output, input or error, whichever is one; 0 and 0 without any. */
void terminal_size(uint64_t *ret_width, uint64_t *ret_height);
/*
 * Standard input's, neither does anything when that is no terminal. Waiting is raw mode as far as keys go, for the time
 * until somebody reads them: none is echoed or changed, but those that send signals still end this process, and what we
 * print is as usual. -errno.
 */
int terminal_enter_waiting(void);
int terminal_enter_raw(void);
void terminal_leave_raw(void);
/* Stops this process as the shell's ^Z would, out of raw mode; returns when it goes on. */
void terminal_stop_self(void);
/* Ends this process by @signal, out of raw mode. */
void terminal_die(int signal) __attribute__((noreturn));
