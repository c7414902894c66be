/* Events from the transaction that emits them to the broker's acknowledgement. */

#include <string.h>

#include "broker/lib/file.h"
#include "tests/lib/main.h"
#include "tests/lib/service_case.h"

static int emit(struct service *service, const char *name)
{
	struct event_namespace event = {.name = (char *)name};

	return service_emit(service, name, schema_find_event("/namespaces/create"), name, &event);
}

static const char *const names[] = {"namespace", NULL};
static const char *const tables[] = {"things", NULL};
static const struct service_method methods[] = {{}};
static const struct service_definition definition = {
	.program = "davit-test",
	.names = names,
	.methods = methods,
	.tables = tables,
	.directory = "test",
};

static int setup(void **state)
{
	struct service_case *test = calloc(1, sizeof(*test));

	if (!test)
		return -1;
	service_case_init(test, &definition);
	*state = test;
	return 0;
}

static int teardown(void **state)
{
	int r = service_case_deinit(*state);

	free(*state);
	return r;
}

struct emission {
	struct service *service;
	const char *name;
	int result;
};

static int emit_one(void *userdata)
{
	struct emission *emission = userdata;
	int r = emit(emission->service, emission->name);

	return r ? r : emission->result;
}

static void emit_in_turn(struct service_case *test, const char *name)
{
	struct emission emission = {.service = test->service, .name = name};

	assert_int_equal(service_transact(test->service, emit_one, &emission), 0);
	service_case_turn(test);
}

/* The batch that waits for the broker's answer. */
static struct fake_call *batch(struct service_case *test, struct event_publish_request *ret_request)
{
	struct fake_call *call = fake_bus_find(test->bus, "event.publish");
	const void *body;
	size_t size;

	*ret_request = (struct event_publish_request){};
	if (!call)
		return NULL;
	body = fake_call_body(call, &size);
	assert_int_equal(
		schema_unpack(schema_event_publish_request(), body, size, ret_request, NULL), 0);
	return call;
}

/* "publisher number:name number:name …", without the publisher: of the batch that waits. */
static void assert_batch(struct service_case *test, const char *expected)
{
	_cleanup_(event_publish_request_clear) struct event_publish_request request = {};
	char text[1024] = "";

	assert_non_null(batch(test, &request));
	for (size_t i = 0; i < request.events.count; i++) {
		const struct event_item *item = &request.events.items[i];

		snprintf(text + strlen(text), sizeof(text) - strlen(text), "%s%llu:%s",
			 i ? " " : "", (unsigned long long)item->seq, item->object);
		assert_string_equal(item->topic, "/namespaces/create");
	}
	assert_string_equal(text, expected);
}

static void answer(struct service_case *test, enum bus_status status, uint64_t next_seq)
{
	struct event_publish_reply reply = {.next_seq = next_seq};
	struct fake_call *call = fake_bus_find(test->bus, "event.publish");

	assert_non_null(call);
	fake_call_answer(call, status, "", next_seq ? schema_event_publish_reply() : NULL, &reply);
	service_case_turn(test);
}

static size_t n_rows(struct service_case *test)
{
	size_t n = store_count(test->service->store, STORE_OUTBOX);

	store_abort(test->service->store);
	return n;
}

static void test_events_are_published_in_order_after_their_commit(void **state)
{
	struct service_case *test = *state;
	struct emission emission = {.service = test->service, .name = "a"};

	assert_int_equal(service_transact(test->service, emit_one, &emission), 0);
	assert_null(fake_bus_find(test->bus, "event.publish"));
	emission.name = "b";
	assert_int_equal(service_transact(test->service, emit_one, &emission), 0);
	service_case_turn(test);
	assert_batch(test, "1:a 2:b");
	answer(test, BUS_OK, 3);
	assert_null(fake_bus_find(test->bus, NULL));
	assert_int_equal(outbox_size(test->service), 0);
}

static void test_an_aborted_transaction_publishes_nothing_and_takes_no_number(void **state)
{
	struct service_case *test = *state;
	struct emission emission = {.service = test->service, .name = "no", .result = -ECANCELED};

	assert_int_equal(service_transact(test->service, emit_one, &emission), -ECANCELED);
	service_case_turn(test);
	assert_null(fake_bus_find(test->bus, NULL));
	emit_in_turn(test, "yes");
	assert_batch(test, "1:yes");
}

