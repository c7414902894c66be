#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "broker/lib/cleanup.h"
#include "broker/lib/file.h"
#include "broker/lib/log.h"
#include "shim/journal.h"
#include "tests/lib/main.h"

struct seen {
	unsigned n, n_kills;
	uint64_t last_signal, last_seq;
	enum journal_kind last;
};

static int see(void *userdata, const struct journal_record *record)
{
	struct seen *seen = userdata;

	seen->n++;
	seen->n_kills += record->kind == JOURNAL_KILL;
	seen->last = record->kind;
	if (record->kind == JOURNAL_KILL)
		seen->last_signal = record->signal;
	if (record->topic)
		seen->last_seq = record->seq;
	return 0;
}

static void open_seen(struct journal *journal, const char *path, struct seen *seen)
{
	struct why why = {};

	/* Each cut is a warning. */
	log_init("test", LOG_ERROR);
	*seen = (struct seen){};
	if (journal_open(journal, path, see, seen, &why))
		fail_msg("%s", why.text);
}

static void add_event(struct journal *journal, const char *topic)
{
	struct journal_record record = {
		.kind = JOURNAL_CREATED, .topic = (char *)topic, .event = {(uint8_t *)"\x80", 1}};

	assert_int_equal(journal_append(journal, &record), 0);
}

static void entries_come_back_in_order_with_gapless_numbers(void **state)
{
	_cleanup_(cleanup_free) char *path = scratch_path(*state, "journal");
	struct journal_record intent = {.kind = JOURNAL_INTENT},
			      ack = {.kind = JOURNAL_ACK, .seq = 2};
	struct journal journal;
	struct seen seen;

	open_seen(&journal, path, &seen);
	assert_int_equal(journal_append(&journal, &intent), 0);
	add_event(&journal, "/tasks/create");
	add_event(&journal, "/tasks/start");
	assert_true(journal_is_unpublished(&journal));
	assert_int_equal(journal_append(&journal, &ack), 0);
	assert_false(journal_is_unpublished(&journal));
	add_event(&journal, "/tasks/exit");
	journal_deinit(&journal);

	open_seen(&journal, path, &seen);
	assert_int_equal(seen.n, 5);
	assert_int_equal(seen.last_seq, 3);
	assert_int_equal(journal.last_seq, 3);
	assert_int_equal(journal.acked_seq, 2);
	add_event(&journal, "/tasks/delete");
	assert_int_equal(journal.last_seq, 4);
	journal_deinit(&journal);
}

/* Whatever the point at which a write was cut: what stood before it is there, and the next one follows it. */
static void what_is_unpublished_is_read_though_the_bundle_is_gone(void **state)
{
	_cleanup_(cleanup_free) char *path = scratch_path(*state, "journal");
	struct journal journal;
	struct seen seen;

	open_seen(&journal, path, &seen);
	add_event(&journal, "/tasks/create");
	assert_int_equal(unlink(path), 0);
	add_event(&journal, "/tasks/delete");
	assert_int_equal(journal_walk(&journal, see, &seen), 0);
	assert_int_equal(seen.n, 2);
	assert_int_equal(seen.last_seq, 2);
	/* Nor does the reading change where the next one stands. */
	add_event(&journal, "/tasks/more");
	seen = (struct seen){};
	assert_int_equal(journal_walk(&journal, see, &seen), 0);
	assert_int_equal(seen.n, 3);
	journal_deinit(&journal);
}

