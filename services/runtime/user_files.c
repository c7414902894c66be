/*
 * etc/passwd and etc/group of an image's root, which is not mounted at this
 * time. An overlay is put together detached (fsopen, lowerdir+, fsmount): no
 * path leads to it and mountinfo does not show it. Kernels before 6.5 cannot
 * take layers one by one, nor an overlay of a single layer: there the layers
 * are looked through from the top.
 */

#include <fcntl.h>
#include <linux/openat2.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "broker/lib/file.h"
#include "services/runtime/user.h"

#define LAYERS_MAX 512

void user_files_clear(struct user_files *files)
{
	free(files->passwd);
	free(files->group);
	*files = (struct user_files){};
}

/* ---- one file beneath an open root ---- */

static int open_beneath(int root, const char *path, uint64_t resolve)
{
	return file_open_in(root, path, O_PATH, resolve | RESOLVE_NO_MAGICLINKS);
}

/* @fd was opened with O_PATH, so that looking at a device or a FIFO does nothing. */
static int read_regular(int fd, const char *path, char **ret_text, struct why *why)
{
	char link[sizeof("/proc/self/fd/") + 10];
	_cleanup_(cleanup_fd) int file = -1;
	_cleanup_(cleanup_free) char *text = NULL;
	struct stat status;
	ssize_t n;
	size_t size = 0;

	if (fstat(fd, &status))
		return error_origin(-errno);
	if (!S_ISREG(status.st_mode))
		return why_set(why, SPEC_E_INVALID, "the container's %s is not a regular file",
			       path);
	if (status.st_size > USER_FILE_MAX)
		return why_set(why, SPEC_E_INVALID, "the container's %s is larger than %u bytes",
			       path, USER_FILE_MAX);
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	file = open(link, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	text = malloc((size_t)status.st_size + 1);
	if (file < 0 || !text)
		return error_origin(file < 0 ? -errno : -ENOMEM);
	while (size < (size_t)status.st_size) {
		n = read(file, text + size, (size_t)status.st_size - size);
		if (n < 0)
			return why_errno(why, error_origin(-errno),
					 "cannot read the container's %s", path);
		if (!n)
			break;
		size += (size_t)n;
	}
	text[size] = '\0';
	*ret_text = TAKE(text);
	return 0;
}

/* A file that is not there leaves @ret_text alone. */
static int read_in_root(int root, const char *path, char **ret_text, struct why *why)
{
	_cleanup_(cleanup_fd) int fd = open_beneath(root, path, RESOLVE_IN_ROOT);

	if (fd == -ENOENT || fd == -ENOTDIR)
		return 0;
	if (fd < 0)
		return why_set(why, SPEC_E_INVALID, "cannot open the container's %s: %s", path,
			       strerror(-fd));
	return read_regular(fd, path, ret_text, why);
}

static int read_both(int root, struct user_files *files, struct why *why)
{
	return read_in_root(root, "etc/passwd", &files->passwd, why)
		       ?: read_in_root(root, "etc/group", &files->group, why);
}

int user_files_read_root(int root, struct user_files *ret_files, struct why *why)
{
	_cleanup_(user_files_clear) struct user_files files = {};
	int r = read_both(root, &files, why);

	if (r)
		return r;
	*ret_files = files;
	files = (struct user_files){};
	return 0;
}

static int read_directory(const char *path, struct user_files *files, struct why *why)
{
	_cleanup_(cleanup_fd) int root = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);

	if (root < 0)
		return why_set(why, SPEC_E_INVALID, "root file system '%.256s': %s", path,
			       strerror(errno));
	return read_both(root, files, why);
}

/* ---- layers ---- */

/* From the top: the writable one, if any, then the others. */
struct layers {
	struct schema_strs paths;
	bool has_user_xattrs;
};

static void layers_clear(struct layers *layers)
{
	schema_strs_clear(&layers->paths);
}

static int add_lower(struct layers *layers, const char *list)
{
	while (*list) {
		size_t length = strcspn(list, ":");
		_cleanup_(cleanup_free) char *path = strndup(list, length);
		int r = path ? schema_strs_add(&layers->paths, path) : error_origin(-ENOMEM);

		if (r)
			return error_trace(r);
		list += length + (list[length] == ':');
	}
	return 0;
}

static int read_layers(const struct mount *mount, struct layers *layers, struct why *why)
{
	int r = 0;

	for (size_t i = 0; !r && i < mount->options.count; i++)
		if (!strncmp(mount->options.items[i], "upperdir=", 9))
			r = schema_strs_add(&layers->paths, mount->options.items[i] + 9);
	for (size_t i = 0; !r && i < mount->options.count; i++)
		if (!strncmp(mount->options.items[i], "lowerdir=", 9))
			r = add_lower(layers, mount->options.items[i] + 9);
		else if (!strncmp(mount->options.items[i], "lowerdir+=", 10))
			r = schema_strs_add(&layers->paths, mount->options.items[i] + 10);
		else if (!strcmp(mount->options.items[i], "userxattr"))
			layers->has_user_xattrs = true;
	if (!r && (!layers->paths.count || layers->paths.count > LAYERS_MAX))
		r = why_set(why, SPEC_E_INVALID, "overlay mount has %zu layers",
			    layers->paths.count);
	return r;
}

