/* Subscriptions: one SUB socket a process, and a struct follow for each. */

#include <string.h>

#include "broker/lib/bus_private.h"
#include "broker/lib/bus_receiver.h"
#include "broker/lib/calls.h"
#include "broker/lib/follow.h"

/* The broker sends a heartbeat within a second of silence: so long without any, and the log is read. */
#define SILENCE_MS    3000
#define READ_RETRY_MS 200
#define READ_MS       30000

struct bus_subscription {
	struct bus *bus;
	TAILQ_ENTRY(bus_subscription) all;
	struct follow follow;
	char *namespace, *object; /* NULL: all */
	struct schema_strs topics;
	bus_event_fn fn;
	void *userdata;
	struct bus_call *read; /* NULL: none under way */
	struct loop_timer retry;
	bool is_joining; /* counted in bus->n_joining */
	bool *is_gone;   /* while it is being delivered to: where to note that it was freed */
};

/* ---- one subscription ---- */

static bool has_prefix(const char *text, const char *prefix)
{
	return strncmp(text, prefix, strlen(prefix)) == 0;
}

/* As the broker filters what event.read gives. */
static bool subscription_wants(const struct bus_subscription *subscription,
			       const struct envelope_event *event)
{
	const struct schema_strs *topics = &subscription->topics;

	if (subscription->namespace && strcmp(subscription->namespace, event->namespace) != 0)
		return false;
	if (subscription->object && strcmp(subscription->object, event->object) != 0)
		return false;
	if (topics->count == 0)
		return true;

	for (size_t i = 0; i < topics->count; i++) {
		if (has_prefix(event->topic, topics->items[i]))
			return true;
	}
	return false;
}

/* False: the callback freed the subscription. */
static bool subscription_deliver(struct bus_subscription *subscription,
				 const struct envelope_event *event)
{
	bool is_gone = false;

	if (!subscription_wants(subscription, event))
		return true;

	subscription->is_gone = &is_gone;
	subscription->fn(subscription->userdata, event,
			 follow_take_truncated(&subscription->follow));
	if (is_gone)
		return false;
	subscription->is_gone = NULL;
	return true;
}

/* Delivers kept events whose turn it is. */
static bool subscription_drain(struct bus_subscription *subscription)
{
	struct bus_live *live;
	bool is_there = true;

	while (is_there && (live = follow_take(&subscription->follow))) {
		is_there = subscription_deliver(subscription, &live->event);
		bus_live_unref(live);
	}
	return is_there;
}

static void subscription_joined(struct bus_subscription *subscription)
{
	if (!subscription->is_joining)
		return;
	subscription->is_joining = false;
	subscription->bus->n_joining--;
	bus_pump(subscription->bus);
}

static void subscription_read_done(void *userdata, enum bus_status status, const char *text,
				   struct event_read_reply *reply);

static int subscription_request(struct bus_subscription *subscription, uint64_t from)
{
	/* Borrowed: not cleared. */
	struct event_read_request request = {
		.from = from,
		.namespace = subscription->namespace,
		.object = subscription->object,
		.topics = subscription->topics,
	};
	struct bus_options options = {.deadline_ms = time_boot_ms() + READ_MS};

	return bus_call_first(subscription->bus, schema_find_method("event", "read"), &options,
			      &request, (bus_typed_fn)(void (*)(void))subscription_read_done,
			      subscription, &subscription->read);
}

static void subscription_read(struct bus_subscription *subscription)
{
	uint64_t from;

	if (subscription->retry.loop || !follow_wants_read(&subscription->follow, &from))
		return;

	follow_read_begin(&subscription->follow);
	if (subscription_request(subscription, from)) {
		follow_read_failed(&subscription->follow);
		loop_timer_set(subscription->bus->loop, &subscription->retry,
			       time_boot_ms() + READ_RETRY_MS, subscription->retry.fn);
	}
}

static void subscription_retry(struct loop_timer *timer)
{
	subscription_read(container_of(timer, struct bus_subscription, retry));
}

static void copy_text(char *to, size_t size, const char *from)
{
	size_t length = from ? strlen(from) : 0;

	if (length >= size)
		length = size - 1;
	if (length > 0)
		memcpy(to, from, length);
	to[length] = '\0';
}

