#pragma once
/*
 * A davit-shim of one test: its bundle, its process, a control connection, and a
 * bus that answers event.publish (a child process; it can be away, or ask again
 * for what it has). Everything blocks with a deadline and fails the test by
 * name; nothing sleeps.
 */

#include <stdbool.h>
#include <sys/types.h>

#include "schemas/envelope.h"
#include "tests/lib/scratch.h"

#define SHIM_CASE_EVENTS 1500
#define SHIM_CASE_TASK   "0123456789abcdef0123456789abcdef"

struct shim_event {
	uint64_t seq;
	char topic[32];
	char id[80];                 /* of /tasks/exit and /tasks/exec-*: the process */
	struct event_task_exit exit; /* of /tasks/exit: without its strings */
};

struct shim_case {
	struct scratch scratch;
	char *bundle, *oci, *state, *runtime;
	struct shim_config config; /* strings are borrowed from here */
	int fd;                    /* control connection, -1: none */
	int lock;
	int copy;   /* of the runtime's program, for the shim; 0: none */
	pid_t shim; /* 0: none */
	bool keeps_zombies; /* what comes to us from a shim is not reaped */
	pid_t bus;
	int bus_lines;                    /* "<seq> <topic>\n" of each event that the bus took */
	char text[ENVELOPE_TEXT_MAX + 1]; /* of the last reply */
	struct shim_event events[SHIM_CASE_EVENTS];
	size_t n_events;
	char cgroup[64];
	int fds[2]; /* that came with the last reply; the test's */
	size_t n_fds;
};

/* With tests/programs/fake-oci, whose container runs @init (a shell script). */
void shim_case_init(struct shim_case *test, const char *init);
/* Ends what still runs; fails if a process, mount or cgroup is left. */
int shim_case_deinit(struct shim_case *test);
/* Of this build: "bin/davit-shim"; malloc'd. */
char *shim_case_program(const char *name);

void shim_case_write(struct shim_case *test, const char *name,
		     const char *text);                           /* in the bundle */
void shim_case_order(struct shim_case *test, const char *orders); /* to fake-oci */
/* What fake-oci was given at @verb; malloc'd, NULL: it was not called. */
char *shim_case_dump(struct shim_case *test, const char *verb);
/* Whether @path exists beneath the scratch directory. */
bool shim_case_has(struct shim_case *test, const char *path);

/* Starts the shim, connects and says hello. */
void shim_case_start(struct shim_case *test);
/* SIGKILLs the shim and starts another one, for the clean-up. */
void shim_case_replace(struct shim_case *test);
/* Another connection to the shim's socket; -1 if that is refused. */
int shim_case_connect(struct shim_case *test);
/* Until the shim has ended by itself; its exit code. */
int shim_case_wait_end(struct shim_case *test);

/* @id NULL: a random one. @reply NULL: not wanted. @deadline_ms 0: none. */
enum bus_status shim_case_call(struct shim_case *test, const char *method, const uint8_t *id,
			       uint64_t deadline_ms, const void *request, void *reply);
/* Sends without waiting for the answer, and takes the answer to @id. */
void shim_case_send(struct shim_case *test, int fd, const char *method, const uint8_t *id,
		    uint64_t deadline_ms, const void *request);
enum bus_status shim_case_receive(struct shim_case *test, int fd, const char *method,
				  const uint8_t *id, void *reply);
/* As shim_case_send(), with @n descriptors. */
void shim_case_send_with(struct shim_case *test, int fd, const char *method, const uint8_t *id,
			 uint64_t deadline_ms, const void *request, const int *fds, size_t n);
/* Until an event of @topic has come; its place in events[]. */
size_t shim_case_wait_event(struct shim_case *test, const char *topic);
/* Whether a pidfd tells how a process ended that another one has reaped: since Linux 6.15. */
bool shim_case_kernel_tells_exits(void);
/* Event @at is the exit of a process whose parent was a shim that died: @status, or unknown if the
 * kernel does not tell. */
void shim_case_assert_adopted_exit(const struct shim_case *test, size_t at, uint64_t status);
/* As above, of the process @id. */
size_t shim_case_wait_process(struct shim_case *test, const char *topic, const char *id);

/* Adds a process to fake-oci's container, which runs the shell script; with start if asked. */
enum bus_status shim_case_exec(struct shim_case *test, const char *id, const char *script,
			       bool start, struct shim_exec_reply *reply);
/* Until @path exists beneath the scratch directory. */
void shim_case_wait_file(struct shim_case *test, const char *path);
/* Takes the events that have come. */
void shim_case_drain(struct shim_case *test);
/* Reaps what came to us from a shim that was killed, as a new parent would. */
void shim_case_reap(struct shim_case *test);

/* ---- the bus ---- */
enum shim_case_bus {
	SHIM_BUS_TAKES,
	SHIM_BUS_FORGETS /* its first answer is a gap: from 1, please */
};
void shim_case_bus_start(struct shim_case *test, enum shim_case_bus kind);
void shim_case_bus_stop(struct shim_case *test);
/* The next event that the bus took: "<seq> <topic>" in @line. */
void shim_case_bus_line(struct shim_case *test, char *line, size_t size);
