#pragma once
/*
 * Operations: methods of several steps, each with its undo, that survive a crash.
 *
 * The record (request id, step, packed context) is in the store before the first
 * side effect. A step does one thing, mostly a call to another service with an id
 * derived from the operation's id, the step's name and the attempt: a step that is
 * run again after a crash therefore repeats the same request and gets the same
 * stored reply. When a step fails, the steps before it are undone, last first, and
 * the caller gets the first failure. The same request id joins a running operation.
 * A caller gets PENDING after 10 s and asks again with the same id.
 */

#include "broker/lib/calls.h"
#include "services/lib/service.h"

struct operation;

#define OPERATION_LATER 1 /* of a step: operation_step_done() or operation_step_failed() follows */

struct operation_step {
	const char *name;
	/* 0: done. OPERATION_LATER. operation_fail() returns what a step must return on failure. -ENOMEM: it runs again,
	 * several times, each a while later. Runs inside a transaction; outside effects only by operation_after_commit()
	 * or a bus call (which leaves after the commit). */
	int (*run)(struct operation *operation);
	/* The same rules; NULL: nothing to undo. Also called for a step that failed half-way or was cut by a crash:
	 * must cope with an effect that is not there. */
	int (*undo)(struct operation *operation);
	/* Progress after this step is written to the store at once; otherwise a resumed operation repeats the step
	 * (same derived ids), which saves a commit. */
	bool persist;
};

struct operation_type {
	const char *method;			/* service.method that starts it */
	const struct operation_step *steps;	/* terminated by a NULL name */
	const struct schema_message *(*request)(void);
	const struct schema_message *(*reply)(void);
	const struct schema_message *(*context)(void); /* working state, all fields OPTIONAL; may be schema_empty */
	/* Nothing is stored before the first step that persists (or the first undo), which saves a commit: for
	 * steps whose effects go by themselves when a crash cuts them and nobody asks again with the same id. */
	bool starts_unstored;
	/* Fills in the reply when all steps are done; inside the transaction that ends the operation. -ENOMEM: it is
	 * called again a while later. May be NULL. */
	int (*finish)(struct operation *operation, void *reply);
	/* May be NULL; called outside of a transaction, while a step has returned OPERATION_LATER and is not done. */
	void (*cancelled)(struct operation *operation);	 /* a caller asked it to stop: end the step soon */
	void (*has_secrets)(struct operation *operation); /* operation_lacks_secrets() was true and is no more */
};

/* In a handler: starts the operation, or joins the running one of this request id. Returns CALL_LATER (or negative).
 * @object names what it works on; @exclusive: another operation with the same namespace and object on this service
 * makes it fail with ABORTED (the text names it). */
int operation_start(struct call *call, const struct operation_type *type, const void *request, const char *object, bool exclusive);

void *operation_object(struct operation *operation);	    /* what service_definition.open made */
struct service *operation_service(struct operation *operation);
const void *operation_request(struct operation *operation); /* unpacked request */
void *operation_context(struct operation *operation);	    /* working state; saved with the progress */
const uint8_t *operation_id(struct operation *operation);
const char *operation_namespace(struct operation *operation);
uint64_t operation_deadline(struct operation *operation);
bool operation_is_cancelled(struct operation *operation);
/* SECRET fields of a request are not stored: one that was taken up after a crash lacks them until its caller asks again. */
bool operation_lacks_secrets(struct operation *operation);
/* A place for a step's own run-time data (not saved); freed with @free_fn when the operation ends. */
void operation_set_data(struct operation *operation, void *data, void (*free_fn)(void *));
void *operation_data(struct operation *operation);

/* Options of a bus call made in this step: namespace, parent, deadline, derived id. @what tells several calls of one
 * step apart (NULL: the only one). Valid until the step ends. */
const struct bus_options *operation_call_options(struct operation *operation, const char *what);
int operation_after_commit(struct operation *operation, void (*fn)(struct operation *operation));
/* Calls @method with @request after the commit; on BUS_OK calls @done (inside a transaction) with the reply, whose return value counts as
 * the step's result; on failure the step fails with the callee's status and text. For an undo: NOT_FOUND counts as
 * success. Returns OPERATION_LATER, so that a step can `return operation_call(…)`. */
typedef int (*operation_reply_fn)(struct operation *operation, void *reply);
int operation_call(struct operation *operation, const struct schema_method *method, const char *what, const void *request, operation_reply_fn done);
/* The same for what may be gone already: NOT_FOUND counts as success, @done (may be NULL) is then not called. */
int operation_call_if_any(struct operation *operation, const struct schema_method *method, const char *what, const void *request, operation_reply_fn done);

/* From later callbacks. */
void operation_step_done(struct operation *operation);
/* What the step has led to cannot be recorded for want of memory or room: it runs again a moment later, as after a crash.
 * @text: its failure, if that never helps. */
void operation_step_again(struct operation *operation, const char *text);
void operation_step_failed(struct operation *operation, enum bus_status status, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* In a step: records the failure; returns a value for the step to return. */
int operation_fail(struct operation *operation, enum bus_status status, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Starts an operation of the service's own (recovery, auto_remove) without a caller. The same id never runs twice. */
int operation_start_internal(struct service *service, const struct operation_type *type, const uint8_t id[16],
			     const char *namespace, const void *request, const char *object);

/* Handlers of the methods <service>.operations and <service>.operation_cancel. */
int operation_list(struct service *service, struct call *call, struct operation_list_reply *reply);
int operation_cancel(struct service *service, struct call *call, const struct operation_cancel_request *request);
bool operation_is_any_running(struct service *service, const char *namespace, const char *object);
