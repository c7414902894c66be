/* The store's records: keys, values with their checksum, walks, and the quarantine of damaged ones. */

#include <assert.h>
#include <errno.h>
#include <lmdb.h>
#include <stdarg.h>
#include <string.h>

#include "broker/lib/file.h"
#include "broker/lib/log.h"
#include "services/lib/store_private.h"

#define VALUE_VERSION 1
/* So many damaged records are noted in one turn; more are met again in the next. */
#define DAMAGES_MAX 64

/* ---- keys: one byte less than LMDB allows, so that the last part can be read as text ---- */

static int key_add(struct store_key *key, const void *data, size_t size)
{
	if (size > sizeof(key->data) - 1 - key->size)
		return -ENAMETOOLONG;
	memcpy(key->data + key->size, data, size);
	key->size += size;
	key->data[key->size] = '\0';
	return 0;
}

int store_key(struct store_key *key, const char *part, ...)
{
	va_list parts;
	int r;

	key->size = 0;
	r = key_add(key, part, strlen(part));
	va_start(parts, part);
	while (!r && (part = va_arg(parts, const char *))) {
		r = key_add(key, "", 1);
		if (!r)
			r = key_add(key, part, strlen(part));
	}
	va_end(parts);
	if (!r && !key->size)
		r = -EINVAL;
	return error_trace(r);
}

void store_key_bytes(struct store_key *key, const void *data, size_t size)
{
	int r;

	key->size = 0;
	r = key_add(key, data, size);
	assert(!r);
	(void)r;
}

void store_key_u64(struct store_key *key, uint64_t number)
{
	uint8_t data[8];

	for (int i = 0; i < 8; i++)
		data[i] = (uint8_t)(number >> (56 - 8 * i));
	store_key_bytes(key, data, sizeof(data));
}

const char *store_key_part(const struct store_key *key, unsigned index)
{
	const uint8_t *at = key->data, *end = key->data + key->size;

	for (; index; index--) {
		at = memchr(at, '\0', (size_t)(end - at));
		if (!at)
			return NULL;
		at++;
	}
	return (const char *)at;
}

/* ---- values ---- */

const struct store_table *store_find_table(const struct store *store, const char *name)
{
	for (size_t i = 0; i < store->n_tables; i++)
		if (!strcmp(store->tables[i].name, name))
			return &store->tables[i];
	assert(!"a table that the service did not name");
	return NULL;
}

static void write_header(uint8_t *value, size_t size)
{
	uint32_t crc = crc32c(0, value + STORE_VALUE_HEADER, size - STORE_VALUE_HEADER);

	value[0] = VALUE_VERSION;
	for (int i = 0; i < 4; i++)
		value[1 + i] = (uint8_t)(crc >> (8 * i));
}

int store_unpack(const struct schema_message *schema, const void *data, size_t size,
		 void *ret_record)
{
	const uint8_t *value = data;
	uint32_t crc = 0;
	int r;

	if (size < STORE_VALUE_HEADER || value[0] != VALUE_VERSION)
		return STORE_E_DAMAGED;
	for (int i = 0; i < 4; i++)
		crc |= (uint32_t)value[1 + i] << (8 * i);
	if (crc32c(0, value + STORE_VALUE_HEADER, size - STORE_VALUE_HEADER) != crc)
		return STORE_E_DAMAGED;
	r = schema_unpack(schema, value + STORE_VALUE_HEADER, size - STORE_VALUE_HEADER, ret_record,
			  NULL);
	return r > 0 ? STORE_E_DAMAGED : error_trace(r);
}

/* ---- damage ---- */

static void note_damage(struct store *store, const struct store_table *table,
			const struct store_key *key, const struct schema_message *schema)
{
	struct store_damage *damages;

	log_error("store '%s': a record of table '%s' is damaged and goes into quarantine",
		  store->directory, table->name);
	if (store->n_damages == DAMAGES_MAX)
		return;
	damages = reallocarray(store->damages, store->n_damages + 1, sizeof(*damages));
	if (!damages)
		return;
	store->damages = damages;
	damages[store->n_damages++] =
		(struct store_damage){.table = table, .schema = schema, .key = *key};
}

/* "<table> NUL <key>"; the end of a key that is too long gives way to its checksum. */
static void quarantine_key(struct store_key *key, const struct store_damage *damage)
{
	size_t room = sizeof(key->data) - 1 - 9 - strlen(damage->table->name) - 1;
	char hash[9];

	store_key_bytes(key, damage->table->name, strlen(damage->table->name) + 1);
	if (damage->key.size <= room) {
		key_add(key, damage->key.data, damage->key.size);
		return;
	}
	snprintf(hash, sizeof(hash), "%08x", crc32c(0, damage->key.data, damage->key.size));
	key_add(key, damage->key.data, room);
	key_add(key, hash, 8);
}

