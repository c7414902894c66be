#pragma once
/* Waiting for what a test expects, with a deadline and without ever sleeping. */

#include <stdbool.h>

struct loop;

/* So long a test waits for what should come at once, also on a busy machine with sanitizers. */
#define WAIT_MS 20000

/* Turns @loop until *done; false if that took longer than @timeout_ms. */
bool wait_on_loop(struct loop *loop, const bool *done, int timeout_ms);
/* Until *counter is at least @n. */
bool wait_on_loop_count(struct loop *loop, const unsigned *counter, unsigned n, int timeout_ms);
/* Waits for @events (poll) on @fd. */
bool wait_on_fd(int fd, short events, int timeout_ms);
