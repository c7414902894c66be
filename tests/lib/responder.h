#pragma once
/*
 * A peer for the tests of bus.c and ask.c: a process of its own that answers on
 * a REP socket, as the request's method says:
 *
 *	echo.<any>	OK with the request's body
 *	late.<ms>	OK with the body, so much later
 *	never.<any>	no answer
 *	pending.<n>	PENDING n times for one request id, then OK with the body
 *	garbage.<n>	n times bytes that are no envelope, then OK
 *	drop.<n>	n times an empty answer, then OK
 *	deny.<any>	PERMISSION_DENIED, "no <method>"
 *	stat.requests	OK; the body is how many requests came (uint)
 *
 * The test's own program is started again for it: its main() begins with
 * responder_main().
 */

#include <stdbool.h>
#include <sys/types.h>

/* True: this was the responder's process, and it is over. */
bool responder_main(int argc, char **argv);
/* Starts it on @path (a stale file is removed). It may take a moment until it listens. */
pid_t responder_start(const char *path);
/* SIGKILL, and reaped. */
void responder_kill(pid_t pid);
