#pragma once
/*
 * The listening face of sp.h: a REP peer on a loop. Each connection has one request
 * in flight at most: while it is worked on, nothing more is read from that
 * connection, so a peer that sends several gets their answers one after the other,
 * and one that dies leaves nothing behind but the request that is under way.
 *
 * Bounds: connections, and the bytes held for peers that stopped in the middle of
 * a message or do not take their answer. Beyond either, the connection that has
 * been silent longest is closed; one whose request is under way never is.
 *
 * All on the loop's thread.
 */

#include <sys/socket.h>
#include <sys/types.h>

#include "broker/lib/loop.h"
#include "broker/lib/sp_wire.h"

/* The way back of a request that came through devices: RFC sp-reqrep; nng allows 8 hops. */
#define SP_SERVER_HOPS_MAX 8

struct sp_server;

/* A connection; embedded in its owner's struct, zeroed. */
struct sp_peer {
	struct sp_server *server;
	struct sp_peer *before, *after; /* in the order of silence, while none is under way */
	struct loop_file file;
	struct sp_wire wire;
	struct ucred credentials; /* of the process that connected (SO_PEERCRED, unix(7)) */
	uint8_t way_back[4 * (SP_SERVER_HOPS_MAX + 1)];
	size_t n_way_back;
	const uint8_t *request; /* lies in @wire, until it is answered or dropped */
	size_t request_size;
	size_t n_held;  /* bytes that wait for the peer */
	bool is_asked;  /* a request is under way */
	bool is_gone;   /* the peer went away while it was */
	bool is_in_use; /* its callback runs */
};

struct sp_server_options {
	const char *path; /* a stale file is the caller's to unlink, under its lock */
	mode_t mode;
	bool only_own_uid; /* others' connections are closed before anything is read from them */
	size_t connections_max;
	size_t held_max; /* bytes */
	/* Requests that one process makes in a turn of the loop; what more it has sent waits for the next turn, so that
	 * whoever asks now and then does not wait for all of one that asks much. 0: any number. */
	unsigned share;
	/* Room for a connection, zeroed; NULL: refused. Taken back by @free_peer, when nothing is under way. */
	struct sp_peer *(*new_peer)(void *userdata);
	void (*free_peer)(void *userdata, struct sp_peer *peer);
	/* A request: peer->request. Answered now or later, by sp_peer_answer() or sp_peer_close(). */
	void (*asked)(void *userdata, struct sp_peer *peer);
	/* The peer went away while its request is under way, which has to be ended all the same. */
	void (*gone)(void *userdata, struct sp_peer *peer);
	/* The answer has left, or can't: the request is over. */
	void (*over)(void *userdata, struct sp_peer *peer);
	void *userdata;
};

/* Listens when it returns. */
int sp_server_new(struct loop *loop, const struct sp_server_options *options,
		  struct sp_server **ret_server, struct why *why);
/* Waits until what was answered is sent, at most @timeout_ms. */
void sp_server_flush(struct sp_server *server, unsigned timeout_ms);
/* Closes all connections but those whose requests are under way, and calls none of the options' functions any more
 * but free_peer and over, with a @userdata of NULL: they may still be answered while the loop lives. */
struct sp_server *sp_server_free(struct sp_server *server);
size_t sp_server_n_connections(const struct sp_server *server);

/* Gives the request's bytes back before it is answered. */
void sp_peer_drop_request(struct sp_peer *peer);
/* SP_E_LIMIT over SP_MESSAGE_MAX, -ENOMEM: then nothing was sent, and another answer may be tried. After
 * 0 the peer may be gone. */
int sp_peer_answer(struct sp_peer *peer, const void *data, size_t size);
/* Ends the connection and its request without an answer. */
void sp_peer_close(struct sp_peer *peer);
