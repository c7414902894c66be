/* Copies of stores, for `davit backup`: made by another process than the one that has the store open for writing. */

#include <errno.h>
#include <fcntl.h>
#include <lmdb.h>
#include <string.h>
#include <sys/stat.h>

#include "broker/lib/file.h"
#include "services/lib/store.h"

/* Fewer pages than the store has, when the tree is whole; as it is otherwise. */
static int copy_env(MDB_env *env, const char *to)
{
	_cleanup_(cleanup_free) char *file = text_format("%s/data.mdb", to);
	int rc;

	if (!file)
		return ENOMEM;
	rc = mdb_env_copy2(env, to, MDB_CP_COMPACT);
	if (!rc)
		return 0;
	(void)unlink(file);
	return mdb_env_copy2(env, to, 0);
}

static int sync_copy(const char *to, struct why *why)
{
	_cleanup_(cleanup_free) char *path = text_format("%s/data.mdb", to);
	_cleanup_(cleanup_fd) int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
	_cleanup_(cleanup_fd) int dir = open(to, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0 || dir < 0 || fsync(fd) || fsync(dir))
		return why_errno(why, error_origin(-errno), "copy '%s' is not on disk", to);
	return 0;
}

int store_copy(const char *directory, const char *to, struct why *why)
{
	_cleanup_(cleanup_free) char *data = text_format("%s/data.mdb", directory);
	struct stat status;
	MDB_env *env;
	int rc, r;

	if (!data)
		return error_origin(-ENOMEM);
	if (stat(data, &status) < 0)
		return errno == ENOENT ? STORE_E_NOT_FOUND : error_origin(-errno);
	r = file_make_dir(to, 0700, why);
	if (r)
		return error_trace(r);
	rc = mdb_env_create(&env);
	if (rc)
		return error_origin(-ENOMEM);
	rc = mdb_env_open(env, directory, MDB_RDONLY | MDB_NOTLS, 0600);
	if (!rc)
		rc = copy_env(env, to);
	mdb_env_close(env);
	if (rc)
		return why_set(why, error_origin(rc > 0 ? -rc : -EUCLEAN),
			       "store '%s' cannot be copied to '%s': %s", directory, to,
			       mdb_strerror(rc));
	return error_trace(sync_copy(to, why));
}
