/* See store_salvage.h. */

#include "broker/lib/store_salvage.h"

#include <fcntl.h>
#include <lmdb.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#include "broker/lib/error.h"
#include "broker/lib/file.h"
#include "broker/lib/loop.h"

#define KEY_MAX      511
#define VALUE_MAX    ((size_t)64 << 20)
#define VALUE_HEAD   5     /* version, CRC32C little-endian */
#define SILENCE_MS   30000 /* of a child: it does not get on, or its disk does not */
#define REAP_MS      5000
#define LOCK_WAIT_MS 5000
#define LOCK_POLL_MS 10

enum part { PART_COUNT, PART_RECORD, PART_END };

/* What a child sends: this, and for a record its key and value. */
struct head {
	uint32_t part;
	uint32_t key_size;
	uint64_t
		number; /* the value's size; the number of records; at the end: whether it is the table's */
};

struct key {
	uint8_t data[KEY_MAX];
	size_t size;
};

struct salvage {
	const char *directory, *table;
	size_t index;
	bool is_open, is_raw;
	store_salvage_fn fn;
	void *userdata;
	struct store_salvaged *salvaged;
	struct key last; /* that was given, forwards */
	uint8_t *value;
	size_t room;
};

/* ---- the child ---- */

static int compare(const struct key *left, const MDB_val *right)
{
	size_t size = left->size < right->mv_size ? left->size : right->mv_size;
	int order = memcmp(left->data, right->mv_data, size);

	return order ?: (left->size > right->mv_size) - (left->size < right->mv_size);
}

static int send_record(int fd, const MDB_val *key, const MDB_val *value)
{
	struct head head = {PART_RECORD, (uint32_t)key->mv_size, value->mv_size};
	int r = file_write_all(fd, &head, sizeof(head));

	r = r ?: file_write_all(fd, key->mv_data, key->mv_size);
	return r ?: file_write_all(fd, value->mv_data, value->mv_size);
}

/* Keys only rise, or fall: pages that lead back to each other are left. */
static int send_all(int fd, MDB_cursor *cursor, bool is_backwards, const struct key *until)
{
	MDB_val key, value;
	struct key last = {};
	bool is_first = true;
	int rc;

	while (!(rc = mdb_cursor_get(cursor, &key, &value, is_backwards ? MDB_PREV : MDB_NEXT))) {
		int order;

		if (!key.mv_size || key.mv_size > KEY_MAX || value.mv_size > VALUE_MAX)
			return MDB_CORRUPTED;
		order = compare(&last, &key);
		if (!is_first && (is_backwards ? order <= 0 : order >= 0))
			return MDB_CORRUPTED;
		if (is_backwards && until->size && compare(until, &key) >= 0)
			return MDB_NOTFOUND;
		memcpy(last.data, key.mv_data, key.mv_size);
		last.size = key.mv_size;
		is_first = false;
		if (send_record(fd, &key, &value))
			return MDB_PANIC;
	}
	return rc;
}

static int open_table(const struct salvage *salvage, MDB_txn **ret_txn, MDB_dbi *ret_dbi)
{
	unsigned flags = MDB_RDONLY | MDB_NOTLS | (salvage->is_open ? 0 : MDB_NOLOCK);
	MDB_env *env;
	int rc;

	rc = mdb_env_create(&env);
	if (!rc)
		rc = mdb_env_set_maxdbs(env, 1);
	if (!rc)
		rc = mdb_env_open(env, salvage->directory, flags, 0600);
	if (!rc)
		rc = mdb_txn_begin(env, NULL, MDB_RDONLY, ret_txn);
	return rc ?: mdb_dbi_open(*ret_txn, salvage->table, 0, ret_dbi);
}

static void run_child(const struct salvage *salvage, bool is_backwards, int fd)
	__attribute__((noreturn));
static void run_child(const struct salvage *salvage, bool is_backwards, int fd)
{
	struct head count = {.part = PART_COUNT}, end = {.part = PART_END};
	MDB_cursor *cursor;
	MDB_stat stat;
	MDB_txn *txn = NULL;
	MDB_dbi dbi;
	int rc;

	store_become_reader();
	rc = open_table(salvage, &txn, &dbi) ?: mdb_stat(txn, dbi, &stat);
	if (!rc) {
		count.number = stat.ms_entries;
		if (file_write_all(fd, &count, sizeof(count)))
			_exit(1);
		rc = mdb_cursor_open(txn, dbi, &cursor);
		/* An absent table is no such end. */
		rc = rc ?: send_all(fd, cursor, is_backwards, &salvage->last);
		end.number = rc == MDB_NOTFOUND;
	}
	/* Of a file that is in use: its slot among the readers would keep pages from being used again. */
	if (txn)
		mdb_txn_abort(txn);
	_exit(file_write_all(fd, &end, sizeof(end)) ? 1 : 0);
}

/* ---- the parent ---- */

