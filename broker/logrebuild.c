/* See logrebuild.h. */

#include "broker/logrebuild.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "broker/eventlog.h"
#include "broker/lib/file.h"
#include "broker/lib/loop.h"
#include "broker/lib/store_salvage.h"

#define VALUE_HEAD     5 /* of log_db.h: version, CRC32C */
#define COMMIT_RECORDS 1000
#define LOST_MAX       10000 /* events that are shown as damaged, one by one */
#define LOOK_MS        600000
#define MAP_MIN        ((size_t)64 << 20)

/* In the order of enum log_table, which the names of the file are in. */
static const char *const tables[] = {"meta", "events", "publishers", "cursors", "names", NULL};

struct rebuilding {
	struct log_db *db;
	struct log_txn *txn; /* NULL: none is open */
	size_t n_put;
	struct store_salvaged salvaged[LOG_N_TABLES];
	struct broker_log_meta meta;
	bool has_meta;
	uint64_t first,
		last; /* events, those from which no number is missing up to the last one that is known */
	bool has_end;   /* nothing behind `last` was ever given */
	uint64_t known; /* the highest number that anything names */
	uint64_t bytes;
};

/* ---- what is read ---- */

static void note_known(struct rebuilding *rebuilding, uint64_t seq)
{
	if (seq > rebuilding->known && seq < UINT64_MAX / 2)
		rebuilding->known = seq;
}

static int note_meta(struct rebuilding *rebuilding, const void *data, size_t size)
{
	int r = schema_unpack(schema_broker_log_meta(), data, size, &rebuilding->meta, NULL);

	rebuilding->has_meta = !r && rebuilding->meta.next_seq &&
			       rebuilding->meta.log_id.size == ENVELOPE_ID_SIZE;
	if (rebuilding->has_meta)
		note_known(rebuilding, rebuilding->meta.next_seq - 1);
	return r > 0 ? 0 : r;
}

static int note_publisher(struct rebuilding *rebuilding, const void *data, size_t size)
{
	struct broker_publisher_record record = {};
	int r = schema_unpack(schema_broker_publisher_record(), data, size, &record, NULL);

	if (!r)
		note_known(rebuilding, record.last_log_seq);
	return r > 0 ? 0 : r;
}

static int note_cursor(struct rebuilding *rebuilding, const void *data, size_t size)
{
	_cleanup_(event_cursor_clear) struct event_cursor record = {};
	int r = schema_unpack(schema_event_cursor(), data, size, &record, NULL);

	if (!r)
		note_known(rebuilding, record.ack);
	return r > 0 ? 0 : r;
}

/* Keys are numbers, in the order of bytes. */
static void note_event(struct rebuilding *rebuilding, bool is_backwards,
		       const struct store_bytes *key)
{
	const uint8_t *data = key->data;
	uint64_t seq = 0;

	for (size_t i = 0; i < key->size && i < 8; i++)
		seq = seq << 8 | data[i];
	note_known(rebuilding, seq);
	if (!rebuilding->first || seq < rebuilding->first)
		rebuilding->first = seq;
	if (seq > rebuilding->last)
		rebuilding->last = seq;
	/* The first one that comes so is the last that there was. */
	rebuilding->has_end = rebuilding->has_end || is_backwards;
}

/* The meta row is written at the end, as it has to be. */
static int put(struct rebuilding *rebuilding, size_t table, const struct store_bytes *key,
	       const struct store_bytes *value)
{
	struct log_key at;
	int r = 0;

	if (table == LOG_META || key->size > LOG_KEY_MAX)
		return 0;
	at = log_key_bytes(key->data, key->size);
	if (!rebuilding->txn)
		r = log_begin(rebuilding->db, true, &rebuilding->txn);
	r = r ?: log_put_raw(rebuilding->txn, (enum log_table)table, &at, value->data, value->size);
	if (!r && ++rebuilding->n_put % COMMIT_RECORDS == 0)
		r = log_commit(TAKE(rebuilding->txn));
	return r > 0 ? error_origin(-ENOSPC) : r;
}

