/* Subscriptions of bus.h and cursors, with the real broker: nothing is missed, whatever happens to it. */

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

#include "broker/lib/ask.h"
#include "broker/lib/bus.h"
#include "broker/lib/calls.h"
#include "broker/lib/file.h"
#include "broker/lib/spawn.h"
#include "tests/lib/main.h"
#include "tests/lib/shim_case.h"

#define BATCH 500

/* nng 1.5.2 loses a message when its peer dies while it is being sent, and keeps what is abandoned. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void)
{
	return "leak:libnng.so\n";
}

struct fixture {
	char dir[32];
	char *root, *state, *bus_path, *events_path;
	const char *log_max;
	pid_t broker;
	struct loop *loop;
	struct bus *bus;
	struct ask ask; /* publishes, while the loop stands */
	uint8_t publisher[ID_SIZE];
	uint64_t published; /* the publisher's newest number */
};

/* What a subscription brought. */
struct seen {
	unsigned n;
	uint64_t first, last; /* numbers of the log */
	bool is_disordered;   /* one came twice, or out of order */
	bool has_gap;         /* one is missing between first and last */
	unsigned n_truncated;
	uint64_t truncated_at;
	char topic[32];
};

static void see(void *userdata, const struct envelope_event *event, bool truncated)
{
	struct seen *seen = userdata;

	if (truncated) {
		seen->n_truncated++;
		seen->truncated_at = event->seq;
		seen->last = 0;
	}
	if (seen->n == 0)
		seen->first = event->seq;
	if (seen->last > 0) {
		seen->is_disordered |= event->seq <= seen->last;
		seen->has_gap |= event->seq > seen->last + 1;
	}
	seen->last = event->seq;
	snprintf(seen->topic, sizeof(seen->topic), "%.31s", event->topic);
	seen->n++;
}

static void assert_whole(const struct seen *seen, unsigned n)
{
	assert_int_equal(seen->n, n);
	assert_false(seen->is_disordered);
	assert_false(seen->has_gap);
}

/* ---- the broker ---- */

static void start_broker(struct fixture *fixture)
{
	_cleanup_(cleanup_free) char *program = shim_case_program("bin/davit-broker");
	const char *const argv[] = {
		"davit-broker", "--root", fixture->root,     "--state",        fixture->state,
		"--ready-fd",   "3",      "--log-max-bytes", fixture->log_max, NULL};
	struct spawn options = {.path = program, .argv = argv, .n_fds = 2};
	int ready[2];

	assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
	options.fds = (const struct spawn_fd[]){{.from = ready[1], .to = 3}, {.from = 2, .to = 2}};
	assert_int_equal(spawn(&options, &fixture->broker, NULL), 0);
	close(ready[1]);
	assert_true(wait_on_fd(ready[0], POLLIN, WAIT_MS));
	close(ready[0]);
}

static void kill_broker(struct fixture *fixture)
{
	if (fixture->broker <= 0)
		return;
	kill(fixture->broker, SIGKILL);
	waitpid(fixture->broker, NULL, 0);
	fixture->broker = 0;
}

static int set_up(void **state)
{
	struct fixture *fixture = calloc(1, sizeof(*fixture));

	if (!fixture)
		return -1;
	strcpy(fixture->dir, "/tmp/dv-XXXXXX");
	if (!mkdtemp(fixture->dir))
		return -1;
	fixture->root = text_format("%s/r", fixture->dir);
	fixture->state = text_format("%s/s", fixture->dir);
	fixture->bus_path = text_format("%s/bus.sock", fixture->state);
	fixture->events_path = text_format("%s/events.sock", fixture->state);
	fixture->log_max = "256M";
	fixture->ask = (struct ask){.bus_path = fixture->bus_path, .timeout_ms = WAIT_MS};
	id_make(fixture->publisher);
	*state = fixture;
	if (loop_new(&fixture->loop))
		return -1;
	return bus_new(fixture->loop, fixture->bus_path, fixture->events_path, &fixture->bus);
}

static int tear_down(void **state)
{
	struct fixture *fixture = *state;
	int r;

	bus_free(fixture->bus);
	ask_deinit(&fixture->ask);
	loop_free(fixture->loop);
	kill_broker(fixture);
	r = file_remove_tree(AT_FDCWD, fixture->dir, NULL);
	free(fixture->root);
	free(fixture->state);
	free(fixture->bus_path);
	free(fixture->events_path);
	free(fixture);
	return r;
}

