#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/cursor.h"
#include "broker/eventread.h"
#include "broker/lib/log.h"
#include "schemas/check.h"

#define STEP 128 /* events that one read looks at before others get their turn: some 0.1 ms */

struct read {
	struct read *next, *previous;
	struct eventread *eventread;
	struct caller *caller;
	struct event_read_request request;
	struct event_read_reply reply;
	size_t bytes; /* of the events in the reply */
	uint64_t until_ms;
	struct loop_timer timer;
	bool has_more; /* of the log to look at */
};

struct eventread {
	struct broker *broker;
	struct read *reads; /* that wait, or have more to look at */
	size_t n_reads;
	struct errand errand;
	atomic_bool is_posted;
};

/* ---- one read ---- */

static void read_freep(struct read **at)
{
	struct read *read = *at;

	if (!read)
		return;
	loop_timer_cancel(&read->timer);
	event_read_request_clear(&read->request);
	event_read_reply_clear(&read->reply);
	free(read);
}

static void unlink_read(struct read *read)
{
	if (read->previous)
		read->previous->next = read->next;
	else
		read->eventread->reads = read->next;
	if (read->next)
		read->next->previous = read->previous;
	read->eventread->n_reads--;
}

static void link_read(struct read *read)
{
	struct eventread *eventread = read->eventread;

	read->previous = NULL;
	read->next = eventread->reads;
	if (read->next)
		read->next->previous = read;
	eventread->reads = read;
	eventread->n_reads++;
}

static void fail(struct caller *caller, int r)
{
	log_warning("the event log cannot be read: %s", r > 0 ? "damaged" : strerror(-r));
	caller_answer(caller, r == -ENOMEM ? BUS_RESOURCE_EXHAUSTED : BUS_INTERNAL,
		      "the event log cannot be read now; try again in 1 s", NULL, 0);
}

/* One step through the log. Sets the reply's log_id at the first. */
static int look(struct read *read)
{
	_cleanup_(broker_log_meta_clear) struct broker_log_meta meta = {};
	_cleanup_(log_abortp) struct log_txn *txn = NULL;
	int r;

	r = log_begin(logthread_db(read->eventread->broker->logthread), false, &txn);
	if (!r)
		r = eventlog_load(txn, &meta);
	if (r)
		return error_fold(r);
	if (read->reply.log_id.size == 0)
		r = schema_bytes_set(&read->reply.log_id, meta.log_id.data, meta.log_id.size);
	if (read->reply.next == 0)
		read->reply.next = meta.next_seq;
	if (read->reply.next > meta.next_seq) {
		/* Another log: the number says so at once, waiting for it could take for ever. */
		read->reply.next = meta.next_seq;
		read->until_ms = 0;
	}
	if (!r)
		r = eventlog_read(txn, &meta, &read->request, STEP, &read->bytes, &read->reply,
				  &read->has_more);
	return error_fold(r);
}

static bool is_answered(const struct read *read)
{
	return !read->has_more && (read->reply.events.count > 0 || read->reply.truncated ||
				   read->until_ms <= time_boot_ms());
}

static void answer_read(struct read *read)
{
	caller_answer_message(read->caller, schema_event_read_reply(), &read->reply);
}

/* Takes a step; true: the read is over. */
static bool advance(struct read *read)
{
	int r = look(read);

	if (r)
		fail(read->caller, r);
	else if (is_answered(read))
		answer_read(read);
	else
		return false;
	return true;
}

/* ---- those that go on ---- */

static void on_errand(struct errand *errand);

static void post(struct eventread *eventread)
{
	if (!atomic_exchange(&eventread->is_posted, true))
		broker_post(eventread->broker, &eventread->errand, on_errand);
}

void eventread_advanced(struct eventread *eventread)
{
	post(eventread);
}

static void on_timer(struct loop_timer *timer)
{
	_cleanup_(read_freep) struct read *read = container_of(timer, struct read, timer);

	unlink_read(read);
	answer_read(read);
}

/* All was looked at: waits for more. True: it could not, and the read is over. */
static bool arm(struct read *read)
{
	if (read->timer.loop ||
	    !loop_timer_set(read->eventread->broker->loop, &read->timer, read->until_ms, on_timer))
		return false;
	answer_read(read);
	return true;
}

static void on_errand(struct errand *errand)
{
	struct eventread *eventread = container_of(errand, struct eventread, errand);
	bool has_more = false;
	struct read *next;

	atomic_store(&eventread->is_posted, false);
	for (struct read *read = eventread->reads; read; read = next) {
		next = read->next;
		if (advance(read) || (!read->has_more && arm(read))) {
			unlink_read(read);
			read_freep(&read);
			continue;
		}
		has_more |= read->has_more;
	}
	if (has_more)
		post(eventread);
}

