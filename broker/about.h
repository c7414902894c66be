#pragma once
/* bus.*: the broker about the bus and about itself. */

#include "broker/callers.h"

/* From any thread. */
void about_echo(struct caller *caller);
/* On the loop's thread; @caller's method is one of bus. */
void about_handle(struct broker *broker, struct caller *caller);
