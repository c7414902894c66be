#pragma once
/*
 * Time as text, in UTC, without the lock that glibc's gmtime_r() takes: a thread
 * that stands still in it would hold up whoever logs.
 */

#include <stdint.h>

#define UTC_SIZE 32

/* "2026-11-23T22:00:00", for @seconds since 1970 up to the year 9999; later ones give that year's end. */
void utc_format(uint64_t seconds, char ret_text[UTC_SIZE]);
