/*
 * Envelopes: see envelope.h. schema_scan_array() proves the whole message
 * well-formed and finds its elements; what is left is to read heads that are
 * known to be there, so reading needs neither msgpack-c nor memory.
 */

#include <errno.h>
#include <msgpack.h>
#include <stdio.h>
#include <string.h>

#include "schemas/envelope.h"

#define NODES_MAX  (SCHEMA_NODES_MAX + 32) /* of the body, and of what is around it */
#define PEER_PAIRS 8                       /* further pairs of the peer's map are skipped */

static const uint8_t empty_map[] = {0x80};

static int fail(struct schema_fault *fault, int code, const char *what, const char *problem)
{
	if (fault)
		snprintf(fault->text, sizeof(fault->text), "%s %s", what, problem);
	return code;
}

/* ---- reading elements ----------------------------------------------------- */

static uint64_t read_big_endian(const uint8_t *data, size_t size)
{
	uint64_t value = 0;

	for (size_t i = 0; i < size; i++)
		value = value << 8 | data[i];
	return value;
}

static bool is_nil(const struct schema_span *element)
{
	return element->data[0] == 0xc0;
}

static int read_u64(const struct schema_span *element, const char *what, uint64_t *ret_value,
		    struct schema_fault *fault)
{
	uint8_t head = element->data[0];

	if (head <= 0x7f)
		*ret_value = head;
	else if (head >= 0xcc && head <= 0xcf)
		*ret_value = read_big_endian(element->data + 1, element->size - 1);
	else if (head >= 0xd0 && head <= 0xd3 && !(element->data[1] & 0x80))
		*ret_value = read_big_endian(element->data + 1, element->size - 1);
	else
		return fail(fault, SCHEMA_E_TYPE, what, "is not a non-negative integer");
	return 0;
}

/* The payload of a str (@first 0xd9) or bin (0xc4) whose length takes 1, 2 or 4 bytes, or of a fixstr. */
static bool read_payload(const struct schema_span *element, uint8_t first,
			 struct schema_span *ret_payload)
{
	uint8_t head = element->data[0];
	size_t skip;

	if (head >= first && head <= first + 2)
		skip = 1 + (1u << (head - first));
	else if (first == 0xd9 && (head & 0xe0) == 0xa0)
		skip = 1;
	else
		return false;
	*ret_payload = (struct schema_span){element->data + skip, element->size - skip};
	return true;
}

static int read_id(const struct schema_span *element, const char *what,
		   uint8_t id[ENVELOPE_ID_SIZE], struct schema_fault *fault)
{
	struct schema_span payload;

	if (!read_payload(element, 0xc4, &payload))
		return fail(fault, SCHEMA_E_TYPE, what, "is not a byte string");
	if (payload.size != ENVELOPE_ID_SIZE)
		return fail(fault, SCHEMA_E_VALUE, what, "is not 16 bytes long");
	memcpy(id, payload.data, ENVELOPE_ID_SIZE);
	return 0;
}

/* Into @text, which has room for @max bytes and a NUL. */
static int read_text(const struct schema_span *element, const char *what, char *text, size_t max,
		     struct schema_fault *fault)
{
	struct schema_span payload;

	if (!read_payload(element, 0xd9, &payload))
		return fail(fault, SCHEMA_E_TYPE, what, "is not a string");
	if (payload.size > max)
		return fail(fault, SCHEMA_E_LIMIT, what, "is too long");
	if (!schema_is_text((const char *)payload.data, payload.size))
		return fail(fault, SCHEMA_E_VALUE, what, "is not UTF-8 text without NUL");
	memcpy(text, payload.data, payload.size);
	text[payload.size] = '\0';
	return 0;
}

static int read_version(const struct schema_span *element, const char *what,
			struct schema_fault *fault)
{
	uint64_t version;
	int r = read_u64(element, what, &version, fault);

	if (!r && (!version || version > ENVELOPE_VERSION))
		r = fail(fault, SCHEMA_E_VALUE, what, "is not one that this process speaks (1)");
	return r;
}

/* The elements of an envelope with at least @n of them, at most @max of which are given. */
static int read_elements(const void *data, size_t size, const char *what, size_t n, size_t max,
			 struct schema_span *elements, size_t *ret_count,
			 struct schema_fault *fault)
{
	size_t count;

	if (schema_scan_array(data, size, NODES_MAX, elements, max, &count))
		return fail(fault, SCHEMA_E_MALFORMED, what,
			    "is not one well-formed msgpack array");
	if (count < n)
		return fail(fault, SCHEMA_E_MISSING, what, "has too few elements");
	*ret_count = count < max ? count : max;
	return 0;
}

/* ---- request -------------------------------------------------------------- */

static bool is_key(const struct schema_span *element, const char *name)
{
	struct schema_span key;

	return read_payload(element, 0xd9, &key) && key.size == strlen(name) &&
	       !memcmp(key.data, name, key.size);
}

static int read_u32(const struct schema_span *element, const char *what, uint32_t *ret_value,
		    struct schema_fault *fault)
{
	uint64_t value = 0;
	int r = read_u64(element, what, &value, fault);

