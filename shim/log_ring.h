#pragma once
/* The shim's own log lines go to <bundle>/log, which its stderr is: kept below LOG_RING_MAX. */

#define LOG_RING_MAX  65536
#define LOG_RING_KEEP 32768

/* Past the limit, the older half is cut off at a line's start. Only of a regular file. */
void log_ring_trim(int fd);
