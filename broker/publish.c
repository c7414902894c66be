#include <stdlib.h>
#include <string.h>

#include "broker/lib/cleanup.h"
#include "broker/lib/nng_compat.h"
#include "broker/lib/points.h"
#include "broker/publish.h"

struct publish {
	nng_socket socket;
	const atomic_uint *n_subscribers;
	nng_aio *aio;
	struct schema_buffer buffer;
};

int publish_new(nng_socket socket, const atomic_uint *n_subscribers, struct publish **ret_publish)
{
	struct publish *publish = calloc(1, sizeof(*publish));
	int r;

	if (!publish)
		return error_origin(-ENOMEM);
	publish->socket = socket;
	publish->n_subscribers = n_subscribers;
	r = nng_aio_alloc(&publish->aio, NULL, NULL);
	if (r) {
		free(publish);
		return error_origin(nng_compat_errno(r));
	}
	*ret_publish = publish;
	return 0;
}

struct publish *publish_free(struct publish *publish)
{
	if (!publish)
		return NULL;
	nng_aio_free(publish->aio);
	schema_buffer_clear(&publish->buffer);
	free(publish);
	return NULL;
}

/* PUB never waits for a subscriber: what one cannot take is dropped there. */
static void send_buffer(struct publish *publish)
{
	nng_msg *message = NULL;

	if (nng_compat_message(publish->buffer.data, publish->buffer.size, &message))
		return;
	(void)point("broker.event.before");
	nng_aio_set_msg(publish->aio, message);
	nng_send_aio(publish->socket, publish->aio);
	nng_aio_wait(publish->aio);
	(void)point("broker.event.after");
	if (nng_aio_result(publish->aio))
		nng_msg_free(nng_aio_get_msg(publish->aio));
}

void publish_event(struct publish *publish, const struct envelope_event *event)
{
	if (atomic_load(publish->n_subscribers) == 0)
		return;
	publish->buffer.size = 0;
	if (schema_buffer_add(&publish->buffer, event->topic, strlen(event->topic) + 1) ||
	    envelope_write_event(event, &publish->buffer))
		return;
	send_buffer(publish);
}

void publish_heartbeat(struct publish *publish, const uint8_t log_id[ENVELOPE_ID_SIZE],
		       uint64_t last_seq)
{
	struct broker_heartbeat heartbeat = {
		.log_id = {.data = (uint8_t *)log_id, .size = ENVELOPE_ID_SIZE},
		.last_seq = last_seq,
	};

	if (atomic_load(publish->n_subscribers) == 0)
		return;
	publish->buffer.size = 0;
	if (schema_buffer_add(&publish->buffer, PUBLISH_HEARTBEAT_TOPIC,
			      sizeof(PUBLISH_HEARTBEAT_TOPIC)) ||
	    schema_pack(schema_broker_heartbeat(), &heartbeat, &publish->buffer, NULL))
		return;
	send_buffer(publish);
}
