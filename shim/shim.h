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
#include "shim/criu.h"
#include "shim/journal.h"
#include "shim/oom.h"
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

/* The create, start, delete, pause … that is under way: one of the whole container at a time. */
struct operation {
	struct request request; /* without a method: none */
	bool start;             /* of a create */
	bool force;             /* of a delete: the OCI runtime's --force */
	bool has_waited;        /* of a delete: for output, long enough */
	int pid;                /* of a create: init, which is not our child yet */
	bool has_run;           /* the OCI runtime was called */
	bool may_have_started;  /* of a create with start: so it is told if it fails */
	enum bus_status status; /* of a create that is being undone */
	char *text; /* of a create: why; of an update: its file; of a checkpoint: where to */
	char *work;              /* of a checkpoint: where criu's log is */
	struct criu_stdio stdio; /* of a checkpoint: what lies outside of the container */
	/* init does not become our child, or does not die; output does not end */
	struct loop_timer timer;
};

/* The OCI runtime's part of a delete that nobody has asked for yet. */
enum early_delete { EARLY_NONE, EARLY_UNDER_WAY, EARLY_DONE };

/* What an earlier shim's journal tells. */
struct replay {
	bool is_started, is_paused, has_oom;
	uint8_t start_id[ID_SIZE]; /* of the request that was to start it */
	bool has_start_id;
	uint8_t create_id[ID_SIZE]; /* of the request to create it */
	bool has_create_id;
	bool create_starts; /* it was to start it too */
	uint8_t kill_id[ID_SIZE]; /* of the last SIGKILL that may not have been sent */
	bool has_kill_id;
	uint8_t state_id[ID_SIZE]; /* of the request to freeze it, or to let it go on */
	bool has_state_id;
};

struct shim {
	struct loop *loop;
	struct shim_config config;
	char *rootfs;
	enum state state;
	bool is_cleanup; /* another shim made the container: init is not our child */
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
	struct oom oom;
	struct operation operation;
	enum early_delete early; /* delete.c */
	struct replay replay;
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
/* Takes note of all that has ended. Init's end comes after those of the others, and after the end
 * of a call that it belongs to. */
void shim_reap(struct shim *shim);
int shim_watch_signals(struct shim *shim);
/* Init's pid is known: opens its pidfd and finds its cgroup. -ESRCH: there is no such process;
 * -ECHILD: not ours. */
int shim_adopt(struct shim *shim, int pid);
/* Its cgroup is there: finds it, and hears of kills for memory. */
int shim_find_cgroup(struct shim *shim);

/* ---- events.c: into the journal, and on to who watches ---- */
int shim_journal_created(struct shim *shim, const uint8_t id[ID_SIZE]);
int shim_journal_started(struct shim *shim, const uint8_t id[ID_SIZE]);
int shim_journal_oom(struct shim *shim);
int shim_journal_exit(struct shim *shim, const struct process *process);
/* @error "": it can be written again. */
int shim_journal_log(struct shim *shim, const struct process *process, const char *error,
		     uint64_t dropped);
int shim_journal_deleted(struct shim *shim, const uint8_t id[ID_SIZE]);
int shim_journal_exec_added(struct process *process, const uint8_t id[ID_SIZE], bool start);
/* Before its OCI runtime is called: the entry's start time is the earliest that the process can have. */
int shim_journal_exec_intent(struct process *process, const uint8_t id[ID_SIZE]);
int shim_journal_exec_started(struct process *process, const uint8_t id[ID_SIZE]);
/* @kind: paused or resumed. @id may be NULL. */
int shim_journal_state(struct shim *shim, enum journal_kind kind, const uint8_t id[ID_SIZE]);
int shim_journal_checkpointed(struct shim *shim, const uint8_t id[ID_SIZE], const char *directory);
/* What is no event. @id and @error may be NULL. */
int shim_journal_process(struct process *process, enum journal_kind kind,
			 const uint8_t id[ID_SIZE], const char *error);

/* ---- oom.c ---- */
/* So many were killed for memory: an event, if that is more than was told. */
int shim_note_oom(struct shim *shim, uint64_t kills);

/* ---- recover.c ---- */
/* Journal entries of an earlier shim. */
int shim_replay(void *userdata, const struct journal_record *record);
/* Looks at what the replay left, and at the world. */
int shim_recover(struct shim *shim, struct why *why);

/* ---- adopt.c ---- */
/* @process was made by an earlier shim: watches it, or looks for how it ended. */
int shim_adopt_process(struct process *process, int pid, uint64_t start_time);
/* Whether the namespace @name ("ns/pid") of @pid is init's, 0 or 1; -ESRCH: one of them has ended, or is ending. */
int shim_compare_namespace(const struct shim *shim, int pid, const char *name);
/* Whether @pid has init's pid and mount namespaces. */
bool shim_is_in_container(const struct shim *shim, int pid);

/* ---- methods.c: what the methods of the whole container share ---- */
/* Init for no name, or the container's; NULL: there is none. */
struct process *shim_find_process(struct shim *shim, const char *exec_id);
/* The same for a request: NULL with @call refused by the process' name. */
struct process *shim_find_asked(struct shim *shim, const char *exec_id, const struct call *call);
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

/* ---- exec.c ---- */
/* What the OCI runtime left of processes that are being made: true if any is settled. */
bool shim_exec_identify(struct shim *shim);
/* Those that wait for their turn, as far as there is room. */
void shim_exec_run_waiting(struct shim *shim);
void shim_exec_fail_waiting(struct shim *shim, const char *text);
size_t shim_exec_count_starting(const struct shim *shim);
/* Nothing that it wrote is under way any more. */
void shim_exec_delete_goes_on(struct process *process);
/* The pid that the OCI runtime has written. */
int shim_exec_read_pid(const struct process *process, int *ret_pid, struct why *why);

/* ---- pause.c ---- */
/* A process is not being made any more, or init has ended. */
void shim_pause_goes_on(struct shim *shim);
/* A frozen process does not even die. */
void shim_thaw_to_die(struct shim *shim);

/* ---- checkpoint.c ---- */
bool shim_is_checkpointing(const struct shim *shim);

/* ---- delete.c ---- */
/* Init has ended: a delete may go on, or begin by itself. */
void shim_delete_begins(struct shim *shim);
void shim_delete_goes_on(struct shim *shim);
/* Nothing of what @process wrote is under way any more. */
void shim_streams_drained(struct process *process);

/* ---- the methods of schemas/shim.def ---- */
#define METHOD(service_, name_, request_, reply_, effect_, doc_)                                   \
	void shim_method_##name_(struct shim *shim, const struct request_ *request,                \
				 const struct call *call);
#include "schemas/shim.def"
#include "schemas/end.h"
