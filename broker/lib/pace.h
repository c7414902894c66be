#pragma once
/* What happens again and again is said at once, and then once a minute with how often it was not. Pure. */

#include <stdbool.h>
#include <stdint.h>

#define PACE_MS    60000
#define PACE_TIMES 64

/* Zeroed: nothing was said. */
struct pace {
	uint64_t said_ms;
	unsigned long n_unsaid;
};

/* It has happened. True: it is to be said now; @ret_times goes behind it: "", or how often it was not said. */
bool pace_again(struct pace *pace, uint64_t now_ms, char ret_times[PACE_TIMES]);
