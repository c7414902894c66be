/* See copy.h. */

#include "tools/copy.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "broker/lib/cleanup.h"
#include "broker/lib/file.h"

#define DEPTH_MAX   200 /* two descriptors each */
#define BUFFER_SIZE 65536

struct copy {
	const struct copy_options *options;
	const char *path; /* of the source, for messages */
	struct why *why;
	unsigned depth;
};

bool copy_split(char *word, char **ret_container, char **ret_path)
{
	char *colon = strchr(word, ':');

	if (!colon || colon == word || memchr(word, '/', (size_t)(colon - word)) || *word == '.')
		return false;
	*colon = '\0';
	*ret_container = word;
	*ret_path = colon + 1;
	return true;
}

/* ---- paths --------------------------------------------------------------- */

static int open_in(const struct copy_tree *tree, const char *path, int flags)
{
	return file_open_in(tree->root, path, flags,
			    tree->is_container ? RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS : 0);
}

/* The directory above and the last name; "" when the path is a directory by its form (/, a/., a/..). */
static int split_path(const char *path, char **ret_parent, const char **ret_name)
{
	size_t length = strlen(path);
	const char *name;

	while (length > 1 && path[length - 1] == '/')
		length--;
	name = memrchr(path, '/', length);
	name = name ? name + 1 : path;
	length -= (size_t)(name - path);
	if (!length || (length <= 2 && !strncmp(name, "..", length))) {
		*ret_parent = strdup(path);
		*ret_name = "";
		return *ret_parent ? 0 : -ENOMEM;
	}
	*ret_parent = strndup(path, (size_t)(name - path));
	*ret_name = name;
	return *ret_parent ? 0 : -ENOMEM;
}

/* As split_path(), with the directory opened and the name without slashes behind it. */
static int open_parent(const struct copy_tree *tree, const char *path, char name[NAME_MAX + 1],
		       int *ret_fd)
{
	_cleanup_(cleanup_free) char *parent = NULL;
	const char *last;
	size_t length;
	int r = split_path(path, &parent, &last);

	if (r)
		return r;
	length = strcspn(last, "/");
	if (length > NAME_MAX)
		return -ENAMETOOLONG;
	memcpy(name, last, length);
	name[length] = '\0';
	r = open_in(tree, parent, O_RDONLY | O_DIRECTORY);
	if (r < 0)
		return r;
	*ret_fd = r;
	return 0;
}

/* ---- entries ------------------------------------------------------------- */

static int fail_at(struct copy *copy, int r, const char *what, const char *name)
{
	return why_errno(copy->why, r, "cannot %s %s (below %s)", what, *name ? name : ".",
			 copy->path);
}

static int set_attributes(struct copy *copy, int fd, const struct stat *st)
{
	const struct timespec times[2] = {st->st_atim, st->st_mtim};
	mode_t mode = st->st_mode & (copy->options->keep_owner ? 07777 : 0777);

	if (copy->options->keep_owner && fchown(fd, st->st_uid, st->st_gid))
		return -errno;
	return fchmod(fd, mode) || futimens(fd, times) ? -errno : 0;
}

/* As much as the file had when it was opened: one that grows for ever ends too. */
static int copy_bytes(int from, int to, off_t size)
{
	_cleanup_(cleanup_free) char *buffer = malloc(BUFFER_SIZE);
	int r = buffer ? 0 : -ENOMEM;

	while (!r && size > 0) {
		ssize_t n = read(from, buffer, size < BUFFER_SIZE ? (size_t)size : BUFFER_SIZE);

		if (n < 0)
			return -errno;
		if (!n)
			break;
		r = file_write_all(to, buffer, (size_t)n);
		size -= n;
	}
	return r;
}

static int remove_file(int dirfd, const char *name)
{
	return unlinkat(dirfd, name, 0) && errno != ENOENT ? -errno : 0;
}

