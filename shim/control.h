#pragma once
/*
 * The control socket: one envelope a packet, many connections, none of which can
 * stall the loop: what a peer does not take at once ends its connection. Packets
 * over 64 KiB and malformed ones are answered with an error. Descriptors come with
 * shim.adopt only, at most CONTROL_FDS; what its handler does not take is closed.
 */

#include <stdbool.h>
#include <stdint.h>

#include "broker/lib/error.h"
#include "broker/lib/file.h"
#include "broker/lib/loop.h"
#include "schemas/envelope.h"

#define CONTROL_CONNECTIONS 16
#define CONTROL_PACKET_MAX  65536
#define CONTROL_PROTOCOL    1
#define CONTROL_FDS         2

struct shim;

struct connection {
	struct loop_file file;
	struct control *control;
	int fd; /* -1: free */
	unsigned generation;
	bool has_greeted;
	bool watches;
	int fds[CONTROL_FDS]; /* that came with the packet which is being handled */
	size_t n_fds, n_taken;
};

struct control {
	struct shim *shim;
	struct loop_file file;
	int fd; /* -1: does not listen */
	struct connection connections[CONTROL_CONNECTIONS];
	size_t n_connections;
};

/* A request without its answer. Outlives its connection: the answer then goes nowhere. */
struct call {
	const struct schema_method *method;
	uint8_t id[ID_SIZE];
	uint32_t body_crc;
	uint64_t deadline_ms; /* 0: none */
	size_t connection;
	unsigned generation;
};

/* Listens at @path (0600); @fd, if it is a socket, is the first connection and is taken. */
int control_init(struct control *control, struct shim *shim, const char *path, int fd,
		 struct why *why);
void control_deinit(struct control *control);

/* @message: the method's reply, NULL for an error. */
void control_answer(struct control *control, const struct call *call, enum bus_status status,
		    const char *text, const void *message);
/* @body: packed already; empty for an error. */
void control_answer_packed(struct control *control, const struct call *call, enum bus_status status,
			   const char *text, struct schema_span body);
/* Success, with descriptors (borrowed; at most CONTROL_FDS). */
void control_answer_with(struct control *control, const struct call *call, const void *message,
			 const int *fds, size_t n);
/* From a handler: the descriptors that came with the packet, and the next of them, which is the
 * caller's. */
size_t control_count_fds(struct control *control, const struct call *call);
int control_take_fd(struct control *control, const struct call *call);
/* The connection that @call came by; NULL: gone. */
struct connection *control_connection(struct control *control, const struct call *call);
/* To every connection that watches. */
void control_tell(struct control *control, const struct envelope_event *event);
