/* See signals.h. */

#include "tools/signals.h"

#include <ctype.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#define SIGNAL_MAX 64
/* The kernel's numbers: libc keeps the first two for itself, a container's libc may not. */
#define KERNEL_RTMIN 34

static int parse_number(const char *text, uint64_t max, uint64_t *ret_number)
{
	char *end;
	unsigned long number;

	if (!isdigit((unsigned char)*text))
		return -EINVAL;
	number = strtoul(text, &end, 10);
	if (*end || number > max)
		return -EINVAL;
	*ret_number = number;
	return 0;
}

static int parse_real_time(const char *text, uint64_t *ret_number)
{
	uint64_t offset = 0;

	if (!strncasecmp(text, "RTMIN", 5)) {
		if (text[5] &&
		    (text[5] != '+' || parse_number(text + 6, SIGNAL_MAX - KERNEL_RTMIN, &offset)))
			return -EINVAL;
		*ret_number = KERNEL_RTMIN + offset;
		return 0;
	}
	if (strncasecmp(text, "RTMAX", 5) ||
	    (text[5] &&
	     (text[5] != '-' || parse_number(text + 6, SIGNAL_MAX - KERNEL_RTMIN, &offset))))
		return -EINVAL;
	*ret_number = SIGNAL_MAX - offset;
	return 0;
}

int signals_parse(const char *text, uint64_t *ret_number)
{
	if (!parse_number(text, SIGNAL_MAX, ret_number))
		return *ret_number ? 0 : -EINVAL;
	if (!strncasecmp(text, "SIG", 3))
		text += 3;
	for (int i = 1; i < 32; i++) {
		if (sigabbrev_np(i) && !strcasecmp(sigabbrev_np(i), text)) {
			*ret_number = (uint64_t)i;
			return 0;
		}
	}
	return parse_real_time(text, ret_number);
}
