/* Looking at the quarantine, and emptying it. What gets into it: store_record.c. */

#include <ctype.h>
#include <lmdb.h>
#include <stdio.h>
#include <string.h>

#include "services/lib/store_private.h"

#define LISTED_MAX 200 /* of store_quarantine_reply */

/* One record of the quarantine, whose key is "<table> NUL <key>". */
struct damaged {
	struct store_key key;
	size_t size; /* of its value */
};

/* The one after @after; STORE_E_NOT_FOUND at the end. */
static int next(struct store *store, const struct store_key *after, struct damaged *ret_damaged)
{
	MDB_val key = {.mv_data = (void *)after->data, .mv_size = after->size}, value;
	struct MDB_txn *txn;
	MDB_cursor *cursor;
	int rc;
	int r;

	r = store_read_txn(store, &txn);
	if (!r)
		r = store_map_result(
			store, mdb_cursor_open(txn, store_find_table(store, STORE_QUARANTINE)->dbi,
					       &cursor));
	if (r)
		return error_trace(r);
	rc = mdb_cursor_get(cursor, &key, &value, after->size ? MDB_SET_RANGE : MDB_FIRST);
	if (!rc && key.mv_size == after->size && !memcmp(key.mv_data, after->data, after->size))
		rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT);
	if (!rc) {
		store_key_bytes(&ret_damaged->key, key.mv_data, key.mv_size);
		ret_damaged->size = value.mv_size;
	}
	mdb_cursor_close(cursor);
	return store_map_result(store, rc);
}

int store_quarantined(struct store *store, int (*fn)(void *userdata, const struct store_key *key),
		      void *userdata)
{
	struct damaged damaged = {};
	int r;

	while (!(r = next(store, &damaged.key, &damaged))) {
		r = fn(userdata, &damaged.key);
		if (r)
			return r;
	}
	return r == STORE_E_NOT_FOUND ? 0 : error_trace(r);
}

static bool is_plain(uint8_t c)
{
	return c > ' ' && c <= '~' && c != ',' && c != '\\';
}

/* The key behind the table's name as text that means only this key. */
static void show_key(const struct store_key *key, char text[4 * sizeof(key->data) + 1])
{
	size_t start = strlen(store_key_part(key, 0)) + 1;

	for (size_t i = start; i < key->size; i++) {
		if (!key->data[i])
			*text++ = ',';
		else if (is_plain(key->data[i]))
			*text++ = (char)key->data[i];
		else
			text += sprintf(text, "\\x%02x", key->data[i]);
	}
	*text = '\0';
}

static int list_one(struct store_quarantine_reply *reply, const struct damaged *damaged)
{
	char text[4 * sizeof(damaged->key.data) + 1];
	struct store_damaged_record *record;

	reply->count++;
	if (reply->records.count == LISTED_MAX)
		return 0;
	record = schema_list_add(&reply->records);
	if (!record)
		return error_origin(-ENOMEM);
	record->size = damaged->size;
	show_key(&damaged->key, text);
	return schema_set(&record->table, store_key_part(&damaged->key, 0))
		       ?: schema_set(&record->key, text);
}

int store_list_quarantine(struct store *store, struct store_quarantine_reply *ret_reply)
{
	struct damaged damaged = {};
	int r;

	while (!(r = next(store, &damaged.key, &damaged))) {
		r = list_one(ret_reply, &damaged);
		if (r)
			return error_trace(r);
	}
	return r == STORE_E_NOT_FOUND ? 0 : error_trace(r);
}

static bool is_meant(const struct store_drop_request *request, const struct store_key *key)
{
	char text[4 * sizeof(key->data) + 1];

	if (request->table && strcmp(request->table, store_key_part(key, 0)))
		return false;
	show_key(key, text);
	return !request->key || !strcmp(request->key, text);
}

int store_drop_quarantine(struct store *store, const struct store_drop_request *request,
			  uint64_t *ret_count)
{
	struct damaged damaged = {};
	uint64_t count = 0;
	int r;

	while (!(r = next(store, &damaged.key, &damaged))) {
		if (!is_meant(request, &damaged.key))
			continue;
		r = store_delete(store, STORE_QUARANTINE, &damaged.key);
		if (r)
			return error_trace(r);
		count++;
	}
	if (r != STORE_E_NOT_FOUND)
		return error_trace(r);
	*ret_count = count;
	return count ? 0 : STORE_E_NOT_FOUND;
}
