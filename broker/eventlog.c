#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/eventlog.h"
#include "broker/lib/cleanup.h"
#include "broker/lib/file.h"
#include "schemas/check.h"

#define META_KEY "log"

/* ---- the one row ---- */

static int make_meta(struct broker_log_meta *ret_meta)
{
	_cleanup_(broker_log_meta_clear) struct broker_log_meta meta = {
		.format = EVENTLOG_FORMAT, .first_seq = 1, .next_seq = 1};
	uint8_t id[ID_SIZE];
	int r;

	id_make(id);
	r = schema_bytes_set(&meta.log_id, id, sizeof(id));
	if (r)
		return error_fold(r);
	*ret_meta = meta;
	meta = (struct broker_log_meta){};
	return 0;
}

int eventlog_save(struct log_txn *txn, const struct broker_log_meta *meta)
{
	struct log_key key = log_key_text(META_KEY);

	return log_put(txn, LOG_META, &key, schema_broker_log_meta(), meta, NULL);
}

int eventlog_load(struct log_txn *txn, struct broker_log_meta *ret_meta)
{
	struct log_key key = log_key_text(META_KEY);
	struct broker_log_meta meta = {};
	int r;

	r = log_get(txn, LOG_META, &key, schema_broker_log_meta(), &meta, NULL);
	if (r == LOG_E_NOT_FOUND) {
		r = make_meta(&meta);
		if (!r)
			r = eventlog_save(txn, &meta);
	}
	if (!r && (meta.format > EVENTLOG_FORMAT || meta.log_id.size != ENVELOPE_ID_SIZE))
		r = error_origin(-EPROTONOSUPPORT);
	if (r) {
		broker_log_meta_clear(&meta);
		return r;
	}
	*ret_meta = meta;
	return 0;
}

/* ---- appending ---- */

int eventlog_check(const struct event_publish_request *request, struct schema_fault *fault)
{
	const struct event_item *events = request->events.items;

	if (request->publisher.size != ENVELOPE_ID_SIZE || request->events.count == 0) {
		snprintf(fault->text, sizeof(fault->text),
			 "a batch needs a publisher of 16 bytes and at least one event");
		return SCHEMA_E_VALUE;
	}
	for (size_t i = 0; i < request->events.count; i++) {
		const char *what = NULL;

		if (events[i].seq == 0 || (i > 0 && events[i].seq != events[i - 1].seq + 1))
			what = "does not follow the one before";
		else if (!check_topic(events[i].topic) || strncmp(events[i].topic, "/bus/", 5) == 0)
			what = "has a topic that is not allowed";
		else if (events[i].namespace && !check_identifier(events[i].namespace))
			what = "has a namespace that is not an identifier";
		if (!what)
			continue;
		snprintf(fault->text, sizeof(fault->text), "event %llu of the batch %s",
			 (unsigned long long)events[i].seq, what);
		return SCHEMA_E_VALUE;
	}
	return 0;
}

/* Borrows everything of @item and of @publisher. */
static int put_event(struct log_txn *txn, struct broker_log_meta *meta,
		     const struct schema_bytes *publisher, const struct event_item *item,
		     uint64_t now_ns)
{
	struct bus_event event = {
		.seq = meta->next_seq,
		.time_ns = item->time_ns,
		.namespace = item->namespace,
		.topic = item->topic,
		.object = item->object,
		.publisher = *publisher,
		.publisher_seq = item->seq,
		.event = item->event,
	};
	struct broker_log_record record = {.logged_at_ns = now_ns, .event = &event};
	struct log_key key = log_key_number(meta->next_seq);
	size_t size;
	int r;

	r = log_put(txn, LOG_EVENTS, &key, schema_broker_log_record(), &record, &size);
	if (r)
		return r;
	meta->next_seq++;
	meta->bytes += size;
	return 0;
}

static int find_publisher(struct log_txn *txn, const struct log_key *key,
			  const struct event_publish_request *request, struct broker_log_meta *meta,
			  struct broker_publisher_record *ret_record)
{
	int r;

	r = log_get(txn, LOG_PUBLISHERS, key, schema_broker_publisher_record(), ret_record, NULL);
	/* A damaged row is begun again: the log's own numbers are not hurt by it. */
	if (r != LOG_E_NOT_FOUND && r != LOG_E_DAMAGED)
		return r;
	*ret_record = (struct broker_publisher_record){.next_seq = request->events.items[0].seq};
	meta->publishers += r == LOG_E_NOT_FOUND;
	return 0;
}

static int append_new(struct log_txn *txn, struct broker_log_meta *meta,
		      const struct event_publish_request *request, size_t n_repeats,
		      uint64_t now_ns)
{
	int r = 0;

	for (size_t i = n_repeats; i < request->events.count && !r; i++)
		r = put_event(txn, meta, &request->publisher, &request->events.items[i], now_ns);
	return r;
}

