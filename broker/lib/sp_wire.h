#pragma once
/*
 * The bytes of a scalability-protocols connection, for both faces of sp.h: a
 * socket that never blocks, what is still to be sent, and the frame that is
 * being received. Owns all three. Not for other modules.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "broker/lib/sp.h"

#define SP_GREETING_SIZE 8
#define SP_HEAD_SIZE     9
#define SP_ID_SIZE       4

/* Beside SP_E_*: the socket has to become ready first. */
enum { SP_WIRE_E_WAIT = 100 };

struct sp_wire {
	int fd; /* -1: not connected */
	enum sp_protocol protocol;

	uint8_t head[SP_HEAD_SIZE]; /* the peer's greeting, then each frame's head */
	size_t n_head;
	bool is_greeted;
	uint8_t *body; /* NULL: its head is not complete */
	size_t size, n_body;

	uint8_t *out; /* NULL: nothing to send */
	size_t out_size, n_out;
};

#define SP_WIRE_EMPTY ((struct sp_wire){.fd = -1})

/* Connects and puts the greeting in line. SP_WIRE_E_WAIT: too many wait at @path, try again later.
 * With @patience_ms the kernel waits that long for a place instead. */
int sp_wire_open(struct sp_wire *wire, const char *path, enum sp_protocol protocol,
		 uint64_t patience_ms);
/* Takes @fd, accepted by a listener, and puts the greeting in line; on an error too. */
int sp_wire_adopt(struct sp_wire *wire, int fd, enum sp_protocol protocol);
/* Closes the socket and frees all; it is empty afterwards. */
void sp_wire_close(struct sp_wire *wire);

/* Puts a frame in line: @id (0: none), then @data. There must be nothing else than a greeting. */
int sp_wire_put(struct sp_wire *wire, uint32_t id, const void *data, size_t size);
/* The same with any @before instead of an id. */
int sp_wire_put_after(struct sp_wire *wire, const uint8_t *before, size_t n_before,
		      const void *data, size_t size);
/* Sends what is in line. 0: all is out; SP_WIRE_E_WAIT, SP_E_CLOSED. */
int sp_wire_send(struct sp_wire *wire);

/* Reads the peer's greeting. 0: it is right; SP_WIRE_E_WAIT, SP_E_CLOSED, SP_E_PROTOCOL. */
int sp_wire_greet(struct sp_wire *wire);
/* Reads one frame. 0: it is in wire->body (wire->size), which the caller takes or drops. */
int sp_wire_receive(struct sp_wire *wire);
void sp_wire_drop(struct sp_wire *wire);

/* A request id: the top bit is set, the first is random. */
uint32_t sp_wire_next_id(uint32_t *last);
/* The id at the start of a frame's @body; 0 if it is too short for one. */
uint32_t sp_wire_id(const uint8_t *body, size_t size);
