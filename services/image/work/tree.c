/* Looking things up in the merged tree: see tree.h. */

#include <fcntl.h>
#include <linux/openat2.h>
#include <string.h>
#include <sys/xattr.h>

#include "broker/lib/file.h"
#include "services/image/work/tree_private.h"

/* ---- life ---- */

int tree_new(int upper, int lower, bool is_copy, struct tree **ret_tree)
{
	struct tree *tree = calloc(1, sizeof(*tree));

	if (!tree)
		return error_origin(-ENOMEM);
	tree->upper = upper;
	tree->lower = lower;
	tree->is_copy = is_copy;
	tree->is_bare = lower < 0 && !is_copy;
	tree->levels[0].place = (struct tree_place){.upper = upper, .lower = lower};
	tree->bare = (struct tree_place){.upper = -1, .lower = -1};
	*ret_tree = tree;
	return 0;
}

static void leave(struct tree *tree)
{
	struct tree_level *level = tree_top(tree);

	level->place.upper = close_fd(level->place.upper);
	level->place.lower = close_fd(level->place.lower);
	tree->depth--;
}

void tree_forget(struct tree *tree)
{
	free(tree->path);
	tree->path = NULL;
	tree->is_ready = false;
}

struct tree *tree_free(struct tree *tree)
{
	if (!tree)
		return NULL;
	while (tree->depth)
		leave(tree);
	close_fd(tree->bare.upper);
	tree_forget(tree);
	for (size_t i = 0; i < tree->n_times; i++)
		free(tree->times[i].path);
	free(tree->times);
	inodes_clear(&tree->time_index);
	inodes_clear(&tree->inodes);
	free(tree);
	return NULL;
}

void tree_freep(struct tree **tree)
{
	*tree = tree_free(*tree);
}

/* ---- times ---- */

static uint64_t hash_path(const char *path)
{
	uint64_t hash = 0xcbf29ce484222325ull;

	for (; *path; path++)
		hash = (hash ^ (unsigned char)*path) * 0x100000001b3ull;
	return hash | 1;
}

static struct tree_time *find_times(struct tree *tree, const char *path)
{
	uint64_t index = inodes_get(&tree->time_index, hash_path(path));

	if (!index || strcmp(tree->times[index - 1].path, path))
		return NULL;
	return &tree->times[index - 1];
}

/* Takes @path. */
static int set_times(struct tree *tree, char *path, const struct timespec times[2],
		     bool is_new_only)
{
	struct tree_time *time = find_times(tree, path);

	if (time) {
		free(path);
		if (!is_new_only)
			memcpy(time->times, times, sizeof(time->times));
		return 0;
	}
	if (tree->n_times == tree->capacity) {
		size_t capacity = tree->capacity ? 2 * tree->capacity : 64;

		time = reallocarray(tree->times, capacity, sizeof(*time));
		if (!time) {
			free(path);
			return error_origin(-ENOMEM);
		}
		tree->times = time;
		tree->capacity = capacity;
	}
	time = &tree->times[tree->n_times++];
	time->path = path;
	memcpy(time->times, times, sizeof(time->times));
	return error_trace(inodes_set(&tree->time_index, hash_path(path), tree->n_times));
}

/* The path of level @depth without links. */
static char *level_path(struct tree *tree, unsigned depth, const char *name)
{
	char path[TREE_DEPTH_MAX * 16];
	_cleanup_(cleanup_free) char *large = NULL;
	char *at = path;

	if (tree->is_bare)
		return text_format("%s%s%s", tree->path ?: "", tree->path && *tree->path ? "/" : "",
				   name);
	if (depth * (NAME_MAX + 1) + strlen(name) >= sizeof(path)) {
		large = malloc((depth + 1) * (NAME_MAX + 2) + strlen(name));
		if (!large)
			return NULL;
		at = large;
	}
	*at = '\0';
	{
		char *end = at;

		for (unsigned i = 1; i <= depth; i++) {
			end = stpcpy(end, tree->levels[i].name);
			end = stpcpy(end, i < depth || *name ? "/" : "");
		}
		strcpy(end, name);
	}
	return strdup(at);
}

