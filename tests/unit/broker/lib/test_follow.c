/*
 * The joining of replay and live messages, against a model of a broker whose PUB
 * loses, delays and repeats nothing but drops at will, whose log is trimmed, and
 * which may come back with another log: each event once, in order, without a gap.
 */

#include <stdlib.h>
#include <string.h>

#include "broker/lib/cleanup.h"
#include "broker/lib/follow.h"
#include "tests/lib/main.h"

#define EVENTS_MAX 512
#define QUEUE_MAX  1024

static const uint8_t log_a[ENVELOPE_ID_SIZE] = {1}, log_b[ENVELOPE_ID_SIZE] = {2};

/* ---- single steps ---- */

static int kept[64];
static unsigned n_freed;

static void count_free(void *data)
{
	(void)data;
	n_freed++;
}

/* Reads what is asked for: `last` events exist in log @log_id, all match. */
static void read_all(struct follow *follow, const uint8_t *log_id, uint64_t last)
{
	struct follow_reply reply = {.log_id = log_id, .first_seq = 1, .last_seq = last};
	uint64_t from = 0;

	assert_true(follow_wants_read(follow, &from));
	follow_read_begin(follow);
	reply.next = last + 1;
	if (!follow_read_reply(follow, &reply))
		return;
	for (uint64_t seq = from; from > 0 && seq <= last; seq++)
		follow_read_event(follow, seq);
	follow_read_end(follow);
}

static void test_from_now_starts_behind_the_newest_number(void **state)
{
	struct follow follow;
	uint64_t from = 7;

	(void)state;
	follow_init(&follow, 0, NULL);
	assert_true(follow_wants_read(&follow, &from));
	assert_int_equal(from, 0);
	read_all(&follow, log_a, 41);
	assert_false(follow_wants_read(&follow, &from));
	assert_int_equal(follow_live(&follow, log_a, 41, NULL), FOLLOW_DROP);
	assert_int_equal(follow_live(&follow, log_a, 42, NULL), FOLLOW_DELIVER);
	assert_false(follow_take_truncated(&follow));
	follow_deinit(&follow);
}

static void test_live_events_wait_until_the_first_read(void **state)
{
	struct follow follow;

	(void)state;
	follow_init(&follow, 5, NULL);
	assert_int_equal(follow_live(&follow, log_a, 6, &kept[6]), FOLLOW_KEEP);
	assert_int_equal(follow_live(&follow, log_a, 5, &kept[5]), FOLLOW_DROP);
	assert_null(follow_take(&follow));
	read_all(&follow, log_a, 5);
	assert_ptr_equal(follow_take(&follow), &kept[6]);
	assert_null(follow_take(&follow));
	follow_deinit(&follow);
}

static void test_a_gap_is_read_and_what_is_kept_follows(void **state)
{
	struct follow follow;
	uint64_t from;

	(void)state;
	follow_init(&follow, 1, NULL);
	read_all(&follow, log_a, 3);
	assert_int_equal(follow_live(&follow, log_a, 6, &kept[6]), FOLLOW_KEEP);
	assert_true(follow_wants_read(&follow, &from));
	assert_int_equal(from, 4);
	read_all(&follow, log_a, 5);
	assert_ptr_equal(follow_take(&follow), &kept[6]);
	assert_false(follow_wants_read(&follow, &from));
	follow_deinit(&follow);
}

static void test_a_heartbeat_shows_a_lost_tail(void **state)
{
	struct follow follow;
	uint64_t from;

	(void)state;
	follow_init(&follow, 1, NULL);
	read_all(&follow, log_a, 3);
	follow_heartbeat(&follow, log_a, 3);
	assert_false(follow_wants_read(&follow, &from));
	follow_heartbeat(&follow, log_a, 4);
	assert_true(follow_wants_read(&follow, &from));
	assert_int_equal(from, 4);
	follow_deinit(&follow);
}

