#pragma once
/*
 * The task service's own parts. A task is a row of table `tasks` (namespace, container id); what the
 * service holds in memory for it, the connection to its shim, is a struct task_shim. The row is the
 * truth: everything in memory can be built again from rows, bundles and shims.
 *
 * Tables of the store (volatile: under the state directory):
 *	tasks	namespace, container id -> task_record	the live ones
 *	shims	task id -> task_record			each shim that may still run or have something to
 *							publish; outlives its row in `tasks` by the time that
 *							the shim needs to publish the rest
 *	ended	namespace, container id -> task_record	the last task of a container, status DELETED
 *	processes task id, exec id -> task_exec_record	added processes of live and of ended tasks
 */

#include "broker/lib/calls.h"
#include "broker/lib/file.h"
#include "broker/lib/loop.h"
#include "broker/lib/program.h"
#include "services/lib/operation.h"
#include "schemas/filter.h"
#include "services/lib/service.h"
#include "services/task/cgroup_wake.h"
#include "services/task/shim_link.h"

#define TASK_TABLE  "tasks"
#define SHIM_TABLE  "shims"
#define ENDED_TABLE "ended"
#define PROCESS_TABLE "processes"
#define LIVE_TABLE "live" /* of the store under the root */

#define SHIM_PROTOCOL    1
#define SHIM_DEADLINE_MS 60000 /* of a call that nobody gave a deadline */
#define SHIM_HELLO_MS                                                                              \
	5000 /* a shim that says nothing for so long is left as it is and tried again */
#define SHIM_RETRY_MS 1000
#define SHIM_BIRTH_MS                                                                              \
	50 /* a shim that holds its lock and does not listen yet, or does not any more */
#define SHIM_PAUSE_MAX_MS 60000 /* between shims for the clean-up that die themselves */
#define ENDED_MAX         1000  /* rows of `ended` */
#define ENDED_TRIM        100   /* so many of the oldest go when it is full */
#define PROCESSES_MAX     256   /* added ones of a task that are not deleted */
#define PROCESSES_KEPT    64    /* deleted ones of a task that are still known */

/* What is known of the end of the event log, some time ago. */
struct log_end {
	struct bus_call *call; /* NULL: none is under way */
	uint8_t id[ID_SIZE];
	uint64_t next; /* number of the event that comes; 0: not known */
	uint64_t known_ms;
};

struct task_service {
	struct service *service;
	struct loop *loop;
	struct store *store;
	struct cgroup_wake *cgroup_wake;
	struct live *live; /* rows under the root: live.c */
	void *shims;       /* tsearch(3) tree of struct task_shim by task id */
	char *shim_program;
	struct program_cache runtime; /* the OCI runtime that was used last */
	struct forward *forwards;   /* those that wait to be sent again */
	struct missed *missed;      /* exits that are looked for in the event log */
	struct log_end log_end;     /* of the event log: missed.c */
	struct task_watch *watches; /* steps that wait for the end of a process */
	struct loop_timer sweep;    /* of forgotten tasks */
	struct loop_timer fifo_sweep;
	bool is_closing;
};

/* What is known of a shim in memory. Exists as long as its row in `shims`. */
struct task_shim {
	struct task_service *service;
	char task_id[ID_TEXT_SIZE];
	struct shim_link *link;  /* NULL: not connected */
	bool is_ready;           /* it has answered hello and state */
	bool is_cleanup;         /* started after another's death */
	bool has_taken_over;     /* it has got what is held for it */
	bool has_looked;         /* in the event log, for exits that nobody told here */
	bool is_looking;         /* until the log has been read */
	unsigned n_clean_ups;    /* so many were started for that, one soon after another */
	uint64_t clean_up_at_ms; /* not before then again */
	uint64_t ready_at_ms;
	struct loop_child child; /* when it is our child; pidfd -1 otherwise */
	struct loop_timer retry; /* connect again, or look again whether it is gone */
	struct task_held *held;  /* descriptors for the next shim: held.c */
	struct task_waiter *waiters; /* calls that wait until it is ready */
};

/* ---- records (record.c) ---- */
enum {
	_TASK_E_SUCCESS,
	TASK_E_NOT_FOUND,
	TASK_E_STATE,  /* the move is not allowed */
	TASK_E_EXISTS, /* there is a process of this id */
	TASK_E_FULL,   /* PROCESSES_MAX */
	TASK_E_LOCKED, /* a shim lives in the bundle */
};

