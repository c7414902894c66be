/*
 * davit-image-work diff: a layer of what is different between two trees, both
 * read-only. The walk goes through both at once, name by name in order; what is
 * gone becomes a whiteout, what is new or changed an entry. Files whose times,
 * sizes and all else agree are still compared byte by byte.
 *
 * Where the tree after is an overlay on the tree before, its writable directory
 * guides: what is not in it is the same, and is not looked at.
 */

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/xattr.h>

#include "broker/lib/file.h"
#include "services/image/document.h"
#include "services/image/work/inodes.h"
#include "services/image/work/layers.h"
#include "services/image/work/tar_writer.h"

#define BLOCK_SIZE (128u << 10)
#define WHITEOUT   ".wh."
#define OPAQUE     ".wh..wh..opq"

/* A file of several names in the tree after. */
struct link {
	char *source;               /* the name under which it was written; NULL: not yet */
	struct schema_strs waiting; /* names that are the same in the tree before */
	uint64_t before;            /* inode of these there: names of one file then and now */
};

struct diff {
	struct writer *writer;
	struct work_limits limits;
	uint64_t n_entries;
	char *blocks[2];
	char path[PATH_MAX];      /* of the present entry, relative; "" is the root */
	struct inodes link_index; /* inode → 1 + index of links */
	struct {
		struct link *items;
		size_t count;
	} links;
	struct why *why;
};

/* One directory in both trees and in the guide; -1: it is not there, or there is no guide. */
struct place {
	int left, right, guide;
};

static int failed(struct diff *diff, int r)
{
	if (r == -EFBIG)
		return why_set(diff->why, WORK_E_INVALID,
			       "entry '%s': the layer has more than %llu bytes (limit bytes)",
			       work_show(diff->path), (unsigned long long)diff->limits.bytes);
	return why_errno(diff->why, r, "entry '%s'", work_show(diff->path));
}

/* ---- extended attributes ---- */

struct xattrs {
	struct tar_xattr *items;
	size_t count;
};

static void xattrs_clear(struct xattrs *xattrs)
{
	for (size_t i = 0; i < xattrs->count; i++) {
		free(xattrs->items[i].name);
		free(xattrs->items[i].value);
	}
	free(xattrs->items);
}

static int read_value(const char *name, const char *key, struct tar_xattr *xattr)
{
	ssize_t size = lgetxattr(name, key, NULL, 0);

	if (size < 0)
		return error_origin(-errno);
	xattr->name = strdup(key);
	xattr->value = malloc((size_t)size + 1);
	if (!xattr->name || !xattr->value)
		return error_origin(-ENOMEM);
	size = lgetxattr(name, key, xattr->value, (size_t)size);
	if (size < 0)
		return error_origin(-errno);
	xattr->size = (size_t)size;
	return 0;
}

static int compare_xattrs(const void *a, const void *b)
{
	return strcmp(((const struct tar_xattr *)a)->name, ((const struct tar_xattr *)b)->name);
}

static int read_names(const char *name, char **ret_names, size_t *ret_size)
{
	_cleanup_(cleanup_free) char *names = NULL;
	ssize_t size = llistxattr(name, NULL, 0);

	*ret_size = 0;
	if (size <= 0)
		return size == 0 || errno == EOPNOTSUPP ? 0 : error_origin(-errno);
	names = malloc((size_t)size);
	if (!names)
		return error_origin(-ENOMEM);
	size = llistxattr(name, names, (size_t)size);
	if (size < 0)
		return error_origin(-errno);
	*ret_size = (size_t)size;
	*ret_names = TAKE(names);
	return 0;
}

/* In order of name. By a name in the directory of which the process is in, which is never followed. */
static int read_xattrs(int dir, const char *name, struct xattrs *xattrs)
{
	_cleanup_(cleanup_free) char *names = NULL;
	size_t size;
	int r;

	if (fchdir(dir) < 0)
		return error_origin(-errno);
	r = read_names(name, &names, &size);
	for (const char *key = names; !r && size && key < names + size; key += strlen(key) + 1) {
		struct tar_xattr *xattr;

		if (!strncmp(key, "trusted.overlay.", 16) || !strcmp(key, "security.selinux"))
			continue;
		xattr = schema_list_add(xattrs);
		r = xattr ? read_value(name, key, xattr) : error_origin(-ENOMEM);
	}
	if (!r && xattrs->count)
		qsort(xattrs->items, xattrs->count, sizeof(*xattrs->items), compare_xattrs);
	return error_trace(r);
}

