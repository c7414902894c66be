#pragma once
/* Limits on children and on what they read: `davit-image --limit NAME=NUMBER`. Pure. */

#include "schemas/messages.h"

/* Zeroes become the defaults of schemas/image.def. */
struct work_limits work_limits_fill(const struct work_limits *limits);
/* NAME=NUMBER words, names as in the schema; 0, SCHEMA_E_* with @fault, or -ENOMEM. */
int work_limits_parse(char *const *words, size_t n_words, struct work_limits *ret_limits,
		      struct schema_fault *fault);
