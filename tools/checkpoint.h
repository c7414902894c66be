#pragma once
/* What run and tasks checkpoint share. */

#include "tools/command.h"

/* @path (NULL: none) as the service, which has another working directory, finds it; malloc'd. An exit code on failure. */
int checkpoint_path(struct context *context, const char *path, char **ret_path);
