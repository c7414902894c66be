#pragma once
/*
 * From the journal onto the bus: event.publish over one plain socket, one batch
 * in flight, tried for ever with a growing pause. When the broker has all, the
 * socket and the buffers are given back. The broker says which number it wants;
 * the journal has them all, from 1.
 */

#include "broker/lib/error.h"
#include "broker/lib/loop.h"
#include "broker/lib/sp.h"

#define PUBLISHER_BATCH        64
#define PUBLISHER_BATCH_SIZE   (512u << 10)
#define PUBLISHER_DEADLINE_MS  30000
#define PUBLISHER_PAUSE_MS     50 /* doubled up to the next */
#define PUBLISHER_PAUSE_MAX_MS 5000

struct shim;

struct publisher {
	struct shim *shim;
	struct sp_client *client;
	bool is_busy;
	uint64_t pause_ms;
	struct loop_timer timer;
};

int publisher_init(struct publisher *publisher, struct shim *shim);
void publisher_deinit(struct publisher *publisher);
/* There may be something new; returns at once. */
void publisher_kick(struct publisher *publisher);
