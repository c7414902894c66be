#pragma once
/* The events of a log, for who makes another store again: `davit-broker --print-events`. */

#include <stdbool.h>
#include <stddef.h>

/*
 * Writes those whose topic begins with one of @topics (n_topics 0: all) to @fd, in order: each its size (u32, as this machine has
 * it) and the packed bus_event, and at the end a size of 0 and a u32: 1 if it does not have all events from number 1 on any
 * more, or none. Who has the log open goes on; one that is damaged gives what can be read of it, and no such end. 0, or
 * negative.
 */
int log_print(const char *directory, char *const *topics, size_t n_topics, int fd);
