#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/lib/cleanup.h"
#include "broker/route.h"

/* ---- queues and lists ---- */

static void queue_append(struct exchange_queue *queue, struct exchange *exchange)
{
	exchange->next = NULL;
	exchange->previous = queue->last;
	if (queue->last)
		queue->last->next = exchange;
	else
		queue->first = exchange;
	queue->last = exchange;
	queue->count++;
}

static void queue_prepend(struct exchange_queue *queue, struct exchange *exchange)
{
	exchange->previous = NULL;
	exchange->next = queue->first;
	if (queue->first)
		queue->first->previous = exchange;
	else
		queue->last = exchange;
	queue->first = exchange;
	queue->count++;
}

static void queue_remove(struct exchange_queue *queue, struct exchange *exchange)
{
	if (exchange->previous)
		exchange->previous->next = exchange->next;
	else
		queue->first = exchange->next;
	if (exchange->next)
		exchange->next->previous = exchange->previous;
	else
		queue->last = exchange->previous;
	exchange->next = exchange->previous = NULL;
	queue->count--;
}

static size_t line_of(const struct exchange *exchange)
{
	return (exchange->caller * 0x9e3779b97f4a7c15u >> 32) % ROUTE_LINES;
}

static struct exchange_queue *queue_of(struct exchange *exchange)
{
	return exchange->is_service ? &exchange->service->from_services
				    : &exchange->service->from_callers[line_of(exchange)];
}

static size_t count_from_callers(const struct route_service *service)
{
	size_t count = 0;

	for (size_t i = 0; i < ROUTE_LINES; i++)
		count += service->from_callers[i].count;
	return count;
}

/* Ends @exchange with an answer of the router's own. */
static void __attribute__((format(printf, 4, 5)))
answer(struct exchange *exchange, enum bus_status status, struct route_actions *actions,
       const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(exchange->text, sizeof(exchange->text), format, args);
	va_end(args);
	exchange->status = status;
	exchange->state = EXCHANGE_NONE;
	exchange->next = NULL;
	if (!actions->last_answer)
		actions->last_answer = &actions->answers;
	*actions->last_answer = exchange;
	actions->last_answer = &exchange->next;
}

/* Takes a held exchange out of the router. */
static void release_held(struct router *router, struct exchange *exchange)
{
	queue_remove(queue_of(exchange), exchange);
	router->n_held--;
	deadlines_remove(&router->deadlines, &exchange->deadline);
	exchange->state = EXCHANGE_NONE;
}

/* Takes an exchange off its connection, whose state is the caller's business. */
static struct exchange *detach(struct route_connection *connection)
{
	struct exchange *exchange = TAKE(connection->exchange);

	exchange->connection = NULL;
	exchange->service->n_in_flight--;
	if (!exchange->is_service && connection->instance) {
		struct route_share *share = &connection->instance->shares[line_of(exchange)];

		connection->instance->n_callers_busy--;
		share->n_given -= share->n_given > 0;
	}
	return exchange;
}

/* ---- connections ---- */

static void move(struct route_connection *connection, enum connection_state state)
{
	struct route_instance *instance = connection->instance;

	if (instance) {
		instance->n_down += (state == CONNECTION_DOWN) -
				    (connection->state == CONNECTION_DOWN);
		instance->n_parked += (state == CONNECTION_PARKED) -
				      (connection->state == CONNECTION_PARKED);
		if (state == CONNECTION_FREE) {
			connection->next_free = instance->free;
			instance->free = connection;
		}
	}
	connection->state = state;
}

static void take_from_free(struct route_connection *connection)
{
	struct route_connection **at = &connection->instance->free;

	while (*at != connection)
		at = &(*at)->next_free;
	*at = connection->next_free;
	connection->next_free = NULL;
}

void route_add_connection(struct route_instance *instance, struct route_connection *connection)
{
	connection->instance = instance;
	connection->state = CONNECTION_DOWN;
	connection->previous = NULL;
	connection->next = instance->connections;
	if (connection->next)
		connection->next->previous = connection;
	instance->connections = connection;
	instance->n_connections++;
	instance->n_down++;
}

