#pragma once
/* What stop and restart share. */

#include "tools/command.h"

/*
 * Asks for the stop and waits for it; one that has ended already is fine. @signal NULL: its stop signal. @timeout: the
 * grace period as text, NULL for the service's. An exit code on failure, after saying why.
 */
int control_stop(struct context *context, const char *name, const char *signal,
		 const char *timeout);
