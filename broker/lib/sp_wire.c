#include <assert.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>

#include "broker/lib/sp_wire.h"

static enum sp_protocol peer_of(enum sp_protocol protocol)
{
	switch (protocol) {
	case SP_PUB:
		return SP_SUB;
	case SP_SUB:
		return SP_PUB;
	case SP_REQ:
		return SP_REP;
	case SP_REP:
		return SP_REQ;
	}
	return 0;
}

static void write_greeting(uint8_t *to, enum sp_protocol protocol)
{
	const uint8_t greeting[SP_GREETING_SIZE] = {
		0, 'S', 'P', 0, (uint8_t)(protocol >> 8), (uint8_t)protocol, 0, 0};

	memcpy(to, greeting, sizeof(greeting));
}

static void write_be(uint8_t *to, uint64_t value, size_t size)
{
	while (size--) {
		to[size] = (uint8_t)value;
		value >>= 8;
	}
}

static uint64_t read_be(const uint8_t *from, size_t size)
{
	uint64_t value = 0;

	for (size_t i = 0; i < size; i++)
		value = value << 8 | from[i];
	return value;
}

/* ---- connecting ---- */

/* A unix socket connects at once, or waits for a place in the listener's queue. */
static int connect_to(int fd, const struct sockaddr_un *address, uint64_t patience_ms)
{
	struct timeval patience = {.tv_sec = (time_t)(patience_ms / 1000),
				   .tv_usec = (suseconds_t)(patience_ms % 1000) * 1000};

	if (patience_ms && setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience)) < 0)
		return error_origin(-errno);
	if (connect(fd, (const struct sockaddr *)address, sizeof(*address)) == 0)
		return 0;
	switch (errno) {
	case EAGAIN:
	case EINTR:
		return SP_WIRE_E_WAIT;
	case ENOENT:
	case ECONNREFUSED:
	case ECONNRESET:
		return SP_E_CLOSED;
	default:
		return error_origin(-errno);
	}
}

static int put_greeting(struct sp_wire *wire)
{
	wire->out = malloc(SP_GREETING_SIZE);
	if (!wire->out)
		return error_origin(-ENOMEM);
	write_greeting(wire->out, wire->protocol);
	wire->out_size = SP_GREETING_SIZE;
	return 0;
}

int sp_wire_open(struct sp_wire *wire, const char *path, enum sp_protocol protocol,
		 uint64_t patience_ms)
{
	int flags = SOCK_STREAM | SOCK_CLOEXEC | (patience_ms ? 0 : SOCK_NONBLOCK);
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int r;

	*wire = SP_WIRE_EMPTY;
	wire->protocol = protocol;
	/* An empty path would be an abstract address, which davit never uses. */
	if (!path[0] || strlen(path) >= sizeof(address.sun_path))
		return error_origin(path[0] ? -ENAMETOOLONG : -EINVAL);
	memcpy(address.sun_path, path, strlen(path));
	wire->fd = socket(AF_UNIX, flags, 0);
	if (wire->fd < 0)
		return error_origin(-errno);
	r = connect_to(wire->fd, &address, patience_ms);
	if (!r)
		r = put_greeting(wire);
	if (r)
		sp_wire_close(wire);
	return r;
}

int sp_wire_adopt(struct sp_wire *wire, int fd, enum sp_protocol protocol)
{
	*wire = SP_WIRE_EMPTY;
	wire->protocol = protocol;
	wire->fd = fd;
	return put_greeting(wire);
}

void sp_wire_close(struct sp_wire *wire)
{
	close_fd(wire->fd);
	free(wire->body);
	free(wire->out);
	*wire = SP_WIRE_EMPTY;
}

/* ---- sending ---- */

