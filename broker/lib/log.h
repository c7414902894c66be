#pragma once
/*
 * Log lines on stderr: `2026-11-23T22:00:00.123Z davit-task[12] error: text`.
 * The supervisor keeps them. Levels, most severe first. Library code logs at
 * debug only; who handles an error logs it, once, with ids as key=value.
 * A line is one write(2) of at most 2 KiB; control characters are escaped.
 */

#include <stdarg.h>
#include <stdbool.h>

enum log_level { LOG_ERROR, LOG_WARNING, LOG_INFO, LOG_DEBUG };

/* @name stands in each line; @level is the least severe level that is written (LOG_INFO if never
 * called). DAVIT_DEBUG=1 in the environment means LOG_DEBUG. */
void log_init(const char *name, enum log_level level);
bool log_is_on(enum log_level level);
void log_write(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#define log_error(...)   log_write(LOG_ERROR, __VA_ARGS__)
#define log_warning(...) log_write(LOG_WARNING, __VA_ARGS__)
#define log_info(...)    log_write(LOG_INFO, __VA_ARGS__)
#define log_debug(...)   (log_is_on(LOG_DEBUG) ? log_write(LOG_DEBUG, __VA_ARGS__) : (void)0)
