/* Waiting for the other end of a stream: see still.h. */

#include <stdatomic.h>

#include "broker/lib/loop.h"
#include "services/image/work/still.h"

static _Atomic uint64_t waits_since;

void still_begin(void)
{
	waits_since = time_boot_ms();
}

void still_end(void)
{
	waits_since = 0;
}

uint64_t still_since(void)
{
	return waits_since;
}

bool still_is_news(uint64_t since, uint64_t now_ms, uint64_t *told)
{
	if (since && now_ms < since + STILL_MIN_MS)
		since = 0;
	if (since == *told)
		return false;
	*told = since;
	return true;
}
