/* The codec, over every message there is. */

#include "tests/lib/main.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "schemas/messages.h"
#include "tests/lib/random_message.h"

#define ROUNDS 40

static const struct schema_message *message_number(size_t i)
{
	return all_messages[i] ? all_messages[i]() : NULL;
}

/* A message and its packed bytes; the seed is printed when something goes wrong. */
static struct schema_buffer pack_random(const struct schema_message *schema, uint64_t seed)
{
	void *message = new_message(schema);
	struct schema_buffer buffer = {};
	struct schema_fault fault = {};
	uint64_t state = seed;

	random_message(schema, message, &state);
	if (schema_pack(schema, message, &buffer, &fault))
		fail_msg("%s with seed %llu: %s", schema->name, (unsigned long long)seed,
			 fault.text);
	free_message(schema, message);
	return buffer;
}

static void assert_same(const struct schema_buffer *a, const struct schema_buffer *b)
{
	assert_int_equal(a->size, b->size);
	assert_memory_equal(a->data, b->data, a->size);
}

static void test_every_message_comes_back_as_it_was_sent(void **state)
{
	(void)state;
	for (size_t i = 0; message_number(i); i++) {
		const struct schema_message *schema = message_number(i);

		for (uint64_t seed = 0; seed < ROUNDS; seed++) {
			struct schema_buffer sent = pack_random(schema, seed), again = {};
			void *message = new_message(schema);
			struct schema_fault fault = {};

			if (schema_unpack(schema, sent.data, sent.size, message, &fault))
				fail_msg("%s, seed %llu: %s", schema->name,
					 (unsigned long long)seed, fault.text);
			assert_int_equal(schema_pack(schema, message, &again, NULL), 0);
			assert_same(&sent, &again);
			free_message(schema, message);
			schema_buffer_clear(&sent);
			schema_buffer_clear(&again);
		}
	}
}

static void test_a_copy_packs_to_the_same_bytes(void **state)
{
	(void)state;
	for (size_t i = 0; message_number(i); i++) {
		const struct schema_message *schema = message_number(i);
		struct schema_buffer before = {}, after = {};
		void *message = new_message(schema), *copy = new_message(schema);
		uint64_t seed = i;

		random_message(schema, message, &seed);
		assert_int_equal(schema_pack(schema, message, &before, NULL), 0);
		assert_int_equal(schema_copy(schema, message, copy), 0);
		free_message(schema, message);
		assert_int_equal(schema_pack(schema, copy, &after, NULL), 0);
		assert_same(&before, &after);
		free_message(schema, copy);
		schema_buffer_clear(&before);
		schema_buffer_clear(&after);
	}
}

static void test_every_truncation_is_refused(void **state)
{
	(void)state;
	for (size_t i = 0; message_number(i); i++) {
		const struct schema_message *schema = message_number(i);
		struct schema_buffer sent = pack_random(schema, 7);
		size_t step = 1 + sent.size / 2000;
		void *message = new_message(schema);

		for (size_t size = 0; size < sent.size; size += step) {
			uint8_t *exact =
				malloc(size ?: 1); /* so that a sanitizer sees one byte too far */

			memcpy(exact, sent.data, size);
			assert_int_equal(schema_unpack(schema, exact, size, message, NULL),
					 SCHEMA_E_MALFORMED);
			free(exact);
		}
		assert_int_equal(schema_buffer_add(&sent, "\xc0", 1), 0);
		assert_int_equal(schema_unpack(schema, sent.data, sent.size, message, NULL),
				 SCHEMA_E_MALFORMED);
		free_message(schema, message);
		schema_buffer_clear(&sent);
	}
}

static void test_mutated_bytes_are_refused_or_read_as_a_message(void **state)
{
	(void)state;
	for (size_t i = 0; message_number(i); i++) {
		const struct schema_message *schema = message_number(i);

		for (uint64_t seed = 1; seed < 200; seed++) {
			struct schema_buffer sent = pack_random(schema, 3);
			void *message = new_message(schema);
			uint64_t random = seed;

			for (int n = 0; n < 3; n++)
				sent.data[random_next(&random) % sent.size] =
					(uint8_t)random_next(&random);
			if (!schema_unpack(schema, sent.data, sent.size, message, NULL)) {
				struct schema_buffer again = {};

				assert_int_equal(schema_pack(schema, message, &again, NULL), 0);
				schema_buffer_clear(&again);
			}
			free_message(schema, message);
			schema_buffer_clear(&sent);
		}
	}
}

