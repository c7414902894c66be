#pragma once
/*
 * A container in the foreground: its streams, our signals passed on, its exit
 * awaited. Used by run and tasks start.
 */

#include "tools/command.h"

struct foreground;

/* Makes the streams (none with @null_io) and notes where the event log ends, before anything starts. An exit code, after
 * saying why. @fifo_dir NULL: the state directory's. */
int foreground_new(struct context *context, const char *id, const char *fifo_dir, bool null_io,
		   bool terminal, struct foreground **ret_foreground);
struct foreground *foreground_free(struct foreground *foreground);
void foreground_freep(struct foreground **foreground);
/* A copy of the streams' places for the request; @ret_io stays NULL with null I/O. */
int foreground_io(struct foreground *foreground, struct task_io **ret_io);
/*
 * Task @task_id runs: copies and waits. Returns its exit code. Afterwards its task is deleted; with @until_removed
 * waits until the service has removed the container of @uid.
 */
int foreground_run(struct foreground *foreground, const char *uid, const char *task_id, bool until_removed);
