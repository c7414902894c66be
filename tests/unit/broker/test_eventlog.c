#include "tests/lib/main.h"

#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "broker/eventlog.h"

/* An open log with its meta row, in a scratch directory. */
struct fixture {
	struct scratch scratch;
	struct log_db *db;
	struct broker_log_meta meta;
};

static void open_log(struct fixture *f)
{
	_cleanup_(log_abortp) struct log_txn *txn = NULL;

	assert_int_equal(log_db_open(f->scratch.dir, 64 << 20, &f->db, NULL), 0);
	assert_int_equal(log_begin(f->db, true, &txn), 0);
	assert_int_equal(eventlog_load(txn, &f->meta), 0);
	assert_int_equal(log_commit(TAKE(txn)), 0);
}

static void close_log(struct fixture *f)
{
	broker_log_meta_clear(&f->meta);
	f->db = log_db_close(f->db);
}

static int set_up(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	if (scratch_init(&f->scratch))
		return -1;
	open_log(f);
	*state = f;
	return 0;
}

static int tear_down(void **state)
{
	struct fixture *f = *state;
	int r;

	close_log(f);
	r = scratch_deinit(&f->scratch);
	free(f);
	return r;
}

/* A batch of @n events from publisher @who, numbered from @first. */
static void make_batch(struct event_publish_request *batch, uint8_t who, uint64_t first, size_t n)
{
	static const uint8_t map = 0x80;
	uint8_t publisher[ENVELOPE_ID_SIZE] = {who};

	*batch = (struct event_publish_request){};
	schema_bytes_set(&batch->publisher, publisher, sizeof(publisher));
	for (size_t i = 0; i < n; i++) {
		struct event_item *item = schema_list_add(&batch->events);

		item->seq = first + i;
		item->time_ns = 1;
		schema_set(&item->topic, i % 2 ? "/tasks/exit" : "/tasks/start");
		schema_set(&item->namespace, "default");
		schema_set(&item->object, "web");
		schema_bytes_set(&item->event, &map, 1);
	}
}

static struct eventlog_appended append_at(struct fixture *f, uint8_t who, uint64_t first, size_t n,
					  uint64_t now_ns)
{
	_cleanup_(event_publish_request_clear) struct event_publish_request batch = {};
	struct eventlog_appended appended = {};
	struct log_txn *txn = NULL;

	make_batch(&batch, who, first, n);
	assert_int_equal(log_begin(f->db, true, &txn), 0);
	assert_int_equal(eventlog_append(txn, &f->meta, &batch, now_ns, &appended), 0);
	assert_int_equal(eventlog_save(txn, &f->meta), 0);
	assert_int_equal(log_commit(txn), 0);
	return appended;
}

static struct eventlog_appended append(struct fixture *f, uint8_t who, uint64_t first, size_t n)
{
	return append_at(f, who, first, n, 1);
}

static size_t trim(struct fixture *f, const struct eventlog_limits *limits, uint64_t now_ns,
		   size_t budget)
{
	struct log_txn *txn = NULL;
	size_t trimmed = 0;

	assert_int_equal(log_begin(f->db, true, &txn), 0);
	assert_int_equal(eventlog_trim(txn, &f->meta, limits, now_ns, budget, &trimmed), 0);
	assert_int_equal(eventlog_save(txn, &f->meta), 0);
	assert_int_equal(log_commit(txn), 0);
	return trimmed;
}

static bool read_log(struct fixture *f, const struct event_read_request *filter, size_t budget,
		     struct event_read_reply *reply)
{
	_cleanup_(log_abortp) struct log_txn *txn = NULL;
	size_t bytes = 0;
	bool has_more;

	assert_int_equal(log_begin(f->db, false, &txn), 0);
	assert_int_equal(eventlog_read(txn, &f->meta, filter, budget, &bytes, reply, &has_more), 0);
	return has_more;
}

static void test_events_are_numbered_without_gaps_over_all_publishers(void **state)
{
	struct fixture *f = *state;
	struct eventlog_appended a = append(f, 1, 1, 3), b = append(f, 2, 1, 2),
				 c = append(f, 1, 4, 1);

	assert_int_equal(a.first_seq, 1);
	assert_int_equal(a.next_seq, 4);
	assert_int_equal(b.first_seq, 4);
	assert_int_equal(c.first_seq, 6);
	assert_int_equal(f->meta.next_seq, 7);
	assert_int_equal(f->meta.publishers, 2);
}

