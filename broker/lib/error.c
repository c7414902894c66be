#include <stdarg.h>
#include <string.h>

#include "broker/lib/error.h"
#include "broker/lib/log.h"

/* strerror(3) without its buffer and its locale. */
static const char *errno_text(int error)
{
	const char *text = strerrordesc_np(error);

	return text ? text : "unknown error";
}

int error_at(int r, const char *what, const char *file, int line, const char *function)
{
	int saved = errno;

	if (what)
		log_debug("error: %s in %s (%s:%d): %s", what, function, file, line,
			  errno_text(r < 0 ? -r : r));
	else
		log_debug("  from %s (%s:%d)", function, file, line);
	errno = saved;
	return r;
}

/*
 * Takes away a UTF-8 character that was cut in two at the end: the text goes
 * into messages whose strings must be valid.
 */
static void trim_cut_character(char *text, size_t size)
{
	size_t start = size, need = 1;

	while (start > 0 && size - start < 4 && ((unsigned char)text[start - 1] & 0xc0) == 0x80)
		start--;
	if (!start)
		return;
	start--;
	if (((unsigned char)text[start] & 0xe0) == 0xc0)
		need = 2;
	else if (((unsigned char)text[start] & 0xf0) == 0xe0)
		need = 3;
	else if (((unsigned char)text[start] & 0xf8) == 0xf0)
		need = 4;
	if (size - start < need)
		text[start] = '\0';
}

/* Appends at @used; returns the new length. */
static size_t append(struct why *why, size_t used, const char *format, va_list arguments)
{
	int n;

	n = vsnprintf(why->text + used, sizeof(why->text) - used, format, arguments);
	if (n < 0) {
		why->text[used] = '\0';
		return used;
	}
	used += (size_t)n;
	if (used < sizeof(why->text))
		return used;
	trim_cut_character(why->text, sizeof(why->text) - 1);
	return strlen(why->text);
}

static size_t append_text(struct why *why, size_t used, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	used = append(why, used, format, arguments);
	va_end(arguments);
	return used;
}

int why_set(struct why *why, int r, const char *format, ...)
{
	va_list arguments;

	if (!why || why->text[0])
		return r;
	va_start(arguments, format);
	append(why, 0, format, arguments);
	va_end(arguments);
	return r;
}

int why_errno(struct why *why, int r, const char *format, ...)
{
	va_list arguments;
	size_t used;

	if (!why || why->text[0])
		return r;
	va_start(arguments, format);
	used = append(why, 0, format, arguments);
	va_end(arguments);
	append_text(why, used, ": %s", errno_text(-r));
	return r;
}

int why_prefix(struct why *why, int r, const char *format, ...)
{
	struct why behind;
	va_list arguments;
	size_t used;

	if (!why)
		return r;
	behind = *why;
	va_start(arguments, format);
	used = append(why, 0, format, arguments);
	va_end(arguments);
	if (behind.text[0])
		append_text(why, used, ": %s", behind.text);
	return r;
}
