/* davit containers restore: a container is made again, and runs, as its checkpoint image says. */

#include <string.h>

#include "tools/checkpoint_image.h"
#include "tools/io_options.h"

struct restore_options {
	bool rw, live;
};

/* What names the old container in its spec names the new one. */
static void rename_in_spec(json_t *spec, const char *old, const char *new)
{
	json_t *linux_ = json_object_get(spec, "linux");
	const char *path = json_string_value(json_object_get(linux_, "cgroupsPath"));
	const char *name = path ? strrchr(path, '/') : NULL;
	const char *hostname = json_string_value(json_object_get(spec, "hostname"));

	if (name && !strcmp(name + 1, old))
		json_object_set_new(linux_, "cgroupsPath",
				    json_sprintf("%.*s/%s", (int)(name - path), path, new));
	if (hostname && !strcmp(hostname, old))
		json_object_set_new(spec, "hostname", json_string(new));
}

static int run_again(struct context *context, struct container_run_request *request)
{
	static const struct io_options streams;
	int r = io_options_detached(context, &streams, request->id,
				    io_options_spec_has_terminal(request->spec), true,
				    &request->io);

	if (r)
		return r;
	r = container_run_ask(&context->ask, request, NULL);
	return r ? fail_ask(context, r) : EXIT_OK;
}

static int fill_request(struct context *context, const json_t *index, char **args, bool rw,
			struct container_run_request *request)
{
	const char *image = rw ? args[1] : checkpoint_image_note(index, CHECKPOINT_NOTE_IMAGE);
	json_t *spec = NULL;
	int code = checkpoint_image_spec(context, index, &spec);

	if (code)
		return code;
	rename_in_spec(spec, checkpoint_image_note(index, CHECKPOINT_NOTE_ID) ?: "", args[0]);
	request->spec = json_dumps(spec, JSON_COMPACT);
	json_decref(spec);
	if (!request->spec || schema_set(&request->id, args[0]) ||
	    schema_set(&request->image, image) ||
	    schema_set(&request->runtime, checkpoint_image_note(index, CHECKPOINT_NOTE_RUNTIME)) ||
	    schema_set(&request->snapshotter,
		       checkpoint_image_note(index, CHECKPOINT_NOTE_SNAPSHOTTER)))
		return fail(context, "out of memory");
	return 0;
}

static int restore_container(struct context *context, void *data, char **args, int n_args)
{
	_cleanup_(container_run_request_clear) struct container_run_request request = {};
	_cleanup_(checkpoint_files_clear) struct checkpoint_files files = {};
	const struct restore_options *options = data;
	json_t *index = NULL;
	int code;

	(void)n_args;
	if (!context->ask.timeout_ms)
		context->ask.timeout_ms = ENVELOPE_DEADLINE_MAX;
	code = checkpoint_image_read(context, args[1], &index)
		       ?: fill_request(context, index, args, options->rw, &request);
	json_decref(index);
	if (!code && options->live) {
		code = checkpoint_files_load(context, args[1], &files);
		if (!code && schema_set(&request.checkpoint, files.path))
			code = fail(context, "out of memory");
	}
	return code ?: run_again(context, &request);
}

static const struct option_spec restore_options[] = {
	OPTION(struct restore_options, rw, FLAG, "rw", 0, NULL,
	       "with the writable layer of the checkpoint; otherwise from the image that it was made from"),
	OPTION(struct restore_options, live, FLAG, "live", 0, NULL,
	       "with the memory of its processes, by criu; otherwise its program is started anew"),
	{}};

const struct command containers_restore_command = {
	.name = "restore",
	.arguments = "CONTAINER REF",
	.summary = "make and start a container as one was when its checkpoint image was made",
	.details = "   It runs in the background, with a log.",
	.options = restore_options,
	.options_size = sizeof(struct restore_options),
	.min_args = 2,
	.max_args = 2,
	.run = restore_container,
};
