#pragma once
/* Copying entries of one tree into another with all that they have. */

#include <sys/stat.h>

#include "services/image/work/work.h"

/* Owner, mode, xattrs and times of @from onto @to, both open. */
int copy_metadata(int from, int to, const struct stat *status);
/* Copies one entry that is not a directory; nothing of that name may be there. */
int copy_entry(int from_dir, int to_dir, const char *name);
/* Copies all of directory @from onto the empty directory @to, hard links as hard links. */
int copy_tree(int from, int to, struct why *why);
/* Removes @fd's xattrs, but for overlayfs' mark of an opaque directory. */
int copy_clear_xattrs(int fd);
