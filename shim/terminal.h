#pragma once
/*
 * The terminal of a process. The OCI runtime makes it inside the container and
 * sends its master over a socket in the bundle (--console-socket): exactly one
 * descriptor, from a process in the shim's own mount namespace, that is the master of
 * a pseudo-terminal. The socket is gone when that has come.
 */

#include <stdbool.h>
#include <stdint.h>

#include "broker/lib/error.h"
#include "broker/lib/loop.h"

#define TERMINAL_PATH_MAX 107

struct terminal;

/* The master has come. */
typedef void (*terminal_fn)(struct terminal *terminal);

struct terminal {
	struct loop *loop;
	struct loop_file file;    /* the listener, then the connection */
	int listener, connection; /* -1: none */
	int master;               /* -1: has not come, or is closed */
	bool has_come;            /* a short process may hang up before its OCI runtime has ended */
	char *path;
	uint64_t width, height;
	struct why why; /* what came is refused */
	terminal_fn fn;
};
#define TERMINAL_NULL {.listener = -1, .connection = -1, .master = -1}

/* Listens at @path, with a size for the terminal (0: as it is). */
int terminal_listen(struct terminal *terminal, struct loop *loop, const char *path,
		    terminal_fn fn, struct why *why);
/* The OCI runtime has ended: what it sent has come. Calls the callback if it has not been. */
int terminal_finish(struct terminal *terminal, struct why *why);
/* Takes @fd, the master that another shim had, if it is one. */
int terminal_adopt(struct terminal *terminal, int fd, struct why *why);
int terminal_resize(struct terminal *terminal, uint64_t width, uint64_t height);
/* Hangs up. */
void terminal_close(struct terminal *terminal);
