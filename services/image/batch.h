#pragma once
/*
 * Blobs that a child makes for an operation: in a directory of the operation's
 * own, then in the content store. No step is kept across a crash: the child
 * simply does it again.
 */

#include "services/image/image.h"

struct batch {
	struct image_service *image;
	struct operation *operation;
	char name[ID_TEXT_SIZE]; /* of its directory */
	bool is_made;
	struct work_import_result result; /* once it is taken */
};

void batch_init(struct batch *batch, struct operation *operation);
/* What is left of its directory goes. */
void batch_clear(struct batch *batch);
/* Makes the directory and opens it for the child; not inside a transaction. */
int batch_open(struct batch *batch, int *ret_fd, struct why *why);
/* The child has ended: takes over @data, its result (NULL: it died). */
int batch_take(struct batch *batch, const char *what, struct work_import_result *data,
		const struct why *died, struct why *why);
/* In a transaction: moves the blobs into place, durably, and records them, held by the operation's lease. */
int batch_record(struct batch *batch, struct why *why);
