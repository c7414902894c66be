/* Listings of very many: every one once and in order, page by page, each page within a message. */

#include "tests/lib/main.h"

#include <stdio.h>
#include <string.h>

#include "tests/lib/image_case.h"

#define N_MANY      10000
#define N_SNAPSHOTS 3000
#define LABEL_LARGE 4000 /* of some: a page of a thousand records is more than a message then */

static char *make_label(unsigned i)
{
	size_t size = i % 2500 >= 300 ? 20 : LABEL_LARGE;
	char *value = calloc(1, size + 1);

	assert_non_null(value);
	return memset(value, 'v', size);
}

static int record_blobs(void *userdata)
{
	char *namespace = userdata;
	int r = 0;

	for (unsigned i = 0; i < N_MANY && !r; i++) {
		_cleanup_(cleanup_free) char *value = make_label(i);
		struct schema_pair label = {.key = (char *)"l", .value = value};
		char digest[DIGEST_SIZE];
		struct content_record record = {.digest = digest,
						.size = i,
						.labels = {&label, 1},
						.namespaces = {&namespace, 1}};
		struct store_key key;

		snprintf(digest, sizeof(digest), "sha256:%064x", i);
		r = content_key(digest, &key);
		if (!r)
			r = store_put(service()->store, TABLE_BLOBS, &key, schema_content_record(),
				      &record);
	}
	return r;
}

static int record_snapshots(void *userdata)
{
	static const char *const snapshotters[] = {SNAPSHOTTER_NATIVE, SNAPSHOTTER_OVERLAY};
	int r = 0;

	for (unsigned i = 0; i < N_SNAPSHOTS && !r; i++) {
		_cleanup_(cleanup_free) char *value = make_label(i);
		struct schema_pair label = {.key = (char *)"l", .value = value};
		const char *snapshotter = snapshotters[i % 2];
		char name[32];
		struct snapshot_record record = {.key = name,
						 .kind = SNAPSHOT_ACTIVE,
						 .snapshotter = (char *)snapshotter,
						 .labels = {&label, 1},
						 .number = i + 1};
		struct store_key key;

		/* Also those that another one begins with. */
		snprintf(name, sizeof(name), "%u", i);
		r = snapshot_key(userdata, snapshotter, name, &key);
		if (!r)
			r = store_put(service()->store, TABLE_SNAPSHOTS, &key,
				      schema_snapshot_record(), &record);
	}
	return r;
}

static void check_page(const struct schema_message *schema, const void *reply)
{
	_cleanup_(schema_buffer_clear) struct schema_buffer packed = {};

	assert_int_equal(schema_pack(schema, reply, &packed, NULL), 0);
	assert_true(packed.size < SCHEMA_MESSAGE_MAX - 65536);
}

static void test_very_many_blobs_are_listed_page_by_page(void **state)
{
	_cleanup_(cleanup_free) char *after = NULL;
	unsigned n = 0, n_pages = 0;

	(void)state;
	assert_int_equal(service_transact(test.service, record_blobs, (void *)"default"), 0);
	do {
		_cleanup_(content_list_reply_clear) struct content_list_reply reply = {};
		struct list_request request = {.after = after};

		assert_int_equal(service_case_call(&test, "content.list", NULL, &request, &reply),
				 BUS_OK);
		check_page(schema_content_list_reply(), &reply);
		for (size_t i = 0; i < reply.contents.count; i++, n++)
			assert_true(reply.contents.items[i].size == n);
		n_pages++;
		free(after);
		after = TAKE(reply.after);
	} while (after && n_pages < N_MANY);
	assert_int_equal(n, N_MANY);
	assert_true(n_pages > 10); /* some are cut by their size */
}

static void test_very_many_snapshots_are_listed_page_by_page(void **state)
{
	_cleanup_(cleanup_free) char *after = NULL;
	static bool is_listed[N_SNAPSHOTS];
	unsigned n = 0, n_pages = 0;

	(void)state;
	assert_int_equal(service_transact(test.service, record_snapshots, (void *)"default"), 0);
	do {
		_cleanup_(snapshot_list_reply_clear) struct snapshot_list_reply reply = {};
		struct list_request request = {.after = after};

		assert_int_equal(service_case_call(&test, "snapshot.list", NULL, &request, &reply),
				 BUS_OK);
		check_page(schema_snapshot_list_reply(), &reply);
		for (size_t i = 0; i < reply.snapshots.count; i++, n++) {
			uint64_t number = reply.snapshots.items[i].number;

			assert_in_range(number, 1, N_SNAPSHOTS);
			assert_false(is_listed[number - 1]);
			is_listed[number - 1] = true;
		}
		n_pages++;
		free(after);
		after = TAKE(reply.after);
	} while (after && n_pages < N_SNAPSHOTS);
	assert_int_equal(n, N_SNAPSHOTS);
	assert_true(n_pages > 3);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, image_case_setup, image_case_teardown)

TEST_MAIN(CASE(test_very_many_blobs_are_listed_page_by_page),
	  CASE(test_very_many_snapshots_are_listed_page_by_page))
