#pragma once
/*
 * Kills for memory in a container that goes on: its cgroup tells by a descriptor,
 * so that nothing wakes up while nothing happens. v2: inotify on memory.events;
 * v1: an eventfd at memory.oom_control, which speaks a moment before the kill.
 */

#include <stdbool.h>
#include <stdint.h>

#include "broker/lib/loop.h"

struct shim;

struct oom {
	struct shim *shim;
	int fd; /* -1: nothing is watched */
	bool is_v2;
	uint64_t kills; /* that were told */
	uint64_t told_ms;
	unsigned looks; /* left, until the kill that was spoken of is given up on */
	struct loop_file file;
	struct loop_timer timer;
};

void oom_init(struct oom *oom, struct shim *shim);
void oom_deinit(struct oom *oom);
/* Its container has a cgroup now. One whose kills cannot be watched is looked at when processes end. */
void oom_watch(struct oom *oom);
