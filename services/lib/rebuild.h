#pragma once
/*
 * Making a store again that cannot be read: what can be read of it is kept, the
 * service adds what the world says (its hook `rebuild`), and the old file is set
 * aside. `davit store rebuild` runs it, as the service's program, while that
 * does not serve. What is there afterwards may lack something: until a person
 * has accepted it (service_accept()) nothing is removed for want of a record.
 */

#include "broker/lib/paths.h"
#include "broker/lib/store_salvage.h"
#include "services/lib/service.h"

/* The event log: all of it; damaged, so that not all can be read; without events that it once had. */
enum rebuild_log { REBUILD_LOG_WHOLE, REBUILD_LOG_DAMAGED, REBUILD_LOG_LACKING };

struct rebuild {
	const struct service_definition *definition;
	const struct paths *paths;
	struct store *store;  /* the new one; what is put is kept */
	const char *stamp;    /* 20261129T012345Z: when */
	const char *const *tables;
	struct store_salvaged *salvaged; /* for each of @tables */
	enum rebuild_log log; /* what rebuild_events() found, if it was asked */
};

/* Does @error (errno, or negative) say that a file is not there, or not as it was? Others say that we lack something now: what is
 * there must not be taken for lost then. */
bool rebuild_is_lost(int error);
/* @table was read from end to end: there is nothing to add to it. */
bool rebuild_is_whole(const struct rebuild *rebuild, const char *table);
/* A line of the report: "<store>: ...". */
void rebuild_say(const struct rebuild *rebuild, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* … that of @what ("containers") some may be missing, if the log says so. */
void rebuild_say_lost(const struct rebuild *rebuild, const char *what);
/*
 * Tells @fn of all events of the log, in order, whose topic begins with one of @topics. A log that cannot be read gives
 * none, or not all: see its log. -EAGAIN if that is not known, since who reads it has failed. What @fn returns other than 0 ends it and is returned.
 */
int rebuild_events(struct rebuild *rebuild, const char *const *topics,
		   int (*fn)(void *userdata, const struct bus_event *event), void *userdata);

/* `<program> --rebuild-store`: prints what it did; the exit code. */
int rebuild_run(const struct service_definition *definition, const struct paths *paths);
