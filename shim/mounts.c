#include "shim/mounts.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "broker/lib/file.h"
#include "broker/lib/log.h"
#include "shim/mount_options.h"

/* fsconfig(2) takes strings of at most 255 bytes, mount(2) a page of options. */
#define FSCONFIG_STRING_MAX 255
#define MOUNT_DATA_MAX      4095
#define UNIFIED             "/sys/fs/cgroup/unified"

/* crun makes directories where it was: systemd has what lies below read-only, and no place there is ours. */
static int detach_unified(struct why *why)
{
	struct statvfs status;

	if (umount2(UNIFIED, MNT_DETACH | UMOUNT_NOFOLLOW) && errno != EINVAL && errno != ENOENT)
		return why_errno(why, error_origin(-errno), "cannot detach " UNIFIED);
	if (statvfs(UNIFIED, &status) || !(status.f_flag & ST_RDONLY))
		return 0;
	if (mount("tmpfs", UNIFIED, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "size=64k,mode=755"))
		return why_errno(why, error_origin(-errno), "cannot cover " UNIFIED);
	return 0;
}

int mounts_enter(bool is_hybrid, struct why *why)
{
	if (unshare(CLONE_NEWNS))
		return why_errno(why, error_origin(-errno), "cannot make a mount namespace");
	if (mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL))
		return why_errno(why, error_origin(-errno),
				 "cannot make / a slave in the mount namespace");
	return is_hybrid ? detach_unified(why) : 0;
}

/* ---- where --------------------------------------------------------------- */

/* The directory beneath @root that @target names; links in it never lead out of @root. */
static int open_target(const char *root, const char *target, int *ret_fd, struct why *why)
{
	_cleanup_(cleanup_fd) int root_fd = -1;
	int fd;

	root_fd = open(root, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (root_fd < 0)
		return why_errno(why, error_origin(-errno), "cannot open %s", root);
	if (!target || !*target) {
		*ret_fd = TAKE_FD(root_fd);
		return 0;
	}
	fd = file_open_in(root_fd, target, O_PATH | O_DIRECTORY,
			  RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS);
	if (fd < 0)
		return why_errno(why, error_origin(fd), "cannot mount on %s in %s", target, root);
	*ret_fd = fd;
	return 0;
}

/* ---- with fsopen(2) ------------------------------------------------------ */

/* The kernel's own words, if it has any. */
static int explain(int fs, int r, const struct mount *mount, struct why *why)
{
	char text[256];
	ssize_t n = read(fs, text, sizeof(text) - 1);

	if (n <= 2)
		return why_errno(why, r, "cannot mount %s", mount->type);
	text[n] = '\0';
	return why_errno(why, r, "cannot mount %s (%s)", mount->type, text + 2);
}

static int set_data(int fs, const char *option)
{
	const char *value = strchr(option, '=');
	_cleanup_(cleanup_free) char *key = NULL;
	int r;

	if (!value)
		return fsconfig(fs, FSCONFIG_SET_FLAG, option, NULL, 0) ? -errno : 0;
	key = strndup(option, (size_t)(value - option));
	if (!key)
		return error_origin(-ENOMEM);
	r = fsconfig(fs, FSCONFIG_SET_STRING, key, value + 1, 0);
	return r ? -errno : 0;
}

static int configure(int fs, const struct mount *mount, const struct mount_options *options)
{
	int r = 0;

	if (mount->source && *mount->source &&
	    fsconfig(fs, FSCONFIG_SET_STRING, "source", mount->source, 0))
		return -errno;
	for (size_t i = 0; i < options->layers.count && !r; i++)
		if (fsconfig(fs, FSCONFIG_SET_STRING, "lowerdir+", options->layers.items[i], 0))
			r = -errno;
	for (size_t i = 0; i < options->data.count && !r; i++)
		r = set_data(fs, options->data.items[i]);
	/* For the whole file system, as mount(2) has it: overlay then needs no upper layer. */
	if (!r && options->flags & MS_RDONLY && fsconfig(fs, FSCONFIG_SET_FLAG, "ro", NULL, 0))
		r = -errno;
	if (!r && fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0))
		r = -errno;
	return r;
}

static unsigned attributes_of(unsigned long flags)
{
	unsigned attributes = 0;

	if (flags & MS_RDONLY)
		attributes |= MOUNT_ATTR_RDONLY;
	if (flags & MS_NOSUID)
		attributes |= MOUNT_ATTR_NOSUID;
	if (flags & MS_NODEV)
		attributes |= MOUNT_ATTR_NODEV;
	if (flags & MS_NOEXEC)
		attributes |= MOUNT_ATTR_NOEXEC;
	if (flags & MS_NODIRATIME)
		attributes |= MOUNT_ATTR_NODIRATIME;
	if (flags & MS_NOATIME)
		attributes |= MOUNT_ATTR_NOATIME;
	else if (flags & MS_STRICTATIME)
		attributes |= MOUNT_ATTR_STRICTATIME;
	return attributes;
}