/* ---- one field at a time ---------------------------------------------------- */

/* @schema with its field @i alone, and that field without its limit and optional. */
struct loose {
	struct schema_field field;
	struct schema_message schema;
};

static const struct schema_message *loosen(const struct schema_message *schema, size_t i,
					   struct loose *loose)
{
	loose->schema = *schema;
	loose->field = schema->fields[i];
	loose->field.required = false;
	loose->field.max = UINT64_MAX;
	loose->schema.fields = &loose->field;
	loose->schema.n_fields = 1;
	return &loose->schema;
}

/* @schema with all fields optional, so that one can be looked at by itself. */
static struct schema_message without_required(const struct schema_message *schema,
					      struct schema_field *fields)
{
	struct schema_message copy = *schema;

	for (size_t i = 0; i < schema->n_fields; i++) {
		fields[i] = schema->fields[i];
		fields[i].required = false;
	}
	copy.fields = fields;
	return copy;
}

static bool exceed_list(const struct schema_field *field, void *member)
{
	struct schema_strs *list = member;
	size_t size = field->kind == SCHEMA_LIST ? field->of()->size : 1;
	uint64_t seed = 1;

	if (field->kind == SCHEMA_LIST && field->max > 64)
		return false; /* the same code as for short ones; required fields make these large */
	for (uint64_t n = 0; n <= field->max; n++) {
		char text[24];

		snprintf(text, sizeof(text), "%llu", (unsigned long long)n);
		if (field->kind == SCHEMA_STRS)
			schema_strs_add(member, text);
		else if (field->kind == SCHEMA_MAP)
			schema_map_set(member, text, "");
		else
			random_message(field->of(),
				       schema_list_grow((void **)&list->items, &list->count, size),
				       &seed);
	}
	return true;
}

/* Makes the member one more than the field allows; false where nothing can be. */
static bool exceed(const struct schema_field *field, void *member)
{
	size_t size = (size_t)field->max + 1;
	char *text;

	switch (field->kind) {
	case SCHEMA_STR:
	case SCHEMA_BYTES:
		if (size > SCHEMA_MESSAGE_MAX - 128)
			return false;
		text = malloc(size + 1);
		memset(text, 'x', size);
		text[size] = '\0';
		if (field->kind == SCHEMA_STR)
			*(char **)member = text;
		else
			*(struct schema_bytes *)member = (struct schema_bytes){(uint8_t *)text,
									       size};
		return true;
	case SCHEMA_RAW: /* an array of so many nils and its head */
		text = calloc(1, size + 8);
		memset(text, 0xc0, size + 8);
		memcpy(text, "\xdc", 1);
		text[1] = (char)(size >> 8);
		text[2] = (char)size;
		*(struct schema_bytes *)member = (struct schema_bytes){(uint8_t *)text, size + 3};
		return size < 65536;
	case SCHEMA_STRS:
	case SCHEMA_MAP:
	case SCHEMA_LIST:
		return exceed_list(field, member);
	case SCHEMA_U64:
		*(uint64_t *)member = field->max + 1;
		return field->max != UINT64_MAX;
	case SCHEMA_I64:
		*(int64_t *)member = field->max == INT64_MAX ? INT64_MIN : -(int64_t)field->max - 1;
		return true;
	case SCHEMA_BOOL:
	case SCHEMA_ENUM:
	case SCHEMA_ITEM:
		return false;
	}
	return false;
}

static void assert_names(const struct schema_fault *fault, const struct schema_message *schema,
			 const struct schema_field *field)
{
	char name[200];

	snprintf(name, sizeof(name), "%s.%s ", schema->name, field->name);
	if (strncmp(fault->text, name, strlen(name)) != 0)
		fail_msg("'%s' does not start with '%s'", fault->text, name);
}