static void test_one_batch_is_in_flight_and_the_next_has_what_came_meanwhile(void **state)
{
	struct service_case *test = *state;

	emit_in_turn(test, "a");
	emit_in_turn(test, "b");
	emit_in_turn(test, "c");
	assert_int_equal(fake_bus_count(test->bus), 1);
	assert_batch(test, "1:a");
	answer(test, BUS_OK, 2);
	assert_batch(test, "2:b 3:c");
}

static void test_acknowledged_rows_go_with_the_next_commit(void **state)
{
	struct service_case *test = *state;
	uint64_t n_commits;

	emit_in_turn(test, "a");
	emit_in_turn(test, "b");
	answer(test, BUS_OK, 2);
	n_commits = test->service->store->n_commits;
	assert_int_equal(n_rows(test), 2);
	answer(test, BUS_OK, 3);
	assert_int_equal(test->service->store->n_commits, n_commits);
	emit_in_turn(test, "c");
	assert_int_equal(test->service->store->n_commits, n_commits + 1);
	assert_int_equal(n_rows(test), 1);
}

static void test_acknowledged_rows_go_after_idle_seconds(void **state)
{
	struct service_case *test = *state;

	emit_in_turn(test, "a");
	answer(test, BUS_OK, 2);
	assert_non_null(test->service->outbox.tidy.loop);
	test->service->outbox.tidy.fn(&test->service->outbox.tidy);
	service_case_turn(test);
	assert_int_equal(n_rows(test), 0);
	/* The number goes on all the same. */
	service_case_crash(test);
	service_case_open(test);
	emit_in_turn(test, "b");
	assert_batch(test, "2:b");
}

static void test_what_was_not_acknowledged_is_published_again_after_a_crash(void **state)
{
	_cleanup_(event_publish_request_clear) struct event_publish_request before = {}, after = {};
	struct service_case *test = *state;

	emit_in_turn(test, "a");
	emit_in_turn(test, "b");
	batch(test, &before);
	service_case_crash(test);
	service_case_open(test);
	service_case_turn(test);
	assert_batch(test, "1:a 2:b");
	batch(test, &after);
	assert_memory_equal(before.publisher.data, after.publisher.data, 16);
	/* It had all of it already. */
	answer(test, BUS_OK, 3);
	assert_null(fake_bus_find(test->bus, NULL));
}

static void retry_now(struct service_case *test)
{
	assert_non_null(test->service->outbox.retry.loop);
	loop_timer_cancel(&test->service->outbox.retry);
	outbox_flush(test->service);
}

static void test_a_broker_that_is_away_is_asked_again_with_the_same(void **state)
{
	struct service_case *test = *state;

	emit_in_turn(test, "a");
	for (unsigned i = 0; i < 20; i++) {
		assert_batch(test, "1:a");
		answer(test, BUS_UNAVAILABLE, 0);
		assert_null(fake_bus_find(test->bus, NULL));
		retry_now(test);
	}
	answer(test, BUS_OK, 2);
	assert_int_equal(outbox_size(test->service), 0);
}

static void test_a_broker_that_knows_more_is_believed(void **state)
{
	struct service_case *test = *state;

	emit_in_turn(test, "a");
	emit_in_turn(test, "b");
	emit_in_turn(test, "c");
	answer(test, BUS_ABORTED, 3);
	assert_batch(test, "3:c");
}

static void test_a_broker_that_lost_some_gets_them_again(void **state)
{
	struct service_case *test = *state;

	emit_in_turn(test, "a");
	emit_in_turn(test, "b");
	answer(test, BUS_OK, 2);
	answer(test, BUS_ABORTED, 1);
	retry_now(test);
	assert_batch(test, "1:a 2:b");
}

