/* Blobs that a child makes: see batch.h. */

#include <fcntl.h>
#include <sys/stat.h>

#include "services/image/batch.h"
#include "services/image/lease.h"

void batch_init(struct batch *batch, struct operation *operation)
{
	*batch = (struct batch){.image = operation_object(operation), .operation = operation};
	id_format(operation_id(operation), batch->name);
}

void batch_clear(struct batch *batch)
{
	if (batch->is_made)
		trash_take(batch->image, batch->image->ingest, batch->name);
	work_import_result_clear(&batch->result);
}

static int open_directory(const struct batch *batch, int *ret_fd, struct why *why)
{
	*ret_fd = openat(batch->image->ingest, batch->name,
			 O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (*ret_fd < 0)
		return why_errno(why, error_origin(-errno), "cannot open the ingest directory");
	return 0;
}

int batch_open(struct batch *batch, int *ret_fd, struct why *why)
{
	if (mkdirat(batch->image->ingest, batch->name, 0700) < 0 && errno != EEXIST)
		return why_errno(why, error_origin(-errno), "cannot make an ingest directory");
	batch->is_made = true;
	return error_trace(open_directory(batch, ret_fd, why));
}

int batch_take(struct batch *batch, const char *what, struct work_import_result *data,
	       const struct why *died, struct why *why)
{
	/* Its child may have been ended for that. */
	if (operation_is_cancelled(batch->operation))
		return why_set(why, refused(BUS_CANCELED), "it was cancelled");
	if (!data)
		return why_set(why, refused(BUS_INTERNAL), "cannot %s: %s", what, died->text);
	if (data->error)
		return why_set(why, refused(data->status), "cannot %s: %s", what, data->error);
	work_import_result_clear(&batch->result);
	batch->result = *data;
	*data = (struct work_import_result){};
	return 0;
}

int batch_record(struct batch *batch, struct why *why)
{
	_cleanup_(cleanup_fd) int directory = -1;
	int r;

	r = open_directory(batch, &directory, why);
	for (size_t i = 0; i < batch->result.blobs.count && !r; i++)
		r = lease_hold_content(batch->operation, batch->result.blobs.items[i].digest);
	if (!r)
		r = content_take_blobs(batch->image, directory, &batch->result, why);
	return r ? r : content_record_blobs(batch->image, &batch->result);
}
