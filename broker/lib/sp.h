#pragma once
/*
 * A scalability-protocols peer on a plain unix socket, without nng and its
 * threads: what the shim and the command line use. Speaks nng's ipc transport:
 * both sides send 8 bytes (00 'S' 'P' 00, protocol u16 BE, 00 00), then frames
 * of 0x01, u64 BE length, payload. A REQ payload starts with a 4 byte BE id with
 * the top bit set, which the REP echoes. Facts: nng's RFCs sp-ipc and sp-reqrep.
 *
 * Two faces: blocking with a deadline (tools), and on a loop (shim).
 */

#include <stdint.h>

#include "broker/lib/error.h"
#include "broker/lib/loop.h"

#define SP_MESSAGE_MAX (1u << 20)

enum sp_protocol { SP_PUB = 0x20, SP_SUB = 0x21, SP_REQ = 0x30, SP_REP = 0x31 };

enum {
	_SP_E_SUCCESS,
	SP_E_CLOSED,   /* the peer went away, or is not there */
	SP_E_DEADLINE, /* the deadline passed */
	SP_E_PROTOCOL, /* the peer speaks something else, or its message is over the limit */
	SP_E_LIMIT,    /* our own message is over SP_MESSAGE_MAX (the id of 4 bytes counts) */
};

/* ---- blocking ---- */
struct sp;

/* Connects to the socket at @path as @protocol (SP_REQ or SP_SUB). @deadline_ms: CLOCK_BOOTTIME.
 * SP_REQ does not wait for the peer's greeting, which saves a wake-up: a peer that speaks something
 * else shows at the first request. SP_SUB waits. */
int sp_connect(const char *path, enum sp_protocol protocol, uint64_t deadline_ms,
	       struct sp **ret_sp);
struct sp *sp_free(struct sp *sp);
void sp_freep(struct sp **sp);
/* Readable when sp_receive() may have something; for poll(2) only. */
int sp_fd(const struct sp *sp);
/* From here on sp_request() ends with -EINTR once *@interrupted is not zero, at the latest 100 ms after;
 * without it signals do not end a request. Borrowed; NULL: never. */
void sp_set_interrupted(struct sp *sp, volatile const int *interrupted);
/* One request and its reply (REQ). After any error but SP_E_LIMIT the connection must be freed.
 * @ret_reply is malloc'd. */
int sp_request(struct sp *sp, const void *data, size_t size, uint64_t deadline_ms, void **ret_reply,
	       size_t *ret_size);
/* The next message (SUB), malloc'd. @deadline_ms UINT64_MAX: wait for ever. Returns -EINTR on a
 * signal. After that and after SP_E_DEADLINE it may be called again and nothing is lost. */
int sp_receive(struct sp *sp, uint64_t deadline_ms, void **ret_data, size_t *ret_size);

/* ---- on a loop: REQ, one request in flight; never blocks; no allocation while idle ---- */
struct sp_client;
/* @r: 0 with the reply (borrowed), or SP_E_*. The connection is closed on every error. */
typedef void (*sp_client_fn)(void *userdata, int r, const void *reply, size_t size);
int sp_client_new(struct loop *loop, const char *path, struct sp_client **ret_client);
struct sp_client *sp_client_free(struct sp_client *client);
/* Connects if needed and sends. -EBUSY while one is in flight. @data is copied. @deadline_ms UINT64_MAX: none. After 0 @fn is called
 * exactly once, never from inside this call, unless the client is closed or freed before; after
 * anything else (SP_E_LIMIT, negative) it is not called. @fn may ask again, close or free. */
int sp_client_request(struct sp_client *client, const void *data, size_t size, uint64_t deadline_ms,
		      sp_client_fn fn, void *userdata);
/* The last request has left whole: the peer may have it. */
bool sp_client_was_sent(const struct sp_client *client);
/* Gives the socket and all buffers back; a request in flight is forgotten. */
void sp_client_close(struct sp_client *client);
