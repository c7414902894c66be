#pragma once
/*
 * Blocking calls for tools, over sp.h, without nng: one typed function for each
 * METHOD line:
 *
 *	int task_start_ask(struct ask *, const struct task_start_request *, struct task_start_reply *ret_reply);
 *
 * A call repeats its request id after a lost connection and on PENDING, until its
 * deadline, so it takes effect once. Not for processes with a loop.
 */

#include "broker/lib/error.h"
#include "broker/lib/sp.h"
#include "schemas/envelope.h"

struct ask {
	const char *bus_path;	/* borrowed */
	const char *namespace;	/* borrowed; NULL: "default" */
	uint64_t timeout_ms;	/* of each call; 0: ENVELOPE_DEADLINE_DEFAULT */
	struct sp *sp;		/* owned; NULL: not connected */
	enum bus_status status; /* of the last call */
	char text[ENVELOPE_TEXT_MAX + 1]; /* of the last call: a sentence on failure */
	volatile const int *interrupted; /* optional: when it becomes non-zero, a wait ends with BUS_CANCELED */
};
void ask_deinit(struct ask *ask);

/* @ret_reply is set only on success (0). Otherwise ask->status (returned too, positive) and ask->text say why;
 * @ret_reply may be NULL. Negative: errno (memory). @id NULL: a random request id. */
int ask_call(struct ask *ask, const struct schema_method *method, const uint8_t *id, const void *request,
	     void *ret_reply);
/* Untyped: body is one packed value ("" / 0: empty map); @ret_body is malloc'd. */
int ask_raw(struct ask *ask, const char *method, const uint8_t *id, const void *body, size_t size,
	    void **ret_body, size_t *ret_size);

/* clang-format off */
#define METHOD(service_, name_, request_, reply_, effect_, doc_)						\
	static inline __attribute__((unused)) int service_##_##name_##_ask(					\
		struct ask *ask, const struct request_ *request, struct reply_ *ret_reply)			\
	{													\
		return ask_call(ask, schema_find_method(#service_, #name_), NULL, request, ret_reply);		\
	}
/* clang-format on */
#include "schemas/all.def"
#include "schemas/end.h"