static void test_a_repeat_is_acknowledged_and_not_logged_again(void **state)
{
	struct fixture *f = *state;
	struct eventlog_appended again;

	append(f, 1, 1, 3);
	again = append(f, 1, 1, 3);
	assert_int_equal(again.status, BUS_OK);
	assert_int_equal(again.n_new, 0);
	assert_int_equal(again.next_seq, 4);
	again = append(f, 1, 2, 4);
	assert_int_equal(again.n_repeats, 2);
	assert_int_equal(again.n_new, 2);
	assert_int_equal(again.first_seq, 4);
	assert_int_equal(again.next_seq, 6);
}

static void test_a_gap_is_refused_and_names_the_number_that_is_wanted(void **state)
{
	struct fixture *f = *state;
	struct eventlog_appended gap;

	append(f, 1, 1, 3);
	gap = append(f, 1, 5, 1);
	assert_int_equal(gap.status, BUS_ABORTED);
	assert_int_equal(gap.next_seq, 4);
	assert_int_equal(gap.n_new, 0);
	assert_non_null(strstr(gap.text, "4"));
	assert_int_equal(f->meta.next_seq, 4);
}

static void test_an_unknown_publisher_may_go_on_where_it_was(void **state)
{
	struct fixture *f = *state;
	struct eventlog_appended appended = append(f, 1, 57, 2);

	assert_int_equal(appended.status, BUS_OK);
	assert_int_equal(appended.next_seq, 59);
	assert_int_equal(append(f, 1, 60, 1).status, BUS_ABORTED);
}

static void test_a_batch_is_checked_by_itself(void **state)
{
	_cleanup_(event_publish_request_clear) struct event_publish_request batch = {};
	struct schema_fault fault = {};

	(void)state;
	make_batch(&batch, 1, 1, 3);
	assert_int_equal(eventlog_check(&batch, &fault), 0);
	batch.events.items[2].seq = 9;
	assert_int_equal(eventlog_check(&batch, &fault), SCHEMA_E_VALUE);
	batch.events.items[2].seq = 3;
	schema_set(&batch.events.items[1].topic, "/bus/heartbeat");
	assert_int_equal(eventlog_check(&batch, &fault), SCHEMA_E_VALUE);
	assert_non_null(strstr(fault.text, "event 2"));
	schema_set(&batch.events.items[1].topic, "no topic");
	assert_int_equal(eventlog_check(&batch, &fault), SCHEMA_E_VALUE);
	schema_set(&batch.events.items[1].topic, "/a/b");
	schema_set(&batch.events.items[0].namespace, "a/b");
	assert_int_equal(eventlog_check(&batch, &fault), SCHEMA_E_VALUE);
}

static void test_reading_gives_each_event_once_and_where_to_read_on(void **state)
{
	_cleanup_(event_read_reply_clear) struct event_read_reply reply = {.next = 2};
	struct fixture *f = *state;

	append(f, 1, 1, 10);
	assert_true(!read_log(f, &(struct event_read_request){.limit = 4}, 100, &reply));
	assert_int_equal(reply.events.count, 4);
	for (size_t i = 0; i < 4; i++)
		assert_int_equal(reply.events.items[i].seq, 2 + i);
	assert_int_equal(reply.next, 6);
	assert_int_equal(reply.first_seq, 1);
	assert_int_equal(reply.last_seq, 10);
	assert_false(reply.truncated);
}

static void test_a_filter_looks_at_namespace_topic_prefix_and_object(void **state)
{
	_cleanup_(event_read_reply_clear) struct event_read_reply reply = {.next = 1};
	char *topics[] = {(char *)"/tasks/ex"};
	struct event_read_request filter = {
		.namespace = (char *)"default", .object = (char *)"web", .topics = {topics, 1}};
	struct fixture *f = *state;

	append(f, 1, 1, 10);
	read_log(f, &filter, 100, &reply);
	assert_int_equal(reply.events.count, 5);
	assert_int_equal(reply.next, 11);
	event_read_reply_clear(&reply);
	reply.next = 1;
	filter.namespace = (char *)"other";
	read_log(f, &filter, 100, &reply);
	assert_int_equal(reply.events.count, 0);
	assert_int_equal(reply.next, 11);
}

static void test_a_long_log_is_looked_at_in_steps(void **state)
{
	_cleanup_(event_read_reply_clear) struct event_read_reply reply = {.next = 1};
	struct event_read_request filter = {.object = (char *)"nobody"};
	struct fixture *f = *state;

	append(f, 1, 1, 100);
	assert_true(read_log(f, &filter, 30, &reply));
	assert_int_equal(reply.next, 31);
	assert_false(read_log(f, &filter, 100, &reply));
	assert_int_equal(reply.next, 101);
}

