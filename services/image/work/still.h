#pragma once
/*
 * How long this process has waited for the other end of a stream. Whoever may block on one
 * says so around each such call; the thread that watches the channel looks at it, and tells.
 */

#include <stdbool.h>
#include <stdint.h>

#define STILL_LOOK_MS 500  /* between two looks */
#define STILL_MIN_MS  1000 /* a shorter stop is none */

/* Around a call that may block on the other end; in one thread at a time. */
void still_begin(void);
void still_end(void);
/* Since when it has waited, as CLOCK_BOOTTIME; 0: it does not. */
uint64_t still_since(void);

/* Pure: is there something new to tell? @since: of still_since(); *told: what was told last, 0 at first. */
bool still_is_news(uint64_t since, uint64_t now_ms, uint64_t *told);
