#pragma once
/*
 * Where a shim's container is, and which moves there are. Pure: who moves is
 * shim_move() in shim.c, and nobody else. created < started < exit < deleted
 * follows from this table.
 */

#include <stdbool.h>

#include "schemas/messages.h"

enum state {
	STATE_NEW,      /* nothing was asked yet */
	STATE_CREATING, /* the root is mounted, the OCI runtime runs */
	STATE_CREATED,  /* init exists and waits */
	STATE_STARTING, /* the OCI runtime's start runs */
	STATE_RUNNING,
	STATE_PAUSING,  /* the OCI runtime's pause runs, or waits for processes that are being made */
	STATE_PAUSED,   /* frozen */
	STATE_RESUMING, /* the OCI runtime's resume runs */
	STATE_LOST,     /* it ended while no shim lived; its code is looked for */
	STATE_STOPPED, /* its exit is in the journal */
	STATE_DELETING, /* the OCI runtime's delete runs */
	STATE_DELETED,  /* in the journal; the rest is published, then the shim ends */
	STATE_FAILED,   /* create failed and is undone */
	STATE_COUNT,
};

bool state_may_move(enum state from, enum state to);
const char *state_name(enum state state);
/* What callers see. */
enum task_status state_status(enum state state);
/* Init exists and has not ended, as far as is known. */
bool state_is_alive(enum state state);