static void test_trimming_by_size_goes_in_small_steps_and_says_truncated(void **state)
{
	_cleanup_(event_read_reply_clear) struct event_read_reply reply = {.next = 1};
	struct eventlog_limits limits = {.max_age_ns = UINT64_MAX};
	struct fixture *f = *state;

	append(f, 1, 1, 100);
	limits.max_bytes = f->meta.bytes / 2;
	assert_int_equal(trim(f, &limits, 1, 10), 10);
	assert_int_equal(trim(f, &limits, 1, 1000), 40);
	assert_int_equal(trim(f, &limits, 1, 1000), 0);
	read_log(f, &(struct event_read_request){.limit = 1}, 100, &reply);
	assert_true(reply.truncated);
	assert_int_equal(reply.first_seq, 51);
	assert_int_equal(reply.events.items[0].seq, 51);
}

static void test_trimming_by_age_looks_at_when_an_event_was_logged(void **state)
{
	struct eventlog_limits limits = {.max_bytes = UINT64_MAX, .max_age_ns = 1000};
	struct fixture *f = *state;

	append_at(f, 1, 1, 3, 100);
	append_at(f, 1, 4, 3, 5000);
	assert_int_equal(trim(f, &limits, 1000, 100), 0);
	assert_int_equal(trim(f, &limits, 5500, 100), 3);
	assert_int_equal(f->meta.first_seq, 4);
}

static void test_a_publisher_goes_with_its_last_event(void **state)
{
	struct eventlog_limits limits = {.max_bytes = UINT64_MAX, .max_age_ns = 1000};
	struct fixture *f = *state;

	append_at(f, 1, 1, 3, 100);
	append_at(f, 2, 1, 3, 100);
	append_at(f, 2, 4, 1, 5000);
	trim(f, &limits, 5500, 100);
	assert_int_equal(f->meta.publishers, 1);
	/* 2 is known still, 1 is not. */
	assert_int_equal(append(f, 2, 9, 1).status, BUS_ABORTED);
	assert_int_equal(append(f, 1, 9, 1).status, BUS_OK);
}

static void test_an_emptied_log_goes_on_counting(void **state)
{
	_cleanup_(event_read_reply_clear) struct event_read_reply reply = {.next = 1};
	struct fixture *f = *state;

	append(f, 1, 1, 5);
	assert_int_equal(trim(f, &(struct eventlog_limits){}, 2, 100), 5);
	assert_int_equal(f->meta.bytes, 0);
	read_log(f, &(struct event_read_request){}, 10, &reply);
	assert_true(reply.truncated);
	assert_int_equal(reply.first_seq, 6);
	assert_int_equal(reply.last_seq, 5);
	assert_int_equal(append(f, 1, 6, 1).first_seq, 6);
}

static enum bus_status move(struct fixture *f, const char *name, uint64_t from, uint64_t ack,
			    uint64_t *ret_ack)
{
	enum bus_status status = BUS_INTERNAL;
	struct log_txn *txn = NULL;

	assert_int_equal(log_begin(f->db, true, &txn), 0);
	assert_int_equal(eventlog_move_cursor(txn, &f->meta, name, from, ack, 1, ret_ack, &status),
			 0);
	assert_int_equal(log_commit(txn), 0);
	return status;
}

static void test_a_cursor_is_made_at_from_and_moves_only_forward(void **state)
{
	struct fixture *f = *state;
	uint64_t ack = 99;

	append(f, 1, 1, 10);
	assert_int_equal(move(f, "a", 3, 0, &ack), BUS_OK);
	assert_int_equal(ack, 2);
	assert_int_equal(move(f, "a", 1, 7, &ack), BUS_OK);
	assert_int_equal(ack, 7);
	assert_int_equal(move(f, "a", 1, 4, &ack), BUS_OK);
	assert_int_equal(ack, 7);
	assert_int_equal(move(f, "now", 0, 0, &ack), BUS_OK);
	assert_int_equal(ack, 10);
	assert_int_equal(move(f, "a", 1, 11, &ack), BUS_INVALID_ARGUMENT);
}