static int copy_file(struct copy *copy, int from_dir, const char *from, int to_dir, const char *to)
{
	_cleanup_(cleanup_fd) int in =
		openat(from_dir, from, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	_cleanup_(cleanup_fd) int out = -1;
	struct stat st;
	int r;

	if (in < 0 || fstat(in, &st))
		return fail_at(copy, -errno, "open", from);
	if (!S_ISREG(st.st_mode))
		return fail_at(copy, -ESTALE, "copy, for it was replaced,", from);
	r = remove_file(to_dir, to);
	if (r)
		return fail_at(copy, r, "replace", to);
	out = openat(to_dir, to, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (out < 0)
		return fail_at(copy, -errno, "make", to);
	r = copy_bytes(in, out, st.st_size) ?: set_attributes(copy, out, &st);
	return r ? fail_at(copy, r, "write", to) : 0;
}

static int copy_link(struct copy *copy, int from_dir, const char *from, int to_dir, const char *to)
{
	char target[PATH_MAX];
	ssize_t n = readlinkat(from_dir, from, target, sizeof(target) - 1);
	int r;

	if (n < 0)
		return fail_at(copy, -errno, "read the link", from);
	target[n] = '\0';
	r = remove_file(to_dir, to);
	if (!r && symlinkat(target, to_dir, to))
		r = -errno;
	return r ? fail_at(copy, r, "make the link", to) : 0;
}

static int copy_entry(struct copy *copy, int from_dir, const char *from, int to_dir,
		      const char *to);

static int copy_children(struct copy *copy, int from_dir, int to_dir)
{
	int fd = fcntl(from_dir, F_DUPFD_CLOEXEC, 3), r = 0;
	_cleanup_(cleanup_dir) DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *entry;

	if (!dir) {
		r = -errno;
		(void)close_fd(fd);
		return fail_at(copy, r, "read the directory", ".");
	}
	if (copy->depth == DEPTH_MAX)
		return fail_at(copy, -ELOOP, "go deeper than 200 directories at", ".");
	copy->depth++;
	while (!r && (entry = readdir(dir))) {
		if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
			r = copy_entry(copy, from_dir, entry->d_name, to_dir, entry->d_name);
	}
	copy->depth--;
	return r;
}

static int copy_directory(struct copy *copy, int from_dir, const char *from, int to_dir,
			  const char *to)
{
	const int flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
	_cleanup_(cleanup_fd) int in = openat(from_dir, from, flags);
	_cleanup_(cleanup_fd) int out = -1;
	bool is_new = !mkdirat(to_dir, to, 0700);
	struct stat st;
	int r;

	if (in < 0 || fstat(in, &st))
		return fail_at(copy, -errno, "open", from);
	out = openat(to_dir, to, flags);
	if (out < 0)
		return fail_at(copy, -errno, "make the directory", to);
	r = copy_children(copy, in, out);
	if (!r && is_new)
		r = set_attributes(copy, out, &st);
	return r;
}

static int copy_entry(struct copy *copy, int from_dir, const char *from, int to_dir, const char *to)
{
	struct stat st;

	if (fstatat(from_dir, from, &st, AT_SYMLINK_NOFOLLOW))
		return fail_at(copy, -errno, "find", from);
	switch (st.st_mode & S_IFMT) {
	case S_IFREG:
		return copy_file(copy, from_dir, from, to_dir, to);
	case S_IFLNK:
		return copy_link(copy, from_dir, from, to_dir, to);
	case S_IFDIR:
		return copy_directory(copy, from_dir, from, to_dir, to);
	default:
		fprintf(stderr, "davit: %s (below %s) is no file, directory or link: left out\n",
			from, copy->path);
		return 0;
	}
}

/* ---- the two ends -------------------------------------------------------- */

/* What a link leads to, as a path in its tree: its directory and name are looked at anew. */
static int follow_link(const struct copy_tree *tree, const char *path, char name[NAME_MAX + 1],
		       int *dirfd)
{
	_cleanup_(cleanup_free) char *current = strdup(path);

	for (int i = 0; current && i < 40; i++) {
		_cleanup_(cleanup_free) char *parent = NULL;
		char target[PATH_MAX];
		const char *last;
		ssize_t n = *name ? readlinkat(*dirfd, name, target, sizeof(target) - 1) : -1;
		int r;

		if (n < 0)
			return 0;
		target[n] = '\0';
		r = split_path(current, &parent, &last);
		free(current);
		current = r ? NULL : text_format("%s%s", *target == '/' ? "" : parent, target);
		*dirfd = close_fd(*dirfd);
		r = current ? open_parent(tree, current, name, dirfd) : -ENOMEM;
		if (r)
			return r;
	}
	return current ? -ELOOP : -ENOMEM;
}

struct ends {
	int from_dir, to_dir;
	char from[NAME_MAX + 1], to[NAME_MAX + 1];
};

static void ends_close(struct ends *ends)
{
	ends->from_dir = close_fd(ends->from_dir);
	ends->to_dir = close_fd(ends->to_dir);
}

/* An existing directory takes what is copied in under its own name. */
static int find_to(const struct copy_tree *tree, const char *path, const char *from_name,
		   struct ends *ends)
{
	size_t length = strlen(path);
	int fd = open_in(tree, path, O_RDONLY | O_DIRECTORY);

	if (fd >= 0) {
		ends->to_dir = fd;
		snprintf(ends->to, sizeof(ends->to), "%s", from_name);
		return 0;
	}
	if (fd != -ENOENT && fd != -ENOTDIR)
		return fd;
	if (fd == -ENOTDIR && length && path[length - 1] == '/')
		return fd;
	return open_parent(tree, path, ends->to, &ends->to_dir);
}

static int check_kinds(struct copy *copy, const struct ends *ends, const char *to)
{
	struct stat from_st, to_st;

	if (fstatat(ends->from_dir, *ends->from ? ends->from : ".", &from_st, AT_SYMLINK_NOFOLLOW))
		return fail_at(copy, -errno, "find", ends->from);
	if (!*ends->to || fstatat(ends->to_dir, ends->to, &to_st, AT_SYMLINK_NOFOLLOW)) {
		size_t length = strlen(to);

		if (!S_ISDIR(from_st.st_mode) && *ends->to && length && to[length - 1] == '/')
			return why_errno(copy->why, -ENOENT, "the directory %s", to);
		return 0;
	}
	if (S_ISDIR(from_st.st_mode) && !S_ISDIR(to_st.st_mode))
		return why_errno(copy->why, -ENOTDIR, "%s is a directory, and %s", copy->path, to);
	if (!S_ISDIR(from_st.st_mode) && S_ISDIR(to_st.st_mode))
		return why_errno(copy->why, -EISDIR, "%s is no directory, and %s in %s", copy->path,
				 ends->to, to);
	return 0;
}

static int copy_between(struct copy *copy, struct ends *ends)
{
	if (*ends->from && *ends->to)
		return copy_entry(copy, ends->from_dir, ends->from, ends->to_dir, ends->to);
	if (!*ends->to)
		return copy_children(copy, ends->from_dir, ends->to_dir);
	return copy_directory(copy, ends->from_dir, ".", ends->to_dir, ends->to);
}

int copy_path(const struct copy_tree *from_tree, const char *from, const struct copy_tree *to_tree,
	      const char *to, const struct copy_options *options, struct why *why)
{
	struct copy copy = {.options = options, .path = from, .why = why};
	_cleanup_(ends_close) struct ends ends = {.from_dir = -1, .to_dir = -1};
	int r = open_parent(from_tree, from, ends.from, &ends.from_dir);

	if (!r && options->follow)
		r = follow_link(from_tree, from, ends.from, &ends.from_dir);
	if (r)
		return why_errno(why, r, "%s", from);
	r = find_to(to_tree, to, ends.from, &ends);
	if (r)
		return why_errno(why, r, "%s", to);
	return check_kinds(&copy, &ends, to) ?: copy_between(&copy, &ends);
}
