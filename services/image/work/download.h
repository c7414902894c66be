#pragma once
/*
 * One blob into the ingest directory: <ingest>/download-<hex>/data, beside it `ref`,
 * which says whose it is: reference, digest and size, a line each. What an earlier try left there is gone on with; what is
 * complete has been verified. Who loads a blob holds a lock on its data.
 */

#include "services/image/work/pool.h"
#include "services/image/work/registry.h"

#define DOWNLOAD_NAME_SIZE 80
#define DOWNLOAD_PATH_SIZE 96

/* download-<hex>/data */
void download_path(const char *digest, char ret_path[DOWNLOAD_PATH_SIZE]);
/* A job of a pool. POOL_AGAIN: another one has taken it away meanwhile, it may be in the content store. */
int download_blob(struct registry *registry, int ingest, struct http *http, struct job *job,
		  struct why *why);
/* A document that is in memory, of that digest. */
int download_keep(struct registry *registry, int ingest, const char *digest, const void *data,
		  size_t size, struct why *why);
/* A document that an earlier try left: *ret_text is NULL if there is none. */
int download_find(int ingest, const char *digest, uint64_t size_max, char **ret_text,
		  size_t *ret_size);
