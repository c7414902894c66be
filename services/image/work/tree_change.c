/* Changing the merged tree: see tree.h. */

#include <fcntl.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

#include "broker/lib/file.h"
#include "services/image/work/tree_private.h"

#define PRUNE_DEPTH_MAX TREE_DEPTH_MAX

static bool is_dots(const char *name)
{
	return !strcmp(name, ".") || !strcmp(name, "..");
}

int tree_note(struct tree *tree, uint64_t inode)
{
	if (!tree->is_copy)
		return 0;
	return error_trace(inodes_set(&tree->inodes, inode, TREE_MADE));
}

/* ---- making room, making directories ---- */

int tree_clear(struct tree *tree, const struct tree_place *place, const char *name)
{
	struct stat status;

	if (fstatat(place->upper, name, &status, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0 : error_origin(-errno);
	if (S_ISDIR(status.st_mode)) {
		tree_forget(tree);
		return error_trace(file_remove_tree(place->upper, name, NULL));
	}
	if (!S_ISREG(status.st_mode))
		tree_forget(tree);
	if (unlinkat(place->upper, name, 0) < 0)
		return error_origin(-errno);
	return 0;
}

/* Something else than a directory stands in the way: what lies below under that name is hidden by it. */
static int replace_by_dir(struct tree *tree, const struct tree_place *place, const char *name,
			  int *ret_fd)
{
	struct tree_level level = {.place = *place};
	int r;

	r = tree_clear(tree, place, name);
	if (!r)
		r = tree_make(tree, &level, name, true, ret_fd);
	return error_trace(r);
}

static int touch(struct tree *tree, int fd)
{
	struct stat status;

	if (!tree->is_copy)
		return 0;
	if (fstat(fd, &status) < 0)
		return error_origin(-errno);
	if (inodes_get(&tree->inodes, status.st_ino))
		return 0;
	return error_trace(inodes_set(&tree->inodes, status.st_ino, TREE_TOUCHED));
}

int tree_make_dir(struct tree *tree, const struct tree_place *place, const char *name, int *ret_fd)
{
	struct tree_level level = {.place = *place};
	int r;

	*ret_fd = openat(place->upper, name, TREE_OPEN_FLAGS);
	if (*ret_fd >= 0) {
		r = copy_clear_xattrs(*ret_fd);
		if (!r)
			r = touch(tree, *ret_fd);
		if (r)
			*ret_fd = close_fd(*ret_fd);
		return error_trace(r);
	}
	if (errno == ENOENT)
		return error_trace(tree_make(tree, &level, name, false, ret_fd));
	if (errno != ENOTDIR && errno != ELOOP)
		return error_origin(-errno);
	return error_trace(replace_by_dir(tree, place, name, ret_fd));
}

/* ---- hiding ---- */

static int prune_dir(struct tree *tree, int fd, unsigned depth);

/* Removes @name unless this layer made it; of a directory in which it made something, the rest. */
static int prune(struct tree *tree, int dir, const char *name, unsigned depth)
{
	_cleanup_(cleanup_fd) int fd = -1;
	struct stat status;
	uint64_t mark;

	if (fstatat(dir, name, &status, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0 : error_origin(-errno);
	mark = inodes_get(&tree->inodes, status.st_ino);
	if (mark == TREE_MADE)
		return 0;
	if (mark != TREE_TOUCHED || !S_ISDIR(status.st_mode))
		return error_trace(file_remove_tree(dir, name, NULL));
	if (depth == PRUNE_DEPTH_MAX)
		return error_origin(-ENAMETOOLONG);
	fd = openat(dir, name, TREE_OPEN_FLAGS);
	if (fd < 0)
		return error_origin(-errno);
	return error_trace(prune_dir(tree, fd, depth + 1));
}

static int prune_dir(struct tree *tree, int fd, unsigned depth)
{
	_cleanup_(cleanup_dir) DIR *dir = NULL;
	struct dirent *entry;
	int own = openat(fd, ".", TREE_OPEN_FLAGS);
	int r;

	if (own < 0)
		return error_origin(-errno);
	dir = fdopendir(own);
	if (!dir) {
		close_fd(own);
		return error_origin(-ENOMEM);
	}
	while ((errno = 0, entry = readdir(dir))) {
		r = is_dots(entry->d_name) ? 0 : prune(tree, fd, entry->d_name, depth);
		if (r)
			return error_trace(r);
	}
	return errno ? error_origin(-errno) : 0;
}

/* Directory @name of @place is this layer's: what it is merged with goes. */
static int hide_beneath(const struct tree_place *place, const char *name)
{
	_cleanup_(cleanup_fd) int fd = openat(place->upper, name, TREE_OPEN_FLAGS);

	if (fd < 0)
		return error_origin(-errno);
	if (fsetxattr(fd, TREE_OPAQUE, "y", 1, 0) < 0)
		return error_origin(-errno);
	return 0;
}

/* @place is open above, and @name shows below. */
static int hide_lower(struct tree *tree, const struct tree_place *place, const char *name,
		      const struct stat *lower)
{
	struct stat status;

	tree_forget(tree);
	if (fstatat(place->upper, name, &status, AT_SYMLINK_NOFOLLOW) == 0) {
		if (S_ISDIR(status.st_mode) && S_ISDIR(lower->st_mode))
			return error_trace(hide_beneath(place, name));
		return 0;
	}
	if (errno != ENOENT || mknodat(place->upper, name, S_IFCHR, makedev(0, 0)) < 0)
		return error_origin(-errno);
	return 0;
}

/* There is nothing to hide where there is no directory. */
static bool is_absent(int r)
{
	return r == -ENOENT || r == -ENOTDIR;
}

int tree_hide(struct tree *tree, const char *path, const char *name)
{
	struct tree_place place;
	struct stat status;
	int r;

	if (tree->is_bare)
		return 0;
	r = tree_find(tree, path, false, &place);
	if (r)
		return is_absent(r) ? 0 : r;
	if (!tree->is_copy &&
	    (place.lower < 0 || fstatat(place.lower, name, &status, AT_SYMLINK_NOFOLLOW) < 0))
		return 0;
	r = tree_find(tree, path, true, &place);
	if (r)
		return error_trace(r);
	if (!tree->is_copy)
		return error_trace(hide_lower(tree, &place, name, &status));
	tree_forget(tree);
	return error_trace(prune(tree, place.upper, name, 0));
}

int tree_hide_all(struct tree *tree, const char *path)
{
	struct tree_place place;
	int r;

	if (tree->is_bare)
		return 0;
	r = tree_find(tree, path, false, &place);
	if (r)
		return is_absent(r) ? 0 : r;
	if (!tree->is_copy && place.lower < 0)
		return 0;
	r = tree_find(tree, path, true, &place);
	if (r)
		return error_trace(r);
	if (tree->is_copy)
		r = prune_dir(tree, place.upper, 0);
	else if (fsetxattr(place.upper, TREE_OPAQUE, "y", 1, 0) < 0)
		r = error_origin(-errno);
	else if (!tree->depth)
		tree->levels[0].place.lower = -1; /* the root's is borrowed */
	tree_forget(tree);
	return error_trace(r);
}

/* ---- targets of hard links ---- */

/* Is @name a file in @dir? 0, -ENOENT, -EISDIR. */
static int check_file(int dir, const char *name)
{
	struct stat status;

	if (dir < 0)
		return -ENOENT;
	if (fstatat(dir, name, &status, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	if (S_ISDIR(status.st_mode))
		return -EISDIR;
	return tree_is_whiteout(&status) ? -ESTALE : 0;
}

/* Copies the file up, keeping its directory's times. */
static int pull_up(struct tree *tree, const char *path, const char *name,
		   struct tree_place *ret_place)
{
	int r;

	r = tree_find(tree, path, true, ret_place);
	if (!r)
		r = copy_entry(ret_place->lower, ret_place->upper, name);
	return error_trace(r);
}

int tree_pull(struct tree *tree, const char *path, const char *name, int *ret_dir)
{
	struct tree_place place;
	int r;

	r = tree_find(tree, path, false, &place);
	if (r)
		return r;
	r = check_file(place.upper, name);
	if (r == -ESTALE)
		return -ENOENT;
	if (r == -ENOENT) {
		r = check_file(place.lower, name);
		if (!r)
			r = pull_up(tree, path, name, &place);
	}
	if (r)
		return r;
	*ret_dir = fcntl(place.upper, F_DUPFD_CLOEXEC, 3);
	return *ret_dir < 0 ? error_origin(-errno) : 0;
}
