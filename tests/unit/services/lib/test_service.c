/* Requests from their bytes to the bytes of their answer, with a store that can crash. */

#include <string.h>

#include "broker/lib/file.h"
#include "tests/lib/main.h"
#include "tests/lib/service_case.h"

/*
 * The service under test counts: namespace.create adds one to the counter of that
 * name, and says what it was told to do by the name.
 */
struct counter {
	struct service *service;
	unsigned n_runs;    /* handlers that ran, undone ones included */
	unsigned n_effects; /* after a commit */
	struct call *later;
};

static struct counter the_counter;

static int read_counter(struct store *store, const char *name, uint64_t *ret_value)
{
	_cleanup_(event_cursor_clear) struct event_cursor record = {};
	struct store_key key;
	int r;

	*ret_value = 0;
	r = store_key(&key, name, NULL);
	if (!r)
		r = store_get(store, "counters", &key, schema_event_cursor(), &record);
	if (!r)
		*ret_value = record.ack;
	return r == STORE_E_NOT_FOUND ? 0 : r;
}

static int add_one(struct store *store, const char *name)
{
	struct event_cursor record = {.name = (char *)name};
	struct store_key key;
	int r;

	r = read_counter(store, name, &record.ack);
	record.ack++;
	if (!r)
		r = store_key(&key, name, NULL);
	return r ? r : store_put(store, "counters", &key, schema_event_cursor(), &record);
}

static void effect(void *userdata)
{
	(void)userdata;
	the_counter.n_effects++;
}

/* Three MiB, where the map has one. */
static int fill(struct store *store)
{
	static uint8_t bytes[300000];
	uint8_t id[16] = {};
	struct operation_record record = {.id = {id, 16}, .method = "a.b"};
	struct store_key key;
	int r = 0;

	record.request = (struct schema_bytes){bytes, sizeof(bytes)};
	for (unsigned i = 0; i < 10 && !r; i++) {
		store_key_u64(&key, i);
		r = store_put(store, "large", &key, schema_operation_record(), &record);
	}
	return r;
}

static int create(void *object, const void *request_, void *reply_, struct call *call)
{
	const struct namespace_request *request = request_;
	struct store *store = service_store(call_service(call));
	struct namespace_reply *reply = reply_;
	const char *name = request->namespace->name;
	int r;

	(void)object;
	the_counter.n_runs++;
	r = add_one(store, name);
	if (!r)
		r = call_after_commit(call, effect, NULL, NULL);
	if (!r && !strcmp(name, "large"))
		r = fill(store);
	if (r)
		return call_fail_store(call, r, "counter");
	if (!strcmp(name, "refused"))
		return call_fail(call, BUS_FAILED_PRECONDITION, "counter '%s' is refused", name);
	if (!strcmp(name, "away"))
		return call_fail(call, BUS_UNAVAILABLE, "counter '%s' is away", name);
	if (!strcmp(name, "broken"))
		return -EIO;
	if (!strcmp(name, "later")) {
		the_counter.later = call;
		return CALL_LATER;
	}
	reply->namespace = calloc(1, sizeof(*reply->namespace));
	return schema_set(&reply->namespace->name, name);
}

static int get(void *object, const void *request_, void *reply_, struct call *call)
{
	const struct namespace_name_request *request = request_;
	struct namespace_reply *reply = reply_;
	uint64_t value;
	char text[32];
	int r;

	(void)object;
	r = read_counter(service_store(call_service(call)), request->name, &value);
	if (r)
		return call_fail_store(call, r, "counter");
	snprintf(text, sizeof(text), "n%llu", (unsigned long long)value);
	reply->namespace = calloc(1, sizeof(*reply->namespace));
	return schema_set(&reply->namespace->name, text);
}

static const struct schema_method *find_create(void)
{
	return schema_find_method("namespace", "create");
}

static const struct schema_method *find_get(void)
{
	return schema_find_method("namespace", "get");
}

static int open_counter(struct service *service, void **ret_object)
{
	the_counter = (struct counter){.service = service};
	*ret_object = &the_counter;
	return 0;
}

