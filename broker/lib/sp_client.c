#include <string.h>
#include <sys/epoll.h>

#include "broker/lib/sp_wire.h"

/* How long to wait before asking again for a place in the listener's queue. */
#define RETRY_MS 10

/*
 * Closed: wire.fd is -1. Idle: connected, no `fn`; the loop tells when the peer
 * goes away. Busy: `fn` is set, and `timer` runs to the deadline, or sooner where
 * there is something else to do:
 * - there is no place in the listener's queue: the request waits in `pending`;
 * - it has failed already: `failure` is told from the loop, never from inside
 *   sp_client_request().
 */
struct sp_client {
	struct loop *loop;
	char *path;
	struct sp_wire wire;
	struct loop_file file;
	struct loop_timer timer;
	uint32_t id;

	uint64_t deadline_ms;
	sp_client_fn fn;
	void *userdata;
	void *pending;
	size_t pending_size;
	int failure;
	bool was_sent;
};

static void file_ready(struct loop_file *file, uint32_t events);
static void timer_due(struct loop_timer *timer);

/* Ends the request. The callback may free the client: nothing of it is used afterwards. */
static void finish(struct sp_client *client, int r)
{
	_cleanup_(cleanup_free) uint8_t *body = NULL;
	sp_client_fn fn = client->fn;
	void *userdata = client->userdata;
	size_t size = 0;

	client->fn = NULL;
	loop_timer_cancel(&client->timer);
	if (!r) {
		body = TAKE(client->wire.body);
		size = client->wire.size - SP_ID_SIZE;
	} else {
		sp_client_close(client);
	}
	if (fn)
		fn(userdata, r, body ? body + SP_ID_SIZE : NULL, size);
}

/* ---- connecting and sending ---- */

static int send_more(struct sp_client *client)
{
	int r = sp_wire_send(&client->wire);

	if (r && r != SP_WIRE_E_WAIT)
		return r;
	client->was_sent = !r;
	return error_trace(loop_file_set(&client->file, r ? EPOLLIN | EPOLLOUT : EPOLLIN));
}

static int connect_now(struct sp_client *client)
{
	int r;

	r = sp_wire_open(&client->wire, client->path, SP_REQ, 0);
	if (r)
		return r;
	r = loop_file_add(client->loop, &client->file, client->wire.fd, EPOLLIN, file_ready);
	if (r)
		sp_wire_close(&client->wire);
	return error_trace(r);
}

/* Takes the request into the line, connecting first where needed. */
static int start(struct sp_client *client, const void *data, size_t size)
{
	int r;

	if (client->wire.fd < 0) {
		r = connect_now(client);
		if (r)
			return r;
	}
	r = sp_wire_put(&client->wire, sp_wire_next_id(&client->id), data, size);
	return r ? error_trace(r) : send_more(client);
}

/* The listener's queue is full: keeps the request and looks again soon. */
static int postpone(struct sp_client *client, const void *data, size_t size)
{
	uint64_t soon_ms = time_boot_ms() + RETRY_MS;

	if (!client->pending) {
		client->pending = malloc(size ? size : 1);
		if (!client->pending)
			return error_origin(-ENOMEM);
		if (size)
			memcpy(client->pending, data, size);
		client->pending_size = size;
	}
	return loop_timer_set(client->loop, &client->timer,
			      soon_ms < client->deadline_ms ? soon_ms : client->deadline_ms,
			      timer_due);
}

static int arm(struct sp_client *client)
{
	if (client->deadline_ms == UINT64_MAX) {
		loop_timer_cancel(&client->timer);
		return 0;
	}
	return error_trace(
		loop_timer_set(client->loop, &client->timer, client->deadline_ms, timer_due));
}

static void try_again(struct sp_client *client)
{
	int r = start(client, client->pending, client->pending_size);

	if (r == SP_WIRE_E_WAIT) {
		r = postpone(client, NULL, 0);
	} else if (!r) {
		free(client->pending);
		client->pending = NULL;
		r = arm(client);
	}
	if (r)
		finish(client, r);
}

static void timer_due(struct loop_timer *timer)
{
	struct sp_client *client = container_of(timer, struct sp_client, timer);

	if (client->failure)
		finish(client, client->failure);
	else if (time_boot_ms() >= client->deadline_ms)
		finish(client, SP_E_DEADLINE);
	else
		try_again(client);
}

/* ---- receiving ---- */

/*
 * One frame a round, so that a peer that floods us cannot hold the loop. What is
 * not the answer to the request in flight is the late answer to an earlier one.
 */
static int receive(struct sp_client *client, bool *ret_is_answer)
{
	int r = sp_wire_receive(&client->wire);

	*ret_is_answer = false;
	if (r)
		return r == SP_WIRE_E_WAIT ? 0 : r;
	if (client->fn && sp_wire_id(client->wire.body, client->wire.size) == client->id)
		*ret_is_answer = true;
	else
		sp_wire_drop(&client->wire);
	return 0;
}

static void file_ready(struct loop_file *file, uint32_t events)
{
	struct sp_client *client = container_of(file, struct sp_client, file);
	bool is_answer = false;
	int r = 0;

	if (events & EPOLLOUT)
		r = send_more(client);
	if (!r && events & (EPOLLIN | EPOLLHUP | EPOLLERR))
		r = receive(client, &is_answer);
	if (r || is_answer)
		finish(client, r);
}

/* ---- the client ---- */

int sp_client_new(struct loop *loop, const char *path, struct sp_client **ret_client)
{
	struct sp_client *client = calloc(1, sizeof(*client));

	if (!client)
		return error_origin(-ENOMEM);
	client->loop = loop;
	client->wire = SP_WIRE_EMPTY;
	client->path = strdup(path);
	if (!client->path) {
		sp_client_free(client);
		return error_origin(-ENOMEM);
	}
	*ret_client = client;
	return 0;
}

struct sp_client *sp_client_free(struct sp_client *client)
{
	if (!client)
		return NULL;
	sp_client_close(client);
	free(client->path);
	free(client);
	return NULL;
}

bool sp_client_was_sent(const struct sp_client *client)
{
	return client->was_sent;
}

void sp_client_close(struct sp_client *client)
{
	loop_file_remove(&client->file);
	loop_timer_cancel(&client->timer);
	sp_wire_close(&client->wire);
	free(client->pending);
	client->pending = NULL;
	client->fn = NULL;
	client->failure = 0;
}

int sp_client_request(struct sp_client *client, const void *data, size_t size, uint64_t deadline_ms,
		      sp_client_fn fn, void *userdata)
{
	int r;

	if (client->fn)
		return -EBUSY;
	if (size > SP_MESSAGE_MAX - SP_ID_SIZE)
		return SP_E_LIMIT;
	client->deadline_ms = deadline_ms;
	client->was_sent = false;
	r = arm(client);
	if (r)
		return error_trace(r);
	r = start(client, data, size);
	if (r == SP_WIRE_E_WAIT) {
		r = postpone(client, data, size);
	} else if (r) {
		client->failure = r;
		r = loop_timer_set(client->loop, &client->timer, 0, timer_due);
	}
	if (r) {
		sp_client_close(client);
		return error_trace(r);
	}
	client->fn = fn;
	client->userdata = userdata;
	return 0;
}
