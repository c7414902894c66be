#pragma once
/* A reference taken apart, and the URLs that follow from it. Pure. */

#include "services/image/work/work.h"

struct remote {
	char *name;       /* the whole reference */
	char *host;       /* as in the reference: registry.example:5000 */
	char *repository; /* library/busybox */
	char *tag;        /* NULL: none */
	char *digest;     /* NULL: none */
};

/* A full reference (reference_normalize()). WORK_E_INVALID names what is wrong with it. */
int remote_parse(const char *name, struct remote *ret_remote, struct why *why);
void remote_clear(struct remote *remote);
/* Digest if it has one, else tag. */
const char *remote_object(const struct remote *remote);
/* Where the registry of that name is really reached: docker.io is registry-1.docker.io. */
const char *remote_endpoint(const char *host);
/* localhost, 127.…, ::1: reached without TLS unless something speaks for it, as containerd does. */
bool remote_is_local(const char *host);
/* repository:<name>:pull[,push] */
char *remote_scope(const char *repository, bool is_push);
/* Scheme, host and port of two URLs are the same. */
bool remote_same_origin(const char *one, const char *other);
/* Of `bytes 5-9/10` or `bytes 5-9/` + `*`; *ret_total is UINT64_MAX where it is not said. */
bool remote_parse_range(const char *text, uint64_t *ret_first, uint64_t *ret_last,
			uint64_t *ret_total);
/* How much of an upload is there, by the header Range: "0-<last>"; "0-0" is none, as registries mean it. */
bool remote_parse_uploaded(const char *text, uint64_t *ret_size);