static bool same_xattrs(const struct xattrs *a, const struct xattrs *b)
{
	if (a->count != b->count)
		return false;
	for (size_t i = 0; i < a->count; i++) {
		if (strcmp(a->items[i].name, b->items[i].name) ||
		    a->items[i].size != b->items[i].size ||
		    memcmp(a->items[i].value, b->items[i].value, a->items[i].size))
			return false;
	}
	return true;
}

/* ---- is it the same? ---- */

static bool same_status(const struct stat *a, const struct stat *b)
{
	bool is_dir = S_ISDIR(a->st_mode);

	return a->st_mode == b->st_mode && a->st_uid == b->st_uid && a->st_gid == b->st_gid &&
	       a->st_rdev == b->st_rdev && a->st_mtim.tv_sec == b->st_mtim.tv_sec &&
	       a->st_mtim.tv_nsec == b->st_mtim.tv_nsec &&
	       (is_dir ||
		(a->st_size == b->st_size && (b->st_nlink == 1 || a->st_nlink == b->st_nlink)));
}

static int read_block(int fd, char *block, ssize_t *ret_size)
{
	size_t done = 0;

	while (done < BLOCK_SIZE) {
		ssize_t n = read(fd, block + done, BLOCK_SIZE - done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return error_origin(-errno);
		if (!n)
			break;
		done += (size_t)n;
	}
	*ret_size = (ssize_t)done;
	return 0;
}

static int open_file(int dir, const char *name, int *ret_fd)
{
	struct stat status;

	*ret_fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	if (*ret_fd < 0 || fstat(*ret_fd, &status) < 0)
		return error_origin(-errno);
	return S_ISREG(status.st_mode) ? 0 : error_origin(-EBUSY);
}

static int same_content(struct diff *diff, const struct place *place, const char *name,
			bool *ret_same)
{
	_cleanup_(cleanup_fd) int left = -1, right = -1;
	ssize_t n = 1, m = 1;
	int r;

	r = open_file(place->left, name, &left);
	if (!r)
		r = open_file(place->right, name, &right);
	*ret_same = true;
	while (!r && *ret_same && n) {
		r = read_block(left, diff->blocks[0], &n);
		if (!r)
			r = read_block(right, diff->blocks[1], &m);
		*ret_same = n == m && !memcmp(diff->blocks[0], diff->blocks[1], (size_t)n);
	}
	return error_trace(r);
}

static int same_target(const struct place *place, const char *name, bool *ret_same)
{
	char left[PATH_MAX], right[PATH_MAX];
	ssize_t n = readlinkat(place->left, name, left, sizeof(left));
	ssize_t m = readlinkat(place->right, name, right, sizeof(right));

	if (n < 0 || m < 0)
		return error_origin(-errno);
	*ret_same = n == m && !memcmp(left, right, (size_t)n);
	return 0;
}

static int is_same(struct diff *diff, const struct place *place, const char *name,
		   const struct stat *left, const struct stat *right, bool *ret_same)
{
	_cleanup_(xattrs_clear) struct xattrs before = {}, after = {};
	int r;

	*ret_same = same_status(left, right);
	if (!*ret_same)
		return 0;
	r = read_xattrs(place->left, name, &before);
	if (!r)
		r = read_xattrs(place->right, name, &after);
	*ret_same = same_xattrs(&before, &after);
	if (r || !*ret_same)
		return error_trace(r);
	if (S_ISLNK(right->st_mode))
		return error_trace(same_target(place, name, ret_same));
	if (S_ISREG(right->st_mode) &&
	    (left->st_dev != right->st_dev || left->st_ino != right->st_ino))
		return error_trace(same_content(diff, place, name, ret_same));
	return 0;
}

/* ---- entries ---- */

static int count_entry(struct diff *diff)
{
	if (++diff->n_entries > diff->limits.entries)
		return why_set(diff->why, WORK_E_INVALID, "more than %llu entries (limit entries)",
			       (unsigned long long)diff->limits.entries);
	return 0;
}

/* An empty file whose name says what is hidden. */
static int hide(struct diff *diff, const char *name)
{
	_cleanup_(cleanup_free) char *path = text_format("%s%s%s", diff->path,
							 diff->path[0] ? "/" : "", name);
	const struct tar_head head = {.path = path, .type = '0', .mode = 0600};
	int r;

	if (!path)
		return error_origin(-ENOMEM);
	r = count_entry(diff);
	if (r)
		return error_trace(r);
	r = tar_put_head(diff->writer, &head);
	return r ? failed(diff, r) : 0;
}

static int put_content(struct diff *diff, int dir, const char *name, uint64_t size)
{
	_cleanup_(cleanup_fd) int fd = -1;
	uint64_t left = size;
	int r;

	r = open_file(dir, name, &fd);
	while (!r && left) {
		ssize_t n = 0;

		r = read_block(fd, diff->blocks[0], &n);
		if (!r && !n)
			return why_set(diff->why, WORK_E_INVALID,
				       "entry '%s' became shorter while it was read",
				       work_show(diff->path));
		if ((uint64_t)n > left)
			n = (ssize_t)left;
		if (!r)
			r = writer_add(diff->writer, diff->blocks[0], (size_t)n);
		left -= (uint64_t)n;
	}
	if (!r)
		r = tar_put_fill(diff->writer, size);
	return r ? failed(diff, r) : 0;
}

static char tar_type(mode_t mode)
{
	switch (mode & S_IFMT) {
	case S_IFDIR:
		return '5';
	case S_IFLNK:
		return '2';
	case S_IFCHR:
		return '3';
	case S_IFBLK:
		return '4';
	case S_IFIFO:
		return '6';
	default:
		return '0';
	}
}

/* Writes the entry @name of directory @dir at the present path; @source: as a hard link to that path. */
static int put_entry(struct diff *diff, int dir, const char *name, const struct stat *status,
		     const char *source)
{
	_cleanup_(xattrs_clear) struct xattrs xattrs = {};
	_cleanup_(cleanup_free) char *path = NULL;
	char target[PATH_MAX] = "";
	struct tar_head head;
	int r;

	r = count_entry(diff);
	if (r)
		return error_trace(r);
	r = read_xattrs(dir, name, &xattrs);
	if (r)
		return failed(diff, r);
	if (S_ISLNK(status->st_mode) && readlinkat(dir, name, target, sizeof(target) - 1) < 0)
		return failed(diff, error_origin(-errno));
	path = text_format("%s%s", diff->path[0] ? diff->path : ".",
			   S_ISDIR(status->st_mode) ? "/" : "");
	if (!path)
		return error_origin(-ENOMEM);
	head = (struct tar_head){
		.path = path,
		.link = source ?: target,
		.type = source ? '1' : tar_type(status->st_mode),
		.mode = status->st_mode & 07777,
		.uid = status->st_uid,
		.gid = status->st_gid,
		.size = !source && S_ISREG(status->st_mode) ? (uint64_t)status->st_size : 0,
		.mtime = status->st_mtim,
		.device = status->st_rdev,
		.xattrs = xattrs.items,
		.n_xattrs = xattrs.count};
	r = tar_put_head(diff->writer, &head);
	if (r)
		return failed(diff, r);
	return head.size ? error_trace(put_content(diff, dir, name, head.size)) : 0;
}

/* ---- names of one file ---- */

static int find_link(struct diff *diff, const struct stat *status, struct link **ret_link)
{
	uint64_t index = inodes_get(&diff->link_index, status->st_ino);
	struct link *link;

	if (!index) {
		link = schema_list_add(&diff->links);
		if (!link || inodes_set(&diff->link_index, status->st_ino, diff->links.count))
			return error_origin(-ENOMEM);
		index = diff->links.count;
	}
	*ret_link = &diff->links.items[index - 1];
	return 0;
}

/* Names that had not changed belong to the file that is written now, and are linked to it. */
static int put_waiting(struct diff *diff, const struct stat *status, int dir, const char *name,
		       struct link *link)
{
	_cleanup_(cleanup_free) char *path = strdup(diff->path);
	int r = path ? 0 : error_origin(-ENOMEM);

	for (size_t i = 0; i < link->waiting.count && !r; i++) {
		snprintf(diff->path, sizeof(diff->path), "%s", link->waiting.items[i]);
		r = put_entry(diff, dir, name, status, link->source);
	}
	if (path)
		snprintf(diff->path, sizeof(diff->path), "%s", path);
	schema_strs_clear(&link->waiting);
	return error_trace(r);
}

static int put_linked(struct diff *diff, int dir, const char *name, const struct stat *status,
		      uint64_t before)
{
	struct link *link = NULL;
	int r;

	r = find_link(diff, status, &link);
	if (r)
		return error_trace(r);
	if (link->source)
		return error_trace(put_entry(diff, dir, name, status, link->source));
	if (before && (!link->waiting.count || link->before == before)) {
		link->before = before;
		return error_trace(schema_strs_add(&link->waiting, diff->path));
	}
	link->source = strdup(diff->path);
	if (!link->source)
		return error_origin(-ENOMEM);
	r = put_entry(diff, dir, name, status, NULL);
	return r ? error_trace(r) : error_trace(put_waiting(diff, status, dir, name, link));
}

/* @before: inode of what is the same in the tree before; 0: it is new or changed. */
static int put(struct diff *diff, int dir, const char *name, const struct stat *status,
	       uint64_t before)
{
	/* A socket is of a process, not of an image. */
	if (S_ISSOCK(status->st_mode))
		return 0;
	if (!before && !strncmp(name, WHITEOUT, strlen(WHITEOUT)))
		return why_set(diff->why, WORK_E_INVALID,
			       "entry '%s' has a name that means a whiteout in a layer",
			       work_show(diff->path));
	if (!S_ISDIR(status->st_mode) && status->st_nlink > 1)
		return error_trace(put_linked(diff, dir, name, status, before));
	return before ? 0 : error_trace(put_entry(diff, dir, name, status, NULL));
}

/* ---- the walk ---- */

static int compare_names(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

/* The names in directory @fd (-1: none), in order. */
static int list_names(int fd, struct schema_strs *names)
{
	_cleanup_(cleanup_dir) DIR *dir = NULL;
	struct dirent *entry;
	int copy, r = 0;

	if (fd < 0)
		return 0;
	copy = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	dir = copy < 0 ? NULL : fdopendir(copy);
	if (!dir) {
		close_fd(copy);
		return error_origin(-EIO);
	}
	while (!r && (entry = readdir(dir))) {
		if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, ".."))
			r = schema_strs_add(names, entry->d_name);
	}
	if (!r && names->count)
		qsort(names->items, names->count, sizeof(*names->items), compare_names);
	return error_trace(r);
}