static void torn_tail_of_every_length_is_cut_off(void **state)
{
	_cleanup_(cleanup_free) char *path = scratch_path(*state, "journal"), *data = NULL;
	struct journal journal;
	struct seen seen;
	uint64_t whole;
	size_t size;

	open_seen(&journal, path, &seen);
	add_event(&journal, "/tasks/create");
	whole = journal.size;
	add_event(&journal, "/tasks/start");
	journal_deinit(&journal);
	assert_int_equal(file_read(AT_FDCWD, path, 4096, &data, &size), 0);
	for (size_t cut = whole; cut < size; cut++) {
		assert_int_equal(file_write(path, data, cut, 0600, false, NULL), 0);
		open_seen(&journal, path, &seen);
		assert_int_equal(seen.n, 1);
		assert_int_equal(journal.size, whole);
		add_event(&journal, "/tasks/exit");
		assert_int_equal(journal.last_seq, 2);
		journal_deinit(&journal);
		open_seen(&journal, path, &seen);
		assert_int_equal(seen.n, 2);
		journal_deinit(&journal);
	}
}

/* Each byte of the last entry in turn: what comes back is never something else. */
static void damaged_entry_is_not_read(void **state)
{
	_cleanup_(cleanup_free) char *path = scratch_path(*state, "journal"), *data = NULL;
	struct journal journal;
	struct seen seen;
	uint64_t whole;
	size_t size;

	open_seen(&journal, path, &seen);
	add_event(&journal, "/tasks/create");
	whole = journal.size;
	add_event(&journal, "/tasks/start");
	journal_deinit(&journal);
	assert_int_equal(file_read(AT_FDCWD, path, 4096, &data, &size), 0);
	for (size_t at = whole; at < size; at++) {
		data[at] ^= 0x41;
		assert_int_equal(file_write(path, data, size, 0600, false, NULL), 0);
		open_seen(&journal, path, &seen);
		assert_int_equal(seen.n, 1);
		journal_deinit(&journal);
		data[at] ^= 0x41;
	}
}

static void kills_without_end_do_not_fill_the_disk(void **state)
{
	_cleanup_(cleanup_free) char *path = scratch_path(*state, "journal");
	uint8_t id[ID_SIZE] = "0123456789abcde";
	struct journal journal;
	struct seen seen;
	struct stat stat;

	open_seen(&journal, path, &seen);
	add_event(&journal, "/tasks/create");
	for (unsigned i = 0; i < 10000; i++) {
		struct journal_record record = {
			.kind = JOURNAL_KILL, .signal = i % 64, .request_id = {id, ID_SIZE}};

		assert_int_equal(journal_append(&journal, &record), 0);
	}
	journal_deinit(&journal);
	assert_int_equal(lstat(path, &stat), 0);
	assert_true(stat.st_size <= JOURNAL_COMPACT_SIZE + 4096);
	open_seen(&journal, path, &seen);
	assert_true(seen.n_kills >= JOURNAL_KILLS);
	assert_int_equal(seen.last_signal, 9999 % 64);
	assert_int_equal(journal.last_seq, 1);
	journal_deinit(&journal);
}

static void add_entry(struct journal *journal, enum journal_kind kind, const char *process,
		      const char *topic)
{
	struct journal_record record = {
		.kind = kind, .process = (char *)process, .topic = (char *)topic};

	assert_int_equal(journal_append(journal, &record), 0);
}

static void add_life(struct journal *journal, const char *id, bool forget)
{
	add_entry(journal, JOURNAL_EXEC_ADDED, id, "/tasks/exec-added");
	add_entry(journal, JOURNAL_EXEC_INTENT, id, NULL);
	add_entry(journal, JOURNAL_EXEC_STARTED, id, "/tasks/exec-started");
	add_entry(journal, JOURNAL_EXIT, id, "/tasks/exit");
	if (forget)
		add_entry(journal, JOURNAL_EXEC_DELETED, id, NULL);
}

struct lives {
	size_t n_entries, n_of_kept, n_of_again;
	enum journal_kind last_of_again;
	bool is_created;
};

static int note_life(void *userdata, const struct journal_record *record)
{
	struct lives *lives = userdata;

	lives->n_entries++;
	lives->is_created |= record->kind == JOURNAL_CREATED;
	lives->n_of_kept += record->process && !strcmp(record->process, "kept");
	if (record->process && !strcmp(record->process, "again")) {
		lives->n_of_again++;
		lives->last_of_again = record->kind;
	}
	return 0;
}

