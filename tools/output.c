/* See output.h. */

#include "tools/output.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/lib/cleanup.h"
#include "broker/lib/loop.h"
#include "broker/lib/utc.h"
#include "schemas/schema.h"

static void add_cell(struct table *table, const char *text)
{
	char **cell = schema_list_grow((void **)&table->cells, &table->n_cells, sizeof(char *));

	if (cell)
		*cell = strdup(text ?: "");
}

void table_init(struct table *table, const char *column, ...)
{
	va_list args;

	*table = (struct table){};
	va_start(args, column);
	for (const char *name = column; name; name = va_arg(args, const char *)) {
		add_cell(table, name);
		table->n_columns++;
	}
	va_end(args);
}

void table_add(struct table *table, const char *cell, ...)
{
	va_list args;

	va_start(args, cell);
	for (size_t i = 0; i < table->n_columns; i++)
		add_cell(table, i ? va_arg(args, const char *) : cell);
	va_end(args);
}

static size_t column_width(const struct table *table, size_t column)
{
	size_t width = 0;

	for (size_t i = column; i < table->n_cells; i += table->n_columns) {
		size_t n = table->cells[i] ? strlen(table->cells[i]) : 0;

		width = n > width ? n : width;
	}
	return width;
}

void table_print(const struct table *table)
{
	_cleanup_(cleanup_free) int *widths = calloc(table->n_columns + 1, sizeof(*widths));

	for (size_t i = 0; widths && i < table->n_columns; i++)
		widths[i] = (int)column_width(table, i);
	for (size_t i = 0; i < table->n_cells; i++) {
		size_t column = i % table->n_columns;

		if (column + 1 == table->n_columns)
			printf("%s\n", table->cells[i] ?: "");
		else
			printf("%-*s    ", widths ? widths[column] : 0, table->cells[i] ?: "");
	}
}

void table_clear(struct table *table)
{
	for (size_t i = 0; i < table->n_cells; i++)
		free(table->cells[i]);
	free(table->cells);
	*table = (struct table){};
}

int output_parse(const char *format, bool quiet, enum output_format *ret_format)
{
	if (!format || !strcmp(format, "table"))
		*ret_format = quiet ? OUTPUT_QUIET : OUTPUT_TABLE;
	else if (!strcmp(format, "json"))
		*ret_format = OUTPUT_JSON;
	else
		return -1;
	return 0;
}

void output_json(json_t *json)
{
	if (json)
		json_dumpf(json, stdout, JSON_INDENT(2) | JSON_ENCODE_ANY);
	putchar('\n');
	json_decref(json);
}

void output_age(uint64_t time_ns, char text[32])
{
	uint64_t now = time_real_ns(), seconds = now > time_ns ? (now - time_ns) / 1000000000 : 0;

	if (!time_ns)
		snprintf(text, 32, "-");
	else if (seconds < 60)
		snprintf(text, 32, "%llus ago", (unsigned long long)seconds);
	else if (seconds < 3600)
		snprintf(text, 32, "%llum ago", (unsigned long long)seconds / 60);
	else if (seconds < 48 * 3600)
		snprintf(text, 32, "%lluh ago", (unsigned long long)seconds / 3600);
	else
		snprintf(text, 32, "%llud ago", (unsigned long long)seconds / 86400);
}

void output_time(uint64_t time_ns, char text[40])
{
	char stamp[UTC_SIZE];

	utc_format(time_ns / 1000000000, stamp);
	snprintf(text, 40, "%s.%06lluZ", stamp, (unsigned long long)(time_ns % 1000000000) / 1000);
}

void output_size(uint64_t size, char text[32])
{
	static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
	double value = (double)size;
	size_t unit = 0;

	while (value >= 1024 && unit + 1 < sizeof(units) / sizeof(units[0])) {
		value /= 1024;
		unit++;
	}
	snprintf(text, 32, "%.1f %s", value, units[unit]);
}
