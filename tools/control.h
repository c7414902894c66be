#pragma once
/* What stop and restart share, and what all tell that delete a task. */

#include "tools/command.h"

/*
 * Asks for the stop and waits for it; one that has ended already is fine. @signal NULL: its stop signal. @timeout: the
 * grace period as text, NULL for the service's. An exit code on failure, after saying why.
 */
int control_stop(struct context *context, const char *name, const char *signal,
		 const char *timeout);
/* On stderr what CNI plugins hold of the network of a container that is gone: @pending of the reply, NULL or empty for nothing. */
void control_warn_pending(const char *name, const char *pending);
