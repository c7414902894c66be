#pragma once
/*
 * What the files of a service share, and what its tests drive: a service without
 * a socket takes requests as bytes (service_dispatch) and is turned by hand
 * (service_turn).
 *
 * A turn is a list of jobs (requests, steps of operations, late answers) that run
 * one after the other in nested transactions of one transaction, its commit, and
 * then what waited for the commit: answers first, other effects in their order.
 * Jobs can be run again, when the map was full, until the commit. What a callback
 * did by service_transact() cannot; if such a turn cannot be committed the
 * process ends and starts again from its store.
 */

#include "broker/lib/bus.h"
#include "broker/lib/loop.h"
#include "broker/lib/pace.h"
#include "services/lib/operation.h"
#include "services/lib/service.h"
#include "services/lib/store_private.h"

#define SERVICE_TURN_JOBS     256
#define SERVICE_PENDING_MS    10000 /* a caller waits so long on one connection */
#define SERVICE_NO_ROOM_MS    2000  /* or so long, if the disk is full: it shall know */
#define SERVICE_CALLS_BUCKETS 256
#define SERVICE_EXIT_RESTART  75 /* for the supervisor: start it again */

#define REPLY_KEPT_MS  600000 /* after the request's deadline */
#define REPLY_MAX      100000
#define REPLY_BODY_MAX (SCHEMA_MESSAGE_MAX - 4096)

/* ---- jobs and effects (turn.c) ---- */

struct job {
	struct job *next;
	/* In its own nested transactions (service_begin, service_end); may leave nothing half done.
	 * 0; JOB_GONE: it freed itself; STORE_E_FULL: again when there is room. */
	int (*run)(struct service *service, struct job *job);
	/* The turn was not committed and cannot be (the disk is full): settle it without the store. */
	void (*refuse)(struct service *service, struct job *job, int r);
	/* The turn was not committed: it will be run again. May be NULL. */
	void (*again)(struct job *job);
	/* Its turn is committed. */
	void (*done)(struct service *service, struct job *job);
};
#define JOB_GONE 100

struct job_list {
	struct job *first, **last;
};

struct effect {
	struct effect *next;
	void (*fn)(void *userdata);
	void (*free_fn)(void *userdata);
	void *userdata;
};

struct effect_list {
	struct effect *first, **last;
};

/* ---- calls (call.c) ---- */

typedef void (*service_answer_fn)(void *userdata, const void *reply, size_t size);

/* One connection on which somebody waits for the answer. */
struct waiter {
	struct waiter *next;
	service_answer_fn fn;
	void *userdata;
	uint64_t since_ms;
};

struct call {
	struct job job;
	struct service *service;
	struct call *next; /* in service->calls, while it is later */
	bool is_later;
	struct waiter *waiters;

	uint8_t id[16];
	uint64_t deadline_ms;
	char *namespace;
	char *method_name;
	uint32_t uid;
	struct schema_bytes body; /* of the request */
	const struct schema_method *method;
	service_handler_fn handler;
	bool is_hashed;
	uint8_t hash[16];

	struct operation *operation; /* that it started */
	/* The answer so far. */
	bool is_failed;
	enum bus_status status;
	char text[ENVELOPE_TEXT_MAX + 1];
	struct schema_buffer reply;
};

int service_dispatch(struct service *service, const void *data, size_t size, service_answer_fn fn,
		     void *userdata);
/* A call that nobody waits for: of a resumed operation, or of the service's own. @hash may be NULL. */
int call_new_silent(struct service *service, const char *method, const uint8_t id[16],
		    const char *namespace, uint64_t deadline_ms, const uint8_t *hash,
		    struct call **ret_call);
struct call *call_free(struct call *call);
void call_freep(struct call **call);
void call_make_later(struct call *call);
struct call *call_find_later(struct service *service, const uint8_t id[16]);
/* In a transaction: stores the answer that is in @call (if @is_stored) and sends it after the commit. */
int call_settle(struct call *call, bool is_stored);
int call_set_reply(struct call *call, const struct schema_message *schema, const void *reply);
void call_set_status(struct call *call, enum bus_status status, const char *text);
void calls_free(struct service *service);

/* ---- stored replies (reply.c); inside a transaction ---- */
enum {
	_REPLY_E_SUCCESS,
	REPLY_E_NOT_FOUND,
	REPLY_E_OTHER, /* the id belongs to another request */
	REPLY_E_DAMAGED = 100,
};
/* -ENOMEM: it is not known. */
int reply_hash(const struct call *call, uint8_t hash[16]);
/* REPLY_E_*, STORE_E_FULL, STORE_E_NO_SPACE or negative. */
int reply_find(struct service *service, const struct call *call, struct reply_record *ret_record);
int reply_put(struct service *service, const struct call *call, bool is_running);
int reply_delete(struct service *service, const uint8_t id[16]);
/* Removes up to @max that have expired. */
int reply_trim(struct service *service, unsigned max);
/* At the first start in a boot: all are expired but those of operations. */
int reply_forget_other_boots(struct service *service);