static void check_limit(const struct schema_message *schema, size_t i)
{
	struct schema_message optional;
	struct schema_field fields[64];
	struct schema_buffer buffer = {}, none = {};
	struct schema_fault fault = {};
	struct loose loose;
	void *message = new_message(schema), *read = new_message(schema);

	optional = without_required(schema, fields);
	if (exceed(&fields[i], (char *)message + fields[i].offset)) {
		assert_int_equal(schema_pack(&optional, message, &none, &fault), SCHEMA_E_LIMIT);
		assert_names(&fault, schema, &fields[i]);
		assert_int_equal(none.size, 0);
		assert_int_equal(schema_pack(loosen(schema, i, &loose), message, &buffer, &fault),
				 0);
		assert_int_equal(schema_unpack(&optional, buffer.data, buffer.size, read, &fault),
				 SCHEMA_E_LIMIT);
		assert_names(&fault, schema, &fields[i]);
	}
	schema_buffer_clear(&buffer);
	schema_buffer_clear(&none);
	free_message(schema, message);
	free_message(schema, read);
}

static void test_a_value_over_its_limit_is_refused_by_the_name_of_its_field(void **state)
{
	(void)state;
	for (size_t m = 0; message_number(m); m++) {
		for (size_t i = 0; i < message_number(m)->n_fields; i++)
			check_limit(message_number(m), i);
	}
}

/* {name: @value} */
static struct schema_buffer one_pair(const char *name, const char *value, size_t size)
{
	struct schema_buffer buffer = {};
	uint8_t head[] = {0x81, 0xd9, (uint8_t)strlen(name)};

	schema_buffer_add(&buffer, head, sizeof(head));
	schema_buffer_add(&buffer, name, strlen(name));
	schema_buffer_add(&buffer, value, size);
	return buffer;
}

static void test_a_value_of_another_type_is_refused_by_the_name_of_its_field(void **state)
{
	(void)state;
	for (size_t m = 0; message_number(m); m++) {
		const struct schema_message *schema = message_number(m);
		void *message = new_message(schema);

		for (size_t i = 0; i < schema->n_fields; i++) {
			const struct schema_field *field = &schema->fields[i];
			struct schema_buffer buffer = one_pair(field->name, "\xca\x3f\xc0\0\0", 5);
			struct schema_fault fault = {};

			if (field->kind != SCHEMA_RAW) {
				assert_int_equal(schema_unpack(schema, buffer.data, buffer.size,
							       message, &fault),
						 SCHEMA_E_TYPE);
				assert_names(&fault, schema, field);
			}
			schema_buffer_clear(&buffer);
		}
		free_message(schema, message);
	}
}

static void test_a_field_that_stands_twice_is_refused(void **state)
{
	(void)state;
	for (size_t m = 0; message_number(m); m++) {
		const struct schema_message *schema = message_number(m);

		for (size_t i = 0; i < schema->n_fields; i++) {
			void *message = new_message(schema), *read = new_message(schema);
			struct schema_message optional;
			struct schema_field fields[64];
			struct schema_buffer buffer = {};
			struct schema_fault fault = {};
			struct loose loose;
			uint64_t seed = 1;

			optional = without_required(schema, fields);
			random_message(schema, message, &seed);
			loosen(schema, i, &loose);
			loose.field.required = schema->fields[i].kind != SCHEMA_RAW &&
					       schema->fields[i].kind != SCHEMA_STR &&
					       schema->fields[i].kind != SCHEMA_ITEM;
			assert_int_equal(schema_pack(&loose.schema, message, &buffer, NULL), 0);
			if (buffer.data[0] == 0x81) {
				size_t size = buffer.size;

				assert_int_equal(schema_buffer_add(&buffer, NULL, 0), 0);
				for (size_t n = 1; n < size; n++)
					assert_int_equal(
						schema_buffer_add(&buffer,
								  (uint8_t[]){buffer.data[n]}, 1),
						0);
				buffer.data[0] = 0x82;
				assert_int_equal(schema_unpack(&optional, buffer.data, buffer.size,
							       read, &fault),
						 SCHEMA_E_DUPLICATE);
				assert_names(&fault, schema, &schema->fields[i]);
			}
			schema_buffer_clear(&buffer);
			free_message(schema, message);
			free_message(schema, read);
		}
	}
}

