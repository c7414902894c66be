#pragma once
/*
 * What the modes of davit-image-work share. The process is a child of
 * davit-image: it reads one request from fd 3, does one blocking thing with
 * input that nobody vouches for, and answers on fd 4. It has limits, no network,
 * and for applying a layer no path that leads out of the snapshot.
 */

#include <stdbool.h>

#include "broker/lib/error.h"
#include "schemas/messages.h"
#include "services/image/limits.h"

enum {
	_WORK_E_SUCCESS,
	WORK_E_INVALID, /* the archive is malformed, hostile or over a limit */
	WORK_E_DAMAGED, /* content that does not have the digest that it should have */
	WORK_E_DENIED,  /* a registry wants other credentials, or forbids it */
	WORK_E_MISSING, /* a registry, or the content store, has no such thing */
	WORK_E_BUSY,    /* a registry wants less of us */
	WORK_E_AWAY,    /* a registry cannot be reached, or fails */
	WORK_E_REFUSED, /* a registry does not take it */
};

/* The class of a failure for the caller: WORK_E_* or a negative errno. */
enum bus_status work_status(int r);

/* @text for a sentence: at most 200 bytes, control characters and broken UTF-8 as '?'. Static buffers, used in turn. */
const char *work_show(const char *text);

struct meter;
/* @archive counts if the request has no path; @meter is told how far it is. */
int work_import(const struct work_import_request *request, int ingest, int archive,
		struct meter *meter, struct work_import_result *ret_result, struct why *why);
/* @is_confined: the process gives up all but the new layer first, for good. */
int work_apply(const struct work_apply_request *request, int blob, int snapshots, bool is_confined,
	       struct work_apply_result *ret_result, struct why *why);
int work_convert(const struct work_convert_request *request, int blobs, int ingest,
		 struct work_import_result *ret_result, struct why *why);
/* @is_confined: once the trees are mounted, the process can mount no more. */
int work_diff(const struct work_diff_request *request, int snapshots, int ingest, bool is_confined,
	      struct work_import_result *ret_result, struct why *why);
int work_export(const struct work_export_request *request, int blobs, struct meter *meter,
		struct why *why);
int work_usage(const struct work_usage_request *request, int snapshots,
	       struct work_usage_result *ret_result, struct why *why);
/* A file that cannot be read is told in its result. */
int work_digest_files(const struct work_digest_request *request, int directory,
		      struct work_digest_result *ret_result, struct why *why);
int work_remove(const struct work_remove_request *request, int directory, struct why *why);

/* ---- sandbox.c ---- */
/* @memory bytes of address space, core and descriptors; what no mode needs is given up. */
int sandbox_limit(uint64_t memory, struct why *why);
/*
 * Own network and mount namespace; mounts made later do not reach the host. @directory is opened again within
 * (a descriptor from outside belongs to mounts that an overlay of this namespace may not use).
 */
int sandbox_unshare(int directory, struct why *why);
/* @fd becomes the root: no path leads out of it any more. */
int sandbox_enter(int fd, struct why *why);
/* No program, socket, mount or namespace from here on. */
int sandbox_filter(struct why *why);
/* For what talks to registries: of the file system only copies of what name resolution reads; sockets, but only to
 * connect to the internet; no program, mount or namespace. Before the first thread. */
int sandbox_network(struct why *why);