bool store_reap(pid_t pid, int timeout_ms, int *ret_status)
{
	_cleanup_(cleanup_fd) int pidfd = pidfd_open(pid, 0);
	struct pollfd ends = {.fd = pidfd, .events = POLLIN};
	bool has_ended = pidfd >= 0 && poll(&ends, 1, timeout_ms) > 0;

	if (!has_ended) {
		kill(pid, SIGKILL);
		/* One that waits for its disk does not even end so. */
		if (pidfd >= 0 && poll(&ends, 1, REAP_MS) <= 0)
			return false;
	}
	while (waitpid(pid, ret_status, 0) < 0 && errno == EINTR)
		;
	return has_ended;
}

/* False: the child has nothing more to say, or takes too long. */
static bool read_all(int fd, void *data, size_t size)
{
	struct pollfd in = {.fd = fd, .events = POLLIN};
	uint8_t *at = data;

	while (size) {
		ssize_t n = poll(&in, 1, SILENCE_MS);

		if (!n)
			return false;
		if (n > 0)
			n = read(fd, at, size);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return false;
		at += n;
		size -= (size_t)n;
	}
	return true;
}

static bool is_whole(const uint8_t *value, size_t size)
{
	uint32_t crc;

	if (size < VALUE_HEAD)
		return false;
	crc = value[1] | (uint32_t)value[2] << 8 | (uint32_t)value[3] << 16 |
	      (uint32_t)value[4] << 24;
	return crc == crc32c(0, value + VALUE_HEAD, size - VALUE_HEAD);
}

static bool make_room(struct salvage *salvage, size_t size)
{
	uint8_t *value;

	if (size <= salvage->room)
		return true;
	value = realloc(salvage->value, size);
	if (!value)
		return false;
	salvage->value = value;
	salvage->room = size;
	return true;
}

/* 1: it cannot be read. */
static int take_record(struct salvage *salvage, int fd, const struct head *head, bool is_backwards)
{
	struct key key = {.size = head->key_size};
	int r;

	if (!key.size || key.size > KEY_MAX || head->number > VALUE_MAX ||
	    !make_room(salvage, head->number + 1) || !read_all(fd, key.data, key.size) ||
	    !read_all(fd, salvage->value, head->number))
		return 1;
	if (!is_backwards)
		salvage->last = key;
	if (!salvage->is_raw && !is_whole(salvage->value, head->number)) {
		salvage->salvaged->n_damaged++;
		return 0;
	}
	r = salvage->fn(salvage->userdata, salvage->index, is_backwards,
			&(struct store_bytes){key.data, key.size},
			&(struct store_bytes){salvage->value, head->number});
	salvage->salvaged->n_records += !r;
	return r < 0 ? r : r ? error_fold(r) : 0;
}

/* *ret_end: it came to the table's end. */
static int take_all(struct salvage *salvage, int fd, bool is_backwards, bool *ret_end)
{
	struct head head;
	int r = 0;

	while (!r && read_all(fd, &head, sizeof(head))) {
		if (head.part == PART_COUNT)
			salvage->salvaged->n_expected = head.number;
		else if (head.part == PART_RECORD)
			r = take_record(salvage, fd, &head, is_backwards);
		else
			*ret_end = head.number;
		if (head.part == PART_END)
			break;
	}
	return r < 0 ? r : 0;
}

static int read_once(struct salvage *salvage, bool is_backwards, bool *ret_end)
{
	_cleanup_(cleanup_fd) int ours = -1, theirs = -1;
	int pipe_fds[2], status, r;
	pid_t pid;

	if (pipe2(pipe_fds, O_CLOEXEC))
		return error_origin(-errno);
	ours = pipe_fds[0];
	theirs = pipe_fds[1];
	pid = fork();
	if (pid < 0)
		return error_origin(-errno);
	if (!pid)
		run_child(salvage, is_backwards, theirs);
	theirs = close_fd(theirs);
	r = take_all(salvage, ours, is_backwards, ret_end);
	/* It has nobody to tell any more. */
	ours = close_fd(ours);
	(void)store_reap(pid, *ret_end ? REAP_MS : 0, &status);
	return r;
}

static int read_table(struct salvage *salvage)
{
	struct store_salvaged *salvaged = salvage->salvaged;
	bool is_end = false;
	int r = read_once(salvage, false, &is_end);

	/* Where the two meet nothing lies between: it was not the table that ended the first one. */
	if (!r && !is_end)
		r = read_once(salvage, true, &is_end);
	salvaged->is_whole = is_end && salvaged->n_records == salvaged->n_expected;
	return r;
}

int store_salvage(const char *directory, bool is_open, const char *const *tables, const char *raw,
		  store_salvage_fn fn, void *userdata, struct store_salvaged *ret_salvaged)
{
	struct salvage salvage = {
		.directory = directory, .is_open = is_open, .fn = fn, .userdata = userdata};
	int r = 0;

	for (size_t i = 0; !r && tables[i]; i++) {
		salvage.table = tables[i];
		salvage.index = i;
		salvage.is_raw = raw && !strcmp(raw, tables[i]);
		salvage.salvaged = &ret_salvaged[i];
		salvage.last.size = 0;
		r = read_table(&salvage);
	}
	free(salvage.value);
	return r;
}