int eventlog_append(struct log_txn *txn, struct broker_log_meta *meta,
		    const struct event_publish_request *request, uint64_t now_ns,
		    struct eventlog_appended *ret)
{
	struct log_key key = log_key_bytes(request->publisher.data, request->publisher.size);
	uint64_t first = request->events.items[0].seq, n = request->events.count;
	struct broker_publisher_record publisher = {};
	int r;

	*ret = (struct eventlog_appended){.status = BUS_OK};
	r = find_publisher(txn, &key, request, meta, &publisher);
	if (r)
		return error_trace(r);
	ret->next_seq = publisher.next_seq;
	if (first > publisher.next_seq) {
		ret->status = BUS_ABORTED;
		snprintf(ret->text, sizeof(ret->text),
			 "event %llu came out of turn: the publisher's next is %llu",
			 (unsigned long long)first, (unsigned long long)publisher.next_seq);
		return 0;
	}
	ret->n_repeats = publisher.next_seq - first < n ? publisher.next_seq - first : n;
	ret->n_new = n - ret->n_repeats;
	ret->first_seq = meta->next_seq;
	if (ret->n_new == 0)
		return 0;
	r = append_new(txn, meta, request, ret->n_repeats, now_ns);
	if (r)
		return error_trace(r);
	publisher.next_seq = ret->next_seq = first + n;
	publisher.last_log_seq = meta->next_seq - 1;
	return log_put(txn, LOG_PUBLISHERS, &key, schema_broker_publisher_record(), &publisher,
		       NULL);
}

/* ---- trimming ---- */

static bool is_due(const struct broker_log_meta *meta, const struct eventlog_limits *limits,
		   uint64_t logged_at_ns, uint64_t now_ns)
{
	return meta->bytes > limits->max_bytes ||
	       (now_ns > logged_at_ns && now_ns - logged_at_ns > limits->max_age_ns);
}

static int forget_publisher(struct log_txn *txn, struct broker_log_meta *meta,
			    const struct bus_event *event)
{
	struct log_key key = log_key_bytes(event->publisher.data, event->publisher.size);
	struct broker_publisher_record publisher = {};
	int r;

	r = log_get(txn, LOG_PUBLISHERS, &key, schema_broker_publisher_record(), &publisher, NULL);
	if (r == LOG_E_NOT_FOUND || (!r && publisher.last_log_seq != event->seq))
		return 0;
	if (r < 0)
		return r;
	meta->publishers -= meta->publishers > 0;
	return log_delete(txn, LOG_PUBLISHERS, &key);
}

/* Removes the oldest event if it is due. */
static int trim_one(struct log_txn *txn, struct broker_log_meta *meta,
		    const struct eventlog_limits *limits, uint64_t now_ns, bool *ret_done)
{
	_cleanup_(broker_log_record_clear) struct broker_log_record record = {};
	struct log_key key = log_key_number(meta->first_seq);
	size_t size = 0;
	int r;

	r = log_get(txn, LOG_EVENTS, &key, schema_broker_log_record(), &record, &size);
	if (r < 0)
		return error_trace(r);
	/* One that cannot be read goes when its turn by size comes. */
	if (!is_due(meta, limits, r ? UINT64_MAX : record.logged_at_ns, now_ns) &&
	    r != LOG_E_NOT_FOUND) {
		*ret_done = true;
		return 0;
	}
	if (!r)
		r = forget_publisher(txn, meta, record.event);
	if (r < 0)
		return error_trace(r);
	r = log_delete(txn, LOG_EVENTS, &key);
	if (r && r != LOG_E_NOT_FOUND)
		return r;
	meta->first_seq++;
	meta->bytes -= size < meta->bytes ? size : meta->bytes;
	return 0;
}

int eventlog_trim(struct log_txn *txn, struct broker_log_meta *meta,
		  const struct eventlog_limits *limits, uint64_t now_ns, size_t budget,
		  size_t *ret_trimmed)
{
	uint64_t before = meta->first_seq;
	bool done = false;
	int r;

	while (!done && budget-- > 0 && meta->first_seq < meta->next_seq) {
		r = trim_one(txn, meta, limits, now_ns, &done);
		if (r)
			return error_trace(r);
	}
	*ret_trimmed = meta->first_seq - before;
	return 0;
}

/* ---- reading ---- */

static bool matches(const struct bus_event *event, const struct event_read_request *filter)
{
	bool found = filter->topics.count == 0;

	if (filter->namespace && filter->namespace[0] &&
	    (!event->namespace || strcmp(filter->namespace, event->namespace) != 0))
		return false;
	if (filter->object && filter->object[0] &&
	    (!event->object || strcmp(filter->object, event->object) != 0))
		return false;
	for (size_t i = 0; i < filter->topics.count && !found; i++)
		found = strncmp(event->topic, filter->topics.items[i],
				strlen(filter->topics.items[i])) == 0;
	return found;
}

