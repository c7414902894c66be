#pragma once
/* What the commands that make blobs share. */

#include <stdio.h>

#include "schemas/messages.h"
#include "tools/command.h"

/* Makes a blob of all of @in, as @request says (ref, total, expected), and prints its digest; it is kept by a label. */
int content_store(struct context *context, FILE *in, struct content_write_request *request,
		  const char *media_type);

extern const struct command content_edit_command;