/* @damaged is set if the record is there and still damaged. */
static int find_damaged(struct store *store, const struct store_damage *damage, MDB_val *damaged)
{
	MDB_val key = {.mv_data = (void *)damage->key.data, .mv_size = damage->key.size};
	_cleanup_(cleanup_free) void *record = NULL;
	struct MDB_txn *txn;
	MDB_val value;
	int r;

	damaged->mv_data = NULL;
	record = calloc(1, damage->schema->size + 1);
	if (!record)
		return error_origin(-ENOMEM);
	r = store_read_txn(store, &txn);
	if (!r)
		r = store_map_result(store, mdb_get(txn, damage->table->dbi, &key, &value));
	if (r == STORE_E_NOT_FOUND)
		return 0;
	if (r)
		return error_trace(r);
	r = store_unpack(damage->schema, value.mv_data, value.mv_size, record);
	if (!r)
		schema_clear(damage->schema, record);
	if (r == STORE_E_DAMAGED) {
		*damaged = value;
		r = 0;
	}
	return error_trace(r);
}

static int move_damaged(struct store *store, const struct store_damage *damage)
{
	_cleanup_(cleanup_free) void *copy = NULL;
	struct store_key quarantine;
	MDB_val key, value;
	struct MDB_txn *txn;
	int r;

	r = find_damaged(store, damage, &value);
	if (r || !value.mv_data)
		return error_trace(r);
	/* A value lies in the map, which the next change may move. */
	copy = malloc(value.mv_size + 1);
	if (!copy)
		return error_origin(-ENOMEM);
	memcpy(copy, value.mv_data, value.mv_size);
	value.mv_data = copy;

	quarantine_key(&quarantine, damage);
	key = (MDB_val){.mv_data = quarantine.data, .mv_size = quarantine.size};
	r = store_write_txn(store, &txn);
	if (!r)
		r = store_map_result(store,
				     mdb_put(txn, store_find_table(store, STORE_QUARANTINE)->dbi,
					     &key, &value, 0));
	if (!r)
		r = store_delete(store, damage->table->name, &damage->key);
	if (!r && store->damage_fn)
		store->damage_fn(store->damage_userdata, damage->table->name, &damage->key);
	return error_trace(r);
}

int store_move_damaged(struct store *store)
{
	int r = 0;

	for (size_t i = 0; i < store->n_damages && !r; i++)
		r = move_damaged(store, &store->damages[i]);
	store->n_damages = 0;
	return error_trace(r);
}

bool store_is_damaged(struct store *store, const char *table)
{
	MDB_val key = {.mv_data = (void *)table, .mv_size = strlen(table) + 1}, value;
	MDB_cursor *cursor;
	struct MDB_txn *txn;
	bool is_damaged;

	/* Of more than can be noted it is not known which table they are of. */
	if (store->n_damages == DAMAGES_MAX)
		return true;
	for (size_t i = 0; i < store->n_damages; i++) {
		if (!strcmp(store->damages[i].table->name, table))
			return true;
	}
	if (store_read_txn(store, &txn) ||
	    mdb_cursor_open(txn, store_find_table(store, STORE_QUARANTINE)->dbi, &cursor))
		return true;
	is_damaged = !mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE) &&
		     key.mv_size > strlen(table) && !memcmp(key.mv_data, table, strlen(table) + 1);
	mdb_cursor_close(cursor);
	return is_damaged;
}

/* ---- records ---- */

int store_get(struct store *store, const char *table_name, const struct store_key *key,
	      const struct schema_message *schema, void *ret_record)
{
	const struct store_table *table = store_find_table(store, table_name);
	MDB_val at = {.mv_data = (void *)key->data, .mv_size = key->size}, value;
	struct MDB_txn *txn;
	int r;

	r = store_read_txn(store, &txn);
	if (!r)
		r = store_map_result(store, mdb_get(txn, table->dbi, &at, &value));
	if (r)
		return error_trace(r);
	r = store_unpack(schema, value.mv_data, value.mv_size, ret_record);
	if (r == STORE_E_DAMAGED)
		note_damage(store, table, key, schema);
	return error_trace(r);
}

int store_find(struct store *store, const char *table_name, const struct store_key *key)
{
	const struct store_table *table = store_find_table(store, table_name);
	MDB_val at = {.mv_data = (void *)key->data, .mv_size = key->size}, value;
	struct MDB_txn *txn;
	int r = store_read_txn(store, &txn);

	return r ?: store_map_result(store, mdb_get(txn, table->dbi, &at, &value));
}

bool store_has(struct store *store, const char *table_name, const struct store_key *key)
{
	return !store_find(store, table_name, key);
}

/* A record that does not fit its own schema is a fault of the service. */
static int pack_value(const struct schema_message *schema, const void *record,
		      struct schema_buffer *value)
{
	static const uint8_t header[STORE_VALUE_HEADER];
	struct schema_fault fault = {};
	int r;

	r = schema_buffer_add(value, header, sizeof(header));
	if (!r)
		r = schema_pack(schema, record, value, &fault);
	if (r > 0) {
		log_error("a record cannot be stored: %s", fault.text);
		return error_origin(-EINVAL);
	}
	if (!r)
		write_header(value->data, value->size);
	return error_trace(r);
}

