/* The manual names all that there is. */

#include "tests/lib/main.h"

#include <stdio.h>
#include <string.h>

#include "schemas/messages.h"
#include "tests/lib/random_message.h"

static bool has(const struct schema_buffer *text, const char *wanted)
{
	return memmem(text->data, text->size, wanted, strlen(wanted));
}

/* As a heading of its own, once. */
static void assert_once(const struct schema_buffer *text, const char *heading)
{
	const uint8_t *at = memmem(text->data, text->size, heading, strlen(heading));

	if (!at)
		fail_msg("no '%s'", heading);
	at++;
	assert_null(memmem(at, text->size - (size_t)(at - text->data), heading, strlen(heading)));
}

static void assert_message(const struct schema_buffer *manual, const struct schema_message *schema)
{
	char text[256];

	snprintf(text, sizeof(text), "\n#### %s\n", schema->name);
	assert_once(manual, text);
	for (size_t i = 0; i < schema->n_fields; i++) {
		snprintf(text, sizeof(text), "\n| `%s` | ", schema->fields[i].name);
		assert_true(has(manual, text));
		if (schema->fields[i].of)
			assert_message(manual, schema->fields[i].of());
	}
}

static void test_every_method_event_and_message_is_in_the_manual(void **state)
{
	struct schema_buffer manual = {};
	char text[256];

	(void)state;
	assert_int_equal(schema_print_manual(&manual), 0);
	for (size_t i = 0; i < schema_n_methods; i++) {
		snprintf(text, sizeof(text), "\n### %s.%s\n", schema_methods[i].service,
			 schema_methods[i].name);
		assert_once(&manual, text);
		assert_message(&manual, schema_methods[i].request());
		assert_message(&manual, schema_methods[i].reply());
	}
	for (size_t i = 0; i < schema_n_events; i++) {
		snprintf(text, sizeof(text), "\n### Event %s\n", schema_events[i].topic);
		assert_once(&manual, text);
		assert_message(&manual, schema_events[i].message());
	}
	assert_once(&manual, "\n#### bus_status\n");
	schema_buffer_clear(&manual);
}

static void test_the_text_of_a_service_stands_alone(void **state)
{
	struct schema_buffer text = {};

	(void)state;
	for (size_t i = 0; i < schema_n_methods; i++) {
		text.size = 0;
		assert_int_equal(schema_print_service(&text, schema_methods[i].service), 0);
		assert_message(&text, schema_methods[i].request());
		assert_true(text.size < 524288); /* what bus.describe may hold */
	}
	text.size = 0;
	assert_int_equal(schema_print_service(&text, "no-such-service"), 0);
	assert_int_equal(text.size, 0);
	schema_buffer_clear(&text);
}

TEST_MAIN(cmocka_unit_test(test_every_method_event_and_message_is_in_the_manual),
	  cmocka_unit_test(test_the_text_of_a_service_stands_alone))