int task_row(struct task_service *service, const char *namespace, const char *id,
	     struct task_record *ret_record);
int task_put(struct task_service *service, const struct task_record *record);
int task_shim_row(struct task_service *service, const char *task_id,
		  struct task_record *ret_record);
/*
 * The only place that changes a task's status: checks the table of moves and stores the record in
 * `tasks` and `shims`. Inside a transaction. TASK_E_STATE leaves @record as it was.
 */
int task_move(struct task_service *service, struct task_record *record, enum task_status next);
/* Takes the row out of `tasks` and keeps it in `ended`. */
int task_end(struct task_service *service, struct task_record *record);
/* Its shim has deleted it: STOPPED if it was alive, then DELETED. @exit may be NULL. No row is no error. */
int task_note_deleted(struct task_service *service, const char *task_id,
		      const struct exit_record *exit);
/* Keeps the first exit that is known. */
int task_set_exit(struct task_record *record, const struct exit_record *exit);
/* What callers see of a record. */
int task_describe(const struct task_record *record, struct task_process *ret_process);
int task_signal_number(const char *name); /* "SIGTERM", "TERM", "15"; 0: unknown */

/* ---- added processes (added.c) ---- */

/* What is heard of one. */
struct added_report {
	enum task_status status;
	uint64_t pid, start_time, time_ns;
	const struct exit_record *exit;
};

int added_row(struct task_service *service, const char *task_id, const char *exec_id,
	      struct task_exec_record *ret_record);
int added_put(struct task_service *service, const struct task_exec_record *record);
/* TASK_E_EXISTS, TASK_E_FULL. One that is deleted makes room for another of its id. */
int added_add(struct task_service *service, const struct task_exec_record *record);
/* The only place that changes its status. */
int added_move(struct task_service *service, struct task_exec_record *record,
	       enum task_status next);
int added_set_exit(struct task_exec_record *record, const struct exit_record *exit);
/* No row is no error. */
int added_note(struct task_service *service, const char *task_id, const char *exec_id,
	       const struct added_report *report);
int added_drop(struct task_service *service, const char *task_id, const char *exec_id);
/* All of a task, in order of their ids. */
int added_walk(struct task_service *service, const char *task_id, store_walk_fn fn, void *userdata);
/* Their task is deleted. */
int added_end_all(struct task_service *service, const char *task_id);
int added_drop_all(struct task_service *service, const char *task_id);
int added_describe(const struct task_exec_record *record, const struct task_record *task,
		   struct task_process *ret_process);

/* ---- tasks that are deleted (ended.c) ---- */
int ended_row(struct task_service *service, const char *namespace, const char *id,
	      struct task_record *ret_record);
/* In place of the container's last one, which goes with its processes and logs. */
int ended_put(struct task_service *service, const struct task_record *record);
/* Its container is deleted. @uid NULL: whichever it was. */
int ended_forget(struct task_service *service, const char *namespace, const char *id,
		 const char *uid);
/* Those that were forgotten long enough ago go; goes on by itself. */
void ended_sweep(struct task_service *service, uint64_t now_ns);
/* At start: logs of tasks that no row tells of. */
void ended_remove_orphans(struct task_service *service);
/* The live task of the container, or its last one, if that is @task_id. */
int task_any_row(struct task_service *service, const char *namespace, const char *id,
		 const char *task_id, struct task_record *ret_record);
bool task_io_has_log(const struct task_io *io);
/* After the commit; a record without a log is fine. */
int task_log_drop(struct task_service *service, const struct task_record *record);
/* A task that is kept has that log. In a transaction. */
int task_log_has_owner(struct task_service *service, const char *task_id, bool *ret_has);
/* malloc'd */
char *task_log_directory(const struct task_service *service, const char *task_id);

/* ---- fifos.c ---- */
/* Those of @io that lie under the state directory. */
void task_remove_fifos(const struct task_service *service, const struct task_io *io);
/* <state>/fifo/<name>, whoever made it. */
int task_remove_fifo_directory(const struct task_service *service, const char *name,
			       bool *ret_done);
/* Those whose client is dead and that no task names; goes on by itself. */
void task_sweep_fifos(struct task_service *service, uint64_t now_ns);

/* ---- lists (list.c) ---- */
/* One page of a list; the namespace is checked. 0, STORE_E_*, or negative. */
int task_list_page(struct task_service *service, const struct task_list_request *request,
		   const char *namespace, struct filter *filter, struct task_list_reply *reply);

