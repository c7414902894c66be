/* Opening a store: its lock, its boot, its environment and tables. */

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <lmdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>

#include "broker/lib/file.h"
#include "broker/lib/log.h"
#include "services/lib/store_private.h"

#define MAGIC_NFS  0x6969
#define MAGIC_CIFS 0xff534d42
#define MAGIC_SMB2 0xfe534d42
/* So many stores of earlier boots are kept. */
#define ASIDE_MAX 2

static const char *const own_tables[] = {
	STORE_META,         STORE_QUARANTINE, STORE_OUTBOX, STORE_REPLIES,
	STORE_REPLY_EXPIRY, STORE_OPERATIONS, NULL,
};

void store_all_tables(const char *const *tables, const char *ret_tables[STORE_TABLES_MAX + 1])
{
	size_t n = 0;

	for (size_t i = 0; own_tables[i]; i++)
		ret_tables[n++] = own_tables[i];
	for (size_t i = 0; tables && tables[i] && n < STORE_TABLES_MAX; i++)
		ret_tables[n++] = tables[i];
	ret_tables[n] = NULL;
}

/* LMDB's locks and maps do not hold over a network. */
static int check_file_system(const char *directory, struct why *why)
{
	struct statfs status;
	uint32_t magic;

	if (statfs(directory, &status) < 0)
		return why_errno(why, -errno, "store '%s'", directory);
	magic = (uint32_t)status.f_type;
	if (magic == MAGIC_NFS || magic == MAGIC_CIFS || magic == MAGIC_SMB2)
		return why_set(why, -EOPNOTSUPP,
			       "store '%s' is on a network file system: it must be on a local one",
			       directory);
	return 0;
}

static int lock(struct store *store, struct why *why)
{
	_cleanup_(cleanup_free) char *path = NULL;
	int r;

	r = file_make_dir(store->directory, 0700, why);
	if (r)
		return error_trace(r);
	r = check_file_system(store->directory, why);
	if (r)
		return error_trace(r);
	path = text_format("%s/store.lock", store->directory);
	if (!path)
		return error_origin(-ENOMEM);
	r = file_lock(path, &store->lock_fd);
	if (r == -EWOULDBLOCK)
		return why_set(why, STORE_E_LOCKED, "store '%s' is open in another process",
			       store->directory);
	return r ? why_errno(why, error_trace(r), "cannot lock '%s'", path) : 0;
}

/* ---- volatile stores: unsynced, so one of another boot may be torn and is not even opened ---- */

static bool is_of_this_boot(const struct store *store)
{
	_cleanup_(cleanup_free) char *path = NULL, *text = NULL;
	char expected[ID_TEXT_SIZE];

	id_format(store->boot_id, expected);
	path = text_format("%s/boot_id", store->directory);
	return path && !file_read(AT_FDCWD, path, 64, &text, NULL) && !strcmp(text, expected);
}

static bool is_empty(const struct store *store)
{
	_cleanup_(cleanup_free) char *path = NULL;
	struct stat status;

	path = text_format("%s/data.mdb", store->directory);
	return path && (stat(path, &status) < 0 ? errno == ENOENT : status.st_size == 0);
}

static int write_boot_id(const struct store *store, struct why *why)
{
	_cleanup_(cleanup_free) char *path = NULL;
	char text[ID_TEXT_SIZE];

	id_format(store->boot_id, text);
	path = text_format("%s/boot_id", store->directory);
	if (!path)
		return error_origin(-ENOMEM);
	return file_write(path, text, strlen(text), 0600, false, why);
}

/* "<directory>.boot-<n>": the number after the highest; the oldest beyond ASIDE_MAX go. */
static int move_aside(struct store *store, struct why *why)
{
	_cleanup_(cleanup_free) char *to = NULL;
	unsigned n = 1;
	int r;

	for (unsigned i = 1; i < 10000; i++) {
		_cleanup_(cleanup_free) char *path = text_format("%s.boot-%u", store->directory, i);
		struct stat status;

		if (!path)
			return error_origin(-ENOMEM);
		if (lstat(path, &status) == 0)
			n = i + 1;
		else if (i > n + 2 * ASIDE_MAX)
			break;
	}
	for (unsigned i = 1; i + ASIDE_MAX <= n; i++) {
		_cleanup_(cleanup_free) char *path = text_format("%s.boot-%u", store->directory, i);

		if (path && file_remove_tree(AT_FDCWD, path, NULL))
			log_warning("cannot remove '%s'", path);
	}
	to = text_format("%s.boot-%u", store->directory, n);
	if (!to)
		return error_origin(-ENOMEM);
	if (rename(store->directory, to) < 0)
		return why_errno(why, -errno, "cannot move '%s' of another boot aside",
				 store->directory);
	log_info("store '%s' of another boot was moved to '%s'", store->directory, to);
	store->lock_fd = close_fd(store->lock_fd);
	r = lock(store, why);
	return error_trace(r);
}