static int walk(struct diff *diff, const struct place *place, unsigned depth);

static int open_dir(int dir, const char *name, int *ret_fd)
{
	if (dir < 0)
		return 0;
	*ret_fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	return *ret_fd < 0 ? error_origin(-errno) : 0;
}

/* A directory that was renamed, or that hides what lies below, does not say what is the same. */
static bool is_guide(int fd)
{
	return fgetxattr(fd, "trusted.overlay.redirect", NULL, 0) < 0 &&
	       fgetxattr(fd, "trusted.overlay.opaque", NULL, 0) < 0;
}

static int enter(struct diff *diff, const struct place *place, const char *name, bool is_left,
		 unsigned depth)
{
	_cleanup_(cleanup_fd) int left = -1, right = -1, guide = -1;
	int r;

	if (depth >= diff->limits.path_depth)
		return why_set(diff->why, WORK_E_INVALID,
			       "entry '%s' is more than %llu directories deep (limit path_depth)",
			       work_show(diff->path), (unsigned long long)diff->limits.path_depth);
	r = open_dir(place->right, name, &right);
	if (!r && is_left)
		r = open_dir(place->left, name, &left);
	if (!r && is_left)
		r = open_dir(place->guide, name, &guide);
	if (r)
		return failed(diff, r);
	if (guide >= 0 && !is_guide(guide))
		guide = close_fd(guide);
	return error_trace(walk(diff, &(struct place){left, right, guide}, depth + 1));
}