static void test_only_one_read_is_under_way(void **state)
{
	struct follow follow;
	uint64_t from;

	(void)state;
	follow_init(&follow, 1, NULL);
	assert_true(follow_wants_read(&follow, &from));
	follow_read_begin(&follow);
	assert_false(follow_wants_read(&follow, &from));
	follow_read_failed(&follow);
	assert_true(follow_wants_read(&follow, &from));
	follow_deinit(&follow);
}

static void test_another_log_is_followed_from_its_first_event(void **state)
{
	struct follow follow;
	uint64_t from;

	(void)state;
	follow_init(&follow, 1, NULL);
	read_all(&follow, log_a, 9);
	assert_int_equal(follow_live(&follow, log_b, 2, &kept[2]), FOLLOW_DROP);
	assert_true(follow_wants_read(&follow, &from));
	assert_int_equal(from, 10);
	read_all(&follow, log_b, 2);
	assert_true(follow_wants_read(&follow, &from));
	assert_int_equal(from, 1);
	assert_int_equal(follow_live(&follow, log_b, 3, &kept[3]), FOLLOW_KEEP);
	read_all(&follow, log_b, 2);
	assert_true(follow_take_truncated(&follow));
	assert_ptr_equal(follow_take(&follow), &kept[3]);
	assert_false(follow_take_truncated(&follow));
	follow_deinit(&follow);
}

static void test_late_messages_of_a_log_that_is_gone_change_nothing(void **state)
{
	struct follow follow;
	uint64_t from;

	(void)state;
	follow_init(&follow, 1, NULL);
	read_all(&follow, log_a, 9);
	assert_int_equal(follow_live(&follow, log_b, 500, &kept[5]), FOLLOW_DROP);
	follow_heartbeat(&follow, log_b, 600);
	assert_true(follow_wants_read(&follow, &from));
	read_all(&follow, log_a, 9);
	assert_false(follow_wants_read(&follow, &from));
	assert_int_equal(follow_live(&follow, log_a, 10, NULL), FOLLOW_DELIVER);
	assert_false(follow_take_truncated(&follow));
	follow_deinit(&follow);
}

static void test_a_read_asked_for_before_the_log_changed_is_passed_over(void **state)
{
	struct follow_reply reply = {.log_id = log_b, .next = 100, .first_seq = 1, .last_seq = 99};
	struct follow follow;
	uint64_t from;

	(void)state;
	follow_init(&follow, 50, NULL);
	follow_live(&follow, log_a, 60, &kept[6]);
	assert_true(follow_wants_read(&follow, &from));
	follow_read_begin(&follow);
	follow_heartbeat(&follow, log_b, 99);
	assert_false(follow_read_reply(&follow, &reply));
	assert_true(follow_wants_read(&follow, &from));
	assert_int_equal(from, 1);
	follow_deinit(&follow);
}

static void test_a_number_of_another_log_starts_at_the_first_with_a_mark(void **state)
{
	struct follow_reply reply = {.log_id = log_a, .next = 1000, .first_seq = 1, .last_seq = 7};
	struct follow follow;
	uint64_t from;

	(void)state;
	follow_init(&follow, 1000, NULL);
	assert_true(follow_wants_read(&follow, &from));
	follow_read_begin(&follow);
	assert_false(follow_read_reply(&follow, &reply));
	assert_true(follow_wants_read(&follow, &from));
	assert_int_equal(from, 1);
	assert_true(follow_take_truncated(&follow));
	follow_deinit(&follow);
}

static void test_the_next_number_to_come_is_no_number_of_another_log(void **state)
{
	struct follow follow;

	(void)state;
	follow_init(&follow, 8, NULL);
	read_all(&follow, log_a, 7);
	assert_false(follow_take_truncated(&follow));
	assert_int_equal(follow_live(&follow, log_a, 8, NULL), FOLLOW_DELIVER);
	follow_deinit(&follow);
}

