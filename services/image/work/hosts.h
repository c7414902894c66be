#pragma once
/*
 * Where the content of a registry may be had, in the order in which it is tried:
 * mirrors of a hosts.toml, then the registry itself. Certificates and keys are
 * read here, before the process gives up the file system.
 */

#include "services/image/work/remote.h"
#include "services/image/work/toml.h"

#define HOSTS_MAX 16

struct host {
	char *url;  /* scheme://authority[/path], without the last slash; what follows is <repository>/… */
	char *name; /* its authority, for people */
	bool can_pull, can_resolve, can_push;
	bool skip_verify;
	bool is_origin;         /* the registry of the reference: gets the user's credentials */
	char *ca, *cert, *key;  /* PEM, or NULL */
	struct schema_map headers;
};

struct hosts {
	struct host items[HOSTS_MAX];
	size_t count;
};

/* WORK_E_INVALID names the file or the option. */
int hosts_load(const struct remote *remote, const struct registry_options *options,
	       struct hosts *ret_hosts, struct why *why);
/* The same from a text: for tests. Relative paths in it lie beneath @directory. */
int hosts_parse(const struct remote *remote, const struct registry_options *options,
		const char *text, size_t size, const char *directory, struct hosts *ret_hosts,
		struct why *why);
void hosts_clear(struct hosts *hosts);
