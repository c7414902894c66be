#pragma once
/* What commands print: tables for people, JSON and plain ids for scripts. */

#include <stdbool.h>
#include <stdint.h>

#include "schemas/json.h"

enum output_format { OUTPUT_TABLE, OUTPUT_JSON, OUTPUT_QUIET };

/* Rows of text columns, aligned on printing as tabwriter does for ctr: two or more spaces between columns. */
struct table {
	size_t n_columns;
	char **cells;
	size_t n_cells;
};
/* The header's cells, NULL-terminated. */
void table_init(struct table *table, const char *column, ...) __attribute__((sentinel));
/* As many cells as columns. */
void table_add(struct table *table, const char *cell, ...);
void table_print(const struct table *table);
void table_clear(struct table *table);

/* -1: unknown. NULL or "table", "json". */
int output_parse(const char *format, bool quiet, enum output_format *ret_format);
/* Steals @json; prints it and a newline. */
void output_json(json_t *json);
/* Prints "3 minutes ago" forms and RFC 3339 times into @text. */
void output_age(uint64_t time_ns, char text[32]);
void output_time(uint64_t time_ns, char text[40]);
/* 1.2 MiB as ctr prints sizes. */
void output_size(uint64_t size, char text[32]);