	if (!r && value > UINT32_MAX)
		r = fail(fault, SCHEMA_E_LIMIT, what, "is over 32 bits");
	*ret_value = (uint32_t)value;
	return r;
}

static int read_peer_pair(const struct schema_span *pair, struct envelope_request *request,
			  struct schema_fault *fault)
{
	const struct schema_span *value = pair + 1;
	int r = 0;

	if (is_nil(value))
		return 0;
	if (is_key(pair, "trace")) {
		r = read_id(value, "request.trace", request->trace, fault);
		request->has_trace = true;
	} else if (is_key(pair, "parent")) {
		r = read_id(value, "request.parent", request->parent, fault);
		request->has_parent = true;
	} else if (is_key(pair, "uid")) {
		r = read_u32(value, "request.uid", &request->uid, fault);
		request->has_peer = true;
	} else if (is_key(pair, "pid")) {
		r = read_u32(value, "request.pid", &request->pid, fault);
		request->has_peer = true;
	}
	return r;
}

static int read_peer(const struct schema_span *element, struct envelope_request *request,
		     struct schema_fault *fault)
{
	struct schema_span items[2 * PEER_PAIRS];
	size_t count;
	int r = 0;

	if (is_nil(element))
		return 0;
	if (schema_scan_map(element->data, element->size, NODES_MAX, items, 2 * PEER_PAIRS, &count))
		return fail(fault, SCHEMA_E_TYPE, "request's last element", "is not a map");
	for (size_t i = 0; !r && i < count && i < PEER_PAIRS; i++)
		r = read_peer_pair(&items[2 * i], request, fault);
	return r;
}

static int read_request(const struct schema_span *elements, size_t count,
			struct envelope_request *request, struct schema_fault *fault)
{
	int r;

	r = read_id(&elements[1], "request.id", request->id, fault)
	    ?: read_version(&elements[0], "request.version", fault)
	    ?: read_u64(&elements[2], "request.deadline", &request->deadline_ms, fault)
	    ?: read_text(&elements[3], "request.namespace", request->namespace, ENVELOPE_NAME_MAX, fault)
	    ?: read_text(&elements[4], "request.method", request->method, ENVELOPE_METHOD_MAX, fault);
	if (!r && count > 6)
		r = read_peer(&elements[6], request, fault);
	request->body = is_nil(&elements[5]) ? (struct schema_span){empty_map, 1} : elements[5];
	return r;
}

int envelope_read_request(const void *data, size_t size, struct envelope_request *ret_request,
			  struct schema_fault *fault)
{
	struct envelope_request request = {};
	struct schema_span elements[7];
	size_t count;
	int r;

	*ret_request = (struct envelope_request){};
	r = read_elements(data, size, "request", 6, 7, elements, &count, fault)
		    ?: read_request(elements, count, &request, fault);
	if (r)
		memcpy(ret_request->id, request.id, sizeof(request.id));
	else
		*ret_request = request;
	return r;
}

/* ---- reply ---------------------------------------------------------------- */

static int read_status(const struct schema_span *element, enum bus_status *ret_status,
		       struct schema_fault *fault)
{
	char text[32];
	int value, r;

	if (element->data[0] == 0xd9 && element->size > sizeof(text)) {
		*ret_status = BUS_INTERNAL; /* longer than any text of ours */
		return 0;
	}
	r = read_text(element, "reply.status", text, sizeof(text) - 1, fault);
	if (r)
		return r;
	value = schema_enum_value(&schema_enum_bus_status, text);
	*ret_status = value < 0 ? BUS_INTERNAL : (enum bus_status)value;
	return 0;
}

int envelope_read_reply(const void *data, size_t size, struct envelope_reply *ret_reply,
			struct schema_fault *fault)
{
	struct schema_span elements[5];
	struct envelope_reply reply = {};
	size_t count;
	int r;

	r = read_elements(data, size, "reply", 5, 5, elements, &count, fault)
	    ?: read_version(&elements[0], "reply.version", fault)
	    ?: read_id(&elements[1], "reply.id", reply.id, fault)
	    ?: read_status(&elements[2], &reply.status, fault)
	    ?: read_text(&elements[3], "reply.text", reply.text, ENVELOPE_TEXT_MAX, fault);
	if (r)
		return r;
	reply.body = is_nil(&elements[4]) ? (struct schema_span){empty_map, 1} : elements[4];
	*ret_reply = reply;
	return 0;
}

/* ---- event ---------------------------------------------------------------- */

int envelope_read_event(const void *data, size_t size, struct envelope_event *ret_event,
			struct schema_fault *fault)
{
	struct schema_span elements[9];
	struct envelope_event event = {};
	size_t count;
	int r;

