#include "shim/publisher.h"

#include <stdio.h>
#include <string.h>

#include "broker/lib/log.h"
#include "shim/shim.h"

/* ---- a batch ------------------------------------------------------------- */

struct batch {
	const struct shim *shim;
	struct event_publish_request request;
	size_t size;
};

static int copy_event(const struct shim *shim, const struct journal_record *record,
		      struct event_item *item)
{
	item->seq = record->seq;
	item->time_ns = record->time_ns;
	return schema_set(&item->namespace, shim->config.namespace)
		       ?: schema_set(&item->topic, record->topic)
		       ?: schema_set(&item->object, shim->config.container_id)
		       ?: schema_bytes_set(&item->event, record->event.data, record->event.size);
}

/* 1: the batch is full. */
static int add_event(void *userdata, const struct journal_record *record)
{
	struct batch *batch = userdata;
	struct event_item *item;

	if (!record->topic || record->seq <= batch->shim->journal.acked_seq)
		return 0;
	/* What was acknowledged and dropped leaves a gap, which no batch may have. */
	if (batch->request.events.count &&
	    record->seq != batch->request.events.items[batch->request.events.count - 1].seq + 1)
		return 1;
	batch->size += record->event.size + 512;
	if (batch->request.events.count == PUBLISHER_BATCH || batch->size > PUBLISHER_BATCH_SIZE)
		return 1;
	item = schema_list_add(&batch->request.events);
	return item ? copy_event(batch->shim, record, item) : error_origin(-ENOMEM);
}

static int write_batch(struct shim *shim, struct schema_buffer *ret_packet)
{
	_cleanup_(schema_buffer_clear) struct schema_buffer body = {};
	struct batch batch = {.shim = shim};
	struct envelope_request envelope = {.method = "event.publish"};
	int r;

	r = journal_walk(&shim->journal, add_event, &batch);
	if (r >= 0 && !batch.request.events.count)
		r = error_origin(-ENODATA);
	if (r >= 0)
		r = schema_bytes_set(&batch.request.publisher, shim->config.publisher.data,
				     shim->config.publisher.size);
	if (!r)
		r = schema_pack(schema_event_publish_request(), &batch.request, &body, NULL);
	event_publish_request_clear(&batch.request);
	if (r)
		return error_fold(r);
	id_make(envelope.id);
	snprintf(envelope.namespace, sizeof(envelope.namespace), "%s", shim->config.namespace);
	envelope.deadline_ms = time_boot_ms() + PUBLISHER_DEADLINE_MS;
	envelope.body = (struct schema_span){body.data, body.size};
	return error_trace(envelope_write_request(&envelope, ret_packet));
}

/* ---- the broker's answer ------------------------------------------------- */

/* The broker has all below @next_seq, and nothing from there on. */
static int note(struct publisher *publisher, uint64_t next_seq)
{
	struct journal_record record = {.kind = JOURNAL_ACK, .seq = next_seq - 1};

	if (!next_seq)
		return error_origin(-EPROTO);
	if (record.seq == publisher->shim->journal.acked_seq)
		return 0;
	return error_trace(journal_append(&publisher->shim->journal, &record));
}

/* 0: so much is done. */
static int take_reply(struct publisher *publisher, const void *data, size_t size)
{
	struct event_publish_reply reply = {};
	struct envelope_reply envelope;
	uint64_t before = publisher->shim->journal.acked_seq;
	int r;

	r = envelope_read_reply(data, size, &envelope, NULL);
	if (r)
		return error_origin(-EPROTO);
	if (envelope.status != BUS_OK && envelope.status != BUS_ABORTED) {
		log_debug("events are not taken: %s", envelope.text);
		return -EAGAIN;
	}
	r = schema_unpack(schema_event_publish_reply(), envelope.body.data, envelope.body.size,
			  &reply, NULL);
	if (r)
		return error_origin(-EPROTO);
	r = note(publisher, reply.next_seq);
	/* The same gap again would go round and round. */
	if (!r && envelope.status == BUS_ABORTED && before == publisher->shim->journal.acked_seq)
		return -EAGAIN;
	return r;
}

/* ---- driving it ---------------------------------------------------------- */

static void try(struct publisher *publisher);

static void on_timer(struct loop_timer *timer)
{
	try(container_of(timer, struct publisher, timer));
}

static void pause_then_try(struct publisher *publisher)
{
	uint64_t pause_ms = publisher->pause_ms ?: PUBLISHER_PAUSE_MS;

	sp_client_close(publisher->client);
	publisher->pause_ms = pause_ms * 2 > PUBLISHER_PAUSE_MAX_MS ? PUBLISHER_PAUSE_MAX_MS
								    : pause_ms * 2;
	if (loop_timer_set(publisher->shim->loop, &publisher->timer, time_boot_ms() + pause_ms,
			   on_timer))
		log_error("no timer: events wait for the next one");
}

static void on_reply(void *userdata, int r, const void *data, size_t size)
{
	struct publisher *publisher = userdata;

	publisher->is_busy = false;
	if (!r)
		r = take_reply(publisher, data, size);
	if (r) {
		pause_then_try(publisher);
		return;
	}
	publisher->pause_ms = 0;
	if (journal_is_unpublished(&publisher->shim->journal)) {
		try(publisher);
		return;
	}
	sp_client_close(publisher->client);
	shim_consider_end(publisher->shim);
}

static void try(struct publisher *publisher)
{
	_cleanup_(schema_buffer_clear) struct schema_buffer packet = {};
	int r;

	r = write_batch(publisher->shim, &packet);
	if (!r)
		r = sp_client_request(publisher->client, packet.data, packet.size,
				      time_boot_ms() + PUBLISHER_DEADLINE_MS, on_reply, publisher);
	publisher->is_busy = !r;
	if (r)
		pause_then_try(publisher);
}

void publisher_kick(struct publisher *publisher)
{
	if (publisher->is_busy || publisher->timer.loop ||
	    !journal_is_unpublished(&publisher->shim->journal))
		return;
	try(publisher);
}

int publisher_init(struct publisher *publisher, struct shim *shim)
{
	*publisher = (struct publisher){.shim = shim};
	return error_trace(sp_client_new(shim->loop, shim->config.bus, &publisher->client));
}

void publisher_deinit(struct publisher *publisher)
{
	publisher->client = sp_client_free(publisher->client);
	loop_timer_cancel(&publisher->timer);
}