/* An event of the log in the form that live ones have. */
static void event_convert(const struct bus_event *event, const uint8_t *log_id,
			  struct envelope_event *ret_event)
{
	*ret_event = (struct envelope_event){
		.seq = event->seq,
		.time_ns = event->time_ns,
		.publisher_seq = event->publisher_seq,
		.event = {.data = event->event.data, .size = event->event.size},
	};
	memcpy(ret_event->log_id, log_id, sizeof(ret_event->log_id));
	if (event->publisher.size == sizeof(ret_event->publisher))
		memcpy(ret_event->publisher, event->publisher.data, event->publisher.size);
	copy_text(ret_event->namespace, sizeof(ret_event->namespace), event->namespace);
	copy_text(ret_event->topic, sizeof(ret_event->topic), event->topic);
	copy_text(ret_event->object, sizeof(ret_event->object), event->object);
}

/* 0: its events are delivered, go on; 1: read again later; -ECANCELED: the subscription is gone. */
static int subscription_replay(struct bus_subscription *subscription,
			       const struct event_read_reply *reply)
{
	struct follow *follow = &subscription->follow;
	struct follow_reply head = {
		.log_id = reply->log_id.data,
		.next = reply->next,
		.first_seq = reply->first_seq,
		.last_seq = reply->last_seq,
		.is_truncated = reply->truncated,
	};
	struct envelope_event event;

	if (reply->log_id.size != ENVELOPE_ID_SIZE) {
		follow_read_failed(follow);
		return 1;
	}
	if (!follow_read_reply(follow, &head))
		return 1;

	for (size_t i = 0; i < reply->events.count; i++) {
		if (!follow_read_event(follow, reply->events.items[i].seq))
			continue;
		event_convert(&reply->events.items[i], head.log_id, &event);
		if (!subscription_deliver(subscription, &event))
			return -ECANCELED;
	}
	return follow_read_end(follow) ? 0 : 1;
}

static void subscription_read_done(void *userdata, enum bus_status status, const char *text,
				   struct event_read_reply *reply)
{
	struct bus_subscription *subscription = userdata;
	int r = 1;

	(void)text;
	subscription->read = NULL;
	if (subscription->bus->is_closing)
		return;
	if (status == BUS_OK)
		r = subscription_replay(subscription, reply);
	else
		follow_read_failed(&subscription->follow);
	if (r < 0 || !subscription_drain(subscription))
		return;

	if (status != BUS_OK || (r > 0 && subscription->follow.last >= subscription->follow.next))
		loop_timer_set(subscription->bus->loop, &subscription->retry,
			       time_boot_ms() + READ_RETRY_MS, subscription_retry);
	subscription_read(subscription);
	/* Also when it failed: calls do not wait for more than one attempt. */
	subscription_joined(subscription);
}

static void subscription_hear(struct bus_subscription *subscription, struct bus_live *live)
{
	const struct envelope_event *event = &live->event;

	switch (follow_live(&subscription->follow, event->log_id, event->seq, live)) {
	case FOLLOW_DELIVER:
		if (!subscription_deliver(subscription, event))
			return;
		break;
	case FOLLOW_KEEP:
		live->n_refs++;
		break;
	case FOLLOW_DROP:
		break;
	}
	if (subscription_drain(subscription))
		subscription_read(subscription);
}

/* ---- what the socket brings ---- */

/* Callbacks may free any subscription, and make new ones: each is visited by its place in the list. */
static void each_subscription(struct bus *bus,
			      void (*fn)(struct bus_subscription *subscription, void *userdata),
			      void *userdata)
{
	struct bus_subscription marker = {.bus = NULL}, *subscription;

	TAILQ_INSERT_HEAD(&bus->subscriptions, &marker, all);
	while ((subscription = TAILQ_NEXT(&marker, all))) {
		TAILQ_REMOVE(&bus->subscriptions, &marker, all);
		TAILQ_INSERT_AFTER(&bus->subscriptions, subscription, &marker, all);
		fn(subscription, userdata);
	}
	TAILQ_REMOVE(&bus->subscriptions, &marker, all);
}

static void hear_event(struct bus_subscription *subscription, void *live)
{
	subscription_hear(subscription, live);
}