static const struct service_method methods[] = {{find_create, create}, {find_get, get}, {}};
static const char *const names[] = {"namespace", NULL};
static const char *const tables[] = {"counters", "large", NULL};
static const struct service_definition definition = {
	.program = "davit-test",
	.names = names,
	.methods = methods,
	.tables = tables,
	.directory = "test",
	.open = open_counter,
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

static enum bus_status count(struct service_case *test, const char *name, const uint8_t *id)
{
	struct namespace_record record = {.name = (char *)name};
	struct namespace_request request = {.namespace = &record};

	return service_case_call(test, "namespace.create", id, &request, NULL);
}

static void assert_counter(struct service_case *test, const char *name, const char *expected)
{
	_cleanup_(namespace_reply_clear) struct namespace_reply reply = {};
	struct namespace_name_request request = {.name = (char *)name};

	assert_int_equal(service_case_call(test, "namespace.get", NULL, &request, &reply), BUS_OK);
	assert_string_equal(reply.namespace->name, expected);
}

static const uint8_t id_1[16] = {1}, id_2[16] = {2};

/* ---- exactly once ---- */

static void test_a_repeated_request_gets_the_stored_reply_and_does_nothing(void **state)
{
	struct service_case *test = *state;
	const struct service_answer *first, *second;

	assert_int_equal(count(test, "a", id_1), BUS_OK);
	first = &test->answers[0];
	assert_int_equal(count(test, "a", id_1), BUS_OK);
	second = &test->answers[1];
	assert_int_equal(the_counter.n_runs, 1);
	assert_int_equal(first->size, second->size);
	assert_memory_equal(first->body, second->body, first->size);
	assert_counter(test, "a", "n1");
	assert_int_equal(count(test, "a", id_2), BUS_OK);
	assert_counter(test, "a", "n2");
}

static void test_a_repeated_request_does_nothing_after_a_crash_either(void **state)
{
	struct service_case *test = *state;

	assert_int_equal(count(test, "a", id_1), BUS_OK);
	service_case_crash(test);
	service_case_open(test);
	assert_int_equal(count(test, "a", id_1), BUS_OK);
	assert_int_equal(the_counter.n_runs, 0);
	assert_counter(test, "a", "n1");
}

static void test_a_crash_before_the_commit_leaves_nothing(void **state)
{
	struct service_case *test = *state;
	struct namespace_record record = {.name = "a"};
	struct namespace_request request = {.namespace = &record};
	struct service_answer *answer;

	answer = service_case_send(test, "namespace.create", id_1, 0, &request);
	assert_false(answer->is_answered);
	/* Only so much of the turn: the handler has run in the open transaction. */
	struct job *job = job_list_take(&test->service->queue);
	assert_int_equal(job->run(test->service, job), 0);
	assert_int_equal(the_counter.n_runs, 1);
	call_free(container_of(job, struct call, job));
	service_case_crash(test);
	assert_false(answer->is_answered);
	service_case_open(test);
	assert_counter(test, "a", "n0");
	assert_int_equal(count(test, "a", id_1), BUS_OK);
	assert_counter(test, "a", "n1");
}

static void test_the_same_id_with_another_body_is_refused(void **state)
{
	struct service_case *test = *state;

	assert_int_equal(count(test, "a", id_1), BUS_OK);
	assert_int_equal(count(test, "b", id_1), BUS_INVALID_ARGUMENT);
	assert_non_null(strstr(service_case_text(test), "namespace.create"));
	assert_counter(test, "b", "n0");
}

static void test_a_repeat_in_the_same_turn_does_nothing_twice(void **state)
{
	struct service_case *test = *state;
	struct namespace_record record = {.name = "a"};
	struct namespace_request request = {.namespace = &record};
	struct service_answer *answers[3];

	for (unsigned i = 0; i < 3; i++)
		answers[i] = service_case_send(test, "namespace.create", id_1, 0, &request);
	service_case_turn(test);
	for (unsigned i = 0; i < 3; i++) {
		assert_true(answers[i]->is_answered);
		assert_int_equal(answers[i]->status, BUS_OK);
	}
	assert_int_equal(the_counter.n_runs, 1);
}

static void test_a_stored_reply_goes_after_its_time(void **state)
{
	struct service_case *test = *state;
	struct reply_record record = {};
	struct store_key key;

	assert_int_equal(count(test, "a", id_1), BUS_OK);
	/* Its time is put into the past. */
	store_key_bytes(&key, id_1, 16);
	struct store *store = test->service->store;
	assert_int_equal(store_get(store, STORE_REPLIES, &key, schema_reply_record(), &record), 0);
	assert_true(record.expires_ms >= time_boot_ms() + REPLY_KEPT_MS);
	record.expires_ms = 1;
	assert_int_equal(store_put(store, STORE_REPLIES, &key, schema_reply_record(), &record), 0);
	reply_record_clear(&record);
	assert_int_equal(store_commit(store), 0);
	assert_int_equal(count(test, "a", id_1), BUS_OK);
	assert_counter(test, "a", "n2");
}

static void test_expired_replies_are_trimmed(void **state)
{
	struct service_case *test = *state;
	struct store *store = test->service->store;
	uint8_t boot[16], hash[16] = {};
	struct reply_record record = {.method = "a.b", .expires_ms = 5};
	struct empty nothing = {};

	memcpy(boot, store->boot_id, 16);
	record.boot_id = (struct schema_bytes){boot, 16};
	record.body_hash = (struct schema_bytes){hash, 16};
	for (unsigned i = 0; i < 10; i++) {
		uint8_t index[24] = {0, 0, 0, 0, 0, 0, 0, 5, 9, (uint8_t)i};
		struct store_key key;

		store_key_bytes(&key, index + 8, 16);
		assert_int_equal(
			store_put(store, STORE_REPLIES, &key, schema_reply_record(), &record), 0);
		store_key_bytes(&key, index, 24);
		assert_int_equal(
			store_put(store, STORE_REPLY_EXPIRY, &key, schema_empty(), &nothing), 0);
	}
	assert_int_equal(store_commit(store), 0);
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(count(test, "a", NULL), BUS_OK);
	assert_int_equal(store_count(store, STORE_REPLIES), 3);
	assert_int_equal(store_count(store, STORE_REPLY_EXPIRY), 3);
}

static void test_replies_of_another_boot_are_forgotten(void **state)
{
	struct service_case *test = *state;
	struct store *store = test->service->store;

	assert_int_equal(count(test, "a", id_1), BUS_OK);
	store->boot_id[3] ^= 1;
	assert_int_equal(store_put_meta(store, test->service->outbox.publisher, 1), 0);
	assert_int_equal(store_commit(store), 0);
	service_case_crash(test);
	service_case_open(test);
	assert_true(test->service->is_fresh_boot);
	assert_int_equal(store_count(test->service->store, STORE_REPLIES), 0);
	assert_int_equal(store_count(test->service->store, STORE_REPLY_EXPIRY), 0);
	assert_counter(test, "a", "n1");
}

static void put_reply(struct service_case *test, unsigned number, uint64_t expires_ms)
{
	struct store *store = test->service->store;
	uint8_t index[24] = {0}, hash[16] = {};
	struct reply_record record = {.method = "a.b", .expires_ms = expires_ms};
	struct empty nothing = {};
	struct store_key key;

	record.boot_id = (struct schema_bytes){store->boot_id, 16};
	record.body_hash = (struct schema_bytes){hash, 16};
	for (int i = 0; i < 8; i++)
		index[i] = (uint8_t)(expires_ms >> (56 - 8 * i));
	memcpy(index + 8, &number, sizeof(number));
	index[23] = 9;
	store_key_bytes(&key, index + 8, 16);
	assert_int_equal(store_put(store, STORE_REPLIES, &key, schema_reply_record(), &record), 0);
	store_key_bytes(&key, index, 24);
	assert_int_equal(store_put(store, STORE_REPLY_EXPIRY, &key, schema_empty(), &nothing), 0);
}

static void test_replies_are_bounded_and_reading_goes_on(void **state)
{
	struct service_case *test = *state;

	for (unsigned i = 0; i < REPLY_MAX; i++)
		put_reply(test, i, time_boot_ms() + 1000000);
	assert_int_equal(store_commit(test->service->store), 0);
	assert_int_equal(count(test, "a", NULL), BUS_RESOURCE_EXHAUSTED);
	assert_non_null(strstr(service_case_text(test), "again"));
	assert_counter(test, "a", "n0");
	/* One whose time has come makes room for one. */
	put_reply(test, REPLY_MAX, 1);
	put_reply(test, REPLY_MAX + 1, 1);
	assert_int_equal(store_commit(test->service->store), 0);
	assert_int_equal(count(test, "a", NULL), BUS_RESOURCE_EXHAUSTED);
	put_reply(test, 0, 1);
	assert_int_equal(store_commit(test->service->store), 0);
	assert_int_equal(count(test, "a", NULL), BUS_OK);
}

/* ---- failures ---- */

static void test_a_damaged_record_is_told_as_an_event(void **state)
{
	_cleanup_(event_publish_request_clear) struct event_publish_request batch = {};
	struct namespace_name_request request = {.name = "a"};
	struct service_case *test = *state;
	uint8_t id[16] = {};
	struct operation_record wrong = {.id = {id, 16}, .method = "x"};
	struct fake_call *call;
	struct store_key key;
	const void *body;
	size_t size;

	assert_int_equal(store_key(&key, "a", NULL), 0);
	assert_int_equal(store_put(test->service->store, "counters", &key,
				   schema_operation_record(), &wrong),
			 0);
	service_case_turn(test);
	assert_int_equal(service_case_call(test, "namespace.get", NULL, &request, NULL),
			 BUS_DATA_LOSS);
	call = fake_bus_find(test->bus, "event.publish");
	assert_non_null(call);
	body = fake_call_body(call, &size);
	assert_int_equal(schema_unpack(schema_event_publish_request(), body, size, &batch, NULL),
			 0);
	assert_string_equal(batch.events.items[0].topic, "/stores/quarantined");
	assert_string_equal(batch.events.items[0].object, "counters");
	assert_counter(test, "a", "n0");
}

static void test_a_refused_request_changes_nothing_and_stays_refused(void **state)
{
	struct service_case *test = *state;

	assert_int_equal(count(test, "refused", id_1), BUS_FAILED_PRECONDITION);
	assert_string_equal(service_case_text(test), "counter 'refused' is refused");
	assert_counter(test, "refused", "n0");
	assert_int_equal(the_counter.n_effects, 0);
	assert_int_equal(count(test, "refused", id_1), BUS_FAILED_PRECONDITION);
	assert_int_equal(the_counter.n_runs, 1);
}

static void test_a_passing_failure_is_not_remembered(void **state)
{
	struct service_case *test = *state;

	assert_int_equal(count(test, "away", id_1), BUS_UNAVAILABLE);
	assert_int_equal(count(test, "away", id_1), BUS_UNAVAILABLE);
	assert_int_equal(the_counter.n_runs, 2);
	assert_counter(test, "away", "n0");
}

static void test_a_broken_handler_is_an_internal_error_and_is_undone(void **state)
{
	struct service_case *test = *state;

	assert_int_equal(count(test, "broken", NULL), BUS_INTERNAL);
	assert_non_null(strstr(service_case_text(test), "namespace.create"));
	assert_counter(test, "broken", "n0");
	assert_int_equal(the_counter.n_effects, 0);
}

static void test_an_unknown_method_is_named(void **state)
{
	struct service_case *test = *state;

	assert_int_equal(service_case_call(test, "namespace.frobnicate", NULL, NULL, NULL),
			 BUS_NOT_FOUND);
	assert_non_null(strstr(service_case_text(test), "namespace.frobnicate"));
	/* One that is known, but not to this service. */
	assert_int_equal(service_case_call(test, "container.stats", NULL, NULL, NULL),
			 BUS_NOT_FOUND);
}

static void test_a_request_without_its_field_names_the_field(void **state)
{
	struct service_case *test = *state;

	assert_int_equal(service_case_call(test, "namespace.create", NULL, NULL, NULL),
			 BUS_INVALID_ARGUMENT);
	assert_non_null(strstr(service_case_text(test), "namespace"));
	assert_int_equal(the_counter.n_runs, 0);
}

static void take_status(void *userdata, const void *data, size_t size)
{
	struct envelope_reply reply;

	assert_int_equal(envelope_read_reply(data, size, &reply, NULL), 0);
	*(enum bus_status *)userdata = reply.status;
}

static void test_every_truncation_of_a_request_is_answered(void **state)
{
	struct service_case *test = *state;
	_cleanup_(schema_buffer_clear) struct schema_buffer body = {}, bytes = {};
	struct namespace_record record = {.name = "cut"};
	struct namespace_request request = {.namespace = &record};
	struct envelope_request envelope = {.namespace = "default",
					    .method = "namespace.create",
					    .deadline_ms = time_boot_ms() + 60000};

	assert_int_equal(schema_pack(schema_namespace_request(), &request, &body, NULL), 0);
	envelope.body = (struct schema_span){body.data, body.size};
	assert_int_equal(envelope_write_request(&envelope, &bytes), 0);
	for (size_t size = 0; size < bytes.size; size++) {
		enum bus_status status = BUS_OK;

		assert_int_equal(
			service_dispatch(test->service, bytes.data, size, take_status, &status), 0);
		service_case_turn(test);
		assert_int_equal(status, BUS_INVALID_ARGUMENT);
	}
	assert_int_equal(the_counter.n_runs, 0);
}

static void test_what_is_late_is_not_run(void **state)
{
	struct service_case *test = *state;
	struct namespace_record record = {.name = "a"};
	struct namespace_request request = {.namespace = &record};
	struct service_answer *answer;

	answer = service_case_send(test, "namespace.create", NULL, time_boot_ms() - 1, &request);
	service_case_turn(test);
	assert_int_equal(answer->status, BUS_DEADLINE_EXCEEDED);
	assert_int_equal(the_counter.n_runs, 0);
}

/* ---- the turn ---- */

static void test_requests_of_a_turn_share_one_commit(void **state)
{
	struct service_case *test = *state;
	struct namespace_record record = {.name = "a"};
	struct namespace_request request = {.namespace = &record};
	struct service_answer *answers[20];
	uint64_t before = test->service->store->n_commits;

	for (unsigned i = 0; i < 20; i++)
		answers[i] = service_case_send(test, "namespace.create", NULL, 0, &request);
	service_case_turn(test);
	for (unsigned i = 0; i < 20; i++)
		assert_int_equal(answers[i]->status, BUS_OK);
	assert_int_equal(test->service->store->n_commits, before + 1);
	assert_int_equal(the_counter.n_effects, 20);
	assert_counter(test, "a", "n20");
	assert_int_equal(test->service->store->n_commits, before + 1);
}

/* Room for what comes first, not for the large one. */
static void shrink(struct service_case *test)
{
	_cleanup_(cleanup_free) char *path = scratch_path(&test->scratch, "root/test");
	struct store_options options = {.directory = path, .tables = tables, .map_size = 1 << 20};

	test->service->store = store_close(test->service->store);
	assert_int_equal(store_open(&options, &test->service->store, NULL, NULL), 0);
}

static void test_a_full_map_runs_the_handler_again_and_nothing_twice(void **state)
{
	struct service_case *test = *state;
	struct namespace_record small = {.name = "a"}, large = {.name = "large"};
	struct namespace_request requests[] = {{.namespace = &small}, {.namespace = &large}};
	struct service_answer *answers[6];

	shrink(test);
	for (unsigned i = 0; i < 6; i++)
		answers[i] = service_case_send(test, "namespace.create", NULL, 0,
					       &requests[i == 3]);
	service_case_turn(test);
	for (unsigned i = 0; i < 6; i++) {
		assert_true(answers[i]->is_answered);
		assert_int_equal(answers[i]->status, BUS_OK);
	}
	assert_true(the_counter.n_runs > 6);
	assert_int_equal(the_counter.n_effects, 6);
	assert_true(test->service->store->map_size > 1 << 20);
	assert_counter(test, "a", "n5");
	assert_counter(test, "large", "n1");
}

static int add_one_by_callback(void *userdata)
{
	return add_one(the_counter.service->store, userdata);
}

static int fail_by_callback(void *userdata)
{
	int r = add_one(the_counter.service->store, userdata);

	return r ? r : -EIO;
}

static int fill_by_callback(void *userdata)
{
	int r = add_one(the_counter.service->store, userdata);

	return r ? r : fill(the_counter.service->store);
}

static void test_a_callback_changes_the_store_in_a_transaction(void **state)
{
	struct service_case *test = *state;

	assert_int_equal(service_transact(test->service, add_one_by_callback, "a"), 0);
	assert_int_equal(service_transact(test->service, fail_by_callback, "b"), -EIO);
	service_case_turn(test);
	service_case_crash(test);
	service_case_open(test);
	assert_counter(test, "a", "n1");
	assert_counter(test, "b", "n0");
}

static void test_a_callback_runs_again_when_the_map_was_full(void **state)
{
	struct service_case *test = *state;

	shrink(test);
	assert_int_equal(service_transact(test->service, add_one_by_callback, "a"), 0);
	assert_int_equal(service_transact(test->service, fill_by_callback, "a"), 0);
	service_case_turn(test);
	assert_counter(test, "a", "n2");
}

static void free_userdata(void *userdata)
{
	++*(unsigned *)userdata;
}

static int defer_and_fail(void *userdata)
{
	int r = service_after_commit(the_counter.service, effect, free_userdata, userdata);

	return r ? r : -ECANCELED;
}

static void test_what_waited_for_an_aborted_transaction_is_freed(void **state)
{
	struct service_case *test = *state;
	unsigned n_freed = 0;

	assert_int_equal(service_transact(test->service, defer_and_fail, &n_freed), -ECANCELED);
	assert_int_equal(n_freed, 1);
	assert_int_equal(service_after_commit(test->service, effect, free_userdata, &n_freed), 0);
	service_case_turn(test);
	assert_int_equal(the_counter.n_effects, 1);
	assert_int_equal(n_freed, 1);
}

/* ---- later answers ---- */

static void test_a_later_answer_is_given_to_all_who_asked(void **state)
{
	struct service_case *test = *state;
	struct namespace_record record = {.name = "later"};
	struct namespace_request request = {.namespace = &record};
	struct namespace_reply reply = {.namespace = &record};
	struct service_answer *answers[2];

	answers[0] = service_case_send(test, "namespace.create", id_1, 0, &request);
	service_case_turn(test);
	answers[1] = service_case_send(test, "namespace.create", id_1, 0, &request);
	service_case_turn(test);
	assert_false(answers[0]->is_answered || answers[1]->is_answered);
	assert_int_equal(the_counter.n_runs, 1);
	call_finish(the_counter.later, &reply);
	service_case_turn(test);
	for (unsigned i = 0; i < 2; i++) {
		assert_true(answers[i]->is_answered);
		assert_int_equal(answers[i]->status, BUS_OK);
	}
	assert_int_equal(count(test, "later", id_1), BUS_OK);
	assert_int_equal(the_counter.n_runs, 1);
	assert_int_equal(test->service->n_calls, 0);
}

static void test_a_later_answer_waits_for_room_whatever_else_comes(void **state)
{
	struct namespace_record record = {.name = "later"};
	struct service_case *test = *state;
	struct service *service = test->service;
	struct service_answer *caller;
	uint64_t at_ms;
	struct job *job;

	caller = service_case_send(test, "namespace.create", id_1, 0,
				   &(struct namespace_request){.namespace = &record});
	service_case_turn(test);
	call_finish(the_counter.later, &(struct namespace_reply){.namespace = &record});
	while ((job = job_list_take(&service->queue))) {
		assert_int_equal(job->run(service, job), 0);
		job_list_add(&service->done, job);
	}
	service->store->failure = STORE_E_NO_SPACE;
	service_case_turn(test);
	assert_false(caller->is_answered);
	assert_non_null(service->stall.loop);
	at_ms = service->stall.at_ms;
	assert_int_equal(count(test, "other", id_2), BUS_OK);
	assert_int_equal(service->stall.at_ms, at_ms);
	loop_timer_set(service->loop, &service->stall, 0, service->stall.fn);
	service_case_turn(test);
	assert_true(caller->is_answered);
	assert_int_equal(caller->status, BUS_OK);
}

static void test_a_later_failure_is_remembered(void **state)
{
	struct service_case *test = *state;

	assert_int_equal(count(test, "later", id_1), BUS_PENDING);
	call_finish_fail(the_counter.later, BUS_NOT_FOUND, "no '%s'", "later");
	service_case_turn(test);
	assert_int_equal(count(test, "later", id_1), BUS_NOT_FOUND);
	assert_string_equal(service_case_text(test), "no 'later'");
	assert_int_equal(the_counter.n_runs, 1);
}

static struct namespace_record later = {.name = (char *)"later"};

/* A request that is answered later, and has been waited for so long. */
static struct service_answer *send_later(struct service_case *test, uint64_t since_ms)
{
	struct namespace_request request = {.namespace = &later};
	struct service_answer *answer;

	answer = service_case_send(test, "namespace.create", id_1, 0, &request);
	service_case_turn(test);
	the_counter.later->waiters->since_ms -= since_ms;
	return answer;
}

static void answer_later(struct service_case *test)
{
	call_finish(the_counter.later, &(struct namespace_reply){.namespace = &later});
	service_case_turn(test);
}

static void test_a_waiter_gets_pending_after_its_time_and_may_ask_again(void **state)
{
	struct service_case *test = *state;
	struct service_answer *answer = send_later(test, SERVICE_PENDING_MS);

	/* The timer is made to be due. */
	test->service->calls_timer.fn(&test->service->calls_timer);
	assert_true(answer->is_answered);
	assert_int_equal(answer->status, BUS_PENDING);
	assert_int_equal(count(test, "later", id_1), BUS_PENDING);
	assert_int_equal(the_counter.n_runs, 1);
	answer_later(test);
	assert_int_equal(count(test, "later", id_1), BUS_OK);
	assert_int_equal(the_counter.n_runs, 1);
}

static void test_a_waiter_learns_soon_that_the_disk_is_full(void **state)
{
	struct service_case *test = *state;
	struct service_answer *answer = send_later(test, SERVICE_NO_ROOM_MS);

	test->service->calls_timer.fn(&test->service->calls_timer);
	assert_false(answer->is_answered);
	test->service->no_room_ms = time_boot_ms();
	test->service->calls_timer.fn(&test->service->calls_timer);
	assert_int_equal(answer->status, BUS_PENDING);
	assert_non_null(strstr(service_case_text(test), ENVELOPE_WAITS "no space is left on"));
	answer_later(test);
}

static void test_a_waiter_whose_deadline_passes_is_told(void **state)
{
	struct service_case *test = *state;
	struct service_answer *answer = send_later(test, 0);

	the_counter.later->deadline_ms = 1;
	test->service->calls_timer.fn(&test->service->calls_timer);
	assert_int_equal(answer->status, BUS_DEADLINE_EXCEEDED);
	call_finish_fail(the_counter.later, BUS_NOT_FOUND, "gone");
	service_case_turn(test);
}

static void test_text_that_is_not_utf8_is_made_so(void **state)
{
	struct service_case *test = *state;

	assert_int_equal(count(test, "later", id_1), BUS_PENDING);
	call_finish_fail(the_counter.later, BUS_NOT_FOUND, "a\xff\xc3z\n\xe2\x82");
	service_case_turn(test);
	assert_int_equal(count(test, "later", id_1), BUS_NOT_FOUND);
	assert_string_equal(service_case_text(test), "a?"
						     "?z ?"
						     "?");
}

#define CASE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

TEST_MAIN(CASE(test_a_repeated_request_gets_the_stored_reply_and_does_nothing),
	  CASE(test_a_repeated_request_does_nothing_after_a_crash_either),
	  CASE(test_a_crash_before_the_commit_leaves_nothing),
	  CASE(test_the_same_id_with_another_body_is_refused),
	  CASE(test_a_repeat_in_the_same_turn_does_nothing_twice),
	  CASE(test_a_stored_reply_goes_after_its_time), CASE(test_expired_replies_are_trimmed),
	  CASE(test_replies_of_another_boot_are_forgotten),
	  CASE(test_replies_are_bounded_and_reading_goes_on),
	  CASE(test_a_damaged_record_is_told_as_an_event),
	  CASE(test_a_refused_request_changes_nothing_and_stays_refused),
	  CASE(test_a_passing_failure_is_not_remembered),
	  CASE(test_a_broken_handler_is_an_internal_error_and_is_undone),
	  CASE(test_an_unknown_method_is_named),
	  CASE(test_a_request_without_its_field_names_the_field),
	  CASE(test_every_truncation_of_a_request_is_answered), CASE(test_what_is_late_is_not_run),
	  CASE(test_requests_of_a_turn_share_one_commit),
	  CASE(test_a_full_map_runs_the_handler_again_and_nothing_twice),
	  CASE(test_a_callback_changes_the_store_in_a_transaction),
	  CASE(test_a_callback_runs_again_when_the_map_was_full),
	  CASE(test_what_waited_for_an_aborted_transaction_is_freed),
	  CASE(test_a_later_answer_is_given_to_all_who_asked),
	  CASE(test_a_later_answer_waits_for_room_whatever_else_comes),
	  CASE(test_a_later_failure_is_remembered),
	  CASE(test_a_waiter_gets_pending_after_its_time_and_may_ask_again),
	  CASE(test_a_waiter_learns_soon_that_the_disk_is_full),
	  CASE(test_a_waiter_whose_deadline_passes_is_told),
	  CASE(test_text_that_is_not_utf8_is_made_so))
