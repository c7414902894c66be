#include <limits.h>
#include <poll.h>
#include <string.h>

#include "broker/lib/sp_wire.h"

struct sp {
	struct sp_wire wire;
	uint32_t id;
	volatile const int *interrupted; /* may be NULL */
};

/* A signal that comes just before poll(2) does not wake it: so often the flag is looked at. */
#define INTERRUPTED_MS 100

static int clamp_ms(uint64_t ms)
{
	return ms > INT_MAX ? INT_MAX : (int)ms;
}

/* 0: ready; SP_E_DEADLINE; -EINTR. An error of the socket shows at the next read or write. */
static int wait_for(const struct sp *sp, short events, uint64_t deadline_ms)
{
	struct pollfd file = {.fd = sp->wire.fd, .events = events};
	uint64_t now_ms = time_boot_ms();
	int timeout_ms = -1, r;

	if (now_ms >= deadline_ms)
		return SP_E_DEADLINE;
	if (deadline_ms != UINT64_MAX)
		timeout_ms = clamp_ms(deadline_ms - now_ms);
	if (sp->interrupted && (timeout_ms < 0 || timeout_ms > INTERRUPTED_MS))
		timeout_ms = INTERRUPTED_MS;
	r = poll(&file, 1, timeout_ms);
	if (r < 0)
		return errno == EINTR ? -EINTR : error_origin(-errno);
	return 0;
}

/*
 * Repeats @step until it is done, waiting for the socket in between. @is_patient:
 * signals do not end it.
 */
static int repeat(struct sp *sp, int (*step)(struct sp_wire *wire), short events,
		  uint64_t deadline_ms, bool is_patient)
{
	int r;

	while ((r = step(&sp->wire)) == SP_WIRE_E_WAIT) {
		r = wait_for(sp, events, deadline_ms);
		if (sp->interrupted && *sp->interrupted)
			return -EINTR;
		if (r && !(r == -EINTR && is_patient))
			return r;
	}
	return r;
}

/* ---- connecting ---- */

/* The kernel waits for a place in the listener's queue; a signal or a lost place starts it again. */
static int open_wire(struct sp *sp, const char *path, enum sp_protocol protocol,
		     uint64_t deadline_ms)
{
	int r;

	do {
		uint64_t now_ms = time_boot_ms();

		if (now_ms >= deadline_ms)
			return SP_E_DEADLINE;
		r = sp_wire_open(&sp->wire, path, protocol,
				 (uint64_t)clamp_ms(deadline_ms - now_ms));
	} while (r == SP_WIRE_E_WAIT);
	return r;
}

int sp_connect(const char *path, enum sp_protocol protocol, uint64_t deadline_ms,
	       struct sp **ret_sp)
{
	_cleanup_(sp_freep) struct sp *sp = NULL;
	int r;

	sp = calloc(1, sizeof(*sp));
	if (!sp)
		return error_origin(-ENOMEM);
	sp->wire = SP_WIRE_EMPTY;
	r = open_wire(sp, path, protocol, deadline_ms);
	if (r)
		return error_trace(r);
	if (protocol == SP_SUB) {
		r = repeat(sp, sp_wire_send, POLLOUT, deadline_ms, true);
		if (!r)
			r = repeat(sp, sp_wire_greet, POLLIN, deadline_ms, true);
		if (r)
			return error_trace(r);
	}
	*ret_sp = TAKE(sp);
	return 0;
}

struct sp *sp_free(struct sp *sp)
{
	if (!sp)
		return NULL;
	sp_wire_close(&sp->wire);
	free(sp);
	return NULL;
}

void sp_freep(struct sp **sp)
{
	*sp = sp_free(*sp);
}

int sp_fd(const struct sp *sp)
{
	return sp->wire.fd;
}

void sp_set_interrupted(struct sp *sp, volatile const int *interrupted)
{
	sp->interrupted = interrupted;
}

/* ---- messages ---- */

int sp_request(struct sp *sp, const void *data, size_t size, uint64_t deadline_ms, void **ret_reply,
	       size_t *ret_size)
{
	struct sp_wire *wire = &sp->wire;
	int r;

	r = sp_wire_put(wire, sp_wire_next_id(&sp->id), data, size);
	if (!r)
		r = repeat(sp, sp_wire_send, POLLOUT, deadline_ms, true);
	if (r)
		return error_trace(r);
	for (;;) {
		r = repeat(sp, sp_wire_receive, POLLIN, deadline_ms, true);
		if (r)
			return error_trace(r);
		if (sp_wire_id(wire->body, wire->size) == sp->id)
			break;
		/* The late answer to another; a peer that sends nothing else must not keep us. */
		sp_wire_drop(wire);
		if (time_boot_ms() >= deadline_ms)
			return SP_E_DEADLINE;
	}
	memmove(wire->body, wire->body + SP_ID_SIZE, wire->size - SP_ID_SIZE);
	*ret_reply = TAKE(wire->body);
	*ret_size = wire->size - SP_ID_SIZE;
	return 0;
}

int sp_receive(struct sp *sp, uint64_t deadline_ms, void **ret_data, size_t *ret_size)
{
	int r;

	r = repeat(sp, sp_wire_receive, POLLIN, deadline_ms, false);
	if (r == -EINTR)
		return r;
	if (r)
		return error_trace(r);
	*ret_data = TAKE(sp->wire.body);
	*ret_size = sp->wire.size;
	return 0;
}
