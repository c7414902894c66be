#pragma once
/*
 * The broker's LMDB environment: tables of schema messages. A value is its
 * version, a CRC32C and the packed record; a damaged one is reported, never
 * deleted. One writer at a time (the log's thread), any number of short readers.
 * Synced at each commit. The map grows by itself, while no transaction is open.
 */

#include <stdint.h>

#include "broker/lib/error.h"
#include "schemas/messages.h"

struct log_db;
struct log_txn;

enum log_table { LOG_META, LOG_EVENTS, LOG_PUBLISHERS, LOG_CURSORS, LOG_NAMES, LOG_N_TABLES };

#define LOG_KEY_MAX 128

struct log_key {
	uint8_t data[LOG_KEY_MAX];
	size_t size;
};

enum {
	_LOG_E_SUCCESS,
	LOG_E_NOT_FOUND,
	LOG_E_DAMAGED, /* the record does not fit its checksum or its schema */
	LOG_E_FULL,    /* the map is full: abort, and log_db_grow() before it is tried again */
	LOG_E_DISK,    /* the disk is full: abort; nothing is lost */
};

/* Opens or makes the environment in @directory; @map_size is address space. */
int log_db_open(const char *directory, size_t map_size, struct log_db **ret_db, struct why *why);
/* Makes <to>/data.mdb of the log in @directory, as it is at one instant, synced; who has it open goes on.
 * LOG_E_NOT_FOUND: there is none. */
int log_db_copy(const char *directory, const char *to, struct why *why);
/* No transaction may be open. */
struct log_db *log_db_close(struct log_db *db);
/* Doubles the map; waits for readers to end. LOG_E_FULL when it cannot. */
int log_db_grow(struct log_db *db);
/* Frees the places of readers that died. */
void log_db_check_readers(struct log_db *db);

int log_begin(struct log_db *db, bool is_write, struct log_txn **ret_txn);
/* Ends it in any case. LOG_E_FULL, LOG_E_DISK, or negative: -EIO and worse mean that the environment is unusable. */
int log_commit(struct log_txn *txn);
struct log_txn *log_abort(struct log_txn *txn);
void log_abortp(struct log_txn **txn);

struct log_key log_key_text(const char *text);
struct log_key log_key_bytes(const void *data, size_t size);
/* In an order that memcmp keeps. */
struct log_key log_key_number(uint64_t number);

/* @ret_size: bytes of the stored value; may be NULL. 0, LOG_E_NOT_FOUND, LOG_E_DAMAGED. */
int log_get(struct log_txn *txn, enum log_table table, const struct log_key *key,
	    const struct schema_message *schema, void *ret_message, size_t *ret_size);
int log_put(struct log_txn *txn, enum log_table table, const struct log_key *key,
	    const struct schema_message *schema, const void *message, size_t *ret_size);
/* A value that another log had, with its version and checksum. */
int log_put_raw(struct log_txn *txn, enum log_table table, const struct log_key *key, const void *data, size_t size);
/* An absent key is LOG_E_NOT_FOUND. */
int log_delete(struct log_txn *txn, enum log_table table, const struct log_key *key);
/* The first key after @key (size 0: the first of all), into @key. */
int log_next_key(struct log_txn *txn, enum log_table table, struct log_key *key);
int log_count(struct log_txn *txn, enum log_table table, size_t *ret_count);
