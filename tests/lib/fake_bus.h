#pragma once
/*
 * bus.h without a broker: a test that uses these functions is linked with them in
 * place of the real ones, and answers each call itself.
 */

#include "broker/lib/bus.h"

struct fake_call;

/* The oldest call of @method (NULL: of any) that is neither answered nor cancelled, or NULL. */
struct fake_call *fake_bus_find(struct bus *bus, const char *method);
unsigned fake_bus_count(struct bus *bus);
const char *fake_call_method(const struct fake_call *call);
const char *fake_call_namespace(const struct fake_call *call);
const uint8_t *fake_call_id(const struct fake_call *call);
const void *fake_call_body(const struct fake_call *call, size_t *ret_size);
/* Calls the caller back. @schema NULL: without a body. The call is gone afterwards. */
void fake_call_answer(struct fake_call *call, enum bus_status status, const char *text,
		      const struct schema_message *schema, const void *reply);