/* ---- outbox (outbox.c) ---- */
struct outbox {
	uint8_t publisher[16];
	uint64_t next_seq;  /* of the next event, uncommitted ones included */
	uint64_t mark;      /* next_seq when the nested transaction began */
	uint64_t committed; /* next_seq in the store */
	uint64_t first;     /* rows before it are deleted */
	uint64_t acked;     /* rows before it are in the broker's log */
	uint64_t sent;      /* end of the batch in flight */
	bool is_sending;
	bool is_started;
	unsigned n_failures;
	struct bus_call *call;
	struct loop_timer retry; /* after a failure */
	struct loop_timer tidy;  /* rows that no commit took along */
};
int outbox_open(struct service *service);
void outbox_flush(struct service *service);
/* In the turn's transaction, before its commit. */
int outbox_before_commit(struct service *service);
uint64_t outbox_size(const struct service *service);
void outbox_close(struct service *service);

/* ---- registration (register.c) ---- */
struct registration;
/* Registers for ever; the first success calls @fn. */
int registration_new(struct service *service, const char *address,
		     void (*fn)(struct service *service), struct registration **ret_registration);
/* Tells the broker that no new request is wanted; @fn when it knows (or cannot be told). */
void registration_drain(struct registration *registration, void (*fn)(struct service *service));
struct registration *registration_free(struct registration *registration);

/* ---- operations (operation.c) ---- */
struct operation_list {
	struct operation *first;
	size_t count;
};
/* Takes up what the store has; the steps go on with operations_resume(). */
int operations_open(struct service *service);
void operations_resume(struct service *service);
/* The caller has asked again: its request has what the store has not. */
int operation_rejoin(struct operation *operation, const struct schema_bytes *body);
void operations_close(struct service *service);

/* ---- the service (service.c) ---- */
struct service {
	const struct service_definition *definition;
	struct paths paths;
	struct loop *loop;
	struct bus *bus;
	struct store *store;
	void *object;
	bool is_object_open;
	bool is_fresh_boot;

	/* the turn */
	struct job_list queue;               /* to run */
	struct job_list done;                /* run in this turn */
	struct job_list stalled;             /* again in a second */
	struct effect_list answers, effects; /* wait for the commit */
	struct effect_list ready;            /* are committed */
	struct effect *answers_mark, *effects_mark;
	bool is_unrepeatable;
	bool is_turning;
	struct loop_timer kick;  /* to the next turn */
	struct loop_timer stall; /* what is stalled runs again; turns in between do not put it off */

	struct call *calls[SERVICE_CALLS_BUCKETS]; /* later ones */
	size_t n_calls;
	struct loop_timer calls_timer;
	struct pace refusals; /* of turns that could not be committed */
	uint64_t no_room_ms; /* when a turn could not be committed for lack of room on the disk; 0: never */

	struct outbox outbox;
	struct operation_list operations;
	struct registration *registration;
	struct loop_timer readers_timer;

	bool is_draining, is_drained;

	uint64_t started_at_ns;
	uint64_t n_requests;
	uint64_t n_children;
	struct work *work; /* children */
};

/* Store, object and operations, no socket: what service_main() and the tests make. @paths is taken. @bus is borrowed. */
int service_open(const struct service_definition *definition, struct loop *loop, struct bus *bus,
		 struct paths *paths, struct service **ret_service, struct why *why);
/* Operations go on and the outbox is published from here on. */
void service_start(struct service *service);
/* As after SIGKILL, but tidy in memory: what is not committed is lost. */
struct service *service_close(struct service *service);

/* ---- turn.c ---- */
void job_list_init(struct job_list *list);
void job_list_add(struct job_list *list, struct job *job);
struct job *job_list_take(struct job_list *list);
void effect_list_init(struct effect_list *list);
void effect_list_drop(struct effect_list *list);

void service_queue(struct service *service, struct job *job);
/* Runs what is queued, commits, tells. */
void service_turn(struct service *service);
/* A nested transaction; undone with what was emitted and deferred in it when not kept. */
int service_begin(struct service *service);
int service_end(struct service *service, bool keep);
int service_add_answer(struct service *service, void (*fn)(void *userdata),
		       void (*free_fn)(void *userdata), void *userdata);
/* A store that cannot be trusted any more: the supervisor starts the process again. */
void service_die(struct service *service, int r) __attribute__((noreturn));

/* ---- work.c ---- */
void work_kill_all(struct service *service);
