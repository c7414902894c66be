#include "broker/lib/store_salvage.h"

#include <fcntl.h>
#include <lmdb.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "broker/lib/file.h"
#include "tests/lib/main.h"

#define N_RECORDS 2000
#define PAGE      4096

static const char *const tables[] = {"things", "absent", NULL};

/* ---- a file of its own ---- */

static void make_value(unsigned number, uint8_t value[100])
{
	uint32_t crc;

	memset(value, (int)(number % 251), 100);
	value[0] = 1;
	snprintf((char *)value + 5, 20, "v%05u", number);
	crc = crc32c(0, value + 5, 95);
	for (int i = 0; i < 4; i++)
		value[1 + i] = (uint8_t)(crc >> (8 * i));
}

static char *make_file(struct scratch *scratch)
{
	char *path = scratch_path(scratch, "store");
	MDB_env *env;
	MDB_txn *txn;
	MDB_dbi dbi;

	assert_int_equal(mkdir(path, 0700), 0);
	assert_int_equal(mdb_env_create(&env), 0);
	assert_int_equal(mdb_env_set_maxdbs(env, 4), 0);
	assert_int_equal(mdb_env_set_mapsize(env, 16 << 20), 0);
	assert_int_equal(mdb_env_open(env, path, 0, 0600), 0);
	assert_int_equal(mdb_txn_begin(env, NULL, 0, &txn), 0);
	assert_int_equal(mdb_dbi_open(txn, "things", MDB_CREATE, &dbi), 0);
	for (unsigned i = 0; i < N_RECORDS; i++) {
		uint8_t bytes[100];
		char name[16];
		MDB_val key = {.mv_data = name, .mv_size = 6},
			value = {.mv_data = bytes, .mv_size = 100};

		snprintf(name, sizeof(name), "k%05u", i);
		make_value(i, bytes);
		assert_int_equal(mdb_put(txn, dbi, &key, &value, 0), 0);
	}
	assert_int_equal(mdb_txn_commit(txn), 0);
	mdb_env_close(env);
	return path;
}

/* Where @text first stands in the store's file. */
static off_t find(const char *path, const char *text, int *ret_fd)
{
	_cleanup_(cleanup_free) char *file = text_format("%s/data.mdb", path);
	_cleanup_(cleanup_free) char *data = NULL;
	size_t size;
	char *at;

	assert_int_equal(file_read(AT_FDCWD, file, 16 << 20, &data, &size), 0);
	at = memmem(data, size, text, strlen(text));
	assert_non_null(at);
	*ret_fd = open(file, O_RDWR | O_CLOEXEC);
	assert_true(*ret_fd >= 0);
	return at - data;
}

/* ---- what is read of it ---- */

struct found {
	unsigned counts[N_RECORDS];
	unsigned n_backwards;
};

static int on_record(void *userdata, size_t table, bool is_backwards, const struct store_bytes *key,
		     const struct store_bytes *value)
{
	struct found *found = userdata;
	uint8_t expected[100];
	char name[8] = "";
	unsigned number;

	assert_int_equal(table, 0);
	assert_int_equal(key->size, 6);
	memcpy(name, key->data, 6);
	assert_int_equal(sscanf(name, "k%u", &number), 1);
	make_value(number, expected);
	assert_int_equal(value->size, sizeof(expected));
	assert_memory_equal(value->data, expected, sizeof(expected));
	found->counts[number]++;
	found->n_backwards += is_backwards;
	return 0;
}

static void salvage(const char *path, struct found *found, struct store_salvaged salvaged[2])
{
	memset(found, 0, sizeof(*found));
	memset(salvaged, 0, 2 * sizeof(*salvaged));
	assert_int_equal(store_salvage(path, false, tables, NULL, on_record, found, salvaged), 0);
	for (unsigned i = 0; i < N_RECORDS; i++)
		assert_true(found->counts[i] <= 1);
	assert_false(salvaged[1].is_whole);
	assert_int_equal(salvaged[1].n_records, 0);
}

static void test_all_of_a_whole_file_is_read(void **state)
{
	_cleanup_(cleanup_free) char *path = make_file(*state);
	struct store_salvaged salvaged[2];
	struct found found;

	salvage(path, &found, salvaged);
	assert_true(salvaged[0].is_whole);
	assert_int_equal(salvaged[0].n_records, N_RECORDS);
	assert_int_equal(salvaged[0].n_expected, N_RECORDS);
	assert_int_equal(found.n_backwards, 0);
}