static int on_record(void *userdata, size_t table, bool is_backwards, const struct store_bytes *key,
		     const struct store_bytes *value)
{
	struct rebuilding *rebuilding = userdata;
	const uint8_t *data = (const uint8_t *)value->data + VALUE_HEAD;
	size_t size = value->size - VALUE_HEAD;
	int r = 0;

	if (table == LOG_META)
		r = note_meta(rebuilding, data, size);
	else if (table == LOG_PUBLISHERS)
		r = note_publisher(rebuilding, data, size);
	else if (table == LOG_CURSORS)
		r = note_cursor(rebuilding, data, size);
	else if (table == LOG_EVENTS)
		note_event(rebuilding, is_backwards, key);
	if (!r && table == LOG_EVENTS)
		rebuilding->bytes += value->size;
	return r ?: put(rebuilding, table, key, value);
}

/* ---- how it goes on ---- */

static int make_id(struct broker_log_meta *meta)
{
	uint8_t id[ID_SIZE];

	id_make(id);
	return schema_bytes_set(&meta->log_id, id, sizeof(id));
}

/* Readers go through all numbers from the first one on: there must be none that nobody gave. */
static int drop_events(struct rebuilding *rebuilding)
{
	struct log_key key = {};
	int r;

	while (!(r = log_next_key(rebuilding->txn, LOG_EVENTS, &key)))
		(void)log_delete(rebuilding->txn, LOG_EVENTS, &key);
	rebuilding->bytes = 0;
	return r == LOG_E_NOT_FOUND ? 0 : r;
}

static int choose_numbers(struct rebuilding *rebuilding)
{
	struct broker_log_meta *meta = &rebuilding->meta;
	uint64_t now_ms = time_real_ns() / 1000000;
	/* What was read to its end forwards has come to its last one too. */
	bool has_end = rebuilding->has_end || rebuilding->salvaged[LOG_EVENTS].is_whole;
	bool is_known = rebuilding->has_meta;

	if (!is_known && has_end && rebuilding->last)
		meta->next_seq = rebuilding->last + 1;
	is_known = is_known || (has_end && rebuilding->last);
	/* Cursors and publishers are of numbers that were given. */
	is_known = is_known && meta->next_seq > rebuilding->known;
	if (is_known && meta->next_seq - (rebuilding->first ?: meta->next_seq) >
				rebuilding->salvaged[LOG_EVENTS].n_records + LOST_MAX) {
		meta->first_seq = meta->next_seq;
		return drop_events(rebuilding);
	}
	if (is_known) {
		meta->first_seq = rebuilding->first ?: meta->next_seq;
		return 0;
	}
	meta->next_seq = now_ms > rebuilding->known ? now_ms : rebuilding->known + 1;
	meta->first_seq = meta->next_seq;
	return drop_events(rebuilding);
}

static int finish(struct rebuilding *rebuilding)
{
	struct broker_log_meta *meta = &rebuilding->meta;
	size_t n_publishers = 0;
	int r = rebuilding->txn ? 0 : log_begin(rebuilding->db, true, &rebuilding->txn);

	r = r ?: rebuilding->has_meta ? 0 : make_id(meta);
	r = r ?: choose_numbers(rebuilding) ?: log_count(rebuilding->txn, LOG_PUBLISHERS, &n_publishers);
	if (r)
		return error_fold(r);
	meta->format = EVENTLOG_FORMAT;
	meta->bytes = rebuilding->bytes;
	meta->publishers = n_publishers;
	r = eventlog_save(rebuilding->txn, meta) ?: log_commit(TAKE(rebuilding->txn));
	return error_fold(r);
}

/* ---- the steps ---- */

static size_t map_size_for(const char *directory)
{
	_cleanup_(cleanup_free) char *data = text_format("%s/data.mdb", directory);
	struct stat status;

	if (!data || stat(data, &status))
		return MAP_MIN;
	return (2 * (size_t)status.st_size + MAP_MIN) & ~(size_t)0xfff;
}

