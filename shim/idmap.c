#include "shim/idmap.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "broker/lib/file.h"

/* ---- the namespace ------------------------------------------------------- */

int idmap_root(const char *map, unsigned *ret_id)
{
	unsigned inside, outside, count;

	for (; *map; map = strchrnul(map, '\n'), map += *map != '\0') {
		if (sscanf(map, "%u %u %u", &inside, &outside, &count) != 3)
			return -EINVAL;
		if (!inside && count) {
			*ret_id = outside;
			return 0;
		}
	}
	return -EINVAL;
}

static int write_map(pid_t pid, const char *name, const char *map, struct why *why)
{
	_cleanup_(cleanup_fd) int fd = -1;
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, name);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	/* One write(2): the kernel takes no second. */
	if (fd < 0 || write(fd, map, strlen(map)) != (ssize_t)strlen(map))
		return why_errno(why, error_origin(-errno),
				 "the user namespace does not take its %s", name);
	return 0;
}

static int set_maps(pid_t pid, const char *uid_map, const char *gid_map, int *ret_userns,
		    struct why *why)
{
	char path[64];
	int r;

	r = write_map(pid, "uid_map", uid_map, why) ?: write_map(pid, "gid_map", gid_map, why);
	if (r)
		return r;
	snprintf(path, sizeof(path), "/proc/%d/ns/user", (int)pid);
	*ret_userns = open(path, O_RDONLY | O_CLOEXEC);
	return *ret_userns < 0 ? why_errno(why, error_origin(-errno), "cannot open %s", path) : 0;
}

/* In the namespace, until our end of the pipe is closed: by us, or with us. */
static void __attribute__((noreturn)) hold(const int ends[2])
{
	char byte;

	close(ends[1]);
	(void)!read(ends[0], &byte, 1);
	_exit(0);
}

static int make_userns(const char *uid_map, const char *gid_map, int *ret_userns, struct why *why)
{
	int ends[2], r;
	pid_t pid;

	if (pipe2(ends, O_CLOEXEC))
		return error_origin(-errno);
	pid = (pid_t)syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, NULL, NULL, NULL, NULL);
	if (!pid)
		hold(ends);
	if (pid < 0)
		r = why_errno(why, error_origin(-errno), "cannot make a user namespace");
	else
		r = set_maps(pid, uid_map, gid_map, ret_userns, why);
	close(ends[0]);
	close(ends[1]);
	if (pid > 0)
		(void)waitpid(pid, NULL, 0);
	return r;
}

int idmap_open(const char *uid_map, const char *gid_map, const char *bundle,
	       struct idmap *ret_idmap, struct why *why)
{
	struct idmap idmap = {.userns = -1};
	int r;

	if (idmap_root(uid_map, &idmap.uid) || idmap_root(gid_map, &idmap.gid))
		return why_set(why, -EINVAL, "the user namespace has no root");
	idmap.dir = text_format("%s/layers", bundle);
	if (!idmap.dir)
		return error_origin(-ENOMEM);
	r = make_userns(uid_map, gid_map, &idmap.userns, why);
	if (r) {
		free(idmap.dir);
		return r;
	}
	*ret_idmap = idmap;
	return 0;
}

void idmap_close(struct idmap *idmap)
{
	if (!idmap->dir)
		return;
	close_fd(idmap->userns);
	free(idmap->dir);
	*idmap = (struct idmap){.userns = -1};
}

/* ---- layers -------------------------------------------------------------- */

