#pragma once
/*
 * What travels around a message: msgpack arrays, which may grow at the end.
 *
 *	request	[version, id, deadline_ms, namespace, "service.method", body, {trace, parent, uid, pid}]
 *	reply	[version, id, status, text, body]
 *	event	[log_id, seq, time_ns, namespace, topic, object, publisher, publisher_seq, event]
 *
 * id, log_id, publisher, trace and parent are 16 byte bins; status is one of the
 * texts of enum bus_status; body and event are nested msgpack values, which
 * reading leaves as they are (spans into the input). deadline_ms is
 * CLOCK_BOOTTIME; 0 asks for the broker's default. Reading allocates nothing.
 */

#include <stdbool.h>
#include <stdint.h>

#include "schemas/messages.h"

#define ENVELOPE_VERSION	  1
#define ENVELOPE_ID_SIZE	  16
#define ENVELOPE_NAME_MAX	  76  /* namespace, service */
#define ENVELOPE_METHOD_MAX	  160 /* service.method */
/* Begins the text of a PENDING, or of a service's DEADLINE_EXCEEDED, that says what the request waits for. */
#define ENVELOPE_WAITS "it waits: "
#define ENVELOPE_TEXT_MAX	  1024
#define ENVELOPE_TOPIC_MAX	  256
#define ENVELOPE_DEFAULT_NS	  "default"
#define ENVELOPE_DEADLINE_DEFAULT 60000	  /* ms from arrival, when a request names none */
#define ENVELOPE_DEADLINE_MAX	  3600000 /* ms: a later deadline is cut to this */

struct envelope_request {
	uint8_t id[ENVELOPE_ID_SIZE];
	uint64_t deadline_ms;
	char namespace[ENVELOPE_NAME_MAX + 1];
	char method[ENVELOPE_METHOD_MAX + 1];
	struct schema_span body; /* empty: written as an empty map */
	bool has_trace, has_parent, has_peer;
	uint8_t trace[ENVELOPE_ID_SIZE];
	uint8_t parent[ENVELOPE_ID_SIZE]; /* request id of the operation within which this call is made */
	uint32_t uid, pid;		  /* filled in by the broker */
};

struct envelope_reply {
	uint8_t id[ENVELOPE_ID_SIZE];
	enum bus_status status;
	char text[ENVELOPE_TEXT_MAX + 1];
	struct schema_span body;
};

struct envelope_event {
	uint8_t log_id[ENVELOPE_ID_SIZE];
	uint64_t seq, time_ns, publisher_seq;
	char namespace[ENVELOPE_NAME_MAX + 1];
	char topic[ENVELOPE_TOPIC_MAX + 1];
	char object[ENVELOPE_TOPIC_MAX + 1];
	uint8_t publisher[ENVELOPE_ID_SIZE];
	struct schema_span event;
};

/* 0, or SCHEMA_E_* with @fault. A version above ours is SCHEMA_E_VALUE. An unknown status reads as
 * BUS_INTERNAL. On SCHEMA_E_* of a request, ret->id is filled in if it could be read (else zero). */
int envelope_read_request(const void *data, size_t size, struct envelope_request *ret_request,
			  struct schema_fault *fault);
int envelope_read_reply(const void *data, size_t size, struct envelope_reply *ret_reply,
			struct schema_fault *fault);
int envelope_read_event(const void *data, size_t size, struct envelope_event *ret_event,
			struct schema_fault *fault);
/* Append to @buffer; 0 or -ENOMEM. */
int envelope_write_request(const struct envelope_request *request, struct schema_buffer *buffer);
int envelope_write_reply(const struct envelope_reply *reply, struct schema_buffer *buffer);
int envelope_write_event(const struct envelope_event *event, struct schema_buffer *buffer);

/* Splits "service.method" at the first dot into @service (ENVELOPE_NAME_MAX + 1 bytes); returns the
 * method's name, or NULL if there is none. */
const char *envelope_split_method(const char *method, char service[ENVELOPE_NAME_MAX + 1]);