static int make(struct rebuilding *rebuilding, const char *directory, struct why *why)
{
	_cleanup_(cleanup_free) char *place = text_format("%s/" STORE_REBUILDING, directory);
	int r;

	if (!place)
		return error_origin(-ENOMEM);
	/* Of a run that was cut. */
	r = file_remove_tree(AT_FDCWD, place, why) ?: file_make_dir(place, 0700, why);
	r = r ?: log_db_open(place, map_size_for(directory), &rebuilding->db, why);
	if (r)
		return r;
	r = store_salvage(directory, false, tables, NULL, on_record, rebuilding,
			  rebuilding->salvaged);
	r = r ?: finish(rebuilding);
	log_abortp(&rebuilding->txn);
	rebuilding->db = log_db_close(rebuilding->db);
	return r ? why_errno(why, r, "what is left of the log cannot be copied") : 0;
}

static void tell(const struct rebuilding *rebuilding, const char *aside)
{
	const struct broker_log_meta *meta = &rebuilding->meta;

	for (size_t i = 0; i < LOG_N_TABLES; i++) {
		const struct store_salvaged *salvaged = &rebuilding->salvaged[i];

		if (!salvaged->is_whole || salvaged->n_records)
			printf("events: salvaged: %s: %llu of %llu\n", tables[i],
			       (unsigned long long)salvaged->n_records,
			       (unsigned long long)salvaged->n_expected);
	}
	if (meta->first_seq == meta->next_seq)
		printf("events: the log begins anew with number %llu; readers are told that what was before is "
		       "gone\n",
		       (unsigned long long)meta->next_seq);
	else
		printf("events: the log has numbers %llu to %llu; those that are lost are shown as damaged\n",
		       (unsigned long long)meta->first_seq, (unsigned long long)meta->next_seq - 1);
	printf("events: the damaged file is in %s\n", aside);
}

static int replace(struct rebuilding *rebuilding, const char *directory, const char *reason,
		   struct why *why)
{
	_cleanup_(cleanup_free) char *aside = NULL;
	char stamp[STORE_STAMP_SIZE];
	int r;

	store_stamp(stamp);
	r = make(rebuilding, directory, why);
	r = r ?: store_set_aside(directory, stamp, reason, &aside, why);
	r = r ?: store_put_in_place(directory, why);
	if (!r)
		tell(rebuilding, aside);
	return r;
}

static int look(const char *directory, char reason[STORE_REASON_SIZE])
{
	_cleanup_(cleanup_free) char *data = text_format("%s/data.mdb", directory);
	struct stat status;

	if (!data)
		return error_origin(-ENOMEM);
	if (!stat(data, &status) && status.st_size)
		return store_read_through(directory, "meta", "log", LOOK_MS, reason);
	snprintf(reason, STORE_REASON_SIZE, "it has lost its data.mdb");
	return -EUCLEAN;
}

static int rebuild(const char *directory, struct why *why)
{
	_cleanup_(cleanup_fd) int lock_fd = -1;
	struct rebuilding rebuilding = {};
	char reason[STORE_REASON_SIZE];
	int r;

	if (access(directory, F_OK))
		return why_errno(why, -errno, "there is no log '%s'", directory);
	/* The broker may have it open, and then need not be stopped to hear that nothing is wrong. */
	r = look(directory, reason);
	if (r == -EUCLEAN)
		r = store_lock_for_rebuild(directory, "lock", "the broker", &lock_fd, why)
			    ?: look(directory, reason);
	if (!r)
		puts("events: the log can be read: there is nothing to rebuild");
	if (r != -EUCLEAN)
		return r ? why_errno(why, r, "log '%s' cannot be read through", directory) : 0;
	printf("events: damaged: %s\n", reason);
	r = replace(&rebuilding, directory, reason, why);
	broker_log_meta_clear(&rebuilding.meta);
	return r;
}

int log_rebuild(const char *directory)
{
	struct why why = {};
	int r;

	umask(077);
	r = rebuild(directory, &why);
	if (r)
		fprintf(stderr, "davit-broker: %s\n",
			why.text[0] ? why.text : strerror(r < 0 ? -r : EIO));
	return r != 0;
}