/* Mounts @path with the ids on <dir>/<name>, which stands in @ret_path afterwards. */
static int mount_layer(const struct idmap *idmap, const char *path, const char *name,
		       char **ret_path, struct why *why)
{
	struct mount_attr attributes = {.attr_set = MOUNT_ATTR_IDMAP,
					.userns_fd = (uint64_t)idmap->userns};
	_cleanup_(cleanup_free) char *place = text_format("%s/%s", idmap->dir, name);
	_cleanup_(cleanup_fd) int tree = -1;

	if (!place)
		return error_origin(-ENOMEM);
	tree = open_tree(AT_FDCWD, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
	if (tree < 0 || (mkdir(place, 0700) && errno != EEXIST))
		return why_errno(why, error_origin(-errno), "layer %s", path);
	if (mount_setattr(tree, "", AT_EMPTY_PATH, &attributes, sizeof(attributes)))
		return why_errno(why, error_origin(-errno),
				 "user namespace: the file system of %s cannot map ids", path);
	if (move_mount(tree, "", AT_FDCWD, place, MOVE_MOUNT_F_EMPTY_PATH))
		return why_errno(why, error_origin(-errno), "layer %s", path);
	*ret_path = TAKE(place);
	return 0;
}

static int map_lower(const struct idmap *idmap, struct schema_strs *layers, struct why *why)
{
	int r = 0;

	for (size_t i = 0; i < layers->count && !r; i++) {
		char name[24], *mapped = NULL;

		snprintf(name, sizeof(name), "%zu", i);
		r = mount_layer(idmap, layers->items[i], name, &mapped, why);
		if (r)
			break;
		free(layers->items[i]);
		layers->items[i] = mapped;
	}
	return r;
}

static char **find_option(struct mount_options *options, const char *prefix)
{
	for (size_t i = 0; i < options->data.count; i++)
		if (!strncmp(options->data.items[i], prefix, strlen(prefix)))
			return &options->data.items[i];
	return NULL;
}

static int rename_option(char **option, const char *prefix, const char *parent)
{
	char *renamed = text_format("%s%s%s", prefix, parent, strrchr(*option, '/'));

	if (!renamed)
		return error_origin(-ENOMEM);
	free(*option);
	*option = renamed;
	return 0;
}

/* Overlay wants its upper and its work directory beneath one mount: that of the directory above both. */
static int map_upper(const struct idmap *idmap, struct mount_options *options, struct why *why)
{
	char **upper = find_option(options, "upperdir="), **work = find_option(options, "workdir=");
	_cleanup_(cleanup_free) char *parent = NULL, *mapped = NULL;
	size_t size;
	int r;

	if (!upper || !work)
		return 0;
	size = (size_t)(strrchr(*upper, '/') - *upper) - strlen("upperdir=");
	if (strncmp(*upper + strlen("upperdir="), *work + strlen("workdir="), size + 1))
		return why_set(why, -EINVAL, "user namespace: %s and %s are not in one directory",
			       *upper, *work);
	parent = strndup(*upper + strlen("upperdir="), size);
	r = parent ? mount_layer(idmap, parent, "upper", &mapped, why) : error_origin(-ENOMEM);
	return r ?: rename_option(upper, "upperdir=", mapped)
		       ?: rename_option(work, "workdir=", mapped);
}

/*
 * The overlay works with the ids of who mounts it. Root is nobody in such layers,
 * the container's root is somebody; all capabilities stay.
 */
static int become(uid_t uid, gid_t gid)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct sets[_LINUX_CAPABILITY_U32S_3];

	setfsgid(gid);
	setfsuid(uid);
	if (syscall(SYS_capget, &header, sets))
		return error_origin(-errno);
	for (size_t i = 0; i < ARRAY_SIZE(sets); i++)
		sets[i].effective = sets[i].permitted;
	if (syscall(SYS_capset, &header, sets))
		return error_origin(-errno);
	return 0;
}

int idmap_enter(const struct idmap *idmap, struct mount_options *options, struct why *why)
{
	int r;

	if (mkdir(idmap->dir, 0700) && errno != EEXIST)
		return why_errno(why, error_origin(-errno), "cannot make %s", idmap->dir);
	if (mount("tmpfs", idmap->dir, "tmpfs", 0, "mode=711"))
		return why_errno(why, error_origin(-errno), "cannot mount on %s", idmap->dir);
	r = map_lower(idmap, &options->layers, why) ?: map_upper(idmap, options, why);
	r = r ?: become(idmap->uid, idmap->gid);
	if (r)
		idmap_leave(idmap);
	return r;
}

void idmap_leave(const struct idmap *idmap)
{
	(void)become(0, 0);
	(void)prctl(PR_SET_DUMPABLE, 1);
	(void)umount2(idmap->dir, MNT_DETACH | UMOUNT_NOFOLLOW);
	(void)rmdir(idmap->dir);
}
