#pragma once
/* What the files of operations share: operation.c runs the steps, operation_step.c is what a step may
 * use, operation_store.c makes operations and takes them up again. */

#include "services/lib/service_private.h"

#define OPERATION_FAILED 100 /* of a step: operation_fail() has said why */

/* All that a step may change in memory: put back when its transaction, or the turn, is not kept. */
struct operation_snapshot {
	struct schema_buffer record; /* packed, with the context */
	unsigned generation, undo_left, n_outstanding, n_attempts;
	bool is_waiting, is_ended;
};

/* Shared by the service's list, what its steps have started, and its queued jobs. */
struct operation {
	unsigned n_refs;
	struct operation *next;
	struct service *service;
	const struct operation_type *type;
	unsigned n_steps;
	struct operation_record record; /* step, state, error …; context as of the last packing */
	void *request, *context;
	struct call *call;   /* answered at the end */
	bool is_call_silent; /* made here: freed here, if it never was answered */
	bool is_gone;        /* ended, or never committed */
	bool is_ended;       /* ends with this turn */
	bool lacks_secrets;  /* the caller has not asked again since it was taken up */

	/* the step that runs */
	unsigned generation; /* what an earlier step started is not for this one */
	unsigned n_outstanding;
	bool is_waiting;
	enum bus_status fail_status;
	char fail_text[ENVELOPE_TEXT_MAX + 1];
	unsigned undo_left;  /* undoing: so many steps */
	unsigned n_attempts; /* of the step, its undo, or the end */

	struct bus_options options;
	uint8_t derived_id[16];
	void *data;
	void (*data_free)(void *data);
	struct loop_timer retry;
	struct operation_effect *effects; /* that wait for the commit, or for a reply */

	struct job job; /* go on */
	bool is_queued;
	bool has_turn_snapshot;
	struct operation_snapshot before_turn, before_step;
};

/* What a step starts after the commit: a function, or a call. */
struct operation_effect {
	struct operation_effect *next;
	struct operation *operation;
	unsigned generation;
	void (*fn)(struct operation *operation);
	const struct schema_method *method;
	operation_reply_fn done;
	bool may_be_gone; /* NOT_FOUND is success */
	struct schema_buffer request;
	uint8_t id[16];
	uint64_t deadline_ms;
	struct bus_call *call;
};

/* How a step that was waited for has ended. */
struct operation_result {
	struct job job;
	struct operation *operation;
	unsigned generation;
	enum bus_status status;
	char *text;
	struct schema_bytes body;
	struct operation_effect *effect; /* the call; NULL: operation_step_done() */
	bool is_short_of_memory;         /* operation_step_again() */
};

struct operation *operation_ref(struct operation *operation);
struct operation *operation_unref(struct operation *operation);

/* ---- operation.c ---- */
extern const struct job operation_job;
void operation_queue(struct operation *operation);
void operation_queue_result(struct operation *operation, struct operation_effect *effect,
			    enum bus_status status, const char *text, const void *body,
			    size_t size);
static inline bool operation_is_undoing(const struct operation *operation)
{
	return operation->record.state == OPERATION_UNDOING;
}

/* ---- operation_step.c ---- */
struct operation_effect *operation_effect_free(struct operation_effect *effect);

/* ---- operation_store.c ---- */
int operation_put(struct operation *operation);
int operation_pack(struct operation *operation, struct schema_buffer *buffer);
int operation_unpack(struct operation *operation, const struct schema_buffer *buffer);
int operation_delete(struct operation *operation);
/* Out of the service's list, for good. */
void operation_leave(struct operation *operation);