/* @is_fresh: made in this boot by this call. */
static int check_boot(struct store *store, bool *is_fresh, struct why *why)
{
	int r;

	*is_fresh = !is_of_this_boot(store);
	if (!*is_fresh)
		return 0;
	if (!is_empty(store)) {
		r = move_aside(store, why);
		if (r)
			return error_trace(r);
	}
	return error_trace(write_boot_id(store, why));
}

/* ---- durable stores ---- */

/* LMDB takes an empty or missing file for a new store, to which all files beside it would be garbage. The mark
 * "<directory>/made" says that there has been one. */
static int check_lost(const struct store *store, struct why *why)
{
	_cleanup_(cleanup_free) char *made = text_format("%s/made", store->directory);

	if (!made)
		return error_origin(-ENOMEM);
	if (access(made, F_OK) < 0 || !is_empty(store))
		return 0;
	return why_set(
		why, error_origin(-EUCLEAN),
		"store '%s' has lost its data.mdb and is left as it is: `davit restore` puts a "
		"copy back, `davit store rebuild` finds what others know of it",
		store->directory);
}

static int mark_made(const struct store *store, struct why *why)
{
	_cleanup_(cleanup_free) char *made = text_format("%s/made", store->directory);

	if (!made)
		return error_origin(-ENOMEM);
	if (access(made, F_OK) == 0)
		return 0;
	return error_trace(file_write(made, "", 0, 0600, true, why));
}

/* ---- the environment ---- */

/* LMDB leaves its data file open to children, who could then write the database. */
static void close_on_exec(const struct store *store)
{
	_cleanup_(cleanup_dir) DIR *fds = opendir("/proc/self/fd");
	size_t length = strlen(store->directory);
	mdb_filehandle_t data;
	struct dirent *entry;

	if (!mdb_env_get_fd(store->env, &data))
		fcntl(data, F_SETFD, FD_CLOEXEC);
	while (fds && (entry = readdir(fds))) {
		char target[4096];
		ssize_t size = readlinkat(dirfd(fds), entry->d_name, target, sizeof(target) - 1);

		if (size <= 0)
			continue;
		target[size] = '\0';
		if (!strncmp(target, store->directory, length) && target[length] == '/')
			fcntl(atoi(entry->d_name), F_SETFD, FD_CLOEXEC);
	}
}

static int refuse(struct store *store, int rc, struct why *why)
{
	return why_set(why, error_origin(rc > 0 ? -rc : -EUCLEAN),
		       "store '%s' cannot be opened and is left as it is: %s", store->directory,
		       mdb_strerror(rc));
}

static int open_environment(struct store *store, struct why *why)
{
	unsigned flags = MDB_NOTLS | (store->is_volatile ? MDB_NOSYNC : 0);
	MDB_envinfo info;
	int rc;

	rc = mdb_env_create(&store->env);
	if (rc) {
		store->env = NULL;
		return refuse(store, rc, why);
	}
	rc = mdb_env_set_mapsize(store->env, store->map_size);
	if (!rc)
		rc = mdb_env_set_maxdbs(store->env, STORE_TABLES_MAX);
	if (!rc)
		rc = mdb_env_open(store->env, store->directory, flags, 0600);
	if (rc)
		return refuse(store, rc, why);
	close_on_exec(store);
	/* LMDB takes a larger one if the file says so. */
	mdb_env_info(store->env, &info);
	store->map_size = info.me_mapsize;
	return 0;
}

static int add_table(struct store *store, MDB_txn *txn, const char *name)
{
	struct store_table *table = &store->tables[store->n_tables];
	int rc;

	if (store->n_tables == STORE_TABLES_MAX)
		return MDB_DBS_FULL;
	rc = mdb_dbi_open(txn, name, MDB_CREATE, &table->dbi);
	if (rc)
		return rc;
	table->name = strdup(name);
	if (!table->name)
		return ENOMEM;
	store->n_tables++;
	return 0;
}

/* All at once: LMDB's handles are not to be opened while the service runs. */
static int open_tables(struct store *store, const char *const *tables, struct why *why)
{
	MDB_txn *txn;
	int rc;

	rc = mdb_txn_begin(store->env, NULL, 0, &txn);
	if (rc)
		return refuse(store, rc, why);
	for (size_t i = 0; own_tables[i] && !rc; i++)
		rc = add_table(store, txn, own_tables[i]);
	for (size_t i = 0; tables && tables[i] && !rc; i++)
		rc = add_table(store, txn, tables[i]);
	if (rc)
		mdb_txn_abort(txn);
	else
		rc = mdb_txn_commit(txn);
	return rc ? refuse(store, rc, why) : 0;
}

