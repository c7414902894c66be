#include "tests/lib/main.h"

#include <stdlib.h>
#include <string.h>

#include "broker/route.h"

#define N 700

/* A router with a service "alpha" on an instance, connections and exchanges to play with. */
struct fixture {
	struct router router;
	struct route_instance first, second;
	struct route_connection connections[N];
	struct exchange exchanges[N];
	struct route_actions actions;
	struct route_service *alpha;
};

static int set_up(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	f->router.armed_ms = UINT64_MAX;
	f->alpha = route_add_service(&f->router, "alpha");
	deadlines_reserve(&f->router.deadlines, N);
	*state = f;
	return 0;
}

static int tear_down(void **state)
{
	struct fixture *f = *state;

	router_deinit(&f->router);
	free(f);
	return 0;
}

static void forget_actions(struct fixture *f)
{
	f->actions = (struct route_actions){};
}

static void connect(struct fixture *f, struct route_instance *instance, size_t from, size_t count)
{
	for (size_t i = from; i < from + count; i++) {
		route_add_connection(instance, &f->connections[i]);
		route_connection_up(&f->router, &f->connections[i], &f->actions);
	}
}

static void live(struct fixture *f, struct route_instance *instance, bool may_redeliver)
{
	instance->may_redeliver = may_redeliver;
	route_set_instance(&f->router, f->alpha, instance, &f->actions);
}

static struct exchange *take(struct fixture *f, size_t i, bool is_service)
{
	struct exchange *exchange = &f->exchanges[i];

	exchange->is_service = is_service;
	exchange->deadline_ms = 1000 + i;
	route_take(&f->router, exchange, "alpha", 0, &f->actions);
	return exchange;
}

static size_t count_sends(const struct fixture *f)
{
	size_t n = 0;

	for (struct route_connection *at = f->actions.sends; at; at = at->next_send)
		n++;
	return n;
}

static void test_a_request_goes_to_a_free_connection(void **state)
{
	struct fixture *f = *state;
	struct exchange *exchange;

	live(f, &f->first, false);
	connect(f, &f->first, 0, 1);
	exchange = take(f, 0, false);
	assert_ptr_equal(f->actions.sends, &f->connections[0]);
	assert_ptr_equal(f->connections[0].exchange, exchange);
	assert_int_equal(exchange->state, EXCHANGE_IN_FLIGHT);
	assert_true(f->actions.needs_timer);
	forget_actions(f);
	assert_ptr_equal(route_answered(&f->router, &f->connections[0], false, &f->actions),
			 exchange);
	assert_null(deadlines_first(&f->router.deadlines));
	assert_int_equal(f->alpha->n_requests, 1);
	assert_int_equal(f->alpha->n_in_flight, 0);
}

static void test_an_unknown_name_is_not_found(void **state)
{
	struct fixture *f = *state;

	f->exchanges[0].deadline_ms = 5;
	route_take(&f->router, &f->exchanges[0], "beta", 0, &f->actions);
	assert_ptr_equal(f->actions.answers, &f->exchanges[0]);
	assert_int_equal(f->exchanges[0].status, BUS_NOT_FOUND);
	assert_non_null(strstr(f->exchanges[0].text, "beta"));
}

static void test_an_expired_request_is_not_delivered(void **state)
{
	struct fixture *f = *state;

	live(f, &f->first, false);
	connect(f, &f->first, 0, 1);
	f->exchanges[0].deadline_ms = 5;
	route_take(&f->router, &f->exchanges[0], "alpha", 5, &f->actions);
	assert_null(f->actions.sends);
	assert_int_equal(f->exchanges[0].status, BUS_DEADLINE_EXCEEDED);
	assert_non_null(strstr(f->exchanges[0].text, "not delivered"));
}

static void test_requests_wait_for_an_instance_in_order(void **state)
{
	struct fixture *f = *state;

	for (size_t i = 0; i < 3; i++)
		take(f, i, false);
	assert_int_equal(f->router.n_held, 3);
	assert_string_equal(route_service_state(f->alpha), "away");
	forget_actions(f);
	live(f, &f->first, false);
	assert_true(f->actions.needs_connections);
	assert_int_equal(route_wanted_connections(&f->first), 3);
	connect(f, &f->first, 0, 1);
	assert_ptr_equal(f->connections[0].exchange, &f->exchanges[0]);
	route_answered(&f->router, &f->connections[0], false, &f->actions);
	assert_ptr_equal(f->connections[0].exchange, &f->exchanges[1]);
}

