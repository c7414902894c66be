#pragma once
/*
 * Messages as JSON and back, for the command line, logs and other tools. An
 * archive of its own, so that the shim does not link jansson. BYTES are lower
 * case hex; a RAW value becomes what it holds; ENUMs are their texts.
 */

#include <jansson.h>

#include "schemas/schema.h"

/* NULL when memory is out. Absent strings, items, lists and maps are left out; numbers and booleans are not. */
json_t *json_from_message(const struct schema_message *schema, const void *message);
/* Unknown keys are an error here (a person typed them). 0, -ENOMEM or SCHEMA_E_* with @fault. */
int json_to_message(const struct schema_message *schema, const json_t *json, void *ret_message,
		    struct schema_fault *fault);
/* Any packed msgpack value (scanned first) as JSON; bins as hex. NULL if malformed or memory is out. */
json_t *json_from_msgpack(const void *data, size_t size);
/* Any JSON as one packed msgpack value appended to @buffer; numbers that are whole become integers. */
int json_to_msgpack(const json_t *json, struct schema_buffer *buffer);
/* Hostile JSON text (image manifests, OCI specs): size and depth are bounded, duplicate keys refused, trailing bytes
 * refused. NULL with @fault ("line 3: …") and errno: ENOMEM, or EINVAL. */
json_t *json_parse(const char *text, size_t size, size_t max_size, struct schema_fault *fault);
/*
 * `key=value` words as a person types them, onto a zeroed message: strings as they are, numbers, true
 * and false by the field's kind, lists and maps by repeating (`env=A=1 env=B=2`, `labels.a=b`), nested
 * messages by dots (`container.id=web`), `key:=JSON` for anything.
 */
int json_parse_words(const struct schema_message *schema, char *const *words, size_t n_words,
		     void *ret_message, struct schema_fault *fault);
