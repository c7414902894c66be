#pragma once
/*
 * Reads what can still be read of a damaged LMDB file. A page that is missing or
 * wrong may be the end of the process that looks at it, or keep it busy for ever:
 * each table is read by a child, which hands over one record at a time, from its
 * first key on and, where that did not come to the end, from its last one back.
 * Not for a process that has threads.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "broker/lib/error.h"

struct store_bytes {
	const void *data;
	size_t size;
};

struct store_salvaged {
	uint64_t n_records;  /* that were given */
	uint64_t n_damaged;  /* that could be read, but do not fit their checksum */
	uint64_t n_expected; /* that the table says it has; 0 if not even that can be read */
	bool is_whole;       /* it was read from end to end, or from both ends to where they met, and all of them were given */
};

/* One record of the @table-th table. A value is a version u8, CRC32C u32 and the rest, and fits. @is_backwards: it is
 * of those that come last one first. */
typedef int (*store_salvage_fn)(void *userdata, size_t table, bool is_backwards, const struct store_bytes *key,
				const struct store_bytes *value);

/*
 * @is_open: another process has it open, and may write: it is read as it is at one instant of each table's reading.
 * @tables: names, NULL-terminated; *ret_salvaged has as many items, zeroed by the caller. Of the table @raw (may be NULL)
 * values need not fit their checksums. What @fn returns other than 0 ends it and is returned. A file that cannot be
 * opened, or is not there, has nothing to give.
 */
int store_salvage(const char *directory, bool is_open, const char *const *tables, const char *raw,
		  store_salvage_fn fn, void *userdata, struct store_salvaged *ret_salvaged);

/* Waits so long for child @pid to end, and ends it then. False: it was ended, or cannot be. */
bool store_reap(pid_t pid, int timeout_ms, int *ret_status);

#define STORE_REASON_SIZE 128

/*
 * Reads all of the store in @directory, by a child, while others may have it open. -EUCLEAN with the reason if there is
 * damage, or the record @first of table @meta is not whole. What tells neither of damage nor of its absence (no memory, no
 * child, one that was killed or takes too long) is -EAGAIN.
 */
int store_read_through(const char *directory, const char *meta, const char *first, int timeout_ms,
		       char reason[STORE_REASON_SIZE]);

/* In a child that reads one: the library's complaints are no news, and a fatal signal is its end, without a core. */
void store_become_reader(void);

/* Takes the lock @name of the store in @directory. Waits up to 5 s for @owner ("the broker", "its service"), which may refuse the
 * store, or be on its way out; -EWOULDBLOCK if it runs on. */
int store_lock_for_rebuild(const char *directory, const char *name, const char *owner, int *ret_fd,
			   struct why *why);

/* ---- the old file, and a new one in its place ---- */
#define STORE_REBUILDING "rebuilding" /* directory in a store's, in which the new one is made */
#define STORE_STAMP_SIZE 32

/* Now, as 20261129T012345Z. */
void store_stamp(char stamp[STORE_STAMP_SIZE]);
/* Gives data.mdb a second name in <directory>/broken-<stamp>, with @reason in a file beside it. One that is gone is fine. */
int store_set_aside(const char *directory, const char *stamp, const char *reason, char **ret_aside, struct why *why);
/* <directory>/rebuilding/data.mdb becomes <directory>/data.mdb, durably. */
int store_put_in_place(const char *directory, struct why *why);
int store_sync_directory(const char *path);
