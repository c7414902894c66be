#pragma once
/*
 * One shim: its container, and everything that it owns. Single-threaded; every
 * function here runs on the loop and returns at once, but for the mounts.
 *
 * What happens is journaled first, then told to watching connections, then
 * published. Who may do what when is state.h's table, checked in shim_move().
 */

#include <signal.h>

#include "broker/lib/file.h"
#include "broker/lib/loop.h"
#include "shim/cgroup.h"
#include "shim/control.h"
#include "shim/journal.h"
#include "shim/process.h"
#include "shim/publisher.h"
#include "shim/requests.h"
#include "shim/runtime.h"
#include "shim/state.h"
#include "shim/streams.h"

#define SHIM_LINGER_MS   30000 /* without task and connection, then it ends */
#define SHIM_ADOPT_MS    5000  /* within which what a runtime left becomes our child */
#define SHIM_DEATH_MS    10000 /* within which a process that got SIGKILL should end */
#define SHIM_DRAIN_MS    2000  /* that delete waits for output, if config does not say */

/* The create, start or delete that is under way: one of the whole container at a time. */
struct operation {
	struct request request; /* without a method: none */
	bool start;             /* of a create */
	bool force;             /* of a delete: the OCI runtime's --force */
	bool has_waited;        /* of a delete: for output, long enough */
	int pid;                /* of a create: init, which is not our child yet */
	bool has_run;           /* the OCI runtime was called */
	enum bus_status status; /* of a create that is being undone */
	char *text;
	/* init does not become our child, or does not die; output does not end */
	struct loop_timer timer;
};

struct shim {
	struct loop *loop;
	struct shim_config config;
	char *rootfs;
	enum state state;
	bool is_cleanup; /* the container is not our child */
	struct journal journal;
	struct runtime runtime;
	struct control control;
	struct publisher publisher;
	struct requests requests;
	struct loop_signals signals;
	struct loop_timer retry; /* of an exit that is not journaled yet */
	struct loop_timer linger;
	struct process init;
	struct processes added;
	struct streaming streaming;
	struct cgroup cgroup;
	struct loop_file lost; /* LOST: init's end is seen by its pidfd */
	struct operation operation;
	bool has_oom;
	unsigned kill_rounds; /* of what init left in its cgroup */
};

/* Takes @config. The mount namespace has been entered. */
int shim_init(struct shim *shim, struct loop *loop, struct shim_config *config, struct why *why);
void shim_deinit(struct shim *shim);

/* The only place that changes the state; one that is not allowed is a bug and ends the process. */
void shim_move(struct shim *shim, enum state next);
/* Ends the process when there is nothing left to do, or arms the timer after which it does. */
void shim_consider_end(struct shim *shim);

/* ---- exits.c ---- */
/* Reaps what has ended. In the midst of create and start only the OCI runtime: init's end comes
 * after them. */
void shim_reap(struct shim *shim);
int shim_watch_signals(struct shim *shim);
/* Init's pid is known: opens its pidfd and finds its cgroup. -ESRCH: there is no such process;
 * -ECHILD: not ours. */
int shim_adopt(struct shim *shim, int pid, uint64_t start_time);
/* LOST: watches init through its pidfd. */
int shim_watch_lost(struct shim *shim);
/* The exit of a container that another shim ran. @pid is gone. */
void shim_note_unknown_exit(struct shim *shim);

/* ---- events.c ---- */
int shim_journal_created(struct shim *shim, const uint8_t id[ID_SIZE]);
int shim_journal_started(struct shim *shim, const uint8_t id[ID_SIZE]);
int shim_journal_oom(struct shim *shim);
int shim_journal_exit(struct shim *shim, const struct process *process);
/* @error "": it can be written again. */
int shim_journal_log(struct shim *shim, const struct process *process, const char *error,
		     uint64_t dropped);
int shim_journal_deleted(struct shim *shim, const uint8_t id[ID_SIZE]);

/* ---- recover.c ---- */
/* Journal entries of an earlier shim. */
int shim_replay(void *userdata, const struct journal_record *record);
/* Looks at what the replay left, and at the world. */
int shim_recover(struct shim *shim, struct why *why);

/* ---- methods.c: what the methods of the whole container share ---- */
static inline bool shim_is_busy(const struct shim *shim)
{
	return shim->operation.request.method;
}
/* False: refused, another operation is under way. */
bool shim_begin(struct shim *shim, const struct call *call);
/* Answers all who wait for the operation; it is over. @is_final: the answer is kept for repeated
 * requests. */
void shim_finish(struct shim *shim, enum bus_status status, const char *text, bool is_final);

/* ---- create.c ---- */
/* Some runtimes leave init to a process of theirs that ends a moment after them (crun run
 * --detach), so init becomes our child a moment later. Tries whether it has; true: it is settled
 * either way. */
bool shim_adopt_created(struct shim *shim);
/* Another shim died in the midst of create: undoes what it left. */
int shim_undo_create(struct shim *shim, const char *reason);

/* ---- kill.c ---- */
/* To init, or to @all of the container. -ESRCH: nobody is left. */
int shim_signal(struct shim *shim, int signal, bool all);

/* ---- delete.c ---- */
/* Init has ended: a delete may go on. */
void shim_delete_goes_on(struct shim *shim);
/* Nothing of what @process wrote is under way any more. */
void shim_streams_drained(struct process *process);

/* ---- the methods of schemas/shim.def ---- */
#define METHOD(service_, name_, request_, reply_, effect_, doc_)                                   \
	void shim_method_##name_(struct shim *shim, const struct request_ *request,                \
				 const struct call *call);
#include "schemas/shim.def"
#include "schemas/end.h"
