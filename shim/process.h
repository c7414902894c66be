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
#include "broker/lib/loop.h"
#include "schemas/messages.h"
#include "shim/requests.h"

#define PROCESS_ADDED_MAX 256

struct runtime_call;
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
	int pid; /* 0: none; without a pidfd: left by the OCI runtime, not our child yet */
	uint64_t start_time;
	int pidfd;               /* -1: none */
	uint64_t pidfd_inode;    /* its own until the next boot; 0: this kernel has none */
	bool is_child;           /* reaped by us; else an earlier shim's, seen by its pidfd */
	bool has_ended;          /* exit is filled */
	bool has_exit;           /* and in the journal */
	struct exit_record exit; /* its cause is a literal */
	uint64_t oom_kills;      /* in the container when it was started */
	const struct task_io *io; /* NULL: /dev/null. Owned but for init's */
	struct streams *streams;  /* streams.c's; NULL: nothing is kept open */

	/* Of an added one (exec.c). */
	char *file;                /* its OCI process, in the bundle */
	struct request request;    /* start or delete that is under way */
	struct runtime_call *call; /* STARTING: NULL before and after the OCI runtime's exec */
	bool is_preparing;         /* STARTING: its streams are not ready yet */
	bool is_prepared;          /* they are */
	struct loop_timer timer;   /* of what is waited for */

	/* Of one that is not our child (adopt.c). */
	struct loop_file watch;
	uint64_t give_up_ms, pause_ms;
	uint8_t added_id[ID_SIZE]; /* after a shim's death: the request that added it and was to start it */
	uint8_t start_id[ID_SIZE]; /* and the one that was to start it, if has_start_id */
	bool has_start_id;
	uint64_t earliest; /* ticks since boot at the intent: it started then or later */
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

/* Of a pidfd; 0: it is none, or this kernel's are all the same. */
uint64_t process_pidfd_inode(int pidfd);
/* Of a pidfd whose process has been reaped: @ret_status as wait(2) has it. -EAGAIN: it has not
 * been; another errno: this kernel cannot tell. */
int process_read_status(int pidfd, int *ret_status);
/* How it ended is known: @status as wait(2) has it. */
void process_set_exit(struct process *process, int status);
/* It is gone, and nobody saw how. @cause is a literal. */
void process_set_unknown_exit(struct process *process, const char *cause);

void processes_init(struct processes *processes);
/* Frees all. */
void processes_deinit(struct processes *processes);
struct process *processes_find(const struct processes *processes, const char *id);
/* -EEXIST; -ENOSPC: there are PROCESS_ADDED_MAX; -ENOMEM. Copies @id and @io (may be NULL). */
int processes_add(struct processes *processes, struct shim *shim, const char *id,
		  const struct task_io *io, struct process **ret_process);
/* Frees it. Its streams are closed. */
void processes_remove(struct processes *processes, struct process *process);
