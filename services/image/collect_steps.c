/* Steps of operations that wait for a collection and its files. */

#include <stdlib.h>

#include "services/image/image.h"

static void files_are_gone(void *userdata)
{
	operation_set_data(userdata, NULL, NULL);
	operation_step_done(userdata);
}

static void wait_for_files(struct operation *operation)
{
	if (trash_wait(operation_object(operation), files_are_gone, operation))
		operation_step_failed(operation, BUS_INTERNAL, "out of memory");
}

struct waiting {
	struct image_service *image;
	struct operation *operation;
};

static void waiting_free(void *userdata)
{
	struct waiting *waiting = userdata;

	trash_forget_waiter(waiting->image, waiting->operation);
	free(waiting);
}

int collect_files_step(struct operation *operation)
{
	struct waiting *waiting = malloc(sizeof(*waiting));
	int r;

	if (!waiting)
		return error_origin(-ENOMEM);
	*waiting = (struct waiting){.image = operation_object(operation), .operation = operation};
	operation_set_data(operation, waiting, waiting_free);
	r = operation_after_commit(operation, wait_for_files);
	return r ? error_trace(r) : OPERATION_LATER;
}
