/* See launch.h. */

#include "tools/launch.h"

#include "broker/lib/file.h"

int launch_write_pid(struct context *context, const char *path, uint64_t pid)
{
	struct why why = {};
	char text[24];
	int n = snprintf(text, sizeof(text), "%llu", (unsigned long long)pid);

	if (path && file_write(path, text, (size_t)n, 0644, false, &why))
		return fail(context, "--pid-file: %s", why.text);
	return 0;
}

static int ask(struct context *context, const struct launch *launch, uint64_t *ret_pid,
	       char **ret_task_id)
{
	return launch->ask(context, launch->request, ret_pid, ret_task_id)
		       ?: launch_write_pid(context, launch->pid_file, *ret_pid);
}

static int launch_detached(struct context *context, const struct launch *launch)
{
	const struct io_options *io = launch->process.io;
	_cleanup_(cleanup_free) char *task_id = NULL;
	uint64_t pid = 0;
	int code = io_options_detached(context, io, launch->name, launch->process.terminal,
				       launch->log_by_default, launch->io)
			   ?: ask(context, launch, &pid, &task_id);

	io_options_release(io, *launch->io);
	return code;
}

int launch(struct context *context, const struct launch *launch)
{
	_cleanup_(foreground_freep) struct foreground *foreground = NULL;
	_cleanup_(cleanup_free) char *task_id = NULL;
	uint64_t pid = 0;
	int code;

	if (launch->process.io->detach)
		return launch_detached(context, launch);
	code = foreground_new(context, &launch->process, &foreground)
		       ?: foreground_io(foreground, launch->io) ?: ask(context, launch, &pid, &task_id);
	return code ?: foreground_run(foreground, pid, NULL, task_id, false);
}