/* ---- shims (shims.c) ---- */
struct task_shim *task_shim_find(struct task_service *service, const char *task_id);
int task_shim_add(struct task_service *service, const char *task_id, struct task_shim **ret_shim);
struct task_shim *task_shim_free(struct task_shim *shim);
/* Forgets all; the shims themselves go on. */
void task_shims_free(struct task_service *service);

/* Writes shim.msgpack and spawns a shim. @lock_fd is the held lock of the bundle (borrowed). */
int task_shim_spawn(struct task_service *service, struct task_shim *shim,
		    const struct shim_config *config, int lock_fd, struct why *why);
/* bundle/lock, held: no shim lives. TASK_E_LOCKED: one does. -ENOENT: there is no bundle. */
int task_shim_lock(const char *bundle, int *ret_fd);
/* What the shim of a bundle was given. -ENOENT, -EBADMSG. */
int task_shim_config(const char *bundle, struct shim_config *ret_config);
/* Takes up what there is of the shim of @record: connects, or starts one for the clean-up. */
void task_shim_take_up(struct task_shim *shim);
/* Calls @fn once the shim is connected and ready (at once if it is), or with a status why not; @shim is then
 * NULL if the task is gone. */
typedef void (*task_shim_ready_fn)(void *userdata, struct task_shim *shim, enum bus_status status,
				   const char *text);
int task_shim_when_ready(struct task_shim *shim, uint64_t deadline_ms, task_shim_ready_fn fn,
			 void *userdata);
/* The shim's death was noticed, by its connection or its end as a child. */
void task_shim_lost(struct task_shim *shim);
/* A shim is started for what a dead one left. 0: one is there. -ENOENT: the bundle is gone. TASK_E_LOCKED: a
 * shim lives, and is being connected to. */
int task_shim_clean_up(struct task_shim *shim, struct why *why);
/* Without a shim, by pidfd; verifies the start time. -ESRCH: it is gone, or was never known. */
int task_kill_directly(uint64_t pid, uint64_t start_time, int signal);
/* Of a journal entry that a shim reports as an event packet. */
void task_shim_on_event(void *userdata, const struct envelope_event *event);
/* At start: all rows of `shims`. */
int task_recover(struct task_service *service);

/* ---- descriptors that outlive a shim (held.c) ---- */
/* A pidfd of a process that runs, if its start time is the given one. @exec_id "": init. */
void held_open(struct task_shim *shim, const char *exec_id, uint64_t pid, uint64_t start_time);
/* Takes @fds; -1: none. */
void held_take(struct task_shim *shim, const char *exec_id, int pidfd, int terminal);
/* The FIFO at @path, if it is there and somebody reads it. */
void held_open_input(struct task_shim *shim, const char *exec_id, const char *path);
void held_close_input(struct task_shim *shim, const char *exec_id);
void held_drop(struct task_shim *shim, const char *exec_id);
void held_drop_all(struct task_shim *shim);
/* Asks for the terminal of a process that has one. */
void held_ask_terminal(struct task_shim *shim, const char *exec_id);
/* Gives all to a shim that took over, one after another, then calls @fn; not if the link ends before. */
void held_give(struct task_shim *shim, void (*fn)(struct task_shim *shim));

/* ---- requests to shims ---- */
/* missed.c: reads from the event log how the processes of @record's task ended, into the records; then calls @fn,
 * unless the service ends first. Not in a transaction. */
typedef void (*missed_fn)(struct task_service *service, const char *task_id);
int missed_look(struct task_service *service, const struct task_record *record, missed_fn fn);
void missed_free_all(struct task_service *service);
/* A task is about to be made: asks for the log's end if what is known of it is not new. */
void missed_note_log_end(struct task_service *service);
/* From where on the events of @record's task, which is being made, are in the log. */
int missed_set_log_end(const struct task_service *service, struct task_record *record);

/* forward.c: asks the shim after the commit, and answers the call. Returns CALL_LATER, or negative. @exec_id "": init. */
typedef int (*task_forward_fn)(struct task_service *service, const struct task_record *record,
			       const char *exec_id, void *reply);
