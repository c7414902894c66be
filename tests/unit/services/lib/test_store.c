#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "broker/lib/file.h"
#include "services/lib/store_private.h"
#include "tests/lib/main.h"

static const char *const tables[] = {"things", "others", NULL};

static struct store *open_store(struct scratch *scratch, bool is_volatile, size_t map_size,
				bool *ret_fresh)
{
	_cleanup_(cleanup_free) char *path = scratch_path(scratch, "store");
	struct store_options options = {.directory = path,
					.is_volatile = is_volatile,
					.map_size = map_size,
					.tables = tables};
	struct store *store = NULL;
	struct why why = {};

	if (store_open(&options, &store, ret_fresh, &why))
		fail_msg("%s", why.text);
	return store;
}

static int put(struct store *store, const char *name, uint64_t number)
{
	struct event_cursor record = {.name = (char *)name, .ack = number};
	struct store_key key;

	assert_int_equal(store_key(&key, name, NULL), 0);
	return store_put(store, "things", &key, schema_event_cursor(), &record);
}

static int get(struct store *store, const char *name, uint64_t *ret_number)
{
	_cleanup_(event_cursor_clear) struct event_cursor record = {};
	struct store_key key;
	int r;

	assert_int_equal(store_key(&key, name, NULL), 0);
	r = store_get(store, "things", &key, schema_event_cursor(), &record);
	if (!r)
		*ret_number = record.ack;
	return r;
}

static void test_a_record_outlives_the_process(void **state)
{
	struct store *store = open_store(*state, false, 0, NULL);
	uint64_t number = 0;
	bool is_fresh = true;

	assert_int_equal(put(store, "a", 7), 0);
	assert_int_equal(store_commit(store), 0);
	store_close(store);
	store = open_store(*state, false, 0, &is_fresh);
	assert_false(is_fresh);
	assert_int_equal(get(store, "a", &number), 0);
	assert_int_equal(number, 7);
	store_close(store);
}

static void test_what_is_not_committed_is_lost(void **state)
{
	struct store *store = open_store(*state, false, 0, NULL);
	uint64_t number;

	assert_int_equal(put(store, "a", 7), 0);
	store_close(store);
	store = open_store(*state, false, 0, NULL);
	assert_int_equal(get(store, "a", &number), STORE_E_NOT_FOUND);
	store_close(store);
}

static void test_a_nested_transaction_is_undone_alone(void **state)
{
	struct store *store = open_store(*state, false, 0, NULL);
	uint64_t number = 0;

	assert_int_equal(store_begin(store), 0);
	assert_int_equal(put(store, "kept", 1), 0);
	assert_int_equal(store_end(store, true), 0);
	assert_int_equal(store_begin(store), 0);
	assert_int_equal(put(store, "kept", 2), 0);
	assert_int_equal(put(store, "undone", 3), 0);
	assert_int_equal(get(store, "kept", &number), 0);
	assert_int_equal(number, 2);
	assert_int_equal(store_end(store, false), 0);
	assert_int_equal(store_commit(store), 0);

	assert_int_equal(get(store, "kept", &number), 0);
	assert_int_equal(number, 1);
	assert_int_equal(get(store, "undone", &number), STORE_E_NOT_FOUND);
	store_close(store);
}

static void test_a_turn_without_changes_is_no_commit(void **state)
{
	struct store *store = open_store(*state, false, 0, NULL);
	uint64_t size, used, before, after, number;

	assert_int_equal(put(store, "a", 1), 0);
	assert_int_equal(store_commit(store), 0);
	store_usage(store, &size, &used, &before);
	assert_int_equal(store_begin(store), 0);
	assert_int_equal(get(store, "a", &number), 0);
	assert_int_equal(store_end(store, true), 0);
	assert_int_equal(store_commit(store), 0);
	store_usage(store, &size, &used, &after);
	assert_int_equal(before, after);
	assert_false(store_is_open(store));
	store_close(store);
}

/* ---- damage ---- */

