#pragma once
/*
 * The standard streams of a container in the foreground: FIFOs that are made
 * here, handed to the service by path, and copied to and from our own streams on
 * a loop. Output is read to the end of file. The FIFOs' directory is removed with
 * the streams.
 */

#include "broker/lib/error.h"
#include "broker/lib/loop.h"
#include "schemas/messages.h"

struct streams;

/* Makes <directory>/<random>/<id>-stdin, -stdout, -stderr (the last not with a terminal) and fills in @io. */
int streams_new(struct loop *loop, const char *directory, const char *id, bool terminal,
		struct task_io *io, struct streams **ret_streams, struct why *why);
struct streams *streams_free(struct streams *streams);
void streams_freep(struct streams **streams);
/* Starts copying: to be called when the container runs. */
int streams_start(struct streams *streams);
/* The container has ended: calls @done when all output has come, at the latest after @limit_ms. */
void streams_finish(struct streams *streams, uint64_t limit_ms, void (*done)(void *userdata),
		    void *userdata);
