/* The store's transactions and its map. Opening is in store_open.c, records in store_record.c. */

#include <assert.h>
#include <errno.h>
#include <lmdb.h>
#include <string.h>
#include <sys/statvfs.h>

#include "broker/lib/file.h"
#include "broker/lib/log.h"
#include "broker/lib/points.h"
#include "services/lib/store_private.h"

/* A short write(2) is EIO in LMDB; when the file system has no room left that is what it means. */
static bool is_disk_full(const struct store *store)
{
	struct statvfs status;

	if (statvfs(store->directory, &status) < 0)
		return false;
	return (uint64_t)status.f_bfree * status.f_frsize < (1 << 20);
}

int store_map_result(struct store *store, int rc)
{
	switch (rc) {
	case 0:
		return 0;
	case MDB_NOTFOUND:
		return STORE_E_NOT_FOUND;
	case MDB_MAP_FULL:
		store->failure = STORE_E_FULL;
		return STORE_E_FULL;
	case ENOSPC:
	case EDQUOT:
	case EFBIG:
		store->failure = STORE_E_NO_SPACE;
		return STORE_E_NO_SPACE;
	case EIO:
		if (!is_disk_full(store))
			break;
		store->failure = STORE_E_NO_SPACE;
		return STORE_E_NO_SPACE;
	}
	log_debug("store '%s': %s", store->directory, mdb_strerror(rc));
	return error_origin(rc > 0 ? -rc : rc == MDB_TXN_FULL ? -E2BIG : -EUCLEAN);
}

int store_failure(const struct store *store)
{
	return store->failure;
}

bool store_is_dirty(const struct store *store)
{
	return store->is_dirty;
}

bool store_is_open(const struct store *store)
{
	return store->turn;
}

int store_read_txn(struct store *store, struct MDB_txn **ret_txn)
{
	int r;

	if (store->failure)
		return store->failure;
	if (!store->turn) {
		r = store_map_result(store, mdb_txn_begin(store->env, NULL, 0, &store->turn));
		if (r) {
			store->turn = NULL;
			return error_trace(r);
		}
	}
	*ret_txn = store->nested ? store->nested : store->turn;
	return 0;
}

int store_write_txn(struct store *store, struct MDB_txn **ret_txn)
{
	int r;

	r = store_read_txn(store, ret_txn);
	if (r)
		return error_trace(r);
	if (store->is_nested && !store->nested) {
		r = store_map_result(store,
				     mdb_txn_begin(store->env, store->turn, 0, &store->nested));
		if (r) {
			store->nested = NULL;
			return error_trace(r);
		}
		*ret_txn = store->nested;
	}
	if (!store->is_nested) {
		store->is_dirty = true;
		store->is_unnested = true;
	}
	return 0;
}

/* The nested transaction itself is made at the first change: most handlers only read. */
int store_begin(struct store *store)
{
	struct MDB_txn *turn;
	int r;

	assert(!store->is_nested);
	r = store_read_txn(store, &turn);
	if (r)
		return error_trace(r);
	store->is_nested = true;
	return 0;
}

int store_end(struct store *store, bool keep)
{
	int r;

	assert(store->is_nested);
	store->is_nested = false;
	if (!store->nested) {
		/* What failed was the turn's own transaction. */
		return keep ? store->failure : 0;
	}
	if (keep && !store->failure) {
		r = store_map_result(store, mdb_txn_commit(TAKE(store->nested)));
		if (!r)
			store->is_dirty = true;
		return error_trace(r);
	}
	mdb_txn_abort(TAKE(store->nested));
	r = store->failure;
	store->failure = 0;
	return keep ? r : 0;
}

static void turn_over(struct store *store)
{
	store->turn = NULL;
	store->is_dirty = false;
	store->is_unnested = false;
	store->failure = 0;
	free(TAKE(store->damages));
	store->n_damages = 0;
}