static void unlink_connection(struct route_connection *connection)
{
	struct route_instance *instance = connection->instance;

	if (connection->state == CONNECTION_FREE)
		take_from_free(connection);
	if (connection->previous)
		connection->previous->next = connection->next;
	else
		instance->connections = connection->next;
	if (connection->next)
		connection->next->previous = connection->previous;
	connection->next = connection->previous = NULL;
	instance->n_connections--;
	instance->n_down -= connection->state == CONNECTION_DOWN;
	instance->n_parked -= connection->state == CONNECTION_PARKED;
	connection->instance = NULL;
}

struct route_connection *route_take_idle(struct route_instance *instance, size_t count)
{
	struct route_connection *connection, *taken = NULL;

	while (count-- > 0 && (connection = instance->free)) {
		unlink_connection(connection);
		connection->state = CONNECTION_DOWN;
		connection->next = taken;
		taken = connection;
	}
	return taken;
}

/* ---- handing out ---- */

static bool may_get(const struct route_instance *instance)
{
	return !instance->is_draining && !instance->is_suspect && !instance->is_silent;
}

/* ---- shares ---- */

static bool is_crowded(const struct router *router, const struct route_instance *instance)
{
	return router->now_ms < instance->crowded_until_ms;
}

static void note_asking(const struct router *router, struct route_instance *instance, size_t line)
{
	if (line != instance->last_line)
		instance->crowded_until_ms = router->now_ms + ROUTE_CROWDED_MS;
	instance->last_line = line;
}

static bool has_share(const struct router *router, const struct route_instance *instance,
		      size_t line)
{
	const struct route_share *share = &instance->shares[line];

	return !is_crowded(router, instance) || share->n_given < ROUTE_SHARE ||
	       router->now_ms >= share->since_ms + ROUTE_SHARE_MS;
}

static void note_given(const struct router *router, struct route_instance *instance, size_t line)
{
	struct route_share *share = &instance->shares[line];

	if (router->now_ms >= share->since_ms + ROUTE_SHARE_MS)
		*share = (struct route_share){.since_ms = router->now_ms};
	share->n_given++;
}

/* ---- who is next ---- */

/* What @service may give to its instance next: services first, callers in turn and up to their bounds. */
static struct exchange *next_held(const struct router *router, const struct route_service *service)
{
	if (service->from_services.first)
		return service->from_services.first;
	if (service->instance->n_callers_busy >= ROUTE_CALLERS_MAX)
		return NULL;
	for (size_t i = 0; i < ROUTE_LINES; i++) {
		size_t line = (service->line + i) % ROUTE_LINES;

		if (service->from_callers[line].first && has_share(router, service->instance, line))
			return service->from_callers[line].first;
	}
	return NULL;
}

static void deliver(struct router *router, struct exchange *exchange,
		    struct route_connection *connection, struct route_actions *actions)
{
	queue_remove(queue_of(exchange), exchange);
	router->n_held--;
	take_from_free(connection);
	move(connection, CONNECTION_BUSY);
	connection->exchange = exchange;
	exchange->connection = connection;
	exchange->state = EXCHANGE_IN_FLIGHT;
	exchange->service->n_in_flight++;
	if (exchange->n_deliveries++ > 0) {
		exchange->service->n_redelivered++;
		router->n_redelivered++;
	} else {
		exchange->service->n_requests++;
	}
	if (!exchange->is_service) {
		connection->instance->n_callers_busy++;
		note_given(router, connection->instance, line_of(exchange));
		exchange->service->line = line_of(exchange) + 1;
	}
	connection->next_send = actions->sends;
	actions->sends = connection;
}

/* The next exchange for @instance, its services in turn. */
static struct exchange *next_of_instance(const struct router *router,
					 const struct route_instance *instance, size_t *ret_turn)
{
	for (size_t i = 0; i < instance->n_services; i++) {
		size_t at = (instance->turn + i) % instance->n_services;
		struct exchange *exchange = instance->services[at]
						    ? next_held(router, instance->services[at])
						    : NULL;

		if (exchange) {
			*ret_turn = at + 1;
			return exchange;
		}
	}
	return NULL;
}