/* ---- the old file, and a new one in its place ---- */

int store_lock_for_rebuild(const char *directory, const char *name, const char *owner, int *ret_fd,
			   struct why *why)
{
	_cleanup_(cleanup_free) char *path = text_format("%s/%s", directory, name);
	uint64_t until = time_boot_ms() + LOCK_WAIT_MS;
	int r;

	if (!path)
		return error_origin(-ENOMEM);
	while ((r = file_lock(path, ret_fd)) == -EWOULDBLOCK && time_boot_ms() < until)
		poll(NULL, 0, LOCK_POLL_MS);
	if (r == -EWOULDBLOCK)
		return why_set(why, r, "'%s' is open: %s runs and has to be stopped first",
			       directory, owner);
	return r ? why_errno(why, r, "cannot lock '%s'", path) : 0;
}

void store_stamp(char stamp[STORE_STAMP_SIZE])
{
	time_t now = (time_t)(time_real_ns() / 1000000000);
	struct tm tm;

	gmtime_r(&now, &tm);
	strftime(stamp, STORE_STAMP_SIZE, "%Y%m%dT%H%M%SZ", &tm);
}

int store_sync_directory(const char *path)
{
	_cleanup_(cleanup_fd) int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	return fd < 0 || fsync(fd) ? error_origin(-errno) : 0;
}

static char *make_aside(const char *directory, const char *stamp)
{
	for (unsigned i = 1; i < 100; i++) {
		_cleanup_(cleanup_free) char *path =
			i == 1 ? text_format("%s/broken-%s", directory, stamp)
			       : text_format("%s/broken-%s-%u", directory, stamp, i);

		if (!path || !mkdir(path, 0700))
			return TAKE(path);
		if (errno != EEXIST)
			return NULL;
	}
	return NULL;
}

/* Where a file system has no second names. The first one stays until the new file takes its place. */
static int copy_old(const char *data, const char *kept)
{
	_cleanup_(cleanup_fd) int from = open(data, O_RDONLY | O_CLOEXEC | O_NOFOLLOW), to = -1;
	ssize_t n;

	if (from < 0)
		return errno == ENOENT ? 0 : error_origin(-errno);
	to = open(kept, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (to < 0)
		return error_origin(-errno);
	while ((n = sendfile(to, from, NULL, 1 << 20)) > 0)
		;
	return n < 0 || fsync(to) ? error_origin(-errno) : 0;
}

static int keep_old(const char *data, const char *aside, const char *reason, struct why *why)
{
	_cleanup_(cleanup_free) char *path = text_format("%s/reason", aside);
	_cleanup_(cleanup_free) char *kept = text_format("%s/data.mdb", aside);
	int r = path && kept ? file_write(path, reason, strlen(reason), 0600, true, why)
			     : error_origin(-ENOMEM);

	if (r)
		return r;
	if (!link(data, kept) || errno == ENOENT)
		return 0;
	r = copy_old(data, kept);
	return r ? why_errno(why, error_trace(r), "'%s' cannot be set aside", data) : 0;
}

int store_set_aside(const char *directory, const char *stamp, const char *reason, char **ret_aside,
		    struct why *why)
{
	_cleanup_(cleanup_free) char *aside = make_aside(directory, stamp);
	_cleanup_(cleanup_free) char *data = text_format("%s/data.mdb", directory);
	int r;

	if (!aside || !data)
		return why_set(why, error_origin(-EIO), "store '%s' cannot be set aside: %s",
			       directory, strerror(errno));
	r = keep_old(data, aside, reason, why) ?: store_sync_directory(aside);
	if (!r)
		*ret_aside = TAKE(aside);
	return r;
}

int store_put_in_place(const char *directory, struct why *why)
{
	_cleanup_(cleanup_free) char *place = text_format("%s/" STORE_REBUILDING, directory);
	_cleanup_(cleanup_free) char *new = text_format("%s/" STORE_REBUILDING "/data.mdb",
							directory);
	_cleanup_(cleanup_free) char *data = text_format("%s/data.mdb", directory);
	_cleanup_(cleanup_free) char *lock = text_format("%s/lock.mdb", directory);
	int r;

	if (!place || !new || !data || !lock)
		return error_origin(-ENOMEM);
	(void)unlink(lock); /* of the old file */
	if (rename(new, data))
		return why_errno(why, error_origin(-errno), "'%s' cannot be put into place", new);
	r = store_sync_directory(directory);
	if (r)
		return why_errno(why, r, "'%s' is not on disk", data);
	(void)file_remove_tree(AT_FDCWD, place, NULL);
	return 0;
}