/* As LMDB's: the transaction is gone, however it ends. */
static int commit_turn(MDB_txn *txn)
{
	int rc = point("store.commit.before");

	if (rc) {
		mdb_txn_abort(txn);
		return rc;
	}
	rc = mdb_txn_commit(txn);
	(void)point("store.commit.after");
	return rc;
}

int store_commit(struct store *store)
{
	int r;

	assert(!store->is_nested);
	if (!store->turn)
		return 0;
	r = store_move_damaged(store);
	if (!r)
		r = store->failure;
	if (!r && store->is_dirty) {
		r = store_map_result(store, commit_turn(TAKE(store->turn)));
		if (!r)
			store->n_commits++;
	}
	if (store->turn)
		mdb_txn_abort(store->turn);
	turn_over(store);
	return error_trace(r);
}

void store_abort(struct store *store)
{
	if (store->nested)
		mdb_txn_abort(TAKE(store->nested));
	store->is_nested = false;
	if (store->turn)
		mdb_txn_abort(store->turn);
	turn_over(store);
}

int store_grow(struct store *store)
{
	mdb_filehandle_t fd;
	int r;

	assert(!store->turn);
	if (store->map_size >= STORE_MAP_MAX)
		return STORE_E_FULL;
	if (mdb_env_get_fd(store->env, &fd) || !file_can_map(fd, 2 * store->map_size)) {
		log_error("store '%s': its map of %zu MiB cannot grow: there is no address space",
			  store->directory, store->map_size >> 20);
		return STORE_E_FULL;
	}
	r = mdb_env_set_mapsize(store->env, 2 * store->map_size);
	if (r)
		return error_origin(r > 0 ? -r : -ENOMEM);
	store->map_size *= 2;
	log_debug("store '%s': map grown to %zu MiB", store->directory, store->map_size >> 20);
	return 0;
}

static size_t used_size(struct store *store)
{
	MDB_envinfo info;
	MDB_stat stat;

	mdb_env_info(store->env, &info);
	mdb_env_stat(store->env, &stat);
	return (info.me_last_pgno + 1) * stat.ms_psize;
}

bool store_is_tight(struct store *store)
{
	return store->map_size < STORE_MAP_MAX &&
	       store->map_size - used_size(store) < store->map_size / 4;
}

void store_check_readers(struct store *store)
{
	int n_dead = 0;

	if (!mdb_reader_check(store->env, &n_dead) && n_dead)
		log_warning("store '%s': %d readers that are gone were cleared", store->directory,
			    n_dead);
}

void store_usage(struct store *store, uint64_t *ret_map_size, uint64_t *ret_used,
		 uint64_t *ret_commits)
{
	*ret_map_size = store->map_size;
	*ret_used = used_size(store);
	*ret_commits = store->n_commits;
}

int store_put_meta(struct store *store, const uint8_t publisher[16], uint64_t next_seq)
{
	struct store_meta meta = {
		.format = STORE_FORMAT,
		.boot_id = {.data = store->boot_id, .size = sizeof(store->boot_id)},
		.publisher = {.data = (uint8_t *)publisher, .size = 16},
		.next_seq = next_seq,
	};
	struct store_key key;

	store_key_bytes(&key, STORE_META, strlen(STORE_META));
	return store_put(store, STORE_META, &key, schema_store_meta(), &meta);
}

void store_on_damage(struct store *store, store_damage_fn fn, void *userdata)
{
	store->damage_fn = fn;
	store->damage_userdata = userdata;
}

struct store *store_close(struct store *store)
{
	if (!store)
		return NULL;
	store_abort(store);
	if (store->env)
		mdb_env_close(store->env);
	for (size_t i = 0; i < store->n_tables; i++)
		free(store->tables[i].name);
	store_meta_clear(&store->meta);
	close_fd(store->lock_fd);
	free(store->rebuilt);
	free(store->directory);
	free(store);
	return NULL;
}

void store_closep(struct store **store)
{
	*store = store_close(*store);
}
