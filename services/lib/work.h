#pragma once
/*
 * Blocking work in a child process with limits, so that hostile input cannot
 * hurt the service: the child gets its request as one packed message on fd 3 and
 * answers with one packed message on fd 4; fd 5 and up are what the caller names.
 * Its stderr is kept (the last 4 KiB) for the error text.
 */

#include "broker/lib/spawn.h"
#include "services/lib/service.h"

struct work;

struct work_options {
	const char *program;		      /* name of a davit program */
	const char *const *argv;	      /* after the program's name, NULL-terminated */
	const struct spawn_fd *fds;	      /* 5 and up */
	size_t n_fds;
	const struct schema_message *request; /* of what it is asked */
	const void *request_message;	      /* packed onto fd 3 before work_start() returns: borrowed */
	const struct schema_message *reply;   /* what it answers with */
	uint64_t deadline_ms;		      /* CLOCK_BOOTTIME: it is killed then; 0: none */
};
/* @reply is NULL if the child died or answered with something else; then @why says how. It is cleared afterwards.
 * Called once, from the loop (not inside a transaction). */
typedef void (*work_fn)(void *userdata, void *reply, const struct why *why);
int work_start(struct service *service, const struct work_options *options, work_fn fn, void *userdata, struct work **ret_work, struct why *why);
/* SIGKILLs it; the callback still comes. */
void work_kill(struct work *work);