/* A bit of the record "b" is flipped in the file, where its name stands. */
static void flip_bit(struct scratch *scratch)
{
	_cleanup_(cleanup_free) char *path = scratch_path(scratch, "store/data.mdb");
	_cleanup_(cleanup_free) char *data = NULL;
	unsigned n = 0;
	size_t size;
	int fd;

	assert_int_equal(file_read(AT_FDCWD, path, 64 << 20, &data, &size), 0);
	fd = open(path, O_RDWR | O_CLOEXEC);
	assert_true(fd >= 0);
	for (size_t i = 0; i + 9 < size; i++)
		if (!memcmp(data + i, "damage-me", 9)) {
			assert_int_equal(pwrite(fd, "dAmage-me", 9, (off_t)i), 9);
			n++;
		}
	close(fd);
	assert_true(n > 0);
}

static int count_row(void *userdata, const struct store_key *key, void *record)
{
	(void)key;
	(void)record;
	++*(unsigned *)userdata;
	return 0;
}

struct told {
	unsigned n;
	char table[64];
	struct store_key key;
};

static void tell(void *userdata, const char *table, const struct store_key *key)
{
	struct told *told = userdata;

	told->n++;
	snprintf(told->table, sizeof(told->table), "%s", table);
	told->key = *key;
}

static void make_damaged(struct scratch *scratch)
{
	struct event_cursor record = {.name = "damage-me", .ack = 1};
	struct store *store = open_store(scratch, false, 0, NULL);
	struct store_key key;

	assert_int_equal(put(store, "a", 1), 0);
	assert_int_equal(store_key(&key, "b", NULL), 0);
	assert_int_equal(store_put(store, "things", &key, schema_event_cursor(), &record), 0);
	assert_int_equal(put(store, "c", 3), 0);
	assert_int_equal(store_commit(store), 0);
	store_close(store);
	flip_bit(scratch);
}

static void test_a_damaged_record_is_quarantined_and_no_other_is_touched(void **state)
{
	struct store *store;
	struct told told = {};
	uint64_t number = 0;

	make_damaged(*state);
	store = open_store(*state, false, 0, NULL);
	store_on_damage(store, tell, &told);
	assert_int_equal(get(store, "b", &number), STORE_E_DAMAGED);
	assert_int_equal(store_commit(store), 0);

	assert_int_equal(told.n, 1);
	assert_string_equal(told.table, "things");
	assert_string_equal(store_key_part(&told.key, 0), "b");
	assert_int_equal(store_count(store, STORE_QUARANTINE), 1);
	assert_int_equal(get(store, "b", &number), STORE_E_NOT_FOUND);
	assert_int_equal(get(store, "a", &number), 0);
	assert_int_equal(get(store, "c", &number), 0);
	assert_int_equal(number, 3);
	store_close(store);
}

static void test_a_walk_skips_and_quarantines_what_is_damaged(void **state)
{
	struct store *store;
	unsigned n = 0;

	make_damaged(*state);
	store = open_store(*state, false, 0, NULL);
	/* In a handler that fails: the record is moved all the same. */
	assert_int_equal(store_begin(store), 0);
	assert_int_equal(
		store_walk(store, "things", NULL, NULL, schema_event_cursor(), count_row, &n), 0);
	assert_int_equal(store_end(store, false), 0);
	assert_int_equal(store_commit(store), 0);
	assert_int_equal(n, 2);
	assert_int_equal(store_count(store, STORE_QUARANTINE), 1);
	assert_int_equal(store_count(store, "things"), 2);
	store_close(store);
}

/* A record under a key of any bytes, damaged. */
static void put_damaged(struct store *store, const char *table, const void *key, size_t size)
{
	struct operation_record wrong = {.method = "a.b"};
	uint8_t id[16] = {};
	struct store_key at;

	wrong.id = (struct schema_bytes){id, sizeof(id)};
	store_key_bytes(&at, key, size);
	assert_int_equal(store_put(store, table, &at, schema_operation_record(), &wrong), 0);
}

static int pass_over(void *userdata, const struct store_key *key, void *record)
{
	(void)userdata;
	(void)key;
	(void)record;
	return 0;
}

static void walk_damaged(struct store *store, const char *table)
{
	assert_int_equal(
		store_walk(store, table, NULL, NULL, schema_event_cursor(), pass_over, NULL), 0);
}

static uint64_t drop(struct store *store, const char *table, const char *key)
{
	struct store_drop_request request = {.table = (char *)table, .key = (char *)key};
	uint64_t count = 0;
	int r = store_drop_quarantine(store, &request, &count);

	assert_int_equal(r, count ? 0 : STORE_E_NOT_FOUND);
	return count;
}

