/* davit tasks checkpoint. */

#include "tools/checkpoint.h"

#include <string.h>

#include "broker/lib/file.h"

struct checkpoint_options {
	bool exit;
	char *image_path, *work_path;
};

int checkpoint_path(struct context *context, const char *path, char **ret_path)
{
	_cleanup_(cleanup_free) char *here = NULL;

	if (!path)
		return 0;
	here = *path == '/' ? NULL : getcwd(NULL, 0);
	*ret_path = *path == '/' ? strdup(path) : text_format("%s/%s", here ?: ".", path);
	return *ret_path ? 0 : fail(context, "out of memory");
}

static int checkpoint(struct context *context, void *data, char **args, int n_args)
{
	const struct checkpoint_options *options = data;
	_cleanup_(task_checkpoint_request_clear) struct task_checkpoint_request request = {};
	_cleanup_(task_checkpoint_reply_clear) struct task_checkpoint_reply reply = {};
	int code = checkpoint_path(context, options->image_path, &request.image_path)
			   ?: checkpoint_path(context, options->work_path, &request.work_path),
	    r;

	(void)n_args;
	if (!code && schema_set(&request.container_id, args[0]))
		code = fail(context, "out of memory");
	if (code)
		return code;
	request.exit = options->exit;
	r = task_checkpoint_ask(&context->ask, &request, &reply);
	if (r)
		return fail_ask(context, r);
	if (!options->image_path && reply.directory)
		puts(reply.directory);
	return EXIT_OK;
}

static const struct option_spec checkpoint_options[] = {
	OPTION(struct checkpoint_options, exit, FLAG, "exit", 0, NULL,
	       "end the container after the checkpoint"),
	OPTION(struct checkpoint_options, image_path, TEXT, "image-path", 0, "DIR",
	       "directory for criu's image files (default: one of davit's, whose name is printed)"),
	OPTION(struct checkpoint_options, work_path, TEXT, "work-path", 0, "DIR",
	       "directory for criu's logs"),
	{}};

const struct command checkpoint_command = {
	.name = "checkpoint",
	.arguments = "CONTAINER",
	.summary = "checkpoint a running container with criu",
	.details =
		"   `davit run --checkpoint DIR` restores it. Where criu is missing or cannot do it the container runs on.",
	.options = checkpoint_options,
	.options_size = sizeof(struct checkpoint_options),
	.min_args = 1,
	.max_args = 1,
	.run = checkpoint,
};
