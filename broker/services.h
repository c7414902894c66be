#pragma once
/*
 * The registry: who serves which names. On registry.sock, for the broker's own
 * uid only, instances register, repeat that as their heartbeat, and unregister.
 * Names are kept in the store until they are forgotten. An instance is a process
 * (pid and start time, watched by pidfd): when it ends, its requests go to the
 * next one, or are answered. All on the loop's thread but services_has_pid().
 */

#include "broker/broker.h"

#define SERVICES_HEARTBEAT_MS 2000
#define SERVICES_SILENT_MS    8000 /* without a heartbeat: nothing more is given to it */

/* Loads the names and listens at @path. */
int services_new(struct broker *broker, const char *path, struct services **ret_services,
		 struct why *why);

/* Whether a registered instance has this pid. @services may be NULL. */
bool services_has_pid(const struct services *services, uint32_t pid);
/* Makes the connections that instances want. */
void services_grow(struct services *services);

/* What bus.list says; the figures of the router too. */
int services_list(struct services *services, struct bus_list_reply *reply);
/* 0, or a status with the sentence in @why. The name is gone from the store when @done is called on the loop's thread. */
enum bus_status services_forget(struct services *services, const char *name, struct why *why,
				void (*done)(void *userdata, int r), void *userdata);
