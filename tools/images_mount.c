/* davit images mount and unmount: by this process, in the mount namespace that it was started in. */

#include <fcntl.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "broker/lib/file.h"
#include "tools/images.h"
#include "tools/lists.h"

struct mount_options {
	bool writable;
	char *platform, *snapshotter;
};

static bool has_option(const struct mount *mount, const char *option)
{
	for (size_t i = 0; i < mount->options.count; i++) {
		if (!strcmp(mount->options.items[i], option))
			return true;
	}
	return false;
}

static int mount_bind(const struct mount *mount_, const char *target)
{
	if (mount(mount_->source, target, NULL, MS_BIND | MS_REC, NULL) < 0)
		return -errno;
	if (!has_option(mount_, "ro"))
		return 0;
	return mount(NULL, target, NULL, MS_BIND | MS_REMOUNT | MS_RDONLY, NULL) < 0 ? -errno : 0;
}

/* One layer at a time: together the options may be longer than the page that mount(2) takes. */
static int set_lowers(int fs, const char *value)
{
	_cleanup_(cleanup_free) char *copy = strdup(value);
	char *rest = copy, *layer;

	if (!copy)
		return -ENOMEM;
	while ((layer = strsep(&rest, ":"))) {
		if (fsconfig(fs, FSCONFIG_SET_STRING, "lowerdir+", layer, 0) < 0)
			return -errno;
	}
	return 0;
}

static int set_option(int fs, const char *option)
{
	const char *value = strchr(option, '=');
	char key[64];

	if (!value)
		return fsconfig(fs, FSCONFIG_SET_FLAG, option, NULL, 0) < 0 ? -errno : 0;
	snprintf(key, sizeof(key), "%.*s", (int)(value - option), option);
	if (!strcmp(key, "lowerdir") || !strcmp(key, "lowerdir+"))
		return set_lowers(fs, value + 1);
	return fsconfig(fs, FSCONFIG_SET_STRING, key, value + 1, 0) < 0 ? -errno : 0;
}

