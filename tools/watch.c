/* See watch.h. */

#include "tools/watch.h"

#include <stdlib.h>
#include <string.h>

#include "broker/lib/cleanup.h"
#include "broker/lib/file.h"
#include "broker/lib/sp.h"

#define WAIT_MS  10000 /* of one read: what the broker allows */
#define SLACK_MS 5000  /* beyond it, until the connection is given up */
#define RETRY_MS 50

struct watch {
	struct loop *loop;
	struct sp_client *client;
	struct loop_timer retry;
	const char *namespace, *object;
	const char *const *topics;
	uint64_t next;
	watch_fn fn;
	void *userdata;
	bool is_freed; /* by its own callback */
	bool is_busy;
};

static void ask(struct watch *watch);

static void on_retry(struct loop_timer *timer)
{
	ask(container_of(timer, struct watch, retry));
}

static void ask_again(struct watch *watch, uint64_t delay_ms)
{
	(void)loop_timer_set(watch->loop, &watch->retry, time_boot_ms() + delay_ms, on_retry);
}

static void deliver(struct watch *watch, const struct event_read_reply *reply)
{
	for (size_t i = 0; i < reply->events.count && !watch->is_freed; i++)
		watch->fn(watch->userdata, &reply->events.items[i]);
	watch->next = reply->next;
}

static void on_reply(void *userdata, int r, const void *data, size_t size)
{
	_cleanup_(event_read_reply_clear) struct event_read_reply reply = {};
	struct watch *watch = userdata;
	struct envelope_reply envelope;

	if (r || envelope_read_reply(data, size, &envelope, NULL) || envelope.status != BUS_OK ||
	    schema_unpack(schema_event_read_reply(), envelope.body.data, envelope.body.size, &reply,
			  NULL)) {
		ask_again(watch, RETRY_MS);
		return;
	}
	watch->is_busy = true;
	deliver(watch, &reply);
	watch->is_busy = false;
	if (watch->is_freed)
		free(watch);
	else
		ask_again(watch, 0);
}

static int pack_request(const struct watch *watch, struct schema_buffer *buffer)
{
	_cleanup_(schema_buffer_clear) struct schema_buffer body = {};
	struct event_read_request read = {
		.from = watch->next,
		.namespace = (char *)watch->namespace,
		.object = (char *)watch->object,
		.wait_ms = WAIT_MS,
	};
	struct envelope_request envelope = {.deadline_ms = time_boot_ms() + WAIT_MS + SLACK_MS,
					    .method = "event.read",
					    .namespace = ENVELOPE_DEFAULT_NS};
	int r;

	read.topics.items = (char **)watch->topics;
	while (watch->topics && watch->topics[read.topics.count])
		read.topics.count++;
	id_make(envelope.id);
	r = schema_pack(schema_event_read_request(), &read, &body, NULL);
	envelope.body = (struct schema_span){body.data, body.size};
	return r ?: envelope_write_request(&envelope, buffer);
}

static void ask(struct watch *watch)
{
	_cleanup_(schema_buffer_clear) struct schema_buffer buffer = {};

	if (pack_request(watch, &buffer) ||
	    sp_client_request(watch->client, buffer.data, buffer.size,
			      time_boot_ms() + WAIT_MS + SLACK_MS, on_reply, watch))
		ask_again(watch, RETRY_MS);
}

int watch_new(struct loop *loop, const char *bus_path, const char *namespace,
	      const char *const *topics, const char *object, uint64_t from, watch_fn fn,
	      void *userdata, struct watch **ret_watch)
{
	_cleanup_(watch_freep) struct watch *watch = calloc(1, sizeof(*watch));
	int r;

	if (!watch)
		return error_origin(-ENOMEM);
	*watch = (struct watch){.loop = loop,
				.namespace = namespace,
				.object = object,
				.topics = topics,
				.next = from,
				.fn = fn,
				.userdata = userdata};
	r = sp_client_new(loop, bus_path, &watch->client);
	if (r)
		return error_trace(r);
	ask(watch);
	*ret_watch = TAKE(watch);
	return 0;
}

struct watch *watch_free(struct watch *watch)
{
	if (!watch)
		return NULL;
	loop_timer_cancel(&watch->retry);
	watch->client = sp_client_free(watch->client);
	if (watch->is_busy)
		watch->is_freed = true;
	else
		free(watch);
	return NULL;
}

void watch_freep(struct watch **watch)
{
	*watch = watch_free(*watch);
}
