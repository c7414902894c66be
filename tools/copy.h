#pragma once
/*
 * Copying of files between two trees by descriptors: each component is opened by
 * itself without following a link, so what somebody renames meanwhile leads
 * nowhere else (CVE-2018-15664). A tree's paths are resolved with openat2(2),
 * RESOLVE_IN_ROOT for a container's.
 */

#include <stdbool.h>

#include "broker/lib/error.h"

struct copy_tree {
	int root;          /* a directory; AT_FDCWD for the host's */
	bool is_container; /* links and .. stay inside */
};

struct copy_options {
	bool follow;      /* a link as the source: what it points to */
	bool keep_owner;  /* uid, gid, set-id bits */
};

/*
 * As cp -R and docker cp: @from's last component lands in @to if that is a directory, else it becomes @to; a directory
 * given as dir/. gives what is in it. Devices, sockets and FIFOs are left out and named on stderr.
 */
int copy_path(const struct copy_tree *from_tree, const char *from, const struct copy_tree *to_tree,
	      const char *to, const struct copy_options *options, struct why *why);
/* Pure: CONTAINER:PATH, cut in place. False: a path of the host. */
bool copy_split(char *word, char **ret_container, char **ret_path);