/* A health check every few seconds, for years. */
static void forgotten_processes_do_not_fill_the_disk(void **state)
{
	_cleanup_(cleanup_free) char *path = scratch_path(*state, "journal");
	struct journal_record ack = {.kind = JOURNAL_ACK};
	struct journal journal;
	struct lives lives = {};
	struct stat stat;
	char id[16];

	assert_int_equal(journal_open(&journal, path, NULL, NULL, NULL), 0);
	add_entry(&journal, JOURNAL_CREATED, "web", "/tasks/create");
	add_life(&journal, "again", true);
	add_life(&journal, "kept", false);
	for (unsigned i = 0; i < 5000; i++) {
		snprintf(id, sizeof(id), "p%u", i % 100);
		add_life(&journal, id, true);
		add_entry(&journal, JOURNAL_OOM, "web", "/tasks/oom");
		if (i == 4000)
			add_life(&journal, "again", false);
		ack = (struct journal_record){.kind = JOURNAL_ACK, .seq = journal.last_seq};
		assert_int_equal(journal_append(&journal, &ack), 0);
	}
	journal_deinit(&journal);
	assert_int_equal(lstat(path, &stat), 0);
	assert_true(stat.st_size <= JOURNAL_COMPACT_SIZE + 4096);
	assert_int_equal(journal_open(&journal, path, note_life, &lives, NULL), 0);
	assert_int_equal(journal.last_seq, 1 + 3 + 3 + 5000 * 4 + 3);
	assert_int_equal(journal.acked_seq, journal.last_seq);
	assert_true(lives.is_created);
	assert_int_equal(lives.n_of_kept, 4);
	/* The id's second life is there, its first is not. */
	assert_int_equal(lives.n_of_again, 4);
	assert_int_equal(lives.last_of_again, JOURNAL_EXIT);
	journal_deinit(&journal);
}

/* No event that the broker does not have is ever dropped, nor is a process brought back by one. */
static void forgotten_processes_stay_while_the_broker_is_away(void **state)
{
	_cleanup_(cleanup_free) char *path = scratch_path(*state, "journal");
	struct journal journal;
	struct seen seen;

	assert_int_equal(journal_open(&journal, path, NULL, NULL, NULL), 0);
	for (unsigned i = 0; i < 3000; i++)
		add_life(&journal, "p", true);
	journal_deinit(&journal);
	open_seen(&journal, path, &seen);
	assert_int_equal(journal.last_seq, 9000);
	assert_true(seen.n >= 9000);
	assert_int_equal(journal.acked_seq, 0);
	journal_deinit(&journal);
}

static void file_that_is_no_journal_is_emptied_not_trusted(void **state)
{
	_cleanup_(cleanup_free) char *path = scratch_path(*state, "journal");
	struct journal journal;
	struct seen seen;

	assert_int_equal(file_write(path, "\xff\xff\xff\xff random bytes", 18, 0600, false, NULL),
			 0);
	open_seen(&journal, path, &seen);
	assert_int_equal(seen.n, 0);
	assert_int_equal(journal.size, 0);
	journal_deinit(&journal);
}

TEST_MAIN(TEST_IN_SCRATCH(entries_come_back_in_order_with_gapless_numbers),
	  TEST_IN_SCRATCH(what_is_unpublished_is_read_though_the_bundle_is_gone),
	  TEST_IN_SCRATCH(torn_tail_of_every_length_is_cut_off),
	  TEST_IN_SCRATCH(damaged_entry_is_not_read),
	  TEST_IN_SCRATCH(kills_without_end_do_not_fill_the_disk),
	  TEST_IN_SCRATCH(forgotten_processes_do_not_fill_the_disk),
	  TEST_IN_SCRATCH(forgotten_processes_stay_while_the_broker_is_away),
	  TEST_IN_SCRATCH(file_that_is_no_journal_is_emptied_not_trusted))
