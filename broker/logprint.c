/* See logprint.h. */

#include "broker/logprint.h"

#include <string.h>

#include "broker/lib/error.h"
#include "broker/lib/file.h"
#include "broker/lib/store_salvage.h"
#include "schemas/messages.h"

#define VALUE_HEAD 5 /* of log_db.h: version, CRC32C */

struct printing {
	char *const *topics;
	size_t n_topics;
	int fd;
	struct schema_buffer *backwards; /* those that come from the end back: the last one first */
	size_t n_backwards;
	uint64_t n,
		last; /* of all events: how many there are, and the highest number: they begin with 1 */
};

static bool is_wanted(const struct printing *printing, const char *topic)
{
	for (size_t i = 0; i < printing->n_topics; i++)
		if (!strncmp(topic, printing->topics[i], strlen(printing->topics[i])))
			return true;
	return !printing->n_topics;
}

static int print(int fd, const struct schema_buffer *packed)
{
	uint32_t size = (uint32_t)packed->size;
	int r = file_write_all(fd, &size, sizeof(size));

	return r ?: file_write_all(fd, packed->data, packed->size);
}

static int keep(struct printing *printing, struct schema_buffer *packed)
{
	struct schema_buffer *items = reallocarray(printing->backwards, printing->n_backwards + 1,
						   sizeof(*items));

	if (!items)
		return error_origin(-ENOMEM);
	printing->backwards = items;
	items[printing->n_backwards++] = *packed;
	*packed = (struct schema_buffer){};
	return 0;
}

static void count(struct printing *printing, uint64_t seq)
{
	printing->n++;
	if (seq > printing->last)
		printing->last = seq;
}

static int on_record(void *userdata, size_t table, bool is_backwards, const struct store_bytes *key,
		     const struct store_bytes *value)
{
	_cleanup_(broker_log_record_clear) struct broker_log_record record = {};
	_cleanup_(schema_buffer_clear) struct schema_buffer packed = {};
	struct printing *printing = userdata;
	int r;

	(void)table;
	(void)key;
	r = schema_unpack(schema_broker_log_record(), (const uint8_t *)value->data + VALUE_HEAD,
			  value->size - VALUE_HEAD, &record, NULL);
	if (r)
		return r > 0 ? 0 : r;
	count(printing, record.event->seq);
	if (!is_wanted(printing, record.event->topic))
		return 0;
	r = schema_pack(schema_bus_event(), record.event, &packed, NULL);
	if (r)
		return error_fold(r);
	return is_backwards ? keep(printing, &packed) : print(printing->fd, &packed);
}

int log_print(const char *directory, char *const *topics, size_t n_topics, int fd)
{
	static const char *const tables[] = {"events", NULL};
	struct printing printing = {.topics = topics, .n_topics = n_topics, .fd = fd};
	struct store_salvaged salvaged = {};
	uint32_t end[2] = {};
	int r;

	r = store_salvage(directory, true, tables, NULL, on_record, &printing, &salvaged);
	while (printing.n_backwards--) {
		r = r ?: print(fd, &printing.backwards[printing.n_backwards]);
		schema_buffer_clear(&printing.backwards[printing.n_backwards]);
	}
	free(printing.backwards);
	/* What lacks was dropped for its age, or lost before the log was rebuilt; one that is empty may have lost all. */
	end[1] = !printing.n || printing.n != printing.last;
	if (!r && salvaged.is_whole)
		r = file_write_all(fd, end, sizeof(end));
	return r;
}
