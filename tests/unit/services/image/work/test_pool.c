/* Blobs that threads move: how many there may be. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "broker/lib/cleanup.h"
#include "services/image/document.h"
#include "services/image/reference.h"
#include "services/image/work/pool.h"
#include "services/image/work/work.h"

static int move(void *userdata, struct http *http, struct job *job, struct why *why)
{
	(void)userdata;
	(void)http;
	(void)job;
	(void)why;
	return 0;
}

static void name_blob(unsigned n, char digest[DIGEST_SIZE])
{
	snprintf(digest, DIGEST_SIZE, "sha256:%064x", n);
}

static int add(struct pool *pool, unsigned n, struct why *why)
{
	char digest[DIGEST_SIZE];
	struct descriptor blob = {.media_type = MEDIA_OCI_LAYER_GZIP, .digest = digest, .size = n};
	struct job *job;
	bool is_new;

	name_blob(n, digest);
	return pool_add(pool, &blob, TRANSFER_EXISTS, &job, &is_new, why);
}

static void test_more_blobs_than_a_message_can_name_are_refused_by_that_number(void **state)
{
	_cleanup_(pool_freep) struct pool *pool = NULL;
	struct why why = {};

	(void)state;
	assert_int_equal(pool_new(1, -1, move, NULL, &pool, &why), 0);
	for (unsigned i = 0; i < POOL_JOBS_MAX; i++)
		assert_int_equal(add(pool, i, &why), 0);
	assert_int_equal(add(pool, 7, &why), 0); /* it is there already */
	assert_int_equal(add(pool, POOL_JOBS_MAX, &why), WORK_E_INVALID);
	assert_non_null(strstr(why.text, "more than 3500 blobs"));
	assert_int_equal(pool_count(pool), POOL_JOBS_MAX);
}

static void test_the_answer_of_a_fetch_of_so_many_blobs_fits_into_a_message(void **state)
{
	_cleanup_(work_fetch_result_clear) struct work_fetch_result result = {};
	_cleanup_(schema_buffer_clear) struct schema_buffer packed = {};
	struct schema_fault fault = {};

	(void)state;
	for (unsigned i = 0; i < POOL_JOBS_MAX; i++) {
		struct work_blob *blob = schema_list_add(&result.blobs);
		char digest[DIGEST_SIZE], path[128];

		assert_non_null(blob);
		name_blob(i, digest);
		snprintf(path, sizeof(path), "download-%s/data", digest + strlen("sha256:"));
		assert_int_equal(schema_set(&blob->digest, digest), 0);
		assert_int_equal(schema_set(&blob->path, path), 0);
		assert_int_equal(schema_set(&blob->media_type,
					    "application/vnd.docker.image.rootfs.diff.tar.gzip"),
				 0);
		blob->size = 1ull << 40;
	}
	assert_int_equal(schema_pack(schema_work_fetch_result(), &result, &packed, &fault), 0);
	/* With room for the operation's record around it. */
	assert_true(packed.size < SCHEMA_MESSAGE_MAX - 65536);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(
			test_more_blobs_than_a_message_can_name_are_refused_by_that_number),
		cmocka_unit_test(test_the_answer_of_a_fetch_of_so_many_blobs_fits_into_a_message),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
