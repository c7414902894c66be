/* What travels around messages. */

#include "tests/lib/main.h"

#include <stdlib.h>
#include <string.h>

#include "schemas/envelope.h"
#include "tests/lib/random_message.h"

static void fill_id(uint8_t id[ENVELOPE_ID_SIZE], uint8_t first)
{
	for (uint8_t i = 0; i < ENVELOPE_ID_SIZE; i++)
		id[i] = first + i;
}

static struct envelope_request sample_request(void)
{
	struct envelope_request request = {
		.deadline_ms = UINT64_C(5000000000),
		.namespace = "default",
		.method = "container.get",
		.body = {(const uint8_t *)"\x81\xa2id\xa3web", 8},
		.has_trace = true,
		.has_parent = true,
		.has_peer = true,
		.uid = 1000,
		.pid = UINT32_MAX,
	};

	fill_id(request.id, 1);
	fill_id(request.trace, 50);
	fill_id(request.parent, 100);
	return request;
}

static void assert_request(const struct envelope_request *a, const struct envelope_request *b)
{
	assert_memory_equal(a->id, b->id, sizeof(a->id));
	assert_true(a->deadline_ms == b->deadline_ms);
	assert_string_equal(a->namespace, b->namespace);
	assert_string_equal(a->method, b->method);
	assert_int_equal(a->body.size, b->body.size);
	assert_memory_equal(a->body.data, b->body.data, a->body.size);
	assert_int_equal(a->has_trace, b->has_trace);
	assert_int_equal(a->has_parent, b->has_parent);
	assert_int_equal(a->has_peer, b->has_peer);
	assert_memory_equal(a->trace, b->trace, sizeof(a->trace));
	assert_memory_equal(a->parent, b->parent, sizeof(a->parent));
	assert_int_equal(a->uid, b->uid);
	assert_int_equal(a->pid, b->pid);
}

static void test_a_request_comes_back_as_it_was_written(void **state)
{
	struct envelope_request sent = sample_request(), read;
	struct schema_buffer buffer = {};

	(void)state;
	assert_int_equal(envelope_write_request(&sent, &buffer), 0);
	assert_int_equal(envelope_read_request(buffer.data, buffer.size, &read, NULL), 0);
	assert_request(&sent, &read);
	buffer.size = 0;
	sent.has_trace = sent.has_parent = sent.has_peer = false;
	memset(sent.trace, 0, sizeof(sent.trace));
	memset(sent.parent, 0, sizeof(sent.parent));
	sent.uid = sent.pid = 0;
	assert_int_equal(envelope_write_request(&sent, &buffer), 0);
	assert_int_equal(envelope_read_request(buffer.data, buffer.size, &read, NULL), 0);
	assert_request(&sent, &read);
	schema_buffer_clear(&buffer);
}

static void test_a_reply_comes_back_as_it_was_written(void **state)
{
	struct envelope_reply sent = {.status = BUS_NOT_FOUND, .text = "no container 'web'"}, read;
	struct schema_buffer buffer = {};

	(void)state;
	fill_id(sent.id, 3);
	for (unsigned status = 0; status < schema_enum_bus_status.n_values; status++) {
		buffer.size = 0;
		sent.status = status;
		assert_int_equal(envelope_write_reply(&sent, &buffer), 0);
		assert_int_equal(envelope_read_reply(buffer.data, buffer.size, &read, NULL), 0);
		assert_int_equal(read.status, status);
		assert_string_equal(read.text, sent.text);
		assert_memory_equal(read.id, sent.id, sizeof(read.id));
		assert_int_equal(read.body.size, 1); /* an empty map */
		assert_int_equal(read.body.data[0], 0x80);
	}
	schema_buffer_clear(&buffer);
}

