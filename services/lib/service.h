#pragma once
/*
 * What a service is made of. main.c of a service is one table:
 *
 *	int main(int argc, char *argv[]) { return service_main(argc, argv, &definition); }
 *
 * service_main(): arguments, umask, signals, lock, store, recover, listen,
 * register, readiness ("READY=1\n" on the fd in --ready-fd, and sd_notify's socket),
 * loop, close in reverse. SIGTERM drains.
 *
 * A handler is called within the turn's transaction and returns
 *   0		answered: the reply is filled in, or call_fail() was called
 *   CALL_LATER	it will call call_finish() from a later callback
 *   negative	the service's own failure: the caller sees INTERNAL, the log has the trace
 * A MUTATES method's reply is stored under the request id in the transaction of
 * its effect; a repeated id gets the stored reply without the handler. On error
 * (call_fail() or negative) the handler's changes to the store are undone, and
 * the error is the stored reply (not for UNAVAILABLE, RESOURCE_EXHAUSTED, INTERNAL).
 * A handler has no effect outside the store: what must happen after the commit is
 * handed to call_after_commit(), and it may be run again when the map was full.
 */

#include "broker/lib/bus.h"
#include "broker/lib/paths.h"
#include "services/lib/store.h"

struct service;
struct call;
struct rebuild;

#define CALL_LATER 1

typedef int (*service_handler_fn)(void *object, const void *request, void *reply, struct call *call);

struct service_method {
	const struct schema_method *(*find)(void);
	service_handler_fn handler;
};

struct service_definition {
	const char *program;		       /* davit-container */
	const char *const *names;	       /* registered names, NULL-terminated */
	const struct service_method *methods;  /* made by methods.h; terminated by a NULL find */
	const char *const *tables;	       /* of its store */
	const char *directory;		       /* of its store, beneath the root (or the state, if volatile) */
	bool is_volatile;
	const char *const *more_stores;        /* further ones, beneath the root, NULL-terminated; may be NULL */
	const char *files;		       /* a directory of small files beneath the root, of which a backup has copies; or NULL */
	/* Makes the object that handlers get; the store is open, a turn's transaction is not. Own store and shims only,
	 * no bus call. */
	int (*open)(struct service *service, void **ret_object);
	/* After registration: resume in the background. May be NULL. */
	void (*ready)(void *object);
	/* SIGTERM: finish or stop; call service_drained() when nothing runs any more. NULL: at once. */
	void (*drain)(void *object);
	void (*close)(void *object);
	const struct operation_type *const *operations; /* NULL-terminated; may be NULL */
	/* Its store could not be read and is made again: adds what the world says to what was salvaged (rebuild.h). May be NULL. */
	int (*rebuild)(struct rebuild *rebuild);
};

int service_main(int argc, char *argv[], const struct service_definition *definition);

struct loop *service_loop(struct service *service);
struct bus *service_bus(struct service *service);
struct store *service_store(struct service *service);
const struct paths *service_paths(struct service *service);
void service_drained(struct service *service);
bool service_is_draining(struct service *service);
int service_stats(struct service *service, struct service_stats_reply *reply);
/* Handlers of <service>.quarantine and <service>.quarantine_drop. */
int service_quarantine(struct service *service, struct store_quarantine_reply *reply);
int service_quarantine_drop(struct service *service, struct call *call, const struct store_drop_request *request,
			    struct store_drop_reply *reply);

/* Handler of <service>.store_accept: the store was rebuilt, and somebody says that it is good as it is. After the commit @fn
 * (or NULL) sees to what that lets go; where it fails, the store stays one that was rebuilt. */
int service_accept(struct service *service, struct call *call, struct store_accept_reply *reply,
		   int (*fn)(void *userdata), void *userdata);

/*
 * Runs @fn inside a transaction of its own turn, from any callback (a timer, a child's end, a reply): handlers do not
 * need it. Commits soon after (with the loop's turn); @fn may run again when the map was full. Returns what @fn
 * returned; the nested transaction is aborted when that is not 0.
 */
int service_transact(struct service *service, int (*fn)(void *userdata), void *userdata);
/* After the commit of the turn in which it is called (at once, next round, if no transaction is open). If the nested
 * transaction is aborted, @fn is not called and @free_fn (may be NULL) gets @userdata. */
int service_after_commit(struct service *service, void (*fn)(void *userdata), void (*free_fn)(void *userdata), void *userdata);

/* Puts an event into the outbox, in the same transaction: it is published after the commit, once, in order.
 * @object is for filtering. Too large an event: labels and lists are the caller's to cut. */
int service_emit(struct service *service, const char *namespace, const struct schema_event *event, const char *object, const void *message);

/* ---- a call ---- */
const uint8_t *call_id(const struct call *call);
const char *call_namespace(const struct call *call);
uint64_t call_deadline(const struct call *call); /* CLOCK_BOOTTIME ms */
uint32_t call_uid(const struct call *call);
struct service *call_service(const struct call *call);
/* Answers with an error; returns 0, so that handlers can `return call_fail(…)`. The text is a sentence that names the object. */
int call_fail(struct call *call, enum bus_status status, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* Maps a failure of the store (STORE_E_* or negative) to an answer; for STORE_E_FULL returns it so that the turn is run again. */
int call_fail_store(struct call *call, int r, const char *what);
/* Finishes a CALL_LATER call (NULL reply: an empty one). Takes part in a transaction of its own. */
void call_finish(struct call *call, const void *reply);
void call_finish_fail(struct call *call, enum bus_status status, const char *format, ...) __attribute__((format(printf, 3, 4)));
int call_after_commit(struct call *call, void (*fn)(void *userdata), void (*free_fn)(void *userdata), void *userdata);

/* The namespace of the request, checked (identifier); on failure answers the call and returns NULL. */
const char *call_checked_namespace(struct call *call);