/* Stands for an event whose record is damaged: its number is never silently left out. */
static int make_damaged(uint64_t seq, struct bus_event *ret_event)
{
	static const uint8_t empty_map = 0x80;
	struct bus_event event = {.seq = seq};
	uint8_t nobody[ENVELOPE_ID_SIZE] = {};

	if (schema_set(&event.topic, "/bus/damaged") ||
	    schema_bytes_set(&event.publisher, nobody, sizeof(nobody)) ||
	    schema_bytes_set(&event.event, &empty_map, 1)) {
		bus_event_clear(&event);
		return error_origin(-ENOMEM);
	}
	*ret_event = event;
	return 0;
}

/* Adds the event @seq to @reply if it matches. @ret_full: it would not fit any more. */
static int read_one(struct log_txn *txn, uint64_t seq, const struct event_read_request *filter,
		    size_t *bytes, struct event_read_reply *reply, bool *ret_full)
{
	_cleanup_(broker_log_record_clear) struct broker_log_record record = {};
	_cleanup_(bus_event_clear) struct bus_event damaged = {};
	struct log_key key = log_key_number(seq);
	struct bus_event *event, *item;
	size_t size = 0;
	int r;

	r = log_get(txn, LOG_EVENTS, &key, schema_broker_log_record(), &record, &size);
	if (r < 0)
		return error_trace(r);
	if (r && (r = make_damaged(seq, &damaged)))
		return error_trace(r);
	event = record.event ? record.event : &damaged;
	if (event != &damaged && !matches(event, filter))
		return 0;
	*ret_full = reply->events.count > 0 && *bytes + size > EVENTLOG_REPLY_MAX;
	if (*ret_full)
		return 0;
	item = schema_list_add(&reply->events);
	if (!item)
		return error_origin(-ENOMEM);
	*item = *event;
	*event = (struct bus_event){};
	*bytes += size;
	return 0;
}

int eventlog_read(struct log_txn *txn, const struct broker_log_meta *meta,
		  const struct event_read_request *filter, size_t budget, size_t *bytes,
		  struct event_read_reply *reply, bool *ret_more)
{
	size_t limit = filter->limit > 0 ? filter->limit : 256;
	bool is_full = false;
	int r;

	reply->first_seq = meta->first_seq;
	reply->last_seq = meta->next_seq - 1;
	if (reply->next < meta->first_seq) {
		reply->next = meta->first_seq;
		reply->truncated = true;
	}
	while (budget-- > 0 && reply->next < meta->next_seq && reply->events.count < limit) {
		r = read_one(txn, reply->next, filter, bytes, reply, &is_full);
		if (r)
			return error_trace(r);
		if (is_full)
			break;
		reply->next++;
	}
	*ret_more = reply->next < meta->next_seq && !is_full && reply->events.count < limit;
	return 0;
}

/* ---- named cursors ---- */

int eventlog_find_cursor(struct log_txn *txn, const char *name, uint64_t *ret_ack)
{
	_cleanup_(event_cursor_clear) struct event_cursor cursor = {};
	struct log_key key = log_key_text(name);
	int r;

	r = log_get(txn, LOG_CURSORS, &key, schema_event_cursor(), &cursor, NULL);
	if (r)
		return r;
	*ret_ack = cursor.ack;
	return 0;
}

int eventlog_move_cursor(struct log_txn *txn, const struct broker_log_meta *meta, const char *name,
			 uint64_t from, uint64_t ack, uint64_t now_ns, uint64_t *ret_ack,
			 enum bus_status *ret_status)
{
	struct event_cursor cursor = {.name = (char *)name, .used_at_ns = now_ns};
	struct log_key key = log_key_text(name);
	size_t count = 0;
	int r;

	*ret_status = BUS_OK;
	r = eventlog_find_cursor(txn, name, &cursor.ack);
	if (r == LOG_E_NOT_FOUND || r == LOG_E_DAMAGED) {
		cursor.ack = from > 0 ? from - 1 : meta->next_seq - 1;
		r = log_count(txn, LOG_CURSORS, &count);
	}
	if (r)
		return error_trace(r);
	if (ack >= meta->next_seq)
		*ret_status = BUS_INVALID_ARGUMENT;
	else if (count >= EVENTLOG_CURSORS_MAX)
		*ret_status = BUS_RESOURCE_EXHAUSTED;
	if (*ret_status != BUS_OK)
		return 0;
	if (ack > cursor.ack)
		cursor.ack = ack;
	*ret_ack = cursor.ack;
	return log_put(txn, LOG_CURSORS, &key, schema_event_cursor(), &cursor, NULL);
}

int eventlog_list_cursors(struct log_txn *txn, struct event_cursors_reply *reply)
{
	struct log_key key = {};
	int r;

	while (!(r = log_next_key(txn, LOG_CURSORS, &key))) {
		struct event_cursor cursor = {}, *item;

		r = log_get(txn, LOG_CURSORS, &key, schema_event_cursor(), &cursor, NULL);
		if (r == LOG_E_DAMAGED)
			continue;
		if (r)
			return error_trace(r);
		item = schema_list_add(&reply->cursors);
		if (!item) {
			event_cursor_clear(&cursor);
			return error_origin(-ENOMEM);
		}
		*item = cursor;
	}
	return r == LOG_E_NOT_FOUND ? 0 : error_trace(r);
}
