#include <dirent.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "broker/lib/file.h"
#include "services/runtime/bundle.h"

#define NEW_SUFFIX ".new"

char *bundle_path(const char *state, const char *task_id)
{
	return text_format("%s/bundles/%s", state, task_id);
}

static bool is_new(const char *name)
{
	size_t length = strlen(name), suffix = strlen(NEW_SUFFIX);

	return length > suffix && !strcmp(name + length - suffix, NEW_SUFFIX);
}

int bundle_open(const char *state, struct why *why)
{
	_cleanup_(cleanup_free) char *path = text_format("%s/bundles", state);
	_cleanup_(cleanup_dir) DIR *dir = NULL;
	struct dirent *entry;
	int r = path ? file_make_dir(path, 0711, why) : error_origin(-ENOMEM);

	if (r)
		return error_fold(r);
	dir = opendir(path);
	while (!r && dir && (entry = readdir(dir)))
		if (is_new(entry->d_name))
			r = file_remove_tree(dirfd(dir), entry->d_name, why);
	return error_fold(r);
}

/* The shim holds bundle/lock for as long as it lives. What cannot be looked at may be in use. */
static bool is_busy(const char *bundle)
{
	_cleanup_(cleanup_free) char *path = text_format("%s/lock", bundle);
	_cleanup_(cleanup_fd) int fd = -1;

	if (!path)
		return true;
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return errno != ENOENT;
	return flock(fd, LOCK_SH | LOCK_NB);
}

bool bundle_is_busy(const char *state, const char *task_id)
{
	_cleanup_(cleanup_free) char *path = bundle_path(state, task_id);

	return !path || is_busy(path);
}

static int write_config(const char *bundle, const json_t *spec, struct why *why)
{
	_cleanup_(cleanup_free) char *path = text_format("%s/config.json", bundle);
	_cleanup_(cleanup_free) char *text = json_dumps(spec, JSON_COMPACT);

	if (!path || !text)
		return error_origin(-ENOMEM);
	return file_write(path, text, strlen(text), 0600, false, why);
}

/* Others may pass through, so that a container's own users reach their files. */
static int make_rootfs(const char *bundle, struct why *why)
{
	_cleanup_(cleanup_free) char *path = text_format("%s/rootfs", bundle);

	if (!path)
		return error_origin(-ENOMEM);
	if ((mkdir(path, 0711) && errno != EEXIST) || chmod(path, 0711))
		return why_errno(why, error_origin(-errno), "bundle directory '%s'", path);
	return 0;
}

static int fill(const char *bundle, const json_t *spec, bool is_open, struct why *why)
{
	mode_t mode = is_open ? 0711 : 0700;

	if ((mkdir(bundle, mode) && errno != EEXIST) || chmod(bundle, mode))
		return why_errno(why, error_origin(-errno), "bundle '%s'", bundle);
	return make_rootfs(bundle, why) ?: write_config(bundle, spec, why);
}

int bundle_make(const char *state, const char *task_id, const json_t *spec, bool is_open,
		struct why *why)
{
	_cleanup_(cleanup_free) char *path = bundle_path(state, task_id);
	_cleanup_(cleanup_free) char *new = text_format("%s/bundles/%s" NEW_SUFFIX, state, task_id);
	int r;

	if (!path || !new)
		return error_origin(-ENOMEM);
	if (is_busy(path))
		return why_set(why, BUNDLE_E_BUSY,
			       "task %s has its bundle already, and a shim lives in it", task_id);
	if (!access(path, F_OK))
		return error_trace(fill(path, spec, is_open, why));
	r = file_remove_tree(AT_FDCWD, new, why) ?: fill(new, spec, is_open, why);
	if (!r && rename(new, path))
		r = why_errno(why, error_origin(-errno), "bundle '%s'", path);
	if (r)
		(void)file_remove_tree(AT_FDCWD, new, NULL);
	return error_trace(r);
}

int bundle_remove(const char *state, const char *task_id, struct why *why)
{
	_cleanup_(cleanup_free) char *path = bundle_path(state, task_id);

	return path ? error_trace(file_remove_tree(AT_FDCWD, path, why)) : error_origin(-ENOMEM);
}
