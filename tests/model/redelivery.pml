/*
 * A request on its way from a caller through the broker to a service and back
 * (DESIGN of the bus: request ids, stored replies, redelivery), for a service that has
 * registered for redelivery.
 *
 * The service may be killed MAX_SERVICE_DEATHS times between any two steps, the broker
 * MAX_BROKER_DEATHS times: what the broker held is then lost, its callers' connections
 * end, and the caller asks again with the same id. The service commits effect and stored
 * reply in one transaction, and answers after it. The deadline may pass at any time.
 *
 * Checked: the effect happens at most once; an answer "done" means that it has happened;
 * the caller always gets an answer or its deadline (no state without a way on).
 *
 * BROKEN=1: the reply is stored in a transaction of its own, after the effect's.
 * BROKEN=2: the caller asks again with a new id.
 */

#ifndef BROKEN
#define BROKEN 0
#endif
#define MAX_SERVICE_DEATHS 2
#define MAX_BROKER_DEATHS  2
#define MAX_DELIVERIES     4

mtype = { IDLE, HELD, IN_FLIGHT };
mtype = { WAITING, ANSWERED, EXPIRED };

/* The caller. */
mtype caller = WAITING;
bool is_asked;      /* its request is with the broker, or on the way to it */
byte caller_id = 1; /* of the request */

/* The broker: volatile. */
mtype held = IDLE;
byte held_id, n_deliveries, broker_deaths;

/* The service's store: durable. */
byte n_effects, stored_id; /* the reply of which request is stored; 0: none */
byte service_deaths;

/* Between broker and service: one request in flight on one connection. */
bool is_delivered;
byte delivered_id;

active proctype the_caller()
{
	do
	/* Asks, and asks again when its connection ended. */
	:: caller == WAITING && !is_asked ->
		atomic {
			is_asked = true;
			held = HELD;
			held_id = caller_id;
			n_deliveries = 0
		}
	:: caller == WAITING -> caller = EXPIRED; break
	:: caller == ANSWERED -> assert(n_effects == 1); break
	od
}

active proctype broker()
{
	do
	:: atomic { held == HELD && n_deliveries < MAX_DELIVERIES && !is_delivered ->
		held = IN_FLIGHT;
		n_deliveries++;
		is_delivered = true;
		delivered_id = held_id
	   }
	/* Killed: holds nothing any more, the caller's connection ends. */
	:: atomic { broker_deaths < MAX_BROKER_DEATHS && caller == WAITING && is_asked ->
		broker_deaths++;
		held = IDLE;
		is_asked = false;
#if BROKEN == 2
		caller_id++
#endif
	   }
	:: caller != WAITING -> break
	od
}

/* Killed between two steps: the broker sees the end, and holds what was in flight for the next instance. */
inline may_die()
{
	if
	:: service_deaths < MAX_SERVICE_DEATHS ->
		atomic {
			service_deaths++;
			is_delivered = false;
			if :: held == IN_FLIGHT -> held = HELD :: else fi
		};
		goto born
	:: true
	fi
}

active proctype service()
{
	byte id;

born:
	do
	:: is_delivered ->
		id = delivered_id;
		if
		:: stored_id == id /* a repeated request gets the stored reply */
		:: else ->
			may_die();
#if BROKEN == 1
			n_effects++;
			may_die();
			stored_id = id
#else
			atomic { n_effects++; stored_id = id }
#endif
		fi;
		assert(n_effects <= 1);
		may_die();
		/* The answer, if the broker still waits for it. */
		atomic {
			is_delivered = false;
			if
			:: held == IN_FLIGHT && held_id == id ->
				held = IDLE;
				if :: caller == WAITING -> caller = ANSWERED :: else fi
			:: else
			fi
		}
	:: caller != WAITING -> break
	od
}
