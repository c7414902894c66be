/* See codec.h. */

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "schemas/codec.h"

/* ---- faults -------------------------------------------------------------- */

int codec_fault_field(struct schema_fault *fault, int code, const struct schema_field *field,
		      const char *format, ...)
{
	char text[128];
	va_list args;

	if (!fault)
		return code;
	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	snprintf(fault->text, sizeof(fault->text), ".%s %s", field->name, text);
	return code;
}

int codec_fault_message(struct schema_fault *fault, int code, const char *format, ...)
{
	va_list args;

	if (!fault)
		return code;
	fault->text[0] = ' ';
	va_start(args, format);
	vsnprintf(fault->text + 1, sizeof(fault->text) - 1, format, args);
	va_end(args);
	return code;
}

int codec_fault_within(struct schema_fault *fault, int r, const char *format, ...)
{
	char inner[SCHEMA_FAULT_SIZE];
	va_list args;
	size_t size;

	if (r <= 0 || !fault)
		return r;
	memcpy(inner, fault->text, sizeof(inner));
	va_start(args, format);
	vsnprintf(fault->text, sizeof(fault->text), format, args);
	va_end(args);
	size = strlen(fault->text);
	snprintf(fault->text + size, sizeof(fault->text) - size, "%s", inner);
	return r;
}

/* ---- checks on both ways ------------------------------------------------- */

int codec_check_text(const struct schema_field *field, const char *text, size_t size, uint64_t max,
		     struct schema_fault *fault)
{
	if (size > max)
		return codec_fault_field(fault, SCHEMA_E_LIMIT, field, "is longer than %llu bytes",
					 (unsigned long long)max);
	if (!schema_is_text(text, size))
		return codec_fault_field(fault, SCHEMA_E_VALUE, field,
					 "is not UTF-8 text without NUL");
	return 0;
}

int codec_check_size(const struct schema_field *field, size_t size, struct schema_fault *fault)
{
	if (size > field->max)
		return codec_fault_field(fault, SCHEMA_E_LIMIT, field, "is longer than %llu bytes",
					 (unsigned long long)field->max);
	return 0;
}

int codec_check_count(const struct schema_field *field, size_t count, struct schema_fault *fault)
{
	if (count > field->max)
		return codec_fault_field(fault, SCHEMA_E_LIMIT, field, "has more than %llu items",
					 (unsigned long long)field->max);
	return 0;
}

int codec_check_pair(const struct schema_field *field, size_t key, size_t value,
		     struct schema_fault *fault)
{
	if (key + value > SCHEMA_MAP_PAIR_MAX)
		return codec_fault_field(fault, SCHEMA_E_LIMIT, field,
					 "has a pair longer than %d bytes", SCHEMA_MAP_PAIR_MAX);
	return 0;
}

static uint64_t magnitude(int64_t value)
{
	return value < 0 ? 0 - (uint64_t)value : (uint64_t)value;
}

int codec_check_number(const struct schema_field *field, uint64_t value, struct schema_fault *fault)
{
	if (value > field->max)
		return codec_fault_field(fault, SCHEMA_E_LIMIT, field, "is over its limit of %llu",
					 (unsigned long long)field->max);
	return 0;
}

int codec_check_integer(const struct schema_field *field, int64_t value, struct schema_fault *fault)
{
	return codec_check_number(field, magnitude(value), fault);
}
