/* Layers as one tree: see layers.h. */

#include <fcntl.h>
#include <sys/mount.h>

#include "broker/lib/file.h"
#include "services/image/work/layers.h"

#define OPTIONS_MAX 4095 /* what mount(2) takes */

int layers_open_one(const char *name, int snapshots, int *ret_fd, struct why *why)
{
	_cleanup_(cleanup_free) char *path = text_format("%s/fs", name);

	if (!path)
		return error_origin(-ENOMEM);
	*ret_fd = openat(snapshots, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (*ret_fd < 0)
		return why_errno(why, error_origin(-errno), "cannot open snapshot directory '%s'",
				 path);
	return 0;
}

static int join(const struct schema_strs *names, struct schema_buffer *options)
{
	for (size_t i = 0; i < names->count; i++) {
		if (schema_buffer_addf(options, "%s%s/fs",
				       i ? ":" : "index=off,lowerdir=", names->items[i]))
			return error_origin(-ENOMEM);
	}
	return schema_buffer_add(options, "", 1) ? error_origin(-ENOMEM) : 0;
}

int layers_open(const struct schema_strs *names, const char *mount_point, int snapshots,
		int *ret_fd, struct why *why)
{
	_cleanup_(schema_buffer_clear) struct schema_buffer options = {};
	int r;

	if (!names->count)
		return 0;
	if (names->count == 1)
		return error_trace(layers_open_one(names->items[0], snapshots, ret_fd, why));
	r = join(names, &options);
	if (r)
		return error_trace(r);
	if (options.size > OPTIONS_MAX)
		return why_set(why, error_origin(-E2BIG), "%zu layers are more than can be mounted",
			       names->count);
	/* Relative names keep the options short. */
	if (fchdir(snapshots) < 0 ||
	    mount("overlay", mount_point, "overlay", MS_RDONLY, options.data) < 0)
		return why_errno(why, error_origin(-errno), "cannot mount %zu layers",
				 names->count);
	*ret_fd = open(mount_point, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (*ret_fd < 0)
		return why_errno(why, error_origin(-errno), "cannot open %zu layers", names->count);
	return 0;
}