	r = read_elements(data, size, "event", 9, 9, elements, &count, fault)
	    ?: read_id(&elements[0], "event.log_id", event.log_id, fault)
	    ?: read_u64(&elements[1], "event.seq", &event.seq, fault)
	    ?: read_u64(&elements[2], "event.time_ns", &event.time_ns, fault)
	    ?: read_text(&elements[3], "event.namespace", event.namespace, ENVELOPE_NAME_MAX, fault)
	    ?: read_text(&elements[4], "event.topic", event.topic, ENVELOPE_TOPIC_MAX, fault)
	    ?: read_text(&elements[5], "event.object", event.object, ENVELOPE_TOPIC_MAX, fault)
	    ?: read_id(&elements[6], "event.publisher", event.publisher, fault)
	    ?: read_u64(&elements[7], "event.publisher_seq", &event.publisher_seq, fault);
	if (r)
		return r;
	event.event = elements[8];
	*ret_event = event;
	return 0;
}

/* ---- writing -------------------------------------------------------------- */

static int write_buffer(void *data, const char *bytes, size_t size)
{
	return schema_buffer_add(data, bytes, size);
}

static int write_text(msgpack_packer *packer, const char *text)
{
	size_t size = strlen(text);

	return msgpack_pack_str(packer, size) ?: msgpack_pack_str_body(packer, text, size);
}

static int write_id(msgpack_packer *packer, const uint8_t id[ENVELOPE_ID_SIZE])
{
	return msgpack_pack_bin(packer, ENVELOPE_ID_SIZE)
		       ?: msgpack_pack_bin_body(packer, id, ENVELOPE_ID_SIZE);
}

static int write_body(struct schema_buffer *buffer, const struct schema_span *body)
{
	return body->size ? schema_buffer_add(buffer, body->data, body->size)
			  : schema_buffer_add(buffer, empty_map, sizeof(empty_map));
}

/* Gives back what was there before when writing failed. */
static int finish(struct schema_buffer *buffer, size_t before, int r)
{
	if (!r)
		return 0;
	buffer->size = before;
	return -ENOMEM;
}

static int write_peer(msgpack_packer *packer, const struct envelope_request *request)
{
	int r;

	r = msgpack_pack_map(packer, (size_t)request->has_trace + request->has_parent +
					     2u * request->has_peer);
	if (!r && request->has_trace)
		r = write_text(packer, "trace") ?: write_id(packer, request->trace);
	if (!r && request->has_parent)
		r = write_text(packer, "parent") ?: write_id(packer, request->parent);
	if (!r && request->has_peer)
		r = write_text(packer, "uid") ?: msgpack_pack_uint32(packer, request->uid)
		    ?: write_text(packer, "pid") ?: msgpack_pack_uint32(packer, request->pid);
	return r;
}

int envelope_write_request(const struct envelope_request *request, struct schema_buffer *buffer)
{
	size_t before = buffer->size;
	msgpack_packer packer;

	msgpack_packer_init(&packer, buffer, write_buffer);
	return finish(buffer, before,
		      msgpack_pack_array(&packer, 7)
		      ?: msgpack_pack_int(&packer, ENVELOPE_VERSION)
		      ?: write_id(&packer, request->id)
		      ?: msgpack_pack_uint64(&packer, request->deadline_ms)
		      ?: write_text(&packer, request->namespace)
		      ?: write_text(&packer, request->method)
		      ?: write_body(buffer, &request->body)
		      ?: write_peer(&packer, request));
}

int envelope_write_reply(const struct envelope_reply *reply, struct schema_buffer *buffer)
{
	size_t before = buffer->size;
	msgpack_packer packer;

	msgpack_packer_init(&packer, buffer, write_buffer);
	return finish(buffer, before,
		      msgpack_pack_array(&packer, 5)
		      ?: msgpack_pack_int(&packer, ENVELOPE_VERSION)
		      ?: write_id(&packer, reply->id)
		      ?: write_text(&packer, schema_enum_text(&schema_enum_bus_status, reply->status))
		      ?: write_text(&packer, reply->text)
		      ?: write_body(buffer, &reply->body));
}

int envelope_write_event(const struct envelope_event *event, struct schema_buffer *buffer)
{
	size_t before = buffer->size;
	msgpack_packer packer;

	msgpack_packer_init(&packer, buffer, write_buffer);
	return finish(buffer, before,
		      msgpack_pack_array(&packer, 9)
		      ?: write_id(&packer, event->log_id)
		      ?: msgpack_pack_uint64(&packer, event->seq)
		      ?: msgpack_pack_uint64(&packer, event->time_ns)
		      ?: write_text(&packer, event->namespace)
		      ?: write_text(&packer, event->topic)
		      ?: write_text(&packer, event->object)
		      ?: write_id(&packer, event->publisher)
		      ?: msgpack_pack_uint64(&packer, event->publisher_seq)
		      ?: write_body(buffer, &event->event));
}

const char *envelope_split_method(const char *method, char service[ENVELOPE_NAME_MAX + 1])
{
	const char *dot = strchr(method, '.');
	size_t size = dot ? (size_t)(dot - method) : 0;

	if (!size || size > ENVELOPE_NAME_MAX || !dot[1])
		return NULL;
	memcpy(service, method, size);
	service[size] = '\0';
	return dot + 1;
}
