/*
 * Making a store again: the steps on its files, in an order in which each may be the last one. The new file is made in
 * <directory>/rebuilding; the old one stays where it is until the new one takes its place, and has a second name in
 * <directory>/broken-<stamp> before that. The mark <directory>/rebuilt is there first and stays until somebody accepts
 * what is there.
 */

#include <errno.h>
#include <fcntl.h>
#include <lmdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "broker/lib/file.h"
#include "broker/lib/store_salvage.h"
#include "services/lib/store_private.h"

#define COMMIT_RECORDS 1000
#define MARK_MAX       1024

/* ---- salvaging ---- */

struct salvaging {
	struct store *store;
	const char *const *tables;
	size_t n_put;
};

static int put(void *userdata, size_t table, bool is_backwards, const struct store_bytes *at,
	       const struct store_bytes *record)
{
	struct salvaging *salvaging = userdata;
	struct store *store = salvaging->store;
	MDB_val key = {.mv_data = (void *)at->data, .mv_size = at->size};
	MDB_val value = {.mv_data = (void *)record->data, .mv_size = record->size};
	struct MDB_txn *txn;
	int r;

	(void)is_backwards;
	r = store_write_txn(store, &txn);
	if (!r)
		r = store_map_result(
			store, mdb_put(txn, store_find_table(store, salvaging->tables[table])->dbi,
				       &key, &value, 0));
	if (!r && ++salvaging->n_put % COMMIT_RECORDS == 0)
		r = store_commit(store);
	return r == STORE_E_FULL || r == STORE_E_NO_SPACE ? error_origin(-ENOSPC) : r;
}

static int note_seq(void *userdata, const struct store_key *key, void *record)
{
	const struct event_item *item = record;

	(void)key;
	*(uint64_t *)userdata = item->seq + 1;
	return 0;
}

/* Nobody knows which numbers the old publisher gave: what is left of the outbox goes out under the new one's. */
static int number_outbox(struct store *store)
{
	uint64_t next = 1;
	int r;

	r = store_walk(store, STORE_OUTBOX, NULL, NULL, schema_event_item(), note_seq, &next);
	return r ?: store_put_meta(store, store->meta.publisher.data, next);
}

static bool has_meta(const char *const *tables, const struct store_salvaged *salvaged)
{
	for (size_t i = 0; tables[i]; i++)
		if (!strcmp(tables[i], STORE_META))
			return salvaged[i].n_records;
	return false;
}

/* Records that were in the old file fit into it, with those that are found again. */
static size_t map_size_for(const char *directory)
{
	_cleanup_(cleanup_free) char *data = text_format("%s/data.mdb", directory);
	struct stat status;

	if (!data || stat(data, &status))
		return STORE_MAP_DEFAULT;
	return (2 * (size_t)status.st_size + STORE_MAP_DEFAULT) & ~(size_t)0xfff;
}

int store_rebuild_begin(const char *directory, const char *const *tables,
			const char *const *all_tables, struct store_salvaged *salvaged,
			struct store **ret_store, struct why *why)
{
	_cleanup_(cleanup_free) char *place = text_format("%s/" STORE_REBUILDING, directory);
	_cleanup_(store_closep) struct store *store = NULL;
	struct store_options options = {
		.directory = place, .tables = tables, .map_size = map_size_for(directory)};
	struct salvaging salvaging = {.tables = all_tables};
	int r;

	if (!place)
		return error_origin(-ENOMEM);
	/* Of a run that was cut. */
	r = file_remove_tree(AT_FDCWD, place, why);
	if (!r)
		r = store_open(&options, &store, NULL, why);
	if (r)
		return error_fold(r);
	salvaging.store = store;
	r = store_salvage(directory, false, all_tables, STORE_QUARANTINE, put, &salvaging,
			  salvaged);
	if (!r && !has_meta(all_tables, salvaged))
		r = number_outbox(store);
	r = r ?: store_commit(store);
	if (r)
		return why_errno(why, error_fold(r), "what is left of store '%s' cannot be copied",
				 directory);
	*ret_store = TAKE(store);
	return 0;
}

/* ---- the old file, and the new one in its place ---- */

static int write_mark(const char *directory, const char *stamp, const char *reason,
		      const char *aside, struct why *why)
{
	_cleanup_(cleanup_free) char *path = text_format("%s/" STORE_REBUILT, directory);
	_cleanup_(cleanup_free) char *text = text_format(
		"it was rebuilt at %s (%s); what was there is in %s", stamp, reason, aside);

	if (!path || !text)
		return error_origin(-ENOMEM);
	return file_write(path, text, strlen(text), 0600, true, why);
}

int store_rebuild_end(const char *directory, const char *stamp, const char *reason,
		      char **ret_aside, struct why *why)
{
	_cleanup_(cleanup_free) char *aside = NULL;
	int r;

	r = store_set_aside(directory, stamp, reason, &aside, why)
	    ?: write_mark(directory, stamp, reason, aside, why)
	    ?: store_put_in_place(directory, why);
	if (!r)
		*ret_aside = TAKE(aside);
	return r;
}

/* ---- accepting ---- */

int store_read_mark(struct store *store)
{
	_cleanup_(cleanup_free) char *path = text_format("%s/" STORE_REBUILT, store->directory);
	int r = path ? file_read(AT_FDCWD, path, MARK_MAX, &store->rebuilt, NULL)
		     : error_origin(-ENOMEM);

	return r == -ENOENT ? 0 : error_trace(r);
}

const char *store_rebuilt(const struct store *store)
{
	return store->rebuilt;
}

int store_accept(struct store *store)
{
	_cleanup_(cleanup_free) char *path = text_format("%s/" STORE_REBUILT, store->directory);

	if (!path)
		return error_origin(-ENOMEM);
	if (unlink(path) && errno != ENOENT)
		return error_origin(-errno);
	free(TAKE(store->rebuilt));
	return error_trace(store_sync_directory(store->directory));
}
