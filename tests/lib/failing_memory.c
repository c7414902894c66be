/* See failing_memory.h. */

#include <errno.h>
#include <stdlib.h>

#include "broker/lib/wrapped_memory.h"
#include "tests/lib/failing_memory.h"

static unsigned left;
static bool has_failed;

void memory_fail_at(unsigned n)
{
	left = n;
	has_failed = false;
}

bool memory_has_failed(void)
{
	return has_failed;
}

bool memory_fails(void)
{
	if (!left || --left)
		return false;
	has_failed = true;
	errno = ENOMEM;
	return true;
}

void *memory_allocate(size_t size)
{
	return malloc(size);
}
