#pragma once
/*
 * The PUB socket's messages: `topic '\0' payload`. An event's payload is its
 * envelope, a heartbeat's a broker_heartbeat. A slow subscriber loses messages
 * here and reads them from the log. One thread only.
 */

#include <nng/nng.h>
#include <stdatomic.h>

#include "broker/lib/error.h"
#include "schemas/envelope.h"

#define PUBLISH_HEARTBEAT_TOPIC "/bus/heartbeat"

struct publish;

/* @socket is borrowed. @n_subscribers: its connections; while there are none nothing is built or sent. */
int publish_new(nng_socket socket, const atomic_uint *n_subscribers, struct publish **ret_publish);
struct publish *publish_free(struct publish *publish);

void publish_event(struct publish *publish, const struct envelope_event *event);
void publish_heartbeat(struct publish *publish, const uint8_t log_id[ENVELOPE_ID_SIZE],
		       uint64_t last_seq);