int sp_wire_put_after(struct sp_wire *wire, const uint8_t *before, size_t n_before,
		      const void *data, size_t size)
{
	size_t n_left = wire->out_size - wire->n_out;
	uint8_t *out, *at;

	if (size > SP_MESSAGE_MAX - n_before)
		return SP_E_LIMIT;
	out = malloc(n_left + SP_HEAD_SIZE + n_before + size);
	if (!out)
		return error_origin(-ENOMEM);
	at = out;
	if (n_left)
		memcpy(at, wire->out + wire->n_out, n_left);
	at += n_left;
	*at++ = 1;
	write_be(at, n_before + size, 8);
	at += 8;
	if (n_before)
		memcpy(at, before, n_before);
	at += n_before;
	if (size)
		memcpy(at, data, size);
	free(wire->out);
	wire->out = out;
	wire->out_size = n_left + SP_HEAD_SIZE + n_before + size;
	wire->n_out = 0;
	return 0;
}

int sp_wire_put(struct sp_wire *wire, uint32_t id, const void *data, size_t size)
{
	uint8_t before[SP_ID_SIZE];

	write_be(before, id, sizeof(before));
	return sp_wire_put_after(wire, before, id ? sizeof(before) : 0, data, size);
}

int sp_wire_send(struct sp_wire *wire)
{
	ssize_t n;

	while (wire->n_out < wire->out_size) {
		n = send(wire->fd, wire->out + wire->n_out, wire->out_size - wire->n_out,
			 MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return SP_WIRE_E_WAIT;
		if (n < 0 && (errno == EPIPE || errno == ECONNRESET))
			return SP_E_CLOSED;
		if (n < 0)
			return error_origin(-errno);
		wire->n_out += (size_t)n;
	}
	free(wire->out);
	wire->out = NULL;
	wire->out_size = wire->n_out = 0;
	return 0;
}

/* ---- receiving ---- */

/* Reads until *have is @size. */
static int fill(struct sp_wire *wire, uint8_t *to, size_t *have, size_t size)
{
	ssize_t n;

	while (*have < size) {
		n = recv(wire->fd, to + *have, size - *have, MSG_DONTWAIT);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return SP_WIRE_E_WAIT;
		if (n == 0 || (n < 0 && errno == ECONNRESET))
			return SP_E_CLOSED;
		if (n < 0)
			return error_origin(-errno);
		*have += (size_t)n;
	}
	return 0;
}

int sp_wire_greet(struct sp_wire *wire)
{
	uint8_t expected[SP_GREETING_SIZE];
	int r;

	if (wire->is_greeted)
		return 0;
	r = fill(wire, wire->head, &wire->n_head, SP_GREETING_SIZE);
	if (r)
		return r;
	write_greeting(expected, peer_of(wire->protocol));
	if (memcmp(wire->head, expected, sizeof(expected)) != 0)
		return SP_E_PROTOCOL;
	wire->is_greeted = true;
	wire->n_head = 0;
	return 0;
}

/* What the peer claims is believed only within the limit. */
static int start_body(struct sp_wire *wire)
{
	uint64_t size = read_be(wire->head + 1, 8);

	if (wire->head[0] != 1 || size > SP_MESSAGE_MAX)
		return SP_E_PROTOCOL;
	wire->body = malloc(size ? size : 1);
	if (!wire->body)
		return error_origin(-ENOMEM);
	wire->size = size;
	wire->n_body = 0;
	return 0;
}

int sp_wire_receive(struct sp_wire *wire)
{
	int r;

	r = sp_wire_greet(wire);
	if (r)
		return r;
	if (!wire->body) {
		r = fill(wire, wire->head, &wire->n_head, SP_HEAD_SIZE);
		if (!r)
			r = start_body(wire);
		if (r)
			return r;
	}
	r = fill(wire, wire->body, &wire->n_body, wire->size);
	if (!r)
		wire->n_head = 0;
	return r;
}

void sp_wire_drop(struct sp_wire *wire)
{
	free(wire->body);
	wire->body = NULL;
}

/* ---- request ids ---- */

uint32_t sp_wire_next_id(uint32_t *last)
{
	/* Without randomness it starts at 1, which a fresh connection may as well. */
	if (!*last && getrandom(last, sizeof(*last), GRND_NONBLOCK) < 0)
		*last = 0;
	*last = (*last + 1) | 0x80000000u;
	return *last;
}

uint32_t sp_wire_id(const uint8_t *body, size_t size)
{
	return size < SP_ID_SIZE ? 0 : (uint32_t)read_be(body, SP_ID_SIZE);
}
