#include "shim/streams.h"

int streams_open(struct process *process, const struct task_io *io, struct stdio *ret_stdio,
		 struct why *why)
{
	(void)process;
	return stdio_open(io, ret_stdio, why);
}

/* Every stream is zero-copy: nothing is kept, and nothing goes through the shim. */
void streams_started(struct process *process)
{
	(void)process;
}

void streams_process_ended(struct process *process)
{
	(void)process;
}

bool streams_is_drained(const struct process *process)
{
	return !process->streams;
}

void streams_close(struct process *process)
{
	(void)process;
}
