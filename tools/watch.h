#pragma once
/*
 * Waiting for a container's events on a loop: event.read over a plain socket, from
 * a number on, asked again for as long as the bus is away. What happened in between
 * is read from the log, so nothing is missed.
 */

#include "broker/lib/loop.h"
#include "schemas/envelope.h"

struct watch;

/* @event is borrowed. */
typedef void (*watch_fn)(void *userdata, const struct bus_event *event);
/* @topics: prefixes, NULL-terminated; @object NULL: all. Strings are borrowed for the life of the watch. */
int watch_new(struct loop *loop, const char *bus_path, const char *namespace,
	      const char *const *topics, const char *object, uint64_t from, watch_fn fn,
	      void *userdata, struct watch **ret_watch);
struct watch *watch_free(struct watch *watch);
void watch_freep(struct watch **watch);