static void test_a_required_field_that_is_absent_is_named(void **state)
{
	(void)state;
	for (size_t m = 0; message_number(m); m++) {
		const struct schema_message *schema = message_number(m);

		for (size_t i = 0; i < schema->n_fields; i++) {
			struct schema_field fields[64];
			struct schema_message optional = without_required(schema, fields);
			void *message = new_message(schema);
			struct schema_fault fault = {};

			for (size_t n = 0; n < schema->n_fields; n++)
				fields[n].required = n == i;
			optional.fields = fields;
			assert_int_equal(schema_unpack(&optional, "\x80", 1, message, &fault),
					 SCHEMA_E_MISSING);
			assert_names(&fault, schema, &schema->fields[i]);
			free_message(schema, message);
		}
	}
}

static void test_unknown_fields_are_skipped(void **state)
{
	static const char unknown[] = "\xaf"
				      "no_such_field_x"
				      "\x92\x81\xa1z\xc0\xcb\0\0\0\0\0\0\0\0";

	(void)state;
	for (size_t m = 0; message_number(m); m++) {
		const struct schema_message *schema = message_number(m);
		struct schema_buffer sent = pack_random(schema, 5), more = {}, again = {};
		void *message = new_message(schema);
		size_t head = sent.data[0] == 0xde ? 3 : 1;
		unsigned count = head == 3 ? sent.data[2] : sent.data[0] & 15;

		schema_buffer_add(&more, (uint8_t[]){0xde, 0, (uint8_t)(count + 1)}, 3);
		schema_buffer_add(&more, unknown, sizeof(unknown) - 1);
		schema_buffer_add(&more, sent.data + head, sent.size - head);
		assert_int_equal(schema_unpack(schema, more.data, more.size, message, NULL), 0);
		assert_int_equal(schema_pack(schema, message, &again, NULL), 0);
		assert_same(&sent, &again);
		free_message(schema, message);
		schema_buffer_clear(&sent);
		schema_buffer_clear(&more);
		schema_buffer_clear(&again);
	}
}

/* ---- faults and texts -------------------------------------------------------- */

static void assert_fault(const struct schema_message *schema, const char *data, size_t size,
			 int code, const char *text)
{
	void *message = new_message(schema);
	struct schema_fault fault = {};

	assert_int_equal(schema_unpack(schema, data, size, message, &fault), code);
	assert_string_equal(fault.text, text);
	free_message(schema, message);
}

#define ASSERT_FAULT(schema, data, code, text)                                                     \
	assert_fault(schema, data, sizeof(data) - 1, code, text)

static void test_a_fault_names_the_whole_path_of_a_field(void **state)
{
	(void)state;
	ASSERT_FAULT(schema_container_create_request(),
		     "\x81\xa9"
		     "container\x80",
		     SCHEMA_E_MISSING, "container_create_request.container.id is missing");
	ASSERT_FAULT(schema_container_create_request(),
		     "\x81\xa9"
		     "container\x01",
		     SCHEMA_E_TYPE, "container_create_request.container is not a map");
	ASSERT_FAULT(schema_image_mounts_reply(), "\x81\xa6mounts\x92\x80\x81\xa4type\xc3",
		     SCHEMA_E_TYPE, "image_mounts_reply.mounts[1].type is not a string");
	ASSERT_FAULT(schema_container_get_request(), "\x90", SCHEMA_E_TYPE,
		     "container_get_request is not a map");
	ASSERT_FAULT(schema_container_get_request(), "\x81\x01\x01", SCHEMA_E_TYPE,
		     "container_get_request has a key that is not a string");
	ASSERT_FAULT(schema_container_get_request(), "\xc1", SCHEMA_E_MALFORMED,
		     "container_get_request is not a well-formed message");
	ASSERT_FAULT(schema_snapshot_key_request(), "\x81\xa3key\xa1\xff", SCHEMA_E_VALUE,
		     "snapshot_key_request.key is not UTF-8 text without NUL");
	ASSERT_FAULT(schema_snapshot_key_request(), "\x81\xa3key\xa1\0", SCHEMA_E_VALUE,
		     "snapshot_key_request.key is not UTF-8 text without NUL");
	ASSERT_FAULT(schema_mount(), "\x81\xa7options\x91\x01", SCHEMA_E_TYPE,
		     "mount.options is not a string");
	ASSERT_FAULT(schema_label_update(),
		     "\x81\xa6labels\x82\xa1"
		     "a\xa0\xa1"
		     "a\xa0",
		     SCHEMA_E_DUPLICATE, "label_update.labels has a key twice");
	ASSERT_FAULT(schema_operation_record(), "\x81\xa5state\xa1x", SCHEMA_E_VALUE,
		     "operation_record.state is not a value of operation_state");
}