/* A name of the tree after, which the tree before may have too. */
static int visit(struct diff *diff, const struct place *place, const char *name, bool is_left,
		 unsigned depth)
{
	struct stat left = {}, right;
	bool is_unchanged = false;
	int r;

	if (is_left && place->guide >= 0 &&
	    fstatat(place->guide, name, &right, AT_SYMLINK_NOFOLLOW) < 0 && errno == ENOENT)
		return 0;
	if (fstatat(place->right, name, &right, AT_SYMLINK_NOFOLLOW) < 0 ||
	    (is_left && fstatat(place->left, name, &left, AT_SYMLINK_NOFOLLOW) < 0))
		return failed(diff, error_origin(-errno));
	r = is_left ? is_same(diff, place, name, &left, &right, &is_unchanged) : 0;
	if (r)
		return failed(diff, r);
	r = put(diff, place->right, name, &right, is_unchanged ? left.st_ino : 0);
	if (r || !S_ISDIR(right.st_mode))
		return error_trace(r);
	return error_trace(enter(diff, place, name, is_left && S_ISDIR(left.st_mode), depth));
}

/* The path of an entry is that of its directory, and its name; *ret_size is to be restored. */
static int push(struct diff *diff, const char *name, size_t *ret_size)
{
	size_t size = strlen(diff->path);

	if (size + strlen(name) + 2 > diff->limits.path_size ||
	    size + strlen(name) + 2 > sizeof(diff->path))
		return why_set(
			diff->why, WORK_E_INVALID,
			"entry '%s/%.100s' has a path of more than %llu bytes (limit path_size)",
			work_show(diff->path), work_show(name),
			(unsigned long long)diff->limits.path_size);
	*ret_size = size;
	snprintf(diff->path + size, sizeof(diff->path) - size, "%s%s", size ? "/" : "", name);
	return 0;
}

