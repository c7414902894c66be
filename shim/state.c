#include "shim/state.h"

#include "broker/lib/cleanup.h"

#define TO(state) (1u << STATE_##state)

static const unsigned allowed[] = {
	/* From NEW also to what a journal tells of an earlier shim. */
	[STATE_NEW] = TO(CREATING) | TO(CREATED) | TO(RUNNING) | TO(LOST) | TO(STOPPED) |
		      TO(DELETED) | TO(FAILED),
	[STATE_CREATING] = TO(CREATED) | TO(FAILED),
	[STATE_CREATED] = TO(STARTING) | TO(RUNNING) | TO(STOPPED),
	[STATE_STARTING] = TO(RUNNING) | TO(CREATED),
	[STATE_RUNNING] = TO(PAUSING) | TO(PAUSED) | TO(STOPPED),
	[STATE_PAUSING] = TO(PAUSED) | TO(RUNNING) | TO(STOPPED),
	[STATE_PAUSED] = TO(RESUMING) | TO(RUNNING) | TO(STOPPED),
	[STATE_RESUMING] = TO(RUNNING) | TO(PAUSED) | TO(STOPPED),
	[STATE_LOST] = TO(STOPPED),
	[STATE_STOPPED] = TO(DELETING),
	[STATE_DELETING] = TO(DELETED) | TO(STOPPED),
	[STATE_DELETED] = 0,
	[STATE_FAILED] = TO(DELETED),
};
_Static_assert(ARRAY_SIZE(allowed) == STATE_COUNT, "a row for each state");

bool state_may_move(enum state from, enum state to)
{
	return allowed[from] & 1u << to;
}

const char *state_name(enum state state)
{
	static const char *const names[] = {
		[STATE_NEW] = "new",
		[STATE_CREATING] = "being created",
		[STATE_CREATED] = "created",
		[STATE_STARTING] = "being started",
		[STATE_RUNNING] = "running",
		[STATE_PAUSING] = "being paused",
		[STATE_PAUSED] = "paused",
		[STATE_RESUMING] = "being resumed",
		[STATE_LOST] = "looked for: it ended while no shim lived",
		[STATE_STOPPED] = "stopped",
		[STATE_DELETING] = "being deleted",
		[STATE_DELETED] = "deleted",
		[STATE_FAILED] = "not created: it failed",
	};

	return names[state];
}

enum task_status state_status(enum state state)
{
	static const enum task_status statuses[] = {
		[STATE_NEW] = TASK_CREATING,     [STATE_CREATING] = TASK_CREATING,
		[STATE_CREATED] = TASK_CREATED,  [STATE_STARTING] = TASK_CREATED,
		[STATE_RUNNING] = TASK_RUNNING,  [STATE_PAUSING] = TASK_PAUSING,
		[STATE_PAUSED] = TASK_PAUSED,    [STATE_RESUMING] = TASK_PAUSED,
		[STATE_LOST] = TASK_UNKNOWN,     [STATE_STOPPED] = TASK_STOPPED,
		[STATE_DELETING] = TASK_STOPPED, [STATE_DELETED] = TASK_DELETED,
		[STATE_FAILED] = TASK_DELETED,
	};

	return statuses[state];
}

bool state_is_alive(enum state state)
{
	return state >= STATE_CREATED && state <= STATE_LOST;
}
