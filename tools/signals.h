#pragma once
/* Names of signals, as people type them. Pure. */

#include <stdint.h>

/* TERM, SIGTERM, sigterm, RTMIN+3, 15. -EINVAL. */
int signals_parse(const char *text, uint64_t *ret_number);
