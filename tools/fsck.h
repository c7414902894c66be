#pragma once
/* What `davit fsck` sees for itself: processes, clients' FIFOs, the event log. */

#include "tools/command.h"
#include "tools/findings.h"

/* Adds the shims that run. */
int fsck_add_shims(struct context *context, struct facts *facts);
/* A process has it, or something in it, open. */
bool fsck_is_fifo_open(struct context *context, const char *name);
/* Reads the newest events of the log and adds what is wrong. An exit code: the log cannot be read. */
int fsck_add_log(struct context *context, struct facts *facts);
