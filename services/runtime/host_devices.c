/* Device nodes of the host, for --device and --privileged. */

#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "broker/lib/file.h"
#include "services/runtime/host.h"

#define DEVICES_MAX 4096
#define DEPTH_MAX   8

static int add_device(struct spec_devices *devices, const char *path, const struct stat *status,
		      const char *access, struct why *why)
{
	struct spec_device *grown;
	char *copy;

	if (devices->count == DEVICES_MAX)
		return why_set(why, SPEC_E_INVALID, "more than %d devices", DEVICES_MAX);
	grown = reallocarray(devices->items, devices->count + 1, sizeof(*grown));
	if (!grown)
		return error_origin(-ENOMEM);
	devices->items = grown;
	copy = strdup(path);
	if (!copy)
		return error_origin(-ENOMEM);
	grown[devices->count] = (struct spec_device){
		.path = copy,
		.type = S_ISBLK(status->st_mode) ? 'b' : 'c',
		.major = major(status->st_rdev),
		.minor = minor(status->st_rdev),
		.mode = status->st_mode & 0777,
		.uid = status->st_uid,
		.gid = status->st_gid,
	};
	snprintf(grown[devices->count++].access, 4, "%s", access);
	return 0;
}

/* The container has its own of these. */
static bool is_passed_over(const char *name)
{
	static const char *const names[] = {"pts",     "shm",  "fd",          "mqueue",
					    "console", ".lxc", ".lxd-mounts", ".udev"};

	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (!strcmp(names[i], name))
			return true;
	return *name == '.';
}

static int walk(int parent, const char *name, const char *path, const char *target,
		const char *access, unsigned depth, struct spec_devices *devices, struct why *why);

static int walk_entry(int dirfd, const char *name, const char *path, const char *target,
		      const char *access, unsigned depth, struct spec_devices *devices,
		      struct why *why)
{
	_cleanup_(cleanup_free) char *below = text_format("%s/%s", path, name);
	_cleanup_(cleanup_free) char *below_target = text_format("%s/%s", target, name);
	struct stat status;

	if (!below || !below_target)
		return error_origin(-ENOMEM);
	if (is_passed_over(name) || fstatat(dirfd, name, &status, AT_SYMLINK_NOFOLLOW))
		return 0;
	if (S_ISDIR(status.st_mode))
		return depth < DEPTH_MAX ? walk(dirfd, name, below, below_target, access, depth + 1,
						devices, why)
					 : 0;
	if (!S_ISBLK(status.st_mode) && !S_ISCHR(status.st_mode))
		return 0;
	return add_device(devices, below_target, &status, access, why);
}

static int walk(int parent, const char *name, const char *path, const char *target,
		const char *access, unsigned depth, struct spec_devices *devices, struct why *why)
{
	_cleanup_(cleanup_dir) DIR *dir = file_open_dir(parent, name);
	struct dirent *entry;
	int r = 0;

	while (!r && dir && (entry = readdir(dir)))
		r = walk_entry(dirfd(dir), entry->d_name, path, target, access, depth, devices,
			       why);
	return r;
}

int host_all_devices(struct spec_devices *ret_devices, struct why *why)
{
	_cleanup_(spec_devices_clear) struct spec_devices devices = {};
	int r = walk(AT_FDCWD, "/dev", "/dev", "/dev", "rwm", 0, &devices, why);

	if (r)
		return error_trace(r);
	*ret_devices = devices;
	devices = (struct spec_devices){};
	return 0;
}

static int check_access(const char *device, const char *access, struct why *why)
{
	if (*access && strlen(access) <= 3 && strspn(access, "rwm") == strlen(access))
		return 0;
	return why_set(why, SPEC_E_INVALID, "device '%.256s': '%.16s' is not made of r, w and m",
		       device, access);
}

/* path[:path in the container[:rwm]] */
static int find_device(const char *asked, struct spec_devices *devices, struct why *why)
{
	_cleanup_(cleanup_free) char *copy = strdup(asked);
	char *rest = copy, *path = strsep(&rest, ":"), *target, *access;
	struct stat status;
	int r;

	if (!copy)
		return error_origin(-ENOMEM);
	target = strsep(&rest, ":");
	access = rest ? rest : "rwm";
	target = target && *target ? target : path;
	r = spec_check_path("device", path, why) ?: spec_check_path("device", target, why);
	r = r ?: check_access(asked, access, why);
	if (r)
		return r;
	if (stat(path, &status))
		return why_set(why, SPEC_E_INVALID, "device '%.256s': %s", path, strerror(errno));
	if (S_ISDIR(status.st_mode))
		return walk(AT_FDCWD, path, path, target, access, 0, devices, why);
	if (!S_ISBLK(status.st_mode) && !S_ISCHR(status.st_mode))
		return why_set(why, SPEC_E_INVALID,
			       "device '%.256s' is neither a device nor a directory", path);
	return add_device(devices, target, &status, access, why);
}

int host_find_devices(const struct schema_strs *asked, struct spec_devices *ret_devices,
		      struct why *why)
{
	_cleanup_(spec_devices_clear) struct spec_devices devices = {};
	int r = 0;

	for (size_t i = 0; !r && i < asked->count; i++)
		r = find_device(asked->items[i], &devices, why);
	if (r)
		return error_trace(r);
	*ret_devices = devices;
	devices = (struct spec_devices){};
	return 0;
}

/* ---- limits of block I/O ---- */

static int add_limit(struct spec_blkio_limits *limits, enum spec_blkio kind, const char *path,
		     uint64_t number, struct why *why)
{
	struct spec_blkio_limit *grown;
	struct stat status;

	if (stat(path, &status))
		return why_set(why, SPEC_E_INVALID, "%s: '%.256s': %s",
			       spec_blkio_options[kind].option, path, strerror(errno));
	if (!S_ISBLK(status.st_mode))
		return why_set(why, SPEC_E_INVALID, "%s: '%.256s' is not a block device",
			       spec_blkio_options[kind].option, path);
	grown = reallocarray(limits->items, limits->count + 1, sizeof(*grown));
	if (!grown)
		return error_origin(-ENOMEM);
	limits->items = grown;
	grown[limits->count++] = (struct spec_blkio_limit){.kind = kind,
							   .major = major(status.st_rdev),
							   .minor = minor(status.st_rdev),
							   .number = number};
	return 0;
}

static int find_limits(const struct schema_strs *asked, enum spec_blkio kind,
		       struct spec_blkio_limits *limits, struct why *why)
{
	int r = 0;

	for (size_t i = 0; !r && i < asked->count; i++) {
		_cleanup_(cleanup_free) char *path = NULL;
		uint64_t number = 0;

		r = spec_blkio_parse(kind, asked->items[i], &path, &number, why);
		r = r ?: add_limit(limits, kind, path, number, why);
	}
	return r;
}

int host_find_blkio(const struct spec_options *options, struct spec_blkio_limits *ret_limits,
		    struct why *why)
{
	_cleanup_(spec_blkio_clear) struct spec_blkio_limits limits = {};
	int r = 0;

	for (unsigned kind = 0; !r && kind < SPEC_BLKIO_KINDS; kind++)
		r = find_limits(spec_blkio_asked(options, kind), kind, &limits, why);
	if (r)
		return error_trace(r);
	*ret_limits = limits;
	limits = (struct spec_blkio_limits){};
	return 0;
}
