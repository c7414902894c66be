/* Reading all of an LMDB file, to find out whether that can be done: see store_salvage.h. */

#include <fcntl.h>
#include <lmdb.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "broker/lib/file.h"
#include "broker/lib/store_salvage.h"

#define TABLES_MAX 64
#define VALUE_HEAD 5 /* version, CRC32C little-endian */

/* The child's exit code. */
enum looked { LOOKED_WHOLE, LOOKED_DAMAGED, LOOKED_UNKNOWN };

static bool is_damage(int rc)
{
	return rc == MDB_INVALID || rc == MDB_CORRUPTED || rc == MDB_PAGE_NOTFOUND ||
	       rc == MDB_PANIC || rc == MDB_BAD_VALSIZE || rc == MDB_CURSOR_FULL;
}

/* The record without which no store opens. */
static bool is_whole_first(const MDB_val *key, const MDB_val *value, const char *first)
{
	const uint8_t *data = value->mv_data;
	uint32_t crc;

	if (key->mv_size != strlen(first) || memcmp(key->mv_data, first, key->mv_size))
		return true;
	if (value->mv_size < VALUE_HEAD)
		return false;
	crc = data[1] | (uint32_t)data[2] << 8 | (uint32_t)data[3] << 16 | (uint32_t)data[4] << 24;
	return crc == crc32c(0, data + VALUE_HEAD, value->mv_size - VALUE_HEAD);
}

/* @first: the key of a record that must be whole; NULL: none. */
static int read_table(MDB_txn *txn, MDB_dbi dbi, const char *first)
{
	volatile uint8_t last;
	MDB_cursor *cursor;
	MDB_val key, value;
	MDB_stat stat;
	size_t n = 0;
	int rc;

	rc = mdb_stat(txn, dbi, &stat);
	if (!rc)
		rc = mdb_cursor_open(txn, dbi, &cursor);
	if (rc)
		return rc;
	while (!(rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT))) {
		for (size_t i = 0; i < value.mv_size; i += 512)
			last = ((const uint8_t *)value.mv_data)[i];
		/* Pages that lead back to others have no end. */
		if (++n > stat.ms_entries || (first && !is_whole_first(&key, &value, first)))
			return MDB_CORRUPTED;
	}
	(void)last;
	return rc == MDB_NOTFOUND ? n == stat.ms_entries ? 0 : MDB_CORRUPTED : rc;
}

/* Pages that are free: a value is their number, and so many numbers of pages. Who writes takes them from there. */
static int read_free(MDB_env *env, MDB_txn *txn)
{
	MDB_cursor *cursor;
	MDB_val key, value;
	MDB_envinfo info;
	int rc;

	mdb_env_info(env, &info);
	rc = mdb_cursor_open(txn, 0, &cursor);
	while (!rc && !(rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT))) {
		const size_t *numbers = value.mv_data;

		/* There may be room for more of them. */
		if (value.mv_size < sizeof(*numbers) ||
		    numbers[0] > value.mv_size / sizeof(*numbers) - 1)
			return MDB_CORRUPTED;
		for (size_t i = 1; i <= numbers[0]; i++)
			if (numbers[i] > info.me_last_pgno)
				return MDB_CORRUPTED;
	}
	return rc == MDB_NOTFOUND ? 0 : rc;
}

static int read_named(MDB_txn *txn, const MDB_val *name, const char *meta, const char *first)
{
	char table[64];
	MDB_dbi dbi;
	int rc;

	snprintf(table, sizeof(table), "%.*s", (int)name->mv_size, (const char *)name->mv_data);
	rc = mdb_dbi_open(txn, table, 0, &dbi);
	return rc ?: read_table(txn, dbi, strcmp(table, meta) ? NULL : first);
}

static int read_all(MDB_env *env, const char *meta, const char *first)
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
	while (!rc && !(rc = mdb_cursor_get(cursor, &name, &value, MDB_NEXT)))
		rc = read_named(txn, &name, meta, first);
	if (rc == MDB_NOTFOUND)
		rc = read_free(env, txn);
	mdb_txn_abort(txn); /* or its reader stays in the lock file */
	return rc;
}

static const int fatal_signals[] = {SIGBUS, SIGSEGV, SIGABRT, SIGFPE, SIGILL};

void store_become_reader(void)
{
	_cleanup_(cleanup_fd) int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
	struct rlimit none = {};

	for (size_t i = 0; i < ARRAY_SIZE(fatal_signals); i++)
		signal(fatal_signals[i], SIG_DFL);
	signal(SIGPIPE, SIG_DFL);
	(void)setrlimit(RLIMIT_CORE, &none);
	if (null >= 0)
		(void)dup2(null, STDERR_FILENO);
	/* Nobody else would end it when it walks in circles. */
	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
}

static void read_in_child(const char *directory, const char *meta, const char *first)
	__attribute__((noreturn));
static void read_in_child(const char *directory, const char *meta, const char *first)
{
	MDB_env *env = NULL;
	int rc;

	store_become_reader();
	rc = mdb_env_create(&env);
	if (!rc)
		rc = mdb_env_set_maxdbs(env, TABLES_MAX);
	if (!rc)
		rc = mdb_env_open(env, directory, MDB_RDONLY | MDB_NOTLS, 0600);
	if (!rc)
		rc = read_all(env, meta, first);
	mdb_env_close(env);
	_exit(!rc ? LOOKED_WHOLE : is_damage(rc) ? LOOKED_DAMAGED : LOOKED_UNKNOWN);
}

static bool is_fatal(int signal)
{
	for (size_t i = 0; i < ARRAY_SIZE(fatal_signals); i++)
		if (signal == fatal_signals[i])
			return true;
	return false;
}

int store_read_through(const char *directory, const char *meta, const char *first, int timeout_ms,
		       char reason[STORE_REASON_SIZE])
{
	int status = 0;
	pid_t pid;

	pid = fork();
	if (!pid)
		read_in_child(directory, meta, first);
	if (pid < 0 || !store_reap(pid, timeout_ms, &status))
		return -EAGAIN;
	if (WIFEXITED(status) && WEXITSTATUS(status) == LOOKED_WHOLE)
		return 0;
	if (WIFEXITED(status) ? WEXITSTATUS(status) != LOOKED_DAMAGED : !is_fatal(WTERMSIG(status)))
		return -EAGAIN;
	if (WIFSIGNALED(status))
		snprintf(reason, STORE_REASON_SIZE, "reading all of it ended with signal %d (%s)",
			 WTERMSIG(status), strsignal(WTERMSIG(status)));
	else
		snprintf(reason, STORE_REASON_SIZE,
			 "its pages are not those of a store, or damaged");
	return -EUCLEAN;
}
