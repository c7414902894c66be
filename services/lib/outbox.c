/*
 * The outbox: events are rows of the transaction that they tell of, and a flusher
 * hands them to the broker afterwards, in batches, until they are acknowledged.
 * Acknowledged rows go with the next commit that comes anyway, or after a few
 * idle seconds. The numbers are gapless for a publisher id; when the broker wants
 * a number that is not there any more (its log is new, or a row was damaged) the
 * rows get a new publisher id and start at 1.
 */

#include <string.h>

#include "broker/lib/file.h"
#include "broker/lib/log.h"
#include "services/lib/service_private.h"

#define EVENT_MAX      16384
#define BATCH_EVENTS   256
#define BATCH_BYTES    (512u << 10)
#define TIDY_MS        5000
#define TIDY_ROWS      512
#define RETRY_FIRST_MS 50
#define RETRY_MAX_MS   5000
#define WALK_END       1000
#define DEADLINE_MS    30000

static void retry(struct loop_timer *timer);

uint64_t outbox_size(const struct service *service)
{
	return service->outbox.committed - service->outbox.acked;
}

/* ---- writing ---- */

static int put_item(struct service *service, const char *namespace,
		    const struct schema_event *event, const char *object,
		    const struct schema_buffer *body)
{
	struct outbox *outbox = &service->outbox;
	struct event_item item = {
		.seq = outbox->next_seq,
		.time_ns = time_real_ns(),
		.namespace = (char *)(namespace && *namespace ? namespace : NULL),
		.topic = (char *)event->topic,
		.object = (char *)(object && *object ? object : NULL),
		.event = {.data = body->data, .size = body->size},
	};
	struct store_key key;
	int r;

	store_key_u64(&key, item.seq);
	r = store_put(service->store, STORE_OUTBOX, &key, schema_event_item(), &item);
	if (r)
		return error_trace(r);
	outbox->next_seq++;
	return 0;
}

int service_emit(struct service *service, const char *namespace, const struct schema_event *event,
		 const char *object, const void *message)
{
	_cleanup_(schema_buffer_clear) struct schema_buffer body = {};
	struct schema_fault fault = {};
	int r;

	r = schema_pack(event->message(), message, &body, &fault);
	if (r > 0) {
		log_error("event=%s object=%s error=\"%s\"", event->topic, object ? object : "",
			  fault.text);
		return error_origin(-EINVAL);
	}
	if (r)
		return error_trace(r);
	if (body.size > EVENT_MAX)
		return error_origin(-E2BIG);
	return put_item(service, namespace, event, object, &body);
}

/* ---- deleting what is acknowledged ---- */

static int trim(struct service *service, unsigned max)
{
	struct outbox *outbox = &service->outbox;
	struct store_key key;
	int r;

	for (; max && outbox->first < outbox->acked; max--) {
		store_key_u64(&key, outbox->first);
		r = store_delete(service->store, STORE_OUTBOX, &key);
		if (r && r != STORE_E_NOT_FOUND)
			return error_trace(r);
		outbox->first++;
	}
	return 0;
}

int outbox_before_commit(struct service *service)
{
	struct outbox *outbox = &service->outbox;
	int r;

	if (!store_is_dirty(service->store))
		return 0;
	r = trim(service, TIDY_ROWS);
	if (!r && outbox->next_seq != outbox->committed)
		r = store_put_meta(service->store, outbox->publisher, outbox->next_seq);
	return error_trace(r);
}

static int tidy_rows(void *userdata)
{
	/* Any change will do: the commit takes the rest along. */
	return trim(userdata, 1);
}

static void tidy(struct loop_timer *timer)
{
	struct service *service = container_of(timer, struct service, outbox.tidy);

	if (service->outbox.first < service->outbox.acked)
		service_transact(service, tidy_rows, service);
	if (service->outbox.first + TIDY_ROWS < service->outbox.acked)
		loop_timer_set(service->loop, timer, 0, tidy);
}

/* ---- a new publisher ---- */

struct rebase {
	struct service *service;
	uint64_t next;
	uint8_t publisher[16];
};