/* Begins at @from (0: now). */
static void start(struct read *started, uint64_t from)
{
	_cleanup_(read_freep) struct read *read = started;
	struct eventread *eventread = read->eventread;
	uint64_t deadline = read->caller->envelope.deadline_ms;

	read->reply.next = from;
	read->until_ms = time_boot_ms() + read->request.wait_ms;
	if (read->until_ms > deadline)
		read->until_ms = deadline;
	if (advance(read))
		return;
	if (read->has_more)
		post(eventread);
	else if (arm(read))
		return;
	link_read(TAKE(read));
}

/* ---- named cursors ---- */

static void on_cursor(void *userdata, enum bus_status status, uint64_t ack)
{
	_cleanup_(read_freep) struct read *read = userdata;

	if (status == BUS_OK)
		start(TAKE(read), ack + 1);
	else if (status == BUS_INVALID_ARGUMENT)
		caller_answer(read->caller, status, "the acknowledgement is beyond the log's end",
			      NULL, 0);
	else
		caller_answer(read->caller, status,
			      "the cursor cannot be stored: there are too many, or the log is full",
			      NULL, 0);
}

static void start_at_cursor(struct read *started)
{
	_cleanup_(read_freep) struct read *read = started;
	struct broker *broker = read->eventread->broker;
	const struct event_read_request *request = &read->request;
	uint64_t ack = 0;
	int r;

	if (!check_identifier(request->cursor)) {
		caller_answer(read->caller, BUS_INVALID_ARGUMENT,
			      "a cursor's name must be an identifier of at most 76 bytes", NULL, 0);
		return;
	}
	r = cursor_find(broker, request->cursor, &ack);
	if (!r && request->ack <= ack) {
		start(TAKE(read), ack + 1);
		return;
	}
	r = cursor_move(broker, request->cursor, request->from, request->ack, on_cursor, read);
	if (r)
		fail(read->caller, r);
	else
		TAKE(read);
}

static void handle_read(struct eventread *eventread, struct caller *caller)
{
	_cleanup_(read_freep) struct read *read = calloc(1, sizeof(*read));

	if (!read) {
		fail(caller, -ENOMEM);
		return;
	}
	read->eventread = eventread;
	read->caller = caller;
	if (!caller_unpack(caller, schema_event_read_request(), &read->request))
		return;
	if (read->request.cursor && read->request.cursor[0])
		start_at_cursor(TAKE(read));
	else if (read->request.ack > 0)
		caller_answer(caller, BUS_INVALID_ARGUMENT,
			      "an acknowledgement needs the name of a cursor", NULL, 0);
	else
		start(TAKE(read), read->request.from);
}

static void handle_cursors(struct eventread *eventread, struct caller *caller)
{
	_cleanup_(event_cursors_reply_clear) struct event_cursors_reply reply = {};
	int r;

	r = cursor_list(eventread->broker, &reply);
	if (r)
		fail(caller, r);
	else
		caller_answer_message(caller, schema_event_cursors_reply(), &reply);
}

static void on_deleted(void *userdata, enum bus_status status, uint64_t ack)
{
	(void)ack;
	caller_answer(userdata, status, status == BUS_OK ? NULL : "there is no such cursor", NULL,
		      0);
}

static void handle_delete(struct eventread *eventread, struct caller *caller)
{
	_cleanup_(
		event_cursor_delete_request_clear) struct event_cursor_delete_request request = {};
	int r;

	if (!caller_unpack(caller, schema_event_cursor_delete_request(), &request))
		return;
	r = cursor_delete(eventread->broker, request.name, on_deleted, caller);
	if (r)
		fail(caller, r);
}

void eventread_handle(struct eventread *eventread, struct caller *caller)
{
	const char *method = caller->envelope.method;

	if (strcmp(method, "event.publish") == 0)
		eventread_publish(eventread->broker, caller);
	else if (strcmp(method, "event.read") == 0)
		handle_read(eventread, caller);
	else if (strcmp(method, "event.cursors") == 0)
		handle_cursors(eventread, caller);
	else if (strcmp(method, "event.cursor_delete") == 0)
		handle_delete(eventread, caller);
	else
		caller_answer(caller, BUS_NOT_IMPLEMENTED, "the broker does not answer this method",
			      NULL, 0);
}

size_t eventread_n_waiting(const struct eventread *eventread)
{
	return eventread->n_reads;
}

size_t eventread_n_cursors(struct eventread *eventread)
{
	size_t count = 0;

	cursor_count(eventread->broker, &count);
	return count;
}

int eventread_new(struct broker *broker, struct eventread **ret_eventread)
{
	struct eventread *eventread = calloc(1, sizeof(*eventread));

	if (!eventread)
		return error_origin(-ENOMEM);
	eventread->broker = broker;
	*ret_eventread = eventread;
	return 0;
}
