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

/* Moves a directory that lies too deep to the top, under a name that nobody has. */
static int hoist(struct removal *removal, int dirfd, const char *name)
{
	char hoisted[64];

	do
		snprintf(hoisted, sizeof(hoisted), ".davit-hoisted-%u", removal->n_hoisted++);
	while (renameat2(dirfd, name, removal->top, hoisted, RENAME_NOREPLACE) < 0 &&
	       errno == EEXIST);
	/* errno is that of the last attempt, and 0 after success is nobody's promise. */
	return faccessat(removal->top, hoisted, F_OK, AT_SYMLINK_NOFOLLOW) < 0
		       ? error_origin(-errno)
		       : 0;
}
