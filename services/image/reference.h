#pragma once
/* Names of images, and the ids that follow from digests. Pure. */

#include "schemas/messages.h"

/* A name as docker's: `busybox` → docker.io/library/busybox:latest, `a/b:1` → docker.io/a/b:1,
 * `host.example/x` → host.example/x:latest. malloc'd; NULL: out of memory. */
char *reference_normalize(const char *name);
/* What a user's word may mean, first choice first: as given, `<name>:latest`, and as docker reads it.
 * @index 0 …; NULL with errno 0 when there are no more. malloc'd. */
char *reference_candidate(const char *name, unsigned index);
/*
 * The name that an image gets whose archive says @name (NULL or empty: nothing): a full reference stays,
 * a tag becomes @base:tag. With @only_base a reference without that prefix gets none, and an image without
 * any name becomes @base:latest. *ret_name is NULL when the image gets no name. -ENOMEM.
 */
int reference_import_name(const char *name, const char *base, bool only_base, char **ret_name);
/* The tag part of a reference, or NULL. Points into it. */
const char *reference_tag(const char *name);

#define DIGEST_SIZE 72 /* "sha256:", 64 hex digits, NUL */
void digest_of(const void *data, size_t size, char ret_digest[DIGEST_SIZE]);
/* Of all of an open file, from where it stands; *ret_size: so many bytes. */
int digest_of_file(int fd, char ret_digest[DIGEST_SIZE], uint64_t *ret_size);
/* OCI chain id: of the layers below (@parent, NULL for none) and the diffID on top. */
void chain_id(const char *parent, const char *diff_id, char ret_chain[DIGEST_SIZE]);