/* Numbers only fall, so that a row never meets one that was not moved yet. */
static int rebase_row(void *userdata, const struct store_key *key, void *record)
{
	struct rebase *rebase = userdata;
	struct event_item *item = record;
	struct store_key to;
	int r;

	item->seq = rebase->next;
	store_key_u64(&to, rebase->next++);
	if (to.size == key->size && !memcmp(to.data, key->data, to.size))
		return 0;
	r = store_delete(rebase->service->store, STORE_OUTBOX, key);
	if (!r)
		r = store_put(rebase->service->store, STORE_OUTBOX, &to, schema_event_item(), item);
	return error_trace(r);
}

static int rebase_rows(void *userdata)
{
	struct rebase *rebase = userdata;
	struct service *service = rebase->service;
	int r;

	rebase->next = 1;
	r = trim(service, UINT32_MAX);
	if (!r)
		r = store_walk(service->store, STORE_OUTBOX, NULL, NULL, schema_event_item(),
			       rebase_row, rebase);
	if (!r)
		r = store_put_meta(service->store, rebase->publisher, rebase->next);
	return error_trace(r);
}

/* A new id and new numbers take effect together, whatever happens. */
static int rebase(struct service *service)
{
	struct rebase rebase = {.service = service};
	struct outbox *outbox = &service->outbox;
	int r;

	id_make(rebase.publisher);
	r = service_transact(service, rebase_rows, &rebase);
	if (r)
		return error_trace(r);
	memcpy(outbox->publisher, rebase.publisher, sizeof(outbox->publisher));
	outbox->first = outbox->acked = 1;
	outbox->next_seq = outbox->committed = rebase.next;
	if (service->store->restored_until)
		store_forget_restored(service->store);
	log_warning(
		"%s publishes %llu events under a new publisher id: the event log has other numbers, or its store was restored",
		service->definition->program, (unsigned long long)(rebase.next - 1));
	return 0;
}

/* ---- publishing ---- */

/* In a restored store what was given before is a repeat for the log, or is not; what came since waits for its publisher. */
static uint64_t end_of_known(const struct service *service)
{
	uint64_t until = service->store->restored_until;

	return until && until < service->outbox.committed ? until : service->outbox.committed;
}

struct batch {
	struct event_publish_request request;
	uint64_t next;
	uint64_t end;
	size_t size;
};

static int add_row(void *userdata, const struct store_key *key, void *record)
{
	struct batch *batch = userdata;
	struct event_item *item = record, *kept;

	(void)key;
	if (item->seq != batch->next || item->seq >= batch->end ||
	    batch->request.events.count == BATCH_EVENTS ||
	    batch->size + item->event.size > BATCH_BYTES)
		return WALK_END;
	kept = schema_list_add(&batch->request.events);
	if (!kept)
		return error_origin(-ENOMEM);
	*kept = *item;
	*item = (struct event_item){};
	batch->size += kept->event.size + 512;
	batch->next++;
	return 0;
}

static int read_batch(struct service *service, struct batch *batch)
{
	struct outbox *outbox = &service->outbox;
	struct store_key from;
	int r;

	batch->next = outbox->acked;
	batch->end = end_of_known(service);
	store_key_u64(&from, batch->next);
	r = schema_bytes_set(&batch->request.publisher, outbox->publisher, 16);
	if (!r)
		r = store_walk(service->store, STORE_OUTBOX, NULL, &from, schema_event_item(),
			       add_row, batch);
	return r == WALK_END ? 0 : error_trace(r);
}

static void try_again(struct service *service)
{
	struct outbox *outbox = &service->outbox;
	uint64_t wait_ms = (uint64_t)RETRY_FIRST_MS
			   << (outbox->n_failures < 8 ? outbox->n_failures : 8);

	outbox->n_failures++;
	loop_timer_set(service->loop, &outbox->retry,
		       time_boot_ms() + (wait_ms < RETRY_MAX_MS ? wait_ms : RETRY_MAX_MS), retry);
}

static void acknowledge(struct service *service, uint64_t next_seq)
{
	struct outbox *outbox = &service->outbox;

	outbox->acked = next_seq;
	outbox->n_failures = 0;
	if (outbox->first < outbox->acked)
		loop_timer_set(service->loop, &outbox->tidy, time_boot_ms() + TIDY_MS, tidy);
	outbox_flush(service);
}

/* The broker wants another number than we sent first. */
static void go_on_at(struct service *service, uint64_t next_seq)
{
	struct outbox *outbox = &service->outbox;

	if (next_seq > outbox->acked && next_seq <= outbox->committed) {
		acknowledge(service, next_seq);
		return;
	}
	if (next_seq < outbox->acked && next_seq >= outbox->first) {
		outbox->acked = next_seq;
		try_again(service);
		return;
	}
	if (rebase(service))
		log_error("%s: the outbox cannot be renumbered", service->definition->program);
	try_again(service);
}

