#pragma once
/*
 * Entries of a tar archive: ustar, and a pax header where ustar has no room (long
 * names, large numbers, parts of a second, extended attributes). The same entry
 * is always the same bytes.
 */

#include <sys/stat.h>
#include <time.h>

#include "services/image/work/writer.h"

struct tar_xattr {
	char *name;
	void *value;
	size_t size;
};

struct tar_head {
	const char *path; /* a directory's ends with a slash */
	const char *link; /* target of a symbolic or hard link, or NULL */
	char type;        /* '0' file, '1' hard link, '2' symbolic link, '3' '4' devices, '5' directory, '6' FIFO */
	mode_t mode;      /* the permission bits */
	uid_t uid;
	gid_t gid;
	uint64_t size; /* of the content that follows */
	struct timespec mtime;
	dev_t device;
	const struct tar_xattr *xattrs;
	size_t n_xattrs;
};

/* Content follows by writer_add(), and tar_put_fill(). -EINVAL: an xattr whose name cannot be written. */
int tar_put_head(struct writer *writer, const struct tar_head *head);
int tar_put_fill(struct writer *writer, uint64_t size);
int tar_put_end(struct writer *writer);