int tree_note_times(struct tree *tree, const char *name, const struct timespec times[2])
{
	char *path = level_path(tree, tree->depth, name);

	if (!path)
		return error_origin(-ENOMEM);
	return error_trace(set_times(tree, path, times, false));
}

/* The times of a directory before something is put into it, unless the layer itself names them. */
static int keep_times(struct tree *tree, unsigned depth)
{
	struct timespec times[2];
	struct stat status;
	char *path;

	if (tree->is_bare)
		return 0;
	if (fstat(tree->levels[depth].place.upper, &status) < 0)
		return error_origin(-errno);
	times[0] = status.st_atim;
	times[1] = status.st_mtim;
	path = level_path(tree, depth, "");
	if (!path)
		return error_origin(-ENOMEM);
	return error_trace(set_times(tree, path, times, true));
}

int tree_finish(struct tree *tree)
{
	uint64_t resolve = tree->is_bare ? RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS
					 : RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS;

	for (size_t i = 0; i < tree->n_times; i++) {
		int fd = file_open_in(tree->upper, tree->times[i].path, TREE_OPEN_FLAGS, resolve);
		int r;

		/* It was replaced by something else since. */
		if (fd == -ENOENT || fd == -ENOTDIR || fd == -ELOOP)
			continue;
		if (fd < 0)
			return error_origin(fd);
		r = futimens(fd, tree->times[i].times) < 0 ? -errno : 0;
		close_fd(fd);
		if (r)
			return error_origin(r);
	}
	return 0;
}

/* ---- one step ---- */

static bool is_opaque(int fd)
{
	char value;

	return fgetxattr(fd, TREE_OPAQUE, &value, 1) == 1 && value == 'y';
}

static int push(struct tree *tree, const char *name, int upper, int lower)
{
	struct tree_level *level;

	if (tree->depth + 1 == TREE_DEPTH_MAX) {
		close_fd(upper);
		close_fd(lower);
		return error_origin(-ENAMETOOLONG);
	}
	level = &tree->levels[++tree->depth];
	level->place = (struct tree_place){.upper = upper, .lower = lower};
	strcpy(level->name, name);
	return 0;
}

static int read_link(int dir, const char *name, char target[PATH_MAX])
{
	ssize_t size = readlinkat(dir, name, target, PATH_MAX - 1);

	if (size < 0)
		return -errno;
	target[size] = '\0';
	return 0;
}

/*
 * Goes into @name: 0; 1 with @target if it is a link; -ENOENT, -ENOTDIR. @upper decides; where it says
 * nothing, @lower does.
 */
static int enter_lower(struct tree *tree, const char *name, char target[PATH_MAX])
{
	int dir = tree_top(tree)->place.lower, fd;
	int r;

	if (dir < 0)
		return -ENOENT;
	fd = openat(dir, name, TREE_OPEN_FLAGS);
	if (fd >= 0)
		return error_trace(push(tree, name, -1, fd));
	if (errno != ENOTDIR && errno != ELOOP)
		return -errno;
	r = read_link(dir, name, target);
	return r == -EINVAL ? -ENOTDIR : r ?: 1;
}

static int enter(struct tree *tree, const char *name, char target[PATH_MAX])
{
	struct tree_place *place = &tree_top(tree)->place;
	struct stat status;
	int upper = -1, lower = -1;
	int r;

	if (place->upper < 0)
		return enter_lower(tree, name, target);
	upper = openat(place->upper, name, TREE_OPEN_FLAGS);
	if (upper >= 0) {
		if (place->lower >= 0 && !is_opaque(upper))
			lower = openat(place->lower, name, TREE_OPEN_FLAGS);
		return error_trace(push(tree, name, upper, lower));
	}
	if (errno == ENOENT)
		return enter_lower(tree, name, target);
	if (errno != ENOTDIR && errno != ELOOP)
		return -errno;
	r = read_link(place->upper, name, target);
	if (r != -EINVAL)
		return r ?: 1;
	if (fstatat(place->upper, name, &status, AT_SYMLINK_NOFOLLOW) < 0)
		return error_origin(-errno);
	return tree_is_whiteout(&status) ? -ENOENT : -ENOTDIR;
}