static int mount_new(const struct mount *mount, const struct mount_options *options, int target,
		     struct why *why)
{
	_cleanup_(cleanup_fd) int fs = -1, made = -1;
	int r;

	fs = fsopen(mount->type, FSOPEN_CLOEXEC);
	if (fs < 0)
		return why_errno(why, -errno, "cannot mount %s", mount->type);
	r = configure(fs, mount, options);
	if (r)
		return explain(fs, r, mount, why);
	made = fsmount(fs, FSMOUNT_CLOEXEC, attributes_of(options->flags));
	if (made < 0)
		return explain(fs, -errno, mount, why);
	if (move_mount(made, "", target, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH))
		return why_errno(why, -errno, "cannot mount %s", mount->type);
	return 0;
}

/* ---- with mount(2) ------------------------------------------------------- */

static bool is_long(const struct mount *mount, const struct mount_options *options)
{
	if (mount->source && strlen(mount->source) > FSCONFIG_STRING_MAX)
		return true;
	for (size_t i = 0; i < options->layers.count; i++)
		if (strlen(options->layers.items[i]) > FSCONFIG_STRING_MAX)
			return true;
	for (size_t i = 0; i < options->data.count; i++)
		if (strlen(options->data.items[i]) > FSCONFIG_STRING_MAX)
			return true;
	return false;
}

static int mount_old(const struct mount *mount_, const struct mount_options *options, int target,
		     struct why *why)
{
	_cleanup_(cleanup_free) char *data = NULL;
	char path[32];
	int r;

	r = mount_options_join(options, &data);
	if (r)
		return error_trace(r);
	if (strlen(data) > MOUNT_DATA_MAX)
		return why_set(why, -E2BIG,
			       "cannot mount %s: its options are %zu bytes and this kernel takes "
			       "%d",
			       mount_->type, strlen(data), MOUNT_DATA_MAX);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", target);
	if (mount(mount_->source ?: mount_->type, path, mount_->type, options->flags, data))
		return why_errno(why, -errno, "cannot mount %s (%.200s)", mount_->type, data);
	return 0;
}

/* ---- one mount ----------------------------------------------------------- */

static int set_attributes(int tree, const struct mount_options *options, const struct idmap *idmap)
{
	unsigned recursive = options->is_recursive ? AT_RECURSIVE : 0;
	struct mount_attr attributes = {.attr_set = attributes_of(options->flags)};

	if (attributes.attr_set & MOUNT_ATTR__ATIME)
		attributes.attr_clr = MOUNT_ATTR__ATIME;
	if (idmap) {
		attributes.attr_set |= MOUNT_ATTR_IDMAP;
		attributes.userns_fd = (uint64_t)idmap->userns;
	}
	if (attributes.attr_set &&
	    mount_setattr(tree, "", AT_EMPTY_PATH | recursive, &attributes, sizeof(attributes)))
		return -errno;
	return 0;
}

static int mount_bind(const struct mount *mount, const struct mount_options *options,
		      const struct idmap *idmap, int target, struct why *why)
{
	unsigned recursive = options->is_recursive ? AT_RECURSIVE : 0;
	_cleanup_(cleanup_fd) int tree = -1;
	int r;

	if (!mount->source || mount->source[0] != '/')
		return why_set(why, -EINVAL, "cannot bind '%s': not an absolute path",
			       mount->source ?: "");
	if (options->layers.count || options->data.count)
		return why_set(why, -EINVAL, "cannot bind %s: unknown option '%s'", mount->source,
			       options->data.count ? options->data.items[0] : "lowerdir");
	tree = open_tree(AT_FDCWD, mount->source, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | recursive);
	if (tree < 0)
		return why_errno(why, error_origin(-errno), "cannot bind %s", mount->source);
	r = set_attributes(tree, options, idmap);
	if (r)
		return why_errno(why, error_trace(r), "cannot bind %s with its options%s",
				 mount->source,
				 idmap ? " (user namespace: its file system cannot map ids)" : "");
	if (move_mount(tree, "", target, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH))
		return why_errno(why, error_origin(-errno), "cannot bind %s", mount->source);
	return 0;
}

static int mount_either(const struct mount *mount, const struct mount_options *options, int target,
			struct why *why)
{
	struct why ignored = {};
	int r;

	/* Older kernels know neither fsopen nor, for overlay, lowerdir+. */
	if (is_long(mount, options))
		return mount_old(mount, options, target, why);
	r = mount_new(mount, options, target, why);
	if ((r == -ENOSYS || r == -EINVAL) && !mount_old(mount, options, target, &ignored)) {
		if (why)
			why->text[0] = '\0';
		return 0;
	}
	return error_trace(r);
}

