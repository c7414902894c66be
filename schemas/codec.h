#pragma once
/* What schema.c, pack.c and unpack.c share: faults, members and the checks that both ways make. */

#include "schemas/schema.h"

/* The generic view of a LIST member. */
struct codec_list {
	void *items;
	size_t count;
};

static inline void *codec_member(const struct schema_field *field, const void *message)
{
	return (char *)message + field->offset;
}

/*
 * A fault is written where it is found, as ".field is missing" or " is not a
 * map", and gets the names of what is around it in front on the way up:
 * "container_create_request.container.id is missing". All return @code, or @r.
 */
int codec_fault_field(struct schema_fault *fault, int code, const struct schema_field *field,
		const char *format, ...) __attribute__((format(printf, 4, 5)));
int codec_fault_message(struct schema_fault *fault, int code, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
int codec_fault_within(struct schema_fault *fault, int r, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

int codec_check_text(const struct schema_field *field, const char *text, size_t size, uint64_t max,
	       struct schema_fault *fault);
int codec_check_size(const struct schema_field *field, size_t size, struct schema_fault *fault);
int codec_check_count(const struct schema_field *field, size_t count, struct schema_fault *fault);
int codec_check_pair(const struct schema_field *field, size_t key, size_t value, struct schema_fault *fault);
int codec_check_number(const struct schema_field *field, uint64_t value, struct schema_fault *fault);
int codec_check_integer(const struct schema_field *field, int64_t value, struct schema_fault *fault);