/* Those that have had their share go on as soon as it is a new one. */
static void resume_later(struct router *router, const struct route_instance *instance,
			 struct route_actions *actions)
{
	if (instance->n_callers_busy >= ROUTE_CALLERS_MAX || !is_crowded(router, instance))
		return;
	for (size_t i = 0; i < instance->n_services; i++)
		for (size_t line = 0; instance->services[i] && line < ROUTE_LINES; line++) {
			uint64_t at = instance->shares[line].since_ms + ROUTE_SHARE_MS;

			if (instance->services[i]->from_callers[line].first &&
			    (router->resume_ms == 0 || at < router->resume_ms))
				router->resume_ms = at;
		}
	actions->needs_timer |= router->resume_ms > 0 && router->resume_ms < router->armed_ms;
}

static void hand_out(struct router *router, struct route_instance *instance,
		     struct route_actions *actions)
{
	struct exchange *exchange;
	size_t turn;

	while (may_get(instance) && (exchange = next_of_instance(router, instance, &turn))) {
		if (!instance->free) {
			actions->needs_connections |= route_wanted_connections(instance) > 0;
			return;
		}
		instance->turn = turn;
		deliver(router, exchange, instance->free, actions);
	}
	if (may_get(instance) && router->n_held > 0)
		resume_later(router, instance, actions);
}

size_t route_wanted_connections(const struct route_instance *instance)
{
	size_t services = 0, callers = 0, wanted, room;

	for (size_t i = 0; i < instance->n_services; i++)
		if (instance->services[i]) {
			services += instance->services[i]->from_services.count;
			callers += count_from_callers(instance->services[i]);
		}
	room = instance->n_callers_busy < ROUTE_CALLERS_MAX
		       ? ROUTE_CALLERS_MAX - instance->n_callers_busy
		       : 0;
	wanted = services + (callers < room ? callers : room);
	if (wanted == 0 && instance->n_connections == 0)
		wanted = 1;
	wanted = wanted > instance->n_down ? wanted - instance->n_down : 0;
	room = ROUTE_CONNECTIONS_MAX - instance->n_connections;
	return wanted < room ? wanted : room;
}

void route_connection_up(struct router *router, struct route_connection *connection,
			 struct route_actions *actions)
{
	if (!connection->instance || connection->state != CONNECTION_DOWN)
		return;
	move(connection, CONNECTION_FREE);
	connection->instance->is_suspect = false;
	hand_out(router, connection->instance, actions);
}

void route_connection_down(struct route_connection *connection)
{
	if (!connection->instance || connection->state != CONNECTION_FREE)
		return;
	take_from_free(connection);
	move(connection, CONNECTION_DOWN);
}

/* ---- exchanges ---- */

static void hold(struct router *router, struct exchange *exchange, bool is_first)
{
	(is_first ? queue_prepend : queue_append)(queue_of(exchange), exchange);
	exchange->state = EXCHANGE_HELD;
	router->n_held++;
}

void route_take(struct router *router, struct exchange *exchange, const char *name, uint64_t now_ms,
		struct route_actions *actions)
{
	struct route_service *service = route_find_service(router, name);

	router->now_ms = now_ms;
	exchange->n_deliveries = 0;
	if (!service) {
		answer(exchange, BUS_NOT_FOUND, actions,
		       "no service '%s' has ever registered on this bus", name);
		return;
	}
	if (exchange->deadline_ms <= now_ms) {
		router->n_expired++;
		answer(exchange, BUS_DEADLINE_EXCEEDED, actions,
		       "the deadline had passed before the request arrived; it was not delivered to "
		       "'%s'",
		       name);
		return;
	}
	exchange->service = service;
	deadlines_add(&router->deadlines, &exchange->deadline, exchange->deadline_ms);
	if (exchange->deadline_ms < router->armed_ms)
		actions->needs_timer = true;
	hold(router, exchange, false);
	if (service->instance && !exchange->is_service)
		note_asking(router, service->instance, line_of(exchange));
	if (service->instance)
		hand_out(router, service->instance, actions);
}

struct exchange *route_answered(struct router *router, struct route_connection *connection,
				bool is_error, struct route_actions *actions)
{
	struct exchange *exchange = NULL;

	if (connection->state == CONNECTION_BUSY) {
		exchange = detach(connection);
		exchange->state = EXCHANGE_NONE;
		exchange->service->n_errors += is_error;
		deadlines_remove(&router->deadlines, &exchange->deadline);
	}
	move(connection, CONNECTION_FREE);
	if (connection->instance)
		hand_out(router, connection->instance, actions);
	return exchange;
}

