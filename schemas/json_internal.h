#pragma once
/* What the JSON files share among themselves. */

#include <jansson.h>
#include <msgpack.h>

#include "schemas/schema.h"

/* Writes "<message>.<key> <format>" and returns @code. */
int json_fail(struct schema_fault *fault, int code, const struct schema_message *schema,
	      const char *key, const char *format, ...) __attribute__((format(printf, 5, 6)));
/* Lower-case hex. */
json_t *json_hex(const void *data, size_t size);
/* An integer, or decimal text beyond 63 bits. */
json_t *json_unsigned(uint64_t value);
/* For msgpack_packer_init() with a struct schema_buffer. */
int json_write_buffer(void *data, const char *bytes, size_t size);
/* One value; @depth: containers around it. -ENOMEM, or SCHEMA_E_LIMIT when nested too deep. */
int json_write_msgpack(const json_t *json, msgpack_packer *packer, unsigned depth);
