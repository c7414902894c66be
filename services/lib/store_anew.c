/*
 * Stores whose records can all be found again: one that cannot be read is set aside, and begins anew. Whether it can
 * is found by a child (broker/lib/store_salvage.h).
 */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "broker/lib/file.h"
#include "broker/lib/log.h"
#include "services/lib/store_private.h"

#define LOOK_MS 60000 /* for all of a store */

int store_look(const char *directory, int timeout_ms, char reason[STORE_REASON_SIZE])
{
	_cleanup_(cleanup_free) char *data = text_format("%s/data.mdb", directory);
	_cleanup_(cleanup_free) char *made = text_format("%s/made", directory);
	struct stat status;

	if (!data || !made)
		return error_origin(-ENOMEM);
	if (!stat(data, &status) && status.st_size)
		return store_read_through(directory, STORE_META, STORE_META, timeout_ms, reason);
	if (access(made, F_OK))
		return error_origin(-ENOENT);
	snprintf(reason, STORE_REASON_SIZE, "it has lost its data.mdb");
	return -EUCLEAN;
}

/* ---- aside ---- */

/* The one before it is kept too. */
static char *make_place(const char *directory)
{
	_cleanup_(cleanup_free) char *place = text_format("%s/broken", directory);
	_cleanup_(cleanup_free) char *before = text_format("%s/broken-before", directory);

	if (!place || !before)
		return NULL;
	if (!access(place, F_OK)) {
		(void)file_remove_tree(AT_FDCWD, before, NULL);
		(void)rename(place, before);
	}
	return mkdir(place, 0700) ? NULL : TAKE(place);
}

static int move(const char *directory, const char *place, const char *name)
{
	_cleanup_(cleanup_free) char *from = text_format("%s/%s", directory, name);
	_cleanup_(cleanup_free) char *to = text_format("%s/%s", place, name);

	if (!from || !to)
		return error_origin(-ENOMEM);
	return rename(from, to) && errno != ENOENT ? error_origin(-errno) : 0;
}

/* The reason first, the data last: what is cut in between is set aside again. */
static int set_aside(const char *directory, const char *reason, struct why *why)
{
	_cleanup_(cleanup_free) char *place = make_place(directory);
	_cleanup_(cleanup_free) char *path = place ? text_format("%s/reason", place) : NULL;
	int r;

	if (!path)
		return why_set(why, error_origin(-EIO),
			       "store '%s' is damaged (%s), and cannot be set aside: %s", directory,
			       reason, strerror(errno));
	r = file_write(path, reason, strlen(reason), 0600, true, why);
	r = r ?: move(directory, place, "lock.mdb") ?: move(directory, place, "data.mdb");
	if (r)
		return why_errno(why, r, "store '%s' is damaged (%s), and cannot be set aside",
				 directory, reason);
	log_error("store '%s' is damaged (%s): it was moved to '%s', and what it held is found "
		  "again as far as others know it",
		  directory, reason, place);
	return 0;
}

int store_begin_anew(const char *directory, struct why *why)
{
	_cleanup_(cleanup_free) char *data = text_format("%s/data.mdb", directory);
	char reason[STORE_REASON_SIZE] = "";
	struct stat status;

	if (!data)
		return error_origin(-ENOMEM);
	if (stat(data, &status) || !status.st_size)
		return 0;
	/* Where it cannot be told, opening it tells. */
	if (store_read_through(directory, STORE_META, STORE_META, LOOK_MS, reason) != -EUCLEAN)
		return 0;
	return error_trace(set_aside(directory, reason, why));
}
