#pragma once
/*
 * A service's store: one LMDB environment that only this process opens. Records
 * are schema messages; a value is version u8, CRC32C u32, packed record.
 *
 * There is one write transaction for each turn of the loop, opened at first use
 * and committed by service.c after the turn; each handler runs in a nested one
 * (store_begin/store_end), which is aborted alone on error. All functions here
 * work in the innermost open transaction. Nothing outside the store happens
 * before the commit.
 */

#include "broker/lib/error.h"
#include "schemas/messages.h"

struct store;

enum {
	_STORE_E_SUCCESS,
	STORE_E_NOT_FOUND,
	STORE_E_DAMAGED, /* checksum or schema mismatch: the record was moved to quarantine */
	STORE_E_FULL,	 /* map full: the turn must be aborted, the map grown, the handlers run again */
	STORE_E_NO_SPACE, /* the disk is full: nothing was changed */
	STORE_E_LOCKED,	 /* another process has it open */
};

struct store_options {
	const char *directory; /* made 0700 if absent; data.mdb, lock.mdb, store.lock, made */
	bool is_volatile;      /* MDB_NOSYNC: outlives the process, not the host; one of another boot is moved aside, as is one that cannot be read */
	bool may_begin_anew;   /* durable, and all that it holds can be found again: one that lost its file, or cannot be read, is no loss */
	size_t map_size;       /* to start with; 0: 64 MiB. Doubled on STORE_E_FULL up to 16 GiB */
	const char *const *tables; /* names, NULL-terminated; the store's own are added */
};

/* A store that cannot be opened, or has lost its file, is reported in @why and left as it is. @ret_fresh_boot: it was last
 * written in another boot (or is new). */
int store_open(const struct store_options *options, struct store **ret_store, bool *ret_fresh_boot, struct why *why);
/* Aborts what is open. */
struct store *store_close(struct store *store);
void store_closep(struct store **store);

/* ---- transactions (service.c and tests) ---- */
int store_begin(struct store *store);		/* the turn's transaction if none is open, then a nested one */
int store_end(struct store *store, bool keep);	/* commits or aborts the nested one */
/* Commits the turn: durable when it returns 0. Without changes it costs nothing. */
int store_commit(struct store *store);
void store_abort(struct store *store);
/* After STORE_E_FULL and store_abort(). */
int store_grow(struct store *store);
bool store_is_open(const struct store *store); /* a transaction is open */

/* ---- records; keys are bytes of at most 511, helpers below ---- */
struct store_key {
	uint8_t data[511];
	size_t size;
};
/* Parts joined by NUL bytes, so that order is by part: store_key(&key, "ns", "id", NULL). Over-long keys are -ENAMETOOLONG. */
int store_key(struct store_key *key, const char *part, ...) __attribute__((sentinel));
void store_key_bytes(struct store_key *key, const void *data, size_t size);
void store_key_u64(struct store_key *key, uint64_t number); /* big endian: ordered */
/* The @index-th NUL-separated part of @key as text (it is NUL-terminated within key->data's bounds), or NULL. */
const char *store_key_part(const struct store_key *key, unsigned index);

int store_get(struct store *store, const char *table, const struct store_key *key,
	      const struct schema_message *schema, void *ret_record);
/* 0, STORE_E_NOT_FOUND, or that it cannot be read: for who removes what has no record. */
int store_find(struct store *store, const char *table, const struct store_key *key);
bool store_has(struct store *store, const char *table, const struct store_key *key);
int store_put(struct store *store, const char *table, const struct store_key *key,
	      const struct schema_message *schema, const void *record);
int store_delete(struct store *store, const char *table, const struct store_key *key); /* STORE_E_NOT_FOUND */

/* Walks keys from @from (inclusive; NULL: the first) in order while @fn returns 0; another value ends the walk and is
 * returned. @prefix (may be NULL): stops at the first key without it. The record is cleared after each call. Damaged
 * records are quarantined and skipped. @fn may change the table (the walk re-positions by key). */
typedef int (*store_walk_fn)(void *userdata, const struct store_key *key, void *record);
int store_walk(struct store *store, const char *table, const struct store_key *prefix, const struct store_key *from,
	       const struct schema_message *schema, store_walk_fn fn, void *userdata);
size_t store_count(struct store *store, const char *table);

/* Tells @fn of each store_put(), within its transaction, which may still be aborted. NULL: nobody. */
typedef void (*store_put_fn)(void *userdata, const char *table, const struct store_key *key, const void *record);
void store_on_put(struct store *store, store_put_fn fn, void *userdata);
/* Are there records of @table that were found damaged, and lie in quarantine? */
bool store_is_damaged(struct store *store, const char *table);
/* Tells @fn of each record in quarantine while it returns 0: part 0 of the key is the table, the rest the key there. */
int store_quarantined(struct store *store, int (*fn)(void *userdata, const struct store_key *key), void *userdata);

/* It was rebuilt, so that records may be missing, and nobody has accepted that yet: when and why; NULL otherwise. */
const char *store_rebuilt(const struct store *store);
/* Not within a transaction. */
int store_accept(struct store *store);

/* The quarantine: its first records and their number; and dropping those that @request means (STORE_E_NOT_FOUND: none). */
int store_list_quarantine(struct store *store, struct store_quarantine_reply *ret_reply);
int store_drop_quarantine(struct store *store, const struct store_drop_request *request, uint64_t *ret_count);

/* ---- maintenance ---- */
/* Makes <to>/data.mdb of the store in @directory, as it is at one instant, fewer pages if possible, synced. For another
 * process than the one that has it open; that one goes on. STORE_E_NOT_FOUND: there is no store. */
int store_copy(const char *directory, const char *to, struct why *why);
void store_check_readers(struct store *store);
void store_usage(struct store *store, uint64_t *ret_map_size, uint64_t *ret_used, uint64_t *ret_commits);