static void test_the_quarantine_is_listed_and_dropped_by_key_table_or_whole(void **state)
{
	static const char key[] = "ns\0a,b\\\xff c";
	struct store_quarantine_reply reply = {};
	struct store *store = open_store(*state, false, 0, NULL);

	assert_int_equal(store_list_quarantine(store, &reply), 0);
	assert_int_equal(reply.count, 0);
	put_damaged(store, "things", "one", 3);
	put_damaged(store, "things", key, sizeof(key) - 1);
	put_damaged(store, "others", "one", 3);
	walk_damaged(store, "things");
	walk_damaged(store, "others");
	assert_int_equal(store_commit(store), 0);
	assert_true(store_is_damaged(store, "things"));

	assert_int_equal(store_list_quarantine(store, &reply), 0);
	assert_int_equal(reply.count, 3);
	assert_int_equal(reply.records.count, 3);
	assert_string_equal(reply.records.items[0].table, "others");
	assert_string_equal(reply.records.items[1].table, "things");
	assert_string_equal(reply.records.items[1].key, "ns,a\\x2cb\\x5c\\xff\\x20c");
	assert_string_equal(reply.records.items[2].key, "one");
	assert_true(reply.records.items[2].size > 0);

	assert_int_equal(drop(store, NULL, "two"), 0);
	assert_int_equal(drop(store, "things", reply.records.items[1].key), 1);
	assert_true(store_is_damaged(store, "things"));
	assert_int_equal(drop(store, "things", NULL), 1);
	assert_false(store_is_damaged(store, "things"));
	assert_int_equal(drop(store, NULL, NULL), 1);
	assert_int_equal(drop(store, NULL, NULL), 0);
	assert_int_equal(store_commit(store), 0);
	store_quarantine_reply_clear(&reply);
	store_close(store);
}

/* So many that a reply does not hold them: they are counted. */
static void test_a_large_quarantine_is_counted_and_dropped_whole(void **state)
{
	struct store_quarantine_reply reply = {};
	struct store *store = open_store(*state, false, 0, NULL);

	for (unsigned i = 0; i < 300; i++) {
		char key[16];

		snprintf(key, sizeof(key), "%u", i);
		put_damaged(store, "things", key, strlen(key));
	}
	/* So many at a time are moved aside. */
	for (unsigned i = 0; i < 300 / 64 + 1; i++) {
		walk_damaged(store, "things");
		assert_int_equal(store_commit(store), 0);
	}
	assert_int_equal(store_list_quarantine(store, &reply), 0);
	assert_int_equal(reply.count, 300);
	assert_int_equal(reply.records.count, 200);
	assert_int_equal(drop(store, NULL, NULL), 300);
	store_quarantine_reply_clear(&reply);
	store_close(store);
}

/* ---- room ---- */

static int put_large(struct store *store, unsigned n, size_t size)
{
	struct operation_record record = {.method = "a.b"};
	_cleanup_(cleanup_free) uint8_t *bytes = calloc(1, size);
	uint8_t id[16] = {};
	struct store_key key;

	assert_non_null(bytes);
	record.id = (struct schema_bytes){id, sizeof(id)};
	record.request = (struct schema_bytes){bytes, size};
	store_key_u64(&key, n);
	return store_put(store, "others", &key, schema_operation_record(), &record);
}

static void test_a_full_map_grows_and_loses_nothing(void **state)
{
	struct store *store = open_store(*state, false, 1 << 20, NULL);
	unsigned n_full = 0;
	uint64_t number = 0;

	for (unsigned i = 0; i < 100;) {
		assert_int_equal(store_begin(store), 0);
		int r = put_large(store, i, 200000);
		if (r) {
			assert_int_equal(r, STORE_E_FULL);
			/* Whatever comes after it in this transaction fails too. */
			assert_int_equal(put(store, "x", 1), STORE_E_FULL);
			assert_int_equal(store_end(store, true), STORE_E_FULL);
			assert_int_equal(put(store, "small", i), 0);
			store_abort(store);
			assert_int_equal(store_grow(store), 0);
			n_full++;
			continue;
		}
		assert_int_equal(store_end(store, true), 0);
		r = store_commit(store);
		if (r) {
			assert_int_equal(r, STORE_E_FULL);
			assert_int_equal(store_grow(store), 0);
			n_full++;
			continue;
		}
		i++;
	}
	assert_true(n_full > 2);
	assert_int_equal(store_count(store, "others"), 100);
	assert_int_equal(get(store, "small", &number), STORE_E_NOT_FOUND);
	store_close(store);
}