/* The instance or the connection ended with @exchange in flight. */
static void settle_lost(struct router *router, struct exchange *exchange, bool may_redeliver,
			struct route_actions *actions)
{
	const char *name = exchange->service->name;

	if (may_redeliver && exchange->n_deliveries < ROUTE_DELIVERIES_MAX) {
		hold(router, exchange, true);
		return;
	}
	deadlines_remove(&router->deadlines, &exchange->deadline);
	exchange->service->n_errors++;
	if (may_redeliver)
		answer(exchange, BUS_UNAVAILABLE, actions,
		       "service '%s' ended each of the %u times that the request was delivered; the "
		       "outcome is unknown",
		       name, exchange->n_deliveries);
	else
		answer(exchange, BUS_UNAVAILABLE, actions,
		       "service '%s' ended after the request had been delivered; the outcome is "
		       "unknown",
		       name);
}

void route_connection_lost(struct router *router, struct route_connection *connection,
			   struct route_actions *actions)
{
	struct route_instance *instance = connection->instance;

	if (connection->state == CONNECTION_FREE) {
		route_connection_down(connection);
		return;
	}
	if (instance)
		instance->is_suspect = true;
	if (connection->state == CONNECTION_BUSY) {
		struct exchange *exchange = detach(connection);

		settle_lost(router, exchange, instance && instance->may_redeliver, actions);
		/* A newer instance may have it at once. */
		if (exchange->state == EXCHANGE_HELD && exchange->service->instance)
			hand_out(router, exchange->service->instance, actions);
	}
	move(connection, CONNECTION_DOWN);
}

static void expire(struct router *router, struct exchange *exchange, struct route_actions *actions)
{
	struct route_service *service = exchange->service;
	unsigned n = exchange->n_deliveries;

	router->n_expired++;
	service->n_errors++;
	if (exchange->state == EXCHANGE_IN_FLIGHT) {
		struct route_connection *connection = exchange->connection;

		detach(connection);
		move(connection, CONNECTION_PARKED);
		deadlines_remove(&router->deadlines, &exchange->deadline);
		answer(exchange, BUS_DEADLINE_EXCEEDED, actions,
		       "the deadline passed; the request had been delivered to '%s', the outcome is "
		       "unknown",
		       service->name);
		return;
	}
	release_held(router, exchange);
	if (n > 0)
		answer(exchange, BUS_UNAVAILABLE, actions,
		       "service '%s' ended after the request had been delivered and did not come back "
		       "in time; the outcome is unknown",
		       service->name);
	else if (!service->instance || !may_get(service->instance))
		answer(exchange, BUS_UNAVAILABLE, actions,
		       "service '%s' is away and did not come back in time; the request was not "
		       "delivered",
		       service->name);
	else
		answer(exchange, BUS_DEADLINE_EXCEEDED, actions,
		       "service '%s' was busy until the deadline; the request was not delivered",
		       service->name);
}

uint64_t route_due(const struct router *router)
{
	const struct deadline *first = deadlines_first(&router->deadlines);
	uint64_t due = first ? first->at_ms : UINT64_MAX;

	return router->resume_ms > 0 && router->resume_ms < due ? router->resume_ms : due;
}

static void resume(struct router *router, struct route_actions *actions)
{
	router->resume_ms = 0;
	for (size_t i = 0; i < router->n_services; i++)
		if (router->services[i]->instance)
			hand_out(router, router->services[i]->instance, actions);
}

void route_expire(struct router *router, uint64_t now_ms, struct route_actions *actions)
{
	struct deadline *first;

	router->now_ms = now_ms;
	if (router->resume_ms > 0 && router->resume_ms <= now_ms)
		resume(router, actions);
	while ((first = deadlines_first(&router->deadlines)) && first->at_ms <= now_ms)
		expire(router, container_of(first, struct exchange, deadline), actions);
}

void route_caller_gone(struct router *router, struct exchange *exchange,
		       struct route_actions *actions)
{
	if (exchange->state != EXCHANGE_HELD)
		return;
	release_held(router, exchange);
	answer(exchange, BUS_CANCELED, actions, "the caller went away");
}

/* ---- instances ---- */

void route_set_instance(struct router *router, struct route_service *service,
			struct route_instance *instance, struct route_actions *actions)
{
	struct route_instance *before = service->instance;

