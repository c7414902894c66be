/* Requests, replies and events: what was read writes, and reads, the same again. */

#include <string.h>

#include "schemas/envelope.h"
#include "tests/fuzz/fuzz.h"

static void check_request(const uint8_t *data, size_t size)
{
	struct envelope_request request, again;
	struct schema_buffer buffer = {};
	struct schema_fault fault;
	char service[ENVELOPE_NAME_MAX + 1];

	if (envelope_read_request(data, size, &request, &fault))
		return;
	envelope_split_method(request.method, service);
	FUZZ_ASSERT(!envelope_write_request(&request, &buffer));
	FUZZ_ASSERT(!envelope_read_request(buffer.data, buffer.size, &again, NULL));
	FUZZ_ASSERT(request.deadline_ms == again.deadline_ms && request.pid == again.pid);
	FUZZ_ASSERT(!strcmp(request.method, again.method) &&
		    !strcmp(request.namespace, again.namespace));
	FUZZ_ASSERT(request.body.size == again.body.size &&
		    !memcmp(request.body.data, again.body.data, again.body.size));
	schema_buffer_clear(&buffer);
}

static void check_reply(const uint8_t *data, size_t size)
{
	struct envelope_reply reply, again;
	struct schema_buffer buffer = {};

	if (envelope_read_reply(data, size, &reply, NULL))
		return;
	FUZZ_ASSERT(!envelope_write_reply(&reply, &buffer));
	FUZZ_ASSERT(!envelope_read_reply(buffer.data, buffer.size, &again, NULL));
	FUZZ_ASSERT(reply.status == again.status && !strcmp(reply.text, again.text));
	schema_buffer_clear(&buffer);
}

static void check_event(const uint8_t *data, size_t size)
{
	struct envelope_event event, again;
	struct schema_buffer buffer = {};

	if (envelope_read_event(data, size, &event, NULL))
		return;
	FUZZ_ASSERT(!envelope_write_event(&event, &buffer));
	FUZZ_ASSERT(!envelope_read_event(buffer.data, buffer.size, &again, NULL));
	FUZZ_ASSERT(event.seq == again.seq && !strcmp(event.topic, again.topic));
	FUZZ_ASSERT(event.event.size == again.event.size);
	schema_buffer_clear(&buffer);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	check_request(data, size);
	check_reply(data, size);
	check_event(data, size);
	return 0;
}