/* What is recorded of it, each in a transaction of its own; all may be NULL, and so may be the notes. */
struct task_forward_notes {
	task_forward_fn asked;  /* the shim is about to be; no @reply */
	task_forward_fn done;   /* before the answer */
	task_forward_fn failed; /* the same; no @reply */
};
int task_forward(struct task_service *service, struct call *call, const struct task_record *record,
		 const char *exec_id, const struct schema_method *method, const void *request,
		 const struct task_forward_notes *notes);
void task_forwards_free(struct task_service *service);

/* steps.c: of a step, which returns what these return. One at a time. @fn ends the step. */
typedef void (*task_step_fn)(struct operation *operation, enum bus_status status, const char *text,
			     void *reply);
int task_step_call(struct operation *operation, const char *task_id,
		   const struct schema_method *method, const void *request, uint64_t deadline_ms,
		   task_step_fn fn);
/* From the callback of another: 0 or negative. */
int task_step_call_now(struct operation *operation, const char *task_id,
		       const struct schema_method *method, const void *request,
		       uint64_t deadline_ms, task_step_fn fn);
/* Ends a step: @r is of the transaction that recorded what the step has led to. Without memory or room the step runs
 * again; for any other reason it fails with these words. */
void task_step_recorded(struct operation *operation, int r, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
/* @fn looks each time a process of the task may have ended, and once when @until_ms is over. */
typedef void (*task_watch_fn)(struct operation *operation, bool is_over);
int task_step_watch(struct operation *operation, const char *task_id, uint64_t until_ms,
		    task_watch_fn fn);
/* In a transaction: a process of the task may have ended. */
void task_changed(struct task_service *service, const char *task_id);

/* ---- task.c ---- */
extern const struct service_definition task_service_definition;
/* Finds the live task, or answers the call and leaves @ret_found false. */
int task_find(struct task_service *service, struct call *call, const char *id,
	      struct task_record *ret_record, bool *ret_found);
int task_find_added(struct task_service *service, struct call *call, const struct task_record *task,
		    const char *exec_id, struct task_exec_record *ret_record, bool *ret_found);
/* The live task of the container, else its last one; @ret_added is filled in when @exec_id names an added process.
 * Answers the call itself when there is none. */
int task_find_any(struct task_service *service, struct call *call, const char *id,
		  const char *exec_id, struct task_record *ret_task,
		  struct task_exec_record *ret_added, bool *ret_found);
/* Another process than init. */
bool task_names_added(const char *id, const char *exec_id);

/* ---- service.c ---- */
int task_service_open(struct service *parent, void **ret_object);
void task_service_ready(void *object);
void task_service_close(void *object);

/* ---- operations ---- */
extern const struct operation_type task_create_operation; /* create.c */
extern const struct operation_type task_exec_operation;   /* exec.c */
extern const struct operation_type task_stop_operation;   /* stop.c */
extern const struct operation_type task_delete_operation; /* delete.c */
extern const struct operation_type task_checkpoint_operation; /* checkpoint.c */

/* ---- auto_remove.c ---- */
/* In a transaction that notes the end of the task: asks container.remove until it has succeeded; the request id is derived
 * from the task's id. -ENOMEM: then that end must be noted again. */
int task_auto_remove(struct task_service *service, const struct task_record *record);

/* ---- a store that was lost (found.c) ---- */
/* At start, before task_recover(): rows of tasks whose bundles are there, if there are no rows at all. */
int found_tasks(struct task_service *service);
/* A shim lists this process: a row if there is none and it has not ended. In a transaction. */
int found_process(struct task_service *service, const char *task_id, const char *exec_id,
		  const struct added_report *report);

/* ---- live.c: one durable row for each live task ---- */
int live_open(struct task_service *service, struct live **ret_live, struct why *why);
struct live *live_close(struct live *live);
/* That task's row of this boot; TASK_E_NOT_FOUND. */
int live_row(struct live *live, const char *task_id, struct task_live_row *ret_row);
/* Lazily: with a commit that comes at most a second later. */
void live_add(struct live *live, const struct task_record *record);
/* At start: rows of this boot are made to agree with the live tasks; a death may have lost the last changes. */
int live_reconcile(struct live *live);
void live_remove(struct live *live, const char *task_id);
/* Its row is about to be written or removed. */
bool live_is_changing(const struct live *live, const char *task_id);
/* For looking into it; what is begun there is to be aborted. */
struct store *live_store(struct live *live);
/* At the first start of a boot: tasks of earlier boots become exits with source unknown, cause reboot. */
int live_reap_earlier_boots(struct live *live);
