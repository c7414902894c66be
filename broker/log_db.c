#include <assert.h>
#include <fcntl.h>
#include <lmdb.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "broker/lib/cleanup.h"
#include "broker/lib/file.h"
#include "broker/lib/points.h"
#include "broker/log_db.h"

#define VALUE_VERSION 1
#define DISK_FULL     ((size_t)1 << 20) /* fewer bytes free than this */
#define VALUE_HEAD    5                 /* version, CRC32C little-endian */
#define MAP_MAX       ((size_t)1 << 40) /* address space that it may grow to */

static const char *const table_names[LOG_N_TABLES] = {
	[LOG_META] = "meta",       [LOG_EVENTS] = "events", [LOG_PUBLISHERS] = "publishers",
	[LOG_CURSORS] = "cursors", [LOG_NAMES] = "names",
};

struct log_db {
	MDB_env *env;
	MDB_dbi tables[LOG_N_TABLES];
	/* Read-locked by each transaction; the map grows under the write lock. */
	pthread_rwlock_t resize;
	struct schema_buffer value; /* of the one writer */
};

struct log_txn {
	struct log_db *db;
	MDB_txn *txn;
	bool is_write;
};

/* LMDB's result as one of ours. */
static int result(int r)
{
	switch (r) {
	case 0:
		return 0;
	case MDB_NOTFOUND:
		return LOG_E_NOT_FOUND;
	case MDB_MAP_FULL:
	case MDB_TXN_FULL:
		return LOG_E_FULL;
	case ENOSPC:
	case EDQUOT:
		return LOG_E_DISK;
	case MDB_CORRUPTED:
	case MDB_PAGE_NOTFOUND:
	case MDB_PANIC:
	case MDB_VERSION_MISMATCH:
	case MDB_INVALID:
		return error_origin(-EIO);
	default:
		return error_origin(r > 0 ? -r : -EIO);
	}
}

/* ---- the environment ---- */

static int open_tables(struct log_db *db)
{
	MDB_txn *txn;
	int r;

	r = mdb_txn_begin(db->env, NULL, 0, &txn);
	if (r)
		return result(r);
	for (int i = 0; i < LOG_N_TABLES && !r; i++)
		r = mdb_dbi_open(txn, table_names[i], MDB_CREATE, &db->tables[i]);
	if (r) {
		mdb_txn_abort(txn);
		return result(r);
	}
	return result(mdb_txn_commit(txn));
}