static void published(void *userdata, enum bus_status status, const char *text, const void *body,
		      size_t size)
{
	_cleanup_(event_publish_reply_clear) struct event_publish_reply reply = {};
	struct service *service = userdata;
	struct outbox *outbox = &service->outbox;
	bool is_read;

	outbox->is_sending = false;
	outbox->call = NULL;
	is_read = size && !schema_unpack(schema_event_publish_reply(), body, size, &reply, NULL);
	/* The log has what was given after the copy. */
	if (service->store->restored_until && reply.next_seq > service->store->restored_until)
		reply.next_seq = service->store->restored_until;
	if (status == BUS_OK && is_read && reply.next_seq == outbox->sent) {
		acknowledge(service, reply.next_seq);
		return;
	}
	if (is_read && (status == BUS_OK || status == BUS_ABORTED)) {
		go_on_at(service, reply.next_seq);
		return;
	}
	if (outbox->n_failures == 0 || status == BUS_INVALID_ARGUMENT)
		log_warning("%s: events %llu to %llu are not published yet: %s",
			    service->definition->program, (unsigned long long)outbox->acked,
			    (unsigned long long)outbox->sent - 1, text);
	try_again(service);
}

static int publish(struct service *service, const struct batch *batch)
{
	_cleanup_(schema_buffer_clear) struct schema_buffer buffer = {};
	struct bus_options options = {.deadline_ms = time_boot_ms() + DEADLINE_MS};
	struct outbox *outbox = &service->outbox;
	struct schema_fault fault = {};
	int r;

	r = schema_pack(schema_event_publish_request(), &batch->request, &buffer, &fault);
	if (r)
		return error_fold(r);
	outbox->sent = batch->next;
	r = bus_call(service->bus, "event.publish", &options, buffer.data, buffer.size, published,
		     service, &outbox->call);
	if (r)
		return error_trace(r);
	outbox->is_sending = true;
	return 0;
}

void outbox_flush(struct service *service)
{
	struct outbox *outbox = &service->outbox;
	bool was_open = store_is_open(service->store);
	struct batch batch = {};
	int r;

	if (!outbox->is_started || outbox->is_sending || outbox->retry.loop)
		return;
	if (service->store->restored_until && outbox->acked >= service->store->restored_until &&
	    rebase(service))
		try_again(service);
	if (outbox->acked >= end_of_known(service))
		return;
	r = read_batch(service, &batch);
	if (!r && batch.request.events.count)
		r = publish(service, &batch);
	event_publish_request_clear(&batch.request);
	if (!was_open)
		store_abort(service->store);
	if (!r && batch.next == outbox->acked)
		r = rebase(service); /* the row is not there */
	if (r) {
		log_warning("%s: events cannot be published now: %s", service->definition->program,
			    r < 0 ? strerror(-r) : "the store is full");
		try_again(service);
	}
}

static void retry(struct loop_timer *timer)
{
	outbox_flush(container_of(timer, struct service, outbox.retry));
}

/* ---- opening ---- */

static int first_row(void *userdata, const struct store_key *key, void *record)
{
	struct outbox *outbox = userdata;
	struct event_item *item = record;

	(void)key;
	outbox->first = item->seq;
	return WALK_END;
}

int outbox_open(struct service *service)
{
	const struct store_meta *meta = &service->store->meta;
	struct outbox *outbox = &service->outbox;
	int r;

	if (meta->publisher.size != sizeof(outbox->publisher))
		return error_origin(-EUCLEAN);
	memcpy(outbox->publisher, meta->publisher.data, sizeof(outbox->publisher));
	outbox->next_seq = outbox->committed = outbox->first = meta->next_seq;
	r = store_walk(service->store, STORE_OUTBOX, NULL, NULL, schema_event_item(), first_row,
		       outbox);
	if (r && r != WALK_END)
		return error_trace(r);
	outbox->acked = outbox->first;
	return 0;
}

void outbox_close(struct service *service)
{
	struct outbox *outbox = &service->outbox;

	if (outbox->call)
		bus_call_cancel(outbox->call);
	outbox->call = NULL;
	loop_timer_cancel(&outbox->retry);
	loop_timer_cancel(&outbox->tidy);
}