/* ---- publishing, without the loop ---- */

static void publish_as(struct fixture *fixture, unsigned n, char *namespace, char *topic,
		       char *object)
{
	static uint8_t body[] = {0x81, 0xa1, 'x', 0x01};
	struct event_item items[BATCH] = {};
	struct event_publish_request request = {
		.publisher = {.data = fixture->publisher, .size = ID_SIZE},
	};
	int r;

	while (n > 0) {
		request.events.items = items;
		request.events.count = n < BATCH ? n : BATCH;
		for (size_t i = 0; i < request.events.count; i++)
			items[i] = (struct event_item){
				.seq = ++fixture->published,
				.time_ns = time_real_ns(),
				.namespace = namespace,
				.topic = topic,
				.object = object,
				.event = {.data = body, .size = sizeof(body)},
			};
		r = event_publish_ask(&fixture->ask, &request, NULL);
		assert_string_equal(fixture->ask.text, "");
		assert_int_equal(r, 0);
		n -= (unsigned)request.events.count;
	}
}

static void publish(struct fixture *fixture, unsigned n)
{
	publish_as(fixture, n, "default", "/tasks/exit", "web");
}

/* ---- subscribing ---- */

static struct bus_subscription *subscribe(struct fixture *fixture, const struct bus_filter *filter,
					  struct seen *seen)
{
	struct bus_subscription *subscription = NULL;

	*seen = (struct seen){};
	assert_int_equal(bus_subscribe(fixture->bus, filter, see, seen, &subscription), 0);
	return subscription;
}

static void count_answer(void *userdata, enum bus_status status, const char *text,
			 struct empty *reply)
{
	(void)text;
	(void)reply;
	if (status == BUS_OK)
		++*(unsigned *)userdata;
}

/* A call waits for subscriptions that do not know yet where now is. */
static void ping(struct fixture *fixture)
{
	unsigned n_answers = 0;

	assert_int_equal(bus_ping_call(fixture->bus, NULL, &(struct empty){}, count_answer,
				       &n_answers, NULL),
			 0);
	assert_true(wait_on_loop_count(fixture->loop, &n_answers, 1, WAIT_MS));
}

static void wait_for(struct fixture *fixture, struct seen *seen, unsigned n)
{
	assert_true(wait_on_loop_count(fixture->loop, &seen->n, n, WAIT_MS));
}

/* ---- tests ---- */

static void test_a_subscriber_that_does_not_read_for_20000_events_misses_none(void **state)
{
	struct fixture *fixture = *state;
	struct bus_subscription *subscription;
	struct seen seen;

	start_broker(fixture);
	publish(fixture, 100);
	subscription = subscribe(fixture, &(struct bus_filter){}, &seen);
	ping(fixture);
	publish(fixture, 20000);
	assert_int_equal(seen.n, 0);
	wait_for(fixture, &seen, 20000);
	publish(fixture, 1);
	wait_for(fixture, &seen, 20001);
	bus_subscription_free(subscription);
	assert_whole(&seen, 20001);
	assert_int_equal(seen.first, 101);
	assert_int_equal(seen.n_truncated, 0);
}

static void test_what_was_published_before_is_read_and_joined_with_what_comes(void **state)
{
	struct fixture *fixture = *state;
	struct bus_subscription *subscription;
	struct seen seen;

	start_broker(fixture);
	publish(fixture, 3000);
	subscription = subscribe(fixture, &(struct bus_filter){.from = 11}, &seen);
	for (unsigned i = 0; i < 100; i++) {
		publish(fixture, 10);
		loop_turn(fixture->loop, 0);
	}
	wait_for(fixture, &seen, 3990);
	bus_subscription_free(subscription);
	assert_whole(&seen, 3990);
	assert_int_equal(seen.first, 11);
}

static void test_a_subscription_goes_on_when_the_broker_was_killed(void **state)
{
	struct fixture *fixture = *state;
	struct bus_subscription *subscription;
	struct seen seen;

	start_broker(fixture);
	subscription = subscribe(fixture, &(struct bus_filter){.from = 1}, &seen);
	for (unsigned round = 1; round <= 10; round++) {
		publish(fixture, 30);
		if (round % 2)
			wait_for(fixture, &seen, 60 * (round - 1) + 15);
		kill_broker(fixture);
		loop_turn(fixture->loop, 0);
		start_broker(fixture);
		publish(fixture, 30);
	}
	wait_for(fixture, &seen, 600);
	publish(fixture, 1);
	wait_for(fixture, &seen, 601);
	bus_subscription_free(subscription);
	assert_whole(&seen, 601);
	assert_int_equal(seen.n_truncated, 0);
}

