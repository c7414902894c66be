#pragma once
/* The files of an image archive, written into the ingest directory as they pass by, with their digests. */

#include "services/image/document.h"
#include "services/image/work/meter.h"
#include "services/image/work/stream.h"

struct import_file {
	char *path;   /* in the archive, clean */
	char *target; /* a link's, clean; NULL: not a link */
	char *stored; /* name in the ingest directory */
	char digest[DIGEST_SIZE];
	uint64_t size;
	enum compression compression;
	size_t order;
	bool is_kept;
	bool is_walked; /* a document: all that it refers to is kept */
};

struct import_files {
	int ingest;          /* borrowed */
	struct meter *meter; /* borrowed */
	struct import_file *items;
	size_t count, capacity;
	size_t n_written;
};

/* Reads the whole archive. */
int import_files_read(struct import_files *files, int archive, const struct work_limits *limits,
		      struct why *why);
/* Writes a further file, which has no path in the archive. *ret_file until the next one is added. */
int import_files_add(struct import_files *files, const char *text, size_t size,
		     struct import_file **ret_file);
/* Replaces a file's content by its gzip form. */
int import_files_compress(struct import_files *files, struct import_file *file, struct why *why);
/* By path, through links; NULL if there is none. */
struct import_file *import_files_find(struct import_files *files, const char *path);
/* Content of a document; -EFBIG above DOCUMENT_SIZE_MAX. */
int import_files_load(struct import_files *files, const struct import_file *file, char **ret_text,
		      size_t *ret_size);
/* Removes what is not kept; what is kept is on disk afterwards, names included. */
int import_files_settle(struct import_files *files, struct why *why);
void import_files_clear(struct import_files *files);