int store_put(struct store *store, const char *table_name, const struct store_key *key,
	      const struct schema_message *schema, const void *record)
{
	const struct store_table *table = store_find_table(store, table_name);
	_cleanup_(schema_buffer_clear) struct schema_buffer buffer = {};
	MDB_val at = {.mv_data = (void *)key->data, .mv_size = key->size}, value;
	struct MDB_txn *txn;
	int r;

	r = pack_value(schema, record, &buffer);
	if (!r)
		r = store_write_txn(store, &txn);
	if (r)
		return error_trace(r);
	value = (MDB_val){.mv_data = buffer.data, .mv_size = buffer.size};
	r = store_map_result(store, mdb_put(txn, table->dbi, &at, &value, 0));
	if (!r && store->put_fn)
		store->put_fn(store->put_userdata, table_name, key, record);
	return error_trace(r);
}

void store_on_put(struct store *store, store_put_fn fn, void *userdata)
{
	store->put_fn = fn;
	store->put_userdata = userdata;
}

int store_delete(struct store *store, const char *table_name, const struct store_key *key)
{
	const struct store_table *table = store_find_table(store, table_name);
	MDB_val at = {.mv_data = (void *)key->data, .mv_size = key->size};
	struct MDB_txn *txn;
	int r;

	r = store_write_txn(store, &txn);
	if (r)
		return error_trace(r);
	return store_map_result(store, mdb_del(txn, table->dbi, &at, NULL));
}

size_t store_count(struct store *store, const char *table_name)
{
	const struct store_table *table = store_find_table(store, table_name);
	struct MDB_txn *txn;
	MDB_stat stat;

	if (store_read_txn(store, &txn) || mdb_stat(txn, table->dbi, &stat))
		return 0;
	return stat.ms_entries;
}

/* ---- walks ---- */

struct walk {
	struct store *store;
	const struct store_table *table;
	const struct store_key *prefix;
	const struct schema_message *schema;
	struct store_key key; /* where it is */
	bool is_after;        /* the record at the key itself was given already */
};

static bool has_prefix(const struct store_key *prefix, const MDB_val *key)
{
	return !prefix ||
	       (key->mv_size >= prefix->size && !memcmp(key->mv_data, prefix->data, prefix->size));
}

static int walk_seek(struct walk *walk, MDB_cursor *cursor, MDB_val *key, MDB_val *value)
{
	int rc;

	*key = (MDB_val){.mv_data = walk->key.data, .mv_size = walk->key.size};
	rc = mdb_cursor_get(cursor, key, value, walk->key.size ? MDB_SET_RANGE : MDB_FIRST);
	if (!rc && walk->is_after && key->mv_size == walk->key.size &&
	    !memcmp(key->mv_data, walk->key.data, key->mv_size))
		rc = mdb_cursor_get(cursor, key, value, MDB_NEXT);
	if (!rc && !has_prefix(walk->prefix, key))
		rc = MDB_NOTFOUND;
	return store_map_result(walk->store, rc);
}

/* The next record that is whole. No cursor lives longer than this: the callback may change the table. */
static int walk_next(struct walk *walk, void *ret_record)
{
	struct MDB_txn *txn;
	MDB_val key, value;
	MDB_cursor *cursor;
	int r;

	do {
		r = store_read_txn(walk->store, &txn);
		if (!r)
			r = store_map_result(walk->store,
					     mdb_cursor_open(txn, walk->table->dbi, &cursor));
		if (r)
			return error_trace(r);
		r = walk_seek(walk, cursor, &key, &value);
		if (!r) {
			assert(key.mv_size < sizeof(walk->key.data));
			store_key_bytes(&walk->key, key.mv_data, key.mv_size);
			walk->is_after = true;
			r = store_unpack(walk->schema, value.mv_data, value.mv_size, ret_record);
		}
		mdb_cursor_close(cursor);
		if (r == STORE_E_DAMAGED)
			note_damage(walk->store, walk->table, &walk->key, walk->schema);
	} while (r == STORE_E_DAMAGED);
	return error_trace(r);
}

int store_walk(struct store *store, const char *table, const struct store_key *prefix,
	       const struct store_key *from, const struct schema_message *schema, store_walk_fn fn,
	       void *userdata)
{
	struct walk walk = {.store = store, .prefix = prefix, .schema = schema};
	_cleanup_(cleanup_free) void *record = NULL;
	int r;

	walk.table = store_find_table(store, table);
	if (from)
		walk.key = *from;
	/* From before the prefix: its first key. */
	if (prefix && (!from || memcmp(from->data, prefix->data,
				       from->size < prefix->size ? from->size : prefix->size) < 0))
		walk.key = *prefix;
	record = calloc(1, schema->size + 1);
	if (!record)
		return error_origin(-ENOMEM);
	while (!(r = walk_next(&walk, record))) {
		r = fn(userdata, &walk.key, record);
		schema_clear(schema, record);
		if (r)
			return r;
	}
	return r == STORE_E_NOT_FOUND ? 0 : error_trace(r);
}