/* Only what stood in the page is lost: the rest is read from both ends. */
static void test_what_is_before_and_behind_a_damaged_page_is_read(void **state)
{
	static const uint8_t fills[] = {0x00, 0xa5, 0xff};

	for (size_t i = 0; i < sizeof(fills); i++) {
		_cleanup_(cleanup_free) char *before = scratch_path(*state, "store"), *path = NULL;
		struct store_salvaged salvaged[2];
		uint8_t page[PAGE];
		struct found found;
		int fd;
		off_t at;

		if (i)
			assert_int_equal(file_remove_tree(AT_FDCWD, before, NULL), 0);
		path = make_file(*state);
		at = find(path, "v01000", &fd);
		memset(page, fills[i], sizeof(page));
		assert_int_equal(pwrite(fd, page, PAGE, at / PAGE * PAGE), PAGE);
		close(fd);
		salvage(path, &found, salvaged);
		assert_false(salvaged[0].is_whole);
		assert_int_equal(salvaged[0].n_expected, N_RECORDS);
		assert_int_equal(found.counts[1000], 0);
		assert_true(salvaged[0].n_records > N_RECORDS - 100);
		assert_true(found.n_backwards > N_RECORDS / 3);
	}
}

static void test_a_value_that_does_not_fit_its_checksum_is_not_given(void **state)
{
	_cleanup_(cleanup_free) char *path = make_file(*state);
	struct store_salvaged salvaged[2];
	struct found found;
	int fd;
	off_t at = find(path, "v01000", &fd);

	assert_int_equal(pwrite(fd, "!", 1, at), 1);
	close(fd);
	salvage(path, &found, salvaged);
	assert_false(salvaged[0].is_whole);
	assert_int_equal(salvaged[0].n_records, N_RECORDS - 1);
	assert_int_equal(salvaged[0].n_damaged, 1);
	assert_int_equal(found.counts[1000], 0);
}

static void test_a_file_that_was_cut_short_or_is_gone_gives_what_it_has(void **state)
{
	_cleanup_(cleanup_free) char *path = make_file(*state);
	_cleanup_(cleanup_free) char *file = text_format("%s/data.mdb", path);
	struct store_salvaged salvaged[2];
	struct found found;

	assert_int_equal(truncate(file, 2 * PAGE), 0);
	salvage(path, &found, salvaged);
	assert_false(salvaged[0].is_whole);
	assert_int_equal(truncate(file, 0), 0);
	salvage(path, &found, salvaged);
	assert_false(salvaged[0].is_whole);
	assert_int_equal(unlink(file), 0);
	salvage(path, &found, salvaged);
	assert_false(salvaged[0].is_whole);
	assert_int_equal(salvaged[0].n_records, 0);
}

static int refuse(void *userdata, size_t table, bool is_backwards, const struct store_bytes *key,
		  const struct store_bytes *value)
{
	(void)userdata;
	(void)table;
	(void)is_backwards;
	(void)key;
	(void)value;
	return -ENOSPC;
}

static void test_who_cannot_take_a_record_ends_it(void **state)
{
	_cleanup_(cleanup_free) char *path = make_file(*state);
	struct store_salvaged salvaged[2] = {};

	assert_int_equal(store_salvage(path, false, tables, NULL, refuse, NULL, salvaged), -ENOSPC);
	assert_int_equal(salvaged[0].n_records, 0);
}

static int kill_reader(void *userdata, size_t table, bool is_backwards,
		       const struct store_bytes *key, const struct store_bytes *value)
{
	struct found *found = userdata;

	if (!is_backwards && found->counts[10] && !found->counts[11]) {
		_cleanup_(cleanup_free) char *children = text_format("/proc/self/task/%d/children",
								     (int)getpid());
		_cleanup_(cleanup_free) char *pid = NULL;

		assert_int_equal(file_read_proc(children, 100, &pid, NULL), 0);
		assert_int_equal(kill(atoi(pid), SIGKILL), 0);
	}
	return on_record(userdata, table, is_backwards, key, value);
}

/* It was not the file that ended it: the other one comes to where it was. */
static void test_a_reader_that_is_killed_costs_nothing(void **state)
{
	_cleanup_(cleanup_free) char *path = make_file(*state);
	struct store_salvaged salvaged[2] = {};
	struct found found = {};

	assert_int_equal(store_salvage(path, false, tables, NULL, kill_reader, &found, salvaged),
			 0);
	assert_true(found.n_backwards > 0);
	assert_true(salvaged[0].is_whole);
	assert_int_equal(salvaged[0].n_records, N_RECORDS);
}

TEST_MAIN(TEST_IN_SCRATCH(test_all_of_a_whole_file_is_read),
	  TEST_IN_SCRATCH(test_what_is_before_and_behind_a_damaged_page_is_read),
	  TEST_IN_SCRATCH(test_a_value_that_does_not_fit_its_checksum_is_not_given),
	  TEST_IN_SCRATCH(test_a_file_that_was_cut_short_or_is_gone_gives_what_it_has),
	  TEST_IN_SCRATCH(test_a_reader_that_is_killed_costs_nothing),
	  TEST_IN_SCRATCH(test_who_cannot_take_a_record_ends_it))
