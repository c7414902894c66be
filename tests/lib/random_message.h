#pragma once
/* Messages with random values, made from their tables: for round trips and for fuzzing's corpora. */

#include <stdint.h>

#include "schemas/schema.h"

/* All messages, ended by NULL. */
extern const struct schema_message *(*const all_messages[])(void);

/* Pseudo-random, the same for the same seed. */
uint64_t random_next(uint64_t *seed);
/* Fills the zeroed @message within its limits; all required fields, some of the optional. */
void random_message(const struct schema_message *schema, void *message, uint64_t *seed);
/* A zeroed message on the heap. */
void *new_message(const struct schema_message *schema);
void free_message(const struct schema_message *schema, void *message);
