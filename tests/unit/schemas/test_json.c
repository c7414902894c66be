/* Messages as JSON, hostile JSON text, and words as a person types them. */

#include "tests/lib/main.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "schemas/json.h"
#include "schemas/messages.h"
#include "tests/lib/random_message.h"

/* ---- messages ------------------------------------------------------------------ */

static void assert_json(const struct schema_message *schema, const void *message,
			const char *expected)
{
	json_t *json = json_from_message(schema, message);
	char *text = json_dumps(json, JSON_COMPACT);

	assert_string_equal(text, expected);
	free(text);
	json_decref(json);
}

static void test_a_message_is_shown_by_its_fields(void **state)
{
	struct bus_event event = {.seq = UINT64_MAX,
				  .time_ns = 5,
				  .topic = (char *)"/tasks/exit",
				  .publisher = {(uint8_t *)"\x00\xab", 2},
				  .event = {(uint8_t *)"\x81\xa1k\x92\xc0\xc3", 6}};
	struct snapshot_record snapshot = {
		.key = (char *)"k\"é", .kind = SNAPSHOT_ACTIVE, .snapshotter = (char *)"native"};
	struct image_mounts_reply none = {};

	(void)state;
	assert_json(
		schema_bus_event(), &event,
		"{\"seq\":\"18446744073709551615\",\"time_ns\":5,\"topic\":\"/tasks/exit\",\"publisher\":\"00ab\","
		"\"publisher_seq\":0,\"event\":{\"k\":[null,true]}}");
	assert_json(
		schema_snapshot_record(), &snapshot,
		"{\"key\":\"k\\\"é\",\"kind\":\"active\",\"snapshotter\":\"native\",\"number\":0,"
		"\"created_at_ns\":0,\"updated_at_ns\":0,\"size\":0,\"inodes\":0}");
	assert_json(schema_image_mounts_reply(), &none, "{\"mounts\":[]}");
}

/* Whether every value of JSON comes back the same; a RAW with a byte string or NaN in it does not. */
static bool has_raw(const struct schema_message *schema)
{
	for (size_t i = 0; i < schema->n_fields; i++) {
		if (schema->fields[i].kind == SCHEMA_RAW ||
		    (schema->fields[i].of && has_raw(schema->fields[i].of())))
			return true;
	}
	return false;
}

static void test_every_message_comes_back_from_json(void **state)
{
	unsigned compared = 0;

	(void)state;
	for (size_t i = 0; all_messages[i]; i++) {
		const struct schema_message *schema = all_messages[i]();

		for (uint64_t seed = 0; seed < 10 && !has_raw(schema); seed++) {
			void *message = new_message(schema), *again = new_message(schema);
			struct schema_buffer a = {}, b = {};
			struct schema_fault fault = {};
			uint64_t random = seed;
			json_t *json;

			random_message(schema, message, &random);
			json = json_from_message(schema, message);
			assert_non_null(json);
			if (json_to_message(schema, json, again, &fault))
				fail_msg("%s, seed %llu: %s", schema->name,
					 (unsigned long long)seed, fault.text);
			assert_int_equal(schema_pack(schema, message, &a, NULL), 0);
			assert_int_equal(schema_pack(schema, again, &b, NULL), 0);
			assert_int_equal(a.size, b.size);
			assert_memory_equal(a.data, b.data, a.size);
			compared++;
			json_decref(json);
			free_message(schema, message);
			free_message(schema, again);
			schema_buffer_clear(&a);
			schema_buffer_clear(&b);
		}
	}
	assert_true(compared > 500);
}

static int read_json(const struct schema_message *schema, const char *text,
		     struct schema_fault *fault)
{
	void *message = new_message(schema);
	json_t *json = json_parse(text, strlen(text), 65536, NULL);
	int r;

	assert_non_null(json);
	r = json_to_message(schema, json, message, fault);
	json_decref(json);
	free_message(schema, message);
	return r;
}

