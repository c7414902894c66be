#pragma once
/* What tree.c and tree_change.c share. */

#include <limits.h>

#include "services/image/work/copy.h"
#include "services/image/work/inodes.h"
#include "services/image/work/tree.h"

#define TREE_DEPTH_MAX  300
#define TREE_LINKS_MAX  40
#define TREE_OPAQUE     "trusted.overlay.opaque"
#define TREE_OPEN_FLAGS (O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)

enum { TREE_TOUCHED = 1, TREE_MADE = 2 };

struct tree_level {
	char name[NAME_MAX + 1];
	struct tree_place place; /* both owned, but for the root's */
};

struct tree_time {
	char *path; /* from the root, without links; "" is the root */
	struct timespec times[2];
};

struct tree {
	int upper, lower;
	bool is_copy, is_bare; /* bare: nothing lies below */
	/* Where the last tree_find() ended: the directories on the way, links resolved. */
	struct tree_level levels[TREE_DEPTH_MAX];
	unsigned depth;
	char *path;               /* what it looked for, NULL: no more valid */
	bool is_ready;            /* it is open above, and its times are noted */
	bool is_plain;            /* no link was on that way: levels are the parts of path */
	struct tree_place bare;   /* of a bare tree */
	struct inodes inodes;     /* natively: what this layer made and touched */
	struct inodes time_index; /* hash of a path → 1 + index of times */
	struct tree_time *times;
	size_t n_times, capacity;
};

static inline struct tree_level *tree_top(struct tree *tree)
{
	return &tree->levels[tree->depth];
}

static inline bool tree_is_whiteout(const struct stat *status)
{
	return S_ISCHR(status->st_mode) && status->st_rdev == 0;
}

/* The next tree_find() starts at the root again. */
void tree_forget(struct tree *tree);
/* Makes directory @name in @level, whose upper is open and has nothing of that name but perhaps a whiteout. */
int tree_make(struct tree *tree, struct tree_level *level, const char *name, bool is_hiding,
	      int *ret_fd);
/* The place of the last tree_find(), open above: copies up what is missing on the way. */
int tree_copy_up(struct tree *tree);