static void test_an_event_comes_back_as_it_was_written(void **state)
{
	struct envelope_event sent = {.seq = UINT64_MAX,
				      .time_ns = 1,
				      .publisher_seq = 70000,
				      .namespace = "",
				      .topic = "/tasks/exit",
				      .object = "web",
				      .event = {(const uint8_t *)"\x92\x01\x02", 3}},
			      read;
	struct schema_buffer buffer = {};

	(void)state;
	fill_id(sent.log_id, 9);
	fill_id(sent.publisher, 99);
	assert_int_equal(envelope_write_event(&sent, &buffer), 0);
	assert_int_equal(envelope_read_event(buffer.data, buffer.size, &read, NULL), 0);
	assert_memory_equal(read.log_id, sent.log_id, sizeof(read.log_id));
	assert_memory_equal(read.publisher, sent.publisher, sizeof(read.publisher));
	assert_true(read.seq == sent.seq && read.time_ns == 1 && read.publisher_seq == 70000);
	assert_string_equal(read.namespace, "");
	assert_string_equal(read.topic, sent.topic);
	assert_string_equal(read.object, sent.object);
	assert_int_equal(read.event.size, 3);
	assert_memory_equal(read.event.data, sent.event.data, 3);
	for (size_t size = 0; size < buffer.size; size++)
		assert_int_equal(envelope_read_event(buffer.data, size, &read, NULL),
				 SCHEMA_E_MALFORMED);
	schema_buffer_clear(&buffer);
}

static void test_every_truncation_is_refused(void **state)
{
	struct envelope_request sent = sample_request(), read;
	struct envelope_reply reply;
	struct schema_buffer buffer = {};

	(void)state;
	assert_int_equal(envelope_write_request(&sent, &buffer), 0);
	for (size_t size = 0; size < buffer.size; size++) {
		uint8_t *exact = malloc(size ?: 1);

		memcpy(exact, buffer.data, size);
		assert_int_equal(envelope_read_request(exact, size, &read, NULL),
				 SCHEMA_E_MALFORMED);
		assert_int_equal(envelope_read_reply(exact, size, &reply, NULL),
				 SCHEMA_E_MALFORMED);
		free(exact);
	}
	schema_buffer_clear(&buffer);
}

#define ID                                                                                         \
	"\xc4\x10"                                                                                 \
	"0123456789abcdef"

static const char bus_ping[] = "\xa8"
			       "bus.ping";

static int read_parts(const char *const parts[], const size_t sizes[], size_t n,
		      struct envelope_request *request, struct schema_fault *fault)
{
	struct schema_buffer buffer = {};
	uint8_t head = (uint8_t)(0x90 | n);
	uint8_t *exact;
	int r;

	schema_buffer_add(&buffer, &head, 1);
	for (size_t i = 0; i < n; i++)
		schema_buffer_add(&buffer, parts[i], sizes[i]);
	exact = malloc(buffer.size);
	memcpy(exact, buffer.data, buffer.size);
	r = envelope_read_request(exact, buffer.size, request, fault);
	request->body = (struct schema_span){};
	free(exact);
	schema_buffer_clear(&buffer);
	return r;
}

/* With element @at replaced. */
static int read_with(size_t at, const char *part, size_t size, struct envelope_request *request,
		     struct schema_fault *fault)
{
	const char *parts[7] = {"\x01", ID, "\x00", "\xa0", bus_ping, "\x80", "\x80"};
	size_t sizes[7] = {1, 18, 1, 1, 9, 1, 1};

	if (at < 7) {
		parts[at] = part;
		sizes[at] = size;
	}
	return read_parts(parts, sizes, 7, request, fault);
}

#define REFUSED(at, part, code)                                                                    \
	assert_int_equal(read_with(at, part, sizeof(part) - 1, &request, &fault), code)
#define ACCEPTED(at, part)                                                                         \
	assert_int_equal(read_with(at, part, sizeof(part) - 1, &request, &fault), 0)