static int open_env(struct log_db *db, const char *directory, size_t map_size)
{
	mdb_filehandle_t fd;
	int r;

	r = mdb_env_create(&db->env);
	if (!r)
		r = mdb_env_set_maxdbs(db->env, LOG_N_TABLES);
	if (!r)
		r = mdb_env_set_mapsize(db->env, map_size);
	if (!r)
		r = mdb_env_open(db->env, directory, MDB_NOTLS, 0600);
	if (!r)
		r = mdb_env_get_fd(db->env, &fd);
	if (r)
		return result(r);
	/* LMDB leaves it open to children, who could write into the database. */
	if (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
		return error_origin(-errno);
	log_db_check_readers(db);
	return open_tables(db);
}

/* LMDB takes an empty or missing file for a new log, which would give numbers again that were given. The mark
 * "<directory>/made" says that there has been one. */
static int check_lost(const char *directory, const char *made, struct why *why)
{
	_cleanup_(cleanup_free) char *data = text_format("%s/data.mdb", directory);
	struct stat status;

	if (!data)
		return error_origin(-ENOMEM);
	if (access(made, F_OK) || (!stat(data, &status) && status.st_size))
		return 0;
	return why_set(
		why, error_origin(-EUCLEAN),
		"the event log in %s has lost its data.mdb and is left as it is: `davit restore` puts a "
		"copy back, `davit store rebuild events` begins behind all numbers that were given",
		directory);
}

int log_db_open(const char *directory, size_t map_size, struct log_db **ret_db, struct why *why)
{
	_cleanup_(cleanup_free) char *made = text_format("%s/made", directory);
	struct log_db *db;
	int r = made ? check_lost(directory, made, why) : error_origin(-ENOMEM);

	if (r)
		return r;
	db = calloc(1, sizeof(*db));
	if (!db)
		return error_origin(-ENOMEM);
	pthread_rwlock_init(&db->resize, NULL);
	r = open_env(db, directory, map_size);
	if (r) {
		r = r > 0 ? (r == LOG_E_FULL || r == LOG_E_DISK ? -ENOSPC : -EIO) : r;
		why_errno(why, r, "the event log in %s cannot be opened (it is left as it is)",
			  directory);
		log_db_close(db);
		return error_trace(r);
	}
	r = access(made, F_OK) ? file_write(made, "", 0, 0600, true, why) : 0;
	if (r) {
		log_db_close(db);
		return error_trace(r);
	}
	*ret_db = db;
	return 0;
}

static int copy_env(const char *directory, const char *to)
{
	_cleanup_(cleanup_free) char *file = text_format("%s/data.mdb", to);
	_cleanup_(cleanup_fd) int fd = -1;
	MDB_env *env;
	int r = file ? mdb_env_create(&env) : ENOMEM;

	if (r)
		return r;
	r = mdb_env_open(env, directory, MDB_RDONLY | MDB_NOTLS, 0600);
	if (!r)
		r = mdb_env_copy2(env, to, MDB_CP_COMPACT);
	mdb_env_close(env);
	if (r)
		return r;
	fd = open(file, O_RDONLY | O_CLOEXEC);
	return fd < 0 || fsync(fd) ? errno : 0;
}

int log_db_copy(const char *directory, const char *to, struct why *why)
{
	_cleanup_(cleanup_free) char *data = text_format("%s/data.mdb", directory);
	int r;

	if (!data)
		return error_origin(-ENOMEM);
	if (access(data, F_OK))
		return errno == ENOENT ? LOG_E_NOT_FOUND : error_origin(-errno);
	r = file_make_dir(to, 0700, why);
	if (r)
		return error_trace(r);
	r = copy_env(directory, to);
	return r ? why_set(why, error_origin(r > 0 ? -r : -EIO),
			   "the event log in %s cannot be copied to %s: %s", directory, to,
			   mdb_strerror(r))
		 : 0;
}

struct log_db *log_db_close(struct log_db *db)
{
	if (!db)
		return NULL;
	if (db->env)
		mdb_env_close(db->env);
	pthread_rwlock_destroy(&db->resize);
	schema_buffer_clear(&db->value);
	free(db);
	return NULL;
}

int log_db_grow(struct log_db *db)
{
	mdb_filehandle_t fd;
	MDB_envinfo info;
	int r;

	pthread_rwlock_wrlock(&db->resize);
	r = mdb_env_info(db->env, &info) ?: mdb_env_get_fd(db->env, &fd);
	if (!r && (info.me_mapsize >= MAP_MAX || !file_can_map(fd, 2 * info.me_mapsize)))
		r = MDB_MAP_FULL;
	if (!r)
		r = mdb_env_set_mapsize(db->env, 2 * info.me_mapsize);
	pthread_rwlock_unlock(&db->resize);
	return r ? LOG_E_FULL : 0;
}

void log_db_check_readers(struct log_db *db)
{
	int n_dead;

	mdb_reader_check(db->env, &n_dead);
}

/* ---- transactions ---- */

int log_begin(struct log_db *db, bool is_write, struct log_txn **ret_txn)
{
	_cleanup_(cleanup_free) struct log_txn *txn = calloc(1, sizeof(*txn));
	int r;

	if (!txn)
		return error_origin(-ENOMEM);
	txn->db = db;
	txn->is_write = is_write;
	pthread_rwlock_rdlock(&db->resize);
	r = mdb_txn_begin(db->env, NULL, is_write ? 0 : MDB_RDONLY, &txn->txn);
	if (r) {
		pthread_rwlock_unlock(&db->resize);
		return error_trace(result(r));
	}
	*ret_txn = TAKE(txn);
	return 0;
}

static void end(struct log_txn *txn)
{
	pthread_rwlock_unlock(&txn->db->resize);
	free(txn);
}

/* LMDB takes a write that came out short, as on a full disk, for an error of the device. */
static bool is_disk_full(const struct log_db *db)
{
	struct statvfs status;
	mdb_filehandle_t fd;

	if (mdb_env_get_fd(db->env, &fd) || fstatvfs(fd, &status) < 0)
		return false;
	return status.f_bavail * status.f_frsize < DISK_FULL;
}

/* As LMDB's: the transaction is gone, however it ends. */
static int commit(MDB_txn *txn)
{
	int r = point("log.commit.before");

	if (r) {
		mdb_txn_abort(txn);
		return r;
	}
	r = mdb_txn_commit(txn);
	(void)point("log.commit.after");
	return r;
}

int log_commit(struct log_txn *txn)
{
	int r = commit(txn->txn);

	r = r == EIO && is_disk_full(txn->db) ? LOG_E_DISK : result(r);
	end(txn);
	return error_trace(r);
}

struct log_txn *log_abort(struct log_txn *txn)
{
	if (txn) {
		mdb_txn_abort(txn->txn);
		end(txn);
	}
	return NULL;
}

void log_abortp(struct log_txn **txn)
{
	*txn = log_abort(*txn);
}

/* ---- keys ---- */

struct log_key log_key_bytes(const void *data, size_t size)
{
	struct log_key key = {.size = size};

	assert(size <= LOG_KEY_MAX);
	memcpy(key.data, data, size);
	return key;
}

struct log_key log_key_text(const char *text)
{
	return log_key_bytes(text, strlen(text));
}

struct log_key log_key_number(uint64_t number)
{
	uint8_t data[8];

	for (int i = 0; i < 8; i++)
		data[i] = (uint8_t)(number >> (56 - 8 * i));
	return log_key_bytes(data, sizeof(data));
}

static MDB_val val_of(const struct log_key *key)
{
	return (MDB_val){.mv_size = key->size, .mv_data = (void *)key->data};
}

/* ---- records ---- */

static uint32_t read_crc(const uint8_t *at)
{
	return at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

static int decode(const MDB_val *value, const struct schema_message *schema, void *ret_message)
{
	const uint8_t *data = value->mv_data;
	int r;

	if (value->mv_size < VALUE_HEAD || data[0] != VALUE_VERSION ||
	    read_crc(data + 1) != crc32c(0, data + VALUE_HEAD, value->mv_size - VALUE_HEAD))
		return LOG_E_DAMAGED;
	r = schema_unpack(schema, data + VALUE_HEAD, value->mv_size - VALUE_HEAD, ret_message,
			  NULL);
	return r > 0 ? LOG_E_DAMAGED : error_trace(r);
}

int log_get(struct log_txn *txn, enum log_table table, const struct log_key *key,
	    const struct schema_message *schema, void *ret_message, size_t *ret_size)
{
	MDB_val name = val_of(key), value;
	int r;

	r = result(mdb_get(txn->txn, txn->db->tables[table], &name, &value));
	if (r)
		return r;
	if (ret_size)
		*ret_size = value.mv_size;
	return decode(&value, schema, ret_message);
}

static int encode(struct schema_buffer *buffer, const struct schema_message *schema,
		  const void *message)
{
	uint8_t head[VALUE_HEAD] = {VALUE_VERSION};
	uint32_t crc;
	int r;

	buffer->size = 0;
	r = schema_buffer_add(buffer, head, sizeof(head));
	if (!r)
		r = schema_pack(schema, message, buffer, NULL);
	if (r)
		return error_fold(r);
	crc = crc32c(0, buffer->data + VALUE_HEAD, buffer->size - VALUE_HEAD);
	for (int i = 0; i < 4; i++)
		buffer->data[1 + i] = (uint8_t)(crc >> (8 * i));
	return 0;
}

int log_put(struct log_txn *txn, enum log_table table, const struct log_key *key,
	    const struct schema_message *schema, const void *message, size_t *ret_size)
{
	struct schema_buffer *buffer = &txn->db->value;
	MDB_val name = val_of(key), value;
	int r;

	assert(txn->is_write);
	r = encode(buffer, schema, message);
	if (r)
		return error_trace(r);
	value = (MDB_val){.mv_size = buffer->size, .mv_data = buffer->data};
	if (ret_size)
		*ret_size = buffer->size;
	return result(mdb_put(txn->txn, txn->db->tables[table], &name, &value,
			      table == LOG_EVENTS ? MDB_APPEND : 0));
}

int log_put_raw(struct log_txn *txn, enum log_table table, const struct log_key *key,
		const void *data, size_t size)
{
	MDB_val name = val_of(key), value = {.mv_size = size, .mv_data = (void *)data};

	assert(txn->is_write);
	return result(mdb_put(txn->txn, txn->db->tables[table], &name, &value, 0));
}

int log_delete(struct log_txn *txn, enum log_table table, const struct log_key *key)
{
	MDB_val name = val_of(key);

	return result(mdb_del(txn->txn, txn->db->tables[table], &name, NULL));
}

int log_next_key(struct log_txn *txn, enum log_table table, struct log_key *key)
{
	MDB_val name = val_of(key), value;
	MDB_cursor *cursor;
	int r;

	r = mdb_cursor_open(txn->txn, txn->db->tables[table], &cursor);
	if (r)
		return result(r);
	r = mdb_cursor_get(cursor, &name, &value, key->size > 0 ? MDB_SET_RANGE : MDB_FIRST);
	if (!r && key->size > 0 && name.mv_size == key->size &&
	    memcmp(name.mv_data, key->data, key->size) == 0)
		r = mdb_cursor_get(cursor, &name, &value, MDB_NEXT);
	if (!r && name.mv_size > LOG_KEY_MAX)
		r = MDB_CORRUPTED;
	if (!r)
		*key = log_key_bytes(name.mv_data, name.mv_size);
	mdb_cursor_close(cursor);
	return result(r);
}

int log_count(struct log_txn *txn, enum log_table table, size_t *ret_count)
{
	MDB_stat stat;
	int r;

	r = result(mdb_stat(txn->txn, txn->db->tables[table], &stat));
	if (r)
		return r;
	*ret_count = stat.ms_entries;
	return 0;
}