	if (before == instance)
		return;
	for (size_t i = 0; before && i < before->n_services; i++)
		if (before->services[i] == service)
			before->services[i] = NULL;
	assert(instance->n_services < ROUTE_NAMES_MAX);
	instance->services[instance->n_services++] = service;
	service->instance = instance;
	hand_out(router, instance, actions);
}

void route_set_condition(struct router *router, struct route_instance *instance, bool is_draining,
			 bool is_silent, struct route_actions *actions)
{
	instance->is_draining = is_draining;
	instance->is_silent = is_silent;
	hand_out(router, instance, actions);
}

struct route_connection *route_instance_gone(struct router *router, struct route_instance *instance,
					     struct route_actions *actions)
{
	struct route_connection *connection, *all = NULL;

	for (size_t i = 0; i < instance->n_services; i++)
		if (instance->services[i])
			instance->services[i]->instance = NULL;
	while ((connection = instance->connections)) {
		struct exchange *exchange = NULL;

		if (connection->state == CONNECTION_BUSY) {
			exchange = detach(connection);
			connection->state = CONNECTION_PARKED;
			instance->n_parked++;
		}
		unlink_connection(connection);
		connection->next = all;
		all = connection;
		if (exchange)
			settle_lost(router, exchange, instance->may_redeliver, actions);
		/* Whoever has taken it over by now can have what was held just now. */
		if (exchange && exchange->state == EXCHANGE_HELD && exchange->service->instance)
			hand_out(router, exchange->service->instance, actions);
	}
	instance->n_services = 0;
	return all;
}

/* ---- services ---- */

/* Where @name stands in the list, or should. */
static size_t find_position(const struct router *router, const char *name, bool *ret_found)
{
	size_t low = 0, high = router->n_services;

	*ret_found = false;
	while (low < high) {
		size_t middle = (low + high) / 2;
		int order = strcmp(router->services[middle]->name, name);

		if (order == 0) {
			*ret_found = true;
			return middle;
		}
		if (order < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

struct route_service *route_find_service(const struct router *router, const char *name)
{
	bool found;
	size_t position = find_position(router, name, &found);

	return found ? router->services[position] : NULL;
}

struct route_service *route_add_service(struct router *router, const char *name)
{
	_cleanup_(cleanup_free) struct route_service *service = NULL;
	struct route_service **services;
	bool found;
	size_t position = find_position(router, name, &found);

	if (found)
		return router->services[position];
	if (router->n_services == ROUTE_SERVICES_MAX || strlen(name) > ENVELOPE_NAME_MAX)
		return NULL;
	service = calloc(1, sizeof(*service));
	services = realloc(router->services, (router->n_services + 1) * sizeof(*services));
	if (services)
		router->services = services;
	if (!service || !services)
		return NULL;
	strcpy(service->name, name);
	memmove(&services[position + 1], &services[position],
		(router->n_services - position) * sizeof(*services));
	router->n_services++;
	return services[position] = TAKE(service);
}

static struct exchange *first_held(const struct route_service *service)
{
	struct exchange *exchange = service->from_services.first;

	for (size_t i = 0; !exchange && i < ROUTE_LINES; i++)
		exchange = service->from_callers[i].first;
	return exchange;
}

size_t route_service_held(const struct route_service *service)
{
	return service->from_services.count + count_from_callers(service);
}

void route_forget_service(struct router *router, struct route_service *service,
			  struct route_actions *actions)
{
	struct exchange *exchange;
	bool found;
	size_t position = find_position(router, service->name, &found);

	assert(found && !service->instance && service->n_in_flight == 0);
	while ((exchange = first_held(service))) {
		release_held(router, exchange);
		answer(exchange, BUS_NOT_FOUND, actions,
		       "service '%s' was forgotten while the request was held", service->name);
	}
	router->n_services--;
	memmove(&router->services[position], &router->services[position + 1],
		(router->n_services - position) * sizeof(*router->services));
	free(service);
}

const char *route_service_state(const struct route_service *service)
{
	if (!service->instance || service->instance->is_silent)
		return "away";
	return service->instance->is_draining ? "draining" : "live";
}

void router_deinit(struct router *router)
{
	for (size_t i = 0; i < router->n_services; i++)
		free(router->services[i]);
	free(router->services);
	deadlines_deinit(&router->deadlines);
	*router = (struct router){};
}