static void test_json_that_is_no_such_message_is_refused_by_name(void **state)
{
	static const struct {
		const char *text;
		int code;
		const char *fault;
	} cases[] = {
		{"{}", SCHEMA_E_MISSING, "registry_register_request.instance is missing"},
		{"[]", SCHEMA_E_TYPE, "registry_register_request is not a map"},
		{"{\"no\":1}", SCHEMA_E_VALUE, "registry_register_request.no is not a field"},
		{"{\"pid\":-1}", SCHEMA_E_TYPE,
		 "registry_register_request.pid is not a non-negative integer"},
		{"{\"pid\":\"x\"}", SCHEMA_E_TYPE,
		 "registry_register_request.pid is not a non-negative integer"},
		{"{\"pid\":1.5}", SCHEMA_E_TYPE,
		 "registry_register_request.pid is not a non-negative integer"},
		{"{\"pid\":99999999999}", SCHEMA_E_LIMIT,
		 "registry_register_request.pid is over its limit of 2147483647"},
		{"{\"names\":[1]}", SCHEMA_E_TYPE,
		 "registry_register_request.names is not a string"},
		{"{\"names\":\"x\"}", SCHEMA_E_TYPE,
		 "registry_register_request.names is not an array of strings"},
		{"{\"instance\":\"abc\"}", SCHEMA_E_VALUE,
		 "registry_register_request.instance is not text of pairs of hex digits"},
		{"{\"instance\":\"zz\"}", SCHEMA_E_VALUE,
		 "registry_register_request.instance is not text of pairs of hex digits"},
		{"{\"redeliver\":1}", SCHEMA_E_TYPE,
		 "registry_register_request.redeliver is not true or false"},
	};
	struct schema_fault fault = {};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		assert_int_equal(
			read_json(schema_registry_register_request(), cases[i].text, &fault),
			cases[i].code);
		assert_string_equal(fault.text, cases[i].fault);
	}
	assert_int_equal(read_json(schema_event_read_request(),
				   "{\"from\":\"18446744073709551615\",\"ack\":null}", &fault),
			 0);
	assert_int_equal(read_json(schema_event_read_request(), "{\"from\":3.0}", &fault), 0);
}

/* ---- any msgpack ----------------------------------------------------------------- */

static void assert_msgpack(const char *data, size_t size, const char *expected)
{
	json_t *json = json_from_msgpack(data, size);
	char *text;

	assert_non_null(json);
	text = json_dumps(json, JSON_COMPACT | JSON_ENCODE_ANY);
	assert_string_equal(text, expected);
	free(text);
	json_decref(json);
}

#define ASSERT_MSGPACK(data, expected) assert_msgpack(data, sizeof(data) - 1, expected)

static void test_any_msgpack_is_shown(void **state)
{
	(void)state;
	ASSERT_MSGPACK("\xc0", "null");
	ASSERT_MSGPACK("\xff", "-1");
	ASSERT_MSGPACK("\xa0", "\"\"");
	ASSERT_MSGPACK("\xc4\0", "\"\"");
	ASSERT_MSGPACK("\xcf\xff\xff\xff\xff\xff\xff\xff\xff", "\"18446744073709551615\"");
	ASSERT_MSGPACK("\xca\x3f\x80\0\0", "1.0");
	ASSERT_MSGPACK("\xcb\x7f\xf8\0\0\0\0\0\0", "null"); /* NaN */
	ASSERT_MSGPACK("\xc4\x02\x01\xff", "\"01ff\"");
	ASSERT_MSGPACK("\xa2\xc3\x28", "\"c328\""); /* not UTF-8 */
	ASSERT_MSGPACK("\xa1\0", "\"\\u0000\"");
	ASSERT_MSGPACK("\x83\x01\x02\xc4\x01\xff\x90\xa1"
		       "a\xc2",
		       "{\"1\":2,\"ff\":[],\"a\":false}");
	assert_null(json_from_msgpack("\x91", 1));
	assert_null(json_from_msgpack("", 0));
}

