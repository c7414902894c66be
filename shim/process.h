#pragma once
/*
 * A process of the task: init, which is a part of the shim, or one that exec
 * added, which stays in the table until exec_delete. Only process_move() changes
 * its state, by a table of allowed moves (pure). Init's state follows the
 * container's (shim_move).
 */

#include <stdbool.h>
#include <stdint.h>

#include "broker/lib/error.h"
#include "schemas/messages.h"

#define PROCESS_ADDED_MAX 256

struct shim;
struct streams;

enum process_state {
	PROCESS_ADDED,    /* not started yet */
	PROCESS_STARTING, /* the OCI runtime makes it */
	PROCESS_RUNNING,  /* it exists: an init that is created counts */
	PROCESS_STOPPED,  /* its exit is in the journal */
	PROCESS_FAILED,   /* it could not be started */
	PROCESS_STATE_COUNT,
};

struct process {
	struct shim *shim;
	struct process *next; /* in the order in which they were added */
	const char *id;       /* container id for init; exec id, owned, for others */
	enum process_state state;
	int pid; /* 0: none */
	uint64_t start_time;
	int pidfd;                /* -1: none */
	struct exit_record exit;  /* its cause is a literal */
	bool has_exit;            /* exit is in the journal */
	const struct task_io *io; /* NULL: /dev/null. Owned but for init's */
	struct streams *streams;  /* streams.c's; NULL: nothing is kept open */
};

/* The added processes. */
struct processes {
	struct process *first, **last;
	size_t count;
};

/* Pure. */
bool process_may_move(enum process_state from, enum process_state to);
const char *process_state_name(enum process_state state);
/* What callers see. */
enum task_status process_status(enum process_state state);

/* One that is not allowed is a bug and ends the program. */
void process_move(struct process *process, enum process_state next);
/* @process: zeroed memory. Borrows @id. */
void process_init(struct process *process, struct shim *shim, const char *id);
/* Forgets who it is: pid, pidfd. */
void process_forget(struct process *process);
/* Exists, as far as is known. */
bool process_is_alive(const struct process *process);
/* Finds out who @pid is and opens its pidfd; a zombie's opens too. @start_time 0: not known.
 * -ESRCH: it is gone, or another one. -ECHILD: @must_be_child, but it is not ours. On failure
 * @process is as before. */
int process_identify(struct process *process, int pid, uint64_t start_time, bool must_be_child);

void processes_init(struct processes *processes);
/* Frees all. */
void processes_deinit(struct processes *processes);
struct process *processes_find(const struct processes *processes, const char *id);
/* -EEXIST; -ENOSPC: there are PROCESS_ADDED_MAX; -ENOMEM. Copies @id and @io (may be NULL). */
int processes_add(struct processes *processes, struct shim *shim, const char *id,
		  const struct task_io *io, struct process **ret_process);
/* Frees it. Its streams are closed. */
void processes_remove(struct processes *processes, struct process *process);