/* The key has the field's name, a NUL and more. */
static void test_a_key_with_nul_is_no_field(void **state)
{
	struct container_get_request request = {};

	(void)state;
	assert_int_equal(schema_unpack(schema_container_get_request(), "\x81\xa5id\0xy\xa1z", 9,
				       &request, NULL),
			 SCHEMA_E_MISSING);
}

static void test_nothing_is_packed_that_could_not_be_read(void **state)
{
	struct event_item item = {.seq = 1, .topic = (char *)"/a/b"};
	struct schema_buffer buffer = {};
	struct schema_fault fault = {};
	uint8_t deep[SCHEMA_DEPTH_MAX + 1];

	(void)state;
	memset(deep, 0x91, sizeof(deep));
	deep[SCHEMA_DEPTH_MAX] = 0xc0;
	item.event = (struct schema_bytes){deep, sizeof(deep)};
	assert_int_equal(schema_pack(schema_event_item(), &item, &buffer, &fault), SCHEMA_E_LIMIT);
	assert_int_equal(buffer.size, 0);
	item.event = (struct schema_bytes){(uint8_t *)"\x91", 1};
	assert_int_equal(schema_pack(schema_event_item(), &item, &buffer, &fault), SCHEMA_E_VALUE);
	assert_string_equal(fault.text, "event_item.event is not one msgpack value");
	item.event = (struct schema_bytes){(uint8_t *)"\x90", 1};
	item.topic = (char *)"\xff";
	assert_int_equal(schema_pack(schema_event_item(), &item, &buffer, &fault), SCHEMA_E_VALUE);
	item.topic = NULL;
	assert_int_equal(schema_pack(schema_event_item(), &item, &buffer, &fault),
			 SCHEMA_E_MISSING);
	assert_string_equal(fault.text, "event_item.topic is missing");
	schema_buffer_clear(&buffer);
}

