#pragma once
/*
 * The tree that a layer is applied to: an upper directory that is written, and
 * what lies below it, which is only read. Paths are resolved in the merged view,
 * component by component on directory descriptors, links included, as if the
 * tree were the root of the host: nothing is ever looked up by a path outside.
 *
 * With overlayfs the upper directory is the layer's own and starts empty:
 * directories that exist only below are copied up when something is put into
 * them; what is hidden becomes a character device 0:0 or the xattr
 * trusted.overlay.opaque. Natively (below is -1) the upper directory is a copy of
 * the parent, and what is hidden is removed.
 *
 * Names are one component; paths are relative, without "." and "..".
 */

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

#include "services/image/work/work.h"

struct tree;

/* A directory of the merged view. Valid until the next tree_find() or tree_free(). */
struct tree_place {
	int upper; /* -1: it exists only below */
	int lower; /* -1: nothing below shows through */
};

/* Borrows both descriptors, open for reading. @lower -1: nothing lies below. @is_copy: native, upper holds a copy. */
int tree_new(int upper, int lower, bool is_copy, struct tree **ret_tree);
struct tree *tree_free(struct tree *tree);
void tree_freep(struct tree **tree);

/*
 * Finds directory @path. With @is_made it is made (0755) or copied up where it is absent above, so that
 * place.upper is open, and its times are noted, to be restored by tree_finish(). -ENOENT, -ENOTDIR, -ELOOP.
 */
int tree_find(struct tree *tree, const char *path, bool is_made, struct tree_place *ret_place);

/* Makes room for a new entry @name in @place (of tree_find() with is_made), after -EEXIST. */
int tree_clear(struct tree *tree, const struct tree_place *place, const char *name);
/* Directory @name is there and open in the upper tree, without xattrs but its own mark. @ret_fd is the caller's. */
int tree_make_dir(struct tree *tree, const struct tree_place *place, const char *name, int *ret_fd);
/* What lies below under @name of directory @path shows no more; what this layer made stays. */
int tree_hide(struct tree *tree, const char *path, const char *name);
/* What lies below in directory @path shows no more; what this layer made stays. */
int tree_hide_all(struct tree *tree, const char *path);
/* Finds a file for a hard link to it, copying it up if it is only below. @ret_dir is the caller's. -EISDIR. */
int tree_pull(struct tree *tree, const char *path, const char *name, int *ret_dir);

/* Inode @inode was made by this layer. */
int tree_note(struct tree *tree, uint64_t inode);
/* The times that directory @name, in the place of the last tree_find(), is to have at the end ("": that place). */
int tree_note_times(struct tree *tree, const char *name, const struct timespec times[2]);
/* Sets the noted times of directories. */
int tree_finish(struct tree *tree);
