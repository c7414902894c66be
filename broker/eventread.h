#pragma once
/*
 * event.*: publishing hands a batch to the log's thread; reading walks the log
 * on the loop's thread in small steps, and is the only method of the bus that
 * waits, at most 10 s and never beyond the deadline.
 */

#include "broker/callers.h"

int eventread_new(struct broker *broker, struct eventread **ret_eventread);

/* event.publish: answers when the batch is on disk. */
void eventread_publish(struct broker *broker, struct caller *caller);
/* On the loop's thread: the methods of event. */
void eventread_handle(struct eventread *eventread, struct caller *caller);
/* From the log's thread: there are new events. */
void eventread_advanced(struct eventread *eventread);

size_t eventread_n_waiting(const struct eventread *eventread);
size_t eventread_n_cursors(struct eventread *eventread);