static void test_a_filter_lets_only_its_own_pass_and_gaps_are_no_gaps(void **state)
{
	const char *const topics[] = {"/tasks/", "/images/create", NULL};
	struct fixture *fixture = *state;
	struct bus_subscription *by_topic, *by_object, *by_namespace;
	struct seen topic, object, namespace;

	start_broker(fixture);
	by_topic = subscribe(fixture, &(struct bus_filter){.topics = topics, .from = 1}, &topic);
	by_object = subscribe(fixture, &(struct bus_filter){.object = "db"}, &object);
	by_namespace = subscribe(fixture, &(struct bus_filter){.namespace = "other"}, &namespace);
	ping(fixture);
	for (unsigned i = 0; i < 50; i++) {
		publish_as(fixture, 1, "default", "/tasks/exit", "web");
		publish_as(fixture, 1, "other", "/images/create", "db");
		publish_as(fixture, 1, "default", "/images/delete", "db");
		publish_as(fixture, 1, "default", "/containers/create", "web");
		if (i % 5 == 0)
			loop_turn(fixture->loop, 0);
	}
	wait_for(fixture, &topic, 100);
	wait_for(fixture, &object, 100);
	wait_for(fixture, &namespace, 50);
	ping(fixture);
	bus_subscription_free(by_topic);
	bus_subscription_free(by_object);
	bus_subscription_free(by_namespace);
	assert_int_equal(topic.n, 100);
	assert_int_equal(object.n, 100);
	assert_int_equal(namespace.n, 50);
	assert_false(topic.is_disordered || object.is_disordered || namespace.is_disordered);
	assert_string_equal(namespace.topic, "/images/create");
}

static void published(void *userdata, enum bus_status status, const char *text,
		      struct event_publish_reply *reply)
{
	(void)reply;
	assert_string_equal(text, "");
	if (status == BUS_OK)
		++*(unsigned *)userdata;
}

/* Subscribe, then act: the event of the act is after "now". */
static void test_who_subscribes_and_then_acts_hears_of_it(void **state)
{
	static uint8_t body[] = {0x80};
	struct event_item item = {
		.time_ns = 1, .topic = (char *)"/tasks/exit", .event = {.data = body, .size = 1}};
	struct fixture *fixture = *state;
	struct event_publish_request request = {
		.publisher = {.data = fixture->publisher, .size = ID_SIZE},
		.events = {.items = &item, .count = 1},
	};
	struct bus_subscription *subscription;
	unsigned n_published = 0;
	struct seen seen;

	start_broker(fixture);
	for (unsigned i = 1; i <= 100; i++) {
		subscription = subscribe(fixture, &(struct bus_filter){}, &seen);
		item.seq = i;
		assert_int_equal(event_publish_call(fixture->bus, NULL, &request, published,
						    &n_published, NULL),
				 0);
		wait_for(fixture, &seen, 1);
		assert_int_equal(seen.first, i);
		assert_true(wait_on_loop_count(fixture->loop, &n_published, i, WAIT_MS));
		bus_subscription_free(subscription);
	}
}

static void test_another_log_is_told_and_followed_from_its_first_event(void **state)
{
	_cleanup_(cleanup_free) char *events = NULL;
	struct fixture *fixture = *state;
	struct bus_subscription *subscription;
	struct seen seen;

	start_broker(fixture);
	subscription = subscribe(fixture, &(struct bus_filter){.from = 1}, &seen);
	publish(fixture, 40);
	wait_for(fixture, &seen, 40);
	kill_broker(fixture);
	events = text_format("%s/events", fixture->root);
	assert_int_equal(file_remove_tree(AT_FDCWD, events, NULL), 0);

	start_broker(fixture);
	id_make(fixture->publisher);
	fixture->published = 0;
	publish(fixture, 7);
	wait_for(fixture, &seen, 47);
	bus_subscription_free(subscription);
	assert_whole(&seen, 47);
	assert_int_equal(seen.n_truncated, 1);
	assert_int_equal(seen.truncated_at, 1);
	assert_int_equal(seen.last, 7);
}

