/* Allocations as points: see wrapped_memory.h. */

#ifdef DAVIT_POINTS

#include "broker/lib/wrapped_memory.h"

bool memory_fails(void)
{
	if (!point(POINT_MEMORY))
		return false;
	errno = ENOMEM;
	return true;
}

#endif
