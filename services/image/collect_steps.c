/* image.collect, and steps of operations that wait for a collection and its files. */

#include <stdlib.h>

#include "services/image/collect.h"
#include "services/image/handlers.h"

struct waiting {
	struct image_service *image;
	struct operation *operation;
	struct image_collect_reply report;
	bool is_asked; /* for itself */
};

static void waiting_free(void *userdata)
{
	struct waiting *waiting = userdata;

	collect_forget(waiting->image, waiting);
	trash_forget_waiter(waiting->image, waiting);
	image_collect_reply_clear(&waiting->report);
	free(waiting);
}

static int make_waiting(struct operation *operation)
{
	struct waiting *waiting = calloc(1, sizeof(*waiting));

	if (!waiting)
		return error_origin(-ENOMEM);
	waiting->image = operation_object(operation);
	waiting->operation = operation;
	operation_set_data(operation, waiting, waiting_free);
	return 0;
}

/* ---- a run ---- */

static void was_collected(void *userdata, int r, struct image_collect_reply *report)
{
	struct waiting *waiting = userdata;
	struct why why = {};

	if (!r) {
		waiting->report = *report;
		*report = (struct image_collect_reply){};
	}
	/* What was asked for a name's removal is done: its files stay. */
	if (r >= REFUSED && !waiting->is_asked)
		r = 0;
	if (r >= REFUSED)
		why_set(&why, r, "%s", collect_refusal(waiting->image));
	image_step_ended(waiting->operation, r, &why);
}

static void wait_for_run(struct operation *operation, bool is_dry)
{
	struct waiting *waiting = operation_data(operation);

	if (collect_wait(waiting->image, is_dry, was_collected, waiting))
		operation_step_failed(operation, BUS_INTERNAL, "out of memory");
}

static void wait_for_real_run(struct operation *operation)
{
	wait_for_run(operation, false);
}

int collect_step(struct operation *operation)
{
	int r = make_waiting(operation);

	if (!r)
		r = operation_after_commit(operation, wait_for_real_run);
	return r ? error_trace(r) : OPERATION_LATER;
}

/* ---- files ---- */

static void files_are_gone(void *userdata)
{
	struct waiting *waiting = userdata;

	operation_step_done(waiting->operation);
}

static void wait_for_files(struct operation *operation)
{
	struct waiting *waiting = operation_data(operation);

	if (trash_wait(waiting->image, files_are_gone, waiting))
		operation_step_failed(operation, BUS_INTERNAL, "out of memory");
}

/* What the step before has found is kept. */
int collect_files_step(struct operation *operation)
{
	int r = operation_data(operation) ? 0 : make_waiting(operation);

	if (!r)
		r = operation_after_commit(operation, wait_for_files);
	return r ? error_trace(r) : OPERATION_LATER;
}

/* ---- image.collect ---- */

static void wait_for_asked_run(struct operation *operation)
{
	const struct image_collect_request *request = operation_request(operation);
	struct waiting *waiting = operation_data(operation);

	waiting->is_asked = true;
	wait_for_run(operation, request->dry_run);
}

static int collect_run_asked(struct operation *operation)
{
	int r = make_waiting(operation);

	if (!r)
		r = operation_after_commit(operation, wait_for_asked_run);
	return r ? error_trace(r) : OPERATION_LATER;
}

static int collect_files_asked(struct operation *operation)
{
	const struct image_collect_request *request = operation_request(operation);

	return request->dry_run ? 0 : collect_files_step(operation);
}

static int collect_finish(struct operation *operation, void *data)
{
	struct waiting *waiting = operation_data(operation);

	return error_trace(image_collect_reply_copy(&waiting->report, data));
}

static const struct operation_step collect_steps[] = {
	{.name = "collect", .run = collect_run_asked},
	{.name = "files", .run = collect_files_asked},
	{},
};

const struct operation_type collect_operation = {
	.method = "image.collect",
	.steps = collect_steps,
	.request = schema_image_collect_request,
	.reply = schema_image_collect_reply,
	.context = schema_empty,
	.finish = collect_finish,
};

int image_collect(struct image_service *image, const struct image_collect_request *request,
		  struct image_collect_reply *reply, struct call *call)
{
	(void)image;
	(void)reply;
	return error_trace(operation_start(call, &collect_operation, request, "garbage", false));
}