static void test_text_is_utf8_without_nul(void **state)
{
	static const struct {
		const char *text;
		size_t size;
		bool is;
	} cases[] = {
		{"", 0, true},
		{"abc\t\n", 5, true},
		{"é…𝄞", 9, true},
		{"\0", 1, false},
		{"\x80", 1, false},
		{"\xc3", 1, false},
		{"\xc0\xaf", 2, false},
		{"\xe0\x80\xaf", 3, false},
		{"\xed\xa0\x80", 3, false},
		{"\xf4\x8f\xbf\xbf", 4, true},
		{"\xf4\x90\x80\x80", 4, false},
		{"\xf8\x88\x80\x80\x80", 5, false},
		{"\xef\xbf\xbf", 3, true},
		{"\xe2\x80", 2, false},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		assert_int_equal(schema_is_text(cases[i].text, cases[i].size), cases[i].is);
}

static void check_enum(const struct schema_enum *values)
{
	for (size_t i = 0; i < values->n_values; i++) {
		assert_non_null(values->values[i].text);
		assert_true(values->values[i].doc && *values->values[i].doc);
		assert_int_equal(schema_enum_value(values, values->values[i].text), (int)i);
		assert_string_equal(schema_enum_text(values, (unsigned)i), values->values[i].text);
	}
	assert_string_equal(schema_enum_text(values, (unsigned)values->n_values), "?");
	assert_int_equal(schema_enum_value(values, "no such text"), -1);
}

static void test_enums_are_the_same_both_ways(void **state)
{
	(void)state;
#define ENUM(name, doc) check_enum(&schema_enum_##name);
#include "schemas/all.def"
#include "schemas/end.h"
}

static void test_tables_are_whole(void **state)
{
	(void)state;
	for (size_t m = 0; message_number(m); m++) {
		const struct schema_message *schema = message_number(m);

		assert_true(schema->n_fields <= 64);
		for (size_t i = 0; i < schema->n_fields; i++) {
			const struct schema_field *field = &schema->fields[i];

			assert_ptr_equal(schema_find_field(schema, field->name),
					 field); /* no name twice */
			assert_true(*field->doc);
			assert_int_equal(!!field->of,
					 field->kind == SCHEMA_ITEM || field->kind == SCHEMA_LIST);
			assert_int_equal(!!field->values, field->kind == SCHEMA_ENUM);
			if (field->kind != SCHEMA_ITEM && field->kind != SCHEMA_ENUM)
				assert_true(field->max > 0);
		}
	}
	for (size_t i = 0; i < schema_n_methods; i++)
		assert_ptr_equal(
			schema_find_method(schema_methods[i].service, schema_methods[i].name),
			&schema_methods[i]);
	for (size_t i = 0; i < schema_n_events; i++)
		assert_ptr_equal(schema_find_event(schema_events[i].topic), &schema_events[i]);
	assert_null(schema_find_method("bus", "no_such"));
	assert_null(schema_find_event("/no/such"));
}

/* ---- containers ----------------------------------------------------------------- */

static void test_lists_and_maps_grow_and_shrink(void **state)
{
	struct schema_strs strs = {}, copy = {};
	struct schema_map map = {};
	char text[16];

	(void)state;
	for (int i = 0; i < 100; i++) {
		snprintf(text, sizeof(text), "%d", i);
		assert_int_equal(schema_strs_add(&strs, text), 0);
		assert_int_equal(schema_map_set(&map, text, "x"), 0);
		assert_int_equal(schema_map_set(&map, text, text), 0);
	}
	assert_int_equal(schema_strs_copy(&strs, &copy), 0);
	for (int i = 0; i < 100; i++) {
		snprintf(text, sizeof(text), "%d", i);
		assert_string_equal(copy.items[i], text);
		assert_string_equal(schema_map_get(&map, text), text);
		if (i % 3)
			schema_map_remove(&map, text);
	}
	assert_int_equal(map.count, 34);
	assert_null(schema_map_get(&map, "1"));
	assert_int_equal(schema_map_set(&map, "1", "again"), 0);
	assert_string_equal(schema_map_get(&map, "1"), "again");
	schema_strs_clear(&strs);
	schema_strs_clear(&copy);
	schema_map_clear(&map);
}

static void test_secrets_are_taken_out_and_nothing_else(void **state)
{
	struct registry_options *options = calloc(1, sizeof(*options));
	struct image_pull_request request = {.registry = options};

	(void)state;
	assert_true(schema_has_secrets(schema_image_pull_request()));
	assert_false(schema_has_secrets(schema_image_import_request()));
	assert_non_null(options);
	assert_int_equal(schema_set(&request.name, "a"), 0);
	assert_int_equal(schema_set(&options->username, "anna"), 0);
	assert_int_equal(schema_set(&options->password, "secret"), 0);
	assert_int_equal(schema_set(&options->refresh, "token"), 0);
	schema_clear_secrets(schema_image_pull_request(), &request);
	assert_string_equal(request.name, "a");
	assert_string_equal(options->username, "anna");
	assert_null(options->password);
	assert_null(options->refresh);
	schema_clear_secrets(schema_image_pull_request(), &request);
	image_pull_request_clear(&request);
}

TEST_MAIN(cmocka_unit_test(test_every_message_comes_back_as_it_was_sent),
	  cmocka_unit_test(test_a_copy_packs_to_the_same_bytes),
	  cmocka_unit_test(test_every_truncation_is_refused),
	  cmocka_unit_test(test_mutated_bytes_are_refused_or_read_as_a_message),
	  cmocka_unit_test(test_a_value_over_its_limit_is_refused_by_the_name_of_its_field),
	  cmocka_unit_test(test_a_value_of_another_type_is_refused_by_the_name_of_its_field),
	  cmocka_unit_test(test_a_field_that_stands_twice_is_refused),
	  cmocka_unit_test(test_a_required_field_that_is_absent_is_named),
	  cmocka_unit_test(test_unknown_fields_are_skipped),
	  cmocka_unit_test(test_a_fault_names_the_whole_path_of_a_field),
	  cmocka_unit_test(test_a_key_with_nul_is_no_field),
	  cmocka_unit_test(test_nothing_is_packed_that_could_not_be_read),
	  cmocka_unit_test(test_text_is_utf8_without_nul),
	  cmocka_unit_test(test_enums_are_the_same_both_ways),
	  cmocka_unit_test(test_tables_are_whole),
	  cmocka_unit_test(test_lists_and_maps_grow_and_shrink),
	  cmocka_unit_test(test_secrets_are_taken_out_and_nothing_else))