int tree_make(struct tree *tree, struct tree_level *level, const char *name, bool is_hiding,
	      int *ret_fd)
{
	_cleanup_(cleanup_fd) int fd = -1;
	struct stat status;

	if (mkdirat(level->place.upper, name, 0755) < 0) {
		/* Only a whiteout can be there. */
		if (errno != EEXIST || unlinkat(level->place.upper, name, 0) < 0 ||
		    mkdirat(level->place.upper, name, 0755) < 0)
			return error_origin(-errno);
		is_hiding = true;
	}
	fd = openat(level->place.upper, name, TREE_OPEN_FLAGS);
	if (fd < 0)
		return error_origin(-errno);
	if (is_hiding && level->place.lower >= 0 &&
	    fstatat(level->place.lower, name, &status, AT_SYMLINK_NOFOLLOW) == 0 &&
	    S_ISDIR(status.st_mode) && fsetxattr(fd, TREE_OPAQUE, "y", 1, 0) < 0)
		return error_origin(-errno);
	if (tree->is_copy) {
		if (fstat(fd, &status) < 0)
			return error_origin(-errno);
		if (tree_note(tree, status.st_ino))
			return error_origin(-ENOMEM);
	}
	*ret_fd = TAKE_FD(fd);
	return 0;
}

static int copy_up_level(struct tree *tree, unsigned depth)
{
	struct tree_level *parent = &tree->levels[depth - 1], *level = &tree->levels[depth];
	struct stat status;
	int r;

	r = keep_times(tree, depth - 1);
	if (r)
		return error_trace(r);
	if (mkdirat(parent->place.upper, level->name, 0700) < 0)
		return error_origin(-errno);
	level->place.upper = openat(parent->place.upper, level->name, TREE_OPEN_FLAGS);
	if (level->place.upper < 0)
		return error_origin(-errno);
	if (fstat(level->place.lower, &status) < 0)
		return error_origin(-errno);
	return error_trace(copy_metadata(level->place.lower, level->place.upper, &status));
}

int tree_copy_up(struct tree *tree)
{
	int r;

	for (unsigned i = 1; i <= tree->depth; i++) {
		if (tree->levels[i].place.upper >= 0)
			continue;
		r = copy_up_level(tree, i);
		if (r)
			return error_trace(r);
	}
	return 0;
}

/* Makes @name in the present directory and goes into it. */
static int enter_new(struct tree *tree, const char *name)
{
	int fd;
	int r;

	r = tree_copy_up(tree);
	if (!r)
		r = keep_times(tree, tree->depth);
	if (!r)
		r = tree_make(tree, tree_top(tree), name, false, &fd);
	if (r)
		return error_trace(r);
	return error_trace(push(tree, name, fd, -1));
}

/* ---- the way ---- */

/* Keeps of the last way what @path has in common with it; gives the rest of @path. */
static const char *rewind_to(struct tree *tree, const char *path)
{
	unsigned depth = 0;
	size_t size;

	if (tree->path && tree->is_plain) {
		while (depth < tree->depth) {
			const char *name = tree->levels[depth + 1].name;

			size = strlen(name);
			if (strncmp(path, name, size) || (path[size] && path[size] != '/'))
				break;
			path += size + !!path[size];
			depth++;
		}
	}
	while (tree->depth > depth)
		leave(tree);
	return path;
}