static void test_the_buffer_is_bounded_and_freed(void **state)
{
	struct follow follow;
	uint64_t from;

	(void)state;
	n_freed = 0;
	follow_init(&follow, 1, count_free);
	for (uint64_t seq = 2; seq < 2 + FOLLOW_BUFFER_MAX; seq++)
		assert_int_equal(follow_live(&follow, log_a, seq, &kept[0]), FOLLOW_KEEP);
	assert_int_equal(follow_live(&follow, log_a, 2 + FOLLOW_BUFFER_MAX, &kept[0]), FOLLOW_DROP);
	read_all(&follow, log_a, 1);
	for (unsigned i = 0; i < FOLLOW_BUFFER_MAX / 2; i++)
		assert_non_null(follow_take(&follow));
	assert_int_equal(n_freed, 0);
	follow_deinit(&follow);
	assert_int_equal(n_freed, FOLLOW_BUFFER_MAX / 2);

	/* What was not kept is known to be missing. */
	follow_init(&follow, 1, NULL);
	read_all(&follow, log_a, 1);
	for (uint64_t seq = 3; seq <= 3 + FOLLOW_BUFFER_MAX; seq++)
		follow_live(&follow, log_a, seq, &kept[0]);
	read_all(&follow, log_a, 2);
	for (unsigned i = 0; i < FOLLOW_BUFFER_MAX; i++)
		assert_non_null(follow_take(&follow));
	assert_null(follow_take(&follow));
	assert_true(follow_wants_read(&follow, &from));
	assert_int_equal(from, 3 + FOLLOW_BUFFER_MAX);
	follow_deinit(&follow);
}

/* ---- generated interleavings ---- */

/* A log: events 1 to last, of which those from first on are kept. Odd ones match the filter. */
struct model_log {
	uint8_t id[ENVELOPE_ID_SIZE];
	uint64_t first, last;
};

struct live_message {
	uint8_t log_id[ENVELOPE_ID_SIZE];
	uint64_t seq;
	bool is_heartbeat;
};

struct pending_read {
	bool is_under_way, is_answered;
	uint64_t from;
	struct model_log log; /* as it was when the broker answered */
};

struct model {
	unsigned seed;
	struct model_log log;
	struct live_message queue[QUEUE_MAX]; /* what PUB sent and SUB has not handed over */
	size_t head, tail;
	struct pending_read read;
	struct follow follow;
	/* what was delivered */
	uint8_t seen_log[ENVELOPE_ID_SIZE];
	uint64_t seen;  /* newest that matched */
	uint64_t start; /* nothing before is due */
	unsigned n_logs, n_delivered;
};

static unsigned pick(struct model *model, unsigned n)
{
	model->seed = model->seed * 1103515245u + 12345u;
	return (model->seed >> 16) % n;
}

static bool matches(uint64_t seq)
{
	return seq % 3 != 0;
}

static uint64_t next_match(uint64_t seq)
{
	do
		seq++;
	while (!matches(seq));
	return seq;
}

static void deliver(struct model *model, const uint8_t *log_id, uint64_t seq)
{
	bool is_truncated;

	if (!matches(seq))
		return;

	is_truncated = follow_take_truncated(&model->follow);
	model->n_delivered++;
	if (memcmp(model->seen_log, log_id, ENVELOPE_ID_SIZE) != 0) {
		/* Another log: only with the mark, and only forward (the first byte counts). */
		if (model->seen_log[0] != 0)
			assert_true(is_truncated);
		assert_true(log_id[0] > model->seen_log[0]);
		memcpy(model->seen_log, log_id, ENVELOPE_ID_SIZE);
		if (is_truncated)
			model->seen = 0;
	}
	assert_true(seq > model->seen);
	if (seq != next_match(model->seen))
		assert_true(is_truncated);
	model->seen = seq;
}

static void drain(struct model *model)
{
	struct live_message *message;

	while ((message = follow_take(&model->follow))) {
		deliver(model, message->log_id, message->seq);
		free(message);
	}
}

