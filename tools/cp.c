/* davit cp: files into a running container and out of it. */

#include <fcntl.h>
#include <string.h>

#include "broker/lib/file.h"
#include "tools/command.h"
#include "tools/copy.h"

struct cp_options {
	bool follow, archive;
};

static int find_pid(struct context *context, const char *name, int *ret_pid)
{
	_cleanup_(task_process_reply_clear) struct task_process_reply reply = {};
	struct task_name_request get = {.container_id = (char *)name};
	int r = task_get_ask(&context->ask, &get, &reply);

	if (r)
		return fail_ask(context, r);
	if (reply.process->exit || !reply.process->pid)
		return fail(context, "container '%s' does not run: its files are not there", name);
	*ret_pid = (int)reply.process->pid;
	return 0;
}

/* A process directory that is held open names one process only; asked again after, the pid is known to have been ours. */
static int open_root(struct context *context, const char *name, int *ret_fd)
{
	_cleanup_(cleanup_fd) int process = -1;
	char path[32];
	int pid, again, code = find_pid(context, name, &pid);

	if (code)
		return code;
	snprintf(path, sizeof(path), "/proc/%d", pid);
	process = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (process < 0)
		return fail(context, "%s: %s", path, strerror(errno));
	code = find_pid(context, name, &again);
	if (code)
		return code;
	*ret_fd = pid == again ? openat(process, "root", O_PATH | O_DIRECTORY | O_CLOEXEC) : -1;
	if (*ret_fd < 0)
		return fail(context, "the root of container '%s': %s", name,
			    pid == again ? strerror(errno) : "it was started anew");
	return 0;
}

static int cp(struct context *context, void *data, char **args, int n_args)
{
	const struct cp_options *options = data;
	const struct copy_options copy = {.follow = options->follow,
					  .keep_owner = options->archive};
	struct copy_tree trees[2] = {{.root = AT_FDCWD}, {.root = AT_FDCWD}};
	_cleanup_(cleanup_fd) int root = -1;
	char *paths[2], *name = NULL;
	struct why why = {};
	int code;

	(void)n_args;
	for (size_t i = 0; i < 2; i++) {
		char *container;

		paths[i] = args[i];
		if (!copy_split(args[i], &container, &paths[i]))
			continue;
		if (name)
			return fail_usage(context, "only one of the two is a container's");
		trees[i].is_container = true;
		name = container;
	}
	if (!name)
		return fail_usage(context, "one of the two is CONTAINER:PATH");
	code = open_root(context, name, &root);
	if (code)
		return code;
	trees[trees[1].is_container].root = root;
	if (copy_path(&trees[0], paths[0], &trees[1], paths[1], &copy, &why))
		return fail(context, "%s", why.text);
	return EXIT_OK;
}

static const struct option_spec cp_options[] = {OPTION(struct cp_options, follow, FLAG,
						       "follow-link", 'L', NULL,
						       "what a link given as the source points to"),
						OPTION(struct cp_options, archive, FLAG, "archive",
						       'a', NULL, "keep owners and set-id bits"),
						{}};

const struct command cp_command = {
	.name = "cp",
	.arguments = "CONTAINER:PATH|PATH CONTAINER:PATH|PATH",
	.summary = "copy files into a running container, or out of it",
	.details =
		"   A directory's own name lands in a directory that is there; dir/. gives what is in it. Links are copied as\n"
		"   links; devices, sockets and FIFOs are left out.",
	.options = cp_options,
	.options_size = sizeof(struct cp_options),
	.min_args = 2,
	.max_args = 2,
	.run = cp,
};
