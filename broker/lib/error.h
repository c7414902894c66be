#pragma once
/*
 * How functions fail.
 *
 * 0 is success. A positive value is a code of the callee's module, declared in
 * its header as MODULE_E_*; callers handle each by name. A negative value is an
 * errno that nobody is expected to handle: it is raised with error_origin(),
 * passed on with error_trace(), and an unexpected positive code becomes
 * -ENOTRECOVERABLE with error_fold(). Each of the three logs its place at debug
 * level, which gives a back-trace without a debugger.
 */

#include <errno.h>
#include <stddef.h>

#include "broker/lib/cleanup.h"

/* Logs the place at debug level and returns @r. @what: the failing expression, or NULL. */
int error_at(int r, const char *what, const char *file, int line, const char *function);

static inline int error_trace_at(int r, const char *file, int line, const char *function)
{
	return r < 0 ? error_at(r, NULL, file, line, function) : r;
}

static inline int error_fold_at(int r, const char *what, const char *file, int line,
				const char *function)
{
	if (r > 0)
		return error_at(-ENOTRECOVERABLE, what, file, line, function);
	return error_trace_at(r, file, line, function);
}

#define error_origin(r) error_at((r), #r, __FILE__, __LINE__, __func__)
#define error_trace(r)  error_trace_at((r), __FILE__, __LINE__, __func__)
#define error_fold(r)   error_fold_at((r), #r, __FILE__, __LINE__, __func__)

/*
 * A sentence for people about why something failed, made where the object's
 * name is known. Never allocates; a NULL `struct why *` is allowed everywhere.
 */
#define WHY_SIZE 512
struct why {
	char text[WHY_SIZE];
};

/* Writes the sentence (the first one wins: later calls add nothing) and returns @r. One that is too
 * long is cut between two UTF-8 characters. */
int why_set(struct why *why, int r, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* As why_set(), with ": " and strerror(-r) behind it; @r must be negative. */
int why_errno(struct why *why, int r, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
/* Puts "<format>: " in front of what is there, or "<format>" where nothing is. Returns @r. */
int why_prefix(struct why *why, int r, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
