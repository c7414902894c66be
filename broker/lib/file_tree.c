/* Making and removing directories. */

#include <fcntl.h>
#include <linux/openat2.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "broker/lib/file.h"

/* ---- making ---- */

/* Opens @name beneath @dirfd, making it if it is not there. @is_last refuses a link. */
static int enter(int dirfd, const char *name, mode_t mode, bool is_last, int *ret_fd)
{
	int flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC | (is_last ? O_NOFOLLOW : 0);
	_cleanup_(cleanup_fd) int fd = -1;
	struct stat status;
	bool is_new;

	is_new = mkdirat(dirfd, name, mode & 0700) == 0;
	if (!is_new && errno != EEXIST)
		return error_origin(-errno);
	fd = openat(dirfd, name, flags);
	if (fd < 0)
		return error_origin(-errno);
	if (fstat(fd, &status) < 0)
		return error_origin(-errno);
	if (is_last && status.st_uid == geteuid() && (status.st_mode & 07777 & ~mode))
		is_new = true;
	/* What mkdir gave was cut by the umask. */
	if (is_new && fchmod(fd, mode) < 0)
		return error_origin(-errno);
	*ret_fd = TAKE_FD(fd);
	return 0;
}

/* Above the last component nothing is made that is there, whatever we may do in it. */
static int enter_existing(int dirfd, const char *name, int *ret_fd)
{
	int fd = openat(dirfd, name, O_PATH | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	*ret_fd = fd;
	return 0;
}

static int make_dir(char *path, mode_t mode)
{
	_cleanup_(cleanup_fd) int fd = -1;
	char *rest = path, *name;
	int r;

	fd = open(path[0] == '/' ? "/" : ".", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return error_origin(-errno);
	while ((name = strsep(&rest, "/"))) {
		bool is_last = !rest || !rest[strspn(rest, "/")];
		int next = -1;

		if (!name[0])
			continue;
		r = is_last ? -ENOENT : enter_existing(fd, name, &next);
		if (r == -ENOENT)
			r = enter(fd, name, mode, is_last, &next);
		if (r)
			return error_trace(r);
		close_fd(fd);
		fd = next;
		if (is_last)
			break;
	}
	return 0;
}

int file_make_dir(const char *path, mode_t mode, struct why *why)
{
	_cleanup_(cleanup_free) char *copy = strdup(path);
	int r = copy ? make_dir(copy, mode) : -ENOMEM;

	return r ? why_errno(why, error_trace(r), "cannot make the directory %s", path) : 0;
}

/* ---- removing ---- */

/* A deeper tree is first made flat, so that neither the stack nor our descriptors bound it. */
#define TREE_DEPTH_MAX 64

struct removal {
	int top; /* the tree's own directory; -1 above it */
	unsigned n_hoisted;
	unsigned depth;
	struct why *why;
};

static int remove_entry(struct removal *removal, int dirfd, const char *name, unsigned char type);

static int open_beneath(int dirfd, const char *name)
{
	struct open_how how = {
		.flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC,
		.resolve = RESOLVE_NO_XDEV | RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH,
	};

	return (int)syscall(SYS_openat2, dirfd, name, &how, sizeof(how));
}

static bool is_dots(const char *name)
{
	return !strcmp(name, ".") || !strcmp(name, "..");
}

/* Takes @fd. */
static int remove_entries(struct removal *removal, int fd)
{
	_cleanup_(cleanup_dir) DIR *dir = NULL;
	struct dirent *entry;
	int r;

	dir = fdopendir(fd);
	if (!dir) {
		close_fd(fd);
		return error_origin(-errno);
	}
	for (;;) {
		errno = 0;
		entry = readdir(dir);
		if (!entry)
			return errno ? error_origin(-errno) : 0;
		if (is_dots(entry->d_name))
			continue;
		r = remove_entry(removal, fd, entry->d_name, entry->d_type);
		if (r)
			return r;
	}
}

/* Moves a directory that lies too deep to the top, where the next pass finds it. */
static int hoist(struct removal *removal, int dirfd, const char *name)
{
	char hoisted[64];

	for (;;) {
		snprintf(hoisted, sizeof(hoisted), ".davit-hoisted-%u", removal->n_hoisted++);
		if (renameat(dirfd, name, removal->top, hoisted) == 0)
			return 0;
		/* The name may be taken by the tree's own contents, or by a removal that was cut. */
		if (errno != EEXIST && errno != ENOTEMPTY && errno != ENOTDIR)
			return error_origin(-errno);
	}
}

static int remove_name(struct removal *removal, int dirfd, const char *name, int flags)
{
	int r;

	if (unlinkat(dirfd, name, flags) == 0 || errno == ENOENT)
		return 0;
	r = error_origin(-errno);
	return why_errno(removal->why, r, "cannot remove %s", name);
}

static int remove_dir(struct removal *removal, int dirfd, const char *name)
{
	int fd, r;

	fd = open_beneath(dirfd, name);
	if (fd < 0 && errno == ENOENT)
		return 0;
	if (fd < 0 && errno == EXDEV)
		return why_set(removal->why, error_origin(-EBUSY), "%s is a mount point", name);
	if (fd < 0)
		return why_errno(removal->why, error_origin(-errno), "cannot open %s", name);
	if (removal->depth == TREE_DEPTH_MAX) {
		close_fd(fd);
		return hoist(removal, dirfd, name);
	}
	removal->depth++;
	r = remove_entries(removal, fd);
	removal->depth--;
	return r ? r : remove_name(removal, dirfd, name, AT_REMOVEDIR);
}

static int remove_entry(struct removal *removal, int dirfd, const char *name, unsigned char type)
{
	struct stat status;

	if (type == DT_UNKNOWN) {
		if (fstatat(dirfd, name, &status, AT_SYMLINK_NOFOLLOW) < 0)
			return errno == ENOENT ? 0 : error_origin(-errno);
		type = IFTODT(status.st_mode);
	}
	if (type == DT_DIR)
		return remove_dir(removal, dirfd, name);
	return remove_name(removal, dirfd, name, 0);
}

/* Empties the tree's own directory, pass by pass until nothing was hoisted into it any more. */
static int remove_contents(struct removal *removal, int parent, const char *name)
{
	unsigned n_hoisted;
	int fd, r;

	do {
		n_hoisted = removal->n_hoisted;
		fd = open_beneath(parent, name);
		if (fd < 0)
			return error_origin(-errno);
		r = remove_entries(removal, fd);
		if (r)
			return r;
	} while (removal->n_hoisted != n_hoisted);
	return 0;
}

static int remove_top(struct removal *removal, int parent, const char *name)
{
	_cleanup_(cleanup_fd) int top = -1;
	struct stat status;
	int r;

	if (fstatat(parent, name, &status, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0 : error_origin(-errno);
	if (!S_ISDIR(status.st_mode))
		return remove_name(removal, parent, name, 0);
	top = open_beneath(parent, name);
	if (top < 0 && errno == EXDEV)
		return why_set(removal->why, error_origin(-EBUSY), "it is a mount point");
	if (top < 0)
		return error_origin(-errno);
	removal->top = top;
	r = remove_contents(removal, parent, name);
	return r ? r : remove_name(removal, parent, name, AT_REMOVEDIR);
}

/* Opens the directory above the last component of @path, which is left in @path's place. */
static int open_parent(int dirfd, char **path)
{
	size_t size = strlen(*path);
	char *slash;

	while (size > 1 && (*path)[size - 1] == '/')
		(*path)[--size] = '\0';
	slash = strrchr(*path, '/');
	if (!slash)
		return openat(dirfd, ".", O_PATH | O_DIRECTORY | O_CLOEXEC);
	*slash = '\0';
	dirfd = openat(dirfd, slash == *path ? "/" : *path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	*path = slash + 1;
	return dirfd;
}

int file_remove_tree(int dirfd, const char *name, struct why *why)
{
	_cleanup_(cleanup_free) char *copy = strdup(name);
	_cleanup_(cleanup_fd) int parent = -1;
	struct why inner = {};
	struct removal removal = {.top = -1, .why = &inner};
	char *last = copy;
	int r;

	if (!copy)
		return error_origin(-ENOMEM);
	parent = open_parent(dirfd, &last);
	if (parent < 0 && errno == ENOENT)
		return 0;
	if (parent < 0)
		r = error_origin(-errno);
	else if (!last[0] || is_dots(last))
		r = error_origin(-EINVAL);
	else
		r = remove_top(&removal, parent, last);
	if (!r)
		return 0;
	if (inner.text[0])
		return why_set(why, r, "cannot remove the directory %s: %s", name, inner.text);
	return why_errno(why, r, "cannot remove the directory %s", name);
}