static void test_a_broker_that_wants_what_is_gone_gets_a_new_publisher(void **state)
{
	_cleanup_(event_publish_request_clear) struct event_publish_request before = {}, after = {};
	struct service_case *test = *state;

	emit_in_turn(test, "a");
	answer(test, BUS_OK, 2);
	emit_in_turn(test, "b");
	batch(test, &before);
	assert_batch(test, "2:b");
	answer(test, BUS_ABORTED, 1);
	retry_now(test);
	batch(test, &after);
	assert_batch(test, "1:b");
	assert_memory_not_equal(before.publisher.data, after.publisher.data, 16);
	answer(test, BUS_OK, 2);
	/* And it is remembered. */
	emit_in_turn(test, "c");
	service_case_crash(test);
	service_case_open(test);
	service_case_turn(test);
	event_publish_request_clear(&before);
	batch(test, &before);
	assert_memory_equal(before.publisher.data, after.publisher.data, 16);
	assert_batch(test, "2:c");
}

static void test_a_long_outbox_goes_in_batches(void **state)
{
	_cleanup_(event_publish_request_clear) struct event_publish_request request = {};
	struct service_case *test = *state;
	struct emission emission = {.service = test->service, .name = "many"};
	uint64_t next = 1;

	for (unsigned i = 0; i < 600; i++)
		assert_int_equal(service_transact(test->service, emit_one, &emission), 0);
	service_case_turn(test);
	while (batch(test, &request)) {
		assert_in_range(request.events.count, 1, 256);
		assert_int_equal(request.events.items[0].seq, next);
		next += request.events.count;
		event_publish_request_clear(&request);
		answer(test, BUS_OK, next);
	}
	assert_int_equal(next, 601);
}

static void test_an_event_that_is_too_large_is_refused(void **state)
{
	struct event_namespace event = {.name = "a"};
	struct service_case *test = *state;
	char value[4000];

	memset(value, 'x', sizeof(value) - 1);
	value[sizeof(value) - 1] = '\0';
	for (unsigned i = 0; i < 5; i++) {
		char key[8];

		snprintf(key, sizeof(key), "k%u", i);
		assert_int_equal(schema_map_set(&event.labels, key, value), 0);
	}
	assert_int_equal(service_emit(test->service, "a", schema_find_event("/namespaces/create"),
				      "a", &event),
			 -E2BIG);
	schema_map_clear(&event.labels);
	service_case_turn(test);
	assert_null(fake_bus_find(test->bus, NULL));
}

/* A damaged row cannot be published; the others are, and its loss is told. */
static void test_a_damaged_event_does_not_hold_up_the_others(void **state)
{
	_cleanup_(event_publish_request_clear) struct event_publish_request request = {};
	struct service_case *test = *state;
	struct event_cursor wrong = {.name = "no event"};
	struct store_key key;

	emit_in_turn(test, "a");
	emit_in_turn(test, "b");
	emit_in_turn(test, "c");
	store_key_u64(&key, 2);
	assert_int_equal(
		store_put(test->service->store, STORE_OUTBOX, &key, schema_event_cursor(), &wrong),
		0);
	service_case_turn(test);
	answer(test, BUS_OK, 2);
	for (unsigned i = 0; i < 4 && !fake_bus_find(test->bus, NULL); i++) {
		service_case_turn(test);
		if (test->service->outbox.retry.loop)
			retry_now(test);
	}
	assert_non_null(batch(test, &request));
	assert_int_equal(request.events.items[0].seq, 1);
	assert_string_equal(request.events.items[0].object, "c");
	answer(test, BUS_OK, 1 + request.events.count);
	assert_int_equal(store_count(test->service->store, STORE_QUARANTINE), 1);
}

#define CASE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

TEST_MAIN(CASE(test_events_are_published_in_order_after_their_commit),
	  CASE(test_an_aborted_transaction_publishes_nothing_and_takes_no_number),
	  CASE(test_one_batch_is_in_flight_and_the_next_has_what_came_meanwhile),
	  CASE(test_acknowledged_rows_go_with_the_next_commit),
	  CASE(test_acknowledged_rows_go_after_idle_seconds),
	  CASE(test_what_was_not_acknowledged_is_published_again_after_a_crash),
	  CASE(test_a_broker_that_is_away_is_asked_again_with_the_same),
	  CASE(test_a_broker_that_knows_more_is_believed),
	  CASE(test_a_broker_that_lost_some_gets_them_again),
	  CASE(test_a_broker_that_wants_what_is_gone_gets_a_new_publisher),
	  CASE(test_a_long_outbox_goes_in_batches),
	  CASE(test_an_event_that_is_too_large_is_refused),
	  CASE(test_a_damaged_event_does_not_hold_up_the_others))
