#include "shim/journal.h"

#include <endian.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "broker/lib/file.h"
#include "broker/lib/log.h"
#include "broker/lib/loop.h"

struct head {
	uint32_t size; /* LE */
	uint32_t crc;  /* LE */
};

#define RECORD_MAX     (64u << 10)
#define PROCESS_ID_MAX 76
/* Reserved when the file is made, so that a full disk later does not lose an exit. */
#define RESERVE 8192

/* ---- reading ------------------------------------------------------------- */

/* Bytes of the first whole entry of @data; 0: there is none, a torn or damaged one perhaps. */
static size_t entry_size(const uint8_t *data, size_t size)
{
	struct head head;
	size_t record_size;

	if (size < sizeof(head))
		return 0;
	memcpy(&head, data, sizeof(head));
	record_size = le32toh(head.size);
	if (!record_size || record_size > RECORD_MAX || record_size > size - sizeof(head))
		return 0;
	if (crc32c(0, data + sizeof(head), record_size) != le32toh(head.crc))
		return 0;
	return sizeof(head) + record_size;
}

/* Not by its path: the bundle of a task that was undone goes while the last events are still on their way. */
static int read_whole(const struct journal *journal, char **ret_data, size_t *ret_size)
{
	if (lseek(journal->fd, 0, SEEK_SET))
		return error_origin(-errno);
	return error_trace(file_read_open(journal->fd, JOURNAL_MAX, ret_data, ret_size));
}

/* Calls @fn for each whole entry; @ret_whole: bytes up to the first that is not. */
static int walk(const uint8_t *data, size_t size, journal_fn fn, void *userdata, size_t *ret_whole)
{
	size_t at = 0, n;
	int r;

	while ((n = entry_size(data + at, size - at))) {
		_cleanup_(journal_record_clear) struct journal_record record = {};

		r = schema_unpack(schema_journal_record(), data + at + sizeof(struct head),
				  n - sizeof(struct head), &record, NULL);
		if (r < 0)
			return error_origin(r);
		if (r > 0)
			break;
		r = fn(userdata, &record);
		if (r)
			return r;
		at += n;
	}
	*ret_whole = at;
	return 0;
}

int journal_walk(struct journal *journal, journal_fn fn, void *userdata)
{
	_cleanup_(cleanup_free) char *data = NULL;
	size_t size, whole;
	int r;

	r = read_whole(journal, &data, &size);
	if (r)
		return error_trace(r);
	return walk((const uint8_t *)data, size, fn, userdata, &whole);
}

/* ---- opening ------------------------------------------------------------- */

struct replay {
	struct journal *journal;
	journal_fn fn;
	void *userdata;
};

static int replay_entry(void *userdata, const struct journal_record *record)
{
	struct replay *replay = userdata;
	struct journal *journal = replay->journal;

	if (record->topic && record->seq > journal->last_seq)
		journal->last_seq = record->seq;
	if (record->kind == JOURNAL_ACK) {
		journal->acked_seq = record->seq;
		/* The log knew more of us than a damaged journal did. */
		if (record->seq > journal->last_seq)
			journal->last_seq = record->seq;
	}
	return replay->fn ? replay->fn(replay->userdata, record) : 0;
}

static int load(struct journal *journal, journal_fn fn, void *userdata)
{
	struct replay replay = {.journal = journal, .fn = fn, .userdata = userdata};
	_cleanup_(cleanup_free) char *data = NULL;
	size_t size, whole = 0;
	int r;

	r = read_whole(journal, &data, &size);
	if (!r)
		r = walk((const uint8_t *)data, size, replay_entry, &replay, &whole);
	if (r)
		return error_fold(r);
	if (whole < size) {
		log_warning("%s: %zu bytes of a torn entry cut off", journal->path, size - whole);
		if (ftruncate(journal->fd, (off_t)whole))
			return error_origin(-errno);
	}
	journal->size = whole;
	return 0;
}