static bool has_common(const struct schema_strs *left, const struct schema_strs *right)
{
	for (size_t i = 0, k = 0; i < left->count && k < right->count;) {
		int order = strcmp(left->items[i], right->items[k]);

		if (!order)
			return true;
		if (order < 0)
			i++;
		else
			k++;
	}
	return false;
}

/* What only the tree before has. Nothing of the root can be hidden at once. */
static int hide_gone(struct diff *diff, const struct schema_strs *left,
		     const struct schema_strs *right)
{
	bool is_opaque = diff->path[0] && left->count > 1 && !has_common(left, right);
	size_t k = 0;
	int r = 0;

	if (is_opaque)
		return error_trace(hide(diff, OPAQUE));
	for (size_t i = 0; i < left->count && !r; i++) {
		_cleanup_(cleanup_free) char *name = NULL;

		while (k < right->count && strcmp(right->items[k], left->items[i]) < 0)
			k++;
		if (k < right->count && !strcmp(right->items[k], left->items[i]))
			continue;
		/* A longer whiteout is no name that a layer can have. */
		if (strlen(left->items[i]) + strlen(WHITEOUT) > NAME_MAX)
			return why_set(diff->why, WORK_E_INVALID,
				       "entry '%s/%s' is gone, and its name is too long to say so",
				       work_show(diff->path), work_show(left->items[i]));
		name = text_format("%s%s", WHITEOUT, left->items[i]);
		r = name ? hide(diff, name) : error_origin(-ENOMEM);
	}
	return error_trace(r);
}

static int walk(struct diff *diff, const struct place *place, unsigned depth)
{
	_cleanup_(schema_strs_clear) struct schema_strs left = {}, right = {};
	size_t size = 0, k = 0;
	int r;

	r = list_names(place->left, &left);
	if (!r)
		r = list_names(place->right, &right);
	if (r)
		return failed(diff, r);
	r = hide_gone(diff, &left, &right);
	for (size_t i = 0; i < right.count && !r; i++) {
		const char *name = right.items[i];

		while (k < left.count && strcmp(left.items[k], name) < 0)
			k++;
		r = push(diff, name, &size);
		if (r)
			break;
		r = visit(diff, place, name, k < left.count && !strcmp(left.items[k], name), depth);
		diff->path[size] = '\0';
	}
	return error_trace(r);
}

/* The root has no name in a directory; its own attributes may have changed. */
static int compare_root(struct diff *diff, const struct place *place)
{
	struct stat left = {}, right;
	bool is_unchanged = false;
	int r = 0;

	if (fstat(place->right, &right) < 0 || (place->left >= 0 && fstat(place->left, &left) < 0))
		return failed(diff, error_origin(-errno));
	if (place->left >= 0)
		r = is_same(diff, place, ".", &left, &right, &is_unchanged);
	if (r)
		return failed(diff, r);
	return is_unchanged ? 0 : error_trace(put_entry(diff, place->right, ".", &right, NULL));
}