/* -1 where the kernel cannot do it. */
static int open_overlay(const struct layers *layers)
{
	_cleanup_(cleanup_fd) int context = fsopen("overlay", FSOPEN_CLOEXEC);

	if (context < 0 || fsconfig(context, FSCONFIG_SET_FLAG, "ro", NULL, 0) ||
	    (layers->has_user_xattrs && fsconfig(context, FSCONFIG_SET_FLAG, "userxattr", NULL, 0)))
		return -1;
	for (size_t i = 0; i < layers->paths.count; i++)
		if (fsconfig(context, FSCONFIG_SET_STRING, "lowerdir+", layers->paths.items[i], 0))
			return -1;
	if (fsconfig(context, FSCONFIG_CMD_CREATE, NULL, NULL, 0))
		return -1;
	return fsmount(context, FSMOUNT_CLOEXEC,
		       MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV |
			       MOUNT_ATTR_NOEXEC);
}

static bool is_whiteout(int fd)
{
	struct stat status;

	return !fstat(fd, &status) && S_ISCHR(status.st_mode) && !status.st_rdev;
}

static bool is_opaque(const char *layer, bool has_user_xattrs)
{
	_cleanup_(cleanup_free) char *etc = text_format("%s/etc", layer);
	char value = 0;

	return etc &&
	       lgetxattr(etc, has_user_xattrs ? "user.overlay.opaque" : "trusted.overlay.opaque",
			 &value, 1) == 1 &&
	       value == 'y';
}

/* Whether the search ends in this layer: with the file, or because the layer hides what is below. */
static int look_in_layer(const struct layers *layers, size_t index, const char *path,
			 char **ret_text, bool *ret_is_end, struct why *why)
{
	const char *layer = layers->paths.items[index];
	_cleanup_(cleanup_fd) int root = open(layer, O_PATH | O_DIRECTORY | O_CLOEXEC);
	_cleanup_(cleanup_fd) int etc = -1, fd = -1;

	if (root < 0)
		return why_set(why, SPEC_E_INVALID, "layer '%.256s': %s", layer, strerror(errno));
	etc = openat(root, "etc", O_PATH | O_NOFOLLOW | O_CLOEXEC);
	fd = open_beneath(root, path, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS);
	if (fd == -ELOOP)
		return why_set(why, SPEC_E_INVALID,
			       "the container's %s is a symbolic link, which this kernel's overlay "
			       "file system does not let davit follow",
			       path);
	if (fd < 0 && fd != -ENOENT && fd != -ENOTDIR)
		return why_set(why, SPEC_E_INVALID, "cannot open the container's %s: %s", path,
			       strerror(-fd));
	*ret_is_end = fd >= 0 || (etc >= 0 && is_whiteout(etc)) ||
		      is_opaque(layer, layers->has_user_xattrs);
	if (fd < 0 || is_whiteout(fd))
		return 0;
	return read_regular(fd, path, ret_text, why);
}

static int look_through(const struct layers *layers, const char *path, char **ret_text,
			struct why *why)
{
	bool is_end = false;
	int r = 0;

	for (size_t i = 0; !r && !is_end && i < layers->paths.count; i++)
		r = look_in_layer(layers, i, path, ret_text, &is_end, why);
	return r;
}

static int look_for_both(const struct layers *layers, struct user_files *files, struct why *why)
{
	return look_through(layers, "etc/passwd", &files->passwd, why)
		       ?: look_through(layers, "etc/group", &files->group, why);
}

int user_files_read_layers(const struct mount *mount, struct user_files *ret_files, struct why *why)
{
	_cleanup_(user_files_clear) struct user_files files = {};
	_cleanup_(layers_clear) struct layers layers = {};
	int r = read_layers(mount, &layers, why) ?: look_for_both(&layers, &files, why);

	if (r)
		return r;
	*ret_files = files;
	files = (struct user_files){};
	return 0;
}

static int read_overlay(const struct mount *mount, struct user_files *files, struct why *why)
{
	_cleanup_(layers_clear) struct layers layers = {};
	_cleanup_(cleanup_fd) int root = -1;
	int r = read_layers(mount, &layers, why);

	if (r)
		return r;
	if (layers.paths.count == 1)
		return read_directory(layers.paths.items[0], files, why);
	root = open_overlay(&layers);
	return root >= 0 ? read_both(root, files, why) : look_for_both(&layers, files, why);
}

int user_files_read(const struct mount *mounts, size_t n_mounts, const char *rootfs,
		    struct user_files *ret_files, struct why *why)
{
	_cleanup_(user_files_clear) struct user_files files = {};
	int r = 0;

	if (rootfs && *rootfs)
		r = read_directory(rootfs, &files, why);
	else if (n_mounts && mounts[0].type && !strcmp(mounts[0].type, "overlay"))
		r = read_overlay(&mounts[0], &files, why);
	else if (n_mounts && mounts[0].source && *mounts[0].source == '/')
		r = read_directory(mounts[0].source, &files, why);
	else if (n_mounts)
		r = why_set(why, SPEC_E_INVALID, "cannot look into a root of type '%s'",
			    mounts[0].type ? mounts[0].type : "");
	if (r)
		return r;
	*ret_files = files;
	files = (struct user_files){};
	return 0;
}