static void publish(struct model *model, bool is_heard)
{
	struct live_message *message = &model->queue[model->tail % QUEUE_MAX];

	if (model->log.last >= EVENTS_MAX)
		return;
	model->log.last++;
	if (!is_heard || model->tail - model->head >= QUEUE_MAX)
		return;
	*message = (struct live_message){.seq = model->log.last};
	memcpy(message->log_id, model->log.id, ENVELOPE_ID_SIZE);
	model->tail++;
}

static void beat(struct model *model)
{
	struct live_message *message = &model->queue[model->tail % QUEUE_MAX];

	if (model->tail - model->head >= QUEUE_MAX)
		return;
	*message = (struct live_message){.seq = model->log.last, .is_heartbeat = true};
	memcpy(message->log_id, model->log.id, ENVELOPE_ID_SIZE);
	model->tail++;
}

static void hear(struct model *model)
{
	struct live_message *message, *copy;

	if (model->head == model->tail)
		return;
	message = &model->queue[model->head++ % QUEUE_MAX];
	if (message->is_heartbeat) {
		follow_heartbeat(&model->follow, message->log_id, message->seq);
		return;
	}
	copy = malloc(sizeof(*copy));
	assert_non_null(copy);
	*copy = *message;
	switch (follow_live(&model->follow, message->log_id, message->seq, copy)) {
	case FOLLOW_DELIVER:
		deliver(model, message->log_id, message->seq);
		free(copy);
		break;
	case FOLLOW_DROP:
		free(copy);
		break;
	case FOLLOW_KEEP:
		break;
	}
	drain(model);
}

static void ask(struct model *model)
{
	uint64_t from;

	if (!follow_wants_read(&model->follow, &from))
		return;
	follow_read_begin(&model->follow);
	model->read = (struct pending_read){.is_under_way = true, .from = from};
}

/* The broker takes its snapshot; the answer may be long on its way. */
static void answer(struct model *model)
{
	if (!model->read.is_under_way || model->read.is_answered)
		return;
	model->read.is_answered = true;
	model->read.log = model->log;
}

static void give(struct model *model)
{
	const struct model_log *log = &model->read.log;
	uint64_t from = model->read.from > 0 ? model->read.from : log->last + 1;
	struct follow_reply reply = {
		.log_id = log->id,
		.first_seq = log->first,
		.last_seq = log->last,
		.is_truncated = from < log->first,
	};
	uint64_t limit = 1 + pick(model, 20);

	if (!model->read.is_answered)
		return;
	if (from < log->first)
		from = log->first;
	reply.next = from + limit <= log->last ? from + limit : log->last + 1;
	if (reply.next < from)
		reply.next = from;
	if (follow_read_reply(&model->follow, &reply)) {
		for (uint64_t seq = from; seq < reply.next; seq++) {
			if (matches(seq) && follow_read_event(&model->follow, seq))
				deliver(model, log->id, seq);
		}
		follow_read_end(&model->follow);
	}
	model->read = (struct pending_read){};
	drain(model);
}

static void lose_read(struct model *model)
{
	if (!model->read.is_under_way)
		return;
	follow_read_failed(&model->follow);
	model->read = (struct pending_read){};
}

static void trim(struct model *model)
{
	if (model->log.first < model->log.last)
		model->log.first += 1 + pick(model, (unsigned)(model->log.last - model->log.first));
}

static void change_log(struct model *model)
{
	if (model->n_logs == 3)
		return;
	model->n_logs++;
	model->log = (struct model_log){.first = 1};
	model->log.id[0] = (uint8_t)model->n_logs;
}

struct rates {
	unsigned lose, trim, change;
};

