#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "broker/lib/log.h"
#include "broker/lib/utc.h"

/* Not a point (points.h): a line is no step of anything. */
#undef write

#define LINE_SIZE 2048

static const char *log_name = "davit";
static enum log_level log_level = LOG_INFO;

static const char *const level_text[] = {
	[LOG_ERROR] = "error",
	[LOG_WARNING] = "warning",
	[LOG_INFO] = "info",
	[LOG_DEBUG] = "debug",
};

void log_init(const char *name, enum log_level level)
{
	const char *debug = getenv("DAVIT_DEBUG");

	log_name = name;
	log_level = debug && !strcmp(debug, "1") ? LOG_DEBUG : level;
}

bool log_is_on(enum log_level level)
{
	return level <= log_level;
}

/* Writes time, program and level; returns the length. */
static size_t write_head(char *line, size_t size, enum log_level level)
{
	struct timespec now;
	char stamp[UTC_SIZE];
	int n;

	clock_gettime(CLOCK_REALTIME, &now);
	utc_format((uint64_t)now.tv_sec, stamp);
	n = snprintf(line, size, "%s.%03ldZ %s[%d] %s: ", stamp, now.tv_nsec / 1000000, log_name,
		     (int)getpid(), level_text[level]);
	return n < 0 ? 0 : (size_t)n < size ? (size_t)n : size - 1;
}

/*
 * The text may hold what a peer or an image chose: one line must stay one line,
 * and nothing may reach the reader's terminal as a command.
 */
static size_t write_escaped(char *line, size_t size, const char *text)
{
	static const char digits[] = "0123456789abcdef";
	size_t n = 0;

	for (const unsigned char *at = (const unsigned char *)text; *at; at++) {
		if (*at >= 0x20 && *at != 0x7f) {
			if (n + 1 > size)
				break;
			line[n++] = (char)*at;
			continue;
		}
		if (n + 4 > size)
			break;
		line[n++] = '\\';
		line[n++] = 'x';
		line[n++] = digits[*at >> 4];
		line[n++] = digits[*at & 15];
	}
	return n;
}

void log_write(enum log_level level, const char *format, ...)
{
	char text[LINE_SIZE], line[LINE_SIZE];
	int saved = errno;
	va_list arguments;
	size_t n;

	if (!log_is_on(level))
		return;
	va_start(arguments, format);
	if (vsnprintf(text, sizeof(text), format, arguments) < 0)
		text[0] = '\0';
	va_end(arguments);

	n = write_head(line, sizeof(line), level);
	n += write_escaped(line + n, sizeof(line) - 1 - n, text);
	line[n++] = '\n';
	/* Where nobody can read the line there is nobody to tell either. */
	while (write(STDERR_FILENO, line, n) < 0 && errno == EINTR)
		;
	errno = saved;
}