static void test_callers_stop_at_their_bound_and_services_go_on(void **state)
{
	struct fixture *f = *state;

	live(f, &f->first, false);
	connect(f, &f->first, 0, ROUTE_CALLERS_MAX + 10);
	for (size_t i = 0; i < ROUTE_CALLERS_MAX + 5; i++)
		take(f, i, false);
	assert_int_equal(count_sends(f), ROUTE_CALLERS_MAX);
	assert_int_equal(f->router.n_held, 5);
	assert_int_equal(route_wanted_connections(&f->first), 0);
	take(f, 200, true);
	assert_int_equal(f->exchanges[200].state, EXCHANGE_IN_FLIGHT);
	/* An answer to a caller makes room for the next. */
	route_answered(&f->router, f->exchanges[0].connection, false, &f->actions);
	assert_int_equal(f->exchanges[ROUTE_CALLERS_MAX].state, EXCHANGE_IN_FLIGHT);
}

static void test_services_come_before_callers(void **state)
{
	struct fixture *f = *state;

	take(f, 0, false);
	take(f, 1, true);
	live(f, &f->first, false);
	connect(f, &f->first, 0, 1);
	assert_ptr_equal(f->connections[0].exchange, &f->exchanges[1]);
}

static void test_connections_stop_at_their_bound(void **state)
{
	struct fixture *f = *state;

	live(f, &f->first, false);
	connect(f, &f->first, 0, 10);
	for (size_t i = 0; i < N; i++)
		take(f, i, true);
	assert_int_equal(route_wanted_connections(&f->first), ROUTE_CONNECTIONS_MAX - 10);
}

static void test_a_lost_request_is_delivered_again_once_the_instance_shows_life(void **state)
{
	struct fixture *f = *state;

	live(f, &f->first, true);
	connect(f, &f->first, 0, 2);
	take(f, 0, false);
	forget_actions(f);
	route_connection_lost(&f->router, f->exchanges[0].connection, &f->actions);
	/* There is another free connection, but its peer may be dead too. */
	assert_null(f->actions.sends);
	assert_int_equal(f->exchanges[0].state, EXCHANGE_HELD);
	connect(f, &f->first, 2, 1);
	assert_int_equal(f->exchanges[0].state, EXCHANGE_IN_FLIGHT);
	assert_int_equal(f->alpha->n_redelivered, 1);
	assert_int_equal(f->alpha->n_requests, 1);
}

static void test_a_lost_request_without_redelivery_is_answered_outcome_unknown(void **state)
{
	struct fixture *f = *state;

	live(f, &f->first, false);
	connect(f, &f->first, 0, 1);
	take(f, 0, false);
	route_connection_lost(&f->router, &f->connections[0], &f->actions);
	assert_ptr_equal(f->actions.answers, &f->exchanges[0]);
	assert_int_equal(f->exchanges[0].status, BUS_UNAVAILABLE);
	assert_non_null(strstr(f->exchanges[0].text, "unknown"));
	assert_int_equal(f->first.n_callers_busy, 0);
}

static void test_an_instance_that_ends_hands_over_to_the_next(void **state)
{
	struct fixture *f = *state;
	struct route_connection *connections;
	size_t n = 0;

	live(f, &f->first, true);
	connect(f, &f->first, 0, 3);
	take(f, 0, false);
	take(f, 1, true);
	forget_actions(f);
	connections = route_instance_gone(&f->router, &f->first, &f->actions);
	for (; connections; connections = connections->next, n++)
		assert_null(connections->instance);
	assert_int_equal(n, 3);
	assert_null(f->actions.answers);
	assert_int_equal(f->router.n_held, 2);
	live(f, &f->second, true);
	connect(f, &f->second, 10, 2);
	assert_int_equal(f->exchanges[0].state, EXCHANGE_IN_FLIGHT);
	assert_int_equal(f->exchanges[1].state, EXCHANGE_IN_FLIGHT);
	/* The late answer of the first instance belongs to nobody. */
	for (size_t i = 0; i < 3; i++)
		if (f->connections[i].state == CONNECTION_PARKED)
			assert_null(
				route_answered(&f->router, &f->connections[i], false, &f->actions));
}

