#pragma once
/*
 * containerd's filter syntax, whole, see filter.c:
 * selectors joined by "," must all match; operators == != ~= and presence;
 * quoted fields and values as Go strings, /…/ and |…| for ~=. Several filters
 * are OR-ed; none, or an empty one, matches everything. ~= is a POSIX extended
 * regular expression of at most 256 bytes, repeat counts bounded, no back
 * references, so that no pattern can take unbounded time or memory. Pure.
 */

#include <stdbool.h>

#include "schemas/schema.h"

struct filter;

/* 0, -ENOMEM, or SCHEMA_E_VALUE with @fault naming the position. No more than 64 filters of 4096 bytes. */
int filter_parse(const struct schema_strs *filters, struct filter **ret_filter, struct schema_fault *fault);
struct filter *filter_free(struct filter *filter);
void filter_freep(struct filter **filter);
bool filter_is_empty(const struct filter *filter);

/* Gives the value of field @path (n_path parts) or NULL if absent. The text may lie in @scratch (256 bytes). */
typedef const char *(*filter_field_fn)(void *userdata, const char *const *path, size_t n_path, char *scratch);
bool filter_match(const struct filter *filter, filter_field_fn field, void *userdata);
/* With a message's own fields: `id`, `labels.<key>` (the rest of the path joined by dots), `target.digest` … */
bool filter_match_message(const struct filter *filter, const struct schema_message *schema, const void *message);
