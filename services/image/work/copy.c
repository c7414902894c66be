/* Copying: see copy.h. Nothing is followed: each step is one name beneath an open directory. */

#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/xattr.h>

#include "broker/lib/file.h"
#include "services/image/work/copy.h"
#include "services/image/work/inodes.h"

#define XATTRS_MAX 65536
#define DEPTH_MAX  300
#define COPY_SIZE  65536
#define OPAQUE     "trusted.overlay.opaque"

/* ---- extended attributes ---- */

/* The names on @fd, one after the other; 0 bytes where there are none. */
static int list_xattrs(int fd, char **ret_names, ssize_t *ret_size)
{
	_cleanup_(cleanup_free) char *names = NULL;
	ssize_t size = flistxattr(fd, NULL, 0);

	*ret_size = 0;
	*ret_names = NULL;
	if (size <= 0)
		return size == 0 || errno == EOPNOTSUPP ? 0 : error_origin(-errno);
	names = malloc((size_t)size);
	if (!names)
		return error_origin(-ENOMEM);
	size = flistxattr(fd, names, (size_t)size);
	if (size < 0)
		return error_origin(-errno);
	*ret_size = size;
	*ret_names = TAKE(names);
	return 0;
}

int copy_clear_xattrs(int fd)
{
	_cleanup_(cleanup_free) char *names = NULL;
	ssize_t size;
	int r;

	r = list_xattrs(fd, &names, &size);
	if (r)
		return error_trace(r);
	for (const char *name = names; size && name < names + size; name += strlen(name) + 1) {
		if (!strcmp(name, OPAQUE) || !strncmp(name, "security.selinux", 16))
			continue;
		if (fremovexattr(fd, name) < 0 && errno != ENODATA)
			return error_origin(-errno);
	}
	return 0;
}

static int copy_xattrs(int from, int to)
{
	_cleanup_(cleanup_free) char *names = NULL, *value = NULL;
	ssize_t size, length;
	int r;

	r = list_xattrs(from, &names, &size);
	if (r || !size)
		return error_trace(r);
	value = malloc(XATTRS_MAX);
	if (!value)
		return error_origin(-ENOMEM);
	for (const char *name = names; name < names + size; name += strlen(name) + 1) {
		if (!strncmp(name, "trusted.overlay.", 16) || !strcmp(name, "security.selinux"))
			continue;
		length = fgetxattr(from, name, value, XATTRS_MAX);
		if (length < 0)
			return error_origin(-errno);
		if (fsetxattr(to, name, value, (size_t)length, 0) < 0)
			return error_origin(-errno);
	}
	return 0;
}

int copy_metadata(int from, int to, const struct stat *status)
{
	const struct timespec times[] = {status->st_atim, status->st_mtim};
	int r;

	if (fchown(to, status->st_uid, status->st_gid) < 0)
		return error_origin(-errno);
	if (fchmod(to, status->st_mode & 07777) < 0)
		return error_origin(-errno);
	r = copy_xattrs(from, to);
	if (r)
		return error_trace(r);
	if (futimens(to, times) < 0)
		return error_origin(-errno);
	return 0;
}

/* ---- content ---- */

/* One stretch of data by hand: between file systems of different kinds the kernel does not copy. */
static int copy_bytes(int from, int to, off_t start, off_t end)
{
	static char block[COPY_SIZE];

	if (lseek(to, start, SEEK_SET) < 0)
		return error_origin(-errno);
	while (start < end) {
		size_t size = end - start < COPY_SIZE ? (size_t)(end - start) : COPY_SIZE;
		ssize_t n = pread(from, block, size, start);
		int r;

		if (n <= 0)
			return error_origin(n < 0 ? -errno : -EIO);
		r = file_write_all(to, block, (size_t)n);
		if (r)
			return error_trace(r);
		start += n;
	}
	return 0;
}

