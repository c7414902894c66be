#pragma once
/* bus.*: the broker about the bus and about itself. */

#include "broker/callers.h"

/* On the loop's thread; @caller's method is one of bus. */
void about_handle(struct broker *broker, struct caller *caller);