static void test_any_json_becomes_msgpack(void **state)
{
	static const struct {
		const char *text;
		const char *data;
		size_t size;
	} cases[] = {
		{"[1,-1,1.0,1.5,true,null]", "\x96\x01\xff\x01\xcb\x3f\xf8\0\0\0\0\0\0\xc3\xc0",
		 15},
		{"{\"a\":\"b\"}",
		 "\x81\xa1"
		 "a\xa1"
		 "b",
		 5},
		{"\"\"", "\xa0", 1},
		{"9223372036854775807", "\xcf\x7f\xff\xff\xff\xff\xff\xff\xff", 9},
		{"1e300", "\xcb\x7e\x37\xe4\x3c\x88\x00\x75\x9c", 9},
	};
	struct schema_buffer buffer = {};
	char deep[64];
	json_t *json;

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		json = json_parse(cases[i].text, strlen(cases[i].text), 1000, NULL);
		assert_int_equal(json_to_msgpack(json, &buffer), 0);
		assert_int_equal(buffer.size, cases[i].size);
		assert_memory_equal(buffer.data, cases[i].data, buffer.size);
		buffer.size = 0;
		json_decref(json);
	}
	memset(deep, '[', 20);
	memset(deep + 20, ']', 20);
	json = json_parse(deep, 40, 1000, NULL);
	assert_int_equal(json_to_msgpack(json, &buffer), SCHEMA_E_LIMIT);
	assert_int_equal(buffer.size, 0);
	json_decref(json);
	schema_buffer_clear(&buffer);
}

/* ---- hostile text ------------------------------------------------------------------- */

static void assert_refused(const char *text, size_t size, const char *part)
{
	struct schema_fault fault = {};

	if (json_parse(text, size, 1 << 20, &fault))
		fail_msg("'%.40s' was accepted", text);
	if (!strstr(fault.text, part))
		fail_msg("'%s' does not hold '%s'", fault.text, part);
	assert_null(json_parse(text, size, 1 << 20, NULL));
}

static void test_hostile_json_is_refused_with_its_line(void **state)
{
	char *wide = malloc(400001);

	(void)state;
	assert_refused("", 0, "line 1: ");
	assert_refused("{\n\"a\":1,\n}", 10, "line 3: ");
	assert_refused("{\"a\":1,\"a\":2}", 13, "duplicate");
	assert_refused("{} x", 4, "line 1: ");
	assert_refused("\"\\u0000\"", 8, "line 1: ");
	assert_refused("\"a\0b\"", 5, "line 1: ");
	assert_refused("\"\xc3\x28\"", 4, "line 1: ");
	assert_refused("123456789012345678901234567890", 30, "too big");
	assert_refused("1e999", 5, "line 1: ");
	assert_refused("\x1b[2J", 4, "line 1: ");
	memset(wide, '[', 400000);
	assert_refused(wide, 400000, "nested too deep");
	for (size_t i = 0; i < 400000; i += 2)
		memcpy(wide + i, "1,", 2);
	wide[0] = '[';
	assert_refused(wide, 400000, "too many values");
	assert_null(json_parse("[]     ", 7, 6, NULL));
	free(wide);
}

static void test_what_stands_in_strings_does_not_count(void **state)
{
	const char *text =
		"[\"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\\\"[\",\"\\\\\",{}]";
	json_t *json = json_parse(text, strlen(text), 1000, NULL);

	(void)state;
	assert_int_equal(json_array_size(json), 3);
	json_decref(json);
}

/* ---- words ---------------------------------------------------------------------------- */

static int parse(char *const *words, struct container_run_request *request,
		 struct schema_fault *fault)
{
	size_t n = 0;

	while (words[n])
		n++;
	return json_parse_words(schema_container_run_request(), words, n, request, fault);
}

#define WORDS(...) ((char *[]){__VA_ARGS__, NULL})
#define W(text)    (char *)text