static void damage_from(const char *path, size_t start)
{
	uint8_t garbage[4096];
	struct stat status;
	int fd = open(path, O_RDWR | O_CLOEXEC);

	memset(garbage, 0xa5, sizeof(garbage));
	assert_true(fd >= 0);
	assert_int_equal(fstat(fd, &status), 0);
	for (off_t at = (off_t)start; at < status.st_size; at += 4096)
		assert_int_equal(pwrite(fd, garbage, 4096, at), 4096);
	close(fd);
}

static void cut_to(const char *path, size_t size)
{
	assert_int_equal(truncate(path, (off_t)size), 0);
}

/* What cannot be found again is left as it is; the rest begins anew, and what was there is kept. */
static void open_damaged(struct scratch *scratch, void (*damage)(const char *path, size_t at),
			 size_t at, bool is_volatile)
{
	_cleanup_(cleanup_free) char *path = scratch_path(scratch, "store");
	_cleanup_(cleanup_free) char *data = text_format("%s/data.mdb", path);
	_cleanup_(cleanup_free) char *kept = text_format("%s/broken/data.mdb", path);
	_cleanup_(cleanup_free) char *reason = text_format("%s/broken/reason", path);
	struct store_options options = {.directory = path,
					.is_volatile = is_volatile,
					.may_begin_anew = !is_volatile,
					.tables = tables};
	struct store *store = NULL;
	struct stat status, after;
	uint64_t number = 0;
	struct why why = {};

	for (unsigned i = 0; i < 2; i++) {
		if (store_open(&options, &store, NULL, &why))
			fail_msg("%s", why.text);
		/* Undamaged it is what it was: opened again. */
		store = store_close(store);
		if (store_open(&options, &store, NULL, &why))
			fail_msg("%s", why.text);
		assert_int_equal(get(store, "a", &number), STORE_E_NOT_FOUND);
		assert_int_equal(put(store, "a", 7), 0);
		assert_int_equal(store_commit(store), 0);
		store = store_close(store);
		damage(data, at);
		assert_int_equal(stat(data, &status), 0);
	}
	if (store_open(&options, &store, NULL, &why))
		fail_msg("%s", why.text);
	assert_int_equal(get(store, "a", &number), STORE_E_NOT_FOUND);
	store_close(store);
	assert_int_equal(stat(kept, &after), 0);
	assert_int_equal(after.st_size, status.st_size);
	assert_int_equal(stat(reason, &after), 0);
	assert_true(after.st_size > 0);
}

static void test_a_store_that_can_be_found_again_begins_anew_when_it_is_damaged(void **state)
{
	open_damaged(*state, damage_from, 2 * 4096, false);
}

static void test_a_store_that_can_be_found_again_begins_anew_when_it_was_cut_short(void **state)
{
	open_damaged(*state, cut_to, 2 * 4096, true);
}

static void test_a_file_that_is_no_store_is_set_aside(void **state)
{
	open_damaged(*state, damage_from, 0, true);
}

/* Address space for @size bytes more than there are. What it was before comes back with a second call. */
static struct rlimit limit_space(const struct rlimit *limit, size_t size)
{
	struct rlimit before, now;
	unsigned long n_pages = 0;
	FILE *file = fopen("/proc/self/statm", "re");

	assert_non_null(file);
	assert_int_equal(fscanf(file, "%lu", &n_pages), 1);
	fclose(file);
	assert_int_equal(getrlimit(RLIMIT_AS, &before), 0);
	now = (struct rlimit){n_pages * (size_t)sysconf(_SC_PAGESIZE) + size, before.rlim_max};
	assert_int_equal(setrlimit(RLIMIT_AS, limit ?: &now), 0);
	return before;
}

