/* See netns.h. */

#include "services/runtime/netns.h"

#include <dirent.h>
#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "broker/lib/file.h"

#define NSFS_MAGIC 0x6e736673
#define OWN        "/proc/self/ns/net"

char *netns_path(const char *state, const char *task_id)
{
	return text_format("%s/netns/%s", state, task_id);
}

bool netns_exists(const char *path)
{
	struct statfs status;

	return !statfs(path, &status) && status.f_type == NSFS_MAGIC;
}

/* ---- the directory ---- */

/* Locked while its mount, or one in it, is made or taken away. */
static int open_directory(const char *state, char **ret_path, int *ret_fd, struct why *why)
{
	_cleanup_(cleanup_free) char *path = text_format("%s/netns", state);
	_cleanup_(cleanup_fd) int fd = -1;
	int r = path ? file_make_dir(path, 0711, why) : error_origin(-ENOMEM);

	if (r)
		return r;
	fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || flock(fd, LOCK_EX))
		return why_errno(why, error_origin(-errno), "%s", path);
	*ret_path = TAKE(path);
	*ret_fd = TAKE_FD(fd);
	return 0;
}

static bool is_mounted(const char *path)
{
	struct statx status;

	return !statx(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT, STATX_TYPE, &status) &&
	       (status.stx_attributes & STATX_ATTR_MOUNT_ROOT);
}

static int mount_directory(const char *path, struct why *why)
{
	if (is_mounted(path))
		return 0;
	if (mount(path, path, NULL, MS_BIND, NULL) || mount(NULL, path, NULL, MS_SHARED, NULL))
		return why_errno(why, error_origin(-errno), "mounting %s on itself", path);
	return 0;
}

static bool is_empty(const char *path)
{
	_cleanup_(cleanup_dir) DIR *dir = opendir(path);
	struct dirent *entry;

	while (dir && (entry = readdir(dir)))
		if (*entry->d_name != '.')
			return false;
	return dir;
}

static int unmount_directory(const char *path, struct why *why)
{
	if (!is_empty(path) || !is_mounted(path) || !umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW))
		return 0;
	return why_errno(why, error_origin(-errno), "unmounting %s", path);
}

/* ---- the namespace ---- */

static int raise_loopback(struct why *why)
{
	_cleanup_(cleanup_fd) int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct ifreq request = {.ifr_name = "lo"};

	if (fd < 0 || ioctl(fd, SIOCGIFFLAGS, &request))
		return why_errno(why, error_origin(-errno), "the loopback interface");
	request.ifr_flags |= IFF_UP;
	if (ioctl(fd, SIOCSIFFLAGS, &request))
		return why_errno(why, error_origin(-errno), "the loopback interface");
	return 0;
}

static int bind_new(const char *path, struct why *why)
{
	_cleanup_(cleanup_fd) int host = open(OWN, O_RDONLY | O_CLOEXEC);
	int r;

	if (host < 0 || unshare(CLONE_NEWNET))
		return why_errno(why, error_origin(-errno), "a new network namespace");
	r = raise_loopback(why);
	if (!r && mount(OWN, path, NULL, MS_BIND, NULL))
		r = why_errno(why, error_origin(-errno), "binding the network namespace to %s",
			      path);
	if (setns(host, CLONE_NEWNET))
		return why_errno(why, error_origin(-errno), "back to the host's network namespace");
	return r;
}

int netns_make(const char *state, const char *task_id, struct why *why)
{
	_cleanup_(cleanup_free) char *directory = NULL, *path = netns_path(state, task_id);
	_cleanup_(cleanup_fd) int lock = -1, fd = -1;
	int r = path ? open_directory(state, &directory, &lock, why) : error_origin(-ENOMEM);

	r = r ?: mount_directory(directory, why);
	if (r)
		return r;
	fd = open(path, O_RDONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	r = fd < 0 ? why_errno(why, error_origin(-errno), "%s", path) : bind_new(path, why);
	if (r && fd >= 0)
		(void)unlink(path);
	if (r)
		(void)unmount_directory(directory, NULL);
	return r;
}

int netns_remove(const char *state, const char *task_id, struct why *why)
{
	_cleanup_(cleanup_free) char *directory = NULL, *path = netns_path(state, task_id);
	_cleanup_(cleanup_fd) int lock = -1;
	int r = path ? open_directory(state, &directory, &lock, why) : error_origin(-ENOMEM);

	if (r)
		return r;
	while (netns_exists(path))
		if (umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW))
			return why_errno(why, error_origin(-errno), "unmounting %s", path);
	if (unlink(path) && errno != ENOENT)
		return why_errno(why, error_origin(-errno), "%s", path);
	return unmount_directory(directory, why);
}
