/* Progress of import and export: see meter.h. */

#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "broker/lib/loop.h"
#include "services/image/work/meter.h"

#define PROGRESS_MS 250
#define TOLD_MAX    512 /* blobs in one note */

void meter_measure(struct meter *meter, int fd)
{
	struct stat status;

	if (fstat(fd, &status) < 0 || !S_ISREG(status.st_mode))
		return;
	meter->source = fd;
	meter->note.total = (uint64_t)status.st_size;
}

/* The first ones make room: one packet has its limit. */
static int add(struct meter *meter, const char *digest, enum transfer_status status, uint64_t total)
{
	struct transfer_item *items = meter->note.transfers.items, *item;
	size_t *count = &meter->note.transfers.count;

	if (*count == TOLD_MAX) {
		transfer_item_clear(&items[0]);
		memmove(items, items + 1, --*count * sizeof(*items));
		items[*count] = (struct transfer_item){};
	}
	item = schema_list_add(&meter->note.transfers);
	if (!item)
		return error_origin(-ENOMEM);
	item->status = status;
	item->total = total;
	return error_trace(schema_set(&item->digest, digest));
}

static struct transfer_item *last(struct meter *meter)
{
	return &meter->note.transfers.items[meter->note.transfers.count - 1];
}

int meter_begin(struct meter *meter, const char *digest, uint64_t total)
{
	int r = digest ? add(meter, digest, TRANSFER_RUNNING, total) : 0;

	meter->is_running = digest && !r;
	return error_trace(r);
}

void meter_move(struct meter *meter, size_t size)
{
	if (meter->is_running)
		last(meter)->offset += size;
	if (meter->source < 0)
		meter->note.offset += size;
	if (time_boot_ms() - meter->told_ms >= PROGRESS_MS)
		meter_tell(meter);
}

void meter_end(struct meter *meter, bool is_good)
{
	struct transfer_item *item;

	if (!meter->is_running)
		return;
	item = last(meter);
	meter->is_running = false;
	if (is_good) {
		item->status = TRANSFER_DONE;
		return;
	}
	transfer_item_clear(item);
	*item = (struct transfer_item){};
	meter->note.transfers.count--;
}

int meter_done(struct meter *meter, const char *digest, uint64_t total)
{
	for (size_t i = 0; i < meter->note.transfers.count; i++) {
		if (!strcmp(meter->note.transfers.items[i].digest, digest))
			return 0;
	}
	return error_trace(add(meter, digest, TRANSFER_DONE, total));
}

void meter_tell(struct meter *meter)
{
	off_t at = meter->source < 0 ? -1 : lseek(meter->source, 0, SEEK_CUR);

	meter->told_ms = time_boot_ms();
	if (at >= 0)
		meter->note.offset = (uint64_t)at;
	if (meter->channel >= 0)
		(void)channel_note(meter->channel, &meter->note);
}

void meter_clear(struct meter *meter)
{
	work_note_clear(&meter->note);
}