static void test_an_element_of_another_kind_is_refused_by_its_name(void **state)
{
	struct envelope_request request;
	struct schema_fault fault = {};

	(void)state;
	REFUSED(0, "\x02", SCHEMA_E_VALUE);
	assert_string_equal(fault.text, "request.version is not one that this process speaks (1)");
	assert_memory_equal(request.id, "0123456789abcdef", 16);
	REFUSED(0, "\x00", SCHEMA_E_VALUE);
	REFUSED(0, "\xff", SCHEMA_E_TYPE);
	REFUSED(1, "\xa1x", SCHEMA_E_TYPE);
	REFUSED(1, "\xc4\x01x", SCHEMA_E_VALUE);
	assert_string_equal(fault.text, "request.id is not 16 bytes long");
	assert_int_equal(request.id[0], 0);
	REFUSED(2, "\xff", SCHEMA_E_TYPE);
	REFUSED(2, "\xd3\xff\xff\xff\xff\xff\xff\xff\xff", SCHEMA_E_TYPE);
	REFUSED(2,
		"\xa1"
		"1",
		SCHEMA_E_TYPE);
	REFUSED(3, "\xc4\0", SCHEMA_E_TYPE);
	REFUSED(3, "\xa1\0", SCHEMA_E_VALUE);
	REFUSED(3,
		"\xd9\x4d"
		"0123456789012345678901234567890123456789012345678901234567890123456789123456x",
		SCHEMA_E_LIMIT);
	assert_string_equal(fault.text, "request.namespace is too long");
	REFUSED(4, "\x01", SCHEMA_E_TYPE);
	REFUSED(4, "\xa1\xff", SCHEMA_E_VALUE);
	REFUSED(6, "\x90", SCHEMA_E_TYPE);
	REFUSED(6, "\x81\xa5trace\x01", SCHEMA_E_TYPE);
	REFUSED(6, "\x81\xa3uid\xcf\0\0\0\x01\0\0\0\0", SCHEMA_E_LIMIT);
}

static void test_what_other_encoders_write_is_understood(void **state)
{
	struct envelope_request request;
	struct schema_fault fault = {};

	(void)state;
	ACCEPTED(0, "\xcc\x01");
	ACCEPTED(0, "\xd3\0\0\0\0\0\0\0\x01");
	ACCEPTED(1, "\xc5\0\x10"
		    "0123456789abcdef");
	ACCEPTED(2, "\xcf\0\0\0\0\0\0\x01\x01");
	assert_int_equal(request.deadline_ms, 257);
	ACCEPTED(2, "\xd1\x01\0");
	assert_int_equal(request.deadline_ms, 256);
	ACCEPTED(3, "\xdb\0\0\0\x01x");
	assert_string_equal(request.namespace, "x");
	ACCEPTED(5, "\xc0");
	ACCEPTED(6, "\xc0");
	ACCEPTED(6, "\x82\xa5other\x93\x01\x02\x03\xa3pid\x07");
	assert_true(request.has_peer);
	assert_int_equal(request.pid, 7);
	ACCEPTED(6, "\x81\xa5trace\xc0");
	assert_false(request.has_trace);
	ACCEPTED(6, "\xde\0\x01\xa6parent" ID);
	assert_true(request.has_parent);
}

static void test_arrays_may_be_shorter_or_grow_at_their_end(void **state)
{
	const char *parts[] = {"\x01",   ID,     "\x00", "\xa0",
			       bus_ping, "\x80", "\xc0", "\x93\x01\x02\x03"};
	size_t sizes[] = {1, 18, 1, 1, 9, 1, 1, 4};
	struct envelope_request request;
	struct schema_fault fault = {};

	(void)state;
	assert_int_equal(read_parts(parts, sizes, 8, &request, &fault), 0);
	assert_int_equal(read_parts(parts, sizes, 6, &request, &fault), 0);
	assert_int_equal(read_parts(parts, sizes, 5, &request, &fault), SCHEMA_E_MISSING);
	assert_int_equal(envelope_read_request("\x80", 1, &request, &fault), SCHEMA_E_MALFORMED);
	assert_int_equal(envelope_read_request("\xdd\x08\0\0\0", 5, &request, &fault),
			 SCHEMA_E_MALFORMED);
}