static void test_a_request_is_given_up_after_so_many_deliveries(void **state)
{
	struct fixture *f = *state;

	live(f, &f->first, true);
	connect(f, &f->first, 0, 1);
	take(f, 0, false);
	for (int i = 1; i < ROUTE_DELIVERIES_MAX; i++) {
		route_connection_lost(&f->router, &f->connections[0], &f->actions);
		route_connection_up(&f->router, &f->connections[0], &f->actions);
		assert_int_equal(f->exchanges[0].state, EXCHANGE_IN_FLIGHT);
	}
	assert_null(f->actions.answers);
	route_connection_lost(&f->router, &f->connections[0], &f->actions);
	assert_ptr_equal(f->actions.answers, &f->exchanges[0]);
	assert_int_equal(f->exchanges[0].status, BUS_UNAVAILABLE);
}

static void test_the_newest_instance_gets_what_is_new_and_the_old_one_keeps_what_it_has(
	void **state)
{
	struct fixture *f = *state;
	struct exchange *old;

	live(f, &f->first, true);
	connect(f, &f->first, 0, 2);
	old = take(f, 0, false);
	live(f, &f->second, true);
	connect(f, &f->second, 10, 1);
	take(f, 1, false);
	assert_ptr_equal(f->exchanges[1].connection, &f->connections[10]);
	assert_ptr_equal(route_answered(&f->router, old->connection, false, &f->actions), old);
	/* Its end takes nothing away from the second. */
	route_instance_gone(&f->router, &f->first, &f->actions);
	assert_ptr_equal(f->alpha->instance, &f->second);
}

static void test_a_draining_or_silent_instance_gets_nothing(void **state)
{
	struct fixture *f = *state;

	live(f, &f->first, true);
	connect(f, &f->first, 0, 2);
	route_set_condition(&f->router, &f->first, true, false, &f->actions);
	assert_string_equal(route_service_state(f->alpha), "draining");
	take(f, 0, false);
	assert_int_equal(f->exchanges[0].state, EXCHANGE_HELD);
	route_set_condition(&f->router, &f->first, false, true, &f->actions);
	assert_string_equal(route_service_state(f->alpha), "away");
	assert_int_equal(f->exchanges[0].state, EXCHANGE_HELD);
	route_set_condition(&f->router, &f->first, false, false, &f->actions);
	assert_int_equal(f->exchanges[0].state, EXCHANGE_IN_FLIGHT);
}

static void test_a_deadline_parks_the_connection_until_the_late_answer(void **state)
{
	struct fixture *f = *state;

	live(f, &f->first, true);
	connect(f, &f->first, 0, 1);
	take(f, 0, false);
	take(f, 1, false);
	forget_actions(f);
	route_expire(&f->router, 1000, &f->actions);
	assert_ptr_equal(f->actions.answers, &f->exchanges[0]);
	assert_int_equal(f->exchanges[0].status, BUS_DEADLINE_EXCEEDED);
	assert_non_null(strstr(f->exchanges[0].text, "had been delivered"));
	assert_int_equal(f->connections[0].state, CONNECTION_PARKED);
	assert_int_equal(f->first.n_callers_busy, 0);
	assert_null(route_answered(&f->router, &f->connections[0], false, &f->actions));
	assert_ptr_equal(f->connections[0].exchange, &f->exchanges[1]);
}

static void test_a_deadline_of_a_held_request_says_that_it_was_not_delivered(void **state)
{
	struct fixture *f = *state;

	take(f, 0, false);
	forget_actions(f);
	route_expire(&f->router, 999, &f->actions);
	assert_null(f->actions.answers);
	route_expire(&f->router, 1000, &f->actions);
	assert_int_equal(f->exchanges[0].status, BUS_UNAVAILABLE);
	assert_non_null(strstr(f->exchanges[0].text, "not delivered"));
	assert_int_equal(f->router.n_held, 0);
}

static void test_a_request_lost_once_and_expired_is_outcome_unknown(void **state)
{
	struct fixture *f = *state;

	live(f, &f->first, true);
	connect(f, &f->first, 0, 1);
	take(f, 0, false);
	route_instance_gone(&f->router, &f->first, &f->actions);
	forget_actions(f);
	route_expire(&f->router, 1000, &f->actions);
	assert_int_equal(f->exchanges[0].status, BUS_UNAVAILABLE);
	assert_non_null(strstr(f->exchanges[0].text, "unknown"));
}

