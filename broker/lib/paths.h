#pragma once
/*
 * Where a davit lives: --root (durable) and --state (of this boot), DESIGN 8.
 * Every program accepts both flags and the environment DAVIT_ROOT, DAVIT_STATE,
 * DAVIT_ADDRESS, DAVIT_NAMESPACE; a flag wins over the environment.
 */

#include "broker/lib/error.h"

#define PATHS_DEFAULT_ROOT  "/var/lib/davit"
#define PATHS_DEFAULT_STATE "/run/davit"
/* A socket's path has 107 bytes (unix(7)); the longest of ours is "/svc/<name>-<pid>.sock". */
#define PATHS_STATE_MAX 60

struct paths {
	char *root;
	char *state;
	char *bus;      /* <state>/bus.sock, or DAVIT_ADDRESS */
	char *events;   /* events.sock beside it */
	char *registry; /* <state>/registry.sock */
};

/* @root, @state, @address: the flags; NULL for what was not given. A state flag also wins over the
 * environment's address. Paths must be absolute and clean (slashes at the end are dropped); a state
 * path over the limit is refused with a sentence. */
int paths_init(struct paths *paths, const char *root, const char *state, const char *address,
	       struct why *why);
void paths_deinit(struct paths *paths);