static void test_cursors_are_bounded_and_listed_in_order(void **state)
{
	_cleanup_(event_cursors_reply_clear) struct event_cursors_reply reply = {};
	struct fixture *f = *state;
	struct log_txn *txn = NULL;
	uint64_t ack;

	assert_int_equal(log_begin(f->db, true, &txn), 0);
	for (int i = 0; i < EVENTLOG_CURSORS_MAX; i++) {
		enum bus_status status;
		char name[16];

		snprintf(name, sizeof(name), "c%04d", i);
		assert_int_equal(eventlog_move_cursor(txn, &f->meta, name, 1, 0, 1, &ack, &status),
				 0);
		assert_int_equal(status, BUS_OK);
	}
	assert_int_equal(log_commit(txn), 0);
	assert_int_equal(move(f, "another", 1, 0, &ack), BUS_RESOURCE_EXHAUSTED);
	assert_int_equal(log_begin(f->db, false, &txn), 0);
	assert_int_equal(eventlog_list_cursors(txn, &reply), 0);
	log_abort(txn);
	assert_int_equal(reply.cursors.count, EVENTLOG_CURSORS_MAX);
	assert_string_equal(reply.cursors.items[17].name, "c0017");
}

static void test_everything_is_there_after_the_log_was_opened_again(void **state)
{
	_cleanup_(event_read_reply_clear) struct event_read_reply reply = {.next = 1};
	struct fixture *f = *state;
	uint8_t id[ENVELOPE_ID_SIZE];
	uint64_t ack;

	append(f, 1, 1, 5);
	move(f, "a", 0, 3, &ack);
	memcpy(id, f->meta.log_id.data, sizeof(id));
	close_log(f);
	open_log(f);
	assert_memory_equal(f->meta.log_id.data, id, sizeof(id));
	assert_int_equal(append(f, 1, 7, 1).status, BUS_ABORTED);
	assert_int_equal(append(f, 1, 6, 1).first_seq, 6);
	move(f, "a", 0, 0, &ack);
	assert_int_equal(ack, 5);
	read_log(f, &(struct event_read_request){}, 10, &reply);
	assert_int_equal(reply.events.count, 6);
}

/* In a child that dies in the middle of a transaction. */
static void append_and_die(const struct fixture *f)
{
	struct event_publish_request batch = {};
	struct eventlog_appended appended;
	struct broker_log_meta meta = {};
	struct log_txn *txn = NULL;
	struct log_db *db = NULL;

	make_batch(&batch, 1, 3, 2);
	if (log_db_open(f->scratch.dir, 64 << 20, &db, NULL) || log_begin(db, true, &txn) ||
	    eventlog_load(txn, &meta) || eventlog_append(txn, &meta, &batch, 1, &appended) ||
	    eventlog_save(txn, &meta))
		_exit(1);
	raise(SIGKILL);
}

static void test_a_crash_in_a_transaction_leaves_nothing_of_it(void **state)
{
	struct fixture *f = *state;
	int status;
	pid_t pid;

	append(f, 1, 1, 2);
	close_log(f);
	pid = fork();
	if (pid == 0)
		append_and_die(f);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status));
	open_log(f);
	assert_int_equal(f->meta.next_seq, 3);
	assert_int_equal(append(f, 1, 3, 2).first_seq, 3);
}

static void test_a_damaged_event_is_shown_as_such_and_the_others_are_read(void **state)
{
	_cleanup_(event_read_reply_clear) struct event_read_reply reply = {.next = 1};
	struct broker_publisher_record other = {.next_seq = 1, .last_log_seq = 1};
	struct log_key key = log_key_number(4);
	struct fixture *f = *state;
	struct log_txn *txn = NULL;

	append(f, 1, 1, 3);
	/* Another kind of record in its place: the checksum fits, the schema does not. */
	assert_int_equal(log_begin(f->db, true, &txn), 0);
	assert_int_equal(
		log_put(txn, LOG_EVENTS, &key, schema_broker_publisher_record(), &other, NULL), 0);
	f->meta.next_seq = 5;
	assert_int_equal(eventlog_save(txn, &f->meta), 0);
	assert_int_equal(log_commit(txn), 0);
	append(f, 1, 4, 1);
	read_log(f, &(struct event_read_request){}, 10, &reply);
	assert_int_equal(reply.events.count, 5);
	assert_string_equal(reply.events.items[3].topic, "/bus/damaged");
	assert_int_equal(reply.events.items[3].seq, 4);
	assert_int_equal(reply.events.items[4].publisher_seq, 4);
}