/* Puts a link's target in front of what is left to go. */
static int redirect(struct tree *tree, const char *target, const char *rest, char **way)
{
	char *longer = text_format("%s/%s", target, rest);

	if (!longer)
		return error_origin(-ENOMEM);
	free(*way);
	*way = longer;
	if (strlen(longer) >= 4 * PATH_MAX)
		return error_origin(-ENAMETOOLONG);
	tree->is_plain = false;
	while (target[0] == '/' && tree->depth)
		leave(tree);
	return 0;
}

static int step(struct tree *tree, const char *name, bool is_made, char target[PATH_MAX])
{
	int r;

	if (!*name || !strcmp(name, "."))
		return 0;
	if (!strcmp(name, "..")) {
		tree->is_plain = false;
		if (tree->depth)
			leave(tree);
		return 0;
	}
	if (strlen(name) > NAME_MAX)
		return -ENAMETOOLONG;
	r = enter(tree, name, target);
	if (r == -ENOENT && is_made)
		r = enter_new(tree, name);
	return r;
}

static int walk(struct tree *tree, const char *path, bool is_made)
{
	_cleanup_(cleanup_free) char *way = strdup(path);
	char target[PATH_MAX], *name, *rest;
	unsigned links = 0;
	int r;

	for (rest = way; rest && (name = strsep(&rest, "/"));) {
		r = step(tree, name, is_made, target);
		if (r < 0)
			return r;
		if (r == 0)
			continue;
		if (++links > TREE_LINKS_MAX)
			return -ELOOP;
		r = redirect(tree, target, rest ?: "", &way);
		if (r)
			return error_trace(r);
		rest = way;
	}
	return way ? 0 : error_origin(-ENOMEM);
}

/* Natively: these directories are this layer's too, as far as an opaque mark above them is concerned. */
static int touch_levels(struct tree *tree)
{
	struct stat status;

	for (unsigned i = 1; i <= tree->depth; i++) {
		if (fstat(tree->levels[i].place.upper, &status) < 0)
			return error_origin(-errno);
		if (!inodes_get(&tree->inodes, status.st_ino) &&
		    inodes_set(&tree->inodes, status.st_ino, TREE_TOUCHED))
			return error_origin(-ENOMEM);
	}
	return 0;
}

static int find_way(struct tree *tree, const char *path, bool is_made)
{
	const char *rest = rewind_to(tree, path);
	int r;

	tree->is_plain = true;
	r = walk(tree, rest, is_made);
	if (!r && is_made)
		r = tree_copy_up(tree);
	if (!r && is_made)
		r = keep_times(tree, tree->depth);
	if (!r && is_made && tree->is_copy)
		r = touch_levels(tree);
	return r;
}

/* With nothing below the kernel can go the whole way at once. */
static int find_bare(struct tree *tree, const char *path)
{
	int fd = file_open_in(tree->upper, path, O_RDONLY | O_DIRECTORY,
			      RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS);

	if (fd < 0)
		return fd;
	close_fd(tree->bare.upper);
	tree->bare.upper = fd;
	return 0;
}

static int find_new(struct tree *tree, const char *path, bool is_made)
{
	int r;

	if (tree->is_bare) {
		r = find_bare(tree, path);
		if (r != -ENOENT || !is_made)
			return r;
		tree_forget(tree);
	}
	r = find_way(tree, path, is_made);
	if (!r && tree->is_bare)
		r = find_bare(tree, path);
	return r;
}

int tree_find(struct tree *tree, const char *path, bool is_made, struct tree_place *ret_place)
{
	bool is_same = tree->path && !strcmp(tree->path, path);
	int r;

	if (!is_same || (is_made && !tree->is_ready)) {
		char *copy = strdup(path);

		r = copy ? find_new(tree, path, is_made) : error_origin(-ENOMEM);
		tree_forget(tree);
		if (r) {
			free(copy);
			return r;
		}
		tree->path = copy;
		tree->is_ready = is_made || tree->is_bare;
	}
	*ret_place = tree->is_bare ? tree->bare : tree_top(tree)->place;
	return 0;
}