/* One stretch of data; offsets are the same on both sides. */
static int copy_range(int from, int to, off_t start, off_t end)
{
	off_t in = start, out = start;

	while (in < end) {
		ssize_t n = copy_file_range(from, &in, to, &out, (size_t)(end - in), 0);

		if (n < 0 && (errno == EXDEV || errno == EOPNOTSUPP || errno == EINVAL))
			return error_trace(copy_bytes(from, to, in, end));
		if (n <= 0)
			return error_origin(n < 0 ? -errno : -EIO);
	}
	return 0;
}

/* Data where there is data, holes where there are holes. */
static int copy_content(int from, int to, off_t size)
{
	off_t start = 0, end;
	int r;

	if (!size || ioctl(to, FICLONE, from) == 0)
		return 0;
	if (ftruncate(to, size) < 0)
		return error_origin(-errno);
	while (start < size) {
		start = lseek(from, start, SEEK_DATA);
		if (start < 0)
			return errno == ENXIO ? 0 : error_origin(-errno);
		end = lseek(from, start, SEEK_HOLE);
		if (end < 0)
			return error_origin(-errno);
		r = copy_range(from, to, start, end < size ? end : size);
		if (r)
			return error_trace(r);
		start = end;
	}
	return 0;
}

static int copy_file(int from_dir, int to_dir, const char *name)
{
	_cleanup_(cleanup_fd) int from = -1, to = -1;
	struct stat status;
	int r;

	from = openat(from_dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (from < 0)
		return error_origin(-errno);
	if (fstat(from, &status) < 0)
		return error_origin(-errno);
	if (!S_ISREG(status.st_mode))
		return error_origin(-EAGAIN);
	to = openat(to_dir, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (to < 0)
		return error_origin(-errno);
	r = copy_content(from, to, status.st_size);
	if (!r)
		r = copy_metadata(from, to, &status);
	return error_trace(r);
}

/* Xattrs of what cannot be opened: by name in the directory of which this process is in, never followed. */
static int copy_link_xattrs(int from_dir, int to_dir, const char *name)
{
	char names[4096], value[4096];
	ssize_t size, length;

	if (fchdir(from_dir) < 0)
		return error_origin(-errno);
	size = llistxattr(name, names, sizeof(names));
	for (const char *key = names; size > 0 && key < names + size; key += strlen(key) + 1) {
		if (!strncmp(key, "trusted.overlay.", 16) || !strcmp(key, "security.selinux"))
			continue;
		if (fchdir(from_dir) < 0)
			return error_origin(-errno);
		length = lgetxattr(name, key, value, sizeof(value));
		if (length < 0 || fchdir(to_dir) < 0 ||
		    lsetxattr(name, key, value, (size_t)length, 0) < 0)
			return error_origin(-errno);
	}
	return 0;
}

static int make_special(int from_dir, int to_dir, const char *name, const struct stat *status)
{
	char target[PATH_MAX];
	ssize_t size;

	if (!S_ISLNK(status->st_mode)) {
		if (mknodat(to_dir, name, status->st_mode, status->st_rdev) < 0)
			return error_origin(-errno);
		return 0;
	}
	size = readlinkat(from_dir, name, target, sizeof(target) - 1);
	if (size < 0)
		return error_origin(-errno);
	target[size] = '\0';
	if (symlinkat(target, to_dir, name) < 0)
		return error_origin(-errno);
	return 0;
}

int copy_entry(int from_dir, int to_dir, const char *name)
{
	struct timespec times[2];
	struct stat status;
	int r;

	if (fstatat(from_dir, name, &status, AT_SYMLINK_NOFOLLOW) < 0)
		return error_origin(-errno);
	if (S_ISREG(status.st_mode))
		return error_trace(copy_file(from_dir, to_dir, name));
	r = make_special(from_dir, to_dir, name, &status);
	if (r)
		return error_trace(r);
	if (fchownat(to_dir, name, status.st_uid, status.st_gid, AT_SYMLINK_NOFOLLOW) < 0)
		return error_origin(-errno);
	r = copy_link_xattrs(from_dir, to_dir, name);
	if (r)
		return error_trace(r);
	times[0] = status.st_atim;
	times[1] = status.st_mtim;
	if (utimensat(to_dir, name, times, AT_SYMLINK_NOFOLLOW) < 0)
		return error_origin(-errno);
	return 0;
}

/* ---- whole trees ---- */

struct copying {
	int root; /* of the new tree */
	struct inodes links;
	char **paths; /* links' values are 1 + index in here */
	size_t n_paths;
	char path[PATH_MAX]; /* of the directory that is copied */
	unsigned depth;
};

static int copy_dir(struct copying *copying, int from, int to);

static int note_link(struct copying *copying, uint64_t inode, const char *name)
{
	char **paths = reallocarray(copying->paths, copying->n_paths + 1, sizeof(*paths));

	if (!paths)
		return error_origin(-ENOMEM);
	copying->paths = paths;
	paths[copying->n_paths] = text_format("%s%s", copying->path, name);
	if (!paths[copying->n_paths])
		return error_origin(-ENOMEM);
	return error_trace(inodes_set(&copying->links, inode, ++copying->n_paths));
}

/* A file with several names: the first is copied, the others are linked to it. */
static int copy_linked(struct copying *copying, int from, int to, const char *name,
		       const struct stat *status)
{
	uint64_t index = inodes_get(&copying->links, status->st_ino);
	int r;

	if (index) {
		if (linkat(copying->root, copying->paths[index - 1], to, name, 0) < 0)
			return error_origin(-errno);
		return 0;
	}
	r = copy_entry(from, to, name);
	if (!r)
		r = note_link(copying, status->st_ino, name);
	return error_trace(r);
}

static int copy_child_dir(struct copying *copying, int from, int to, const char *name)
{
	size_t length = strlen(copying->path);
	_cleanup_(cleanup_fd) int from_child = -1, to_child = -1;
	int r;

	if (length + strlen(name) + 2 > sizeof(copying->path) || copying->depth == DEPTH_MAX)
		return error_origin(-ENAMETOOLONG);
	from_child = openat(from, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (from_child < 0)
		return error_origin(-errno);
	if (mkdirat(to, name, 0700) < 0)
		return error_origin(-errno);
	to_child = openat(to, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (to_child < 0)
		return error_origin(-errno);
	strcat(strcat(copying->path, name), "/");
	copying->depth++;
	r = copy_dir(copying, from_child, to_child);
	copying->depth--;
	copying->path[length] = '\0';
	return error_trace(r);
}

static int copy_child(struct copying *copying, int from, int to, const char *name)
{
	struct stat status;

	if (fstatat(from, name, &status, AT_SYMLINK_NOFOLLOW) < 0)
		return error_origin(-errno);
	if (S_ISDIR(status.st_mode))
		return error_trace(copy_child_dir(copying, from, to, name));
	if (status.st_nlink > 1)
		return error_trace(copy_linked(copying, from, to, name, &status));
	return error_trace(copy_entry(from, to, name));
}

static int copy_dir(struct copying *copying, int from, int to)
{
	_cleanup_(cleanup_dir) DIR *dir = NULL;
	struct dirent *entry;
	struct stat status;
	int fd, r;

	fd = openat(from, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return error_origin(-errno);
	dir = fdopendir(fd);
	if (!dir) {
		close_fd(fd);
		return error_origin(-ENOMEM);
	}
	while ((errno = 0, entry = readdir(dir))) {
		if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
			continue;
		r = copy_child(copying, from, to, entry->d_name);
		if (r)
			return error_trace(r);
	}
	if (errno)
		return error_origin(-errno);
	if (fstat(from, &status) < 0)
		return error_origin(-errno);
	return error_trace(copy_metadata(from, to, &status));
}

int copy_tree(int from, int to, struct why *why)
{
	struct copying copying = {.root = to};
	int r;

	r = copy_dir(&copying, from, to);
	if (r)
		why_errno(why, r, "cannot copy directory '/%s' of the layer below",
			  work_show(copying.path));
	for (size_t i = 0; i < copying.n_paths; i++)
		free(copying.paths[i]);
	free(copying.paths);
	inodes_clear(&copying.links);
	return r;
}
