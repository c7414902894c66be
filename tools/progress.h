#pragma once
/*
 * How far long work is: bars on a terminal, a line for each thing that is done
 * elsewhere. A thread of its own reads the operation's events while the caller's
 * thread waits for the answer.
 */

#include <stdio.h>

#include "tools/command.h"

struct progress;

/* @id: of the request that will be asked; @object: of its events, NULL: any. Without a bus there is simply nothing to be seen. */
struct progress *progress_start(struct context *context, const char *object, const uint8_t id[16]);
struct progress *progress_stop(struct progress *progress);
void progress_stopp(struct progress **progress);

/* ---- pure: for tests ---- */
/* `sha256:0123456789ab  running    [=====>    ]  1.2 MiB/3.4 MiB`, at most @columns wide. */
void progress_bar(const struct transfer_item *item, unsigned columns, char *text, size_t size);

/*
 * As ask_call(), with progress; SIGINT cancels the operation, and the call ends with BUS_CANCELED.
 */
int progress_ask(struct context *context, const struct schema_method *method, const uint8_t id[16],
		 const char *object, const void *request, void *ret_reply);
/* The same for a method of the image service that lasts: without --timeout as long as a request may. An exit code. */
int progress_ask_image(struct context *context, const char *method, const char *object,
		       const void *request, void *ret_reply);
