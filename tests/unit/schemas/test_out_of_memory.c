/*
 * Every allocation of the codec fails once: each call then says -ENOMEM and
 * leaves nothing behind (the build with sanitizers sees what it would leave).
 */

#include "tests/lib/main.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "schemas/envelope.h"
#include "schemas/filter.h"
#include "schemas/json.h"
#include "schemas/messages.h"
#include "tests/lib/failing_memory.h"
#include "tests/lib/random_message.h"

/* Calls @attempt with the 1st, 2nd … allocation failing, until none is left to fail. */
static unsigned fail_each(int (*attempt)(const void *userdata), const void *userdata)
{
	unsigned n = 1;

	for (;; n++) {
		int r;

		memory_fail_at(n);
		r = attempt(userdata);
		if (!memory_has_failed()) {
			memory_fail_at(0);
			assert_int_equal(r, 0);
			return n - 1;
		}
		memory_fail_at(0);
		assert_int_equal(r, -ENOMEM);
	}
}

struct packed {
	const struct schema_message *schema;
	const void *message;
	struct schema_buffer buffer;
};

static int pack(const void *userdata)
{
	const struct packed *packed = userdata;
	struct schema_buffer buffer = {};
	int r = schema_pack(packed->schema, packed->message, &buffer, NULL);

	schema_buffer_clear(&buffer);
	return r;
}

/* In a struct on the stack, so that no allocation of the test's own is counted. */
static int unpack(const void *userdata)
{
	const struct packed *packed = userdata;
	uint64_t message[128] = {};
	int r = schema_unpack(packed->schema, packed->buffer.data, packed->buffer.size, message,
			      NULL);

	if (!r)
		schema_clear(packed->schema, message);
	return r;
}

static int copy(const void *userdata)
{
	const struct packed *packed = userdata;
	uint64_t message[128] = {};
	int r = schema_copy(packed->schema, packed->message, message);

	if (!r)
		schema_clear(packed->schema, message);
	return r;
}

static int to_json(const void *userdata)
{
	const struct packed *packed = userdata;
	json_t *json = json_from_message(packed->schema, packed->message);

	json_decref(json);
	return json ? 0 : -ENOMEM;
}

static int msgpack_to_json(const void *userdata)
{
	const struct packed *packed = userdata;
	json_t *json = json_from_msgpack(packed->buffer.data, packed->buffer.size);

	json_decref(json);
	return json ? 0 : -ENOMEM;
}

static void test_every_message_survives_every_failure(void **state)
{
	unsigned failures = 0;

	(void)state;
	for (size_t i = 0; all_messages[i]; i++) {
		const struct schema_message *schema = all_messages[i]();
		struct packed packed = {.schema = schema, .message = new_message(schema)};
		uint64_t seed = i;

		assert_true(schema->size <= 128 * sizeof(uint64_t));
		random_message(schema, (void *)packed.message, &seed);
		assert_int_equal(schema_pack(schema, packed.message, &packed.buffer, NULL), 0);
		failures += fail_each(pack, &packed);
		failures += fail_each(unpack, &packed);
		failures += fail_each(copy, &packed);
		failures += fail_each(to_json, &packed);
		failures += fail_each(msgpack_to_json, &packed);
		free_message(schema, (void *)packed.message);
		schema_buffer_clear(&packed.buffer);
	}
	assert_true(failures > 5000);
}

static int write_envelope(const void *userdata)
{
	struct schema_buffer buffer = {};
	int r = envelope_write_request(userdata, &buffer);

	assert_true(!r || !buffer.size);
	schema_buffer_clear(&buffer);
	return r;
}

static void test_an_envelope_is_written_whole_or_not_at_all(void **state)
{
	static uint8_t body[3000];
	struct envelope_request request = {
		.method = "a.b", .body = {body, sizeof(body)}, .has_peer = true};

	(void)state;
	assert_true(fail_each(write_envelope, &request) >= 2);
}

static int read_words(const void *userdata)
{
	char *words[] = {(char *)"id=web",
			 (char *)"labels.a=b",
			 (char *)"options.args=sh",
			 (char *)"options.mounts.0.type=bind",
			 (char *)"io:={\"stdin\":\"/f\"}",
			 (char *)"options.memory_limit=5",
			 (char *)"auto_remove=true"};
	struct container_run_request request = {};
	int r;

	(void)userdata;
	r = json_parse_words(schema_container_run_request(), words,
			     sizeof(words) / sizeof(words[0]), &request, NULL);
	if (!r)
		container_run_request_clear(&request);
	return r == SCHEMA_E_VALUE && memory_has_failed() ? -ENOMEM
							  : r; /* jansson's parser does not tell */
}

static void test_words_survive_every_failure(void **state)
{
	(void)state;
	assert_true(fail_each(read_words, NULL) > 50);
}

static int read_filter(const void *userdata)
{
	char *items[] = {(char *)"id==web,labels.\"a.b\"~=/x|y/", (char *)"image~=|a+|"};
	struct schema_strs filters = {items, 2};
	struct filter *filter = NULL;
	int r;

	(void)userdata;
	r = filter_parse(&filters, &filter, NULL);
	filter_free(filter);
	return r;
}

static void test_filters_survive_every_failure(void **state)
{
	(void)state;
	assert_true(fail_each(read_filter, NULL) > 10);
}

static int print_manual(const void *userdata)
{
	struct schema_buffer buffer = {};
	int r;

	(void)userdata;
	r = schema_print_service(&buffer, "registry");
	schema_buffer_clear(&buffer);
	return r;
}

static void test_the_manual_is_printed_whole_or_not_at_all(void **state)
{
	(void)state;
	assert_true(fail_each(print_manual, NULL) > 50);
}

/* jansson itself takes want of memory for a wrong token. */
static int parse_json(const void *userdata)
{
	const char *text = userdata;
	json_t *json = json_parse(text, strlen(text), 1024, NULL);

	if (!json)
		return -errno;
	json_decref(json);
	return 0;
}

static void test_json_without_memory_is_told_from_wrong_json(void **state)
{
	(void)state;
	assert_true(fail_each(parse_json,
			      "{\"a\":[\"text\",1,2.5,true,null],\"b\":{\"c\":\"\\u00fc\"}}") > 10);
	assert_int_equal(parse_json("{\"a\":}"), -EINVAL);
	assert_int_equal(parse_json("[[[[[[[["), -EINVAL);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_message_survives_every_failure),
		cmocka_unit_test(test_an_envelope_is_written_whole_or_not_at_all),
		cmocka_unit_test(test_words_survive_every_failure),
		cmocka_unit_test(test_filters_survive_every_failure),
		cmocka_unit_test(test_the_manual_is_printed_whole_or_not_at_all),
		cmocka_unit_test(test_json_without_memory_is_told_from_wrong_json),
	};

	json_set_alloc_funcs(memory_allocate, free);
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