static int mount_overlay(const struct mount *mount_, const char *target)
{
	_cleanup_(cleanup_fd) int fs = fsopen(mount_->type, FSOPEN_CLOEXEC), made = -1;
	int r = fs < 0 ? -errno : 0;

	for (size_t i = 0; i < mount_->options.count && !r; i++)
		r = set_option(fs, mount_->options.items[i]);
	if (!r && fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
		r = -errno;
	made = r ? -1 : fsmount(fs, FSMOUNT_CLOEXEC, 0);
	if (!r && made < 0)
		r = -errno;
	if (!r && move_mount(made, "", AT_FDCWD, target, MOVE_MOUNT_F_EMPTY_PATH) < 0)
		r = -errno;
	return r;
}

static int mount_all(const struct mount *mounts, size_t count, const char *target)
{
	int r = 0;

	for (size_t i = 0; i < count && !r; i++)
		r = !strcmp(mounts[i].type, "bind") ? mount_bind(&mounts[i], target)
						    : mount_overlay(&mounts[i], target);
	return r;
}

static int release(struct context *context, const char *key, char *snapshotter)
{
	struct snapshot_key_request request = {.key = (char *)key, .snapshotter = snapshotter};

	return snapshot_remove_ask(&context->ask, &request, NULL);
}

static bool is_mount(const char *path)
{
	struct statx status;

	return !statx(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW, 0, &status) &&
	       status.stx_attributes & STATX_ATTR_MOUNT_ROOT;
}

/* One that was unmounted and left: as it is, if it is what would be made. */
static int find_snapshot(struct context *context, const struct image_prepare_request *wanted,
			 struct image_mounts_reply *ret_reply)
{
	struct image_unpack_request look = {.name = wanted->name,
					    .snapshotter = wanted->snapshotter,
					    .platform = wanted->platform};
	struct snapshot_key_request key = {.key = wanted->key, .snapshotter = wanted->snapshotter};
	_cleanup_(image_inspect_reply_clear) struct image_inspect_reply image = {};
	_cleanup_(snapshot_reply_clear) struct snapshot_reply found = {};
	int r;

	if (is_mount(wanted->key))
		return fail(context, "something is mounted on %s already: `davit images unmount`",
			    wanted->key);
	r = image_inspect_ask(&context->ask, &look, &image);
	if (!r)
		r = snapshot_stat_ask(&context->ask, &key, &found);
	if (r)
		return fail_ask(context, r);
	if (!image.chain_id || strcmp(found.snapshot->parent ?: "", image.chain_id) ||
	    found.snapshot->kind != (wanted->read_only ? SNAPSHOT_VIEW : SNAPSHOT_ACTIVE))
		return fail(context,
			    "a snapshot of that name, of another image or kind, exists already: "
			    "`davit images unmount --rm %s` removes it",
			    wanted->key);
	r = snapshot_mounts_ask(&context->ask, &key, ret_reply);
	return r ? fail_ask(context, r) : EXIT_OK;
}

static int mount_found(struct context *context, const struct image_prepare_request *wanted)
{
	_cleanup_(image_mounts_reply_clear) struct image_mounts_reply reply = {};
	int code = find_snapshot(context, wanted, &reply), r;

	if (code)
		return code;
	r = mount_all(reply.mounts.items, reply.mounts.count, wanted->key);
	if (r)
		return fail(context, "cannot mount image '%s' on %s: %s", wanted->name, wanted->key,
			    strerror(-r));
	puts(wanted->key);
	return EXIT_OK;
}

/* The snapshot is named after the target, as with ctr. */
static int mount_image(struct context *context, void *data, char **args, int n_args)
{
	const struct mount_options *options = data;
	_cleanup_(image_prepare_reply_clear) struct image_prepare_reply reply = {};
	_cleanup_(cleanup_free) char *target = realpath(args[1], NULL);
	struct image_prepare_request request = {.name = args[0],
						.key = target,
						.platform = options->platform,
						.snapshotter = options->snapshotter,
						.read_only = !options->writable};
	int r;

	(void)n_args;
	if (!target)
		return fail(context, "%s: %s", args[1], strerror(errno));
	if (!context->ask.timeout_ms)
		context->ask.timeout_ms = ENVELOPE_DEADLINE_MAX;
	r = image_prepare_ask(&context->ask, &request, &reply);
	if (r == BUS_ALREADY_EXISTS)
		return mount_found(context, &request);
	if (r)
		return fail_ask(context, r);
	r = mount_all(reply.mounts.items, reply.mounts.count, target);
	if (r) {
		(void)umount2(target, MNT_DETACH | UMOUNT_NOFOLLOW);
		(void)release(context, target, reply.snapshotter);
		return fail(context, "cannot mount image '%s' on %s: %s", args[0], target,
			    strerror(-r));
	}
	puts(target);
	return EXIT_OK;
}

struct unmount_options {
	bool remove;
	char *snapshotter;
};

static int unmount_image(struct context *context, void *data, char **args, int n_args)
{
	const struct unmount_options *options = data;
	_cleanup_(cleanup_free) char *target = realpath(args[0], NULL);
	int r;

	(void)n_args;
	if (!target)
		return fail(context, "%s: %s", args[0], strerror(errno));
	/* What is not mounted can be removed all the same. */
	if (umount2(target, UMOUNT_NOFOLLOW) < 0 && (errno != EINVAL || !options->remove))
		return fail(context, "cannot unmount %s: %s", target, strerror(errno));
	r = options->remove ? release(context, target, options->snapshotter) : 0;
	if (r)
		return fail_ask(context, r);
	puts(target);
	return EXIT_OK;
}

static const struct option_spec mount_options[] = {
	OPTION(struct mount_options, writable, FLAG, "rw", 0, NULL, "mount it to be written"),
	OPTION(struct mount_options, platform, TEXT, "platform", 0, "OS/ARCH",
	       "mount this platform (default: this host's)"),
	OPTION(struct mount_options, snapshotter, TEXT, "snapshotter", 0, "NAME",
	       "overlayfs or native (default: this host's)"),
	{}};
static const struct option_spec unmount_options[] = {
	OPTION(struct unmount_options, remove, FLAG, "rm", 0, NULL,
	       "then remove the snapshot: what was written is gone"),
	OPTION(struct unmount_options, snapshotter, TEXT, "snapshotter", 0, "NAME",
	       "overlayfs or native (default: this host's)"),
	{}};

const struct command images_mount_command = {
	.name = "mount",
	.arguments = "REF TARGET",
	.summary = "mount an image on a directory of the host",
	.options = mount_options,
	.options_size = sizeof(struct mount_options),
	.min_args = 2,
	.max_args = 2,
	.run = mount_image,
};
const struct command images_unmount_command = {
	.name = "unmount",
	.aliases = "umount",
	.arguments = "TARGET",
	.summary = "unmount an image",
	.options = unmount_options,
	.options_size = sizeof(struct unmount_options),
	.min_args = 1,
	.max_args = 1,
	.run = unmount_image,
};
