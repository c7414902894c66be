#pragma once
/* What the files of the store share, and what service.c and its tests need of it. No LMDB here: the
 * environment and its transactions are named only. */

#include "broker/lib/store_salvage.h"
#include "services/lib/store.h"

#define STORE_FORMAT       1
#define STORE_TABLES_MAX   32
#define STORE_MAP_DEFAULT  ((size_t)64 << 20)
#define STORE_MAP_MAX      ((size_t)16 << 30)
#define STORE_VALUE_HEADER 5 /* version u8, CRC32C u32 little endian */

/* Tables that every store has. */
#define STORE_META         "meta"
#define STORE_QUARANTINE   "quarantine"
#define STORE_OUTBOX       "outbox"       /* u64 number -> event_item */
#define STORE_REPLIES      "replies"      /* request id -> reply_record */
#define STORE_REPLY_EXPIRY "reply_expiry" /* u64 time, request id -> empty */
#define STORE_OPERATIONS   "operations"   /* request id -> operation_record */

struct MDB_env;
struct MDB_txn;

struct store_table {
	char *name;
	unsigned dbi;
};

/* A damaged record that was met in this turn; it is moved when the turn commits, so that it stays
 * moved even when the handler that met it fails. */
struct store_damage {
	const struct store_table *table;
	const struct schema_message *schema;
	struct store_key key;
};

/* Told inside the committing transaction. */
typedef void (*store_damage_fn)(void *userdata, const char *table, const struct store_key *key);

struct store {
	char *directory;
	int lock_fd;
	bool is_volatile;
	struct MDB_env *env;
	size_t map_size;
	struct store_table tables[STORE_TABLES_MAX];
	size_t n_tables;
	uint8_t boot_id[16];
	char *rebuilt; /* by whom and why: nobody has accepted it yet; NULL: it is the one that was made */
	uint64_t restored_until; /* events before this number were given before it was put back from a copy; 0: it was not */
	struct store_meta meta; /* as it is in the innermost transaction */

	struct MDB_txn *turn;
	struct MDB_txn *nested; /* made at the first change after store_begin() */
	bool is_nested;
	bool is_dirty;    /* the turn has changes */
	bool is_unnested; /* some of them were made outside a nested transaction */
	int failure; /* STORE_E_FULL or STORE_E_NO_SPACE: the innermost transaction is broken */
	uint64_t n_commits;

	struct store_damage *damages;
	size_t n_damages;
	store_damage_fn damage_fn;
	void *damage_userdata;
	store_put_fn put_fn;
	void *put_userdata;
};

/* ---- store_open.c ---- */
void store_forget_restored(struct store *store);

/* All tables of a store: its own, and then @tables; NULL-terminated. */
void store_all_tables(const char *const *tables, const char *ret_tables[STORE_TABLES_MAX + 1]);

/* ---- store_anew.c ---- */
/* Can the store in @directory be read to its end? -EUCLEAN with the reason why not; -ENOENT: it was never made. */
int store_look(const char *directory, int timeout_ms, char reason[STORE_REASON_SIZE]);
/* What cannot be read of the store in @directory goes into broken/ there, beside it a file `reason`. */
int store_begin_anew(const char *directory, struct why *why);

/* ---- store_rebuild.c ---- */
#define STORE_REBUILT "rebuilt" /* a file in its directory: see store_rebuilt() */
/* A new store, not in its place yet, with what can be read of the one in @directory, whose lock the caller has. @salvaged has
 * an item for each of @all_tables. */
int store_rebuild_begin(const char *directory, const char *const *tables, const char *const *all_tables,
			struct store_salvaged *salvaged, struct store **ret_store, struct why *why);
/* It was closed: puts it into its place. @ret_aside: where the old file is. */
int store_rebuild_end(const char *directory, const char *stamp, const char *reason, char **ret_aside, struct why *why);
int store_read_mark(struct store *store);

/* ---- store.c ---- */
/* The innermost transaction, for reading; opens the turn's. */
int store_read_txn(struct store *store, struct MDB_txn **ret_txn);
/* The same for changing. */
int store_write_txn(struct store *store, struct MDB_txn **ret_txn);
/* LMDB's result as ours: 0, STORE_E_* or a negative errno. Notes what breaks the transaction. */
int store_map_result(struct store *store, int rc);
/* STORE_E_FULL or STORE_E_NO_SPACE if the open transaction can only be aborted. */
int store_failure(const struct store *store);
bool store_is_dirty(const struct store *store);
/* Less than a quarter of the map was never used: grow it before the next turn. */
bool store_is_tight(struct store *store);
/* The number of the next event, in the meta record. */
int store_put_meta(struct store *store, const uint8_t publisher[16], uint64_t next_seq);
void store_on_damage(struct store *store, store_damage_fn fn, void *userdata);

/* ---- store_record.c ---- */
const struct store_table *store_find_table(const struct store *store, const char *name);
int store_unpack(const struct schema_message *schema, const void *data, size_t size,
		 void *ret_record);
/* Moves what store_get() and store_walk() found damaged into the quarantine. */
int store_move_damaged(struct store *store);