int journal_open(struct journal *journal, const char *path, journal_fn fn, void *userdata,
		 struct why *why)
{
	int r;

	*journal = (struct journal){.fd = -1, .compact_at = JOURNAL_COMPACT_SIZE};
	journal->path = strdup(path);
	if (!journal->path)
		return error_origin(-ENOMEM);
	journal->fd = open(path, O_RDWR | O_CREAT | O_APPEND | O_NOFOLLOW | O_CLOEXEC,
			   S_IRUSR | S_IWUSR);
	if (journal->fd < 0)
		return why_errno(why, error_origin(-errno), "cannot open %s", path);
	r = load(journal, fn, userdata);
	if (r)
		return why_errno(why, error_trace(r), "cannot read %s", path);
	if (!journal->size)
		(void)fallocate(journal->fd, FALLOC_FL_KEEP_SIZE, 0, RESERVE);
	return 0;
}

void journal_deinit(struct journal *journal)
{
	journal->fd = close_fd(journal->fd);
	free(journal->path);
	journal->path = NULL;
}

/* ---- writing ------------------------------------------------------------- */

static int add_entry(struct schema_buffer *buffer, const struct journal_record *record)
{
	size_t start = buffer->size;
	struct head head = {};
	int r;

	r = schema_buffer_add(buffer, &head, sizeof(head));
	if (!r)
		r = schema_pack(schema_journal_record(), record, buffer, NULL);
	if (r)
		return error_fold(r);
	head.size = htole32((uint32_t)(buffer->size - start - sizeof(head)));
	head.crc = htole32(crc32c(0, buffer->data + start + sizeof(head),
				  buffer->size - start - sizeof(head)));
	memcpy(buffer->data + start, &head, sizeof(head));
	return 0;
}

/* An added process that was forgotten, and where. */
struct forgotten {
	char id[PROCESS_ID_MAX + 1];
	size_t at;
};

struct compaction {
	struct schema_buffer buffer;
	uint64_t acked_seq;
	size_t at;          /* of the entry that is looked at */
	uint64_t seen_seq;  /* of the events up to it */
	uint64_t n_kills;   /* in the file */
	uint64_t kills;     /* seen so far */
	size_t oom, frozen; /* the last ones: killed for memory; frozen, or not any more */
	size_t updated;
	struct {
		struct forgotten *items;
		size_t count;
	} forgotten;
};

static struct forgotten *find_forgotten(const struct compaction *compaction, const char *id)
{
	for (size_t i = 0; i < compaction->forgotten.count; i++)
		if (!strcmp(compaction->forgotten.items[i].id, id))
			return &compaction->forgotten.items[i];
	return NULL;
}

static int note_forgotten(struct compaction *compaction, const char *id)
{
	struct forgotten *forgotten = find_forgotten(compaction, id);

	if (!forgotten)
		forgotten = schema_list_add(&compaction->forgotten);
	if (!forgotten)
		return error_origin(-ENOMEM);
	snprintf(forgotten->id, sizeof(forgotten->id), "%s", id);
	forgotten->at = compaction->at;
	return 0;
}

static int look_at_entry(void *userdata, const struct journal_record *record)
{
	struct compaction *compaction = userdata;
	int r = 0;

	compaction->at++;
	compaction->n_kills += record->kind == JOURNAL_KILL;
	if (record->kind == JOURNAL_OOM)
		compaction->oom = compaction->at;
	else if (record->kind == JOURNAL_PAUSED || record->kind == JOURNAL_RESUMED)
		compaction->frozen = compaction->at;
	else if (record->kind == JOURNAL_UPDATED)
		compaction->updated = compaction->at;
	else if (record->kind == JOURNAL_EXEC_DELETED)
		r = note_forgotten(compaction, record->process ?: "");
	return r;
}

/* Of a process that was forgotten later, or is by this entry. */
static bool is_forgotten(const struct compaction *compaction, const struct journal_record *record)
{
	const struct forgotten *forgotten = record->process
						    ? find_forgotten(compaction, record->process)
						    : NULL;

	return forgotten && compaction->at <= forgotten->at;
}