static void test_a_status_of_a_newer_version_is_an_internal_error(void **state)
{
	static const char unknown[] = "\x95\x01" ID "\xa9"
				      "NEW_CLASS\xa4"
				      "text\x80";
	static const char longer[] = "\x95\x01" ID "\xd9\x28"
				     "0123456789012345678901234567890123456789\xa4"
				     "text\x80";
	struct envelope_reply reply;

	(void)state;
	assert_int_equal(envelope_read_reply(unknown, sizeof(unknown) - 1, &reply, NULL), 0);
	assert_int_equal(reply.status, BUS_INTERNAL);
	assert_string_equal(reply.text, "text");
	assert_int_equal(envelope_read_reply(longer, sizeof(longer) - 1, &reply, NULL), 0);
	assert_int_equal(reply.status, BUS_INTERNAL);
}

static void test_random_changes_are_refused_or_read(void **state)
{
	struct envelope_request sent = sample_request(), read;
	struct envelope_reply reply;
	struct envelope_event event;
	struct schema_buffer buffer = {};
	uint64_t seed = 1;

	(void)state;
	for (int i = 0; i < 20000; i++) {
		buffer.size = 0;
		assert_int_equal(envelope_write_request(&sent, &buffer), 0);
		for (int n = 0; n < 3; n++)
			buffer.data[random_next(&seed) % buffer.size] = (uint8_t)random_next(&seed);
		if (!envelope_read_request(buffer.data, buffer.size, &read, NULL)) {
			assert_true(strlen(read.method) <= ENVELOPE_METHOD_MAX);
			assert_true(read.body.data + read.body.size <= buffer.data + buffer.size ||
				    read.body.size == 1);
		}
		envelope_read_reply(buffer.data, buffer.size, &reply, NULL);
		envelope_read_event(buffer.data, buffer.size, &event, NULL);
	}
	schema_buffer_clear(&buffer);
}

static void test_a_method_is_split_at_its_first_dot(void **state)
{
	char service[ENVELOPE_NAME_MAX + 1];
	char longer[100];

	(void)state;
	assert_string_equal(envelope_split_method("container.get", service), "get");
	assert_string_equal(service, "container");
	assert_string_equal(envelope_split_method("a.b.c", service), "b.c");
	assert_string_equal(service, "a");
	assert_null(envelope_split_method("container", service));
	assert_null(envelope_split_method("", service));
	assert_null(envelope_split_method(".get", service));
	assert_null(envelope_split_method("container.", service));
	memset(longer, 'x', sizeof(longer));
	memcpy(longer + ENVELOPE_NAME_MAX, ".a", 3);
	assert_string_equal(envelope_split_method(longer, service), "a");
	memcpy(longer + ENVELOPE_NAME_MAX, "x.a", 4);
	assert_null(envelope_split_method(longer, service));
}

TEST_MAIN(cmocka_unit_test(test_a_request_comes_back_as_it_was_written),
	  cmocka_unit_test(test_a_reply_comes_back_as_it_was_written),
	  cmocka_unit_test(test_an_event_comes_back_as_it_was_written),
	  cmocka_unit_test(test_every_truncation_is_refused),
	  cmocka_unit_test(test_an_element_of_another_kind_is_refused_by_its_name),
	  cmocka_unit_test(test_what_other_encoders_write_is_understood),
	  cmocka_unit_test(test_arrays_may_be_shorter_or_grow_at_their_end),
	  cmocka_unit_test(test_a_status_of_a_newer_version_is_an_internal_error),
	  cmocka_unit_test(test_random_changes_are_refused_or_read),
	  cmocka_unit_test(test_a_method_is_split_at_its_first_dot))
