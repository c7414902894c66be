#pragma once
/*
 * The streams of one process, from before the OCI runtime makes it until it is
 * deleted. What is kept open meanwhile hangs at process->streams.
 */

#include <stdbool.h>

#include "broker/lib/error.h"
#include "schemas/messages.h"
#include "shim/process.h"
#include "shim/stdio.h"

/* Before the OCI runtime: what it is given. @io may be NULL. */
int streams_open(struct process *process, const struct task_io *io, struct stdio *ret_stdio,
		 struct why *why);
/* The process exists; the descriptors of streams_open() are closed. */
void streams_started(struct process *process);
/* Its exit is in the journal. */
void streams_process_ended(struct process *process);
/* Nothing that it wrote is still under way. When that becomes so after its end,
 * shim_streams_drained() is called (shim.h). */
bool streams_is_drained(const struct process *process);
/* Closes all; what is not drained is lost. Safe on one that was never opened. */
void streams_close(struct process *process);