/* What the state follows from is needed, and what the broker does not have. */
static bool is_needed(struct compaction *compaction, const struct journal_record *record)
{
	if (record->topic && record->seq > compaction->acked_seq)
		return true;
	switch (record->kind) {
	case JOURNAL_ACK:
		return record->seq == compaction->acked_seq;
	case JOURNAL_KILL:
		return compaction->kills++ + JOURNAL_KILLS >= compaction->n_kills;
	case JOURNAL_OOM:
		return compaction->at == compaction->oom;
	case JOURNAL_PAUSED:
	case JOURNAL_RESUMED:
		return compaction->at == compaction->frozen;
	case JOURNAL_STATE_INTENT:
		return compaction->at > compaction->frozen;
	case JOURNAL_UPDATED:
		return compaction->at == compaction->updated;
	case JOURNAL_CHECKPOINTED:
	case JOURNAL_LOG:
		return false;
	case JOURNAL_EXEC_DELETED:
		/* As long as one of the process' own entries may be there. */
		return compaction->seen_seq > compaction->acked_seq;
	default:
		return !is_forgotten(compaction, record);
	}
}

static int keep_entry(void *userdata, const struct journal_record *record)
{
	struct compaction *compaction = userdata;

	compaction->at++;
	if (record->topic)
		compaction->seen_seq = record->seq;
	return is_needed(compaction, record) ? add_entry(&compaction->buffer, record) : 0;
}

static int replace(struct journal *journal, const struct schema_buffer *buffer)
{
	_cleanup_(cleanup_fd) int fd = -1;
	int r;

	r = file_write(journal->path, buffer->data, buffer->size, S_IRUSR | S_IWUSR, false, NULL);
	if (r)
		return error_trace(r);
	fd = open(journal->path, O_RDWR | O_APPEND | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return error_origin(-errno);
	close_fd(journal->fd);
	journal->fd = TAKE_FD(fd);
	journal->size = buffer->size;
	return 0;
}

/* What cannot be made smaller is tried again at twice the size. Its failure is no harm. */
static void compact(struct journal *journal)
{
	struct compaction compaction = {.acked_seq = journal->acked_seq};
	int r;

	r = journal_walk(journal, look_at_entry, &compaction);
	compaction.at = 0;
	if (!r)
		r = journal_walk(journal, keep_entry, &compaction);
	if (!r)
		r = replace(journal, &compaction.buffer);
	if (r)
		log_warning("%s could not be made smaller: %d", journal->path, r);
	schema_buffer_clear(&compaction.buffer);
	free(compaction.forgotten.items);
	journal->compact_at = journal->size < JOURNAL_COMPACT_SIZE / 2 ? JOURNAL_COMPACT_SIZE
								       : 2 * journal->size;
}

int journal_append(struct journal *journal, struct journal_record *record)
{
	_cleanup_(schema_buffer_clear) struct schema_buffer buffer = {};
	ssize_t n;
	int r;

	if (!record->time_ns)
		record->time_ns = time_real_ns();
	if (record->topic)
		record->seq = journal->last_seq + 1;
	r = add_entry(&buffer, record);
	if (r)
		return error_trace(r);
	n = write(journal->fd, buffer.data, buffer.size);
	if (n != (ssize_t)buffer.size) {
		r = n < 0 ? -errno : -ENOSPC;
		if (n > 0 && ftruncate(journal->fd, (off_t)journal->size))
			log_error("%s: a torn entry stays: %s", journal->path, strerror(errno));
		return error_origin(r);
	}
	journal->size += buffer.size;
	if (record->topic)
		journal->last_seq = record->seq;
	if (record->kind == JOURNAL_ACK)
		journal->acked_seq = record->seq;
	if (journal->size > journal->compact_at)
		compact(journal);
	return 0;
}