/* ---- the layer ---- */

static int open_trees(const struct work_diff_request *request, int snapshots, struct place *place,
		      struct why *why)
{
	_cleanup_(cleanup_free) char *mount_point = text_format("%s/work", request->right.items[0]);
	int r;

	if (!mount_point)
		return error_origin(-ENOMEM);
	r = layers_open(&request->left, mount_point, snapshots, &place->left, why);
	if (!r)
		r = layers_open(&request->right, mount_point, snapshots, &place->right, why);
	if (!r && request->guided)
		r = layers_open_one(request->right.items[0], snapshots, &place->guide, why);
	return error_trace(r);
}

static int compare_all(struct diff *diff, const struct place *place)
{
	int r;

	r = compare_root(diff, place);
	if (!r)
		r = walk(diff, place, 0);
	if (r)
		return error_trace(r);
	r = tar_put_end(diff->writer);
	return r ? failed(diff, r) : 0;
}

static void diff_clear(struct diff *diff)
{
	for (size_t i = 0; i < diff->links.count; i++) {
		free(diff->links.items[i].source);
		schema_strs_clear(&diff->links.items[i].waiting);
	}
	free(diff->links.items);
	inodes_clear(&diff->link_index);
	writer_free(diff->writer);
	free(diff->blocks[0]);
	free(diff->blocks[1]);
}

static int set_up(struct diff *diff, const struct work_diff_request *request, int fd)
{
	enum compression compression;

	if (!document_layer_compression(request->media_type, &compression))
		return why_set(diff->why, WORK_E_INVALID, "'%s' is not the media type of a layer",
			       work_show(request->media_type));
	diff->limits = work_limits_fill(request->limits);
	diff->blocks[0] = malloc(BLOCK_SIZE);
	diff->blocks[1] = malloc(BLOCK_SIZE);
	if (!diff->blocks[0] || !diff->blocks[1])
		return error_origin(-ENOMEM);
	return error_trace(writer_new(fd, compression, true, diff->limits.bytes, &diff->writer));
}

static int fill_result(const struct work_diff_request *request, const struct written *written,
		       struct work_import_result *result)
{
	struct work_blob *blob = schema_list_add(&result->blobs);
	int r;

	if (!blob)
		return error_origin(-ENOMEM);
	blob->size = written->size;
	r = schema_set(&blob->digest, written->digest) ?: schema_set(&blob->path, "diff")
	    ?: schema_set(&blob->media_type, request->media_type)
	    ?: schema_set(&blob->diff_id, written->diff_id);
	return error_trace(r);
}

/* What is written is on disk, its name included, before it is told of. */
static int settle(struct diff *diff, int fd, int ingest)
{
	if (fdatasync(fd) < 0 || fsync(ingest) < 0)
		return why_errno(diff->why, error_origin(-errno), "cannot put the layer on disk");
	return 0;
}

int work_diff(const struct work_diff_request *request, int snapshots, int ingest, bool is_confined,
	      struct work_import_result *ret_result, struct why *why)
{
	_cleanup_(cleanup_fd) int left = -1, right = -1, guide = -1, fd = -1;
	_cleanup_(diff_clear) struct diff diff = {.why = why};
	struct place place = {-1, -1, -1};
	struct written written;
	int r;

	if (!request->right.count)
		return why_set(why, WORK_E_INVALID, "there is no tree to compare");
	r = open_trees(request, snapshots, &place, why);
	left = place.left;
	right = place.right;
	guide = place.guide;
	if (!r && is_confined)
		r = sandbox_filter(why);
	if (r)
		return error_trace(r);
	fd = openat(ingest, "diff", O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return why_errno(why, error_origin(-errno), "cannot create a file for the layer");
	r = set_up(&diff, request, fd);
	if (!r)
		r = compare_all(&diff, &place);
	if (!r)
		r = writer_finish(diff.writer, &written);
	if (!r)
		r = settle(&diff, fd, ingest);
	return r ? error_trace(r) : error_trace(fill_result(request, &written, ret_result));
}