static int make_meta(struct store *store)
{
	uint8_t publisher[ID_SIZE];
	int r;

	id_make(publisher);
	store->meta.format = STORE_FORMAT;
	store->meta.next_seq = 1;
	r = schema_bytes_set(&store->meta.publisher, publisher, sizeof(publisher));
	return error_trace(r);
}

static int read_meta(struct store *store, bool *ret_fresh_boot, struct why *why)
{
	struct store_key key;
	int r;

	store_key_bytes(&key, STORE_META, strlen(STORE_META));
	r = store_get(store, STORE_META, &key, schema_store_meta(), &store->meta);
	if (r == STORE_E_NOT_FOUND)
		r = make_meta(store);
	if (r > 0)
		return why_set(why, -EUCLEAN,
			       "store '%s' is left as it is: its first record is damaged",
			       store->directory);
	if (r)
		return error_trace(r);
	if (store->meta.format > STORE_FORMAT)
		return why_set(
			why, -EPROTONOSUPPORT,
			"store '%s' was written by a newer davit (format %llu, this one knows %d)",
			store->directory, (unsigned long long)store->meta.format, STORE_FORMAT);
	*ret_fresh_boot = store->meta.boot_id.size != sizeof(store->boot_id) ||
			  memcmp(store->meta.boot_id.data, store->boot_id,
				 sizeof(store->boot_id)) != 0;
	if (!*ret_fresh_boot)
		return 0;
	return error_trace(store_put_meta(store, store->meta.publisher.data, store->meta.next_seq));
}

/*
 * "<directory>/restored": the file was put back from a copy. Numbers that its publisher has given since may be in the
 * log, which would take new events for repeats: those from next_seq on get another publisher (outbox.c). The mark
 * holds that number from the first opening on.
 */
static int take_restored(struct store *store, struct why *why)
{
	_cleanup_(cleanup_free) char *path = text_format("%s/restored", store->directory);
	_cleanup_(cleanup_free) char *text = NULL;
	char number[24], *end = NULL;
	int r;

	if (!path)
		return error_origin(-ENOMEM);
	r = file_read(AT_FDCWD, path, sizeof(number), &text, NULL);
	if (r)
		return r == -ENOENT ? 0 : why_errno(why, error_trace(r), "cannot read '%s'", path);
	store->restored_until = strtoull(text, &end, 10);
	if (*text && !*end)
		return 0;
	store->restored_until = store->meta.next_seq;
	snprintf(number, sizeof(number), "%llu", (unsigned long long)store->meta.next_seq);
	return error_trace(file_write(path, number, strlen(number), 0600, true, why));
}

void store_forget_restored(struct store *store)
{
	_cleanup_(cleanup_free) char *path = text_format("%s/restored", store->directory);

	store->restored_until = 0;
	if (path)
		(void)unlink(path);
}

static int open_whole(struct store *store, const struct store_options *options,
		      bool *ret_fresh_boot, struct why *why)
{
	bool is_fresh;
	int r;

	r = lock(store, why);
	if (r)
		return error_trace(r);
	if (store->is_volatile)
		r = check_boot(store, &is_fresh, why);
	else if (!options->may_begin_anew)
		r = check_lost(store, why);
	if (!r && (store->is_volatile || options->may_begin_anew))
		r = store_begin_anew(store->directory, why);
	if (!r)
		r = open_environment(store, why);
	if (!r)
		r = open_tables(store, options->tables, why);
	if (!r)
		r = read_meta(store, ret_fresh_boot, why);
	if (!r)
		r = take_restored(store, why);
	if (!r)
		r = store_read_mark(store);
	if (r)
		return error_trace(r);
	r = store_commit(store);
	if (r)
		return why_set(why, r, "store '%s' cannot be written: %s", store->directory,
			       r < 0 ? strerror(-r) : "no space is left");
	store_check_readers(store);
	return store->is_volatile ? 0 : error_trace(mark_made(store, why));
}

int store_open(const struct store_options *options, struct store **ret_store, bool *ret_fresh_boot,
	       struct why *why)
{
	_cleanup_(store_closep) struct store *store = NULL;
	bool is_fresh_boot = false;
	int r;

	store = calloc(1, sizeof(*store));
	if (!store)
		return error_origin(-ENOMEM);
	store->lock_fd = -1;
	store->is_volatile = options->is_volatile;
	store->map_size = options->map_size ? options->map_size : STORE_MAP_DEFAULT;
	store->directory = strdup(options->directory);
	if (!store->directory)
		return error_origin(-ENOMEM);
	r = boot_id_read(store->boot_id);
	if (r)
		return why_errno(why, error_trace(r), "cannot read the boot id");
	r = open_whole(store, options, &is_fresh_boot, why);
	if (r) {
		why_set(why, r, "store '%s' cannot be opened: %s", store->directory,
			r < 0 ? strerror(-r) : "unusable");
		return r;
	}
	if (ret_fresh_boot)
		*ret_fresh_boot = is_fresh_boot;
	*ret_store = TAKE(store);
	return 0;
}
