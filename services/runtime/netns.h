#pragma once
/*
 * Network namespaces that stay without a process: each is bound to a file,
 * <state>/netns/<task id>. That directory is mounted on itself, shared, for as
 * long as there is one: mount namespaces that were made meanwhile (each shim has
 * one) then lose what is unmounted here, else they would keep it alive.
 *
 * Not for a process with threads: the calling one changes its namespace for a moment.
 */

#include <stdbool.h>

#include "broker/lib/error.h"

/* Malloc'd; NULL when memory is out. */
char *netns_path(const char *state, const char *task_id);
/* A new one, with its loopback interface up. */
int netns_make(const char *state, const char *task_id, struct why *why);
bool netns_exists(const char *path);
/* One that is gone already is fine. */
int netns_remove(const char *state, const char *task_id, struct why *why);