static void test_words_fill_a_message(void **state)
{
	struct container_run_request request = {};
	struct schema_fault fault = {};

	(void)state;
	if (parse(WORDS(W("id=web"), W("labels.a.b=c=d"), W("labels=x=y"), W("options.args=sh"),
			W("options.args=-c"), W("options.args=echo a=b"),
			W("options.memory_limit=1048576"), W("options.cpu_quota=-5"),
			W("options.mounts.0.type=bind"), W("options.mounts.0.options=ro"),
			W("options.mounts.1.type=tmpfs"), W("options.read_only=true"),
			W("io:={\"stdin\":\"/f\",\"terminal\":true}"), W("image=")),
		  &request, &fault))
		fail_msg("%s", fault.text);
	assert_string_equal(request.id, "web");
	assert_string_equal(request.image, "");
	assert_string_equal(schema_map_get(&request.labels, "a.b"), "c=d");
	assert_string_equal(schema_map_get(&request.labels, "x"), "y");
	assert_int_equal(request.options->args.count, 3);
	assert_string_equal(request.options->args.items[2], "echo a=b");
	assert_int_equal(request.options->memory_limit, 1048576);
	assert_int_equal(request.options->cpu_quota, -5);
	assert_true(request.options->read_only);
	assert_int_equal(request.options->mounts.count, 2);
	assert_string_equal(request.options->mounts.items[1].type, "tmpfs");
	assert_string_equal(request.io->stdin, "/f");
	assert_true(request.io->terminal);
	container_run_request_clear(&request);
}

static void test_bad_words_are_explained(void **state)
{
	static const struct {
		const char *words[3];
		const char *fault;
	} cases[] = {
		{{"id"}, "container_run_request.id is not followed by =value or :=JSON"},
		{{"=x"}, "container_run_request. is not a field"},
		{{"idd=x"}, "container_run_request.idd is not a field"},
		{{"options.no=x"}, "spec_options.no is not a field"},
		{{"image=x"}, "container_run_request.id is missing"},
		{{"id=a", "id=b"}, "container_run_request.id is given twice"},
		{{"id.x=a"}, "container_run_request.id.x leads into a field without fields"},
		{{"options=x"},
		 "container_run_request.options is a message: <field>.<field>=value, or "
		 "<field>:=JSON"},
		{{"options.memory_limit=1k"}, "spec_options.memory_limit is not a whole number"},
		{{"options.memory_limit=-1"}, "spec_options.memory_limit is not a whole number"},
		{{"options.memory_limit="}, "spec_options.memory_limit is not a whole number"},
		{{"options.cpu_quota=99999999999999999999"},
		 "spec_options.cpu_quota is over its limit"},
		{{"options.read_only=yes"}, "spec_options.read_only is not true or false"},
		{{"labels=x"}, "container_run_request.labels is a map: <field>.<key>=value"},
		{{"labels.a=1", "labels.a=2"}, "container_run_request.labels has the key a twice"},
		{{"labels:=3", "labels.a=2"},
		 "container_run_request.labels was given as something else before"},
		{{"id=\xff"}, "container_run_request.id is not UTF-8 text"},
		{{"options:={"}, "container_run_request.options is not JSON: line 1: "},
		{{"id=a", "options.memory_limit=18446744073709551615"},
		 "container_run_request.options.memory_limit is over its limit of 9223372036854775807"},
	};
	struct container_run_request request = {};
	struct schema_fault fault;

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		char *words[3] = {(char *)cases[i].words[0], (char *)cases[i].words[1], NULL};

		if (parse(words, &request, &fault) <= 0)
			fail_msg("'%s' was accepted", words[0]);
		if (strncmp(fault.text, cases[i].fault, strlen(cases[i].fault)) != 0)
			fail_msg("'%s' instead of '%s'", fault.text, cases[i].fault);
	}
}

TEST_MAIN(cmocka_unit_test(test_a_message_is_shown_by_its_fields),
	  cmocka_unit_test(test_every_message_comes_back_from_json),
	  cmocka_unit_test(test_json_that_is_no_such_message_is_refused_by_name),
	  cmocka_unit_test(test_any_msgpack_is_shown),
	  cmocka_unit_test(test_any_json_becomes_msgpack),
	  cmocka_unit_test(test_hostile_json_is_refused_with_its_line),
	  cmocka_unit_test(test_what_stands_in_strings_does_not_count),
	  cmocka_unit_test(test_words_fill_a_message),
	  cmocka_unit_test(test_bad_words_are_explained))