static void test_events_that_the_log_gave_up_are_said_to_be_gone(void **state)
{
	struct fixture *fixture = *state;
	struct bus_subscription *subscription;
	struct seen seen;

	fixture->log_max = "64K";
	start_broker(fixture);
	publish(fixture, 20000);
	subscription = subscribe(fixture, &(struct bus_filter){.from = 1}, &seen);
	assert_true(wait_on_loop_count(fixture->loop, &seen.n_truncated, 1, WAIT_MS));
	while (seen.last < 20000)
		wait_for(fixture, &seen, seen.n + 1);
	bus_subscription_free(subscription);
	assert_int_equal(seen.n_truncated, 1);
	assert_true(seen.truncated_at > 1);
	assert_false(seen.is_disordered);
	assert_false(seen.has_gap);
}

struct quitter {
	struct bus_subscription *subscription;
	unsigned n;
};

static void quit(void *userdata, const struct envelope_event *event, bool truncated)
{
	struct quitter *quitter = userdata;

	(void)event;
	(void)truncated;
	quitter->n++;
	quitter->subscription = bus_subscription_free(quitter->subscription);
}

static void test_a_subscriber_may_leave_while_it_is_told(void **state)
{
	struct fixture *fixture = *state;
	struct quitter read = {}, live = {};
	struct bus_subscription *subscription;
	struct seen seen;

	start_broker(fixture);
	publish(fixture, 10);
	assert_int_equal(bus_subscribe(fixture->bus, &(struct bus_filter){.from = 1}, quit, &read,
				       &read.subscription),
			 0);
	assert_int_equal(bus_subscribe(fixture->bus, &(struct bus_filter){}, quit, &live,
				       &live.subscription),
			 0);
	subscription = subscribe(fixture, &(struct bus_filter){}, &seen);
	ping(fixture);
	publish(fixture, 10);
	wait_for(fixture, &seen, 10);
	ping(fixture);
	bus_subscription_free(subscription);
	assert_int_equal(read.n, 1);
	assert_int_equal(live.n, 1);
	assert_whole(&seen, 10);
}

/* Reads on with cursor "c", acknowledging up to @ack (0: nothing); the number of the first event, 0: none. */
static uint64_t read_cursor(struct fixture *fixture, uint64_t ack, size_t *ret_n)
{
	_cleanup_(event_read_reply_clear) struct event_read_reply reply = {};
	struct event_read_request request = {
		.cursor = (char *)"c",
		.from = 1,
		.ack = ack,
		.limit = 10,
	};
	int r;

	r = event_read_ask(&fixture->ask, &request, &reply);
	assert_string_equal(fixture->ask.text, "");
	assert_int_equal(r, 0);
	*ret_n = reply.events.count;
	return reply.events.count > 0 ? reply.events.items[0].seq : 0;
}

static void test_a_cursor_goes_on_behind_what_was_acknowledged(void **state)
{
	struct fixture *fixture = *state;
	size_t n;

	start_broker(fixture);
	publish(fixture, 25);
	assert_int_equal(read_cursor(fixture, 0, &n), 1);
	assert_int_equal(n, 10);
	/* Not acknowledged: again. */
	assert_int_equal(read_cursor(fixture, 0, &n), 1);
	assert_int_equal(read_cursor(fixture, 10, &n), 11);
	kill_broker(fixture);
	start_broker(fixture);
	assert_int_equal(read_cursor(fixture, 0, &n), 11);
	assert_int_equal(read_cursor(fixture, 20, &n), 21);
	assert_int_equal(n, 5);
	assert_int_equal(read_cursor(fixture, 25, &n), 0);
}

#define TEST(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		TEST(test_a_subscriber_that_does_not_read_for_20000_events_misses_none),
		TEST(test_what_was_published_before_is_read_and_joined_with_what_comes),
		TEST(test_a_subscription_goes_on_when_the_broker_was_killed),
		TEST(test_a_filter_lets_only_its_own_pass_and_gaps_are_no_gaps),
		TEST(test_who_subscribes_and_then_acts_hears_of_it),
		TEST(test_another_log_is_told_and_followed_from_its_first_event),
		TEST(test_events_that_the_log_gave_up_are_said_to_be_gone),
		TEST(test_a_subscriber_may_leave_while_it_is_told),
		TEST(test_a_cursor_goes_on_behind_what_was_acknowledged),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