static void test_a_full_map_loses_nothing_and_grows(void **state)
{
	_cleanup_(event_publish_request_clear) struct event_publish_request batch = {};
	struct eventlog_appended appended;
	struct fixture *f = *state;
	struct log_txn *txn = NULL;
	int r = 0;

	close_log(f);
	assert_int_equal(log_db_open(f->scratch.dir, 1 << 20, &f->db, NULL), 0);
	assert_int_equal(log_begin(f->db, true, &txn), 0);
	assert_int_equal(eventlog_load(txn, &f->meta), 0);
	make_batch(&batch, 1, 1, 1000);
	for (uint64_t at = 1; !r && at < 20000; at += 1000) {
		for (size_t i = 0; i < 1000; i++)
			batch.events.items[i].seq = at + i;
		r = eventlog_append(txn, &f->meta, &batch, 1, &appended);
	}
	assert_int_equal(r, LOG_E_FULL);
	log_abort(txn);
	assert_int_equal(log_db_grow(f->db), 0);
	assert_int_equal(log_db_grow(f->db), 0);
	broker_log_meta_clear(&f->meta);
	assert_int_equal(log_begin(f->db, true, &txn), 0);
	assert_int_equal(eventlog_load(txn, &f->meta), 0);
	assert_int_equal(f->meta.next_seq, 1);
	assert_int_equal(log_commit(txn), 0);
	for (uint64_t at = 1; at < 8000; at += 1000)
		assert_int_equal(append(f, 1, at, 1000).status, BUS_OK);
}

static void test_a_reply_stays_below_its_bound(void **state)
{
	_cleanup_(event_publish_request_clear) struct event_publish_request batch = {};
	_cleanup_(event_read_reply_clear) struct event_read_reply reply = {.next = 1};
	_cleanup_(schema_buffer_clear) struct schema_buffer buffer = {};
	static uint8_t large[16000] = {0xc5, 15997 >> 8, 15997 & 0xff};
	struct eventlog_appended appended;
	struct fixture *f = *state;
	struct log_txn *txn = NULL;

	make_batch(&batch, 1, 1, 200);
	for (size_t i = 0; i < 200; i++)
		schema_bytes_set(&batch.events.items[i].event, large, sizeof(large));
	assert_int_equal(log_begin(f->db, true, &txn), 0);
	assert_int_equal(eventlog_append(txn, &f->meta, &batch, 1, &appended), 0);
	assert_int_equal(eventlog_save(txn, &f->meta), 0);
	assert_int_equal(log_commit(txn), 0);
	assert_false(read_log(f, &(struct event_read_request){.limit = 1024}, 1000, &reply));
	assert_in_range(reply.events.count, 50, 70);
	schema_bytes_set(&reply.log_id, f->meta.log_id.data, 16);
	assert_int_equal(schema_pack(schema_event_read_reply(), &reply, &buffer, NULL), 0);
	assert_true(buffer.size < SCHEMA_MESSAGE_MAX - 1024);
}

#define LOG_TEST(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

TEST_MAIN(LOG_TEST(test_events_are_numbered_without_gaps_over_all_publishers),
	  LOG_TEST(test_a_repeat_is_acknowledged_and_not_logged_again),
	  LOG_TEST(test_a_gap_is_refused_and_names_the_number_that_is_wanted),
	  LOG_TEST(test_an_unknown_publisher_may_go_on_where_it_was),
	  LOG_TEST(test_a_batch_is_checked_by_itself),
	  LOG_TEST(test_reading_gives_each_event_once_and_where_to_read_on),
	  LOG_TEST(test_a_filter_looks_at_namespace_topic_prefix_and_object),
	  LOG_TEST(test_a_long_log_is_looked_at_in_steps),
	  LOG_TEST(test_trimming_by_size_goes_in_small_steps_and_says_truncated),
	  LOG_TEST(test_trimming_by_age_looks_at_when_an_event_was_logged),
	  LOG_TEST(test_a_publisher_goes_with_its_last_event),
	  LOG_TEST(test_an_emptied_log_goes_on_counting),
	  LOG_TEST(test_a_cursor_is_made_at_from_and_moves_only_forward),
	  LOG_TEST(test_cursors_are_bounded_and_listed_in_order),
	  LOG_TEST(test_everything_is_there_after_the_log_was_opened_again),
	  LOG_TEST(test_a_crash_in_a_transaction_leaves_nothing_of_it),
	  LOG_TEST(test_a_damaged_event_is_shown_as_such_and_the_others_are_read),
	  LOG_TEST(test_a_full_map_loses_nothing_and_grows),
	  LOG_TEST(test_a_reply_stays_below_its_bound))
