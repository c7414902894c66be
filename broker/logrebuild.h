#pragma once
/* An event log that cannot be read is made again: `davit-broker --rebuild-store`, for `davit store rebuild events`. */

/*
 * What can be read of the log in @directory is kept, the old file set aside. Numbers go on rising: behind the last one if
 * that is known, otherwise at the milliseconds since 1970, which no log has reached; events before are then gone, and
 * readers are told (truncated). Prints what it did; 0, or 1 with a sentence on stderr.
 */
int log_rebuild(const char *directory);
