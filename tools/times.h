#pragma once
/* Times and durations as people type them. Pure. */

#include <stdint.h>

/* Go's durations: 1h2m3s, 1.5s, 500ms; a bare number is seconds. -EINVAL. */
int times_parse_duration(const char *text, uint64_t *ret_ms);
/*
 * A moment, ns since 1970: RFC 3339 (2026-01-02T15:04:05.5Z, +02:00; without a zone, or a date alone, local time),
 * seconds since 1970 (1136073845.25), or a duration before @now_ns (10m, 1h30m). -EINVAL.
 */
int times_parse_moment(const char *text, uint64_t now_ns, uint64_t *ret_ns);
