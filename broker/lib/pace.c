#include "broker/lib/pace.h"

#include <stdio.h>

bool pace_again(struct pace *pace, uint64_t now_ms, char ret_times[PACE_TIMES])
{
	ret_times[0] = '\0';
	if (pace->said_ms && now_ms - pace->said_ms < PACE_MS) {
		pace->n_unsaid++;
		return false;
	}
	if (pace->n_unsaid)
		snprintf(ret_times, PACE_TIMES, " (and %lu times since that was said last)",
			 pace->n_unsaid);
	*pace = (struct pace){.said_ms = now_ms};
	return true;
}
