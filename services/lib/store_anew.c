/*
 * Stores whose records can all be found again: one that cannot be read is set aside, and begins anew. Whether it can
 * is found by a child, since a page that is missing or wrong may be the end of the process that looks at it.
 */

#include <errno.h>
#include <fcntl.h>
#include <lmdb.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "broker/lib/file.h"
#include "broker/lib/log.h"
#include "services/lib/store_private.h"

#define LOOK_MS 60000 /* for all of a store: a disk that hangs does not end the child */

/* ---- the child ---- */

static bool is_damage(int rc)
{
	return rc == MDB_INVALID || rc == MDB_CORRUPTED || rc == MDB_PAGE_NOTFOUND ||
	       rc == MDB_PANIC || rc == MDB_BAD_VALSIZE || rc == MDB_CURSOR_FULL;
}

/* The record without which no store opens: store_open.c. */
static bool is_whole_meta(const MDB_val *key, const MDB_val *value)
{
	const uint8_t *data = value->mv_data;
	uint32_t crc;

	if (key->mv_size != strlen(STORE_META) || memcmp(key->mv_data, STORE_META, key->mv_size))
		return true;
	if (value->mv_size < STORE_VALUE_HEADER)
		return false;
	crc = data[1] | (uint32_t)data[2] << 8 | (uint32_t)data[3] << 16 | (uint32_t)data[4] << 24;
	return crc == crc32c(0, data + STORE_VALUE_HEADER, value->mv_size - STORE_VALUE_HEADER);
}

static int read_table(MDB_txn *txn, const char *name)
{
	bool is_meta = !strcmp(name, STORE_META);
	volatile uint8_t last;
	MDB_cursor *cursor;
	MDB_val key, value;
	MDB_dbi dbi;
	int rc;

	rc = mdb_dbi_open(txn, name, 0, &dbi);
	if (!rc)
		rc = mdb_cursor_open(txn, dbi, &cursor);
	if (rc)
		return rc;
	while (!(rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT))) {
		for (size_t i = 0; i < value.mv_size; i += 512)
			last = ((const uint8_t *)value.mv_data)[i];
		if (is_meta && !is_whole_meta(&key, &value))
			return MDB_CORRUPTED;
	}
	(void)last;
	return rc;
}

static int read_all(MDB_env *env)
{
	MDB_cursor *cursor;
	MDB_val name, value;
	MDB_dbi dbi;
	MDB_txn *txn;
	int rc;

	rc = mdb_txn_begin(env, NULL, MDB_RDONLY, &txn);
	if (rc)
		return rc;
	rc = mdb_dbi_open(txn, NULL, 0, &dbi);
	if (!rc)
		rc = mdb_cursor_open(txn, dbi, &cursor);
	while (!rc && !(rc = mdb_cursor_get(cursor, &name, &value, MDB_NEXT))) {
		char table[64];

		snprintf(table, sizeof(table), "%.*s", (int)name.mv_size,
			 (const char *)name.mv_data);
		rc = read_table(txn, table);
		if (rc == MDB_NOTFOUND)
			rc = 0;
	}
	mdb_txn_abort(txn); /* or its reader stays in the lock file */
	return rc;
}

static const int fatal_signals[] = {SIGBUS, SIGSEGV, SIGABRT, SIGFPE, SIGILL};

static void read_in_child(const char *directory) __attribute__((noreturn));
static void read_in_child(const char *directory)
{
	struct rlimit none = {};
	MDB_env *env = NULL;
	int rc;

	for (size_t i = 0; i < ARRAY_SIZE(fatal_signals); i++)
		signal(fatal_signals[i], SIG_DFL);
	(void)setrlimit(RLIMIT_CORE, &none);
	rc = mdb_env_create(&env);
	if (!rc)
		rc = mdb_env_set_maxdbs(env, STORE_TABLES_MAX);
	if (!rc)
		rc = mdb_env_open(env, directory, MDB_RDONLY | MDB_NOTLS, 0600);
	if (!rc)
		rc = read_all(env);
	mdb_env_close(env);
	_exit(is_damage(rc));
}

static bool is_fatal(int signal)
{
	for (size_t i = 0; i < ARRAY_SIZE(fatal_signals); i++)
		if (signal == fatal_signals[i])
			return true;
	return false;
}

/* What does not tell of damage (no memory, no child, one that was killed or takes too long) is told when the store is
 * opened. */
static int look(const char *directory, char reason[STORE_REASON_SIZE])
{
	int status = 0;
	pid_t pid;

	pid = fork();
	if (!pid)
		read_in_child(directory);
	if (pid < 0 || !store_reap(pid, LOOK_MS, &status) ||
	    (WIFEXITED(status) && !WEXITSTATUS(status)))
		return 0;
	if (WIFSIGNALED(status) && !is_fatal(WTERMSIG(status)))
		return 0;
	if (WIFSIGNALED(status))
		snprintf(reason, STORE_REASON_SIZE, "reading all of it ended with signal %d (%s)",
			 WTERMSIG(status), strsignal(WTERMSIG(status)));
	else
		snprintf(reason, STORE_REASON_SIZE,
			 "its pages are not those of a store, or damaged");
	return -EUCLEAN;
}

int store_look(const char *directory, char reason[STORE_REASON_SIZE])
{
	_cleanup_(cleanup_free) char *data = text_format("%s/data.mdb", directory);
	_cleanup_(cleanup_free) char *made = text_format("%s/made", directory);
	struct stat status;

	if (!data || !made)
		return error_origin(-ENOMEM);
	if (!stat(data, &status) && status.st_size)
		return look(directory, reason);
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
	if (stat(data, &status) || !status.st_size || !look(directory, reason))
		return 0;
	return error_trace(set_aside(directory, reason, why));
}