static void test_a_map_that_cannot_grow_stays_as_it_is(void **state)
{
	struct store *store = open_store(*state, false, 64 << 20, NULL);
	uint64_t number = 0;
	struct rlimit before;

	assert_int_equal(put(store, "a", 7), 0);
	assert_int_equal(store_commit(store), 0);
	before = limit_space(NULL, 48 << 20);
	assert_int_equal(store_grow(store), STORE_E_FULL);
	assert_int_equal(put(store, "b", 8), 0);
	assert_int_equal(store_commit(store), 0);
	limit_space(&before, 0);
	assert_int_equal(store_grow(store), 0);
	assert_int_equal(get(store, "a", &number), 0);
	assert_int_equal(get(store, "b", &number), 0);
	assert_int_equal(number, 8);
	store_close(store);
}

/* In a child with a mount namespace of its own, so that nothing stays mounted. */
static int fill_disk(const char *directory)
{
	struct store_options options = {.directory = directory, .tables = tables};
	struct store *store;
	unsigned i;
	int r = 0;

	if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
	    mkdir(directory, 0700) || mount("t", directory, "tmpfs", 0, "size=2m"))
		return 77;
	if (store_open(&options, &store, NULL, NULL) || put(store, "kept", 5) ||
	    store_commit(store))
		return 1;
	for (i = 0; i < 100 && !r; i++) {
		r = put_large(store, i, 100000);
		if (!r)
			r = store_commit(store);
	}
	if (r != STORE_E_NO_SPACE)
		return 2;
	store_abort(store);
	uint64_t number = 0;
	if (get(store, "kept", &number) || number != 5 || store_count(store, "others") != i - 1)
		return 3;
	/* Deleting needs no more room. */
	struct store_key key;
	store_key_u64(&key, 0);
	if (store_delete(store, "others", &key) || store_commit(store))
		return 4;
	store_close(store);
	return 0;
}

static void test_a_full_disk_refuses_and_keeps_what_was_committed(void **state)
{
	_cleanup_(cleanup_free) char *path = scratch_path(*state, "full");
	int status;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (!pid)
		_exit(fill_disk(path));
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	if (WEXITSTATUS(status) == 77)
		skip();
	assert_int_equal(WEXITSTATUS(status), 0);
}

/* ---- keys and walks ---- */

static int take_key(void *userdata, const struct store_key *key, void *record)
{
	char *text = userdata;

	(void)record;
	strcat(text, store_key_part(key, 1) ? store_key_part(key, 1) : store_key_part(key, 0));
	strcat(text, " ");
	return 0;
}

static void test_keys_are_in_order_of_their_parts(void **state)
{
	struct store *store = open_store(*state, false, 0, NULL);
	static const char *const names[][2] = {
		{"ab", "1"}, {"a", "2"}, {"a", "10"}, {"a-b", "3"}, {"a", "1"}};
	struct event_cursor record = {.name = "x"};
	struct store_key key, prefix, from;
	char text[256] = "";

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		assert_int_equal(store_key(&key, names[i][0], names[i][1], NULL), 0);
		assert_int_equal(store_put(store, "things", &key, schema_event_cursor(), &record),
				 0);
	}
	assert_int_equal(store_key(&prefix, "a", "", NULL), 0);
	assert_int_equal(
		store_walk(store, "things", &prefix, NULL, schema_event_cursor(), take_key, text),
		0);
	assert_string_equal(text, "1 10 2 ");
	*text = '\0';
	assert_int_equal(store_key(&from, "a", "10", NULL), 0);
	assert_int_equal(
		store_walk(store, "things", &prefix, &from, schema_event_cursor(), take_key, text),
		0);
	assert_string_equal(text, "10 2 ");
	*text = '\0';
	assert_int_equal(
		store_walk(store, "things", NULL, NULL, schema_event_cursor(), take_key, text), 0);
	assert_string_equal(text, "1 10 2 3 1 ");
	store_close(store);
}

static void test_numbers_are_in_their_order(void **state)
{
	struct store_key small, large;

	(void)state;
	store_key_u64(&small, 255);
	store_key_u64(&large, 256);
	assert_true(memcmp(small.data, large.data, 8) < 0);
}

static void test_a_key_that_is_too_long_is_refused(void **state)
{
	struct store_key key;
	char text[512];

	(void)state;
	memset(text, 'x', sizeof(text));
	text[511] = '\0';
	assert_int_equal(store_key(&key, text, NULL), -ENAMETOOLONG);
	text[500] = '\0';
	assert_int_equal(store_key(&key, text, NULL), 0);
	assert_int_equal(store_key(&key, text, text, NULL), -ENAMETOOLONG);
	assert_int_equal(store_key(&key, "", NULL), -EINVAL);
}

