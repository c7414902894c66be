#pragma once
/*
 * Collection: what nothing needs is removed. Runs one at a time, in steps of a
 * few milliseconds with pauses between them:
 *
 *	containers	what the containers of all namespaces keep, asked over the bus
 *	mark		roots from the tables of the store; each is followed (references.h)
 *	sweep		what is not marked is removed, a little at a time, leaf first
 *
 * The store changes meanwhile. Whatever is put into it during a run is marked
 * with all that it leads to, before anything more is removed (store_on_put()):
 * so nothing is removed that is needed at that moment, and what ceases to be
 * needed is removed by the next run. Who relies on an object that is there
 * already takes a lease on it first, which is such a put.
 */

#include "services/image/image.h"

/* Of a run that may not remove anything, @r is refused(BUS_FAILED_PRECONDITION): collect_refusal() says why.
 * @report is borrowed; NULL if @r is not 0. Not within a transaction. */
typedef void (*collect_fn)(void *userdata, int r, struct image_collect_reply *report);
/* Tells @fn of a whole run that begins after this. */
int collect_wait(struct image_service *image, bool dry_run, collect_fn fn, void *userdata);
/* Of the last run that was refused. */
const char *collect_refusal(const struct image_service *image);
/* @fn will not be called. */
void collect_forget(struct image_service *image, void *userdata);

/* Steps of an operation: a whole run; until no file is left to be removed. */
int collect_step(struct operation *operation);
int collect_files_step(struct operation *operation);

int collect_open(struct image_service *image);
void collect_close(struct image_service *image);
