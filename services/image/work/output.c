/* Files for users: see output.h. */

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "broker/lib/cleanup.h"
#include "broker/lib/file.h"
#include "services/image/work/output.h"
#include "services/image/work/still.h"

#define MODE 0644

/* A link leads to what is replaced; one to nothing is written through. */
static char *find_target(const char *path, struct stat *status)
{
	if (stat(path, status) == 0)
		return realpath(path, NULL);
	status->st_mode = 0;
	return lstat(path, &(struct stat){}) == 0 ? NULL : strdup(path);
}

static int open_directory(const char *target, struct output *output)
{
	const char *slash = strrchr(target, '/');
	_cleanup_(cleanup_free) char *parent = strndup(target, (size_t)(slash + 1 - target));

	output->name = strdup(slash + 1);
	output->beside = text_format(".%s.davit-export", slash + 1);
	if (!parent || !output->name || !output->beside)
		return error_origin(-ENOMEM);
	output->directory = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return output->directory < 0 ? error_origin(-errno) : 0;
}

/* Without a name where that can be: then a death leaves nothing. Else what an earlier death left is replaced. */
static int open_beside(struct output *output)
{
	output->fd = openat(output->directory, ".", O_TMPFILE | O_WRONLY | O_CLOEXEC, MODE);
	if (output->fd >= 0)
		return 0;
	if (errno != EOPNOTSUPP && errno != EISDIR && errno != ENOENT)
		return error_origin(-errno);
	(void)unlinkat(output->directory, output->beside, 0);
	output->fd = openat(output->directory, output->beside,
			    O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, MODE);
	output->is_named = output->fd >= 0;
	return output->is_named ? 0 : error_origin(-errno);
}

/* The new file is the old one's owner's. */
static int take_over(const struct output *output, const struct stat *old)
{
	if (!old->st_mode)
		return 0;
	if (fchown(output->fd, old->st_uid, old->st_gid) < 0 ||
	    fchmod(output->fd, old->st_mode & 07777) < 0)
		return error_origin(-errno);
	return 0;
}

/* A FIFO waits for its reader here; after that whoever writes sees himself when he waits for it. */
static int open_as_it_is(const char *path, struct output *output)
{
	struct stat status;

	still_begin();
	output->fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_NOCTTY | O_CLOEXEC, MODE);
	still_end();
	if (output->fd < 0 || fstat(output->fd, &status) < 0)
		return error_origin(-errno);
	if (S_ISFIFO(status.st_mode) && fcntl(output->fd, F_SETFL, O_WRONLY | O_NONBLOCK) < 0)
		return error_origin(-errno);
	return 0;
}

static int open_output(const char *path, struct output *output)
{
	struct stat status = {};
	_cleanup_(cleanup_free) char *target = find_target(path, &status);
	int r;

	if (!target || !strchr(target, '/') || (status.st_mode && !S_ISREG(status.st_mode)))
		return open_as_it_is(path, output);
	r = open_directory(target, output);
	if (!r)
		r = open_beside(output);
	return r ? r : take_over(output, &status);
}

int output_open(const char *path, struct output *ret_output, struct why *why)
{
	int r = open_output(path, ret_output);

	return r ? why_errno(why, r, "cannot create archive '%s'", path) : 0;
}

/* A file without a name gets its own at once where none is in its place, so that nothing else is ever left there; or one
 * beside it, as only a rename replaces. */
static int name_it(struct output *output, bool *ret_done)
{
	_cleanup_(cleanup_free) char *self = text_format("/proc/self/fd/%d", output->fd);

	*ret_done = false;
	if (!self)
		return error_origin(-ENOMEM);
	if (!linkat(AT_FDCWD, self, output->directory, output->name, AT_SYMLINK_FOLLOW)) {
		*ret_done = true;
		return 0;
	}
	(void)unlinkat(output->directory, output->beside, 0);
	if (linkat(AT_FDCWD, self, output->directory, output->beside, AT_SYMLINK_FOLLOW) < 0)
		return error_origin(-errno);
	output->is_named = true;
	return 0;
}

int output_keep(struct output *output)
{
	bool is_done = false;
	struct stat status;
	int r = 0;

	if (fstat(output->fd, &status) < 0)
		return error_origin(-errno);
	if (S_ISREG(status.st_mode) && fsync(output->fd) < 0)
		return error_origin(-errno);
	if (output->directory < 0)
		return 0;
	if (!output->is_named)
		r = name_it(output, &is_done);
	if (!r && !is_done &&
	    renameat(output->directory, output->beside, output->directory, output->name) < 0)
		r = error_origin(-errno);
	if (r)
		return error_trace(r);
	output->is_named = false;
	return fsync(output->directory) < 0 ? error_origin(-errno) : 0;
}

void output_clear(struct output *output)
{
	if (output->is_named)
		(void)unlinkat(output->directory, output->beside, 0);
	close_fd(output->fd);
	close_fd(output->directory);
	free(output->name);
	free(output->beside);
	*output = (struct output)OUTPUT;
}
