#pragma once
/*
 * A service in a scratch directory without a socket: requests go in as bytes and
 * turns are made by hand, its bus is fake_bus.h, and it can crash at any point.
 */

#include "services/lib/service_private.h"
#include "tests/lib/fake_bus.h"
#include "tests/lib/scratch.h"

#define SERVICE_CASE_ANSWERS 64

/* What one caller got. */
struct service_answer {
	bool is_answered, is_dropped;
	enum bus_status status;
	char text[ENVELOPE_TEXT_MAX + 1];
	void *body;
	size_t size;
};

struct service_case {
	struct scratch scratch;
	const struct service_definition *definition;
	size_t map_size; /* of the store, once it is open; 0: as it is */
	struct loop *loop;
	struct bus *bus;
	struct service *service;
	struct service_answer answers[SERVICE_CASE_ANSWERS];
	size_t n_answers;
};

void service_case_init(struct service_case *test, const struct service_definition *definition);
/* Fails if descriptors are left open. */
int service_case_deinit(struct service_case *test);
void service_case_open(struct service_case *test);
/* What is not committed is lost; callers never hear of it. */
void service_case_crash(struct service_case *test);
/* Callbacks that are due, then the service's turn. */
void service_case_turn(struct service_case *test);

/* A request as it comes from the broker, without a turn. @id NULL: a random one; @deadline_ms 0: in a minute. */
struct service_answer *service_case_send(struct service_case *test, const char *method,
					 const uint8_t *id, uint64_t deadline_ms,
					 const void *request);
/* With a turn; the status, or BUS_PENDING if there is no answer yet. @ret_reply NULL: not wanted. */
enum bus_status service_case_call(struct service_case *test, const char *method, const uint8_t *id,
				  const void *request, void *ret_reply);
/* The text of the answer that came last. */
const char *service_case_text(const struct service_case *test);
