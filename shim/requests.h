#pragma once
/*
 * Requests that change something: which are under way, and who waits for each. A
 * repeated one (same id) joins the one that runs, or gets the answer again that
 * was given; the same id with another body is refused.
 */

#include <stdbool.h>
#include <stdint.h>

#include "broker/lib/file.h"
#include "shim/answers.h"
#include "shim/control.h"

#define REQUEST_WAITERS 8 /* callers that wait for one request */

struct shim;

struct request {
	const struct schema_method *method; /* NULL: none */
	uint8_t id[ID_SIZE];
	uint32_t body_crc;
	uint64_t deadline_ms; /* 0: none */
	struct call waiters[REQUEST_WAITERS];
	size_t n_waiters;
	bool is_taken_over; /* an earlier shim began it: nobody waits for it yet, and its body is not known */
	struct request *next;
};

struct requests {
	struct request *first; /* under way; borrowed */
	struct answers answers;
	struct schema_buffer spare; /* for one reply when memory is out: what was done is to be answered */
};

/* True: dealt with. */
bool request_is_repeated(struct shim *shim, const struct call *call);
/* @request must stay where it is until request_finish(). */
void request_begin(struct shim *shim, struct request *request, const struct call *call);
/* The same for one that an earlier shim began, and this one ends. */
void request_take_over(struct shim *shim, struct request *request,
		       const struct schema_method *method, const uint8_t id[ID_SIZE]);
/* False: it is the shim's own. */
bool request_has_id(const struct request *request);
/* Answers all who wait, and zeroes @request. @message: the method's reply, with BUS_OK. @is_final:
 * the answer is kept for repeated requests. */
void request_finish(struct shim *shim, struct request *request, enum bus_status status,
		    const char *text, const void *message, bool is_final);
/* Answers @call, which was never under way, and keeps the answer. */
void request_answer(struct shim *shim, const struct call *call, enum bus_status status,
		    const char *text, const void *message);
/* Answers @call and keeps nothing: it had no effect. */
void request_refuse(struct shim *shim, const struct call *call, enum bus_status status,
		    const char *format, ...) __attribute__((format(printf, 4, 5)));