static void test_what_callers_left_behind_is_never_delivered(void **state)
{
	struct fixture *f = *state;

	for (size_t i = 0; i < 50; i++)
		take(f, i, false);
	forget_actions(f);
	for (size_t i = 1; i < 50; i += 2)
		route_caller_gone(&f->router, &f->exchanges[i], &f->actions);
	assert_int_equal(f->router.n_held, 25);
	assert_int_equal(f->router.deadlines.count, 25);
	for (size_t i = 0; i < 50; i++)
		assert_int_equal(f->exchanges[i].state, i % 2 ? EXCHANGE_NONE : EXCHANGE_HELD);
}

static void test_a_forgotten_name_holds_nothing(void **state)
{
	struct fixture *f = *state;

	take(f, 0, false);
	take(f, 1, true);
	forget_actions(f);
	route_forget_service(&f->router, f->alpha, &f->actions);
	assert_int_equal(f->exchanges[0].status, BUS_NOT_FOUND);
	assert_int_equal(f->exchanges[1].status, BUS_NOT_FOUND);
	assert_null(route_find_service(&f->router, "alpha"));
	assert_int_equal(f->router.n_held, 0);
}

static void test_an_instance_serves_its_names_in_turn(void **state)
{
	struct fixture *f = *state;
	struct route_service *beta = route_add_service(&f->router, "beta");

	for (size_t i = 0; i < 4; i++) {
		f->exchanges[i].deadline_ms = 1000;
		route_take(&f->router, &f->exchanges[i], i < 3 ? "alpha" : "beta", 0, &f->actions);
	}
	live(f, &f->first, true);
	route_set_instance(&f->router, beta, &f->first, &f->actions);
	connect(f, &f->first, 0, 2);
	assert_int_equal(f->exchanges[0].state, EXCHANGE_IN_FLIGHT);
	assert_int_equal(f->exchanges[3].state, EXCHANGE_IN_FLIGHT);
}

static void ask(struct fixture *f, size_t i, uint64_t caller, uint64_t now_ms)
{
	f->exchanges[i].caller = caller;
	f->exchanges[i].deadline_ms = now_ms + 1000;
	route_take(&f->router, &f->exchanges[i], "alpha", now_ms, &f->actions);
}

static size_t count_in_flight(const struct fixture *f, size_t from, size_t to)
{
	size_t n = 0;

	for (size_t i = from; i < to; i++)
		n += f->exchanges[i].state == EXCHANGE_IN_FLIGHT;
	return n;
}

static void test_callers_are_served_in_turn(void **state)
{
	struct fixture *f = *state;

	for (size_t i = 0; i < 10; i++)
		ask(f, i, 1, 0);
	ask(f, 10, 2, 0);
	live(f, &f->first, true);
	connect(f, &f->first, 0, 2);
	assert_int_equal(f->exchanges[0].state, EXCHANGE_IN_FLIGHT);
	assert_int_equal(f->exchanges[10].state, EXCHANGE_IN_FLIGHT);
}

static void test_a_busy_caller_has_few_on_their_way_while_others_ask(void **state)
{
	struct fixture *f = *state;

	live(f, &f->first, true);
	connect(f, &f->first, 0, ROUTE_CALLERS_MAX);
	ask(f, 0, 1, 0);
	route_answered(&f->router, f->exchanges[0].connection, false, &f->actions);
	for (size_t i = 1; i < 11; i++)
		ask(f, i, 1, 2000);
	assert_int_equal(count_in_flight(f, 1, 11), 10); /* alone */

	ask(f, 20, 2, 2000);
	assert_int_equal(f->exchanges[20].state, EXCHANGE_IN_FLIGHT);
	for (size_t i = 11; i < 20; i++)
		ask(f, i, 1, 2000);
	assert_int_equal(count_in_flight(f, 11, 20), 0);
	assert_true(f->actions.needs_timer);
	assert_int_equal(route_due(&f->router), 2000 + ROUTE_SHARE_MS);
	ask(f, 21, 2, 2000);
	assert_int_equal(f->exchanges[21].state, EXCHANGE_IN_FLIGHT);

	/* An answer makes room once few are left. */
	for (size_t i = 1; i < 7; i++)
		route_answered(&f->router, f->exchanges[i].connection, false, &f->actions);
	assert_int_equal(count_in_flight(f, 11, 20), 0);
	route_answered(&f->router, f->exchanges[7].connection, false, &f->actions);
	assert_int_equal(count_in_flight(f, 11, 20), 1);
}

