#pragma once
/*
 * Bundles: <state>/bundles/<task id>/ with config.json and rootfs/. They belong to
 * one boot, so nothing is synced; a bundle is complete or not there. All other
 * files in it (lock, journal, log) are the task service's and the shim's.
 */

#include <jansson.h>
#include <stdbool.h>

#include "broker/lib/error.h"

#define BUNDLE_HOOKS "hooks.err" /* what hooks say; read by shim/runtime.c */

enum {
	_BUNDLE_E_SUCCESS,
	BUNDLE_E_BUSY, /* a shim lives in it */
};

/* Path of a task's bundle, or NULL when memory is out. */
char *bundle_path(const char *state, const char *task_id);
/* Makes the bundle, or puts a new config.json into one that no shim uses yet. @is_open: others may pass
 * through it, as the root of a user namespace must. */
int bundle_make(const char *state, const char *task_id, const json_t *spec, bool is_open,
		struct why *why);
/* A shim lives in it. */
bool bundle_is_busy(const char *state, const char *task_id);
/* One that is gone already is fine. */
int bundle_remove(const char *state, const char *task_id, struct why *why);
/* At start: makes the directory, takes away what a crash left half-made. */
int bundle_open(const char *state, struct why *why);