static int mount_file_system(const struct mount *mount, struct mount_options *options,
			     const struct idmap *idmap, int target, struct why *why)
{
	int r;

	if (!mount->type || !*mount->type)
		return why_set(why, -EINVAL, "a mount of the root has no type");
	if (!idmap)
		return mount_either(mount, options, target, why);
	r = idmap_enter(idmap, options, why);
	if (r)
		return r;
	r = mount_either(mount, options, target, why);
	idmap_leave(idmap);
	return r;
}

static int make(const char *root, const struct mount *mount_, const struct idmap *idmap,
		struct why *why)
{
	_cleanup_(mount_options_clear) struct mount_options options = {};
	_cleanup_(cleanup_fd) int target = -1;
	struct schema_fault fault = {};
	char path[4096];
	int r;

	r = mount_options_parse(&mount_->options, &options, &fault);
	if (r)
		return why_set(why, r, "cannot mount %s: %s", mount_->type ?: "the root",
			       fault.text);
	r = open_target(root, mount_->target, &target, why);
	if (r)
		return r;
	if (options.is_bind || (mount_->type && !strcmp(mount_->type, "bind")))
		r = mount_bind(mount_, &options, idmap, target, why);
	else
		r = mount_file_system(mount_, &options, idmap, target, why);
	if (r || !options.propagation)
		return r;
	snprintf(path, sizeof(path), "%s/%s", root, mount_->target ?: "");
	if (mount(NULL, path, NULL, options.propagation, NULL))
		return why_errno(why, error_origin(-errno), "cannot set the propagation of %s",
				 path);
	return 0;
}

int mounts_make(const char *root, const struct mount *mounts, size_t count,
		const struct idmap *idmap, struct why *why)
{
	int r;

	if (!count)
		return 0;
	r = file_make_dir(root, 0755, why);
	for (size_t i = 0; i < count && !r; i++)
		r = make(root, &mounts[i], idmap, why);
	if (r)
		(void)mounts_undo(root, NULL);
	return r;
}

static int undo(const char *root, int flags, struct why *why)
{
	/* Each call takes the uppermost; EINVAL: nothing is mounted there any more. */
	for (int i = 0; i < 64; i++) {
		if (!umount2(root, UMOUNT_NOFOLLOW | flags))
			continue;
		if (errno == EBUSY) {
			log_warning("%s is busy: detached", root);
			if (!umount2(root, UMOUNT_NOFOLLOW | MNT_DETACH))
				continue;
		}
		if (errno == EINVAL || errno == ENOENT)
			return 0;
		return why_errno(why, error_origin(-errno), "cannot unmount %s", root);
	}
	return why_set(why, error_origin(-EBUSY), "cannot unmount %s: more than 64 mounts", root);
}

int mounts_undo(const char *root, struct why *why)
{
	return undo(root, 0, why);
}

int mounts_leave(const char *root, struct why *why)
{
	/* Never closed: a mount without a place ends with what is open in it. */
	(void)open(root, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	return undo(root, MNT_DETACH, why);
}

/* ---- the root of a container that another shim made ---------------------- */

/* A mount is cloned only by who is in its namespace. */
static int clone_root(int theirs, int ours, int *ret_tree, struct why *why)
{
	int r = 0;

	if (setns(theirs, CLONE_NEWNS))
		return why_errno(why, error_origin(-errno), "cannot enter the container's mounts");
	*ret_tree = open_tree(AT_FDCWD, "/", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
	if (*ret_tree < 0)
		r = why_errno(why, error_origin(-errno), "cannot clone the container's root");
	/* In a container's mounts nothing of the shim's may be done. */
	if (setns(ours, CLONE_NEWNS))
		abort();
	return r;
}

int mounts_clone(const char *root, int pid, struct why *why)
{
	_cleanup_(cleanup_fd) int ours = open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC);
	_cleanup_(cleanup_fd) int theirs = -1, tree = -1;
	char path[32];
	int r;

	snprintf(path, sizeof(path), "/proc/%d/ns/mnt", pid);
	theirs = open(path, O_RDONLY | O_CLOEXEC);
	if (ours < 0 || theirs < 0)
		return why_errno(why, error_origin(-errno), "cannot open the mounts of process %d",
				 pid);
	(void)mounts_undo(root, NULL);
	r = clone_root(theirs, ours, &tree, why);
	if (r)
		return r;
	if (move_mount(tree, "", AT_FDCWD, root, MOVE_MOUNT_F_EMPTY_PATH) ||
	    mount(NULL, root, NULL, MS_PRIVATE, NULL))
		return why_errno(why, error_origin(-errno), "cannot mount the root at %s", root);
	return 0;
}
