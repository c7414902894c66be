#pragma once
/*
 * A connection to a shim's control socket (schemas/shim.def): calls with
 * deadlines, and the event packets of a watching connection. Owns its fd.
 * When the peer is gone every call under way ends with BUS_UNAVAILABLE, then
 * @closed is called once.
 */

#include "broker/lib/loop.h"
#include "schemas/envelope.h"

struct shim_link;

typedef void (*shim_link_event_fn)(void *userdata, const struct envelope_event *event);
typedef void (*shim_link_closed_fn)(void *userdata);
/* @reply is cleared after the callback; NULL unless BUS_OK. */
typedef void (*shim_link_reply_fn)(void *userdata, enum bus_status status, const char *text,
				   void *reply);

/* Takes @fd, a connected SOCK_SEQPACKET socket, also on failure. */
int shim_link_new(struct loop *loop, int fd, shim_link_event_fn event, shim_link_closed_fn closed,
		  void *userdata, struct shim_link **ret_link);
/* Calls under way end with BUS_CANCELED before this returns. Also from within its callbacks. */
struct shim_link *shim_link_free(struct shim_link *link);
/* Never blocks. A failure to send ends in the callback too, in a later round. */
int shim_link_call(struct shim_link *link, const char *method, const uint8_t id[ENVELOPE_ID_SIZE],
		   uint64_t deadline_ms, const void *request, shim_link_reply_fn fn,
		   void *userdata);

/* The same with descriptors that travel along (borrowed), at most SHIM_LINK_FDS. */
int shim_link_call_fds(struct shim_link *link, const char *method,
		       const uint8_t id[ENVELOPE_ID_SIZE], uint64_t deadline_ms,
		       const void *request, const int *fds, size_t n_fds, shim_link_reply_fn fn,
		       void *userdata);
/* In a reply's callback: the descriptors that came with it, the caller's from here on; -1 for those that did
 * not. What nobody takes is closed. */
#define SHIM_LINK_FDS 2
void shim_link_take_fds(struct shim_link *link, int ret_fds[SHIM_LINK_FDS]);

/* A socket connected to @path, non-blocking; -ECONNREFUSED or -ENOENT when no shim listens there. */
int shim_link_connect(const char *path, int *ret_fd);
