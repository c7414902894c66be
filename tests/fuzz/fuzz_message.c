/* Every message: the first byte picks it, the rest is unpacked. What was read packs, and reads, the same again. */

#include <string.h>

#include "schemas/json.h"
#include "tests/fuzz/fuzz.h"
#include "tests/lib/random_message.h"

static const struct schema_message *pick(uint8_t byte)
{
	size_t n = 0;

	while (all_messages[n])
		n++;
	return all_messages[byte % n]();
}

/* Through JSON and back, where JSON can hold it all (it has no NaN, no bytes apart from text). */
static void check_json(const struct schema_message *schema, const void *message)
{
	json_t *json = json_from_message(schema, message);
	void *again = new_message(schema);

	FUZZ_ASSERT(json && again);
	json_to_message(schema, json, again, NULL);
	json_decref(json);
	free_message(schema, again);
}

static void check_message(const struct schema_message *schema, const void *message)
{
	struct schema_buffer first = {}, second = {};
	void *again = new_message(schema), *copy = new_message(schema);

	FUZZ_ASSERT(again && copy);
	FUZZ_ASSERT(!schema_pack(schema, message, &first, NULL));
	FUZZ_ASSERT(!schema_unpack(schema, first.data, first.size, again, NULL));
	FUZZ_ASSERT(!schema_copy(schema, again, copy));
	FUZZ_ASSERT(!schema_pack(schema, copy, &second, NULL));
	FUZZ_ASSERT(first.size == second.size && !memcmp(first.data, second.data, first.size));
	check_json(schema, message);
	free_message(schema, again);
	free_message(schema, copy);
	schema_buffer_clear(&first);
	schema_buffer_clear(&second);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct schema_message *schema;
	struct schema_fault fault;
	void *message;
	int r;

	if (!size)
		return 0;
	schema = pick(data[0]);
	message = new_message(schema);
	FUZZ_ASSERT(message);
	r = schema_unpack(schema, data + 1, size - 1, message, &fault);
	FUZZ_ASSERT(r >= 0);
	if (r)
		FUZZ_ASSERT(!strncmp(fault.text, schema->name, strlen(schema->name)));
	else
		check_message(schema, message);
	free_message(schema, message);
	return 0;
}