static void hear_heartbeat(struct bus_subscription *subscription, void *userdata)
{
	const struct broker_heartbeat *heartbeat = userdata;

	follow_heartbeat(&subscription->follow, heartbeat->log_id.data, heartbeat->last_seq);
	subscription_read(subscription);
}

static void hear_nothing(struct bus_subscription *subscription, void *userdata)
{
	(void)userdata;
	follow_suspect(&subscription->follow);
	subscription_read(subscription);
}

/* ---- the receiver ---- */

static void silence_passed(struct loop_timer *timer);

static void silence_begin(struct bus *bus)
{
	loop_timer_set(bus->loop, &bus->silence, time_boot_ms() + SILENCE_MS, silence_passed);
}

static void silence_passed(struct loop_timer *timer)
{
	struct bus *bus = container_of(timer, struct bus, silence);

	silence_begin(bus);
	each_subscription(bus, hear_nothing, NULL);
}

static void receive(void *userdata, struct bus_live *live, const struct broker_heartbeat *heartbeat)
{
	struct bus *bus = userdata;

	silence_begin(bus);
	if (live)
		each_subscription(bus, hear_event, live);
	else if (heartbeat)
		each_subscription(bus, hear_heartbeat, (void *)heartbeat);
	else
		each_subscription(bus, hear_nothing, NULL);
}

static int receiver_open(struct bus *bus)
{
	int r;

	if (bus->receiver)
		return 0;
	if (!bus->events_path)
		return error_origin(-EINVAL);

	r = bus_receiver_new(bus->loop, bus->events_path, receive, bus, &bus->receiver);
	if (r)
		return error_trace(r);

	silence_begin(bus);
	return 0;
}

void bus_events_close(struct bus *bus)
{
	struct bus_subscription *subscription;

	while ((subscription = TAILQ_FIRST(&bus->subscriptions)))
		bus_subscription_free(subscription);
	loop_timer_cancel(&bus->silence);
	bus->receiver = bus_receiver_free(bus->receiver);
}

/* ---- subscribing ---- */

static int subscription_set_filter(struct bus_subscription *subscription,
				   const struct bus_filter *filter)
{
	int r;

	r = schema_set(&subscription->namespace, filter->namespace);
	if (!r)
		r = schema_set(&subscription->object, filter->object);
	for (size_t i = 0; !r && filter->topics && filter->topics[i]; i++)
		r = schema_strs_add(&subscription->topics, filter->topics[i]);
	return error_trace(r);
}

int bus_subscribe(struct bus *bus, const struct bus_filter *filter, bus_event_fn fn, void *userdata,
		  struct bus_subscription **ret_subscription)
{
	struct bus_subscription *subscription;
	int r;

	if (bus->is_closing)
		return error_origin(-ESHUTDOWN);
	r = receiver_open(bus);
	if (r)
		return error_trace(r);

	subscription = calloc(1, sizeof(*subscription));
	if (!subscription)
		return error_origin(-ENOMEM);

	subscription->bus = bus;
	subscription->fn = fn;
	subscription->userdata = userdata;
	subscription->retry.fn = subscription_retry;
	follow_init(&subscription->follow, filter->from, bus_live_unref);
	TAILQ_INSERT_TAIL(&bus->subscriptions, subscription, all);
	r = subscription_set_filter(subscription, filter);
	if (r) {
		bus_subscription_free(subscription);
		return error_trace(r);
	}
	if (filter->from == 0) {
		subscription->is_joining = true;
		bus->n_joining++;
	}
	subscription_read(subscription);
	*ret_subscription = subscription;
	return 0;
}

struct bus_subscription *bus_subscription_free(struct bus_subscription *subscription)
{
	if (!subscription)
		return NULL;

	if (subscription->is_gone)
		*subscription->is_gone = true;
	TAILQ_REMOVE(&subscription->bus->subscriptions, subscription, all);
	bus_call_cancel(subscription->read);
	subscription->read = NULL;
	subscription_joined(subscription);
	loop_timer_cancel(&subscription->retry);
	follow_deinit(&subscription->follow);
	schema_strs_clear(&subscription->topics);
	free(subscription->namespace);
	free(subscription->object);
	free(subscription);
	return NULL;
}