static void step(struct model *model, const struct rates *rates)
{
	unsigned roll = pick(model, 100);

	if (roll < 30)
		publish(model, pick(model, 100) >= rates->lose);
	else if (roll < 60)
		hear(model);
	else if (roll < 70)
		ask(model);
	else if (roll < 80)
		answer(model);
	else if (roll < 90)
		give(model);
	else if (roll < 93)
		beat(model);
	else if (roll < 95)
		lose_read(model);
	else if (roll < 96)
		follow_suspect(&model->follow);
	else if (pick(model, 100) < rates->trim)
		trim(model);
	else if (pick(model, 1000) < rates->change)
		change_log(model);
}

static void run(unsigned seed, uint64_t from, const struct rates *rates)
{
	struct model model = {.seed = seed, .n_logs = 1};
	uint64_t wanted;

	model.log = (struct model_log){.first = 1};
	model.log.id[0] = 1;
	for (unsigned i = pick(&model, 40); i > 0; i--)
		publish(&model, true);
	if (from > model.log.last + 1)
		from = model.log.last + 1;
	follow_init(&model.follow, from, free);
	if (from == 0) {
		/* now: where it is, the first answer says */
		ask(&model);
		answer(&model);
		model.seen = model.log.last;
		give(&model);
	} else {
		model.seen = from - 1;
	}
	for (unsigned i = 0; i < 2000; i++)
		step(&model, rates);

	/* Then it calms down: all that there is arrives. */
	beat(&model);
	for (unsigned i = 0; i < 5000; i++) {
		hear(&model);
		ask(&model);
		answer(&model);
		give(&model);
	}
	assert_false(follow_wants_read(&model.follow, &wanted));
	assert_int_equal(model.follow.next, model.log.last + 1);
	/* Nothing that is kept is missing. */
	if (from != 0 && model.seen_log[0] == model.log.id[0]) {
		if (model.seen < model.log.first - 1)
			model.seen = model.log.first - 1;
		assert_true(next_match(model.seen) > model.log.last);
	}
	follow_deinit(&model.follow);
}

static void test_each_event_comes_once_in_order_when_pub_loses(void **state)
{
	const struct rates rates[] = {{0, 0, 0}, {10, 0, 0}, {50, 0, 0}, {100, 0, 0}};

	(void)state;
	for (unsigned seed = 1; seed <= 400; seed++) {
		for (size_t i = 0; i < ARRAY_SIZE(rates); i++)
			run(seed, seed % 5, &rates[i]);
	}
}

static void test_holes_are_marked_when_the_log_is_trimmed_or_replaced(void **state)
{
	const struct rates rates[] = {{30, 50, 0}, {30, 0, 60}, {60, 50, 60}};

	(void)state;
	for (unsigned seed = 1; seed <= 400; seed++) {
		for (size_t i = 0; i < ARRAY_SIZE(rates); i++)
			run(seed, seed % 5, &rates[i]);
	}
}

TEST_MAIN(cmocka_unit_test(test_from_now_starts_behind_the_newest_number),
	  cmocka_unit_test(test_live_events_wait_until_the_first_read),
	  cmocka_unit_test(test_a_gap_is_read_and_what_is_kept_follows),
	  cmocka_unit_test(test_a_heartbeat_shows_a_lost_tail),
	  cmocka_unit_test(test_only_one_read_is_under_way),
	  cmocka_unit_test(test_another_log_is_followed_from_its_first_event),
	  cmocka_unit_test(test_late_messages_of_a_log_that_is_gone_change_nothing),
	  cmocka_unit_test(test_a_read_asked_for_before_the_log_changed_is_passed_over),
	  cmocka_unit_test(test_a_number_of_another_log_starts_at_the_first_with_a_mark),
	  cmocka_unit_test(test_the_next_number_to_come_is_no_number_of_another_log),
	  cmocka_unit_test(test_the_buffer_is_bounded_and_freed),
	  cmocka_unit_test(test_each_event_comes_once_in_order_when_pub_loses),
	  cmocka_unit_test(test_holes_are_marked_when_the_log_is_trimmed_or_replaced))