struct changing {
	struct store *store;
	unsigned n;
};

/* Deletes what it is at and what comes next, and adds one behind. */
static int change(void *userdata, const struct store_key *key, void *record_)
{
	struct changing *changing = userdata;
	struct event_cursor *record = record_;
	struct store_key next;
	char name[16];

	changing->n++;
	assert_int_equal(store_delete(changing->store, "things", key), 0);
	snprintf(name, sizeof(name), "k%02u", (unsigned)record->ack + 1);
	assert_int_equal(store_key(&next, name, NULL), 0);
	store_delete(changing->store, "things", &next);
	if (record->ack == 18)
		assert_int_equal(put(changing->store, "k50", 50), 0);
	return 0;
}

static void test_a_walk_goes_on_while_its_table_changes(void **state)
{
	struct changing changing = {.store = open_store(*state, false, 0, NULL)};
	char name[16];

	for (unsigned i = 0; i < 20; i++) {
		snprintf(name, sizeof(name), "k%02u", i);
		assert_int_equal(put(changing.store, name, i), 0);
	}
	assert_int_equal(store_begin(changing.store), 0);
	assert_int_equal(store_walk(changing.store, "things", NULL, NULL, schema_event_cursor(),
				    change, &changing),
			 0);
	assert_int_equal(store_end(changing.store, true), 0);
	assert_int_equal(changing.n, 11);
	assert_int_equal(store_count(changing.store, "things"), 0);
	store_close(changing.store);
}

static int stop_at_once(void *userdata, const struct store_key *key, void *record)
{
	(void)userdata;
	(void)key;
	(void)record;
	return 4711;
}

static void test_a_walk_ends_with_what_its_callback_returned(void **state)
{
	struct store *store = open_store(*state, false, 0, NULL);

	assert_int_equal(put(store, "a", 1), 0);
	assert_int_equal(
		store_walk(store, "things", NULL, NULL, schema_event_cursor(), stop_at_once, NULL),
		4711);
	store_close(store);
}

/* ---- opening ---- */

static void test_a_store_is_open_once(void **state)
{
	_cleanup_(cleanup_free) char *path = scratch_path(*state, "store");
	struct store_options options = {.directory = path, .tables = tables};
	struct store *store = open_store(*state, false, 0, NULL), *second = NULL;
	struct why why = {};

	assert_int_equal(store_open(&options, &second, NULL, &why), STORE_E_LOCKED);
	assert_non_null(strstr(why.text, path));
	store_close(store);
	assert_int_equal(store_open(&options, &second, NULL, &why), 0);
	store_close(second);
}

static void test_children_do_not_inherit_the_store(void **state)
{
	struct store *store = open_store(*state, false, 0, NULL);
	unsigned n = 0;

	for (int fd = 3; fd < 64; fd++) {
		char link[64], target[512];
		ssize_t size;

		snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
		size = readlink(link, target, sizeof(target) - 1);
		if (size < 0)
			continue;
		target[size] = '\0';
		if (!strstr(target, "/store/"))
			continue;
		assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
		n++;
	}
	assert_true(n >= 3);
	store_close(store);
}

static void test_what_is_no_store_is_left_as_it_is(void **state)
{
	_cleanup_(cleanup_free) char *directory = scratch_path(*state, "store");
	_cleanup_(cleanup_free) char *path = scratch_path(*state, "store/data.mdb");
	struct store_options options = {.directory = directory, .tables = tables};
	_cleanup_(cleanup_free) char *after = NULL;
	struct store *store = NULL;
	struct why why = {};
	char garbage[9000];
	size_t size;

	memset(garbage, 0x5a, sizeof(garbage));
	assert_int_equal(mkdir(directory, 0700), 0);
	assert_int_equal(file_write(path, garbage, sizeof(garbage), 0600, false, &why), 0);
	assert_true(store_open(&options, &store, NULL, &why) != 0);
	assert_non_null(strstr(why.text, directory));
	assert_int_equal(file_read(AT_FDCWD, path, 1 << 20, &after, &size), 0);
	assert_int_equal(size, sizeof(garbage));
	assert_memory_equal(after, garbage, size);
}

static void set_boot(struct scratch *scratch, const char *text)
{
	_cleanup_(cleanup_free) char *path = scratch_path(scratch, "store/boot_id");

	assert_int_equal(file_write(path, text, strlen(text), 0600, false, NULL), 0);
}