static void test_what_is_not_answered_soon_does_not_count(void **state)
{
	struct fixture *f = *state;

	live(f, &f->first, true);
	connect(f, &f->first, 0, ROUTE_CALLERS_MAX);
	ask(f, 0, 1, 2000);
	ask(f, 1, 2, 2000);
	for (size_t i = 2; i < 20; i++)
		ask(f, i, 1, 2000);
	assert_int_equal(count_in_flight(f, 2, 20), ROUTE_SHARE - 1);
	route_expire(&f->router, 2000 + ROUTE_SHARE_MS, &f->actions);
	assert_int_equal(count_in_flight(f, 2, 20), 2 * ROUTE_SHARE - 1);
	/* Alone again, it has all; its requests would be due at this time. */
	route_expire(&f->router, 2000 + ROUTE_CROWDED_MS - 1, &f->actions);
	assert_int_equal(count_in_flight(f, 2, 20), 3 * ROUTE_SHARE - 1);
	assert_true(f->router.resume_ms > 0);
	ask(f, 30, 1, 2000 + ROUTE_CROWDED_MS);
	assert_int_equal(count_in_flight(f, 2, 20), 18);
	assert_int_equal(f->exchanges[30].state, EXCHANGE_IN_FLIGHT);
}

static void test_a_connection_whose_peer_left_while_it_was_free_is_not_used(void **state)
{
	struct fixture *f = *state;

	live(f, &f->first, true);
	connect(f, &f->first, 0, 2);
	route_connection_down(&f->connections[1]);
	take(f, 0, false);
	assert_ptr_equal(f->exchanges[0].connection, &f->connections[0]);
	take(f, 1, false);
	assert_int_equal(f->exchanges[1].state, EXCHANGE_HELD);
	route_connection_up(&f->router, &f->connections[1], &f->actions);
	assert_ptr_equal(f->exchanges[1].connection, &f->connections[1]);
}

static void test_idle_connections_can_be_taken_away(void **state)
{
	struct fixture *f = *state;
	struct route_connection *taken;

	live(f, &f->first, true);
	connect(f, &f->first, 0, 5);
	take(f, 0, false);
	taken = route_take_idle(&f->first, 10);
	for (int i = 0; i < 4; i++, taken = taken->next)
		assert_null(taken->instance);
	assert_null(taken);
	assert_int_equal(f->first.n_connections, 1);
	assert_ptr_equal(f->exchanges[0].connection->instance, &f->first);
}

#define ROUTE_TEST(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

TEST_MAIN(ROUTE_TEST(test_a_request_goes_to_a_free_connection),
	  ROUTE_TEST(test_an_unknown_name_is_not_found),
	  ROUTE_TEST(test_an_expired_request_is_not_delivered),
	  ROUTE_TEST(test_requests_wait_for_an_instance_in_order),
	  ROUTE_TEST(test_callers_stop_at_their_bound_and_services_go_on),
	  ROUTE_TEST(test_services_come_before_callers),
	  ROUTE_TEST(test_connections_stop_at_their_bound),
	  ROUTE_TEST(test_a_lost_request_is_delivered_again_once_the_instance_shows_life),
	  ROUTE_TEST(test_a_lost_request_without_redelivery_is_answered_outcome_unknown),
	  ROUTE_TEST(test_an_instance_that_ends_hands_over_to_the_next),
	  ROUTE_TEST(test_a_request_is_given_up_after_so_many_deliveries),
	  ROUTE_TEST(test_the_newest_instance_gets_what_is_new_and_the_old_one_keeps_what_it_has),
	  ROUTE_TEST(test_a_draining_or_silent_instance_gets_nothing),
	  ROUTE_TEST(test_a_deadline_parks_the_connection_until_the_late_answer),
	  ROUTE_TEST(test_a_deadline_of_a_held_request_says_that_it_was_not_delivered),
	  ROUTE_TEST(test_a_request_lost_once_and_expired_is_outcome_unknown),
	  ROUTE_TEST(test_what_callers_left_behind_is_never_delivered),
	  ROUTE_TEST(test_a_forgotten_name_holds_nothing),
	  ROUTE_TEST(test_an_instance_serves_its_names_in_turn),
	  ROUTE_TEST(test_callers_are_served_in_turn),
	  ROUTE_TEST(test_a_busy_caller_has_few_on_their_way_while_others_ask),
	  ROUTE_TEST(test_what_is_not_answered_soon_does_not_count),
	  ROUTE_TEST(test_a_connection_whose_peer_left_while_it_was_free_is_not_used),
	  ROUTE_TEST(test_idle_connections_can_be_taken_away))