static bool exists(struct scratch *scratch, const char *name)
{
	_cleanup_(cleanup_free) char *path = scratch_path(scratch, name);

	return access(path, F_OK) == 0;
}

static void test_a_volatile_store_of_another_boot_is_moved_aside(void **state)
{
	uint64_t number;
	bool is_fresh;

	for (unsigned i = 0; i < 5; i++) {
		struct store *store = open_store(*state, true, 0, &is_fresh);

		assert_true(is_fresh);
		assert_int_equal(get(store, "a", &number), STORE_E_NOT_FOUND);
		assert_int_equal(put(store, "a", i), 0);
		assert_int_equal(store_commit(store), 0);
		store_close(store);
		store = open_store(*state, true, 0, &is_fresh);
		assert_false(is_fresh);
		assert_int_equal(get(store, "a", &number), 0);
		store_close(store);
		set_boot(*state, "00000000000000000000000000000000");
	}
	assert_false(exists(*state, "store.boot-1"));
	assert_false(exists(*state, "store.boot-2"));
	assert_true(exists(*state, "store.boot-3"));
	assert_true(exists(*state, "store.boot-4"));
}

static void test_a_durable_store_of_another_boot_is_kept_and_told(void **state)
{
	struct store *store = open_store(*state, false, 0, NULL);
	uint64_t number = 0;
	bool is_fresh = false;

	assert_int_equal(put(store, "a", 9), 0);
	store->boot_id[0] ^= 1;
	assert_int_equal(store_put_meta(store, store->meta.publisher.data, 5), 0);
	assert_int_equal(store_commit(store), 0);
	store_close(store);
	store = open_store(*state, false, 0, &is_fresh);
	assert_true(is_fresh);
	assert_int_equal(store->meta.next_seq, 5);
	assert_int_equal(get(store, "a", &number), 0);
	store_close(store);
}

TEST_MAIN(TEST_IN_SCRATCH(test_a_record_outlives_the_process),
	  TEST_IN_SCRATCH(test_what_is_not_committed_is_lost),
	  TEST_IN_SCRATCH(test_a_nested_transaction_is_undone_alone),
	  TEST_IN_SCRATCH(test_a_turn_without_changes_is_no_commit),
	  TEST_IN_SCRATCH(test_a_damaged_record_is_quarantined_and_no_other_is_touched),
	  TEST_IN_SCRATCH(test_a_walk_skips_and_quarantines_what_is_damaged),
	  TEST_IN_SCRATCH(test_the_quarantine_is_listed_and_dropped_by_key_table_or_whole),
	  TEST_IN_SCRATCH(test_a_large_quarantine_is_counted_and_dropped_whole),
	  TEST_IN_SCRATCH(test_a_full_map_grows_and_loses_nothing),
	  TEST_IN_SCRATCH(test_a_map_that_cannot_grow_stays_as_it_is),
	  TEST_IN_SCRATCH(test_a_store_that_can_be_found_again_begins_anew_when_it_is_damaged),
	  TEST_IN_SCRATCH(test_a_store_that_can_be_found_again_begins_anew_when_it_was_cut_short),
	  TEST_IN_SCRATCH(test_a_file_that_is_no_store_is_set_aside),
	  TEST_IN_SCRATCH(test_a_full_disk_refuses_and_keeps_what_was_committed),
	  TEST_IN_SCRATCH(test_keys_are_in_order_of_their_parts),
	  TEST_IN_SCRATCH(test_numbers_are_in_their_order),
	  TEST_IN_SCRATCH(test_a_key_that_is_too_long_is_refused),
	  TEST_IN_SCRATCH(test_a_walk_goes_on_while_its_table_changes),
	  TEST_IN_SCRATCH(test_a_walk_ends_with_what_its_callback_returned),
	  TEST_IN_SCRATCH(test_a_store_is_open_once),
	  TEST_IN_SCRATCH(test_children_do_not_inherit_the_store),
	  TEST_IN_SCRATCH(test_what_is_no_store_is_left_as_it_is),
	  TEST_IN_SCRATCH(test_a_volatile_store_of_another_boot_is_moved_aside),
	  TEST_IN_SCRATCH(test_a_durable_store_of_another_boot_is_kept_and_told))
